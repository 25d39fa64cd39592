//! The daemon itself: is it well, what does it run on, do as I say.

use std::collections::BTreeMap;

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use paw_policy::{Decision, Risk};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the system is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of pawd.
    pub version: String,
    /// Time since start, in milliseconds.
    pub uptime_ms: u64,
    /// Whether actions are taken.
    pub ready: bool,
    /// Every process of ours, with what confines it as the kernel says.
    pub processes: Vec<Process>,
    /// Sandboxes.
    pub sandboxes: SandboxCounts,
    /// Actions that are not final.
    pub queue: QueueCounts,
    /// Providers.
    pub providers: Vec<ProviderState>,
    /// The audit log.
    pub audit: AuditState,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
    /// Jobs of the caller, of an administrator all, whose last run came to no good end; those that failed most often first, at most a hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing_jobs: Vec<FailingJob>,
}

/// A job whose last run came to no good end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailingJob {
    /// UUID version 7.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// User id of its owner.
    pub owner: u32,
    /// How many runs in a row.
    pub failures: u32,
    /// How the last of them came out: `failed`, `timed_out` or `unknown`.
    pub outcome: String,
    /// When it was claimed, in milliseconds since 1970.
    pub at: u64,
    /// Why it came out like that.
    pub why: Option<String>,
}

/// One process of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Name of the program.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Its user id on the host.
    pub uid: u32,
    /// What confines it.
    pub confinement: Confinement,
    /// Resident memory, in bytes.
    pub rss: u64,
}

/// What confines a process, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Confinement {
    /// Effective capabilities, as 16 hexadecimal digits.
    pub caps_effective: String,
    /// Whether a program it starts could gain rights.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Landlock ABI whose rules bind it; 0 for none.
    pub landlock_abi: u32,
    /// Whether it is in a user namespace of its own.
    pub userns: bool,
}

/// Sandboxes, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxCounts {
    /// Running a command.
    pub running: u32,
    /// Made and waiting.
    pub pooled: u32,
}

/// Actions that are not final, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueCounts {
    /// Waiting for a free place.
    pub queued: u64,
    /// Being done.
    pub executing: u64,
    /// Waiting for a person.
    pub waiting_approval: u64,
}

/// A provider, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderState {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// `unknown`, `ready`, `loading` or `failing`.
    pub state: String,
}

/// The audit log, in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditState {
    /// Number of the newest record that was acknowledged to this pawd.
    pub seq: u64,
    /// Whether the writer answers; without it nothing that needs a record is done.
    pub writable: bool,
    /// Whether the log was verified since this pawd started; `pawctl audit verify` does that.
    pub verified: Option<bool>,
    /// How far its signed checkpoints have come on their way off this host; none where `egress.toml` says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessState>,
}

/// How far signed checkpoints of the audit log have come on their way off this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WitnessState {
    /// Where they go.
    pub sink: String,
    /// The last record that one is for which was sent since paw-egress began.
    pub sent: u64,
    /// How many records are signed beyond it.
    pub behind: u64,
    /// How many checkpoints wait.
    pub queued: u64,
    /// How many were left out because too many waited; a newer one tells all that they do.
    pub dropped: u64,
    /// Why the last try failed; nothing where it did not.
    pub error: Option<String>,
}

/// What `doctor` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doctor {
    /// Whether there is no error among the findings and every probe saw what it expected.
    pub ok: bool,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What was tried, when asked to prove.
    pub probes: Vec<Probe>,
}

/// One thing that an administrator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// For programs, for example `launcher.absent`.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What follows from it.
    pub effect: String,
    /// What to do.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Worse service or weaker protection.
    Warn,
    /// Something does not work.
    Error,
}

/// One hostile thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// What was tried.
    pub probe: String,
    /// In what: `pawd` or a runtime.
    pub runtime: String,
    /// What should happen.
    pub expected: String,
    /// What did.
    pub observed: String,
    /// Whether they agree.
    pub ok: bool,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Settings that took effect.
    pub changed: Vec<String>,
    /// Settings that wait for a restart.
    pub needs_restart: Vec<String>,
}

/// A rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// Its `@id`.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// Why policy said what it said to an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The action's id.
    pub id: String,
    /// One line that says what it does.
    pub summary: String,
    /// What policy said when it was submitted.
    pub decision: Decision,
    /// How risky, as policy computed.
    pub risk: Risk,
    /// Where the risk comes from.
    pub risk_because: String,
    /// Who asked.
    pub principal: crate::action::Caller,
    /// What the rules were told, by the names of the schema; times are those of the submission.
    pub facts: BTreeMap<String, Value>,
    /// The rules that decided, as they are in force now.
    pub rules: Vec<DecidingRule>,
    /// What the rules in force now say to the same action.
    pub now: crate::action::Verdict,
}

/// A rule that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DecidingRule {
    /// Its `@id`.
    pub id: String,
    /// `permit` or `forbid`; none when it is not in force any more.
    pub effect: Option<String>,
    /// Its `@reason`, where it has one.
    pub reason: Option<String>,
    /// Its text; none when it is not in force any more.
    pub text: Option<String>,
    /// Where it is: `FILE:LINE`.
    pub place: Option<String>,
}

/// What pawd has counted and timed of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// What the text is, as HTTP says it.
    pub content_type: String,
    /// OpenMetrics text, up to and with its `# EOF`. What tokens were used and what they cost is in it for administrators alone.
    pub text: String,
}

/// What a backup wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackedUp {
    /// The file, on pawd's host.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The daemon.
#[rpc(server, client, namespace = "system", namespace_separator = ".")]
pub trait SystemRpc {
    /// `"pong"`.
    #[method(name = "ping", param_kind = map)]
    fn ping(&self) -> RpcResult<String>;

    /// How the system is.
    #[method(name = "status", param_kind = map, with_extensions)]
    async fn status(&self) -> RpcResult<Status>;

    /// What is wrong and what to do; with `prove`, hostile probes are run and reported.
    #[method(name = "doctor", param_kind = map, with_extensions)]
    async fn doctor(&self, prove: Option<bool>) -> RpcResult<Doctor>;

    /// What pawd has counted and timed, for programs that collect that.
    #[method(name = "metrics", param_kind = map, with_extensions)]
    async fn metrics(&self) -> RpcResult<Metrics>;

    /// Who the kernel says the caller is, and the role that follows.
    #[method(name = "whoami", param_kind = map, with_extensions)]
    fn whoami(&self) -> RpcResult<crate::action::Caller>;

    /// Writes a consistent copy of the store to `path`, which must not exist and must be below the state directory's `backup`.
    #[method(name = "backup", param_kind = map, with_extensions)]
    async fn backup(&self, path: String) -> RpcResult<BackedUp>;
}

/// Configuration.
#[rpc(server, client, namespace = "config", namespace_separator = ".")]
pub trait ConfigRpc {
    /// What pawd runs on, defaults included, without secrets.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self) -> RpcResult<Value>;

    /// Reads the files again. A fault leaves everything as it is.
    #[method(name = "reload", param_kind = map, with_extensions)]
    async fn reload(&self) -> RpcResult<Reloaded>;
}

/// Policy.
#[rpc(server, client, namespace = "policy", namespace_separator = ".")]
pub trait PolicyRpc {
    /// The rules in force.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self) -> RpcResult<Vec<Rule>>;

    /// Which rules decided about an action, and by what facts. `id` may be any unique prefix.
    #[method(name = "explain", param_kind = map, with_extensions)]
    async fn explain(&self, id: String) -> RpcResult<Explanation>;

    /// Reads the rules again. A fault leaves those in force as they are, and says where it is.
    #[method(name = "reload", param_kind = map, with_extensions)]
    async fn reload(&self) -> RpcResult<Reloaded>;
}
