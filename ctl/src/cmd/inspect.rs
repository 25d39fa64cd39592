//! `pawctl sandbox show | logs | stats | gc`: what sandboxes are, said and used.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use paw_api::sandbox::{LogEvent, SandboxDetail, SandboxUsage, SandboxesForgotten};
use serde_json::{Value, json};

use crate::{
    cli::Global,
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, table, text},
};

pub(super) async fn show(global: &Global, out: &mut Out, id: &str) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let params = Params::named(json!({"id": id}));
    let answer = pawd
        .call("show the sandbox", "sandbox.show", params)
        .await?;
    out.answer(&answer, |seen: &SandboxDetail, _: &Look| {
        let fact = |name: &str| match &seen.attestation["facts"][name] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let limits = &seen.plan["limits"];
        let bytes = |name: &str| {
            limits[name]
                .as_u64()
                .map_or_else(|| "-".to_owned(), text::size)
        };
        let number = |name: &str| limits[name].to_string();
        let mut rows = vec![
            ("Sandbox", text::line(&seen.id).into_owned()),
            ("State", text::line(&seen.state).into_owned()),
            ("Action", text::line(&seen.action_id).into_owned()),
            ("Owner", seen.owner.to_string()),
            (
                "Runtime",
                format!("{} ({})", seen.runtime, fact("runtime_version")),
            ),
            (
                "Image",
                text::line(&seen.plan["image"].to_string()).into_owned(),
            ),
            (
                "Limits",
                format!(
                    "memory {}, disk {}, {} processes, {} thousandths of a CPU",
                    bytes("memory"),
                    bytes("disk"),
                    number("pids"),
                    number("cpu_milli")
                ),
            ),
        ];
        if let Some(used) = &seen.usage {
            rows.push((
                "Used",
                format!(
                    "{} ms of CPU, {} of memory at most, in {}",
                    used.cpu_ms,
                    text::size(used.memory_peak),
                    text::span(used.wall_ms)
                ),
            ));
        }
        if let Some(end) = &seen.end {
            rows.push(("End", text::line(&end.to_string()).into_owned()));
        }
        rows.push((
            "Seen",
            format!(
                "user {}, seccomp {}, no new privileges {}",
                fact("uid"),
                fact("seccomp"),
                fact("no_new_privs")
            ),
        ));
        let digest = seen.attestation["digest"].as_str().unwrap_or("-");
        rows.push(("Attestation", text::line(digest).into_owned()));
        let rows: Vec<(&str, String)> = rows;
        table::block(&rows)
    })?;
    Ok(exit::DONE)
}

pub(super) async fn stats(
    global: &Global,
    out: &mut Out,
    id: Option<String>,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let params = Params::named(json!({"id": id}));
    let answer = pawd
        .call("ask what they use", "sandbox.stats", params)
        .await?;
    out.answer(&answer, |used: &Vec<SandboxUsage>, look: &Look| {
        let rows = used
            .iter()
            .map(|used| {
                vec![
                    table::text(&used.id),
                    table::number(text::span(used.wall_ms)),
                    table::number(text::span(used.cpu_ms)),
                    table::number(text::size(used.memory_peak)),
                    table::number(used.pids_denied),
                    table::number(used.cpu_throttled),
                ]
            })
            .collect();
        let head = [
            "ID",
            "AGE",
            "CPU",
            "MEMORY PEAK",
            "FORKS DENIED",
            "THROTTLED",
        ];
        table::table(&head, rows, look, "no sandboxes are running")
    })?;
    Ok(exit::DONE)
}

pub(super) async fn logs(
    global: &Global,
    out: &mut Out,
    id: &str,
    follow: bool,
) -> Result<u8, Failure> {
    const DOING: &str = "read what the sandbox said";
    let pawd = Connection::at(&crate::connect::socket_path(global), None).await?;
    let params = Params::named(json!({"id": id, "follow": follow}));
    let mut items = pawd.subscribe(DOING, "sandbox.logs", params).await?;
    out.flush()?;
    let bytes = |data: &str| {
        BASE64.decode(data).map_err(|error| Failure::Local {
            doing: DOING.to_owned(),
            why: format!("it is not base64: {error}"),
            remedy: "install the same version of pawd and pawctl".to_owned(),
        })
    };
    while let Some(item) = items.next().await? {
        match item.read()? {
            LogEvent::Stdout { data } => Out::write(&bytes(&data)?)?,
            LogEvent::Stderr { data } => Out::write_err(&bytes(&data)?)?,
            LogEvent::End { .. } => return Ok(exit::DONE),
        }
    }
    Err(Failure::Cut {
        doing: DOING.to_owned(),
        why: "the stream ended before the log did".to_owned(),
        remedy: "read it again".to_owned(),
    })
}

pub(super) async fn gc(global: &Global, out: &mut Out) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let answer = pawd
        .call("forget ended sandboxes", "sandbox.gc", Params::none())
        .await?;
    out.answer(&answer, |gone: &SandboxesForgotten, _: &Look| {
        format!(
            "forgot {} ended sandboxes and {} of what they had said\n",
            gone.sandboxes,
            text::size(gone.bytes)
        )
    })?;
    Ok(exit::DONE)
}
