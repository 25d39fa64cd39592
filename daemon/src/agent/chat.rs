//! One turn of a conversation: context in, answer out, piece by piece.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use paw_api::provider::{ChatResult, Usage};
use paw_llm::{ChatRequest, Finish, LlmError, Message, Part, Schema};
use paw_policy::{ChatArguments, Name, Target};
use paw_store::{ActionRecord, Attempt, Caller, Failure, Speaker, StoreError, TurnRecord};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Agents, again::Again};
use crate::{
    clock::now_ms,
    config::{AgentSettings, RouteSettings, routes::OnBreak},
    gateway::{
        self, Asked, Listener, Question, Spoken, Tried, Unanswered, Why,
        price::{Prices, Tokens},
    },
    orchestrator::work::{Ending, Exchange, Outcome, Progress, failure},
    pictures::picture,
    quota::{self, Who},
    records,
    storage::Storage,
};

/// Turns of a session that a model is shown, newest ones.
const CONTEXT_TURNS: usize = 64;

/// Bytes of earlier turns that a model is shown.
const CONTEXT_BYTES: usize = 64 * 1024;

/// Talks with whoever of the plan's targets answers.
pub(super) async fn turn(
    agents: &Agents,
    (id, caller): (Uuid, &Caller),
    agent: &Name,
    (session, opens): (Option<&str>, bool),
    chat: ChatArguments,
    progress: Progress,
    cancel: &CancellationToken,
) -> Outcome {
    let Some(session) = session.and_then(|text| text.parse::<Uuid>().ok()) else {
        return Outcome::failed(
            "internal",
            "a chat without session",
            "report it with the journal of this time",
        );
    };
    let (limit, settings, route) = {
        let config = agents.config.borrow();
        (
            config.actions.chat_timeout,
            config.agents.get(agent).cloned(),
            // What it says now: a route that may not leave the host any more does not.
            chat.route
                .as_ref()
                .and_then(|name| config.routes.get(name).cloned()),
        )
    };
    let Some(settings) = settings else {
        return Outcome::failed(
            "not_found",
            format!("there is no agent {agent}"),
            "see `pawctl agent list`",
        );
    };
    let targets = targets(agents, &chat, route.as_ref());
    // What was decided is to whom the words go, and whoever is somewhere else now is somebody else.
    let (targets, moved): (Vec<_>, Vec<_>) = targets.into_iter().partition(|it| it.is_at(&chat));
    if let (true, Some(first)) = (targets.is_empty(), moved.first()) {
        let message = format!(
            "provider {} is at {} now, and was elsewhere when this was decided",
            first.target.provider, first.known.settings.base_url
        );
        let hint = "submit it again if it may go there";
        return Outcome::failed("denied", message, hint);
    }
    if targets.is_empty() {
        let names: Vec<_> = chat
            .targets()
            .into_iter()
            .map(|target| target.provider.to_string())
            .collect();
        return Outcome::failed(
            "not_found",
            format!("there is no provider {}", names.join(" or ")),
            "see `pawctl provider list`",
        );
    }
    let earlier = if opens {
        Ok(Vec::new())
    } else {
        earlier(&agents.storage, session)
    };
    let (request, said_here) = match earlier {
        Ok(earlier) => {
            let providers = Arc::clone(&agents.providers.borrow());
            let said_here = earlier.iter().any(|turn| providers.said_here(turn));
            let said = said(&chat.text, &chat.images);
            (ask_after(earlier, &settings, said), said_here)
        }
        Err(error) => {
            return Outcome::failed(
                "unavailable",
                paw_log::Chain(&error).to_string(),
                error.remedy(),
            );
        }
    };
    // What was said with a provider on this host stays here, unless the agent may take it out (invariant 7). It was checked when
    // this was asked; another turn of the same conversation may have ended since, and a provider may have moved.
    let stays = chat.local_only || (said_here && !settings.may_leave_host);
    let targets: Vec<_> = targets
        .into_iter()
        .filter(|asked| !stays || asked.known.settings.is_local())
        .collect();
    if targets.is_empty() {
        let message = format!(
            "this question stays on this host, and provider {} is not on it",
            chat.provider
        );
        let hint = "begin a new conversation, or set may_leave_host = true for the agent";
        return Outcome::failed("denied", message, hint);
    }
    // The question has this time; its last attempt is cut off a little later by the same limit.
    let deadline = Instant::now() + limit;
    let question = Question {
        targets: &targets,
        breakers: &agents.breakers,
        quotas: &agents.quotas,
        who: &who(id, agent, caller, &session.to_string()),
        request: ChatRequest {
            model: chat.model.clone(),
            schema: schema(&chat),
            ..request
        },
        may_leave_host: route.as_ref().is_some_and(|route| route.may_leave_host),
        on_break: route
            .as_ref()
            .map_or(OnBreak::Restart, |route| route.on_break),
        hedge: route.as_ref().and_then(|route| route.hedge),
        deadline,
    };
    let (mut listener, mut tried) = (Listener::new(progress), Tried::default());
    let again = Again::of(agents, &chat, route.as_ref(), (agent, caller.uid));
    let first = &targets[0];
    let kept = again
        .as_ref()
        .and_then(|again| again.find(&question.request, first));
    if let Some(spoken) = kept {
        tokio::select! {
            () = listener.hear(spoken.text.clone()) => {}
            () = cancel.cancelled() => return Outcome::plain(Ending::Cancelled),
        }
        let attempts = vec![from_before(&first.target)];
        let outcome = answered(id, session, (chat.text, first), spoken, (&attempts, true));
        return Outcome {
            attempts,
            ..outcome
        };
    }
    let asking = gateway::ask(&question, &mut listener, &mut tried);
    let told = tokio::select! {
        told = timeout_at(deadline, asking) => Some(told),
        () = cancel.cancelled() => None,
    };
    // What is under way now was left: taken back, or cut off by the limit.
    let left = told.as_ref().map_or("cancelled", |_| "timed_out");
    let attempts = tried.left(left, Instant::now());
    let outcome = match told {
        None => Outcome::plain(Ending::Cancelled),
        Some(Err(_)) => Outcome::plain(Ending::TimedOut(failure(
            "timed_out",
            format!("the answer was not complete after {} ms", limit.as_millis()),
            "raise [actions] chat_timeout, or use a faster model",
        ))),
        Some(Ok(Err(unanswered))) => failed(&unanswered, &targets, &attempts),
        Some(Ok(Ok((at, spoken)))) => {
            if let Some(again) = &again {
                again.keep(&question.request, &targets[at], &spoken);
            }
            let said = (chat.text, &targets[at]);
            answered(id, session, said, spoken, (&attempts, false))
        }
    };
    Outcome {
        attempts,
        ..outcome
    }
}

/// A chat that ended with an earlier pawd: nobody knows how far it came, or who was being asked, so it counts as what is set aside for an
/// attempt at the dearest of its targets.
pub(super) fn interrupted(agents: &Agents, record: &ActionRecord, chat: &ChatArguments) {
    let config = Arc::clone(&agents.config.borrow());
    let Some(settings) = config.agents.get(&record.plan.agent) else {
        return;
    };
    let session = record.plan.session.as_deref().unwrap_or_default();
    let earlier = session
        .parse()
        .map(|session| earlier(&agents.storage, session).unwrap_or_default());
    let said = said(&chat.text, &chat.images);
    let request = ChatRequest {
        schema: schema(chat),
        ..ask_after(earlier.unwrap_or_default(), settings, said)
    };
    let asked = (Tokens::of(&request), settings.max_tokens);
    let prices = Prices::new(&config.prices);
    let price = |target: Target| {
        let provider = config.providers.get(&target.provider)?;
        let price = prices.of(&target, provider.kind, provider.is_local());
        Some((target, price))
    };
    let priced = chat.targets().into_iter().filter_map(price);
    let Some((target, price)) = priced.max_by_key(|(_, price)| quota::most(asked, *price).cost)
    else {
        return;
    };
    let who = who(record.id, &record.plan.agent, &record.requested_by, session);
    agents.quotas.interrupted((&who, &target), asked, price);
}

/// The shape that an answer has to have.
fn schema(chat: &ChatArguments) -> Option<Schema> {
    chat.schema.clone().map(|schema| Schema {
        name: "answer".to_owned(),
        schema,
    })
}

fn who(action: Uuid, agent: &Name, caller: &Caller, session: &str) -> Who {
    Who {
        action,
        agent: agent.clone(),
        uid: caller.uid,
        user: caller.name.clone(),
        session: session.to_owned(),
    }
}

impl Asked {
    /// Whether its provider is where it was when this was decided. A plan of an earlier pawd does not say where anybody was.
    fn is_at(&self, chat: &ChatArguments) -> bool {
        let place = chat.places.get(&self.target.provider);
        let here = |place: &String| *place == self.known.settings.base_url.as_str();
        chat.places.is_empty() || place.is_some_and(here)
    }
}

/// Those of the plan's targets whose providers are configured now.
fn targets(agents: &Agents, chat: &ChatArguments, route: Option<&RouteSettings>) -> Vec<Asked> {
    let providers = Arc::clone(&agents.providers.borrow());
    let config = Arc::clone(&agents.config.borrow());
    let prices = Prices::new(&config.prices);
    let known = |target: Target| {
        let (_, known) = providers.get(target.provider.as_str())?;
        let settings = &known.settings;
        Some(Asked {
            context: route.and_then(|route| route.context(&target)),
            price: prices.of(&target, settings.kind, settings.is_local()),
            known: Arc::clone(known),
            target,
        })
    };
    chat.targets().into_iter().filter_map(known).collect()
}

/// Nobody was asked: the answer was there from before. It is on record as what it is.
fn from_before(target: &Target) -> Attempt {
    Attempt {
        provider: target.provider.to_string(),
        model: target.model.clone(),
        outcome: "cached".into(),
        at_ms: now_ms(),
        cost_micros: Some(0),
        input_tokens: Some(0),
        output_tokens: Some(0),
        ..Attempt::default()
    }
}

fn answered(
    id: Uuid,
    session: Uuid,
    (question, by): (String, &Asked),
    Spoken { text, done }: Spoken,
    (attempts, cached): (&[Attempt], bool),
) -> Outcome {
    let (by, local) = (by.target.clone(), by.known.settings.is_local());
    let result = ChatResult {
        action_id: id.to_string(),
        session: session.to_string(),
        text: text.clone(),
        provider: by.provider.to_string(),
        model: done.model.unwrap_or(by.model),
        usage: Usage {
            input_tokens: done.usage.input_tokens,
            output_tokens: done.usage.output_tokens,
            cached_tokens: done.usage.cached_tokens,
        },
        finish: finish(&done.finish),
        attempts: attempts.iter().cloned().map(records::attempt).collect(),
        cost: cost(attempts).map(records::dollars),
        cost_estimated: attempts.iter().any(|it| it.cost_estimated),
        cached,
    };
    let exchange = Exchange {
        session,
        question,
        answer: text,
        provider: by.provider,
        model: result.model.clone(),
        local,
    };
    match serde_json::to_value(&result) {
        Ok(value) => Outcome {
            exchange: Some(exchange),
            ..Outcome::plain(Ending::Completed(value))
        },
        Err(error) => Outcome::failed(
            "internal",
            error.to_string(),
            "report it with the journal of this time",
        ),
    }
}

/// What all of them cost together, in millionths of a US dollar.
fn cost(attempts: &[Attempt]) -> Option<u64> {
    attempts
        .iter()
        .map(|attempt| attempt.cost_micros)
        .try_fold(0_u64, |sum, cost| Some(sum.saturating_add(cost?)))
}

/// What is said now. Pictures come before the words about them; only this turn shows them.
#[must_use]
pub fn said(text: &str, images: &[String]) -> Message {
    let pictures = images.iter().filter_map(|base64| picture(base64));
    let words = Part::Text(text.to_owned());
    Message::User(pictures.map(Part::Image).chain([words]).collect())
}

/// What a model is asked in this conversation; which model, each target says.
///
/// # Errors
/// When the store cannot be read.
pub fn request(
    storage: &Storage,
    session: Uuid,
    settings: &AgentSettings,
    said: Message,
) -> Result<ChatRequest, StoreError> {
    Ok(ask_after(earlier(storage, session)?, settings, said))
}

/// The newest turns of a conversation.
fn earlier(storage: &Storage, session: Uuid) -> Result<Vec<TurnRecord>, StoreError> {
    let store = storage.read();
    let total = store.session(session)?.map_or(0, |session| session.turns);
    let from = total.saturating_sub(CONTEXT_TURNS as u64);
    store.turns(session, from, CONTEXT_TURNS)
}

/// Instructions, the newest earlier turns that fit, and what was said now.
fn ask_after(earlier: Vec<TurnRecord>, settings: &AgentSettings, said: Message) -> ChatRequest {
    let mut room = CONTEXT_BYTES;
    let mut shown: Vec<Message> = Vec::new();
    for turn in earlier.into_iter().rev() {
        let Some(left) = room.checked_sub(turn.text.len()) else {
            break;
        };
        room = left;
        shown.push(match turn.role {
            Speaker::User => Message::user(turn.text),
            Speaker::Assistant => Message::assistant(turn.text),
        });
    }
    shown.push(Message::System(settings.instructions.clone()));
    shown.reverse();
    shown.push(said);
    ChatRequest {
        max_tokens: settings.max_tokens,
        temperature: settings.temperature,
        ..ChatRequest::new(String::new(), shown)
    }
}

fn failed(unanswered: &Unanswered, targets: &[Asked], attempts: &[Attempt]) -> Outcome {
    let Unanswered {
        at,
        why,
        left_alone,
    } = unanswered;
    let (by, now) = (&targets[*at].target, now_ms());
    let asked: BTreeSet<_> = attempts
        .iter()
        .map(|attempt| (&attempt.provider, &attempt.model))
        .collect();
    let tried = match (attempts.len(), asked.len()) {
        (0 | 1, _) => String::new(),
        (times, 1) => format!(" (tried {times} times)"),
        (times, targets) => format!(" (the last of {times} attempts at {targets} targets)"),
    };
    let mut message = format!("provider {} ({}): {why}{tried}", by.provider, by.model);
    let mut again: Vec<u64> = why.retry_after(now).map(millis).into_iter().collect();
    for (at, until) in left_alone {
        let (target, ms) = (&targets[*at].target, until.saturating_sub(now));
        again.push(ms);
        message.push_str(&format!(
            "; provider {} ({}) failed before and is left alone for {} s",
            target.provider,
            target.model,
            ms.div_ceil(1_000)
        ));
    }
    let failure = Failure {
        retry_after_ms: again.into_iter().min(),
        ..failure(why.kind(), message, why.hint())
    };
    Outcome::plain(match why {
        Why::Provider(LlmError::TimedOut { .. }) => Ending::TimedOut(failure),
        Why::Provider(_) | Why::Quota(_) => Ending::Failed(failure),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn finish(finish: &Finish) -> String {
    match finish {
        Finish::Stop => "stop".into(),
        Finish::ToolCalls => "tool_calls".into(),
        Finish::Length => "length".into(),
        Finish::ContentFilter => "content_filter".into(),
        Finish::Other(word) => word.clone(),
    }
}
