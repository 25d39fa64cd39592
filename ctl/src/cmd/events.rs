//! `pawctl events`: news, the kept ones or as they come.

use std::time::Duration;

use paw_api::events::{Event, EventItem};
use serde_json::json;

use crate::{
    cli::{Format, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, text},
};

/// Without `--follow`, silence of this length means that all kept news have come: pawd sends them in one go.
const SILENCE: Duration = Duration::from_millis(300);

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    follow: bool,
    after: Option<u64>,
) -> Result<u8, Failure> {
    let doing = "show events";
    let pawd = Connection::open(global).await?;
    let after = if follow {
        after
    } else {
        Some(after.unwrap_or(0))
    };
    let mut items = pawd
        .subscribe(
            doing,
            "events.subscribe",
            Params::named(json!({"after": after})),
        )
        .await?;
    let mut last = after.unwrap_or(0);
    loop {
        let next = if follow {
            items.next().await?
        } else {
            match tokio::time::timeout(SILENCE, items.next()).await {
                Ok(item) => item?,
                Err(_) => return Ok(exit::DONE),
            }
        };
        let cut = |why: String, last: u64| Failure::Cut {
            doing: doing.to_owned(),
            why,
            remedy: format!("resume with pawctl events -f --after {last}"),
        };
        let Some(item) = next else {
            return Err(cut("pawd ended the stream".to_owned(), last));
        };
        match item.read()? {
            EventItem::Event(event) => {
                last = event.seq;
                match out.format {
                    Format::Table => {
                        let line = line(&event, &out.look);
                        out.print(&line);
                    }
                    Format::Json | Format::Jsonl => out.json(item.raw.get()),
                }
                // A follower sees each line at once; a list may wait for the pager.
                if follow {
                    out.flush()?;
                }
            }
            EventItem::Cut {
                resume_after,
                error,
            } => return Err(cut(error.hint, resume_after)),
        }
    }
}

/// Absolute times even for a person: a stream is read later than it is written.
fn line(event: &Event, _: &Look) -> String {
    let about = event
        .action
        .as_deref()
        .map_or_else(String::new, |action| format!(" [{}]", text::line(action)));
    format!(
        "{} {:>5} {}{about} {}\n",
        text::rfc3339(event.at),
        event.seq,
        text::line(&event.event),
        text::line(&event.text)
    )
}
