//! Who may answer a chat: what a caller or the agent's configuration names, and the order that is drawn of it for the plan.

use paw_api::{Error, ErrorKind};
use paw_policy::{ChatArguments, Name, Target};

use crate::{
    config::{
        AgentSettings, Config,
        routes::{RouteTarget, Select},
    },
    gateway,
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
            }],
            select: Select::Order,
            may_leave_host: false,
        })
    }

    /// Whether any of them is not on this host.
    pub(super) fn leaves_host(&self, providers: &Providers) -> bool {
        self.targets
            .iter()
            .any(|it| !is_local(providers, &it.target))
    }

    /// The arguments of the plan: who is asked first, and who after that. Where the conversation was `held_here` and has to stay,
    /// or where a caller wants `local_only`, those elsewhere are left out.
    ///
    /// # Errors
    /// `denied` when nobody is left.
    pub(super) fn plan(
        self,
        providers: &Providers,
        text: String,
        local_only: bool,
        held_here: bool,
    ) -> Result<ChatArguments, Error> {
        let local = |target: &Target| is_local(providers, target);
        let mut order = gateway::route::order(
            &self.targets,
            self.select,
            !self.may_leave_host,
            |target| local(target) || !(local_only || held_here),
            local,
            || gateway::random().unwrap_or(0),
        )
        .into_iter();
        let Some(Target { provider, model }) = order.next() else {
            return Err(self.nobody_here(local_only));
        };
        let fallbacks: Vec<Target> = order.collect();
        let place = |name: &Name| {
            let (name, known) = providers.get(name.as_str())?;
            Some((name.clone(), known.settings.base_url.to_string()))
        };
        let names = fallbacks.iter().map(|target| &target.provider);
        let places = names.chain([&provider]).filter_map(place).collect();
        Ok(ChatArguments {
            text,
            provider,
            model,
            route: self.route,
            fallbacks,
            local_only,
            places,
        })
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

fn is_local(providers: &Providers, target: &Target) -> bool {
    providers
        .get(target.provider.as_str())
        .is_some_and(|(_, known)| known.settings.is_local())
}
