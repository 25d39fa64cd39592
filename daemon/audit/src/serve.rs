//! The writer's only door: a Unix socket over which the daemon appends, and nothing else can be asked.
//!
//! One thread, no timers of its own: it sleeps until somebody writes, an answer can be sent, a signal comes, or the log has
//! something to sync or sign, or a full disk to look at again. Whatever has arrived by then is one group, written and synced once, and then answered.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use paw_api::audit::{
    Answer, Append, AppendRefused, Appended, Event, Hello, MAX_LINE, MAX_UNANSWERED, RefuseReason,
    Signed,
};
use paw_confine::peer::peer;

use crate::{
    format::Stamp,
    log::{Log, LogError, NotAdmitted},
};

/// The most connections at once; further ones wait in the socket's own queue.
pub const MAX_CONNECTIONS: usize = 16;

/// The most bytes that are kept unread of one connection.
const MAX_BUFFERED: usize = 4 * MAX_LINE;

/// Why the writer ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The log cannot be written any more.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The socket does not work.
    #[error("{step} on the audit socket")]
    Socket {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Says `hello` to whoever of `allowed` connects and appends for them, until one of `stop` becomes readable; then signs what there is.
///
/// # Errors
/// When the log is lost or the socket fails. What was answered is in the log.
pub fn serve(
    mut log: Log,
    listener: &UnixListener,
    allowed: &[u32],
    stop: &[BorrowedFd<'_>],
    hello: Hello,
) -> Result<(), ServeError> {
    listener
        .set_nonblocking(true)
        .map_err(|source| ServeError::Socket {
            step: "wait",
            source,
        })?;
    let mut connections: Vec<Connection> = Vec::new();
    let mut refusing = false;
    // What was signed last of what those who are connected were told.
    let mut told = log.signed().map(|it| it.checkpoint.clone());
    let mut was_full = log.is_full();
    loop {
        let ready =
            wait(listener, &connections, stop, log.due()).map_err(|source| ServeError::Socket {
                step: "wait",
                source,
            })?;
        if ready.stop {
            break;
        }
        for (connection, readable) in connections.iter_mut().zip(&ready.readable) {
            if *readable {
                connection.read();
            }
        }
        if ready.listener {
            let hello = Hello {
                vault: log.vault(),
                other_vaults: log.other_vaults(),
                ..hello
            };
            accept(listener, allowed, &hello, log.signed(), &mut connections)?;
        }
        write_group(&mut log, &mut connections, &mut refusing)?;
        match log.tick(Instant::now(), Stamp::now()) {
            Ok(()) => (),
            Err(error) if error.is_passing() => {
                tracing::warn!(error = %error, "audit log cannot be signed")
            }
            Err(error) => return Err(error.into()),
        }
        if log.signed().map(|it| &it.checkpoint) != told.as_ref() {
            told = log.signed().map(|it| it.checkpoint.clone());
            for connection in &mut connections {
                connection.tell(log.signed().cloned().map(Answer::Signed));
            }
        }
        if was_full && !log.is_full() {
            tracing::info!("the disk of the audit log has room again");
            refusing = false;
            for connection in &mut connections {
                connection.tell(Some(Answer::Room));
            }
        }
        was_full = log.is_full();
        for connection in &mut connections {
            connection.flush();
        }
        connections.retain(|connection| !connection.is_done());
    }
    // Requests that were not read were not answered either; who asked knows that they are not in the log.
    match log.seal(Stamp::now()) {
        Ok(()) => Ok(()),
        // What is in the log is signed by the next start.
        Err(error) if error.is_passing() => {
            tracing::warn!(error = %paw_log::Chain(&error), "audit log cannot be signed");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

struct Ready {
    stop: bool,
    listener: bool,
    readable: Vec<bool>,
}

fn wait(
    listener: &UnixListener,
    connections: &[Connection],
    stop: &[BorrowedFd<'_>],
    due: Option<Instant>,
) -> io::Result<Ready> {
    let mut fds: Vec<PollFd<'_>> = stop
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let room = connections.len() < MAX_CONNECTIONS;
    fds.push(PollFd::new(
        listener.as_fd(),
        if room {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        },
    ));
    for connection in connections {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, connection.wants_bytes());
        flags.set(PollFlags::POLLOUT, !connection.out.is_empty());
        fds.push(PollFd::new(connection.stream.as_fd(), flags));
    }
    let timeout = if connections.iter().any(Connection::has_line) {
        PollTimeout::ZERO
    } else {
        match due {
            None => PollTimeout::NONE,
            // Rounded up, so that the deadline has passed when the wait ends.
            Some(due) => {
                let rest = due
                    .saturating_duration_since(Instant::now())
                    .as_millis()
                    .saturating_add(1);
                PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
            }
        }
    };
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => (),
        Err(error) => return Err(error.into()),
    }
    let seen: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
    Ok(Ready {
        stop: seen[..stop.len()].contains(&true),
        listener: room && seen[stop.len()],
        readable: seen[stop.len() + 1..].to_vec(),
    })
}

fn accept(
    listener: &UnixListener,
    allowed: &[u32],
    hello: &Hello,
    signed: Option<&Signed>,
    connections: &mut Vec<Connection>,
) -> Result<(), ServeError> {
    while connections.len() < MAX_CONNECTIONS {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(source) => {
                return Err(ServeError::Socket {
                    step: "accept",
                    source,
                });
            }
        };
        match peer(&stream) {
            Ok(peer) if allowed.contains(&peer.uid) => match stream.set_nonblocking(true) {
                Ok(()) => {
                    let mut connection = Connection::new(stream);
                    connection.answer(&Answer::Hello(hello.clone()));
                    connection.tell(signed.cloned().map(Answer::Signed));
                    connections.push(connection);
                }
                Err(error) => tracing::warn!(error = %error, "audit connection cannot be used"),
            },
            Ok(peer) => tracing::warn!(
                uid = peer.uid,
                pid = peer.pid,
                "audit connection refused: not the daemon's user"
            ),
            Err(error) => {
                tracing::warn!(error = %error, "audit connection refused: its user is not known")
            }
        }
    }
    Ok(())
}

/// Writes what has arrived as one group and puts the answers where they can be sent.
fn write_group(
    log: &mut Log,
    connections: &mut [Connection],
    refusing: &mut bool,
) -> Result<(), ServeError> {
    let mut pending: Vec<(usize, Result<Appended, AppendRefused>)> = Vec::new();
    let mut durable = false;
    for (index, connection) in connections.iter_mut().enumerate() {
        while let Some(line) = connection.next_line() {
            match understand(&line) {
                Ok(append) => {
                    let seq = append.seq;
                    let admitted = log.admit(&append.record, line.len(), append.durable);
                    let appended = admitted.map(|()| Appended {
                        seq,
                        audit_seq: log.append(&append.record, Stamp::now()),
                        full: log.is_full(),
                    });
                    durable |= append.durable && appended.is_ok();
                    pending.push((index, appended.map_err(|why| not_admitted(&why, seq))));
                    connection.unanswered += 1;
                }
                Err(refused) => {
                    // It goes out behind the answers to what came before it.
                    connection.last_word = Some(refused);
                    break;
                }
            }
        }
    }
    let failed = if pending.iter().all(|(_, appended)| appended.is_err()) {
        None
    } else {
        log.commit(durable, Instant::now()).err()
    };
    if !pending.is_empty() {
        let refused = failed.is_some() || log.is_full();
        if refused && !*refusing {
            match &failed {
                Some(error) => {
                    tracing::error!(error = %error, "audit log cannot be written, records are refused");
                }
                None => {
                    tracing::error!(
                        "the disk of the audit log is full; records of what is about to happen are refused"
                    );
                }
            }
        }
        *refusing = refused;
    }
    for (index, appended) in pending {
        connections[index].answer(&match (appended, &failed) {
            (Err(refused), _) => Answer::Refused(refused),
            (Ok(appended), None) => Answer::Appended(appended),
            (Ok(appended), Some(error)) => Answer::Refused(refusal(error, appended.seq)),
        });
    }
    for connection in connections.iter_mut() {
        if let Some(refused) = connection.last_word.take() {
            connection.answer(&Answer::Refused(refused));
            connection.ended = true;
            connection.end = connection.begin;
        }
    }
    match failed {
        Some(error) if !error.is_passing() => {
            // The end of the process; who asked should still learn why.
            for connection in connections {
                connection.flush();
            }
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// A request, or why a line is none.
pub(crate) fn understand(line: &[u8]) -> Result<Append, AppendRefused> {
    let malformed = |seq, message: String| AppendRefused {
        seq,
        reason: RefuseReason::Malformed,
        message,
        remedy: "run the same version of pawd and paw-audit; this connection is closed".to_owned(),
    };
    if line.len() >= MAX_LINE {
        return Err(AppendRefused {
            seq: None,
            reason: RefuseReason::TooLong,
            message: format!("the line is longer than {MAX_LINE} bytes"),
            remedy: "shorten the record's detail; this connection is closed".to_owned(),
        });
    }
    let append: Append = serde_json::from_slice(line)
        .map_err(|error| malformed(None, format!("the line is not a request: {error}")))?;
    match append.record.event {
        Event::LogRecovered | Event::LogKeyed | Event::LogPruned => Err(malformed(
            Some(append.seq),
            "what the log tells of itself is written by paw-audit alone".to_owned(),
        )),
        _ => Ok(append),
    }
}

/// Why a record was not appended, while others are.
fn not_admitted(why: &NotAdmitted, seq: u64) -> AppendRefused {
    match why {
        NotAdmitted::Log(error) => refusal(error, seq),
        NotAdmitted::Contradiction(why) => {
            tracing::error!(error = %why, "a record is refused that contradicts what the log knows of the vault");
            AppendRefused {
                seq: Some(seq),
                reason: RefuseReason::Contradicts,
                message: why.to_string(),
                remedy: why.remedy().to_owned(),
            }
        }
    }
}

fn refusal(error: &LogError, seq: u64) -> AppendRefused {
    let (reason, remedy) = match error {
        LogError::Full(path) => (
            RefuseReason::Full,
            format!(
                "free space on the file system of {}; recording goes on by itself when there is room",
                path.display()
            ),
        ),
        LogError::InUse(_)
        | LogError::Io { .. }
        | LogError::Lost { .. }
        | LogError::Tampered { .. }
        | LogError::Key(_) => (
            RefuseReason::Io,
            "look for errors of the disk in the kernel log, and at the log of paw-audit".to_owned(),
        ),
    };
    AppendRefused {
        seq: Some(seq),
        reason,
        message: paw_log::Chain(error).to_string(),
        remedy,
    }
}

struct Connection {
    stream: UnixStream,
    /// Where it is read into, and what of it was read and is not yet understood.
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    /// Answers not yet taken by the other side.
    out: Vec<u8>,
    /// How many requests those answers, and the ones to come, are for.
    unanswered: usize,
    /// What is said before the connection is closed.
    last_word: Option<AppendRefused>,
    /// Nothing more is read.
    ended: bool,
    /// Nothing more can be sent.
    broken: bool,
}

impl Connection {
    const fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
            begin: 0,
            end: 0,
            out: Vec::new(),
            unanswered: 0,
            last_word: None,
            ended: false,
            broken: false,
        }
    }

    fn wants_bytes(&self) -> bool {
        !self.ended && self.unanswered < MAX_UNANSWERED && self.unread().len() < MAX_BUFFERED
    }

    /// Whether a request can be taken without reading more.
    fn has_line(&self) -> bool {
        self.unanswered < MAX_UNANSWERED && self.unread().contains(&b'\n')
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    fn read(&mut self) {
        if !self.wants_bytes() {
            return;
        }
        self.bytes.resize(MAX_BUFFERED, 0);
        self.bytes.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        let count = match self.stream.read(&mut self.bytes[self.end..]) {
            Ok(0) => {
                self.ended = true;
                0
            }
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                0
            }
            Err(_) => {
                (self.ended, self.broken) = (true, true);
                0
            }
        };
        self.end += count;
    }

    /// The next whole line, or so much of an endless one that it is known to be too long.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        if self.unanswered >= MAX_UNANSWERED {
            return None;
        }
        let unread = self.unread();
        let end = match unread.iter().position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if unread.len() > MAX_LINE => unread.len(),
            None => return None,
        };
        let line = unread[..end - 1].to_vec();
        self.begin += end;
        Some(line)
    }

    fn answer(&mut self, answer: &Answer) {
        serde_json::to_writer(&mut self.out, answer)
            .expect("strings and numbers are always JSON, and memory takes them");
        self.out.push(b'\n');
    }

    /// Says what is the answer to nothing, unless the other side does not take what it is told.
    fn tell(&mut self, news: Option<Answer>) {
        if let Some(news) = news
            && self.out.len() < MAX_BUFFERED
        {
            self.answer(&news);
        }
    }

    /// Sends what the other side takes now.
    fn flush(&mut self) {
        while !self.out.is_empty() && !self.broken {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.broken = true,
            }
        }
        self.unanswered = 0;
    }

    fn is_done(&self) -> bool {
        self.broken || (self.ended && self.out.is_empty() && !self.has_line())
    }
}
