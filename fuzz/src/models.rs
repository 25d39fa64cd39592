//! What comes from models: answers of each kind of provider, calls that are written as text, and messages of skills.

use std::{collections::VecDeque, fs};

use paw_llm::{Mask, ProviderKind, wire};
use pawd::{
    agent::fuzz::written_call,
    pictures::picture,
    sandbox::{Provenance, Skill, manifest::read_bundle},
};

use crate::processes::block_on;

/// What an answer came to: its events, whether it is whole, what was counted. However its bytes were cut, it is the same.
fn heard<'a>(kind: ProviderKind, pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut decoder = wire::Decoder::new(kind, Mask::new(None));
    let mut events = VecDeque::new();
    for piece in pieces {
        if decoder.push(piece, &mut events).is_err() {
            return format!("broken after {events:?}");
        }
    }
    let ended = decoder.finish(&mut events).is_ok();
    assert_eq!(ended, decoder.is_done());
    format!("{events:?} {ended} {:?}", decoder.usage())
}

/// The first byte says in pieces of which length the others come.
fn answer(kind: ProviderKind, bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let at_once = heard(kind, [bytes].into_iter());
    let in_pieces = heard(kind, bytes.chunks(usize::from(*cut).max(1)));
    assert!(
        at_once == in_pieces || at_once.starts_with("broken") && in_pieces.starts_with("broken"),
        "it depends on how it was cut:\n{at_once}\n{in_pieces}"
    );
    let (mut whole, mut events) = (wire::Decoder::whole(kind, Mask::new(None)), VecDeque::new());
    if whole.push(bytes, &mut events).is_ok() {
        let _ = whole.finish(&mut events);
    }
    wire::fuzz::beside(kind, bytes, &Mask::new(None));
}

fn with_cuts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts
        .iter()
        .map(|text| [&[7], text.as_bytes()].concat())
        .collect()
}

pub(crate) fn ollama(bytes: &[u8]) {
    answer(ProviderKind::Ollama, bytes);
}

pub(crate) fn openai(bytes: &[u8]) {
    answer(ProviderKind::OpenAi, bytes);
}

pub(crate) fn compatible(bytes: &[u8]) {
    answer(ProviderKind::Compatible, bytes);
}

pub(crate) fn mistral(bytes: &[u8]) {
    answer(ProviderKind::Mistral, bytes);
}

pub(crate) fn anthropic(bytes: &[u8]) {
    answer(ProviderKind::Anthropic, bytes);
}

pub(crate) fn gemini(bytes: &[u8]) {
    answer(ProviderKind::Gemini, bytes);
}

pub(crate) fn ollama_seeds() -> Vec<Vec<u8>> {
    with_cuts(&[
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"a\",\"thinking\":\"b\"},\"done\":false}\n\
            {\"message\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"t\",\"arguments\":{\"a\":1}}}]},\"done\":false}\n\
            {\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done_reason\":\"stop\",\"done\":true,\"prompt_eval_count\":1,\"eval_count\":2}\n",
        "{\"error\":\"model 'x' not found\"}\n",
        "{\"models\":[{\"name\":\"m:latest\",\"size\":1,\"details\":{\"family\":\"f\"},\"context_length\":4096}]}",
        "{\"status\":\"pulling\",\"total\":10,\"completed\":5}\n{\"status\":\"success\"}\n",
        "{\"version\":\"0.9.0\"}",
        "{\"capabilities\":[\"tools\",\"vision\"],\"model_info\":{\"llama.context_length\":8192}}",
    ])
}

/// Pieces, calls, an end, an error and a list, in the form of OpenAI's.
fn completions() -> Vec<Vec<u8>> {
    with_cuts(&[
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"i\",\"function\":{\"name\":\"t\",\"arguments\":\"{\"}}]}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}}]}\n\n: comment\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n\
            data: [DONE]\n\n",
        "{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}",
        "{\"error\":{\"message\":\"Rate limit\",\"type\":\"rate_limit_error\",\"code\":\"rate_limit_exceeded\",\"param\":null}}",
        "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"context_length\":4096}]}",
        "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\r\n\r\n",
    ])
}

pub(crate) fn openai_seeds() -> Vec<Vec<u8>> {
    completions()
}

pub(crate) fn compatible_seeds() -> Vec<Vec<u8>> {
    completions()
}

pub(crate) fn mistral_seeds() -> Vec<Vec<u8>> {
    completions()
}

pub(crate) fn anthropic_seeds() -> Vec<Vec<u8>> {
    with_cuts(&[
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"role\":\"assistant\",\"model\":\"c\",\"content\":[],\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n\
            event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
            event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n\
            event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"t\",\"input\":{}}}\n\n\
            event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n\
            event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n\
            event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":2}}\n\n\
            event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
        "{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"c\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}],\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}",
        "{\"data\":[{\"type\":\"model\",\"id\":\"c\",\"display_name\":\"C\"}],\"has_more\":true,\"last_id\":\"c\"}",
    ])
}

pub(crate) fn gemini_seeds() -> Vec<Vec<u8>> {
    with_cuts(&[
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"},{\"functionCall\":{\"name\":\"t\",\"args\":{\"a\":1}},\"thoughtSignature\":\"s\"}],\"role\":\"model\"},\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":1},\"modelVersion\":\"g\"}\n\n\
            data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"\"}]},\"finishReason\":\"STOP\",\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":1,\"candidatesTokenCount\":2,\"thoughtsTokenCount\":3}}\n\n",
        "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n",
        "[{\"error\":{\"code\":429,\"message\":\"quota\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",\"retryDelay\":\"12s\"}]}}]",
        "{\"models\":[{\"name\":\"models/g\",\"inputTokenLimit\":1000,\"supportedGenerationMethods\":[\"generateContent\"]}],\"nextPageToken\":\"n\"}",
    ])
}

pub(crate) fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    written_call(&text);
    let _ = picture(&text);
}

pub(crate) fn text_seeds() -> Vec<Vec<u8>> {
    [
        "<think>no</think>\n```json\n{\"name\": \"files__read\", \"arguments\": {\"path\": \"a\"}}\n```",
        "<tool_call>{\"function\": {\"name\": \"t\", \"parameters\": \"{\\\"a\\\":1}\"}}</tool_call>",
        "[{\"tool\": \"t\", \"args\": {}}]",
        "[TOOL_CALLS] [{\"name\": \"t\", \"arguments\": {}}]",
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .to_vec()
}

thread_local! {
    static SKILL: Skill = skill();
}

fn skill() -> Skill {
    let bundle = tempfile::tempdir().expect("a directory");
    let manifest = include_bytes!("../../daemon/skills/files/skill.toml");
    fs::write(bundle.path().join("skill.toml"), manifest).expect("there is room");
    read_bundle(bundle.path(), Provenance::Shipped).expect("the shipped manifest is good")
}

pub(crate) fn mcp(bytes: &[u8]) {
    SKILL.with(|skill| block_on(pawd::sandbox::fuzz::messages(bytes, skill)));
}

pub(crate) fn mcp_seeds() -> Vec<Vec<u8>> {
    let hello = |id: u8| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{{\"tools\":{{}}}},\"serverInfo\":{{\"name\":\"s\",\"version\":\"1\"}}}}}}"
        )
    };
    // Its tools come in one page; the first of them by name is called.
    let tools = SKILL.with(|skill| {
        skill
            .tools
            .keys()
            .map(|name| format!("{{\"name\":\"{name}\",\"description\":\"d\",\"inputSchema\":{{\"type\":\"object\"}}}}"))
            .collect::<Vec<_>>()
            .join(",")
    });
    let list =
        |id: u8| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"tools\":[{tools}]}}}}");
    let called = |id: u8| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"a\"}},{{\"type\":\"image\",\"data\":\"aaaa\",\"mimeType\":\"image/png\"}}],\"isError\":false,\"structuredContent\":{{\"a\":1}}}}}}"
        )
    };
    let news = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"d\"}}";
    let asks = "{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"sampling/createMessage\",\"params\":{\"messages\":[],\"maxTokens\":1}}";
    let refused = |id: u8| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32602,\"message\":\"no\"}}}}"
        )
    };
    vec![
        format!("{}\n\n{}\n\n{}", hello(0), list(1), called(2)).into_bytes(),
        format!(
            "{}\n{news}\n\n{asks}\n{}\n\n{}",
            hello(0),
            list(1),
            refused(2)
        )
        .into_bytes(),
        format!("{}\n\n{}", hello(0), refused(1)).into_bytes(),
    ]
}
