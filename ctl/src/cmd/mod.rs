//! The commands, one file for each family. Each one: connect, one call, show.

mod action;
mod agent;
mod approval;
mod audit;
mod budget;
mod chat;
mod config;
mod doctor;
mod events;
mod guard;
mod image;
mod inspect;
mod job;
mod markdown;
mod mcp;
mod metrics;
mod model;
mod policy;
mod provider;
mod route;
mod sandbox;
mod secret;
mod skill;
mod status;
mod workspace;

use std::io::{self, Read as _};

use clap_complete::generate;
use paw_api::methods;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    bench,
    cli::{self, Cli, Command, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Out, table, text},
};

/// The longest text that is read from stdin as an argument, in bytes: pawd takes no longer message.
const MAX_STDIN: u64 = 1 << 20;

/// Does what the command line says and gives the exit code.
pub(crate) async fn run(cli: Cli, out: &mut Out) -> Result<u8, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Status => status::run(&global, out).await,
        Command::Doctor { prove } => doctor::run(&global, out, prove).await,
        Command::Events { follow, after } => events::run(&global, out, follow, after).await,
        Command::Metrics => metrics::run(&global, out).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            generate(shell, &mut cli::command(), "pawctl", &mut script);
            Out::write(&script).map(|()| exit::DONE)
        }
        Command::Rpc { method, params } => rpc(&global, out, &method, params).await,
        Command::Chat(chat) => chat::run(&global, out, chat).await,
        Command::Action(command) => action::run(&global, out, command).await,
        Command::Approval(command) => approval::run(&global, out, command).await,
        Command::Agent(command) => agent::agents(&global, out, command).await,
        Command::Session(command) => agent::sessions(&global, out, command).await,
        Command::Sandbox(command) => sandbox::run(&global, out, command).await,
        Command::Workspace(command) => workspace::run(&global, out, command).await,
        Command::Skill(command) => skill::run(&global, out, command).await,
        Command::Mcp { agent } => mcp::run(&global, agent).await,
        Command::Provider(command) => provider::providers(&global, out, command).await,
        Command::Route(command) => route::run(&global, out, command).await,
        Command::Budget(command) => budget::run(&global, out, command).await,
        Command::Job(command) => job::run(&global, out, command).await,
        Command::Secret(command) => secret::run(&global, out, command).await,
        Command::Model(command) => model::run(&global, out, command).await,
        Command::Policy(command) => policy::run(&global, out, command).await,
        Command::Guard(command) => guard::run(out, command),
        Command::Config(command) => config::run(&global, out, command).await,
        Command::Audit(command) => audit::run(&global, out, command).await,
        Command::Backup { file } => backup(&global, out, &file).await,
        Command::Bench(command) => bench::run(&global, out, command).await,
    }
}

async fn backup(global: &Global, out: &mut Out, file: &str) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let params = Params::named(json!({"path": file}));
    let answer = pawd
        .call_patiently("back up the store", "system.backup", params)
        .await?;
    out.answer(&answer, |done: &paw_api::system::BackedUp, _| {
        format!(
            "wrote {} ({})\n",
            text::line(&done.path),
            text::size(done.bytes)
        )
    })?;
    Ok(exit::DONE)
}

/// Any method: the result as it came; a subscription as one line for each item.
async fn rpc(
    global: &Global,
    out: &mut Out,
    method: &str,
    params: Option<String>,
) -> Result<u8, Failure> {
    let doing = format!("call {}", text::line(method));
    let params = match params {
        None => Params::none(),
        Some(params) => {
            let read: Box<RawValue> = serde_json::from_str(&or_stdin(params)?)
                .map_err(|error| not_json(&doing, &error))?;
            Params::raw(read)
        }
    };
    let pawd = Connection::open(global).await?;
    if methods::find(method).is_some_and(|method| method.notifies.is_some()) {
        let mut items = pawd.subscribe(&doing, method, params).await?;
        while let Some(item) = items.next().await? {
            out.json(item.raw.get());
            out.flush()?;
        }
        return Ok(exit::DONE);
    }
    let answer = pawd.call_patiently(&doing, method, params).await?;
    out.json(answer.raw.get());
    Ok(exit::DONE)
}

/// The text itself, or all of stdin if it is `-`.
fn or_stdin(text: String) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let mut read = String::new();
    io::stdin()
        .lock()
        .take(MAX_STDIN + 1)
        .read_to_string(&mut read)
        .map_err(|error| Failure::io("read stdin", &error))?;
    if read.len() as u64 > MAX_STDIN {
        return Err(Failure::Usage {
            doing: "read stdin".to_owned(),
            why: format!("it is longer than {MAX_STDIN} bytes"),
            remedy: "send less: pawd takes no longer message".to_owned(),
        });
    }
    Ok(read)
}

/// A JSON object from the command line or from stdin.
fn object(doing: &str, text: String) -> Result<Map<String, Value>, Failure> {
    serde_json::from_str(&or_stdin(text)?).map_err(|error| not_json(doing, &error))
}

fn not_json(doing: &str, error: &serde_json::Error) -> Failure {
    Failure::Usage {
        doing: doing.to_owned(),
        why: format!("the arguments are not a JSON object: {error}"),
        remedy: r#"write them as JSON in single quotes: '{"path":"notes.txt"}'"#.to_owned(),
    }
}

/// The line below a page that is not the last one.
fn more(next: Option<&str>) -> String {
    next.map_or_else(String::new, |next| {
        format!("more: --before {}\n", text::line(next))
    })
}

/// A taint set as people read it.
fn taint(taint: &paw_policy::TaintSet) -> String {
    let labels: Vec<&str> = taint.iter().map(paw_policy::Taint::as_str).collect();
    if labels.is_empty() {
        "unknown".to_owned()
    } else {
        labels.join(", ")
    }
}

/// Somebody who called.
fn caller(caller: &paw_api::action::Caller) -> String {
    match &caller.name {
        Some(name) => format!("{} (uid {}, {})", text::line(name), caller.uid, caller.role),
        None => format!("uid {} ({})", caller.uid, caller.role),
    }
}

/// The agents that asked the one that acts, and the way in where that is no terminal; nothing where a person asked the agent itself.
fn way(asked: &paw_api::action::Asked) -> Option<String> {
    let agents = asked.through.iter().rev();
    let agents = agents.map(|name| format!("agent {}", text::line(name)));
    let job = asked.job.iter().map(|id| format!("job {}", text::line(id)));
    let peer = asked.identity.iter();
    let peer = peer.map(|peer| format!("channel {}", text::visible(peer, false)));
    let all: Vec<String> = agents.chain(job).chain(peer).collect();
    (!all.is_empty()).then(|| all.join(", asked by "))
}

/// A `Key: value` block without the rows that have no value.
fn block(rows: Vec<(&str, Option<String>)>) -> String {
    let rows: Vec<(&str, String)> = rows
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect();
    table::block(&rows)
}
