//! `provider.*` and `model.*`

use std::{sync::Arc, time::Instant};

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    provider::{Model, ModelRpcServer, Provider, ProviderRpcServer, ProviderTest},
};
use paw_llm::Health;
use paw_policy::Name;

use super::{Family, fail, route};
use crate::{clock::now_ms, providers::Known, records};

/// Models that one answer lists.
const MODELS: usize = 100;

#[async_trait]
impl ProviderRpcServer for Family {
    async fn list(&self, _: &Extensions) -> RpcResult<Vec<Provider>> {
        Ok(self
            .providers
            .borrow()
            .iter()
            .map(|(name, known)| self.with_breaker(name, known))
            .collect())
    }

    async fn show(&self, _: &Extensions, name: String) -> RpcResult<Provider> {
        let (name, known) = self.provider(Some(&name)).map_err(fail)?;
        Ok(self.with_breaker(&name, &known))
    }

    async fn reset(&self, _: &Extensions, name: String) -> RpcResult<Provider> {
        let (name, known) = self.provider(Some(&name)).map_err(fail)?;
        self.breakers.reset(name.as_str());
        Ok(self.with_breaker(&name, &known))
    }

    async fn test(&self, _: &Extensions, name: Option<String>) -> RpcResult<ProviderTest> {
        let (name, known) = self.provider(name.as_deref()).map_err(fail)?;
        let began = Instant::now();
        let checked = match known.check().await {
            Ok(Health::Ready) => known.client.models().await.map(Some),
            Ok(Health::Loading) => Ok(None),
            Err(error) => Err(error),
        };
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let test = |ok, message: String, models| ProviderTest {
            name: name.to_string(),
            ok,
            ms,
            message,
            models,
        };
        Ok(match checked {
            Ok(Some(models)) => {
                let names: Vec<String> = models
                    .into_iter()
                    .map(|model| model.name)
                    .take(MODELS)
                    .collect();
                test(
                    true,
                    format!("it answers and lists {} models", names.len()),
                    names,
                )
            }
            Ok(None) => test(
                false,
                "it is there and still loads its model; try again in a moment".into(),
                Vec::new(),
            ),
            Err(error) => test(
                false,
                format!("{}; {}", paw_log::Chain(&error), error.hint()),
                Vec::new(),
            ),
        })
    }
}

#[async_trait]
impl ModelRpcServer for Family {
    async fn list(&self, _: &Extensions, provider: Option<String>) -> RpcResult<Vec<Model>> {
        if let Some(name) = provider {
            let (name, known) = self.provider(Some(&name)).map_err(fail)?;
            return models(&name, &known).await;
        }
        let all: Vec<_> = self
            .providers
            .borrow()
            .iter()
            .map(|(name, known)| (name.clone(), Arc::clone(known)))
            .collect();
        let mut listed = Vec::new();
        for (name, known) in all {
            // One that does not answer does not keep the others from being listed; `provider list` shows why.
            listed.extend(models(&name, &known).await.unwrap_or_default());
        }
        Ok(listed)
    }
}

async fn models(name: &Name, known: &Known) -> RpcResult<Vec<Model>> {
    let models = known.client.models().await;
    known.note(&models);
    match models {
        Ok(models) => Ok(models
            .into_iter()
            .map(|model| Model {
                provider: name.to_string(),
                default: model.name == known.settings.model,
                name: model.name,
                size: None,
            })
            .collect()),
        Err(error) => {
            let message = format!("provider {name}: {}", paw_log::Chain(&error));
            Err(fail(Error::new(ErrorKind::Failed, message, error.hint())))
        }
    }
}

impl Family {
    fn with_breaker(&self, name: &Name, known: &Known) -> Provider {
        let state = self.breakers.state_of(name.as_str(), now_ms());
        let (breaker, breaker_until) = route::breaker(state);
        Provider {
            breaker,
            breaker_until,
            ..known.shown(name)
        }
    }

    /// The provider of this name, or the one of the default agent.
    fn provider(&self, name: Option<&str>) -> Result<(Name, Arc<Known>), Error> {
        let default = || {
            let config = self.config.borrow();
            config
                .agents
                .iter()
                .find(|(name, _)| name.as_str() == "default")?
                .1
                .provider
                .as_ref()
                .map(ToString::to_string)
        };
        let Some(name) = name.map(str::to_owned).or_else(default) else {
            let hint = "add a [provider.NAME] section to pawd.toml and run `pawctl config reload`";
            return Err(Error::new(
                ErrorKind::NotFound,
                "no provider is configured",
                hint,
            ));
        };
        let providers = self.providers.borrow();
        match providers.get(&name) {
            Some((name, known)) => Ok((name.clone(), Arc::clone(known))),
            None => {
                let message = format!("there is no provider {}", records::shorten(&name));
                Err(
                    Error::new(ErrorKind::NotFound, message, "see `pawctl provider list`")
                        .about(name),
                )
            }
        }
    }
}
