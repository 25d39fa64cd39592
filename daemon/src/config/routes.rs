//! Routes: several targets that stand in for each other, and what has to hold of them before one is taken.

use std::{collections::BTreeMap, time::Duration};

use paw_policy::{Name, Target};
use serde::Serialize;

use super::{
    ProviderSettings,
    fault::Faults,
    file,
    layers::{Layers, bounded, read_value, reference},
    source::Source,
    value::{duration, limit, model, name, size},
};

/// The most targets of one route. All of them are in the plan and may be in the record of an action.
const MAX_TARGETS: usize = 16;

/// How long the answer of a target of which too little is known may take to begin before a second one is asked.
const HEDGE_AFTER: Duration = Duration::from_secs(2);

/// Targets that stand in for each other.
#[derive(Debug, Clone, Serialize)]
pub struct RouteSettings {
    /// Who may answer; at least one.
    pub targets: Vec<RouteTarget>,
    /// Who is asked first.
    pub select: Select,
    /// Whether a question that a provider on this host did not answer may go to one elsewhere.
    pub may_leave_host: bool,
    /// What becomes of an answer that breaks off.
    pub on_break: OnBreak,
    /// Whether a second target is asked beside one whose answer is late to begin; how late that is while too little is known of it.
    pub hedge: Option<Duration>,
    /// Whether answers are kept for who asks the same again.
    pub cache: Option<CacheSettings>,
}

/// Bounds of the answers that a route keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheSettings {
    /// How long one is kept.
    pub age: Duration,
    /// Bytes of all of them.
    pub size: u64,
}

/// One target of a route.
#[derive(Debug, Clone, Serialize)]
pub struct RouteTarget {
    /// Who is asked, with which model.
    #[serde(flatten)]
    pub target: Target,
    /// Its share of the questions, where the route has shares.
    pub weight: u32,
    /// Tokens that it can hold, where that is known.
    pub context: Option<u64>,
    /// Whether it can call tools, where that is known.
    pub tools: Option<bool>,
    /// Whether it can see pictures, where that is known.
    pub vision: Option<bool>,
}

/// Which target of a route is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The first one.
    Order,
    /// One that is drawn by weight.
    Weight,
    /// The one whose answers begin soonest, as far as is known.
    Latency,
    /// The one that costs least, as far as is known.
    Cost,
    /// The first one that can answer such a question, as far as is known.
    Capability,
    /// One that is drawn by weight for each conversation, and stays the same in it.
    Ab,
}

impl Select {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Order,
        Self::Weight,
        Self::Latency,
        Self::Cost,
        Self::Capability,
        Self::Ab,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Weight => "weight",
            Self::Latency => "latency",
            Self::Cost => "cost",
            Self::Capability => "capability",
            Self::Ab => "ab",
        }
    }

    /// Whether each target has a share of the questions.
    #[must_use]
    pub const fn has_weights(self) -> bool {
        matches!(self, Self::Weight | Self::Ab)
    }

    /// Whether the targets are asked as they are listed.
    #[must_use]
    pub const fn is_as_listed(self) -> bool {
        matches!(self, Self::Order | Self::Capability)
    }
}

/// What becomes of an answer that breaks off in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBreak {
    /// It begins again at the next target.
    Restart,
    /// The question has failed.
    Fail,
}

impl RouteSettings {
    /// Tokens that a target can hold, where that is known.
    #[must_use]
    pub fn context(&self, target: &Target) -> Option<u64> {
        self.targets
            .iter()
            .find(|known| known.target == *target)?
            .context
    }
}

pub(super) fn routes(
    layers: &Layers,
    known: &BTreeMap<Name, ProviderSettings>,
    faults: &mut Faults,
) -> BTreeMap<Name, RouteSettings> {
    let mut routes = BTreeMap::new();
    for (source, file) in &layers.0 {
        for (key, route) in &file.route {
            let Some(key) = read_value(source, key, &name, faults) else {
                continue;
            };
            routes.insert(key, self::route(source, route, known, faults));
        }
    }
    routes
}

fn route(
    source: &Source,
    route: &file::Route,
    known: &BTreeMap<Name, ProviderSettings>,
    faults: &mut Faults,
) -> RouteSettings {
    let select = route
        .select
        .as_ref()
        .and_then(|value| read_value(source, value, &select, faults))
        .unwrap_or(Select::Order);
    let on_break = route
        .on_break
        .as_ref()
        .and_then(|value| read_value(source, value, &on_break, faults))
        .unwrap_or(OnBreak::Restart);
    let may_leave_host = route.may_leave_host.unwrap_or(false);
    let listed = route.targets.get_ref();
    if !(1..=MAX_TARGETS).contains(&listed.len()) {
        faults.at(
            source,
            route.targets.span(),
            format!("a route of {} targets", listed.len()),
            format!("list 1 to {MAX_TARGETS}"),
        );
    }
    let mut targets: Vec<RouteTarget> = Vec::new();
    let mut stays = false;
    for entry in listed {
        let Some(read) = target(source, entry, select, known, faults) else {
            continue;
        };
        let place = entry.provider.span();
        if targets.iter().any(|other| other.target == read.target) {
            let hint = "list each pair of provider and model once";
            faults.at(source, place.clone(), "this target is listed twice", hint);
        }
        let local = known
            .get(&read.target.provider)
            .is_some_and(ProviderSettings::is_local);
        // Otherwise another one may come first each time; then it is held to when the order is made.
        if select.is_as_listed() && stays && !local && !may_leave_host {
            let hint = "list it before those on this host, leave it out, or set may_leave_host = true for the route";
            faults.at(
                source,
                place,
                "what a provider on this host was asked would leave it",
                hint,
            );
        }
        stays |= local;
        targets.push(read);
    }
    if select.has_weights() && !targets.is_empty() && targets.iter().all(|it| it.weight == 0) {
        let hint = "give at least one target a weight above 0";
        faults.at(source, route.targets.span(), "no target has a weight", hint);
    }
    RouteSettings {
        targets,
        select,
        may_leave_host,
        on_break,
        hedge: hedge(source, route, faults),
        cache: route.cache.as_ref().map(|it| cache(source, it, faults)),
    }
}

fn cache(source: &Source, cache: &file::Cache, faults: &mut Faults) -> CacheSettings {
    let bounded = |text: &str| {
        size(text).and_then(|bytes| {
            if (64 << 10..=1 << 30).contains(&bytes) {
                Ok(bytes)
            } else {
                Err("use a size between \"64K\" and \"1G\"".into())
            }
        })
    };
    CacheSettings {
        age: cache
            .age
            .as_ref()
            .and_then(|value| read_value(source, value, &duration, faults))
            .unwrap_or(Duration::from_secs(3_600)),
        size: cache
            .size
            .as_ref()
            .and_then(|value| read_value(source, value, &bounded, faults))
            .unwrap_or(16 << 20),
    }
}

fn hedge(source: &Source, route: &file::Route, faults: &mut Faults) -> Option<Duration> {
    let hedges = route.hedge.as_ref().filter(|it| *it.get_ref());
    let after = route
        .hedge_after
        .as_ref()
        .and_then(|value| read_value(source, value, &limit, faults));
    match (hedges, &route.hedge_after) {
        (None, Some(value)) => {
            let hint = "write hedge = true for the route, or leave hedge_after out";
            let what = "a time to hedge after in a route that does not";
            faults.at(source, value.span(), what, hint);
        }
        (Some(value), _) if route.targets.get_ref().len() < 2 => {
            let hint = "list another target, or leave hedge out";
            let what = "a route that hedges with one target";
            faults.at(source, value.span(), what, hint);
        }
        (None | Some(_), _) => {}
    }
    hedges.map(|_| after.unwrap_or(HEDGE_AFTER))
}

fn target(
    source: &Source,
    entry: &file::Target,
    by: Select,
    known: &BTreeMap<Name, ProviderSettings>,
    faults: &mut Faults,
) -> Option<RouteTarget> {
    let provider = reference(source, &entry.provider, known, "provider", faults);
    let model = match &entry.model {
        Some(value) => read_value(source, value, &model, faults),
        None => provider
            .as_ref()
            .and_then(|name| Some(known.get(name)?.model.clone())),
    };
    if let Some(weight) = entry.weight.as_ref().filter(|_| !by.has_weights()) {
        let hint = "write select = \"weight\" or \"ab\" for the route, or leave the weight out";
        let what = format!("a weight in a route that goes by {}", by.as_str());
        faults.at(source, weight.span(), what, hint);
    }
    let weight = entry
        .weight
        .as_ref()
        .map_or(1, |value| bounded(source, value, &(0..=1_000_000), faults));
    let context = entry
        .context
        .as_ref()
        .map(|value| bounded(source, value, &(1..=1_000_000_000), faults));
    Some(RouteTarget {
        target: Target {
            provider: provider?,
            model: model?,
        },
        weight,
        context,
        tools: entry.tools,
        vision: entry.vision,
    })
}

fn select(text: &str) -> Result<Select, String> {
    let known = Select::ALL.into_iter().find(|it| it.as_str() == text);
    known.ok_or_else(|| {
        let words: Vec<&str> = Select::ALL.iter().map(|it| it.as_str()).collect();
        format!("use one of {}", words.join(", "))
    })
}

fn on_break(text: &str) -> Result<OnBreak, String> {
    match text {
        "restart" => Ok(OnBreak::Restart),
        "fail" => Ok(OnBreak::Fail),
        _ => Err("use restart, or fail".into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Faults, check::check, source::Source};

    const PROVIDERS: &str = r#"
        [provider.cloud]
        kind = "openai"
        base_url = "https://api.example.com/v1"
        model = "big"
        [provider.local]
        kind = "ollama"
        base_url = "http://127.0.0.1:11434"
        model = "small"
    "#;

    fn read(route: &str) -> Result<Config, Faults> {
        let text = format!("{PROVIDERS}\n[route.main]\n{route}\n");
        let source = Source {
            name: "pawd.toml".into(),
            text,
        };
        check(vec![source], None)
    }

    /// What the only fault says.
    fn fault(route: &str) -> String {
        let faults = read(route).expect_err(route).0;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(!faults[0].hint.is_empty(), "{faults:?}");
        faults[0].message.clone()
    }

    #[test]
    fn target_without_a_model_is_asked_with_that_of_its_provider() {
        let config =
            read(r#"targets = [{ provider = "cloud", model = "other" }, { provider = "local" }]"#)
                .unwrap();
        let (_, route) = config.routes.first_key_value().unwrap();
        let targets: Vec<_> = route
            .targets
            .iter()
            .map(|it| (it.target.provider.as_str(), it.target.model.as_str()))
            .collect();
        assert_eq!(targets, [("cloud", "other"), ("local", "small")]);
    }

    #[test]
    fn route_from_this_host_elsewhere_has_to_say_so() {
        let targets = r#"targets = [{ provider = "local" }, { provider = "cloud" }]"#;
        assert!(fault(targets).contains("would leave"));
        assert!(read(&format!("{targets}\nmay_leave_host = true")).is_ok());
        // Each may be the first one, and then only those that it may go to follow.
        assert!(read(&format!("{targets}\nselect = \"weight\"")).is_ok());
    }

    #[test]
    fn route_that_cannot_be_meant_is_a_fault() {
        for (route, says) in [
            ("targets = []", "a route of 0 targets"),
            (
                r#"targets = [{ provider = "other" }]"#,
                "there is no provider \"other\"",
            ),
            (
                r#"targets = [{ provider = "local" }, { provider = "local", model = "small" }]"#,
                "this target is listed twice",
            ),
            (
                r#"targets = [{ provider = "local", weight = 2 }]"#,
                "a weight in a route that goes by order",
            ),
            (
                "targets = [{ provider = \"local\", weight = 0 }]\nselect = \"weight\"",
                "no target has a weight",
            ),
            (
                "targets = [{ provider = \"local\", weight = 2 }]\nselect = \"cost\"",
                "a weight in a route that goes by cost",
            ),
            (
                "targets = [{ provider = \"local\", weight = 0 }]\nselect = \"ab\"",
                "no target has a weight",
            ),
            (
                "targets = [{ provider = \"local\" }, { provider = \"cloud\" }]\nselect = \"capability\"",
                "what a provider on this host was asked would leave it",
            ),
            (
                "targets = [{ provider = \"local\" }]\nselect = \"luck\"",
                "\"luck\" cannot be meant here",
            ),
            (
                "targets = [{ provider = \"local\" }]\nhedge = true",
                "a route that hedges with one target",
            ),
            (
                "targets = [{ provider = \"local\" }]\nhedge_after = \"1s\"",
                "a time to hedge after in a route that does not",
            ),
            (
                "targets = [{ provider = \"local\" }]\non_break = \"hide\"",
                "\"hide\" cannot be meant here",
            ),
        ] {
            assert_eq!(fault(route), says);
        }
    }

    #[test]
    fn agent_has_a_route_or_a_provider() {
        let route = r#"targets = [{ provider = "local" }]"#;
        let agent = "[agent.clerk]\nroute = \"main\"\n";
        let config = read(&format!("{route}\n{agent}")).unwrap();
        let clerk = &config.agents[&"clerk".parse().unwrap()];
        assert_eq!(clerk.route.as_ref().unwrap().as_str(), "main");
        for more in ["provider = \"local\"", "model = \"small\""] {
            assert!(fault(&format!("{route}\n{agent}{more}")).contains("route"));
        }
        assert_eq!(
            fault(&format!("{route}\n[agent.clerk]\nroute = \"side\"")),
            "there is no route \"side\""
        );
    }
}
