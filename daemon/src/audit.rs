//! pawd's side of the audit log: one task owns the connection to the writer, numbers what it sends, and matches the answers.
//!
//! Whatever grants something waits for its record to be on disk. Other records are sent without waiting, but not while the
//! writer is away: no record, no effect.

use std::{collections::VecDeque, io, path::PathBuf, time::Duration};

use futures_util::{Sink, SinkExt, StreamExt};
use paw_api::audit::{
    Answer, Append, AppendRefused, Appended, Entry, MAX_LINE, MAX_UNANSWERED, RefuseReason, Signed,
    VaultMark,
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};
use tracing::{error, info};

/// Records that may wait to be sent.
const BACKLOG: usize = 1024;

/// Bytes of records after which no more of them leave in the same write.
const TOGETHER: usize = 64 * 1024;

/// How long the writer may take for one durable record.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long the oldest record may go unanswered before the log counts as not writable: a writer that hangs is as good as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a record is not in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The writer is away.
    #[error("the audit writer does not answer at {path}")]
    Away {
        /// Its socket.
        path: String,
    },
    /// The writer refused it.
    #[error("{message}")]
    Refused {
        /// What failed and why.
        message: String,
        /// What to do.
        remedy: String,
    },
}

impl AuditError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Away { .. } => {
                "start it: systemctl start paw-audit.service; nothing is done without a record"
                    .into()
            }
            Self::Refused { remedy, .. } => remedy.clone(),
        }
    }
}

/// What is known of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether the writer answers and has room.
    pub writable: bool,
    /// The newest record that was acknowledged.
    pub seq: u64,
    /// Process id of the writer, as it says.
    pub pid: u32,
    /// The landlock ABI that binds the writer, as it says.
    pub landlock_abi: u32,
    /// The newest state of the vault that the log told of when the writer was reached.
    pub vault: Option<VaultMark>,
    /// And of vaults that were in use before that one.
    pub other_vaults: Vec<VaultMark>,
}

/// Where the outcome of an append goes.
type Reply = oneshot::Sender<Result<u64, AuditError>>;

struct Job {
    durable: bool,
    /// None of who only wants to know when what was sent before is in the log.
    entry: Option<Box<Entry>>,
    reply: Option<Reply>,
}

/// A handle to the log.
#[derive(Debug, Clone)]
pub struct Audit {
    jobs: mpsc::Sender<Job>,
    health: watch::Receiver<Health>,
    signed: watch::Receiver<Option<Signed>>,
    path: PathBuf,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("event", &self.entry.as_ref().map(|entry| entry.event))
            .finish_non_exhaustive()
    }
}

impl Audit {
    /// A handle, and the task that has to run for it to be of use.
    pub fn connect(path: PathBuf) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, inbox) = mpsc::channel(BACKLOG);
        let (tell, health) = watch::channel(Health::default());
        let (tell_signed, signed) = watch::channel(None);
        (
            Self {
                jobs,
                health,
                signed,
                path: path.clone(),
            },
            keep(path, inbox, tell, tell_signed),
        )
    }

    /// Appends a record and waits until it is on disk.
    ///
    /// # Errors
    /// When it is not; then nothing that it would grant may happen.
    pub async fn durable(&self, entry: Entry) -> Result<u64, AuditError> {
        self.asked(true, entry).await
    }

    /// Appends a record and waits for the answer.
    async fn asked(&self, durable: bool, entry: Entry) -> Result<u64, AuditError> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            durable,
            entry: Some(Box::new(entry)),
            reply: Some(reply),
        };
        let asked = async {
            self.jobs.send(job).await.map_err(|_| self.away())?;
            answer.await.map_err(|_| self.away())?
        };
        timeout(ANSWER_LIMIT, asked)
            .await
            .unwrap_or_else(|_| Err(self.away()))
    }

    /// Sends a record that grants nothing; it is on disk within 50 ms.
    ///
    /// # Errors
    /// When the writer is away or has no room, as far as is known.
    pub async fn soon(&self, entry: Entry) -> Result<(), AuditError> {
        if !self.health.borrow().writable {
            // Refused last time, perhaps for want of room: waiting for the answer finds out whether that is over.
            return self.durable(entry).await.map(drop);
        }
        let job = Job {
            durable: false,
            entry: Some(Box::new(entry)),
            reply: None,
        };
        let sent = timeout(PATIENCE, self.jobs.send(job)).await;
        sent.map_err(|_| self.away())?.map_err(|_| self.away())
    }

    /// Sends a record of what has happened already and grants nothing, as [`Audit::soon`]; a full disk has room for it.
    ///
    /// # Errors
    /// When the writer is away, or no room is left for these either.
    pub async fn happened(&self, entry: Entry) -> Result<(), AuditError> {
        if self.health.borrow().writable {
            return self.soon(entry).await;
        }
        // The writer takes what need not be durable for what may have happened.
        self.asked(false, entry).await.map(drop)
    }

    /// Sends records that grant nothing, in this order, if that takes no waiting; else gives them back, to be sent with [`Audit::soon`].
    ///
    /// # Errors
    /// When there is no room for all of them now, or the writer is not known to be there.
    pub fn now(&self, entries: Vec<Entry>) -> Result<(), Vec<Entry>> {
        if !self.health.borrow().writable {
            return Err(entries);
        }
        let Ok(places) = self.jobs.try_reserve_many(entries.len()) else {
            return Err(entries);
        };
        for (place, entry) in places.zip(entries) {
            place.send(Job {
                durable: false,
                entry: Some(Box::new(entry)),
                reply: None,
            });
        }
        Ok(())
    }

    /// Waits until the writer has answered what was sent before, so that whoever reads the log finds it there; not for long, and not while
    /// it is away.
    pub async fn heard(&self) {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            durable: false,
            entry: None,
            reply: Some(reply),
        };
        let asked = async { self.jobs.send(job).await.is_ok() && answer.await.is_ok() };
        // What is not there by then is missing for a reason that the log of pawd has.
        let _in_time = timeout(PATIENCE, asked).await;
    }

    /// The newest checkpoint that the writer has told of, now and later.
    #[must_use]
    pub fn signed(&self) -> watch::Receiver<Option<Signed>> {
        self.signed.clone()
    }

    /// What is known of the log.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Records that wait to be sent, and how many may.
    #[must_use]
    pub fn backlog(&self) -> (usize, usize) {
        let most = self.jobs.max_capacity();
        (most - self.jobs.capacity(), most)
    }

    /// Waits until the writer answers.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn ready(&self, limit: Duration) -> Result<(), AuditError> {
        let mut health = self.health.clone();
        match timeout(limit, health.wait_for(|health| health.writable)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.away()),
        }
    }

    fn away(&self) -> AuditError {
        AuditError::Away {
            path: self.path.display().to_string(),
        }
    }
}

/// Owns the connection. Ends when nobody can send any more.
async fn keep(
    path: PathBuf,
    mut inbox: mpsc::Receiver<Job>,
    tell: watch::Sender<Health>,
    tell_signed: watch::Sender<Option<Signed>>,
) {
    let mut pause = Duration::from_millis(10);
    let mut owed = VecDeque::new();
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => {
                pause = Duration::from_millis(10);
                let mut talk = Talk {
                    tell: &tell,
                    tell_signed: &tell_signed,
                    waiting: VecDeque::new(),
                    seq: 0,
                };
                match talk.run(stream, &mut inbox, &mut owed).await {
                    Ok(()) => return,
                    Err(error) => error!(
                        message_id = paw_log::events::AUDIT_LOST,
                        error = %error,
                        "audit writer lost; nothing that needs a record is done until it is back"
                    ),
                }
                // What nobody waits for has happened and must not be lost: it is sent again, and may then be there twice. Who
                // waits for a durable record is told that there is none, as their reply is dropped.
                let unanswered = talk
                    .waiting
                    .into_iter()
                    .filter(|waiting| waiting.reply.is_none());
                let mut first: VecDeque<_> =
                    unanswered.filter_map(|waiting| waiting.entry).collect();
                // Those were sent before the ones that are still owed.
                first.append(&mut owed);
                owed = first;
                tell.send_modify(|health| {
                    *health = Health {
                        seq: health.seq,
                        ..Health::default()
                    }
                });
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), error = %error, "audit writer not reached")
            }
        }
        // A socket that is not there yet tells nobody when it comes: growing pauses, during which requests fail at once.
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => break,
                job = inbox.recv() => match job {
                    Some(Job { entry: Some(entry), reply: None, .. }) if owed.len() < BACKLOG => owed.push_back(entry),
                    Some(Job { entry: Some(entry), reply: None, .. }) => {
                        error!(event = ?entry.event, "a record is lost: the audit writer is away and too many wait for it");
                    }
                    Some(Job { reply, .. }) => answer(reply, Err(AuditError::Away { path: path.display().to_string() })),
                    None => return,
                },
            }
        }
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// A record that was sent and not answered.
struct Waiting {
    seq: u64,
    since: Instant,
    entry: Option<Box<Entry>>,
    reply: Option<Reply>,
}

/// One connection to the writer.
struct Talk<'a> {
    tell: &'a watch::Sender<Health>,
    tell_signed: &'a watch::Sender<Option<Signed>>,
    waiting: VecDeque<Waiting>,
    seq: u64,
}

impl Talk<'_> {
    /// Sends and matches until one side is gone; `Ok` when it is ours.
    async fn run(
        &mut self,
        stream: UnixStream,
        inbox: &mut mpsc::Receiver<Job>,
        owed: &mut VecDeque<Box<Entry>>,
    ) -> io::Result<()> {
        let (mut to, mut from) =
            Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE)).split::<String>();
        loop {
            let room = self.waiting.len() < MAX_UNANSWERED;
            if room && let Some(entry) = owed.pop_front() {
                // It has happened, and a full disk has room for it.
                if let Some(line) = self.line(false, entry, None)? {
                    send(&mut to, line).await?;
                }
                continue;
            }
            let late = self.waiting.front().map(|oldest| oldest.since + PATIENCE);
            let writable = self.tell.borrow().writable;
            tokio::select! {
                job = inbox.recv(), if room => {
                    let Some(job) = job else { return Ok(()) };
                    let mut lines = String::new();
                    self.take(job, &mut lines)?;
                    // What came meanwhile leaves with it, in one write.
                    while self.waiting.len() < MAX_UNANSWERED
                        && lines.len() < TOGETHER
                        && let Ok(job) = inbox.try_recv()
                    {
                        self.take(job, &mut lines)?;
                    }
                    if lines.pop().is_none() {
                        continue;
                    }
                    send(&mut to, lines).await?;
                }
                line = from.next() => {
                    let line = line.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
                    self.hear(&line)?;
                }
                () = past(late), if writable => {
                    error!(message_id = paw_log::events::AUDIT_LOST, "the audit writer does not answer; nothing that needs a record is done until it does");
                    self.tell.send_modify(|health| health.writable = false);
                }
            }
        }
    }

    /// Adds the line of a job, with its end, to those that are sent next.
    fn take(&mut self, job: Job, lines: &mut String) -> io::Result<()> {
        let Job {
            durable,
            entry,
            reply,
        } = job;
        match entry {
            Some(entry) => {
                if let Some(line) = self.line(durable, entry, reply)? {
                    lines.push_str(&line);
                    lines.push('\n');
                }
            }
            None if self.waiting.is_empty() => answer(reply, Ok(self.tell.borrow().seq)),
            None => self.waiting.push_back(Waiting {
                seq: self.seq,
                since: Instant::now(),
                entry: None,
                reply,
            }),
        }
        Ok(())
    }

    /// The line of a record, which waits for its answer from now on. One that the writer would not read is refused here: there it
    /// would end the connection, and with it the records of everybody else.
    fn line(
        &mut self,
        durable: bool,
        entry: Box<Entry>,
        reply: Option<Reply>,
    ) -> io::Result<Option<String>> {
        let append = Append {
            seq: self.seq + 1,
            durable,
            record: *entry,
        };
        let line = serde_json::to_string(&append).map_err(io::Error::other)?;
        if line.len() >= MAX_LINE {
            let message = format!("a record of {} bytes; {MAX_LINE} are taken", line.len());
            error!(message_id = paw_log::events::AUDIT_LOST, event = ?append.record.event, reason = %message, "audit record refused");
            let remedy = "report it with the journal of this time: pawd keeps its records shorter"
                .to_owned();
            answer(reply, Err(AuditError::Refused { message, remedy }));
            return Ok(None);
        }
        self.seq += 1;
        let entry = Some(Box::new(append.record));
        self.waiting.push_back(Waiting {
            seq: self.seq,
            since: Instant::now(),
            entry,
            reply,
        });
        Ok(Some(line))
    }

    fn hear(&mut self, line: &str) -> io::Result<()> {
        let said: Answer = serde_json::from_str(line).map_err(io::Error::other)?;
        let number = match &said {
            Answer::Hello(hello) => {
                self.tell.send_modify(|health| {
                    *health = Health {
                        writable: true,
                        pid: hello.pid,
                        landlock_abi: hello.landlock_abi,
                        vault: hello.vault,
                        other_vaults: hello.other_vaults.clone(),
                        seq: health.seq,
                    };
                });
                info!(pid = hello.pid, "audit writer reached");
                return Ok(());
            }
            Answer::Signed(signed) => {
                self.tell_signed.send_replace(Some(signed.clone()));
                return Ok(());
            }
            Answer::Room => {
                self.tell.send_if_modified(|health| {
                    let was = std::mem::replace(&mut health.writable, true);
                    if !was {
                        info!("the disk of the audit log has room again");
                    }
                    !was
                });
                return Ok(());
            }
            Answer::Appended(Appended { seq, .. }) => Some(*seq),
            Answer::Refused(AppendRefused { seq, .. }) => *seq,
        };
        let Some(Waiting { reply, since, .. }) = self
            .waiting
            .pop_front()
            .filter(|oldest| Some(oldest.seq) == number)
        else {
            return Err(io::Error::other(
                "the audit writer answered something else than what was asked",
            ));
        };
        match said {
            Answer::Hello(_) | Answer::Signed(_) | Answer::Room => {}
            Answer::Appended(Appended {
                audit_seq, full, ..
            }) => {
                crate::metrics::appended(since.elapsed(), reply.is_some());
                self.tell.send_if_modified(|health| {
                    let was = health.writable;
                    if full && was {
                        error!(
                            message_id = paw_log::events::AUDIT_LOST,
                            "the disk of the audit log is full; nothing that needs a record is begun until there is room"
                        );
                    }
                    (health.seq, health.writable) = (audit_seq, !full);
                    was == full
                });
                answer(reply, Ok(audit_seq));
            }
            Answer::Refused(AppendRefused {
                reason,
                message,
                remedy,
                ..
            }) => {
                error!(message_id = paw_log::events::AUDIT_LOST, reason = %message, remedy = %remedy, "audit record refused");
                // What contradicts the log is refused alone; others are taken.
                self.tell.send_if_modified(|health| {
                    health.writable &= reason == RefuseReason::Contradicts;
                    reason != RefuseReason::Contradicts
                });
                answer(reply, Err(AuditError::Refused { message, remedy }));
            }
        }
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.entry.is_none()) {
            answer(waiting.reply, Ok(self.tell.borrow().seq));
        }
        Ok(())
    }
}

/// Sends a line; a writer that takes none is as good as gone.
async fn send(
    to: &mut (impl Sink<String, Error = LinesCodecError> + Unpin),
    line: String,
) -> io::Result<()> {
    match timeout(PATIENCE, to.send(line)).await {
        Ok(sent) => sent.map_err(io::Error::other),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the audit writer takes no records",
        )),
    }
}

/// Waits until this time; for ever if there is none.
async fn past(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Tells who waits, if somebody does and is still there.
fn answer(reply: Option<Reply>, result: Result<u64, AuditError>) {
    if let Some(reply) = reply {
        drop(reply.send(result));
    }
}

#[cfg(test)]
mod tests {
    use paw_api::audit::Event;
    use tokio::net::UnixListener;

    use super::*;

    /// A writer that takes whatever it can read, on one connection.
    async fn writer(listener: UnixListener) -> usize {
        let (stream, _) = listener.accept().await.expect("pawd comes");
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
        let hello = r#"{"hello":{"pid":1,"landlock_abi":6}}"#;
        lines.send(hello).await.expect("it listens");
        let mut taken = 0;
        while let Some(Ok(line)) = lines.next().await {
            let append: Append = serde_json::from_str(&line).expect("it is a request");
            taken += 1;
            let answer = Answer::Appended(Appended {
                seq: append.seq,
                audit_seq: taken,
                full: false,
            });
            let answer = serde_json::to_string(&answer).expect("it can be written");
            lines.send(answer).await.expect("it listens");
        }
        usize::try_from(taken).expect("few")
    }

    #[tokio::test]
    async fn record_that_the_writer_would_not_read_is_refused_and_disturbs_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (audit, kept) = Audit::connect(path);
        let writer = tokio::spawn(writer(listener));
        let kept = tokio::spawn(kept);
        audit.ready(PATIENCE).await.expect("it answers");
        let mut long = Entry::new(Event::JobAdded);
        long.detail.insert("text".into(), "x".repeat(MAX_LINE));
        let (before, refused, after) = tokio::join!(
            audit.durable(Entry::new(Event::JobAdded)),
            audit.durable(long.clone()),
            audit.durable(Entry::new(Event::JobAdded)),
        );
        assert_eq!((before.ok(), after.ok()), (Some(1), Some(2)));
        assert!(matches!(refused, Err(AuditError::Refused { .. })));
        // Nobody waits for this one, and it is not sent again and again.
        audit.soon(long).await.expect("it is taken");
        assert_eq!(
            audit.durable(Entry::new(Event::JobAdded)).await.ok(),
            Some(3)
        );
        drop(audit);
        kept.await.expect("it ends");
        assert_eq!(writer.await.expect("it ends"), 3, "all on one connection");
    }
}
