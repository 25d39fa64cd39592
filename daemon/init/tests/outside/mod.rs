//! The outside of a paw-init under test: the compiled binary, its two pipes, and a deadline on everything.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use paw_launch::frame::{
    self, Credit, Exited, HEADER, NotStarted, Signal, Size, Start, StdinTaken, Tag,
};
use serde::{Serialize, de::DeserializeOwned};

/// Long enough for a busy machine; reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(30);

pub struct Frame {
    pub tag: Tag,
    pub child: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.payload).expect("a control frame")
    }
}

pub struct Outside {
    pub process: Child,
    pub stdin: Option<ChildStdin>,
    frames: Receiver<Frame>,
}

/// What came of one command.
#[derive(Default, PartialEq, Debug)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exited: Option<Exited>,
    pub not_started: Option<NotStarted>,
}

impl Outside {
    pub fn new() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_paw-init"))
            .env_clear()
            .env("INSIDE", "must not be inherited")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("paw-init starts");
        let mut stdout = process.stdout.take().expect("a pipe");
        let (to, frames) = channel();
        // Unbounded on purpose: what paw-init sends without acknowledgement is what these tests measure.
        thread::spawn(move || {
            let mut header = [0; HEADER];
            while stdout.read_exact(&mut header).is_ok() {
                let (length, tag, child) = frame::parse_header(header).expect("a frame");
                let mut payload = vec![0; length];
                stdout.read_exact(&mut payload).expect("a whole frame");
                if to
                    .send(Frame {
                        tag,
                        child,
                        payload,
                    })
                    .is_err()
                {
                    return;
                }
            }
        });
        let stdin = process.stdin.take();
        let outside = Self {
            process,
            stdin,
            frames,
        };
        let hello = outside.next();
        assert_eq!(
            (hello.tag, hello.json()),
            (
                Tag::Hello,
                frame::Hello {
                    version: frame::VERSION
                }
            )
        );
        outside
    }

    pub fn next(&self) -> Frame {
        self.frames
            .recv_timeout(DEADLINE)
            .expect("a frame within the deadline")
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.stdin
            .as_mut()
            .expect("stdin is open")
            .write_all(bytes)
            .expect("paw-init reads");
    }

    pub fn send(&mut self, tag: Tag, child: u32, payload: &[u8]) {
        let mut bytes = frame::header(payload.len(), tag, child).to_vec();
        bytes.extend(payload);
        self.raw(&bytes);
    }

    pub fn control(&mut self, tag: Tag, child: u32, message: &impl Serialize) {
        self.send(tag, child, &serde_json::to_vec(message).expect("json"));
    }

    pub fn start(&mut self, child: u32, argv: &[&str]) {
        self.start_in(child, argv, &["PATH=/usr/bin:/bin"], "/");
    }

    pub fn start_in(&mut self, child: u32, argv: &[&str], env: &[&str], cwd: &str) {
        self.start_on(child, argv, env, cwd, None);
    }

    pub fn start_on(
        &mut self,
        child: u32,
        argv: &[&str],
        env: &[&str],
        cwd: &str,
        terminal: Option<Size>,
    ) {
        let text = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
        self.control(
            Tag::Start,
            child,
            &Start {
                argv: text(argv),
                env: text(env),
                cwd: cwd.to_owned(),
                terminal,
            },
        );
    }

    pub fn signal(&mut self, child: u32, signal: i32) {
        self.control(Tag::Signal, child, &Signal { signal });
    }

    /// Takes frames until this command has ended, acknowledging at once.
    pub fn outcome(&mut self, child: u32) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let frame = self.next();
            if frame.child != child {
                continue;
            }
            let bytes = u32::try_from(frame.payload.len()).expect("small");
            match frame.tag {
                Tag::Stdout => {
                    outcome.stdout.extend(&frame.payload);
                    self.control(
                        Tag::Credit,
                        child,
                        &Credit {
                            stdout: bytes,
                            stderr: 0,
                        },
                    );
                }
                Tag::Stderr => {
                    outcome.stderr.extend(&frame.payload);
                    self.control(
                        Tag::Credit,
                        child,
                        &Credit {
                            stdout: 0,
                            stderr: bytes,
                        },
                    );
                }
                Tag::Exited => outcome.exited = Some(frame.json()),
                Tag::NotStarted => outcome.not_started = Some(frame.json()),
                Tag::StdinTaken => drop::<StdinTaken>(frame.json()),
                other => panic!("{other:?} is not for the outside"),
            }
            if outcome.exited.is_some() || outcome.not_started.is_some() {
                self.send(Tag::Forget, child, &[]);
                return outcome;
            }
        }
    }

    /// Runs one command to its end.
    pub fn run(&mut self, argv: &[&str]) -> Outcome {
        self.start(1, argv);
        self.send(Tag::StdinEnd, 1, &[]);
        self.outcome(1)
    }

    /// Closes stdin and waits for paw-init's own end.
    pub fn end(mut self) -> (ExitStatus, String) {
        drop(self.stdin.take());
        let status = self.process.wait().expect("paw-init ends");
        let mut complaint = String::new();
        let mut stderr = self.process.stderr.take().expect("a pipe");
        // A grandchild may hold it open, so only what is there at the end counts; none of these tests gives it away.
        stderr.read_to_string(&mut complaint).expect("text");
        (status, complaint)
    }

    /// Most memory that paw-init ever had, in KiB.
    pub fn memory_peak(&self) -> u64 {
        let status =
            std::fs::read_to_string(PathBuf::from(format!("/proc/{}/status", self.process.id())))
                .expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("the kernel tells");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Not a kill: at the end of its stdin it kills what it started, and a test must leave nothing behind.
        drop(self.stdin.take());
        let _ = self.process.wait();
    }
}
