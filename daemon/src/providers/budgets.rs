//! What a change makes of the budgets that are registered. Pure.

use paw_api::{Error, ErrorKind, budget::BudgetSpec};

use crate::{
    config::{
        BudgetSettings, Config,
        registered::{BudgetEntry, MOST_BUDGETS, Registered},
    },
    records::shorten,
};

/// Sets one: a new one, or what is said of one that was registered.
///
/// # Errors
/// When it stands in a file of root's, lacks its time, names somebody who is not there, or there are too many.
pub(super) fn set(
    name: &str,
    spec: &BudgetSpec,
    after: &mut Registered,
    config: &Config,
) -> Result<(), Error> {
    if let Some(known) = known(name, config) {
        own(name, known)?;
    }
    // Nothing of root's is named by what is not there: such a budget would be left out in silence.
    for (what, named, is_there) in [
        (
            "provider",
            &spec.provider,
            config
                .providers
                .keys()
                .any(|it| Some(it.as_str()) == spec.provider.as_deref()),
        ),
        (
            "agent",
            &spec.agent,
            config
                .agents
                .keys()
                .any(|it| Some(it.as_str()) == spec.agent.as_deref()),
        ),
    ] {
        if let (Some(named), false) = (named, is_there) {
            let named = shorten(named);
            let message = format!("there is no {what} {named}");
            let hint = format!("see `pawctl {what} list`");
            return Err(Error::new(ErrorKind::NotFound, message, hint).about(named));
        }
    }
    let is_new = !after.budget.contains_key(name);
    if is_new && after.budget.len() >= MOST_BUDGETS {
        let message = format!("there are {MOST_BUDGETS} registered budgets already");
        let hint = "remove one, or write it into the configuration files";
        return Err(Error::new(ErrorKind::Busy, message, hint));
    }
    if is_new && spec.per.is_none() {
        let message = "a budget needs the time after which it begins anew";
        return Err(Error::new(
            ErrorKind::Invalid,
            message,
            "say per: day, month or ever",
        ));
    }
    let entry = after.budget.entry(name.to_owned()).or_default();
    let BudgetSpec {
        provider,
        model,
        agent,
        user,
        each,
        per,
        cost,
        tokens,
    } = spec;
    for (old, new) in [
        (&mut entry.provider, provider),
        (&mut entry.model, model),
        (&mut entry.agent, agent),
        (&mut entry.user, user),
    ] {
        if new.is_some() {
            old.clone_from(new);
        }
    }
    if let Some(each) = each {
        entry.each.clone_from(each);
    }
    if let Some(per) = per {
        entry.per.clone_from(per);
    }
    entry.cost = cost.map(dollars).or(entry.cost);
    entry.tokens = tokens.or(entry.tokens);
    Ok(())
}

/// Removes one that was registered, also where one of root's stands before it.
///
/// # Errors
/// When there is none, or it stands in a file of root's alone.
pub(super) fn remove(name: &str, after: &mut Registered, config: &Config) -> Result<(), Error> {
    if after.budget.remove(name).is_some() {
        return Ok(());
    }
    let name = shorten(name);
    match known(&name, config) {
        Some(known) => own(&name, known),
        None => {
            let message = format!("there is no budget {name}");
            let hint = "see `pawctl budget show`";
            Err(Error::new(ErrorKind::NotFound, message, hint).about(name))
        }
    }
}

fn known<'a>(name: &str, config: &'a Config) -> Option<&'a BudgetSettings> {
    let mut budgets = config.budgets.iter();
    let found = budgets.find(|(known, _)| known.as_str() == name);
    found.map(|(_, settings)| settings)
}

fn own(name: &str, known: &BudgetSettings) -> Result<(), Error> {
    if known.registered {
        return Ok(());
    }
    let message = format!(
        "budget {name} stands in {}, which pawd may not write",
        known.file
    );
    let hint = "change it there, then run `pawctl config reload`";
    Err(Error::new(ErrorKind::Conflict, message, hint).about(name))
}

/// As files say it.
fn dollars(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// What a record says of one.
pub(crate) fn told(entry: &BudgetEntry) -> Vec<(&'static str, String)> {
    let named = [
        ("only_provider", &entry.provider),
        ("only_model", &entry.model),
        ("only_agent", &entry.agent),
        ("only_user", &entry.user),
    ];
    let named = named
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.clone()?)));
    let each = Some(entry.each.join(",")).filter(|each| !each.is_empty());
    let numbers = [
        ("each", each),
        ("per", Some(entry.per.clone())),
        ("cost", entry.cost.map(|cost| cost.to_string())),
        ("tokens", entry.tokens.map(|tokens| tokens.to_string())),
    ];
    let numbers = numbers
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    named.chain(numbers).collect()
}
