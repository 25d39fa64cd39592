//! One turn of a conversation: the model is asked, the tools that it calls are done, and it is asked again with their results, until it
//! answers.
//!
//! ```text
//!  question ─► model ─┬─ answer ──────────────────────────────────────────────► end
//!                ▲    └─ calls ─► noted ─► each: intake, policy, (a person), sandbox ─► results noted ─┐
//!                │                 │ no such tool, arguments that do not fit: a result, too            │
//!                └──── not again: turn limit, repeating, too many results: asked for an answer ◄───────┘
//! ```
//!
//! A call is an action of its own and goes in where everybody's actions go in ([`Door`]); this module has no other way to a tool. It asks
//! in the name of who asked the model, and its taint is that of all the turn has read. Calls are in the store with the ids of
//! their actions before these are asked for, and results before the model hears of them. So a turn that pawd's end interrupted goes on:
//! what is done is not done again, what waits for a person still waits, and what was being done has failed, which the model is told.
//!
//! - [`told`]: which tools a model is told of; [`guide`]: how their makers say that they are used. Pure. [`remembered`]: that of the last turn.
//! - [`text`]: calls that a model wrote as text. Pure.
//! - [`fence`]: how data is shown. Pure.
//! - [`context`]: what was said and done before, as a model is shown it. Pure.
//! - [`leaving`]: what a model wrote, looked through before anybody hears of it.
//! - [`summary`]: what has no room, told in short.
//! - [`limits`], [`repeat`]: when it is enough. Pure.
//! - [`ask`]: one question. [`calls`]: what comes of one answer with calls. [`result`]: what an action came to, for the model. Pure.
//! - [`last`]: what is said where there is no answer.
//! - [`noted`]: what is in the store of a turn that goes on.
//!
//! [`Door`]: super::Door

mod ask;
mod calls;
pub(super) mod context;
pub(super) mod fence;
mod guide;
mod last;
pub(super) mod leaving;
mod limits;
mod news;
mod noted;
pub(super) mod remembered;
mod repeat;
mod result;
mod summary;
pub(super) mod text;
pub(super) mod told;

use std::{sync::Arc, time::Duration};

use paw_api::provider::{ChatResult, Usage};
use paw_policy::{ChatArguments, Name, Operation, TaintSet, guard::secrets::Canary};
use paw_store::{ActionRecord, Attempt, Caller, TurnRecord};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use self::last::interrupted;
use self::{ask::Answer, fence::Fence, limits::Stop, told::Told};
use super::{Agents, chat, skill};
use crate::{
    gateway::Listener,
    orchestrator::work::{Continuation, Ending, Exchange, Outcome, Progress},
    records,
};

/// Whose turn it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    /// The chat.
    pub(super) id: Uuid,
    /// The chat of another agent that asked it.
    pub(super) parent: Option<Uuid>,
    /// Who asked.
    pub(super) caller: &'a Caller,
    /// Which agent answers.
    pub(super) agent: &'a Name,
    /// In which conversation.
    pub(super) session: Option<&'a str>,
    /// Whether it begins with this: nothing was said there before.
    pub(super) opens: bool,
    /// Where the question and what was said before came from.
    pub(super) taint: &'a TaintSet,
    /// When it is told to stop at the latest.
    pub(super) deadline_ms: Option<u64>,
}

/// When it shall stop; see [`crate::orchestrator::work::Task`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Stops<'a> {
    pub(super) cancel: &'a CancellationToken,
    pub(super) leave: &'a CancellationToken,
    pub(super) drain: &'a CancellationToken,
}

/// A turn on its way.
struct Turn<'a> {
    agents: &'a Agents,
    whose: Whose<'a>,
    stops: Stops<'a>,
    chat: ChatArguments,
    ready: chat::Ready,
    tools: Arc<Told>,
    fence: Fence,
    /// The mark of its instructions.
    canary: Canary,
    listener: Listener,
    /// Where all that it has read came from.
    taint: TaintSet,
    /// What it has done so far, as it is stored; the question is not among them.
    turns: Vec<TurnRecord>,
    /// What is left of its time, which does not pass while a person is asked.
    left: Duration,
    /// Tries to have the model answer, all of them.
    attempts: Vec<Attempt>,
    /// Those for a summary, which are noted with the first step.
    unnoted: Vec<Attempt>,
    usage: Usage,
}

/// Whether a chat that an earlier pawd was doing has done something that is stored, so that it can go on.
pub(super) fn is_begun(agents: &Agents, record: &ActionRecord) -> bool {
    matches!(record.plan.operation, Operation::Chat(_)) && !noted::of(agents, record).is_empty()
}

/// Goes on with a chat of an earlier pawd where it stood.
pub(super) async fn go_on(agents: &Agents, task: Continuation) -> Outcome {
    let Continuation {
        record,
        cancel,
        leave,
        drain,
    } = task;
    let Operation::Chat(chat) = &record.plan.operation else {
        let hint = "report it with the journal of this time";
        return Outcome::failed("internal", "what goes on here is no chat", hint);
    };
    let turns = noted::of(agents, &record);
    if calls::open(&turns).is_empty() {
        // It was being asked for its next answer.
        chat::interrupted(agents, &record, chat);
    }
    noted::count(agents, &record, &turns);
    let whose = Whose {
        id: record.id,
        parent: record.parent,
        caller: &record.requested_by,
        agent: &record.plan.agent,
        session: record.plan.session.as_deref(),
        opens: false,
        taint: &record.taint,
        deadline_ms: record.deadline_ms,
    };
    let stops = Stops {
        cancel: &cancel,
        leave: &leave,
        drain: &drain,
    };
    run(agents, whose, chat.clone(), (Progress::None, turns), stops).await
}

/// Talks with whoever of the plan's targets answers, and does what they ask for, until there is an answer. `turns` is what it has done
/// before.
pub(super) async fn run(
    agents: &Agents,
    whose: Whose<'_>,
    chat: ChatArguments,
    (progress, turns): (Progress, Vec<TurnRecord>),
    stops: Stops<'_>,
) -> Outcome {
    let mut ready = match chat::ready(agents, whose.agent, (whose.session, whose.opens), &chat) {
        Ok(ready) => ready,
        Err(outcome) => return *outcome,
    };
    // What it has done itself is not earlier.
    ready
        .earlier
        .turns
        .retain(|turn| turn.action != Some(whose.id));
    skill::look(agents, &ready.settings, whose.caller).await;
    let settings = &ready.settings;
    let tools = match chat.schema {
        // It is asked for data, and some providers force it to answer at once.
        Some(_) => Ok(Arc::default()),
        None => {
            let skills = chat::usable(&agents.skills, settings);
            agents.told.told(whose.agent, skills, &settings.agents)
        }
    };
    let tools = match tools {
        Ok(tools) => tools,
        Err(error) => {
            let message = format!("agent {}: its skills have {error}", whose.agent);
            let hint = "give the agent fewer skills in pawd.toml";
            return Outcome::failed("too_many_tools", message, hint);
        }
    };
    let fence = match Fence::new() {
        Ok(fence) => fence,
        Err(error) => {
            let message = format!("draw a mark for data: {error}");
            return Outcome::failed("internal", message, "look at the kernel's random source");
        }
    };
    let attempts: Vec<_> = turns
        .iter()
        .flat_map(|turn| turn.attempts.clone())
        .collect();
    // What was said since it was accepted is read, too, so it counts like what it has done itself.
    let read = ready.earlier.turns.iter().chain(&turns);
    let taint = whose.taint.clone().with(&tools.taint());
    let taint = match &ready.earlier.summary {
        Some(summary) => taint.with(&summary.taint),
        None => taint,
    };
    let taint = read.fold(taint, |all, turn| all.with(&turn.taint));
    let canary = agents.canaries.of_session(ready.session);
    let mut turn = Turn {
        agents,
        whose,
        stops,
        left: ready.limit,
        ready,
        chat,
        tools,
        fence,
        listener: Listener::new(progress, canary.clone()),
        canary,
        taint,
        usage: told_by(&attempts),
        attempts,
        unnoted: Vec::new(),
        turns,
    };
    let ended = turn.take().await;
    let outcome = turn.with_last_words(ended.unwrap_or_else(|outcome| *outcome));
    Outcome {
        attempts: turn.attempts,
        ..outcome
    }
}

/// How a turn ends before it has an answer.
type Early = Box<Outcome>;

impl Turn<'_> {
    async fn take(&mut self) -> Result<Outcome, Early> {
        if !calls::open(&self.turns).is_empty() {
            self.finish_calls().await?;
        }
        // What goes on had its chance.
        if self.turns.is_empty() {
            self.remember().await?;
        }
        loop {
            if self.stops.drain.is_cancelled() && !self.turns.is_empty() {
                return Ok(Outcome::plain(Ending::Left));
            }
            let stop = match self.turns.is_empty() {
                true => None,
                false => limits::stop(&self.turns, self.ready.settings.max_turns),
            };
            let mut answer = match self.ask(stop.as_ref()).await {
                Ok(answer) => answer,
                Err(outcome) => return Err(unanswered(*outcome, stop.as_ref())),
            };
            self.look_through(&mut answer).await;
            let calls = match stop {
                None => self.calls_of(&answer),
                Some(_) => Vec::new(),
            };
            if calls.is_empty() {
                return Ok(self.answered(answer, stop.as_ref()));
            }
            self.note_calls(answer, calls).await?;
            self.finish_calls().await?;
        }
    }

    fn answered(&self, answer: Answer, stop: Option<&Stop>) -> Outcome {
        let Answer {
            spoken,
            target,
            local,
            cached,
            attempts: _,
        } = answer;
        if let (true, Some(stop)) = (spoken.text.trim().is_empty(), stop) {
            let message = format!("{}; then the model said nothing", stop.why());
            return Outcome::failed(stop.word(), message, stop.hint());
        }
        let finish = stop.map_or_else(
            || chat::finish(&spoken.done.finish),
            |stop| stop.word().into(),
        );
        let attempts = &self.attempts;
        let result = ChatResult {
            action_id: self.whose.id.to_string(),
            session: self.ready.session.to_string(),
            text: spoken.text.clone(),
            provider: target.provider.to_string(),
            model: spoken.done.model.unwrap_or(target.model),
            usage: self.usage,
            finish,
            attempts: attempts.iter().cloned().map(records::attempt).collect(),
            cost: chat::cost(attempts).map(records::dollars),
            cost_estimated: attempts.iter().any(|it| it.cost_estimated),
            cached,
        };
        let exchange = Exchange {
            session: self.ready.session,
            question: self.turns.is_empty().then(|| self.chat.text.clone()),
            taint: self.taint.clone(),
            answer: spoken.text,
            by: Some((target.provider, result.model.clone())),
            local,
        };
        match serde_json::to_value(&result) {
            Ok(value) => Outcome {
                exchange: Some(Box::new(exchange)),
                ..Outcome::plain(Ending::Completed(value))
            },
            Err(error) => Outcome::failed(
                "internal",
                error.to_string(),
                "report it with the journal of this time",
            ),
        }
    }

    /// The end of a turn that is told to stop. What is stored of it goes on with the next pawd, where this one ends.
    fn stopped(&self) -> Early {
        let left = self.stops.leave.is_cancelled() && !self.turns.is_empty();
        let ending = if left {
            Ending::Left
        } else {
            Ending::Cancelled
        };
        Box::new(Outcome::plain(ending))
    }
}

/// The end of a turn whose model was asked to answer with what it had and did not: that is what it ended of.
fn unanswered(outcome: Outcome, stop: Option<&Stop>) -> Early {
    Box::new(match (&outcome.ending, stop) {
        (Ending::Failed(failure), Some(stop)) => {
            let message = format!("{}; then: {}", stop.why(), failure.message);
            Outcome::failed(stop.word(), message, stop.hint())
        }
        _ => outcome,
    })
}

/// What attempts took that were answered, as far as it was told.
fn told_by(attempts: &[Attempt]) -> Usage {
    let answered = attempts.iter().filter(|attempt| attempt.outcome == "ok");
    answered.fold(Usage::default(), |sum, attempt| {
        let told = Usage {
            input_tokens: attempt.input_tokens,
            output_tokens: attempt.output_tokens,
            cached_tokens: attempt.cached_tokens,
        };
        add(sum, told)
    })
}

/// Both together. What nobody told stays untold.
fn add(one: Usage, other: Usage) -> Usage {
    let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    Usage {
        input_tokens: sum(one.input_tokens, other.input_tokens),
        output_tokens: sum(one.output_tokens, other.output_tokens),
        cached_tokens: sum(one.cached_tokens, other.cached_tokens),
    }
}
