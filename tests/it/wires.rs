//! A turn with a tool on every wire format: the call is understood, and the provider is told of it and of its result in its own words.

use harness::{
    Asking, Chaos, Dialect, Pawd, Setup,
    chaos::{Fault, Then},
    dialect::TEXT,
    within,
    words::{accepted, done, finally, leave_in_workspace, rest, tool},
};
use serde_json::{Value, json};

const TOOL: &str = "files__read";

/// What the second question says of the first answer and of what came of it: the name of the tool, its arguments, the id of the call,
/// the id that the result names, and the result.
#[derive(Debug)]
struct Told {
    tool: Value,
    arguments: Value,
    call: Option<Value>,
    of_call: Option<Value>,
    result: String,
}

fn told(dialect: Dialect, body: &Value) -> Told {
    let messages = body["messages"].as_array().or(body["contents"].as_array());
    let Some([.., answer, result]) = messages.map(Vec::as_slice) else {
        panic!("no conversation in {body}");
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match dialect {
        Dialect::Ollama => {
            let call = &answer["tool_calls"][0]["function"];
            assert_eq!(
                (&result["role"], &result["tool_name"]),
                (&json!("tool"), &call["name"])
            );
            Told {
                tool: call["name"].clone(),
                arguments: call["arguments"].clone(),
                call: None,
                of_call: None,
                result: text(&result["content"]),
            }
        }
        Dialect::OpenAi | Dialect::Compatible | Dialect::Mistral => {
            let call = &answer["tool_calls"][0];
            assert_eq!(result["role"], "tool");
            Told {
                tool: call["function"]["name"].clone(),
                arguments: serde_json::from_str(&text(&call["function"]["arguments"])).unwrap(),
                call: Some(call["id"].clone()),
                of_call: Some(result["tool_call_id"].clone()),
                result: text(&result["content"]),
            }
        }
        Dialect::Anthropic => {
            let parts = answer["content"].as_array().unwrap();
            let call = parts
                .iter()
                .find(|part| part["type"] == "tool_use")
                .unwrap();
            let part = &result["content"][0];
            assert_eq!(
                (&result["role"], &part["type"]),
                (&json!("user"), &json!("tool_result"))
            );
            Told {
                tool: call["name"].clone(),
                arguments: call["input"].clone(),
                call: Some(call["id"].clone()),
                of_call: Some(part["tool_use_id"].clone()),
                result: text(&part["content"]),
            }
        }
        Dialect::Gemini => {
            let part = &answer["parts"][0];
            // Without it the provider refuses the question.
            assert_eq!(part["thoughtSignature"], "sig");
            let response = &result["parts"][0]["functionResponse"];
            assert_eq!(
                (&result["role"], &response["name"]),
                (&json!("user"), &part["functionCall"]["name"])
            );
            Told {
                tool: part["functionCall"]["name"].clone(),
                arguments: part["functionCall"]["args"].clone(),
                call: None,
                of_call: None,
                result: text(&response["response"]["result"]),
            }
        }
    }
}

#[tokio::test]
async fn tool_is_called_and_its_result_told_on_every_wire() {
    let chaos = Chaos::start();
    let mut setup = Setup::new();
    let arguments = json!({"path": "note.txt"});
    for dialect in Dialect::ALL {
        let name = dialect.kind();
        let calls = Fault::Stream(Vec::new(), dialect.calls(TOOL, &arguments), Then::Ends);
        chaos.plays(name, dialect, calls, Some(1));
        setup = setup.provider(name, name, &chaos.url(name, dialect), "max_retries = 0\n");
    }
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "note.txt", "The word is heron.");
    for dialect in Dialect::ALL {
        let name = dialect.kind();
        let asked = Asking::new("what is the word?").provider(name.to_owned());
        let mut chat = within("beginning a chat", asked.ask(&client))
            .await
            .unwrap();
        let id = accepted(&mut chat).await;
        let called = tool(&mut chat, "completed").await;
        assert_eq!(called.tool, "files/read", "{name}");
        let events = rest(&mut chat).await;
        assert_eq!(done(&events).text, TEXT, "{name}");
        let outcomes: Vec<_> = finally(&client, &id)
            .await
            .attempts
            .into_iter()
            .map(|it| it.outcome)
            .collect();
        assert_eq!(outcomes, ["ok", "ok"], "{name}");
        let said = chaos.said(name);
        assert_eq!(said.len(), 2, "{name}");
        for body in &said {
            assert!(body["tools"].to_string().contains(TOOL), "{name}: {body}");
        }
        let told = told(dialect, &said[1]);
        assert_eq!(
            (&told.tool, &told.arguments),
            (&json!(TOOL), &arguments),
            "{name}"
        );
        assert!(
            told.result.contains("The word is heron."),
            "{name}: {told:?}"
        );
        assert_eq!(told.call, told.of_call, "{name}");
        let id = dialect.id_of_the_call().map(|id| json!(id));
        assert!(told.call == id, "{name}: {told:?}");
    }
}
