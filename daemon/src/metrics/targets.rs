//! What is counted of each model of each provider: attempts by how they ended, times, tokens, cost.
//!
//! There is a place for each model that the configuration names, and for each provider one for all the others, `other`. A reload takes
//! away the places of what is not configured any more; what was begun there counts among the others.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use paw_store::Attempt;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        histogram::Histogram,
    },
    registry::Unit,
};

use super::long;

/// The name of what has none of its own. A model or a provider that is really called so counts there, too.
const OTHER: &str = "other";

/// How an attempt ends: the kinds of errors of providers, and what is no error of one.
const OUTCOMES: [&str; 18] = [
    "ok",
    "auth",
    "bad_request",
    "cancelled",
    "content_filter",
    "context_length",
    "cut",
    "loading",
    "malformed",
    "not_found",
    "outrun",
    "overload",
    "quota",
    "rate",
    "timed_out",
    "too_large",
    "transport",
    OTHER,
];

/// All of them.
#[derive(Debug, Default)]
pub struct Targets(RwLock<BTreeMap<String, Models>>);

/// Those of one provider; one of them is `other`.
type Models = BTreeMap<String, Arc<Target>>;

/// What is counted of one.
#[derive(Debug, Default)]
pub struct Target {
    outcomes: [OnceLock<Outcome>; OUTCOMES.len()],
    first_token: OnceLock<Histogram>,
    retries: Counter,
    hedges: Counter,
    input: Counter,
    output: Counter,
    cached: Counter,
    /// Millionths of a US dollar.
    cost: Counter,
}

#[derive(Debug)]
struct Outcome {
    attempts: Counter,
    times: Histogram,
}

impl Targets {
    /// These are configured: a provider and a model of it.
    pub fn configure<'a>(&self, named: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut providers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *providers);
        for (provider, model) in named.chain([(OTHER, OTHER)]) {
            let was = before.get(provider);
            let now = providers.entry(provider.to_owned()).or_default();
            for model in [model, OTHER] {
                let target = || was.and_then(|was| was.get(model)).cloned();
                now.entry(model.to_owned())
                    .or_insert_with(|| target().unwrap_or_default());
            }
        }
    }

    /// Where this model of this provider is counted.
    #[must_use]
    pub fn of(&self, provider: &str, model: &str) -> Arc<Target> {
        let providers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let models = providers.get(provider).or_else(|| providers.get(OTHER));
        let target = models.and_then(|models| models.get(model).or_else(|| models.get(OTHER)));
        // Only before anything is configured is there none.
        target.cloned().unwrap_or_default()
    }

    /// An attempt ended, after so long.
    pub fn ended(&self, attempt: &Attempt, outcome: &str, took: Duration) {
        self.of(&attempt.provider, &attempt.model)
            .ended(attempt, outcome, took);
    }

    /// Every place, with its names.
    fn each(
        &self,
        metric: &mut MetricEncoder<'_>,
        write: impl Fn(&mut MetricEncoder<'_>, [(&str, &str); 2], &Target) -> fmt::Result,
    ) -> fmt::Result {
        let providers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (provider, models) in &*providers {
            for (model, target) in models {
                write(metric, [("provider", provider), ("model", model)], target)?;
            }
        }
        Ok(())
    }
}

impl Target {
    /// It is asked again by a question that it has failed.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// It is asked beside another one, whose answer is late to begin.
    pub fn hedged(&self) {
        self.hedges.inc();
    }

    fn ended(&self, attempt: &Attempt, outcome: &str, took: Duration) {
        let place = OUTCOMES.iter().position(|known| *known == outcome);
        let ended = self.outcomes[place.unwrap_or(OUTCOMES.len() - 1)].get_or_init(|| Outcome {
            attempts: Counter::default(),
            times: long(),
        });
        ended.attempts.inc();
        ended.times.observe(took.as_secs_f64());
        if let Some(ms) = attempt.first_token_ms {
            let times = self.first_token.get_or_init(long);
            times.observe(Duration::from_millis(ms).as_secs_f64());
        }
        for (counter, more) in [
            (&self.input, attempt.input_tokens),
            (&self.output, attempt.output_tokens),
            (&self.cached, attempt.cached_tokens),
            (&self.cost, attempt.cost_micros),
        ] {
            if let Some(more @ 1..) = more {
                counter.inc_by(more);
            }
        }
    }
}

/// What everybody may see.
#[derive(Debug)]
pub(super) struct Public(pub(super) Arc<Targets>);

impl Collector for Public {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seconds = Unit::Seconds;
        let mut attempts = encoder.encode_descriptor(
            "provider_attempts",
            "Attempts to have an answer that ended",
            None,
            MetricType::Counter,
        )?;
        self.0.each(&mut attempts, |metric, names, target| {
            target.each(|name, outcome| {
                let labels = [names[0], names[1], ("outcome", name)];
                outcome.attempts.encode(metric.encode_family(&labels)?)
            })
        })?;
        let mut times = encoder.encode_descriptor(
            "provider_attempt",
            "Time from the beginning of an attempt to its end",
            Some(&seconds),
            MetricType::Histogram,
        )?;
        self.0.each(&mut times, |metric, names, target| {
            target.each(|name, outcome| {
                let labels = [names[0], names[1], ("outcome", name)];
                outcome.times.encode(metric.encode_family(&labels)?)
            })
        })?;
        let mut first = encoder.encode_descriptor(
            "provider_first_token",
            "Time from the beginning of an attempt to the first piece of its answer",
            Some(&seconds),
            MetricType::Histogram,
        )?;
        self.0.each(&mut first, |metric, names, target| {
            target
                .first_token
                .get()
                .map_or(Ok(()), |times| times.encode(metric.encode_family(&names)?))
        })?;
        let mut retries = encoder.encode_descriptor(
            "provider_retries",
            "Attempts at a target that had failed the same question",
            None,
            MetricType::Counter,
        )?;
        self.0.each(&mut retries, |metric, names, target| {
            target.retries.encode(metric.encode_family(&names)?)
        })?;
        let mut hedges = encoder.encode_descriptor(
            "provider_hedges",
            "Attempts beside one whose answer was late to begin",
            None,
            MetricType::Counter,
        )?;
        self.0.each(&mut hedges, |metric, names, target| {
            target.hedges.encode(metric.encode_family(&names)?)
        })
    }
}

impl Target {
    fn each(&self, mut write: impl FnMut(&'static str, &Outcome) -> fmt::Result) -> fmt::Result {
        for (name, outcome) in OUTCOMES.iter().zip(&self.outcomes) {
            if let Some(outcome) = outcome.get() {
                write(name, outcome)?;
            }
        }
        Ok(())
    }
}

/// What an administrator may see.
#[derive(Debug)]
pub(super) struct Private(pub(super) Arc<Targets>);

impl Collector for Private {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut tokens = encoder.encode_descriptor(
            "provider_tokens",
            "Tokens that providers counted; cached ones are among those of the input",
            None,
            MetricType::Counter,
        )?;
        self.0.each(&mut tokens, |metric, names, target| {
            for (kind, counter) in [
                ("input", &target.input),
                ("output", &target.output),
                ("cached", &target.cached),
            ] {
                let labels = [names[0], names[1], ("kind", kind)];
                counter.encode(metric.encode_family(&labels)?)?;
            }
            Ok(())
        })?;
        let dollars = Unit::Other("dollars".to_owned());
        let mut cost = encoder.encode_descriptor(
            "provider_cost",
            "What attempts cost, as it is counted for budgets",
            Some(&dollars),
            MetricType::Counter,
        )?;
        self.0.each(&mut cost, |metric, names, target| {
            ConstCounter::new(target.cost.get() as f64 / 1e6).encode(metric.encode_family(&names)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(provider: &str, model: &str) -> Attempt {
        Attempt {
            provider: provider.into(),
            model: model.into(),
            input_tokens: Some(2),
            cost_micros: Some(1_500_000),
            ..Attempt::default()
        }
    }

    fn text(targets: &Arc<Targets>) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Public(Arc::clone(targets))));
        registry.register_collector(Box::new(Private(Arc::clone(targets))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn what_callers_name_makes_no_series() {
        let targets = Arc::<Targets>::default();
        targets.configure([("p", "m"), ("other", "n")].into_iter());
        for number in 0..100 {
            targets.ended(&attempt("p", &format!("m{number}")), "ok", Duration::ZERO);
            let unknown = attempt(&format!("p{number}"), "m");
            targets.ended(&unknown, "a new word", Duration::ZERO);
        }
        targets.ended(&attempt("p", "m"), "ok", Duration::from_millis(7));
        let text = text(&targets);
        let attempts: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("provider_attempts_total"))
            .collect();
        assert_eq!(
            attempts,
            [
                r#"provider_attempts_total{provider="other",model="other",outcome="other"} 100"#,
                r#"provider_attempts_total{provider="p",model="m",outcome="ok"} 1"#,
                r#"provider_attempts_total{provider="p",model="other",outcome="ok"} 100"#,
            ]
        );
        assert!(
            text.contains(r#"provider_cost_dollars_total{provider="p",model="m"} 1.5"#),
            "{text}"
        );
    }

    #[test]
    fn what_is_configured_still_goes_on_counting_and_the_rest_is_gone() {
        let targets = Arc::<Targets>::default();
        targets.configure([("p", "m"), ("q", "m")].into_iter());
        targets.ended(&attempt("p", "m"), "cut", Duration::ZERO);
        targets.ended(&attempt("q", "m"), "ok", Duration::ZERO);
        targets.configure([("p", "m"), ("p", "n")].into_iter());
        targets.ended(&attempt("q", "m"), "ok", Duration::ZERO);
        let text = text(&targets);
        for (line, there) in [
            (
                r#"provider_attempts_total{provider="p",model="m",outcome="cut"} 1"#,
                true,
            ),
            (
                r#"provider_attempts_total{provider="other",model="other",outcome="ok"} 1"#,
                true,
            ),
            (r#"provider="q""#, false),
        ] {
            assert_eq!(text.contains(line), there, "{line} in {text}");
        }
    }
}
