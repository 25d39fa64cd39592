//! `pawctl workspace`: what runs left in workspaces, and what becomes of it. What is committed is what was shown here.

use std::io::{IsTerminal as _, Write as _};

use paw_api::workspace::{
    Committed, Discarded, RunLayer, Thing, Undone, WaitingLayer, Workspace, WorkspaceChange,
    WorkspaceDiff,
};
use serde_json::json;

use crate::{
    cli::{self, Format, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Workspaces,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Workspaces::List { agent } => list(&pawd, out, agent).await,
        cli::Workspaces::Diff { id } => diff(&pawd, out, &id).await,
        cli::Workspaces::Commit { id, digest, yes } => commit(&pawd, out, &id, digest, yes).await,
        cli::Workspaces::Discard { id } => {
            let params = Params::named(json!({"id": id}));
            let answer = pawd
                .call_patiently("discard the changes", "workspace.discard", params)
                .await?;
            out.answer(&answer, |gone: &Discarded, _| {
                format!(
                    "discarded {} of {}\n",
                    changes(gone.changes),
                    text::line(&id)
                )
            })?;
            Ok(exit::DONE)
        }
        cli::Workspaces::Undo { id } => {
            let params = Params::named(json!({"id": id}));
            let answer = pawd
                .call_patiently("undo the commit", "workspace.undo", params)
                .await?;
            out.answer(&answer, |undone: &Undone, _| {
                undone
                    .layers
                    .iter()
                    .map(|layer| format!("undone {}\n", text::line(layer)))
                    .collect()
            })?;
            Ok(exit::DONE)
        }
    }
}

/// Says what became of what a command wrote.
pub(super) fn told(out: &Out, id: &str, layer: &RunLayer) {
    for left in &layer.left_out {
        let path = text::visible(&left.path, false);
        out.say(&format!("not kept: {path}: {}", text::line(&left.why)));
    }
    if layer.then == "stage" {
        out.say(&format!(
            "{} to the workspace of {} wait: pawctl workspace diff {}",
            changes(layer.changes),
            text::line(&layer.agent),
            text::line(id)
        ));
    }
}

fn changes(many: u32) -> String {
    if many == 1 {
        "1 change".to_owned()
    } else {
        format!("{many} changes")
    }
}

async fn list(pawd: &Connection, out: &mut Out, agent: Option<String>) -> Result<u8, Failure> {
    let params = Params::named(json!({"agent": agent}));
    let answer = pawd
        .call("list workspaces", "workspace.list", params)
        .await?;
    out.answer(&answer, |workspaces: &Vec<Workspace>, look| {
        let row = |workspace: &Workspace, state: Tone, word: &str, layer: &WaitingLayer| {
            vec![
                table::text(&workspace.agent),
                table::text(&layer.id),
                table::toned(state, word),
                table::number(layer.changes),
                table::number(text::size(layer.bytes)),
                table::text(
                    &layer
                        .owner
                        .map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
                ),
                table::text(&text::time(layer.at_ms, look)),
            ]
        };
        let rows = workspaces
            .iter()
            .flat_map(|workspace| {
                let commits = workspace.commits.iter();
                let committed =
                    commits.map(move |layer| row(workspace, Tone::Dim, "committed", layer));
                let pending = workspace.pending.iter();
                committed
                    .chain(pending.map(move |layer| row(workspace, Tone::Warn, "pending", layer)))
            })
            .collect();
        let head = ["AGENT", "ID", "STATE", "CHANGES", "SIZE", "OWNER", "SINCE"];
        table::table(
            &head,
            rows,
            look,
            "nothing is pending, and nothing can be undone",
        )
    })?;
    let mut code = exit::DONE;
    for workspace in answer.read::<Vec<Workspace>>()? {
        if let Some(fault) = workspace.fault {
            let agent = text::line(&workspace.agent);
            out.say(&format!(
                "the workspace of {agent} is not in this list: {}",
                text::line(&fault)
            ));
            code = exit::FAILED;
        }
    }
    Ok(code)
}

/// All pages of a layer, as one.
async fn whole(pawd: &Connection, id: &str) -> Result<WorkspaceDiff, Failure> {
    let mut all: Option<WorkspaceDiff> = None;
    let mut from = Some(0);
    while let Some(at) = from {
        let params = Params::named(json!({"id": id, "from": at}));
        let answer = pawd
            .call_patiently("show the changes", "workspace.diff", params)
            .await?;
        let page: WorkspaceDiff = answer.read()?;
        from = page.next;
        match &mut all {
            None => all = Some(page),
            Some(all) if all.digest == page.digest => all.changes.extend(page.changes),
            Some(_) => {
                return Err(Failure::Local {
                    doing: "show the changes".to_owned(),
                    why: "they became others while they were read".to_owned(),
                    remedy: "ask again".to_owned(),
                });
            }
        }
    }
    all.ok_or_else(|| Failure::Local {
        doing: "show the changes".to_owned(),
        why: "there was no page of them".to_owned(),
        remedy: "install the same version of pawd and pawctl".to_owned(),
    })
}

async fn diff(pawd: &Connection, out: &mut Out, id: &str) -> Result<u8, Failure> {
    if out.format != Format::Table {
        let params = Params::named(json!({"id": id}));
        let answer = pawd
            .call_patiently("show the changes", "workspace.diff", params)
            .await?;
        let first: WorkspaceDiff = answer.read()?;
        if first.next.is_none() {
            out.json(answer.raw.get());
            return Ok(exit::DONE);
        }
        let mut all = whole(pawd, id).await?;
        all.next = None;
        let document = serde_json::to_string(&all).map_err(|error| Failure::Local {
            doing: "show the changes".to_owned(),
            why: error.to_string(),
            remedy: "report it".to_owned(),
        })?;
        out.json(&document);
        return Ok(exit::DONE);
    }
    let all = whole(pawd, id).await?;
    let text = shown(&all, &out.look);
    out.print(&text);
    Ok(exit::DONE)
}

/// Shows what is committed, unless its digest was given, and commits exactly that.
async fn commit(
    pawd: &Connection,
    out: &mut Out,
    id: &str,
    digest: Option<String>,
    yes: bool,
) -> Result<u8, Failure> {
    const DOING: &str = "commit the changes";
    let digest = match digest {
        Some(digest) => digest,
        None => {
            let all = whole(pawd, id).await?;
            let seen = shown(&all, &out.look);
            if yes {
                out.say(&format!("digest {}", all.digest));
            } else {
                Out::write_err(seen.as_bytes())?;
                ask(DOING)?;
            }
            all.digest
        }
    };
    let params = Params::named(json!({"id": id, "digest": digest}));
    let answer = pawd
        .call_patiently(DOING, "workspace.commit", params)
        .await?;
    out.answer(&answer, |done: &Committed, _| {
        format!(
            "committed {} of {}; take it back with: pawctl workspace undo {}\n",
            changes(done.changes),
            text::line(&done.id),
            text::line(&done.id)
        )
    })?;
    Ok(exit::DONE)
}

fn ask(doing: &str) -> Result<(), Failure> {
    let usage = |why: &str, remedy: &str| Failure::Usage {
        doing: doing.to_owned(),
        why: why.to_owned(),
        remedy: remedy.to_owned(),
    };
    if !std::io::stdin().is_terminal() {
        return Err(usage(
            "nobody is there to confirm it",
            "give --digest of what `pawctl workspace diff` showed, or --yes",
        ));
    }
    let _ = write!(std::io::stderr(), "Commit this? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::io("read the answer", &error))?;
    if matches!(answer.trim(), "y" | "yes") {
        Ok(())
    } else {
        Err(usage("it was not confirmed", "nothing was changed"))
    }
}

/// A layer as people read it.
fn shown(diff: &WorkspaceDiff, look: &Look) -> String {
    let mut out = String::new();
    for change in &diff.changes {
        one(change, look, &mut out);
    }
    for left in &diff.left_out {
        out.push_str(&look.paint(
            Tone::Dim,
            &format!(
                "! {}: {}",
                text::visible(&left.path, false),
                text::line(&left.why)
            ),
        ));
        out.push('\n');
    }
    for path in &diff.conflicts {
        let line = format!("conflict: {} has changed since", text::visible(path, false));
        out.push_str(&look.paint(Tone::Bad, &line));
        out.push('\n');
    }
    out.push_str(&format!(
        "{}, digest {}\n",
        changes(diff.total),
        text::line(&diff.digest)
    ));
    out
}

fn one(change: &WorkspaceChange, look: &Look, out: &mut String) {
    let (tone, letter) = match (&change.old, &change.new) {
        (None, _) => (Tone::Good, "A"),
        (_, None) => (Tone::Bad, "D"),
        (Some(old), Some(new)) if old.kind != new.kind => (Tone::Warn, "T"),
        (Some(_), Some(_)) => (Tone::Warn, "M"),
    };
    let path = text::visible(&change.path, false);
    let what = match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("{} -> {}", thing(old), thing(new)),
        (Some(one), None) | (None, Some(one)) => thing(one),
        (None, None) => String::new(),
    };
    out.push_str(&look.paint(tone, &format!("{letter} {path}")));
    out.push_str(&format!("  {what}"));
    if let Some(note) = &change.note {
        out.push_str(&format!("  ({})", text::line(note)));
    }
    out.push('\n');
    for line in change.text.iter().flat_map(|text| text.lines()) {
        let tone = match line.as_bytes().first() {
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            Some(b'@') => Tone::Dim,
            _ => Tone::Plain,
        };
        out.push_str("    ");
        out.push_str(&look.paint(tone, &text::visible(line, false)));
        out.push('\n');
    }
}

fn thing(thing: &Thing) -> String {
    match (thing.kind.as_str(), &thing.target) {
        ("file", _) => format!("{:04o} {}", thing.mode, text::size(thing.size)),
        ("directory", _) => format!("{:04o} directory", thing.mode),
        (_, Some(target)) => format!("link to {}", text::visible(target, false)),
        (other, None) => text::line(other).into_owned(),
    }
}
