//! `pawctl approval`: what a person is asked, shown exactly, and the answer bound to what was shown.
//!
//! The plan is printed from the same bytes whose digest is sent back: pawctl computes the digest of the plan that it shows,
//! and answers nothing when it is not the one that pawd names.

mod watch;

use std::{io::IsTerminal as _, str::FromStr as _, time::Duration};

use paw_api::action::{Action, Approval, Enrolment, Grant};
use paw_policy::{
    Circumstances, Digest, Principal, Risk,
    grant::{self, Like},
};
use serde_json::{Value, json};

use super::{action, block, caller, taint, way};
use crate::{
    cli::{self, Global},
    connect::{Answer, Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, plan, table, text},
};

/// How much of a digest is typed to approve what is critical.
const TYPED: usize = 6;

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
        cli::Approval::Approve {
            id,
            answer,
            yes,
            code,
            for_time,
            like: _,
        } => {
            let (_, approval) = question(&pawd, &id).await?;
            let shown = show(&approval, &out.look)?;
            named(&approval, answer.digest.as_deref())?;
            out.say(shown.trim_end());
            if let Some(time) = for_time {
                out.say(grant_of(&approval, time, &out.look)?.trim_end());
            }
            let code = match code.as_deref() {
                Some("-") => Some(line_of_stdin().await?),
                _ => code,
            };
            // A digest on the command line says as much as a yes, unless somebody sits there who can be asked.
            if !yes && (answer.digest.is_none() || std::io::stdin().is_terminal()) {
                confirm(out, &approval).await?;
            }
            let said = Said {
                answer: "approve",
                note: answer.note,
                code,
                for_time,
            };
            say(&pawd, out, &approval, said).await?;
        }
        cli::Approval::Deny { id, answer } => {
            let (_, approval) = question(&pawd, &id).await?;
            named(&approval, answer.digest.as_deref())?;
            let said = Said {
                answer: "deny",
                note: answer.note,
                ..Said::default()
            };
            say(&pawd, out, &approval, said).await?;
        }
        cli::Approval::Watch => watch::run(&pawd, out).await?,
        cli::Approval::Grants => {
            let answer = pawd
                .call("list grants", "approval.grants", Params::none())
                .await?;
            out.answer(&answer, |grants: &Vec<Grant>, look| {
                list_grants(grants, look)
            })?;
        }
        cli::Approval::Revoke { id } => {
            let params = Params::named(json!({"id": id}));
            let answer = pawd
                .call("revoke the grant", "approval.revoke", params)
                .await?;
            out.answer(&answer, |grant: &Grant, look| {
                let id = text::line(&grant.id);
                format!("{} grant {id} is revoked\n", look.dot(Tone::Good))
            })?;
        }
        cli::Approval::Enroll { code } => enroll(&pawd, out, code).await?,
        cli::Approval::Forget { uid } => {
            let params = Params::named(json!({"uid": uid}));
            let answer = pawd
                .call("remove the authenticator", "approval.forget", params)
                .await?;
            out.answer(&answer, |had: &bool, look| {
                let said = if *had { "is removed" } else { "had none" };
                format!(
                    "{} the authenticator of uid {uid} {said}\n",
                    look.dot(Tone::Good)
                )
            })?;
        }
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
    let (asked, words) = confirmation(approval);
    out.say(&asked);
    let said = line_of_stdin().await?.to_ascii_lowercase();
    if words.contains(&said) {
        return Ok(());
    }
    Err(Failure::Local {
        doing: doing.to_owned(),
        why: "it was not confirmed".to_owned(),
        remedy: format!(
            "the question stays; to say no: pawctl approval deny {}",
            approval.id
        ),
    })
}

/// What a person is asked before their yes is sent, and the words that mean it. What is critical takes something that has to be read
/// off this plan, so that no habit says yes to it.
fn confirmation(approval: &Approval) -> (String, Vec<String>) {
    let times = match approval.waiting {
        0 | 1 => "once".to_owned(),
        several => format!("once for each of {several} actions"),
    };
    if approval.risk == Risk::Critical {
        let word = typed(approval);
        let length = word.len();
        let asked = format!(
            "This is critical. To approve exactly this plan, {times}, type the first {length} characters of its digest:"
        );
        return (asked, vec![word]);
    }
    let asked = format!("Approve exactly this plan, {times}? [y/N]");
    (asked, vec!["y".to_owned(), "yes".to_owned()])
}

/// What is typed to approve what is critical.
fn typed(approval: &Approval) -> String {
    approval.digest.to_string().chars().take(TYPED).collect()
}

/// One line, read on a thread of its own: the connection stays alive while the person thinks.
async fn line_of_stdin() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    match read.await {
        Ok(Ok(line)) => Ok(line.trim().to_owned()),
        Ok(Err(error)) => Err(Failure::io("read the answer", &error)),
        Err(error) => Err(Failure::io("read the answer", &error.into())),
    }
}

/// What is said to a question.
#[derive(Default)]
struct Said {
    answer: &'static str,
    note: Option<String>,
    code: Option<String>,
    for_time: Option<Duration>,
}

/// Sends the answer with the digest and the number of actions that were shown.
async fn say(
    pawd: &Connection,
    out: &mut Out,
    approval: &Approval,
    said: Said,
) -> Result<(), Failure> {
    let params = Params::named(answer_of(approval, said));
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

/// The members of an answer; what is not said is left out.
fn answer_of(approval: &Approval, said: Said) -> Value {
    let mut params = json!({"id": approval.id, "digest": approval.digest, "answer": said.answer, "note": said.note});
    if approval.waiting > 1 {
        params["count"] = approval.waiting.into();
    }
    if let Some(code) = said.code {
        params["code"] = code.into();
    }
    if let Some(time) = said.for_time {
        params["for_ms"] = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into();
    }
    params
}

/// The rule that `--for` makes, made by the same code as pawd's.
fn grant_of(approval: &Approval, time: Duration, look: &Look) -> Result<String, Failure> {
    let asked = Principal {
        uid: approval.requested_by.uid,
        role: approval.requested_by.role,
    };
    let circumstances =
        Circumstances::try_from(&approval.asked).map_err(|what| Failure::Local {
            doing: "grant what is like this".to_owned(),
            why: format!("this pawctl does not know how it came to be asked: {what:?}"),
            remedy: "use the pawctl that came with this pawd".to_owned(),
        })?;
    let like = Like {
        plan: &approval.plan,
        requester: &asked,
        taint: &approval.taint,
        circumstances: &circumstances,
        risk: approval.risk,
    };
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let until = look.now.saturating_add(ms);
    let rule = grant::text("grant-NEW", like, look.now, until).map_err(|error| Failure::Local {
        doing: "grant what is like this".to_owned(),
        why: error.to_string(),
        remedy: "approve it alone, without --for".to_owned(),
    })?;
    Ok(format!(
        "{}\n{}",
        look.paint(
            Tone::Bold,
            &format!("Granted with it, for {}, as a rule", text::span(ms))
        ),
        text::visible(&rule, true)
    ))
}

fn list_grants(grants: &[Grant], look: &Look) -> String {
    if grants.is_empty() {
        return "nothing is granted\n".to_owned();
    }
    let each = grants.iter().map(|grant| {
        let mut shown = format!("{} {}\n", look.dot(Tone::Good), text::line(&grant.id));
        shown.push_str(&block(vec![
            ("     Agent", Some(text::line(&grant.agent).into_owned())),
            ("For uid", Some(grant.uid.to_string())),
            ("Made by", Some(caller(&grant.by))),
            ("Made", Some(text::time(grant.made, look))),
            ("Ends", Some(text::time(grant.until, look))),
            ("Action", Some(text::line(&grant.action).into_owned())),
            (
                "Note",
                grant
                    .note
                    .as_deref()
                    .map(|note| text::line(note).into_owned()),
            ),
        ]));
        shown.push_str(&format!("\n{}", text::visible(&grant.rule, true)));
        shown
    });
    each.collect::<Vec<_>>().join("\n")
}

/// Enrolls the caller's authenticator: shows what it takes up, and asks for its first code.
async fn enroll(pawd: &Connection, out: &mut Out, code: Option<String>) -> Result<(), Failure> {
    let doing = "enroll an authenticator";
    let params = match code {
        Some(code) => Params::named(json!({"code": code})),
        None => Params::none(),
    };
    let answer = pawd.call(doing, "approval.enroll", params).await?;
    let begun: Enrolment = answer.read()?;
    let drawn = qrcode::QrCode::new(begun.url.as_bytes()).map_err(|error| Failure::Local {
        doing: "draw the QR code".to_owned(),
        why: error.to_string(),
        remedy: "type the secret instead".to_owned(),
    })?;
    // To the terminal of the person alone: what goes to stdout may be kept.
    out.say(&drawn.render::<qrcode::render::unicode::Dense1x2>().build());
    out.say(&format!(
        "Have an authenticator read this, or type the secret {} (30 s, 6 digits, SHA-1).\nIts code now:",
        text::line(&begun.secret)
    ));
    let code = line_of_stdin().await?;
    let confirm = Params::named(json!({"code": code}));
    let answer = pawd.call(doing, "approval.confirm", confirm).await?;
    out.answer(&answer, |_: &bool, look| {
        let said = "the authenticator is enrolled; give its codes with --code";
        format!("{} {said}\n", look.dot(Tone::Good))
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
                table::text(&times(
                    &text::short(&text::visible(&approval.summary, false), 60),
                    approval.waiting,
                )),
            ]
        })
        .collect();
    let head = [
        "ID", "RISK", "TAINT", "ASKED BY", "EXPIRES", "DIGEST", "SUMMARY",
    ];
    table::table(&head, rows, look, "no questions wait for a person")
}

/// What waits, and how often.
fn times(summary: &str, waiting: u32) -> String {
    if waiting > 1 {
        format!("{waiting} times: {summary}")
    } else {
        summary.to_owned()
    }
}

/// A question with the exact plan; fails when the plan is not the one that the digest names.
fn show(approval: &Approval, look: &Look) -> Result<String, Failure> {
    // The plan is printed from the same bytes whose digest was looked at.
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
        ("By way of", way(&approval.asked)),
        (
            "Touches",
            Some(text::visible(
                &paw_policy::facts::touches(&approval.plan).join(", "),
                false,
            )),
        ),
        (
            "Waiting",
            (approval.waiting > 1).then(|| {
                format!(
                    "{} equal actions; each is done once if you approve",
                    approval.waiting
                )
            }),
        ),
        (
            "First yes",
            approval
                .first_yes
                .as_ref()
                .map(|first| format!("{}; it takes a second person, or --code", caller(first))),
        ),
        ("Expires", Some(text::time(approval.expires_at, look))),
        ("Digest", Some(approval.digest.to_string())),
    ]));
    shown.push_str(&format!(
        "\n{}\n",
        look.paint(Tone::Bold, "Plan, exactly as it will be executed")
    ));
    let read: Value = serde_json::from_str(&plan).map_err(|error| mismatch(error.to_string()))?;
    shown.push_str(&plan::shown(&read));
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
