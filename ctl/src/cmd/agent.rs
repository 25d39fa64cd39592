//! `pawctl agent` and `pawctl session`: who there is to talk with, and what was said.

use std::{fs::File, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use paw_api::{
    action::Page,
    agent::{Agent, AgentSpec, Session, Transcript},
};
use serde_json::{Value, json};

use super::{block, markdown, more, taint};
use crate::{
    cli::{self, Global},
    connect::{Answer, Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

pub(super) async fn agents(
    global: &Global,
    out: &mut Out,
    command: cli::Agent,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Agent::List => {
            let answer = pawd
                .call("list agents", "agent.list", Params::none())
                .await?;
            out.answer(&answer, |agents: &Vec<Agent>, look| {
                let rows = agents
                    .iter()
                    .map(|agent| {
                        let skills = if agent.skills.is_empty() {
                            "-".to_owned()
                        } else {
                            agent.skills.join(", ")
                        };
                        vec![
                            table::text(&agent.name),
                            table::text(&provider(agent)),
                            table::text(&agent.model),
                            table::text(&skills),
                        ]
                    })
                    .collect();
                table::table(
                    &["NAME", "PROVIDER", "MODEL", "SKILLS"],
                    rows,
                    look,
                    "no agents are configured",
                )
            })?;
        }
        cli::Agent::Show { name } => {
            let answer = pawd
                .call(
                    "show the agent",
                    "agent.show",
                    Params::named(json!({"name": name})),
                )
                .await?;
            out.answer(&answer, |agent: &Agent, _| one(agent))?;
        }
        cli::Agent::Create { name, says } => {
            let params = json!({"name": name, "spec": spec(says, Vec::new())?});
            change(&pawd, out, "agent.create", "registered", params).await?;
        }
        cli::Agent::Edit { name, says, unset } => {
            let params = json!({"name": name, "spec": spec(says, unset)?});
            change(&pawd, out, "agent.edit", "changed", params).await?;
        }
        cli::Agent::Remove { name } => {
            let params = json!({"name": name});
            change(&pawd, out, "agent.remove", "removed", params).await?;
        }
    }
    Ok(exit::DONE)
}

async fn change(
    pawd: &Connection,
    out: &mut Out,
    method: &str,
    done: &str,
    params: Value,
) -> Result<(), Failure> {
    let doing = format!("change agents ({method})");
    let answer = pawd.call(&doing, method, Params::named(params)).await?;
    out.answer(&answer, |agent: &Agent, _| {
        format!("{done} {}\n", text::line(&agent.name))
    })
}

fn spec(says: cli::Says, unset: Vec<String>) -> Result<AgentSpec, Failure> {
    let instructions = match says.instructions_file {
        Some(path) => {
            let doing = format!("read {}", path.display());
            let read = std::fs::read_to_string(path);
            Some(read.map_err(|error| Failure::io(doing, &error))?)
        }
        None => says.instructions,
    };
    Ok(AgentSpec {
        instructions,
        provider: says.provider,
        model: says.model,
        route: says.route,
        isolation_floor: says.isolation_floor,
        workspace: says.workspace,
        skills: says.skills,
        agents: says.agents,
        net: says.net,
        max_turns: says.max_turns,
        max_tokens: says.max_tokens,
        temperature: says.temperature,
        may_leave_host: says.may_leave_host.then_some(true),
        unset,
    })
}

fn one(agent: &Agent) -> String {
    let list = |all: &[String]| shown(&all.join(", "));
    let origin = agent.file.as_deref().map(|file| match agent.registered {
        true => format!("registered, kept in {}", text::line(file)),
        false => format!("{}, which pawctl does not change", text::line(file)),
    });
    let leaves = "what was said on this host may leave it";
    block(vec![
        ("Name", Some(text::line(&agent.name).into_owned())),
        ("Provider", shown(&agent.provider)),
        ("Model", shown(&agent.model)),
        (
            "Switched",
            agent
                .switched
                .then(|| "with `pawctl model switch`, which --back undoes".to_owned()),
        ),
        ("Route", agent.route.as_deref().and_then(shown)),
        (
            "Leaves host",
            agent.may_leave_host.then(|| leaves.to_owned()),
        ),
        (
            "Skills",
            Some(text::line(&agent.skills.join(", ")).into_owned()),
        ),
        ("May ask", list(&agent.agents)),
        ("May reach", list(&agent.net)),
        ("Isolation", shown(&agent.isolation_floor)),
        ("Workspace", shown(&agent.workspace)),
        ("Turns", Some(agent.max_turns.to_string())),
        ("Tokens", agent.max_tokens.map(|it| it.to_string())),
        ("Temperature", agent.temperature.map(|it| it.to_string())),
        ("Stands in", origin),
        ("Lacks", list(&agent.lacks)),
        (
            "Instructions",
            Some(text::plain(&agent.instructions).into_owned()),
        ),
    ])
}

/// Where its answers come from, in one word.
fn provider(agent: &Agent) -> String {
    match &agent.route {
        Some(route) => format!("route {route}"),
        None => agent.provider.clone(),
    }
}

fn shown(word: &str) -> Option<String> {
    (!word.is_empty()).then(|| text::line(word).into_owned())
}

pub(super) async fn sessions(
    global: &Global,
    out: &mut Out,
    command: cli::Session,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Session::List { limit, before, all } => {
            let params = Params::named(json!({"limit": limit, "before": before, "all": all}));
            let answer = pawd
                .call("list conversations", "session.list", params)
                .await?;
            out.answer(&answer, list)?;
        }
        cli::Session::Show { id } => {
            let answer = part(&pawd, &id, 0).await?;
            out.answer(&answer, show)?;
        }
        cli::Session::Export { id, file, format } => {
            export(&pawd, &id, file.as_deref(), format).await?;
        }
        cli::Session::Delete { id } => {
            let answer = pawd
                .call(
                    "delete the conversation",
                    "session.delete",
                    Params::named(json!({"id": id})),
                )
                .await?;
            out.answer(&answer, |_: &bool, _| {
                format!("deleted {}\n", text::line(&id))
            })?;
        }
    }
    Ok(exit::DONE)
}

async fn part(pawd: &Connection, id: &str, from: u64) -> Result<Answer, Failure> {
    pawd.call(
        "show the conversation",
        "session.show",
        Params::named(json!({"id": id, "from": from})),
    )
    .await
}

fn list(page: &Page<Session>, look: &Look) -> String {
    let rows = page
        .items
        .iter()
        .map(|session| {
            vec![
                table::text(&session.id),
                table::text(&session.agent),
                table::number(session.turns),
                table::text(&taint(&session.taint)),
                table::text(&text::time(session.updated, look)),
                table::text(&text::short(&session.title, 50)),
            ]
        })
        .collect();
    let head = ["ID", "AGENT", "TURNS", "TAINT", "LAST SPOKEN", "TITLE"];
    table::table(&head, rows, look, "no conversations") + &more(page.next.as_deref())
}

fn show(transcript: &Transcript, look: &Look) -> String {
    let session = &transcript.session;
    let mut shown = block(vec![
        ("Session", Some(text::line(&session.id).into_owned())),
        ("Agent", Some(text::line(&session.agent).into_owned())),
        ("Owner", Some(format!("uid {}", session.owner))),
        ("Begun by", session.parent.as_deref().and_then(shown)),
        ("Taint", Some(taint(&session.taint))),
        ("Began", Some(text::time(session.created, look))),
        ("Turns", Some(session.turns.to_string())),
    ]);
    if let Some(summary) = &transcript.summary {
        let head = format!(
            "The first {} turns in short ({}, {}, {}, taint {}), sha256 {}",
            summary.until,
            text::line(&summary.provider),
            text::line(&summary.model),
            text::time(summary.at, look),
            taint(&summary.taint),
            summary.digest
        );
        shown.push_str(&format!(
            "\n{}\n{}\n",
            look.paint(Tone::Bold, &head),
            text::said(&summary.text, &summary.taint).trim_end()
        ));
    }
    for turn in &transcript.turns {
        let said_by = match (&turn.provider, &turn.model, &turn.tool) {
            (Some(provider), Some(model), _) => format!("{} ({provider}, {model})", turn.role),
            (_, _, Some(tool)) if turn.failed => format!("{} {tool}, failed", turn.role),
            (_, _, Some(tool)) => format!("{} {tool}", turn.role),
            _ => turn.role.clone(),
        };
        let head = format!(
            "#{} {}, {}",
            turn.seq,
            text::line(&said_by),
            text::time(turn.at, look)
        );
        shown.push_str(&format!(
            "\n{}\n{}\n",
            look.paint(Tone::Bold, &head),
            text::said(&turn.text, &turn.taint).trim_end()
        ));
        for call in &turn.calls {
            let action = call.action.as_deref().unwrap_or("refused");
            shown.push_str(&format!(
                "calls {} {} ({})\n",
                text::unopened(text::line(&call.name), &turn.taint),
                text::short(&text::said(&call.arguments, &turn.taint), 200),
                text::line(action)
            ));
        }
    }
    if let Some(next) = transcript.next {
        shown.push_str(&format!(
            "\nthe conversation goes on at #{next}: pawctl session export {}\n",
            text::line(&session.id)
        ));
    }
    shown
}

/// The whole conversation as one document, read page by page and written as it comes.
async fn export(
    pawd: &Connection,
    id: &str,
    file: Option<&Path>,
    format: cli::Written,
) -> Result<(), Failure> {
    let mut sink = Sink::open(file)?;
    let mut from = Some(0);
    let mut first = true;
    while let Some(start) = from {
        let answer = part(pawd, id, start).await?;
        let page: Value = answer.read()?;
        // The next page begins later than this one, or pawd sends us in a circle.
        from = page["next"].as_u64().filter(|next| *next > start);
        let mut text = match format {
            cli::Written::Json => String::new(),
            cli::Written::Md => markdown::page(&answer.read()?, start == 0),
        };
        if format == cli::Written::Json {
            if start == 0 {
                text.push_str(&format!("{{\"session\":{},", page["session"]));
                if let Some(summary) = page.get("summary") {
                    text.push_str(&format!("\"summary\":{summary},"));
                }
                text.push_str("\"turns\":[");
            }
            for turn in page["turns"].as_array().into_iter().flatten() {
                text.push_str(if first { "\n" } else { ",\n" });
                text.push_str(&turn.to_string());
                first = false;
            }
            if from.is_none() {
                text.push_str("\n]}\n");
            }
        }
        sink.write(text.as_bytes())?;
    }
    Ok(())
}

/// Where an export goes.
pub(super) enum Sink {
    /// Stdout.
    Stdout,
    /// A new file that nobody else may read.
    File { file: File, doing: String },
}

impl Sink {
    /// Stdout, or this file, which must not exist.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::Stdout);
        };
        let doing = format!("write {}", path.display());
        match File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
        {
            Ok(file) => Ok(Self::File { file, doing }),
            Err(error) => Err(Failure::io(doing, &error)),
        }
    }

    /// Writes all of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout => Out::write(bytes),
            Self::File { file, doing } => file
                .write_all(bytes)
                .map_err(|error| Failure::io(doing.clone(), &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_what_came_from_outside_is_shown_without_a_link() {
        let shown = |taint: &str| {
            let transcript: Transcript = serde_json::from_value(json!({
                "session": {
                    "id": "s", "agent": "default", "owner": 0, "title": "t", "taint": [], "created": 0, "updated": 0, "turns": 1
                },
                "summary": {
                    "until": 1, "digest": "0".repeat(64), "text": "See https://evil.example/?q=s3cret.", "taint": [taint],
                    "action": "a", "provider": "local", "model": "m", "at": 0
                },
                "turns": [],
                "next": null
            }))
            .unwrap();
            let look = Look {
                colour: false,
                person: false,
                width: None,
                now: 0,
            };
            show(&transcript, &look)
        };
        assert!(!shown("web").contains("://"), "{}", shown("web"));
        assert!(shown("user").contains("https://evil.example/"));
    }
}
