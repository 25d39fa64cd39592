//! The way in for what a model asks for in its turn. It is the one for everybody: the same checks, the same judge.

use std::sync::Arc;

use paw_api::{Error, ErrorKind};
use paw_policy::{Name, Operation, Plan, TaintSet};
use paw_store::{Caller, SessionRecord};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Asked, Intake, agent, arguments::ToolAsked, signs, unreadable};
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
        self.in_a_row(&config, &called.by)?;
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
        let plan = Plan {
            agent,
            session: Some(called.session.to_string()),
            operation: Operation::ToolCall(call),
        };
        self.of_a_model(plan, by, None)
    }

    /// Judges a question to another agent: a chat like any other, in a conversation of its own, in the name of who asked the model, which
    /// knows from its beginning where the question came from. Whoever is asked may do no more than who asks.
    ///
    /// # Errors
    /// As [`Intake::judge`].
    pub fn judge_question(&self, mut question: Consulted) -> Result<Submission, Error> {
        let config = Arc::clone(&self.config.borrow());
        may_ask(&config, &question.by.agent, &question.helper)?;
        if self.in_a_row(&config, &question.by)? >= MAX_DEPTH {
            let message = format!("{MAX_DEPTH} agents in a row ask each other already");
            return Err(denied(message, "have one of them answer by itself"));
        }
        let (helper, its) = agent(&config, Some(question.helper.as_str()))?;
        question.by.taint = question.by.taint.with(&signs(&question.text)?);
        let asked = Asked {
            arguments: Map::from_iter([("text".to_owned(), Value::String(question.text))]),
            local_only: question.local_only,
            ..Asked::default()
        };
        let (operation, place) = self.chat(&config, (&helper, its), asked, &question.by.caller)?;
        let (session, opens) = place.map_or((None, None), |place| {
            (Some(place.id.to_string()), place.opens)
        });
        let opens = opens.map(|opens| SessionRecord {
            taint: opens.taint.clone().with(&question.by.taint),
            ..opens
        });
        let plan = Plan {
            agent: helper,
            session,
            operation,
        };
        self.of_a_model(plan, question.by, opens)
    }

    fn of_a_model(
        &self,
        plan: Plan,
        by: By,
        opens: Option<SessionRecord>,
    ) -> Result<Submission, Error> {
        let mut submission = self.submission(plan, by.caller, by.taint, opens, Progress::None)?;
        (submission.record.id, submission.record.parent) = (by.id, Some(by.chat));
        Ok(submission)
    }

    /// How many agents in a row this chat's is the last of. Each of them must still be one that the one before may ask: the configuration
    /// may have changed since it was.
    fn in_a_row(&self, config: &Config, by: &By) -> Result<usize, Error> {
        let (mut agents, mut helper, mut at) = (1, by.agent.clone(), by.parent);
        while let Some(parent) = at {
            let found = self.storage.read().action(parent);
            let Some(asker) = found.map_err(|error| unreadable(&error))? else {
                let message = format!("nobody knows any more who asked agent {helper}");
                return Err(denied(message, "ask it again"));
            };
            may_ask(config, &asker.plan.agent, &helper)?;
            (agents, helper, at) = (agents + 1, asker.plan.agent, asker.parent);
        }
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
