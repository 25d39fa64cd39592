//! Anthropic's messages: `/v1/messages`, `/v1/models`.
//!
//! ```text
//! message_start ─ (content_block_start ─ content_block_delta … ─ content_block_stop) … ─ message_delta ─ message_stop
//!      model, input usage                                                  stop reason, output usage so far
//! ```
//!
//! `ping` comes at any time and means nothing, `error` ends the stream. Each event repeats its name as `type` in its data.
//! Thoughts, citations and blocks of the provider's own tools are skipped. An answer in one piece is one object of type `message`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use super::answer::{Answer, CallPiece};
use super::{Page, fault, is_name, json as read_json, object, utf8, word};
use crate::chat::{
    ChatEvent, ChatRequest, Finish, Image, Message, Model, Parameters, Part, ToolCall, ToolChoice,
    ToolResult,
};
use crate::error::LlmError;
use crate::said::Mask;

/// The limit on the answer has to be told; this one every model of theirs allows.
const MAX_TOKENS: u32 = 4096;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    index: Option<u64>,
    message: Option<Start>,
    #[serde(borrow)]
    content_block: Option<Block<'a>>,
    delta: Option<Delta>,
    usage: Option<Counts>,
    // Of an answer in one piece.
    model: Option<String>,
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Start {
    model: Option<String>,
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    id: Option<String>,
    name: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    partial_json: Option<String>,
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
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
    let event: Event<'_> = read_json(&text, "an event of the stream")?;
    let kind = event.kind.as_deref().unwrap_or_default();
    match kind {
        "error" => return Err(fault::judge(None, record, fault::Wish::default(), mask)),
        // Shows that somebody is there, not that the model goes on.
        "ping" => return Ok(()),
        _ => answer.records += 1,
    }
    match kind {
        "message_start" => {
            if let Some(start) = event.message {
                answer.name(start.model);
                count(answer, start.usage);
            }
        }
        "content_block_start" => {
            if let Some(block) = event.content_block {
                begin(block, event.index, answer, out)?;
            }
        }
        "content_block_delta" => match event.delta {
            Some(delta) if delta.kind.as_deref() == Some("text_delta") => {
                answer.text(delta.text, out);
            }
            Some(delta) if delta.kind.as_deref() == Some("input_json_delta") => {
                answer.more(event.index, &delta.partial_json.unwrap_or_default())?;
            }
            _ => {}
        },
        "message_delta" => {
            count(answer, event.usage);
            if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                answer.finish = Some(finish(&reason, mask));
            }
        }
        "message_stop" => {
            let finish = answer.finish.take().ok_or(LlmError::Cut { source: None })?;
            answer.end(finish, out);
        }
        "message" => {
            answer.name(event.model);
            count(answer, event.usage);
            for block in event.content.unwrap_or_default() {
                begin(block, None, answer, out)?;
            }
            answer.finish = event.stop_reason.map(|reason| finish(&reason, mask));
        }
        _ => {}
    }
    Ok(())
}

fn begin(
    block: Block<'_>,
    index: Option<u64>,
    answer: &mut Answer,
    out: &mut VecDeque<ChatEvent>,
) -> Result<(), LlmError> {
    match block.kind.as_deref() {
        Some("text") => answer.text(block.text, out),
        // While it streams, the input is an empty object at first and comes in pieces; of some calls it is all there at once.
        Some("tool_use") => answer.begin_call(CallPiece {
            index,
            id: block.id,
            name: block.name,
            whole: block.input.map(|input| input.get().to_owned()),
            ..CallPiece::default()
        })?,
        _ => {}
    }
    Ok(())
}

/// What they call input leaves out what was cached; the output counts all so far. A later event may tell the input again, and less of
/// what was cached than the first one.
fn count(answer: &mut Answer, counts: Option<Counts>) {
    let Some(counts) = counts else { return };
    let usage = &mut answer.usage;
    let (read, written) = (
        counts.cache_read_input_tokens,
        counts.cache_creation_input_tokens,
    );
    if let Some(input) = counts.input_tokens {
        let all = input
            .saturating_add(read.unwrap_or(0))
            .saturating_add(written.unwrap_or(0));
        let tells_all = read.is_some() || written.is_some();
        if tells_all || usage.input_tokens.is_none_or(|before| before < all) {
            usage.input_tokens = Some(all);
        }
        usage.cached_tokens = read.or(usage.cached_tokens);
    }
    usage.output_tokens = counts.output_tokens.or(usage.output_tokens);
}

fn finish(reason: &str, mask: &Mask) -> Finish {
    match reason {
        "end_turn" | "stop_sequence" => Finish::Stop,
        "tool_use" => Finish::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "refusal" => Finish::ContentFilter,
        other => word(mask, other),
    }
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    max_tokens: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    system: String,
    messages: Vec<Said>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Offered<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<Value>,
}

#[derive(Serialize)]
struct Offered<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Parameters,
}

#[derive(Serialize)]
struct Said {
    role: &'static str,
    content: Vec<Value>,
}

pub(super) fn question(request: &ChatRequest) -> Result<Vec<u8>, serde_json::Error> {
    let mut system = String::new();
    let mut messages: Vec<Said> = Vec::new();
    for message in &request.messages {
        let (role, content) = match message {
            Message::System(text) => {
                if !system.is_empty() {
                    system.push_str("\n\n");
                }
                system.push_str(text);
                continue;
            }
            Message::User(parts) => ("user", parts.iter().filter_map(part).collect()),
            Message::Assistant { text, calls } => ("assistant", spoken(text, calls)),
            Message::Tool(result) => ("user", vec![tool_result(result)]),
        };
        // The results of calls that were made together have to stand in one message, so what one side says in a row is joined.
        match messages.last_mut() {
            Some(last) if last.role == role => last.content.extend::<Vec<Value>>(content),
            _ if content.is_empty() => {}
            _ => messages.push(Said { role, content }),
        }
    }
    serde_json::to_vec(&Question {
        model: &request.model,
        max_tokens: request.max_tokens.unwrap_or(MAX_TOKENS),
        system,
        messages,
        stream: request.stream,
        temperature: request.temperature,
        tools: request
            .tools
            .iter()
            .map(|tool| Offered {
                name: &tool.name,
                description: &tool.description,
                input_schema: &tool.parameters,
            })
            .collect(),
        tool_choice: match &request.tool_choice {
            _ if request.tools.is_empty() => None,
            ToolChoice::Auto => None,
            ToolChoice::None => Some(json!({ "type": "none" })),
            ToolChoice::Required => Some(json!({ "type": "any" })),
            ToolChoice::Named(name) => Some(json!({ "type": "tool", "name": name })),
        },
        output_config: request
            .schema
            .as_ref()
            .map(|wanted| json!({ "format": { "type": "json_schema", "schema": closed_schema(&wanted.schema) } })),
    })
}

/// The schema with what it leaves open closed: an object that does not say whether more may be in it is refused here, and elsewhere
/// taken as one in which models put nothing more.
fn closed_schema(schema: &Value) -> Value {
    match schema {
        Value::Object(members) => {
            // What is data and no schema stays.
            let is_data = |name: &str| matches!(name, "enum" | "const" | "default" | "examples");
            let mut closed: Map<String, Value> = members
                .iter()
                .map(|(name, value)| match is_data(name) && !value.is_object() {
                    true => (name.clone(), value.clone()),
                    false => (name.clone(), closed_schema(value)),
                })
                .collect();
            if members.get("type").is_some_and(|kind| kind == "object") {
                closed
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
            Value::Object(closed)
        }
        Value::Array(items) => items.iter().map(closed_schema).collect(),
        other => other.clone(),
    }
}

/// An empty text is refused, so it is left out.
fn part(part: &Part) -> Option<Value> {
    match part {
        Part::Text(text) => (!text.is_empty()).then(|| json!({ "type": "text", "text": text })),
        Part::Image(Image { format, base64 }) => Some(json!({
            "type": "image",
            "source": { "type": "base64", "media_type": format.media_type(), "data": base64 }
        })),
    }
}

fn spoken(text: &str, calls: &[ToolCall]) -> Vec<Value> {
    let words = (!text.is_empty()).then(|| json!({ "type": "text", "text": text }));
    let call = |call: &ToolCall| json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": object(&call.arguments) });
    words.into_iter().chain(calls.iter().map(call)).collect()
}

fn tool_result(result: &ToolResult) -> Value {
    let mut value =
        json!({ "type": "tool_result", "tool_use_id": result.id, "content": result.text });
    if result.failed {
        value["is_error"] = true.into();
    }
    value
}

#[derive(Deserialize)]
struct Listing {
    data: Vec<Entry>,
    has_more: Option<bool>,
    last_id: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
}

pub(super) fn models(body: &[u8]) -> Result<Page, LlmError> {
    let listing: Listing = read_json(&utf8(body), "the list of models")?;
    let models = listing
        .data
        .into_iter()
        .map(|entry| Model::named(entry.id))
        .filter(|model| is_name(&model.name))
        .collect();
    let last = listing.last_id.filter(|_| listing.has_more == Some(true));
    Ok(Page {
        models,
        next: last.map(|id| ("after_id", id)),
    })
}
