//! The codecs against bytes in every shape in which a network may deliver them.

use proptest::prelude::*;

use super::*;
use crate::chat::{
    Done, Image, ImageFormat, Message, Part, Schema, Tool, ToolCall, ToolChoice, ToolResult, Usage,
};

const OLLAMA: &str = concat!(
    r#"{"model":"tiny:1b","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"Grüße"},"done":false}"#,
    "\r\n\n",
    r#"{"model":"tiny:1b","message":{"role":"assistant","content":"","thinking":"hm"},"done":false,"later":{"x":[1]}}"#,
    "\n",
    r#"{"model":"tiny:1b","message":{"role":"assistant","content":" 🐾\n!"},"done":false}"#,
    "\n",
    r#"{"model":"tiny:1b","message":{"role":"assistant","content":""},"done_reason":"stop","done":true,"total_duration":5,"prompt_eval_count":17,"eval_count":66}"#,
    "\n",
);

const OPENAI: &str = concat!(
    ": OPENROUTER PROCESSING\n\n",
    "data: {\"choices\":[],\"model\":\"\",\"prompt_filter_results\":[]}\n\n",
    "event: message\nid: 7\nretry: 10\n",
    r#"data: {"id":"c","object":"chat.completion.chunk","model":"tiny-1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"nX","p":"abc"}"#,
    "\n\n",
    "event: ping\ndata:\n\n",
    r#"data:{"model":"tiny-1","choices":[{"index":0,"delta":{"content":"Grüße"},"finish_reason":null}]}"#,
    "\n\n: comment\n",
    "data: {\"model\":\"tiny-1\",\ndata: \"choices\":[{\"index\":0,\"delta\":{\"content\":\" 🐾\\n!\"}},{\"index\":1,\"delta\":{\"content\":\"other\"}}]}\n\n",
    r#"data: {"model":"tiny-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    "\n\n",
    r#"data: {"model":"tiny-1","choices":[],"usage":{"prompt_tokens":17,"completion_tokens":66,"total_tokens":83,"completion_tokens_details":{"reasoning_tokens":9}}}"#,
    "\n\ndata: [DONE]\n\n",
);

/// What came out of an answer.
#[derive(Debug, PartialEq)]
struct Heard {
    text: String,
    calls: Vec<ToolCall>,
    done: Done,
}

/// Runs pieces of an answer through a decoder.
fn run<'a>(
    mut decoder: Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Heard, LlmError> {
    let mut out = VecDeque::new();
    for piece in pieces {
        decoder.push(piece, &mut out)?;
    }
    decoder.finish(&mut out)?;
    let Some(ChatEvent::Done(done)) = out.pop_back() else {
        panic!("success without its end")
    };
    let (mut text, mut calls) = (String::new(), Vec::new());
    for event in out {
        match event {
            ChatEvent::Text(piece) => text.push_str(&piece),
            ChatEvent::ToolCall(call) => calls.push(call),
            ChatEvent::Done(_) => panic!("two ends"),
        }
    }
    Ok(Heard { text, calls, done })
}

fn mask() -> Mask {
    Mask::new(Some("sk-secret".into()))
}

/// Text and end of an answer without calls, delivered in these pieces.
fn decode<'a>(
    kind: ProviderKind,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(String, Done), LlmError> {
    run(Decoder::new(kind, mask()), pieces).map(|heard| (heard.text, heard.done))
}

fn whole(kind: ProviderKind, bytes: &str) -> Result<(String, Done), LlmError> {
    decode(kind, [bytes.as_bytes()])
}

fn truth(model: &str) -> (String, Done) {
    let usage = Usage {
        input_tokens: Some(17),
        output_tokens: Some(66),
        reasoning_tokens: (model == "tiny-1").then_some(9),
        ..Usage::default()
    };
    (
        "Grüße 🐾\n!".to_owned(),
        Done {
            finish: Finish::Stop,
            usage,
            model: Some(model.to_owned()),
        },
    )
}

/// Cuts `bytes` at every position, at every pair of near positions, and into single bytes.
fn check_every_split(kind: ProviderKind, bytes: &[u8], expected: &(String, Done)) {
    for first in 0..=bytes.len() {
        for second in first..=(first + 4).min(bytes.len()) {
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(
                &decode(kind, pieces).expect("a whole answer"),
                expected,
                "cut at {first} and {second}"
            );
        }
    }
    assert_eq!(
        &decode(kind, bytes.chunks(1)).expect("a whole answer"),
        expected,
        "one byte at a time"
    );
}

#[test]
fn ollama_answer_is_the_same_at_every_split() {
    check_every_split(ProviderKind::Ollama, OLLAMA.as_bytes(), &truth("tiny:1b"));
}

#[test]
fn openai_answer_is_the_same_at_every_split_and_with_every_line_end() {
    for end in ["\n", "\r\n", "\r"] {
        let bytes = OPENAI.replace('\n', end);
        check_every_split(ProviderKind::OpenAi, bytes.as_bytes(), &truth("tiny-1"));
        check_every_split(
            ProviderKind::OpenAi,
            format!("\u{feff}{bytes}").as_bytes(),
            &truth("tiny-1"),
        );
    }
}

#[test]
fn last_line_without_an_end_counts() {
    assert_eq!(
        whole(ProviderKind::Ollama, OLLAMA.trim_end()).expect("whole"),
        truth("tiny:1b")
    );
    assert_eq!(
        whole(ProviderKind::OpenAi, OPENAI.trim_end()).expect("whole"),
        truth("tiny-1")
    );
}

#[test]
fn answer_without_its_terminator_is_cut_wherever_it_ends() {
    for (kind, bytes) in [
        (ProviderKind::Ollama, OLLAMA.trim_end()),
        (ProviderKind::OpenAi, OPENAI.trim_end()),
    ] {
        for end in 0..bytes.len() {
            let outcome = decode(kind, [&bytes.as_bytes()[..end]]);
            assert!(
                matches!(outcome, Err(LlmError::Cut { source: None })),
                "{kind:?} ended at {end}: {outcome:?}"
            );
        }
    }
}

#[test]
fn done_without_a_finish_word_is_cut() {
    let bytes = "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\ndata: [DONE]\n\n";
    assert!(matches!(
        whole(ProviderKind::OpenAi, bytes),
        Err(LlmError::Cut { .. })
    ));
}

#[test]
fn nothing_behind_the_terminator_takes_the_answer_back() {
    for (kind, bytes, model) in [
        (ProviderKind::Ollama, OLLAMA, "tiny:1b"),
        (ProviderKind::OpenAi, OPENAI, "tiny-1"),
    ] {
        for junk in [
            "{\"error\":\"late\"}\n",
            "data: {\"error\":\"late\"}\n\n",
            "not JSON\n\n",
            &"x".repeat(LIMIT + 1),
        ] {
            assert_eq!(
                whole(kind, &format!("{bytes}{junk}")).expect("whole"),
                truth(model),
                "{kind:?}"
            );
        }
    }
}

#[test]
fn comments_are_no_progress_and_records_are() {
    let mut decoder = Decoder::new(ProviderKind::OpenAi, Mask::default());
    let mut count = |bytes: &[u8]| {
        decoder
            .push(bytes, &mut VecDeque::new())
            .expect("good bytes");
        decoder.records()
    };
    assert_eq!(count(b": still here\n\nevent: ping\ndata:\n\n"), 0);
    assert_eq!(count(b"data: {\"choices\":[]}\n\n"), 1);
}

#[test]
fn finish_words_are_understood_and_unknown_ones_bounded() {
    let openai = |reason: &str| {
        let bytes = format!(
            "data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\ndata: [DONE]\n\n"
        );
        whole(ProviderKind::OpenAi, &bytes).expect("whole").1.finish
    };
    assert_eq!(openai("stop"), Finish::Stop);
    assert_eq!(openai("length"), Finish::Length);
    assert_eq!(openai("content_filter"), Finish::ContentFilter);
    assert_eq!(openai("tool_calls"), Finish::ToolCalls);
    assert_eq!(openai("model_length"), Finish::Length);
    assert_eq!(
        openai(&"x\\u001b".repeat(1000)),
        Finish::Other("x".repeat(WORD_LIMIT))
    );
    let ollama = |reason: &str| {
        whole(ProviderKind::Ollama, &format!("{{\"done\":true{reason}}}"))
            .expect("whole")
            .1
            .finish
    };
    assert_eq!(ollama(""), Finish::Stop);
    assert_eq!(ollama(",\"done_reason\":\"length\""), Finish::Length);
    assert_eq!(
        ollama(",\"done_reason\":\"load\""),
        Finish::Other("load".to_owned())
    );
    let other = |word: &str| Finish::Other(word.to_owned());
    for (reason, finish) in [
        ("end_turn", Finish::Stop),
        ("stop_sequence", Finish::Stop),
        ("tool_use", Finish::ToolCalls),
        ("max_tokens", Finish::Length),
        ("model_context_window_exceeded", Finish::Length),
        ("refusal", Finish::ContentFilter),
        ("pause_turn", other("pause_turn")),
    ] {
        let bytes = format!(
            "data: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{reason}\"}}}}\n\ndata: {{\"type\":\"message_stop\"}}\n\n"
        );
        let (_, done) = whole(ProviderKind::Anthropic, &bytes).expect("whole");
        assert_eq!(done.finish, finish, "{reason}");
    }
    for (reason, finish) in [
        ("STOP", Finish::Stop),
        ("MAX_TOKENS", Finish::Length),
        ("SAFETY", Finish::ContentFilter),
        ("RECITATION", Finish::ContentFilter),
        ("PROHIBITED_CONTENT", Finish::ContentFilter),
        ("MALFORMED_FUNCTION_CALL", other("MALFORMED_FUNCTION_CALL")),
    ] {
        let bytes = format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"x\"}}]}},\"finishReason\":\"{reason}\"}}]}}\n\n"
        );
        let (_, done) = whole(ProviderKind::Gemini, &bytes).expect("whole");
        assert_eq!(done.finish, finish, "{reason}");
    }
}

#[test]
fn counts_that_are_not_told_are_not_zero() {
    let (_, done) = whole(ProviderKind::Ollama, "{\"done\":true,\"eval_count\":3}").expect("whole");
    assert_eq!(
        done.usage,
        Usage {
            output_tokens: Some(3),
            ..Usage::default()
        }
    );
}

#[test]
fn bytes_that_are_not_utf8_do_not_lose_the_answer() {
    let bytes: [&[u8]; 3] = [
        b"{\"message\":{\"content\":\"a",
        b"\xff",
        b"b\"},\"done\":true}",
    ];
    assert_eq!(
        decode(ProviderKind::Ollama, bytes).expect("whole").0,
        "a\u{fffd}b"
    );
}

#[test]
fn record_of_another_protocol_is_malformed_and_not_quoted() {
    for (kind, bytes) in [
        (ProviderKind::Ollama, "<html>sk-secret</html>\n"),
        (ProviderKind::Ollama, "[1]\n"),
        (ProviderKind::OpenAi, "data: sk-secret\n\n"),
        (
            ProviderKind::OpenAi,
            "data: {\"choices\":\"sk-secret\"}\n\n",
        ),
        (ProviderKind::OpenAi, "data: {\"choices\":[\n\n"),
    ] {
        let error = whole(kind, bytes).expect_err("a fault");
        assert_eq!(error.kind(), "malformed", "{bytes}");
        assert!(
            !format!("{error} {error:?}").contains("sk-secret"),
            "{error:?}"
        );
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let deep = format!("{{\"error\":{}}}\n", "[".repeat(LIMIT / 2));
    assert_eq!(
        whole(ProviderKind::Ollama, &deep)
            .expect_err("a fault")
            .kind(),
        "malformed"
    );
}

#[test]
fn endless_line_is_refused_and_costs_no_memory() {
    for kind in [ProviderKind::Ollama, ProviderKind::OpenAi] {
        let mut decoder = Decoder::new(kind, Mask::default());
        let garbage = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        let error = loop {
            match decoder.push(&garbage, &mut VecDeque::new()) {
                Ok(()) => sent += garbage.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), "too_large");
        assert!(
            sent <= LIMIT && decoder.held() <= 2 * LIMIT,
            "{sent} sent, {} held",
            decoder.held()
        );
    }
}

#[test]
fn endless_event_of_short_lines_is_refused() {
    let mut decoder = Decoder::new(ProviderKind::OpenAi, Mask::default());
    let lines = "data: xxxxxxxxxxxxxxxx\n".repeat(LIMIT / 16 + 1);
    assert_eq!(
        decoder
            .push(lines.as_bytes(), &mut VecDeque::new())
            .expect_err("a fault")
            .kind(),
        "too_large"
    );
    assert!(decoder.held() <= 2 * LIMIT + 64);
}

#[test]
fn error_inside_a_stream_is_an_error() {
    let check = |kind, bytes: &str, expected: &str, said: &str| {
        let error = whole(kind, bytes).expect_err("a fault");
        assert_eq!(error.kind(), expected, "{bytes}");
        assert!(error.to_string().contains(said), "{error}");
    };
    let (ollama, openai) = (ProviderKind::Ollama, ProviderKind::OpenAi);
    check(
        ollama,
        "{\"message\":{\"content\":\"a\"}}\n{\"error\":\"runner stopped\"}\n",
        "overload",
        "runner stopped",
    );
    check(
        openai,
        "data: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n",
        "rate",
        "slow down",
    );
    check(
        openai,
        "data: {\"error\":{\"message\":\"oops\",\"type\":\"server_error\"}}\n\n",
        "overload",
        "oops",
    );
    check(
        openai,
        "event: error\ndata: {\"error\":{\"message\":\"bad\",\"type\":\"invalid_request_error\"}}\n\n",
        "bad_request",
        "bad",
    );
    check(
        openai,
        "data: {\"object\":\"error\",\"message\":\"too long\",\"code\":\"400\"}\n\n",
        "bad_request",
        "too long",
    );
}

#[test]
fn models_are_listed_and_unreadable_names_left_out() {
    let names = |kind, body: &str| -> Result<Vec<String>, &'static str> {
        models(kind, body.as_bytes())
            .map(|page| page.models.into_iter().map(|model| model.name).collect())
            .map_err(|error| error.kind())
    };
    let (ollama, openai) = (ProviderKind::Ollama, ProviderKind::OpenAi);
    assert_eq!(
        names(
            ollama,
            r#"{"models":[{"name":"a:1b","size":7},{"name":"b\u001b[2J"},{"name":""}]}"#
        ),
        Ok(vec!["a:1b".to_owned()])
    );
    assert_eq!(names(ollama, r#"{"models":null}"#), Ok(vec![]));
    assert_eq!(
        names(
            openai,
            r#"{"object":"list","data":[{"id":"m-1","object":"model"}]}"#
        ),
        Ok(vec!["m-1".to_owned()])
    );
    assert_eq!(names(openai, r#"{"hello":"world"}"#), Err("malformed"));
    assert_eq!(names(openai, "<html>"), Err("malformed"));
}

fn any_kind() -> impl Strategy<Value = ProviderKind> {
    proptest::sample::select(ProviderKind::ALL.to_vec())
}

/// Pieces of the real formats and of noise, so that chance reaches past the first byte.
fn noise() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        proptest::sample::select(vec![
            "\r",
            "\n",
            "\r\n",
            "data:",
            "data: ",
            ": c",
            "\u{feff}",
            "[DONE]",
            "{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}",
            "{\"choices\":[{\"finish_reason\":\"stop\"}]}",
            "{\"message\":{\"content\":\"ü\"}}",
            "{\"done\":true}",
            "{\"error\":null}",
            "{\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\"}}",
            "{\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}",
            "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}",
            "{\"type\":\"message_stop\"}",
            "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"x\"}]},\"finishReason\":\"STOP\"}]}",
            "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]}}]}",
            "{\"error\":{\"code\":99999}}",
            "{",
            "}",
            "\"",
            "\\ud83d",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    proptest::collection::vec(piece, 0..64)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_pile_up(kind in any_kind(), pieces in noise()) {
        let mut decoder = Decoder::new(kind, Mask::default());
        let mut out = VecDeque::new();
        let total: usize = pieces.iter().map(Vec::len).sum();
        let failed = pieces.iter().any(|piece| decoder.push(piece, &mut out).is_err());
        let ends = out.iter().filter(|event| matches!(event, ChatEvent::Done(_))).count();
        prop_assert!(decoder.held() <= 4 * total + 64);
        prop_assert_eq!(ends, usize::from(decoder.is_done()));
        if !failed {
            let ended = decoder.finish(&mut out).is_ok();
            prop_assert_eq!(ended, decoder.is_done());
        }
    }

    #[test]
    fn outcome_does_not_depend_on_the_split(kind in any_kind(), pieces in noise(), size in 1usize..9) {
        let bytes = pieces.concat();
        let summary = |outcome: Result<(String, Done), LlmError>| outcome.map_err(|error| error.kind());
        prop_assert_eq!(summary(decode(kind, bytes.chunks(size))), summary(decode(kind, [bytes.as_slice()])));
    }

    #[test]
    fn arbitrary_error_bodies_never_panic(status in proptest::option::of(any::<u16>()), body in proptest::collection::vec(any::<u8>(), 0..256)) {
        let error = judge(status, &body, Wish::default(), &Mask::new(Some("k".into())));
        prop_assert!(error.to_string().len() <= crate::Said::LIMIT + 128);
    }
}

mod dialects;
mod faults;
mod questions;
