//! Agents: what each of them may do, and whom it may ask.

use std::collections::BTreeMap;

use paw_api::egress::NetRule;
use paw_launch::{request::Isolation, workspace::Settle};
use paw_policy::Name;
use toml::Spanned;

use super::{
    AgentSettings, ProviderSettings, RouteSettings, Stray, SubAgent,
    fault::{Fault, Faults},
    file,
    layers::{Layers, MAX_TURNS, bounded, read_value, reference, turns},
    source::Source,
    value::{self, isolation, name, settle},
};
use crate::records::shorten_to;

/// How much of its instructions says what an agent is for, in characters.
const ABOUT: usize = 200;

/// The most bytes of instructions that are registered; what root writes is as long as a file may be.
const MAX_INSTRUCTIONS: usize = 16 * 1024;

/// The most skills, agents and rules for the network, each, of an agent that is registered.
const MAX_LISTED: usize = 64;

/// What an agent may name.
pub(super) struct Known<'a> {
    pub(super) providers: &'a BTreeMap<Name, ProviderSettings>,
    /// Who answers for agents that name nobody.
    pub(super) default: Option<&'a Name>,
    pub(super) routes: &'a BTreeMap<Name, RouteSettings>,
    /// The weakest isolation of whoever says nothing of it, and of whoever was registered.
    pub(super) floor: Isolation,
}

/// All agents; one called `default` is always there. Of those in the file `ours`, which were registered, what root's files have no more, or
/// no more allow, is no fault: they do without it.
pub(super) fn agents(
    layers: &Layers,
    ours: Option<&str>,
    &Known {
        providers: known,
        default,
        routes,
        floor,
    }: &Known<'_>,
    faults: &mut Faults,
) -> (BTreeMap<Name, AgentSettings>, Vec<Stray>) {
    let shipped = AgentSettings {
        instructions: "You are a helpful assistant. Answer briefly and say when you do not know."
            .into(),
        provider: default.cloned(),
        model: None,
        route: None,
        answerer_fixed_in: None,
        switched: false,
        isolation_floor: floor,
        workspace: Settle::Commit,
        skills: vec!["files".parse().expect("`files` is a name")],
        agents: Vec::new(),
        net: Vec::new(),
        max_turns: MAX_TURNS,
        max_tokens: None,
        temperature: None,
        may_leave_host: false,
        file: None,
        registered: false,
    };
    let mut strays = Vec::new();
    let mut agents = BTreeMap::from([(
        "default".parse().expect("`default` is a name"),
        shipped.clone(),
    )]);
    let mut helped = Vec::new();
    for (source, file) in &layers.0 {
        for (key, agent) in &file.agent {
            let Some(key) = read_value(source, key, &name, faults) else {
                continue;
            };
            let registered = ours == Some(source.name.as_str());
            let mut missing = Faults::default();
            let route = agent
                .route
                .as_ref()
                .and_then(|value| reference(source, value, routes, "route", &mut missing));
            if let Some(value) = &agent.route
                && (agent.provider.is_some() || agent.model.is_some())
            {
                let hint = "leave out provider and model, or the route: it names both";
                faults.at(
                    source,
                    value.span(),
                    "a route beside a provider or a model",
                    hint,
                );
            }
            let provider = match &agent.provider {
                Some(value) => reference(source, value, known, "provider", &mut missing),
                None => default.filter(|_| agent.route.is_none()).cloned(),
            };
            let mut isolation_floor = agent
                .isolation_floor
                .as_ref()
                .and_then(|value| read_value(source, value, &isolation, faults))
                .unwrap_or(floor);
            if let (true, Some(value)) = (registered, &agent.isolation_floor)
                && isolation_floor < floor
            {
                let message = format!("{isolation_floor} is weaker than [sandbox] isolation_floor");
                let hint = format!("use {floor}, or what is stronger");
                missing.at(source, value.span(), message, hint);
                isolation_floor = floor;
            }
            if registered {
                strays.extend(missing.0.into_iter().map(|fault| stray(&key, fault)));
                bounds(source, agent, faults);
            } else {
                faults.0.extend(missing.0);
            }
            let skills = agent.skills.as_ref().map(|skills| {
                let parsed = skills.get_ref().iter().filter_map(|skill| {
                    name(skill)
                        .map_err(|hint| {
                            faults.at(
                                source,
                                skills.span(),
                                format!("{skill:?} is no skill"),
                                hint,
                            )
                        })
                        .ok()
                });
                parsed.collect()
            });
            let net = agent.net.iter().flat_map(|net| {
                let span = net.span();
                net.get_ref().iter().map(move |rule| (span.clone(), rule))
            });
            let net = net
                .filter_map(|(span, rule)| {
                    let parsed = rule.parse::<NetRule>();
                    parsed
                        .map_err(|error| {
                            let hint = "write HOST:PORT, *.NAME:PORT or broker/NAME";
                            faults.at(source, span, error.to_string(), hint);
                        })
                        .ok()
                })
                .collect();
            let settings = AgentSettings {
                instructions: agent
                    .instructions
                    .clone()
                    .unwrap_or_else(|| shipped.instructions.clone()),
                provider,
                model: agent.model.clone(),
                answerer_fixed_in: (agent.says_who_answers() && !registered)
                    .then(|| source.name.clone()),
                switched: false,
                route,
                isolation_floor,
                workspace: agent
                    .workspace
                    .as_ref()
                    .and_then(|value| read_value(source, value, &settle, faults))
                    .unwrap_or(Settle::Commit),
                skills: skills.unwrap_or_default(),
                // Once all of them are known.
                agents: Vec::new(),
                net,
                max_turns: turns(source, agent.max_turns.as_ref(), faults),
                max_tokens: agent.max_tokens.as_ref().map(|value| *value.get_ref()),
                temperature: agent
                    .temperature
                    .as_ref()
                    .map(|value| bounded(source, value, &(0.0..=2.0), faults)),
                may_leave_host: agent.may_leave_host.unwrap_or(false),
                file: Some(source.name.clone()),
                registered,
            };
            // A later file says all of an agent, its helpers as well.
            helped.retain(|(named, _, _)| *named != key);
            if let Some(helpers) = &agent.agents {
                helped.push((key.clone(), source, helpers));
            }
            agents.insert(key, settings);
        }
    }
    // Root's files have the last word on a name, and so on what is missing under it.
    let own = |key: &Name| agents.get(key).is_some_and(|it| it.registered);
    strays.retain(|stray| own(&stray.agent));
    for (key, source, helpers) in helped {
        let mut missing = Faults::default();
        let found = helpers_of(&key, (source, helpers), &agents, &mut missing);
        if ours == Some(source.name.as_str()) {
            strays.extend(missing.0.into_iter().map(|fault| stray(&key, fault)));
        } else {
            faults.0.extend(missing.0);
        }
        if let Some(settings) = agents.get_mut(&key) {
            settings.agents = found;
        }
    }
    (agents, strays)
}

fn stray(agent: &Name, fault: Fault) -> Stray {
    Stray {
        agent: agent.clone(),
        message: fault.message,
        hint: fault.hint,
    }
}

/// What is registered is kept and read again at each start, so it has bounds that root's files have not.
fn bounds(source: &Source, agent: &file::Agent, faults: &mut Faults) {
    let mut fault = |message: String, hint: String| faults.at(source, 0..0, message, hint);
    let length = agent.instructions.as_ref().map_or(0, String::len);
    if length > MAX_INSTRUCTIONS {
        let hint = format!("use at most {MAX_INSTRUCTIONS}, or write them into a file of root's");
        fault(format!("instructions of {length} bytes"), hint);
    }
    if let Some(Err(hint)) = agent.model.as_deref().map(value::model) {
        fault("a model that cannot be meant".to_owned(), hint);
    }
    for (what, list) in [
        ("skills", &agent.skills),
        ("agents", &agent.agents),
        ("rules in its net", &agent.net),
    ] {
        let count = list.as_ref().map_or(0, |list| list.get_ref().len());
        if count > MAX_LISTED {
            let hint = format!("use at most {MAX_LISTED}");
            fault(format!("{count} {what}"), hint);
        }
    }
}

/// The agents that an agent may ask. None of them may do what it may not do itself.
fn helpers_of(
    key: &Name,
    (source, helpers): (&Source, &Spanned<Vec<String>>),
    agents: &BTreeMap<Name, AgentSettings>,
    faults: &mut Faults,
) -> Vec<SubAgent> {
    let mut found: Vec<SubAgent> = Vec::new();
    let mut fault = |message: String, hint: &str| faults.at(source, helpers.span(), message, hint);
    for helper in helpers.get_ref() {
        let known = agents.iter().find(|(name, _)| name.as_str() == helper);
        let (Some((name, settings)), Some(asks)) = (known, agents.get(key)) else {
            fault(
                format!("there is no agent {helper:?}"),
                "write a section [agent.NAME] for it",
            );
            continue;
        };
        if name == key || found.iter().any(|it| it.name == *name) {
            fault(
                format!("agent {name} is there twice, or is the agent itself"),
                "leave it out",
            );
            continue;
        }
        match asks.lacks(settings) {
            None => found.push(SubAgent {
                name: name.clone(),
                about: shorten_to(&settings.instructions, ABOUT),
            }),
            Some(what) => fault(
                format!("agent {name} has {what}, and agent {key} has not"),
                "an agent asks those alone that may do no more than it: give the one more, or the other less",
            ),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{Config, check::check, fault::Faults, source::Source};

    const LEAD: &str = "[agent.lead]\nskills = [\"files\", \"shell\"]\nnet = [\"*.example.com:443\"]\nagents = [\"helper\"]\n";

    fn read(text: &str) -> Result<Config, Faults> {
        let source = Source {
            name: "pawd.toml".into(),
            text: text.into(),
        };
        check(vec![source], None)
    }

    fn refused(text: &str, what: &str) {
        let faults = read(text).unwrap_err().to_string();
        assert!(faults.contains(what), "{text}: {faults}");
    }

    #[test]
    fn agent_asks_those_alone_that_may_do_no_more_than_it() {
        for helper in [
            "[agent.helper]\n",
            "[agent.helper]\nskills = [\"shell\"]\nnet = [\"www.example.com:443\"]\n",
            "[agent.helper]\nisolation_floor = \"vm\"\nworkspace = \"stage\"\n",
        ] {
            let config = read(&format!("{LEAD}{helper}")).unwrap();
            let lead = &config.agents[&"lead".parse().unwrap()];
            assert_eq!(lead.agents[0].name.as_str(), "helper", "{helper}");
        }
        for (helper, what) in [
            ("[agent.helper]\nskills = [\"mail\"]\n", "skill mail"),
            (
                "[agent.helper]\nnet = [\"example.org:443\"]\n",
                "example.org:443",
            ),
            (
                "[agent.helper]\nisolation_floor = \"process\"\n",
                "isolation_floor",
            ),
            ("[agent.helper]\nmay_leave_host = true\n", "may_leave_host"),
            ("", "there is no agent"),
        ] {
            refused(&format!("{LEAD}{helper}"), what);
        }
        let strict = LEAD.replace("skills", "workspace = \"stage\"\nskills");
        refused(&format!("{strict}[agent.helper]\n"), "workspace");
        refused(&LEAD.replace("helper", "lead"), "the agent itself");
    }
}
