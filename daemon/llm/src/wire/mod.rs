//! The wire formats, pure: bytes in, events out. No clock, no network, no task.
//!
//! ```text
//! bytes ─ lines ─▶ line ─ ndjson ─▶ record ─ ollama ─▶ ChatEvent
//!                       └ sse ────▶ record ─ openai ─┘
//! ```
//!
//! Every layer holds at most [`LIMIT`] bytes between two calls, wherever the network cut the bytes. The module is public
//! so that recordings can be replayed and fuzzed through the very code that runs.

mod fault;
mod lines;
mod ndjson;
mod ollama;
mod openai;
mod sse;

use std::collections::VecDeque;

pub(crate) use fault::{judge, wait};
pub(crate) use openai::TokenLimit;

use crate::chat::{ChatEvent, ChatRequest, Done, Finish, Model, Usage};
use crate::config::ProviderKind;
use crate::error::LlmError;
use crate::said::{Mask, printable};

/// The most bytes of one line or one record; more is [`LlmError::TooLarge`].
pub const LIMIT: usize = 1024 * 1024;

/// The most bytes of a model's name.
const NAME_LIMIT: usize = 256;

/// The most bytes of a finish word that is kept.
const WORD_LIMIT: usize = 64;

/// Turns the bytes of one answer into events. After an error, or after `Done`, it is spent.
pub struct Decoder {
    dialect: Dialect,
    answer: Answer,
    mask: Mask,
}

enum Dialect {
    Ollama(ndjson::Ndjson),
    OpenAi(sse::Sse),
}

impl Decoder {
    /// A decoder for one answer of a provider of this kind; `mask` cleans what the provider says.
    pub fn new(kind: ProviderKind, mask: Mask) -> Self {
        let dialect = match kind {
            ProviderKind::Ollama => Dialect::Ollama(ndjson::Ndjson::default()),
            ProviderKind::OpenAi => Dialect::OpenAi(sse::Sse::default()),
        };
        Self {
            dialect,
            answer: Answer::default(),
            mask,
        }
    }

    /// Takes the next bytes and appends what they complete to `out`. Bytes after the terminator are dropped.
    ///
    /// # Errors
    /// An error object of the provider, a record that is no JSON object of the dialect, or a record above [`LIMIT`].
    pub fn push(&mut self, bytes: &[u8], out: &mut VecDeque<ChatEvent>) -> Result<(), LlmError> {
        if self.answer.done {
            return Ok(());
        }
        let Self {
            dialect,
            answer,
            mask,
        } = self;
        let outcome = match dialect {
            Dialect::Ollama(records) => {
                records.push(bytes, |record| ollama::read(record, answer, mask, out))
            }
            Dialect::OpenAi(records) => {
                records.push(bytes, |record| openai::read(record, answer, mask, out))
            }
        };
        // Whatever else stands behind the terminator in the same bytes cannot take the answer back.
        if self.answer.done { Ok(()) } else { outcome }
    }

    /// The provider closed the stream.
    ///
    /// # Errors
    /// [`LlmError::Cut`] unless the terminator was there, and what [`Decoder::push`] says of a last line without an end.
    pub fn finish(&mut self, out: &mut VecDeque<ChatEvent>) -> Result<(), LlmError> {
        let Self {
            dialect,
            answer,
            mask,
        } = self;
        match dialect {
            Dialect::Ollama(records) => {
                records.finish(|record| ollama::read(record, answer, mask, out))
            }
            Dialect::OpenAi(records) => {
                records.finish(|record| openai::read(record, answer, mask, out))
            }
        }
        .map_err(|error| match error {
            // Half a record at the very end is what a cut looks like, not bad JSON.
            LlmError::Malformed { .. } => LlmError::Cut { source: None },
            other => other,
        })?;
        if self.is_done() {
            Ok(())
        } else {
            Err(LlmError::Cut { source: None })
        }
    }

    /// Whether the terminator was seen.
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
        match &self.dialect {
            Dialect::Ollama(records) => records.held(),
            Dialect::OpenAi(records) => records.held(),
        }
    }
}

/// What the records said so far besides text.
#[derive(Default)]
struct Answer {
    records: u64,
    done: bool,
    finish: Option<Finish>,
    usage: Usage,
    model: Option<String>,
}

impl Answer {
    fn text(&self, text: Option<String>, out: &mut VecDeque<ChatEvent>) {
        out.extend(text.filter(|text| !text.is_empty()).map(ChatEvent::Text));
    }

    /// Some gateways send records with an empty model before the real ones.
    fn name(&mut self, model: Option<String>) {
        if let Some(model) = model.filter(|name| is_name(name)) {
            self.model = Some(model);
        }
    }

    fn end(&mut self, finish: Finish, out: &mut VecDeque<ChatEvent>) {
        self.done = true;
        out.push_back(ChatEvent::Done(Done {
            finish,
            usage: self.usage,
            model: self.model.take(),
        }));
    }
}

/// The body of a chat request in the provider's dialect.
pub(crate) fn question(
    kind: ProviderKind,
    request: &ChatRequest,
    limit: TokenLimit,
) -> Result<Vec<u8>, serde_json::Error> {
    match kind {
        ProviderKind::Ollama => ollama::question(request),
        ProviderKind::OpenAi => openai::question(request, limit),
    }
}

/// The list of models in the provider's dialect.
pub(crate) fn models(kind: ProviderKind, body: &[u8]) -> Result<Vec<Model>, LlmError> {
    match kind {
        ProviderKind::Ollama => ollama::models(body),
        ProviderKind::OpenAi => openai::models(body),
    }
}

/// Whether the body is what a healthy provider of this kind answers to its health request.
pub(crate) fn is_healthy(kind: ProviderKind, body: &[u8]) -> Result<(), LlmError> {
    match kind {
        ProviderKind::Ollama => ollama::version(body),
        ProviderKind::OpenAi => openai::models(body).map(drop),
    }
}

/// A name that nobody can type or read is not offered to anybody.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LIMIT && name.chars().all(printable)
}

/// Reads JSON; bytes that are not UTF-8 become replacement characters, as server-sent events demand.
fn json<'a, T: serde::de::DeserializeOwned>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, LlmError> {
    let text: std::borrow::Cow<'a, str> = String::from_utf8_lossy(bytes);
    serde_json::from_str(&text).map_err(|error| malformed(what, &error))
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
