//! The socket to the launcher: whole packets with descriptors, asynchronously.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use paw_launch::{
    packet::{self, PacketError, Received},
    request::{Message, Numbered},
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::{io::Interest, net::UnixDatagram};

/// The socket. Tokio has no type for SEQPACKET; of the datagram type only the readiness is used, never its reads or writes.
pub(super) struct Link {
    socket: UnixDatagram,
}

impl Link {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // A Unix socket connects at once or not at all; EAGAIN says that the launcher's queue is full.
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self {
            socket: UnixDatagram::from_std(socket.into())?,
        })
    }

    /// Takes one message; nothing is lost when the future is dropped.
    pub(super) async fn receive(&self) -> Result<Received<Message>, PacketError> {
        self.when(Interest::READABLE, || packet::receive(self.socket.as_fd()))
            .await
    }

    /// Sends one message, all of it or nothing; nothing is sent twice when the future is dropped.
    pub(super) async fn send(
        &self,
        message: &Numbered,
        fds: &[OwnedFd],
    ) -> Result<(), PacketError> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.when(Interest::WRITABLE, || {
            packet::send(self.socket.as_fd(), message, &fds)
        })
        .await
    }

    async fn when<T>(
        &self,
        interest: Interest,
        mut try_it: impl FnMut() -> Result<T, PacketError>,
    ) -> Result<T, PacketError> {
        let tried = self.socket.async_io(interest, || match try_it() {
            Err(PacketError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            settled => Ok(settled),
        });
        tried.await.map_err(|source| PacketError::Socket {
            step: "wait",
            source,
        })?
    }

    pub(super) async fn send_front(
        &self,
        outgoing: &VecDeque<(Numbered, Vec<OwnedFd>)>,
    ) -> Result<(), PacketError> {
        match outgoing.front() {
            Some((message, fds)) => self.send(message, fds).await,
            None => Ok(()),
        }
    }
}
