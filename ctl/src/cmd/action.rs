//! `pawctl action`: asking for things, and what became of them. Waiting for an action is here for every command that waits.

use paw_api::{
    ErrorKind,
    action::{Action, Page},
    provider::Attempt,
};
use paw_policy::{Decision, Risk, State};
use serde_json::{Map, Value, json};

use super::{block, caller, more, object, policy, taint, way};
use crate::{
    cli::{self, Global},
    connect::{Answer, Connection, Params},
    fail::{Failure, exit, exit_of_state},
    render::{Look, Out, Tone, json, table, text},
};

/// How long one call waits at pawd before it is asked again, in milliseconds, when `--timeout` says nothing.
const ONE_WAIT_MS: u64 = 3_600_000;

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Action,
) -> Result<u8, Failure> {
    match command {
        cli::Action::Submit {
            kind,
            arguments,
            agent,
            session,
            wait,
        } => {
            let arguments = object("submit the action", arguments)?;
            let pawd = Connection::open(global).await?;
            let asked = Asked {
                kind: &kind,
                arguments,
                agent,
                session,
            };
            let (answer, action) = submit(&pawd, out, asked, wait.no_wait).await?;
            out.answer(&answer, show)?;
            code(&action, wait.no_wait)
        }
        cli::Action::List {
            state,
            limit,
            before,
        } => {
            let pawd = Connection::open(global).await?;
            let params = Params::named(json!({"state": state, "limit": limit, "before": before}));
            let answer = pawd.call("list actions", "action.list", params).await?;
            out.answer(&answer, list)?;
            Ok(exit::DONE)
        }
        cli::Action::Show { id } => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call(
                    "show the action",
                    "action.show",
                    Params::named(json!({"id": id})),
                )
                .await?;
            out.answer(&answer, show)?;
            Ok(exit::DONE)
        }
        cli::Action::Wait { id } => {
            let pawd = Connection::open(global).await?;
            let (answer, action) = wait(&pawd, &id).await?;
            out.answer(&answer, show)?;
            code(&action, false)
        }
        cli::Action::Cancel { id } => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call(
                    "cancel the action",
                    "action.cancel",
                    Params::named(json!({"id": id})),
                )
                .await?;
            out.answer(&answer, show)?;
            Ok(exit::DONE)
        }
        cli::Action::Explain { id } => policy::explain(global, out, &id).await,
    }
}

/// What is asked for.
pub(super) struct Asked<'a> {
    /// The kind, as it was typed; pawd denies what it does not know.
    pub(super) kind: &'a str,
    /// Its arguments.
    pub(super) arguments: Map<String, Value>,
    /// On whose behalf.
    pub(super) agent: Option<String>,
    /// In which conversation.
    pub(super) session: Option<String>,
}

/// Submits an action. Unless `no_wait`, it goes on until the action is final, and says on stderr when a person is asked.
pub(super) async fn submit(
    pawd: &Connection,
    out: &Out,
    asked: Asked<'_>,
    no_wait: bool,
) -> Result<(Answer, Action), Failure> {
    let doing = "submit the action";
    let params = Params::named(json!({
        "kind": asked.kind,
        "arguments": asked.arguments,
        "agent": asked.agent,
        "session": asked.session,
        "wait": !no_wait,
        "timeout_ms": pawd.remaining_ms(),
    }));
    let answer = pawd.call_patiently(doing, "action.submit", params).await?;
    let action: Action = answer.read()?;
    if no_wait || action.state.is_final() {
        return Ok((answer, action));
    }
    if action.state == State::WaitingApproval {
        say_waiting(out, &action.id);
    }
    wait(pawd, &action.id).await
}

/// Says that a person has to answer, and where.
pub(super) fn say_waiting(out: &Out, id: &str) {
    out.say(&format!(
        "waiting for approval: pawctl approval show {}",
        text::line(id)
    ));
}

/// Waits until an action is final, at most until `--timeout`.
pub(super) async fn wait(pawd: &Connection, id: &str) -> Result<(Answer, Action), Failure> {
    let doing = "wait for the action";
    loop {
        let left = pawd.remaining_ms();
        let params = Params::named(json!({"id": id, "timeout_ms": left.unwrap_or(ONE_WAIT_MS)}));
        match pawd.call_patiently(doing, "action.wait", params).await {
            Ok(answer) => {
                let action = answer.read()?;
                return Ok((answer, action));
            }
            // pawd waits no longer than it likes; what we wait for is not over because of that.
            Err(Failure::Refused {
                data: Some(data), ..
            }) if data.kind == ErrorKind::TimedOut => {
                if pawd.remaining_ms() == Some(0) {
                    let remedy = format!("it goes on without you: pawctl action wait {id}");
                    return Err(pawd.deadline(doing, &remedy));
                }
            }
            Err(Failure::Deadline { doing, limit, .. }) => {
                return Err(Failure::Deadline {
                    doing,
                    limit,
                    remedy: format!("it goes on without you: pawctl action wait {id}"),
                });
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// The exit code for what became of an action; an error with its cause when it was not completed.
pub(super) fn code(action: &Action, no_wait: bool) -> Result<u8, Failure> {
    if !action.state.is_final() {
        // A state in between is an answer only for those who did not want to wait.
        return Ok(if no_wait {
            exit_of_state(action.state)
        } else {
            exit::FAILED
        });
    }
    let (why, remedy) = match (action.state, &action.error) {
        (State::Completed, _) => return Ok(exit::DONE),
        (_, Some(error)) => (error.message.clone(), error.hint.clone()),
        (State::Rejected, None) if action.verdict.decision == Decision::Deny => (
            match action.verdict.rules.as_slice() {
                [] => "no rule permits it".to_owned(),
                rules => format!("policy denies it: {}", rules.join(", ")),
            },
            format!(
                "see the rules that decided: pawctl action explain {}",
                action.id
            ),
        ),
        (State::Rejected, None) => (
            "a person said no".to_owned(),
            format!("see pawctl action show {}", action.id),
        ),
        (State::Expired, None) => (
            "nobody answered in time".to_owned(),
            "submit it again when somebody can answer".to_owned(),
        ),
        (_, None) => (
            "it was not completed".to_owned(),
            format!("see pawctl action show {}", action.id),
        ),
    };
    Err(Failure::Ended {
        id: action.id.clone(),
        state: action.state,
        why,
        remedy,
    })
}

/// The meaning of a state.
pub(super) const fn state_tone(state: State) -> Tone {
    match state {
        State::Completed | State::Executing => Tone::Good,
        State::WaitingApproval => Tone::Warn,
        State::Failed | State::Rejected | State::TimedOut => Tone::Bad,
        State::Queued | State::Approved | State::Expired | State::Cancelled => Tone::Dim,
    }
}

/// The meaning of a risk.
pub(super) const fn risk_tone(risk: Risk) -> Tone {
    match risk {
        Risk::Low | Risk::Medium => Tone::Plain,
        Risk::High => Tone::Warn,
        Risk::Critical => Tone::Bad,
    }
}

fn list(page: &Page<Action>, look: &Look) -> String {
    let rows = page
        .items
        .iter()
        .map(|action| {
            let tone = state_tone(action.state);
            vec![
                table::toned(tone, &format!("{} {}", tone.dot(), action.id)),
                table::text(action.kind.as_str()),
                table::toned(tone, action.state.as_str()),
                table::toned(risk_tone(action.risk), action.risk.as_str()),
                table::text(&action.agent),
                table::text(&text::time(action.timestamps.created, look)),
                table::text(&text::short(&action.summary, 60)),
            ]
        })
        .collect();
    let head = [
        "  ID", "KIND", "STATE", "RISK", "AGENT", "CREATED", "SUMMARY",
    ];
    table::table(&head, rows, look, "no actions") + &more(page.next.as_deref())
}

/// One action, as a block; also what follows an answer to a question.
pub(super) fn show(action: &Action, look: &Look) -> String {
    let tone = state_tone(action.state);
    let times = &action.timestamps;
    let at = |time: Option<u64>| time.map(|time| text::time(time, look));
    let decided = match action.verdict.rules.as_slice() {
        [] => action.verdict.decision.to_string(),
        rules => format!(
            "{} ({})",
            action.verdict.decision,
            text::line(&rules.join(", "))
        ),
    };
    let mut shown = format!(
        "{} {}: {}\n",
        look.dot(tone),
        text::line(&action.id),
        text::line(&action.summary)
    );
    shown.push_str(&block(vec![
        ("       Kind", Some(action.kind.to_string())),
        ("State", Some(look.paint(tone, action.state.as_str()))),
        (
            "Risk",
            Some(look.paint(risk_tone(action.risk), action.risk.as_str())),
        ),
        ("Taint", Some(taint(&action.taint))),
        ("Verdict", Some(decided)),
        ("Digest", Some(action.digest.to_string())),
        ("Agent", Some(text::line(&action.agent).into_owned())),
        (
            "Session",
            action
                .session
                .as_deref()
                .map(|session| text::line(session).into_owned()),
        ),
        (
            "Requested",
            Some(format!(
                "{} by {}",
                text::time(times.created, look),
                caller(&action.requested_by)
            )),
        ),
        ("By way of", way(&action.asked)),
        ("Approved", action.approved_by.as_ref().map(caller)),
        ("Decided", at(times.decided)),
        ("Started", at(times.started)),
        ("Ended", at(times.ended)),
        (
            "Expires",
            at(times
                .expires
                .filter(|_| action.state == State::WaitingApproval)),
        ),
        (
            "Sandbox",
            action
                .sandbox
                .as_deref()
                .map(|sandbox| text::line(sandbox).into_owned()),
        ),
        (
            "Attested",
            action.attestation.map(|digest| digest.to_string()),
        ),
    ]));
    if let Some(error) = &action.error {
        let what = format!(
            "{} ({})",
            text::line(&error.message),
            text::line(&error.kind)
        );
        shown.push_str(&format!(
            "      Error: {}\n             {}\n",
            look.paint(Tone::Bad, &what),
            text::line(&error.hint)
        ));
    }
    if !action.attempts.is_empty() {
        shown.push_str(&format!(
            "\n{}\n{}",
            look.paint(Tone::Bold, "Attempts"),
            attempts(&action.attempts, look)
        ));
    }
    if let Some(plan) = action.plan.as_ref().and_then(|plan| plan.canonical().ok()) {
        shown.push_str(&format!(
            "\n{}\n{}\n",
            look.paint(Tone::Bold, "Plan"),
            text::visible(&json::indented(&plan), true)
        ));
    }
    if let Some(result) = &action.result {
        shown.push_str(&format!(
            "\n{}\n{}",
            look.paint(Tone::Bold, "Result"),
            outcome(result)
        ));
        if let Some(attested) = attestation(result) {
            shown.push_str(&format!(
                "\n{}\n{attested}",
                look.paint(Tone::Bold, "Sandbox, as the kernel showed it from outside"),
            ));
        }
    }
    shown
}

/// Every try to have a model answer.
fn attempts(attempts: &[Attempt], look: &Look) -> String {
    let rows = attempts
        .iter()
        .map(|attempt| {
            let tone = match attempt.outcome.as_str() {
                "ok" => Tone::Good,
                "loading" | "cancelled" | "outrun" => Tone::Dim,
                _ => Tone::Bad,
            };
            let first = attempt
                .first_token_ms
                .map_or_else(|| "-".to_owned(), text::span);
            vec![
                table::text(&text::time(attempt.at, look)),
                table::text(&attempt.provider),
                table::text(&attempt.model),
                match attempt.summary {
                    true => table::toned(tone, &format!("{}, a summary", attempt.outcome)),
                    false => table::toned(tone, &attempt.outcome),
                },
                table::number(text::span(attempt.ms)),
                table::number(first),
                table::number(attempt.cost.map_or_else(
                    || "-".to_owned(),
                    |cost| text::cost(cost, attempt.cost_estimated),
                )),
            ]
        })
        .collect();
    let head = [
        "BEGAN",
        "PROVIDER",
        "MODEL",
        "OUTCOME",
        "TOOK",
        "FIRST TOKEN",
        "COST",
    ];
    table::table(&head, rows, look, "none")
}

/// A result as text: what a chat or tool said if it has the shape of that, else JSON.
pub(super) fn outcome(result: &Value) -> String {
    let said: Option<String> = match result {
        Value::String(text) => Some(text.clone()),
        Value::Object(members) => match (members.get("text"), members.get("content")) {
            (Some(Value::String(text)), _) => Some(text.clone()),
            // A tool's result as MCP writes it; only if all of it is text, so that nothing is hidden.
            (None, Some(Value::Array(parts))) => parts
                .iter()
                .map(|part| part.get("text").and_then(Value::as_str).map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .map(|parts| parts.join("\n")),
            _ => None,
        },
        _ => None,
    };
    let said = said.unwrap_or_else(|| json::indented(&result.to_string()));
    let said = text::plain(&said);
    if said.ends_with('\n') {
        said.into_owned()
    } else {
        format!("{said}\n")
    }
}

/// What was read of the sandbox before its first command, in short; all of it is in `-o json`.
fn attestation(result: &Value) -> Option<String> {
    let attested = [
        result.pointer("/sandbox/attestation"),
        result.get("attestation"),
    ];
    let facts = attested
        .into_iter()
        .flatten()
        .find_map(|found| found.get("facts"))?;
    let said = |name: &str| {
        let value = facts.get(name)?;
        let words = match value {
            Value::String(word) => word.clone(),
            Value::Array(items) => items.iter().map(plain_word).collect::<Vec<_>>().join(" "),
            Value::Object(members) => members
                .iter()
                .map(|(name, value)| format!("{name} {}", plain_word(value)))
                .collect::<Vec<_>>()
                .join(", "),
            other => other.to_string(),
        };
        Some(text::line(&words).into_owned())
    };
    Some(block(vec![
        (
            "    Runtime",
            Some(format!("{} {}", said("runtime")?, said("runtime_version")?)),
        ),
        ("paw-init", said("init_digest")),
        ("Image", said("root_digest").filter(|it| it != "null")),
        ("Host uid", said("uid")),
        ("No new privs", said("no_new_privs")),
        ("Seccomp", said("seccomp")),
        (
            "Landlock",
            said("landlock_abi").map(|abi| format!("abi {abi}")),
        ),
        ("Capabilities", said("capabilities")),
        ("Namespaces", said("namespaces")),
        ("Limits", said("limits")),
        ("Interfaces", said("interfaces")),
    ]))
}

fn plain_word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
