//! The same conversation in the words of each dialect.

use serde_json::{Value, json};

use super::*;

const HABITS: Habits = Habits {
    limit: TokenLimit::Compatible,
    context: Some(4096),
};

fn conversation() -> ChatRequest {
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
        signature: Some("sig".into()),
    };
    let result = |id: &str, name: &str, failed| {
        Message::Tool(ToolResult {
            id: id.into(),
            name: name.into(),
            text: "sunny".into(),
            failed,
        })
    };
    ChatRequest {
        tools: [Tool {
            name: "weather".into(),
            description: "Tells the weather".into(),
            parameters: (&json!({ "type": "object" })).into(),
        }]
        .into(),
        tool_choice: ToolChoice::Required,
        schema: Some(Schema {
            name: "answer".into(),
            schema: json!({ "type": "array" }),
        }),
        max_tokens: Some(9),
        temperature: Some(0.0),
        ..ChatRequest::new(
            "m",
            vec![
                Message::System("be brief".into()),
                Message::User(vec![
                    Part::Text("look".into()),
                    Part::Image(Image {
                        format: ImageFormat::Png,
                        base64: "aGk=".into(),
                    }),
                ]),
                Message::Assistant {
                    text: String::new(),
                    calls: vec![
                        call("call_a", "weather", r#"{"city":"Bern"}"#),
                        call("call_b", "weather", "not json"),
                    ],
                },
                result("call_a", "weather", false),
                result("call_b", "weather", true),
                Message::assistant("It is sunny."),
                Message::user("thanks"),
            ],
        )
    }
}

fn asked(kind: ProviderKind) -> Value {
    serde_json::from_slice(&question(kind, &conversation(), HABITS).expect("a body")).expect("JSON")
}

#[test]
fn question_in_the_words_of_chat_completions() {
    let tool = json!({ "type": "function", "function": { "name": "weather", "description": "Tells the weather", "parameters": { "type": "object" } } });
    let expected = |id: &dyn Fn(&str) -> String, choice: &str, streams: bool| {
        let mut expected = json!({
            "model": "m",
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": [
                    { "type": "text", "text": "look" },
                    { "type": "image_url", "image_url": { "url": "data:image/png;base64,aGk=" } },
                ] },
                { "role": "assistant", "content": null, "tool_calls": [
                    { "id": id("call_a"), "type": "function", "function": { "name": "weather", "arguments": "{\"city\":\"Bern\"}" } },
                    { "id": id("call_b"), "type": "function", "function": { "name": "weather", "arguments": "not json" } },
                ] },
                { "role": "tool", "content": "sunny", "tool_call_id": id("call_a"), "name": "weather" },
                { "role": "tool", "content": "sunny", "tool_call_id": id("call_b"), "name": "weather" },
                { "role": "assistant", "content": "It is sunny." },
                { "role": "user", "content": "thanks" },
            ],
            "stream": true,
            "max_tokens": 9,
            "temperature": 0.0,
            "tools": [tool],
            "tool_choice": choice,
            "response_format": { "type": "json_schema", "json_schema": { "name": "answer", "schema": { "type": "array" }, "strict": true } },
        });
        if streams {
            expected["stream_options"] = json!({ "include_usage": true });
        }
        expected
    };
    for kind in [ProviderKind::OpenAi, ProviderKind::Compatible] {
        assert_eq!(
            asked(kind),
            expected(&str::to_owned, "required", true),
            "{kind:?}"
        );
    }
    let mistral = asked(ProviderKind::Mistral);
    let ids = [
        mistral["messages"][2]["tool_calls"][0]["id"].clone(),
        mistral["messages"][2]["tool_calls"][1]["id"].clone(),
    ];
    let id = |id: &str| {
        ids[usize::from(id == "call_b")]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    assert_eq!(mistral, expected(&id, "any", false));
    assert!(ids[0] != ids[1] && id("call_a").len() == 9);
}

#[test]
fn openai_itself_is_told_its_newer_limit() {
    let habits = Habits {
        limit: TokenLimit::OpenAi,
        ..HABITS
    };
    let ask = |kind| {
        let body = question(kind, &conversation(), habits).expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        (
            body["max_tokens"].clone(),
            body["max_completion_tokens"].clone(),
        )
    };
    assert_eq!(ask(ProviderKind::OpenAi), (Value::Null, json!(9)));
    assert_eq!(ask(ProviderKind::Compatible), (json!(9), Value::Null));
}

#[test]
fn question_in_the_words_of_anthropic() {
    assert_eq!(
        asked(ProviderKind::Anthropic),
        json!({
            "model": "m",
            "max_tokens": 9,
            "system": "be brief",
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "look" },
                    { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "aGk=" } },
                ] },
                { "role": "assistant", "content": [
                    { "type": "tool_use", "id": "call_a", "name": "weather", "input": { "city": "Bern" } },
                    { "type": "tool_use", "id": "call_b", "name": "weather", "input": { "text": "not json" } },
                ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "call_a", "content": "sunny" },
                    { "type": "tool_result", "tool_use_id": "call_b", "content": "sunny", "is_error": true },
                ] },
                { "role": "assistant", "content": [{ "type": "text", "text": "It is sunny." }] },
                { "role": "user", "content": [{ "type": "text", "text": "thanks" }] },
            ],
            "stream": true,
            "temperature": 0.0,
            "tools": [{ "name": "weather", "description": "Tells the weather", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "any" },
            "output_config": { "format": { "type": "json_schema", "schema": { "type": "array" } } },
        })
    );
}

#[test]
fn question_in_the_words_of_gemini() {
    assert_eq!(
        asked(ProviderKind::Gemini),
        json!({
            "systemInstruction": { "parts": [{ "text": "be brief" }] },
            "contents": [
                { "role": "user", "parts": [{ "text": "look" }, { "inlineData": { "mimeType": "image/png", "data": "aGk=" } }] },
                { "role": "model", "parts": [
                    { "functionCall": { "name": "weather", "args": { "city": "Bern" } }, "thoughtSignature": "sig" },
                    { "functionCall": { "name": "weather", "args": { "text": "not json" } }, "thoughtSignature": "sig" },
                ] },
                { "role": "user", "parts": [
                    { "functionResponse": { "name": "weather", "response": { "result": "sunny" } } },
                    { "functionResponse": { "name": "weather", "response": { "error": "sunny" } } },
                ] },
                { "role": "model", "parts": [{ "text": "It is sunny." }] },
                { "role": "user", "parts": [{ "text": "thanks" }] },
            ],
            "tools": [{ "functionDeclarations": [{ "name": "weather", "description": "Tells the weather", "parametersJsonSchema": { "type": "object" } }] }],
            "toolConfig": { "functionCallingConfig": { "mode": "ANY" } },
            "generationConfig": {
                "maxOutputTokens": 9, "temperature": 0.0,
                "responseMimeType": "application/json", "responseJsonSchema": { "type": "array" },
            },
        })
    );
}

#[test]
fn question_in_the_words_of_ollama() {
    assert_eq!(
        asked(ProviderKind::Ollama),
        json!({
            "model": "m",
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": "look", "images": ["aGk="] },
                { "role": "assistant", "content": "", "tool_calls": [
                    { "function": { "name": "weather", "arguments": { "city": "Bern" } } },
                    { "function": { "name": "weather", "arguments": { "text": "not json" } } },
                ] },
                { "role": "tool", "content": "sunny", "tool_name": "weather" },
                { "role": "tool", "content": "sunny", "tool_name": "weather" },
                { "role": "assistant", "content": "It is sunny." },
                { "role": "user", "content": "thanks" },
            ],
            "stream": true,
            "options": { "num_ctx": 4096, "num_predict": 9, "temperature": 0.0 },
            "tools": [{ "type": "function", "function": { "name": "weather", "description": "Tells the weather", "parameters": { "type": "object" } } }],
            "format": { "type": "array" },
        })
    );
}

#[test]
fn schema_is_strict_only_where_it_names_everything() {
    let asked = |kind, schema: Value| -> Value {
        let request = ChatRequest {
            schema: Some(Schema {
                name: "answer".into(),
                schema,
            }),
            ..ChatRequest::new("m", vec![Message::user("hi")])
        };
        let body = question(kind, &request, HABITS).expect("a body");
        serde_json::from_slice(&body).expect("JSON")
    };
    let inner = json!({ "type": "object", "properties": { "type": { "type": "string" } }, "required": ["type"], "additionalProperties": false });
    let closed = json!({ "type": "object", "properties": { "a": inner }, "required": ["a"], "additionalProperties": false });
    let without = |name: &str| {
        let mut open = closed.clone();
        open["properties"]["a"]
            .as_object_mut()
            .expect("an object")
            .remove(name);
        open
    };
    for kind in [
        ProviderKind::OpenAi,
        ProviderKind::Compatible,
        ProviderKind::Mistral,
    ] {
        for (schema, strict) in [
            (closed.clone(), true),
            (without("required"), false),
            (without("additionalProperties"), false),
            (json!({ "properties": {} }), false),
            (json!({ "type": "string" }), true),
        ] {
            let told = asked(kind, schema.clone())["response_format"]["json_schema"].clone();
            assert_eq!(
                (&told["strict"], &told["schema"]),
                (&json!(strict), &schema),
                "{kind:?}"
            );
        }
    }
    // Anthropic refuses an object that does not say it.
    let told = asked(ProviderKind::Anthropic, without("additionalProperties"));
    assert_eq!(told["output_config"]["format"]["schema"], closed);
    let open = json!({ "type": "object", "additionalProperties": true, "properties": { "a": { "enum": [{ "type": "object" }] } } });
    let told = asked(ProviderKind::Anthropic, open.clone());
    assert_eq!(told["output_config"]["format"]["schema"], open);
}

#[test]
fn plain_question_says_nothing_of_tools_and_shapes() {
    for kind in ProviderKind::ALL {
        let request = ChatRequest {
            stream: false,
            ..ChatRequest::new("m", vec![Message::user("hi")])
        };
        let body = question(kind, &request, HABITS).expect("a body");
        let text = String::from_utf8(body).expect("UTF-8");
        for word in [
            "tool",
            "schema",
            "format",
            "stream_options",
            "temperature",
            "system",
        ] {
            assert!(!text.contains(word), "{kind:?}: {text}");
        }
    }
}

#[test]
fn choice_of_one_tool_is_told_in_each_dialect() {
    let request = ChatRequest {
        tool_choice: ToolChoice::Named("weather".into()),
        ..conversation()
    };
    let asked = |kind| -> Value {
        serde_json::from_slice(&question(kind, &request, HABITS).expect("a body")).expect("JSON")
    };
    for kind in [
        ProviderKind::OpenAi,
        ProviderKind::Compatible,
        ProviderKind::Mistral,
    ] {
        assert_eq!(asked(kind)["tool_choice"]["function"]["name"], "weather");
    }
    assert_eq!(
        asked(ProviderKind::Anthropic)["tool_choice"],
        json!({ "type": "tool", "name": "weather" })
    );
    assert_eq!(
        asked(ProviderKind::Gemini)["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"],
        json!(["weather"])
    );
}

#[test]
fn what_models_can_do_is_read_where_it_is_told() {
    let read = |kind, body: &str| {
        models(kind, body.as_bytes())
            .expect("a list")
            .models
            .into_iter()
            .map(|model| (model.name, model.context, model.tools, model.vision))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        read(
            ProviderKind::Mistral,
            r#"{"data":[{"id":"a","capabilities":{"completion_chat":true,"function_calling":true,"vision":false},"max_context_length":131072}]}"#
        ),
        [("a".into(), Some(131_072), Some(true), Some(false))]
    );
    assert_eq!(
        read(
            ProviderKind::Gemini,
            r#"{"models":[{"name":"models/g","inputTokenLimit":1000,"supportedGenerationMethods":["generateContent"]},{"name":"models/e","supportedGenerationMethods":["embedContent"]}]}"#
        ),
        [("g".into(), Some(1000), None, None)]
    );
    assert_eq!(
        read(
            ProviderKind::Anthropic,
            r#"{"data":[{"type":"model","id":"c","display_name":"C"}],"has_more":false}"#
        ),
        [("c".into(), None, None, None)]
    );
    assert_eq!(
        read(
            ProviderKind::Ollama,
            r#"{"models":[{"name":"o","capabilities":["completion","tools"]}]}"#
        ),
        [("o".into(), None, Some(true), Some(false))]
    );
}

#[test]
fn list_of_models_says_where_it_goes_on() {
    let next = |kind, body: &str| models(kind, body.as_bytes()).expect("a list").next;
    let (anthropic, gemini) = (ProviderKind::Anthropic, ProviderKind::Gemini);
    assert_eq!(
        next(
            anthropic,
            r#"{"data":[{"id":"a"}],"has_more":true,"first_id":"a","last_id":"a"}"#
        ),
        Some(("after_id", "a".into()))
    );
    assert_eq!(
        next(
            anthropic,
            r#"{"data":[{"id":"a"}],"has_more":false,"last_id":"a"}"#
        ),
        None
    );
    assert_eq!(
        next(gemini, r#"{"models":[],"nextPageToken":"t"}"#),
        Some(("pageToken", "t".into()))
    );
    assert_eq!(next(gemini, r#"{"models":[],"nextPageToken":""}"#), None);
}

#[test]
fn context_of_an_ollama_model_is_what_its_maker_set_or_what_it_was_trained_for() {
    let context = |body: &str| {
        let about = about(body.as_bytes()).expect("what is shown");
        (about.set, about.trained)
    };
    assert_eq!(
        context(
            r#"{"parameters":"stop \"x\"\nnum_ctx                        8192","model_info":{"llama.context_length":131072}}"#
        ),
        (Some(8192), Some(131_072))
    );
    assert_eq!(
        context(r#"{"model_info":{"general.architecture":"q","q.context_length":4096}}"#),
        (None, Some(4096))
    );
    assert_eq!(context("{}"), (None, None));
}
