//! Commands in sandboxes.

use std::sync::{Mutex, mpsc};

use paw_api::ErrorKind;
use serde_json::{Value, json};

use crate::{
    fake::{Fake, Reply},
    fixtures::{self, ID},
};

fn sandbox(items: impl Fn() -> Vec<Value> + Send + Sync + 'static) -> Fake {
    Fake::new(move |method, _| {
        if method == "sandbox.run" {
            Reply::Stream(items())
        } else {
            Reply::Result(json!(true))
        }
    })
}

fn started() -> Value {
    json!({"type": "started", "action_id": ID, "id": "sb-1"})
}

#[test]
fn a_command_gives_its_bytes_and_its_exit_code() {
    let check = |change: fn(&mut Value), code| {
        let fake = sandbox(move || {
            let mut ended = fixtures::run_result();
            ended["type"] = json!("ended");
            change(&mut ended);
            let out = json!({"type": "stdout", "data": "AGE=" /* NUL a */});
            vec![
                started(),
                out,
                json!({"type": "stderr", "data": "ZXJyCg=="}),
                ended,
            ]
        });
        let ran = fake.run(&["sandbox", "run", "--", "true"]);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (code, "\0a"),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.starts_with("err\n"));
    };
    check(|_| {}, 0);
    check(|ended| ended["exit_code"] = json!(42), 42);
    check(
        |ended| (ended["exit_code"], ended["signal"]) = (json!(null), json!(9)),
        137,
    );
    check(
        |ended| (ended["exit_code"], ended["timed_out"]) = (json!(null), json!(true)),
        124,
    );
}

#[test]
fn a_json_result_stands_alone_on_stdout() {
    let fake = sandbox(|| {
        let mut ended = fixtures::run_result();
        ended["type"] = json!("ended");
        vec![started(), json!({"type": "stdout", "data": "aGkK"}), ended]
    });
    let ran = fake.run(&["sandbox", "run", "--json-result", "--", "true"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap(),
        fixtures::run_result()
    );
    assert_eq!(ran.stderr, "hi\n");
}

#[test]
fn a_sandbox_that_could_not_be_made_is_exit_code_125() {
    let check = |kind: ErrorKind, code| {
        let fake = sandbox(move || {
            vec![
                json!({"type": "failed", "message": "no launcher", "error": {"kind": kind, "hint": "start it"}}),
            ]
        });
        assert_eq!(
            fake.run(&["sandbox", "run", "--", "true"]).code,
            code,
            "{kind:?}"
        );
    };
    check(ErrorKind::Unavailable, 125);
    check(ErrorKind::Failed, 125);
    check(ErrorKind::NotFound, 125);
    check(ErrorKind::Denied, 4);
}

#[test]
fn options_of_a_run_reach_its_plan() {
    let fake = sandbox(|| vec![json!({"type": "waiting", "action_id": ID})]);
    let options = "--runtime native --isolation-floor kernel --image host --cpus 0.5 --memory 256M --disk 100M --pids 64 --timeout 30s \
        --net none --env K=V --mount /a:/b:ro --workdir /w --no-wait -- sh -c";
    let args: Vec<&str> = ["sandbox", "run"]
        .into_iter()
        .chain(options.split_whitespace())
        .chain(["exit 3"])
        .collect();
    let ran = fake.run(&args);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    let expected = json!({
        "argv": ["sh", "-c", "exit 3"], "runtime": "native", "isolation_floor": "kernel", "image": "host", "env": ["K=V"],
        "workdir": "/w", "mounts": ["/a:/b:ro"], "cpu_milli": 500, "memory": 256 << 20, "disk": 100 << 20, "pids": 64,
        "timeout_ms": 30_000, "stdin": false,
    });
    assert_eq!(fake.params_of("sandbox.run"), json!({"spec": expected}));
}

#[test]
fn stdin_reaches_the_command_in_order_and_ends() {
    let (all_read, wait) = mpsc::channel();
    let wait = Mutex::new(Some(wait));
    let fake = Fake::new(move |method, params| match method {
        "sandbox.run" => {
            let mut ended = fixtures::run_result();
            ended["type"] = json!("ended");
            // The command ends when it has read everything, as `cat` does.
            Reply::Later(
                vec![started()],
                wait.lock().unwrap().take().unwrap(),
                vec![ended],
            )
        }
        _ => {
            if params["end"] == json!(true) {
                all_read.send(()).unwrap();
            }
            Reply::Result(json!(true))
        }
    });
    let ran = fake.run_with(
        &["sandbox", "run", "--stdin", "--", "cat"],
        &[],
        b"some\0bytes",
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let seen = fake.seen();
    let sent: Vec<&Value> = seen
        .iter()
        .filter(|(method, _)| method == "sandbox.input")
        .map(|(_, params)| params)
        .collect();
    assert_eq!(
        sent,
        [
            // Others in the same sandbox may take input, too.
            &json!({"id": ID, "data": "c29tZQBieXRlcw=="}),
            &json!({"id": ID, "end": true})
        ]
    );
}
