//! The proxy's port inside: connections are accepted here and carried outside as bytes, which nobody in here understands.
//!
//! ```text
//!  connection   open ─┬─ client ends ──► end is sent ──────┬─► both directions over on both sides: forgotten
//!                     └─ outside ends ─► flushed, taken ───┘
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use nix::{errno::Errno, unistd};
use paw_launch::{
    egress::{EgressTaken, Listening, MAX_CONNECTIONS, PORT, WINDOW},
    frame::{MAX_PAYLOAD, Tag},
};

use crate::outbox::Outbox;

/// From this many bytes on it is worth a frame to say that they were taken; the window is four times as large.
const WORTH_A_FRAME: usize = WINDOW / 4;

/// The outside broke the protocol of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// The port and its connections.
#[derive(Default)]
pub(crate) struct Net {
    listener: Option<TcpListener>,
    open: BTreeMap<u32, Connection>,
    last: u32,
}

struct Connection {
    socket: TcpStream,
    /// For the client, and not taken by it yet.
    waiting: VecDeque<u8>,
    /// Taken by the client, and not said yet.
    owed: usize,
    /// The outside sends no more.
    outside_ended: bool,
    /// We said that no more is taken.
    closed_said: bool,
    /// What the outside still takes.
    window: usize,
    /// We said that no more comes.
    ended_said: bool,
    /// The outside takes no more.
    outside_closed: bool,
}

impl Net {
    /// Opens the port, and says whether that worked. A second time changes nothing.
    pub(crate) fn listen(&mut self, outbox: &mut Outbox) {
        let errno = match &self.listener {
            Some(_) => None,
            None => match listener() {
                Ok(listener) => {
                    self.listener = Some(listener);
                    None
                }
                Err(error) => Some(error.raw_os_error().unwrap_or(Errno::EINVAL as i32)),
            },
        };
        outbox.control(Tag::EgressListen, 0, &Listening { errno });
    }

    /// Another outside goes on, and knows of no connection: all of them end. The port stays, so that who comes later is told.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }

    /// The port, and whether one more connection may be accepted.
    pub(crate) fn listener(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let has_room = self.open.len() < MAX_CONNECTIONS;
        self.listener.as_ref().map(|it| (it.as_fd(), has_room))
    }

    /// Connections by number, with whether there is something to read or to write for each.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>, bool, bool)> {
        self.open.iter().map(|(number, connection)| {
            let reads = !connection.ended_said && connection.window > 0;
            let writes = !connection.waiting.is_empty();
            (*number, connection.socket.as_fd(), reads, writes)
        })
    }

    /// Accepts one connection, if one is there.
    pub(crate) fn accept(&mut self, outbox: &mut Outbox) {
        let Some(Ok((socket, _))) = self.listener.as_ref().map(TcpListener::accept) else {
            return;
        };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let _ = socket.set_nodelay(true);
        self.last += 1;
        self.open.insert(
            self.last,
            Connection {
                socket,
                waiting: VecDeque::new(),
                owed: 0,
                outside_ended: false,
                closed_said: false,
                window: WINDOW,
                ended_said: false,
                outside_closed: false,
            },
        );
        outbox.data(Tag::EgressOpen, self.last, &[]);
    }

    /// Reads and writes what can be read and written of one connection without waiting.
    pub(crate) fn serve(&mut self, number: u32, outbox: &mut Outbox, scratch: &mut [u8]) {
        self.with(number, |connection| {
            connection.flush(number, outbox);
            connection.relay(number, outbox, scratch);
        });
    }

    /// Bytes for a client.
    pub(crate) fn data(
        &mut self,
        number: u32,
        bytes: &[u8],
        outbox: &mut Outbox,
    ) -> Result<(), Broken> {
        self.known(number)?;
        let mut overrun = false;
        self.with(number, |connection| {
            if connection.closed_said {
                return;
            }
            overrun = connection.waiting.len() + connection.owed + bytes.len() > WINDOW;
            if !overrun {
                connection.waiting.extend(bytes);
                connection.flush(number, outbox);
            }
        });
        if overrun {
            return Err(Broken("more bytes for a connection than its window allows"));
        }
        Ok(())
    }

    /// No more bytes for a client.
    pub(crate) fn end(&mut self, number: u32, outbox: &mut Outbox) -> Result<(), Broken> {
        self.known(number)?;
        self.with(number, |connection| {
            connection.outside_ended = true;
            connection.flush(number, outbox);
        });
        Ok(())
    }

    /// The outside took bytes of a client, or takes no more.
    pub(crate) fn taken(
        &mut self,
        number: u32,
        taken: EgressTaken,
        outbox: &mut Outbox,
    ) -> Result<(), Broken> {
        self.known(number)?;
        self.with(number, |connection| {
            connection.window = WINDOW.min(connection.window.saturating_add(taken.bytes as usize));
            if taken.closed {
                connection.outside_closed = true;
                connection.end(number, outbox);
            }
        });
        Ok(())
    }

    /// A number that was never given is a fault; one that is forgotten is not: the frames crossed on the way.
    fn known(&self, number: u32) -> Result<(), Broken> {
        if number > self.last {
            return Err(Broken("a connection that was never opened"));
        }
        Ok(())
    }

    fn with(&mut self, number: u32, act: impl FnOnce(&mut Connection)) {
        let Some(connection) = self.open.get_mut(&number) else {
            return;
        };
        act(connection);
        if connection.is_over() {
            self.open.remove(&number);
        }
    }
}

impl Connection {
    fn is_over(&self) -> bool {
        self.ended_said && self.outside_closed && self.outside_ended && self.closed_said
    }

    fn end(&mut self, number: u32, outbox: &mut Outbox) {
        if !self.ended_said {
            self.ended_said = true;
            outbox.data(Tag::EgressEnd, number, &[]);
        }
    }

    fn relay(&mut self, number: u32, outbox: &mut Outbox, scratch: &mut [u8]) {
        if self.ended_said || self.window == 0 {
            return;
        }
        let most = self.window.min(MAX_PAYLOAD).min(scratch.len());
        match unistd::read(&self.socket, &mut scratch[..most]) {
            Ok(0) => self.end(number, outbox),
            Ok(read) => {
                self.window -= read;
                outbox.data(Tag::EgressData, number, &scratch[..read]);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => {
                self.end(number, outbox);
                self.close(number, outbox);
            }
        }
    }

    fn flush(&mut self, number: u32, outbox: &mut Outbox) {
        if self.closed_said {
            return;
        }
        while !self.waiting.is_empty() {
            match unistd::write(&self.socket, self.waiting.as_slices().0) {
                Ok(written) => {
                    self.owed += written;
                    self.waiting.drain(..written);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => return self.close(number, outbox),
            }
        }
        if self.outside_ended && self.waiting.is_empty() {
            // A client that has left needs no news of the end.
            let _ = self.socket.shutdown(Shutdown::Write);
            self.close(number, outbox);
        } else if self.owed >= WORTH_A_FRAME {
            self.say_taken(false, number, outbox);
        }
    }

    fn close(&mut self, number: u32, outbox: &mut Outbox) {
        if !self.closed_said {
            self.waiting = VecDeque::new();
            self.closed_said = true;
            self.say_taken(true, number, outbox);
        }
    }

    fn say_taken(&mut self, closed: bool, number: u32, outbox: &mut Outbox) {
        let bytes = u32::try_from(self.owed).expect("at most a window");
        self.owed = 0;
        outbox.control(Tag::EgressTaken, number, &EgressTaken { bytes, closed });
    }
}

fn listener() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
