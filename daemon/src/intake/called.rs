//! The way in for what a model asks for in its turn. It is the one for everybody: the same checks, the same judge.

use std::sync::Arc;

use paw_api::{Error, ErrorKind};
use paw_policy::{Name, Operation, Plan, TaintSet};
use paw_store::{Caller, SessionRecord};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Asked, Intake, agent, arguments::ToolAsked, signs, unreadable};
use crate::orchestrator::{handle::Submission, work::Progress};

/// The most agents in a row: one that a person asks, one that it asks, and one that this asks.
const MAX_DEPTH: usize = 3;

/// Whose model calls, and where all came from that it has read.
#[derive(Debug)]
pub struct By {
    /// The action's id: noted before it is asked for, so that it is found again.
    pub id: Uuid,
    /// The chat.
    pub chat: Uuid,
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
        let asked = ToolAsked {
            skill: called.skill.to_string(),
            tool: called.tool,
            arguments: called.arguments,
        };
        let call = self.tool((&agent, settings), asked)?;
        let plan = Plan {
            agent,
            session: Some(called.session.to_string()),
            operation: Operation::ToolCall(call),
        };
        self.of_a_model(plan, called.by, None)
    }

    /// Judges a question to another agent: a chat like any other, in a conversation of its own, in the name of who asked the model, which
    /// knows from its beginning where the question came from. Whoever is asked may do no more than who asks.
    ///
    /// # Errors
    /// As [`Intake::judge`].
    pub fn judge_question(&self, mut question: Consulted) -> Result<Submission, Error> {
        let denied = |message: String, hint: &str| Error::new(ErrorKind::Denied, message, hint);
        let config = Arc::clone(&self.config.borrow());
        let (asker, settings) = agent(&config, Some(question.by.agent.as_str()))?;
        let (helper, its) = agent(&config, Some(question.helper.as_str()))?;
        if !settings.agents.iter().any(|it| it.name == helper) {
            let message = format!("agent {asker} may not ask agent {helper}");
            return Err(denied(message, "add it to the agent's agents in pawd.toml"));
        }
        if let Some(what) = settings.lacks(its) {
            let message = format!("agent {helper} has {what}, and agent {asker} has not");
            return Err(denied(
                message,
                "an agent asks those alone that may do no more than it",
            ));
        }
        if self.depth(question.by.chat)? >= MAX_DEPTH {
            let message = format!("{MAX_DEPTH} agents in a row ask each other already");
            return Err(denied(message, "have one of them answer by itself"));
        }
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

    /// How many agents in a row this chat is the last of.
    fn depth(&self, chat: Uuid) -> Result<usize, Error> {
        let (mut depth, mut at) = (1, chat);
        while depth < MAX_DEPTH {
            let found = self.storage.read().action(at);
            let record = found.map_err(|error| unreadable(&error))?;
            let Some(parent) = record.and_then(|record| record.parent) else {
                break;
            };
            (depth, at) = (depth + 1, parent);
        }
        Ok(depth)
    }
}
