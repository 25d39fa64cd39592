//! What is kept: one JSON document for each action, session and turn.
//!
//! Times are milliseconds since the Unix epoch, given by the caller. Ids are UUIDs of version 7, whose order is the order of
//! their making; the store refuses others, because its pages rely on that order.

use paw_policy::{Circumstances, Decision, Digest, Kind, Name, Plan, Risk, Role, State, TaintSet};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One action, from its acceptance to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// Its id, version 7.
    pub id: Uuid,
    /// Exactly what will be done; never changed after the first put.
    pub plan: Plan,
    /// The plan's digest, to which an answer is bound.
    pub digest: Digest,
    /// The plan's kind, kept beside it so that it can be filtered without knowing the plan.
    pub kind: Kind,
    /// How much harm it can do, as policy computed it.
    pub risk: Risk,
    /// Where its arguments came from.
    pub taint: TaintSet,
    /// What policy said.
    pub decision: Decision,
    /// Which rules made policy say so.
    pub rules: Vec<String>,
    /// Where it stands.
    pub state: State,
    /// Who asked, as the kernel reported them.
    pub requested_by: Caller,
    /// The answer of a person, if one was needed and given.
    pub approved_by: Option<Answer>,
    /// The yes that came before it, of an action that takes two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_yes: Option<Answer>,
    /// When it was accepted.
    pub created_ms: u64,
    /// When it was allowed, denied or answered.
    pub decided_ms: Option<u64>,
    /// When its execution began.
    pub started_ms: Option<u64>,
    /// When it came to its final state.
    pub ended_ms: Option<u64>,
    /// When nobody can answer it any more.
    pub expires_ms: Option<u64>,
    /// When it ends, wherever it stands then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What came out, when it completed.
    pub result: Option<serde_json::Value>,
    /// Why it did not complete.
    pub error: Option<Failure>,
    /// Digest of what the kernel said about its sandbox.
    pub attestation: Option<Digest>,
    /// The sandbox it ran in.
    pub sandbox: Option<String>,
    /// What it waits for, in words for people.
    pub wait_reason: Option<String>,
    /// Every try to have a model answer, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The chat whose model asked for it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Uuid>,
    /// How it came to be asked.
    #[serde(default, skip_serializing_if = "Circumstances::are_plain")]
    pub circumstances: Circumstances,
    /// How often it was being done when that was interrupted, and was begun again.
    #[serde(default, skip_serializing_if = "is_none_at_all")]
    pub interrupted: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_none_at_all(times: &u32) -> bool {
    *times == 0
}

/// One try to have a model answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which provider was asked.
    pub provider: String,
    /// For which model.
    pub model: String,
    /// `ok`, or a fixed word for how it failed.
    pub outcome: String,
    /// When it began.
    pub at_ms: u64,
    /// How long it took.
    pub ms: u64,
    /// How long until the first piece of an answer, where one came.
    pub first_token_ms: Option<u64>,
    /// Tokens of the question, where the provider counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Of those, the ones that it had in its cache, where it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer, where it counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// What it cost, in millionths of a US dollar; none in a record from before that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
    /// Whether that is assumed: the price is not known, or the tokens are estimated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cost_estimated: bool,
    /// Whether what came before was to be told in short, and nothing to be answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub summary: bool,
}

/// Who is at the other end of a connection, as the kernel reports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Process id when the connection was made; for people to read, never to decide on.
    pub pid: i32,
    /// What they may do.
    pub role: Role,
    /// The user's name, if the host knows one.
    pub name: Option<String>,
    /// The unit of the service manager that the process was in then; for people, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A person's answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answered.
    pub by: Caller,
    /// Whether it may be done.
    pub approve: bool,
    /// The digest of the plan they were shown.
    pub digest: Digest,
    /// What they had to say about it.
    pub note: Option<String>,
    /// When.
    pub at_ms: u64,
    /// Whether a one-time code of theirs came with it, and was right.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub code: bool,
    /// The grant that they made with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Uuid>,
}

/// Why an action did not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A fixed word that scripts can decide on.
    pub kind: String,
    /// What failed, and why.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// After how many milliseconds it may be well again, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// One conversation with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its id, version 7.
    pub id: Uuid,
    /// With which agent.
    pub agent: Name,
    /// Whose it is.
    pub owner_uid: u32,
    /// What people call it.
    pub title: String,
    /// When it began.
    pub created_ms: u64,
    /// When something was last said in it.
    pub updated_ms: u64,
    /// How many turns it has.
    pub turns: u64,
    /// Bytes of those turns, as they are stored; of what was said before this was kept, none.
    #[serde(default)]
    pub bytes: u64,
    /// Where everything said in it came from; it only ever accumulates.
    pub taint: TaintSet,
    /// The conversation whose agent began it by asking another one; none of one that somebody began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Uuid>,
}

/// Who said a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The person or program that talks to the agent.
    User,
    /// The agent.
    Assistant,
    /// A tool that the agent called.
    Tool,
}

/// One thing said in a session; never changed once it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// In which session.
    pub session: Uuid,
    /// Its place there: the first is 0, and none is left out.
    pub seq: u64,
    /// Who said it.
    pub role: Speaker,
    /// What was said.
    pub text: String,
    /// Where that came from.
    pub taint: TaintSet,
    /// The action it belongs to.
    pub action: Option<Uuid>,
    /// The provider that answered.
    pub provider: Option<Name>,
    /// The model that answered.
    pub model: Option<String>,
    /// Whether that provider was on this host then; of what was stored without that, nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// Tools that the model called with that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallRecord>,
    /// The call that this is the result of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_of: Option<ResultOf>,
    /// Tries to have the model say this, where the chat went on after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// When.
    pub at_ms: u64,
}

/// A call of a tool that a model made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Names it within its chat.
    pub id: String,
    /// The tool, as the model knows it.
    pub name: String,
    /// Its arguments as JSON text, as the model wrote them.
    pub arguments: String,
    /// What the provider wants back with the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The action that it became; none where it was refused before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Uuid>,
}

/// Which call a result belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultOf {
    /// [`CallRecord::id`].
    pub call: String,
    /// The tool, as people know it: `SKILL/TOOL`.
    pub tool: String,
    /// Whether there is no result but a reason why.
    pub failed: bool,
}
