//! `pawctl audit`: reading the log through pawd, and checking it with or without pawd.

mod cef;
mod pages;
mod proof;
mod verify;

use std::sync::LazyLock;

use paw_api::{
    events::EventItem,
    trail::{AuditFilter, AuditPage, Verification},
};
use serde_json::{Map, Value};

use self::pages::{PAGE, newest};
use super::block;
use crate::{
    cli::{self, Format, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, json, table, text},
};

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
            let doing = "show the audit record";
            let before = Some(seq.saturating_add(1));
            let any = AuditFilter::default();
            let answer = pages::page(&pawd, doing, &any, before, Some(1)).await?;
            let page: AuditPage = answer.read()?;
            let Some(record) = page
                .records
                .first()
                .filter(|record| number(record) == Some(seq))
            else {
                return Err(Failure::NotFound {
                    doing: doing.to_owned(),
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
            proof: Some(proof),
            key,
            witness,
            ..
        } => proof::verify(
            out,
            &proof,
            &verify::checks(key.as_deref(), None, &witness)?,
        ),
        cli::Audit::Prove {
            seq,
            file,
            checkpoint,
            log,
        } => {
            proof::prove(global, seq, checkpoint, log.as_deref(), file.as_deref())?;
            Ok(exit::DONE)
        }
        cli::Audit::Verify {
            path: Some(path),
            key,
            codes,
            witness,
            ..
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
        cli::Audit::Export {
            file,
            log: Some(log),
            from,
            format,
        } => {
            pages::export_files(verify::directory(&log), file.as_deref(), from, format)?;
            Ok(exit::DONE)
        }
        cli::Audit::Export {
            file,
            log: None,
            from,
            format,
        } => {
            pages::export(global, file.as_deref(), from, format).await?;
            Ok(exit::DONE)
        }
    }
}

/// Records that fit, and where there may be older ones.
async fn list(global: &Global, out: &mut Out, wanted: cli::AuditFilter) -> Result<(), Failure> {
    let pawd = Connection::open(global).await?;
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
    let limit = wanted.limit.map(u64::from);
    let doing = "list audit records";
    let answer = pages::page(&pawd, doing, &filter, wanted.before, limit).await?;
    let older = |next: u64| format!("There may be older ones: --before {next}");
    if out.format == Format::Jsonl
        && let Some(next) = answer.read::<AuditPage>()?.next
    {
        out.say(&older(next));
    }
    out.answer(&answer, |page: &AuditPage, look| {
        let mut shown = records(&page.records, look, "no audit records");
        if let Some(next) = page.next {
            shown.push_str(&older(next));
            shown.push('\n');
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
    let unit = actor.get("unit").and_then(Value::as_str);
    let unit = unit.map_or_else(String::new, |unit| format!(", {unit}"));
    Some(text::line(&format!("uid {uid} ({role}{unit})")).into_owned())
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
        ("Session", word(entry, "session")),
        ("Kind", word(entry, "kind")),
        ("Class", word(entry, "class")),
        ("Risk", word(entry, "risk")),
        ("Taint", word(entry, "taint")),
        ("Decision", word(entry, "decision")),
        ("Rules", word(entry, "rules")),
        ("Outcome", word(entry, "outcome")),
        ("Plan digest", word(entry, "digest")),
        ("Policy digest", word(entry, "policy_digest")),
        ("Attestation", word(entry, "attestation")),
        ("Result digest", word(entry, "result_digest")),
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
