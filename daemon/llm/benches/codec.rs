//! What a wire format costs: a question of a usual length into its body, and a streamed answer of 64 pieces into its events.
//!
//! `cargo bench -p paw-llm --bench codec`. Pure: no connection, no clock but criterion's. The answers are of our own making, in the shape
//! of what each kind of provider sends.

#![allow(missing_docs, reason = "a bench")]

use std::{collections::VecDeque, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paw_llm::{ChatEvent, ChatRequest, Mask, Message, ProviderKind, wire};

/// Pieces of text in an answer.
const PIECES: usize = 64;

/// As many bytes as arrive at once on a busy connection.
const CHUNK: usize = 512;

const KINDS: [(&str, ProviderKind); 6] = [
    ("ollama", ProviderKind::Ollama),
    ("openai", ProviderKind::OpenAi),
    ("compatible", ProviderKind::Compatible),
    ("mistral", ProviderKind::Mistral),
    ("anthropic", ProviderKind::Anthropic),
    ("gemini", ProviderKind::Gemini),
];

/// Eight turns of a conversation and what is asked now: 3 kB of text.
fn question() -> ChatRequest {
    let words = "What was said before, in the usual length of a paragraph. ".repeat(6);
    let mut messages = vec![Message::System("You are helpful, and brief.".to_owned())];
    for _ in 0..4 {
        messages.push(Message::user(words.clone()));
        messages.push(Message::assistant(words.clone()));
    }
    messages.push(Message::user("And now?"));
    ChatRequest {
        max_tokens: Some(1024),
        ..ChatRequest::new("model-1", messages)
    }
}

/// A streamed answer with its usage and its end.
fn answer(kind: ProviderKind) -> Vec<u8> {
    let event = |data: &str| format!("data: {data}\n\n");
    let named = |name: &str, data: &str| format!("event: {name}\ndata: {data}\n\n");
    let completions = |model: &str| {
        let piece = event(&format!(
            r#"{{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"{model}","choices":[{{"index":0,"delta":{{"content":"word "}},"finish_reason":null}}]}}"#
        ));
        let stop = event(&format!(
            r#"{{"id":"c-1","model":"{model}","choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":17,"completion_tokens":64}}}}"#
        ));
        piece.repeat(PIECES) + &stop + &event("[DONE]")
    };
    match kind {
        ProviderKind::Ollama => {
            let piece = r#"{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"word "},"done":false}"#;
            let end = r#"{"model":"m","message":{"role":"assistant","content":""},"done_reason":"stop","done":true,"prompt_eval_count":17,"eval_count":64}"#;
            format!("{piece}\n").repeat(PIECES) + end + "\n"
        }
        ProviderKind::OpenAi | ProviderKind::Compatible | ProviderKind::Mistral => {
            completions("m-1")
        }
        ProviderKind::Anthropic => {
            let begin = named(
                "message_start",
                r#"{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"c-1","content":[],"stop_reason":null,"usage":{"input_tokens":17,"output_tokens":1}}}"#,
            ) + &named(
                "content_block_start",
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            );
            let piece = named(
                "content_block_delta",
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word "}}"#,
            );
            let end = named(
                "content_block_stop",
                r#"{"type":"content_block_stop","index":0}"#,
            ) + &named(
                "message_delta",
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":64}}"#,
            ) + &named("message_stop", r#"{"type":"message_stop"}"#);
            begin + &piece.repeat(PIECES) + &end
        }
        ProviderKind::Gemini => {
            let piece = event(
                r#"{"candidates":[{"content":{"parts":[{"text":"word "}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":17},"modelVersion":"g-1"}"#,
            );
            let end = event(
                r#"{"candidates":[{"content":{"parts":[{"text":""}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":17,"candidatesTokenCount":64},"modelVersion":"g-1"}"#,
            );
            piece.repeat(PIECES) + &end
        }
    }
    .into_bytes()
}

/// What came out of an answer: how many pieces of text, and whether it ended.
fn decode(kind: ProviderKind, bytes: &[u8]) -> (usize, bool) {
    let mut decoder = wire::Decoder::new(kind, Mask::new(None));
    let (mut out, mut pieces) = (VecDeque::new(), 0);
    for chunk in bytes.chunks(CHUNK) {
        decoder
            .push(black_box(chunk), &mut out)
            .expect("the answer is good");
        let texts = out
            .drain(..)
            .filter(|event| matches!(event, ChatEvent::Text(_)));
        pieces += texts.count();
    }
    decoder.finish(&mut out).expect("it has its end");
    (pieces, decoder.is_done())
}

fn questions(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("question");
    let request = question();
    for (name, kind) in KINDS {
        let length = wire::body(kind, &request).expect("it is JSON").len();
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(name, |it| {
            it.iter(|| wire::body(kind, black_box(&request)));
        });
    }
    group.finish();
}

fn answers(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("answer");
    for (name, kind) in KINDS {
        let bytes = answer(kind);
        assert_eq!(decode(kind, &bytes), (PIECES, true), "{name}");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |it| it.iter(|| decode(kind, &bytes)));
    }
    group.finish();
}

criterion_group!(codec, questions, answers);
criterion_main!(codec);
