//! What an action came to, in words for the model that asked for it: pure.

use paw_policy::{Ceiling, Decision, Name, Operation, State, Taint, TaintSet};
use paw_store::ActionRecord;
use serde_json::Value;

use super::fence::{MAX_RESULT, bounded};
use crate::{
    records::shorten_to,
    sandbox::{confidential::confidential, least::reaches},
    screen::{self, Shown},
};

/// How much of what a person said with a no is told, in characters.
const MAX_NOTE: usize = 500;

/// What a model is told of one of its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) text: String,
    /// Whether there is no result but a reason why.
    pub(super) failed: bool,
    /// Where the text came from.
    pub(super) taint: TaintSet,
    /// If another agent said it: by which provider and model, and whether something of it was said on this host.
    pub(super) by: Option<(Name, String, bool)>,
}

/// What is said in place of a result that is so confidential that nobody may be told it who could answer.
pub(super) fn untold(what: Ceiling) -> Told {
    ours(match what {
        Ceiling::Secret => {
            "it was done, and what it gave back is secret and stays on this host, which the model of this turn is not on"
        }
        Ceiling::Public | Ceiling::Private => {
            "it was done, and what it gave back is private, which the model of this turn may not be told"
        }
    })
}

/// A reason of ours. The call was the model's, so its words are in it.
pub(super) fn ours(text: impl Into<String>) -> Told {
    Told {
        text: text.into(),
        failed: true,
        taint: TaintSet::of(Taint::Model),
        by: None,
    }
}

/// What a final action came to.
pub(super) fn of(record: &ActionRecord) -> Told {
    let said = |text: String, failed| {
        // No more of it than a model may be shown.
        let text = bounded(&text, MAX_RESULT);
        let (text, failed, signs) = match screen::result(&text) {
            Shown::Text(signs) => (text, failed, signs),
            Shown::Withheld(why) => (why, true, TaintSet::of(Taint::Suspicious)),
        };
        Told {
            text,
            failed,
            taint: origin(record).with(&signs),
            by: None,
        }
    };
    let why = || match &record.error {
        Some(error) => format!("{}: {}", error.kind, error.message),
        None => "nobody knows why".to_owned(),
    };
    match record.state {
        State::Completed => said(answer(record.result.as_ref()), false),
        State::Failed => said(why(), true),
        State::TimedOut => said(why(), true),
        State::Rejected if record.decision == Decision::Deny => ours(format!(
            "policy does not allow this call ({}); another try will not be allowed either",
            record.rules.join(", ")
        )),
        State::Rejected => {
            let note = record.approved_by.as_ref().and_then(|it| it.note.as_ref());
            let (note, signs) = match note.map(|note| shorten_to(note, MAX_NOTE)) {
                None => (String::new(), TaintSet::default()),
                Some(note) => match screen::result(&note) {
                    Shown::Text(signs) => (format!(" and said: {note}"), signs),
                    Shown::Withheld(_) => (String::new(), TaintSet::of(Taint::Suspicious)),
                },
            };
            let told = ours(format!("a person was asked and denied this call{note}"));
            Told {
                taint: told.taint.with(&signs),
                ..told
            }
        }
        State::Expired => ours("a person was asked and did not answer in time; it was not done"),
        State::Cancelled => ours("the call was cancelled"),
        State::Queued | State::WaitingApproval | State::Approved | State::Executing => {
            ours("the call has not ended")
        }
    }
}

/// What data has passed through that this action gave back: a tool, and the network where the tool reaches it.
fn origin(record: &ActionRecord) -> TaintSet {
    let tool = TaintSet::of(Taint::Tool);
    match &record.plan.operation {
        Operation::ToolCall(call) if reaches(call.class) => tool.with(&TaintSet::of(Taint::Web)),
        Operation::ToolCall(call) => tool.with(&confidential(call.class)),
        Operation::Chat(_)
        | Operation::SandboxRun(_)
        | Operation::ApiCall(_)
        | Operation::SkillChange(_)
        | Operation::ModelSwitch(_)
        | Operation::ConfigChange(_)
        | Operation::SecretChange(_)
        | Operation::FileOperation(_) => tool,
    }
}

fn answer(result: Option<&Value>) -> String {
    let member = |name: &str| result.and_then(|result| result.get(name));
    match (member("text").and_then(Value::as_str), member("structured")) {
        (Some(text), _) if !text.is_empty() => text.to_owned(),
        (_, Some(structured)) if !structured.is_null() => structured.to_string(),
        _ => "done, and it said nothing".to_owned(),
    }
}
