//! News, as they happen.

use jsonrpsee::{core::SubscriptionResult, proc_macros::rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ErrorData;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number since pawd started, from 1 without gaps.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What, for example `action.waiting_approval`, `sandbox.ended`.
    pub event: String,
    /// The action, if it is about one.
    pub action: Option<String>,
    /// One line for people.
    pub text: String,
    /// The user whom it is told, by their user id, if it is for one: how a run of their job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
}

/// What an events subscription sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventItem {
    /// News.
    Event(Event),
    /// The reader was too slow, or asked for what is no longer kept: the stream ends here. `resume_after` is what to pass as `after`.
    Cut {
        /// The last number that was sent.
        resume_after: u64,
        /// The rest of the error.
        error: ErrorData,
    },
}

/// News.
#[rpc(server, client, namespace = "events", namespace_separator = ".")]
pub trait EventsRpc {
    /// News after number `after`, kept ones first (the last 1,024), then as they happen; only new ones if not given.
    #[subscription(name = "subscribe" => "event", unsubscribe = "unsubscribe", item = EventItem, param_kind = map, with_extensions)]
    async fn watch(&self, after: Option<u64>) -> SubscriptionResult;
}
