//! Reading the configuration again, and changing what is registered: all of it takes effect, or none. One task does both, one after
//! the other.

mod meant;

use std::{path::PathBuf, sync::Arc};

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    system::Reloaded,
};
use paw_policy::{Digest, plan::canonical};
use paw_store::Caller;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};
use uuid::Uuid;

use self::meant::{cannot_be_meant, no_further_strays};
use crate::{
    audit::Audit,
    config::{
        Config, PoolBounds,
        check::{ConfigError, Written, check_all},
        registered::{self, Registered},
        source,
    },
    grants::Grants,
    orchestrator::handle::Actions,
    providers::{
        Providers, agents, budgets,
        keys::Keys,
        register::{Change, Target},
        waits::Waits,
    },
    records::actor,
    secrets::Secrets,
};

/// Sections that are taken once, at the start.
const AT_START: [&str; 3] = ["rpc", "roles", "confinement"];

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What can be asked for, by whom.
#[derive(Debug)]
enum Ask {
    Reload(Option<(By, Digest)>, Reply<Reloaded>),
    Look(Caller, Reply<Looked>),
    Policy(Caller, Reply<Reloaded>),
    Weigh(Box<Change>, Reply<Weighed>),
    Change(By, Box<Change>, Held, Reply<()>),
}

/// What a change would come to.
#[derive(Debug)]
pub struct Weighed {
    /// Who would answer after it.
    pub target: Option<Target>,
    /// Who does now.
    pub was: Option<Target>,
    /// What is registered now of what it is about.
    pub before: Option<Map<String, Value>>,
    /// What would be registered of it.
    pub after: Option<Map<String, Value>>,
}

/// What reading the configuration again would come to.
#[derive(Debug)]
pub struct Looked {
    /// Of what stands in the files.
    pub digest: Digest,
    /// What would change.
    pub reloaded: Reloaded,
}

/// Who has something changed, and by which action.
#[derive(Debug, Clone)]
pub struct By {
    /// Who asked for it.
    pub caller: Caller,
    /// The action.
    pub action: Uuid,
}

/// What has to hold when a change is made, because it is what was judged.
#[derive(Debug, Clone)]
pub enum Held {
    /// It comes to this, which was tried.
    Comes(Box<Target>),
    /// What is registered of what it is about has this digest; none where nothing is.
    Is(Option<Digest>),
}

/// The digest of what is registered of something.
#[must_use]
pub fn digest(registered: &Map<String, Value>) -> Digest {
    Digest::of(canonical(&Value::Object(registered.clone())).as_bytes())
}

/// A way to ask for it.
#[derive(Debug, Clone)]
pub struct Reload(mpsc::Sender<Ask>);

/// What a reload replaces.
pub struct Current {
    /// Where the files are.
    pub etc: PathBuf,
    /// Where pawd's own state is.
    pub state: PathBuf,
    /// What root wrote, as it was read last.
    pub written: Written,
    /// What is registered.
    pub registered: Registered,
    /// Keys that were read at the start.
    pub keys: Keys,
    /// Where those come from that providers ask for with each request.
    pub secrets: Secrets,
    /// Ports that may be connected to; landlock lets nobody add one.
    pub ports: Vec<u16>,
    /// The configuration.
    pub config: watch::Sender<Arc<Config>>,
    /// The providers.
    pub providers: watch::Sender<Arc<Providers>>,
    /// The rules, and what people granted beside them.
    pub grants: Arc<Grants>,
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

    /// Reads the configuration again, because whoever may signal this process says so.
    ///
    /// # Errors
    /// Every fault; then everything stays as it was.
    pub async fn signalled(&self) -> Result<Reloaded, Error> {
        self.answered(|reply| Ask::Reload(None, reply)).await
    }

    /// Reads the configuration again, if it says what was judged: what has this digest.
    ///
    /// # Errors
    /// Every fault; then everything stays as it was.
    pub async fn read(&self, by: By, judged: Option<Digest>) -> Result<Reloaded, Error> {
        let Some(judged) = judged else {
            return Err(not_what_was_judged());
        };
        self.answered(|reply| Ask::Reload(Some((by, judged)), reply))
            .await
    }

    /// Looks what reading the configuration again would come to, and changes nothing.
    ///
    /// # Errors
    /// Every fault; it is on record that somebody wanted that read.
    pub async fn look(&self, by: Caller) -> Result<Looked, Error> {
        self.answered(|reply| Ask::Look(by, reply)).await
    }

    /// Reads the rules again, and nothing else.
    ///
    /// # Errors
    /// Every fault of them; then those in force stay.
    pub async fn policy(&self, by: Caller) -> Result<Reloaded, Error> {
        self.answered(|reply| Ask::Policy(by, reply)).await
    }

    /// Looks what a change would come to, and changes nothing.
    ///
    /// # Errors
    /// Why it cannot be.
    pub async fn weigh(&self, change: Change) -> Result<Weighed, Error> {
        self.answered(|reply| Ask::Weigh(Box::new(change), reply))
            .await
    }

    /// Changes what is registered, if what was judged still holds.
    ///
    /// # Errors
    /// Why it cannot be; then everything stays as it was.
    pub async fn change(&self, by: By, change: Change, held: Held) -> Result<(), Error> {
        let change = Box::new(change);
        self.answered(|reply| Ask::Change(by, change, held, reply))
            .await
    }

    async fn answered<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Error> {
        let gone = || {
            Error::new(
                ErrorKind::Unavailable,
                "pawd is stopping",
                "ask again after its next start",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn answer(mut current: Current, mut inbox: mpsc::Receiver<Ask>) {
    // Whoever asked may be gone; what was done stands all the same.
    while let Some(ask) = inbox.recv().await {
        match ask {
            Ask::Reload(by, reply) => {
                (current.notify)(true);
                let result = reload(&mut current, by.as_ref()).await;
                (current.notify)(false);
                drop(reply.send(result));
            }
            Ask::Look(by, reply) => {
                let looked = match try_reload(&current) {
                    Ok((read, _, _, reloaded)) => Ok(Looked {
                        digest: read.0.digest(),
                        reloaded,
                    }),
                    Err(message) => {
                        let mut entry = Entry::new(Event::ConfigRefused);
                        entry.actor = Some(actor(&by));
                        Err(cannot_be_read(&current, entry, message).await)
                    }
                };
                drop(reply.send(looked));
            }
            Ask::Policy(by, reply) => drop(reply.send(policy(&mut current, &by).await)),
            Ask::Weigh(change, reply) => {
                let weighed = weigh(&mut current, &change).map(|after| Weighed {
                    target: change.target(&after.config),
                    was: change.target(&current.config.borrow()),
                    before: change.entry(&current.registered),
                    after: change.entry(&after.registered),
                });
                drop(reply.send(weighed));
            }
            Ask::Change(by, change, held, reply) => {
                let changed = self::change(&mut current, &by, &change, &held).await;
                drop(reply.send(changed));
            }
        }
    }
}

/// What holds after a change.
struct After {
    registered: Registered,
    config: Config,
    providers: Providers,
}

/// Makes what would hold after a change. The files of root's are not read for that: what stands in them now may not be in force.
fn weigh(current: &mut Current, change: &Change) -> Result<After, Error> {
    let after = change.of(&current.registered, &current.config.borrow())?;
    let ours = registered::path(&current.state);
    let config = check_all(&current.written, &after, &current.state)
        .map_err(|faults| cannot_be_meant(change, &faults, &ours.display().to_string()))?;
    no_further_strays(change, &current.config.borrow(), &config)?;
    let name = change.provider().unwrap_or_default();
    let settings = config
        .providers
        .iter()
        .find(|(known, _)| known.as_str() == name);
    if let Some((_, settings)) = settings {
        // Where the file is not root's alone it can still be read; elsewhere this fails, and what follows says so.
        drop(current.keys.fetch(settings));
    }
    let before = Arc::clone(&current.providers.borrow());
    let providers = Providers::new(
        &config,
        &current.keys,
        &current.secrets,
        &current.ports,
        &before,
    )
    .map_err(|error| {
        let hint = "see pawd.toml(5) for what may stand there";
        Error::new(ErrorKind::Invalid, paw_log::Chain(&error).to_string(), hint)
    })?;
    match providers.waits(name) {
        // What is no credential might be a key, given by mistake, and must not be kept.
        Some(waits @ (Waits::Key(_) | Waits::Brokers(_) | Waits::Stray { .. })) => {
            let message = format!("provider {name}: {waits}");
            return Err(Error::new(ErrorKind::Conflict, message, waits.remedy()).about(name));
        }
        Some(waits @ Waits::Unfit(_)) => {
            let message = format!("provider {name}: {waits}");
            let hint = "see pawd.toml(5) for what may stand there";
            return Err(Error::new(ErrorKind::Invalid, message, hint).about(name));
        }
        Some(Waits::Port(_)) | None => {}
    }
    Ok(After {
        registered: after,
        config,
        providers,
    })
}

/// The record of a change, before it has an effect.
fn told(by: &By, change: &Change, after: &After, was: Option<&Target>) -> Entry {
    let mut entry = Entry::new(match (change.budget(), change.agent()) {
        (Some(_), _) => Event::BudgetChanged,
        (None, Some(_)) => Event::AgentChanged,
        (None, None) => Event::ProviderChanged,
    });
    entry.action = Some(by.action);
    entry.actor = Some(actor(&by.caller));
    entry.outcome = Some(change.word().into());
    let mut detail = |key: &str, value: &str| {
        entry
            .detail
            .insert(key.into(), crate::records::shorten_to(value, 300));
    };
    if let Some(agent) = change.agent() {
        detail("agent", agent);
    }
    if let Change::AgentCreate(name, _) | Change::AgentEdit(name, _) = change {
        let told = after.registered.agent.get(name).map(agents::told);
        for (key, value) in told.into_iter().flatten() {
            detail(key, &value);
        }
    }
    if let Some(name) = change.budget() {
        detail("budget", name);
        let told = after.registered.budget.get(name).map(budgets::told);
        for (key, value) in told.into_iter().flatten() {
            detail(key, &value);
        }
    }
    if let Some(name) = change.provider() {
        detail("provider", name);
        if let Some(told) = after.registered.provider.get(name) {
            if let Some(secret) = &told.api_key_secret {
                detail("secret", secret);
            }
            detail("kind", &told.kind);
            detail("base_url", &told.base_url);
            detail("model", &told.model);
            detail(
                "credential",
                told.api_key_credential.as_deref().unwrap_or("none"),
            );
        }
    }
    if let Change::Model(..) | Change::Switch(..) | Change::SwitchBack(_) = change {
        let now = change.target(&after.config);
        for (provider, model, target) in [
            ("provider", "model", now.as_ref()),
            ("was_provider", "was_model", was),
        ] {
            if let Some(target) = target {
                detail(provider, &target.provider);
                detail(model, &target.model);
            }
        }
    }
    entry
}

/// Changes what is registered.
async fn change(current: &mut Current, by: &By, change: &Change, held: &Held) -> Result<(), Error> {
    let after = weigh(current, change)?;
    let holds = match held {
        Held::Comes(tried) => change.target(&after.config).as_ref() == Some(&**tried),
        Held::Is(was) => change.entry(&current.registered).as_ref().map(digest) == *was,
    };
    if !holds {
        let message = "what it is about was changed by somebody else meanwhile";
        return Err(Error::new(
            ErrorKind::Conflict,
            message,
            "nothing has changed; ask again",
        ));
    }
    let was = change.target(&current.config.borrow());
    let mut entry = told(by, change, &after, was.as_ref());
    // Where prompts and keys go is decided here: its record comes first.
    let recorded = current.audit.durable(entry.clone()).await;
    recorded
        .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))?;
    let (state, kept) = (current.state.clone(), after.registered.clone());
    let written = tokio::task::spawn_blocking(move || kept.write(&state)).await;
    let failed = match written {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(paw_log::Chain(&error).to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = failed {
        error!(reason = %why, "what is registered could not be written; it stays as it was");
        entry.outcome = Some(format!(
            "not {}: {}",
            change.word(),
            crate::records::shorten_to(&why, 300)
        ));
        // Nothing changes, so nothing depends on this record.
        drop(current.audit.soon(entry).await);
        let hint = "see that the disk of pawd's state has room and is mounted for writing";
        return Err(Error::new(ErrorKind::Failed, why, hint));
    }
    current.registered = after.registered;
    current.providers.send_replace(Arc::new(after.providers));
    current.config.send_replace(Arc::new(after.config));
    info!(
        provider = change.provider(),
        agent = change.agent(),
        budget = change.budget(),
        change = change.word(),
        "what is registered changed"
    );
    Ok(())
}

fn not_what_was_judged() -> Error {
    let message = "the files say something else than when this was asked for";
    Error::new(
        ErrorKind::Conflict,
        message,
        "nothing has changed; ask again",
    )
}

/// What stands in the files cannot be in force, which is on record.
async fn cannot_be_read(current: &Current, mut entry: Entry, message: String) -> Error {
    error!(
        message_id = paw_log::events::CONFIG_REJECTED,
        reason = %message,
        "configuration refused; the old one stays in force"
    );
    entry.event = Event::ConfigRefused;
    entry.outcome = Some(crate::records::shorten_to(&message, 2_000));
    // Nothing changes, so nothing depends on this record.
    drop(current.audit.soon(entry).await);
    let hint = "mend the files; the old configuration stays in force";
    Error::new(ErrorKind::Invalid, message, hint)
}

async fn reload(current: &mut Current, by: Option<&(By, Digest)>) -> Result<Reloaded, Error> {
    let mut entry = Entry::new(Event::ConfigLoaded);
    entry.actor = by.map(|(by, _)| actor(&by.caller));
    entry.action = by.map(|(by, _)| by.action);
    match try_reload(current) {
        Ok((read, ..)) if by.is_some_and(|(_, judged)| *judged != read.0.digest()) => {
            Err(not_what_was_judged())
        }
        Ok((read, config, providers, reloaded)) => {
            entry.policy_digest = Some(config.rules.digest());
            entry.outcome = Some(format!("changed: {}", reloaded.changed.join(", ")));
            // A configuration grants rights: its record comes first.
            let recorded = current.audit.durable(entry).await;
            recorded.map_err(|error| {
                Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy())
            })?;
            (current.written, current.registered) = read;
            apply(current, config, providers).await;
            info!(changed = ?reloaded.changed, needs_restart = ?reloaded.needs_restart, "configuration reloaded");
            Ok(reloaded)
        }
        Err(message) => Err(cannot_be_read(current, entry, message).await),
    }
}

/// Reads the rules again. The rest of the configuration stays as it was read last.
async fn policy(current: &mut Current, by: &Caller) -> Result<Reloaded, Error> {
    let mut entry = Entry::new(Event::PolicyLoaded);
    entry.actor = Some(actor(by));
    let read = || {
        let written = Written {
            files: current.written.files.clone(),
            policies: source::read_directory(&current.etc.join("policy"), "cedar")?,
        };
        let config = check_all(&written, &current.registered, &current.state)?;
        Ok::<_, ConfigError>((written, config))
    };
    let (written, config) = match read() {
        Ok(read) => read,
        Err(error) => {
            let message = paw_log::Chain(&error).to_string();
            error!(
                message_id = paw_log::events::CONFIG_REJECTED,
                reason = %message,
                "rules refused; the old ones stay in force"
            );
            entry.event = Event::ConfigRefused;
            entry.outcome = Some(crate::records::shorten_to(&message, 2_000));
            // Nothing changes, so nothing depends on this record.
            drop(current.audit.soon(entry).await);
            let hint = "mend the files (`pawctl policy check`); the old rules stay in force";
            return Err(Error::new(ErrorKind::Invalid, message, hint));
        }
    };
    let rules = config.rules;
    let changed = current.grants.files_digest() != rules.digest();
    entry.policy_digest = Some(rules.digest());
    entry.outcome = Some(if changed { "changed" } else { "as before" }.into());
    // Rules grant rights: their record comes first.
    let recorded = current.audit.durable(entry).await;
    recorded
        .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))?;
    current.written = written;
    current.config.send_modify(|now| {
        *now = Arc::new(Config {
            rules: rules.clone(),
            shipped_policy: config.shipped_policy,
            ..Config::clone(now)
        });
    });
    current.grants.replace(rules);
    info!(changed, "rules reloaded");
    Ok(Reloaded {
        changed: if changed {
            vec!["policy".into()]
        } else {
            Vec::new()
        },
        needs_restart: Vec::new(),
    })
}

type Read = (Written, Registered);

fn try_reload(current: &Current) -> Result<(Read, Config, Providers, Reloaded), String> {
    let read = || {
        let read = (
            Written::read(&current.etc)?,
            Registered::read(&current.state)?,
        );
        let config = check_all(&read.0, &read.1, &current.state)?;
        Ok::<_, ConfigError>((read, config))
    };
    let (read, config) = read().map_err(|error| paw_log::Chain(&error).to_string())?;
    let before = Arc::clone(&current.providers.borrow());
    let providers = Providers::new(
        &config,
        &current.keys,
        &current.secrets,
        &current.ports,
        &before,
    )
    .map_err(|error| paw_log::Chain(&error).to_string())?;
    let sections = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(sections)) => sections,
        Ok(_) | Err(_) => Map::new(),
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
    if current.grants.files_digest() != config.rules.digest() {
        reloaded.changed.push("policy".into());
    }
    for name in config.providers.keys() {
        if providers.waits(name.as_str()).is_some() {
            reloaded.needs_restart.push(format!("providers.{name}"));
        }
    }
    Ok((read, config, providers, reloaded))
}

async fn apply(current: &Current, config: Config, providers: Providers) {
    if let Err(error) = current.logging.set_level(Some(&config.log_level)) {
        error!(error = %paw_log::Chain(&error), "log level not changed");
    }
    current.actions.rebound(config.actions).await;
    current.grants.replace(config.rules.clone());
    current.providers.send_replace(Arc::new(providers));
    let pool = config.sandbox.pool;
    current.config.send_replace(Arc::new(config));
    // After the configuration, so that nothing is made by the old one any more.
    current.pool.send_replace(pool);
}
