//! The skills that ship do what they are for in real sandboxes, on the host's kernel and on gVisor's, which is used by default.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use harness::{
    ANSWERS_ALL, cases,
    report::Case,
    standalone::Standalone,
    within,
    words::{answer, finally, object},
};
use jsonrpsee::async_client::Client;
use paw_api::action::{Action, ActionRpcClient as _, Answer};
use paw_policy::State;
use serde_json::{Value, json};

use crate::{probes::without_gvisor, without_sandboxes};

pub(crate) fn cases() -> Vec<Case> {
    let mut all = cases![
        without_sandboxes;
        every_tool_of_files_works_in_a_sandbox,
        no_path_leads_out_of_the_workspace_in_a_sandbox,
        shell_runs_a_command_in_a_sandbox_that_holds_it,
    ];
    all.extend(cases![
        without_gvisor;
        every_tool_of_files_works_in_gvisor,
        no_path_leads_out_of_the_workspace_in_gvisor,
        shell_runs_a_command_in_gvisor,
    ]);
    all
}

struct Scene {
    system: Standalone,
    client: Client,
}

impl Scene {
    async fn start(floor: &str) -> Self {
        let skills = "[agent.default]\nskills = [\"files\", \"shell\"]\n";
        let files = [
            ("etc/pawd.d/10-skills.toml", skills),
            ("etc/policy/60-critical.cedar", ANSWERS_ALL),
        ];
        let floor = format!("isolation_floor = \"{floor}\"\n");
        let system = Standalone::start_with(&floor, false, &files).await;
        let client = system.client().await;
        Self { system, client }
    }

    /// Calls a tool; whatever a person has to say is a yes.
    async fn call(&self, skill: &str, tool: &str, arguments: Value) -> Action {
        let asked = object(json!({"skill": skill, "tool": tool, "arguments": arguments}));
        let submitted = self
            .client
            .submit("tool_call".into(), asked, None, None, Some(true), None);
        let action = within("submitting a call", submitted).await.unwrap();
        if action.state != State::WaitingApproval {
            return action;
        }
        answer(&self.client, &action.id, action.digest, Answer::Approve)
            .await
            .unwrap();
        finally(&self.client, &action.id).await
    }

    /// What the tool said, of a call that went well.
    async fn done(&self, skill: &str, tool: &str, arguments: Value) -> Value {
        let action = self.call(skill, tool, arguments).await;
        assert_eq!(action.state, State::Completed, "{action:?}");
        action.result.unwrap()
    }
}

async fn every_tool_of_files_works_in_a_sandbox() {
    every_tool_of_files("process").await;
}

async fn every_tool_of_files_works_in_gvisor() {
    every_tool_of_files("kernel").await;
}

async fn every_tool_of_files(floor: &str) {
    let scene = Scene::start(floor).await;
    let files = async |tool, arguments| scene.done("files", tool, arguments).await;
    let write = json!({"path": "d/note.txt", "text": "hello world", "create_dirs": true});
    files("write", write).await;
    let listed = files("list", json!({"path": ".", "depth": 2})).await;
    assert!(listed["text"].as_str().unwrap().contains("d/note.txt"));
    let edit = json!({"path": "d/note.txt", "old": "world", "new": "heron"});
    let edited = files("edit", edit).await;
    let read = async || files("read", json!({"path": "d/note.txt"})).await["text"].clone();
    assert_eq!(read().await, "hello heron");
    let found = files("search", json!({"text": "heron"})).await;
    assert_eq!(found["text"], "d/note.txt:1: hello heron\n");
    let deleted = files("delete", json!({"path": "d", "recursive": true})).await;
    let gone = scene
        .call("files", "read", json!({"path": "d/note.txt"}))
        .await;
    assert_eq!(gone.state, State::Failed, "{gone:?}");
    // Each call is a sandbox of its own, and each change a commit: what undo needs is in the workspace.
    let undo = async |made: &Value| {
        let change = json!({"change": made["structured"]["change"]});
        files("undo", change).await;
    };
    undo(&deleted).await;
    assert_eq!(read().await, "hello heron");
    undo(&edited).await;
    assert_eq!(read().await, "hello world");
}

async fn no_path_leads_out_of_the_workspace_in_a_sandbox() {
    no_path_leads_out_of_the_workspace("process").await;
}

async fn no_path_leads_out_of_the_workspace_in_gvisor() {
    no_path_leads_out_of_the_workspace("kernel").await;
}

async fn no_path_leads_out_of_the_workspace(floor: &str) {
    let scene = Scene::start(floor).await;
    // Links, as another skill of the same workspace can leave them.
    let links = "ln -s /etc out && ln -s /etc/passwd file && ln -s /proc/self/root root && mkdir d && ln -s .. d/up && echo kept >kept";
    let linked = scene.done("shell", "run", json!({"command": links})).await;
    assert_eq!(linked["structured"]["exit_code"], 0, "{linked}");
    for path in [
        "/etc/passwd",
        "../etc/passwd",
        "d/../../etc/passwd",
        "out/passwd",
        "file",
        "root/etc/passwd",
        "d/up/kept",
        "kept\u{0}",
        "kept\u{1b}[2J",
    ] {
        for (tool, arguments) in [
            ("read", json!({"path": path})),
            ("search", json!({"path": path, "text": "root"})),
            ("write", json!({"path": path, "text": "x"})),
            ("edit", json!({"path": path, "old": "root", "new": "x"})),
        ] {
            let action = scene.call("files", tool, arguments).await;
            // Policy says no to some of them, the skill to the others.
            assert!(
                matches!(action.state, State::Failed | State::Rejected),
                "{tool} {path:?}: {action:?}"
            );
        }
    }
    let kept = scene.done("files", "read", json!({"path": "kept"})).await;
    assert_eq!(kept["text"], "kept\n");
}

async fn shell_runs_a_command_in_a_sandbox_that_holds_it() {
    shell_runs_a_command("process").await;
}

async fn shell_runs_a_command_in_gvisor() {
    shell_runs_a_command("kernel").await;
}

async fn shell_runs_a_command(floor: &str) {
    let scene = Scene::start(floor).await;
    let run = async |command: &str| {
        scene
            .done("shell", "run", json!({"command": command}))
            .await
    };
    let wrote = run("echo heron >note.txt; cat note.txt; echo wrong >&2; exit 3").await;
    assert_eq!(wrote["text"], "heron\n\n[stderr]\nwrong\n\n[exit code 3]");
    // It is committed, and another call's sandbox has it, and nothing else of that one.
    assert_eq!(run("cat note.txt; ls /tmp").await["text"], "heron\n");
    let secret = scene.system.root.path().join("etc/pawd.toml");
    for command in [
        // Outside of what is mounted, into what is read-only, up in its rights.
        format!("cat {}", secret.display()),
        "echo x >/skill/bin/paw-shell".to_owned(),
        "mount -t tmpfs x /mnt".to_owned(),
    ] {
        let ended = run(&command).await;
        assert_ne!(ended["structured"]["exit_code"], 0, "{command}: {ended}");
    }
    let bomb = run("yes | head -c 50000000").await;
    assert_eq!(bomb["structured"]["truncated"], true);
}
