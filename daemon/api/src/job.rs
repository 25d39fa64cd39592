//! Jobs: what agents are told at set times.

#![allow(
    clippy::too_many_arguments,
    reason = "they are the members of a message, passed by name on the wire"
)]

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that an agent is told at set times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// UUID version 7.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// User id of its owner.
    pub owner: u32,
    /// Which agent is told.
    pub agent: String,
    /// What it is told.
    pub text: String,
    /// When: minute, hour, day of the month, month, day of the week, as in crontab(5).
    pub cron: String,
    /// In which time zone.
    pub tz: String,
    /// Whether a run begins beside one that goes on.
    pub overlap: bool,
    /// Whether one run makes up for all that was missed.
    pub catch_up: bool,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// When it is next due, in milliseconds since 1970; none if never again.
    pub next: Option<u64>,
    /// How its newest run came out: `running`, or as [`JobRun::outcome`]; none before the first.
    pub last: Option<String>,
    /// When that run was claimed, in milliseconds since 1970.
    pub last_at: Option<u64>,
    /// How many runs in a row came to no good end (`failed`, `timed_out`, `unknown`) up to now, of the last hundred; those that were skipped are not
    /// counted, and one that goes on changes nothing.
    #[serde(default)]
    pub failures: u32,
    /// Why the newest of those came out like that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobRun {
    /// Its number, from 0.
    pub seq: u64,
    /// When it was due, in milliseconds since 1970; none of one that a person asked for.
    pub due: Option<u64>,
    /// How many times it was due that it stands for.
    pub times: u64,
    /// When it was claimed, in milliseconds since 1970.
    pub at: u64,
    /// Its action.
    pub action: Option<String>,
    /// `ok`, `failed`, `timed_out`, `skipped` or `unknown`; none while it goes on.
    pub outcome: Option<String>,
    /// Why it came out like that, where that is not plain.
    pub note: Option<String>,
    /// When it ended, in milliseconds since 1970.
    pub ended: Option<u64>,
}

/// Jobs; callers see their own, administrators all. A job is named by its id, or one's own by its name.
#[rpc(server, client, namespace = "job", namespace_separator = ".")]
pub trait JobRpc {
    /// All jobs, oldest first.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<Job>>;

    /// Makes one. Without a name it is numbered, without an agent the default one is told; it does not overlap and does not catch up
    /// unless that is asked for.
    #[method(name = "add", param_kind = map, with_extensions)]
    async fn add(
        &self,
        cron: String,
        tz: String,
        text: String,
        name: Option<String>,
        agent: Option<String>,
        overlap: Option<bool>,
        catch_up: Option<bool>,
    ) -> RpcResult<Job>;

    /// Removes one with what is known of its runs. A run that goes on is not cancelled.
    #[method(name = "remove", param_kind = map, with_extensions)]
    async fn remove(&self, job: String) -> RpcResult<Job>;

    /// Begins a run now.
    #[method(name = "run", param_kind = map, with_extensions)]
    async fn run(&self, job: String) -> RpcResult<JobRun>;

    /// Its runs, newest first; the last hundred are kept.
    #[method(name = "history", param_kind = map, with_extensions)]
    async fn history(&self, job: String, limit: Option<u32>) -> RpcResult<Vec<JobRun>>;
}
