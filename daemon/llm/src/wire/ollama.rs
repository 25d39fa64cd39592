//! Ollama's own API: `/api/chat`, `/api/tags`, `/api/show`, `/api/version`.
//!
//! A chat answer is one JSON object a line until `done: true`. Errors inside the stream come as `{"error": "…"}` with
//! the HTTP status still 200. Counts are left out when they are zero, which reads as "not told". Tool calls come whole, with
//! an object as arguments, and may come before the end or beside it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::answer::{Answer, CallPiece};
use super::{completions, fault, is_name, json, object, utf8, word};
use crate::chat::{ChatEvent, ChatRequest, Finish, Message, Model, Part};
use crate::error::LlmError;
use crate::said::Mask;

#[derive(Deserialize)]
struct Line<'a> {
    model: Option<String>,
    #[serde(borrow)]
    message: Option<Piece<'a>>,
    done: Option<bool>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Piece<'a> {
    content: Option<String>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    id: Option<String>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
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
    let text = utf8(record);
    let line: Line<'_> = json(&text, "a line of the stream")?;
    if line.error.is_some() {
        return Err(fault::judge(None, record, fault::Wish::default(), mask));
    }
    answer.records += 1;
    answer.name(line.model);
    if let Some(piece) = line.message {
        answer.text(piece.content, out);
        for (id, function) in piece
            .tool_calls
            .unwrap_or_default()
            .into_iter()
            .filter_map(|call| Some((call.id, call.function?)))
        {
            answer.begin_call(CallPiece {
                id,
                name: function.name,
                arguments: function
                    .arguments
                    .map_or_else(String::new, |raw| raw.get().to_owned()),
                ..CallPiece::default()
            })?;
        }
    }
    if line.done == Some(true) {
        answer.usage.input_tokens = line.prompt_eval_count;
        answer.usage.output_tokens = line.eval_count;
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
    messages: Vec<Said<'a>>,
    stream: bool,
    options: Options,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<completions::Offered<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'a Value>,
}

#[derive(Serialize)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    num_ctx: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_predict: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
}

#[derive(Serialize)]
struct Said<'a> {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<&'a str>,
}

/// `context` is how many tokens the server shall keep room for; its own default is small, and it cuts silently what is beyond.
pub(super) fn question(
    request: &ChatRequest,
    context: Option<u64>,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Question {
        model: &request.model,
        messages: request.messages.iter().map(said).collect(),
        stream: request.stream,
        options: Options {
            num_ctx: context,
            num_predict: request.max_tokens,
            temperature: request.temperature,
        },
        tools: match request.tool_choice {
            crate::chat::ToolChoice::None => Vec::new(),
            _ => completions::functions(request),
        },
        format: request.schema.as_ref().map(|wanted| &wanted.schema),
    })
}

fn said(message: &Message) -> Said<'_> {
    let plain = |role, content: &str| Said {
        role,
        content: content.to_owned(),
        images: Vec::new(),
        tool_calls: Vec::new(),
        tool_name: None,
    };
    match message {
        Message::System(text) => plain("system", text),
        Message::User(parts) => {
            let mut said = plain("user", "");
            for part in parts {
                match part {
                    Part::Text(text) => said.content.push_str(text),
                    Part::Image(image) => said.images.push(&image.base64),
                }
            }
            said
        }
        Message::Assistant { text, calls } => Said {
            tool_calls: calls
                .iter()
                .map(|call| {
                    serde_json::json!({ "function": { "name": call.name, "arguments": object(&call.arguments) } })
                })
                .collect(),
            ..plain("assistant", text)
        },
        Message::Tool(result) => Said {
            tool_name: Some(&result.name),
            ..plain("tool", &result.text)
        },
    }
}

#[derive(Deserialize)]
struct Tags {
    // Older servers say `null` when there are none.
    models: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    size: Option<u64>,
    /// Newer servers only.
    capabilities: Option<Vec<String>>,
}

pub(super) fn models(body: &[u8]) -> Result<Vec<Model>, LlmError> {
    let tags: Tags = json(&utf8(body), "the list of models")?;
    let model = |tag: Tag| {
        let can = |what: &str| {
            let capabilities = tag.capabilities.as_ref()?;
            Some(capabilities.iter().any(|has| has == what))
        };
        Model {
            context: None,
            tools: can("tools"),
            vision: can("vision"),
            size: tag.size,
            name: tag.name,
        }
    };
    Ok(tags
        .models
        .unwrap_or_default()
        .into_iter()
        .map(model)
        .filter(|model| is_name(&model.name))
        .collect())
}

#[derive(Deserialize)]
struct Shown {
    parameters: Option<String>,
    model_info: Option<serde_json::Map<String, Value>>,
    /// Newer servers only.
    capabilities: Option<Vec<String>>,
}

/// What `/api/show` tells of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// Tokens that it holds as its maker set.
    pub(crate) set: Option<u64>,
    /// Tokens that it was trained for.
    pub(crate) trained: Option<u64>,
    /// Whether it can call tools.
    pub(crate) tools: Option<bool>,
    /// Whether it can see pictures.
    pub(crate) vision: Option<bool>,
}

/// Reads what `/api/show` tells of a model.
pub(crate) fn about(body: &[u8]) -> Result<About, LlmError> {
    let shown: Shown = json(&utf8(body), "what is shown of the model")?;
    let set = shown.parameters.as_deref().and_then(|lines| {
        lines
            .lines()
            .filter_map(|line| line.trim().strip_prefix("num_ctx"))
            .find_map(|value| value.trim().parse().ok())
    });
    let trained = shown.model_info.as_ref().and_then(|info| {
        info.iter()
            .find(|(key, _)| key.ends_with(".context_length"))
            .and_then(|(_, value)| value.as_u64())
    });
    let can = |what: &str| {
        let capabilities = shown.capabilities.as_ref()?;
        Some(capabilities.iter().any(|has| has == what))
    };
    Ok(About {
        set,
        trained,
        tools: can("tools"),
        vision: can("vision"),
    })
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "version")]
    _version: String,
}

pub(super) fn version(body: &[u8]) -> Result<(), LlmError> {
    json::<Version>(&utf8(body), "the version").map(drop)
}
