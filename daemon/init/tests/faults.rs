//! Whatever is no frame, or no frame for this moment, ends paw-init and all it started.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub
)]

mod outside;

use std::{
    io::{PipeReader, Read, pipe},
    os::fd::AsRawFd,
};

use outside::Outside;
use paw_launch::frame::{self, Tag, WINDOW};

fn ends(make: impl FnOnce(&mut Outside), code: i32, complaint: &str) {
    let mut outside = Outside::new();
    make(&mut outside);
    // Only where the fault is expected to be seen before the end of stdin does stdin stay open until then.
    let (status, said) = if complaint.is_empty() {
        outside.end()
    } else {
        let status = outside.process.wait().unwrap();
        let mut said = String::new();
        outside
            .process
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (status, said)
    };
    assert_eq!(status.code(), Some(code), "{said}");
    assert!(
        said.contains(complaint),
        "{said:?} does not say {complaint:?}"
    );
}

#[test]
fn the_end_of_stdin_is_the_end() {
    ends(|_| {}, 0, "");
}

#[test]
fn what_comes_behind_the_end_is_not_read() {
    // Written at once, so that it is read at once: the end of a command's input, and half a frame.
    let written = [
        frame::header(0, Tag::End, 0).to_vec(),
        frame::header(0, Tag::StdinEnd, 1).to_vec(),
        frame::header(10, Tag::Credit, 1)[..5].to_vec(),
    ]
    .concat();
    ends(|o| o.raw(&written), 0, "");
}

#[test]
fn what_is_no_frame_ends_it() {
    ends(
        |o| o.raw(b"GET / HTTP/1.1\r\n"),
        65,
        "a frame of 542393671 bytes",
    );
    ends(
        |o| o.raw(&[0, 0, 0, 0, 99, 0, 0, 0, 0]),
        65,
        "unknown frame tag 99",
    );
    ends(|o| o.send(Tag::Start, 1, b"{"), 65, "control frame Start");
    ends(
        |o| {
            o.send(
                Tag::Start,
                1,
                br#"{"argv":["true"],"env":[],"cwd":"/","uid":0}"#,
            )
        },
        65,
        "unknown field",
    );
    ends(
        |o| o.send(Tag::Credit, 1, &[0xff]),
        65,
        "control frame Credit",
    );
}

#[test]
fn what_may_not_come_now_ends_it() {
    ends(
        |o| o.send(Tag::Stdout, 1, b"mine"),
        65,
        "only paw-init sends",
    );
    ends(
        |o| {
            o.start(1, &["sleep", "1000"]);
            o.start(1, &["sleep", "1000"]);
        },
        65,
        "number is in use",
    );
    ends(
        |o| {
            o.start(1, &["sleep", "1000"]);
            // A pipe takes up to 64 KiB beside the window.
            for _ in 0..=WINDOW / 65_536 + 1 {
                o.send(Tag::Stdin, 1, &[0; 65_536]);
            }
        },
        65,
        "than its window allows",
    );
    ends(|o| o.signal(1, 99), 65, "a signal that does not exist");
}

#[test]
fn half_a_frame_at_the_end_is_a_fault() {
    let mut outside = Outside::new();
    outside.raw(&frame::header(10, Tag::Stdin, 1)[..5]);
    let (status, said) = outside.end();
    assert_eq!(
        (status.code(), said.trim()),
        (Some(65), "paw-init: stdin ended inside a frame")
    );
}

/// Starts a command that holds the write end of a pipe, so that its death is an end of file.
fn witness(outside: &mut Outside) -> PipeReader {
    let (witness, held) = pipe().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
    outside.start(
        1,
        &[
            "sh",
            "-c",
            &format!("exec 3>{path}; echo open; exec sleep 1000"),
        ],
    );
    assert_eq!(outside.next().payload, b"open\n");
    witness
}

#[test]
fn commands_do_not_outlive_it() {
    for fault in [None, Some(&b"garbage garbage"[..])] {
        let mut outside = Outside::new();
        let mut witness = witness(&mut outside);
        if let Some(bytes) = fault {
            outside.raw(bytes);
        } else {
            drop(outside.stdin.take());
        }
        // End of file comes only when the last holder is gone; the test runner's own time limit is the deadline.
        assert_eq!(witness.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn an_outside_that_stops_reading_for_good_ends_it() {
    use std::process::{Command, Stdio};
    let mut process = Command::new(env!("CARGO_BIN_EXE_paw-init"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    // Its stdin stays open, so only the missing reader can end it.
    assert_eq!(process.wait().unwrap().code(), Some(74));
}
