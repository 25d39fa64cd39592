//! Reading and checking the audit log through pawd. The words between pawd and its writer are in [`crate::audit`].

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a verification saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// Whether the log is whole and unchanged.
    pub ok: bool,
    /// `ok`, `tampered`, `unverifiable` or `torn_tail`, in the order of pawctl's exit codes 0 to 3.
    pub state: String,
    /// Records read.
    pub records: u64,
    /// Signed checkpoints that fit.
    pub checkpoints: u64,
    /// Number of the first record that does not fit.
    pub first_bad_seq: Option<u64>,
    /// What is wrong with it: `modified`, `deleted`, `inserted`, `reordered`, `truncated`, …
    pub fault: Option<String>,
}

/// Which records are wanted; what is not said narrows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditFilter {
    /// Not before this time, in milliseconds since 1970.
    pub since: Option<u64>,
    /// Not after this time, in milliseconds since 1970.
    pub until: Option<u64>,
    /// Of what this user did.
    pub uid: Option<u32>,
    /// About this action.
    pub action: Option<String>,
    /// About this agent.
    pub agent: Option<String>,
    /// About actions of this kind.
    pub kind: Option<String>,
    /// Of this event.
    pub event: Option<String>,
    /// Of what ended so: `completed`, `failed`, `done`, …
    pub outcome: Option<String>,
}

/// Records that were found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// The records, newest first, exactly as they are stored.
    pub records: Vec<Value>,
    /// What to give as `before` to look further; none when everything was looked at.
    pub next: Option<u64>,
}

/// The audit log.
#[rpc(server, client, namespace = "audit", namespace_separator = ".")]
pub trait AuditRpc {
    /// Records, newest first, exactly as they are stored; `action` and `event` narrow it, `limit` at most 1000 (50 if not given). Fewer where
    /// they are longer than 4 MiB together: the last one's number as `before` gives the next ones.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(
        &self,
        action: Option<String>,
        event: Option<String>,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Value>>;

    /// Records that fit a filter, newest first, at most `limit` (1000; 50 if not given) and 4 MiB, and where to look further.
    #[method(name = "find", param_kind = map, with_extensions)]
    async fn find(
        &self,
        filter: AuditFilter,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<AuditPage>;

    /// Reads the whole log and checks chain and signatures.
    #[method(name = "verify", param_kind = map, with_extensions)]
    async fn verify(&self) -> RpcResult<Verification>;
}
