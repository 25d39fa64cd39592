//! What a turn of a conversation is made of: who may be asked, what they are told, and what comes of one question. How the turn goes
//! is in [`super::turn`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use paw_llm::{ChatRequest, Finish, LlmError, Message, Part, Schema};
use paw_policy::{ChatArguments, Name, Target, guard::secrets::Canary};
use paw_store::{ActionRecord, Attempt, Caller, Failure, Speaker, StoreError};
use uuid::Uuid;

use super::{
    Agents,
    turn::{
        context::{self, Earlier, MAX_BYTES},
        fence::{Fence, RULE},
        leaving,
        told::{Told, TooMany},
    },
};
use crate::{
    clock::now_ms,
    config::{AgentSettings, RouteSettings},
    gateway::{
        Asked, Unanswered, Why,
        price::{Prices, Tokens},
    },
    orchestrator::work::{Ending, Outcome, failure},
    pictures::picture,
    quota::{self, Who},
    sandbox::{Skill, Skills},
    storage::Storage,
};

/// Turns of a session that a model is shown, newest ones.
const CONTEXT_TURNS: usize = 64;

/// Turns that are read where some of the newest are results of tools.
const LOOKED_THROUGH: usize = 1_000;

/// What is there before anybody is asked.
pub(super) struct Ready {
    pub(super) session: Uuid,
    /// How long the turn may take.
    pub(super) limit: Duration,
    pub(super) settings: AgentSettings,
    pub(super) route: Option<RouteSettings>,
    /// Who may be asked, in order; at least one.
    pub(super) targets: Vec<Asked>,
    /// What was said before.
    pub(super) earlier: Earlier,
}

/// Looks up who may answer, and what was said before.
///
/// # Errors
/// How the turn ends where nobody may.
pub(super) fn ready(
    agents: &Agents,
    agent: &Name,
    (session, opens): (Option<&str>, bool),
    chat: &ChatArguments,
) -> Result<Ready, Box<Outcome>> {
    let failed = |kind: &str, message: String, hint: &str| {
        Err(Box::new(Outcome::failed(kind, message, hint)))
    };
    let Some(session) = session.and_then(|text| text.parse::<Uuid>().ok()) else {
        let message = "a chat without session".to_owned();
        return failed(
            "internal",
            message,
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
        let message = format!("there is no agent {agent}");
        return failed("not_found", message, "see `pawctl agent list`");
    };
    let targets = targets(agents, chat, route.as_ref());
    // What was decided is to whom the words go, and whoever is somewhere else now is somebody else.
    let (targets, moved): (Vec<_>, Vec<_>) = targets.into_iter().partition(|it| it.is_at(chat));
    if let (true, Some(first)) = (targets.is_empty(), moved.first()) {
        let message = format!(
            "provider {} is at {} now, and was elsewhere when this was decided",
            first.target.provider, first.known.settings.base_url
        );
        let hint = "submit it again if it may go there";
        return failed("denied", message, hint);
    }
    if targets.is_empty() {
        let names: Vec<_> = chat
            .targets()
            .into_iter()
            .map(|target| target.provider.to_string())
            .collect();
        let message = format!("there is no provider {}", names.join(" or "));
        return failed("not_found", message, "see `pawctl provider list`");
    }
    let earlier = if opens {
        Earlier::default()
    } else {
        earlier(&agents.storage, session).map_err(|error| {
            let message = paw_log::Chain(&error).to_string();
            Box::new(Outcome::failed("unavailable", message, error.remedy()))
        })?
    };
    let providers = Arc::clone(&agents.providers.borrow());
    let said_here = earlier.turns.iter().any(|turn| providers.said_here(turn))
        || earlier.summary.as_ref().is_some_and(|it| it.local);
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
        return failed("denied", message, hint);
    }
    Ok(Ready {
        session,
        limit,
        settings,
        route,
        targets,
        earlier,
    })
}

/// What a model is told beside its instructions: the tools of its skills, and how their makers say that they are used.
#[derive(Debug, Default)]
pub struct Offer {
    tools: Arc<[paw_llm::Tool]>,
    guide: String,
}

/// What a model is told of the skills of this agent. With a schema for its answer it is told nothing: it is asked for data, and some
/// providers force it to answer at once. Skills that are not installed, or not enabled, have nothing.
#[must_use]
pub fn offer(
    skills: &Skills,
    settings: &AgentSettings,
    schema: Option<&serde_json::Value>,
) -> Offer {
    told(skills, settings, schema).map_or_else(
        |_| Offer::default(),
        |told| Offer {
            tools: told.list(),
            guide: told.guide().to_owned(),
        },
    )
}

/// The same, by the names that lead back to them.
fn told(
    skills: &Skills,
    settings: &AgentSettings,
    schema: Option<&serde_json::Value>,
) -> Result<Told, TooMany> {
    match schema {
        None => Told::whole(&usable(skills, settings), &settings.agents),
        Some(_) => Ok(Told::default()),
    }
}

/// The skills of this agent that can be used.
pub(super) fn usable(skills: &Skills, settings: &AgentSettings) -> Vec<Arc<Skill>> {
    let names = settings.skills.iter();
    names.filter_map(|name| skills.get(name)).collect()
}

/// A chat that ended with an earlier pawd: nobody knows how far it came, or who was being asked, so it counts as what is set aside for an
/// attempt at the dearest of its targets.
pub(super) fn interrupted(agents: &Agents, record: &ActionRecord, chat: &ChatArguments) {
    let config = Arc::clone(&agents.config.borrow());
    // Of an agent that is not configured any more, the instructions and the bound of its answers are not known.
    let settings = config.agents.get(&record.plan.agent);
    let session = record.plan.session.as_deref().unwrap_or_default();
    let earlier = session
        .parse()
        .map(|session| earlier(&agents.storage, session).unwrap_or_default());
    let said = said(&chat.text, &chat.images);
    let offer = settings.map_or_else(Offer::default, |settings| {
        offer(&agents.skills, settings, chat.schema.as_ref())
    });
    let request = ChatRequest {
        schema: schema(chat),
        ..ask_after(&earlier.unwrap_or_default(), settings, offer, said)
    };
    let asked = (Tokens::of(&request), request.max_tokens);
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
pub(super) fn schema(chat: &ChatArguments) -> Option<Schema> {
    chat.schema.clone().map(|schema| Schema {
        name: "answer".to_owned(),
        schema,
    })
}

pub(super) fn who(action: Uuid, agent: &Name, caller: &Caller, session: &str) -> Who {
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
pub(super) fn from_before(target: &Target) -> Attempt {
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

/// What all of them cost together, in millionths of a US dollar.
pub(super) fn cost(attempts: &[Attempt]) -> Option<u64> {
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
    offer: Offer,
    said: Message,
) -> Result<ChatRequest, StoreError> {
    Ok(ask_after(
        &earlier(storage, session)?,
        Some(settings),
        offer,
        said,
    ))
}

/// The newest turns of a conversation, and what those before them come to. Where tools were called, one exchange is many turns, so
/// more is read.
fn earlier(storage: &Storage, session: Uuid) -> Result<Earlier, StoreError> {
    let store = storage.read();
    let total = store.session(session)?.map_or(0, |session| session.turns);
    let summary = store.summary(session)?;
    let told = summary.as_ref().map_or(0, |summary| summary.until);
    let newest = |most: usize| {
        let from = total.saturating_sub(most as u64).max(told);
        store.turns(session, from, most)
    };
    let mut turns = newest(CONTEXT_TURNS)?;
    if turns.iter().any(|turn| turn.role == Speaker::Tool) {
        turns = newest(LOOKED_THROUGH)?;
    }
    Ok(Earlier {
        summary,
        turns,
        room: MAX_BYTES,
    })
}

/// Instructions, the newest earlier turns that fit, and what was said now.
fn ask_after(
    earlier: &Earlier,
    settings: Option<&AgentSettings>,
    Offer { tools, guide }: Offer,
    said: Message,
) -> ChatRequest {
    let told = settings.map(|settings| {
        let fenced = !tools.is_empty() || earlier.summary.is_some();
        let mut told = [instructions(settings, fenced, &guide)];
        // Every mark is as long as any other.
        leaving::mark(&mut told, &Canary::of([0; 16]));
        let [told] = told;
        told
    });
    let mut shown: Vec<Message> = told.into_iter().collect();
    shown.extend(context::shown(earlier, &Fence::for_counting()));
    shown.push(said);
    let request = match settings {
        Some(settings) => asked(settings, shown),
        None => ChatRequest::new(String::new(), shown),
    };
    ChatRequest { tools, ..request }
}

/// What a model is told before everything else: the agent's instructions, what data is where it is shown any, and what
/// the makers of its skills say about them.
pub(super) fn instructions(settings: &AgentSettings, fenced: bool, guide: &str) -> Message {
    let rule = if fenced { RULE } else { "" };
    let parts = [settings.instructions.as_str(), rule, guide];
    let said: Vec<&str> = parts.into_iter().filter(|it| !it.is_empty()).collect();
    Message::System(said.join("\n\n"))
}

/// What this agent asks with.
pub(super) fn asked(settings: &AgentSettings, messages: Vec<Message>) -> ChatRequest {
    ChatRequest {
        max_tokens: settings.max_tokens,
        temperature: settings.temperature,
        ..ChatRequest::new(String::new(), messages)
    }
}

/// How a turn ends that nobody has answered.
pub(super) fn failed(unanswered: &Unanswered, targets: &[Asked], attempts: &[Attempt]) -> Outcome {
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
        Why::Provider(_) | Why::Quota(_) | Why::Confidential { .. } => Ending::Failed(failure),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn finish(finish: &Finish) -> String {
    match finish {
        Finish::Stop => "stop".into(),
        Finish::ToolCalls => "tool_calls".into(),
        Finish::Length => "length".into(),
        Finish::ContentFilter => "content_filter".into(),
        Finish::Other(word) => word.clone(),
    }
}
