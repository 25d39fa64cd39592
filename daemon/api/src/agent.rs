//! Agents, their conversations and their skills.

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use paw_policy::{Digest, TaintSet, ToolClass};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action::Page;

/// A configured assistant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// What it is told before each conversation.
    pub instructions: String,
    /// Which provider answers for it; empty where a route does.
    pub provider: String,
    /// With which model; empty where a route says it.
    pub model: String,
    /// Which route answers for it.
    pub route: Option<String>,
    /// Whether provider and model are what an administrator switched to, and not what the configuration says.
    pub switched: bool,
    /// Skills that it may use.
    pub skills: Vec<String>,
    /// Other agents that it may ask.
    #[serde(default)]
    pub agents: Vec<String>,
    /// How often its model may call tools in one turn of a conversation.
    #[serde(default)]
    pub max_turns: u32,
    /// What its sandboxes may reach at most.
    #[serde(default)]
    pub net: Vec<String>,
    /// `process`, `kernel` or `vm`: the weakest isolation that will do for its tools.
    #[serde(default)]
    pub isolation_floor: String,
    /// `commit` or `stage`: what becomes of what its tools write to its workspace.
    #[serde(default)]
    pub workspace: String,
    /// Tokens of an answer at most.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// How much chance is in an answer; the provider's own without it.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Whether what was said with a local provider may go to a cloud one.
    #[serde(default)]
    pub may_leave_host: bool,
    /// The file that it stands in; none for the one that is always there, where no file says anything of it.
    #[serde(default)]
    pub file: Option<String>,
    /// Whether it was registered by RPC; others stand in files of root's and cannot be changed by RPC.
    #[serde(default)]
    pub registered: bool,
    /// What it names and does not get as things are, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
}

/// What an agent is registered with; in a change, what is not said stays. The same keys as `[agent.NAME]` in pawd.toml(5).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSpec {
    /// What it is told before each conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Which provider answers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// With which model, if not the provider's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Which route answers for it, in place of a provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The weakest isolation that will do for its tools, and none that is weaker than `[sandbox] isolation_floor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation_floor: Option<String>,
    /// `commit` or `stage`: what becomes of what its tools write to its workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Skills it may use: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skills: Option<Vec<String>>,
    /// Other agents that it may ask: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<String>>,
    /// What its sandboxes may reach at most: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<String>>,
    /// How often its model may call tools in one turn of a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// Tokens of an answer at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// How much chance is in an answer; 0 for as little as there can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Whether what was said with a local provider may go to a cloud one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_leave_host: Option<bool>,
    /// Keys of these that are said no more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// UUID version 7.
    pub id: String,
    /// With which agent.
    pub agent: String,
    /// User id of its owner.
    pub owner: u32,
    /// First words of it.
    pub title: String,
    /// How many turns it has.
    pub turns: u64,
    /// Where its data came from.
    pub taint: TaintSet,
    /// When it began, in milliseconds since 1970.
    pub created: u64,
    /// When it was last spoken in, in milliseconds since 1970.
    pub updated: u64,
    /// The conversation whose agent began this one, by asking this one's agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// One thing said in a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Turn {
    /// Its place, from 0.
    pub seq: u64,
    /// `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub text: String,
    /// Where it came from.
    pub taint: TaintSet,
    /// The action that made it.
    pub action: Option<String>,
    /// Tools that the model called with that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// The call that this is the result of; it names one of an earlier turn of the same action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The tool, of a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Whether the call has no result but a reason why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Which provider said it.
    pub provider: Option<String>,
    /// With which model.
    pub model: Option<String>,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// A call of a tool that a model made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    /// Names it within its action.
    pub id: String,
    /// The tool, as the model knows it.
    pub name: String,
    /// Its arguments, as the model wrote them.
    pub arguments: String,
    /// The action that it became; none where it was refused before.
    pub action: Option<String>,
}

/// What the first turns of a conversation come to, as its model is told where it has no room for them. The turns themselves stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// How many turns are in it: those before this place.
    pub until: u64,
    /// Names exactly those: SHA-256 over the name so far (first that of nothing) as hexadecimal digits, a line end, and the canonical JSON of
    /// `role`, `seq`, `taint` and `text` of the next turn, one after the other.
    pub digest: Digest,
    /// What they come to.
    pub text: String,
    /// Where all of them came from.
    pub taint: TaintSet,
    /// The chat that it was made for.
    pub action: String,
    /// Which provider made it.
    pub provider: String,
    /// With which model.
    pub model: String,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// A conversation with what was said in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transcript {
    /// The conversation.
    pub session: Session,
    /// What its first turns come to, where that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What was said, oldest first.
    pub turns: Vec<Turn>,
    /// Pass it as `from` for the rest; none at the end.
    pub next: Option<u64>,
}

/// A skill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Skill {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// Digest of its files.
    pub digest: Digest,
    /// `shipped` with the package, or `installed` by an administrator.
    pub origin: String,
    /// Whether it may be used.
    pub enabled: bool,
    /// Why not.
    pub why: Option<String>,
    /// Digest of the tools that its program announced when it was approved; none of one that declares them.
    pub announced: Option<Digest>,
    /// What of the host its calls see: what, where inside, and whether it may be written to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// Secrets that brokers add to its requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What its maker tells models about it, where it is a folder with a SKILL.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// What it offers.
    pub tools: Vec<Tool>,
}

/// One tool of a skill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it can do; policy computes risk from it.
    pub class: ToolClass,
    /// What it is for.
    pub description: String,
    /// JSON schema of its arguments.
    pub input_schema: Value,
}

/// Agents.
#[rpc(server, client, namespace = "agent", namespace_separator = ".")]
pub trait AgentRpc {
    /// All agents.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<Agent>>;

    /// One agent.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, name: String) -> RpcResult<Agent>;

    /// Registers an agent.
    #[method(name = "create", param_kind = map, with_extensions)]
    async fn create(&self, name: String, spec: AgentSpec) -> RpcResult<Agent>;

    /// Changes an agent that was registered.
    #[method(name = "edit", param_kind = map, with_extensions)]
    async fn edit(&self, name: String, spec: AgentSpec) -> RpcResult<Agent>;

    /// Removes an agent that was registered; gives what it was.
    #[method(name = "remove", param_kind = map, with_extensions)]
    async fn remove(&self, name: String) -> RpcResult<Agent>;
}

/// Conversations; callers see their own, administrators all.
#[rpc(server, client, namespace = "session", namespace_separator = ".")]
pub trait SessionRpc {
    /// Conversations, newest first; with `all` those, too, that an agent began by asking another one.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(
        &self,
        limit: Option<u32>,
        before: Option<String>,
        all: Option<bool>,
    ) -> RpcResult<Page<Session>>;

    /// One conversation with what was said in it, from turn `from` on (0 if not given), at most 1000 turns.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, id: String, from: Option<u64>) -> RpcResult<Transcript>;

    /// Removes a conversation and what was said in it, with those that its agent began with others for it. Their actions and the audit log stay.
    #[method(name = "delete", param_kind = map, with_extensions)]
    async fn delete(&self, id: String) -> RpcResult<bool>;
}

/// Installed skills.
#[rpc(server, client, namespace = "skill", namespace_separator = ".")]
pub trait SkillRpc {
    /// All skills.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<Skill>>;

    /// One skill.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, name: String) -> RpcResult<Skill>;
}
