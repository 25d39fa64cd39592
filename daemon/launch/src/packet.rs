//! One message, one SEQPACKET packet, with file descriptors beside it.
//!
//! This module owns the bounds of the wire: a packet longer than [`MAX_PACKET`] or with more than [`MAX_FDS`] descriptors is
//! refused as a whole, and the descriptors that came with it are closed. It blocks exactly when the socket does: on a
//! non-blocking socket both functions return [`PacketError::WouldBlock`], so the same code serves `poll` in the launcher and
//! an `AsyncFd` in pawd. It knows nothing of what the messages mean.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};
use serde::{Serialize, de::DeserializeOwned};

pub use crate::request::MAX_PACKET;

/// The most file descriptors that may come beside one message.
pub const MAX_FDS: usize = 4;

/// A message and the descriptors that came with it; all of them are close-on-exec.
#[derive(Debug)]
pub struct Received<T> {
    /// What was said.
    pub message: T,
    /// What was handed over, in the order in which it was sent.
    pub fds: Vec<OwnedFd>,
}

/// Why a packet was not sent or not taken.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket is non-blocking and there is nothing to read, or no room to write; wait for readiness and try again.
    #[error("the socket is not ready")]
    WouldBlock,
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The packet is longer than [`MAX_PACKET`]; nothing of it was kept.
    #[error("a packet of more than {MAX_PACKET} bytes was refused")]
    TooLong,
    /// More than [`MAX_FDS`] descriptors; those that arrived were closed.
    #[error("a packet with more than {MAX_FDS} file descriptors was refused")]
    TooManyFds,
    /// The packet is not the message that was expected; the connection itself is still in step.
    #[error("the packet is not a message of this protocol")]
    NotAMessage(#[source] serde_json::Error),
    /// Our own message could not be written as JSON.
    #[error("the message cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
    /// The kernel refused.
    #[error("{step} on the launcher's socket")]
    Socket {
        /// `sendmsg` or `recvmsg`.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl PacketError {
    fn of(step: &'static str, errno: Errno) -> Self {
        match errno {
            // WOULDBLOCK is the same number on Linux.
            Errno::AGAIN => Self::WouldBlock,
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            Errno::MSGSIZE => Self::TooLong,
            other => Self::Socket {
                step,
                source: other.into(),
            },
        }
    }
}

/// Sends one message and up to [`MAX_FDS`] descriptors, all of it or nothing.
///
/// # Errors
/// [`PacketError::WouldBlock`] when a non-blocking socket is full; the others are final for this message.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    let bytes = serde_json::to_vec(message).map_err(PacketError::Unwritable)?;
    if bytes.len() > MAX_PACKET {
        return Err(PacketError::TooLong);
    }
    if fds.len() > MAX_FDS {
        return Err(PacketError::TooManyFds);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(PacketError::TooManyFds);
    }
    loop {
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(&bytes)],
            &mut beside,
            SendFlags::NOSIGNAL,
        ) {
            // SEQPACKET takes a packet whole or not at all.
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(PacketError::of("sendmsg", errno)),
        }
    }
}

/// Takes one message and its descriptors.
///
/// # Errors
/// [`PacketError::WouldBlock`] when nothing is there; [`PacketError::Closed`] at the end; [`PacketError::NotAMessage`],
/// [`PacketError::TooLong`] and [`PacketError::TooManyFds`] for a packet that was thrown away with everything in it.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<Received<T>, PacketError> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    // Dropping the buffer closes whatever was not drained from it, so an early return never leaks a descriptor.
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let taken = loop {
        match rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut beside,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(taken) => break taken,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(PacketError::of("recvmsg", errno)),
        }
    };
    let fds: Vec<OwnedFd> = beside
        .drain()
        .flat_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    if taken.flags.contains(ReturnFlags::TRUNC) {
        return Err(PacketError::TooLong);
    }
    if taken.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
        return Err(PacketError::TooManyFds);
    }
    if taken.bytes == 0 {
        // Nobody has a reason to send an empty packet, so it may be read as the end.
        return Err(PacketError::Closed);
    }
    let message =
        serde_json::from_slice(&bytes[..taken.bytes]).map_err(PacketError::NotAMessage)?;
    Ok(Received { message, fds })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::{
        io::FdFlags,
        net::{AddressFamily, SocketFlags, SocketType, socketpair},
    };

    use super::*;
    use crate::request::{Numbered, Request};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn raw(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || beside.push(SendAncillaryMessage::ScmRights(fds)));
        rustix::net::sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut beside,
            SendFlags::NOSIGNAL,
        )
        .unwrap();
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn message_arrives_with_its_descriptors() {
        let (ours, theirs) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        let request = Numbered {
            seq: 7,
            request: Request::List,
        };
        send(ours.as_fd(), &request, &[reader.as_fd(), writer.as_fd()]).unwrap();
        let got: Received<Numbered> = receive(theirs.as_fd()).unwrap();
        assert_eq!((got.message, got.fds.len()), (request, 2));
    }

    #[test]
    fn received_descriptors_are_closed_on_exec() {
        let (ours, theirs) = pair();
        let (reader, _writer) = std::io::pipe().unwrap();
        send(ours.as_fd(), &1, &[reader.as_fd()]).unwrap();
        let got: Received<u8> = receive(theirs.as_fd()).unwrap();
        assert_eq!(
            rustix::io::fcntl_getfd(&got.fds[0]).unwrap(),
            FdFlags::CLOEXEC
        );
    }

    #[test]
    fn oversized_message_is_not_sent() {
        let (ours, _theirs) = pair();
        let text = "a".repeat(MAX_PACKET);
        assert!(matches!(
            send(ours.as_fd(), &text, &[]),
            Err(PacketError::TooLong)
        ));
    }

    #[test]
    fn oversized_packet_is_refused_whole() {
        let (ours, theirs) = pair();
        raw(&ours, &vec![b' '; MAX_PACKET + 1], &[]);
        assert!(matches!(
            receive::<u8>(theirs.as_fd()),
            Err(PacketError::TooLong)
        ));
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        let (ours, theirs) = pair();
        let (reader, _writer) = std::io::pipe().unwrap();
        raw(&ours, b"1", &[reader.as_fd(); 16]);
        // Other tests of this process open descriptors too; what leaks here would be sixteen of them at once, many times.
        let before = open_descriptors();
        assert!(matches!(
            receive::<u8>(theirs.as_fd()),
            Err(PacketError::TooManyFds)
        ));
        for _ in 0..50 {
            raw(&ours, b"1", &[reader.as_fd(); 16]);
            assert!(receive::<u8>(theirs.as_fd()).is_err());
        }
        assert!(open_descriptors() < before + 50);
    }

    #[test]
    fn garbage_is_told_from_the_end() {
        let (ours, theirs) = pair();
        raw(&ours, b"{\"seq\":", &[]);
        assert!(matches!(
            receive::<Numbered>(theirs.as_fd()),
            Err(PacketError::NotAMessage(_))
        ));
        drop(ours);
        assert!(matches!(
            receive::<Numbered>(theirs.as_fd()),
            Err(PacketError::Closed)
        ));
    }

    #[test]
    fn empty_socket_would_block() {
        let (_ours, theirs) = pair();
        assert!(matches!(
            receive::<u8>(theirs.as_fd()),
            Err(PacketError::WouldBlock)
        ));
    }

    #[test]
    fn full_socket_would_block() {
        let (ours, _theirs) = pair();
        let text = "a".repeat(60_000);
        let last = std::iter::repeat_with(|| send(ours.as_fd(), &text, &[])).find(Result::is_err);
        assert!(matches!(last, Some(Err(PacketError::WouldBlock))));
    }
}
