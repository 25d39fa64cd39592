//! Changes of who answers and of what is registered: what is asked becomes a plan that says what would hold, and what holds now.
//!
//! Only an administrator gets as far as a plan, as with the methods that do the same: what would come of a change tells of keys and files,
//! and what is said of a provider might be a key, given by mistake, which no record of a refusal shall keep.

use paw_api::{Error, ErrorKind, agent::AgentSpec, budget::BudgetSpec, provider::ProviderSpec};
use paw_policy::{
    Circumstances, ConfigArguments, ConfigChange, Kind, Name, Operation, Role, State,
    SwitchArguments, Target,
};
use paw_store::{ActionFilter, Caller, GrantRecord, Page};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Asked, Intake, Typed, arguments::read, secrets, unreadable};
use crate::{
    clock::now_ms,
    config::registered::Switched,
    models::{
        pulls,
        told::{self, limit, named},
    },
    orchestrator::work::Progress,
    providers::{
        agents,
        register::{self, Change},
    },
    records::{shorten, shorten_to},
    reload::digest,
};

/// What a reload is about.
pub const THIS: &str = "this";

/// Characters of one value that are shown of a change.
const VALUE: usize = 300;

/// A switch that is asked for, as the method takes it, too.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchAsked {
    /// To which model; without one, the agent goes back to what the configuration says.
    pub model: Option<String>,
    /// Of which provider, if not of the one that answers now.
    pub provider: Option<String>,
    /// For which agent; without one, for all who name no model.
    pub agent: Option<String>,
    /// Whether a model is taken that the provider does not list.
    #[serde(default)]
    pub unlisted: bool,
    /// How long it may take to be ready, in milliseconds.
    pub timeout_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigAsked {
    change: ConfigChange,
    name: String,
    #[serde(default)]
    spec: Map<String, Value>,
}

/// Which model is fetched.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelAsked {
    model: String,
}

impl Intake {
    /// The plan of a switch, and what is known of it.
    pub(super) async fn switch(&self, asked: Asked, caller: &Caller) -> Result<Typed, Error> {
        administrators(Kind::ModelSwitch, caller)?;
        let asked: SwitchAsked = read(asked.arguments)?;
        let timeout = limit(asked.timeout_ms)?;
        let change = self.wish(&asked)?;
        // What cannot be is said before anybody is asked anything.
        let weighed = self.reload.weigh(change.clone()).await?;
        let Some(to) = weighed.target else {
            let message = "nobody would answer after that";
            let hint = "make a provider the default with `pawctl provider default NAME`";
            return Err(Error::new(ErrorKind::Conflict, message, hint));
        };
        let circumstances = Circumstances {
            leaves_host: !to.settings.is_local(),
            ..Circumstances::default()
        };
        let arguments = SwitchArguments {
            agent: change.agent().map(name).transpose()?,
            to: target(&to)?,
            back: matches!(change, Change::SwitchBack(_)),
            place: to.settings.base_url.to_string(),
            was: weighed.was.as_ref().map(target).transpose()?,
            unlisted: asked.unlisted,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Typed {
            operation: Operation::ModelSwitch(arguments),
            place: None,
            circumstances,
        })
    }

    /// The change that a switch is.
    ///
    /// # Errors
    /// When that cannot be meant.
    pub fn wish(&self, asked: &SwitchAsked) -> Result<Change, Error> {
        limit(asked.timeout_ms)?;
        let invalid = |message: &str, hint: &str| Error::new(ErrorKind::Invalid, message, hint);
        let Some(model) = asked.model.clone() else {
            return match (&asked.agent, &asked.provider) {
                (Some(agent), None) => Ok(Change::SwitchBack(agent.clone())),
                (_, Some(_)) => Err(invalid("a provider without a model", "name the model")),
                (None, None) => Err(invalid("no model is named", "name one")),
            };
        };
        let (model, provider) = (named(model)?, asked.provider.clone());
        let Some(agent) = asked.agent.clone() else {
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
                let message = format!("agent {} has no provider", shorten(agent));
                Err(Error::new(ErrorKind::NotFound, message, hint))
            }
        }
    }

    /// The plan of a change of what is registered.
    pub(super) async fn configure(
        &self,
        asked: Asked,
        caller: &Caller,
        beside: &Progress,
    ) -> Result<Typed, Error> {
        administrators(Kind::ConfigChange, caller)?;
        if secrets::is_one(&asked.arguments) {
            let operation = secrets::change(&self.secrets, asked.arguments, beside)?;
            return Ok(Typed::plain(operation, None));
        }
        let ConfigAsked {
            change: word,
            name: about,
            spec,
        } = read(asked.arguments)?;
        let change = match config_change_of(word, &about, &spec)? {
            Configured::Registered(change) => *change,
            Configured::Read => return self.reread(word, &about, caller).await,
            Configured::Fetched(model) => return self.fetch(word, &about, model),
        };
        self.unused(&change)?;
        let weighed = self.reload.weigh(change).await?;
        let arguments = ConfigArguments {
            change: word,
            name: name(&about)?,
            spec,
            replaces: weighed.before.as_ref().map(digest),
            difference: difference(
                &weighed.before.unwrap_or_default(),
                &weighed.after.unwrap_or_default(),
            ),
        };
        Ok(Typed::plain(Operation::ConfigChange(arguments), None))
    }
}

impl Intake {
    /// The plan of reading again what root wrote: as it stands there when this is asked.
    async fn reread(
        &self,
        change: ConfigChange,
        about: &str,
        caller: &Caller,
    ) -> Result<Typed, Error> {
        if about != THIS {
            let message = "what is read again is the configuration of this host";
            return Err(Error::new(ErrorKind::Invalid, message, "call it \"this\"").about(about));
        }
        let looked = self.reload.look(caller.clone()).await?;
        let changed = looked.reloaded.changed.iter().map(|it| format!("~ {it}"));
        let restart = looked.reloaded.needs_restart.iter();
        let restart = restart.map(|it| format!("~ {it} (after a restart)"));
        let arguments = ConfigArguments {
            change,
            name: name(about)?,
            spec: Map::new(),
            replaces: Some(looked.digest),
            difference: changed.chain(restart).collect(),
        };
        Ok(Typed::plain(Operation::ConfigChange(arguments), None))
    }

    /// The plan of having a provider fetch a model, from where that provider is when this is asked.
    fn fetch(&self, change: ConfigChange, about: &str, model: String) -> Result<Typed, Error> {
        let (provider, known) = told::known(&self.providers.borrow(), about)?;
        if !known.client.holds_models() {
            let kind = known.settings.kind.as_str();
            let message = format!("provider {provider} is of kind {kind}, and fetches no models");
            let hint = "name a provider of kind ollama with --provider";
            return Err(Error::new(ErrorKind::Invalid, message, hint).about(about));
        }
        self.pulls.free()?;
        let place = known.settings.base_url.as_str();
        let difference = vec![format!("+ {} at {place}", shorten_to(&model, VALUE))];
        let arguments = ConfigArguments {
            change,
            name: provider,
            spec: Map::from_iter([("model".to_owned(), Value::from(model))]),
            replaces: Some(pulls::place(&known)),
            difference,
        };
        Ok(Typed::plain(Operation::ConfigChange(arguments), None))
    }

    /// Whether nothing goes on or waits for, no grant permits something to, and no job is told to, whom a change leaves nobody of: it would
    /// be the next agent's of this name, who may have other rights. Conversations stay: they are told that there is no such agent.
    ///
    /// # Errors
    /// `conflict` with what goes on.
    pub fn unused(&self, change: &Change) -> Result<(), Error> {
        let Change::AgentRemove(about) = change else {
            return Ok(());
        };
        if !agents::goes(about, &self.config.borrow()) {
            return Ok(());
        }
        let used = |message: String, hint: String| {
            Err(Error::new(ErrorKind::Conflict, message, hint).about(about))
        };
        let agent = name(about)?;
        let going = ActionFilter {
            states: vec![
                State::Queued,
                State::WaitingApproval,
                State::Approved,
                State::Executing,
            ],
            agent: Some(agent.clone()),
            ..ActionFilter::default()
        };
        let read = self.storage.read();
        let going = read.actions(&going, &Page::newest(1));
        if let Some(action) = going.map_err(|error| unreadable(&error))?.records.first() {
            let message = format!("agent {agent} has not ended what it is asked to do");
            let hint = format!(
                "wait for it, or end it: `pawctl action cancel {}`",
                action.id
            );
            return used(message, hint);
        }
        let grants = read.grants().map_err(|error| unreadable(&error))?;
        let now = now_ms();
        let lasts = |grant: &&GrantRecord| grant.agent == agent && grant.until_ms > now;
        if let Some(grant) = grants.iter().find(lasts) {
            let message = format!("agent {agent} has a grant");
            return used(
                message,
                format!("revoke it first: `pawctl approval revoke {}`", grant.id),
            );
        }
        let jobs = read.jobs().map_err(|error| unreadable(&error))?;
        match jobs.iter().find(|job| job.agent == agent) {
            Some(job) => {
                let message = format!("agent {agent} is told something by job {}", job.name);
                used(
                    message,
                    format!("remove that first: `pawctl job remove {}`", job.id),
                )
            }
            None => Ok(()),
        }
    }
}

/// The change that a plan of a switch says.
#[must_use]
pub fn switch_of(plan: &SwitchArguments) -> Change {
    let (provider, model) = (plan.to.provider.to_string(), plan.to.model.clone());
    match (&plan.agent, plan.back) {
        (Some(agent), true) => Change::SwitchBack(agent.to_string()),
        (Some(agent), false) => Change::Switch(agent.to_string(), Switched { provider, model }),
        (None, _) => Change::Model(provider, model),
    }
}

/// What a change of what is configured does.
#[derive(Debug, Clone, PartialEq)]
pub enum Configured {
    /// Something else is registered.
    Registered(Box<Change>),
    /// What root wrote is read again.
    Read,
    /// A provider fetches this model.
    Fetched(String),
}

/// What this word says of a provider, a budget, an agent, a model or all of it.
///
/// # Errors
/// `denied` for a specification that cannot be read, or where none is taken.
pub fn config_change_of(
    change: ConfigChange,
    name: &str,
    spec: &Map<String, Value>,
) -> Result<Configured, Error> {
    let name = name.to_owned();
    let bare = || {
        if spec.is_empty() {
            return Ok(());
        }
        let message = format!("unreadable arguments: {} takes no spec", change.as_str());
        Err(Error::new(ErrorKind::Denied, message, "leave it out"))
    };
    let nothing = |made: Change| bare().map(|()| made);
    let registered = match change {
        ConfigChange::ConfigReload => return bare().map(|()| Configured::Read),
        ConfigChange::ModelPull => {
            let ModelAsked { model } = said(spec)?;
            return Ok(Configured::Fetched(named(model)?));
        }
        ConfigChange::ProviderAdd => Ok(Change::Add(name, said::<ProviderSpec>(spec)?)),
        ConfigChange::ProviderEdit => Ok(Change::Edit(name, said::<ProviderSpec>(spec)?)),
        ConfigChange::ProviderRemove => nothing(Change::Remove(name)),
        ConfigChange::ProviderDefault => nothing(Change::Default(name)),
        ConfigChange::BudgetSet => Ok(Change::Budget(name, said::<BudgetSpec>(spec)?)),
        ConfigChange::BudgetRemove => nothing(Change::BudgetRemove(name)),
        ConfigChange::AgentCreate => Ok(Change::AgentCreate(name, said::<AgentSpec>(spec)?)),
        ConfigChange::AgentEdit => Ok(Change::AgentEdit(name, said::<AgentSpec>(spec)?)),
        ConfigChange::AgentRemove => nothing(Change::AgentRemove(name)),
    };
    registered.map(|change| Configured::Registered(Box::new(change)))
}

fn said<T: DeserializeOwned>(spec: &Map<String, Value>) -> Result<T, Error> {
    read(spec.clone())
}

fn administrators(kind: Kind, caller: &Caller) -> Result<(), Error> {
    match caller.role {
        Role::Admin => Ok(()),
        Role::User | Role::Approver => {
            let message = format!("only an administrator asks for an action of kind {kind}");
            let hint = "ask one, or become one: see \"roles\" in pawd.toml(5)";
            Err(Error::new(ErrorKind::Denied, message, hint))
        }
    }
}

fn name(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|error: paw_policy::words::BadName| {
        let hint = "use such a name";
        Error::new(ErrorKind::Invalid, error.to_string(), hint)
    })
}

fn target(of: &register::Target) -> Result<Target, Error> {
    Ok(Target {
        provider: name(&of.provider)?,
        model: of.model.clone(),
    })
}

/// One line for each key that is another one after it. What is registered names keys and secrets, and has none in it.
fn difference(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let lines = |sign: char, of: &Map<String, Value>, than: &Map<String, Value>| {
        let others = of
            .iter()
            .filter(|(key, value)| than.get(*key) != Some(*value));
        let each = others.map(|(key, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            format!("{sign} {key} {}", shorten_to(&text, VALUE))
        });
        each.collect::<Vec<_>>()
    };
    let mut all = lines('-', before, after);
    all.extend(lines('+', after, before));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn difference_says_what_goes_and_what_comes() {
        let before = map(json!({"model": "a", "kind": "ollama", "warm": true}));
        let after = map(json!({"model": "b\nc", "kind": "ollama", "max_retries": 3}));
        assert_eq!(
            difference(&before, &after),
            ["- model a", "- warm true", "+ model b c", "+ max_retries 3"]
        );
        assert_eq!(difference(&before, &before), [""; 0]);
    }

    #[test]
    fn change_that_takes_no_specification_is_given_none() {
        let spec = map(json!({"model": "a"}));
        for change in ConfigChange::ALL {
            let made = config_change_of(change, "local", &spec);
            let takes = matches!(
                change,
                ConfigChange::ProviderAdd
                    | ConfigChange::ProviderEdit
                    | ConfigChange::BudgetSet
                    | ConfigChange::AgentCreate
                    | ConfigChange::AgentEdit
                    | ConfigChange::ModelPull
            );
            assert_eq!(made.is_ok(), takes, "{change:?}");
        }
        let unknown = map(json!({"api_key": "x"}));
        assert!(config_change_of(ConfigChange::ProviderAdd, "local", &unknown).is_err());
    }
}
