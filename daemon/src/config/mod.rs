//! Configuration: what the files say ([`file`]), whether it can be meant ([`check`]), and [`Config`], what pawd runs on.
//!
//! A [`Config`] cannot be wrong: whoever holds one need not check anything again. It knows no process and no socket.

mod actions;
mod agents;
pub mod check;
pub mod fault;
pub mod file;
mod layers;
pub mod prices;
pub mod quotas;
pub mod rates;
pub mod registered;
pub mod routes;
mod secret;
mod sessions;
pub mod source;
pub mod value;
mod warm;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use paw_api::egress::NetRule;
use paw_launch::{
    request::{Isolation, Limits},
    workspace::Settle,
};
use paw_llm::{ProviderKind, Timeouts};
use paw_policy::{Ceiling, Name, Rules, Target};
use serde::Serialize;

pub use actions::AtOnce;
pub use fault::{Fault, Faults};
pub use prices::PriceSettings;
pub use quotas::{BudgetSettings, LimitSettings};
pub use rates::RateSettings;
pub use routes::RouteSettings;
pub use secret::SecretName;
pub use sessions::SessionBounds;

/// What pawd runs on.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Least level of what is logged.
    pub log_level: String,
    /// Bounds of the control socket.
    pub rpc: RpcBounds,
    /// Groups of the host that give roles.
    pub roles: RoleGroups,
    /// Bounds of actions.
    pub actions: ActionBounds,
    /// How much of what was said is kept.
    pub sessions: SessionBounds,
    /// Users and what is demanded of the kernel.
    pub confinement: Confinement,
    /// Sandboxes that nobody says more about.
    pub sandbox: SandboxDefaults,
    /// Endpoints that serve models.
    pub providers: BTreeMap<Name, ProviderSettings>,
    /// Targets that stand in for each other.
    pub routes: BTreeMap<Name, RouteSettings>,
    /// What models cost.
    pub prices: PriceSettings,
    /// The one of agents that name none.
    pub default_provider: Option<Name>,
    /// The file of root's that says which one that is.
    pub default_fixed_in: Option<String>,
    /// Assistants; there is always one named `default`.
    pub agents: BTreeMap<Name, AgentSettings>,
    /// What those that were registered name and do not get.
    #[serde(skip)]
    pub strays: Vec<Stray>,
    /// How much may be asked in a minute.
    pub limits: BTreeMap<Name, LimitSettings>,
    /// What may be spent.
    pub budgets: BTreeMap<Name, BudgetSettings>,
    /// How often pawd may be called, and agents act, in a minute.
    pub rates: BTreeMap<Name, RateSettings>,
    /// Policy files, as (name, text) were read.
    #[serde(skip)]
    pub rules: Rules,
    /// Whether the shipped policy is used because there is no policy directory.
    pub shipped_policy: bool,
}

impl Config {
    /// Whether a provider, an agent or a route names this target.
    #[must_use]
    pub fn names(&self, target: &Target) -> bool {
        let Target { provider, model } = target;
        let own = self.providers.get(provider);
        let of_agent = |agent: &AgentSettings| {
            agent.provider.as_ref() == Some(provider) && agent.model.as_ref() == Some(model)
        };
        own.is_some_and(|own| own.model == *model)
            || self.agents.values().any(of_agent)
            || self
                .routes
                .values()
                .any(|route| route.targets.iter().any(|it| it.target == *target))
    }
}

/// Bounds of the control socket.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RpcBounds {
    /// Connections at once.
    pub connections: u32,
    /// Connections of one user at once.
    pub connections_per_user: u32,
    /// Requests per second of one user who is not root; 0 for no limit.
    pub requests_per_second: u32,
}

/// Names of the groups that give roles.
#[derive(Debug, Clone, Serialize)]
pub struct RoleGroups {
    /// Everything.
    pub admin: String,
    /// Answers approvals.
    pub approver: String,
    /// Own sessions and actions.
    pub user: String,
}

/// Bounds of actions.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ActionBounds {
    /// Being done at once.
    pub concurrency: u32,
    /// Of those, of each kind.
    pub at_once: AtOnce,
    /// What nobody waits for may have of the places, of those of its kind and of the line, in percent.
    pub background: u32,
    /// Waiting for a place at once.
    pub queue: u32,
    /// Waiting for a person at once.
    pub approvals: u32,
    /// How long a question waits.
    pub approval_expiry: Duration,
    /// How long a chat may take.
    pub chat_timeout: Duration,
    /// How long a tool call may take.
    pub tool_timeout: Duration,
    /// Finished ones kept.
    pub keep: u64,
    /// How long SIGTERM waits.
    pub drain: Duration,
}

/// Users, and what is demanded of the kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Confinement {
    /// User that pawd becomes.
    pub user: String,
    /// User that the launcher becomes.
    pub launcher_user: String,
    /// User that the audit writer becomes.
    pub audit_user: String,
    /// User that the egress broker becomes.
    pub egress_user: String,
    /// User that what speaks with a containerd shim becomes.
    pub shim_user: String,
    /// Least landlock ABI.
    pub landlock_floor: u32,
}

/// Sandboxes that nobody says more about.
#[derive(Debug, Clone, Serialize)]
pub struct SandboxDefaults {
    /// The weakest isolation that will do. What is asked for may be stronger.
    pub isolation_floor: Isolation,
    /// Image.
    pub image: Name,
    /// Limits.
    pub limits: Limits,
    /// Whether a runtime is used only after its probes have held.
    pub require_proof: bool,
    /// Bytes of a command's output that are passed on; what comes after them is thrown away.
    pub max_output: u64,
    /// Sandboxes that are made before anybody asks.
    pub pool: PoolBounds,
}

/// Bounds of what waits for its first command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PoolBounds {
    /// Sandboxes that wait or are being made; 0 for none.
    pub max: u32,
    /// Memory of them all, in bytes.
    pub memory: u64,
    /// How long one waits.
    pub idle: Duration,
}

/// An endpoint that serves models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderSettings {
    /// Which wire it speaks.
    #[serde(serialize_with = "as_debug")]
    pub kind: ProviderKind,
    /// Where it is.
    pub base_url: url::Url,
    /// Model used when none is named.
    pub model: String,
    /// Credential that holds its key.
    pub api_key_credential: Option<String>,
    /// Secret of the vault that is its key, had at each request; it has no credential then.
    pub api_key_secret: Option<SecretName>,
    /// Whether http may be spoken to another host.
    pub allow_plaintext: bool,
    /// How confidential what it is sent may be at most.
    pub may_receive: Ceiling,
    /// How often a question that failed for the moment is asked again.
    pub max_retries: u32,
    /// How often it is asked whether it is there.
    pub check_interval: Duration,
    /// Models that are made ready when pawd starts.
    pub warm: Vec<String>,
    /// Deadlines.
    #[serde(serialize_with = "as_debug")]
    pub timeouts: Timeouts,
    /// The file that says so.
    pub file: String,
    /// Whether that is the file of what was registered by RPC.
    pub registered: bool,
}

impl ProviderSettings {
    /// Whether it runs on this host, going by the address that it is configured with.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self.base_url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }
}

/// An assistant.
#[derive(Debug, Clone, Serialize)]
pub struct AgentSettings {
    /// What it is told before each conversation.
    pub instructions: String,
    /// Which provider answers for it; none while no provider is configured, and where a route does.
    pub provider: Option<Name>,
    /// With which model, if not the provider's.
    pub model: Option<String>,
    /// Which route answers for it.
    pub route: Option<Name>,
    /// The file that says who answers for it; without one, an administrator may say it.
    pub answerer_fixed_in: Option<String>,
    /// Whether an administrator said it.
    pub switched: bool,
    /// The weakest isolation that will do for its tools.
    pub isolation_floor: Isolation,
    /// What becomes of what its tools write to its workspace.
    pub workspace: Settle,
    /// Skills it may use; none means none.
    pub skills: Vec<Name>,
    /// Other agents that it may ask; each may do no more than it.
    pub agents: Vec<SubAgent>,
    /// What its sandboxes may reach at most; none means nothing.
    pub net: Vec<NetRule>,
    /// How often its model may call tools in one turn of a conversation; then it has to answer.
    pub max_turns: u32,
    /// Tokens of an answer at most.
    pub max_tokens: Option<u32>,
    /// How much chance is in an answer; the provider's own without it.
    pub temperature: Option<f32>,
    /// Whether what was said with a local provider may go to a cloud one.
    pub may_leave_host: bool,
    /// The file that says so; none where none does.
    pub file: Option<String>,
    /// Whether that is the file of what was registered by RPC.
    pub registered: bool,
}

/// What an agent that was registered names and does not get: root's files have become other ones since. It gets less for it, and never
/// more, and keeps no pawd from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Which agent.
    pub agent: Name,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// An agent that another one may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubAgent {
    /// Which.
    pub name: Name,
    /// What it is for: how its instructions begin.
    pub about: String,
}

impl AgentSettings {
    /// What another agent may do and this one may not, in words; nothing if there is none. Where what is said goes to is as for this
    /// one, neither wider nor narrower: what the other one keeps on this host would leave it with this one's next question.
    #[must_use]
    pub fn lacks(&self, other: &Self) -> Option<String> {
        if let Some(skill) = other.skills.iter().find(|it| !self.skills.contains(it)) {
            return Some(format!("skill {skill}"));
        }
        if let Some(rule) = self.beyond(&other.net) {
            return Some(format!("{rule} in its net"));
        }
        if other.isolation_floor < self.isolation_floor {
            return Some(format!("isolation_floor = \"{}\"", other.isolation_floor));
        }
        if other.workspace == Settle::Commit && self.workspace != Settle::Commit {
            return Some("workspace = \"commit\"".to_owned());
        }
        if other.may_leave_host != self.may_leave_host {
            return Some(format!("may_leave_host = {}", other.may_leave_host));
        }
        None
    }

    /// The first of these rules that goes beyond what its sandboxes may reach.
    #[must_use]
    pub fn beyond<'a>(&self, rules: &'a [NetRule]) -> Option<&'a NetRule> {
        rules
            .iter()
            .find(|rule| !self.net.iter().any(|most| most.covers(rule)))
    }
}

/// Where everything is, all of it below one root with `--root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Configuration.
    pub etc: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// pawd's own state.
    pub state: PathBuf,
    /// The launcher's state.
    pub launcher_state: PathBuf,
    /// The state of the launcher for virtual machines.
    pub kata_state: PathBuf,
    /// The audit writer's state.
    pub audit_state: PathBuf,
    /// Skills that were installed: ours, and read by the launcher.
    pub skills: PathBuf,
    /// The audit log.
    pub log: PathBuf,
    /// Our other programs.
    pub libexec: PathBuf,
    /// Images and skills that ship.
    pub data: PathBuf,
}

impl Paths {
    /// The paths of an installed pawd, or all of them below `root`. Programs and data are found beside our own program.
    #[must_use]
    pub fn new(root: Option<&std::path::Path>, program: &std::path::Path) -> Self {
        let prefix = program
            .parent()
            .and_then(std::path::Path::parent)
            .unwrap_or_else(|| std::path::Path::new("/usr"));
        let (libexec, data) = (prefix.join("libexec/pawd"), prefix.join("lib/pawd"));
        match root {
            Some(root) => Self {
                etc: root.join("etc"),
                run: root.join("run"),
                state: root.join("state"),
                launcher_state: root.join("launcher"),
                kata_state: root.join("launcher-kata"),
                audit_state: root.join("audit"),
                skills: root.join("skills"),
                log: root.join("log"),
                libexec,
                data,
            },
            None => Self {
                etc: "/etc/pawd".into(),
                run: "/run/pawd".into(),
                state: "/var/lib/pawd".into(),
                launcher_state: "/var/lib/paw-launcher".into(),
                kata_state: "/var/lib/paw-launcher-kata".into(),
                audit_state: "/var/lib/paw-audit".into(),
                skills: "/var/lib/paw-skills".into(),
                log: "/var/log/pawd".into(),
                libexec,
                data,
            },
        }
    }

    /// A socket of ours, by its short name.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.run.join(format!("{name}.sock"))
    }
}

fn as_debug<T: std::fmt::Debug, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{value:?}"))
}
