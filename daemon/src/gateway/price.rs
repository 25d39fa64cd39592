//! What an attempt costs: the price of its target and its tokens, as the provider counted them or as they are estimated. Pure.
//!
//! Amounts are millionths of a US dollar, rounded up: many small ones never come to nothing. What is configured for a target goes
//! before the list that ships; a provider on this host costs nothing unless the configuration says otherwise.

use paw_llm::{ChatRequest, Message, Part, ProviderKind, Usage};
use paw_policy::Target;

use crate::config::prices::{PriceSettings, Rates, listed};

/// Bytes of a text that make one token: fewer than the four of English prose, because code and other languages need more tokens,
/// and what is estimated too low is not in a budget.
const BYTES_PER_TOKEN: u64 = 3;

/// What each message has besides its text.
const TOKENS_PER_MESSAGE: u64 = 8;

/// What a picture counts: about what the largest that providers look at does.
const TOKENS_PER_IMAGE: u64 = 1_600;

/// The prices that hold.
#[derive(Debug, Clone, Copy)]
pub struct Prices<'a>(&'a PriceSettings);

/// The price of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// Whether it is its own; otherwise it is what is assumed of one that is not known.
    pub known: bool,
    /// What its tokens cost.
    pub rates: Rates,
}

/// Tokens of a question and its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the question.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
}

impl<'a> Prices<'a> {
    /// Those of a configuration.
    #[must_use]
    pub const fn new(settings: &'a PriceSettings) -> Self {
        Self(settings)
    }

    /// The price of a target, whose provider is of this kind and is `local` or not.
    #[must_use]
    pub fn of(&self, target: &Target, kind: ProviderKind, local: bool) -> Price {
        let free = || local.then(Rates::default);
        let own = self.0.of(target).or_else(free);
        let own = own.or_else(|| listed(kind, &target.model));
        Price {
            known: own.is_some(),
            rates: own.unwrap_or(self.0.unknown),
        }
    }
}

impl Price {
    /// What this usage costs, in millionths of a US dollar. What the provider did not tell is as `estimated`.
    #[must_use]
    pub fn cost(&self, usage: &Usage, estimated: Tokens) -> u64 {
        let input = usage.input_tokens.unwrap_or(estimated.input);
        let cached = usage.cached_tokens.unwrap_or(0).min(input);
        let output = usage.output_tokens.unwrap_or(estimated.output);
        let part = |tokens: u64, rate: u64| u128::from(tokens) * u128::from(rate);
        // Each product is below 2^128 / 3, because rates are at most 10^12; so nothing is lost before the end.
        let total = part(input - cached, self.rates.input)
            + part(cached, self.rates.cached)
            + part(output, self.rates.output);
        u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// Whether what [`Price::cost`] says of this usage is known, or a part of it is assumed.
    #[must_use]
    pub const fn is_exact(&self, usage: &Usage) -> bool {
        let rates = self.rates;
        let free = rates.input == 0 && rates.cached == 0 && rates.output == 0;
        let told = usage.input_tokens.is_some() && usage.output_tokens.is_some();
        self.known && (told || free)
    }
}

impl Tokens {
    /// Of a question, as they are estimated; none of an answer.
    #[must_use]
    pub fn of(request: &ChatRequest) -> Self {
        let messages = request.messages.iter().map(of_message);
        let tools = request.tools.iter().map(|tool| {
            let schema = tool.parameters.text().len();
            TOKENS_PER_MESSAGE + of_bytes(tool.name.len() + tool.description.len() + schema)
        });
        let schema = request.schema.iter().map(|it| {
            let schema = it.schema.to_string().len();
            TOKENS_PER_MESSAGE + of_bytes(schema)
        });
        Self {
            input: messages
                .chain(tools)
                .chain(schema)
                .fold(0, u64::saturating_add),
            output: 0,
        }
    }

    /// As the provider counted them, where it did.
    #[must_use]
    pub fn or_told(self, usage: &Usage) -> Self {
        Self {
            input: usage.input_tokens.unwrap_or(self.input),
            output: usage.output_tokens.unwrap_or(self.output),
        }
    }

    /// All of them.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// The same question, and an answer of this text.
    #[must_use]
    pub fn and_said(self, bytes: usize) -> Self {
        Self {
            output: of_bytes(bytes),
            ..self
        }
    }
}

fn of_message(message: &Message) -> u64 {
    let text = match message {
        Message::System(text) => of_bytes(text.len()),
        Message::User(parts) => parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => of_bytes(text.len()),
                Part::Image(_) => TOKENS_PER_IMAGE,
            })
            .fold(0, u64::saturating_add),
        Message::Assistant { text, calls } => calls.iter().fold(of_bytes(text.len()), |sum, it| {
            sum.saturating_add(of_bytes(it.name.len() + it.arguments.len()))
        }),
        Message::Tool(result) => of_bytes(result.text.len()),
    };
    text.saturating_add(TOKENS_PER_MESSAGE)
}

fn of_bytes(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(model: &str) -> Target {
        Target {
            provider: "p".parse().unwrap(),
            model: model.into(),
        }
    }

    fn settings(unknown: u64) -> PriceSettings {
        PriceSettings {
            unknown: Rates {
                input: unknown,
                cached: unknown,
                output: unknown,
            },
            ..PriceSettings::default()
        }
    }

    fn price(input: u64, cached: u64, output: u64) -> Price {
        Price {
            known: true,
            rates: Rates {
                input,
                cached,
                output,
            },
        }
    }

    fn usage(input: Option<u64>, cached: Option<u64>, output: Option<u64>) -> Usage {
        Usage {
            input_tokens: input,
            output_tokens: output,
            cached_tokens: cached,
            reasoning_tokens: None,
        }
    }

    #[test]
    fn list_says_what_a_model_costs_and_the_default_what_it_does_not_know() {
        let settings = settings(9);
        let prices = Prices::new(&settings);
        let known = prices.of(&target("gpt-4o-mini"), ProviderKind::OpenAi, false);
        assert_eq!(known, price(150_000, 75_000, 600_000));
        let unknown = prices.of(&target("secret"), ProviderKind::OpenAi, false);
        assert_eq!((unknown.known, unknown.rates.output), (false, 9));
        // The same name elsewhere is another offer.
        let other = prices.of(&target("gpt-4o-mini"), ProviderKind::Compatible, false);
        assert!(!other.known);
        let here = prices.of(&target("gpt-4o-mini"), ProviderKind::OpenAi, true);
        assert_eq!(here, price(0, 0, 0));
    }

    #[test]
    fn cached_tokens_have_their_own_price_and_parts_of_a_millionth_are_rounded_up() {
        let dear = price(2_000_000, 500_000, 8_000_000);
        for (usage, expected) in [
            (usage(Some(1_000), None, Some(100)), 2_800),
            (usage(Some(1_000), Some(1_000), Some(100)), 1_300),
            (usage(Some(1_000), Some(400), Some(0)), 1_400),
            // More cached than there is would cost less than nothing.
            (usage(Some(10), Some(1_000_000), Some(0)), 5),
            (usage(Some(0), None, Some(0)), 0),
            (usage(None, None, None), 2 * 7 + 8 * 3),
        ] {
            let estimated = Tokens {
                input: 7,
                output: 3,
            };
            assert_eq!(dear.cost(&usage, estimated), expected, "{usage:?}");
        }
        let cheap = price(1, 1, 1);
        assert_eq!(
            cheap.cost(&usage(Some(1), None, None), Tokens::default()),
            1
        );
    }

    #[test]
    fn estimate_grows_with_what_is_asked() {
        let request = |text: &str| ChatRequest::new("m", vec![Message::user(text)]);
        let (short, long) = (
            Tokens::of(&request("hi")),
            Tokens::of(&request("hi there, you")),
        );
        assert_eq!(
            short,
            Tokens {
                input: 9,
                output: 0
            }
        );
        assert_eq!(long.input, 13);
        assert_eq!(
            long.and_said(4),
            Tokens {
                input: 13,
                output: 2
            }
        );
    }

    proptest! {
        #[test]
        fn cost_is_never_too_low_and_never_falls_with_more_tokens(
            (input, cached, output) in (0..=1_000_000_000_000_u64, 0..=1_000_000_000_000_u64, 0..=1_000_000_000_000_u64),
            (asked, held, said) in (any::<u64>(), any::<u64>(), any::<u64>()),
        ) {
            let price = price(input, cached.min(input), output);
            let none = Tokens::default();
            let cost = price.cost(&usage(Some(asked), Some(held), Some(said)), none);
            let dearest = price.cost(&usage(Some(asked), None, Some(said)), none);
            prop_assert!(cost <= dearest);
            let less = price.cost(&usage(Some(asked / 2), Some(0), Some(said / 2)), none);
            prop_assert!(less <= dearest);
            // Exactly, and rounded up.
            let exact = u128::from(asked) * u128::from(input) + u128::from(said) * u128::from(output);
            let cost = u128::from(dearest);
            prop_assert!(dearest == u64::MAX || (cost * 1_000_000 >= exact && exact + 1_000_000 > cost * 1_000_000));
        }

        #[test]
        fn parts_cost_at_least_what_the_whole_does(
            rate in 0..=1_000_000_000_u64,
            parts in prop::collection::vec(0..=1_000_000_u64, 1..20),
        ) {
            let price = price(rate, rate, rate);
            let cost = |tokens| price.cost(&usage(Some(tokens), None, Some(0)), Tokens::default());
            let whole = cost(parts.iter().sum());
            let summed: u64 = parts.iter().map(|it| cost(*it)).sum();
            prop_assert!(summed >= whole && summed <= whole + parts.len() as u64);
        }
    }

    #[test]
    fn schema_of_an_answer_counts_as_a_part_of_the_question() {
        let plain = ChatRequest::new("m", vec![Message::user("hello")]);
        let schema = paw_llm::Schema {
            name: "answer".into(),
            schema: serde_json::json!({"description": "x".repeat(30_000)}),
        };
        let shaped = ChatRequest {
            schema: Some(schema),
            ..plain.clone()
        };
        assert!(Tokens::of(&shaped).input > Tokens::of(&plain).input + 10_000);
    }
}
