//! Sandboxes of a containerd shim, from outside: a pawd, the real paw-launcher-kata, the shim that makes containers of runc.

use harness::{
    KataLauncher, POOL, Pawd, Setup, cases, kata,
    report::Case,
    standalone::{Standalone, gone, kill9},
    within,
    words::{answer, ask_to_write, finally, show},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    action::{Action, Answer},
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
};
use paw_policy::State;
use serde_json::{Value, json};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_shim;
        command_in_a_shim_gives_its_output_and_its_exit_code,
        command_that_cannot_start_is_told_when_its_sandbox_is_gone,
        shim_is_shown_as_what_it_isolates_by,
        floor_that_a_shim_does_not_reach_is_refused_and_not_replaced,
        launcher_of_shims_that_is_switched_off_is_off_and_not_away,
        sandbox_of_a_shim_is_shown_looked_into_and_killed,
        deadline_ends_a_sandbox_of_a_shim,
        shim_has_no_added_images_and_no_workspaces_and_says_so,
        sandbox_of_a_shim_waits_and_is_used_once,
        killed_launcher_of_shims_ends_the_system_and_leaves_nothing,
        command_in_a_shim_outlives_a_killed_pawd,
        launcher_of_shims_that_dies_takes_its_own_sandboxes_alone,
        launcher_of_shims_that_is_away_is_absent_and_not_replaced,
    ]
}

pub(crate) fn without_shim() -> Option<String> {
    without_sandboxes().or_else(kata::obstacle)
}

async fn json(system: &Standalone, arguments: &[&str]) -> Value {
    let output = system.pawctl(&[&["-o", "json"], arguments].concat()).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("one document")
}

/// `pawctl sandbox run --runtime kata` with these words behind it.
async fn run(system: &Standalone, words: &[&str]) -> std::process::Output {
    system
        .pawctl(&[&["sandbox", "run", "--runtime", "kata"], words].concat())
        .await
}

/// A run that was begun: its action, its sandbox, and what is heard of it.
struct Begun {
    action: String,
    sandbox: String,
    heard: Subscription<RunEvent>,
}

/// Starts a script that says something, and waits until it did.
async fn begin(client: &Client, runtime: &str, script: &str) -> Begun {
    let spec = json!({"argv": ["sh", "-c", script], "runtime": runtime, "timeout_ms": 600_000});
    let spec: RunSpec = serde_json::from_value(spec).expect("the rest may be left out");
    let begun = within("beginning a run", SandboxRpcClient::run(client, spec)).await;
    let mut heard = begun.expect("it is accepted");
    let mut started = None;
    loop {
        let event = within("its first word", heard.next()).await;
        match event.expect("it goes on").expect("it can be read") {
            RunEvent::Started { action_id, id } => started = Some((action_id, id)),
            RunEvent::Stdout { .. } => break,
            RunEvent::Waiting { .. } => {}
            other => panic!("{other:?} before its first word"),
        }
    }
    let (action, sandbox) = started.expect("it started before it said anything");
    Begun {
        action,
        sandbox,
        heard,
    }
}

fn failure(action: &Action) -> &str {
    assert_eq!(action.state, State::Failed, "{action:?}");
    &action.error.as_ref().expect("it failed").kind
}

/// What is said of the runtime kata: its state, and all of it.
async fn runtime(client: &Client) -> (String, String, Value) {
    let all = within("the runtimes", SandboxRpcClient::runtimes(client))
        .await
        .expect("it answers");
    let kata = all.iter().find(|runtime| runtime.name == "kata");
    let kata = kata.expect("it is listed");
    (
        kata.state.clone(),
        kata.reason.clone(),
        serde_json::to_value(kata).expect("it is JSON"),
    )
}

async fn command_in_a_shim_gives_its_output_and_its_exit_code() {
    let system = Standalone::start_with_shim("").await;
    for code in [0, 3, 124] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let output = run(&system, &["--", "sh", "-c", &script]).await;
        assert_eq!(
            (output.status.code(), &*output.stdout, &*output.stderr),
            (Some(code), &b"out\n"[..], &b"err\n"[..]),
            "{output:?}"
        );
    }
    // The usual launcher makes what it always made.
    let native = system.pawctl(&["sandbox", "run", "--", "true"]).await;
    assert!(native.status.success(), "{native:?}");
    let left = system.left_behind();
    assert!(
        !left.iter().any(|line| line.starts_with("cgroup")),
        "{left:?}"
    );
}

async fn command_that_cannot_start_is_told_when_its_sandbox_is_gone() {
    let system = Standalone::start_with_shim("").await;
    for runtime in ["kata", "native"] {
        let asked = ["sandbox", "run", "--runtime", runtime, "--", "/no/such"];
        let missing = system.pawctl(&asked).await;
        assert_eq!(missing.status.code(), Some(125), "{missing:?}");
        let groups = system.sandbox_groups();
        assert!(groups.is_empty(), "{runtime}: {groups:?}");
    }
}

async fn shim_is_shown_as_what_it_isolates_by() {
    let system = Standalone::start_with_shim("").await;
    let (state, reason, shown) = runtime(&system.client().await).await;
    assert_eq!(state, "unverified", "{reason}");
    assert_eq!(shown["isolation"], "process", "{shown}");
    let version = shown["version"].as_str().expect("it has one");
    assert!(version.starts_with("containerd-shim-runc-v2 "), "{version}");
    let processes = system.processes().await;
    for name in [
        "paw-launcher",
        "paw-launcher-kata",
        "paw-launcher-kata-door",
    ] {
        assert!(processes.contains_key(name), "{processes:?}");
    }
}

async fn floor_that_a_shim_does_not_reach_is_refused_and_not_replaced() {
    let system = Standalone::start_with_shim("").await;
    for floor in ["kernel", "vm"] {
        let asked = ["--isolation-floor", floor, "--", "true"];
        let output = run(&system, &asked).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(said.contains("isolates by process"), "{said}");
    }
    // Nobody here has a virtual machine, and nothing takes its place.
    let auto = ["sandbox", "run", "--isolation-floor", "vm", "--", "true"];
    let output = system.pawctl(&auto).await;
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = system.daemon.stderr();
    assert!(!said.contains("sandbox started"), "{said}");
}

async fn launcher_of_shims_that_is_switched_off_is_off_and_not_away() {
    let mut system = Standalone::start("").await;
    assert_eq!(system.stop().await, 0);
    // What a life with that launcher leaves behind when it is killed.
    let socket = system.root.path().join("run/launcher-kata.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("the root is ours"));
    system.start_again().await;
    let (state, reason, _) = runtime(&system.client().await).await;
    assert_eq!(state, "absent");
    assert!(reason.contains("not switched on"), "{reason}");
}

async fn sandbox_of_a_shim_is_shown_looked_into_and_killed() {
    let system = Standalone::start_with_shim("").await;
    let client = system.client().await;
    let native = begin(&client, "native", "echo up; exec sleep 600").await;
    let script = "echo mine > /tmp/mark; echo up; exec sleep 600";
    let shim = begin(&client, "kata", script).await;
    let listed = json(&system, &["sandbox", "list"]).await;
    let of = |id: &str| -> Value {
        let all = listed.as_array().expect("a list");
        let found = all.iter().find(|one| one["id"] == id);
        found.unwrap_or_else(|| panic!("{id} in {listed}")).clone()
    };
    assert_eq!(of(&shim.sandbox)["runtime"], "kata");
    assert_eq!(of(&native.sandbox)["runtime"], "native");
    let status = json(&system, &["status"]).await;
    assert_eq!(status["sandboxes"]["running"], 2, "{status}");
    let shown = json(&system, &["sandbox", "show", &shim.sandbox]).await;
    assert_eq!(shown["runtime"], "kata", "{shown}");
    let facts = &shown["attestation"]["facts"];
    assert_eq!(
        (
            &facts["isolation"],
            &facts["seccomp"],
            &facts["no_new_privs"]
        ),
        (&json!("process"), &json!(2), &json!(true)),
        "{facts}"
    );
    assert_eq!(facts["interfaces"], json!(["lo"]), "{facts}");
    let used = json(&system, &["sandbox", "stats", &shim.sandbox]).await;
    let peak = used[0]["memory_peak"].as_u64();
    assert!(peak.is_some_and(|bytes| bytes > 0), "{used}");
    assert_eq!(
        json(&system, &["sandbox", "stats"])
            .await
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    let exec = [
        "sandbox",
        "exec",
        &shim.sandbox,
        "--",
        "sh",
        "-c",
        "cat /tmp/mark; exit 9",
    ];
    let output = system.pawctl(&exec).await;
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(9), &b"mine\n"[..]),
        "{output:?}"
    );
    let kept = system.pawctl(&["sandbox", "logs", &shim.sandbox]).await;
    assert_eq!(kept.stdout, b"up\n", "{kept:?}");
    let killed = system.pawctl(&["sandbox", "kill", &shim.sandbox]).await;
    assert!(killed.status.success(), "{killed:?}");
    finally(&client, &shim.action).await;
    let ended = json(&system, &["sandbox", "show", &shim.sandbox]).await;
    assert_eq!(ended["end"]["killed"], json!(true), "{ended}");
    // The other one goes on.
    assert_eq!(show(&client, &native.action).await.state, State::Executing);
    drop((native.heard, shim.heard));
}

async fn deadline_ends_a_sandbox_of_a_shim() {
    let system = Standalone::start_with_shim("").await;
    let asked = ["--json-result", "--timeout", "1s", "--", "sleep", "600"];
    let output = run(&system, &asked).await;
    let result: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(result["timed_out"], json!(true), "{result}");
    assert_eq!(result["runtime"], json!("kata"), "{result}");
}

async fn shim_has_no_added_images_and_no_workspaces_and_says_so() {
    let system = Standalone::start_with_shim("").await;
    for (asked, word) in [
        (["--image", "nowhere"], "kept by paw-launcher"),
        (["--workspace", "default"], "native or gvisor"),
    ] {
        let output = run(&system, &[&asked[..], &["--", "true"]].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{asked:?}: {output:?}");
        assert!(said.contains(word), "{asked:?}: {said}");
    }
    // What has a workspace still has it, natively.
    let client = system.client().await;
    let asked = ask_to_write(&client, "note.txt", "text").await;
    let answered = answer(&client, &asked.id, asked.digest, Answer::Approve).await;
    answered.expect("it may be approved");
    assert_eq!(finally(&client, &asked.id).await.state, State::Completed);
}

async fn sandbox_of_a_shim_waits_and_is_used_once() {
    let system = Standalone::start_with_shim("").await;
    system.root.write(POOL.0, POOL.1);
    let output = system.pawctl(&["config", "reload"]).await;
    assert!(output.status.success(), "{output:?}");
    let result = async || -> Value {
        let output = run(&system, &["--json-result", "--", "true"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    for _ in 0..2 {
        assert_eq!(result().await["pooled"], json!(false));
    }
    system.daemon.says("sandbox waits", 1).await;
    let waiting = json(&system, &["sandbox", "list"]).await;
    assert_eq!(waiting[0]["runtime"], "kata", "{waiting}");
    let used = result().await;
    assert_eq!(
        (&used["pooled"], &used["id"]),
        (&json!(true), &waiting[0]["id"])
    );
}

async fn killed_launcher_of_shims_ends_the_system_and_leaves_nothing() {
    let mut system = Standalone::start_with_shim("\n[actions]\ndrain = \"1s\"\n").await;
    let client = system.client().await;
    let _native = begin(&client, "native", "echo up; exec sleep 600").await;
    let _shim = begin(&client, "kata", "echo up; exec sleep 600").await;
    kill9(system.processes().await["paw-launcher-kata"]);
    let (code, said) = system.daemon.refused().await;
    assert_eq!(code, 70, "{said}");
    assert!(said.contains("paw-launcher-kata"), "{said}");
    // What the killed one made is found and removed by the next one.
    system.start_again().await;
    let left = system.left_behind();
    let of_sandboxes = |line: &&String| {
        line.starts_with("cgroup") || line.starts_with("directory") || line.contains("sleep 600")
    };
    let left: Vec<&String> = left.iter().filter(of_sandboxes).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A pawd beside which launchers live on their own: a fake one for what is native, and the real one for what a shim makes.
async fn beside() -> (Pawd, KataLauncher) {
    let pawd = Pawd::start(Setup::new()).await;
    let kata = KataLauncher::start(&pawd.root);
    pawd.daemon.says("launcher connected", 2).await;
    (pawd, kata)
}

async fn command_in_a_shim_outlives_a_killed_pawd() {
    let (mut pawd, kata) = beside().await;
    let script = "echo up; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo on; exit 7";
    let before = pawd.client().await;
    let shim = begin(&before, "kata", script).await;
    let native = begin(&before, "native", "echo up; exec sleep 600").await;
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    for run in [&shim, &native] {
        assert_eq!(show(&client, &run.action).await.state, State::Executing);
    }
    let exec = ["sandbox", "exec", &shim.sandbox, "--", "touch", "/tmp/go"];
    let output = pawd.pawctl(&exec).await;
    assert!(output.status.success(), "{output:?}");
    let action = finally(&client, &shim.action).await;
    let result = action.result.expect("it ended by itself");
    assert_eq!(
        (&result["exit_code"], &result["runtime"]),
        (&json!(7), &json!("kata"))
    );
    let kept = pawd.pawctl(&["sandbox", "logs", &shim.sandbox]).await;
    assert_eq!(kept.stdout, b"up\non\n", "{kept:?}");
    assert_eq!(show(&client, &native.action).await.state, State::Executing);
    assert_eq!(kata.sandbox_groups(), Vec::<std::path::PathBuf>::new());
}

async fn launcher_of_shims_that_dies_takes_its_own_sandboxes_alone() {
    let (pawd, mut kata) = beside().await;
    let client = pawd.client().await;
    let shim = begin(&client, "kata", "echo up; exec sleep 600").await;
    let native = begin(&client, "native", "echo up; exec sleep 600").await;
    let listed = SandboxRpcClient::list(&client).await.expect("it answers");
    let pid = listed
        .iter()
        .find(|one| one.id == shim.sandbox)
        .expect("it runs")
        .pid;
    kata.process.kill9().await;
    let action = finally(&client, &shim.action).await;
    assert_eq!(failure(&action), "launcher_lost");
    assert_eq!(show(&client, &native.action).await.state, State::Executing);
    assert_eq!(runtime(&client).await.0, "absent");
    // The next one ends what its predecessor left, and makes new ones.
    let next = KataLauncher::start(&pawd.root);
    pawd.daemon.says("launcher connected", 3).await;
    assert!(gone(pid));
    assert_eq!(next.sandbox_groups(), Vec::<std::path::PathBuf>::new());
    let again = pawd
        .pawctl(&["sandbox", "run", "--runtime", "kata", "--", "echo", "again"])
        .await;
    assert_eq!(again.stdout, b"again\n", "{again:?}");
}

async fn launcher_of_shims_that_is_away_is_absent_and_not_replaced() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let (state, reason, _) = runtime(&client).await;
    assert_eq!(state, "absent");
    assert!(reason.contains("not switched on"), "{reason}");
    let asked = ["sandbox", "run", "--runtime", "kata", "--", "true"];
    let output = pawd.pawctl(&asked).await;
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let plans = pawd.launcher.as_ref().expect("it is there").plans();
    assert!(plans.is_empty(), "{plans:?}");
    // Switched on while pawd runs, and one that hangs up again: there, then absent with its reason.
    let mut kata = KataLauncher::start(&pawd.root);
    pawd.daemon.says("launcher connected", 2).await;
    assert_eq!(runtime(&client).await.0, "unverified");
    kata.process.kill9().await;
    pawd.daemon.says("launcher away", 1).await;
    let (state, reason, _) = runtime(&client).await;
    assert_eq!(state, "absent");
    assert!(reason.contains("paw-launcher-kata"), "{reason}");
    let output = pawd.pawctl(&asked).await;
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let plans = pawd.launcher.as_ref().expect("it is there").plans();
    assert!(plans.is_empty(), "{plans:?}");
}
