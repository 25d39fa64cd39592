//! MCP servers as others publish them, unchanged: installed as skills, listed and called in sandboxes without a network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{
    ANSWERS_ALL, cases,
    report::Case,
    standalone::Standalone,
    within,
    words::{answer, finally},
};
use paw_api::{
    action::{Action, Answer, ApprovalRpcClient},
    events::EventsRpcClient,
};
use paw_policy::{State, Taint};
use serde_json::Value;
use tempfile::TempDir;

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    let mut all = cases![without_servers; filesystem_server_from_npm_runs_as_a_skill, everything_server_from_npm_runs_as_a_skill];
    all.extend(cases![without_client; official_python_client_lists_and_calls_tools_under_policy]);
    all
}

fn python() -> PathBuf {
    servers().join("venv/bin/python3")
}

fn without_client() -> Option<String> {
    without_sandboxes().or_else(|| {
        (!python().exists()).then(|| {
            "the Python client of MCP is not here: run packaging/mcp/fetch-servers target/mcp"
                .to_owned()
        })
    })
}

fn servers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/mcp")
}

fn without_servers() -> Option<String> {
    without_sandboxes().or_else(|| {
        let all = ["filesystem", "everything"]
            .iter()
            .all(|name| servers().join(name).join("node_modules").is_dir());
        (!all || !Path::new("/usr/bin/node").exists()).then(|| {
            "no MCP servers are here: install nodejs and npm, and run packaging/mcp/fetch-servers target/mcp"
                .to_owned()
        })
    })
}

/// A bundle: the server as npm installed it, and a manifest beside it.
fn bundle(name: &str, arguments: &str, more: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(servers().join(name).join("node_modules"))
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let manifest = format!(
        "name = \"{name}\"\nversion = \"1\"\ndescription = \"From npm.\"\nimage = \"host\"\nworkspace = true\n\
         command = [\"/usr/bin/node\", \"/skill/node_modules/@modelcontextprotocol/server-{name}/dist/index.js\"{arguments}]\n\
         [limits]\ncpu_milli = 2000\nmemory = 1073741824\ndisk = 16777216\npids = 64\nopen_files = 512\nwall_ms = 60000\n{more}"
    );
    fs::write(dir.path().join("skill.toml"), manifest).unwrap();
    dir
}

async fn system() -> Standalone {
    let skills = "[agent.default]\nskills = [\"files\", \"filesystem\", \"everything\"]\n";
    let files = [
        ("etc/pawd.d/10-skills.toml", skills),
        ("etc/policy/60-critical.cedar", ANSWERS_ALL),
    ];
    Standalone::start_with("", false, &files).await
}

async fn pawctl(system: &Standalone, arguments: &[&str]) -> (i32, String) {
    let ran = system.pawctl(arguments).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&ran.stdout), text(&ran.stderr));
    (ran.status.code().unwrap(), said)
}

/// Asks for something that a person has to approve, approves it, and gives what came of it.
async fn approved(system: &Standalone, arguments: &[&str]) -> Action {
    let asked = [&["-o", "json"], arguments, &["--no-wait"]].concat();
    let ran = system.pawctl(&asked).await;
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(5), "{told}");
    let action: Action = serde_json::from_slice(&ran.stdout).unwrap();
    // Sending a bundle takes a while, and who connects and says nothing is sent away.
    let client = system.client().await;
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .expect("an administrator may");
    finally(&client, &action.id).await
}

async fn filesystem_server_from_npm_runs_as_a_skill() {
    let system = system().await;
    let dir = bundle(
        "filesystem",
        ", \"/workspace\"",
        "[classes]\nread_text_file = \"read-private\"\nlist_directory = \"read-private\"\nwrite_file = \"write-destructive\"\n",
    );
    let path = dir.path().display().to_string();
    let installed = approved(&system, &["skill", "install", &path]).await;
    assert_eq!(installed.state, State::Completed, "{installed:?}");
    let enabled = approved(&system, &["skill", "enable", "filesystem"]).await;
    assert_eq!(enabled.state, State::Completed, "{enabled:?}");
    let (_, shown) = pawctl(&system, &["skill", "show", "filesystem"]).await;
    for line in [
        "read_text_file (read-private)",
        "write_file (write-destructive)",
        // What nothing is said about is the worst.
        "move_file (admin)",
        "list_directory (read-private)",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    let text = r#"{"path":"a.txt","content":"from npm"}"#;
    let written = approved(
        &system,
        &["skill", "call", "filesystem", "write_file", text],
    )
    .await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    let result = written.result.expect("it completed");
    assert!(
        result["net"].is_null(),
        "it has no way to a network: {result}"
    );
    let asked = r#"{"path":"a.txt"}"#;
    let (code, said) = pawctl(
        &system,
        &["skill", "call", "filesystem", "read_text_file", asked],
    )
    .await;
    assert!(code == 0 && said.contains("from npm"), "{code}: {said}");
    // Outside of the workspace a person is asked first, whatever class the tool has.
    let outside = r#"{"path":"/etc/shadow"}"#;
    let read = ["skill", "call", "filesystem", "read_text_file", outside];
    let (code, said) = pawctl(&system, &[&read[..], &["--no-wait"]].concat()).await;
    assert_eq!(code, 5, "{said}");
    // And then the server refuses it, and there is nothing of the host to be read.
    let done = approved(&system, &read).await;
    assert_eq!(done.state, State::Failed, "{done:?}");
}

async fn everything_server_from_npm_runs_as_a_skill() {
    let system = system().await;
    let dir = bundle(
        "everything",
        "",
        "[classes]\necho = \"read-public\"\n\"get-sum\" = \"read-public\"\n\"get-tiny-image\" = \"read-public\"\n\
         \"get-structured-content\" = \"read-public\"\n\"get-resource-reference\" = \"read-public\"\n",
    );
    let path = dir.path().display().to_string();
    let installed = approved(&system, &["skill", "install", &path]).await;
    assert_eq!(installed.state, State::Completed, "{installed:?}");
    let enabled = approved(&system, &["skill", "enable", "everything"]).await;
    assert_eq!(enabled.state, State::Completed, "{enabled:?}");
    for (tool, arguments, expected) in [
        ("echo", r#"{"message":"hello"}"#, "Echo: hello"),
        ("get-sum", r#"{"a":2,"b":3}"#, "5"),
        ("get-tiny-image", "{}", "[image, image/png"),
        (
            "get-structured-content",
            r#"{"location":"New York"}"#,
            "temperature",
        ),
        (
            "get-resource-reference",
            r#"{"resourceType":"Text","resourceId":1}"#,
            "Resource 1",
        ),
    ] {
        let (code, said) = pawctl(&system, &["skill", "call", "everything", tool, arguments]).await;
        assert!(
            code == 0 && said.contains(expected),
            "{tool} {code}: {said}"
        );
    }
    // What does not fit the schema that it announced is refused before anything runs.
    let (code, said) = pawctl(
        &system,
        &["skill", "call", "everything", "get-sum", r#"{"a":"two"}"#],
    )
    .await;
    assert!(code == 2 && said.contains("no \"b\""), "{code}: {said}");
    let shown: Value = {
        let ran = system
            .pawctl(&["-o", "json", "skill", "show", "everything"])
            .await;
        serde_json::from_slice(&ran.stdout).unwrap()
    };
    assert!(shown["announced"].is_string(), "{shown}");
}

async fn official_python_client_lists_and_calls_tools_under_policy() {
    let system = system().await;
    let client = system.client().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/mcp_client.py");
    let mut python = tokio::process::Command::new(python());
    python
        .arg(script)
        .arg(harness::stage::program("pawctl"))
        .arg(system.root.path())
        .kill_on_drop(true);
    let answering = async {
        let mut news = within("news", client.watch(None)).await.unwrap();
        for (path, said) in [("yes.txt", Answer::Approve), ("no.txt", Answer::Deny)] {
            let question = loop {
                let all = ApprovalRpcClient::list(&client, None, None).await.unwrap();
                let asked = all
                    .into_iter()
                    .find(|question| question.summary.contains(path));
                match asked {
                    Some(question) => break question,
                    None => drop(within("a question", news.next()).await),
                }
            };
            // What the other program's model wrote is told as such.
            assert!(question.taint.has(Taint::Model), "{question:?}");
            answer(&client, &question.id, question.digest, said)
                .await
                .unwrap();
        }
    };
    let (ran, ()) = tokio::join!(within("the client", python.output()), answering);
    let ran = ran.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    let told: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let names: Vec<_> = told["tools"].as_object().unwrap().keys().collect();
    for name in ["files__list", "files__read", "files__write"] {
        assert!(names.contains(&&name.to_owned()), "{told}");
    }
    assert_eq!(told["tools"]["files__read"]["type"], "object", "{told}");
    assert_eq!(told["list"]["error"], false, "{told}");
    assert_eq!(told["missing"]["error"], true, "{told}");
    assert_eq!(told["approved"]["error"], false, "{told}");
    assert_eq!(told["denied"]["error"], true, "{told}");
    let denied = told["denied"]["text"].as_str().unwrap();
    assert!(denied.contains("a person denied it"), "{told}");
    assert_eq!(told["read"]["text"], "hello", "{told}");
    let unknown = told["unknown"].as_str().unwrap();
    assert!(unknown.contains("has no tool"), "{told}");
}
