//! `model.*`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jsonrpsee::{
    Extensions, PendingSubscriptionSink,
    core::{RpcResult, SubscriptionResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    model::{Model, ModelRpcServer, ModelWarmed},
    provider::Arms,
};
use paw_policy::Name;
use tokio::{sync::watch, time::Instant as Deadline};

use super::{Family, fail, send};
use crate::{
    intake::SwitchAsked,
    models::{
        ready::{self, Progress},
        told::{failed, limit, named, not_ready},
    },
    providers::Known,
    rpc::caller,
};

/// How long a provider may take to tell of its models.
const SHOW_LIMIT: Duration = Duration::from_secs(10);

#[async_trait]
impl ModelRpcServer for Family {
    async fn ab(&self, _: &Extensions, route: String) -> RpcResult<Arms> {
        self.arms(route).await.map_err(fail)
    }

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

    async fn show(
        &self,
        _: &Extensions,
        name: String,
        provider: Option<String>,
    ) -> RpcResult<Model> {
        let (by, known) = self.provider(provider.as_deref()).map_err(fail)?;
        let name = named(name).map_err(fail)?;
        let found = known.client.show(&name, SHOW_LIMIT).await;
        let found = found.map_err(|error| fail(failed(&by, &name, &error)))?;
        let Some(found) = found else {
            let message = format!("provider {by} lists no model {name}");
            let hint = "see `pawctl model list`";
            return Err(fail(
                Error::new(ErrorKind::NotFound, message, hint).about(&name),
            ));
        };
        // What is in memory is told by the way; without it the rest is as good.
        let loaded = known.client.is_loaded(&name, SHOW_LIMIT).await;
        Ok(shown(&by, &known, found, loaded.unwrap_or(None)))
    }

    async fn warm(
        &self,
        _: &Extensions,
        model: Option<String>,
        provider: Option<String>,
        timeout_ms: Option<u64>,
    ) -> RpcResult<ModelWarmed> {
        let (name, known) = self.provider(provider.as_deref()).map_err(fail)?;
        let model = match model {
            Some(model) => named(model).map_err(fail)?,
            None => known.settings.model.clone(),
        };
        let began = Instant::now();
        let (tell, _) = watch::channel(Progress::default());
        let limit = limit(timeout_ms).map_err(fail)?;
        ready::make(&known.client, &model, true, Deadline::now() + limit, &tell)
            .await
            .map_err(|error| fail(not_ready((&name, &known), &model, &error)))?;
        Ok(ModelWarmed {
            provider: name.to_string(),
            model,
            ms: millis(began),
        })
    }

    async fn switch(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        model: Option<String>,
        provider: Option<String>,
        agent: Option<String>,
        unlisted: Option<bool>,
        timeout_ms: Option<u64>,
    ) -> SubscriptionResult {
        let wish = SwitchAsked {
            model,
            provider,
            agent,
            unlisted: unlisted.unwrap_or(false),
            timeout_ms,
        };
        let asked = caller(extensions).and_then(|caller| {
            self.intake.wish(&wish)?;
            Ok(caller)
        });
        match asked {
            Ok(caller) => {
                let sink = pending.accept().await?;
                if let Some(last) = self.switched(wish, caller, &sink).await {
                    send(&sink, &last).await;
                }
            }
            Err(error) => pending.reject(fail(error)).await,
        }
        Ok(())
    }

    async fn pull(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        model: String,
        provider: Option<String>,
    ) -> SubscriptionResult {
        let asked = caller(extensions).and_then(|caller| {
            let (name, _) = self.provider(provider.as_deref())?;
            Ok((caller, name, named(model)?))
        });
        match asked {
            Ok((caller, name, model)) => self.pulled(pending, (&name, model), caller).await,
            Err(error) => {
                pending.reject(fail(error)).await;
                Ok(())
            }
        }
    }
}

async fn models(name: &Name, known: &Known) -> RpcResult<Vec<Model>> {
    // It may be an answer of some minutes ago, so it says nothing of the provider now.
    match known.client.models().await {
        Ok(models) => {
            let loaded = known.client.loaded(SHOW_LIMIT).await.unwrap_or(None);
            let is_loaded = |name: &String| loaded.as_ref().map(|all| all.contains(name));
            Ok(models
                .into_iter()
                .map(|model| {
                    let loaded = is_loaded(&model.name);
                    shown(name, known, model, loaded)
                })
                .collect())
        }
        Err(error) => {
            let message = format!("provider {name}: {}", paw_log::Chain(&error));
            Err(fail(Error::new(ErrorKind::Failed, message, error.hint())))
        }
    }
}

fn shown(provider: &Name, known: &Known, model: paw_llm::Model, loaded: Option<bool>) -> Model {
    Model {
        provider: provider.to_string(),
        default: model.name == known.settings.model,
        size: model.size,
        context: model.context,
        tools: model.tools,
        vision: model.vision,
        loaded,
        name: model.name,
    }
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
