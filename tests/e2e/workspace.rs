//! What runs write to workspaces, from the command line to the disk and back.

use harness::{
    cases,
    report::Case,
    somebody::Somebody,
    standalone::Standalone,
    within,
    words::{answer, ask_to_write, call, data, finally},
};
use jsonrpsee::{
    async_client::Client,
    core::{
        client::{ClientT as _, Error as CallError},
        params::ObjectParams,
    },
};
use paw_api::{
    ErrorKind,
    action::{Answer, ApprovalRpcClient},
    workspace::{Discarded, Workspace, WorkspaceDiff},
};
use paw_policy::State;
use serde_json::{Value, json};

use crate::{
    roles::{BOB, CAROL, STAFF, USERS},
    without_sandboxes,
};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        what_a_command_wrote_waits_is_shown_committed_and_undone,
        approved_write_can_be_taken_back,
        workspace_that_nobody_owns_keeps_no_other_from_being_listed_or_undone,
        staged_agent_leaves_its_writes_to_a_person,
        equal_writes_that_one_yes_approved_all_happen,
        layers_of_others_are_as_if_they_were_not_there,
    ]
}

/// Runs pawctl and gives what it printed, stderr too.
async fn pawctl(system: &Standalone, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = system.pawctl(arguments).await;
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Each in a layer of its own over the same workspace: begun at once, all but one would find that the file has changed meanwhile.
async fn equal_writes_that_one_yes_approved_all_happen() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    let mut same = Vec::new();
    for _ in 0..3 {
        same.push(ask_to_write(&client, "fold.txt", "x").await);
    }
    let other = ask_to_write(&client, "fold.txt", "y").await;
    let (first, digest) = (same[0].id.clone(), same[0].digest);
    let yes = client.answer(first, digest, Answer::Approve, None, None, Some(3), None);
    within("answering", yes).await.expect("the operator may");
    answer(&client, &other.id, other.digest, Answer::Approve)
        .await
        .expect("the operator may");
    for action in same.iter().chain([&other]) {
        let ended = finally(&client, &action.id).await;
        assert_eq!(ended.state, State::Completed, "{ended:?}");
    }
    let read = call(&client, "read", json!({"path": "fold.txt"})).await;
    assert_eq!(
        read.result.expect("it is read")["text"],
        "y",
        "in the order of the answers"
    );
}

async fn what_a_command_wrote_waits_is_shown_committed_and_undone() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    let script = "echo hello > note.txt";
    let (code, _, said) = pawctl(
        &system,
        &[
            "sandbox",
            "run",
            "--workspace",
            "default",
            "--",
            "sh",
            "-c",
            script,
        ],
    )
    .await;
    assert_eq!(code, Some(0), "{said}");
    let id = said
        .split("pawctl workspace diff ")
        .nth(1)
        .unwrap_or_else(|| panic!("{said}"))
        .trim()
        .to_owned();
    // Nothing of it is there until somebody says so.
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Failed, "{read:?}");
    let (_, shown, _) = pawctl(&system, &["workspace", "diff", &id]).await;
    assert!(
        shown.contains("A note.txt") && shown.contains("+hello"),
        "{shown}"
    );
    let (_, json, _) = pawctl(&system, &["workspace", "diff", &id, "-o", "json"]).await;
    let diff: Value = serde_json::from_str(&json).expect("it is JSON");
    let digest = diff["digest"].as_str().expect("it has a digest").to_owned();
    let wrong = "0".repeat(64);
    let (code, _, said) = pawctl(&system, &["workspace", "commit", &id, "--digest", &wrong]).await;
    assert_eq!(code, Some(1), "{said}");
    let (code, _, said) = pawctl(&system, &["workspace", "commit", &id, "--digest", &digest]).await;
    assert_eq!(code, Some(0), "{said}");
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Completed, "{read:?}");
    let (code, _, said) = pawctl(&system, &["workspace", "undo", &id]).await;
    assert_eq!(code, Some(0), "{said}");
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Failed, "{read:?}");
    let (code, _, _) = pawctl(&system, &["workspace", "discard", &id]).await;
    assert_eq!(code, Some(6), "it is not there any more");
    let (_, records, _) = pawctl(&system, &["audit", "list", "-o", "json"]).await;
    assert!(
        records.contains("workspace_committed") && records.contains("workspace_undone"),
        "{records}"
    );
}

/// Has `note.txt` written by a call that a person approves; gives the sandbox that committed it.
async fn approved_write(client: &Client) -> String {
    let asked = ask_to_write(client, "note.txt", "remember the milk").await;
    answer(client, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it may be approved");
    let written = finally(client, &asked.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    let result = written.result.expect("it was done");
    assert_eq!(result["workspace"]["then"], "commit", "{result}");
    let id = result["sandbox"]["id"].as_str();
    id.expect("it ran in one").to_owned()
}

async fn approved_write_can_be_taken_back() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    let id = approved_write(&client).await;
    let (code, _, said) = pawctl(&system, &["workspace", "undo", &id]).await;
    assert_eq!(code, Some(0), "{said}");
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Failed, "{read:?}");
}

async fn workspace_that_nobody_owns_keeps_no_other_from_being_listed_or_undone() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    let id = approved_write(&client).await;
    // It came after the launcher had looked who owns what, and its name comes before the other one's.
    let stray = system.root.path().join("launcher/workspaces/a-stray");
    std::fs::create_dir(&stray).expect("we are root");
    let (code, _, said) = pawctl(&system, &["workspace", "list", "--agent", "a-stray"]).await;
    assert_ne!(code, Some(0), "an order on it is refused");
    assert!(said.contains("nobody is known to own"), "{said}");
    // Nor from being listed; what is said of it is what is wrong with it.
    let (code, listed, said) = pawctl(&system, &["workspace", "list"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(listed.contains(&id), "{listed}");
    for what in ["a-stray is not in this list", "nobody is known to own"] {
        assert!(said.contains(what), "{said}");
    }
    // What is in none of the others may be in that one.
    let (code, _, said) = pawctl(&system, &["workspace", "undo", "00000000000000aa"]).await;
    assert_ne!(code, Some(0));
    assert!(said.contains("nobody is known to own"), "{said}");
    let (code, _, said) = pawctl(&system, &["workspace", "undo", &id]).await;
    assert_eq!(code, Some(0), "{said}");
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Failed, "{read:?}");
}

async fn staged_agent_leaves_its_writes_to_a_person() {
    let config = "workspace = \"stage\"\n";
    let system = Standalone::start(config).await;
    let client = system.client().await;
    let asked = ask_to_write(&client, "note.txt", "remember the milk").await;
    answer(&client, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it may be approved");
    let written = finally(&client, &asked.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    let result = written.result.expect("it was done");
    assert_eq!(result["workspace"]["then"], "stage", "{result}");
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Failed, "{read:?}");
    let id = result["sandbox"]["id"]
        .as_str()
        .expect("it ran in one")
        .to_owned();
    let (code, _, said) = pawctl(&system, &["workspace", "commit", &id, "--yes"]).await;
    assert_eq!(code, Some(0), "{said}");
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Completed, "{read:?}");
}

/// Calls a method of workspaces with these members.
async fn ask<T: serde::de::DeserializeOwned>(
    client: &Client,
    method: &str,
    members: &[(&str, &str)],
) -> Result<T, CallError> {
    let mut params = ObjectParams::new();
    for (name, value) in members {
        params.insert(name, value).expect("it is JSON");
    }
    let method = format!("workspace.{method}");
    within("an answer", client.request(&method, params)).await
}

/// Root's run leaves a layer, and a write of root's is committed. Bob is a user, Carol may answer questions of others: neither sees
/// anything of them, nor decides on them.
async fn layers_of_others_are_as_if_they_were_not_there() {
    let roles = "\n[roles]\napprover = \"staff\"\nuser = \"users\"\n";
    let system = Standalone::start(roles).await;
    let client = system.client().await;
    let run = ["sandbox", "run", "--workspace", "default", "--"];
    let script = ["sh", "-c", "echo hello > left.txt"];
    let (code, _, said) = pawctl(&system, &[&run[..], &script[..]].concat()).await;
    assert_eq!(code, Some(0), "{said}");
    let waiting = said.split("pawctl workspace diff ").nth(1);
    let waiting = waiting
        .expect("it says how to look at it")
        .trim()
        .to_owned();
    let committed = approved_write(&client).await;
    let diff = ask(&client, "diff", &[("id", &waiting)]).await;
    let diff: WorkspaceDiff = diff.expect("it is root's");
    let digest = diff.digest;

    system.root.mode("run/control.sock", 0o666);
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_be-somebody"));
    let socket = system.root.control();
    let bob = Somebody::connect(program, &socket, BOB, BOB, &[USERS]);
    let carol = Somebody::connect(program, &socket, CAROL, CAROL, &[STAFF]);
    for (who, other) in [("Bob", &bob.client), ("Carol", &carol.client)] {
        for agent in [&[][..], &[("agent", "default")]] {
            let listed = ask(other, "list", agent).await;
            let listed: Vec<Workspace> = listed.expect("it is allowed");
            let [workspace] = &listed[..] else {
                panic!("not one workspace: {listed:?}");
            };
            let seen = (&workspace.pending[..], &workspace.commits[..]);
            assert_eq!(seen, (&[][..], &[][..]), "{who}");
        }
        for id in [&waiting, &committed] {
            let mut refusals = Vec::new();
            for method in ["diff", "discard", "commit", "undo"] {
                let mut members = vec![("id", id.as_str())];
                if method == "commit" {
                    members.push(("digest", &digest));
                }
                match ask::<Value>(other, method, &members).await {
                    Err(error) => refusals.push(data(&error).kind),
                    Ok(answer) => panic!("{method} for {who}: {answer}"),
                }
            }
            // A user decides on nothing, whosever it is.
            let decides = match who {
                "Bob" => ErrorKind::Denied,
                _ => ErrorKind::NotFound,
            };
            let hidden = ErrorKind::NotFound;
            assert_eq!(refusals, [hidden, hidden, decides, decides], "{who}, {id}");
        }
    }
    // Nothing was changed by asking, and root, whose they are, sees both.
    let listed = ask(&client, "list", &[]).await;
    let mut listed: Vec<Workspace> = listed.expect("root may");
    let listed = listed.remove(0);
    assert_eq!(listed.pending.len(), 1, "{listed:?}");
    assert!(listed.commits.iter().any(|it| it.id == committed));
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(read.state, State::Completed, "{read:?}");
    let thrown = ask(&client, "discard", &[("id", &waiting)]).await;
    let thrown: Discarded = thrown.expect("it is root's");
    assert_eq!(thrown.changes, 1);
}
