//! The compiled skill over raw JSON lines: what it runs, and what it does not.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fs,
    ops::{Deref, DerefMut},
    os::unix::fs::PermissionsExt,
    process::Command,
    time::{Duration, Instant},
};

use paw_skill::testing::Conversation;
use serde_json::{Value, json};

struct Shell(Conversation);

impl Shell {
    fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paw-shell"));
        Self(Conversation::with(command.args(arguments), "paw-shell"))
    }

    /// Whether the call was refused, its text, and what is beside it.
    fn call(&mut self, tool: &str, arguments: Value) -> (bool, String, Value) {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str();
        let text = text.unwrap_or_else(|| panic!("{answer}")).to_owned();
        (
            result["isError"].as_bool().unwrap_or(false),
            text,
            result["structuredContent"].clone(),
        )
    }
}

impl Deref for Shell {
    type Target = Conversation;

    fn deref(&self) -> &Conversation {
        &self.0
    }
}

impl DerefMut for Shell {
    fn deref_mut(&mut self) -> &mut Conversation {
        &mut self.0
    }
}

#[test]
fn program_offers_one_tool() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().display().to_string();
    for (arguments, expected) in [(&[][..], "run"), (&["--scripts", &dir][..], "run_script")] {
        let listed = Shell::new(arguments).ask("tools/list", &json!({}));
        let tools = listed["result"]["tools"].as_array().unwrap();
        assert_eq!((tools.len(), &tools[0]["name"]), (1, &json!(expected)));
    }
}

#[test]
fn command_line_is_run_and_its_output_and_end_are_told() {
    let mut shell = Shell::new(&[]);
    let (refused, text, end) =
        shell.call("run", json!({"command": "echo out; echo err >&2; exit 3"}));
    assert!(!refused);
    assert_eq!(text, "out\n\n[stderr]\nerr\n\n[exit code 3]");
    assert_eq!(
        end,
        json!({"exit_code": 3, "signal": null, "truncated": false})
    );
    let (_, text, _) = shell.call("run", json!({"command": "cat", "stdin": "in"}));
    assert_eq!(text, "in");
    let (_, text, end) = shell.call("run", json!({"command": "kill -9 $$"}));
    assert_eq!(
        (text.trim(), &end["signal"]),
        ("[ended by signal 9]", &json!(9))
    );
}

#[test]
fn output_bomb_is_cut_and_told_so() {
    let mut shell = Shell::new(&[]);
    let (_, text, end) = shell.call("run", json!({"command": "yes | head -c 100000000; exit 0"}));
    assert_eq!(end["truncated"], true);
    assert!(text.len() < 70_000, "{}", text.len());
    // The worst that JSON can make of it stays below the line that pawd takes.
    let (_, _, end) = shell.call("run", json!({"command": "head -c 100000000 /dev/zero"}));
    assert_eq!(end["truncated"], true);
}

#[test]
fn what_a_command_leaves_behind_does_not_hold_up_its_answer() {
    let mut shell = Shell::new(&[]);
    let began = Instant::now();
    let (_, text, _) = shell.call(
        "run",
        json!({"command": "sleep 60 & setsid sleep 60 & echo done"}),
    );
    assert_eq!(text.trim(), "done");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn scripts_are_those_of_the_directory_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("scripts")).unwrap();
    fs::write(dir.path().join("scripts/say.sh"), "echo \"$1|$2\"; cat").unwrap();
    fs::write(dir.path().join("scripts/run"), "#!/bin/sh\necho ran").unwrap();
    let run = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path().join("scripts/run"), run).unwrap();
    fs::write(dir.path().join("data.txt"), "x").unwrap();
    let mut shell = Shell::new(&["--scripts", &dir.path().display().to_string()]);
    let arguments =
        json!({"script": "scripts/say.sh", "arguments": ["$(id)", "; id"], "stdin": "in"});
    let (_, text, _) = shell.call("run_script", arguments);
    assert_eq!(text, "$(id)|; id\nin", "arguments are no command line");
    let (_, text, _) = shell.call("run_script", json!({"script": "scripts/run"}));
    assert_eq!(text, "ran\n");
    for script in [
        "../../bin/sh",
        "/bin/sh",
        "scripts/../../x",
        "",
        "scripts",
        "data.txt",
        "missing.sh",
        "./scripts/run",
        "scripts/run\u{0}",
    ] {
        let (refused, text, _) = shell.call("run_script", json!({"script": script}));
        assert!(refused, "{script:?}: {text}");
    }
    let answer = shell.ask(
        "tools/call",
        &json!({"name": "run", "arguments": {"command": "id"}}),
    );
    assert!(answer["error"].is_object(), "{answer}");
}
