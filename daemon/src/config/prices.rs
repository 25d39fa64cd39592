//! Prices: what is configured of them, and the list that ships.

use std::{collections::BTreeMap, sync::LazyLock};

use paw_llm::ProviderKind;
use paw_policy::{Name, Target};
use serde::{Deserialize, Serialize};

use super::{
    ProviderSettings,
    fault::Faults,
    file,
    layers::{Layers, bounded},
    source::Source,
    value::MAX_MODEL,
};

/// The list that ships, as TOML.
pub const SHIPPED: &str = include_str!("../../prices.toml");

/// The most that can be configured: a dollar for each token.
const DEAREST: u64 = 1_000_000_000_000;

/// What is assumed of a model of which nothing is known. As dear as the dearest that we know of, so that no budget is passed by for
/// want of a price.
const UNKNOWN: Rates = Rates {
    input: 30_000_000,
    cached: 30_000_000,
    output: 180_000_000,
};

/// What tokens cost, in millionths of a US dollar for a million of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// Tokens of the question.
    pub input: u64,
    /// Of those, the ones that the provider had in its cache.
    pub cached: u64,
    /// Tokens of the answer.
    pub output: u64,
}

/// What is configured of prices.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PriceSettings {
    /// The day on which the list that ships was collected.
    pub collected: String,
    /// `[price."PROVIDER/MODEL"]`, by that name.
    pub configured: BTreeMap<Model, Rates>,
    /// What is assumed where no price is known.
    pub unknown: Rates,
}

/// Which model of which provider a price is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    provider: Name,
    /// Its name, or how the names begin.
    name: String,
    prefix: bool,
}

impl Serialize for Model {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let star = if self.prefix { "*" } else { "" };
        to.collect_str(&format_args!("{}/{}{star}", self.provider, self.name))
    }
}

impl PriceSettings {
    /// What is configured for a target; the longest name that fits it decides.
    #[must_use]
    pub fn of(&self, target: &Target) -> Option<Rates> {
        let fitting = self.configured.iter().filter(|(model, _)| {
            model.provider == target.provider
                && if model.prefix {
                    target.model.starts_with(&model.name)
                } else {
                    target.model == model.name
                }
        });
        // One without a star says more than one of the same length with it.
        let (_, rates) = fitting.max_by_key(|(model, _)| (model.name.len(), !model.prefix))?;
        Some(*rates)
    }
}

/// A price of the list that ships.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    kind: String,
    model: String,
    input: u64,
    cached: u64,
    output: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// The day on which it was collected.
    collected: String,
    price: Vec<Listed>,
}

static LIST: LazyLock<List> = LazyLock::new(|| {
    toml::from_str(SHIPPED).expect("the list is part of the program, and a test reads it")
});

/// What the list that ships says of a model of this kind of provider.
#[must_use]
pub fn listed(kind: ProviderKind, model: &str) -> Option<Rates> {
    let fitting = LIST
        .price
        .iter()
        .filter(|it| it.kind == kind.as_str() && is_release_of(model, &it.model));
    // A release may have a price of its own.
    let found = fitting.max_by_key(|it| it.model.len())?;
    Some(Rates {
        input: found.input,
        cached: found.cached,
        output: found.output,
    })
}

/// Whether this is that model, by its name or as one of its dated releases.
fn is_release_of(model: &str, name: &str) -> bool {
    let Some(rest) = model.strip_prefix(name) else {
        return false;
    };
    let date = |rest: &str| {
        let digits = rest.bytes().filter(u8::is_ascii_digit).count();
        digits == 8 && rest.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    };
    rest.is_empty() || rest == "-latest" || rest.strip_prefix('-').is_some_and(date)
}

pub(super) fn prices(
    layers: &Layers,
    known: &BTreeMap<Name, ProviderSettings>,
    faults: &mut Faults,
) -> PriceSettings {
    let mut configured = BTreeMap::new();
    for (source, file) in &layers.0 {
        for (key, price) in &file.price {
            let rates = rates(source, price, faults);
            match model(key.get_ref(), known) {
                Ok(model) => drop(configured.insert(model, rates)),
                Err((what, hint)) => faults.at(source, key.span(), what, hint),
            }
        }
    }
    let unknown = layers
        .last(|file| file.prices.as_ref()?.unknown.as_ref())
        .map_or(UNKNOWN, |(source, price)| {
            rates(source, price.get_ref(), faults)
        });
    PriceSettings {
        collected: LIST.collected.clone(),
        configured,
        unknown,
    }
}

fn rates(source: &Source, price: &file::Price, faults: &mut Faults) -> Rates {
    let mut rate = |value| bounded(source, value, &(0..=DEAREST), faults);
    let input = rate(&price.input);
    Rates {
        input,
        cached: price.cached.as_ref().map_or(input, &mut rate),
        output: rate(&price.output),
    }
}

/// Reads `PROVIDER/MODEL`; the first `/` divides them, because names of models have some, too.
fn model(text: &str, known: &BTreeMap<Name, ProviderSettings>) -> Result<Model, (String, String)> {
    let Some((provider, name)) = text.split_once('/') else {
        let hint = "write [price.\"PROVIDER/MODEL\"]; PROVIDER/* is for all of its models";
        return Err((format!("{text:?} names no provider and model"), hint.into()));
    };
    let Some(provider) = known.keys().find(|it| it.as_str() == provider) else {
        let names: Vec<_> = known.keys().map(Name::as_str).collect();
        let hint = match names.as_slice() {
            [] => format!("add a [provider.{provider}] section"),
            names => format!("configured are: {}", names.join(", ")),
        };
        return Err((format!("there is no provider {provider:?}"), hint));
    };
    let (name, prefix) = match name.strip_suffix('*') {
        Some(name) => (name, true),
        None => (name, false),
    };
    if name.len() > MAX_MODEL || name.contains(char::is_control) || (name.is_empty() && !prefix) {
        return Err((
            format!("{name:?} is no model"),
            format!("use 1 to {MAX_MODEL} bytes without control characters, or * for all"),
        ));
    }
    Ok(Model {
        provider: provider.clone(),
        name: name.to_owned(),
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, Faults, check::check, value::provider_kind};

    const PROVIDERS: &str = r#"
        [provider.cloud]
        kind = "openai"
        base_url = "https://api.example.com/v1"
        model = "big"
    "#;

    fn read(text: &str) -> Result<Config, Faults> {
        let source = Source {
            name: "pawd.toml".into(),
            text: format!("{PROVIDERS}\n{text}\n"),
        };
        check(vec![source], None)
    }

    fn of(config: &Config, model: &str) -> Option<u64> {
        let target = Target {
            provider: "cloud".parse().unwrap(),
            model: model.into(),
        };
        config.prices.of(&target).map(|rates| rates.input)
    }

    #[test]
    fn list_that_ships_can_be_read_and_each_model_has_one_price() {
        let collected: jiff::civil::Date = LIST.collected.parse().unwrap();
        assert!(collected >= jiff::civil::date(2026, 11, 26));
        for it in &LIST.price {
            assert!(provider_kind(&it.kind).is_ok(), "{it:?}");
            assert!(it.cached <= it.input && it.input <= it.output, "{it:?}");
            let same = LIST
                .price
                .iter()
                .filter(|other| (&other.kind, &other.model) == (&it.kind, &it.model));
            assert_eq!(same.count(), 1, "{it:?}");
        }
    }

    #[test]
    fn model_stands_for_its_dated_releases_and_for_no_other() {
        for (model, is) in [
            ("claude-haiku-4-5", true),
            ("claude-haiku-4-5-20251001", true),
            ("claude-haiku-4-5-2025-10-01", true),
            ("claude-haiku-4-5-latest", true),
            ("claude-haiku-4-5-5", false),
            ("claude-haiku-4-5-fast", false),
            ("claude-haiku-4", false),
        ] {
            let found = listed(ProviderKind::Anthropic, model);
            assert_eq!(found.is_some(), is, "{model}");
        }
        assert_eq!(listed(ProviderKind::Compatible, "claude-haiku-4-5"), None);
    }

    #[test]
    fn longest_name_that_fits_decides() {
        let config = read(
            r#"
            [price."cloud/*"]
            input = 1
            output = 1
            [price."cloud/big*"]
            input = 2
            output = 1
            [price."cloud/big"]
            input = 3
            output = 1
            [price."cloud/org/model"]
            input = 4
            output = 1
            "#,
        )
        .unwrap();
        for (model, expected) in [("small", 1), ("bigger", 2), ("big", 3), ("org/model", 4)] {
            assert_eq!(of(&config, model), Some(expected), "{model}");
        }
        assert_eq!(of(&read("").unwrap(), "big"), None);
    }

    #[test]
    fn price_without_one_for_the_cache_has_none_that_is_lower() {
        let config = read("[price.\"cloud/*\"]\ninput = 7\noutput = 9").unwrap();
        let rates = config.prices.configured.values().next().unwrap();
        assert_eq!((rates.input, rates.cached, rates.output), (7, 7, 9));
    }

    #[test]
    fn price_that_cannot_be_meant_is_a_fault() {
        for (text, says) in [
            (
                "[price.cloud]\ninput = 1\noutput = 1",
                "\"cloud\" names no provider and model",
            ),
            (
                "[price.\"clod/big\"]\ninput = 1\noutput = 1",
                "there is no provider \"clod\"",
            ),
            (
                "[price.\"cloud/\"]\ninput = 1\noutput = 1",
                "\"\" is no model",
            ),
            (
                "[price.\"cloud/big\"]\ninput = 1\noutput = 1_000_000_000_001",
                "1000000000001 is out of bounds",
            ),
            (
                "[prices]\nunknown = { input = 2_000_000_000_000, output = 1 }",
                "2000000000000 is out of bounds",
            ),
        ] {
            let faults = read(text).expect_err(text).0;
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert_eq!(faults[0].message, says);
            assert!(!faults[0].hint.is_empty());
        }
        // Half a price is none.
        assert!(read("[price.\"cloud/big\"]\ninput = 1").is_err());
    }

    proptest! {
        #[test]
        fn what_is_not_a_date_makes_no_release(rest in "[a-z0-9.-]{0,12}") {
            let is = is_release_of(&format!("gpt-5{rest}"), "gpt-5");
            let digits = rest.bytes().filter(u8::is_ascii_digit).count();
            prop_assert!(!is || rest.is_empty() || rest == "-latest" || digits == 8);
        }
    }
}
