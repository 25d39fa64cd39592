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
    /// With which provider or budget.
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
}

impl ConfigChange {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::ProviderAdd,
        Self::ProviderEdit,
        Self::ProviderRemove,
        Self::ProviderDefault,
        Self::BudgetSet,
        Self::BudgetRemove,
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
        }
    }

    /// Whether it is about a budget; else it is about a provider.
    #[must_use]
    pub const fn is_of_budget(self) -> bool {
        match self {
            Self::ProviderAdd
            | Self::ProviderEdit
            | Self::ProviderRemove
            | Self::ProviderDefault => false,
            Self::BudgetSet | Self::BudgetRemove => true,
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
            assert_eq!(
                change.is_of_budget(),
                change.as_str().starts_with("budget.")
            );
        }
    }
}
