//! What the records of one answer have said so far, besides the text that is passed on at once.

use std::collections::VecDeque;

use super::paths::Arguments;
use super::{LIMIT, is_name};
use crate::chat::{ChatEvent, Done, Finish, ToolCall, Usage};
use crate::error::LlmError;

/// The most tool calls of one answer; no model was seen to make more than twenty at once.
const MAX_CALLS: usize = 128;

/// An answer in the making.
#[derive(Default)]
pub(super) struct Answer {
    /// How many records were read.
    pub(super) records: u64,
    /// Whether the terminator was seen.
    pub(super) done: bool,
    /// Why the model stopped, once it said so.
    pub(super) finish: Option<Finish>,
    /// What was counted so far.
    pub(super) usage: Usage,
    /// Arguments of the last call that still come path by path.
    pub(super) paths: Option<Arguments>,
    model: Option<String>,
    calls: Vec<Call>,
    /// Bytes of all calls together.
    size: usize,
}

/// A tool call whose arguments may still grow.
struct Call {
    /// The provider's own number for it, where it has one.
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    /// The arguments if no piece of them comes.
    whole: Option<String>,
    signature: Option<String>,
}

/// A piece of a tool call, as a record tells it.
#[derive(Default)]
pub(super) struct CallPiece {
    pub(super) index: Option<u64>,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    /// More of the arguments' text.
    pub(super) arguments: String,
    /// All of the arguments, where they are told before their pieces, which may not come.
    pub(super) whole: Option<String>,
    pub(super) signature: Option<String>,
}

impl Answer {
    pub(super) fn text(&self, text: Option<String>, out: &mut VecDeque<ChatEvent>) {
        out.extend(text.filter(|text| !text.is_empty()).map(ChatEvent::Text));
    }

    /// Some gateways send records with an empty model before the real ones.
    pub(super) fn name(&mut self, model: Option<String>) {
        if let Some(model) = model.filter(|name| is_name(name)) {
            self.model = Some(model);
        }
    }

    /// Adds to the call that the piece belongs to, or begins one.
    pub(super) fn call(&mut self, piece: CallPiece) -> Result<(), LlmError> {
        let Some(at) = self.calls.iter().rposition(|call| call.takes(&piece)) else {
            return self.begin_call(piece);
        };
        self.grow(piece.size())?;
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            call.id = piece.id.unwrap_or_default();
        }
        if call.name.is_empty() {
            call.name = piece.name.unwrap_or_default();
        }
        call.arguments.push_str(&piece.arguments);
        Ok(())
    }

    /// Begins a call, whatever went before.
    pub(super) fn begin_call(&mut self, piece: CallPiece) -> Result<(), LlmError> {
        self.grow(piece.size())?;
        if self.calls.len() >= MAX_CALLS {
            return Err(too_much());
        }
        self.calls.push(Call {
            index: piece.index,
            id: piece.id.unwrap_or_default(),
            name: piece.name.unwrap_or_default(),
            arguments: piece.arguments,
            whole: piece.whole,
            signature: piece.signature,
        });
        Ok(())
    }

    /// More arguments for the call of this number; for a number that is no call, they are nothing of ours.
    pub(super) fn more(&mut self, index: Option<u64>, arguments: &str) -> Result<(), LlmError> {
        self.grow(arguments.len())?;
        if let Some(call) = self.calls.iter_mut().rfind(|call| call.index == index) {
            call.arguments.push_str(arguments);
        }
        Ok(())
    }

    /// So many more bytes are kept.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), LlmError> {
        self.size += bytes;
        if self.size > LIMIT {
            return Err(too_much());
        }
        Ok(())
    }

    /// The answer is complete: its calls, and its end. Not every dialect has a word for waiting for results.
    pub(super) fn end(&mut self, finish: Finish, out: &mut VecDeque<ChatEvent>) {
        self.done = true;
        let finish = match finish {
            Finish::Stop if !self.calls.is_empty() => Finish::ToolCalls,
            other => other,
        };
        for (number, call) in std::mem::take(&mut self.calls).into_iter().enumerate() {
            out.push_back(ChatEvent::ToolCall(call.finish(number)));
        }
        out.push_back(ChatEvent::Done(Done {
            finish,
            usage: self.usage,
            model: self.model.take(),
        }));
    }
}

fn too_much() -> LlmError {
    LlmError::TooLarge {
        what: "what the model wants to call",
    }
}

impl CallPiece {
    fn size(&self) -> usize {
        let words = [&self.id, &self.name, &self.whole, &self.signature];
        self.arguments.len() + words.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

impl Call {
    /// Whether a piece goes on with this call. Servers exist that give every call of an answer the number 0, and others that
    /// give none: a new id or, without ids, a new name is another call.
    fn takes(&self, piece: &CallPiece) -> bool {
        let same_number = piece.index.is_none() || self.index == piece.index;
        let same = |ours: &str, theirs: &Option<String>| {
            theirs
                .as_deref()
                .is_none_or(|theirs| theirs.is_empty() || ours.is_empty() || ours == theirs)
        };
        let begins_anew = piece.id.is_none()
            && piece.index.is_none()
            && piece.name.as_deref().is_some_and(|name| !name.is_empty());
        same_number && same(&self.id, &piece.id) && !begins_anew
    }

    fn finish(self, number: usize) -> ToolCall {
        let told = Some(self.arguments).filter(|text| !text.trim().is_empty());
        ToolCall {
            id: if self.id.is_empty() {
                format!("call_{number}")
            } else {
                self.id
            },
            name: self.name,
            arguments: told.or(self.whole).unwrap_or_else(|| "{}".into()),
            signature: self.signature,
        }
    }
}
