//! What cannot be meant, and what no provider should answer: a typed error that names cause and remedy, bounded memory, and nobody
//! else notices.

use std::{fs, time::Duration};

use harness::{
    Asking, Dialect, Pawd, Setup,
    chaos::{Chaos, Fault},
    dialect::{Refusal, TEXT},
    within,
    words::{accepted, finally, has_no_answer, object, refused, rest},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient, Failure},
    provider::ChatEvent,
};
use serde_json::{Value, json};

/// What pawd may need more, in bytes, while answers without an end come in over every wire at once.
const MORE_MEMORY: u64 = 48 * 1024 * 1024;

const ONCE: &str = "max_retries = 0\n";

/// The name of a scene, and what it plays on each wire.
type Scene = (&'static str, fn(Dialect) -> Fault);

/// A provider of each dialect for each of these scenes, and one beside them where nothing is wrong.
async fn stage(scenes: &[Scene], limits: &str) -> (Chaos, Pawd) {
    let chaos = Chaos::start();
    let mut setup = Setup::new();
    let mut add = |name: &str, dialect: Dialect, fault| {
        chaos.plays(name, dialect, fault, None);
        let url = chaos.url(name, dialect);
        setup = setup.clone().provider(name, dialect.kind(), &url, limits);
    };
    add("beside", Dialect::OpenAi, Fault::Headers(Vec::new()));
    for dialect in Dialect::ALL {
        for (scene, fault) in scenes {
            add(
                &format!("{scene}-{}", dialect.kind()),
                dialect,
                fault(dialect),
            );
        }
    }
    (chaos, Pawd::start(setup).await)
}

async fn ask(client: &Client, provider: &str) -> Action {
    let named = Some(provider.to_owned());
    let begun = Asking::new("hello").provider(named).ask(client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    assert!(
        !matches!(events.last(), Some(ChatEvent::Done(done)) if done.finish != "stop"),
        "no half answer is shown as one: {events:?}"
    );
    finally(client, &id).await
}

/// The failure of a chat that has to fail.
async fn fails(client: &Client, provider: &str) -> Failure {
    let action = ask(client, provider).await;
    has_no_answer(&action);
    let error = action
        .error
        .unwrap_or_else(|| panic!("{provider} answered"));
    assert!(
        !error.hint.is_empty() && error.message.contains(provider),
        "{error:?}"
    );
    error
}

/// Somebody else is answered all the while.
async fn answers_beside(client: &Client) {
    let action = ask(client, "beside").await;
    let said = action
        .result
        .as_ref()
        .and_then(|result| result["text"].as_str());
    assert_eq!(said, Some(TEXT), "{:?}", action.error);
}

/// Memory that only this process has, as the kernel counts it, in bytes.
pub(crate) fn memory(pawd: &Pawd) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", pawd.daemon.pid())).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
        .expect("the kernel counts it");
    kib * 1024
}

fn refuses(dialect: Dialect, refusal: Refusal) -> Fault {
    let (status, body) = dialect.refuses(refusal, None);
    Fault::Status(status, Vec::new(), body)
}

#[tokio::test]
async fn unknown_model_and_wrong_key_name_cause_and_remedy() {
    let scenes: [Scene; 2] = [
        ("model", |dialect| refuses(dialect, Refusal::Model)),
        ("key", |dialect| refuses(dialect, Refusal::Auth)),
    ];
    let (chaos, pawd) = stage(&scenes, "max_retries = 3\n").await;
    let client = pawd.client().await;
    for dialect in Dialect::ALL {
        for (scene, kind, remedy) in [("model", "not_found", "model"), ("key", "auth", "key")] {
            let name = format!("{scene}-{}", dialect.kind());
            let error = fails(&client, &name).await;
            assert_eq!(error.kind, kind, "{error:?}");
            assert!(error.hint.contains(remedy), "{error:?}");
            assert_eq!(chaos.asked(&name).len(), 1, "{name} was asked again");
        }
    }
    answers_beside(&client).await;
}

#[tokio::test]
async fn question_that_is_too_long_is_refused_before_anybody_is_asked() {
    let (chaos, pawd) = stage(&[], ONCE).await;
    let client = pawd.client().await;
    let ask = |bytes: usize| {
        let (text, beside) = ("x".repeat(bytes), Some("beside".to_owned()));
        Asking::new(text).provider(beside).ask(&client)
    };
    let said = refused(ask(64 * 1024 + 1).await.map(drop), ErrorKind::Invalid);
    assert!(said.hint.contains("shorter"), "{said:?}");
    assert_eq!(chaos.asked("beside").len(), 0);
    rest(&mut ask(64 * 1024).await.expect("the longest that is taken")).await;
    assert_eq!(chaos.asked("beside").len(), 1);
}

#[tokio::test]
async fn schema_that_cannot_be_one_and_pictures_that_are_none_are_refused_before_anybody_is_asked()
{
    let (chaos, pawd) = stage(&[], ONCE).await;
    let client = pawd.client().await;
    for arguments in [
        json!({"schema": []}),
        json!({"schema": {"type": "text"}}),
        json!({"schema": {"properties": {"a": {"$ref": "#/$defs/none"}}}}),
        json!({"schema": {"description": "x".repeat(40_000)}}),
        json!({"images": ["bm8gcGljdHVyZQ=="]}),
        json!({"images": vec!["R0lGODlh"; 5]}),
    ] {
        let beside = || Some("beside".to_owned());
        let mut chat = object(arguments.clone());
        let (schema, images) = (chat.get("schema").cloned(), chat.get("images").cloned());
        let images = images.map(|all| serde_json::from_value(all).expect("texts"));
        chat.extend(object(json!({"text": "hello", "provider": "beside"})));
        let submitted = client.submit("chat".into(), chat, None, None, None, None);
        refused(submitted.await, ErrorKind::Invalid);
        let sent = Asking::new("hello")
            .provider(beside())
            .schema(schema)
            .images(images)
            .ask(&client);
        refused(sent.await.map(drop), ErrorKind::Invalid);
    }
    assert_eq!(chaos.asked("beside").len(), 0);
    answers_beside(&client).await;
}

#[tokio::test]
async fn schema_and_pictures_reach_the_provider_in_its_own_words() {
    let scenes: [Scene; 1] = [("well", |_| Fault::Headers(Vec::new()))];
    let (chaos, pawd) = stage(&scenes, ONCE).await;
    let schema = json!({"type": "array", "items": {"type": "string"}});
    // The smallest GIF.
    let picture = "R0lGODlhAQABAAAAACwAAAAAAQABAAACAUwAOw==";
    pawd.root.write("schema.json", &schema.to_string());
    fs::write(pawd.root.path().join("dot.gif"), decoded(picture)).expect("the root is ours");
    let path = |name: &str| pawd.root.path().join(name).display().to_string();
    let (file, dot) = (path("schema.json"), path("dot.gif"));
    for dialect in Dialect::ALL {
        let name = format!("well-{}", dialect.kind());
        let arguments = [
            "chat",
            "hello",
            "--provider",
            &name,
            "--schema",
            &file,
            "--image",
            &dot,
        ];
        let done = pawd.pawctl(&arguments).await;
        assert!(done.status.success(), "{done:?}");
        let body = chaos.said(&name).pop().expect("it was asked");
        let at = |pointer: &str| body.pointer(pointer).cloned().unwrap_or_default();
        let url = json!(format!("data:image/gif;base64,{picture}"));
        let (shape, shown) = match dialect {
            Dialect::Ollama => (at("/format"), at("/messages/1/images/0") == picture),
            Dialect::OpenAi | Dialect::Compatible | Dialect::Mistral => (
                at("/response_format/json_schema/schema"),
                at("/messages/1/content/0/image_url/url") == url,
            ),
            Dialect::Anthropic => (
                at("/output_config/format/schema"),
                at("/messages/0/content/0/source/data") == picture
                    && at("/messages/0/content/0/source/media_type") == "image/gif",
            ),
            Dialect::Gemini => (
                at("/generationConfig/responseJsonSchema"),
                at("/contents/0/parts/0/inlineData/data") == picture
                    && at("/contents/0/parts/0/inlineData/mimeType") == "image/gif",
            ),
        };
        assert_eq!(shape, schema, "{dialect:?}: {body}");
        assert!(shown, "{dialect:?}: {body}");
    }
    pawd.root.write("schema.json", "{\"type\": 7}");
    let done = pawd
        .pawctl(&["chat", "hello", "--provider", "beside", "--schema", &file])
        .await;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("#/type"), "{said}");
}

fn decoded(base64: &str) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(base64).expect("base64")
}

/// An answer of 100 MB, in pieces and in one, and answers that never end: of words, of nothing, of what is no record.
const ENDLESS: [Scene; 5] = [
    ("large", |dialect| {
        let piece = dialect.piece(&"x".repeat(64 * 1024));
        Fault::Flood(dialect.opening(), piece, Some(1600))
    }),
    ("line", |_| {
        Fault::Flood(String::new(), "x".repeat(64 * 1024), Some(1600))
    }),
    ("words", |dialect| {
        Fault::Flood(dialect.opening(), dialect.piece(&"and ".repeat(64)), None)
    }),
    ("alive", |dialect| {
        Fault::Flood(String::new(), dialect.alive().into(), None)
    }),
    ("refusal", |_| {
        Fault::FloodOf(500, "x".repeat(64 * 1024), Some(1600))
    }),
];

#[tokio::test]
async fn answer_without_an_end_is_an_error_and_costs_little() {
    let limits = "max_retries = 0\nfirst_token_timeout = \"3s\"\nstall_timeout = \"3s\"\ntotal_timeout = \"20s\"\n";
    let (chaos, pawd) = stage(&ENDLESS, limits).await;
    let client = pawd.client().await;
    answers_beside(&client).await;
    let before = memory(&pawd);
    let mut asked = tokio::task::JoinSet::new();
    for dialect in Dialect::ALL {
        for (scene, _) in ENDLESS {
            let (client, name) = (pawd.client().await, format!("{scene}-{}", dialect.kind()));
            asked.spawn(async move { (scene, fails(&client, &name).await) });
        }
    }
    let mut most = 0;
    while let Some(ended) = within("the end of an answer", asked.join_next()).await {
        answers_beside(&client).await;
        most = most.max(memory(&pawd));
        let (scene, error) = ended.expect("it came to its end");
        let expected: &[&str] = match scene {
            "large" | "words" | "line" => &["too_large"],
            "alive" => &["timed_out"],
            _ => &["overload"],
        };
        assert!(
            expected.contains(&error.kind.as_str()),
            "{scene}: {error:?}"
        );
    }
    let more = most.saturating_sub(before);
    assert!(more < MORE_MEMORY, "{more} bytes more than {before}");
    // Whoever still sent was hung up on.
    within("the end of the connections", chaos.is_quiet()).await;
    answers_beside(&client).await;
}

#[tokio::test]
async fn deep_schema_is_taken_and_what_is_wrong_inside_is_found() {
    let (_chaos, pawd) = stage(&[], ONCE).await;
    let client = pawd.client().await;
    let mut deep = json!({});
    for _ in 0..50 {
        deep = json!({"items": deep});
    }
    let ask = |schema: Value| {
        let beside = Some("beside".to_owned());
        Asking::new("hello")
            .provider(beside)
            .schema(schema)
            .ask(&client)
    };
    let begun = tokio::time::timeout(Duration::from_secs(10), ask(deep)).await;
    begun.expect("at once").expect("it is a schema");
    refused(
        ask(json!({"items": {"items": 1}})).await.map(drop),
        ErrorKind::Invalid,
    );
}
