//! One turn of a conversation: context in, answer out, piece by piece.

use std::sync::Arc;

use paw_api::provider::{ChatResult, Usage};
use paw_llm::{ChatRequest, Finish, LlmError, Message};
use paw_policy::{ChatArguments, Name};
use paw_store::{Attempt, Speaker, StoreError};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Agents;
use crate::{
    gateway::{self, Listener, Spoken, Tried},
    orchestrator::work::{Ending, Exchange, Outcome, Progress, failure},
    records,
};

/// Turns of a session that a model is shown, newest ones.
const CONTEXT_TURNS: usize = 64;

/// Bytes of earlier turns that a model is shown.
const CONTEXT_BYTES: usize = 64 * 1024;

/// Talks with the provider that the plan names.
pub(super) async fn turn(
    agents: &Agents,
    id: Uuid,
    agent: &Name,
    session: Option<&str>,
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
    let (limit, settings) = {
        let config = agents.config.borrow();
        (
            config.actions.chat_timeout,
            config.agents.get(agent).cloned(),
        )
    };
    let Some(settings) = settings else {
        return Outcome::failed(
            "not_found",
            format!("there is no agent {agent}"),
            "see `pawctl agent list`",
        );
    };
    let provider = agents
        .providers
        .borrow()
        .get(chat.provider.as_str())
        .map(|(_, known)| Arc::clone(known));
    let Some(provider) = provider else {
        return Outcome::failed(
            "not_found",
            format!("there is no provider {}", chat.provider),
            "see `pawctl provider list`",
        );
    };
    // What was said with a provider on this host stays here, unless the agent may take it out (invariant 7). It was checked when
    // this was asked; another turn of the same conversation may have ended since.
    let stays = !provider.settings.is_local() && !settings.may_leave_host;
    let messages = match messages(agents, session, &settings.instructions, &chat.text, stays) {
        Ok(Some(messages)) => messages,
        Ok(None) => {
            let message = format!(
                "this conversation was held on this host, and provider {} is not on it",
                chat.provider
            );
            let hint = "begin a new conversation, or set may_leave_host = true for the agent";
            return Outcome::failed("denied", message, hint);
        }
        Err(error) => {
            return Outcome::failed(
                "unavailable",
                paw_log::Chain(&error).to_string(),
                error.remedy(),
            );
        }
    };
    let request = ChatRequest {
        max_tokens: settings.max_tokens,
        ..ChatRequest::new(chat.model.clone(), messages)
    };
    // The question has this time; its last attempt is cut off a little later by the same limit.
    let deadline = Instant::now() + limit;
    let (mut listener, mut tried) = (Listener::new(progress), Tried::default());
    let asking = gateway::ask(
        chat.provider.as_str(),
        &provider,
        request,
        &mut listener,
        &mut tried,
        deadline,
    );
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
        Some(Ok(Err(error))) => failed(&error, &chat, attempts.len()),
        Some(Ok(Ok(spoken))) => answered(id, session, chat, spoken, &attempts),
    };
    Outcome {
        attempts,
        ..outcome
    }
}

fn answered(
    id: Uuid,
    session: Uuid,
    chat: ChatArguments,
    Spoken { text, done }: Spoken,
    attempts: &[Attempt],
) -> Outcome {
    let result = ChatResult {
        action_id: id.to_string(),
        session: session.to_string(),
        text: text.clone(),
        provider: chat.provider.to_string(),
        model: done.model.unwrap_or(chat.model),
        usage: Usage {
            input_tokens: done.usage.input_tokens,
            output_tokens: done.usage.output_tokens,
        },
        finish: finish(&done.finish),
        attempts: attempts.iter().cloned().map(records::attempt).collect(),
        cost: None,
    };
    let exchange = Exchange {
        session,
        question: chat.text,
        answer: text,
        provider: chat.provider,
        model: result.model.clone(),
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

/// Instructions, the newest earlier turns that fit, and what was said now; none when the conversation `stays` on this host and
/// some of it was said by a provider here.
fn messages(
    agents: &Agents,
    session: Uuid,
    instructions: &str,
    text: &str,
    stays: bool,
) -> Result<Option<Vec<Message>>, StoreError> {
    let store = agents.storage.read();
    let total = store.session(session)?.map_or(0, |session| session.turns);
    let from = total.saturating_sub(CONTEXT_TURNS as u64);
    let earlier = store.turns(session, from, CONTEXT_TURNS)?;
    let providers = Arc::clone(&agents.providers.borrow());
    // A provider that is not configured any more may have been local.
    let said_here = |name: &Name| {
        providers
            .get(name.as_str())
            .is_none_or(|(_, known)| known.settings.is_local())
    };
    if stays
        && earlier
            .iter()
            .filter_map(|turn| turn.provider.as_ref())
            .any(said_here)
    {
        return Ok(None);
    }
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
    shown.push(Message::System(instructions.to_owned()));
    shown.reverse();
    shown.push(Message::user(text));
    Ok(Some(shown))
}

fn failed(error: &LlmError, chat: &ChatArguments, attempts: usize) -> Outcome {
    let tried = match attempts {
        1 => String::new(),
        more => format!(" (tried {more} times)"),
    };
    let message = format!(
        "provider {} ({}): {}{tried}",
        chat.provider,
        chat.model,
        paw_log::Chain(error)
    );
    match error {
        LlmError::TimedOut { .. } => Outcome::plain(Ending::TimedOut(failure(
            error.kind(),
            message,
            error.hint(),
        ))),
        _ => Outcome::failed(error.kind(), message, error.hint()),
    }
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
