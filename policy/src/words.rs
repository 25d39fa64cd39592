//! The vocabulary: small closed types that every other crate uses and none extends.

use std::{collections::BTreeSet, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What kind of thing is asked of the system.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One turn of a conversation with a model.
    Chat,
    /// One call of one tool of one skill.
    ToolCall,
    /// Another model for new turns.
    ModelSwitch,
    /// A change to files outside a sandbox.
    FileOperation,
    /// A change of configuration.
    ConfigChange,
    /// A call to a service outside this host.
    ApiCall,
    /// A broker's use of a secret.
    SecretUse,
    /// A skill installed, enabled, changed or removed.
    SkillChange,
}

impl Kind {
    /// Every kind, in the order of the design.
    pub const ALL: [Self; 8] = [
        Self::Chat,
        Self::ToolCall,
        Self::ModelSwitch,
        Self::FileOperation,
        Self::ConfigChange,
        Self::ApiCall,
        Self::SecretUse,
        Self::SkillChange,
    ];

    /// The word that stands for this kind on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::ToolCall => "tool_call",
            Self::ModelSwitch => "model_switch",
            Self::FileOperation => "file_operation",
            Self::ConfigChange => "config_change",
            Self::ApiCall => "api_call",
            Self::SecretUse => "secret_use",
            Self::SkillChange => "skill_change",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownWord(text.to_owned()))
    }
}

/// A word that the vocabulary does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word {0:?}")]
pub struct UnknownWord(pub String);

/// Where an action stands.
///
/// ```text
/// queued ─┬─────────────────────► approved ─► executing ─┬─► completed
///         └─► waiting_approval ──┘   │                    ├─► failed
///               │      │             ▼                    ├─► timed_out
///               ▼      ▼         cancelled ◄──────────────┘
///           rejected expired
/// ```
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted and stored; not yet judged to the end.
    Queued,
    /// A person has to answer.
    WaitingApproval,
    /// Allowed, by policy or by a person; waits for a free place.
    Approved,
    /// Being done.
    Executing,
    /// Done; there is a result.
    Completed,
    /// Not done, or not known to be done; there is an error.
    Failed,
    /// Denied by policy or by a person.
    Rejected,
    /// Nobody answered in time.
    Expired,
    /// Taken back by who asked.
    Cancelled,
    /// Its deadline passed while it was being done.
    TimedOut,
}

impl State {
    /// Whether nothing can happen to the action any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::WaitingApproval | Self::Approved | Self::Executing => false,
            Self::Completed
            | Self::Failed
            | Self::Rejected
            | Self::Expired
            | Self::Cancelled
            | Self::TimedOut => true,
        }
    }

    /// The word that stands for this state on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::WaitingApproval => "waiting_approval",
            Self::Approved => "approved",
            Self::Executing => "executing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How much harm an action can do; computed in [`crate::judge`] alone, never taken from a caller.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Talk.
    Low,
    /// Reads.
    Medium,
    /// Writes, deletes, executes, sends.
    High,
    /// Changes what the system itself may do; and everything that is not known.
    Critical,
}

impl Risk {
    /// The word that stands for this risk on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where data came from.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Taint {
    /// An administrator of this host, over the control socket.
    Operator,
    /// A user of this host, over the control socket.
    User,
    /// A person or program behind a channel.
    Channel,
    /// A tool's result.
    Tool,
    /// A page or answer of some network host.
    Web,
    /// A model's output.
    Model,
    /// Whatever it came from, the screening found signs of an attack in it (rule R7).
    Suspicious,
    /// What is not for everybody: what an agent keeps, or what a tool gives back that its skill's manifest calls private (rule R1).
    Private,
    /// What stays on this host, whoever approves: what a tool gives back that its skill's manifest calls secret (rule R4).
    Secret,
}

impl Taint {
    /// The word that stands for this taint on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::User => "user",
            Self::Channel => "channel",
            Self::Tool => "tool",
            Self::Web => "web",
            Self::Model => "model",
            Self::Suspicious => "suspicious",
            Self::Private => "private",
            Self::Secret => "secret",
        }
    }

    /// Whether data of this origin must never by itself cause a high-risk effect.
    #[must_use]
    pub const fn is_untrusted(self) -> bool {
        match self {
            // How confidential something is says nothing of who wrote it.
            Self::Operator | Self::User | Self::Private | Self::Secret => false,
            Self::Channel | Self::Tool | Self::Web | Self::Model | Self::Suspicious => true,
        }
    }

    /// Whether data of this origin came from outside: from somebody who is neither a user of this host nor a model that read only what
    /// such users said (invariant 6). Signs of an attack count as that, whoever sent them.
    #[must_use]
    pub const fn is_foreign(self) -> bool {
        match self {
            Self::Operator | Self::User | Self::Model | Self::Private | Self::Secret => false,
            Self::Channel | Self::Tool | Self::Web | Self::Suspicious => true,
        }
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Every origin that some data has passed through; it only ever accumulates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TaintSet(BTreeSet<Taint>);

impl TaintSet {
    /// The set of one origin.
    #[must_use]
    pub fn of(taint: Taint) -> Self {
        Self(BTreeSet::from([taint]))
    }

    /// This set and another; there is no way to take a label off again.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self
    }

    /// The labels, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = Taint> + '_ {
        self.0.iter().copied()
    }

    /// Whether this label is among them.
    #[must_use]
    pub fn has(&self, taint: Taint) -> bool {
        self.0.contains(&taint)
    }

    /// Whether no label says who wrote the data.
    #[must_use]
    pub fn is_of_nobody(&self) -> bool {
        self.iter()
            .all(|label| matches!(label, Taint::Private | Taint::Secret))
    }

    /// Whether any label is untrusted. No origin at all is untrusted too: nobody vouches for the data.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        self.is_of_nobody() || self.iter().any(Taint::is_untrusted)
    }

    /// Whether any label is of outside, or nobody says where the data came from.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.is_of_nobody() || self.iter().any(Taint::is_foreign)
    }
}

/// What policy says to an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// May be done now.
    Allow,
    /// May be done when a person says so.
    Ask,
    /// May not be done.
    Deny,
}

impl Decision {
    /// The word that stands for this decision on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a caller may do, derived from the uid and groups that the kernel reports.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Own sessions and actions.
    User,
    /// Answers approvals.
    Approver,
    /// Everything.
    Admin,
}

impl Role {
    /// The word that stands for this role on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a tool can do, declared in its skill's manifest and pinned with it (rule R3).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ToolClass {
    /// Reads what anybody may read.
    ReadPublic,
    /// Reads the agent's workspace.
    ReadPrivate,
    /// Changes the workspace so that the change can be undone.
    WriteLocalReversible,
    /// Changes or removes for good.
    WriteDestructive,
    /// Sends something off this host.
    Egress,
    /// Pays, signs, or speaks in somebody's name.
    Money,
    /// Runs a command of the caller's choice.
    Exec,
    /// Changes the system itself.
    Admin,
}

impl ToolClass {
    /// The word that stands for this class on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadPublic => "read-public",
            Self::ReadPrivate => "read-private",
            Self::WriteLocalReversible => "write-local-reversible",
            Self::WriteDestructive => "write-destructive",
            Self::Egress => "egress",
            Self::Money => "money",
            Self::Exec => "exec",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for ToolClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits so that `sha256sum` can be compared with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest that was computed elsewhere, piece by piece.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let mut bytes = [0; 32];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(UnknownWord(text.chars().take(80).collect())),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(|_| {
            serde::de::Error::custom("not a SHA-256 digest: 64 hexadecimal digits are expected")
        })
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
    }
}

/// The name of an agent, skill, tool, provider or image: 1 to 64 of `a-z 0-9 - _ .`, beginning with a letter or digit.
///
/// It is safe as a file name, as a cgroup name and in a log line; `..` and hidden names cannot be written with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Name(#[schemars(regex(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$"))] String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name: 1 to 64 of a-z, 0-9, '-', '_', '.', beginning with a letter or digit"
)]
pub struct BadName(String);

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let first = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest = text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        });
        if first && rest && text.len() <= 64 && !text.contains("..") {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
