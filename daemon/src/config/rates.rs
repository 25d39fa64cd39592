//! Rates: how often pawd may be called, and agents may act, in a minute.

use std::collections::{BTreeMap, BTreeSet};

use paw_policy::Name;
use serde::Serialize;
use toml::Spanned;

use super::{
    fault::Faults,
    file,
    layers::{Layers, bounded, read_value, reference},
    quotas::Known,
    source::Source,
    value::{account, name},
};

/// The most of them. Every call, or every action, looks at all of them.
const MAX_NAMED: usize = 32;

/// The largest number in a minute.
const MOST: u64 = 1_000_000_000;

/// How often something may be done in a minute, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateSettings {
    /// What is counted.
    pub of: Counted,
    /// Of this user: a name, or a number.
    pub user: Option<String>,
    /// By what it is split: each has all of it. Without a word all have it together.
    pub each: BTreeSet<By>,
    /// How many.
    pub per_minute: u64,
}

/// What a rate counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Calls, of this method alone if one is named.
    Calls(Option<String>),
    /// Actions, of this agent alone if one is named: what is asked for by calls, by models in their turns and by jobs.
    Actions(Option<Name>),
    /// Of those, the ones that a person is asked about.
    Questions(Option<Name>),
}

impl Counted {
    /// The word for them.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Calls(_) => "calls",
            Self::Actions(_) => "actions",
            Self::Questions(_) => "questions",
        }
    }
}

/// By what a rate is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Each method.
    Method,
    /// Each agent.
    Agent,
    /// Each user.
    User,
}

impl By {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Method, Self::Agent, Self::User];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Agent => "agent",
            Self::User => "user",
        }
    }
}

pub(super) fn rates(
    layers: &Layers,
    known: &Known<'_>,
    faults: &mut Faults,
) -> BTreeMap<Name, RateSettings> {
    let mut rates = BTreeMap::new();
    for (source, file) in &layers.0 {
        for (key, rate) in &file.rate {
            let Some(read) = read_value(source, key, &name, faults) else {
                continue;
            };
            if let Some(settings) = self::rate(source, (key, rate), known, faults) {
                rates.insert(read, settings);
            }
            if rates.len() == MAX_NAMED + 1 {
                let hint = format!("at most {MAX_NAMED}; `each` splits one of them");
                faults.at(source, key.span(), "too many of them", hint);
            }
        }
    }
    rates
}

fn rate(
    source: &Source,
    (key, rate): (&Spanned<String>, &file::Rate),
    known: &Known<'_>,
    faults: &mut Faults,
) -> Option<RateSettings> {
    let mut each = BTreeSet::new();
    for word in &rate.each {
        each.extend(read_value(source, word, &split_by, faults));
    }
    // What the other sort of thing has, and this one has not.
    let agent = |value| reference(source, value, known.agents, "agent", faults);
    let (of, value, foreign) = match (
        &rate.calls_per_minute,
        &rate.actions_per_minute,
        &rate.questions_per_minute,
    ) {
        (Some(value), None, None) => {
            let of = |value| read_value(source, value, &method, faults);
            let of = Counted::Calls(rate.method.as_ref().and_then(of));
            (of, value, (By::Agent, rate.agent.as_ref()))
        }
        (None, Some(value), None) => {
            let of = Counted::Actions(rate.agent.as_ref().and_then(agent));
            (of, value, (By::Method, rate.method.as_ref()))
        }
        (None, None, Some(value)) => {
            let of = Counted::Questions(rate.agent.as_ref().and_then(agent));
            (of, value, (By::Method, rate.method.as_ref()))
        }
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            let hint = "give one of them; two sections count two things";
            faults.at(source, key.span(), "a rate of more than one thing", hint);
            return None;
        }
        (None, None, None) => {
            let hint = "give calls_per_minute, actions_per_minute or questions_per_minute";
            faults.at(source, key.span(), "a rate that limits nothing", hint);
            return None;
        }
    };
    let (word, said) = foreign;
    if said.is_some() || each.contains(&word) {
        let (message, hint) = match word {
            By::Agent => (
                "a call is of no agent",
                "leave it out, or count actions_per_minute",
            ),
            By::Method | By::User => (
                "an action is of no method",
                "leave it out, or count calls_per_minute",
            ),
        };
        faults.at(source, key.span(), message, hint);
    }
    Some(RateSettings {
        of,
        user: rate
            .user
            .as_ref()
            .and_then(|value| read_value(source, value, &account, faults)),
        each,
        per_minute: bounded(source, value, &(1..=MOST), faults),
    })
}

fn method(text: &str) -> Result<String, String> {
    let known = paw_api::methods::TABLE.iter();
    known
        .map(|method| method.name)
        .find(|name| *name == text)
        .map(str::to_owned)
        .ok_or_else(|| "use a name that `pawctl rpc rpc.discover` lists, such as chat.send".into())
}

fn split_by(text: &str) -> Result<By, String> {
    By::ALL
        .into_iter()
        .find(|by| by.as_str() == text)
        .ok_or_else(|| "use method, agent or user".to_owned())
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Faults, check::check, source::Source};

    fn read(text: &str) -> Result<Config, Faults> {
        let source = Source {
            name: "pawd.toml".into(),
            text: text.into(),
        };
        check(vec![source], None)
    }

    #[test]
    fn what_can_be_meant_is_read() {
        let config = read(
            "[rate.a]\ncalls_per_minute = 60\nmethod = \"chat.send\"\neach = [\"user\"]\n\
             [rate.b]\nactions_per_minute = 6\nagent = \"default\"\n\
             [rate.c]\nquestions_per_minute = 6\nagent = \"default\"\neach = [\"agent\"]\n",
        );
        assert_eq!(config.unwrap().rates.len(), 3);
    }

    #[test]
    fn what_cannot_be_meant_is_a_fault_with_its_remedy() {
        let calls = "[rate.r]\ncalls_per_minute = 1\n";
        let actions = "[rate.r]\nactions_per_minute = 1\n";
        for (text, word) in [
            ("[rate.r]\nuser = \"ann\"\n".to_owned(), "calls_per_minute"),
            (format!("{calls}actions_per_minute = 1\n"), "two sections"),
            (
                format!("{actions}questions_per_minute = 1\n"),
                "two sections",
            ),
            (format!("{calls}questions_per_minute = 1\n"), "two sections"),
            ("[rate.r]\ncalls_per_minute = 0\n".into(), "out of bounds"),
            (format!("{calls}method = \"chat.shout\"\n"), "rpc.discover"),
            (
                format!("{calls}agent = \"default\"\n"),
                "actions_per_minute",
            ),
            (format!("{calls}each = [\"agent\"]\n"), "actions_per_minute"),
            (format!("{calls}each = [\"session\"]\n"), "agent or user"),
            (format!("{calls}user = \"a b\"\n"), "a b"),
            (format!("{actions}agent = \"moon\"\n"), "configured are"),
            (
                format!("{actions}method = \"chat.send\"\n"),
                "calls_per_minute",
            ),
            (
                format!("{actions}each = [\"method\"]\n"),
                "calls_per_minute",
            ),
            ("[rate.\"a b\"]\ncalls_per_minute = 1\n".into(), "a b"),
        ] {
            let faults = read(&text).unwrap_err().to_string();
            assert!(faults.contains(word), "{text}: {faults}");
        }
    }
}
