//! Budgets: what may be spent, and what was.

use std::fmt;

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What may be spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Budget {
    /// Its name.
    pub name: String,
    /// On questions to this provider alone.
    pub provider: Option<String>,
    /// On questions to this model alone.
    pub model: Option<String>,
    /// By this agent alone.
    pub agent: Option<String>,
    /// By this user alone.
    pub user: Option<String>,
    /// By what it is split, each of which has all of it: `provider`, `model`, `agent`, `user`, `session`.
    pub each: Vec<String>,
    /// `day`, `month` or `ever`.
    pub per: String,
    /// Cost that may be spent, in millionths of a US dollar.
    pub cost: Option<u64>,
    /// Tokens that may be spent.
    pub tokens: Option<u64>,
    /// The file that says so.
    pub file: String,
    /// Whether that is pawd's own: it was set by RPC, and can be changed so.
    pub registered: bool,
    /// When it begins anew, in milliseconds since 1970.
    pub again_at: Option<u64>,
    /// What was spent since it last began.
    pub spent: Vec<Spent>,
    /// Whether more was spent than is listed.
    pub more: bool,
}

/// What a budget is set to; in a change, what is not said stays. The same keys as `[budget.NAME]` in pawd.toml(5), with cost in millionths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetSpec {
    /// On questions to this provider alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// On questions to this model alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// By this agent alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// By this user alone: a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// By what it is split: `provider`, `model`, `agent`, `user`, `session`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<Vec<String>>,
    /// `day`, `month` or `ever`; a new one needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<String>,
    /// Cost that may be spent, in millionths of a US dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// Tokens that may be spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

/// What one part of a budget was spent on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Spent {
    /// Whose part it is, such as `agent=clerk,user=1000`; empty of a budget that is not split.
    pub of: String,
    /// Cost, in millionths of a US dollar.
    pub cost: u64,
    /// Tokens.
    pub tokens: u64,
    /// Cost that is set aside for questions that are being answered.
    pub reserved_cost: u64,
    /// Tokens that are set aside for questions that are being answered.
    pub reserved_tokens: u64,
}

/// An amount in millionths, for people: with as many digits as it needs, and at least two.
#[derive(Debug, Clone, Copy)]
pub struct Money(pub u64);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let digits = format!("{part:06}");
        let shown = digits.trim_end_matches('0');
        write!(f, "{whole}.{shown:0<2}")
    }
}

/// Budgets.
#[rpc(server, client, namespace = "budget", namespace_separator = ".")]
pub trait BudgetRpc {
    /// All budgets.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<Budget>>;

    /// One budget.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, name: String) -> RpcResult<Budget>;

    /// Registers a budget, or changes one that was registered; one that stands in a file of root's is changed there alone. What was spent
    /// of it stays spent.
    #[method(name = "set", param_kind = map, with_extensions)]
    async fn set(&self, name: String, spec: BudgetSpec) -> RpcResult<Budget>;

    /// Removes a budget that was registered; gives it as it was.
    #[method(name = "remove", param_kind = map, with_extensions)]
    async fn remove(&self, name: String) -> RpcResult<Budget>;
}

#[cfg(test)]
mod tests {
    use super::Money;

    #[test]
    fn money_has_the_digits_that_it_needs() {
        for (micros, text) in [
            (0, "0.00"),
            (1, "0.000001"),
            (500_000, "0.50"),
            (12_345_000, "12.345"),
            (u64::MAX, "18446744073709.551615"),
        ] {
            assert_eq!(Money(micros).to_string(), text);
        }
    }
}
