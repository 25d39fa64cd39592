//! What cannot be meant is a typed error, and leaves nothing behind: no process, mount, group, descriptor or directory.

use std::process::Output;

use harness::{cases, report::Case, standalone::Standalone};
use paw_api::sandbox::{RunEvent, RunSpec, SandboxRpcClient};
use serde_json::{Value, json};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        bad_input_is_a_typed_error_and_leaves_nothing_behind,
        bad_specifications_are_refused_by_pawd_itself,
        control_characters_reach_the_command_and_not_the_terminal,
    ]
}

/// The arguments cannot be meant; nothing was submitted.
const USAGE: i32 = 2;

/// The sandbox could not be made, or the command in it not started; the action says why, by this word.
const NO_SANDBOX: i32 = 125;

/// What is wrong, the options, the command, the exit code, and the kind of the action's error.
type Row = (
    &'static str,
    Vec<String>,
    Vec<String>,
    i32,
    Option<&'static str>,
);

fn rows() -> Vec<Row> {
    let row = |what, options: &[&str], command: &[&str], code, kind| {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        (what, words(options), words(command), code, kind)
    };
    let usage = |what, options: &[&str]| row(what, options, &["true"], USAGE, None);
    let beyond =
        |what, options: &[&str]| row(what, options, &["true"], NO_SANDBOX, Some("ceiling"));
    let not_started = |what, options: &[&str], command: &[&str], kind| {
        row(what, options, command, NO_SANDBOX, Some(kind))
    };
    let mut rows = vec![
        not_started(
            "missing image",
            &["--image", "nowhere"],
            &["true"],
            "not_found",
        ),
        usage("image with a slash", &["--image", "a/b"]),
        usage("image that climbs", &["--image", "../base"]),
        usage("empty image", &["--image", ""]),
        beyond("directory that is no image here", &["--image", "/etc"]),
        beyond(
            "image below no allowed directory",
            &["--image", "/etc/../etc"],
        ),
        not_started("command not found", &[], &["no-such-command"], "not_found"),
        not_started("path not found", &[], &["/no/such/command"], "not_found"),
        not_started("not executable", &[], &["/proc/version"], "not_started"),
        not_started("a directory", &[], &["/proc"], "not_started"),
        row("empty command", &[], &[""], USAGE, None),
        beyond("memory above the ceiling", &["--memory", "1000G"]),
        beyond("memory below the least", &["--memory", "4K"]),
        beyond("disk above the ceiling", &["--disk", "1000G"]),
        beyond("processors above the ceiling", &["--cpus", "1000"]),
        beyond("processes above the ceiling", &["--pids", "100000"]),
        beyond("processes below the least", &["--pids", "1"]),
        beyond("io weight above the ceiling", &["--io-weight", "9999"]),
        beyond("time above the ceiling", &["--timeout", "100h"]),
        usage("no size", &["--memory", "lots"]),
        usage("io weight on no scale", &["--io-weight", "0"]),
        usage("unknown runtime", &["--runtime", "bochs"]),
        not_started(
            "absent runtime",
            &["--runtime", "kata"],
            &["true"],
            "isolation",
        ),
        usage("unknown isolation", &["--isolation-floor", "some"]),
        usage("unknown option", &["--privileged"]),
        usage("environment without =", &["--env", "NAME"]),
        usage("environment without a name", &["--env", "=value"]),
        usage("relative working directory", &["--workdir", "work"]),
        not_started(
            "missing working directory",
            &["--workdir", "/no/where"],
            &["true"],
            "not_found",
        ),
        not_started(
            "working directory that is a file",
            &["--workdir", "/proc/version"],
            &["true"],
            "not_started",
        ),
        usage("mount without a target", &["--mount", "/srv"]),
        usage("mount of a relative path", &["--mount", "srv:/srv"]),
        usage("mount on a relative path", &["--mount", "/srv:srv"]),
        usage("mount with an unknown word", &["--mount", "/srv:/srv:exec"]),
        usage(
            "two mounts on one target",
            &["--mount", "/srv:/x", "--mount", "/opt:/x:ro"],
        ),
        beyond("mount of what is not allowed", &["--mount", "/etc:/mnt:ro"]),
        beyond("mount that climbs", &["--mount", "/srv/../etc:/mnt:ro"]),
        beyond("mount over /proc", &["--mount", "/srv:/proc/x"]),
    ];
    let many: Vec<String> = (0..10_000)
        .flat_map(|number| ["--env".to_owned(), format!("VARIABLE_{number}=x")])
        .collect();
    rows.push((
        "10,000 environment entries",
        many,
        vec!["true".to_owned()],
        USAGE,
        None,
    ));
    let wide: Vec<String> = (0..10_000)
        .flat_map(|number| ["--env".to_owned(), format!("V{number}={}", "x".repeat(110))])
        .collect();
    rows.push((
        "environment longer than a request",
        wide,
        vec!["true".to_owned()],
        USAGE,
        None,
    ));
    rows.push((
        "argument of 100,000 bytes",
        Vec::new(),
        vec!["echo".to_owned(), "x".repeat(100_000)],
        USAGE,
        None,
    ));
    rows.push((
        "20,000 arguments",
        Vec::new(),
        std::iter::repeat_n("word".to_owned(), 20_000).collect(),
        USAGE,
        None,
    ));
    rows
}

async fn bad_input_is_a_typed_error_and_leaves_nothing_behind() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    // The first command starts what stays.
    let output = system.pawctl(&["sandbox", "run", "--", "true"]).await;
    assert!(output.status.success(), "{output:?}");
    let before = system.settled(&client).await;
    for (what, options, command, code, kind) in rows() {
        let submitted = newest(&system).await;
        let words: Vec<&str> = ["sandbox", "run"]
            .into_iter()
            .chain(options.iter().map(String::as_str))
            .chain(["--"])
            .chain(command.iter().map(String::as_str))
            .collect();
        let output = system.pawctl(&words).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{what}: {}", short(&said));
        assert!(!said.is_empty() && output.stdout.is_empty(), "{what}");
        // What failed, why, and what to do.
        if code == NO_SANDBOX {
            assert!(
                said.contains("why:") && said.contains("do:"),
                "{what}: {said}"
            );
        }
        let now = newest(&system).await;
        match kind {
            Some(kind) => {
                assert_ne!(now["id"], submitted["id"], "{what}: nothing was submitted");
                assert_eq!(
                    (&now["state"], &now["error"]["kind"]),
                    (&json!("failed"), &json!(kind)),
                    "{what}: {now}"
                );
            }
            None => assert_eq!(now["id"], submitted["id"], "{what}: it was submitted"),
        }
        system.has_left_nothing_since(&before, &client).await;
    }
}

/// The newest action.
async fn newest(system: &Standalone) -> Value {
    let output = system
        .pawctl(&["-o", "json", "action", "list", "-n", "1"])
        .await;
    let page: Value = serde_json::from_slice(&output.stdout).expect("a page");
    page["items"][0].clone()
}

fn short(text: &str) -> String {
    text.chars().take(400).collect()
}

async fn bad_specifications_are_refused_by_pawd_itself() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    let output = system.pawctl(&["sandbox", "run", "--", "true"]).await;
    assert!(output.status.success(), "{output:?}");
    let before = system.settled(&client).await;
    // pawctl cannot send these, and somebody who speaks the protocol can.
    for (what, spec) in [
        ("no command", json!({"argv": []})),
        (
            "zero byte in an argument",
            json!({"argv": ["echo", "a\0b"]}),
        ),
        (
            "zero byte in the environment",
            json!({"argv": ["true"], "env": ["A=\0"]}),
        ),
        (
            "zero byte in the working directory",
            json!({"argv": ["true"], "workdir": "/\0"}),
        ),
        (
            "zero byte in a mount",
            json!({"argv": ["true"], "mounts": ["/srv\0:/x"]}),
        ),
        (
            "zero byte in the image",
            json!({"argv": ["true"], "image": "/srv\0"}),
        ),
        (
            "unknown runtime",
            json!({"argv": ["true"], "runtime": "bochs"}),
        ),
        (
            "unknown isolation",
            json!({"argv": ["true"], "isolation_floor": "none"}),
        ),
        (
            "image with a slash",
            json!({"argv": ["true"], "image": "a/b"}),
        ),
        (
            "weight on no scale",
            json!({"argv": ["true"], "io_weight": 10_001}),
        ),
        (
            "10,000 mounts",
            json!({"argv": ["true"], "mounts": (0..10_000).map(|n| format!("/srv:/m{n}")).collect::<Vec<_>>()}),
        ),
    ] {
        let spec: RunSpec = serde_json::from_value(spec).expect("its shape is right");
        let refused = SandboxRpcClient::run(&client, spec).await;
        let Err(jsonrpsee::core::ClientError::Call(error)) = refused else {
            panic!("{what} was not refused");
        };
        let data: Value =
            serde_json::from_str(error.data().expect("it is typed").get()).expect("JSON");
        assert_eq!(data["kind"], "invalid", "{what}: {error:?}");
        assert!(
            data["hint"].as_str().is_some_and(|hint| !hint.is_empty()),
            "{what}: {error:?}"
        );
        system.has_left_nothing_since(&before, &client).await;
    }
    // It goes on for everybody else.
    let spec: RunSpec =
        serde_json::from_value(json!({"argv": ["true"]})).expect("its shape is right");
    let mut run = SandboxRpcClient::run(&client, spec)
        .await
        .expect("it is accepted");
    loop {
        match run
            .next()
            .await
            .expect("it goes on")
            .expect("it can be read")
        {
            RunEvent::Ended(result) => {
                assert_eq!(result.exit_code, Some(0));
                break;
            }
            RunEvent::Failed { message, .. } => panic!("{message}"),
            RunEvent::Waiting { .. }
            | RunEvent::Started { .. }
            | RunEvent::Stdout { .. }
            | RunEvent::Stderr { .. } => {}
        }
    }
}

async fn control_characters_reach_the_command_and_not_the_terminal() {
    let system = Standalone::start("").await;
    let argument = "a\nb\u{1b}[31mc\td\u{7f}\u{202e}";
    let output: Output = system
        .pawctl(&[
            "sandbox",
            "run",
            "--",
            "sh",
            "-c",
            "printf %s \"$1\"",
            "sh",
            argument,
        ])
        .await;
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), argument.as_bytes()),
        "{output:?}"
    );
    let output = system
        .pawctl(&["sandbox", "run", "--", "no\nsuch\u{1b}[31mcommand"])
        .await;
    assert_eq!(output.status.code(), Some(NO_SANDBOX), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !said.contains('\u{1b}') && !said.contains("no\nsuch"),
        "{said:?}"
    );
}
