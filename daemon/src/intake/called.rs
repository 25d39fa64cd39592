//! The way in for what a model asks for in its turn. It is the one for everybody: the same checks, the same judge.

use std::sync::Arc;

use paw_api::{Error, ErrorKind};
use paw_policy::{Circumstances, Name, Operation, Plan, TaintSet, ToolArguments, Via, named};
use paw_store::{Caller, SessionRecord};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Asked, Intake, Typed, agent, arguments::ToolAsked, signs, unreadable};
use crate::{
    config::Config,
    orchestrator::{handle::Submission, work::Progress},
    screen,
};

/// The most agents in a row: one that a person asks, one that it asks, and one that this asks.
const MAX_DEPTH: usize = 3;

/// Whose model calls, and where all came from that it has read.
#[derive(Debug)]
pub struct By {
    /// The action's id: noted before it is asked for, so that it is found again.
    pub id: Uuid,
    /// The chat.
    pub chat: Uuid,
    /// The chat of another agent that asked it.
    pub parent: Option<Uuid>,
    /// Who asked the model.
    pub caller: Caller,
    /// The agent whose turn it is.
    pub agent: Name,
    /// Where everything that the turn has read came from.
    pub taint: TaintSet,
}

/// A tool that a model calls in its turn, as pawd knows it: only the tool's name and its arguments are the model's words.
#[derive(Debug)]
pub struct Called {
    /// By whom.
    pub by: By,
    /// The conversation.
    pub session: Uuid,
    /// Which skill.
    pub skill: Name,
    /// Which of its tools.
    pub tool: String,
    /// What is passed to it.
    pub arguments: Map<String, Value>,
}

/// A question of a model's to another agent: only the agent's name and the text are the model's words.
#[derive(Debug)]
pub struct Consulted {
    /// By whom.
    pub by: By,
    /// The conversation that it is asked in.
    pub session: Uuid,
    /// Who is asked.
    pub helper: Name,
    /// What.
    pub text: String,
    /// Whether it stays on this host.
    pub local_only: bool,
}

impl Intake {
    /// Judges a tool that a model calls. It asks in the name of who asked the model, with the taint of all that the turn has read.
    ///
    /// # Errors
    /// As [`Intake::judge`].
    pub fn judge_call(&self, called: Called) -> Result<Submission, Error> {
        let config = Arc::clone(&self.config.borrow());
        let (agent, settings) = agent(&config, Some(called.by.agent.as_str()))?;
        let through = self.in_a_row(&config, &called.by)?;
        let asked = ToolAsked {
            skill: called.skill.to_string(),
            tool: called.tool,
            arguments: called.arguments,
        };
        let call = self.tool((&agent, settings), asked)?;
        let by = By {
            taint: called.by.taint.with(&screen::passed(&call.arguments)),
            ..called.by
        };
        let skill = self.skills.get(&call.skill);
        let input = skill
            .as_deref()
            .and_then(|skill| skill.tools.get(&call.tool));
        let input = input.map_or(&Value::Null, |tool| &tool.input);
        let circumstances = self.circumstances(&by, through, Some((&call, input)))?;
        let plan = Plan {
            agent,
            session: Some(called.session.to_string()),
            operation: Operation::ToolCall(call),
        };
        self.of_a_model(plan, by, circumstances, None)
    }

    /// Judges a question to another agent: a chat like any other, in a conversation of its own, in the name of who asked the model, which
    /// knows from its beginning where the question came from. Whoever is asked may do no more than who asks.
    ///
    /// # Errors
    /// As [`Intake::judge`].
    pub fn judge_question(&self, mut question: Consulted) -> Result<Submission, Error> {
        let config = Arc::clone(&self.config.borrow());
        may_ask(&config, &question.by.agent, &question.helper)?;
        let mut through = self.in_a_row(&config, &question.by)?;
        through.push(question.by.agent.clone());
        if through.len() >= MAX_DEPTH {
            let message = format!("{MAX_DEPTH} agents in a row ask each other already");
            return Err(denied(message, "have one of them answer by itself"));
        }
        let (helper, its) = agent(&config, Some(question.helper.as_str()))?;
        question.by.taint = question.by.taint.with(&signs(&question.text)?);
        let asked = Asked {
            arguments: Map::from_iter([("text".to_owned(), Value::String(question.text))]),
            local_only: question.local_only,
            knows: question.by.taint.clone(),
            ..Asked::default()
        };
        let Typed {
            operation,
            place,
            circumstances: of_it,
        } = self.chat(&config, (&helper, its), asked, &question.by.caller)?;
        let circumstances = Circumstances {
            leaves_host: of_it.leaves_host,
            cost_micros: of_it.cost_micros,
            ..self.circumstances(&question.by, through, None)?
        };
        let (session, opens) = place.map_or((None, None), |place| {
            (Some(place.id.to_string()), place.opens)
        });
        let opens = opens.map(|opens| SessionRecord {
            taint: opens.taint.clone().with(&question.by.taint),
            parent: Some(question.session),
            ..opens
        });
        let plan = Plan {
            agent: helper,
            session,
            operation,
        };
        self.of_a_model(plan, question.by, circumstances, opens)
    }

    fn of_a_model(
        &self,
        plan: Plan,
        by: By,
        circumstances: Circumstances,
        opens: Option<SessionRecord>,
    ) -> Result<Submission, Error> {
        let known = (by.taint, circumstances);
        let mut submission = self.submission(plan, by.caller, known, opens, Progress::None)?;
        (submission.record.id, submission.record.parent) = (by.id, Some(by.chat));
        Ok(submission)
    }

    /// How a call in this turn came to be asked: by the way of its chat and through these agents. What the chat says was said by a
    /// person only where no other agent asked it, and by nobody whom a channel names.
    fn circumstances(
        &self,
        by: &By,
        through: Vec<Name>,
        call: Option<(&ToolArguments, &Value)>,
    ) -> Result<Circumstances, Error> {
        let found = self.storage.read().action(by.chat);
        let Some(chat) = found.map_err(|error| unreadable(&error))? else {
            return Err(denied(
                "nobody knows any more who asked this agent".to_owned(),
                "ask it again",
            ));
        };
        let via = chat.circumstances.via;
        let by_a_person = chat.parent.is_none() && !matches!(via, Via::Channel(_));
        let named = match (&chat.plan.operation, call) {
            (Operation::Chat(said), Some((call, input))) => {
                by_a_person && named(call, input, &said.text)
            }
            _ => false,
        };
        Ok(Circumstances {
            via,
            through,
            named,
            ..Circumstances::default()
        })
    }

    /// The agents that asked the one whose turn it is, the first first. Each of them must still be one that the one before may ask: the
    /// configuration may have changed since it was.
    fn in_a_row(&self, config: &Config, by: &By) -> Result<Vec<Name>, Error> {
        let (mut agents, mut helper, mut at) = (Vec::new(), by.agent.clone(), by.parent);
        while let Some(parent) = at {
            let found = self.storage.read().action(parent);
            let Some(asker) = found.map_err(|error| unreadable(&error))? else {
                let message = format!("nobody knows any more who asked agent {helper}");
                return Err(denied(message, "ask it again"));
            };
            may_ask(config, &asker.plan.agent, &helper)?;
            agents.push(asker.plan.agent.clone());
            (helper, at) = (asker.plan.agent, asker.parent);
        }
        agents.reverse();
        Ok(agents)
    }
}

/// Whether an agent may ask another one as things are.
fn may_ask(config: &Config, asker: &Name, helper: &Name) -> Result<(), Error> {
    let (asker, settings) = agent(config, Some(asker.as_str()))?;
    let (helper, its) = agent(config, Some(helper.as_str()))?;
    if !settings.agents.iter().any(|it| it.name == helper) {
        let message = format!("agent {asker} may not ask agent {helper}");
        return Err(denied(message, "add it to the agent's agents in pawd.toml"));
    }
    match settings.lacks(its) {
        None => Ok(()),
        Some(what) => {
            let message = format!("agent {helper} has {what}, and agent {asker} has not");
            let hint = "an agent asks those alone that may do no more than it";
            Err(denied(message, hint))
        }
    }
}

fn denied(message: String, hint: &str) -> Error {
    Error::new(ErrorKind::Denied, message, hint)
}
