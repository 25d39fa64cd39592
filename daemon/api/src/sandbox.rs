//! Commands in sandboxes of their own.

use jsonrpsee::{
    core::{RpcResult, SubscriptionResult},
    proc_macros::rpc,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{egress::NetRule, error::ErrorData, workspace::RunLayer};

/// A way to make sandboxes, and whether its protection was seen to hold here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeInfo {
    /// `native`, `gvisor` or `kata`.
    pub name: String,
    /// `proven`, `unverified` or `absent`.
    pub state: String,
    /// Version of what is behind it.
    pub version: Option<String>,
    /// `process`, `kernel` or `vm`.
    pub isolation: String,
    /// Why it is in this state.
    pub reason: String,
}

/// A command and the sandbox it shall run in.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `auto`, `native`, `gvisor` or `kata`.
    #[serde(default)]
    pub runtime: Option<String>,
    /// `process`, `kernel` or `vm`: the weakest isolation that will do.
    #[serde(default)]
    pub isolation_floor: Option<String>,
    /// Name of an installed image, an absolute directory, or `host`; `base` if not given.
    #[serde(default)]
    pub image: Option<String>,
    /// Environment, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Absolute working directory; `/` if not given.
    #[serde(default)]
    pub workdir: Option<String>,
    /// The agent whose workspace is at `/workspace`; what is written there is a layer of its own that waits for a decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Mounts, `SRC:DST[:ro]`.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// CPU, in thousandths of one.
    #[serde(default)]
    pub cpu_milli: Option<u32>,
    /// Memory, in bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Temporary disk, in bytes.
    #[serde(default)]
    pub disk: Option<u64>,
    /// Processes and threads.
    #[serde(default)]
    pub pids: Option<u32>,
    /// Life of the sandbox, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Share of a disk that several want at once, 1 to 10000; 100 is the usual. Refused where the kernel cannot keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u16>,
    /// Bytes of output that are passed on; what comes after them is thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// What it may reach: `HOST:PORT` or `broker/NAME`, with what follows a comma; nothing if not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<NetRule>,
    /// Id of a running sandbox of the same user in which to run it, in place of one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Whether `sandbox.input` will follow; without it the command's stdin is empty.
    #[serde(default)]
    pub stdin: bool,
    /// The command gets a terminal of this size in place of pipes: all its output comes as `stdout`, and `TERM` is `xterm` unless
    /// the environment says otherwise. `sandbox.resize` gives it another size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Whether it goes on when who asked for it leaves: the subscription ends after `started`, and what the command says is in
    /// `sandbox.logs`. Not together with `stdin` or `terminal`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
    /// Whether the sandbox is made for this command alone, even if one waits for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
    /// Measures this many rounds: the command gets one JSON line at a time on its stdin and answers each by one line. Its output is
    /// not passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
}

/// The size of a terminal, in characters; each side is 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u32,
    /// Characters in a line.
    pub cols: u32,
}

/// How a command ended, and what the kernel said its sandbox was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// The sandbox.
    pub id: String,
    /// What made it.
    pub runtime: String,
    /// Exit code of the command, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// Whether its deadline passed.
    pub timed_out: bool,
    /// Whether output was cut at the bound.
    pub output_truncated: bool,
    /// Wall time of the sandbox, in milliseconds.
    pub wall_ms: u64,
    /// CPU time of the sandbox, in milliseconds.
    pub cpu_ms: u64,
    /// Most memory at any time, in bytes.
    pub memory_peak: u64,
    /// How often the process limit stopped a fork.
    pub pids_denied: u64,
    /// How many periods the CPU limit cut short.
    pub cpu_throttled: u64,
    /// Whether the sandbox had waited for its first command.
    #[serde(default)]
    pub pooled: bool,
    /// From the request for a sandbox to the first byte of output, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_output_us: Option<u64>,
    /// How long the rounds took, when `lines` were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Rounds>,
    /// What the kernel said it was: `{digest, facts}`.
    pub attestation: Value,
    /// What became of what it wrote to a workspace, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<RunLayer>,
    /// What it reached; nothing for one without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetUsage>,
}

/// Round trips of lines through a command that runs, as pawd saw them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rounds {
    /// How many there were.
    pub count: u32,
    /// Half of them took at most this long, in microseconds.
    pub p50_us: f64,
    /// Of a hundred, five took longer.
    pub p95_us: f64,
    /// Of a hundred, one took longer.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
    /// All of them together.
    pub total_us: f64,
}

/// What a sandbox may reach, and what it has done with that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetUsage {
    /// Its rules, those that a person added included.
    pub rules: Vec<NetRule>,
    /// Requests that were allowed.
    pub allowed: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Bytes that it sent.
    pub sent: u64,
    /// Bytes that it received.
    pub received: u64,
}

/// What a `sandbox.run` subscription sends. It ends with `ended` or `failed`, or with `started` where `detach` was asked for; a
/// stream without that was cut. A command whose stream was cut because pawd ended goes on where the launcher does not end with
/// it: `action.wait` gives its result, and `sandbox.logs` what it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RunEvent {
    /// Waits for a person.
    Waiting {
        /// The action.
        action_id: String,
    },
    /// The sandbox is made and attested, the command starts.
    Started {
        /// The action.
        action_id: String,
        /// The sandbox.
        id: String,
    },
    /// Bytes of its stdout, base64.
    Stdout {
        /// The bytes.
        data: String,
    },
    /// Bytes of its stderr, base64.
    Stderr {
        /// The bytes.
        data: String,
    },
    /// It ended.
    Ended(Box<RunResult>),
    /// It did not run, or its end is not known.
    Failed {
        /// What failed and why.
        message: String,
        /// The rest of the error.
        error: ErrorData,
    },
}

/// A running sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxInfo {
    /// Its id.
    pub id: String,
    /// What made it.
    pub runtime: String,
    /// Process id of its PID 1, as the host sees it.
    pub pid: u32,
    /// Its age, in milliseconds.
    pub age_ms: u64,
    /// Its memory limit, in bytes.
    pub memory: u64,
    /// Its process limit.
    pub pids: u32,
    /// Digest of its attestation.
    pub attestation: String,
    /// `running`, or `waiting` for its first command.
    #[serde(default)]
    pub state: String,
}

/// A sandbox of somebody's command, running or ended not long ago.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxDetail {
    /// Its id.
    pub id: String,
    /// `running` or `ended`.
    pub state: String,
    /// The action it belongs to.
    pub action_id: String,
    /// Host uid of who asked for it.
    pub owner: u32,
    /// What makes it.
    pub runtime: String,
    /// What was asked of the launcher: image, mounts, limits.
    pub plan: Value,
    /// What it has used.
    pub usage: Option<SandboxUsage>,
    /// How it ended: `{exit_code, signal, oom_killed, timed_out, killed}`; none while it runs.
    pub end: Option<Value>,
    /// What the kernel said it was: `{digest, facts}`.
    pub attestation: Value,
    /// What it reached; nothing for one without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetUsage>,
}

/// What a sandbox has used, as its cgroup counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxUsage {
    /// Which one.
    pub id: String,
    /// CPU time, in milliseconds.
    pub cpu_ms: u64,
    /// Most memory at any time, in bytes.
    pub memory_peak: u64,
    /// How often the process limit stopped a fork.
    pub pids_denied: u64,
    /// How many periods the CPU limit cut short.
    pub cpu_throttled: u64,
    /// Its age, in milliseconds.
    pub wall_ms: u64,
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxesForgotten {
    /// Sandboxes that had ended.
    pub sandboxes: u64,
    /// Bytes of what they had said.
    pub bytes: u64,
}

/// What a `sandbox.logs` subscription sends. It ends with `end`; a stream without it was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEvent {
    /// Bytes of its stdout, base64.
    Stdout {
        /// The bytes.
        data: String,
    },
    /// Bytes of its stderr, base64.
    Stderr {
        /// The bytes.
        data: String,
    },
    /// That is all: the sandbox has ended, or following was not asked for.
    End {
        /// Whether the sandbox still runs.
        running: bool,
    },
}

/// Sandboxes.
#[rpc(server, client, namespace = "sandbox", namespace_separator = ".")]
pub trait SandboxRpc {
    /// Which runtimes there are, and what was proven of them here.
    #[method(name = "runtimes", param_kind = map, with_extensions)]
    async fn runtimes(&self) -> RpcResult<Vec<RuntimeInfo>>;

    /// Runs a command in a sandbox of its own. Unsubscribing kills it.
    #[subscription(name = "run" => "output", unsubscribe = "abort", item = RunEvent, param_kind = map, with_extensions)]
    async fn run(&self, spec: RunSpec) -> SubscriptionResult;

    /// Bytes (base64, at most 64 KiB decoded) for the stdin of a command that the same user started with `stdin`; `end` closes it.
    /// `id` is that of its action, or of its sandbox where no other command takes input in that.
    #[method(name = "input", param_kind = map, with_extensions)]
    async fn input(&self, id: String, data: Option<String>, end: Option<bool>) -> RpcResult<bool>;

    /// Another size for the terminal of a command that the same user started with one; `id` is that of its action, or of its
    /// sandbox.
    #[method(name = "resize", param_kind = map, with_extensions)]
    async fn resize(&self, id: String, rows: u32, cols: u32) -> RpcResult<bool>;

    /// Running sandboxes.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<SandboxInfo>>;

    /// One sandbox of the caller's, running or ended not long ago.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, id: String) -> RpcResult<SandboxDetail>;

    /// What running sandboxes have used so far: one of the caller's, or, for an administrator, all.
    #[method(name = "stats", param_kind = map, with_extensions)]
    async fn stats(&self, id: Option<String>) -> RpcResult<Vec<SandboxUsage>>;

    /// The last of what a sandbox's command said, and with `follow` what it goes on to say.
    #[subscription(name = "logs" => "said", unsubscribe = "leave", item = LogEvent, param_kind = map, with_extensions)]
    async fn logs(&self, id: String, follow: Option<bool>) -> SubscriptionResult;

    /// Forgets sandboxes that have ended, and what they said.
    #[method(name = "gc", param_kind = map, with_extensions)]
    async fn gc(&self) -> RpcResult<SandboxesForgotten>;

    /// Kills every process of a sandbox.
    #[method(name = "kill", param_kind = map, with_extensions)]
    async fn kill(&self, id: String) -> RpcResult<bool>;
}
