//! `model.*`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jsonrpsee::{
    Extensions, PendingSubscriptionSink, SubscriptionSink,
    core::{RpcResult, SubscriptionResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    model::{Model, ModelPulled, ModelRpcServer, ModelWarmed, PullEvent},
    provider::Arms,
};
use paw_llm::LlmError;
use paw_policy::Name;
use paw_store::Caller;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant as Deadline,
};
use tracing::{info, warn};

use super::{Family, fail, send};
use crate::{
    intake::SwitchAsked,
    models::{
        ready::{self, Progress},
        told::{failed, limit, named, not_ready},
    },
    providers::Known,
    records,
    rpc::caller,
};

/// How long a provider may take to tell of its models.
const SHOW_LIMIT: Duration = Duration::from_secs(10);

/// Models that are fetched at the same time. What a provider does with its network and disk is its own; this bounds ours.
const PULLS: usize = 2;

/// Places of pulls.
#[derive(Debug)]
pub struct Pulls(Arc<Semaphore>);

impl Pulls {
    /// Pulls that are under way, and how many may be.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (PULLS - self.0.available_permits(), PULLS)
    }
}

impl Default for Pulls {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PULLS)))
    }
}

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
        let asked = async {
            let caller = caller(extensions)?;
            let model = named(model)?;
            let (name, known) = self.provider(provider.as_deref())?;
            if !known.client.holds_models() {
                let kind = known.settings.kind.as_str();
                let message = format!("provider {name} is of kind {kind}, and fetches no models");
                let hint = "name a provider of kind ollama with --provider";
                return Err(Error::new(ErrorKind::Invalid, message, hint).about(name.as_str()));
            }
            let place = Arc::clone(&self.pulls.0).try_acquire_owned().map_err(|_| {
                let message = format!("{PULLS} models are being fetched, which is the most");
                Error::new(ErrorKind::Busy, message, "wait until one of them is there")
            })?;
            // What is fetched will be run: its record comes first.
            self.record_pull(&caller, &name, &model).await?;
            Ok((name, known, model, place))
        };
        match asked.await {
            Ok((name, known, model, place)) => {
                let sink = pending.accept().await?;
                let fetched = fetch((&name, &known), &model, &sink).await;
                drop(place);
                if let Some(last) = fetched {
                    send(&sink, &last).await;
                }
            }
            Err(error) => pending.reject(fail(error)).await,
        }
        Ok(())
    }
}

impl Family {
    async fn record_pull(&self, caller: &Caller, name: &Name, model: &str) -> Result<(), Error> {
        let mut entry = Entry::new(Event::ModelPulled);
        entry.actor = Some(records::actor(caller));
        entry.detail.insert("provider".into(), name.to_string());
        entry.detail.insert("model".into(), model.to_owned());
        let recorded = self.audit.durable(entry).await;
        recorded
            .map(drop)
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))
    }
}

/// Has a provider fetch a model, and tells how far it is; the last thing to be told, nothing when the caller has left.
async fn fetch(
    (name, known): (&Name, &Known),
    model: &str,
    sink: &SubscriptionSink,
) -> Option<PullEvent> {
    let began = Instant::now();
    let pulling = async {
        let Some(mut stream) = known.client.pull(model).await? else {
            // It was looked at before that it fetches models.
            return Ok(true);
        };
        while let Some(news) = stream.next().await? {
            let event = PullEvent::Progress {
                status: news.status,
                completed: news.completed,
                total: news.total,
            };
            if !send(sink, &event).await {
                return Ok(false);
            }
        }
        Ok::<_, LlmError>(true)
    };
    let pulled = tokio::select! {
        pulled = pulling => pulled,
        () = sink.closed() => Ok(false),
    };
    match pulled {
        Ok(true) => {
            info!(provider = %name, model, "model fetched");
            Some(PullEvent::Done(ModelPulled {
                provider: name.to_string(),
                model: model.to_owned(),
                ms: millis(began),
            }))
        }
        Ok(false) => {
            info!(provider = %name, model, "fetching a model was left");
            None
        }
        Err(error) => {
            let error = failed(name, model, &error);
            warn!(provider = %name, model, reason = %error.message, "model not fetched");
            Some(PullEvent::Failed {
                message: error.message,
                error: error.data,
            })
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
