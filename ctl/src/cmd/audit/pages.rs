//! The log page by page: what pawd gives at once is bounded by number and by length, and whoever wants more asks further.

use std::{io, path::Path};

use paw_api::trail::{AuditFilter, AuditPage};
use serde_json::{Value, json};

use super::{super::agent::Sink, cef, line, number};
use crate::{
    cli::{Format, Global},
    connect::{Answer, Connection, Params},
    fail::Failure,
    render::{Out, json},
};

/// The most records that pawd gives at once.
pub(super) const PAGE: u64 = 1000;

/// So many bytes of an export are collected before they are written.
const TOGETHER: usize = 256 * 1024;

/// A page of records that fit a filter, newest first.
pub(super) async fn page(
    pawd: &Connection,
    doing: &str,
    filter: &AuditFilter,
    before: Option<u64>,
    limit: Option<u64>,
) -> Result<Answer, Failure> {
    let params = json!({"filter": filter, "before": before, "limit": limit});
    pawd.call(doing, "audit.find", Params::named(params)).await
}

/// The newest records after number `after` and before number `before`, at most `most`, each as it came, newest first.
async fn between(
    pawd: &Connection,
    doing: &str,
    after: u64,
    mut before: Option<u64>,
    most: u64,
) -> Result<Vec<(u64, String)>, Failure> {
    let mut found = Vec::new();
    loop {
        let left = most.saturating_sub(found.len() as u64);
        if left == 0 || before.is_some_and(|before| before <= after.saturating_add(1)) {
            return Ok(found);
        }
        let answer = page(pawd, doing, &AuditFilter::default(), before, Some(left)).await?;
        let page: AuditPage = answer.read()?;
        for (record, raw) in page.records.iter().zip(json::lines(&answer.raw)) {
            let seq = number(record).unwrap_or(0);
            if seq <= after {
                return Ok(found);
            }
            found.push((seq, raw.to_owned()));
        }
        // The next page begins earlier than this one, or pawd sends us in a circle.
        let earlier = |next: &u64| before.is_none_or(|before| *next < before);
        match page.next.filter(earlier) {
            Some(next) => before = Some(next),
            None => return Ok(found),
        }
    }
}

/// Prints the newest records after number `after`, at most `most`, oldest of them first; returns the last number that is known.
pub(super) async fn newest(
    pawd: &Connection,
    out: &mut Out,
    after: Option<u64>,
    most: u64,
) -> Result<u64, Failure> {
    let records = between(pawd, "follow the audit log", after.unwrap_or(0), None, most).await?;
    let mut last = after.unwrap_or(0);
    for (seq, raw) in records.iter().rev() {
        if after.is_some() && *seq > last + 1 {
            out.say(&format!(
                "{} records in between are not shown: pawctl audit list --before {seq}",
                seq - last - 1
            ));
        }
        last = last.max(*seq);
        match out.format {
            Format::Table => out.print(&line(&record(raw)?)),
            Format::Json | Format::Jsonl => out.json(raw),
        }
    }
    Ok(last)
}

/// All records from `from` on, oldest first, page by page.
pub(super) async fn export(
    global: &Global,
    file: Option<&Path>,
    from: u64,
    format: crate::cli::ExportFormat,
) -> Result<(), Failure> {
    let doing = "export the audit log";
    let pawd = Connection::open(global).await?;
    let newest = between(&pawd, doing, 0, None, 1).await?;
    let end = newest.first().map_or(0, |(seq, _)| *seq);
    let mut sink = Sink::open(file)?;
    let mut next = from.max(1);
    while next <= end {
        let after_page = next.saturating_add(PAGE).min(end.saturating_add(1));
        let most = after_page - next;
        let records = between(&pawd, doing, next - 1, Some(after_page), most).await?;
        let mut text = String::new();
        for (_, raw) in records.iter().rev() {
            text.push_str(&written(raw, format)?);
            if text.len() > TOGETHER {
                sink.write(std::mem::take(&mut text).as_bytes())?;
            }
        }
        sink.write(text.as_bytes())?;
        next = after_page;
    }
    Ok(())
}

/// All records from `from` on of a log's files, without pawd. They are shown as they stand there: whether they are what was written is
/// for `audit verify`.
pub(super) fn export_files(
    directory: &Path,
    file: Option<&Path>,
    from: u64,
    format: crate::cli::ExportFormat,
) -> Result<(), Failure> {
    let doing = || format!("export the audit log in {}", directory.display());
    let segments = paw_audit::segment::list(directory);
    if segments
        .map_err(|error| Failure::io(doing(), &error))?
        .is_empty()
    {
        return Err(Failure::NotFound {
            doing: doing(),
            why: "there is no segment of a log in it".to_owned(),
            remedy: "name the directory of a log: /var/log/pawd, or a copy of it".to_owned(),
        });
    }
    let mut sink = Sink::open(file)?;
    let mut text = String::new();
    let mut failed = None;
    let read = paw_audit::read::each(directory, from, |line| {
        let wrote = written(&String::from_utf8_lossy(line), format).and_then(|line| {
            text.push_str(&line);
            if text.len() > TOGETHER {
                sink.write(std::mem::take(&mut text).as_bytes())?;
            }
            Ok(())
        });
        wrote.map_err(|failure| {
            failed = Some(failure);
            io::Error::other("nothing more is written")
        })
    });
    if let Some(failure) = failed {
        return Err(failure);
    }
    read.map_err(|error| Failure::io(doing(), &error))?;
    sink.write(text.as_bytes())
}

/// A record as a line of an export, with its end.
fn written(raw: &str, format: crate::cli::ExportFormat) -> Result<String, Failure> {
    Ok(match format {
        crate::cli::ExportFormat::Jsonl => format!("{raw}\n"),
        crate::cli::ExportFormat::Cef => cef::line(&record(raw)?),
    })
}

fn record(raw: &str) -> Result<Value, Failure> {
    serde_json::from_str(raw).map_err(|source| Failure::Unreadable {
        doing: "read an audit record".to_owned(),
        source,
    })
}
