//! Who may answer a chat: what a caller or the agent's configuration names, and the order that is drawn of it for the plan.

use paw_api::{Error, ErrorKind};
use paw_policy::{Ceiling, ChatArguments, Name, TaintSet, Target};
use uuid::Uuid;

use crate::{
    config::{
        AgentSettings, Config,
        routes::{RouteTarget, Select},
    },
    gateway::{self, price::Prices, route::Needs, why},
    providers::Providers,
    records::shorten,
};

/// What is named: a route, or one provider, which is a route of one target.
pub(super) struct Named {
    route: Option<Name>,
    targets: Vec<RouteTarget>,
    select: Select,
    may_leave_host: bool,
}

/// The names as a caller sends them.
pub(super) struct Names {
    pub(super) provider: Option<String>,
    pub(super) model: Option<String>,
    pub(super) route: Option<String>,
}

impl Named {
    /// Finds what is named; what is not, the agent's configuration says.
    ///
    /// # Errors
    /// When it is not there, or names contradict each other.
    pub(super) fn find(
        config: &Config,
        providers: &Providers,
        (agent, settings): (&Name, &AgentSettings),
        names: Names,
    ) -> Result<Self, Error> {
        let invalid =
            |message: String, hint: &str| Err(Error::new(ErrorKind::Invalid, message, hint));
        let Names {
            provider,
            model,
            route,
        } = names;
        if let Some(route) = route {
            if provider.is_some() || model.is_some() {
                let message = format!("route {} beside a provider or a model", shorten(&route));
                return invalid(message, "name the one or the other: a route says both");
            }
            return Self::route(config, &route);
        }
        match (provider, &settings.route) {
            (Some(provider), _) => Self::provider(providers, settings, &provider, model),
            (None, Some(route)) => match model {
                None => Self::route(config, route.as_str()),
                Some(model) => invalid(
                    format!(
                        "model {} without its provider, and agent {agent} answers by route {route}",
                        shorten(&model)
                    ),
                    "name the provider, too",
                ),
            },
            (None, None) => match &settings.provider {
                Some(provider) => Self::provider(providers, settings, provider.as_str(), model),
                None => {
                    let hint = "`pawctl provider add`, or a [provider.NAME] section in pawd.toml(5) and `pawctl config reload`";
                    let message = format!("agent {agent} has no provider");
                    Err(Error::new(ErrorKind::Unavailable, message, hint))
                }
            },
        }
    }

    fn route(config: &Config, name: &str) -> Result<Self, Error> {
        let found = config
            .routes
            .iter()
            .find(|(known, _)| known.as_str() == name);
        let Some((name, settings)) = found else {
            let error = Error::new(
                ErrorKind::NotFound,
                format!("there is no route {}", shorten(name)),
                "see `pawctl route list`",
            );
            return Err(error.about(name));
        };
        Ok(Self {
            route: Some(name.clone()),
            targets: settings.targets.clone(),
            select: settings.select,
            may_leave_host: settings.may_leave_host,
        })
    }

    fn provider(
        providers: &Providers,
        settings: &AgentSettings,
        name: &str,
        model: Option<String>,
    ) -> Result<Self, Error> {
        let Some((name, known)) = providers.get(name) else {
            if let Some(waits) = providers.waits(name) {
                let message = format!("provider {name}: {waits}");
                let error = Error::new(ErrorKind::Unavailable, message, waits.remedy());
                return Err(error.about(name));
            }
            let error = Error::new(
                ErrorKind::NotFound,
                format!("there is no provider {}", shorten(name)),
                "see `pawctl provider list`",
            );
            return Err(error.about(name));
        };
        let model = model
            .or_else(|| settings.model.clone())
            .unwrap_or_else(|| known.settings.model.clone());
        let target = Target {
            provider: name.clone(),
            model,
        };
        Ok(Self {
            route: None,
            targets: vec![RouteTarget {
                target,
                weight: 1,
                context: None,
                tools: None,
                vision: None,
            }],
            select: Select::Order,
            may_leave_host: false,
        })
    }

    /// Whether who is asked depends on what the question needs.
    pub(super) fn asks_for_needs(&self) -> bool {
        self.select == Select::Capability
    }

    /// Whether any of them is not on this host.
    pub(super) fn leaves_host(&self, providers: &Providers) -> bool {
        self.targets
            .iter()
            .any(|it| !is_local(providers, &it.target))
    }

    /// The arguments of the plan: who is asked first, and who after that. Where the conversation was `held_here` and has to stay,
    /// or where a caller wants `local_only`, those elsewhere are left out, and so are those that may not be sent what it holds, and those
    /// that are known not to have what the question `needs`.
    ///
    /// # Errors
    /// `denied` when nobody is left who may be asked, `invalid` when nobody of those can do it.
    pub(super) fn plan(
        mut self,
        (config, providers): (&Config, &Providers),
        session: Uuid,
        text: String,
        stays: Stays<'_>,
        needs: Option<Needs>,
    ) -> Result<ChatArguments, Error> {
        let local = |target: &Target| is_local(providers, target);
        let here = |it: &RouteTarget| local(&it.target) || !(stays.local_only || stays.held_here);
        let may = |it: &RouteTarget| here(it) && beyond(providers, it, stays.labels).is_none();
        if let Some(needs) = needs {
            self.learn(providers, needs, may);
        }
        let can = |it: &RouteTarget| needs.is_none_or(|needs| !needs.exclude(it));
        let session = session.to_string();
        let route = self.route.as_ref().map_or("", Name::as_str);
        let rank = |it: &RouteTarget| match self.select {
            Select::Order | Select::Weight | Select::Capability => 0,
            Select::Latency => gateway::route::rank_of_pace(pace(providers, &it.target)),
            Select::Cost => rank_of_cost(config, providers, &it.target),
            Select::Ab => gateway::route::rank_of_arm(route, &session, it),
        };
        let mut order = gateway::route::order(
            &self.targets,
            (self.select, !self.may_leave_host),
            |it| may(it) && can(it),
            local,
            rank,
            || gateway::random().unwrap_or(0),
        )
        .into_iter();
        let Some(Target { provider, model }) = order.next() else {
            return Err(match needs {
                Some(needs) if self.targets.iter().any(may) => self.nobody_can(needs),
                Some(_) | None => {
                    let mut here = self.targets.iter().filter(|it| here(it));
                    let beyond = here.find_map(|it| beyond(providers, it, stays.labels));
                    beyond.unwrap_or_else(|| self.nobody_here(stays.local_only))
                }
            });
        };
        let fallbacks: Vec<Target> = order.collect();
        let place = |name: &Name| {
            let place = providers.place(name)?;
            Some((name.clone(), place.to_string()))
        };
        let names = fallbacks.iter().map(|target| &target.provider);
        let places = names.chain([&provider]).filter_map(place).collect();
        Ok(ChatArguments {
            text,
            provider,
            model,
            route: self.route,
            fallbacks,
            local_only: stays.local_only,
            places,
            schema: None,
            images: Vec::new(),
        })
    }

    /// What the providers of those that `may` be asked said of their models counts where the route says nothing. How much one holds
    /// leads a question to who holds more; where nobody does, it is asked all the same, as what was said before can be told shorter.
    fn learn(&mut self, providers: &Providers, needs: Needs, may: impl Fn(&RouteTarget) -> bool) {
        let known = |it: &RouteTarget| {
            if may(it) {
                known(providers, it)
            } else {
                it.clone()
            }
        };
        let known: Vec<RouteTarget> = self.targets.iter().map(known).collect();
        let somebody = known.iter().any(|it| may(it) && !needs.exclude(it));
        for (target, known) in self.targets.iter_mut().zip(known) {
            let context = if somebody {
                known.context
            } else {
                target.context
            };
            *target = RouteTarget { context, ..known };
        }
    }

    fn nobody_can(&self, needs: Needs) -> Error {
        let route = self.route.as_ref().map_or("", Name::as_str);
        let most = self.targets.iter().filter_map(|it| it.context).max();
        let mut what = vec![format!("about {} tokens", needs.tokens)];
        what.extend(needs.tools.then(|| "tools".to_owned()));
        what.extend(needs.vision.then(|| "pictures".to_owned()));
        let most = most.map_or_else(String::new, |most| format!(", and the most is {most}"));
        Error::new(
            ErrorKind::Invalid,
            format!(
                "no target of route {route} is known to take {}{most}",
                what.join(", ")
            ),
            "ask something shorter, begin a new conversation, or name a provider that can do it",
        )
    }

    fn nobody_here(&self, local_only: bool) -> Error {
        let who = match (&self.route, self.targets.first()) {
            (None, Some(only)) => format!("provider {} is", only.target.provider),
            (Some(route), _) => format!("no target of route {route} is"),
            (None, None) => "nobody is".into(),
        };
        let not = if self.route.is_none() { "not " } else { "" };
        let (message, hint) = if local_only {
            (
                format!("{who} {not}on this host, and only a local one was asked for"),
                "name a local provider, or leave out --local-only",
            )
        } else {
            (
                format!("this conversation was held on this host, and {who} {not}on it"),
                "begin a new conversation, or set may_leave_host = true for the agent",
            )
        };
        Error::new(ErrorKind::Denied, message, hint)
    }
}

/// What keeps a question on this host, or from some of who could answer it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stays<'a> {
    /// The caller wants it so.
    pub(super) local_only: bool,
    /// The conversation was held here, and has to stay.
    pub(super) held_here: bool,
    /// The labels of what it holds.
    pub(super) labels: &'a TaintSet,
}

/// Why this one may not be sent what has these labels, if it may not.
fn beyond(providers: &Providers, it: &RouteTarget, labels: &TaintSet) -> Option<Error> {
    let (name, known) = providers.get(it.target.provider.as_str())?;
    let (asked, ceiling) = (Ceiling::over(labels), known.settings.may_receive);
    (asked > ceiling).then(|| {
        let message = format!("provider {name}: {}", why::beyond(asked, ceiling));
        Error::new(ErrorKind::Denied, message, why::beyond_hint(asked))
    })
}

/// A target with what its provider said of the model, where the route says nothing.
fn known(providers: &Providers, target: &RouteTarget) -> RouteTarget {
    let mut target = target.clone();
    let says_all = target.context.is_some() && target.tools.is_some() && target.vision.is_some();
    if says_all {
        return target;
    }
    let known = providers.get(target.target.provider.as_str());
    if let Some(model) = known.and_then(|(_, known)| known.client.known_of(&target.target.model)) {
        target.context = target.context.or(model.context);
        target.tools = target.tools.or(model.tools);
        target.vision = target.vision.or(model.vision);
    }
    target
}

fn pace(providers: &Providers, target: &Target) -> Option<f64> {
    let (_, known) = providers.get(target.provider.as_str())?;
    known.pace(&target.model)
}

/// One that cannot be asked now comes last.
fn rank_of_cost(config: &Config, providers: &Providers, target: &Target) -> u64 {
    let Some((_, known)) = providers.get(target.provider.as_str()) else {
        return u64::MAX;
    };
    let settings = &known.settings;
    let price = Prices::new(&config.prices).of(target, settings.kind, settings.is_local());
    gateway::route::rank_of_cost(&price)
}

fn is_local(providers: &Providers, target: &Target) -> bool {
    providers
        .get(target.provider.as_str())
        .is_some_and(|(_, known)| known.settings.is_local())
}
