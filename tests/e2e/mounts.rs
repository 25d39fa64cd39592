//! What of the host a skill's manifest names is in its sandboxes, and no more of it than that, as the launcher's own file allows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use harness::{
    ANSWERS_ALL, cases,
    report::Case,
    standalone::Standalone,
    within,
    words::{answer, finally, object},
};
use paw_api::action::{Action, ActionRpcClient as _, Answer};
use paw_policy::{Operation, State};
use serde_json::json;
use tempfile::TempDir;

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        skill_sees_what_of_the_host_was_approved_and_writes_where_that_was,
        what_the_launcher_does_not_allow_is_mounted_for_nobody,
    ]
}

/// An MCP server in a shell that tells what it can do with what of the host it sees.
const SERVER: &str = r#"
say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"initialize"'*)
      say '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"clerk","version":"1"}}' ;;
    *'"tools/list"'*)
      say '{"tools":[{"name":"look","inputSchema":{"type":"object"}},{"name":"keep","inputSchema":{"type":"object"}}]}' ;;
    *'"tools/call"'*)
      told="$(cat /books/book.txt)"
      for place in /books /notes; do
        (echo more >$place/new.txt) 2>/dev/null && told="$told, wrote $place"
      done
      (cat /books/out/book.txt) >/dev/null 2>&1 && told="$told, went out"
      say "{\"content\":[{\"type\":\"text\",\"text\":\"$told\"}]}" ;;
  esac
done
"#;

/// A bundle whose tools are `look`, which reads, and `keep`, which writes; `mounts` are its tables.
fn bundle(mounts: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tool = |name: &str, class: &str| {
        format!(
            "[[tools]]\nname = \"{name}\"\nclass = \"{class}\"\ndescription = \"Looks.\"\ninput = '{{\"type\": \"object\"}}'\n"
        )
    };
    let manifest = format!(
        "name = \"clerk\"\nversion = \"1\"\ndescription = \"Keeps books.\"\nimage = \"host\"\n\
         command = [\"/bin/sh\", \"/skill/server.sh\"]\n\
         [limits]\ncpu_milli = 1000\nmemory = 67108864\ndisk = 1048576\npids = 16\nopen_files = 64\nwall_ms = 20000\n{mounts}{}{}",
        tool("look", "read-private"),
        tool("keep", "write-destructive"),
    );
    fs::write(dir.path().join("skill.toml"), manifest).unwrap();
    fs::write(dir.path().join("server.sh"), SERVER).unwrap();
    dir
}

async fn system() -> Standalone {
    let files = [
        (
            "etc/pawd.d/10-skills.toml",
            "[agent.default]\nskills = [\"clerk\"]\n",
        ),
        ("etc/policy/60-critical.cedar", ANSWERS_ALL),
        ("host/books/book.txt", "heron"),
        ("host/notes/old.txt", "old"),
        ("other/book.txt", "not for anybody"),
    ];
    let system = Standalone::start_with("", false, &files).await;
    let root = system.root.path();
    for place in ["host", "host/books", "other"] {
        fs::set_permissions(root.join(place), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(root.join("host/notes"), fs::Permissions::from_mode(0o777)).unwrap();
    symlink(root.join("other"), root.join("host/books/out")).unwrap();
    symlink(root.join("other"), root.join("host/link")).unwrap();
    system
}

/// Installs a bundle, with a yes to it.
async fn install(system: &Standalone, dir: &TempDir) -> Action {
    let dir = dir.path().display().to_string();
    let asked = ["-o", "json", "skill", "install", &dir, "--no-wait"];
    let ran = system.pawctl(&asked).await;
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(5), "{told}");
    let action: Action = serde_json::from_slice(&ran.stdout).unwrap();
    yes(system, action).await
}

async fn yes(system: &Standalone, action: Action) -> Action {
    let client = system.client().await;
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .unwrap();
    finally(&client, &action.id).await
}

async fn call(system: &Standalone, tool: &str) -> Action {
    let client = system.client().await;
    let asked = object(json!({"skill": "clerk", "tool": tool, "arguments": {}}));
    let submitted = client.submit("tool_call".into(), asked, None, None, Some(true), None);
    let action = within("submitting a call", submitted).await.unwrap();
    if action.state != State::WaitingApproval {
        return action;
    }
    yes(system, action).await
}

fn said(action: &Action) -> String {
    assert_eq!(action.state, State::Completed, "{action:?}");
    let result = action.result.as_ref().unwrap();
    result["text"].as_str().unwrap().to_owned()
}

async fn skill_sees_what_of_the_host_was_approved_and_writes_where_that_was() {
    let system = system().await;
    let host = system.root.path().join("host").display().to_string();
    let mounts = format!(
        "[[mounts]]\nsource = \"{host}/books\"\ntarget = \"/books\"\n[[mounts]]\nsource = \"{host}/notes\"\ntarget = \"/notes\"\nwritable = true\n"
    );
    let installed = install(&system, &bundle(&mounts)).await;
    assert_eq!(installed.state, State::Completed, "{installed:?}");
    let client = system.client().await;
    let shown = client.show(installed.id.clone()).await.unwrap();
    let Some(Operation::SkillChange(plan)) = shown.plan.map(|plan| plan.operation) else {
        panic!("{installed:?}");
    };
    for line in [
        format!("+ mount {host}/books at /books, read-only of the host"),
        format!("+ mount {host}/notes at /notes, writable of the host"),
    ] {
        assert!(plan.difference.contains(&line), "{line}: {plan:?}");
    }
    let told = plan.rights["mounts"].as_array().map(Vec::len);
    assert_eq!(told, Some(2), "{plan:?}");
    assert_eq!(said(&call(&system, "look").await), "heron");
    assert_eq!(said(&call(&system, "keep").await), "heron, wrote /notes");
    let new = |place: &str| fs::read_to_string(format!("{host}/{place}/new.txt")).ok();
    assert_eq!((new("books"), new("notes")), (None, Some("more\n".into())));
}

async fn what_the_launcher_does_not_allow_is_mounted_for_nobody() {
    let system = system().await;
    let root = system.root.path().display().to_string();
    for source in [
        format!("{root}/other"),
        "/etc".to_owned(),
        // Beneath what is allowed, and somewhere else.
        format!("{root}/host/link"),
        format!("{root}/hostel"),
    ] {
        let mounts = format!("[[mounts]]\nsource = \"{source}\"\ntarget = \"/books\"\n");
        // The same yes as ever: the launcher asks nobody.
        let installed = install(&system, &bundle(&mounts)).await;
        assert_eq!(installed.state, State::Completed, "{installed:?}");
        let called = call(&system, "look").await;
        assert_eq!(called.state, State::Failed, "{source}: {called:?}");
    }
}
