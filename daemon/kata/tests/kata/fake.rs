//! Shims that are not what they should be, as far as one can be seen from the other end of its socket.
//!
//! The fake's `start` is a script that prints where this test listens, which is in the launcher's own `/run`: nothing else is
//! connected to.

use std::{
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::mpsc::{Receiver, channel},
    thread,
};

use containerd_shim_protos::{
    api::CreateTaskResponse,
    protobuf::{EnumOrUnknown, Message, MessageField},
    ttrpc::proto::{Code, Request, Response, Status},
};
use nix::poll::{PollFd, PollFlags, poll};

use crate::rig::{Rig, SOON, plan, script};

/// Just below the time that a shim has for what removes something, in milliseconds.
const ALMOST: u16 = 1900;

/// A rig whose shim is this test.
fn rig(version: u32) -> (tempfile::TempDir, Rig, UnixListener) {
    rig_that(version, "", "true")
}

/// A rig whose shim is this test, with more that its program does at `start`, and what it does at `delete`.
fn rig_that(version: u32, start: &str, delete: &str) -> (tempfile::TempDir, Rig, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("containerd-shim-fake-v2");
    let says = if version == 2 {
        "unix:///run/fake.sock".to_owned()
    } else {
        format!(
            "{{\"version\":{version},\"address\":\"unix:///run/fake.sock\",\"protocol\":\"ttrpc\"}}"
        )
    };
    script(
        &path,
        &format!(
            "#!/bin/sh\ncase $* in -v|--version) echo 'Version: 1.0.0';; *start) {start} echo '{says}';; *delete) {delete};; esac\n"
        ),
    );
    let rig = Rig::with_shim(Path::new(&path));
    let own = format!("/proc/{}/root/run/fake.sock", rig.launcher.id());
    let listener = UnixListener::bind(own).unwrap();
    (dir, rig, listener)
}

/// Which services were asked, until one was the right one.
pub(crate) fn negotiate(says: u32, speaks: u32) -> Vec<String> {
    let (_dir, rig, listener) = rig(says);
    let (asked, heard) = channel();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        while let Some((stream, request)) = receive(&mut socket) {
            let right = request.service == format!("containerd.task.v{speaks}.Task");
            asked.send(request.service.clone()).unwrap();
            let (code, message) = if right {
                (Code::INTERNAL, "enough was seen".to_owned())
            } else {
                (Code::UNIMPLEMENTED, format!("service {}", request.service))
            };
            answer(&mut socket, stream, code, &message, Vec::new());
            if right {
                return;
            }
        }
    });
    let refusal = rig.client().refused(plan(1));
    assert!(refusal.message.contains("enough was seen"), "{refusal:?}");
    collect(&heard)
}

fn collect(heard: &Receiver<String>) -> Vec<String> {
    let mut seen = vec![heard.recv_timeout(SOON).unwrap()];
    seen.extend(heard.try_iter());
    seen
}

/// A shim that answers with what is no ttrpc.
pub(crate) fn garbage() -> Rig {
    let (dir, rig, listener) = rig(2);
    thread::spawn(move || {
        let _dir = dir;
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    rig
}

/// A shim whose task is a process that is somewhere else: this test itself.
pub(crate) fn elsewhere() -> Rig {
    let (dir, rig, listener) = rig(2);
    thread::spawn(move || {
        let _dir = dir;
        while let Ok((mut socket, _)) = listener.accept() {
            while let Some((stream, _)) = receive(&mut socket) {
                let made = CreateTaskResponse {
                    pid: std::process::id(),
                    ..CreateTaskResponse::default()
                };
                answer(
                    &mut socket,
                    stream,
                    Code::OK,
                    "",
                    made.write_to_bytes().unwrap(),
                );
            }
        }
    });
    rig
}

/// A shim that knows no service, says so just in time, leaves a process behind, and whose program does not end.
pub(crate) fn slow() -> Rig {
    let (dir, rig, listener) = rig_that(2, "sleep 1000 > /dev/null 2>&1 &", "exec sleep 1000");
    thread::spawn(move || {
        let _dir = dir;
        while let Ok((mut socket, _)) = listener.accept() {
            while let Some((stream, request)) = receive(&mut socket) {
                let (code, message) = match request.method.as_str() {
                    "Create" => (Code::INTERNAL, "no"),
                    "Shutdown" => (Code::OK, ""),
                    _ => (Code::UNIMPLEMENTED, "no such service"),
                };
                if request.method != "Create" {
                    // As long as the other side has patience, but for a moment; it may hang up before.
                    let mut left = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut left, ALMOST);
                }
                answer(&mut socket, stream, code, message, Vec::new());
            }
        }
    });
    rig
}

fn receive(socket: &mut UnixStream) -> Option<(u32, Request)> {
    let mut header = [0; 10];
    socket.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[..4].try_into().unwrap());
    let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).ok()?;
    Some((stream, Request::parse_from_bytes(&payload).unwrap()))
}

fn answer(socket: &mut UnixStream, stream: u32, code: Code, message: &str, payload: Vec<u8>) {
    let status = Status {
        code: EnumOrUnknown::new(code),
        message: message.to_owned(),
        ..Status::default()
    };
    let response = Response {
        status: MessageField::some(status),
        payload,
        ..Response::default()
    };
    let bytes = response.write_to_bytes().unwrap();
    let mut frame = Vec::new();
    frame.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([2, 0]);
    frame.extend(bytes);
    // Whoever left does not need it.
    let _ = socket.write_all(&frame);
}
