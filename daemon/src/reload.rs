//! Reading the configuration again: all of it takes effect, or none.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    system::Reloaded,
};
use paw_policy::Rules;
use paw_store::Caller;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use crate::{
    audit::Audit,
    config::{Config, PoolBounds, check::load},
    orchestrator::handle::Actions,
    providers::Providers,
    records::actor,
};

/// Sections that are taken once, at the start.
const AT_START: [&str; 3] = ["rpc", "roles", "confinement"];

type Reply = oneshot::Sender<Result<Reloaded, Error>>;

/// A way to ask for it.
#[derive(Debug, Clone)]
pub struct Reload(mpsc::Sender<(Option<Caller>, Reply)>);

/// What a reload replaces.
pub struct Current {
    /// Where the files are.
    pub etc: PathBuf,
    /// Keys that were read at the start.
    pub keys: BTreeMap<String, SecretString>,
    /// Ports that may be connected to; landlock lets nobody add one.
    pub ports: Vec<u16>,
    /// The configuration.
    pub config: watch::Sender<Arc<Config>>,
    /// The providers.
    pub providers: watch::Sender<Arc<Providers>>,
    /// The rules.
    pub rules: watch::Sender<Arc<Rules>>,
    /// The bounds of what waits for its first command; told at each reload, because plans may be others from then on.
    pub pool: watch::Sender<PoolBounds>,
    /// The log.
    pub audit: Audit,
    /// The bounds of actions.
    pub actions: Actions,
    /// How much is logged.
    pub logging: paw_log::Logging,
    /// Told at the beginning and the end, for the service manager.
    pub notify: fn(bool),
}

impl Reload {
    /// The way to ask, and the task that answers.
    pub fn new(current: Current) -> (Self, impl Future<Output = ()> + Send) {
        let (to, inbox) = mpsc::channel(8);
        (Self(to), answer(current, inbox))
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    /// Every fault; then everything stays as it was.
    pub async fn ask(&self, by: Option<Caller>) -> Result<Reloaded, Error> {
        let gone = || {
            Error::new(
                ErrorKind::Unavailable,
                "pawd is stopping",
                "the files are read at its next start",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.0.send((by, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn answer(current: Current, mut inbox: mpsc::Receiver<(Option<Caller>, Reply)>) {
    while let Some((by, reply)) = inbox.recv().await {
        (current.notify)(true);
        let result = reload(&current, by.as_ref()).await;
        (current.notify)(false);
        // Whoever asked may be gone; the reload stands all the same.
        drop(reply.send(result));
    }
}

async fn reload(current: &Current, by: Option<&Caller>) -> Result<Reloaded, Error> {
    let mut entry = Entry::new(Event::ConfigLoaded);
    entry.actor = by.map(actor);
    match try_reload(current) {
        Ok((config, providers, reloaded)) => {
            entry.policy_digest = Some(config.rules.digest());
            entry.outcome = Some(format!("changed: {}", reloaded.changed.join(", ")));
            // A configuration grants rights: its record comes first.
            let recorded = current.audit.durable(entry).await;
            recorded.map_err(|error| {
                Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy())
            })?;
            apply(current, config, providers).await;
            info!(changed = ?reloaded.changed, needs_restart = ?reloaded.needs_restart, "configuration reloaded");
            Ok(reloaded)
        }
        Err(message) => {
            error!(
                message_id = paw_log::events::CONFIG_REJECTED,
                reason = %message,
                "configuration refused; the old one stays in force"
            );
            entry.event = Event::ConfigRefused;
            entry.outcome = Some(crate::records::shorten_to(&message, 2_000));
            // Nothing changes, so nothing depends on this record.
            drop(current.audit.soon(entry).await);
            Err(Error::new(
                ErrorKind::Invalid,
                message,
                "mend the files; the old configuration stays in force",
            ))
        }
    }
}

fn try_reload(current: &Current) -> Result<(Config, Providers, Reloaded), String> {
    let config = load(&current.etc).map_err(|error| paw_log::Chain(&error).to_string())?;
    let before = Arc::clone(&current.providers.borrow());
    let providers = Providers::new(&config.providers, &current.keys, &before)
        .map_err(|error| paw_log::Chain(&error).to_string())?;
    let sections = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(sections)) => sections,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let (old, new) = (sections(&current.config.borrow()), sections(&config));
    let mut reloaded = Reloaded {
        changed: Vec::new(),
        needs_restart: Vec::new(),
    };
    for (name, value) in &new {
        if old.get(name) != Some(value) {
            let list = if AT_START.contains(&name.as_str()) {
                &mut reloaded.needs_restart
            } else {
                &mut reloaded.changed
            };
            list.push(name.clone());
        }
    }
    if current.rules.borrow().digest() != config.rules.digest() {
        reloaded.changed.push("policy".into());
    }
    for (name, provider) in &config.providers {
        let unknown_key = provider
            .api_key_credential
            .as_ref()
            .is_some_and(|key| !current.keys.contains_key(key));
        let unknown_port = provider
            .base_url
            .port_or_known_default()
            .is_none_or(|port| !current.ports.contains(&port));
        if unknown_key || unknown_port {
            reloaded.needs_restart.push(format!("providers.{name}"));
        }
    }
    Ok((config, providers, reloaded))
}

async fn apply(current: &Current, config: Config, providers: Providers) {
    if let Err(error) = current.logging.set_level(Some(&config.log_level)) {
        error!(error = %paw_log::Chain(&error), "log level not changed");
    }
    current.actions.rebound(config.actions).await;
    current.rules.send_replace(Arc::new(config.rules.clone()));
    current.providers.send_replace(Arc::new(providers));
    let pool = config.sandbox.pool;
    current.config.send_replace(Arc::new(config));
    // After the configuration, so that nothing is made by the old one any more.
    current.pool.send_replace(pool);
}
