//! The way in for what a model asks for in its turn. It is the one for everybody: the same checks, the same judge.

use std::sync::Arc;

use paw_api::Error;
use paw_policy::{Name, Operation, Plan, TaintSet};
use paw_store::Caller;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Intake, agent, arguments::ToolAsked};
use crate::orchestrator::{handle::Submission, work::Progress};

/// A tool that a model calls in its turn, as pawd knows it: only the tool's name and its arguments are the model's words.
#[derive(Debug)]
pub struct Called {
    /// The action's id: noted before it is asked for, so that it is found again.
    pub id: Uuid,
    /// The chat.
    pub chat: Uuid,
    /// Who asked the model.
    pub caller: Caller,
    /// The agent whose turn it is.
    pub agent: Name,
    /// The conversation.
    pub session: Uuid,
    /// Where everything that the turn has read came from.
    pub taint: TaintSet,
    /// Which skill.
    pub skill: Name,
    /// Which of its tools.
    pub tool: String,
    /// What is passed to it.
    pub arguments: Map<String, Value>,
}

impl Intake {
    /// Judges a tool that a model calls. It asks in the name of who asked the model, with the taint of all that the turn has read.
    ///
    /// # Errors
    /// As [`Intake::judge`].
    pub fn judge_call(&self, called: Called) -> Result<Submission, Error> {
        let config = Arc::clone(&self.config.borrow());
        let (agent, settings) = agent(&config, Some(called.agent.as_str()))?;
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
        let mut submission =
            self.submission(plan, called.caller, called.taint, None, Progress::None)?;
        (submission.record.id, submission.record.parent) = (called.id, Some(called.chat));
        Ok(submission)
    }
}
