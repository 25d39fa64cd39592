//! What a change makes of the providers, budgets and agents that are registered. Pure: whether the outcome can be meant is checked by who checks the files.

use paw_api::{Error, ErrorKind, agent::AgentSpec, budget::BudgetSpec, provider::ProviderSpec};

use serde_json::{Map, Value};

use super::{agents, budgets};
use crate::{
    config::{
        Config, ProviderSettings,
        registered::{Entry, MOST, Registered, Switched},
    },
    records::shorten,
};

/// What an administrator asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new one.
    Add(String, ProviderSpec),
    /// Another one in its place; what the spec does not say stays.
    Edit(String, ProviderSpec),
    /// None in its place.
    Remove(String),
    /// It answers for agents that name none.
    Default(String),
    /// It uses this model for who names none.
    Model(String, String),
    /// It answers for this agent, with this model.
    Switch(String, Switched),
    /// For this agent answers again whom the configuration says.
    SwitchBack(String),
    /// A budget, new or in the place of one; what the spec does not say stays.
    Budget(String, BudgetSpec),
    /// A budget that was registered is none any more.
    BudgetRemove(String),
    /// A new agent.
    AgentCreate(String, AgentSpec),
    /// Another one in its place; what the spec does not say stays.
    AgentEdit(String, AgentSpec),
    /// An agent that was registered is none any more.
    AgentRemove(String),
}

/// Who answers, after a change that is about that or before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which provider.
    pub provider: String,
    /// With which model.
    pub model: String,
    /// What is configured of the provider.
    pub settings: ProviderSettings,
}

impl Change {
    /// The provider that it is about, where it is about one.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        match self {
            Self::Add(name, _)
            | Self::Edit(name, _)
            | Self::Remove(name)
            | Self::Default(name)
            | Self::Model(name, _)
            | Self::Switch(_, Switched { provider: name, .. }) => Some(name),
            Self::SwitchBack(_)
            | Self::Budget(..)
            | Self::BudgetRemove(_)
            | Self::AgentCreate(..)
            | Self::AgentEdit(..)
            | Self::AgentRemove(_) => None,
        }
    }

    /// The agent that it is about, where it is about one.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        match self {
            Self::Add(..)
            | Self::Edit(..)
            | Self::Remove(_)
            | Self::Default(_)
            | Self::Model(..)
            | Self::Budget(..)
            | Self::BudgetRemove(_) => None,
            Self::Switch(agent, _)
            | Self::SwitchBack(agent)
            | Self::AgentCreate(agent, _)
            | Self::AgentEdit(agent, _)
            | Self::AgentRemove(agent) => Some(agent),
        }
    }

    /// The budget that it is about, where it is about one.
    #[must_use]
    pub fn budget(&self) -> Option<&str> {
        match self {
            Self::Budget(name, _) | Self::BudgetRemove(name) => Some(name),
            Self::Add(..)
            | Self::Edit(..)
            | Self::Remove(_)
            | Self::Default(_)
            | Self::Model(..)
            | Self::Switch(..)
            | Self::SwitchBack(_)
            | Self::AgentCreate(..)
            | Self::AgentEdit(..)
            | Self::AgentRemove(_) => None,
        }
    }

    /// What it is about: the word for it, and its name.
    #[must_use]
    pub fn about(&self) -> (&'static str, &str) {
        match (self.budget(), self.provider(), self.agent()) {
            (Some(name), _, _) => ("budget", name),
            (None, Some(name), _) => ("provider", name),
            (None, None, name) => ("agent", name.unwrap_or_default()),
        }
    }

    /// Who answers by this configuration where the change is about that: for its agent, else for who names no model.
    #[must_use]
    pub fn target(&self, config: &Config) -> Option<Target> {
        let (named, model) = match self.agent() {
            Some(agent) => {
                let mut agents = config.agents.iter();
                let (_, settings) = agents.find(|(name, _)| name.as_str() == agent)?;
                (settings.provider.as_ref()?.as_str(), settings.model.clone())
            }
            None => (self.provider()?, None),
        };
        let mut all = config.providers.iter();
        let (provider, settings) = all.find(|(name, _)| name.as_str() == named)?;
        Some(Target {
            provider: provider.to_string(),
            model: model.unwrap_or_else(|| settings.model.clone()),
            settings: settings.clone(),
        })
    }

    /// What is registered of what it is about, key by key; nothing of a switch, which is about who answers.
    #[must_use]
    pub fn entry(&self, registered: &Registered) -> Option<Map<String, Value>> {
        let entry = match self {
            Self::Add(name, _) | Self::Edit(name, _) | Self::Remove(name) => {
                serde_json::to_value(registered.provider.get(name)?)
            }
            Self::Default(_) => {
                let name = registered.default_provider.as_ref()?;
                Ok(serde_json::json!({"default_provider": name}))
            }
            Self::Budget(name, _) | Self::BudgetRemove(name) => {
                serde_json::to_value(registered.budget.get(name)?)
            }
            Self::AgentCreate(name, _) | Self::AgentEdit(name, _) | Self::AgentRemove(name) => {
                serde_json::to_value(registered.agent.get(name)?)
            }
            Self::Model(..) | Self::Switch(..) | Self::SwitchBack(_) => return None,
        };
        match entry {
            Ok(Value::Object(entry)) => Some(entry),
            Ok(_) | Err(_) => None,
        }
    }

    /// The word for it in the audit log.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Add(..) => "added",
            Self::AgentCreate(..) => "created",
            Self::Edit(..) | Self::AgentEdit(..) => "changed",
            Self::Remove(_) | Self::BudgetRemove(_) | Self::AgentRemove(_) => "removed",
            Self::Budget(..) => "set",
            Self::Default(_) => "made the default",
            Self::Model(..) | Self::Switch(..) => "switched",
            Self::SwitchBack(_) => "switched back",
        }
    }

    /// What is registered after it. What stands in a file is not for callers to change: pawd may not write there.
    ///
    /// # Errors
    /// When there is no such provider, it stands in a file, or there are too many.
    pub fn of(&self, registered: &Registered, config: &Config) -> Result<Registered, Error> {
        let mut after = registered.clone();
        let name = self.provider().unwrap_or_default();
        let known = config
            .providers
            .iter()
            .find(|(known, _)| known.as_str() == name)
            .map(|(_, settings)| settings);
        match self {
            Self::Add(_, spec) => {
                if let Some(known) = known {
                    return Err(taken(name, known));
                }
                if after.provider.len() >= MOST {
                    let message = format!("there are {MOST} registered providers already");
                    let hint = "remove one, or write it into the configuration files";
                    return Err(Error::new(ErrorKind::Busy, message, hint));
                }
                after.provider.insert(name.to_owned(), entry(spec)?);
                // Where one was alone, it was the default without a word; a second one does not change that.
                if after.default_provider.is_none() && config.default_fixed_in.is_none() {
                    after.default_provider =
                        config.default_provider.as_ref().map(ToString::to_string);
                }
            }
            Self::Edit(_, spec) => {
                let entry = own(name, known, &mut after)?;
                edit(entry, spec);
            }
            Self::Remove(_) => {
                // One that a file of root's stands before answers for nobody: the name stays, and who is asked under it.
                if known.is_some_and(|known| !known.registered)
                    && after.provider.remove(name).is_some()
                {
                    return Ok(after);
                }
                own(name, known, &mut after)?;
                let is_default = config
                    .default_provider
                    .as_ref()
                    .is_some_and(|default| default.as_str() == name);
                if is_default && config.providers.len() > 1 {
                    let message = format!("{name} is the default provider");
                    let hint = "make another one the default first: `pawctl provider default NAME`";
                    return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
                }
                if let Some((agent, _)) = after.switched.iter().find(|(_, to)| to.provider == name)
                {
                    let message = format!("provider {name} answers for agent {agent}");
                    let hint = "switch that agent first: `pawctl model switch --agent NAME`, with another model or with --back";
                    return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
                }
                after.provider.remove(name);
                // With the last one goes the wish that it be the default.
                if config.providers.len() == 1 {
                    after.default_provider = None;
                }
            }
            Self::Default(_) => {
                if known.is_none() {
                    return Err(unknown(name));
                }
                if let Some(file) = &config.default_fixed_in {
                    let message = format!("the default provider is set in {file}");
                    let hint = "change default_provider there, then run `pawctl config reload`";
                    return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
                }
                after.default_provider = Some(name.to_owned());
            }
            Self::Model(_, model) => {
                own(name, known, &mut after)
                    .map_err(|error| {
                        if error.data.kind != ErrorKind::Conflict {
                            return error;
                        }
                        let hint = "change its model there, then run `pawctl config reload`; or switch one agent alone with --agent NAME";
                        Error::new(error.data.kind, error.message, hint).about(name)
                    })?
                    .model
                    .clone_from(model);
            }
            Self::Switch(agent, to) => {
                free(agent, config)?;
                if known.is_none() {
                    return Err(unknown(name));
                }
                if !after.switched.contains_key(agent) && after.switched.len() >= MOST {
                    let message = format!("there are {MOST} agents that were switched already");
                    let hint =
                        "switch one back with --back, or write it into the configuration files";
                    return Err(Error::new(ErrorKind::Busy, message, hint));
                }
                after.switched.insert(agent.clone(), to.clone());
            }
            Self::Budget(name, spec) => budgets::set(name, spec, &mut after, config)?,
            Self::BudgetRemove(name) => budgets::remove(name, &mut after, config)?,
            Self::AgentCreate(name, spec) => agents::create(name, spec, &mut after, config)?,
            Self::AgentEdit(name, spec) => agents::edit(name, spec, &mut after, config)?,
            Self::AgentRemove(name) => agents::remove(name, &mut after, config)?,
            Self::SwitchBack(agent) => {
                free(agent, config)?;
                if after.switched.remove(agent).is_none() {
                    let message = format!("agent {agent} was not switched");
                    let hint = "see `pawctl agent show`; what the configuration says holds already";
                    return Err(Error::new(ErrorKind::Conflict, message, hint).about(agent));
                }
            }
        }
        Ok(after)
    }
}

fn taken(name: &str, known: &ProviderSettings) -> Error {
    let message = format!("there is a provider {name} already, in {}", known.file);
    let hint = if known.registered {
        format!("change it with `pawctl provider edit {name}`, or choose another name")
    } else {
        "choose another name".to_owned()
    };
    Error::new(ErrorKind::Conflict, message, hint).about(name)
}

/// Whether it is for callers to say who answers for this agent.
fn free(agent: &str, config: &Config) -> Result<(), Error> {
    let found = config
        .agents
        .iter()
        .find(|(known, _)| known.as_str() == agent);
    let Some((_, settings)) = found else {
        let agent = shorten(agent);
        let message = format!("there is no agent {agent}");
        return Err(
            Error::new(ErrorKind::NotFound, message, "see `pawctl agent list`").about(agent),
        );
    };
    match &settings.answerer_fixed_in {
        Some(file) => {
            let message = format!("who answers for agent {agent} is set in {file}");
            let hint = "change its provider, model or route there, then run `pawctl config reload`";
            Err(Error::new(ErrorKind::Conflict, message, hint).about(agent))
        }
        None => Ok(()),
    }
}

fn unknown(name: &str) -> Error {
    let message = format!("there is no provider {}", shorten(name));
    Error::new(ErrorKind::NotFound, message, "see `pawctl provider list`").about(shorten(name))
}

/// The entry of a provider that was registered.
fn own<'a>(
    name: &str,
    known: Option<&ProviderSettings>,
    registered: &'a mut Registered,
) -> Result<&'a mut Entry, Error> {
    let settings = known.ok_or_else(|| unknown(name))?;
    if !settings.registered {
        let message = format!(
            "provider {name} stands in {}, which pawd may not write",
            settings.file
        );
        let hint = "change it there, then run `pawctl config reload`";
        return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
    }
    registered
        .provider
        .get_mut(name)
        .ok_or_else(|| unknown(name))
}

fn entry(spec: &ProviderSpec) -> Result<Entry, Error> {
    let needed = |value: &Option<String>, which: &str| {
        value.clone().ok_or_else(|| {
            let message = format!("a provider needs its {which}");
            Error::new(ErrorKind::Invalid, message, format!("say {which}"))
        })
    };
    let mut entry = Entry {
        kind: needed(&spec.kind, "kind")?,
        base_url: needed(&spec.base_url, "base_url")?,
        model: needed(&spec.model, "model")?,
        ..Entry::default()
    };
    edit(&mut entry, spec);
    Ok(entry)
}

/// Takes over what the spec says.
fn edit(entry: &mut Entry, spec: &ProviderSpec) {
    let ProviderSpec {
        kind,
        base_url,
        model,
        api_key_credential,
        api_key_secret,
        allow_plaintext,
        may_receive,
        max_retries,
        check_interval_ms,
        connect_timeout_ms,
        first_token_timeout_ms,
        stall_timeout_ms,
        total_timeout_ms,
        warm,
    } = spec;
    let texts = [
        (&mut entry.kind, kind),
        (&mut entry.base_url, base_url),
        (&mut entry.model, model),
    ];
    for (old, new) in texts {
        if let Some(new) = new {
            old.clone_from(new);
        }
    }
    // A key has one place: who names another one, or none, means that it is no longer where it was.
    if api_key_credential.is_some() || api_key_secret.is_some() {
        let named = |key: &Option<String>| key.clone().filter(|key| !key.is_empty());
        entry.api_key_credential = named(api_key_credential);
        entry.api_key_secret = named(api_key_secret);
    }
    entry.allow_plaintext = allow_plaintext.or(entry.allow_plaintext);
    if let Some(ceiling) = may_receive {
        entry.may_receive = Some(ceiling.to_string());
    }
    entry.max_retries = max_retries.or(entry.max_retries);
    entry.warm = warm.or(entry.warm);
    let times = [
        (&mut entry.check_interval, check_interval_ms),
        (&mut entry.connect_timeout, connect_timeout_ms),
        (&mut entry.first_token_timeout, first_token_timeout_ms),
        (&mut entry.stall_timeout, stall_timeout_ms),
        (&mut entry.total_timeout, total_timeout_ms),
    ];
    for (old, new) in times {
        if let Some(ms) = new {
            *old = Some(format!("{ms}ms"));
        }
    }
}
