//! Limits and budgets: how much may be asked in a minute, and what may be spent.

use std::collections::{BTreeMap, BTreeSet};

use paw_policy::Name;
use serde::Serialize;
use toml::Spanned;

use super::{
    AgentSettings, ProviderSettings,
    fault::Faults,
    file,
    layers::{Layers, bounded, read_value, reference},
    registered::MOST_BUDGETS,
    source::Source,
    value::{account, model, name},
};

/// The most of each kind. Every question looks at all of them, and what it spent of each, at each target, is stored with its end.
const MAX_NAMED: usize = 32;

/// The largest number of tokens or requests.
const MOST: u64 = 1_000_000_000_000;

/// The largest cost, in the currency of the prices.
const MOST_COST: f64 = 1_000_000_000.0;

/// Whom a limit or a budget is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scope {
    /// Questions to this provider.
    pub provider: Option<Name>,
    /// Questions to this model.
    pub model: Option<String>,
    /// Questions of this agent.
    pub agent: Option<Name>,
    /// Questions of this user: a name, or a number.
    pub user: Option<String>,
    /// By what it is split: each has all of it. Without a word all have it together.
    pub each: BTreeSet<Each>,
}

/// By what a limit or a budget is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Each {
    /// Each provider.
    Provider,
    /// Each model of each provider.
    Model,
    /// Each agent.
    Agent,
    /// Each user.
    User,
    /// Each conversation.
    Session,
}

impl Each {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Provider,
        Self::Model,
        Self::Agent,
        Self::User,
        Self::Session,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Agent => "agent",
            Self::User => "user",
            Self::Session => "session",
        }
    }
}

/// How much may be asked in a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitSettings {
    /// Of whom.
    pub scope: Scope,
    /// Attempts to have an answer.
    pub requests_per_minute: Option<u64>,
    /// Tokens of questions and answers.
    pub tokens_per_minute: Option<u64>,
}

/// What may be spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetSettings {
    /// By whom.
    pub scope: Scope,
    /// In which time.
    pub per: Period,
    /// Cost, in millionths of the currency of the prices.
    pub cost: Option<u64>,
    /// Tokens of questions and answers.
    pub tokens: Option<u64>,
    /// The file that says so.
    pub file: String,
    /// Whether that is the file of what was registered by RPC.
    pub registered: bool,
}

/// After which time a budget begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// Each day, by UTC.
    Day,
    /// Each month, by UTC.
    Month,
    /// Never.
    Ever,
}

impl Period {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Day, Self::Month, Self::Ever];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Ever => "ever",
        }
    }
}

/// What a scope may name.
pub(super) struct Known<'a> {
    pub(super) providers: &'a BTreeMap<Name, ProviderSettings>,
    pub(super) agents: &'a BTreeMap<Name, AgentSettings>,
}

pub(super) fn limits(
    layers: &Layers,
    known: &Known<'_>,
    faults: &mut Faults,
) -> BTreeMap<Name, LimitSettings> {
    let mut limits = BTreeMap::new();
    for (source, file) in &layers.0 {
        for (key, limit) in &file.limit {
            let Some(read) = read_value(source, key, &name, faults) else {
                continue;
            };
            let most = |value: &Spanned<u64>, faults: &mut Faults| {
                bounded(source, value, &(1..=MOST), faults)
            };
            let requests = limit.requests_per_minute.as_ref();
            let tokens = limit.tokens_per_minute.as_ref();
            if requests.is_none() && tokens.is_none() {
                let hint = "give requests_per_minute, tokens_per_minute, or both";
                faults.at(source, key.span(), "a limit that limits nothing", hint);
            }
            let settings = LimitSettings {
                scope: scope(source, limit.told(), known, faults),
                requests_per_minute: requests.map(|value| most(value, faults)),
                tokens_per_minute: tokens.map(|value| most(value, faults)),
            };
            add(
                &mut limits,
                (source, key),
                read,
                settings,
                (MAX_NAMED, faults),
            );
        }
    }
    limits
}

pub(super) fn budgets(
    layers: &Layers,
    known: &Known<'_>,
    faults: &mut Faults,
) -> BTreeMap<Name, BudgetSettings> {
    let mut budgets = BTreeMap::new();
    for (source, file) in &layers.0 {
        for (key, budget) in &file.budget {
            let Some(read) = read_value(source, key, &name, faults) else {
                continue;
            };
            if budget.cost.is_none() && budget.tokens.is_none() {
                let hint = "give cost, tokens, or both";
                faults.at(source, key.span(), "a budget that bounds nothing", hint);
            }
            let settings = BudgetSettings {
                scope: scope(source, budget.told(), known, faults),
                per: read_value(source, &budget.per, &period, faults).unwrap_or(Period::Ever),
                cost: budget
                    .cost
                    .as_ref()
                    .map(|value| micros(bounded(source, value, &(0.0..=MOST_COST), faults))),
                tokens: budget
                    .tokens
                    .as_ref()
                    .map(|value| bounded(source, value, &(0..=MOST), faults)),
                file: source.name.clone(),
                // Known to who reads what was registered.
                registered: false,
            };
            // Those that were registered take nothing away from root's.
            let most = MAX_NAMED + MOST_BUDGETS;
            add(&mut budgets, (source, key), read, settings, (most, faults));
        }
    }
    budgets
}

fn add<T>(
    all: &mut BTreeMap<Name, T>,
    (source, key): (&Source, &Spanned<String>),
    name: Name,
    settings: T,
    (most, faults): (usize, &mut Faults),
) {
    all.insert(name, settings);
    if all.len() == most + 1 {
        let hint = format!("at most {most}; `each` splits one of them");
        faults.at(source, key.span(), "too many of them", hint);
    }
}

/// A scope as a file says it.
struct Told<'a> {
    provider: Option<&'a Spanned<String>>,
    model: Option<&'a Spanned<String>>,
    agent: Option<&'a Spanned<String>>,
    user: Option<&'a Spanned<String>>,
    each: &'a [Spanned<String>],
}

impl file::Limit {
    fn told(&self) -> Told<'_> {
        Told {
            provider: self.provider.as_ref(),
            model: self.model.as_ref(),
            agent: self.agent.as_ref(),
            user: self.user.as_ref(),
            each: &self.each,
        }
    }
}

impl file::Budget {
    fn told(&self) -> Told<'_> {
        Told {
            provider: self.provider.as_ref(),
            model: self.model.as_ref(),
            agent: self.agent.as_ref(),
            user: self.user.as_ref(),
            each: &self.each,
        }
    }
}

fn scope(source: &Source, told: Told<'_>, known: &Known<'_>, faults: &mut Faults) -> Scope {
    let mut each = BTreeSet::new();
    for word in told.each {
        each.extend(read_value(source, word, &split_by, faults));
    }
    let mut text = |value: Option<&Spanned<String>>,
                    read: &dyn Fn(&str) -> Result<String, String>| {
        value.and_then(|value| read_value(source, value, &read, faults))
    };
    let (model, user) = (text(told.model, &model), text(told.user, &account));
    Scope {
        provider: told
            .provider
            .and_then(|value| reference(source, value, known.providers, "provider", faults)),
        model,
        agent: told
            .agent
            .and_then(|value| reference(source, value, known.agents, "agent", faults)),
        user,
        each,
    }
}

fn period(text: &str) -> Result<Period, String> {
    Period::ALL
        .into_iter()
        .find(|period| period.as_str() == text)
        .ok_or_else(|| "use day, month or ever".to_owned())
}

fn split_by(text: &str) -> Result<Each, String> {
    Each::ALL
        .into_iter()
        .find(|each| each.as_str() == text)
        .ok_or_else(|| "use provider, model, agent, user or session".to_owned())
}

/// Millionths, rounded to the nearest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 10^15, which was checked"
)]
fn micros(cost: f64) -> u64 {
    (cost * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Faults, check::check, quotas::Period, source::Source};

    fn read(text: &str) -> Result<Config, Faults> {
        let text = format!(
            "[provider.cloud]\nkind = \"openai\"\nbase_url = \"https://api.example.com/v1\"\nmodel = \"big\"\n{text}"
        );
        let source = Source {
            name: "pawd.toml".into(),
            text,
        };
        check(vec![source], None)
    }

    #[test]
    fn cost_is_read_in_millionths() {
        let config = read(
            "[budget.b]\nper = \"month\"\ncost = 0.000003\n[budget.c]\nper = \"day\"\ncost = 5\n",
        )
        .unwrap();
        let read: Vec<_> = config
            .budgets
            .values()
            .map(|it| (it.per, it.cost))
            .collect();
        assert_eq!(
            read,
            [(Period::Month, Some(3)), (Period::Day, Some(5_000_000))]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_a_fault_with_its_remedy() {
        for (text, word) in [
            ("[limit.l]\nprovider = \"cloud\"\n", "requests_per_minute"),
            ("[limit.l]\nrequests_per_minute = 0\n", "out of bounds"),
            (
                "[limit.l]\nrequests_per_minute = 1\neach = [\"planet\"]\n",
                "session",
            ),
            (
                "[limit.l]\nrequests_per_minute = 1\nprovider = \"moon\"\n",
                "configured are: cloud",
            ),
            (
                "[limit.l]\nrequests_per_minute = 1\nagent = \"moon\"\n",
                "configured are: default",
            ),
            (
                "[limit.l]\nrequests_per_minute = 1\nuser = \"a b\"\n",
                "a b",
            ),
            ("[budget.b]\nper = \"day\"\n", "bounds nothing"),
            ("[budget.b]\nper = \"week\"\ncost = 1\n", "month"),
            ("[budget.b]\nper = \"day\"\ncost = -1\n", "out of bounds"),
            ("[budget.b]\nper = \"day\"\ncost = nan\n", "out of bounds"),
        ] {
            let faults = read(text).unwrap_err().to_string();
            assert!(faults.contains(word), "{text}: {faults}");
        }
    }
}
