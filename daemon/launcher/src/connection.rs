//! One connection of pawd: requests in, replies and events out, both bounded.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::poll::PollFlags;
use paw_launch::{
    packet::{self, PacketError},
    request::{Message, Numbered, RefusalReason, Reply},
};

use crate::ceilings::refusal;

/// How many messages may wait for a pawd that does not read. Beyond it, the connection is closed: a pawd that comes back asks
/// for the list of sandboxes, so nothing is lost but the news of their ends, which it then reads from what is missing.
const MAX_WAITING: usize = 256;

/// Names a connection for as long as the launcher lives.
pub(crate) type ConnectionId = u64;

/// A request and its descriptors, or why it is none.
pub(crate) type Taken = Result<(Numbered, Vec<OwnedFd>), PacketError>;

/// A connection and what waits to be sent on it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// Process that connected, for the log.
    pub(crate) pid: i32,
    /// Whether Hello was said.
    pub(crate) greeted: bool,
    socket: OwnedFd,
    waiting: VecDeque<(Message, Vec<OwnedFd>)>,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The other side left, or the socket failed.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// It does not read what it is sent.
    #[error("{MAX_WAITING} messages wait to be read")]
    Full,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, pid: i32, socket: OwnedFd) -> Self {
        Self {
            id,
            pid,
            greeted: false,
            socket,
            waiting: VecDeque::new(),
        }
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> PollFlags {
        if self.waiting.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
    }

    /// The next request with what came beside it; `None` when there is none now. The inner error is a packet that is no request.
    pub(crate) fn receive(&mut self) -> Result<Option<Taken>, ConnectionError> {
        match packet::receive(self.socket.as_fd()) {
            Ok(received) => Ok(Some(Ok((received.message, received.fds)))),
            Err(PacketError::WouldBlock) => Ok(None),
            Err(
                error @ (PacketError::NotAMessage(_)
                | PacketError::TooLong
                | PacketError::TooManyFds),
            ) => Ok(Some(Err(error))),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a message, or keeps it until there is room.
    pub(crate) fn send(
        &mut self,
        message: Message,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ConnectionError> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(ConnectionError::Full);
        }
        self.waiting.push_back((message, fds));
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectionError> {
        while let Some((message, fds)) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match packet::send(self.socket.as_fd(), message, &fds) {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                Err(PacketError::WouldBlock) => return Ok(()),
                // Whoever asked made it so long, and everybody else uses this connection too.
                Err(error @ (PacketError::TooLong | PacketError::TooManyFds)) => {
                    let said = instead(message, &error).ok_or(error)?;
                    if let Some(front) = self.waiting.front_mut() {
                        *front = (said, Vec::new());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// What is said in the place of a reply that no packet holds; `None` for what always fits.
fn instead(message: &Message, error: &PacketError) -> Option<Message> {
    let Message::Reply { seq, reply } = message else {
        return None;
    };
    let reason = match reply {
        Reply::Refused(refusal) => refusal.reason,
        _ => RefusalReason::Failed,
    };
    let said = Message::Reply {
        seq: *seq,
        reply: Reply::Refused(refusal(
            reason,
            format!("the reply cannot be sent: {error}"),
            "ask for less at a time, by shorter names; the journal of paw-launcher may say more",
        )),
    };
    Some(said)
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use paw_launch::packet::{MAX_PACKET, Received};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn reply_that_is_too_long_is_a_refusal_and_the_connection_stays() {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let mut connection = Connection::new(1, 1, ours);
        let reply = |seq, message| Message::Reply {
            seq,
            reply: Reply::Refused(refusal(RefusalReason::Ceiling, message, "")),
        };
        connection
            .send(reply(7, "x".repeat(MAX_PACKET)), Vec::new())
            .unwrap();
        connection
            .send(reply(8, "short".to_owned()), Vec::new())
            .unwrap();
        let got: Received<Message> = packet::receive(theirs.as_fd()).unwrap();
        assert!(
            matches!(&got.message, Message::Reply { seq: 7, reply: Reply::Refused(refusal) } if refusal.reason == RefusalReason::Ceiling),
            "{got:?}"
        );
        let got: Received<Message> = packet::receive(theirs.as_fd()).unwrap();
        assert_eq!(got.message, reply(8, "short".to_owned()));
    }
}
