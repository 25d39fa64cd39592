//! What a change makes of the agents that are registered. Pure.
//!
//! What an agent may name, and that it asks those alone that may do no more than it, is checked by who checks the files.

use paw_api::{Error, ErrorKind, agent::AgentSpec};
use paw_policy::Digest;

use crate::{
    config::{
        AgentSettings, Config,
        registered::{AgentEntry, MOST, Registered},
    },
    records::shorten,
};

/// Registers one.
///
/// # Errors
/// When there is one of this name, or there are too many.
pub(super) fn create(
    name: &str,
    spec: &AgentSpec,
    after: &mut Registered,
    config: &Config,
) -> Result<(), Error> {
    if let Some(AgentSettings {
        file: Some(file),
        registered,
        ..
    }) = known(name, config)
    {
        let message = format!("there is an agent {name} already, in {file}");
        let hint = if *registered {
            format!("change it with `pawctl agent edit {name}`, or choose another name")
        } else {
            "choose another name".to_owned()
        };
        return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
    }
    if after.agent.len() >= MOST {
        let message = format!("there are {MOST} registered agents already");
        let hint = "remove one, or write it into the configuration files";
        return Err(Error::new(ErrorKind::Busy, message, hint));
    }
    if !spec.unset.is_empty() {
        let message = "of a new agent nothing is said yet that could be unset";
        return Err(Error::new(ErrorKind::Invalid, message, "leave unset out"));
    }
    let mut entry = AgentEntry::default();
    say(&mut entry, spec);
    // One of this name may have been switched that is no more; and who is said to answer now answers.
    if known(name, config).is_none() || answers(&entry) != answers(&AgentEntry::default()) {
        after.switched.remove(name);
    }
    after.agent.insert(name.to_owned(), entry);
    Ok(())
}

/// Changes one that was registered; what the spec does not say stays.
///
/// # Errors
/// When there is none, it stands in a file of root's, or a key is unset that there is not.
pub(super) fn edit(
    name: &str,
    spec: &AgentSpec,
    after: &mut Registered,
    config: &Config,
) -> Result<(), Error> {
    own(name, config)?;
    let entry = after.agent.get_mut(name).ok_or_else(|| unknown(name))?;
    let before = entry.clone();
    for key in &spec.unset {
        unset(entry, key)?;
    }
    say(entry, spec);
    // Who is said to answer now answers, and not whom it was switched to before.
    if answers(&before) != answers(entry) {
        after.switched.remove(name);
    }
    Ok(())
}

/// Who answers for one, as far as it says.
fn answers(entry: &AgentEntry) -> [Option<String>; 3] {
    let AgentEntry {
        provider,
        model,
        route,
        ..
    } = entry.clone();
    [provider, model, route]
}

/// Removes one that was registered, also where one of root's stands before it.
///
/// # Errors
/// When there is none, it stands in a file of root's alone, or a budget is its own.
pub(super) fn remove(name: &str, after: &mut Registered, config: &Config) -> Result<(), Error> {
    if after.agent.remove(name).is_none() {
        own(name, config)?;
        return Err(unknown(name));
    }
    if goes(name, config) {
        after.switched.remove(name);
        let mut budgets = after.budget.iter();
        let of_it = budgets.find(|(_, budget)| budget.agent.as_deref() == Some(name));
        if let Some((budget, _)) = of_it {
            let message = format!("budget {budget} is of agent {name}");
            let hint = format!("remove that first: `pawctl budget set {budget} --remove`");
            return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
        }
    }
    Ok(())
}

/// Whether there is no agent of this name when what is registered of it is removed.
pub(crate) fn goes(name: &str, config: &Config) -> bool {
    name != "default" && known(name, config).is_some_and(|it| it.registered)
}

fn known<'a>(name: &str, config: &'a Config) -> Option<&'a AgentSettings> {
    let mut agents = config.agents.iter();
    let found = agents.find(|(known, _)| known.as_str() == name);
    found.map(|(_, settings)| settings)
}

fn own(name: &str, config: &Config) -> Result<(), Error> {
    let settings = known(name, config).ok_or_else(|| unknown(name))?;
    let (message, hint) = match &settings.file {
        _ if settings.registered => return Ok(()),
        Some(file) => (
            format!("agent {name} stands in {file}, which pawd may not write"),
            "change it there, then run `pawctl config reload`".to_owned(),
        ),
        None => (
            format!("agent {name} is the one that is always there, and was not registered"),
            format!("register what it shall be: `pawctl agent create {name}`"),
        ),
    };
    Err(Error::new(ErrorKind::Conflict, message, hint).about(name))
}

fn unknown(name: &str) -> Error {
    let name = shorten(name);
    let message = format!("there is no agent {name}");
    Error::new(ErrorKind::NotFound, message, "see `pawctl agent list`").about(name)
}

/// Takes over what the spec says.
fn say(entry: &mut AgentEntry, spec: &AgentSpec) {
    let AgentSpec {
        instructions,
        provider,
        model,
        route,
        isolation_floor,
        workspace,
        skills,
        agents,
        net,
        max_turns,
        max_tokens,
        temperature,
        may_leave_host,
        unset: _,
    } = spec;
    // A route answers in place of a provider: who says the one means the other no more.
    match (route, provider.is_some() || model.is_some()) {
        (Some(_), false) => (entry.provider, entry.model) = (None, None),
        (None, true) => entry.route = None,
        (Some(_), true) | (None, false) => {}
    }
    fn take<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
        if new.is_some() {
            old.clone_from(new);
        }
    }
    take(&mut entry.instructions, instructions);
    take(&mut entry.provider, provider);
    take(&mut entry.model, model);
    take(&mut entry.route, route);
    take(&mut entry.isolation_floor, isolation_floor);
    take(&mut entry.workspace, workspace);
    take(&mut entry.skills, skills);
    take(&mut entry.agents, agents);
    take(&mut entry.net, net);
    take(&mut entry.max_turns, max_turns);
    take(&mut entry.max_tokens, max_tokens);
    take(&mut entry.temperature, temperature);
    take(&mut entry.may_leave_host, may_leave_host);
}

fn unset(entry: &mut AgentEntry, key: &str) -> Result<(), Error> {
    match key {
        "instructions" => entry.instructions = None,
        "provider" => entry.provider = None,
        "model" => entry.model = None,
        "route" => entry.route = None,
        "isolation_floor" => entry.isolation_floor = None,
        "workspace" => entry.workspace = None,
        "skills" => entry.skills = None,
        "agents" => entry.agents = None,
        "net" => entry.net = None,
        "max_turns" => entry.max_turns = None,
        "max_tokens" => entry.max_tokens = None,
        "temperature" => entry.temperature = None,
        "may_leave_host" => entry.may_leave_host = None,
        other => {
            let message = format!("an agent has no {}", shorten(other));
            let hint = "see pawd.toml(5), [agent.NAME]";
            return Err(Error::new(ErrorKind::Invalid, message, hint));
        }
    }
    Ok(())
}

/// What a record says of one. What may be long is counted and has its digest, as a record has but the beginning of it.
pub(crate) fn told(entry: &AgentEntry) -> Vec<(&'static str, String)> {
    let text = |value: &Option<String>| value.clone();
    let list = |value: &Option<Vec<String>>| {
        value.as_ref().map(|all| {
            let joined = all.join(",");
            format!("{} {} {joined}", all.len(), Digest::of(joined.as_bytes()))
        })
    };
    let number = |value: Option<u32>| value.map(|it| it.to_string());
    let said = [
        (
            "instructions",
            entry
                .instructions
                .as_ref()
                .map(|it| format!("{} bytes {}", it.len(), Digest::of(it.as_bytes()))),
        ),
        ("provider", text(&entry.provider)),
        ("model", text(&entry.model)),
        ("route", text(&entry.route)),
        ("isolation_floor", text(&entry.isolation_floor)),
        ("workspace", text(&entry.workspace)),
        ("skills", list(&entry.skills)),
        ("agents", list(&entry.agents)),
        ("net", list(&entry.net)),
        ("max_turns", number(entry.max_turns)),
        ("max_tokens", number(entry.max_tokens)),
        ("temperature", entry.temperature.map(|it| it.to_string())),
        (
            "may_leave_host",
            entry.may_leave_host.map(|it| it.to_string()),
        ),
    ];
    let said = said.into_iter();
    said.filter_map(|(key, value)| Some((key, value?)))
        .collect()
}
