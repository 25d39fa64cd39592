//! The providers that are configured: one connection pool each, and what was last seen of them.
//!
//! - [`seen`]: what traffic and checks have shown of one. Pure.
//! - [`pace`]: how quickly the answers of a model begin. Pure.
//! - [`watch`]: the checks.
//! - [`register`]: what a change makes of those that are registered by RPC. Pure; [`budgets`] and [`agents`]: the same of those.
//! - [`waits`]: why one is not asked yet. Pure.
//! - [`keys`]: their keys.

pub(crate) mod agents;
pub(crate) mod budgets;
pub mod keys;
pub mod pace;
pub mod register;
pub mod seen;
pub mod waits;
pub mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paw_api::{provider::Provider as Shown, system::ProviderState};
use paw_llm::{Health, Level, LlmError, Provider, ProviderConfig};
use paw_policy::Name;
use paw_store::{Attempt, TurnRecord};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::{
    clock::now_ms,
    config::{Config, ProviderSettings},
    gateway::budget::Budget,
    secrets::Secrets,
};
use keys::Keys;
use seen::{News, Seen};
use waits::Waits;

/// How long a provider may take to say whether it is there.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// One provider.
#[derive(Debug)]
pub struct Known {
    name: Name,
    /// What was configured.
    pub settings: ProviderSettings,
    /// Its connection pool.
    pub client: Provider,
    seen: Mutex<Seen>,
    budget: Mutex<Budget>,
}

/// All of them, by name.
#[derive(Debug, Default)]
pub struct Providers {
    known: BTreeMap<Name, Arc<Known>>,
    waiting: BTreeMap<Name, (ProviderSettings, Waits)>,
    default: Option<Name>,
}

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("provider {name}")]
pub struct ProviderError {
    /// Which one.
    pub name: Name,
    /// Why.
    pub source: paw_llm::ConfigError,
}

impl Providers {
    /// Makes a client for each; keys come from the credentials that were read before the drop, or from the vault with each request. One that was there `before` and has the
    /// same settings stays, with its connections and all that was seen of it. One that lacks its key or its port is not asked, and
    /// neither is one that was registered and cannot work: whoever may do that must not keep pawd from starting.
    ///
    /// # Errors
    /// When the settings of one of root's cannot work.
    pub fn new(
        config: &Config,
        keys: &Keys,
        secrets: &Secrets,
        ports: &[u16],
        before: &Self,
    ) -> Result<Self, ProviderError> {
        let (mut known, mut waiting) = (BTreeMap::new(), BTreeMap::new());
        for (name, settings) in &config.providers {
            let waits = Waits::of(settings, config, keys, ports);
            // One that waits for its port alone is made all the same, so that what cannot work is told now and not at the next start.
            if let Some(waits) = waits.as_ref().filter(|it| !matches!(it, Waits::Port(_))) {
                waiting.insert(name.clone(), (settings.clone(), waits.clone()));
                continue;
            }
            if let Some(same) = before.known.get(name).filter(|it| it.settings == *settings) {
                known.insert(name.clone(), Arc::clone(same));
                continue;
            }
            let told = ProviderConfig {
                kind: settings.kind,
                base_url: settings.base_url.clone(),
                api_key: settings
                    .api_key_credential
                    .as_ref()
                    .and_then(|credential| keys.get(credential).cloned()),
                timeouts: settings.timeouts,
                allow_plaintext: settings.allow_plaintext,
            };
            let made = match &settings.api_key_secret {
                None => Provider::new(told),
                Some(secret) => {
                    let keys = secrets.key_of(name, secret.clone());
                    Provider::asking(told, Arc::new(keys))
                }
            };
            let client = match made {
                Ok(client) => client,
                Err(source) if settings.registered => {
                    let unfit = Waits::Unfit(source.to_string());
                    waiting.insert(name.clone(), (settings.clone(), unfit));
                    continue;
                }
                Err(source) => {
                    let name = name.clone();
                    return Err(ProviderError { name, source });
                }
            };
            if let Some(waits) = waits {
                waiting.insert(name.clone(), (settings.clone(), waits));
                continue;
            }
            let entry = Known {
                name: name.clone(),
                settings: settings.clone(),
                client,
                seen: Mutex::default(),
                budget: Mutex::default(),
            };
            known.insert(name.clone(), Arc::new(entry));
        }
        Ok(Self {
            known,
            waiting,
            default: config.default_provider.clone(),
        })
    }

    /// The provider of this name, if it can be asked.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(&Name, &Arc<Known>)> {
        self.known.iter().find(|(known, _)| known.as_str() == name)
    }

    /// Whether a turn of a conversation was said by a provider on this host, or is of a question that one was asked. What is configured
    /// under its name today does not say so: it may have moved since.
    #[must_use]
    pub fn said_here(&self, turn: &TurnRecord) -> bool {
        // One that is not configured any more may have been local.
        let is_here = |name: &Name| {
            self.get(name.as_str())
                .is_none_or(|(_, known)| known.settings.is_local())
        };
        // Words of pawd in place of an answer name no provider, and say it all the same.
        turn.local
            .unwrap_or_else(|| turn.provider.as_ref().is_some_and(is_here))
    }

    /// Where a provider is, whether it can be asked yet or not.
    #[must_use]
    pub fn place(&self, name: &Name) -> Option<&url::Url> {
        let known = self.known.get(name).map(|known| &known.settings);
        let waiting = || self.waiting.get(name).map(|(settings, _)| settings);
        known.or_else(waiting).map(|settings| &settings.base_url)
    }

    /// All that can be asked.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<Known>)> {
        self.known.iter()
    }

    /// Why the provider of this name is not asked.
    #[must_use]
    pub fn waits(&self, name: &str) -> Option<&Waits> {
        let found = self
            .waiting
            .iter()
            .find(|(known, _)| known.as_str() == name);
        found.map(|(_, (_, waits))| waits)
    }

    /// All of them as callers see them, by name.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let known = self.known.iter().map(|(name, known)| Shown {
            default: self.default.as_ref() == Some(name),
            ..known.shown(name)
        });
        let waiting = self.waiting.iter().map(|(name, (settings, waits))| Shown {
            default: self.default.as_ref() == Some(name),
            waits_for: Some(format!("{waits}; {}", waits.remedy())),
            ..shown(name, settings, Seen::default(), "waiting")
        });
        let mut all: Vec<Shown> = known.chain(waiting).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

impl Known {
    /// Notes what a question came to.
    pub fn note<T>(&self, result: &Result<T, LlmError>) {
        let outcome = result.as_ref().map(|_| ());
        let news = self.seen().asked(outcome, now_ms(), Instant::now());
        // Without the provider's words, as in what is remembered.
        self.tell(
            news,
            outcome.err().map(|error| error.without_words().to_owned()),
        );
    }

    fn tell(&self, news: Option<News>, error: Option<String>) {
        match news {
            Some(News::Lost) => {
                warn!(message_id = paw_log::events::PROVIDER_LOST, provider = %self.name, error, "provider does not answer");
            }
            Some(News::Recovered) => {
                info!(message_id = paw_log::events::PROVIDER_RECOVERED, provider = %self.name, "provider answers again");
            }
            None => {}
        }
    }

    /// Notes how long an answer took that came to its end.
    pub fn took(&self, attempt: &Attempt) {
        self.seen().took(attempt, Instant::now());
    }

    /// Notes that an attempt was left before its answer began, after all the time that it took.
    pub fn took_longer(&self, attempt: &Attempt) {
        self.seen().took_longer(attempt, Instant::now());
    }

    /// How soon one expects an answer of a model to begin, in milliseconds; nothing where nobody has heard one.
    #[must_use]
    pub fn pace(&self, model: &str) -> Option<f64> {
        self.seen().pace(model, Instant::now())
    }

    /// Within which time 19 of 20 answers of a model begin; nothing while that is not known.
    #[must_use]
    pub fn usual_first_token(&self, model: &str) -> Option<Duration> {
        self.seen().usual_first_token(model)
    }

    /// Whether it is well, and has shown that within this time.
    #[must_use]
    pub fn is_well_since(&self, time: Duration, now: Instant) -> bool {
        self.seen().is_well_since(time, now)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this with its budget of retries.
    pub fn budget<T>(&self, use_it: impl FnOnce(&mut Budget) -> T) -> T {
        use_it(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks whether it is there, and notes the answer.
    ///
    /// # Errors
    /// As [`Provider::check`], and when there is no answer within [`CHECK_LIMIT`].
    pub async fn check(&self) -> Result<Health, LlmError> {
        let late = LlmError::TimedOut {
            level: Level::FirstToken,
            after: CHECK_LIMIT,
        };
        let health = timeout(CHECK_LIMIT, self.client.check())
            .await
            .unwrap_or(Err(late));
        let outcome = health.as_ref().copied();
        let news = self.seen().checked(outcome, now_ms(), Instant::now());
        self.tell(
            news,
            outcome.err().map(|error| paw_log::Chain(error).to_string()),
        );
        health
    }

    /// As callers see it.
    #[must_use]
    pub fn shown(&self, name: &Name) -> Shown {
        let seen = self.seen().clone();
        let state = seen.sight().as_str();
        shown(name, &self.settings, seen, state)
    }
}

/// As `status` shows it.
#[must_use]
pub fn in_short(provider: Shown) -> ProviderState {
    let Shown {
        name, kind, state, ..
    } = provider;
    ProviderState { name, kind, state }
}

fn shown(name: &Name, settings: &ProviderSettings, seen: Seen, state: &str) -> Shown {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (last_error, last_error_at) = seen.last_error().cloned().unzip();
    let timeouts = &settings.timeouts;
    Shown {
        name: name.to_string(),
        kind: settings.kind.as_str().into(),
        base_url: settings.base_url.to_string(),
        model: settings.model.clone(),
        local: settings.is_local(),
        state: state.into(),
        waits_for: None,
        default: false,
        file: settings.file.clone(),
        registered: settings.registered,
        api_key_credential: settings.api_key_credential.clone(),
        api_key_secret: settings.api_key_secret.as_ref().map(ToString::to_string),
        allow_plaintext: settings.allow_plaintext,
        may_receive: settings.may_receive,
        max_retries: settings.max_retries,
        check_interval_ms: millis(settings.check_interval),
        warm: settings.warm.clone(),
        connect_timeout_ms: millis(timeouts.connect),
        first_token_timeout_ms: millis(timeouts.first_token),
        stall_timeout_ms: millis(timeouts.stall),
        total_timeout_ms: millis(timeouts.total),
        last_error,
        last_error_at,
        seen_at: seen.seen_at(),
        latency: seen.latency(),
        // Known to the breakers alone.
        breaker: "closed".into(),
        breaker_until: None,
    }
}
