//! What a plan says that changes pawd itself, who answers and what is registered, or what a workspace has in it.
//!
//! Each says what holds when it is asked, too: an approval is for a change of that, and of nothing that came meanwhile.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    plan::Target,
    words::{Digest, Name},
};

/// Arguments of [`crate::Operation::ModelSwitch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchArguments {
    /// For which agent. Without one it is what the provider uses for who names no model.
    pub agent: Option<Name>,
    /// Who answers from then on.
    pub to: Target,
    /// Whether that is what the configuration says, to which the agent goes back.
    pub back: bool,
    /// Where that provider is. One that has moved since is another one.
    pub place: String,
    /// Who answers when this is asked. If it is somebody else by then, nothing is done.
    pub was: Option<Target>,
    /// Whether a model is taken that the provider does not list.
    pub unlisted: bool,
    /// How long it may take to be ready, in milliseconds.
    pub timeout_ms: u64,
}

/// Arguments of [`crate::Operation::SecretChange`]. The value is no part of it, and stands in no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretArguments {
    /// What is done.
    pub change: SecretChange,
    /// With which secret.
    pub secret: String,
    /// Who may use it from then on, or no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Which older version goes; without it all of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// How long the value before can still be used, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// A name that pawd gives to the value that goes with it, so that a yes to one value is none to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What is done with a secret. The words are those of the methods that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretChange {
    /// A value is kept under a new name.
    #[serde(rename = "secret.set")]
    Set,
    /// It gets another value.
    #[serde(rename = "secret.rotate")]
    Rotate,
    /// It is destroyed, or an older version of it.
    #[serde(rename = "secret.remove")]
    Remove,
    /// Somebody may use it.
    #[serde(rename = "secret.allow")]
    Allow,
    /// Somebody may use it no longer.
    #[serde(rename = "secret.deny")]
    Deny,
}

impl SecretChange {
    /// The word that stands for this change on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Set => "secret.set",
            Self::Rotate => "secret.rotate",
            Self::Remove => "secret.remove",
            Self::Allow => "secret.allow",
            Self::Deny => "secret.deny",
        }
    }
}

/// Arguments of [`crate::Operation::FileOperation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileArguments {
    /// What becomes of it.
    pub change: FileChange,
    /// Whose workspace it is: the name of the agent, or of a skill's own directory of one.
    pub workspace: Name,
    /// The sandbox that wrote it.
    pub layer: String,
    /// The host uid of whom all of it is; none where that is not known, or not one alone.
    pub owner: Option<u32>,
    /// Digest of every change of what waits. If it is another one by then, nothing is done. An undo has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Of an undo, the last commit when this is asked: what comes later is not taken back unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// How many changes it has; of an undo, how many commits are taken back.
    pub count: u32,
    /// Which, one line each: `A PATH`, `M PATH`, `D PATH`, or the sandbox of a commit. Of many, the first, and `and N more`.
    pub difference: Vec<String>,
}

/// What becomes of what a run wrote to a workspace. The words are those of the methods that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChange {
    /// It becomes part of the workspace.
    Commit,
    /// It is thrown away.
    Discard,
    /// It is taken back, with every commit after it.
    Undo,
}

impl FileChange {
    /// The word that stands for this change on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Discard => "discard",
            Self::Undo => "undo",
        }
    }
}

/// Arguments of [`crate::Operation::ConfigChange`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigArguments {
    /// What is done.
    pub change: ConfigChange,
    /// With which provider, budget or agent; of a model, with whose. What is read again is called `this`.
    pub name: Name,
    /// What is said of it; in a change, what is not said stays.
    pub spec: Map<String, Value>,
    /// Digest of what is registered of it when this is asked, of the files that would be read, or of where a model would come from; none
    /// where nothing is. If it is another one by then, nothing is done.
    pub replaces: Option<Digest>,
    /// How what is registered of it differs after that, one line for each key: `+` for what it gets, `-` for what it loses.
    pub difference: Vec<String>,
}

impl ConfigArguments {
    /// What it is about, as rules name it: of a model, `PROVIDER/MODEL`.
    #[must_use]
    pub fn about(&self) -> String {
        match self.change.subject() {
            Subject::Provider | Subject::Budget | Subject::Agent | Subject::Config => {
                self.name.to_string()
            }
            Subject::Model => {
                let model = self.spec.get("model").and_then(Value::as_str);
                format!("{}/{}", self.name, model.unwrap_or_default())
            }
        }
    }
}

/// What is done with what is registered. The words are those of the methods that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigChange {
    /// A new provider.
    #[serde(rename = "provider.add")]
    ProviderAdd,
    /// Another one in its place.
    #[serde(rename = "provider.edit")]
    ProviderEdit,
    /// None in its place.
    #[serde(rename = "provider.remove")]
    ProviderRemove,
    /// It answers for agents that name none.
    #[serde(rename = "provider.default")]
    ProviderDefault,
    /// A budget, new or in the place of one.
    #[serde(rename = "budget.set")]
    BudgetSet,
    /// It is none any more.
    #[serde(rename = "budget.remove")]
    BudgetRemove,
    /// A new agent.
    #[serde(rename = "agent.create")]
    AgentCreate,
    /// Another one in its place.
    #[serde(rename = "agent.edit")]
    AgentEdit,
    /// None in its place.
    #[serde(rename = "agent.remove")]
    AgentRemove,
    /// What root wrote is read again.
    #[serde(rename = "config.reload")]
    ConfigReload,
    /// A provider fetches a model, which it will run.
    #[serde(rename = "model.pull")]
    ModelPull,
}

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Whoever serves models.
    Provider,
    /// What may be spent.
    Budget,
    /// An assistant.
    Agent,
    /// All that root wrote.
    Config,
    /// What answers.
    Model,
}

impl Subject {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Budget => "budget",
            Self::Agent => "agent",
            Self::Config => "config",
            Self::Model => "model",
        }
    }
}

impl ConfigChange {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::ProviderAdd,
        Self::ProviderEdit,
        Self::ProviderRemove,
        Self::ProviderDefault,
        Self::BudgetSet,
        Self::BudgetRemove,
        Self::AgentCreate,
        Self::AgentEdit,
        Self::AgentRemove,
        Self::ConfigReload,
        Self::ModelPull,
    ];

    /// The word that stands for this change on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProviderAdd => "provider.add",
            Self::ProviderEdit => "provider.edit",
            Self::ProviderRemove => "provider.remove",
            Self::ProviderDefault => "provider.default",
            Self::BudgetSet => "budget.set",
            Self::BudgetRemove => "budget.remove",
            Self::AgentCreate => "agent.create",
            Self::AgentEdit => "agent.edit",
            Self::AgentRemove => "agent.remove",
            Self::ConfigReload => "config.reload",
            Self::ModelPull => "model.pull",
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn subject(self) -> Subject {
        match self {
            Self::ProviderAdd
            | Self::ProviderEdit
            | Self::ProviderRemove
            | Self::ProviderDefault => Subject::Provider,
            Self::BudgetSet | Self::BudgetRemove => Subject::Budget,
            Self::AgentCreate | Self::AgentEdit | Self::AgentRemove => Subject::Agent,
            Self::ConfigReload => Subject::Config,
            Self::ModelPull => Subject::Model,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_one_word() {
        for change in ConfigChange::ALL {
            let word = serde_json::to_value(change).unwrap();
            assert_eq!(word, change.as_str());
            let (subject, _) = change.as_str().split_once('.').unwrap();
            assert_eq!(change.subject().as_str(), subject);
        }
    }
}
