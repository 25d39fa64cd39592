//! `route.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    provider::{Arms, Route, RouteRpcServer, RouteTarget},
};
use paw_policy::{Kind, Name};
use paw_store::{ActionFilter, Page};

use super::{Family, fail};
use crate::{
    clock::now_ms,
    config::{RouteSettings, routes::OnBreak},
    gateway::{self, breaker::State, breakers::outlet},
    intake::unreadable,
    records::shorten,
};

/// Chats that are looked at for the results of arms, the newest ones: enough to tell arms apart, few enough to be read in a moment.
const COUNTED: usize = 20_000;

/// Of those, the ones that are read at once: answers are long.
const COUNTED_AT_ONCE: usize = 100;

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
        let (name, route) = self.find_route(name).map_err(fail)?;
        Ok(self.route(&name, &route))
    }
}

impl Family {
    fn find_route(&self, name: String) -> Result<(Name, RouteSettings), Error> {
        let config = self.config.borrow();
        let mut routes = config.routes.iter();
        let found = routes.find(|(known, _)| known.as_str() == name);
        found
            .map(|(name, route)| (name.clone(), route.clone()))
            .ok_or_else(|| {
                let message = format!("there is no route {}", shorten(&name));
                Error::new(ErrorKind::NotFound, message, "see `pawctl route list`").about(name)
            })
    }

    /// Counts the newest chats that are remembered.
    pub(super) async fn arms(&self, route: String) -> Result<Arms, Error> {
        let (name, settings) = self.find_route(route)?;
        let weighted = settings.select.has_weights();
        let mut arms = gateway::arms::Arms::new(name.clone(), &settings.targets, weighted);
        let storage = self.storage.clone();
        let counted = tokio::task::spawn_blocking(move || {
            let filter = ActionFilter {
                kind: Some(Kind::Chat),
                ..ActionFilter::default()
            };
            let (mut page, mut looked) = (Page::newest(COUNTED_AT_ONCE), 0);
            while looked < COUNTED {
                let listed = storage.read().actions(&filter, &page)?;
                looked += listed.records.len();
                listed.records.iter().for_each(|record| arms.add(record));
                match listed.next {
                    Some(next) => page.before = Some(next),
                    None => break,
                }
            }
            Ok(arms.told())
        });
        let counted = counted.await.map_err(|error| {
            let hint = "report it with the journal of this time";
            Error::new(ErrorKind::Internal, error.to_string(), hint)
        })?;
        let (chats, since, arms) = counted.map_err(|error| unreadable(&error))?;
        Ok(Arms {
            route: name.to_string(),
            select: settings.select.as_str().into(),
            chats,
            since,
            arms,
        })
    }

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
                weight: settings.select.has_weights().then_some(it.weight),
                context: it.context,
                tools: it.tools,
                vision: it.vision,
                // Never negative, and no answer takes longer than a day.
                pace_ms: known.pace(&it.target.model).map(|ms| ms.round() as u64),
                local: known.settings.is_local(),
                state: known.shown(name).state,
                breaker,
                breaker_until,
            })
        };
        Route {
            name: name.to_string(),
            select: settings.select.as_str().into(),
            may_leave_host: settings.may_leave_host,
            on_break: match settings.on_break {
                OnBreak::Restart => "restart".into(),
                OnBreak::Fail => "fail".into(),
            },
            hedge_after_ms: settings
                .hedge
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
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
