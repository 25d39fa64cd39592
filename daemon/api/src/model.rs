//! Models: which there are, and which one answers.

#![allow(
    clippy::too_many_arguments,
    reason = "they are the members of a message, passed by name on the wire"
)]

use jsonrpsee::{
    core::{RpcResult, SubscriptionResult},
    proc_macros::rpc,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::ErrorData, provider::Arms};

/// A model that a provider serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Which provider.
    pub provider: String,
    /// Its name there.
    pub name: String,
    /// Its size in bytes, where told.
    pub size: Option<u64>,
    /// Tokens of question and answer together that it can hold, where told.
    pub context: Option<u64>,
    /// Whether it can call tools, where told.
    pub tools: Option<bool>,
    /// Whether it can see pictures, where told.
    pub vision: Option<bool>,
    /// Whether it is in memory, where told.
    pub loaded: Option<bool>,
    /// Whether the provider is configured to use it when none is asked for.
    pub default: bool,
}

/// A model that was made ready: it is in memory, where its provider holds models, and has answered a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelWarmed {
    /// Which provider.
    pub provider: String,
    /// Which model.
    pub model: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Answerer {
    /// Which provider.
    pub provider: String,
    /// With which model.
    pub model: String,
}

/// A switch that is in force: questions that are asked from now on go there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelSwitched {
    /// For which agent; none where it is what the provider uses when no model is named.
    pub agent: Option<String>,
    /// Who answers now.
    #[serde(flatten)]
    pub now: Answerer,
    /// Who did before.
    pub was: Option<Answerer>,
    /// How long it took to make it ready, in milliseconds.
    pub ms: u64,
}

/// What a switch tells. It ends with `done` or `failed`; without either nobody knows what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SwitchEvent {
    /// A person has to approve it. Until then nothing is done; who unsubscribes takes it back.
    Waiting {
        /// The action.
        action_id: String,
    },
    /// What is being done; until `done`, nothing has changed.
    Progress {
        /// `looking`, `loading`, `asking` or `switching`.
        step: String,
        /// Who is made ready.
        #[serde(flatten)]
        target: Answerer,
    },
    /// It is in force, and kept over restarts.
    Done(ModelSwitched),
    /// Everything is as it was.
    Failed {
        /// What failed and why.
        message: String,
        /// The rest of the error.
        error: ErrorData,
    },
}

/// A model that a provider has fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelPulled {
    /// Which provider.
    pub provider: String,
    /// Which model.
    pub model: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// What a pull tells. It ends with `done` or `failed`; without either it was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PullEvent {
    /// How far it is. Who reads slowly is told the newest only.
    Progress {
        /// The provider's word for what it does.
        status: String,
        /// Bytes of the part that is being fetched that are there.
        completed: Option<u64>,
        /// Bytes of that part.
        total: Option<u64>,
    },
    /// The provider has it.
    Done(ModelPulled),
    /// It does not; what was fetched already stays with the provider, and is not fetched again.
    Failed {
        /// What failed and why.
        message: String,
        /// The rest of the error.
        error: ErrorData,
    },
}

/// Models.
#[rpc(server, client, namespace = "model", namespace_separator = ".")]
pub trait ModelRpc {
    /// Models of one provider, or of all that answer.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self, provider: Option<String>) -> RpcResult<Vec<Model>>;

    /// What became of the conversations that each arm of a route was given.
    #[method(name = "ab", param_kind = map, with_extensions)]
    async fn ab(&self, route: String) -> RpcResult<Arms>;

    /// What a provider (the default one if none is named) tells of one model.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, name: String, provider: Option<String>) -> RpcResult<Model>;

    /// Loads a model (the provider's, if none is named) and has it answer a short question, within `timeout_ms` (5 minutes).
    #[method(name = "warm", param_kind = map, with_extensions)]
    async fn warm(
        &self,
        model: Option<String>,
        provider: Option<String>,
        timeout_ms: Option<u64>,
    ) -> RpcResult<ModelWarmed>;

    /// Makes a model the one of an agent or, without one, that of a provider for all who name none. It has to answer within
    /// `timeout_ms` (5 minutes) before anything changes. Without a model, the agent goes back to what the configuration says. A model
    /// that the provider does not list is taken only if it is `unlisted`. Unsubscribing before it is done leaves all as it was.
    #[subscription(name = "switch" => "switching", unsubscribe = "leave", item = SwitchEvent, param_kind = map, with_extensions)]
    async fn switch(
        &self,
        model: Option<String>,
        provider: Option<String>,
        agent: Option<String>,
        unlisted: Option<bool>,
        timeout_ms: Option<u64>,
    ) -> SubscriptionResult;

    /// Has a provider (the default one if none is named) fetch a model. Unsubscribing ends it.
    #[subscription(name = "pull" => "pulling", unsubscribe = "abort", item = PullEvent, param_kind = map, with_extensions)]
    async fn pull(&self, model: String, provider: Option<String>) -> SubscriptionResult;
}
