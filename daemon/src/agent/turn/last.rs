//! What is said where a turn ends without an answer: what was stopped, why, and what was done so far, in pawd's own words.
//!
//! It is in the conversation, where whoever goes on finds it, and in the result of the action, whose state stays what it is. Nothing in it
//! is a provider's or a tool's word: a model reads it later as what was said before.

use paw_api::provider::{ChatResult, Usage};
use paw_policy::{ChatArguments, State, Taint, TaintSet};
use paw_store::{ActionRecord, Attempt, CallRecord, Failure, TurnRecord};
use uuid::Uuid;

use super::Turn;
use crate::{
    agent::{Agents, chat},
    clock::now_ms,
    orchestrator::work::{Ending, Exchange, Outcome},
    records::{self, shorten_to},
};

/// Who says it, where a provider is named otherwise.
const BY: &str = "pawd";

/// Why it ended, where there was no time left.
const OVER: &str = "its time was over";

/// Calls that are told, the last ones; of those before, how many.
const MAX_CALLS: usize = 32;

/// The longest name of a tool that is told, in characters.
const MAX_NAME: usize = 64;

/// What was stopped.
struct Stopped<'a> {
    id: Uuid,
    session: Uuid,
    /// What was asked, where it is not in the conversation yet.
    question: Option<&'a str>,
    taint: TaintSet,
    attempts: &'a [Attempt],
    usage: Usage,
    /// Whether whoever was asked is on this host.
    local: bool,
    /// Each call of a tool, and how it ended.
    done: Vec<String>,
}

impl Turn<'_> {
    /// An end with what there is to say, where it is none with an answer.
    pub(super) fn with_last_words(&self, outcome: Outcome) -> Outcome {
        let stops = self.stops.leave.is_cancelled() || self.stops.drain.is_cancelled();
        let is_overdue = self.whose.deadline_ms.is_some_and(|at| at <= now_ms());
        let cancelled = match (stops, is_overdue) {
            (true, _) => ("interrupted", "pawd stopped"),
            (false, true) => ("timed_out", OVER),
            (false, false) => ("cancelled", "it was cancelled"),
        };
        let has_done = !self.turns.is_empty();
        let Some((finish, why)) = reason(&outcome.ending, cancelled, has_done) else {
            return outcome;
        };
        let stopped = Stopped {
            id: self.whose.id,
            session: self.ready.session,
            question: self.turns.is_empty().then_some(&*self.chat.text),
            taint: self.taint.clone(),
            attempts: &self.attempts,
            usage: self.usage,
            local: self.stays_here() || self.was_asked_here(),
            done: done(self.agents, &self.turns),
        };
        stopped.end(outcome, &finish, &why)
    }

    /// Whether somebody on this host was asked, or would have been.
    fn was_asked_here(&self) -> bool {
        let mut targets = self.ready.targets.iter();
        let here = |it: &crate::gateway::Asked| it.known.settings.is_local();
        let tried = |it: &crate::gateway::Asked| {
            let provider = it.target.provider.as_str();
            self.attempts
                .iter()
                .any(|attempt| attempt.provider == provider)
        };
        match self.attempts.is_empty() {
            true => targets.next().is_some_and(here),
            false => targets.any(|it| here(it) && tried(it)),
        }
    }
}

/// The same for a chat that an earlier pawd was doing and that nobody goes on with: it had called nothing.
pub(in crate::agent) fn interrupted(
    agents: &Agents,
    record: &ActionRecord,
    chat: &ChatArguments,
    outcome: Outcome,
) -> Outcome {
    let session = record.plan.session.as_deref();
    let Some(session) = session.and_then(|text| text.parse().ok()) else {
        return outcome;
    };
    let first = agents
        .providers
        .borrow()
        .get(chat.provider.as_str())
        .map(|(_, it)| it.settings.is_local());
    let stopped = Stopped {
        id: record.id,
        session,
        question: Some(&chat.text),
        taint: record.taint.clone(),
        attempts: &[],
        usage: Usage::default(),
        local: chat.local_only || first.unwrap_or(true),
        done: Vec::new(),
    };
    stopped.end(outcome, "interrupted", "pawd ended")
}

/// Why a turn ended, as one word for programs and in words; nothing where it has an answer, goes on, or did nothing before it failed: then
/// the error says all there is.
fn reason(
    ending: &Ending,
    (word, cancelled): (&str, &str),
    has_done: bool,
) -> Option<(String, String)> {
    let said = |word: &str, why: &str| Some((word.to_owned(), why.to_owned()));
    match ending {
        Ending::Completed(_) | Ending::Left => None,
        Ending::Cancelled => said(word, cancelled),
        Ending::TimedOut(Failure { kind, .. }) => said(kind, OVER),
        Ending::Failed(Failure { kind, message, .. }) => match kind.as_str() {
            // These messages are ours from the first letter to the last.
            "over_budget" | "limited" => said(kind, message),
            _ if has_done => said(kind, &format!("it failed ({kind})")),
            _ => None,
        },
    }
}

impl Stopped<'_> {
    fn end(self, outcome: Outcome, finish: &str, why: &str) -> Outcome {
        let text = self.text(why);
        let result = ChatResult {
            action_id: self.id.to_string(),
            session: self.session.to_string(),
            text: text.clone(),
            provider: BY.to_owned(),
            model: String::new(),
            usage: self.usage,
            finish: finish.to_owned(),
            attempts: self
                .attempts
                .iter()
                .cloned()
                .map(records::attempt)
                .collect(),
            cost: chat::cost(self.attempts).map(records::dollars),
            cost_estimated: self.attempts.iter().any(|it| it.cost_estimated),
            cached: false,
        };
        let exchange = Exchange {
            session: self.session,
            question: self.question.map(str::to_owned),
            taint: self.taint.with(&TaintSet::of(Taint::Model)),
            answer: text,
            by: None,
            local: self.local,
        };
        Outcome {
            exchange: Some(Box::new(exchange)),
            // Without it the conversation still says it.
            shows: serde_json::to_value(&result).ok(),
            ..outcome
        }
    }

    fn text(&self, why: &str) -> String {
        let mut text = format!("(This turn was stopped without an answer: {why}.");
        if self.done.is_empty() {
            text.push_str(" No tool was called.)");
            return text;
        }
        text.push_str(" Done so far:");
        let before = self.done.len().saturating_sub(MAX_CALLS);
        if before > 0 {
            text.push_str(&format!("\n- {before} calls before these"));
        }
        for line in &self.done[before..] {
            text.push_str(&format!("\n- {line}"));
        }
        text.push(')');
        text
    }
}

/// What was called, and how that ended.
fn done(agents: &Agents, turns: &[TurnRecord]) -> Vec<String> {
    let line = |call: &CallRecord| {
        let result = turns.iter().find_map(|turn| {
            let of = turn.result_of.as_ref()?;
            (of.call == call.id).then_some(of)
        });
        let tool = result.map_or(&call.name, |of| &of.tool);
        let record = call.action.map(|id| agents.storage.read().action(id));
        let end = match (record, result) {
            (Some(Ok(Some(record))), _) => state(record.state),
            (None, _) => "refused",
            (Some(Ok(None)), None) => "not begun",
            (Some(Ok(None)), Some(_)) | (Some(Err(_)), _) => "not known",
        };
        format!("{}: {end}", shorten_to(tool, MAX_NAME))
    };
    turns
        .iter()
        .flat_map(|turn| &turn.calls)
        .map(line)
        .collect()
}

const fn state(state: State) -> &'static str {
    match state {
        State::Queued | State::Approved => "not begun",
        State::WaitingApproval => "waits for a person",
        State::Executing => "still being done",
        State::Completed => "done",
        State::Failed => "failed",
        State::Rejected => "denied",
        State::Expired => "nobody said yes in time",
        State::Cancelled => "cancelled",
        State::TimedOut => "its time was over",
    }
}
