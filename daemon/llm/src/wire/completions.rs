//! Chat completions: the format of OpenAI, of whatever calls itself compatible, and, with other manners, of Mistral.
//!
//! A streamed answer is server-sent events with one JSON chunk each, until `data: [DONE]`. The finish word comes in one chunk,
//! the usage in a later one with empty `choices`, so the answer is complete only at `[DONE]`. Tool calls come in pieces that
//! belong together by their index. Padding (`obfuscation`, `p`), hidden reasoning and whatever else is unknown is skipped. An
//! answer in one piece has the same fields, with `message` in the place of `delta`.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Answer, CallPiece};
use super::{fault, is_name, json, utf8, word};
use crate::chat::{
    ChatEvent, ChatRequest, Finish, Image, Message, Model, Parameters, Part, Tool, ToolChoice,
};
use crate::error::LlmError;
use crate::said::Mask;

/// In what the speakers of this format differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manners {
    /// By which name the limit on the answer's tokens is known.
    pub(super) limit: TokenLimit,
    /// Whether usage in a stream has to be asked for; who is not asked so would refuse the unknown field.
    pub(super) asks_for_usage: bool,
    /// The word for a call that must be made.
    pub(super) required: &'static str,
    /// What a call's id becomes.
    pub(super) id: fn(&str) -> Cow<'_, str>,
}

/// By which name a server knows the limit on the answer's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenLimit {
    /// `max_tokens`, which compatible servers know.
    Compatible,
    /// `max_completion_tokens`, which OpenAI itself demands for its newer models.
    OpenAi,
}

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
    delta: Option<Piece>,
    message: Option<Piece>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Piece {
    /// A text, or a list of pieces where the model also shows its thoughts.
    content: Option<Value>,
    /// The model declines in a field of its own; for a person it is the answer.
    refusal: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

#[derive(Deserialize)]
struct Call {
    index: Option<u64>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    /// A text by the format; some servers send the object itself.
    arguments: Option<Value>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
    /// Mistral's name for them.
    num_cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
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
    let chunk: Chunk = json(&utf8(record), "an event of the stream")?;
    if chunk.error.is_some() || chunk.object.as_deref() == Some("error") {
        return Err(fault::judge(None, record, fault::Wish::default(), mask));
    }
    answer.records += 1;
    answer.name(chunk.model);
    if let Some(counts) = chunk.usage {
        // Some servers count in every chunk; the last one counts all.
        let (usage, prompt) = (&mut answer.usage, counts.prompt_tokens_details);
        let cached = prompt.and_then(|details| details.cached_tokens);
        let reasoning = counts
            .completion_tokens_details
            .and_then(|details| details.reasoning_tokens);
        usage.input_tokens = counts.prompt_tokens.or(usage.input_tokens);
        usage.output_tokens = counts.completion_tokens.or(usage.output_tokens);
        usage.cached_tokens = cached.or(counts.num_cached_tokens).or(usage.cached_tokens);
        usage.reasoning_tokens = reasoning.or(usage.reasoning_tokens);
    }
    for choice in chunk
        .choices
        .unwrap_or_default()
        .into_iter()
        .filter(|choice| choice.index.unwrap_or(0) == 0)
    {
        for piece in [choice.delta, choice.message].into_iter().flatten() {
            take(piece, answer, out)?;
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => {}
            Some("stop") => answer.finish = Some(Finish::Stop),
            Some("tool_calls" | "function_call") => answer.finish = Some(Finish::ToolCalls),
            Some("length" | "model_length") => answer.finish = Some(Finish::Length),
            Some("content_filter") => answer.finish = Some(Finish::ContentFilter),
            // The model's own failure, told as a reason to stop.
            Some("error") => {
                let said = mask.clean("it stopped with an error");
                return Err(LlmError::Overload {
                    retry_after: None,
                    again: true,
                    full: false,
                    said,
                });
            }
            Some(other) => answer.finish = Some(word(mask, other)),
        }
    }
    Ok(())
}

fn take(piece: Piece, answer: &mut Answer, out: &mut VecDeque<ChatEvent>) -> Result<(), LlmError> {
    match piece.content {
        Some(Value::Array(parts)) => {
            for mut part in parts {
                if part["type"] == "text"
                    && let Value::String(text) = part["text"].take()
                {
                    answer.text(Some(text), out);
                }
            }
        }
        Some(Value::String(text)) => answer.text(Some(text), out),
        _ => {}
    }
    answer.text(piece.refusal, out);
    for call in piece.tool_calls.unwrap_or_default() {
        let (name, arguments) = call
            .function
            .map_or((None, None), |function| (function.name, function.arguments));
        answer.call(CallPiece {
            index: call.index,
            id: call.id,
            name,
            arguments: match arguments {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text,
                Some(other) => other.to_string(),
            },
            ..CallPiece::default()
        })?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    messages: Vec<Said<'a>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Offered<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Value>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Said<'a> {
    role: &'static str,
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<Value>),
}

pub(super) fn question(
    request: &ChatRequest,
    manners: Manners,
) -> Result<Vec<u8>, serde_json::Error> {
    let (max_tokens, max_completion_tokens) = match manners.limit {
        TokenLimit::Compatible => (request.max_tokens, None),
        TokenLimit::OpenAi => (None, request.max_tokens),
    };
    serde_json::to_vec(&Question {
        model: &request.model,
        messages: request
            .messages
            .iter()
            .map(|message| said(message, manners.id))
            .collect(),
        stream: request.stream,
        stream_options: (request.stream && manners.asks_for_usage).then_some(StreamOptions {
            include_usage: true,
        }),
        max_tokens,
        max_completion_tokens,
        temperature: request.temperature,
        tools: functions(request),
        tool_choice: match &request.tool_choice {
            _ if request.tools.is_empty() => None,
            ToolChoice::Auto => None,
            ToolChoice::None => Some("none".into()),
            ToolChoice::Required => Some(manners.required.into()),
            ToolChoice::Named(name) => {
                Some(serde_json::json!({ "type": "function", "function": { "name": name } }))
            }
        },
        response_format: request.schema.as_ref().map(|wanted| {
            serde_json::json!({
                "type": "json_schema",
                "json_schema": { "name": wanted.name, "schema": wanted.schema, "strict": is_closed(&wanted.schema) }
            })
        }),
    })
}

/// Whether every object of a schema names all that may be in it, and all that must be. Who is told `strict` refuses any other.
fn is_closed(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let is_object = members.get("type").is_some_and(|kind| kind == "object")
                || members.get("properties").is_some_and(Value::is_object);
            let names = members.get("properties").and_then(Value::as_object);
            let required = members.get("required").and_then(Value::as_array);
            let requires =
                |name: &String| required.is_some_and(|all| all.iter().any(|it| it == name));
            let closed = members.get("additionalProperties") == Some(&Value::Bool(false))
                && names.is_none_or(|names| names.keys().all(requires));
            (closed || !is_object) && members.values().all(is_closed)
        }
        Value::Array(items) => items.iter().all(is_closed),
        _ => true,
    }
}

/// A tool in the shape that Ollama shares.
#[derive(Serialize)]
pub(super) struct Offered<'a> {
    r#type: &'static str,
    function: About<'a>,
}

#[derive(Serialize)]
struct About<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Parameters,
}

/// The tools in that shape.
pub(super) fn functions(request: &ChatRequest) -> Vec<Offered<'_>> {
    fn function(tool: &Tool) -> Offered<'_> {
        let Tool {
            name,
            description,
            parameters,
        } = tool;
        Offered {
            r#type: "function",
            function: About {
                name,
                description,
                parameters,
            },
        }
    }
    request.tools.iter().map(function).collect()
}

fn said(message: &Message, id: fn(&str) -> Cow<'_, str>) -> Said<'_> {
    let plain = |role, content| Said {
        role,
        content,
        tool_calls: Vec::new(),
        tool_call_id: None,
        name: None,
    };
    match message {
        Message::System(text) => plain("system", Some(Content::Text(text))),
        Message::User(parts) => plain("user", Some(content(parts))),
        Message::Assistant { text, calls } => {
            let call = |call: &crate::chat::ToolCall| {
                serde_json::json!({
                    "id": id(&call.id), "type": "function",
                    "function": { "name": call.name, "arguments": call.arguments }
                })
            };
            // Beside calls an empty text is no text; by itself it is what the model said.
            let words = (!text.is_empty() || calls.is_empty()).then_some(Content::Text(text));
            Said {
                tool_calls: calls.iter().map(call).collect(),
                ..plain("assistant", words)
            }
        }
        Message::Tool(result) => Said {
            tool_call_id: Some(id(&result.id)),
            name: Some(&result.name),
            ..plain("tool", Some(Content::Text(&result.text)))
        },
    }
}

fn content(parts: &[Part]) -> Content<'_> {
    if let [Part::Text(text)] = parts {
        return Content::Text(text);
    }
    let part = |part: &Part| match part {
        Part::Text(text) => serde_json::json!({ "type": "text", "text": text }),
        Part::Image(Image { format, base64 }) => {
            let url = format!("data:{};base64,{base64}", format.media_type());
            serde_json::json!({ "type": "image_url", "image_url": { "url": url } })
        }
    };
    Content::Parts(parts.iter().map(part).collect())
}

#[derive(Deserialize)]
struct Listing {
    data: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    /// Mistral and OpenRouter tell these two.
    capabilities: Option<Value>,
    #[serde(alias = "context_length")]
    max_context_length: Option<u64>,
}

pub(super) fn models(body: &[u8]) -> Result<Vec<Model>, LlmError> {
    let listing: Listing = json(&utf8(body), "the list of models")?;
    let entries = listing.data.ok_or_else(|| LlmError::Malformed {
        what: "the list of models has no `data`".to_owned(),
    })?;
    let model = |entry: Entry| {
        let can = |what: &str| entry.capabilities.as_ref()?.get(what)?.as_bool();
        Model {
            context: entry.max_context_length,
            tools: can("function_calling"),
            vision: can("vision"),
            size: None,
            name: entry.id,
        }
    };
    Ok(entries
        .into_iter()
        .map(model)
        .filter(|model| is_name(&model.name))
        .collect())
}
