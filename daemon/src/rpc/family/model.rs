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
    model::{
        Answerer, Model, ModelPulled, ModelRpcServer, ModelSwitched, ModelWarmed, PullEvent,
        SwitchEvent,
    },
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

use super::{Family, fail, provider::failed, send};
use crate::{
    config::{registered::Switched, value},
    models::ready::{self, NotReady, Progress, Step},
    providers::{
        Known,
        register::{Change, Target},
    },
    records,
    rpc::caller,
};

/// How long a model may take to be ready where the caller does not say.
const READY_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The longest that a caller may say.
const READY_MOST: Duration = Duration::from_secs(60 * 60);

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
        let deadline = deadline(timeout_ms).map_err(fail)?;
        ready::make(&known.client, &model, true, deadline, &tell)
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
        let asked = async {
            let caller = caller(extensions)?;
            let change = self.wish(model, provider, agent)?;
            Ok(Wish {
                caller,
                change,
                unlisted: unlisted.unwrap_or(false),
                deadline: deadline(timeout_ms)?,
            })
        };
        match asked.await {
            Ok(wish) => {
                let sink = pending.accept().await?;
                if let Some(last) = self.switched(wish, &sink).await {
                    let last = match last {
                        Ok(done) => SwitchEvent::Done(done),
                        Err(error) => SwitchEvent::Failed {
                            message: error.message,
                            error: error.data,
                        },
                    };
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

/// A switch that is asked for.
struct Wish {
    caller: Caller,
    change: Change,
    unlisted: bool,
    deadline: Deadline,
}

impl Family {
    /// What a caller wants to have changed.
    fn wish(
        &self,
        model: Option<String>,
        provider: Option<String>,
        agent: Option<String>,
    ) -> Result<Change, Error> {
        let invalid = |message: &str, hint: &str| Error::new(ErrorKind::Invalid, message, hint);
        let Some(model) = model else {
            return match (agent, provider) {
                (Some(agent), None) => Ok(Change::SwitchBack(agent)),
                (_, Some(_)) => Err(invalid("a provider without a model", "name the model")),
                (None, None) => Err(invalid("no model is named", "name one")),
            };
        };
        let model = named(model)?;
        let Some(agent) = agent else {
            let default = || {
                let config = self.config.borrow();
                config.default_provider.as_ref().map(ToString::to_string)
            };
            let Some(provider) = provider.or_else(default) else {
                let hint = "name one with --provider, see `pawctl provider list`";
                let message = "there is no default provider";
                return Err(Error::new(ErrorKind::NotFound, message, hint));
            };
            return Ok(Change::Model(provider, model));
        };
        let provider = match provider {
            Some(provider) => provider,
            None => self.provider_of(&agent)?,
        };
        Ok(Change::Switch(agent, Switched { provider, model }))
    }

    /// The provider that answers for an agent now; whether there is one of this name is looked at later.
    fn provider_of(&self, agent: &str) -> Result<String, Error> {
        let config = self.config.borrow();
        let mut agents = config.agents.iter();
        let found = agents.find(|(name, _)| name.as_str() == agent);
        let own = found.and_then(|(_, settings)| settings.provider.as_ref());
        match own.or(config.default_provider.as_ref()) {
            Some(provider) => Ok(provider.to_string()),
            None => {
                let hint = "name one with --provider, see `pawctl provider list`";
                let message = format!("agent {} has no provider", records::shorten(agent));
                Err(Error::new(ErrorKind::NotFound, message, hint))
            }
        }
    }

    /// Makes the target ready and then changes who answers; nothing when the caller has left before that.
    async fn switched(
        &self,
        wish: Wish,
        sink: &SubscriptionSink,
    ) -> Option<Result<ModelSwitched, Error>> {
        let began = Instant::now();
        let Wish {
            caller,
            change,
            unlisted,
            deadline,
        } = wish;
        // What cannot be is said before anybody is asked anything.
        let weighed = match self.reload.weigh(change.clone()).await {
            Ok(weighed) => weighed,
            Err(error) => return Some(Err(error)),
        };
        let Some(target) = weighed.target else {
            let message = "nobody would answer after that";
            let hint = "make a provider the default with `pawctl provider default NAME`";
            return Some(Err(Error::new(ErrorKind::Conflict, message, hint)));
        };
        let (name, known) = match self.provider(Some(&target.provider)) {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        let now = Answerer {
            provider: target.provider.clone(),
            model: target.model.clone(),
        };
        let (tell, mut told) = watch::channel(Progress::default());
        let making = ready::make(&known.client, &target.model, unlisted, deadline, &tell);
        tokio::pin!(making);
        let mut there = progress(sink, Step::Looking.as_str(), &now).await;
        let made = loop {
            if !there {
                break None;
            }
            tokio::select! {
                made = &mut making => break Some(made),
                Ok(()) = told.changed() => {
                    let Progress { step, .. } = *told.borrow_and_update();
                    there = progress(sink, step.as_str(), &now).await;
                }
                () = sink.closed() => there = false,
            }
        };
        let brought = tell.borrow().brought;
        let outcome = match made {
            None => None,
            Some(Err(error)) => Some(Err(not_ready((&name, &known), &target.model, &error))),
            Some(Ok(())) => {
                let was = weighed.was.map(|was| Answerer {
                    provider: was.provider,
                    model: was.model,
                });
                there = progress(sink, "switching", &now).await;
                let agent = change.agent().map(str::to_owned);
                let changed = if there {
                    Some(self.put(caller, change, &target).await)
                } else {
                    None
                };
                changed.map(|changed| {
                    changed.map(|()| ModelSwitched {
                        agent,
                        now,
                        was,
                        ms: millis(began),
                    })
                })
            }
        };
        // What a switch that came to nothing brought into memory is not left there, unless somebody else answers with it.
        if !matches!(outcome, Some(Ok(_))) && brought && !self.uses(&target) {
            ready::give_back(&known, &target.model).await;
        }
        outcome
    }

    /// Changes who answers, if that is still who was made ready.
    async fn put(&self, caller: Caller, change: Change, target: &Target) -> Result<(), Error> {
        let target = target.clone();
        self.reload.change_as_tried(caller, change, target).await
    }

    /// Whether questions go to this model by the configuration.
    fn uses(&self, target: &Target) -> bool {
        let config = self.config.borrow();
        let providers = config.providers.iter();
        let agents = config.agents.values();
        let mut routed = config.routes.values().flat_map(|route| &route.targets);
        let here = |name: &Name| name.as_str() == target.provider;
        providers
            .filter(|(name, _)| here(name))
            .any(|(_, settings)| settings.model == target.model)
            || agents
                .filter(|agent| agent.provider.as_ref().is_some_and(here))
                .any(|agent| agent.model.as_ref() == Some(&target.model))
            || routed.any(|it| here(&it.target.provider) && it.target.model == target.model)
    }

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

async fn progress(sink: &SubscriptionSink, step: &str, target: &Answerer) -> bool {
    let progress = SwitchEvent::Progress {
        step: step.to_owned(),
        target: target.clone(),
    };
    send(sink, &progress).await
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

/// The name of a model, if it can be one.
fn named(model: String) -> Result<String, Error> {
    value::model(&model).map_err(|hint| {
        Error::new(
            ErrorKind::Invalid,
            "that cannot be the name of a model",
            hint,
        )
    })
}

fn deadline(timeout_ms: Option<u64>) -> Result<Deadline, Error> {
    let limit = timeout_ms.map_or(READY_LIMIT, Duration::from_millis);
    if limit.is_zero() || limit > READY_MOST {
        let message = format!("a model is given {} ms to be ready", limit.as_millis());
        let hint = format!("use 1 to {} ms", READY_MOST.as_millis());
        return Err(Error::new(ErrorKind::Invalid, message, hint));
    }
    Ok(Deadline::now() + limit)
}

fn not_ready((name, known): (&Name, &Known), model: &str, error: &NotReady) -> Error {
    let (kind, hint) = match error {
        NotReady::Failed(error @ LlmError::NotFound { .. }) if known.client.holds_models() => {
            let hint = format!("fetch it first: `pawctl model pull {model} --provider {name}`");
            let told = failed(name, model, error);
            return Error::new(ErrorKind::NotFound, told.message, hint).about(name.as_str());
        }
        NotReady::Failed(error) => return failed(name, model, error),
        NotReady::Unlisted { listed } => (
            ErrorKind::NotFound,
            format!(
                "it lists: {}; if it has one that it does not list, say --unlisted",
                listed.join(", ")
            ),
        ),
        NotReady::Late(_) => (
            ErrorKind::TimedOut,
            "give it longer with --timeout, or see what keeps the provider busy".to_owned(),
        ),
    };
    let message = format!("provider {name} ({model}): {error}");
    Error::new(kind, message, hint).about(name.as_str())
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
