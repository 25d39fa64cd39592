//! The whole way of a command: our client, the launcher's protocol, the real paw-init, real processes.

use std::{
    fs, io::Write as _, os::unix::net::UnixListener, process::Command, sync::Arc, time::Duration,
};

use paw_launch::{
    frame::{Exited, MAX_PAYLOAD, Tag, WINDOW},
    request::{Image, Isolation, MountSource, RefusalReason, Runtime, SandboxId},
    workspace::Settle,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use super::{
    outside::{Outside, plan, program},
    *,
};

const LONG: Duration = Duration::from_secs(30);
const ENOUGH: u64 = u64::MAX;

async fn started(outside: &Outside, argv: &[&str]) -> (Sandbox, Child) {
    started_with(outside, argv, ENOUGH).await
}

async fn started_with(outside: &Outside, argv: &[&str], most_output: u64) -> (Sandbox, Child) {
    let launcher = outside.client();
    connected(&launcher).await;
    let sandbox = launcher.create(plan()).await.unwrap();
    let argv = argv.iter().map(|&part| part.to_owned()).collect();
    let child = sandbox
        .starter()
        .start(
            argv,
            vec!["PATH=/usr/bin:/bin".to_owned()],
            "/".to_owned(),
            most_output,
        )
        .await
        .unwrap();
    (sandbox, child)
}

async fn connected(launcher: &Launcher) {
    let mut state = launcher.state();
    timeout(
        LONG,
        state.wait_for(|state| matches!(state, LauncherState::Connected { .. })),
    )
    .await
    .unwrap()
    .unwrap();
}

const fn code(code: i32) -> Exited {
    Exited {
        code: Some(code),
        signal: None,
    }
}

#[tokio::test]
async fn a_command_runs_and_its_sandbox_ends() {
    let outside = Outside::new();
    let (sandbox, mut child) =
        started(&outside, &["sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.read_to_string(&mut stdout).await.unwrap();
    child.stderr.read_to_string(&mut stderr).await.unwrap();
    let exit = child.process.wait().await.unwrap();
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), exit),
        (
            "out\n",
            "err\n",
            Exit {
                exited: code(7),
                output_truncated: false
            }
        )
    );
    let (end, _) = sandbox.end(LONG).await.unwrap();
    assert_eq!((end.exit_code, end.killed), (Some(0), false));
}

#[tokio::test]
async fn ten_megabytes_come_back_unchanged() {
    let outside = Outside::new();
    let (
        _sandbox,
        Child {
            mut stdin,
            mut stdout,
            ..
        },
    ) = started(&outside, &["cat"]).await;
    let sent: Vec<u8> = (0..10_000_000_u32)
        .map(|i| i.to_le_bytes()[i as usize % 3])
        .collect();
    let echo = sent.clone();
    let feed = async move {
        stdin.write_all(&echo).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (read, ()) = tokio::join!(stdout.read_to_end(&mut received), feed);
    read.unwrap();
    assert!(received == sent, "the bytes differ");
}

#[tokio::test]
async fn dropping_stdin_is_the_end_of_the_input() {
    let outside = Outside::new();
    let (
        _sandbox,
        Child {
            mut stdin,
            mut stdout,
            mut process,
            ..
        },
    ) = started(&outside, &["cat"]).await;
    stdin.write_all(b"last words").await.unwrap();
    drop(stdin);
    let mut said = Vec::new();
    stdout.read_to_end(&mut said).await.unwrap();
    assert_eq!(
        (said.as_slice(), process.wait().await.unwrap().exited),
        (&b"last words"[..], code(0))
    );
}

#[tokio::test]
async fn input_that_nobody_reads_waits_and_input_that_nobody_will_read_fails() {
    let outside = Outside::new();
    let (
        _sandbox,
        Child {
            mut stdin, process, ..
        },
    ) = started(&outside, &["sleep", "1000"]).await;
    let flood = vec![0; 2 * WINDOW];
    let mut write = Box::pin(stdin.write_all(&flood));
    // The window and one pipe are all that is taken; the kill is the event that ends the wait.
    tokio::select! {
        written = &mut write => panic!("{written:?}"),
        killed = process.signal(nix::sys::signal::Signal::SIGKILL) => killed.unwrap(),
    }
    assert_eq!(
        write.await.unwrap_err().kind(),
        std::io::ErrorKind::BrokenPipe
    );
}

#[tokio::test]
async fn a_command_whose_output_nobody_takes_is_held_back_and_others_are_not() {
    let outside = Outside::new();
    let (sandbox, mut bomb) = started(&outside, &["cat", "/dev/zero"]).await;
    let mut other = sandbox
        .starter()
        .start(
            vec!["/bin/echo".into(), "alive".into()],
            vec![],
            "/".into(),
            ENOUGH,
        )
        .await
        .unwrap();
    let mut said = String::new();
    timeout(LONG, other.stdout.read_to_string(&mut said))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said, "alive\n");
    bomb.process
        .signal(nix::sys::signal::Signal::SIGKILL)
        .await
        .unwrap();
    drop((bomb.stdout, bomb.stderr));
    assert_eq!(
        bomb.process.wait().await.unwrap().exited,
        Exited {
            code: None,
            signal: Some(9)
        }
    );
}

#[tokio::test]
async fn output_beyond_its_bound_is_thrown_away_and_said_so() {
    let outside = Outside::new();
    let (_sandbox, mut child) = started_with(
        &outside,
        &["sh", "-c", "head -c 3000000 /dev/zero; echo end >&2"],
        100_000,
    )
    .await;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.read_to_end(&mut stdout).await.unwrap();
    child.stderr.read_to_end(&mut stderr).await.unwrap();
    let exit = child.process.wait().await.unwrap();
    assert_eq!(
        (stdout.len(), stderr.len(), exit),
        (
            100_000,
            0,
            Exit {
                exited: code(0),
                output_truncated: true
            }
        )
    );
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let outside = Outside::new();
    let (_sandbox, mut child) = started(&outside, &["no-such-program"]).await;
    let fault = child.process.wait().await.unwrap_err();
    assert_eq!(
        fault.to_string(),
        "start \"no-such-program\": find: No such file or directory (os error 2)"
    );
}

#[tokio::test]
async fn a_command_that_is_too_long_is_refused_before_it_is_sent() {
    let outside = Outside::new();
    let (sandbox, _child) = started(&outside, &["true"]).await;
    let started = sandbox
        .starter()
        .start(vec!["x".repeat(70_000)], vec![], "/".into(), ENOUGH)
        .await;
    assert!(matches!(started.err(), Some(SandboxError::TooLong)));
}

/// A launcher whose sandboxes do not end by themselves when their pipes are closed, so that only a kill ends them.
fn stubborn() -> Outside {
    Outside::with_init(Arc::new(|_, stdin, stdout| {
        Command::new("sleep")
            .arg("1000")
            .stdin(stdin)
            .stdout(stdout)
            .spawn()
            .unwrap()
    }))
}

#[tokio::test]
async fn a_dropped_sandbox_is_killed() {
    let outside = stubborn();
    let launcher = outside.client();
    connected(&launcher).await;
    let sandbox = launcher.create(plan()).await.unwrap();
    let id = sandbox.id().clone();
    drop(sandbox);
    gone(&launcher, &id).await;
}

#[tokio::test]
async fn a_sandbox_that_does_not_end_is_killed_at_the_deadline() {
    let outside = stubborn();
    let launcher = outside.client();
    connected(&launcher).await;
    let sandbox = launcher.create(plan()).await.unwrap();
    let (end, _) = sandbox.end(Duration::from_millis(50)).await.unwrap();
    assert_eq!((end.killed, end.signal), (true, Some(9)));
}

#[tokio::test]
async fn a_sandbox_is_killed_although_its_last_launcher_is_dropped_with_it() {
    let outside = stubborn();
    let (launcher, connection) = connect(Which::Usual, outside.socket.clone());
    let serving = tokio::spawn(connection.run());
    connected(&launcher).await;
    let sandbox = launcher.create(plan()).await.unwrap();
    let id = sandbox.id().clone();
    drop((launcher, sandbox));
    timeout(LONG, serving).await.unwrap().unwrap();
    let other = outside.client();
    connected(&other).await;
    gone(&other, &id).await;
}

/// Waits until the launcher has forgotten it: its own end of the deadline is the event that each question waits for.
async fn gone(launcher: &Launcher, id: &SandboxId) {
    let asked = async {
        while launcher
            .list()
            .await
            .unwrap()
            .iter()
            .any(|sandbox| sandbox.id == *id)
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, asked).await.expect("it is killed in time");
}

#[tokio::test]
async fn a_sandbox_whose_making_nobody_waits_for_is_killed() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let outside = Outside::with_init(Arc::new(move |_, stdin, stdout| {
        // The launcher is slow until the test has given up.
        wait.lock().unwrap().recv().unwrap();
        Command::new("sleep")
            .arg("1000")
            .stdin(stdin)
            .stdout(stdout)
            .spawn()
            .unwrap()
    }));
    let launcher = outside.client();
    connected(&launcher).await;
    let plan = plan();
    let id = plan.id.clone();
    assert!(
        timeout(Duration::from_millis(50), launcher.create(plan))
            .await
            .is_err()
    );
    go.send(()).unwrap();
    gone(&launcher, &id).await;
}

#[tokio::test]
async fn a_refusal_is_passed_on_with_its_remedy() {
    let outside = Outside::new();
    let launcher = outside.client();
    connected(&launcher).await;
    let mut plan = plan();
    plan.limits.memory = u64::MAX;
    match launcher.create(plan).await {
        Err(SandboxError::Launcher(LauncherError::Refused(refusal))) => {
            assert_eq!(refusal.reason, RefusalReason::Ceiling)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_a_launcher_requests_fail_with_the_socket_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("launcher.sock");
    let (launcher, connection) = connect(Which::Usual, socket.clone());
    tokio::spawn(connection.run());
    let fault = launcher.list().await.unwrap_err().to_string();
    let expected = format!(
        "{}: No such file or directory (os error 2); start it (systemctl start paw-launcher)",
        socket.display()
    );
    assert!(fault.contains(&expected), "{fault}");
    assert!(matches!(
        &*launcher.state().borrow(),
        LauncherState::Away { .. }
    ));
}

#[tokio::test]
async fn something_else_on_the_socket_is_not_taken_for_the_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("launcher.sock");
    let _stream = UnixListener::bind(&socket).unwrap();
    let (launcher, connection) = connect(Which::Usual, socket);
    tokio::spawn(connection.run());
    assert!(matches!(
        launcher.list().await,
        Err(LauncherError::Away { .. })
    ));
}

#[tokio::test]
async fn after_a_broken_connection_it_connects_again_and_sandboxes_are_still_there() {
    let outside = Outside::new();
    let launcher = outside.client();
    connected(&launcher).await;
    let sandbox = launcher.create(plan()).await.unwrap();
    let mut state = launcher.state();
    state.mark_unchanged();
    outside.hang_up();
    timeout(
        LONG,
        state.wait_for(|state| matches!(state, LauncherState::Away { .. })),
    )
    .await
    .unwrap()
    .unwrap();
    connected(&launcher).await;
    let mut child = sandbox
        .starter()
        .start(
            vec!["/bin/echo".into(), "still here".into()],
            vec![],
            "/".into(),
            ENOUGH,
        )
        .await
        .unwrap();
    let mut said = String::new();
    child.stdout.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "still here\n");
    launcher.kill(sandbox.id().clone()).await.unwrap();
}

#[tokio::test]
async fn an_end_that_was_missed_is_told_after_the_next_connection() {
    let outside = Outside::new();
    let launcher = outside.client();
    connected(&launcher).await;
    let sandbox = launcher.create(plan()).await.unwrap();
    let mut state = launcher.state();
    outside.hang_up();
    timeout(
        LONG,
        state.wait_for(|state| matches!(state, LauncherState::Away { .. })),
    )
    .await
    .unwrap()
    .unwrap();
    // It ends while nobody listens: the fake tells only the connection that made it.
    let id = sandbox.id().clone();
    match sandbox.end(LONG).await {
        Err(SandboxError::Unknown { id: unknown }) => assert_eq!(unknown, id),
        other => panic!("{other:?}"),
    }
}

/// What is told of a sandbox whose paw-init says this.
async fn broken(says: &'static [u8]) -> String {
    let outside = Outside::with_init(Arc::new(move |_, stdin, mut stdout| {
        // `cat` never ends before its input does, so only we can end this sandbox.
        stdout.write_all(says).unwrap();
        Command::new("cat")
            .stdin(stdin)
            .stdout(
                stdout
                    .try_clone()
                    .map(|_| std::process::Stdio::null())
                    .unwrap(),
            )
            .spawn()
            .unwrap()
    }));
    let (sandbox, mut child) = started(&outside, &["true"]).await;
    let fault = timeout(LONG, child.process.wait())
        .await
        .unwrap()
        .unwrap_err();
    let (end, _) = sandbox.end(LONG).await.unwrap();
    assert!(end.killed || end.exit_code == Some(0), "{end:?}");
    fault.to_string()
}

#[tokio::test]
async fn a_sandbox_that_breaks_the_protocol_is_of_no_use_and_ends() {
    assert_eq!(
        broken(b"GET / HTTP/1.1\r\n").await,
        "the sandbox broke the protocol: a frame of 542393671 bytes; at most 65536 are allowed"
    );
    assert_eq!(
        broken(b"\0\0\0\0\x63\0\0\0\0").await,
        "the sandbox broke the protocol: unknown frame tag 99"
    );
    assert_eq!(
        broken(b"\x02\0\0\0\x05\x07\0\0\0hi").await,
        "the sandbox broke the protocol: it speaks of command 7, which does not run"
    );
    assert_eq!(
        broken(b"\0\0\0\0\x02\0\0\0\0").await,
        "the sandbox broke the protocol: it sent a frame that only we send"
    );
    assert_eq!(
        broken(b"").await,
        "the sandbox ended before the command did"
    );
}

#[tokio::test]
async fn a_flood_beyond_the_window_breaks_the_protocol() {
    // It waits for the start of a command, and then sends five full frames of its stdout whatever anybody acknowledges.
    let script = r"head -c 9 >/dev/null; for i in 1 2 3 4 5; do printf '\000\000\001\000\005\001\000\000\000'; head -c 65536 /dev/zero; done; exec cat >/dev/null";
    assert_eq!(
        (Tag::Stdout as u8, WINDOW / MAX_PAYLOAD),
        (5, 4),
        "the script says the same"
    );
    let outside = Outside::with_init(Arc::new(move |_, stdin, stdout| {
        Command::new("sh")
            .args(["-c", script])
            .stdin(stdin)
            .stdout(stdout)
            .spawn()
            .unwrap()
    }));
    let (_sandbox, mut child) = started(&outside, &["true"]).await;
    let fault = timeout(LONG, child.process.wait())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the sandbox broke the protocol: more output than its window allows"
    );
}

async fn ran(
    outside: &Outside,
    argv: &[&str],
    stdin: Option<&'static [u8]>,
    most_output: u64,
) -> (Vec<RunEvent>, Result<RunEnd, RunError>) {
    let launchers = outside.launchers();
    let launcher = launchers.usual().clone();
    connected(&launcher).await;
    let (events, mut happened) = mpsc::channel(4);
    let spec = RunSpec {
        plan: plan(),
        argv: argv.iter().map(|&part| part.to_owned()).collect(),
        env: vec!["PATH=/usr/bin:/bin".to_owned()],
        cwd: "/".to_owned(),
        stdin: stdin.map(|bytes| Box::new(bytes) as Box<_>),
        terminal: None,
        most_output,
        net: None,
    };
    let running = async move { run(&launchers, spec, &events).await };
    let collecting = async {
        let mut all = Vec::new();
        while let Some(event) = happened.recv().await {
            all.push(event);
        }
        all
    };
    let (ended, all) = timeout(LONG, async { tokio::join!(running, collecting) })
        .await
        .unwrap();
    (all, ended)
}

fn stdout_of(events: &[RunEvent]) -> Vec<u8> {
    let bytes = events.iter().filter_map(|event| {
        if let RunEvent::Stdout(bytes) = event {
            Some(&bytes[..])
        } else {
            None
        }
    });
    bytes.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn a_run_tells_its_start_its_output_and_its_end() {
    let outside = Outside::new();
    let (events, ended) = ran(
        &outside,
        &["sh", "-c", "cat; exit 3"],
        Some(b"input"),
        ENOUGH,
    )
    .await;
    assert!(
        matches!(&events[0], RunEvent::Started { attestation, .. } if attestation.facts.runtime_version == "fake")
    );
    assert_eq!(stdout_of(&events), b"input");
    let end = ended.unwrap();
    assert_eq!(
        (end.exit, end.output_truncated, end.end.exit_code),
        (Some(code(3)), false, Some(0))
    );
}

#[tokio::test]
async fn a_run_without_input_is_at_the_end_of_its_input() {
    let (events, ended) = ran(&Outside::new(), &["cat"], None, ENOUGH).await;
    assert_eq!(
        (stdout_of(&events).len(), ended.unwrap().exit),
        (0, Some(code(0)))
    );
}

#[tokio::test]
async fn a_run_that_does_not_read_its_input_ends_all_the_same() {
    static FLOOD: [u8; 1_000_000] = [0; 1_000_000];
    let (_, ended) = ran(&Outside::new(), &["true"], Some(&FLOOD), ENOUGH).await;
    assert_eq!(ended.unwrap().exit, Some(code(0)));
}

#[tokio::test]
async fn a_run_passes_on_no_more_than_its_bound() {
    let (events, ended) = ran(
        &Outside::new(),
        &["head", "-c", "1000000", "/dev/zero"],
        None,
        1000,
    )
    .await;
    assert_eq!(
        (stdout_of(&events).len(), ended.unwrap().output_truncated),
        (1000, true)
    );
}

#[tokio::test]
async fn a_run_whose_sandbox_is_killed_under_it_ends_without_an_exit() {
    let (_, ended) = ran(
        &Outside::new(),
        &["sh", "-c", "kill -9 $PPID"],
        None,
        ENOUGH,
    )
    .await;
    let end = ended.unwrap();
    assert_eq!((end.exit, end.end.signal), (None, Some(9)));
}

#[tokio::test]
async fn a_run_that_nobody_listens_to_is_killed() {
    let outside = Outside::new();
    let launchers = outside.launchers();
    let launcher = launchers.usual().clone();
    connected(&launcher).await;
    let (events, mut happened) = mpsc::channel(1);
    let plan = plan();
    let id = plan.id.clone();
    let spec = RunSpec {
        plan,
        argv: vec!["/bin/cat".into(), "/dev/zero".into()],
        env: vec![],
        cwd: "/".into(),
        stdin: None,
        terminal: None,
        most_output: ENOUGH,
        net: None,
    };
    let listening = async {
        happened.recv().await.unwrap();
        happened.recv().await.unwrap();
        drop(happened);
    };
    let (ended, ()) = timeout(LONG, async {
        tokio::join!(run(&launchers, spec, &events), listening)
    })
    .await
    .unwrap();
    assert!(matches!(ended, Err(RunError::Abandoned)));
    gone(&launcher, &id).await;
}

/// The shipped skill with its program and its workspace on this host.
fn files(root: &std::path::Path) -> Skill {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("files")).unwrap();
    fs::write(
        dir.path().join("files/skill.toml"),
        include_str!("../../skills/files/skill.toml"),
    )
    .unwrap();
    let mut skill = manifest::load_skill(&dir.path().join("files")).unwrap();
    skill.command = vec![
        program("paw-files").display().to_string(),
        "--root".to_owned(),
        root.display().to_string(),
    ];
    // The directory that a call starts in is inside; this host has none of that name.
    skill.workspace = Sees::Nothing;
    skill
}

/// A skill whose program is this shell script.
fn scripted(script: &str) -> Skill {
    let mut skill = files(std::path::Path::new("/"));
    skill.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    skill
}

async fn called(skill: &Skill, tool: &str, arguments: Value) -> Result<ToolOutcome, McpError> {
    called_within(Duration::from_secs(10), skill, tool, arguments).await
}

/// What came of a call; nothing of its sandbox is left by then.
async fn called_within(
    limit: Duration,
    skill: &Skill,
    tool: &str,
    arguments: Value,
) -> Result<ToolOutcome, McpError> {
    let outside = Outside::new();
    let launchers = outside.launchers();
    let launcher = launchers.usual().clone();
    connected(&launcher).await;
    let Value::Object(arguments) = arguments else {
        panic!("arguments are an object")
    };
    let agent = "assistant".parse().unwrap();
    let wanted = ToolCall {
        skill,
        tool,
        arguments,
        agent: &agent,
        runtime: Runtime::Native,
        floor: Isolation::Process,
        id: plan().id,
        owner: 0,
        then: Settle::Commit,
        keeping: &std::sync::atomic::AtomicBool::new(false),
        limit,
    };
    let called = timeout(LONG, call(&launcher, (&launchers).into(), None, wanted))
        .await
        .unwrap();
    let left = launcher.list().await.unwrap();
    assert!(
        left.is_empty(),
        "{called:?} is told before {left:?} is gone"
    );
    // Who only lets go of a sandbox has it killed, some time after.
    let killed = outside.habits().killed.lock().unwrap().clone();
    assert!(
        killed.is_empty(),
        "{called:?} is told and {killed:?} let go of"
    );
    called
}

#[tokio::test]
async fn the_shipped_skill_answers_calls() {
    let root = tempfile::tempdir().unwrap();
    let skill = files(root.path());
    let written = called(&skill, "write", json!({"path": "a.txt", "text": "hello"}))
        .await
        .unwrap();
    let said = written.text.split(" (change").next();
    assert_eq!(
        (said.unwrap_or_default(), written.is_error),
        ("wrote 5 bytes to a.txt; undo takes it back", false)
    );
    assert_eq!(written.end.exit_code, Some(0));
    let read = called(&skill, "read", json!({"path": "a.txt"}))
        .await
        .unwrap();
    assert_eq!(
        (read.text.as_str(), &read.structured.unwrap()["size"]),
        ("hello", &json!(5))
    );
}

#[tokio::test]
async fn a_tool_that_fails_is_an_answer() {
    let root = tempfile::tempdir().unwrap();
    let failed = called(
        &files(root.path()),
        "read",
        json!({"path": "../../etc/passwd"}),
    )
    .await
    .unwrap();
    assert!(
        failed.is_error && failed.text.contains("nothing outside the workspace"),
        "{}",
        failed.text
    );
    let refused = called(
        &files(root.path()),
        "read",
        json!({"path": "a", "sudo": true}),
    )
    .await
    .unwrap();
    assert!(
        refused.is_error && refused.text.contains("sudo"),
        "{}",
        refused.text
    );
}

#[test]
fn a_call_mounts_the_workspace_for_writing_only_for_a_tool_that_writes() {
    let mut skill = files(std::path::Path::new("/"));
    skill.workspace = Sees::Workspace;
    let agent = "assistant".parse().unwrap();
    let writable = |tool: &str| {
        let plan = least::plan(
            &skill,
            skill.tools[tool].class,
            &agent,
            (Runtime::Native, Isolation::Process),
            (plan().id, 7),
        );
        assert_eq!(plan.image, Image::Named("base".parse().unwrap()));
        assert_eq!(
            (&plan.mounts[0].source, plan.mounts[0].writable),
            (&MountSource::Skill("files".parse().unwrap()), false)
        );
        let writable = plan.mounts[1].writable;
        let source = if writable {
            // Nothing of it is kept unless the call says so at its end.
            MountSource::Layer {
                workspace: agent.clone(),
                then: Settle::Discard,
                owner: Some(7),
            }
        } else {
            MountSource::Workspace(agent.clone())
        };
        assert_eq!(plan.mounts[1].source, source);
        writable
    };
    assert_eq!((writable("read"), writable("write")), (false, true));
}

#[tokio::test]
async fn a_tool_that_is_not_in_the_manifest_starts_nothing() {
    let fault = called(&scripted("exit 1"), "format", json!({}))
        .await
        .unwrap_err();
    assert_eq!(
        fault.to_string(),
        "skill files has no tool \"format\"; it has delete, edit, list, read, search, undo, write"
    );
}

#[tokio::test]
async fn a_skill_that_does_not_do_its_part_is_a_typed_error() {
    async fn check(script: &str, expected: &str) {
        let fault = called(&scripted(script), "list", json!({}))
            .await
            .unwrap_err();
        let fault = paw_log::Chain(&fault).to_string();
        assert!(
            fault.contains(expected),
            "{script}: {fault:?} does not say {expected:?}"
        );
    }
    let hello = r#"read l; echo '{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"0"}}}'; read l; "#;
    check(
        "echo 'no library' >&2; exit 5",
        "its program exited with 5; it wrote: no library",
    )
    .await;
    check("kill -11 $$", "its program was ended by signal 11").await;
    check(
        "head -c 2000000 /dev/zero | tr '\\0' x; cat",
        "a line of more than",
    )
    .await;
    check("yes '{}'", "more than 256 lines").await;
    check(&format!("{hello} read l; echo '{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"tools\":[]}}}}'; cat"), "does not offer \"list\"").await;
    check(&format!("{hello} exit 4"), "its program exited with 4").await;
}

#[tokio::test]
async fn a_skill_whose_program_is_missing_says_so() {
    let mut skill = scripted("");
    skill.command = vec!["/no/such/program".to_owned()];
    match called(&skill, "list", json!({})).await {
        Err(McpError::Sandbox {
            source: SandboxError::NotStarted { step, .. },
            ..
        }) => assert_eq!(step, "exec"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_skill_that_does_not_answer_is_ended_at_its_deadline() {
    let limit = Duration::from_millis(200);
    let fault = called_within(limit, &scripted("sleep 1000"), "list", json!({})).await;
    assert_eq!(
        fault.unwrap_err().to_string(),
        "skill files did not answer within 200 ms"
    );
}

/// [`called_within`] looks; here is what a call can come to.
#[tokio::test]
async fn nothing_of_a_call_is_left_when_it_is_told() {
    let limit = Duration::from_millis(500);
    for script in [
        "exit 5",
        "yes '{}'",
        "echo no; cat",
        "trap '' TERM; sleep 1000",
    ] {
        let called = called_within(limit, &scripted(script), "list", json!({})).await;
        assert!(called.is_err(), "{script}: {called:?}");
    }
    let mut skill = scripted("");
    skill.command = vec!["/no/such/program".to_owned()];
    let called = called(&skill, "list", json!({})).await;
    assert!(called.is_err(), "{called:?}");
}
