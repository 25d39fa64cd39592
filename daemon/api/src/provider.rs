//! Chat, and the providers behind it.

#![allow(
    clippy::too_many_arguments,
    reason = "they are the members of a message, passed by name on the wire"
)]

use jsonrpsee::{
    core::{RpcResult, SubscriptionResult},
    proc_macros::rpc,
};
use paw_policy::{Ceiling, Digest, Risk};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ErrorData;

/// An endpoint that serves models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// `ollama`, `openai`, `openai-compatible`, `anthropic`, `gemini` or `mistral`.
    pub kind: String,
    /// Where it is.
    pub base_url: String,
    /// The model used when none is asked for.
    pub model: String,
    /// Whether it runs on this host.
    pub local: bool,
    /// `unknown`, `ready`, `loading`, `failing`, or `waiting` while it is not asked.
    pub state: String,
    /// Why it is not asked: it waits for the next start of pawd, or for its key.
    pub waits_for: Option<String>,
    /// Whether it answers for agents that name none.
    pub default: bool,
    /// The file that it stands in.
    pub file: String,
    /// Whether it was registered by RPC; others stand in files of root's and cannot be changed by RPC.
    pub registered: bool,
    /// Credential that holds its key.
    pub api_key_credential: Option<String>,
    /// Secret of the vault that is its key.
    #[serde(default)]
    pub api_key_secret: Option<String>,
    /// Whether http may be spoken to another host.
    pub allow_plaintext: bool,
    /// How confidential what it is sent may be at most.
    pub may_receive: Ceiling,
    /// How often a question that failed for the moment is asked again.
    pub max_retries: u32,
    /// How often it is asked whether it is there.
    pub check_interval_ms: u64,
    /// Models that are made ready when pawd starts.
    pub warm: Vec<String>,
    /// Time to connect.
    pub connect_timeout_ms: u64,
    /// Time to the first token.
    pub first_token_timeout_ms: u64,
    /// Time between two chunks.
    pub stall_timeout_ms: u64,
    /// Time for everything.
    pub total_timeout_ms: u64,
    /// What it last failed with, also when it is well again.
    pub last_error: Option<String>,
    /// When that was, in milliseconds since 1970.
    pub last_error_at: Option<u64>,
    /// When it was last seen to be there, by traffic or by a check, in milliseconds since 1970.
    pub seen_at: Option<u64>,
    /// How long its last answers took; nothing before the first one.
    pub latency: Option<Latency>,
    /// `closed`, `open` or `half_open`: whether routes ask it. Of its models, the worst.
    pub breaker: String,
    /// Until when routes leave it alone, in milliseconds since 1970, while its breaker is open.
    pub breaker_until: Option<u64>,
}

/// What a provider is registered with; in a change, what is not said stays. The same keys as `[provider.NAME]` in pawd.toml(5), with
/// times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSpec {
    /// Which wire it speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The model used when none is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Credential that holds its key, never the key; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_credential: Option<String>,
    /// Secret of the vault that is its key, never the key; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_secret: Option<String>,
    /// Whether http may be spoken to another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_plaintext: Option<bool>,
    /// How confidential what it is sent may be at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_receive: Option<Ceiling>,
    /// How often a question that failed for the moment is asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// How often it is asked whether it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_interval_ms: Option<u64>,
    /// Time to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// Time to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_timeout_ms: Option<u64>,
    /// Time between two chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout_ms: Option<u64>,
    /// Time for everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_timeout_ms: Option<u64>,
    /// Whether its model is made ready when pawd starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
}

/// How long the last answers of a provider took, at most 256 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// How many answers that were.
    pub answers: u64,
    /// Until the first piece came, in milliseconds, where pieces came.
    pub first_token_ms: Option<Percentiles>,
    /// Until the answer was whole, in milliseconds.
    pub total_ms: Percentiles,
}

/// The middle and the slow end of some times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Percentiles {
    /// Half of them were no longer.
    pub p50: u64,
    /// All but one in twenty were no longer.
    pub p95: u64,
}

/// Targets that stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// `order`, `weight`, `latency`, `cost`, `capability` or `ab`: who is asked first.
    pub select: String,
    /// Whether a question may go on from a provider on this host to one elsewhere.
    pub may_leave_host: bool,
    /// `restart` or `fail`: what becomes of an answer that breaks off.
    pub on_break: String,
    /// Whether a second target is asked beside one whose answer is late to begin: how late that is, in milliseconds, while too little
    /// is known of a target.
    #[serde(default)]
    pub hedge_after_ms: Option<u64>,
    /// Who may answer.
    pub targets: Vec<RouteTarget>,
    /// How long answers are kept for who asks the same again, in milliseconds; none where they are not.
    pub cache_age_ms: Option<u64>,
}

/// One target of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteTarget {
    /// Which provider.
    pub provider: String,
    /// Which model.
    pub model: String,
    /// Its share of the questions, where the route has shares.
    pub weight: Option<u32>,
    /// Tokens that it can hold, where that is configured.
    pub context: Option<u64>,
    /// Whether it can call tools, where that is configured.
    #[serde(default)]
    pub tools: Option<bool>,
    /// Whether it can see pictures, where that is configured.
    #[serde(default)]
    pub vision: Option<bool>,
    /// How soon one expects its answers to begin, in milliseconds, where some were heard: an average that fades.
    #[serde(default)]
    pub pace_ms: Option<u64>,
    /// Whether it is on this host.
    pub local: bool,
    /// As of its provider.
    pub state: String,
    /// `closed`, `open` or `half_open`: whether it is asked.
    pub breaker: String,
    /// Until when it is left alone, in milliseconds since 1970, while its breaker is open.
    pub breaker_until: Option<u64>,
}

/// What a provider answered to a short question; one that does not answer is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderTest {
    /// Which one.
    pub name: String,
    /// The model that was asked, as the provider names it.
    pub model: String,
    /// What it said, at most 200 characters of it.
    pub text: String,
    /// How long until the first piece came, in milliseconds, where one came.
    pub first_token_ms: Option<u64>,
    /// How long until the answer was whole, in milliseconds.
    pub ms: u64,
    /// What it took.
    pub usage: Usage,
    /// Models that it lists, at most 100.
    pub models: Vec<String>,
}

/// What became of the conversations that were given to each arm of a route, as far as their actions are remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arms {
    /// Which route.
    pub route: String,
    /// How it selects; with `ab` a conversation stays with its arm.
    pub select: String,
    /// Chats that are counted here.
    pub chats: u64,
    /// When the oldest of them was asked, in milliseconds since 1970.
    pub since: Option<u64>,
    /// Each target: those of the route as they are listed, then those that were its before.
    pub arms: Vec<Arm>,
}

/// One arm. A chat counts for the target that its plan names first; times, tokens and costs are those of that target's own attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arm {
    /// Which provider.
    pub provider: String,
    /// Which model.
    pub model: String,
    /// Its share of the conversations, where the route has shares and it is still in it.
    pub weight: Option<u32>,
    /// Chats that it was given.
    pub chats: u64,
    /// Of those, the ones that it did not answer, whether another one did or not.
    pub errors: u64,
    /// How long until the first piece of its answers.
    pub first_token_ms: Option<Percentiles>,
    /// How long until they were whole.
    pub total_ms: Option<Percentiles>,
    /// Tokens that it read.
    pub input_tokens: u64,
    /// Tokens that it wrote.
    pub output_tokens: u64,
    /// What that cost, in US dollars.
    pub cost: f64,
    /// Whether a part of that is assumed.
    pub cost_estimated: bool,
}

/// A finished answer; also the result of a `chat` action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatResult {
    /// The action.
    pub action_id: String,
    /// The conversation; pass it again to go on with it.
    pub session: String,
    /// What was answered.
    pub text: String,
    /// Who answered; `pawd` where the turn was stopped without an answer.
    pub provider: String,
    /// With which model; none there.
    pub model: String,
    /// What it took.
    pub usage: Usage,
    /// Why it ended: `stop`, `length`, `content_filter` or the provider's own word. `turn_limit`, `repeating` or `result_limit` where the
    /// model wanted to call more tools and was made to answer with what it had. Without an answer the kind of the error, such as
    /// `over_budget` or `timed_out`, or `cancelled`.
    pub finish: String,
    /// Every try, in order.
    pub attempts: Vec<Attempt>,
    /// What all tries cost, in US dollars.
    pub cost: Option<f64>,
    /// Whether a part of that is assumed: a price is not known, or tokens are estimated.
    #[serde(default)]
    pub cost_estimated: bool,
    /// Whether it was given before, to the same question of the same user, and nobody was asked.
    #[serde(default)]
    pub cached: bool,
}

/// Tokens of one answer, where the provider tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: Option<u64>,
    /// Tokens written.
    pub output_tokens: Option<u64>,
    /// Of those that were read, the ones that the provider had in its cache.
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

/// One try at one provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Which provider.
    pub provider: String,
    /// Which model.
    pub model: String,
    /// `ok` or the kind of error; waiting for a model that loads is one attempt, `loading`. `cancelled` is one that was taken back,
    /// `outrun` one that was left because another was quicker, `cached` an answer from before, for which nobody was asked.
    pub outcome: String,
    /// When it began, in milliseconds since 1970.
    pub at: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// How long until the first piece of an answer came, in milliseconds, where one came.
    pub first_token_ms: Option<u64>,
    /// What it took, as far as the provider told.
    #[serde(default)]
    pub usage: Usage,
    /// What it cost, in US dollars.
    #[serde(default)]
    pub cost: Option<f64>,
    /// Whether that is assumed: the price is not known, or the tokens are estimated.
    #[serde(default)]
    pub cost_estimated: bool,
    /// Whether it was asked to tell in short what was said before, and not to answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub summary: bool,
}

/// A call of a tool in a chat, where it stands now. It is an action of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCalled {
    /// The action; none where the call was refused before it became one.
    pub action_id: Option<String>,
    /// The tool, `SKILL/TOOL`; as the model said it, where there is none.
    pub tool: String,
    /// The state of the action, or `refused`.
    pub state: String,
    /// How risky it is, as policy computed.
    pub risk: Option<Risk>,
    /// What an answer has to name, while it waits for a person.
    pub digest: Option<Digest>,
    /// One line that says what it does.
    pub summary: String,
    /// When nobody can answer it any more, while it waits for a person, in milliseconds since 1970.
    pub expires_at: Option<u64>,
    /// Why it did not do what it was asked, where it did not.
    pub why: Option<String>,
}

/// What a chat subscription sends. It ends with `done` or `failed`; a stream without either was cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChatEvent {
    /// The action is stored.
    Accepted {
        /// The action.
        action_id: String,
        /// The conversation.
        session: String,
    },
    /// A piece of the answer.
    Delta {
        /// Its number, from 0 without gaps.
        seq: u64,
        /// The piece.
        text: String,
    },
    /// The answer broke off, and the question is asked again: what came so far is void, and pieces are numbered from 0 again.
    StreamReset {
        /// Who is asked now.
        provider: String,
        /// With which model.
        model: String,
        /// The kind of error that the answer broke off with.
        why: String,
    },
    /// A tool that the model called. The model is asked again when all of its calls have ended, so pieces are numbered from 0 again.
    Tool(ToolCalled),
    /// The whole answer.
    Done(ChatResult),
    /// There is no answer.
    Failed {
        /// What failed and why.
        message: String,
        /// The rest of the error.
        error: ErrorData,
        /// What pawd says in place of an answer, where it stopped the turn: why, and what was done so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Box<ChatResult>>,
    },
}

/// Talking with an agent.
#[rpc(server, client, namespace = "chat", namespace_separator = ".")]
pub trait ChatRpc {
    /// One turn of a conversation, answered piece by piece. Unsubscribing cancels it. `schema` is a JSON schema that the answer has to
    /// follow, of at most 32 KiB; `images` are at most four pictures (PNG, JPEG, WebP, GIF) in base64, of 160 KiB together.
    #[subscription(name = "send" => "event", unsubscribe = "cancel", item = ChatEvent, param_kind = map, with_extensions)]
    async fn send(
        &self,
        text: String,
        agent: Option<String>,
        session: Option<String>,
        provider: Option<String>,
        model: Option<String>,
        local_only: Option<bool>,
        route: Option<String>,
        schema: Option<serde_json::Value>,
        images: Option<Vec<String>>,
    ) -> SubscriptionResult;
}

/// Providers.
#[rpc(server, client, namespace = "provider", namespace_separator = ".")]
pub trait ProviderRpc {
    /// All providers.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<Provider>>;

    /// One provider.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, name: String) -> RpcResult<Provider>;

    /// Registers a provider. It is kept over restarts.
    #[method(name = "add", param_kind = map, with_extensions)]
    async fn add(&self, name: String, spec: ProviderSpec) -> RpcResult<Provider>;

    /// Changes a provider that was registered; what the spec does not say stays.
    #[method(name = "edit", param_kind = map, with_extensions)]
    async fn edit(&self, name: String, spec: ProviderSpec) -> RpcResult<Provider>;

    /// Removes a provider that was registered, and tells what it was.
    #[method(name = "remove", param_kind = map, with_extensions)]
    async fn remove(&self, name: String) -> RpcResult<Provider>;

    /// Makes a provider the one of agents that name none.
    #[method(name = "default", param_kind = map, with_extensions)]
    async fn default(&self, name: String) -> RpcResult<Provider>;

    /// Asks a provider (the default one if none is named) a short question.
    #[method(name = "test", param_kind = map, with_extensions)]
    async fn test(&self, name: Option<String>) -> RpcResult<ProviderTest>;

    /// Closes the breakers of a provider: its next question is asked.
    #[method(name = "reset", param_kind = map, with_extensions)]
    async fn reset(&self, name: String) -> RpcResult<Provider>;
}

/// Routes.
#[rpc(server, client, namespace = "route", namespace_separator = ".")]
pub trait RouteRpc {
    /// All routes.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<Route>>;

    /// One route.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, name: String) -> RpcResult<Route>;
}
