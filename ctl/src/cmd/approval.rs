//! `pawctl approval`: what a person is asked, shown exactly, and the answer bound to what was shown.
//!
//! The plan is printed from the same bytes whose digest is sent back: pawctl computes the digest of the plan that it shows,
//! and answers nothing when it is not the one that pawd names.

use std::{collections::HashSet, io::IsTerminal as _, str::FromStr as _};

use paw_api::{
    action::{Action, Approval},
    events::EventItem,
};
use paw_policy::Digest;
use serde_json::json;

use super::{action, block, caller, taint};
use crate::{
    cli::{self, Format, Global},
    connect::{Answer, Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, json, table, text},
};

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Approval,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Approval::List => {
            let answer = pawd
                .call("list questions", "approval.list", Params::none())
                .await?;
            out.answer(&answer, |approvals: &Vec<Approval>, look| {
                list(approvals, look)
            })?;
        }
        cli::Approval::Show { id } => {
            let (answer, approval) = question(&pawd, &id).await?;
            let shown = show(&approval, &out.look)?;
            out.answer(&answer, |_: &Approval, _| shown)?;
        }
        cli::Approval::Approve { id, answer, yes } => {
            let (_, approval) = question(&pawd, &id).await?;
            let shown = show(&approval, &out.look)?;
            named(&approval, answer.digest.as_deref())?;
            out.say(shown.trim_end());
            // A digest on the command line says as much as a yes, unless somebody sits there who can be asked.
            if !yes && (answer.digest.is_none() || std::io::stdin().is_terminal()) {
                confirm(out, &approval).await?;
            }
            say(&pawd, out, &approval, "approve", answer.note).await?;
        }
        cli::Approval::Deny { id, answer } => {
            let (_, approval) = question(&pawd, &id).await?;
            named(&approval, answer.digest.as_deref())?;
            say(&pawd, out, &approval, "deny", answer.note).await?;
        }
        cli::Approval::Watch => watch(&pawd, out).await?,
    }
    Ok(exit::DONE)
}

async fn question(pawd: &Connection, id: &str) -> Result<(Answer, Approval), Failure> {
    let answer = pawd
        .call(
            "show the question",
            "approval.show",
            Params::named(json!({"id": id})),
        )
        .await?;
    let approval = answer.read()?;
    Ok((answer, approval))
}

/// Refuses when `--digest` names another plan than the one that is asked about.
fn named(approval: &Approval, digest: Option<&str>) -> Result<(), Failure> {
    let Some(said) = digest else { return Ok(()) };
    let remedy = format!("look at it again: pawctl approval show {}", approval.id);
    let usage = |why: String| Failure::Usage {
        doing: "answer the question".to_owned(),
        why,
        remedy: remedy.clone(),
    };
    let said = Digest::from_str(said)
        .map_err(|_| usage("--digest is not a digest: 64 hexadecimal digits".to_owned()))?;
    if said == approval.digest {
        Ok(())
    } else {
        Err(usage(format!(
            "--digest names another plan than {}",
            approval.digest
        )))
    }
}

/// Asks the person at the terminal; without a terminal, `--yes` or `--digest` has to say it.
async fn confirm(out: &Out, approval: &Approval) -> Result<(), Failure> {
    let doing = "approve the plan";
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage {
            doing: doing.to_owned(),
            why: "nobody is at the terminal to confirm it".to_owned(),
            remedy: format!(
                "name what you approve: --digest {}, or say --yes",
                approval.digest
            ),
        });
    }
    out.say("Approve exactly this plan, once? [y/N]");
    // Read on a thread of its own: the connection stays alive while the person thinks.
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = match read.await {
        Ok(line) => line.map_err(|error| Failure::io("read the answer", &error))?,
        Err(error) => return Err(Failure::io("read the answer", &error.into())),
    };
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Local {
            doing: doing.to_owned(),
            why: "it was not confirmed".to_owned(),
            remedy: format!(
                "the question stays; to say no: pawctl approval deny {}",
                approval.id
            ),
        }),
    }
}

/// Sends the answer with the digest that was shown.
async fn say(
    pawd: &Connection,
    out: &mut Out,
    approval: &Approval,
    said: &str,
    note: Option<String>,
) -> Result<(), Failure> {
    let params = Params::named(
        json!({"id": approval.id, "digest": approval.digest, "answer": said, "note": note}),
    );
    let answer = pawd
        .call("answer the question", "approval.answer", params)
        .await?;
    out.answer(&answer, |done: &Action, look| {
        action::show(
            &Action {
                plan: None,
                ..done.clone()
            },
            look,
        )
    })
}

fn list(approvals: &[Approval], look: &Look) -> String {
    let rows = approvals
        .iter()
        .map(|approval| {
            vec![
                table::text(&approval.id),
                table::toned(action::risk_tone(approval.risk), approval.risk.as_str()),
                table::text(&taint(&approval.taint)),
                table::text(approval.requested_by.name.as_deref().unwrap_or("-")),
                table::text(&text::time(approval.expires_at, look)),
                table::text(&approval.digest.to_string()[..12]),
                table::text(&text::short(&text::visible(&approval.summary, false), 60)),
            ]
        })
        .collect();
    let head = [
        "ID", "RISK", "TAINT", "ASKED BY", "EXPIRES", "DIGEST", "SUMMARY",
    ];
    table::table(&head, rows, look, "no questions wait for a person")
}

/// A question with the exact plan; fails when the plan is not the one that the digest names.
fn show(approval: &Approval, look: &Look) -> Result<String, Failure> {
    let plan = match (approval.plan.canonical(), approval.plan.digest()) {
        (Ok(plan), Ok(digest)) if digest == approval.digest => plan,
        (Ok(_), Ok(digest)) => {
            return Err(mismatch(format!(
                "its digest is {digest}, pawd names {}",
                approval.digest
            )));
        }
        (Err(error), _) | (_, Err(error)) => return Err(mismatch(error.to_string())),
    };
    let mut shown = format!(
        "{} {}: {}\n",
        look.dot(Tone::Warn),
        text::visible(&approval.id, false),
        text::visible(&approval.summary, false)
    );
    shown.push_str(&block(vec![
        (
            "       Risk",
            Some(look.paint(action::risk_tone(approval.risk), approval.risk.as_str())),
        ),
        ("Taint", Some(taint(&approval.taint))),
        ("Asked by", Some(caller(&approval.requested_by))),
        ("Expires", Some(text::time(approval.expires_at, look))),
        ("Digest", Some(approval.digest.to_string())),
    ]));
    shown.push_str(&format!(
        "\n{}\n",
        look.paint(Tone::Bold, "Plan, exactly as it will be executed")
    ));
    shown.push_str(&text::visible(&json::indented(&plan), true));
    shown.push_str("\n\n");
    shown.push_str(&format!(
        "approve: pawctl approval approve {0}\n   deny: pawctl approval deny {0}\n",
        text::line(&approval.id)
    ));
    Ok(shown)
}

fn mismatch(why: String) -> Failure {
    Failure::Local {
        doing: "show the plan".to_owned(),
        why: format!("the plan is not the one that its digest names: {why}"),
        remedy: "do not approve it; use the same version of pawd and pawctl, and tell whoever looks after this host".to_owned(),
    }
}

/// Questions as they come: those that wait already, then each one when it is asked.
async fn watch(pawd: &Connection, out: &mut Out) -> Result<(), Failure> {
    let doing = "watch for questions";
    // Listening begins before the list is read, so that no question falls between the two.
    let mut items = pawd
        .subscribe(doing, "events.subscribe", Params::none())
        .await?;
    let mut seen = HashSet::new();
    loop {
        let waiting = pawd.call(doing, "approval.list", Params::none()).await?;
        let current: Vec<Approval> = waiting.read()?;
        for (approval, raw) in current.iter().zip(json::lines(&waiting.raw)) {
            if seen.insert(approval.id.clone()) {
                match out.format {
                    Format::Table => {
                        let shown = show(approval, &out.look)?;
                        out.print(&format!("{shown}\n"));
                    }
                    Format::Json | Format::Jsonl => out.json(raw),
                }
                out.flush()?;
            }
        }
        // What is answered is forgotten, so that a watch of weeks does not grow.
        seen.retain(|id| current.iter().any(|approval| approval.id == *id));
        loop {
            let Some(item) = items.next().await? else {
                return Err(Failure::Cut {
                    doing: doing.to_owned(),
                    why: "pawd ended the stream".to_owned(),
                    remedy: "watch again: pawctl approval watch".to_owned(),
                });
            };
            match item.read()? {
                EventItem::Event(event) if event.event == "action.waiting_approval" => break,
                EventItem::Event(_) => {}
                EventItem::Cut { error, .. } => {
                    return Err(Failure::Cut {
                        doing: doing.to_owned(),
                        why: "this reader was too slow".to_owned(),
                        remedy: error.hint,
                    });
                }
            }
        }
    }
}
