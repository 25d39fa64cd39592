//! The driver's door: what others may ask of it, and what they hear from it.

use std::{sync::Arc, time::Duration};

use paw_api::{Error, ErrorKind};
use paw_policy::{Digest, Rules, State, Verdict};
use paw_store::{ActionRecord, Caller, SessionRecord};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::timeout,
};
use uuid::Uuid;

use super::{queue::Urgency, work::Progress};
use crate::config::ActionBounds;

/// How long a caller hears nothing of a step that is to be stored; then they hear that it is not known. Longer than an audit record may take,
/// without which it is known that there is no effect.
const CALLER_WAITS: Duration = Duration::from_secs(12);

/// Commands that may wait for the driver.
pub(super) const INBOX: usize = 1024;

/// Changes of state that a slow listener may be behind before it has to look in the store.
pub(super) const CHANGES: usize = 4096;

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<ActionRecord, Error>>;

/// Where an end goes that somebody stays for.
pub type End = oneshot::Sender<ActionRecord>;

/// A verdict and the rules that it is from.
#[derive(Debug)]
pub struct Judged {
    /// The rules.
    pub by: Arc<Rules>,
    /// What they say.
    pub verdict: Verdict,
}

/// An action as policy judged it, on its way in.
#[derive(Debug)]
pub struct Submission {
    /// The record; its state is still `queued`.
    pub record: ActionRecord,
    /// What policy said, and by which rules.
    pub judged: Judged,
    /// The session that it opens, if it opens one.
    pub session: Option<SessionRecord>,
    /// Where its execution reports.
    pub progress: Progress,
    /// Whether somebody waits for it. What a running action asks for is as urgent as that one, whatever stands here.
    pub urgency: Urgency,
    /// Who is told its end by itself; whoever else wants to know it listens for changes, and hears those of all actions.
    pub end: Option<End>,
}

/// What the driver is asked.
#[derive(Debug)]
pub(super) enum Command {
    Submit {
        submission: Box<Submission>,
        reply: Reply,
    },
    Answer {
        id: Uuid,
        said: Said,
        reply: Reply,
    },
    /// What people are asked after this one, and for how many actions; at most so many.
    Asked {
        after: Option<Uuid>,
        most: usize,
        reply: oneshot::Sender<Vec<(Uuid, usize)>>,
    },
    /// How many actions wait for the same answer as this one.
    Together {
        id: Uuid,
        reply: oneshot::Sender<usize>,
    },
    Cancel {
        id: Uuid,
        by: Caller,
        reply: Reply,
    },
    Rest(Uuid),
    Wake(Uuid),
    Bounds(ActionBounds),
}

/// What a person says to a question.
#[derive(Debug, Clone)]
pub struct Said {
    /// The digest of the plan that they were shown.
    pub digest: Digest,
    /// Whether it may be done.
    pub approve: bool,
    /// What they have to say about it.
    pub note: Option<String>,
    /// Who says it.
    pub by: Caller,
    /// Whether a one-time code of theirs came with it, and was right.
    pub code: bool,
    /// For how many actions that wait for the same answer it is, the oldest first; at least for the one that it names.
    pub count: usize,
    /// For how long what is alike is granted, too, in milliseconds.
    pub for_ms: Option<u64>,
}

/// A change of an action's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which action.
    pub id: Uuid,
    /// Where it stands now.
    pub state: State,
}

/// How many actions are open, by what they wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// For a place.
    pub queued: usize,
    /// Of those, how many somebody waits for, and nobody does.
    pub in_line: [usize; Urgency::ALL.len()],
    /// For their end.
    pub executing: usize,
    /// For a person.
    pub waiting: usize,
}

/// A handle to the driver.
#[derive(Debug, Clone)]
pub struct Actions {
    pub(super) inbox: mpsc::Sender<Command>,
    pub(super) changes: broadcast::Sender<Change>,
    pub(super) load: watch::Receiver<Load>,
}

impl Actions {
    /// Asks for an action; returns once it is durable.
    ///
    /// # Errors
    /// When it is refused or cannot be made durable.
    pub async fn submit(&self, submission: Submission) -> Result<ActionRecord, Error> {
        let id = submission.record.id;
        let asked = self.ask(|reply| Command::Submit {
            submission: Box::new(submission),
            reply,
        });
        in_time(id, asked).await
    }

    /// Answers a question; returns once the answer is durable.
    ///
    /// # Errors
    /// When the answer does not fit, or that person may not give it.
    pub async fn answer(&self, id: Uuid, said: Said) -> Result<ActionRecord, Error> {
        let asked = self.ask(|reply| Command::Answer { id, said, reply });
        in_time(id, asked).await
    }

    /// What people are asked, oldest first, after this one, and for how many actions; at most so many.
    ///
    /// # Errors
    /// When pawd is stopping.
    pub async fn asked(
        &self,
        after: Option<Uuid>,
        most: usize,
    ) -> Result<Vec<(Uuid, usize)>, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Asked { after, most, reply };
        self.inbox.send(command).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// How many actions wait for the same answer as this one.
    ///
    /// # Errors
    /// When pawd is stopping.
    pub async fn together(&self, id: Uuid) -> Result<usize, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Together { id, reply };
        self.inbox.send(command).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Takes an action back; returns once it has ended.
    ///
    /// # Errors
    /// When it is final already.
    pub async fn cancel(&self, id: Uuid, by: Caller) -> Result<ActionRecord, Error> {
        self.ask(|reply| Command::Cancel { id, by, reply }).await
    }

    /// An action that is being done waits for others, which need places: it gives up its own until [`Actions::wake`].
    pub async fn rest(&self, id: Uuid) {
        // Without a driver nobody wants its place.
        drop(self.inbox.send(Command::Rest(id)).await);
    }

    /// It goes on.
    pub async fn wake(&self, id: Uuid) {
        drop(self.inbox.send(Command::Wake(id)).await);
    }

    /// Other bounds, from now on.
    pub async fn rebound(&self, bounds: ActionBounds) {
        // Without a driver there is nothing left to bound.
        drop(self.inbox.send(Command::Bounds(bounds)).await);
    }

    /// Changes from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// How many actions are open.
    #[must_use]
    pub fn load(&self) -> Load {
        *self.load.borrow()
    }

    /// Commands that wait for the driver, and how many may.
    #[must_use]
    pub fn backlog(&self) -> (usize, usize) {
        let most = self.inbox.max_capacity();
        (most - self.inbox.capacity(), most)
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<ActionRecord, Error> {
        let (reply, answer) = oneshot::channel();
        self.inbox
            .send(command(reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// What is heard of a step in time. Later it may still be made: the driver goes on with it, whoever waits.
async fn in_time(
    id: Uuid,
    asked: impl Future<Output = Result<ActionRecord, Error>>,
) -> Result<ActionRecord, Error> {
    timeout(CALLER_WAITS, asked).await.unwrap_or_else(|_| {
        let secs = CALLER_WAITS.as_secs();
        let what = format!("whether this is stored is not known yet: nothing was heard of it for {secs} s");
        let hint = format!(
            "do not ask again before you have looked: pawctl action show {id}; `pawctl status` says whether the disk answers"
        );
        Err(Error::new(ErrorKind::TimedOut, what, hint).about(id.to_string()))
    })
}

fn stopping() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "pawd is stopping",
        "try again when it is back",
    )
    .retry_after_ms(2_000)
}
