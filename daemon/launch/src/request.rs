//! The launcher's socket: one request, one reply, and events for what happens later.
//!
//! Every message is one packet of at most [`MAX_PACKET`] bytes. A request carries a `seq` that its reply repeats. Whatever
//! the launcher says on its own (a sandbox ended) carries none. pawd is believed nothing: each field is checked against the
//! launcher's own ceilings, and what pawd cannot choose (uid slot, cgroup, paths on the host) is not in here at all.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use paw_policy::{Digest, Name};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    image::ImageOrder,
    workspace::{Settle, WorkspaceRequest},
};

pub use crate::waiting::MemoryWatch;

/// The largest packet either side sends, in bytes; a larger one is refused, and nothing is allocated for it.
pub const MAX_PACKET: usize = 64 * 1024;

/// The version of this protocol; both sides say it first and part if it differs.
pub const VERSION: u32 = 2;

/// The most sandboxes in one [`Reply::Sandboxes`], so that it fits into a packet; a full one may have others after it.
pub const MAX_LISTED: usize = 100;

/// Names one sandbox for its whole life: 16 lower-case hexadecimal digits, chosen by pawd, unique or refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SandboxId(String);

impl SandboxId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a [`SandboxId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sandbox id: 16 of 0-9 a-f are expected")]
pub struct BadSandboxId(String);

impl FromStr for SandboxId {
    type Err = BadSandboxId;

    fn from_str(text: &str) -> Result<Self, BadSandboxId> {
        if text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadSandboxId(text.chars().take(40).collect()))
        }
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for SandboxId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What makes a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// libcontainer: namespaces, landlock, seccomp.
    Native,
    /// runsc: a kernel of its own in user space.
    Gvisor,
    /// A containerd shim v2 with a virtual machine.
    Kata,
}

impl Runtime {
    /// The word that stands for this runtime on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Gvisor => "gvisor",
            Self::Kata => "kata",
        }
    }
}

impl Runtime {
    /// All, the strongest last.
    pub const ALL: [Self; 3] = [Self::Native, Self::Gvisor, Self::Kata];

    /// What stands between a sandbox of it and the host at most; what it really is here, [`RuntimeState::isolation`] says.
    #[must_use]
    pub const fn isolation(self) -> Isolation {
        match self {
            Self::Native => Isolation::Process,
            Self::Gvisor => Isolation::Kernel,
            Self::Kata => Isolation::Vm,
        }
    }
}

/// What stands between a sandbox and the host; each is stronger than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The host's kernel answers every system call, behind namespaces, landlock and a filter.
    Process,
    /// A kernel of its own in user space answers them.
    Kernel,
    /// A virtual machine.
    Vm,
}

impl Isolation {
    /// All, the weakest first.
    pub const ALL: [Self; 3] = [Self::Process, Self::Kernel, Self::Vm];

    /// The word that stands for it on every wire and in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kernel => "kernel",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The root file system of a sandbox; always read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Image {
    /// An image that the host's administrator installed, by name.
    Named(Name),
    /// A directory below one of the launcher's image roots.
    Dir(PathBuf),
    /// A read-only view of the host's `/usr`, with nothing else of the host.
    Host,
}

/// A bind mount that the plan asks for; the launcher checks the source against its own allowed prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Where it appears inside: absolute, normalised, at most 255 bytes.
    pub target: PathBuf,
    /// Whether the sandbox may write to it.
    pub writable: bool,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A path on the host, beneath an allowed prefix.
    Path(PathBuf),
    /// The files of a skill that ships.
    Skill(Name),
    /// The files of a skill that was installed, by the digest of all of them. Never writable.
    Installed(Digest),
    /// An agent's workspace, made at first use. Mounted writable, it is a [`MountSource::Layer`] that is staged and nobody's.
    Workspace(Name),
    /// An agent's workspace, with a layer of this run's own over it.
    Layer {
        /// Whose workspace.
        workspace: Name,
        /// What becomes of the layer when nobody says it in time.
        then: Settle,
        /// The host uid of whom the run is; only kept, for pawd to ask who may decide.
        owner: Option<u32>,
    },
}

/// What a sandbox may use at most; each is checked against the launcher's ceilings, and read back from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// CPU time per second of wall time, in thousandths of one CPU.
    pub cpu_milli: u32,
    /// Memory without swap, in bytes.
    pub memory: u64,
    /// Size of each writable temporary file system, in bytes.
    pub disk: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Open files of one process.
    pub open_files: u32,
    /// Life of the sandbox from its start, in milliseconds of wall time.
    pub wall_ms: u64,
    /// Its share of a disk that several sandboxes want at once, 1 to 10000 where 100 is the usual. With a number, a kernel that
    /// cannot keep it is a refusal; without one the sandbox has the usual share, where the kernel knows shares at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u16>,
}

/// The plan of a sandbox: everything that the launcher is asked to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxPlan {
    /// Its name.
    pub id: SandboxId,
    /// What makes it.
    pub runtime: Runtime,
    /// Its root.
    pub image: Image,
    /// What else is mounted in it.
    pub mounts: Vec<Mount>,
    /// What it may use.
    pub limits: Limits,
    /// What must stand between it and the host at least. The launcher refuses what isolates less, so that nothing that changed
    /// between the choice of a runtime and its use is a silent fall.
    pub floor: Isolation,
}

/// What pawd asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The first message of a connection.
    Hello {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// Make a sandbox; answered by [`Reply::Created`] with two descriptors, paw-init's stdin (write end) and stdout (read
    /// end), once the sandbox is attested and before any command has run in it.
    Create(Box<SandboxPlan>),
    /// Kill every process of a sandbox. Its end is told by [`Event::Ended`].
    Kill {
        /// Which one.
        id: SandboxId,
    },
    /// Give the descriptors and the attestation of a running sandbox again, after a restart of pawd; or say how it has ended,
    /// which is remembered of the last ones.
    Attach {
        /// Which one.
        id: SandboxId,
    },
    /// What is running, the first [`MAX_LISTED`] by their ids.
    List,
    /// What a running sandbox has used so far.
    Stats {
        /// Which one.
        id: SandboxId,
    },
    /// Which runtimes there are.
    Runtimes,
    /// The launcher's own state, for `status`.
    Status,
    /// Images, by a job; answered by [`Reply::Done`] with what [`ImageOrder`] says.
    Image {
        /// What to do with them.
        order: ImageOrder,
    },
    /// What is running, the next [`MAX_LISTED`] after this id, which need not be there any more.
    ListAfter {
        /// The last one of the list before.
        id: SandboxId,
    },
    /// Make a sandbox that waits for its first command; answered as [`Request::Create`] is. It is killed when it has waited
    /// `idle_ms`, unless [`Request::Claim`] starts the deadline of its plan before.
    Prepare {
        /// The sandbox.
        plan: Box<SandboxPlan>,
        /// How long it may wait, in milliseconds from its attestation on.
        idle_ms: u64,
    },
    /// A waiting sandbox gets its first command: from now on it has the life that its plan says. Once for each.
    Claim {
        /// Which one.
        id: SandboxId,
    },
    /// Workspaces; answered by [`Reply::Done`] with an [`crate::workspace::Answer`].
    Workspaces {
        /// What about them.
        about: WorkspaceRequest,
    },
}

/// What the launcher answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// [`VERSION`] of the launcher.
        version: u32,
        /// Its process id as the host sees it.
        pid: u32,
    },
    /// To [`Request::Create`], [`Request::Prepare`] and [`Request::Attach`]; two descriptors come with it.
    Created {
        /// What the kernel says it is.
        attestation: Box<Attestation>,
    },
    /// To [`Request::Kill`].
    Killing,
    /// To [`Request::List`] and [`Request::ListAfter`].
    Sandboxes {
        /// In the order of their ids.
        sandboxes: Vec<SandboxSummary>,
    },
    /// To [`Request::Stats`].
    Stats(Usage),
    /// To [`Request::Runtimes`].
    Runtimes {
        /// All that the design knows, also those that are absent.
        runtimes: Vec<RuntimeState>,
    },
    /// To [`Request::Status`]; `/proc/self/status` as text, so that pawd shows what the kernel says.
    Status {
        /// Lines of `/proc/self/status`.
        proc_status: String,
        /// Landlock ABI of the kernel.
        landlock_abi: u32,
        /// Resident memory, in bytes.
        rss: u64,
        /// Running sandboxes, those that wait for their first command not counted.
        running: u32,
        /// Sandboxes that wait for their first command.
        #[serde(default)]
        waiting: u32,
        /// Process id of the doorkeeper, which stays outside the launcher's user namespace, as the host sees it.
        doorkeeper: u32,
        /// Limits that this kernel does not hold, in words.
        #[serde(default)]
        unheld: Vec<String>,
        /// How it learns that the host is short of memory.
        #[serde(default)]
        memory_watch: MemoryWatch,
    },
    /// To any request that was not done.
    Refused(Refusal),
    /// To [`Request::Attach`], when the sandbox has ended: what [`Event::Ended`] said to a pawd that is not there any more.
    Ended {
        /// How paw-init ended.
        end: End,
        /// What it used in all.
        usage: Usage,
    },
    /// To any request that a job works on; up to four descriptors may come with it.
    Done {
        /// In the words of that job.
        result: Value,
    },
    /// To [`Request::Claim`].
    Claimed,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people: what failed and why, every cause in it.
    pub message: String,
    /// For people: what to do about it.
    pub remedy: String,
}

/// The closed list of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The packet was not a request, or Hello was missing.
    Malformed,
    /// Beyond a ceiling of `launcher.toml`, or a path that no rule allows.
    Ceiling,
    /// The id is in use.
    Exists,
    /// No sandbox of this id.
    NotFound,
    /// The image, skill or mount source is not there.
    Missing,
    /// The runtime is not there or not usable here.
    Runtime,
    /// As many sandboxes as this launcher may have.
    Full,
    /// What the kernel shows is not what was asked; the sandbox was killed.
    Attestation,
    /// Making it failed at a step that should work.
    Failed,
    /// The kernel of this host cannot hold a limit that the plan demands.
    Unsupported,
    /// The host is short of memory, and this could do without.
    Memory,
}

/// What the launcher says unasked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A sandbox is gone: processes reaped, cgroup, mounts and directories removed.
    Ended {
        /// Which one.
        id: SandboxId,
        /// How paw-init ended.
        end: End,
        /// What it used in all.
        usage: Usage,
    },
}

/// How a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Exit code of paw-init, if it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended paw-init, if one did.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// Whether its deadline passed.
    pub timed_out: bool,
    /// Whether [`Request::Kill`] ended it.
    pub killed: bool,
}

/// What a sandbox used, as its cgroup counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Most memory at any time, in bytes; 0 where the kernel does not tell.
    pub memory_peak: u64,
    /// How often the process limit stopped a fork.
    pub pids_denied: u64,
    /// How many periods the CPU limit cut short.
    pub cpu_throttled: u64,
    /// Wall time from its start, or from its claim if it waited for one, in milliseconds.
    pub wall_ms: u64,
}

/// One line of [`Reply::Sandboxes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSummary {
    /// Which one.
    pub id: SandboxId,
    /// What made it.
    pub runtime: Runtime,
    /// Process id of paw-init as the host sees it.
    pub pid: u32,
    /// Its age, in milliseconds; of one that was claimed, the time since then.
    pub age_ms: u64,
    /// Its limits.
    pub limits: Limits,
    /// Its attestation's digest.
    pub attestation: Digest,
    /// Whether it waits for its first command.
    #[serde(default)]
    pub waiting: bool,
}

/// One line of [`Reply::Runtimes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeState {
    /// Which one.
    pub name: Runtime,
    /// Whether its protection was seen to hold here.
    pub state: ProofState,
    /// Version of the program or library behind it.
    pub version: Option<String>,
    /// Why it is in this state.
    pub reason: String,
    /// Digest of the program that makes its sandboxes.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// What stands between a sandbox of it and the host, here and now: a shim that is not Kata's makes no virtual machine.
    pub isolation: Isolation,
}

/// Whether a runtime's protection was seen to hold on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofState {
    /// A sandbox of it was made here and attested.
    Proven,
    /// It is there, and no sandbox of it was made yet.
    Unverified,
    /// It is not there.
    Absent,
}

/// What the kernel says a sandbox is, read from outside before the first command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Digest of the canonical JSON of everything below.
    pub digest: Digest,
    /// What was read.
    pub facts: Facts,
}

/// The facts of an [`Attestation`]. Field order is the canonical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Which sandbox.
    pub id: SandboxId,
    /// What made it.
    pub runtime: Runtime,
    /// Its version.
    pub runtime_version: String,
    /// Digest of the program that made it.
    pub runtime_digest: Digest,
    /// Digest of the paw-init binary that runs in it.
    pub init_digest: Digest,
    /// Digest of the image that its root is made of, see [`crate::tree`]: of one that was added, its address; of a shipped one, what it was
    /// when the launcher first used it. None for a directory of somebody's and for the host's own files, which change.
    pub root_digest: Option<Digest>,
    /// `Seccomp:` of paw-init, or of the kernel that it runs on; 2 is a filter. So are the next five.
    pub seccomp: u32,
    /// `NoNewPrivs:` of paw-init.
    pub no_new_privs: bool,
    /// `CapInh CapPrm CapEff CapBnd CapAmb` of paw-init, in this order, as hexadecimal text.
    pub capabilities: [String; 5],
    /// Host uid of paw-init.
    pub uid: u32,
    /// Host gid of paw-init.
    pub gid: u32,
    /// `uid_map` of paw-init: (inside, in the launcher's namespace, length).
    pub uid_map: Vec<(u32, u32, u32)>,
    /// Inode of each namespace; each differs from the launcher's.
    pub namespaces: BTreeMap<String, u64>,
    /// Path of each cgroup hierarchy that carries a limit, as paw-init's `/proc/PID/cgroup` says.
    pub cgroups: BTreeMap<String, String>,
    /// Limits as read back from the cgroup.
    pub limits: Limits,
    /// Mount points inside with their options, as paw-init's `mountinfo` says: `target fstype options`.
    pub mounts: Vec<String>,
    /// Network interfaces inside.
    pub interfaces: Vec<String>,
    /// Routes inside beside those of the loopback.
    pub routes: Vec<String>,
    /// Landlock ABI whose rules bind paw-init; 0 where the kernel has none.
    pub landlock_abi: u32,
    /// What the host cannot see of a sandbox of this runtime, in words; empty for native.
    pub unseen: Vec<String>,
    /// Limits that this kernel does not hold, in words.
    #[serde(default)]
    pub unheld: Vec<String>,
    /// What stands between it and the host, as far as the host can see: never more than was found out about this sandbox.
    pub isolation: Isolation,
}

/// A request with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// Repeated by the reply.
    pub seq: u64,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// Whatever the launcher sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// An answer.
    Reply {
        /// The request's number.
        seq: u64,
        /// What is answered.
        #[serde(flatten)]
        reply: Reply,
    },
    /// News.
    Event(Event),
}
