//! OpenAI's chat completions, and everything that calls itself compatible.
//!
//! A chat answer is server-sent events with one JSON chunk each, until `data: [DONE]`. The finish word comes in one chunk,
//! the usage in a later one with empty `choices` (asked for with `stream_options.include_usage`), so the answer is complete
//! only at `[DONE]`. Padding (`obfuscation`, `p`), hidden reasoning and whatever else is unknown is skipped.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, fault, is_name, json, word};
use crate::chat::{ChatEvent, ChatRequest, Finish, Message, Model};
use crate::error::LlmError;
use crate::said::Mask;

#[derive(Deserialize)]
struct Chunk {
    model: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<Counts>,
    error: Option<Value>,
    object: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u32>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    // The model declines in a field of its own; for a person it is the answer.
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

pub(super) fn read(
    record: &[u8],
    answer: &mut Answer,
    mask: &Mask,
    out: &mut VecDeque<ChatEvent>,
) -> Result<(), LlmError> {
    if answer.done {
        return Ok(());
    }
    if record == b"[DONE]" {
        // Without a finish word the model did not come to an end; a gateway that lost its upstream closes like that.
        let finish = answer.finish.take().ok_or(LlmError::Cut { source: None })?;
        answer.end(finish, out);
        return Ok(());
    }
    let chunk: Chunk = json(record, "an event of the stream")?;
    if chunk.error.is_some() || chunk.object.as_deref() == Some("error") {
        return Err(fault::judge(None, record, None, mask));
    }
    answer.records += 1;
    answer.name(chunk.model);
    if let Some(counts) = chunk.usage {
        // Some servers count in every chunk; the last one counts all.
        answer.usage.input_tokens = counts.prompt_tokens.or(answer.usage.input_tokens);
        answer.usage.output_tokens = counts.completion_tokens.or(answer.usage.output_tokens);
    }
    for choice in chunk
        .choices
        .unwrap_or_default()
        .into_iter()
        .filter(|choice| choice.index.unwrap_or(0) == 0)
    {
        if let Some(delta) = choice.delta {
            answer.text(delta.content, out);
            answer.text(delta.refusal, out);
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => {}
            Some("stop") => answer.finish = Some(Finish::Stop),
            Some("length") => answer.finish = Some(Finish::Length),
            Some("content_filter") => answer.finish = Some(Finish::ContentFilter),
            Some(other) => answer.finish = Some(word(mask, other)),
        }
    }
    Ok(())
}

/// By which name the server knows the limit on the answer's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenLimit {
    /// `max_tokens`, which compatible servers know.
    Compatible,
    /// `max_completion_tokens`, which OpenAI itself demands for its newer models.
    OpenAi,
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

pub(super) fn question(
    request: &ChatRequest,
    limit: TokenLimit,
) -> Result<Vec<u8>, serde_json::Error> {
    let (max_tokens, max_completion_tokens) = match limit {
        TokenLimit::Compatible => (request.max_tokens, None),
        TokenLimit::OpenAi => (None, request.max_tokens),
    };
    serde_json::to_vec(&Question {
        model: &request.model,
        messages: &request.messages,
        stream: true,
        stream_options: StreamOptions {
            include_usage: true,
        },
        max_tokens,
        max_completion_tokens,
        temperature: request.temperature,
    })
}

#[derive(Deserialize)]
struct Listing {
    data: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
}

pub(super) fn models(body: &[u8]) -> Result<Vec<Model>, LlmError> {
    let listing: Listing = json(body, "the list of models")?;
    let entries = listing.data.ok_or_else(|| LlmError::Malformed {
        what: "the list of models has no `data`".to_owned(),
    })?;
    Ok(entries
        .into_iter()
        .map(|entry| Model { name: entry.id })
        .filter(|model| is_name(&model.name))
        .collect())
}
