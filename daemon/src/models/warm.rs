//! Makes the configured models ready in the background, at the start and whenever the configuration names others.
//!
//! One task for each provider, its models one after the other. A provider that is not up yet is tried again, at longer and longer
//! times; what would fail again is said once and left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use paw_llm::{LlmError, Step as Way};
use paw_policy::Name;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ready::{self, NotReady, Progress};
use crate::{
    config::Config,
    gateway,
    providers::{Known, Providers},
};

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The shortest and the longest time between two tries.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(60);

/// Tries that were made before one is told of; a provider that is started together with pawd is not up yet at the first.
const QUIET: u32 = 3;

/// Makes them ready until it is told to stop.
pub async fn keep(
    mut config: watch::Receiver<Arc<Config>>,
    mut providers: watch::Receiver<Arc<Providers>>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut warmed: BTreeMap<Name, Warmed> = BTreeMap::new();
    loop {
        let now = Arc::clone(&providers.borrow_and_update());
        let wanted = wanted(&config.borrow_and_update(), &now);
        warmed.retain(|name, one| {
            let stays = wanted.get(name).is_some_and(|(known, models)| {
                Arc::ptr_eq(known, &one.known) && *models == one.models
            });
            if !stays {
                one.task.abort();
            }
            stays
        });
        for (name, (known, models)) in wanted {
            warmed.entry(name.clone()).or_insert_with(|| {
                let task = tasks.spawn(all(name, Arc::clone(&known), models.clone()));
                Warmed {
                    known,
                    models,
                    task,
                }
            });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = providers.changed() => if changed.is_err() { break },
            changed = config.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    warn!(error = %error, "models are not made ready; their first question will have them loaded");
                }
            }
        }
    }
    tasks.shutdown().await;
}

/// What is being made ready, or was.
struct Warmed {
    known: Arc<Known>,
    models: BTreeSet<String>,
    task: AbortHandle,
}

type Wanted = BTreeMap<Name, (Arc<Known>, BTreeSet<String>)>;

/// What is to be ready: what each provider's configuration names. Where that is its own model, it is also what agents were switched to
/// there, so that a restart finds ready what a switch left.
fn wanted(config: &Config, providers: &Providers) -> Wanted {
    let of = |(name, known): (&Name, &Arc<Known>)| {
        let settings = &known.settings;
        let mut models: BTreeSet<String> = settings.warm.iter().cloned().collect();
        if models.contains(&settings.model) {
            let here = config.agents.values();
            let switched = here.filter(|it| it.switched && it.provider.as_ref() == Some(name));
            models.extend(switched.filter_map(|it| it.model.clone()));
        }
        (!models.is_empty()).then(|| (name.clone(), (Arc::clone(known), models)))
    };
    providers.iter().filter_map(of).collect()
}

async fn all(name: Name, known: Arc<Known>, models: BTreeSet<String>) {
    for model in models {
        one(&name, &known, &model).await;
    }
}

async fn one(name: &Name, known: &Known, model: &str) {
    let began = Instant::now();
    for tries in 0_u32.. {
        let (tell, _) = watch::channel(Progress::default());
        let deadline = Instant::now() + LIMIT;
        let error = match ready::make(&known.client, model, true, deadline, &tell).await {
            Ok(()) => {
                let took_ms = began.elapsed().as_millis();
                info!(provider = %name, model, took_ms, "model is ready");
                return;
            }
            Err(error) => error,
        };
        let again = is_worth_another_try(&error);
        if !again || tries == QUIET {
            let reason = paw_log::Chain(&error).to_string();
            warn!(provider = %name, model, reason, again, "model cannot be made ready");
        }
        if !again {
            return;
        }
        let asked = match &error {
            NotReady::Failed(error) => error.retry_after().unwrap_or_default(),
            NotReady::Unlisted { .. } | NotReady::Late(_) => Duration::ZERO,
        };
        // A provider says nothing by itself, so there is no event that could be waited for.
        let pause = pause(tries, gateway::random().unwrap_or(0)).max(asked);
        sleep_until(Instant::now() + pause).await;
    }
}

/// The time until the next try: twice the last one, within bounds, a quarter of it at random.
fn pause(tries: u32, random: u64) -> Duration {
    let most = SOON.saturating_mul(1 << tries.min(8)).min(LATE);
    most.mul_f64(1.0 - 0.25 * (random as f64 / u64::MAX as f64))
}

/// What is there a moment later may be well then; what is understood and refused will be refused again.
fn is_worth_another_try(error: &NotReady) -> bool {
    match error {
        NotReady::Late(_) => true,
        NotReady::Unlisted { .. } => false,
        NotReady::Failed(error) => match error {
            LlmError::Transport { step, .. } => match step {
                Way::Resolve | Way::Connect | Way::Read => true,
                Way::Tls => false,
            },
            LlmError::Rate { .. }
            | LlmError::Overload { .. }
            | LlmError::Loading { .. }
            | LlmError::TimedOut { .. }
            | LlmError::Malformed { .. }
            | LlmError::Cut { .. } => true,
            // It is warmed when the vault is open again, at the next start at the latest.
            LlmError::Key { .. }
            | LlmError::Auth { .. }
            | LlmError::Quota { .. }
            | LlmError::BadRequest { .. }
            | LlmError::ContextLength { .. }
            | LlmError::ContentFilter { .. }
            | LlmError::NotFound { .. }
            | LlmError::TooLarge { .. } => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rare_and_never_stop() {
        assert_eq!(pause(0, 0), SOON);
        assert_eq!(pause(3, 0), Duration::from_secs(8));
        assert_eq!(pause(3, u64::MAX), Duration::from_secs(6));
        assert_eq!(pause(u32::MAX, 0), LATE);
    }
}
