//! What a plan says that changes pawd itself: who answers, and what is registered.
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

/// Arguments of [`crate::Operation::ConfigChange`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigArguments {
    /// What is done.
    pub change: ConfigChange,
    /// With which provider, budget or agent.
    pub name: Name,
    /// What is said of it; in a change, what is not said stays.
    pub spec: Map<String, Value>,
    /// Digest of what is registered of it when this is asked; none where nothing is. If it is another one by then, nothing is done.
    pub replaces: Option<Digest>,
    /// How what is registered of it differs after that, one line for each key: `+` for what it gets, `-` for what it loses.
    pub difference: Vec<String>,
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
}

impl Subject {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Budget => "budget",
            Self::Agent => "agent",
        }
    }
}

impl ConfigChange {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::ProviderAdd,
        Self::ProviderEdit,
        Self::ProviderRemove,
        Self::ProviderDefault,
        Self::BudgetSet,
        Self::BudgetRemove,
        Self::AgentCreate,
        Self::AgentEdit,
        Self::AgentRemove,
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
