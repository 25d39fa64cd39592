//! Another outside goes on where a killed one stopped: nothing is lost, doubled or misread, wherever that was.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub
)]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use paw_launch::{
    frame::{Credit, Exited, HEADER, NotStarted, Start, Tag, WINDOW, header, parse_header},
    resume::{Nonce, Resumed, Seeker, writes},
};
use serde::Serialize;

/// A paw-init and its two pipes, without anybody who reads ahead.
struct Init {
    process: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    resumes: u8,
}

/// What one outside has noted of one command.
#[derive(Default, Debug, PartialEq)]
struct Noted {
    stdout: Vec<u8>,
    exited: Option<Exited>,
    not_started: Option<NotStarted>,
}

impl Init {
    fn new() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_paw-init"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (
            process.stdin.take().unwrap(),
            process.stdout.take().unwrap(),
        );
        let mut init = Self {
            process,
            stdin,
            stdout,
            resumes: 0,
        };
        assert_eq!(init.frame().0, Tag::Hello);
        init
    }

    fn frame(&mut self) -> (Tag, u32, Vec<u8>) {
        let mut header = [0; HEADER];
        self.stdout.read_exact(&mut header).unwrap();
        let (length, tag, child) = parse_header(header).unwrap();
        let mut payload = vec![0; length];
        self.stdout.read_exact(&mut payload).unwrap();
        (tag, child, payload)
    }

    fn send(&mut self, tag: Tag, child: u32, payload: &[u8]) {
        for write in writes(tag, child, payload) {
            self.stdin.write_all(&write).unwrap();
        }
    }

    fn control(&mut self, tag: Tag, child: u32, message: &impl Serialize) {
        self.send(tag, child, &serde_json::to_vec(message).unwrap());
    }

    fn start(&mut self, child: u32, argv: &[&str]) {
        let start = Start {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec!["PATH=/usr/bin:/bin".to_owned()],
            cwd: "/".to_owned(),
            terminal: None,
        };
        self.control(Tag::Start, child, &start);
    }

    /// Reads exactly so many bytes, as an outside that dies in the middle of whatever they are.
    fn read_and_die(&mut self, bytes: usize) {
        self.stdout.read_exact(&mut vec![0; bytes]).unwrap();
    }

    /// Goes on as another outside; what it is told, with everything behind the answer that was read already.
    fn resume(&mut self) -> Resumed {
        self.resumes += 1;
        let nonce: Nonce = [self.resumes; 16];
        self.send(Tag::Resume, 0, &nonce);
        let mut seeker = Seeker::new(&nonce, 100 * WINDOW as u64);
        loop {
            // Byte by byte, so that nothing behind it is taken.
            let mut byte = [0];
            self.stdout.read_exact(&mut byte).unwrap();
            if let Some((resumed, behind)) = seeker.take(&byte).unwrap() {
                assert!(behind.is_empty());
                return resumed;
            }
        }
    }

    /// Notes what this command says to its end, acknowledging each piece.
    fn note(&mut self, number: u32, noted: &mut Noted) {
        while noted.exited.is_none() && noted.not_started.is_none() {
            let (tag, child, payload) = self.frame();
            match tag {
                _ if child != number => {}
                Tag::Stdout => {
                    noted.stdout.extend(&payload);
                    let stdout = u32::try_from(payload.len()).unwrap();
                    self.control(Tag::Credit, child, &Credit { stdout, stderr: 0 });
                }
                Tag::Exited => noted.exited = Some(serde_json::from_slice(&payload).unwrap()),
                Tag::NotStarted => {
                    noted.not_started = Some(serde_json::from_slice(&payload).unwrap());
                }
                _ => {}
            }
        }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.stdin.write_all(&header(0, Tag::End, 0));
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const DONE: Option<Exited> = Some(Exited {
    code: Some(0),
    signal: None,
});

#[test]
fn whatever_was_not_acknowledged_is_said_again_wherever_the_reader_died() {
    let mut whole = Vec::new();
    {
        let mut init = Init::new();
        init.start(1, &["seq", "1", "40"]);
        let mut noted = Noted::default();
        init.note(1, &mut noted);
        assert_eq!(noted.exited, DONE);
        whole.append(&mut noted.stdout);
    }
    // Its frames are one or more of stdout and the end: 111 bytes of text, and headers.
    for read in 0..whole.len() + HEADER {
        let mut init = Init::new();
        init.start(1, &["seq", "1", "40"]);
        init.read_and_die(read);
        let resumed = init.resume();
        assert_eq!(resumed.children.len(), 1);
        assert_eq!(resumed.children[0].stdout, 0);
        let mut noted = Noted::default();
        init.note(1, &mut noted);
        assert!(
            noted.stdout == whole && noted.exited == DONE,
            "died after {read} bytes"
        );
    }
}

#[test]
fn many_readers_that_die_together_hear_everything_once() {
    let mut init = Init::new();
    // So much that what is acknowledged below never comes near its end.
    init.start(1, &["seq", "1", "1000000"]);
    let (mut heard, mut step) = (Vec::<u8>::new(), 1_usize);
    // Each notes some pieces, acknowledges some of what it noted, and dies in the middle of another one.
    let mut noted = Noted::default();
    for _ in 0..60 {
        let resumed = init.resume();
        let acknowledged = usize::try_from(resumed.children[0].stdout).unwrap();
        assert!(acknowledged <= heard.len());
        let mut again = heard.len() - acknowledged;
        for _ in 0..3 {
            let (tag, _, payload) = init.frame();
            if tag != Tag::Stdout {
                break;
            }
            let skipped = again.min(payload.len());
            again -= skipped;
            heard.extend(&payload[skipped..]);
            step = step * 7 % 1009;
            let stdout = u32::try_from(payload.len().min(step * 20)).unwrap();
            init.control(Tag::Credit, 1, &Credit { stdout, stderr: 0 });
        }
        init.read_and_die(step % 500);
    }
    let resumed = init.resume();
    let again = heard.len() - usize::try_from(resumed.children[0].stdout).unwrap();
    init.note(1, &mut noted);
    heard.extend(&noted.stdout[again..]);
    let expected: String = (1..=1_000_000)
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(
        heard == expected.as_bytes(),
        "{} of {} bytes",
        heard.len(),
        expected.len()
    );
}

#[test]
fn an_end_is_told_until_it_is_forgotten() {
    let mut init = Init::new();
    init.start(1, &["sh", "-c", "exit 7"]);
    init.start(2, &["/no/such/program"]);
    for _ in 0..3 {
        let mut ends = BTreeMap::new();
        while ends.len() < 2 {
            let (tag, child, payload) = init.frame();
            if matches!(tag, Tag::Exited | Tag::NotStarted) {
                ends.insert(child, (tag, payload));
            }
        }
        assert_eq!((ends[&1].0, ends[&2].0), (Tag::Exited, Tag::NotStarted));
        assert_eq!(init.resume().children.len(), 2);
    }
    init.send(Tag::Forget, 2, &[]);
    let left = init.resume().children;
    assert_eq!((left.len(), left[0].number), (1, 1));
    init.send(Tag::Forget, 1, &[]);
    assert_eq!(init.resume().children, []);
    init.start(1, &["true"]);
    let mut noted = Noted::default();
    init.note(1, &mut noted);
    assert_eq!(noted.exited, DONE);
}

#[test]
fn how_far_input_got_is_told() {
    let mut init = Init::new();
    init.start(
        1,
        &["sh", "-c", "head -c 5 >/dev/null; echo taken; sleep 600"],
    );
    init.start(2, &["sh", "-c", "cat >/dev/null; sleep 600"]);
    init.send(Tag::Stdin, 1, b"12345");
    init.send(Tag::Stdin, 2, b"123");
    init.send(Tag::StdinEnd, 2, &[]);
    while init.frame().0 != Tag::Stdout {}
    let children = init.resume().children;
    assert_eq!((children[0].stdin, children[0].takes_input), (5, true));
    assert_eq!((children[1].stdin, children[1].takes_input), (3, false));
}

#[test]
fn parts_of_a_writer_that_died_are_forgotten() {
    let mut init = Init::new();
    let start = Start {
        argv: vec!["echo".to_owned(), "x".repeat(20_000)],
        env: vec!["PATH=/usr/bin:/bin".to_owned()],
        cwd: "/".to_owned(),
        terminal: None,
    };
    let all: Vec<Vec<u8>> = writes(Tag::Start, 1, &serde_json::to_vec(&start).unwrap()).collect();
    assert!(all.len() > 4);
    for written in 0..all.len() {
        for write in &all[..written] {
            init.stdin.write_all(write).unwrap();
        }
        assert_eq!(init.resume().children, [], "after {written} parts");
    }
    init.control(Tag::Start, 1, &start);
    let mut noted = Noted::default();
    init.note(1, &mut noted);
    assert_eq!((noted.stdout.len(), noted.exited), (20_001, DONE));
}

#[test]
fn a_silent_outside_costs_a_window_and_no_more() {
    let mut init = Init::new();
    init.start(1, &["sh", "-c", "yes | head -c 100000000"]);
    // Nobody reads for a while, and each who comes reads something and dies.
    for _ in 0..10 {
        assert_eq!(init.resume().children[0].stdout, 0);
        init.read_and_die(10_000);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", init.process.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 8 * 1024, "{peak} KiB");
}

#[test]
fn resume_without_a_nonce_ends_it() {
    let mut init = Init::new();
    init.send(Tag::Resume, 0, b"short");
    assert_eq!(init.process.wait().unwrap().code(), Some(65));
}

/// What the writer of the next test writes: lines of input, and long frames between them, each in writes that are whole or not.
fn writes_of_a_writer(lines: u64) -> Vec<Vec<u8>> {
    let credit = format!("{}{{\"stdout\":0,\"stderr\":0}}", " ".repeat(9_000));
    let text: String = (0..lines).map(|number| format!("{number}\n")).collect();
    let mut all = Vec::new();
    for piece in text.as_bytes().chunks(paw_launch::resume::MAX_PIECE) {
        all.extend(writes(Tag::Stdin, 1, piece));
        all.extend(writes(Tag::Credit, 1, credit.as_bytes()));
    }
    all
}

/// Kills a process that writes these frames after a while, and says how many it had begun to write.
fn killed_writer(to: &ChildStdin, frames: &[Vec<u8>], nap_us: u64) {
    use std::os::fd::AsFd;
    let pipe = to.as_fd().try_clone_to_owned().unwrap();
    // A shell's builtin `printf` writes a word of up to 4096 bytes by one call, which is what matters; but words cannot hold
    // zero bytes. So each write is a file of its own, and `cat` copies it by one call.
    let dir = tempfile::tempdir().unwrap();
    for (at, write) in frames.iter().enumerate() {
        std::fs::write(dir.path().join(format!("{at:05}")), write).unwrap();
    }
    let mut cat = Command::new("sh")
        .args(["-c", "exec cat \"$0\"/*"])
        .arg(dir.path())
        .stdout(Stdio::from(pipe))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_micros(nap_us));
    cat.kill().unwrap();
    cat.wait().unwrap();
}

#[test]
fn a_writer_that_is_killed_anywhere_tears_no_frame() {
    let frames = writes_of_a_writer(30_000);
    for round in 0..40_u64 {
        let mut init = Init::new();
        init.start(1, &["cat"]);
        killed_writer(&init.stdin, &frames, round * 733 % 9_000);
        // If a frame had been torn, what follows would be read as its rest, and paw-init would end or hang.
        let resumed = init.resume();
        let taken = resumed.children[0].stdin;
        init.send(Tag::StdinEnd, 1, &[]);
        let mut noted = Noted::default();
        init.note(1, &mut noted);
        let text = String::from_utf8(noted.stdout).unwrap();
        let expected: String = (0..30_000).map(|number| format!("{number}\n")).collect();
        assert!(
            expected.starts_with(&text),
            "round {round}: {} bytes came",
            text.len()
        );
        assert!(text.len() as u64 >= taken);
        assert_eq!(noted.exited, DONE);
    }
}
