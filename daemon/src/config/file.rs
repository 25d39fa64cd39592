//! What the TOML says, byte for byte: every key that a file may have, and nothing decided yet.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// A configuration file; several are merged key by key in the order of their names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[log]`
    pub log: Option<Log>,
    /// `[rpc]`
    pub rpc: Option<Rpc>,
    /// `[roles]`
    pub roles: Option<Roles>,
    /// `[actions]`
    pub actions: Option<Actions>,
    /// `[sessions]`
    pub sessions: Option<Sessions>,
    /// `[confinement]`
    pub confinement: Option<Confinement>,
    /// `[sandbox]`
    pub sandbox: Option<Sandbox>,
    /// Provider of agents that name none.
    pub default_provider: Option<Spanned<String>>,
    /// `[provider.NAME]`
    #[serde(default)]
    pub provider: BTreeMap<Spanned<String>, Provider>,
    /// `[route.NAME]`
    #[serde(default)]
    pub route: BTreeMap<Spanned<String>, Route>,
    /// `[agent.NAME]`
    #[serde(default)]
    pub agent: BTreeMap<Spanned<String>, Agent>,
    /// `[price."PROVIDER/MODEL"]`
    #[serde(default)]
    pub price: BTreeMap<Spanned<String>, Price>,
    /// `[prices]`
    pub prices: Option<Prices>,
    /// `[limit.NAME]`
    #[serde(default)]
    pub limit: BTreeMap<Spanned<String>, Limit>,
    /// `[budget.NAME]`
    #[serde(default)]
    pub budget: BTreeMap<Spanned<String>, Budget>,
    /// `[rate.NAME]`
    #[serde(default)]
    pub rate: BTreeMap<Spanned<String>, Rate>,
}

/// How much is said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: Option<Spanned<String>>,
}

/// Bounds of the control socket.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rpc {
    /// Connections at once.
    pub connections: Option<Spanned<u32>>,
    /// Connections of one user at once.
    pub connections_per_user: Option<Spanned<u32>>,
    /// Requests per second of one user who is not root; 0 for no limit.
    pub requests_per_second: Option<Spanned<u32>>,
}

/// Which groups of the host give which role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Group of administrators.
    pub admin: Option<Spanned<String>>,
    /// Group of approvers.
    pub approver: Option<Spanned<String>>,
    /// Group of users.
    pub user: Option<Spanned<String>>,
}

/// How often pawd may be called, or agents act, in a minute.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Calls of methods in a minute.
    pub calls_per_minute: Option<Spanned<u64>>,
    /// Actions in a minute.
    pub actions_per_minute: Option<Spanned<u64>>,
    /// Questions to people in a minute.
    pub questions_per_minute: Option<Spanned<u64>>,
    /// Calls of this method.
    pub method: Option<Spanned<String>>,
    /// Actions of this agent.
    pub agent: Option<Spanned<String>>,
    /// What this user asks for.
    pub user: Option<Spanned<String>>,
    /// `method`, `agent`, `user`: each of them alone.
    #[serde(default)]
    pub each: Vec<Spanned<String>>,
}

/// Bounds of actions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actions {
    /// Actions being done at once.
    pub concurrency: Option<Spanned<u32>>,
    /// `[actions.at_once]`: of those, how many of a kind.
    #[serde(default)]
    pub at_once: BTreeMap<Spanned<String>, Spanned<u32>>,
    /// What nobody waits for may have of the places and of the line, in percent.
    pub background: Option<Spanned<u32>>,
    /// Actions waiting for a place at once.
    pub queue: Option<Spanned<u32>>,
    /// Questions waiting for a person at once.
    pub approvals: Option<Spanned<u32>>,
    /// How long a question waits for its answer, for example `"1h"`.
    pub approval_expiry: Option<Spanned<String>>,
    /// How long a chat may take.
    pub chat_timeout: Option<Spanned<String>>,
    /// How long a tool call may take.
    pub tool_timeout: Option<Spanned<String>>,
    /// Finished actions kept in the store.
    pub keep: Option<Spanned<u64>>,
    /// How long SIGTERM waits for what is being done.
    pub drain: Option<Spanned<String>>,
}

/// How much of what was said is kept, of each user.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// Conversations.
    pub keep: Option<Spanned<u64>>,
    /// Bytes of all that was said in them.
    pub bytes: Option<Spanned<u64>>,
    /// Days since one was last spoken in; 0 for ever.
    pub days: Option<Spanned<u32>>,
}

/// What pawd demands of the kernel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// User that pawd becomes.
    pub user: Option<Spanned<String>>,
    /// User that the launcher becomes.
    pub launcher_user: Option<Spanned<String>>,
    /// User that the audit writer becomes.
    pub audit_user: Option<Spanned<String>>,
    /// User that the egress broker becomes.
    pub egress_user: Option<Spanned<String>>,
    /// User that what speaks with a containerd shim becomes.
    pub shim_user: Option<Spanned<String>>,
    /// Least landlock ABI; below it pawd does not start.
    pub landlock_floor: Option<Spanned<u32>>,
}

/// Sandboxes that nobody says more about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// `process`, `kernel` or `vm`: the weakest isolation that will do.
    pub isolation_floor: Option<Spanned<String>>,
    /// Image used when none is named.
    pub image: Option<Spanned<String>>,
    /// CPU, for example `0.5`.
    pub cpus: Option<Spanned<f64>>,
    /// Memory, for example `"256M"`.
    pub memory: Option<Spanned<String>>,
    /// Temporary disk, for example `"100M"`.
    pub disk: Option<Spanned<String>>,
    /// Processes and threads.
    pub pids: Option<Spanned<u32>>,
    /// Life of a sandbox, for example `"30s"`.
    pub timeout: Option<Spanned<String>>,
    /// Share of a disk that several want at once; 100 is the usual.
    pub io_weight: Option<Spanned<u16>>,
    /// Whether a runtime is used only after its probes have held.
    pub require_proof: Option<Spanned<bool>>,
    /// Output of a command that is passed on, for example `"256M"`.
    pub max_output: Option<Spanned<String>>,
    /// `[sandbox.pool]`
    pub pool: Option<Pool>,
}

/// Sandboxes that are made before anybody asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// How many; 0 for none.
    pub max: Option<Spanned<u32>>,
    /// Memory of them all, for example `"256M"`.
    pub memory: Option<Spanned<String>>,
    /// How long one waits, for example `"2m"`.
    pub idle: Option<Spanned<String>>,
}

/// An endpoint that serves models.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// `ollama` or `openai`.
    pub kind: Spanned<String>,
    /// Where it is.
    pub base_url: Spanned<String>,
    /// Model used when none is named.
    pub model: Spanned<String>,
    /// Name of a file in the credentials directory that holds its key.
    pub api_key_credential: Option<Spanned<String>>,
    /// Name of a secret of the vault that is its key.
    pub api_key_secret: Option<Spanned<String>>,
    /// Whether http may be spoken to another host.
    pub allow_plaintext: Option<bool>,
    /// `public`, `private` or `secret`: how confidential what it is sent may be at most.
    pub may_receive: Option<Spanned<String>>,
    /// How often a question that failed for the moment is asked again.
    pub max_retries: Option<Spanned<u32>>,
    /// How often it is asked whether it is there, for example `"1m"`.
    pub check_interval: Option<Spanned<String>>,
    /// Time to connect.
    pub connect_timeout: Option<Spanned<String>>,
    /// Time to the first token.
    pub first_token_timeout: Option<Spanned<String>>,
    /// Time between two chunks.
    pub stall_timeout: Option<Spanned<String>>,
    /// Time for everything.
    pub total_timeout: Option<Spanned<String>>,
    /// Which of its models are made ready when pawd starts.
    pub warm: Option<Spanned<Warm>>,
}

/// `true` for the model that is used when none is named, or names of models.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Warm {
    /// The one that is used when none is named, or none.
    Own(bool),
    /// These.
    Models(Vec<String>),
}

/// Targets that stand in for each other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Who may answer.
    pub targets: Spanned<Vec<Target>>,
    /// `order`, `weight`, `latency`, `cost`, `capability` or `ab`: who is asked first.
    pub select: Option<Spanned<String>>,
    /// Whether a question may go on from a provider on this host to one elsewhere.
    pub may_leave_host: Option<bool>,
    /// `restart` or `fail`: what becomes of an answer that breaks off.
    pub on_break: Option<Spanned<String>>,
    /// Whether a second target is asked beside one whose answer is late to begin.
    pub hedge: Option<Spanned<bool>>,
    /// How late that is while too little is known of a target.
    pub hedge_after: Option<Spanned<String>>,
    /// Whether answers are kept for who asks the same again.
    pub cache: Option<Cache>,
}

/// Answers that are kept for who asks the same again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// How long, for example `"1h"`.
    pub age: Option<Spanned<String>>,
    /// How much all of them may take, for example `"16M"`.
    pub size: Option<Spanned<String>>,
}

/// One target of a route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which provider.
    pub provider: Spanned<String>,
    /// With which model, if not the provider's.
    pub model: Option<Spanned<String>>,
    /// Its share of the questions.
    pub weight: Option<Spanned<u32>>,
    /// Tokens that it can hold.
    pub context: Option<Spanned<u64>>,
    /// Whether it can call tools.
    pub tools: Option<bool>,
    /// Whether it can see pictures.
    pub vision: Option<bool>,
}

/// An assistant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// What it is told before each conversation.
    pub instructions: Option<String>,
    /// Which provider answers for it.
    pub provider: Option<Spanned<String>>,
    /// With which model, if not the provider's.
    pub model: Option<String>,
    /// Which route answers for it, in place of a provider.
    pub route: Option<Spanned<String>>,
    /// The weakest isolation that will do for its tools, in place of `[sandbox] isolation_floor`.
    pub isolation_floor: Option<Spanned<String>>,
    /// `commit` or `stage`: what becomes of what its tools write to its workspace.
    pub workspace: Option<Spanned<String>>,
    /// Skills it may use.
    pub skills: Option<Spanned<Vec<String>>>,
    /// Other agents that it may ask.
    pub agents: Option<Spanned<Vec<String>>>,
    /// What its sandboxes may reach at most: `HOST:PORT` or `broker/NAME`.
    pub net: Option<Spanned<Vec<String>>>,
    /// How often its model may call tools in one turn of a conversation.
    pub max_turns: Option<Spanned<u32>>,
    /// Tokens of an answer at most.
    pub max_tokens: Option<Spanned<u32>>,
    /// How much chance is in an answer; 0 for as little as there can be.
    pub temperature: Option<Spanned<f32>>,
    /// Whether what was said with a local provider may go to a cloud one.
    pub may_leave_host: Option<bool>,
}

impl Agent {
    /// Whether it says who answers for it, or with which model.
    pub(super) fn says_who_answers(&self) -> bool {
        self.provider.is_some() || self.model.is_some() || self.route.is_some()
    }
}

/// What tokens cost, in millionths of a US dollar for a million of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Tokens of the question.
    pub input: Spanned<u64>,
    /// Of those, the ones that the provider had in its cache; as `input` if it does not say.
    pub cached: Option<Spanned<u64>>,
    /// Tokens of the answer.
    pub output: Spanned<u64>,
}

/// Bounds of what models cost.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// What is assumed where no price is known.
    pub unknown: Option<Spanned<Price>>,
}

/// How much may be asked in a minute.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Of questions to this provider.
    pub provider: Option<Spanned<String>>,
    /// Of questions to this model.
    pub model: Option<Spanned<String>>,
    /// Of questions of this agent.
    pub agent: Option<Spanned<String>>,
    /// Of questions of this user.
    pub user: Option<Spanned<String>>,
    /// `provider`, `model`, `agent`, `user`, `session`: each has all of it.
    #[serde(default)]
    pub each: Vec<Spanned<String>>,
    /// Attempts to have an answer.
    pub requests_per_minute: Option<Spanned<u64>>,
    /// Tokens of questions and answers.
    pub tokens_per_minute: Option<Spanned<u64>>,
}

/// What may be spent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// On questions to this provider.
    pub provider: Option<Spanned<String>>,
    /// On questions to this model.
    pub model: Option<Spanned<String>>,
    /// By this agent.
    pub agent: Option<Spanned<String>>,
    /// By this user.
    pub user: Option<Spanned<String>>,
    /// `provider`, `model`, `agent`, `user`, `session`: each has all of it.
    #[serde(default)]
    pub each: Vec<Spanned<String>>,
    /// `day`, `month` or `ever`: after which time it begins anew.
    pub per: Spanned<String>,
    /// Cost, in the currency of the prices.
    pub cost: Option<Spanned<f64>>,
    /// Tokens of questions and answers.
    pub tokens: Option<Spanned<u64>>,
}
