//! What a command may expect of paw-init, and what the outside is told about it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub
)]

mod outside;

use std::{fs, os::unix::fs::PermissionsExt};

use outside::{Outcome, Outside};
use paw_launch::frame::{Exited, NotStarted, StdinTaken, Tag, WINDOW};

const DONE: Option<Exited> = Some(Exited {
    code: Some(0),
    signal: None,
});

fn exit_of(argv: &[&str], expected: Exited) {
    assert_eq!(Outside::new().run(argv).exited, Some(expected), "{argv:?}");
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    exit_of(
        &["true"],
        Exited {
            code: Some(0),
            signal: None,
        },
    );
    exit_of(
        &["sh", "-c", "exit 7"],
        Exited {
            code: Some(7),
            signal: None,
        },
    );
    exit_of(
        &["sh", "-c", "kill -TERM $$"],
        Exited {
            code: None,
            signal: Some(15),
        },
    );
    // nix has no name for this one, and a command must not be able to end unseen.
    exit_of(
        &["sh", "-c", "kill -40 $$"],
        Exited {
            code: None,
            signal: Some(40),
        },
    );
}

#[test]
fn both_streams_arrive_whole_before_the_end() {
    let outcome = Outside::new().run(&["sh", "-c", "printf out; printf err >&2"]);
    assert_eq!(
        outcome,
        Outcome {
            stdout: b"out".to_vec(),
            stderr: b"err".to_vec(),
            exited: DONE,
            not_started: None
        }
    );
}

#[test]
fn ten_megabytes_of_every_byte_pass_through_cat_unchanged() {
    let mut outside = Outside::new();
    let sent: Vec<u8> = (0..10_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    outside.start(1, &["cat"]);
    let (mut received, mut room, mut rest) = (Vec::<u8>::new(), WINDOW, &sent[..]);
    while received.len() < sent.len() {
        while room > 0 && !rest.is_empty() {
            let (chunk, after) =
                rest.split_at(rest.len().min(room).min(paw_launch::frame::MAX_PAYLOAD));
            outside.send(Tag::Stdin, 1, chunk);
            room -= chunk.len();
            rest = after;
        }
        let frame = outside.next();
        match frame.tag {
            Tag::StdinTaken => room += frame.json::<StdinTaken>().bytes as usize,
            Tag::Stdout => {
                received.extend(&frame.payload);
                let credit = paw_launch::frame::Credit {
                    stdout: u32::try_from(frame.payload.len()).unwrap(),
                    stderr: 0,
                };
                outside.control(Tag::Credit, 1, &credit);
            }
            other => panic!("{other:?}"),
        }
    }
    outside.send(Tag::StdinEnd, 1, &[]);
    assert_eq!(outside.outcome(1).exited, DONE);
    assert!(received == sent, "the bytes differ");
}

#[test]
fn environment_and_working_directory_are_exactly_what_was_given() {
    let mut outside = Outside::new();
    outside.start_in(
        1,
        &["sh", "-c", "env | grep -v '^_=' | sort; pwd"],
        &["PATH=/usr/bin:/bin", "A=b=c", "PWD=/usr"],
        "/usr",
    );
    let outcome = outside.outcome(1);
    assert_eq!(
        String::from_utf8(outcome.stdout).unwrap(),
        "A=b=c\nPATH=/usr/bin:/bin\nPWD=/usr\n/usr\n"
    );
}

#[test]
fn a_command_gets_three_descriptors_and_no_blocked_signal() {
    // Whatever the test runner itself was given stays open in both; one more would be one of paw-init's.
    let script = "ls -C /proc/self/fd; grep SigBlk /proc/self/status";
    let usual = std::process::Command::new("sh")
        .args(["-c", script])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let outcome = Outside::new().run(&["sh", "-c", script]);
    assert_eq!(
        String::from_utf8(outcome.stdout).unwrap(),
        String::from_utf8(usual.stdout).unwrap()
    );
}

fn not_started(argv: &[&str], env: &[&str], cwd: &str, errno: i32, step: &str) {
    let mut outside = Outside::new();
    outside.start_in(1, argv, env, cwd);
    let expected = NotStarted {
        errno,
        step: step.to_owned(),
    };
    assert_eq!(
        outside.outcome(1).not_started,
        Some(expected),
        "{argv:?} {env:?} {cwd}"
    );
    // It was only this command: the next one runs.
    assert_eq!(outside.run(&["true"]).exited, DONE);
}

#[test]
fn a_command_that_cannot_start_says_which_step_failed_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let (plain, path) = (
        plain.to_str().unwrap(),
        format!("PATH={}", dir.path().display()),
    );
    let usual = &["PATH=/usr/bin:/bin"][..];
    not_started(&["no-such-program"], usual, "/", 2, "find");
    not_started(&["sh"], &[], "/", 2, "find");
    not_started(&["sh"], &["PATH=:.:bin"], "/", 2, "find");
    not_started(&["plain"], &[&path], "/", 13, "find");
    not_started(&[plain], usual, "/", 13, "exec");
    not_started(&["/no/such/program"], usual, "/", 2, "exec");
    not_started(&["/etc"], usual, "/", 13, "exec");
    not_started(&["sh"], usual, "/no/such/directory", 2, "cwd");
    not_started(&["sh"], usual, "etc", 22, "cwd");
    not_started(&["sh"], &["NOT-AN-ASSIGNMENT"], "/", 22, "env");
    not_started(&["sh", "nul\0byte"], usual, "/", 22, "exec");
    not_started(&[], usual, "/", 22, "argv");
}

#[test]
fn a_signal_reaches_the_whole_process_group() {
    let mut outside = Outside::new();
    outside.start(1, &["sh", "-c", "sleep 1000 & echo started; wait"]);
    assert_eq!(outside.next().payload, b"started\n");
    outside.signal(1, 15);
    assert_eq!(
        outside.outcome(1).exited,
        Some(Exited {
            code: None,
            signal: Some(15)
        })
    );
}

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_hold_up_the_end() {
    let mut outside = Outside::new();
    let outcome = outside.run(&["sh", "-c", "sleep 1000 & echo $!"]);
    assert_eq!(outcome.exited, DONE);
    // As PID 1 the end of paw-init would be its end too; here it is a plain process, and nobody else would end it.
    let grandchild = String::from_utf8(outcome.stdout).unwrap();
    assert!(
        std::process::Command::new("kill")
            .args(["-9", grandchild.trim()])
            .status()
            .unwrap()
            .success()
    );
    let (status, complaint) = outside.end();
    assert_eq!((status.code(), complaint.as_str()), (Some(0), ""));
}

#[test]
fn a_grandchild_that_never_stops_writing_does_not_hold_up_the_end() {
    let mut outside = Outside::new();
    let outcome = outside.run(&["sh", "-c", "cat /dev/zero & exit 3"]);
    assert_eq!(
        outcome.exited,
        Some(Exited {
            code: Some(3),
            signal: None
        })
    );
}

#[test]
fn an_output_bomb_is_held_back_by_its_window() {
    let mut outside = Outside::new();
    outside.start(1, &["cat", "/dev/zero"]);
    let mut bombed = 0;
    while bombed < WINDOW {
        bombed += outside.next().payload.len();
    }
    outside.start(2, &["true"]);
    outside.send(Tag::StdinEnd, 2, &[]);
    loop {
        let frame = outside.next();
        match (frame.child, frame.tag) {
            (1, Tag::Stdout) => bombed += frame.payload.len(),
            // It may have been seen that `true` reads nothing before its stdin was closed.
            (2, Tag::StdinTaken) => {}
            (2, Tag::Exited) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bombed, WINDOW);
    assert!(
        outside.memory_peak() < 8 * 1024,
        "{} KiB",
        outside.memory_peak()
    );
    outside.signal(1, 9);
}

#[test]
fn the_end_waits_for_output_that_the_outside_has_no_room_for() {
    let mut outside = Outside::new();
    outside.start(1, &["sh", "-c", "head -c 300000 /dev/zero"]);
    outside.send(Tag::StdinEnd, 1, &[]);
    let mut received = 0;
    while received < WINDOW {
        received += outside.next().payload.len();
    }
    // An answer to something later shows that the end is not merely slow.
    outside.start(2, &["true"]);
    outside.send(Tag::StdinEnd, 2, &[]);
    let mut first = outside.next();
    while (first.child, first.tag) == (2, Tag::StdinTaken) {
        // It may have been seen that `true` reads nothing before its stdin was closed.
        first = outside.next();
    }
    assert_eq!((first.child, first.tag), (2, Tag::Exited));
    outside.control(
        Tag::Credit,
        1,
        &paw_launch::frame::Credit {
            stdout: u32::try_from(WINDOW).unwrap(),
            stderr: 0,
        },
    );
    let outcome = outside.outcome(1);
    assert_eq!(
        (received + outcome.stdout.len(), outcome.exited),
        (300_000, DONE)
    );
}

#[test]
fn a_command_that_does_not_read_does_not_block_the_others() {
    let mut outside = Outside::new();
    outside.start(1, &["sleep", "1000"]);
    for _ in 0..WINDOW / 65_536 {
        outside.send(Tag::Stdin, 1, &[7; 65_536]);
    }
    outside.start(2, &["echo", "alive"]);
    let outcome = outside.outcome(2);
    assert_eq!(
        (outcome.stdout, outcome.exited),
        (b"alive\n".to_vec(), DONE)
    );
    outside.signal(1, 9);
    assert_eq!(
        outside.outcome(1).exited,
        Some(Exited {
            code: None,
            signal: Some(9)
        })
    );
}

#[test]
fn input_that_crosses_the_end_of_its_command_is_not_spoken_of() {
    let mut outside = Outside::new();
    outside.start(1, &["true"]);
    // Its end is not forgotten yet.
    while outside.next().tag != Tag::Exited {}
    outside.send(Tag::Stdin, 1, b"too late");
    outside.start(2, &["echo", "next"]);
    loop {
        let next = outside.next();
        assert_eq!(next.child, 2, "{:?} of a command that has ended", next.tag);
        if next.tag == Tag::Exited {
            break;
        }
    }
}

#[test]
fn a_command_that_closes_its_stdin_is_reported_and_its_input_acknowledged() {
    let mut outside = Outside::new();
    outside.start(1, &["sh", "-c", "exec 0<&-; echo closed; sleep 1000"]);
    let (mut said, mut closed) = (false, false);
    while !(said && closed) {
        let frame = outside.next();
        match frame.tag {
            Tag::Stdout => said = frame.payload == b"closed\n",
            Tag::StdinTaken => closed = frame.json::<StdinTaken>().closed,
            other => panic!("{other:?}"),
        }
    }
    outside.send(Tag::Stdin, 1, &[0; 1000]);
    let taken = outside.next();
    assert_eq!(
        (taken.tag, taken.json()),
        (
            Tag::StdinTaken,
            StdinTaken {
                bytes: 1000,
                closed: true
            }
        )
    );
}

#[test]
fn a_short_line_is_answered_and_not_acknowledged() {
    let mut outside = Outside::new();
    outside.start(1, &["cat"]);
    outside.send(Tag::Stdin, 1, b"{}\n");
    let answer = outside.next();
    assert_eq!(
        (answer.tag, &answer.payload[..]),
        (Tag::Stdout, &b"{}\n"[..])
    );
    outside.send(Tag::StdinEnd, 1, &[]);
    assert_eq!(outside.outcome(1).exited, DONE);
}

#[test]
fn two_commands_run_at_once_and_are_told_apart() {
    let mut outside = Outside::new();
    outside.start(1, &["cat"]);
    outside.start(2, &["cat"]);
    outside.send(Tag::Stdin, 2, b"two");
    outside.send(Tag::StdinEnd, 2, &[]);
    let second = outside.outcome(2);
    outside.send(Tag::Stdin, 1, b"one");
    outside.send(Tag::StdinEnd, 1, &[]);
    let first = outside.outcome(1);
    assert_eq!(
        (first.stdout.as_slice(), second.stdout.as_slice()),
        (&b"one"[..], &b"two"[..])
    );
}

#[test]
fn commands_beyond_the_limit_are_refused_and_the_others_run_on() {
    let mut outside = Outside::new();
    for number in 1..=64 {
        outside.start(number, &["cat"]);
    }
    outside.start(65, &["true"]);
    let expected = NotStarted {
        errno: 11,
        step: "children".to_owned(),
    };
    assert_eq!(outside.outcome(65).not_started, Some(expected));
    outside.send(Tag::StdinEnd, 64, &[]);
    assert_eq!(outside.outcome(64).exited, DONE);
}

#[test]
fn orphans_are_reaped() {
    let mut outside = Outside::new();
    // The middle shell ends at once, so the sleeper's parent becomes paw-init; its pid tells when it is gone.
    let outcome = outside.run(&["sh", "-c", "(sleep 0.05 >/dev/null 2>&1 & echo $!)"]);
    let pid: u32 = String::from_utf8(outcome.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // The next command is as long as the orphan lives, and a moment more; by then a zombie would be one.
    outside.run(&[
        "sh",
        "-c",
        &format!(
            "while [ -d /proc/{pid} ] && ! grep -q '^State:.Z' /proc/{pid}/status; do :; done"
        ),
    ]);
    outside.run(&["true"]);
    assert!(
        !fs::exists(format!("/proc/{pid}")).unwrap(),
        "{pid} is a zombie"
    );
}
