//! Actions and approvals: what is asked of the system, how it was judged, and what became of it.

#![allow(
    clippy::too_many_arguments,
    reason = "they are the members of a message, passed by name on the wire"
)]

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use paw_policy::{Circumstances, Decision, Digest, Kind, Plan, Risk, Role, State, TaintSet, Via};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::provider::Attempt;

/// An action as callers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Action {
    /// UUID version 7; sorts by time.
    pub id: String,
    /// What kind.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// How risky, as policy computed.
    pub risk: Risk,
    /// Where its data came from.
    pub taint: TaintSet,
    /// Digest of the plan that is or will be executed.
    pub digest: Digest,
    /// What policy said.
    pub verdict: Verdict,
    /// On whose behalf.
    pub agent: String,
    /// In which conversation.
    pub session: Option<String>,
    /// Who asked.
    pub requested_by: Caller,
    /// How it came to be asked.
    pub asked: Asked,
    /// Who said yes, where a person had to.
    pub approved_by: Option<Caller>,
    /// When what happened, in milliseconds since 1970.
    pub timestamps: Timestamps,
    /// One line that says what it does.
    pub summary: String,
    /// The sandbox it ran in.
    pub sandbox: Option<String>,
    /// What the kernel said that sandbox was; see `audit list`.
    pub attestation: Option<Digest>,
    /// What came out, once completed.
    pub result: Option<Value>,
    /// What went wrong, once failed.
    pub error: Option<Failure>,
    /// The chat whose model asked for it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Of a chat: every try to have a model answer, in order, whatever became of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The whole plan; only where one action is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub plan: Option<Plan>,
}

/// What policy said and which rules made it say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The answer.
    pub decision: Decision,
    /// Ids of the rules that decided; none when nothing permits it.
    pub rules: Vec<String>,
}

/// Somebody who called, as the kernel reports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id at the time; for people, never for decisions.
    pub pid: i32,
    /// The highest role that uid and groups give.
    pub role: Role,
    /// Name of the user, where known.
    pub name: Option<String>,
}

/// How an action came to be asked, beside by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Asked {
    /// The way in: `terminal` for the control socket, `job`, or `channel`.
    pub via: String,
    /// The job whose run asks, or had it asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Who asks by a channel, as its bridge names them: `CHANNEL:WHO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The agents that asked the one that acts, the one that a person asked first; none where that is the one that acts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<String>,
}

impl From<&Circumstances> for Asked {
    fn from(how: &Circumstances) -> Self {
        let (job, identity) = match &how.via {
            Via::Terminal | Via::Mcp => (None, None),
            Via::Job(id) => (Some(id.clone()), None),
            Via::Channel(peer) => (None, Some(peer.to_string())),
        };
        Self {
            via: how.via.as_str().to_owned(),
            job,
            identity,
            through: how.through.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<&Asked> for Circumstances {
    type Error = String;

    /// The way in and the agents that asked; the rest is not told. The error is what cannot be read.
    fn try_from(asked: &Asked) -> Result<Self, String> {
        let via = match (asked.via.as_str(), &asked.job, &asked.identity) {
            ("terminal", None, None) => Via::Terminal,
            ("mcp", None, None) => Via::Mcp,
            ("job", Some(id), None) => Via::Job(id.clone()),
            ("channel", None, Some(peer)) => Via::Channel(peer.parse().map_err(|_| peer.clone())?),
            _ => return Err(asked.via.clone()),
        };
        let through = asked.through.iter();
        let through = through.map(|name| name.parse().map_err(|_| name.clone()));
        Ok(Self {
            via,
            through: through.collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }
}

/// When what happened, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timestamps {
    /// Accepted and stored.
    pub created: u64,
    /// Judged to the end: allowed, approved, denied or expired.
    pub decided: Option<u64>,
    /// Execution began.
    pub started: Option<u64>,
    /// It became final.
    pub ended: Option<u64>,
    /// When an unanswered question expires.
    pub expires: Option<u64>,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// For programs, for example `interrupted`, `provider`, `sandbox`, `tool`.
    pub kind: String,
    /// What failed and why.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// After how many milliseconds it may be well again, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// A question that waits for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// The same id as the action's.
    pub id: String,
    /// The action's id.
    pub action: String,
    /// What an answer must name.
    pub digest: Digest,
    /// How risky.
    pub risk: Risk,
    /// Where its data came from.
    pub taint: TaintSet,
    /// Who asked.
    pub requested_by: Caller,
    /// How it came to be asked.
    pub asked: Asked,
    /// The exact plan.
    #[schemars(with = "Value")]
    pub plan: Plan,
    /// One line that says what it does.
    pub summary: String,
    /// When the question expires, in milliseconds since 1970.
    pub expires_at: u64,
    /// How many equal actions wait for this answer, this one among them; each is done for itself.
    pub waiting: u32,
    /// Who said yes already, of an action that takes two.
    pub first_yes: Option<Caller>,
}

/// A yes that holds for a while, for what is like an action that was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// Its id.
    pub id: String,
    /// The rule that it is.
    pub rule: String,
    /// The action that was approved with it.
    pub action: String,
    /// Who made it.
    pub by: Caller,
    /// The user whose actions it permits.
    pub uid: u32,
    /// On behalf of which agent.
    pub agent: String,
    /// What the approver had to say about it.
    pub note: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub made: u64,
    /// When it ends.
    pub until: u64,
}

/// What an authenticator takes up; told once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enrolment {
    /// `otpauth://…`, for a QR code.
    pub url: String,
    /// The secret in base32, for who types it.
    pub secret: String,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").finish_non_exhaustive()
    }
}

/// A person's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Yes, exactly this plan, once.
    Approve,
    /// No.
    Deny,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Pass it as `before` for the next page; none on the last.
    pub next: Option<String>,
}

/// Tools for programs that speak the Model Context Protocol (<https://modelcontextprotocol.io>).
#[rpc(server, client, namespace = "mcp", namespace_separator = ".")]
pub trait McpRpc {
    /// Calls a tool for another program's model: what a model wrote, not what a person said. Returns once the action is final or waits
    /// for a person.
    #[method(name = "call", param_kind = map, with_extensions)]
    async fn mcp(
        &self,
        agent: String,
        skill: String,
        tool: String,
        arguments: Map<String, Value>,
    ) -> RpcResult<Action>;
}

/// Actions.
#[rpc(server, client, namespace = "action", namespace_separator = ".")]
pub trait ActionRpc {
    /// Asks for something. Returns once it is stored, or, with `wait`, once it is final or waits for a person.
    ///
    /// `kind` and `arguments` are text until policy's words fit them; unknown kinds are denied, not guessed. For `tool_call`
    /// the arguments are `{skill, tool, arguments}`, for `chat` `{text, provider?, model?}`.
    ///
    /// `timeout_ms` is how long is waited; without `wait` it is the action's own deadline, counted from its acceptance: in line or
    /// being done it is `timed_out` then, and `expired` where it waits for a person.
    #[method(name = "submit", param_kind = map, with_extensions)]
    async fn submit(
        &self,
        kind: String,
        arguments: Map<String, Value>,
        agent: Option<String>,
        session: Option<String>,
        wait: Option<bool>,
        timeout_ms: Option<u64>,
    ) -> RpcResult<Action>;

    /// Actions, newest first; `state` as in the design, `limit` at most 1000 (50 if not given).
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(
        &self,
        state: Option<State>,
        limit: Option<u32>,
        before: Option<String>,
    ) -> RpcResult<Page<Action>>;

    /// One action, with its plan. `id` may be any unique prefix.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, id: String) -> RpcResult<Action>;

    /// The action once it is final; an error of kind `timed_out` if it is not by then (60 s if not given).
    #[method(name = "wait", param_kind = map, with_extensions)]
    async fn wait(&self, id: String, timeout_ms: Option<u64>) -> RpcResult<Action>;

    /// Takes an action back, if it is not final.
    #[method(name = "cancel", param_kind = map, with_extensions)]
    async fn cancel(&self, id: String) -> RpcResult<Action>;
}

/// Approvals.
#[rpc(server, client, namespace = "approval", namespace_separator = ".")]
pub trait ApprovalRpc {
    /// Questions that wait for a person, oldest first: after `after`, at most `limit` (1000 if not given), and as many as an answer
    /// holds. Equal ones are one question.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self, after: Option<String>, limit: Option<u32>) -> RpcResult<Vec<Approval>>;

    /// One of them.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, id: String) -> RpcResult<Approval>;

    /// Answers one. `digest` is the one that was shown; another one is refused. `code` is a one-time code of the caller's; `count` for
    /// how many of the equal actions it is (1 if not given); with `for_ms` what is alike is granted for so long, too.
    #[method(name = "answer", param_kind = map, with_extensions)]
    async fn answer(
        &self,
        id: String,
        digest: Digest,
        answer: Answer,
        note: Option<String>,
        code: Option<String>,
        count: Option<u32>,
        for_ms: Option<u64>,
    ) -> RpcResult<Action>;

    /// What is granted for a while, oldest first.
    #[method(name = "grants", param_kind = map, with_extensions)]
    async fn grants(&self) -> RpcResult<Vec<Grant>>;

    /// Takes a grant back, at once.
    #[method(name = "revoke", param_kind = map, with_extensions)]
    async fn revoke(&self, id: String) -> RpcResult<Grant>;

    /// Begins to enroll an authenticator of the caller; who has one already gives its `code`. It counts once it is confirmed.
    #[method(name = "enroll", param_kind = map, with_extensions)]
    async fn enroll(&self, code: Option<String>) -> RpcResult<Enrolment>;

    /// Ends that, with the first code of the new authenticator.
    #[method(name = "confirm", param_kind = map, with_extensions)]
    async fn confirm(&self, code: String) -> RpcResult<bool>;

    /// Removes the authenticator of another user; whether they had one.
    #[method(name = "forget", param_kind = map, with_extensions)]
    async fn forget(&self, uid: u32) -> RpcResult<bool>;
}
