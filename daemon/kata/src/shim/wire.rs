//! ttrpc: a header of ten bytes, and a request or a response of protobuf behind it.
//!
//! Nothing here blocks without a deadline, and nothing is longer than [`MAX_FRAME`].

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    protobuf::Message,
    ttrpc::proto::{Code, Request, Response},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// Bytes of a frame before its payload.
const HEADER: usize = 10;

/// The largest payload that is taken; what shims say is a few hundred bytes.
const MAX_FRAME: usize = 1024 * 1024;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the shim did not answer {method} within {} ms", .limit.as_millis())]
    Slow {
        method: &'static str,
        limit: Duration,
    },
    #[error("the shim closed its connection")]
    Closed,
    #[error("{0} on the shim's socket")]
    Socket(&'static str, #[source] io::Error),
    #[error("the shim sent a frame of {0} bytes; at most {MAX_FRAME} are taken")]
    TooLong(usize),
    #[error("what the shim sent is no message of ttrpc")]
    Garbage(#[source] containerd_shim_protos::protobuf::Error),
    #[error("the shim sent a frame of kind {0}, which is neither a request nor a response")]
    Kind(u8),
    #[error("a request cannot be written")]
    Unwritable(#[source] containerd_shim_protos::protobuf::Error),
    #[error("the shim knows no service {service}")]
    Unimplemented { service: String },
    #[error("{method}: {message}")]
    Refused {
        method: &'static str,
        message: String,
    },
}

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) stream: u32,
    pub(crate) is_request: bool,
    pub(crate) payload: Vec<u8>,
}

/// Bytes that came, until they are whole frames.
#[derive(Debug, Default)]
pub(crate) struct Frames(Vec<u8>);

impl Frames {
    /// Takes what waits in a non-blocking socket, at most as much as one frame may have.
    pub(crate) fn fill(&mut self, mut from: &UnixStream) -> Result<(), WireError> {
        let mut more = [0; 16 * 1024];
        let before = self.0.len();
        while self.0.len() <= HEADER + MAX_FRAME {
            match from.read(&mut more) {
                // What came before the end is looked at first.
                Ok(0) if self.0.len() > before => return Ok(()),
                Ok(0) => return Err(WireError::Closed),
                Ok(count) => self.0.extend_from_slice(&more[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(WireError::Closed);
                }
                Err(error) => return Err(WireError::Socket("read", error)),
            }
        }
        Ok(())
    }

    /// The next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(&[l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags]) = self.0.first_chunk::<HEADER>()
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_FRAME {
            return Err(WireError::TooLong(length));
        }
        if kind != REQUEST && kind != RESPONSE {
            return Err(WireError::Kind(kind));
        }
        if self.0.len() < HEADER + length {
            return Ok(None);
        }
        let payload = self.0[HEADER..HEADER + length].to_vec();
        self.0.drain(..HEADER + length);
        Ok(Some(Frame {
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            is_request: kind == REQUEST,
            payload,
        }))
    }
}

/// A frame as bytes.
fn frame(stream: u32, kind: u8, payload: &[u8]) -> Result<Vec<u8>, WireError> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_FRAME)
        .ok_or(WireError::TooLong(payload.len()))?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// An answer without content, to a request that was taken.
pub(crate) fn taken(stream: u32) -> Result<Vec<u8>, WireError> {
    let bytes = Response::new()
        .write_to_bytes()
        .map_err(WireError::Unwritable)?;
    frame(stream, RESPONSE, &bytes)
}

/// One side of a connection to a shim: calls, each with a number and a deadline.
#[derive(Debug)]
pub(crate) struct Caller {
    socket: UnixStream,
    frames: Frames,
    stream: u32,
    /// The task service's name.
    pub(crate) service: String,
}

impl Caller {
    pub(crate) fn new(socket: UnixStream, service: String) -> Result<Self, WireError> {
        socket
            .set_nonblocking(true)
            .map_err(|error| WireError::Socket("make non-blocking", error))?;
        Ok(Self {
            socket,
            frames: Frames::default(),
            stream: 1,
            service,
        })
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends a request; gives its number.
    pub(crate) fn send(
        &mut self,
        method: &'static str,
        message: &impl Message,
        limit: Duration,
    ) -> Result<u32, WireError> {
        let request = Request {
            service: self.service.clone(),
            method: method.to_owned(),
            payload: message.write_to_bytes().map_err(WireError::Unwritable)?,
            // The shim gives up when nobody waits any more.
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(0),
            ..Request::default()
        };
        let stream = self.stream;
        // A client's numbers are odd.
        self.stream += 2;
        let bytes = request.write_to_bytes().map_err(WireError::Unwritable)?;
        let bytes = frame(stream, REQUEST, &bytes)?;
        let until = Instant::now() + limit;
        let mut left = &bytes[..];
        while !left.is_empty() {
            match (&self.socket).write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, until, method, limit)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(WireError::Closed);
                }
                Err(error) => return Err(WireError::Socket("write", error)),
            }
        }
        Ok(stream)
    }

    /// The answer to a request, if it is among what came; answers to others, which nobody waits for any more, are left out.
    pub(crate) fn answer<R: Message>(
        &mut self,
        method: &'static str,
        stream: u32,
    ) -> Result<Option<R>, WireError> {
        while let Some(frame) = self.frames.next()? {
            if frame.is_request || frame.stream != stream {
                continue;
            }
            let response =
                Response::parse_from_bytes(&frame.payload).map_err(WireError::Garbage)?;
            let status = response.status();
            return match status.code() {
                Code::OK => R::parse_from_bytes(&response.payload)
                    .map(Some)
                    .map_err(WireError::Garbage),
                code if is_unimplemented(code, status.message()) => Err(WireError::Unimplemented {
                    service: self.service.clone(),
                }),
                _ => Err(WireError::Refused {
                    method,
                    message: status.message().chars().take(1000).collect(),
                }),
            };
        }
        Ok(None)
    }

    /// Takes what came.
    pub(crate) fn fill(&mut self) -> Result<(), WireError> {
        self.frames.fill(&self.socket)
    }

    /// Asks and waits for the answer.
    pub(crate) fn call<R: Message>(
        &mut self,
        method: &'static str,
        message: &impl Message,
        limit: Duration,
    ) -> Result<R, WireError> {
        let until = Instant::now() + limit;
        let stream = self.send(method, message, limit)?;
        loop {
            if let Some(answer) = self.answer(method, stream)? {
                return Ok(answer);
            }
            self.wait(PollFlags::POLLIN, until, method, limit)?;
            self.fill()?;
        }
    }

    fn wait(
        &self,
        events: PollFlags,
        until: Instant,
        method: &'static str,
        limit: Duration,
    ) -> Result<(), WireError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WireError::Slow { method, limit });
            }
            let timeout = PollTimeout::try_from(left + Duration::from_micros(999))
                .unwrap_or(PollTimeout::MAX);
            let mut waiting = [PollFd::new(self.socket.as_fd(), events)];
            match poll(&mut waiting, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(WireError::Socket("wait", errno.into())),
            }
        }
    }
}

/// Shims in Go answer an unknown service with a code of its own, those in Rust with a sentence.
fn is_unimplemented(code: Code, message: &str) -> bool {
    code == Code::UNIMPLEMENTED
        || (code == Code::INVALID_ARGUMENT && message.ends_with("does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Result<Vec<Frame>, WireError> {
        let mut frames = Frames(bytes.to_vec());
        let mut found = Vec::new();
        while let Some(frame) = frames.next()? {
            found.push(frame);
        }
        Ok(found)
    }

    #[test]
    fn frames_are_cut_where_they_end() {
        let mut bytes = frame(1, REQUEST, b"one").unwrap();
        bytes.extend(frame(3, RESPONSE, b"").unwrap());
        bytes.extend(&frame(5, RESPONSE, b"cut").unwrap()[..12]);
        let found = frames(&bytes).unwrap();
        let seen: Vec<(u32, bool, &[u8])> = found
            .iter()
            .map(|frame| (frame.stream, frame.is_request, &frame.payload[..]))
            .collect();
        assert_eq!(seen, [(1, true, &b"one"[..]), (3, false, &b""[..])]);
    }

    #[test]
    fn frame_that_announces_too_much_is_refused_at_once() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, RESPONSE, 0];
        assert!(matches!(frames(&bytes), Err(WireError::TooLong(_))));
    }

    #[test]
    fn garbage_is_no_frame() {
        assert!(matches!(
            frames(b"\0\0\0\x01HTTP/1.1 400"),
            Err(WireError::Kind(_))
        ));
    }

    #[test]
    fn unknown_service_is_told_from_other_refusals() {
        for (code, message, expected) in [
            (Code::UNIMPLEMENTED, "service containerd.task.v3.Task", true),
            (
                Code::INVALID_ARGUMENT,
                "/containerd.task.v3.Task/Create does not exist",
                true,
            ),
            (Code::INVALID_ARGUMENT, "no such bundle", false),
            (Code::NOT_FOUND, "container not created", false),
        ] {
            assert_eq!(is_unimplemented(code, message), expected, "{message}");
        }
    }
}
