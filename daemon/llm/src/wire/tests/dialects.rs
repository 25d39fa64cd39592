//! Tool calls, usage and ends of each dialect, at every split of its bytes and in one piece.

use super::*;

const ANTHROPIC: &str = concat!(
    "event: message_start\n",
    r#"data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"clever-1","content":[],"stop_reason":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":1}}}"#,
    "\n\nevent: ping\n",
    r#"data: {"type":"ping"}"#,
    "\n\nevent: content_block_start\n",
    r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"abc"}}"#,
    "\n\nevent: content_block_start\n",
    r#"data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Grüße"}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":" 🐾\n!"},"later":[1]}"#,
    "\n\nevent: content_block_stop\n",
    r#"data: {"type":"content_block_stop","index":1}"#,
    "\n\nevent: content_block_start\n",
    r#"data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"weather","input":{}}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"city\": \"Zü"}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"rich\"}"}}"#,
    "\n\nevent: content_block_start\n",
    r#"data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_2","name":"now","input":{}}}"#,
    "\n\nevent: message_delta\n",
    r#"data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":42}}"#,
    "\n\nevent: message_stop\n",
    r#"data: {"type":"message_stop"}"#,
    "\n\n",
);

const ANTHROPIC_WHOLE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"clever-1","content":[
    {"type":"thinking","thinking":"hm","signature":"abc"},{"type":"text","text":"Grüße 🐾\n!"},
    {"type":"tool_use","id":"toolu_1","name":"weather","input":{"city": "Zürich"}},{"type":"tool_use","id":"toolu_2","name":"now","input":{}}],
    "stop_reason":"tool_use","usage":{"input_tokens":10,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":42}}"#;

const GEMINI: &str = concat!(
    r#"data: {"candidates":[{"content":{"parts":[{"text":"hm","thought":true}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":17,"thoughtsTokenCount":5,"totalTokenCount":22},"modelVersion":"gem-1"}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"text":"Grüße"},{"text":" 🐾\n!"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":17,"candidatesTokenCount":20,"thoughtsTokenCount":5},"modelVersion":"gem-1"}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"weather","args":{"city": "Zürich"}},"thoughtSignature":"sig"}],"role":"model"}}]}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"now","args":{}}}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":17,"candidatesTokenCount":37,"thoughtsTokenCount":5,"cachedContentTokenCount":4},"modelVersion":"gem-1"}"#,
    "\r\n\r\n",
);

const OPENAI: &str = concat!(
    r#"data: {"id":"c","model":"gpt-1","choices":[{"index":0,"delta":{"role":"assistant","content":null}}],"obfuscation":"x"}"#,
    "\n\n",
    r#"data: {"model":"gpt-1","choices":[{"index":0,"delta":{"content":"Grüße 🐾\n!"}}]}"#,
    "\n\n",
    r#"data: {"model":"gpt-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"weather","arguments":""}}]}}]}"#,
    "\n\n",
    r#"data: {"model":"gpt-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\": \"Zü"}}]}}]}"#,
    "\n\n",
    r#"data: {"model":"gpt-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_b","type":"function","function":{"name":"now","arguments":"{}"}}]}}]}"#,
    "\n\n",
    r#"data: {"model":"gpt-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"rich\"}"}}]}}]}"#,
    "\n\n",
    r#"data: {"model":"gpt-1","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    "\n\n",
    r#"data: {"model":"gpt-1","choices":[],"usage":{"prompt_tokens":17,"completion_tokens":42,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}}"#,
    "\n\ndata: [DONE]\n\n",
);

const OPENAI_WHOLE: &str = r#"{"object":"chat.completion","model":"gpt-1","choices":[{"index":0,"message":{"role":"assistant","content":"Grüße 🐾\n!","refusal":null,
    "tool_calls":[{"id":"call_a","type":"function","function":{"name":"weather","arguments":"{\"city\": \"Zürich\"}"}},{"id":"call_b","type":"function","function":{"name":"now","arguments":"{}"}}]},
    "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":17,"completion_tokens":42,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}}"#;

const MISTRAL: &str = concat!(
    r#"data: {"id":"m","model":"mis-1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"p":"abcdefgh"}"#,
    "\n\n",
    r#"data: {"model":"mis-1","choices":[{"index":0,"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"Grüße 🐾\n!"}]}}]}"#,
    "\n\n",
    r#"data: {"model":"mis-1","choices":[{"index":0,"delta":{"content":"","tool_calls":[{"id":"D681PevKs","function":{"name":"weather","arguments":"{\"city\": \"Zürich\"}"},"index":0},{"id":"E681PevKs","function":{"name":"now","arguments":"{}"},"index":1}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":17,"completion_tokens":42,"total_tokens":59,"num_cached_tokens":4}}"#,
    "\n\ndata: [DONE]\n\n",
);

const OLLAMA: &str = concat!(
    r#"{"model":"tiny:1b","message":{"role":"assistant","content":"Grüße 🐾\n!","tool_calls":null},"done":false}"#,
    "\n",
    r#"{"model":"tiny:1b","message":{"role":"assistant","content":"","tool_calls":[{"function":{"index":0,"name":"weather","arguments":{"city": "Zürich"}}},{"id":"call_z","function":{"index":1,"name":"now","arguments":{}}}]},"done":false}"#,
    "\n",
    r#"{"model":"tiny:1b","message":{"role":"assistant","content":""},"done_reason":"stop","done":true,"prompt_eval_count":17,"eval_count":42}"#,
    "\n",
);

/// What every fixture says, with the provider's own ids, model and counts.
fn truth(ids: [&str; 2], model: &str, usage: Usage) -> Heard {
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
        signature: None,
    };
    Heard {
        text: "Grüße 🐾\n!".into(),
        calls: vec![
            call(ids[0], "weather", r#"{"city": "Zürich"}"#),
            call(ids[1], "now", "{}"),
        ],
        done: Done {
            finish: Finish::ToolCalls,
            usage,
            model: Some(model.into()),
        },
    }
}

fn usage(cached: Option<u64>, reasoning: Option<u64>) -> Usage {
    Usage {
        input_tokens: Some(17),
        output_tokens: Some(42),
        cached_tokens: cached,
        reasoning_tokens: reasoning,
    }
}

fn check(kind: ProviderKind, bytes: &str, expected: &Heard) {
    let bytes = bytes.as_bytes();
    let heard = |pieces: &[&[u8]]| {
        run(Decoder::new(kind, mask()), pieces.iter().copied()).expect("a whole answer")
    };
    assert_eq!(&heard(&[bytes]), expected, "{kind:?} unsplit");
    for first in 0..=bytes.len() {
        let second = (first + 3).min(bytes.len());
        let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
        assert_eq!(&heard(&pieces), expected, "{kind:?} cut at {first}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(&heard(&single), expected, "{kind:?} one byte at a time");
}

fn check_whole(kind: ProviderKind, body: &str, expected: &Heard) {
    for size in [1, 7, body.len()] {
        let heard = run(Decoder::whole(kind, mask()), body.as_bytes().chunks(size));
        assert_eq!(&heard.expect("a whole answer"), expected, "{kind:?}");
    }
    let cut = run(
        Decoder::whole(kind, mask()),
        [&body.as_bytes()[..body.len() - 2]],
    );
    assert_eq!(cut.expect_err("half an answer").kind(), "malformed");
}

#[test]
fn anthropic_answer_with_calls_is_the_same_at_every_split() {
    let expected = truth(["toolu_1", "toolu_2"], "clever-1", usage(Some(4), None));
    check(ProviderKind::Anthropic, ANTHROPIC, &expected);
    check_whole(ProviderKind::Anthropic, ANTHROPIC_WHOLE, &expected);
}

#[test]
fn gemini_answer_with_calls_is_the_same_at_every_split() {
    let mut expected = truth(["call_0", "call_1"], "gem-1", usage(Some(4), Some(5)));
    expected.calls[0].signature = Some("sig".into());
    check(ProviderKind::Gemini, GEMINI, &expected);
    check(
        ProviderKind::Gemini,
        &GEMINI.replace("\r\n", "\n"),
        &expected,
    );
}

#[test]
fn gemini_answer_in_one_piece_has_the_shape_of_its_stream() {
    let body = r#"{"candidates":[{"content":{"parts":[{"text":"hi"}]},"finishReason":"MAX_TOKENS"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2},"modelVersion":"gem-1"}"#;
    let heard = run(
        Decoder::whole(ProviderKind::Gemini, mask()),
        [body.as_bytes()],
    )
    .expect("a whole answer");
    assert_eq!(
        (heard.text.as_str(), heard.done.finish),
        ("hi", Finish::Length)
    );
}

/// As it streams arguments where that is asked for; the first call has a text in pieces and a list, the second nothing.
const GEMINI_PATHS: &str = concat!(
    r#"data: {"candidates":[{"content":{"parts":[{"text":"Grüße 🐾\n!"},{"functionCall":{"name":"weather","willContinue":true},"thoughtSignature":"sig"}],"role":"model"}}],"usageMetadata":{"trafficType":"ON_DEMAND"},"modelVersion":"gem-1"}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"partialArgs":[{"jsonPath":"$.city","stringValue":"Zü","willContinue":true}],"willContinue":true}}]}}]}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"partialArgs":[{"jsonPath":"$.city","stringValue":"rich"}],"willContinue":true}}]}}]}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"willContinue":true}}]}}]}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{}}]}}]}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"now","willContinue":true}}]}}]}"#,
    "\r\n\r\n",
    r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{}}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":17,"candidatesTokenCount":37,"thoughtsTokenCount":5,"cachedContentTokenCount":4}}"#,
    "\r\n\r\n",
);

#[test]
fn gemini_answer_with_arguments_by_paths_is_the_same_at_every_split() {
    let mut expected = truth(["call_0", "call_1"], "gem-1", usage(Some(4), Some(5)));
    expected.calls[0].signature = Some("sig".into());
    expected.calls[0].arguments = r#"{"city":"Zürich"}"#.into();
    check(ProviderKind::Gemini, GEMINI_PATHS, &expected);
}

#[test]
fn endless_arguments_by_paths_are_refused() {
    let mut decoder = Decoder::new(ProviderKind::Gemini, mask());
    let first = r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","willContinue":true}}]}}]}"#;
    let more = format!(
        r#"data: {{"candidates":[{{"content":{{"parts":[{{"functionCall":{{"partialArgs":[{{"jsonPath":"$.a","stringValue":"{}","willContinue":true}}],"willContinue":true}}}}]}}}}]}}"#,
        "x".repeat(LIMIT / 4)
    );
    let mut push =
        |event: &str| decoder.push(format!("{event}\n\n").as_bytes(), &mut VecDeque::new());
    push(first).expect("a call");
    let outcome = (0..5).try_for_each(|_| push(&more));
    assert_eq!(outcome.expect_err("too much").kind(), "too_large");
}

#[test]
fn anthropic_call_that_is_whole_at_its_beginning_keeps_its_arguments() {
    let heard = |pieces: &[&str]| {
        let mut bytes = String::from(
            "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{\"a\":1}}}\n\n",
        );
        for piece in pieces {
            bytes.push_str(&format!(
                "data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"input_json_delta\",\"partial_json\":{piece:?}}}}}\n\n"
            ));
        }
        bytes.push_str("data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"}}\n\ndata: {\"type\":\"message_stop\"}\n\n");
        let heard = run(
            Decoder::new(ProviderKind::Anthropic, mask()),
            [bytes.as_bytes()],
        );
        heard.expect("whole").calls[0].arguments.clone()
    };
    assert_eq!(heard(&[]), r#"{"a":1}"#);
    assert_eq!(heard(&[""]), r#"{"a":1}"#);
    assert_eq!(heard(&["", "{\"b\":", "2}"]), r#"{"b":2}"#);
}

#[test]
fn gemini_reason_may_be_a_number() {
    let finish = |reason: &str| {
        let body = format!(r#"{{"candidates":[{{"finishReason":{reason}}}]}}"#);
        let heard = run(
            Decoder::whole(ProviderKind::Gemini, mask()),
            [body.as_bytes()],
        );
        heard
            .map(|heard| heard.done.finish)
            .map_err(|error| error.kind())
    };
    assert_eq!(finish("1"), Ok(Finish::Stop));
    assert_eq!(finish("2"), Ok(Finish::Length));
    assert_eq!(finish("3"), Ok(Finish::ContentFilter));
    assert_eq!(finish("99"), Ok(Finish::Other("99".into())));
    for none in ["0", "null"] {
        assert_eq!(finish(none), Err("cut"));
    }
}

#[test]
fn counts_that_grow_are_those_of_the_end() {
    let heard = |kind, events: &[&str]| {
        let bytes: String = events
            .iter()
            .map(|event| format!("data: {event}\n\n"))
            .collect();
        let usage = run(Decoder::new(kind, mask()), [bytes.as_bytes()])
            .expect("whole")
            .done
            .usage;
        [
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
        ]
    };
    // Its limit was reached while it thought, and what its own tools read is part of the question.
    assert_eq!(
        heard(
            ProviderKind::Gemini,
            &[
                r#"{"usageMetadata":{"promptTokenCount":7,"thoughtsTokenCount":5}}"#,
                r#"{"candidates":[{"finishReason":"MAX_TOKENS"}],"usageMetadata":{"promptTokenCount":7,"toolUsePromptTokenCount":10,"thoughtsTokenCount":42}}"#,
            ]
        ),
        [Some(17), Some(42), None, Some(42)]
    );
    // A chunk that counts only what is said takes back nothing of what was thought.
    assert_eq!(
        heard(
            ProviderKind::Gemini,
            &[
                r#"{"usageMetadata":{"promptTokenCount":7,"thoughtsTokenCount":5}}"#,
                r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":3}}"#,
            ]
        ),
        [Some(7), Some(8), None, Some(5)]
    );
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":1}}}"#;
    let end = |usage: &str| {
        format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{usage}}}"#
        )
    };
    let stop = r#"{"type":"message_stop"}"#;
    for (usage, expected) in [
        (r#"{"output_tokens":9}"#, 17),
        (r#"{"input_tokens":10,"output_tokens":9}"#, 17),
        (r#"{"input_tokens":0,"output_tokens":9}"#, 17),
        (
            r#"{"input_tokens":20,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":9}"#,
            27,
        ),
    ] {
        assert_eq!(
            heard(ProviderKind::Anthropic, &[start, &end(usage), stop]),
            [Some(expected), Some(9), Some(4), None],
            "{usage}"
        );
    }
}

#[test]
fn openai_answer_with_interleaved_calls_is_the_same_at_every_split() {
    let expected = truth(["call_a", "call_b"], "gpt-1", usage(Some(4), Some(5)));
    for kind in [ProviderKind::OpenAi, ProviderKind::Compatible] {
        check(kind, OPENAI, &expected);
        check_whole(kind, OPENAI_WHOLE, &expected);
    }
}

#[test]
fn mistral_answer_with_calls_is_the_same_at_every_split() {
    let expected = truth(["D681PevKs", "E681PevKs"], "mis-1", usage(Some(4), None));
    check(ProviderKind::Mistral, MISTRAL, &expected);
}

#[test]
fn ollama_answer_with_calls_is_the_same_at_every_split() {
    let expected = truth(["call_0", "call_z"], "tiny:1b", usage(None, None));
    check(ProviderKind::Ollama, OLLAMA, &expected);
}

#[test]
fn gemini_stream_without_a_finish_reason_is_cut() {
    let bytes = &GEMINI.as_bytes()[..GEMINI.rfind("data:").expect("events")];
    let outcome = run(Decoder::new(ProviderKind::Gemini, mask()), [bytes]);
    assert_eq!(outcome.expect_err("a cut").kind(), "cut");
}

#[test]
fn anthropic_stream_without_its_stop_is_cut() {
    let bytes = &ANTHROPIC.as_bytes()[..ANTHROPIC.rfind("event:").expect("events")];
    let outcome = run(Decoder::new(ProviderKind::Anthropic, mask()), [bytes]);
    assert_eq!(outcome.expect_err("a cut").kind(), "cut");
}

#[test]
fn pings_are_no_progress() {
    let mut decoder = Decoder::new(ProviderKind::Anthropic, mask());
    decoder
        .push(b"data: {\"type\":\"ping\"}\n\n", &mut VecDeque::new())
        .expect("good bytes");
    assert_eq!(decoder.records(), 0);
}

#[test]
fn errors_and_blocks_inside_a_stream_are_errors() {
    let check = |kind, bytes: &str, expected: &str| {
        let error = run(Decoder::new(kind, mask()), [bytes.as_bytes()]).expect_err("a fault");
        assert_eq!(error.kind(), expected, "{bytes}");
        error
    };
    check(
        ProviderKind::Anthropic,
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
        "overload",
    );
    let limited = check(
        ProviderKind::Gemini,
        "data: {\"error\":{\"code\":429,\"message\":\"slow\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",\"retryDelay\":\"34.4s\"}]}}\r\n\r\n",
        "rate",
    );
    assert_eq!(
        limited.retry_after(),
        Some(std::time::Duration::from_millis(34_400))
    );
    check(
        ProviderKind::Gemini,
        "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\r\n\r\n",
        "content_filter",
    );
    check(
        ProviderKind::Mistral,
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"error\"}]}\n\n",
        "overload",
    );
}

#[test]
fn calls_without_numbers_or_with_the_same_number_stay_apart() {
    let heard = |calls: &[&str]| {
        let mut bytes = String::new();
        for call in calls {
            bytes.push_str(&format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{call}]}}}}]}}\n\n"
            ));
        }
        bytes.push_str(
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        );
        let heard = run(
            Decoder::new(ProviderKind::Compatible, mask()),
            [bytes.as_bytes()],
        )
        .expect("a whole answer");
        assert_eq!(heard.done.finish, Finish::ToolCalls);
        heard
            .calls
            .into_iter()
            .map(|call| format!("{}({})", call.name, call.arguments))
            .collect::<Vec<_>>()
    };
    // Every call has the number 0, and an id of its own.
    assert_eq!(
        heard(&[
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#,
            r#"{"index":0,"id":"b","function":{"name":"g","arguments":"{}"}}"#,
        ]),
        ["f({})", "g({})"]
    );
    // No numbers and no ids: a name begins a call, more arguments belong to the last one.
    assert_eq!(
        heard(&[
            r#"{"function":{"name":"f","arguments":"{\"a\":"}}"#,
            r#"{"function":{"arguments":"1}"}}"#,
            r#"{"function":{"name":"f","arguments":"{\"a\":2}"}}"#,
        ]),
        [r#"f({"a":1})"#, r#"f({"a":2})"#]
    );
    // Some repeat id and name with every piece; some send the object itself.
    assert_eq!(
        heard(&[
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"a\""}}"#,
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":":1}"}}"#,
            r#"{"index":1,"id":"b","function":{"name":"g","arguments":{"b":2}}}"#,
        ]),
        [r#"f({"a":1})"#, r#"g({"b":2})"#]
    );
}

#[test]
fn endless_calls_are_refused() {
    let many = r#"{"function":{"name":"f","arguments":"{}"}},"#.repeat(2000);
    let long = format!(
        r#"{{"index":0,"function":{{"name":"f","arguments":"{}"}}}},"#,
        "x".repeat(LIMIT / 4)
    );
    for calls in [many, long.repeat(3)] {
        let event = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{}]}}}}]}}\n\n",
            calls.trim_end_matches(',')
        );
        let mut decoder = Decoder::new(ProviderKind::OpenAi, mask());
        let outcome = (0..4).try_for_each(|_| decoder.push(event.as_bytes(), &mut VecDeque::new()));
        assert_eq!(outcome.expect_err("too much").kind(), "too_large");
    }
}

#[test]
fn answer_in_one_piece_is_bounded() {
    let mut decoder = Decoder::whole(ProviderKind::OpenAi, mask());
    let piece = vec![b' '; 1 << 20];
    let outcome = (0..9).try_for_each(|_| decoder.push(&piece, &mut VecDeque::new()));
    assert_eq!(outcome.expect_err("too much").kind(), "too_large");
}
