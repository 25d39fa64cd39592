//! Agents: what each of them may do, and whom it may ask.

use std::collections::BTreeMap;

use paw_api::egress::NetRule;
use paw_launch::{request::Isolation, workspace::Settle};
use paw_policy::Name;
use toml::Spanned;

use super::{
    AgentSettings, ProviderSettings, RouteSettings, SubAgent,
    fault::Faults,
    layers::{Layers, MAX_TURNS, bounded, read_value, reference, turns},
    source::Source,
    value::{isolation, name, settle},
};
use crate::records::shorten_to;

/// How much of its instructions says what an agent is for, in characters.
const ABOUT: usize = 200;

/// All agents; one called `default` is always there.
pub(super) fn agents(
    layers: &Layers,
    (known, default): (&BTreeMap<Name, ProviderSettings>, Option<&Name>),
    routes: &BTreeMap<Name, RouteSettings>,
    floor: Isolation,
    faults: &mut Faults,
) -> BTreeMap<Name, AgentSettings> {
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
    };
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
            let route = agent
                .route
                .as_ref()
                .and_then(|value| reference(source, value, routes, "route", faults));
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
                Some(value) => reference(source, value, known, "provider", faults),
                None => default.filter(|_| agent.route.is_none()).cloned(),
            };
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
                answerer_fixed_in: agent.says_who_answers().then(|| source.name.clone()),
                switched: false,
                route,
                isolation_floor: agent
                    .isolation_floor
                    .as_ref()
                    .and_then(|value| read_value(source, value, &isolation, faults))
                    .unwrap_or(floor),
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
            };
            // A later file says all of an agent, its helpers as well.
            helped.retain(|(named, _, _)| *named != key);
            if let Some(helpers) = &agent.agents {
                helped.push((key.clone(), source, helpers));
            }
            agents.insert(key, settings);
        }
    }
    for (key, source, helpers) in helped {
        let found = helpers_of(&key, (source, helpers), &agents, faults);
        if let Some(settings) = agents.get_mut(&key) {
            settings.agents = found;
        }
    }
    agents
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
