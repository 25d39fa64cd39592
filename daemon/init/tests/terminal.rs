//! What a command with a terminal may expect of paw-init.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    dead_code,
    unreachable_pub
)]

mod outside;

use std::{fs, num::NonZeroU16, os::unix::fs::PermissionsExt};

use outside::{Outcome, Outside};
use paw_launch::{
    frame::{Credit, Exited, NotStarted, Size, Tag, WINDOW},
    resume::{Nonce, Seeker},
};

const PATH: &[&str] = &["PATH=/usr/bin:/bin"];

const DONE: Option<Exited> = Some(Exited {
    code: Some(0),
    signal: None,
});

fn size(rows: u16, cols: u16) -> Size {
    let side = |characters| NonZeroU16::new(characters).unwrap();
    Size {
        rows: side(rows),
        cols: side(cols),
    }
}

fn start(outside: &mut Outside, child: u32, argv: &[&str]) {
    outside.start_on(child, argv, PATH, "/", Some(size(33, 111)));
}

fn script(outside: &mut Outside, script: &str) {
    start(outside, 1, &["sh", "-c", script]);
}

/// Takes what is shown until it ends so.
fn shown(outside: &mut Outside, end: &str) -> String {
    let mut shown = Vec::new();
    while !shown.ends_with(end.as_bytes()) {
        let frame = outside.next();
        assert_eq!(frame.tag, Tag::Stdout, "after {}", text(&shown));
        let stdout = u32::try_from(frame.payload.len()).unwrap();
        shown.extend(frame.payload);
        let credit = Credit { stdout, stderr: 0 };
        outside.control(Tag::Credit, frame.child, &credit);
    }
    text(&shown)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn all_three_are_one_terminal_of_its_own_and_of_that_size() {
    let mut outside = Outside::new();
    script(
        &mut outside,
        "test -t 0 && test -t 1 && test -t 2 && stty size && echo err >&2; echo >/dev/tty own; \
         ps -o sess= -p $$ | tr -d ' ' | grep -qx $$ && echo session",
    );
    let outcome = outside.outcome(1);
    assert_eq!(
        (text(&outcome.stdout), outcome.stderr, outcome.exited),
        (
            "33 111\r\nerr\r\nown\r\nsession\r\n".to_owned(),
            Vec::new(),
            DONE
        )
    );
}

#[test]
fn command_with_a_terminal_gets_its_descriptors_alone_and_no_blocked_signal() {
    let check =
        "ls -C /proc/self/fd; grep SigBlk /proc/self/status; echo \"$0 $1 $A $INSIDE\"; pwd";
    let usual = std::process::Command::new("sh")
        .args(["-c", check, "name", "word"])
        .env("A", "b=c")
        .current_dir("/usr")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let mut outside = Outside::new();
    let env = &["PATH=/usr/bin:/bin", "A=b=c"];
    let argv = &["sh", "-c", check, "name", "word"];
    outside.start_on(1, argv, env, "/usr", Some(size(24, 80)));
    assert_eq!(
        text(&outside.outcome(1).stdout).replace("\r\n", "\n"),
        text(&usual.stdout)
    );
}

#[test]
fn another_size_is_told_to_the_command() {
    let mut outside = Outside::new();
    script(
        &mut outside,
        "trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done",
    );
    shown(&mut outside, "ready\r\n");
    outside.control(Tag::Resize, 1, &size(50, 200));
    let outcome = outside.outcome(1);
    assert_eq!(text(&outcome.stdout), "50 200\r\n");
    assert_eq!(outcome.exited.unwrap().code, Some(7));
    // It crossed the end on the way.
    outside.control(Tag::Resize, 1, &size(1, 1));
    assert_eq!(outside.run(&["true"]).exited, DONE);
}

#[test]
fn size_for_a_command_with_pipes_is_a_fault() {
    let mut outside = Outside::new();
    outside.start(1, &["cat"]);
    outside.control(Tag::Resize, 1, &size(50, 200));
    let (status, complaint) = outside.end();
    assert_eq!(status.code(), Some(65));
    assert!(complaint.contains("no terminal"), "{complaint}");
}

#[test]
fn size_that_is_none_is_a_fault() {
    for bad in [
        r#"{"rows":0,"cols":80}"#,
        r#"{"rows":24,"cols":100000}"#,
        r#"{"rows":-1,"cols":80}"#,
        "{}",
    ] {
        let mut outside = Outside::new();
        start(&mut outside, 1, &["cat"]);
        outside.send(Tag::Resize, 1, bad.as_bytes());
        let (status, complaint) = outside.end();
        assert_eq!(status.code(), Some(65), "{bad}: {complaint}");
    }
}

#[test]
fn typed_interrupt_ends_what_is_in_front() {
    let mut outside = Outside::new();
    start(&mut outside, 1, &["sleep", "1000"]);
    // It is a session once it has its terminal, and no sooner is the character a signal.
    outside.start(
        2,
        &[
            "sh",
            "-c",
            "until ps -o tty=,comm= -e | grep -q '^pts.* sleep'; do :; done",
        ],
    );
    while outside.next().tag != Tag::Exited {}
    outside.send(Tag::Stdin, 1, &[3]);
    let outcome = outside.outcome(1);
    assert_eq!(
        (text(&outcome.stdout), outcome.exited),
        (
            "^C".to_owned(),
            Some(Exited {
                code: None,
                signal: Some(2)
            })
        )
    );
}

#[test]
fn lines_are_edited_and_the_end_of_the_input_ends_them() {
    let check = |typed: &[u8], expected: &str| {
        let mut outside = Outside::new();
        script(&mut outside, "stty -echo; echo ready; cat; echo done");
        shown(&mut outside, "ready\r\n");
        outside.send(Tag::Stdin, 1, typed);
        outside.send(Tag::StdinEnd, 1, &[]);
        let outcome = outside.outcome(1);
        let said = (text(&outcome.stdout), outcome.exited);
        assert_eq!(said, (expected.to_owned(), DONE), "{typed:?}");
    };
    check(b"", "done\r\n");
    check(b"one\n", "one\r\ndone\r\n");
    // Without an end of the line, too.
    check(b"one", "onedone\r\n");
    // The character before is taken back.
    check(b"onx\x7fe\n", "one\r\ndone\r\n");
    // The end can be typed as well.
    check(b"one\n\x04", "one\r\ndone\r\n");
}

#[test]
fn end_of_much_input_waits_for_a_slow_reader() {
    let mut outside = Outside::new();
    script(
        &mut outside,
        "stty -echo; echo ready; read go </dev/tty; cat | wc -c",
    );
    shown(&mut outside, "ready\r\n");
    outside.send(Tag::Stdin, 1, b"go\n");
    let line = [&[b'x'; 99][..], b"\n"].concat();
    for _ in 0..WINDOW / 2 / 1000 {
        outside.send(Tag::Stdin, 1, &line.repeat(10));
    }
    outside.send(Tag::StdinEnd, 1, &[]);
    let outcome = outside.outcome(1);
    let expected = format!("{}\r\n", WINDOW / 2 / 1000 * 1000);
    assert_eq!((text(&outcome.stdout), outcome.exited), (expected, DONE));
}

#[test]
fn command_that_lets_go_of_its_terminal_for_a_while_finds_it_again() {
    let mut outside = Outside::new();
    script(
        &mut outside,
        "stty -echo; echo one; exec </dev/null >/dev/null 2>&1; sleep 0.2; echo two >/dev/tty; \
         read -r line </dev/tty; head -c 200000 /dev/zero | tr '\\0' x >/dev/tty; read -r line </dev/tty; echo \"; $line\" >/dev/tty",
    );
    assert_eq!(shown(&mut outside, "one\r\n"), "one\r\n");
    assert_eq!(shown(&mut outside, "two\r\n"), "two\r\n");
    outside.send(Tag::Stdin, 1, b"go on\n");
    outside.send(Tag::Stdin, 1, b"typed\n");
    let outcome = outside.outcome(1);
    let rest = text(&outcome.stdout);
    assert_eq!(rest.trim_start_matches('x'), "; typed\r\n");
    assert_eq!((rest.len(), outcome.exited), (200_000 + 9, DONE));
}

#[test]
fn exit_codes_and_signals_of_a_command_with_a_terminal_are_its_own() {
    let check = |script: &str, code, signal| {
        let mut outside = Outside::new();
        start(&mut outside, 1, &["sh", "-c", script]);
        let expected = Some(Exited { code, signal });
        assert_eq!(outside.outcome(1).exited, expected, "{script}");
    };
    check("exit 126", Some(126), None);
    check("exit 7", Some(7), None);
    check("kill -TERM $$", None, Some(15));
    // What it left behind has the terminal still.
    check("trap '' HUP; sleep 0.3 & exit 3", Some(3), None);
}

#[test]
fn command_that_cannot_start_in_a_terminal_says_the_same_as_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let plain = plain.to_str().unwrap();
    let check = |argv: &[&str], cwd: &str, errno, step: &str| {
        let mut outside = Outside::new();
        outside.start_on(1, argv, PATH, cwd, Some(size(24, 80)));
        let not_started = NotStarted {
            errno,
            step: step.to_owned(),
        };
        let expected = Outcome {
            not_started: Some(not_started),
            ..Outcome::default()
        };
        assert_eq!(outside.outcome(1), expected, "{argv:?} {cwd}");
        assert_eq!(outside.run(&["true"]).exited, DONE);
    };
    check(&["no-such-program"], "/", 2, "find");
    check(&["/no/such/program"], "/", 2, "exec");
    check(&[plain], "/", 13, "exec");
    check(&["/etc"], "/", 13, "exec");
    check(&["sh"], "/no/such/directory", 2, "cwd");
    check(&["sh", "nul\0byte"], "/", 22, "exec");
}

#[test]
fn signal_that_follows_the_start_at_once_is_not_lost() {
    for _ in 0..50 {
        let mut outside = Outside::new();
        start(&mut outside, 1, &["sleep", "1000"]);
        outside.signal(1, 15);
        let expected = Some(Exited {
            code: None,
            signal: Some(15),
        });
        assert_eq!(outside.outcome(1).exited, expected);
    }
}

#[test]
fn flood_of_a_terminal_is_held_back_by_its_window() {
    let mut outside = Outside::new();
    start(&mut outside, 1, &["cat", "/dev/zero"]);
    let mut said = 0;
    while said < WINDOW {
        said += outside.next().payload.len();
    }
    outside.start(2, &["true"]);
    outside.send(Tag::StdinEnd, 2, &[]);
    loop {
        let frame = outside.next();
        match (frame.child, frame.tag) {
            (1, Tag::Stdout) => said += frame.payload.len(),
            (2, Tag::StdinTaken) => {}
            (2, Tag::Exited) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(said, WINDOW);
    outside.signal(1, 9);
}

#[test]
fn another_outside_is_told_again_what_a_terminal_showed_and_goes_on_with_it() {
    let mut outside = Outside::new();
    script(
        &mut outside,
        "stty -echo; echo ready; read word; echo $word; stty size; exit 4",
    );
    // Shown and not acknowledged.
    let mut first = Vec::new();
    while first.len() < b"ready\r\n".len() {
        first.extend(outside.next().payload);
    }
    let nonce: Nonce = *b"nobody guesses !";
    outside.send(Tag::Resume, 0, &nonce);
    let answer = outside.next();
    assert_eq!(answer.tag, Tag::Resume);
    let mut seeker = Seeker::new(&nonce, 1 << 20);
    let whole = [
        &paw_launch::frame::header(answer.payload.len(), Tag::Resume, 0)[..],
        &answer.payload,
    ]
    .concat();
    let (resumed, _) = seeker.take(&whole).unwrap().unwrap();
    let child = resumed.children[0];
    assert_eq!((child.stdout, child.takes_input), (0, true));
    shown(&mut outside, "ready\r\n");
    outside.control(Tag::Resize, 1, &size(5, 6));
    outside.send(Tag::Stdin, 1, b"word\n");
    let outcome = outside.outcome(1);
    assert_eq!(text(&outcome.stdout), "word\r\n5 6\r\n");
    assert_eq!(outcome.exited.unwrap().code, Some(4));
}

#[test]
fn command_that_lets_go_of_its_terminal_costs_no_time_and_ends() {
    let mut outside = Outside::new();
    script(&mut outside, "echo ready; exec sleep 0.5 <&- >&- 2>&-");
    shown(&mut outside, "ready\r\n");
    let spent = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", outside.process.id())).unwrap();
        let after = stat.rsplit_once(") ").unwrap().1.to_owned();
        let fields: Vec<u64> = after.split(' ').filter_map(|it| it.parse().ok()).collect();
        fields
    };
    let before = spent();
    let (exited, after) = loop {
        let frame = outside.next();
        match frame.tag {
            Tag::Exited => break (frame.json::<Exited>(), spent()),
            Tag::StdinTaken => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(Some(exited), DONE);
    // User and system time, in hundredths of a second: it waited, and did not look again and again.
    assert!(after[10] + after[11] - before[10] - before[11] < 20);
}
