//! From what is stored to what is recorded and shown: one place for each conversion.

use paw_api::{
    action::{Action, Approval, Asked, Failure, Grant, Timestamps, Verdict},
    agent::{Call, Session, Summary, Turn},
    audit::{Actor, Entry, Event},
    provider::{Attempt, Usage},
};
use paw_policy::{Decision, Digest, Operation, Plan, Rules, plan::canonical};
use uuid::Uuid;

use paw_store::{
    ActionRecord, CallRecord, Caller, GrantRecord, SessionRecord, Speaker, SummaryRecord,
    TurnRecord,
};

/// The longest summary, in characters.
const SUMMARY: usize = 120;

/// How many of the sessions that go with another one are named.
const NAMED: usize = 100;

/// An audit entry about an action.
#[must_use]
pub fn entry_of(event: Event, record: &ActionRecord, rules: &Rules) -> Entry {
    let mut entry = Entry::new(event);
    entry.action = Some(record.id);
    entry.actor = Some(actor(&record.requested_by));
    entry.session.clone_from(&record.plan.session);
    entry.kind = Some(record.kind);
    entry.class = record.plan.operation.class();
    entry.risk = Some(record.risk);
    entry.taint = Some(record.taint.clone());
    entry.decision = Some(record.decision);
    entry.rules.clone_from(&record.rules);
    entry.digest = Some(record.digest);
    entry.policy_digest = Some(rules.digest());
    entry.attestation = record.attestation;
    let result = record.result.as_ref();
    entry.result_digest = result.map(|it| Digest::of(canonical(it).as_bytes()));
    entry.outcome = Some(record.state.as_str().to_owned());
    entry
        .detail
        .insert("agent".into(), record.plan.agent.to_string());
    entry.detail.insert("summary".into(), summary(&record.plan));
    if let Some(sandbox) = &record.sandbox {
        entry.detail.insert("sandbox".into(), sandbox.clone());
    }
    if let Operation::SandboxRun(spec) = &record.plan.operation
        && let Some(size) = spec.get("terminal")
    {
        let size = format!("{} rows, {} columns", size["rows"], size["cols"]);
        entry.detail.insert("terminal".into(), size);
    }
    if let Some(error) = &record.error {
        entry.detail.insert("error".into(), error.kind.clone());
    }
    let way = record.circumstances.way();
    if !way.is_empty() {
        entry.detail.insert("way".into(), shorten_to(&way, 400));
    }
    if record.interrupted > 0 {
        let times = record.interrupted.to_string();
        entry.detail.insert("interrupted".into(), times);
    }
    entry
}

/// Says in an entry about a session which others go with it: those that its agent began. A question comes to 73 at most, and a
/// conversation has many questions, so after the first ones it says how many.
pub fn with_those(entry: &mut Entry, begun: &[Uuid]) {
    if begun.is_empty() {
        return;
    }
    let mut ids: Vec<String> = begun.iter().take(NAMED).map(Uuid::to_string).collect();
    if let Some(more @ 1..) = begun.len().checked_sub(NAMED) {
        ids.push(format!("and {more} more"));
    }
    entry.detail.insert("with".into(), ids.join(" "));
}

/// An audit entry about a grant.
#[must_use]
pub fn granted(event: Event, grant: &GrantRecord, by: &Caller) -> Entry {
    let mut entry = Entry::new(event);
    entry.action = Some(grant.action);
    entry.actor = Some(actor(by));
    entry.digest = Some(grant.digest);
    let mut detail = |key: &str, value: String| drop(entry.detail.insert(key.into(), value));
    detail("grant", grant.id.to_string());
    detail("agent", grant.agent.to_string());
    detail("for_uid", grant.uid.to_string());
    detail("until_ms", grant.until_ms.to_string());
    detail("rule", shorten_to(&grant.text, 4_000));
    entry
}

/// A caller as the audit log names them.
#[must_use]
pub fn actor(caller: &Caller) -> Actor {
    Actor {
        uid: caller.uid,
        gid: caller.gid,
        pid: caller.pid,
        role: Some(caller.role),
        unit: caller.unit.clone(),
    }
}

/// One line that says what a plan does.
#[must_use]
pub fn summary(plan: &Plan) -> String {
    let text = match &plan.operation {
        Operation::Chat(chat) => format!(
            "chat with {} ({}): {}",
            chat.provider, chat.model, chat.text
        ),
        Operation::ToolCall(call) => {
            let arguments = serde_json::Value::Object(call.arguments.clone());
            format!("{}/{} {}", call.skill, call.tool, canonical(&arguments))
        }
        Operation::SandboxRun(spec) => {
            let argv = spec.get("argv").and_then(serde_json::Value::as_array);
            let words: Vec<&str> = argv
                .into_iter()
                .flatten()
                .filter_map(serde_json::Value::as_str)
                .collect();
            format!("run {}", words.join(" "))
        }
        Operation::ApiCall(call) => {
            format!("let sandbox {} reach {}", call.sandbox, call.rule)
        }
        Operation::SkillChange(change) => format!(
            "{} skill {} {} ({})",
            change.change.as_str(),
            change.skill,
            change.version,
            change.digest
        ),
        Operation::ModelSwitch(switch) => {
            let whose = match &switch.agent {
                Some(agent) => format!("for agent {agent}"),
                None => "for who names no model".to_owned(),
            };
            let to = &switch.to;
            format!("have {} ({}) answer {whose}", to.provider, to.model)
        }
        Operation::ConfigChange(change) => {
            let what = change.difference.join(", ");
            format!("{} {}: {what}", change.change.as_str(), change.name)
        }
        Operation::SecretChange(change) => {
            let user = change.user.iter().map(|user| format!(" for {user}"));
            let version = change.version.iter().map(|it| format!(", version {it}"));
            let more: String = user.chain(version).collect();
            format!("{} {}{more}", change.change.as_str(), change.secret)
        }
        Operation::FileOperation(files) => {
            let (change, what) = (files.change.as_str(), files.difference.join(", "));
            format!("{change} {} of {}: {what}", files.layer, files.workspace)
        }
    };
    shorten(&text)
}

/// The first characters of a text, on one line and without control characters.
#[must_use]
pub fn shorten(text: &str) -> String {
    shorten_to(text, SUMMARY)
}

/// The first `most` characters of a text, on one line and without control characters.
#[must_use]
pub fn shorten_to(text: &str, most: usize) -> String {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(most)
        .collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// A caller as others see them.
#[must_use]
pub fn caller(caller: &Caller) -> paw_api::action::Caller {
    paw_api::action::Caller {
        uid: caller.uid,
        gid: caller.gid,
        pid: caller.pid,
        role: caller.role,
        name: caller.name.clone(),
    }
}

/// An action as callers see it; with its plan where one is shown.
#[must_use]
pub fn action(record: ActionRecord, with_plan: bool) -> Action {
    Action {
        id: record.id.to_string(),
        kind: record.kind,
        state: record.state,
        risk: record.risk,
        taint: record.taint,
        digest: record.digest,
        verdict: Verdict {
            decision: record.decision,
            rules: record.rules,
        },
        agent: record.plan.agent.to_string(),
        session: record.plan.session.clone(),
        requested_by: caller(&record.requested_by),
        asked: Asked::from(&record.circumstances),
        approved_by: record
            .approved_by
            .filter(|answer| answer.approve)
            .map(|answer| caller(&answer.by)),
        timestamps: Timestamps {
            created: record.created_ms,
            decided: record.decided_ms,
            started: record.started_ms,
            ended: record.ended_ms,
            expires: record
                .expires_ms
                .filter(|_| record.decision == Decision::Ask),
        },
        summary: summary(&record.plan),
        sandbox: record.sandbox,
        attestation: record.attestation,
        result: record.result,
        error: record.error.map(|error| Failure {
            kind: error.kind,
            message: error.message,
            hint: error.hint.unwrap_or_default(),
            retry_after_ms: error.retry_after_ms,
        }),
        parent: record.parent.map(|id| id.to_string()),
        attempts: record.attempts.into_iter().map(attempt).collect(),
        plan: with_plan.then_some(record.plan),
    }
}

/// One try to have a model answer, as callers see it.
#[must_use]
pub fn attempt(tried: paw_store::Attempt) -> Attempt {
    Attempt {
        provider: tried.provider,
        model: tried.model,
        outcome: tried.outcome,
        at: tried.at_ms,
        ms: tried.ms,
        first_token_ms: tried.first_token_ms,
        usage: Usage {
            input_tokens: tried.input_tokens,
            output_tokens: tried.output_tokens,
            cached_tokens: tried.cached_tokens,
        },
        cost: tried.cost_micros.map(dollars),
        cost_estimated: tried.cost_estimated,
        summary: tried.summary,
    }
}

/// An amount as callers see it.
#[must_use]
pub fn dollars(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// A grant as callers see it.
#[must_use]
pub fn grant(record: GrantRecord) -> Grant {
    Grant {
        id: record.id.to_string(),
        rule: record.text,
        action: record.action.to_string(),
        by: caller(&record.by),
        uid: record.uid,
        agent: record.agent.to_string(),
        note: record.note,
        made: record.made_ms,
        until: record.until_ms,
    }
}

/// A question as callers see it; for how many actions it is one.
#[must_use]
pub fn approval(record: ActionRecord, waiting: usize) -> Approval {
    Approval {
        waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
        first_yes: record.first_yes.as_ref().map(|first| caller(&first.by)),
        id: record.id.to_string(),
        action: record.id.to_string(),
        digest: record.digest,
        risk: record.risk,
        taint: record.taint,
        requested_by: caller(&record.requested_by),
        asked: Asked::from(&record.circumstances),
        summary: summary(&record.plan),
        plan: record.plan,
        expires_at: record.expires_ms.unwrap_or(0),
    }
}

/// A session as callers see it.
#[must_use]
pub fn session(record: SessionRecord) -> Session {
    Session {
        id: record.id.to_string(),
        agent: record.agent.to_string(),
        owner: record.owner_uid,
        title: record.title,
        turns: record.turns,
        taint: record.taint,
        created: record.created_ms,
        updated: record.updated_ms,
        parent: record.parent.map(|id| id.to_string()),
    }
}

/// What the first turns of a session come to, as callers see it.
#[must_use]
pub fn summary_of(record: SummaryRecord) -> Summary {
    Summary {
        until: record.until,
        digest: record.digest,
        text: record.text,
        taint: record.taint,
        action: record.action.to_string(),
        provider: record.provider.to_string(),
        model: record.model,
        at: record.at_ms,
    }
}

fn call(record: CallRecord) -> Call {
    Call {
        id: record.id,
        name: record.name,
        arguments: record.arguments,
        action: record.action.map(|id| id.to_string()),
    }
}

/// A turn as callers see it.
#[must_use]
pub fn turn(record: TurnRecord) -> Turn {
    Turn {
        seq: record.seq,
        role: match record.role {
            Speaker::User => "user".into(),
            Speaker::Assistant => "assistant".into(),
            Speaker::Tool => "tool".into(),
        },
        text: record.text,
        taint: record.taint,
        action: record.action.map(|id| id.to_string()),
        calls: record.calls.into_iter().map(call).collect(),
        call: record.result_of.as_ref().map(|of| of.call.clone()),
        failed: record.result_of.as_ref().is_some_and(|of| of.failed),
        tool: record.result_of.map(|of| of.tool),
        provider: record.provider.map(|name| name.to_string()),
        model: record.model,
        at: record.at_ms,
    }
}
