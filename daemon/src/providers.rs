//! The providers that are configured: one connection pool each, and what was last seen of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use paw_api::{provider::Provider as Shown, system::ProviderState};
use paw_llm::{Health, LlmError, Provider, ProviderConfig};
use paw_policy::Name;
use secrecy::SecretString;

use crate::{config::ProviderSettings, gateway::budget::Budget};

/// One provider.
#[derive(Debug)]
pub struct Known {
    /// What was configured.
    pub settings: ProviderSettings,
    /// Its connection pool.
    pub client: Provider,
    seen: Mutex<Seen>,
    budget: Mutex<Budget>,
}

/// What was last seen of a provider.
#[derive(Debug, Clone, Default)]
struct Seen {
    state: Sight,
    last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Sight {
    #[default]
    Unknown,
    Ready,
    Loading,
    Failing,
}

impl Sight {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::Loading => "loading",
            Self::Failing => "failing",
        }
    }
}

/// All of them, by name.
#[derive(Debug, Default)]
pub struct Providers(BTreeMap<Name, Arc<Known>>);

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
    /// Makes a client for each; keys come from the credentials that were read before the drop.
    ///
    /// # Errors
    /// When a provider's settings cannot work.
    pub fn new(
        settings: &BTreeMap<Name, ProviderSettings>,
        keys: &BTreeMap<String, SecretString>,
    ) -> Result<Self, ProviderError> {
        let mut known = BTreeMap::new();
        for (name, settings) in settings {
            let config = ProviderConfig {
                kind: settings.kind,
                base_url: settings.base_url.clone(),
                api_key: settings
                    .api_key_credential
                    .as_ref()
                    .and_then(|credential| keys.get(credential).cloned()),
                timeouts: settings.timeouts,
                allow_plaintext: settings.allow_plaintext,
            };
            let client = Provider::new(config).map_err(|source| ProviderError {
                name: name.clone(),
                source,
            })?;
            let entry = Known {
                settings: settings.clone(),
                client,
                seen: Mutex::default(),
                budget: Mutex::default(),
            };
            known.insert(name.clone(), Arc::new(entry));
        }
        Ok(Self(known))
    }

    /// The provider of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(&Name, &Arc<Known>)> {
        self.0.iter().find(|(known, _)| known.as_str() == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<Known>)> {
        self.0.iter()
    }
}

impl Known {
    /// Notes what a call came to.
    pub fn note<T>(&self, result: &Result<T, LlmError>) {
        let seen = match result {
            Ok(_) => Seen {
                state: Sight::Ready,
                last_error: None,
            },
            Err(error @ LlmError::Loading { .. }) => Seen {
                state: Sight::Loading,
                last_error: Some(error.to_string()),
            },
            Err(error) => Seen {
                state: Sight::Failing,
                last_error: Some(paw_log::Chain(error).to_string()),
            },
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Does this with its budget of retries.
    pub fn budget<T>(&self, use_it: impl FnOnce(&mut Budget) -> T) -> T {
        use_it(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks whether it is there, and notes the answer.
    ///
    /// # Errors
    /// As [`Provider::check`].
    pub async fn check(&self) -> Result<Health, LlmError> {
        let health = self.client.check().await;
        self.note(&health);
        if matches!(health, Ok(Health::Loading)) {
            self.seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .state = Sight::Loading;
        }
        health
    }

    /// As callers see it.
    #[must_use]
    pub fn shown(&self, name: &Name) -> Shown {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Shown {
            name: name.to_string(),
            kind: self.settings.kind.as_str().into(),
            base_url: self.settings.base_url.to_string(),
            model: self.settings.model.clone(),
            local: self.settings.is_local(),
            state: seen.state.as_str().into(),
            last_error: seen.last_error,
            // Known to the breakers alone.
            breaker: "closed".into(),
            breaker_until: None,
        }
    }

    /// As `status` shows it.
    #[must_use]
    pub fn in_short(&self, name: &Name) -> ProviderState {
        let Shown {
            name, kind, state, ..
        } = self.shown(name);
        ProviderState { name, kind, state }
    }
}
