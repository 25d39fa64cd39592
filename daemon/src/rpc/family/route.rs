//! `route.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    provider::{Route, RouteRpcServer, RouteTarget},
};
use paw_policy::Name;

use super::{Family, fail};
use crate::{
    clock::now_ms,
    config::{
        RouteSettings,
        routes::{OnBreak, Select},
    },
    gateway::{breaker::State, breakers::outlet},
    records::shorten,
};

#[async_trait]
impl RouteRpcServer for Family {
    async fn list(&self, _: &Extensions) -> RpcResult<Vec<Route>> {
        let config = self.config.borrow().clone();
        let routes = config.routes.iter();
        Ok(routes
            .map(|(name, route)| self.route(name, route))
            .collect())
    }

    async fn show(&self, _: &Extensions, name: String) -> RpcResult<Route> {
        let config = self.config.borrow().clone();
        let mut routes = config.routes.iter();
        let found = routes.find(|(known, _)| known.as_str() == name);
        found
            .map(|(name, route)| self.route(name, route))
            .ok_or_else(|| {
                let message = format!("there is no route {}", shorten(&name));
                fail(
                    Error::new(ErrorKind::NotFound, message, "see `pawctl route list`").about(name),
                )
            })
    }
}

impl Family {
    fn route(&self, name: &Name, settings: &RouteSettings) -> Route {
        let (providers, now) = (self.providers.borrow().clone(), now_ms());
        let target = |it: &crate::config::routes::RouteTarget| {
            let (name, known) = providers.get(it.target.provider.as_str())?;
            let state = self
                .breakers
                .state(&outlet(&it.target, &known.settings), now);
            let (breaker, breaker_until) = breaker(state);
            Some(RouteTarget {
                provider: name.to_string(),
                model: it.target.model.clone(),
                weight: match settings.select {
                    Select::Order => None,
                    Select::Weight => Some(it.weight),
                },
                context: it.context,
                local: known.settings.is_local(),
                state: known.shown(name).state,
                breaker,
                breaker_until,
            })
        };
        Route {
            name: name.to_string(),
            select: match settings.select {
                Select::Order => "order".into(),
                Select::Weight => "weight".into(),
            },
            may_leave_host: settings.may_leave_host,
            on_break: match settings.on_break {
                OnBreak::Restart => "restart".into(),
                OnBreak::Fail => "fail".into(),
            },
            targets: settings.targets.iter().filter_map(target).collect(),
            cache_age_ms: settings
                .cache
                .map(|cache| u64::try_from(cache.age.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// A breaker as callers see it: its word, and until when it is open.
pub(super) fn breaker(state: State) -> (String, Option<u64>) {
    match state {
        State::Closed => ("closed".into(), None),
        State::HalfOpen => ("half_open".into(), None),
        State::Open(until) => ("open".into(), Some(until)),
    }
}
