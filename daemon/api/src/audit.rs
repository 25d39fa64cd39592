//! Words between pawd and paw-audit, the writer of the audit log.
//!
//! One JSON document for each line, in both directions, over a stream Unix socket. pawd says [`Append`]; the writer answers each
//! one with an [`Answer`], in the order of asking. A line that cannot be understood is answered with a refusal that names no
//! request, and the connection is closed: after it nobody knows what was meant.
//!
//! There is no word for reading, changing or removing: the log is read from its files.

use std::collections::BTreeMap;

use paw_policy::{Decision, Digest, Kind, Risk, Role, TaintSet, ToolClass};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest line in either direction, in bytes, with its end.
pub const MAX_LINE: usize = 64 * 1024;

/// The most requests that one connection may have unanswered. The writer reads no further until answers are taken.
pub const MAX_UNANSWERED: usize = 256;

/// One record to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// Number of this request on this connection; the answer repeats it.
    pub seq: u64,
    /// Whether the record must be on the disk before the answer. Otherwise it is within 50 ms.
    pub durable: bool,
    /// What happened.
    pub record: Entry,
}

/// What the writer says to one [`Append`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// The record is in the log.
    Appended(Appended),
    /// The record is not in the log, and what it is about must not happen.
    Refused(AppendRefused),
    /// The first line of each connection, before anything was asked.
    Hello(Hello),
    /// Something was signed, also before the connection; it is the answer to nothing. Who does not take answers is not told of each.
    Signed(Signed),
    /// A disk that was full has room for everything again; it is the answer to nothing.
    Room,
}

/// Who the writer is. The kernel cannot tell: the peer of a socket that was made for somebody else is who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Its process id. Text for `status`; nothing is decided by it.
    pub pid: u32,
    /// The landlock ABI whose rules bind it.
    pub landlock_abi: u32,
    /// The newest state of the vault that the log tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultMark>,
    /// The newest states of vaults that were in use before that one; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_vaults: Vec<VaultMark>,
}

/// The newest checkpoint of the log. Whoever has it elsewhere can tell that the log was written anew, or cut, since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The last record that it is for.
    pub seq: u64,
    /// The line as it stands in the log, without its end.
    pub checkpoint: String,
}

/// A state of a vault: whoever knows a newer one knows that this is an older copy of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultMark {
    /// Which vault.
    pub vault: Uuid,
    /// How many changes it has seen.
    pub generation: u64,
}

/// The record is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Appended {
    /// Number of the request.
    pub seq: u64,
    /// Number of the record in the log.
    pub audit_seq: u64,
    /// The disk is full: it has a place that is kept for records of its kind, and what is about to happen is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// The record is not in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendRefused {
    /// Number of the request; `None` when it could not be read, and the connection is closed after this.
    pub seq: Option<u64>,
    /// Why, for programs.
    pub reason: RefuseReason,
    /// What failed, for people.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Why a record was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefuseReason {
    /// There is no room on the disk. It is tried anew with each request, and each second; [`Answer::Room`] tells that there is some.
    Full,
    /// The disk failed otherwise.
    Io,
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// The line is not an [`Append`].
    Malformed,
    /// It tells of a state of the vault that is older than the log knows, or newer by more than anybody can have changed since. The
    /// connection stays.
    Contradicts,
}

/// What happened. The list is closed: a new event is a new version of these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// pawd came up.
    DaemonStarted,
    /// pawd goes down.
    DaemonStopping,
    /// A configuration took effect.
    ConfigLoaded,
    /// A configuration was refused; the one before stays.
    ConfigRefused,
    /// Rules took effect.
    PolicyLoaded,
    /// Somebody asked for what their role does not allow.
    RpcDenied,
    /// An action was accepted and stored.
    ActionSubmitted,
    /// Policy judged an action.
    ActionJudged,
    /// A person allowed an action.
    ActionApproved,
    /// A person denied an action.
    ActionRejected,
    /// Nobody answered in time.
    ActionExpired,
    /// An action was taken back.
    ActionCancelled,
    /// The execution of an action begins.
    ActionStarted,
    /// The execution of an action ended.
    ActionEnded,
    /// An answer to a question was refused: another digest, too late, or not by that person.
    AnswerRefused,
    /// One of the two who have to allow an action has done so.
    ActionFirstApproved,
    /// A person granted what is like an action that they approved, for a while.
    GrantMade,
    /// A grant was taken back.
    GrantRevoked,
    /// An approver's authenticator was enrolled, or removed.
    ApproverEnrolled,
    /// A one-time code was refused.
    CodeRefused,
    /// An administrator killed a sandbox by hand.
    SandboxKilled,
    /// A secret was used.
    SecretUsed,
    /// Somebody wanted to use a secret and was not given it.
    SecretRefused,
    /// A secret is about to be set, rotated, removed, or allowed to somebody; then, what came of that.
    SecretChanged,
    /// The vault is about to be made, opened, sealed, or given another key; then, what came of that.
    VaultChanged,
    /// What a model wrote holds a key, or held the mark of its instructions and was withheld.
    TextScreened,
    /// A sandbox may reach something, by a rule of its run.
    EgressAllowed,
    /// A sandbox was kept from reaching something.
    EgressRefused,
    /// Something that a sandbox reached has ended.
    EgressEnded,
    /// A skill was installed, enabled, changed or removed.
    SkillChanged,
    /// An agent's definition changed.
    AgentChanged,
    /// A provider's definition changed.
    ProviderChanged,
    /// A budget was set or removed.
    BudgetChanged,
    /// A provider is about to fetch a model.
    ModelPulled,
    /// A job was made, and will act in its owner's name at set times.
    JobAdded,
    /// A job was removed.
    JobRemoved,
    /// A run of a job came to no good end.
    JobRunFailed,
    /// A session and its turns were deleted.
    SessionDeleted,
    /// The store was copied or put back.
    BackupMade,
    /// An image was added, or is about to be.
    ImageAdded,
    /// An image was removed.
    ImageRemoved,
    /// Somebody made what a run wrote part of its workspace.
    WorkspaceCommitted,
    /// Somebody threw away what a run wrote.
    WorkspaceDiscarded,
    /// Somebody took commits of a workspace back.
    WorkspaceUndone,
    /// Written by the writer alone: bytes that a crash left half-written were dropped.
    LogRecovered,
    /// Written by the writer alone: a new first key of the records' codes was handed out, and is in use from this record on.
    LogKeyed,
    /// Written by the writer alone: segments whose time was over are removed.
    LogPruned,
}

/// One thing that happened, with everything needed to understand it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What.
    pub event: Event,
    /// To which action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Uuid>,
    /// By whom, as the kernel reported them; nobody for what happens by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// In which conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The action's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// What it can do, by the classes of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ToolClass>,
    /// Its risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// Where its arguments came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<TaintSet>,
    /// What policy said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The rules that made it say so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Digest of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Digest of the rules in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_digest: Option<Digest>,
    /// Digest of the sandbox's attestation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Digest>,
    /// Digest of what came out, as its record in the store has it: JSON with the members of each object in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_digest: Option<Digest>,
    /// How it ended, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Whatever else a person should know; bounded by the line.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

impl Entry {
    /// An entry that says only what happened; the rest is filled in by name.
    #[must_use]
    pub const fn new(event: Event) -> Self {
        Self {
            event,
            action: None,
            actor: None,
            session: None,
            kind: None,
            class: None,
            risk: None,
            taint: None,
            decision: None,
            rules: Vec::new(),
            digest: None,
            policy_digest: None,
            attestation: None,
            result_digest: None,
            outcome: None,
            detail: BTreeMap::new(),
        }
    }
}

/// Who did it, as the kernel reported them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Process id at connect.
    pub pid: i32,
    /// What they may do; none when they may do nothing.
    pub role: Option<Role>,
    /// The unit of the service manager that the process was in when it connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}
