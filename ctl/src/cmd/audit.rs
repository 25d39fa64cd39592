//! `pawctl audit`: reading the log through pawd, and checking it with or without pawd.

mod cef;
mod verify;

use std::{path::Path, sync::LazyLock};

use paw_api::{
    events::EventItem,
    trail::{AuditFilter, AuditPage, Verification},
};
use serde_json::{Map, Value, json};

use super::{agent::Sink, block};
use crate::{
    cli::{self, Format, Global},
    connect::{Answer, Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, json, table, text},
};

/// The most records that pawd gives at once.
const PAGE: u64 = 1000;

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Audit,
) -> Result<u8, Failure> {
    match command {
        cli::Audit::List(filter) => {
            list(global, out, filter).await?;
            Ok(exit::DONE)
        }
        cli::Audit::Show { seq } => {
            let pawd = Connection::open(global).await?;
            let answer = page(
                &pawd,
                "show the audit record",
                Some(seq.saturating_add(1)),
                1,
            )
            .await?;
            let records: Vec<Value> = answer.read()?;
            let Some(record) = records.first().filter(|record| number(record) == Some(seq)) else {
                return Err(Failure::NotFound {
                    doing: "show the audit record".to_owned(),
                    why: format!("there is no record {seq}"),
                    remedy: "see which there are: pawctl audit list".to_owned(),
                });
            };
            match out.format {
                Format::Table => {
                    let shown = show(record, &out.look);
                    out.print(&shown);
                }
                Format::Json | Format::Jsonl => json::lines(&answer.raw)
                    .first()
                    .into_iter()
                    .for_each(|line| out.json(line)),
            }
            Ok(exit::DONE)
        }
        cli::Audit::Tail { lines, follow } => tail(global, out, lines, follow).await,
        cli::Audit::Verify {
            path: Some(path),
            key,
            codes,
            witness,
        } => verify::verify_files(
            out,
            &path,
            verify::checks(key.as_deref(), codes.as_deref(), &witness)?,
        ),
        cli::Audit::Verify { path: None, .. } => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call_patiently("verify the audit log", "audit.verify", Params::none())
                .await?;
            let seen: Verification = answer.read()?;
            out.answer(&answer, verify::verified)?;
            Ok(verify::verify_code(&seen))
        }
        cli::Audit::Export { file, from, format } => {
            export(global, file.as_deref(), from, format).await
        }
    }
}

/// Records that fit. What the older method can find is asked of that, so that an older pawd answers, too.
async fn list(global: &Global, out: &mut Out, wanted: cli::AuditFilter) -> Result<(), Failure> {
    let doing = "list audit records";
    let pawd = Connection::open(global).await?;
    let none = "no audit records";
    let (before, limit) = (wanted.before, wanted.limit);
    if wanted.since.is_none()
        && wanted.until.is_none()
        && wanted.uid.is_none()
        && wanted.agent.is_none()
        && wanted.kind.is_none()
        && wanted.outcome.is_none()
    {
        let params = json!({"action": wanted.action, "event": wanted.event, "before": before, "limit": limit});
        let answer = pawd
            .call(doing, "audit.list", Params::named(params))
            .await?;
        return out.answer(&answer, |list: &Vec<Value>, look| records(list, look, none));
    }
    let filter = AuditFilter {
        since: wanted.since,
        until: wanted.until,
        uid: wanted.uid,
        action: wanted.action,
        agent: wanted.agent,
        kind: wanted.kind,
        event: wanted.event,
        outcome: wanted.outcome,
    };
    let params = json!({"filter": filter, "before": before, "limit": limit});
    let answer = pawd
        .call(doing, "audit.find", Params::named(params))
        .await?;
    out.answer(&answer, |page: &AuditPage, look| {
        let mut shown = records(&page.records, look, none);
        if let Some(next) = page.next {
            shown.push_str(&format!("There may be older ones: --before {next}\n"));
        }
        shown
    })
}

/// A line for each record.
pub(super) fn records(list: &[Value], look: &Look, none: &str) -> String {
    let rows = list.iter().map(|record| row(record, look)).collect();
    let head = ["SEQ", "TIME", "EVENT", "ACTION", "WHO", "WHAT"];
    table::table(&head, rows, look, none)
}

async fn page(
    pawd: &Connection,
    doing: &str,
    before: Option<u64>,
    limit: u64,
) -> Result<Answer, Failure> {
    pawd.call(
        doing,
        "audit.list",
        Params::named(json!({"before": before, "limit": limit})),
    )
    .await
}

fn number(record: &Value) -> Option<u64> {
    record.get("seq").and_then(Value::as_u64)
}

/// What happened, in the record.
fn entry(record: &Value) -> &Map<String, Value> {
    static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    record
        .get("entry")
        .and_then(Value::as_object)
        .unwrap_or(&NOTHING)
}

fn word(entry: &Map<String, Value>, name: &str) -> Option<String> {
    match entry.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text::line(text).into_owned()),
        Value::Array(words) => Some(
            text::line(
                &words
                    .iter()
                    .filter_map(Value::as_str)
                    .collect::<Vec<_>>()
                    .join(", "),
            )
            .into_owned(),
        ),
        other => Some(text::line(&other.to_string()).into_owned()),
    }
}

/// The uid of whoever did it.
fn actor(entry: &Map<String, Value>) -> Option<String> {
    let actor = entry.get("actor")?;
    let uid = actor.get("uid")?.as_u64()?;
    let role = actor
        .get("role")
        .and_then(Value::as_str)
        .unwrap_or("no role");
    Some(text::line(&format!("uid {uid} ({role})")).into_owned())
}

/// What else is known, in one line.
fn gist(entry: &Map<String, Value>) -> String {
    let mut parts: Vec<String> = ["kind", "risk", "decision", "outcome", "rules"]
        .iter()
        .filter_map(|name| word(entry, name))
        .collect();
    for (name, value) in entry
        .get("detail")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        parts.push(text::line(&format!("{name}={}", value.as_str().unwrap_or(""))).into_owned());
    }
    parts.join(" ")
}

fn row(record: &Value, look: &Look) -> Vec<table::Field> {
    let entry = entry(record);
    let time = record
        .get("utc_ms")
        .and_then(Value::as_u64)
        .map_or_else(|| "-".to_owned(), |ms| text::time(ms, look));
    let dash = || "-".to_owned();
    let event = word(entry, "event").unwrap_or_else(dash);
    let tone = match event.as_str() {
        "action_rejected" | "rpc_denied" | "config_refused" | "log_recovered" | "log_pruned" => {
            Tone::Warn
        }
        _ => Tone::Plain,
    };
    vec![
        table::number(number(record).map_or_else(dash, |seq| seq.to_string())),
        table::text(&time),
        table::toned(tone, &event),
        table::text(&word(entry, "action").unwrap_or_else(dash)),
        table::text(&actor(entry).unwrap_or_else(dash)),
        table::text(&text::short(&gist(entry), 80)),
    ]
}

fn show(record: &Value, look: &Look) -> String {
    let entry = entry(record);
    let time = record
        .get("utc_ms")
        .and_then(Value::as_u64)
        .map(text::rfc3339);
    let text_of = |name: &str| {
        record
            .get(name)
            .and_then(Value::as_str)
            .map(|text| text::line(text).into_owned())
    };
    let head = format!(
        "#{} {}",
        number(record).unwrap_or(0),
        word(entry, "event").unwrap_or_default()
    );
    let mut shown = format!("{}\n", look.paint(Tone::Bold, &head));
    shown.push_str(&block(vec![
        ("Time", time),
        ("Action", word(entry, "action")),
        ("Who", actor(entry)),
        ("Kind", word(entry, "kind")),
        ("Risk", word(entry, "risk")),
        ("Taint", word(entry, "taint")),
        ("Decision", word(entry, "decision")),
        ("Rules", word(entry, "rules")),
        ("Outcome", word(entry, "outcome")),
        ("Plan digest", word(entry, "digest")),
        ("Policy digest", word(entry, "policy_digest")),
        ("Attestation", word(entry, "attestation")),
        ("Before", text_of("prev")),
        ("Tag", text_of("tag")),
    ]));
    for (name, value) in entry
        .get("detail")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        shown.push_str(&text::line(&format!(
            "  {name}: {}",
            value.as_str().unwrap_or("")
        )));
        shown.push('\n');
    }
    shown
}

/// One record in one line, for streams: absolute times, no columns.
fn line(record: &Value) -> String {
    let entry = entry(record);
    let time = record
        .get("utc_ms")
        .and_then(Value::as_u64)
        .map_or_else(|| "-".to_owned(), text::rfc3339);
    let parts = [
        Some(time),
        number(record).map(|seq| seq.to_string()),
        word(entry, "event"),
        word(entry, "action").map(|action| format!("[{action}]")),
        actor(entry),
        Some(gist(entry)).filter(|gist| !gist.is_empty()),
    ];
    format!(
        "{}\n",
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    )
}

/// The newest records, oldest of them first; with `follow`, each news from pawd is a reason to look for newer ones.
async fn tail(global: &Global, out: &mut Out, lines: u32, follow: bool) -> Result<u8, Failure> {
    let doing = "follow the audit log";
    let pawd = Connection::open(global).await?;
    // Listening begins before the first look, so that nothing falls between the two.
    let mut news = match follow {
        true => Some(
            pawd.subscribe(doing, "events.subscribe", Params::none())
                .await?,
        ),
        false => None,
    };
    let mut last = newest(&pawd, out, None, u64::from(lines).clamp(1, PAGE)).await?;
    let Some(news) = &mut news else {
        return Ok(exit::DONE);
    };
    out.flush()?;
    loop {
        let Some(item) = news.next().await? else {
            return Err(Failure::Cut {
                doing: doing.to_owned(),
                why: "pawd ended the stream".to_owned(),
                remedy: "follow again: pawctl audit tail -f".to_owned(),
            });
        };
        if let EventItem::Cut { error, .. } = item.read()? {
            return Err(Failure::Cut {
                doing: doing.to_owned(),
                why: "this reader was too slow".to_owned(),
                remedy: error.hint,
            });
        }
        last = newest(&pawd, out, Some(last), PAGE).await?;
        out.flush()?;
    }
}

/// Prints the newest records after number `after`, at most `most`; returns the last number that is known.
async fn newest(
    pawd: &Connection,
    out: &mut Out,
    after: Option<u64>,
    most: u64,
) -> Result<u64, Failure> {
    let answer = page(pawd, "follow the audit log", None, most).await?;
    let records: Vec<Value> = answer.read()?;
    let mut last = after.unwrap_or(0);
    for (record, raw) in records.iter().zip(json::lines(&answer.raw)).rev() {
        let seq = number(record).unwrap_or(0);
        if after.is_some_and(|after| seq <= after) {
            continue;
        }
        if after.is_some() && seq > last + 1 {
            out.say(&format!(
                "{} records in between are not shown: pawctl audit list --before {seq}",
                seq - last - 1
            ));
        }
        last = last.max(seq);
        match out.format {
            Format::Table => out.print(&line(record)),
            Format::Json | Format::Jsonl => out.json(raw),
        }
    }
    Ok(last)
}

/// All records from `from` on, oldest first, page by page.
async fn export(
    global: &Global,
    file: Option<&Path>,
    from: u64,
    format: cli::ExportFormat,
) -> Result<u8, Failure> {
    let doing = "export the audit log";
    let pawd = Connection::open(global).await?;
    let newest: Vec<Value> = page(&pawd, doing, None, 1).await?.read()?;
    let end = newest.first().and_then(number).unwrap_or(0);
    let mut sink = Sink::open(file)?;
    let mut next = from.max(1);
    while next <= end {
        let after_page = next.saturating_add(PAGE).min(end.saturating_add(1));
        let answer = page(&pawd, doing, Some(after_page), after_page - next).await?;
        let mut text = String::new();
        match format {
            cli::ExportFormat::Jsonl => {
                for raw in json::lines(&answer.raw).into_iter().rev() {
                    text.push_str(raw);
                    text.push('\n');
                }
            }
            cli::ExportFormat::Cef => {
                let records: Vec<Value> = answer.read()?;
                text.extend(records.iter().rev().map(cef::line));
            }
        }
        sink.write(text.as_bytes())?;
        next = after_page;
    }
    Ok(exit::DONE)
}
