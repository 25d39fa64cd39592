//! The wire formats, pure: bytes in, events out. No clock, no network, no task.
//!
//! ```text
//! bytes ─ lines ─▶ line ─ ndjson ─▶ record ─ ollama ──────────────────────────┐
//!                       └ sse ────▶ record ─┬ openai, compatible, mistral ────┤
//! bytes ─ whole ──────────────────▶ record ─┴ anthropic, gemini ──────────────┴▶ answer ─▶ ChatEvent
//! ```
//!
//! Every layer holds at most its limit of bytes between two calls, wherever the network cut the bytes. The module is public
//! so that recordings can be replayed and fuzzed through the very code that runs.

mod answer;
mod anthropic;
mod compatible;
mod completions;
mod fault;
#[doc(hidden)]
pub mod fuzz;
mod gemini;
pub(crate) mod library;
mod lines;
mod mistral;
mod ndjson;
mod ollama;
mod openai;
mod paths;
mod sse;
mod whole;

use std::borrow::Cow;
use std::collections::VecDeque;

pub(crate) use completions::TokenLimit;
#[cfg(test)]
pub(crate) use fault::Wish;
pub(crate) use fault::{Hints, RESETS, judge};
pub(crate) use ollama::{About, about};

use answer::Answer;
use serde_json::Value;

use crate::chat::{ChatEvent, ChatRequest, Finish, Model, Usage};
use crate::config::ProviderKind;
use crate::error::LlmError;
use crate::said::{Mask, printable};

/// The most bytes of one line or one record of a stream; more is [`LlmError::TooLarge`].
pub const LIMIT: usize = 1024 * 1024;

/// The most bytes of an answer in one piece.
pub const WHOLE_LIMIT: usize = 8 * 1024 * 1024;

/// The most bytes of a model's name.
const NAME_LIMIT: usize = 256;

/// The most bytes of a finish word that is kept.
const WORD_LIMIT: usize = 64;

/// Turns the bytes of one answer into events. After an error, or after `Done`, it is spent.
pub struct Decoder {
    framing: Framing,
    read: Read,
    /// Whether the end of the bytes is the end of an answer whose finish is known.
    ends_with_the_bytes: bool,
    answer: Answer,
    mask: Mask,
}

/// How records are found in the bytes.
enum Framing {
    Lines(ndjson::Ndjson),
    Events(sse::Sse),
    Whole(whole::Whole),
}

/// How a record is understood.
type Read = fn(&[u8], &mut Answer, &Mask, &mut VecDeque<ChatEvent>) -> Result<(), LlmError>;

impl Framing {
    fn push(
        &mut self,
        bytes: &[u8],
        each: impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        match self {
            Self::Lines(lines) => lines.push(bytes, each),
            Self::Events(events) => events.push(bytes, each),
            Self::Whole(whole) => whole.push(bytes),
        }
    }

    fn finish(&mut self, each: impl FnMut(&[u8]) -> Result<(), LlmError>) -> Result<(), LlmError> {
        match self {
            Self::Lines(lines) => lines.finish(each),
            Self::Events(events) => events.finish(each),
            Self::Whole(whole) => whole.finish(each),
        }
    }
}

impl Decoder {
    /// A decoder for one streamed answer of a provider of this kind; `mask` cleans what the provider says.
    pub fn new(kind: ProviderKind, mask: Mask) -> Self {
        let framing = match kind {
            ProviderKind::Ollama => Framing::Lines(ndjson::Ndjson::default()),
            ProviderKind::OpenAi
            | ProviderKind::Compatible
            | ProviderKind::Mistral
            | ProviderKind::Anthropic
            | ProviderKind::Gemini => Framing::Events(sse::Sse::default()),
        };
        Self::with(framing, kind, kind == ProviderKind::Gemini, mask)
    }

    /// A decoder for an answer in one piece.
    pub fn whole(kind: ProviderKind, mask: Mask) -> Self {
        Self::with(Framing::Whole(whole::Whole::default()), kind, true, mask)
    }

    fn with(framing: Framing, kind: ProviderKind, ends_with_the_bytes: bool, mask: Mask) -> Self {
        let read = match kind {
            ProviderKind::Ollama => ollama::read,
            ProviderKind::OpenAi | ProviderKind::Compatible | ProviderKind::Mistral => {
                completions::read
            }
            ProviderKind::Anthropic => anthropic::read,
            ProviderKind::Gemini => gemini::read,
        };
        Self {
            framing,
            read,
            ends_with_the_bytes,
            answer: Answer::default(),
            mask,
        }
    }

    /// What the records have told of the usage so far.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        self.answer.usage
    }

    /// Takes the next bytes and appends what they complete to `out`. Bytes after the terminator are dropped.
    ///
    /// # Errors
    /// An error object of the provider, a record that is no JSON object of the dialect, or a record above [`LIMIT`].
    pub fn push(&mut self, bytes: &[u8], out: &mut VecDeque<ChatEvent>) -> Result<(), LlmError> {
        if self.answer.done {
            return Ok(());
        }
        let (read, answer, mask) = (self.read, &mut self.answer, &self.mask);
        let outcome = self
            .framing
            .push(bytes, |record| read(record, answer, mask, out));
        // Whatever else stands behind the terminator in the same bytes cannot take the answer back.
        if self.answer.done { Ok(()) } else { outcome }
    }

    /// The provider closed the stream.
    ///
    /// # Errors
    /// [`LlmError::Cut`] unless the terminator was there, and what [`Decoder::push`] says of a last line without an end.
    pub fn finish(&mut self, out: &mut VecDeque<ChatEvent>) -> Result<(), LlmError> {
        let (read, answer, mask) = (self.read, &mut self.answer, &self.mask);
        let is_whole = matches!(self.framing, Framing::Whole(_));
        self.framing
            .finish(|record| read(record, answer, mask, out))
            .map_err(|error| match error {
                // Half a record at the very end is what a cut looks like, not bad JSON.
                LlmError::Malformed { .. } if !is_whole => LlmError::Cut { source: None },
                other => other,
            })?;
        if self.ends_with_the_bytes
            && !self.answer.done
            && let Some(finish) = self.answer.finish.take()
        {
            self.answer.end(finish, out);
        }
        if self.is_done() {
            Ok(())
        } else {
            Err(LlmError::Cut { source: None })
        }
    }

    /// Whether the answer is complete.
    pub fn is_done(&self) -> bool {
        self.answer.done
    }

    /// How many records of the answer were read. Comments and keep-alives are none: they show that somebody is there,
    /// not that the model goes on.
    pub fn records(&self) -> u64 {
        self.answer.records
    }
}

#[cfg(test)]
impl Decoder {
    /// Bytes that are kept between two calls.
    fn held(&self) -> usize {
        match &self.framing {
            Framing::Lines(lines) => lines.held(),
            Framing::Events(events) => events.held(),
            Framing::Whole(whole) => whole.held(),
        }
    }
}

/// What a question depends on besides its words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// By which name the limit on the answer's tokens is known, where that differs.
    pub(crate) limit: TokenLimit,
    /// How many tokens an Ollama shall keep room for.
    pub(crate) context: Option<u64>,
}

/// The body of a chat request in the provider's dialect.
pub(crate) fn question(
    kind: ProviderKind,
    request: &ChatRequest,
    habits: Habits,
) -> Result<Vec<u8>, serde_json::Error> {
    match kind {
        ProviderKind::Ollama => ollama::question(request, habits.context),
        ProviderKind::OpenAi => openai::question(request, habits.limit),
        ProviderKind::Compatible => compatible::question(request),
        ProviderKind::Mistral => mistral::question(request),
        ProviderKind::Anthropic => anthropic::question(request),
        ProviderKind::Gemini => gemini::question(request),
    }
}

/// A part of the list of models.
pub(crate) struct Page {
    pub(crate) models: Vec<Model>,
    /// What the query has to say for the next part, if there is one.
    pub(crate) next: Option<(&'static str, String)>,
}

impl From<Vec<Model>> for Page {
    fn from(models: Vec<Model>) -> Self {
        Self { models, next: None }
    }
}

/// The body of a chat request as a server of this kind is sent it that nobody was asked about.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn body(kind: ProviderKind, request: &ChatRequest) -> Result<Vec<u8>, serde_json::Error> {
    let habits = Habits {
        limit: TokenLimit::Compatible,
        context: None,
    };
    question(kind, request, habits)
}

/// The list of models, or a part of it, in the provider's dialect.
pub(crate) fn models(kind: ProviderKind, body: &[u8]) -> Result<Page, LlmError> {
    match kind {
        ProviderKind::Ollama => ollama::models(body).map(Page::from),
        ProviderKind::OpenAi | ProviderKind::Compatible | ProviderKind::Mistral => {
            completions::models(body).map(Page::from)
        }
        ProviderKind::Anthropic => anthropic::models(body),
        ProviderKind::Gemini => gemini::models(body),
    }
}

/// Whether the body is what a healthy provider of this kind answers to its health request.
pub(crate) fn is_healthy(kind: ProviderKind, body: &[u8]) -> Result<(), LlmError> {
    match kind {
        ProviderKind::Ollama => ollama::version(body),
        ProviderKind::OpenAi
        | ProviderKind::Compatible
        | ProviderKind::Mistral
        | ProviderKind::Anthropic
        | ProviderKind::Gemini => models(kind, body).map(drop),
    }
}

/// A name that nobody can type or read is not offered to anybody.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LIMIT && name.chars().all(printable)
}

/// Bytes that are not UTF-8 become replacement characters, as server-sent events demand.
fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Reads JSON of a known shape.
fn json<'a, T: serde::Deserialize<'a>>(text: &'a str, what: &'static str) -> Result<T, LlmError> {
    serde_json::from_str(text).map_err(|error| malformed(what, &error))
}

/// The arguments of a call for a dialect in which they are an object. A model that wrote something else is shown what it wrote.
fn object(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => serde_json::json!({ "text": arguments }),
    }
}

fn malformed(what: &'static str, error: &serde_json::Error) -> LlmError {
    // The message of serde_json may quote the foreign text, so only its category and place are told.
    let fault = match error.classify() {
        serde_json::error::Category::Io | serde_json::error::Category::Eof => {
            "an incomplete JSON text"
        }
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "JSON of another shape",
    };
    LlmError::Malformed {
        what: format!("{what} is {fault} (column {})", error.column()),
    }
}

fn word(mask: &Mask, reason: &str) -> Finish {
    Finish::Other(mask.clean_to(reason, WORD_LIMIT))
}

#[cfg(test)]
mod tests;
