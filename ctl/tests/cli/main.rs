//! pawctl from the outside: a scripted pawd, real arguments, what stands on stdout and stderr, and the exit code.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod chat;
mod fake;
mod fixtures;
mod guard;
mod model;
mod sandbox;

use std::os::unix::net::UnixListener;

use fake::{Fake, Reply, finish, pawctl};
use fixtures::{ID, action, approval, approval_digest, status};
use paw_api::ErrorKind;
use serde_json::{Value, json};

/// The table and the JSON of one command, with a pawd that gives `result` to every call.
fn check(name: &str, args: &[&str], result: Value) {
    let fake = Fake::always(result.clone());
    let table = fake.run(args);
    assert_eq!(table.code, 0, "{name}: {}", table.stderr);
    insta::assert_snapshot!(name, table.stdout);
    let unchanged = fake.run(&[args, &["-o", "json"]].concat());
    assert_eq!(unchanged.stdout, format!("{result}\n"), "{name} as JSON");
}

#[test]
fn every_result_has_its_table_and_its_json_unchanged() {
    check("status", &["status"], status());
    check("doctor", &["doctor", "--prove"], fixtures::doctor());
    check(
        "action_list",
        &["action", "list"],
        json!({"items": [action("completed"), action("waiting_approval")], "next": ID}),
    );
    check(
        "action_list_empty",
        &["action", "list"],
        json!({"items": [], "next": null}),
    );
    check("action_show", &["action", "show", ID], action("completed"));
    check(
        "action_show_failed",
        &["action", "show", ID],
        action("failed"),
    );
    check("approval_list", &["approval", "list"], json!([approval()]));
    check("approval_show", &["approval", "show", ID], approval());
    check("agent_list", &["agent", "list"], json!([fixtures::agent()]));
    check(
        "agent_show",
        &["agent", "show", "default"],
        fixtures::agent(),
    );
    let show = ["agent", "show", "clerk"];
    check("agent_show_registered", &show, fixtures::registered_agent());
    let create = ["agent", "create", "clerk", "--skills", "files,fetch"];
    check("agent_create", &create, fixtures::registered_agent());
    let remove = ["agent", "remove", "clerk"];
    check("agent_remove", &remove, fixtures::registered_agent());
    check(
        "session_list",
        &["session", "list"],
        json!({"items": [fixtures::session()], "next": null}),
    );
    check(
        "session_show",
        &["session", "show", ID],
        fixtures::transcript(None),
    );
    check(
        "sandbox_runtimes",
        &["sandbox", "runtimes"],
        fixtures::runtimes(),
    );
    check("sandbox_list", &["sandbox", "list"], fixtures::sandboxes());
    check("skill_list", &["skill", "list"], json!([fixtures::skill()]));
    check("skill_show", &["skill", "show", "files"], fixtures::skill());
    check(
        "provider_list",
        &["provider", "list"],
        json!([fixtures::provider()]),
    );
    check(
        "provider_show",
        &["provider", "show", "local"],
        fixtures::provider(),
    );
    check(
        "provider_test",
        &["provider", "test"],
        fixtures::provider_test(),
    );
    let add = "provider add mine --kind openai --base-url http://127.0.0.1:8080 --model m";
    check(
        "provider_add",
        &add.split(' ').collect::<Vec<_>>(),
        fixtures::registered_provider(),
    );
    check(
        "provider_show_registered",
        &["provider", "show", "mine"],
        fixtures::registered_provider(),
    );
    check(
        "provider_remove",
        &["provider", "remove", "mine"],
        fixtures::registered_provider(),
    );
    check("route_list", &["route", "list"], json!([fixtures::route()]));
    check("route_show", &["route", "show", "main"], fixtures::route());
    check(
        "budget_show",
        &["budget", "show"],
        json!([fixtures::budget(), fixtures::unspent()]),
    );
    check(
        "budget_show_one",
        &["budget", "show", "agents"],
        fixtures::budget(),
    );
    check("job_list", &["job", "list"], fixtures::jobs());
    check(
        "job_history",
        &["job", "history", "morning"],
        fixtures::runs(),
    );
    let add = [
        "job",
        "add",
        "--cron",
        "0 7 * * *",
        "--tz",
        "Europe/Berlin",
        "hello",
    ];
    check("job_add", &add, fixtures::jobs()[0].clone());
    check(
        "job_run",
        &["job", "run", "morning"],
        fixtures::runs()[0].clone(),
    );
    check("metrics", &["metrics"], fixtures::metrics());
    check("model_ab", &["model", "ab", "main"], fixtures::arms());
    check("model_list", &["model", "list"], fixtures::models());
    check(
        "model_show",
        &["model", "show", "smollm2"],
        fixtures::models()[0].clone(),
    );
    check(
        "workspace_list",
        &["workspace", "list"],
        json!([fixtures::workspace()]),
    );
    check(
        "workspace_diff",
        &["workspace", "diff", "00000000000000aa"],
        fixtures::workspace_diff(),
    );
    check("policy_show", &["policy", "show"], fixtures::rules());
    check(
        "config_show",
        &["config", "show"],
        json!({"chat": {"default": "local", "limit": null}, "paths": {"state": "/var/lib/pawd"}}),
    );
    check(
        "config_reload",
        &["config", "reload"],
        json!({"changed": ["policy"], "needs_restart": ["paths.state"]}),
    );
    check(
        "audit_list",
        &["audit", "list"],
        json!({"records": fixtures::records(3, 2), "next": 2}),
    );
    check(
        "audit_verify",
        &["audit", "verify"],
        json!({"ok": true, "state": "ok", "records": 1234, "checkpoints": 5, "first_bad_seq": null, "fault": null}),
    );
    check(
        "backup",
        &["backup", "/b/x"],
        json!({"path": "/b/x", "bytes": 1_536_000}),
    );
}

#[test]
fn colours_are_written_when_they_are_asked_for_and_only_then() {
    let fake = Fake::always(status());
    let colourful = fake.run_with(&["status"], &[("CLICOLOR_FORCE", "1")], b"");
    insta::assert_snapshot!(
        "status_in_colour",
        colourful.stdout.replace('\u{1b}', "ESC")
    );
    for (args, env) in [
        (vec!["status"], ("NO_COLOR", "1")),
        (vec!["status", "--no-color"], ("CLICOLOR_FORCE", "1")),
    ] {
        assert!(
            !fake.run_with(&args, &[env], b"").stdout.contains('\u{1b}'),
            "{args:?} {env:?}"
        );
    }
}

#[test]
fn json_lines_have_one_item_on_each_line() {
    let fake = Fake::always(json!({"items": [{"a": 1}, {"a": 2}], "next": null}));
    assert_eq!(
        fake.run(&["action", "list", "-o", "jsonl"]).stdout,
        "{\"a\":1}\n{\"a\":2}\n"
    );
}

#[test]
fn every_error_has_its_exit_code_and_three_lines() {
    let check = |kind, code| {
        let fake = Fake::new(move |_, _| Reply::Error(kind, "because \u{1b}[2Jof this", "do that"));
        let ran = fake.run(&["agent", "show", "x"]);
        assert_eq!(ran.code, code, "{kind:?}");
        assert_eq!(ran.stdout, "");
        assert_eq!(
            ran.stderr,
            "pawctl: failed: show the agent\n  why: because [2Jof this\n  do:  do that\n",
            "{kind:?}"
        );
    };
    check(ErrorKind::Denied, 4);
    check(ErrorKind::NotFound, 6);
    check(ErrorKind::Invalid, 2);
    check(ErrorKind::Conflict, 1);
    check(ErrorKind::Busy, 1);
    check(ErrorKind::Unavailable, 1);
    check(ErrorKind::Failed, 1);
    check(ErrorKind::TimedOut, 124);
    check(ErrorKind::Internal, 1);
    check(ErrorKind::Cut, 1);
}

#[test]
fn wrong_usage_is_exit_code_2_and_asks_nothing() {
    let fake = Fake::always(json!(null));
    for args in [
        &["nonsense"][..],
        &["status", "--nonsense"],
        &["sandbox", "run"],
        &["action", "submit", "chat", "not json"],
        &["action", "list", "--timeout", "soon"],
        &["sandbox", "run", "--memory", "lots", "--", "true"],
        &["chat", "hello", "--background", "--local-only"],
        // A key is never an argument, which everybody on the host can read.
        &[
            "provider",
            "add",
            "x",
            "--kind",
            "openai",
            "--base-url",
            "https://h",
            "--model",
            "m",
            "--api-key",
            "sk-x",
        ],
    ] {
        assert_eq!(fake.run(args).code, 2, "{args:?}");
    }
    assert_eq!(fake.seen(), []);
}

#[test]
fn a_socket_that_is_not_there_is_exit_code_3_with_a_remedy() {
    let ran = finish(
        pawctl(&["status", "--socket", "/nonexistent/control.sock"]),
        b"",
    );
    assert_eq!(ran.code, 3);
    insta::assert_snapshot!("unreachable", ran.stderr);
}

#[test]
fn a_socket_without_a_listener_is_told_apart_from_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let ran = finish(pawctl(&["status", "--socket", path.to_str().unwrap()]), b"");
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("nobody listens"), "{}", ran.stderr);
}

#[test]
fn a_connection_that_ends_before_the_answer_is_not_an_answer() {
    let fake = Fake::new(|_, _| Reply::Cut(Vec::new()));
    let ran = fake.run(&["chat", "hello"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("stream cut"), "{}", ran.stderr);
}

#[test]
fn a_deadline_that_passes_is_exit_code_124() {
    let fake = Fake::new(|_, _| Reply::Stream(Vec::new()));
    let ran = fake.run(&["chat", "hello", "--timeout", "50ms"]);
    assert_eq!(ran.code, 124, "{}", ran.stderr);
}

#[test]
fn doctor_says_what_to_do_when_pawd_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let ran = finish(
        pawctl(&["doctor", "--prove", "--root", root, "-o", "json"]),
        b"",
    );
    assert_eq!(ran.code, 3);
    let seen: Value = serde_json::from_str(&ran.stdout).unwrap();
    let ids: Vec<&str> = seen["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["id"].as_str().unwrap())
        .collect();
    for id in [
        "pawd.unreachable",
        "socket.absent",
        "directory.absent",
        "probes.not-run",
    ] {
        assert!(ids.contains(&id), "{id} in {ids:?}");
    }
    assert!(
        seen["findings"]
            .as_array()
            .unwrap()
            .iter()
            .all(|finding| finding["severity"] == "info" || finding["remedy"] != "")
    );
}

// Actions

#[test]
fn the_end_of_an_action_decides_the_exit_code() {
    let check = |state: &'static str, code| {
        let fake = Fake::always(action(state));
        assert_eq!(
            fake.run(&["action", "submit", "tool_call", "{}"]).code,
            code,
            "{state}"
        );
    };
    check("completed", 0);
    check("failed", 1);
    check("cancelled", 1);
    check("rejected", 4);
    check("expired", 124);
    check("timed_out", 124);
}

#[test]
fn submitting_waits_through_an_approval_and_says_so() {
    let fake = Fake::new(|method, _| match method {
        "action.submit" => Reply::Result(action("waiting_approval")),
        _ => Reply::Result(action("completed")),
    });
    let ran = fake.run(&["skill", "call", "files", "read", r#"{"path":"a"}"#]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "one\ntwo\n"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.starts_with(&format!(
            "waiting for approval: pawctl approval show {ID}\n"
        )),
        "{}",
        ran.stderr
    );
    let arguments = json!({"skill": "files", "tool": "read", "arguments": {"path": "a"}});
    assert_eq!(
        fake.params_of("action.submit"),
        json!({"kind": "tool_call", "arguments": arguments, "wait": true})
    );
}

#[test]
fn without_waiting_an_approval_is_exit_code_5() {
    let fake = Fake::always(action("waiting_approval"));
    assert_eq!(
        fake.run(&["skill", "call", "files", "write", "--no-wait"])
            .code,
        5
    );
    assert_eq!(
        fake.run(&["action", "submit", "tool_call", "{}", "--no-wait"])
            .code,
        5
    );
    assert!(
        fake.seen()
            .iter()
            .all(|(method, _)| method == "action.submit")
    );
}

#[test]
fn waiting_ends_at_the_deadline_with_a_way_on() {
    let fake = Fake::new(|_, params| {
        // As pawd does: the answer comes when the time that was asked for is over.
        std::thread::sleep(std::time::Duration::from_millis(
            params["timeout_ms"].as_u64().unwrap(),
        ));
        Reply::Error(ErrorKind::TimedOut, "not final yet", "wait longer")
    });
    let ran = fake.run(&["action", "wait", ID, "--timeout", "50ms"]);
    assert_eq!(ran.code, 124);
    assert!(
        ran.stderr.contains(&format!("pawctl action wait {ID}")),
        "{}",
        ran.stderr
    );
}

#[test]
fn explaining_shows_the_rules_that_decided() {
    let fake = Fake::always(fixtures::explanation());
    let ran = fake.run(&["action", "explain", ID]);
    assert_eq!(fake.params_of("policy.explain"), json!({"id": ID}));
    insta::assert_snapshot!("action_explain", ran.stdout);
    assert_eq!(ran.stdout, fake.run(&["policy", "explain", ID]).stdout);
}

// Approvals

fn approver() -> Fake {
    Fake::new(|method, _| {
        Reply::Result(if method == "approval.answer" {
            action("completed")
        } else {
            approval()
        })
    })
}

#[test]
fn an_approval_sends_the_digest_that_it_showed() {
    let fake = approver();
    let ran = fake.run(&["approval", "approve", ID, "--yes", "--note", "fine"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains(&approval_digest()), "{}", ran.stderr);
    let expected =
        json!({"id": ID, "digest": approval_digest(), "answer": "approve", "note": "fine"});
    assert_eq!(fake.params_of("approval.answer"), expected);
}

#[test]
fn an_approval_of_another_plan_than_shown_is_never_sent() {
    let fake = Fake::new(|_, _| {
        let mut changed = approval();
        changed["plan"]["operation"]["tool_call"]["arguments"]["path"] = json!("/etc/shadow");
        Reply::Result(changed)
    });
    for args in [
        &["approval", "show", ID][..],
        &["approval", "approve", ID, "--yes"],
    ] {
        let ran = fake.run(args);
        assert_eq!(ran.code, 1, "{args:?}");
        assert!(
            ran.stderr.contains("not the one that its digest names"),
            "{}",
            ran.stderr
        );
    }
    assert!(
        fake.seen()
            .iter()
            .all(|(method, _)| method == "approval.show")
    );
}

#[test]
fn an_approval_with_another_digest_is_never_sent() {
    let fake = approver();
    let other = "0".repeat(64);
    for (args, why) in [
        (
            &["approval", "approve", ID, "--digest", &other][..],
            "another plan",
        ),
        (
            &["approval", "deny", ID, "--digest", &other],
            "another plan",
        ),
        (
            &["approval", "approve", ID, "--yes", "--digest", "abc"],
            "not a digest",
        ),
    ] {
        let ran = fake.run(args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    assert!(
        fake.seen()
            .iter()
            .all(|(method, _)| method == "approval.show")
    );
}

#[test]
fn an_approval_that_nobody_confirms_is_never_sent() {
    let fake = approver();
    let ran = fake.run_with(&["approval", "approve", ID], &[], b"y\n");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--digest"), "{}", ran.stderr);
    assert!(
        fake.seen()
            .iter()
            .all(|(method, _)| method == "approval.show")
    );
}

#[test]
fn a_digest_on_the_command_line_confirms_without_a_terminal() {
    let fake = approver();
    assert_eq!(
        fake.run(&["approval", "approve", ID, "--digest", &approval_digest()])
            .code,
        0
    );
    assert_eq!(
        fake.params_of("approval.answer")["digest"],
        json!(approval_digest())
    );
}

#[test]
fn a_plan_is_shown_with_what_could_mislead_written_out() {
    let ran = approver().run(&["approval", "show", ID]);
    assert!(
        ran.stdout.contains(r"notes\u{202e}txt.exe"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains(r"\u001b[2J"), "{}", ran.stdout);
    assert!(!ran.stdout.contains(['\u{1b}', '\u{202e}']));
}

#[test]
fn watching_shows_what_waits_and_what_comes() {
    let fake = Fake::new(|method, _| match method {
        "approval.list" => Reply::Result(json!([approval()])),
        _ => Reply::Stream(vec![
            json!({"type": "cut", "resume_after": 3, "error": {"kind": "cut", "hint": "too slow"}}),
        ]),
    });
    let ran = fake.run(&["approval", "watch", "-o", "jsonl"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains(&approval_digest()));
    assert!(ran.stderr.contains("stream cut"), "{}", ran.stderr);
    let ran = fake.run_with(&["approval", "watch"], &[], b"y");
    assert_eq!(ran.code, 2, "no keys without a terminal: {}", ran.stderr);
    assert!(
        fake.seen()
            .iter()
            .all(|(method, _)| method != "approval.answer")
    );
}

#[test]
fn grant_is_shown_as_the_rule_that_it_is_before_anybody_says_yes() {
    let arguments = ["approval", "approve", ID, "--for", "1h", "--like", "this"];
    // What came by the question of something that is no agent's name is granted to nobody.
    let ran = approver().run_with(&arguments, &[], b"y\n");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("how it came to be asked"),
        "{}",
        ran.stderr
    );
    let fake = Fake::new(|method, _| {
        if method == "approval.answer" {
            return Reply::Result(action("completed"));
        }
        let mut approval = approval();
        approval["asked"] = json!({"via": "job", "job": ID, "through": ["lead"]});
        Reply::Result(approval)
    });
    let ran = fake.run_with(&arguments, &[], b"y\n");
    assert_eq!(ran.code, 2, "nobody confirmed it: {}", ran.stderr);
    for words in [
        "permit (",
        "resource == Tool::\"files/write\"",
        "[\"user\", \"model\"].containsAll(context.taint)",
        "context.now < ",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let ran = fake.run(&[&arguments[..], &["--yes"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(
        fake.params_of("approval.answer")["for_ms"],
        json!(3_600_000)
    );
    let ran = fake.run(&["approval", "approve", ID, "--for", "1h", "--yes"]);
    assert_eq!(ran.code, 2, "it says what it is for");
    let ran = fake.run(&[
        "approval", "approve", ID, "--for", "25h", "--like", "this", "--yes",
    ]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
}

#[test]
fn grants_are_listed_as_rules_and_revoked() {
    check(
        "approval_grants",
        &["approval", "grants"],
        json!([fixtures::grant()]),
    );
    let fake = Fake::always(fixtures::grant());
    assert_eq!(fake.run(&["approval", "revoke", ID]).code, 0);
    assert_eq!(fake.params_of("approval.revoke"), json!({"id": ID}));
}

#[test]
fn several_equal_actions_are_answered_as_many_as_were_shown() {
    let fake = Fake::new(|method, _| {
        let mut asked = approval();
        asked["waiting"] = json!(3);
        Reply::Result(if method == "approval.answer" {
            action("approved")
        } else {
            asked
        })
    });
    let ran = fake.run(&["approval", "approve", ID, "--yes", "--code", "123456"]);
    assert!(ran.stderr.contains("3 equal actions"), "{}", ran.stderr);
    let params = fake.params_of("approval.answer");
    assert_eq!(
        (&params["count"], &params["code"]),
        (&json!(3), &json!("123456"))
    );
}

#[test]
fn authenticator_is_enrolled_with_a_drawing_and_its_first_code() {
    let fake = Fake::new(|method, _| {
        Reply::Result(if method == "approval.enroll" {
            json!({"url": "otpauth://totp/pawd:ann?secret=MZXW6YTBOI&issuer=pawd", "secret": "MZXW6YTBOI"})
        } else {
            json!(true)
        })
    });
    let ran = fake.run_with(&["approval", "enroll"], &[], b"123456\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains('█') && ran.stderr.contains("MZXW6YTBOI"),
        "{}",
        ran.stderr
    );
    assert!(
        !ran.stdout.contains("MZXW6YTBOI"),
        "what goes to stdout may be kept"
    );
    assert_eq!(
        fake.params_of("approval.confirm"),
        json!({"code": "123456"})
    );
}

#[test]
fn cases_of_a_policy_are_tried_without_pawd() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let rules = write("rules.cedar", paw_policy::rules::DEFAULT);
    let run = |cases: &str| finish(pawctl(&["policy", "test", cases, "--rules", &rules]), b"");
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/default.cases.toml");
    let ran = run(shipped);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let asked = std::fs::read_to_string(shipped).unwrap();
    let other = asked.replacen("decision = \"ask\"", "decision = \"allow\"", 1);
    let ran = run(&write("other.toml", &other));
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(
        ran.stdout.contains("ask instead of allow"),
        "{}",
        ran.stdout
    );
    let json = json!({"case": [{"name": "unknown", "principal": {"uid": 1, "role": "user"}, "kind": "launch_missiles", "expect": {"decision": "deny", "risk": "critical", "rules": []}}]});
    assert_eq!(run(&write("cases.json", &json.to_string())).code, 0);
    let ran = run(&write(
        "broken.toml",
        "[[case]]\nname = \"x\"\nnosuch = 1\n",
    ));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("nosuch"), "{}", ran.stderr);
}

// Conversations, audit, policy

#[test]
fn an_export_holds_every_page_once() {
    let fake = Fake::new(|_, params| match params["from"].as_u64() {
        Some(0) => Reply::Result(fixtures::transcript(Some(2))),
        _ => Reply::Result(fixtures::transcript(None)),
    });
    let ran = fake.run(&["session", "export", ID]);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["turns"].as_array().map(Vec::len), Some(4));
    assert_eq!(document["session"], fixtures::session());
}

#[test]
fn an_export_for_people_is_one_document_of_all_pages() {
    let fake = Fake::new(|_, params| match params["from"].as_u64() {
        Some(0) => Reply::Result(fixtures::transcript(Some(2))),
        _ => Reply::Result(fixtures::transcript(None)),
    });
    let ran = fake.run(&["session", "export", ID, "--format", "md"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let count = |begins: &str| {
        ran.stdout
            .lines()
            .filter(|line| line.starts_with(begins))
            .count()
    };
    assert_eq!((count("# "), count("## ")), (1, 4), "{}", ran.stdout);
    assert!(count("> ") >= 4, "{}", ran.stdout);
}

#[test]
fn an_export_overwrites_nothing() {
    let fake = Fake::always(fixtures::transcript(None));
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(
        fake.run(&["session", "export", ID, file.path().to_str().unwrap()])
            .code,
        1
    );
    assert_eq!(std::fs::read(file.path()).unwrap(), b"");
}

#[test]
fn an_audit_export_is_in_order_and_complete() {
    let fake = Fake::new(|_, params| {
        // As where records are long: no page has more than 300.
        let before = params["before"].as_u64().unwrap_or(2501);
        let limit = params["limit"].as_u64().unwrap().min(300);
        let next = before.checked_sub(limit).filter(|next| *next > 1);
        let records = fixtures::records(before - 1, limit);
        Reply::Result(json!({"records": records, "next": next}))
    });
    let ran = fake.run(&["audit", "export", "--from", "400"]);
    let seqs: Vec<u64> = ran
        .stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["seq"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(seqs, (400..=2500).collect::<Vec<_>>());
    let events = fake.run(&["audit", "export", "--from", "2499", "--format", "cef"]);
    let lines: Vec<&str> = events.stdout.lines().collect();
    assert!(
        lines.len() == 2 && lines[1].contains("externalId=2500"),
        "{lines:?}"
    );
}

#[test]
fn a_log_that_does_not_verify_has_the_exit_code_of_its_state() {
    let check = |state: &str, ok: bool, fault: Option<&str>, code: i32| {
        let fake = Fake::always(
            json!({"ok": ok, "state": state, "records": 7, "checkpoints": 1, "first_bad_seq": fault.map(|_| 8), "fault": fault}),
        );
        let ran = fake.run(&["audit", "verify"]);
        assert_eq!(ran.code, code, "{state}: {}", ran.stdout);
        ran.stdout
    };
    check("ok", true, None, 0);
    assert!(check("tampered", false, Some("modified"), 1).contains("modified at record 8"));
    check("unverifiable", false, None, 2);
    check("torn_tail", true, None, 3);
    check("unheard_of", true, None, 1);
}

#[test]
fn a_log_that_is_not_there_cannot_be_verified() {
    let directory = tempfile::tempdir().unwrap();
    let ran = finish(
        pawctl(&[
            "audit",
            "verify",
            directory.path().to_str().unwrap(),
            "-o",
            "json",
        ]),
        b"",
    );
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["ok"],
        json!(false)
    );
}

#[test]
fn faults_in_rules_have_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let check = |text: &str, code, said: &str| {
        let path = directory.path().join("rules.cedar");
        std::fs::write(&path, text).unwrap();
        let ran = finish(pawctl(&["policy", "check", path.to_str().unwrap()]), b"");
        assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
        let shown = ran
            .stdout
            .replace(directory.path().to_str().unwrap(), "DIR");
        assert!(shown.contains(said), "{said:?} in {shown}");
    };
    check(paw_policy::rules::DEFAULT, 0, "are valid");
    check(
        "permit (principal,\n  action resource);\n",
        1,
        "DIR/rules.cedar:2:",
    );
    check("permit (principal, action, resource);\n", 1, "without @id");
}

#[test]
fn any_method_can_be_called() {
    let fake = Fake::always(json!({"x": [1, 2]}));
    let ran = fake.run_with(&["rpc", "action.list", "-"], &[], br#"{"limit": 1}"#);
    assert_eq!(ran.stdout, "{\"x\":[1,2]}\n");
    assert_eq!(fake.params_of("action.list"), json!({"limit": 1}));
}

#[test]
fn events_are_lines_and_a_cut_says_where_to_resume() {
    let fake = Fake::new(|_, _| {
        Reply::Stream(vec![
            json!({"type": "event", "seq": 7, "at": 1_700_000_000_000_u64, "event": "action.ended", "action": ID, "text": "done\u{1b}[2J"}),
            json!({"type": "cut", "resume_after": 7, "error": {"kind": "cut", "hint": "too slow"}}),
        ])
    });
    let ran = fake.run(&["events", "-f", "--after", "6"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stdout,
        format!("2023-11-14T22:13:20Z     7 action.ended [{ID}] done[2J\n")
    );
    assert!(ran.stderr.contains("--after 7"), "{}", ran.stderr);
}

#[test]
fn a_bench_reports_the_fields_of_the_contract() {
    let fake = Fake::new(|method, _| {
        Reply::Result(if method == "system.ping" {
            json!("pong")
        } else {
            status()
        })
    });
    let ran = fake.run(&[
        "bench",
        "rpc",
        "--requests",
        "300",
        "--concurrency",
        "3",
        "-o",
        "json",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let seen: Value = serde_json::from_str(&ran.stdout).unwrap();
    for field in [
        "requests",
        "errors",
        "rps",
        "p50_us",
        "p95_us",
        "p99_us",
        "max_us",
        "cpu_us_per_request",
        "rss_peak",
    ] {
        assert!(seen.get(field).is_some(), "{field}");
    }
    assert_eq!(
        (&seen["requests"], &seen["errors"]),
        (&json!(300), &json!(0))
    );
}

#[test]
fn a_bench_counts_wrong_answers_as_errors() {
    let fake = Fake::new(|method, _| {
        Reply::Result(if method == "system.ping" {
            json!("pang")
        } else {
            status()
        })
    });
    let ran = fake.run(&["bench", "rpc", "--requests", "5", "-o", "json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["errors"],
        json!(5)
    );
}

#[test]
fn completions_and_man_pages_come_out_of_the_command_line() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = finish(pawctl(&["completion", shell]), b"");
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("approval"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(pawctl::cli::command(), directory.path()).unwrap();
    let pages: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    for page in [
        "pawctl.1",
        "pawctl-sandbox-run.1",
        "pawctl-approval-approve.1",
    ] {
        assert!(pages.iter().any(|name| name == page), "{page} in {pages:?}");
    }
}

#[test]
fn every_method_that_is_called_exists_with_these_parameters() {
    // Each command once, against a pawd that refuses everything: what it asked for is compared with the table of methods.
    let commands = "status|doctor|events|action list --state queued|action show x|action wait x|action cancel x|action explain x|\
        action submit chat {} --agent a --session s --timeout 1s|approval list|approval show x|approval watch|agent list|agent show x|agent create x --instructions a --route r --skills b,c --agents d --net e:1 --max-turns 2 --max-tokens 3 --temperature 0.5 --may-leave-host --isolation-floor vm --workspace stage|agent edit x --instructions-file Cargo.toml --provider p --model m --unset net,skills|agent remove x|session list -n 1 --before x|session show x|\
        session delete x|sandbox runtimes|sandbox list|sandbox kill x|sandbox run -- x|skill list|skill show x|skill call x y|skill verify|skill verify x|skill enable x|skill disable x|skill remove x|mcp --agent x|\
        provider list|provider show x|provider test x|provider reset x|route list|route show x|budget show|budget show x|budget set x --cost 1.5 --tokens 2 --per day --each user,agent --provider p --model m --agent a --user u|budget set x --remove|metrics|provider add x --kind a --base-url b --model c --api-key-credential d --check-interval 1m|\
        provider edit x --no-api-key --no-allow-plaintext|provider remove x|provider default x|model ab x|model list --provider x|model show x --provider y|model switch x --provider y --agent z --unlisted --timeout 1m|model switch --agent z --back|model pull x --provider y|\
        model warm x --provider y --timeout 1m|job list|job add --cron c --tz z --agent a --name n --overlap --catch-up x|job remove x|job run x|job history x -n 1|policy show|config show|config reload|audit list --action x --event y --before 3 -n 1|audit list --since 2h --until 2026-11-24T09:00:00Z --uid 7 --agent a --kind chat --outcome failed|audit verify|\
        audit tail|audit tail -f|secret init|secret rekey|secret status|secret unlock|secret lock|secret list|secret show x|secret remove x --version 1|secret allow x agent:y|secret deny x agent:y|secret log x --before 3 --limit 1|secret export x|secret import Cargo.toml --force|backup x|chat x --agent a --session s --provider p --model m --local-only --image Cargo.toml|bench rpc";
    let fake = Fake::new(|_, _| Reply::Error(ErrorKind::Denied, "no", "no"));
    for command in commands.split('|') {
        let args: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(fake.run(&args).code, 4, "{command}");
    }
    for (method, params) in fake.seen() {
        let known =
            paw_api::methods::find(&method).unwrap_or_else(|| panic!("{method} does not exist"));
        for name in params
            .as_object()
            .into_iter()
            .flat_map(|members| members.keys())
        {
            assert!(
                known.params.contains(&name.as_str()),
                "{method} has no parameter {name}"
            );
        }
    }
}
