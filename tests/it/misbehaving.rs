//! Installed skills that do what no skill should, and callers that ask what no skill can take: a typed error, and nobody else notices.

use std::time::Duration;

use harness::{ANSWERS_ALL, Pawd, Setup, within, words::object};
use jsonrpsee::async_client::Client;
use paw_api::action::{Action, ActionRpcClient};
use paw_policy::State;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    bad_input::memory,
    skills::{bundle, install},
};

/// What pawd may need more, in bytes, while a tool says a gigabyte.
const MORE_MEMORY: u64 = 48 * 1024 * 1024;

const MANIFEST: &str = "name = \"clock\"\nversion = \"1\"\ndescription = \"x\"\ncommand = [\"/bin/sh\", \"/skill/server.sh\"]\nimage = \"host\"\n\
    [limits]\ncpu_milli = 1000\nmemory = 67108864\ndisk = 1048576\npids = 16\nopen_files = 64\nwall_ms = 4000\n\
    [[tools]]\nname = \"tell\"\nclass = \"read-private\"\ndescription = \"Tells the time.\"\n\
    input = '{\"type\": \"object\", \"properties\": {\"how\": {\"type\": \"string\"}, \"zone\": {\"type\": \"integer\", \"maximum\": 12}}, \"additionalProperties\": false}'\n";

/// An MCP server in a shell; `how` of a call says what is wrong with its answer.
const SERVER: &str = r#"
say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"initialize"'*) say '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"clock","version":"1"}}' ;;
    *'"tools/list"'*) say '{"tools":[{"name":"tell","inputSchema":{"type":"object"}}]}' ;;
    *'"gigabyte"'*) head -c 1000000000 /dev/zero | tr '\0' x ;;
    *'"lines"'*) while :; do printf '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n'; done ;;
    *'"stderr"'*) tr '\0' x </dev/zero >&2 ;;
    *'"silence"'*) while IFS= read -r line; do :; done; sleep 60 ;;
    *'"garbage"'*) printf 'no json\n{"jsonrpc":"2.0","id":%s,"result":42}\n' "$id" ;;
    *'"tools/call"'*) say '{"content":[{"type":"text","text":"noon"}]}' ;;
  esac
done
"#;

async fn scene() -> (Pawd, Client) {
    let setup = Setup::new();
    let root = setup.root();
    root.write(
        "etc/pawd.d/10-skills.toml",
        "[agent.default]\nskills = [\"files\", \"clock\"]\n",
    );
    root.write("etc/policy/60-critical.cedar", ANSWERS_ALL);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let dir = bundle(&[("skill.toml", MANIFEST), ("server.sh", SERVER)]);
    install(&pawd, &client, dir.path()).await;
    (pawd, client)
}

async fn call(client: &Client, arguments: Value) -> Result<Action, jsonrpsee::core::ClientError> {
    let asked = object(json!({"skill": "clock", "tool": "tell", "arguments": arguments}));
    let asked = client.submit("tool_call".into(), asked, None, None, Some(true), None);
    within("calling a tool", asked).await
}

/// The same tool, called as it should be, answers as it should.
async fn answers_beside(client: &Client) {
    let action = call(client, json!({})).await.unwrap();
    assert_eq!(action.state, State::Completed, "{action:?}");
    assert_eq!(action.result.unwrap()["text"], "noon");
}

#[tokio::test(flavor = "multi_thread")]
async fn installed_tool_that_answers_a_gigabyte_or_never_is_an_error_and_disturbs_nobody() {
    let (pawd, client) = scene().await;
    answers_beside(&client).await;
    let before = memory(&pawd);
    let mut asked = JoinSet::new();
    for how in ["gigabyte", "lines", "stderr", "silence", "garbage"] {
        let client = pawd.client().await;
        asked.spawn(async move { (how, call(&client, json!({"how": how})).await.unwrap()) });
    }
    let mut most = 0;
    while let Some(ended) = within("the end of a call", asked.join_next()).await {
        answers_beside(&client).await;
        most = most.max(memory(&pawd));
        let (how, action) = ended.unwrap();
        let (state, kind, why) = match how {
            "gigabyte" => (State::Failed, "protocol", "a line of more than"),
            "lines" => (State::Failed, "protocol", "more than 256 lines"),
            // Its sandbox may be seen to end first.
            "stderr" | "silence" => (State::TimedOut, "timed_out", ""),
            _ => (State::Failed, "protocol", ""),
        };
        let error = action.error.unwrap_or_else(|| panic!("{how}"));
        assert_eq!(
            (action.state, error.kind.as_str()),
            (state, kind),
            "{how}: {}",
            error.message
        );
        assert!(
            error.message.contains(why) && error.message.len() < 20_000,
            "{how}: {}",
            error.message
        );
        assert!(!error.hint.is_empty(), "{how}");
    }
    let more = most.saturating_sub(before);
    assert!(more < MORE_MEMORY, "{more} bytes more than {before}");
    let launcher = pawd.launcher.as_ref().unwrap();
    tokio::task::block_in_place(|| launcher.wait_for_running(0));
}

#[tokio::test]
async fn arguments_that_no_tool_can_take_are_refused_before_anything_runs() {
    let (pawd, client) = scene().await;
    let made = pawd.launcher.as_ref().unwrap().plans().len();
    for arguments in [
        json!({"zone": "CET"}),
        json!({"zone": 13}),
        json!({"zone": 1.5}),
        json!({"how": null}),
        json!({"else": 1}),
    ] {
        harness::words::refused(call(&client, arguments).await, paw_api::ErrorKind::Invalid);
    }
    let began = Instant::now();
    let before = memory(&pawd);
    // Ten megabytes in one argument: more than a request may have.
    let huge = json!({"skill": "clock", "tool": "tell", "arguments": {"how": "x".repeat(10 * 1024 * 1024)}});
    let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "action.submit", "params": {"kind": "tool_call", "arguments": huge}});
    let said = crate::control::answer(&pawd, format!("{asked}\n").as_bytes()).await;
    // The code of jsonrpsee for a request that is too long, with what to do.
    assert_eq!(said["error"]["code"], -32007, "{said}");
    assert_eq!(
        said["error"]["message"],
        "the request is longer than 1048576 bytes"
    );
    assert!(
        said["error"]["data"]["hint"]
            .as_str()
            .is_some_and(|hint| !hint.is_empty()),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    let more = memory(&pawd).saturating_sub(before);
    assert!(more < MORE_MEMORY, "{more} bytes more than {before}");
    assert_eq!(
        pawd.launcher.as_ref().unwrap().plans().len(),
        made,
        "nothing was started"
    );
    answers_beside(&client).await;
}
