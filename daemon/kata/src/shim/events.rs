//! What a shim tells unasked: it takes a socket for `containerd.services.events.ttrpc.v1.Events`, and forwards there.
//!
//! Two events are of use: the end of the task, and that something in it was killed for want of memory, which in a virtual machine
//! nobody but the machine's own kernel sees. All are acknowledged, or the shim would send them again.

use std::{
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

use containerd_shim_protos::{
    events::task::{TaskExit, TaskOOM},
    protobuf::Message,
    shim::events::ForwardRequest,
    ttrpc::proto::Request,
};

use crate::wire::{self, Frames, WireError};

/// Connections of one shim at a time; it has one, and one more after it lost that.
const MAX_CONNECTIONS: usize = 4;

/// One thing that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The task's first process ended, with this status.
    Exit(u32),
    /// Something in the task was killed for want of memory.
    Oom,
}

/// The socket and who is connected.
pub(crate) struct Events {
    pub(crate) listener: UnixListener,
    pub(crate) connections: Vec<(UnixStream, Frames)>,
}

impl Events {
    /// Listens. Nobody but root can connect: the umask sees to it.
    pub(crate) fn listen(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            connections: Vec::new(),
        })
    }

    /// Takes whatever came on any connection; one that says something else is closed.
    pub(crate) fn take(&mut self, id: &str) -> Vec<Event> {
        while self.connections.len() < MAX_CONNECTIONS {
            match self.listener.accept() {
                Ok((socket, _)) if socket.set_nonblocking(true).is_ok() => {
                    self.connections.push((socket, Frames::default()));
                }
                _ => break,
            }
        }
        let mut told = Vec::new();
        self.connections.retain_mut(|(socket, frames)| {
            let filled = frames.fill(socket);
            let heard = hear(socket, frames, id, &mut told);
            filled.is_ok() && heard.is_ok()
        });
        told
    }
}

pub(crate) fn hear(
    mut socket: &UnixStream,
    frames: &mut Frames,
    id: &str,
    told: &mut Vec<Event>,
) -> Result<(), WireError> {
    while let Some(frame) = frames.next()? {
        let request = Request::parse_from_bytes(&frame.payload).map_err(WireError::Garbage)?;
        if request.method == "Forward" {
            told.extend(event(&request.payload, id).map_err(WireError::Garbage)?);
        }
        let answer = wire::taken(frame.stream)?;
        // A few bytes, to somebody who waits for them; if there is no room, it does not read, and is closed.
        socket
            .write_all(&answer)
            .map_err(|error| WireError::Socket("write", error))?;
    }
    Ok(())
}

/// What is forwarded, if it is about this task and of use.
fn event(
    forwarded: &[u8],
    id: &str,
) -> Result<Option<Event>, containerd_shim_protos::protobuf::Error> {
    let forwarded = ForwardRequest::parse_from_bytes(forwarded)?;
    let Some(envelope) = forwarded.envelope.as_ref() else {
        return Ok(None);
    };
    let value = envelope
        .event
        .as_ref()
        .map_or(&[][..], |any| &any.value[..]);
    match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit = TaskExit::parse_from_bytes(value)?;
            // A further process of the same container has an id of its own.
            let is_first = exit.container_id == id && exit.id == id;
            Ok(is_first.then_some(Event::Exit(exit.exit_status)))
        }
        "/tasks/oom" => {
            let oom = TaskOOM::parse_from_bytes(value)?;
            Ok((oom.container_id == id).then_some(Event::Oom))
        }
        _ => Ok(None),
    }
}
