//! Ollama's own API: `/api/chat`, `/api/tags`, `/api/version`.
//!
//! A chat answer is one JSON object a line until `done: true`. Errors inside the stream come as `{"error": "…"}` with
//! the HTTP status still 200. Counts are left out when they are zero, which reads as "not told".

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, fault, is_name, json, word};
use crate::chat::{ChatEvent, ChatRequest, Finish, Message, Model, Usage};
use crate::error::LlmError;
use crate::said::Mask;

#[derive(Deserialize)]
struct Line {
    model: Option<String>,
    message: Option<Piece>,
    done: Option<bool>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Piece {
    content: Option<String>,
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
    let line: Line = json(record, "a line of the stream")?;
    if line.error.is_some() {
        return Err(fault::judge(None, record, None, mask));
    }
    answer.records += 1;
    answer.name(line.model);
    answer.text(line.message.and_then(|message| message.content), out);
    if line.done == Some(true) {
        answer.usage = Usage {
            input_tokens: line.prompt_eval_count,
            output_tokens: line.eval_count,
        };
        let finish = match line.done_reason.as_deref() {
            // Older servers give no reason.
            None | Some("stop" | "") => Finish::Stop,
            Some("length") => Finish::Length,
            Some(other) => word(mask, other),
        };
        answer.end(finish, out);
    }
    Ok(())
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
    options: Options,
}

#[derive(Serialize)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    num_predict: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
}

pub(super) fn question(request: &ChatRequest) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Question {
        model: &request.model,
        messages: &request.messages,
        stream: true,
        options: Options {
            num_predict: request.max_tokens,
            temperature: request.temperature,
        },
    })
}

#[derive(Deserialize)]
struct Tags {
    // Older servers say `null` when there are none.
    models: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
}

pub(super) fn models(body: &[u8]) -> Result<Vec<Model>, LlmError> {
    let tags: Tags = json(body, "the list of models")?;
    Ok(tags
        .models
        .unwrap_or_default()
        .into_iter()
        .map(|tag| Model { name: tag.name })
        .filter(|model| is_name(&model.name))
        .collect())
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "version")]
    _version: String,
}

pub(super) fn version(body: &[u8]) -> Result<(), LlmError> {
    json::<Version>(body, "the version").map(drop)
}
