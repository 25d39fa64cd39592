//! Google's Gemini: `:generateContent`, `:streamGenerateContent?alt=sse`, `/v1beta/models`.
//!
//! A streamed answer is server-sent events (with CR LF) of the same shape as an answer in one piece: parts of a candidate, and
//! counts that grow. There is no terminator: the answer is complete when the stream ends after a finish reason. The
//! reason says `STOP` also for calls, which are whole unless that was asked for otherwise, and may have no id. Thoughts are marked, and skipped.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::answer::{Answer, CallPiece};
use super::paths::{Arguments, PathPiece};
use super::{Page, fault, is_name, json as read_json, object, utf8, word};
use crate::chat::{
    ChatEvent, ChatRequest, Finish, Image, Message, Model, Parameters, Part, ToolChoice,
};
use crate::error::LlmError;
use crate::said::Mask;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    #[serde(borrow)]
    candidates: Option<Vec<Candidate<'a>>>,
    usage_metadata: Option<Counts>,
    model_version: Option<String>,
    prompt_feedback: Option<Feedback>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
    /// A word, or its number where a gateway writes enumerations so.
    finish_reason: Option<Value>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    parts: Option<Vec<Piece<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Piece<'a> {
    text: Option<String>,
    thought: Option<bool>,
    thought_signature: Option<String>,
    #[serde(borrow)]
    function_call: Option<Call<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    id: Option<String>,
    name: Option<String>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    partial_args: Option<Vec<PathPiece>>,
    will_continue: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    prompt_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

pub(super) fn read(
    record: &[u8],
    answer: &mut Answer,
    mask: &Mask,
    out: &mut VecDeque<ChatEvent>,
) -> Result<(), LlmError> {
    let text = utf8(record);
    let chunk: Chunk<'_> = read_json(&text, "an event of the stream")?;
    if chunk.error.is_some() {
        return Err(fault::judge(None, record, fault::Wish::default(), mask));
    }
    answer.records += 1;
    answer.name(chunk.model_version);
    if let Some(reason) = chunk
        .prompt_feedback
        .and_then(|feedback| feedback.block_reason)
    {
        return Err(LlmError::ContentFilter {
            said: mask.clean(&reason),
        });
    }
    if let Some(counts) = chunk.usage_metadata {
        count(answer, &counts);
    }
    for candidate in chunk
        .candidates
        .unwrap_or_default()
        .into_iter()
        .filter(|candidate| candidate.index.unwrap_or(0) == 0)
    {
        let parts = candidate.content.and_then(|content| content.parts);
        for piece in parts.unwrap_or_default() {
            if let Some(function_call) = piece.function_call {
                call(function_call, piece.thought_signature, answer)?;
            } else if piece.thought != Some(true) {
                answer.text(piece.text, out);
            }
        }
        if let Some(reason) = candidate.finish_reason.as_ref().and_then(reason) {
            close(answer)?;
            answer.finish = Some(finish(&reason, mask));
        }
    }
    Ok(())
}

/// A call comes whole, or begins with its name and goes on with pieces of its arguments until one says that it does not.
fn call(call: Call<'_>, signature: Option<String>, answer: &mut Answer) -> Result<(), LlmError> {
    let begins = call.name.as_deref().is_some_and(|name| !name.is_empty());
    if begins || answer.paths.is_none() {
        close(answer)?;
        answer.begin_call(CallPiece {
            index: None,
            id: call.id,
            name: call.name,
            arguments: call
                .args
                .map_or_else(String::new, |args| args.get().to_owned()),
            signature,
            ..CallPiece::default()
        })?;
        if call.will_continue == Some(true) || call.partial_args.is_some() {
            answer.paths = Some(Arguments::default());
        }
    }
    for piece in call.partial_args.unwrap_or_default() {
        answer.grow(piece.size())?;
        if let Some(arguments) = &mut answer.paths {
            arguments.put(piece)?;
        }
    }
    if call.will_continue == Some(true) {
        return Ok(());
    }
    close(answer)
}

/// The arguments of the call that was under way are complete.
fn close(answer: &mut Answer) -> Result<(), LlmError> {
    match answer.paths.take() {
        Some(arguments) => answer.more(None, &arguments.text()),
        None => Ok(()),
    }
}

/// Every chunk counts what there was so far; those that tell less than the ones before say nothing of the rest.
fn count(answer: &mut Answer, counts: &Counts) {
    let usage = &mut answer.usage;
    if let Some(prompt) = counts.prompt_token_count {
        // What its own tools fed into the question is counted apart.
        usage.input_tokens =
            Some(prompt.saturating_add(counts.tool_use_prompt_token_count.unwrap_or(0)));
    }
    usage.cached_tokens = counts.cached_content_token_count.or(usage.cached_tokens);
    // Thoughts are counted apart from what is said, too; together they are the answer.
    let before = usage.reasoning_tokens.unwrap_or(0);
    let spoken = usage.output_tokens.map(|all| all.saturating_sub(before));
    let spoken = counts.candidates_token_count.or(spoken);
    usage.reasoning_tokens = counts.thoughts_token_count.or(usage.reasoning_tokens);
    if spoken.is_some() || usage.reasoning_tokens.is_some() {
        let thought = usage.reasoning_tokens.unwrap_or(0);
        usage.output_tokens = Some(spoken.unwrap_or(0).saturating_add(thought));
    }
}

/// The word for it.
fn reason(told: &Value) -> Option<Cow<'_, str>> {
    match (told.as_str(), told.as_u64()) {
        (Some(word), _) => Some(word.into()),
        // Not said yet.
        (None, None | Some(0)) => None,
        (None, Some(1)) => Some("STOP".into()),
        (None, Some(2)) => Some("MAX_TOKENS".into()),
        (None, Some(3 | 4 | 6 | 7 | 8)) => Some("SAFETY".into()),
        (None, Some(other)) => Some(other.to_string().into()),
    }
}

fn finish(reason: &str, mask: &Mask) -> Finish {
    match reason {
        "STOP" => Finish::Stop,
        "MAX_TOKENS" => Finish::Length,
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY"
        | "LANGUAGE" => Finish::ContentFilter,
        other => word(mask, other),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    contents: Vec<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Offered<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<Value>,
    generation_config: Generation,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Offered<'a> {
    function_declarations: Vec<Declared<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Declared<'a> {
    name: &'a str,
    description: &'a str,
    parameters_json_schema: &'a Parameters,
}

#[derive(Serialize)]
struct Said {
    role: &'static str,
    parts: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Generation {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<Value>,
}

pub(super) fn question(request: &ChatRequest) -> Result<Vec<u8>, serde_json::Error> {
    let mut system: Vec<Value> = Vec::new();
    let mut contents: Vec<Said> = Vec::new();
    for message in &request.messages {
        let (role, parts) = match message {
            Message::System(text) => {
                system.push(json!({ "text": text }));
                continue;
            }
            Message::User(parts) => ("user", parts.iter().map(part).collect()),
            Message::Assistant { text, calls } => {
                let words = (!text.is_empty()).then(|| json!({ "text": text }));
                let called = calls.iter().map(|call| {
                    let mut part = json!({ "functionCall": { "name": call.name, "args": object(&call.arguments) } });
                    if let Some(signature) = &call.signature {
                        part["thoughtSignature"] = signature.as_str().into();
                    }
                    part
                });
                ("model", words.into_iter().chain(called).collect())
            }
            Message::Tool(result) => {
                let word = if result.failed { "error" } else { "result" };
                let response = json!({ "name": result.name, "response": { word: result.text } });
                ("user", vec![json!({ "functionResponse": response })])
            }
        };
        // Results of calls that were made together have to stand in one turn.
        match contents.last_mut() {
            Some(last) if last.role == role => last.parts.extend::<Vec<Value>>(parts),
            _ if parts.is_empty() => {}
            _ => contents.push(Said { role, parts }),
        }
    }
    let declared: Vec<Declared<'_>> = request
        .tools
        .iter()
        .map(|tool| Declared {
            name: &tool.name,
            description: &tool.description,
            parameters_json_schema: &tool.parameters,
        })
        .collect();
    let mode = |mode: &str| json!({ "functionCallingConfig": { "mode": mode } });
    serde_json::to_vec(&Question {
        contents,
        system_instruction: (!system.is_empty()).then(|| json!({ "parts": system })),
        tool_config: match &request.tool_choice {
            _ if declared.is_empty() => None,
            ToolChoice::Auto => None,
            ToolChoice::None => Some(mode("NONE")),
            ToolChoice::Required => Some(mode("ANY")),
            ToolChoice::Named(name) => Some(
                json!({ "functionCallingConfig": { "mode": "ANY", "allowedFunctionNames": [name] } }),
            ),
        },
        tools: if declared.is_empty() {
            Vec::new()
        } else {
            vec![Offered {
                function_declarations: declared,
            }]
        },
        generation_config: Generation {
            max_output_tokens: request.max_tokens,
            temperature: request.temperature,
            response_mime_type: request.schema.as_ref().map(|_| "application/json"),
            response_json_schema: request.schema.as_ref().map(|wanted| wanted.schema.clone()),
        },
    })
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({ "text": text }),
        Part::Image(Image { format, base64 }) => {
            json!({ "inlineData": { "mimeType": format.media_type(), "data": base64 } })
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    models: Option<Vec<Entry>>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    input_token_limit: Option<u64>,
    supported_generation_methods: Option<Vec<String>>,
}

/// The models that can be asked; others make vectors or pictures.
pub(super) fn models(body: &[u8]) -> Result<Page, LlmError> {
    let listing: Listing = read_json(&utf8(body), "the list of models")?;
    let entries = listing.models.ok_or_else(|| LlmError::Malformed {
        what: "the list of models has no `models`".to_owned(),
    })?;
    let models = entries
        .into_iter()
        .filter(|entry| {
            entry
                .supported_generation_methods
                .as_ref()
                .is_none_or(|methods| methods.iter().any(|method| method == "generateContent"))
        })
        .map(|entry| Model {
            context: entry.input_token_limit,
            ..Model::named(entry.name.trim_start_matches("models/").to_owned())
        })
        .filter(|model| is_name(&model.name))
        .collect();
    let token = listing.next_page_token.filter(|token| !token.is_empty());
    Ok(Page {
        models,
        next: token.map(|token| ("pageToken", token)),
    })
}
