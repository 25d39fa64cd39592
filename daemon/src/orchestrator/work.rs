//! What the driver needs done and does not do itself: what an execution is given, and what it gives back.

use std::{future::Future, pin::Pin, sync::Arc};

use paw_api::{
    model::{PullEvent, SwitchEvent},
    provider::ChatEvent,
    sandbox::RunEvent,
};
use paw_launch::frame::Size;
use paw_policy::{Digest, Name, Permit, Plan, TaintSet};
use paw_store::{ActionRecord, Attempt, Caller, Failure};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::secrets::held::Held;

/// Where an execution reports its progress, if anybody listens.
#[derive(Debug)]
pub enum Progress {
    /// Nobody listens; the result is in the record.
    None,
    /// Pieces of an answer. Its bound is back-pressure up to the model's connection.
    Chat(mpsc::Sender<ChatEvent>),
    /// How far a switch to another model is. Who reads slowly misses some of it.
    Switch(mpsc::Sender<SwitchEvent>),
    /// A model that is fetched.
    Pull {
        /// Told when it is on record and has its place.
        begun: oneshot::Sender<()>,
        /// How far it is. Its bound is back-pressure up to the provider.
        news: mpsc::Sender<PullEvent>,
    },
    /// Nobody listens, and this is what the vault is given: it is nowhere else, and wiped with this.
    Value(Held),
    /// Output of a command, and input for it.
    Run {
        /// Its output.
        output: mpsc::Sender<RunEvent>,
        /// Its input; none where its stdin is empty.
        input: Option<mpsc::Receiver<std::io::Result<bytes::Bytes>>>,
        /// The size of its terminal, as its asker's window has it; none where it has pipes.
        terminal: Option<watch::Receiver<Size>>,
    },
}

/// One execution.
#[derive(Debug)]
pub struct Task {
    /// Which action.
    pub id: Uuid,
    /// The action that it is done for.
    pub parent: Option<Uuid>,
    /// What may be done, once.
    pub permit: Permit<Plan>,
    /// Who asked.
    pub caller: Caller,
    /// The agents that had it asked, the first one first; none where a person did.
    pub through: Vec<Name>,
    /// Where the plan's data came from.
    pub taint: TaintSet,
    /// When it is told to stop at the latest, in milliseconds since 1970.
    pub deadline_ms: Option<u64>,
    /// Whether its conversation begins with it: nothing was said there before.
    pub opens: bool,
    /// Where to report.
    pub progress: Progress,
    /// Told when it shall stop.
    pub cancel: CancellationToken,
    /// Told when pawd ends: what can go on without it shall be left alone, and end with [`Ending::Left`].
    pub leave: CancellationToken,
    /// Told when pawd begins to stop: what only waits, and is stored, shall be left at once.
    pub drain: CancellationToken,
}

/// An execution that an earlier pawd had begun and that still goes on. Its permit was spent when it began.
#[derive(Debug)]
pub struct Continuation {
    /// The action, as it is stored.
    pub record: ActionRecord,
    /// Told when it shall stop.
    pub cancel: CancellationToken,
    /// As in [`Task`].
    pub leave: CancellationToken,
    /// As in [`Task`].
    pub drain: CancellationToken,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Done.
    Completed(Value),
    /// Not done, or not known to be done.
    Failed(Failure),
    /// Its deadline passed.
    TimedOut(Failure),
    /// It was told to stop and did.
    Cancelled,
    /// It goes on without this pawd; the next one takes it on.
    Left,
}

/// What an execution gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The sandbox it ran in.
    pub sandbox: Option<String>,
    /// What the kernel said that sandbox was.
    pub attestation: Option<Digest>,
    /// What was said, to be added to the session.
    pub exchange: Option<Box<Exchange>>,
    /// What there is to show of what did not come to its end.
    pub shows: Option<Value>,
    /// Every try to have a model answer.
    pub attempts: Vec<Attempt>,
}

impl Outcome {
    /// An end without sandbox and without words.
    #[must_use]
    pub const fn plain(ending: Ending) -> Self {
        Self {
            ending,
            sandbox: None,
            attestation: None,
            exchange: None,
            shows: None,
            attempts: Vec::new(),
        }
    }

    /// A failure; `kind` is one word for programs.
    #[must_use]
    pub fn failed(kind: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::plain(Ending::Failed(failure(kind, message, hint)))
    }
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// In which session.
    pub session: Uuid,
    /// What was asked; none where it is in the session already, with the tools that were called for it.
    pub question: Option<String>,
    /// Where what was read for the answer came from, beside the question.
    pub taint: TaintSet,
    /// What was answered.
    pub answer: String,
    /// Who answered, with which model; nobody where it is pawd's own words.
    pub by: Option<(Name, String)>,
    /// Whether that provider is on this host, or whoever was asked.
    pub local: bool,
}

/// The kind of the failure of what was being done when its launcher ended.
pub const LAUNCHER_LOST: &str = "launcher_lost";

/// A failure; `kind` is one word for programs.
#[must_use]
pub fn failure(kind: &str, message: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure {
        kind: kind.to_owned(),
        message: message.into(),
        hint: Some(hint.into()),
        retry_after_ms: None,
    }
}

/// Executes what it holds a permit for.
pub trait Execute: Send + Sync + 'static {
    /// Does it. Always ends: by itself, at the deadline, or soon after it is told to stop.
    fn execute(self: Arc<Self>, task: Task) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

    /// Where that came from, as is known now, which this plan takes by itself out of what it sees.
    fn reads(&self, plan: &Plan) -> TaintSet;

    /// An earlier pawd was executing this action, and nobody goes on with it: it ends like this, with what there is to say.
    fn interrupted(&self, record: &ActionRecord, outcome: Outcome) -> Outcome;

    /// Whether doing this action twice is the same as doing it once, so that it may be done again when it was interrupted.
    fn repeats(&self, record: &ActionRecord) -> bool;

    /// Whether this action, which an earlier pawd was executing, still goes on.
    fn goes_on(&self, record: &ActionRecord) -> bool;

    /// Takes it on: sees it through to its end. Ends as [`Execute::execute`] does.
    fn go_on(self: Arc<Self>, task: Continuation) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;
}
