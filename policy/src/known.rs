//! What policies said before: the same question has the same answer, as long as the policies are the same.
//!
//! A question is the same where everything is that a policy can read: who asks and in which role, what is to be done, what it is about and
//! the attributes of that, and every fact. What time it is differs each time; it is a part of the question only where a policy about
//! that action reads it. Where a grant could match, nothing is kept: grants end. Other policies know nothing of what these said.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use crate::{
    facts::{self, Fact},
    judge::Principal,
    plan::{Operation, Plan},
    words::Decision,
};

/// Questions that are kept; with one more all of them are forgotten.
const MOST: usize = 1024;

/// The longest question that is kept, in bytes.
const LONGEST: usize = 2 * 1024;

/// Facts that say what time it is.
pub(crate) const TIMES: [&str; 3] = ["now", "hour", "weekday"];

/// What was said, and by which rules.
pub(crate) type Said = (Decision, Vec<String>);

/// All of it. The lock is a leaf.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<String, Said>>);

impl Clone for Known {
    /// Whoever makes other policies of some begins with a copy, and those said nothing yet.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Known {
    pub(crate) fn said(&self, question: &str) -> Option<Said> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(question).cloned()
    }

    pub(crate) fn keep(&self, question: String, said: Said) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(question, said);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A question as a text that no other question has; none of one that is too long to be kept. `timed` is whether the time counts.
pub(crate) fn question(
    plan: &Plan,
    principal: &Principal,
    facts: &[(&'static str, Fact)],
    timed: bool,
) -> Option<String> {
    let mut text = String::with_capacity(512);
    number(&mut text, i64::from(principal.uid));
    part(&mut text, principal.role.as_str());
    subject(&mut text, plan);
    let read = |name: &str| timed || !TIMES.contains(&name);
    for (name, fact) in facts.iter().filter(|(name, _)| read(name)) {
        part(&mut text, name);
        value(&mut text, fact);
        if text.len() > LONGEST {
            return None;
        }
    }
    Some(text)
}

/// What is to be done, and with what: all that the entities of a question are made of.
fn subject(text: &mut String, plan: &Plan) {
    match &plan.operation {
        Operation::Chat(_) => {
            part(text, "chat");
            part(text, plan.agent.as_str());
        }
        Operation::SandboxRun(_) => part(text, "sandbox_run"),
        Operation::ApiCall(call) => {
            part(text, "api_call");
            part(text, facts::place(&call.rule));
        }
        Operation::SkillChange(change) => {
            part(text, "skill_change");
            part(text, change.skill.as_str());
        }
        Operation::ModelSwitch(switch) => {
            part(text, "model_switch");
            part(text, switch.to.provider.as_str());
            part(text, &switch.to.model);
        }
        Operation::ConfigChange(change) => {
            part(text, "config_change");
            part(text, change.change.as_str());
            part(text, &change.about());
        }
        Operation::SecretChange(change) => {
            part(text, "config_change");
            part(text, change.change.as_str());
            part(text, &change.secret);
        }
        Operation::FileOperation(files) => {
            part(text, "file_operation");
            part(text, files.workspace.as_str());
        }
        Operation::ToolCall(call) => {
            part(text, "tool_call");
            part(text, call.skill.as_str());
            part(text, &call.tool);
            part(text, call.class.as_str());
        }
    }
}

fn value(text: &mut String, fact: &Fact) {
    match fact {
        Fact::Text(words) => part(text, words),
        Fact::Truth(truth) => text.push(if *truth { 'y' } else { 'n' }),
        Fact::Number(it) => number(text, *it),
        Fact::Texts(several) => {
            number(text, facts::number(several.len() as u64));
            several.iter().for_each(|one| part(text, one));
        }
        Fact::Entity(kind, id) => {
            part(text, kind.as_str());
            part(text, id);
        }
    }
}

/// With its length before it, so that it ends where it ends whatever is in it.
fn part(text: &mut String, words: &str) {
    // A text takes whatever is written to it.
    let _ = write!(text, "{}:{words}", words.len());
}

fn number(text: &mut String, it: i64) {
    let _ = write!(text, "{it};");
}

#[cfg(test)]
mod tests;
