//! Models: which there are, which one answers, and long work that is told of on the way.

use paw_api::ErrorKind;
use serde_json::{Value, json};

use crate::fake::{Fake, Reply};

fn step(step: &str) -> Value {
    json!({"type": "progress", "step": step, "provider": "local", "model": "other"})
}

fn switched(agent: Option<&str>) -> Value {
    json!({"type": "done", "agent": agent, "provider": "local", "model": "oth\u{1b}[2Jer",
        "was": {"provider": "local", "model": "smollm2"}, "ms": 4_100})
}

fn pulled(completed: u64) -> Value {
    json!({"type": "progress", "status": "pulling 8eeb\u{1b}[2J", "completed": completed, "total": 100})
}

#[test]
fn a_switch_says_who_answers_now_and_who_did() {
    let fake = Fake::new(|_, _| {
        Reply::Stream(vec![
            step("looking"),
            step("loading"),
            step("asking"),
            step("switching"),
            switched(Some("clerk")),
        ])
    });
    let ran = fake.run(&["model", "switch", "other", "--agent", "clerk"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!("model_switch", ran.stdout);
    assert_eq!(
        fake.params_of("model.switch"),
        json!({"model": "other", "agent": "clerk"})
    );
}

#[test]
fn a_switch_as_json_is_its_result_alone_and_as_lines_every_step() {
    let fake = Fake::new(|_, _| Reply::Stream(vec![step("asking"), switched(None)]));
    let json = fake.run(&["model", "switch", "other", "-o", "json"]).stdout;
    let mut expected = switched(None);
    expected.as_object_mut().unwrap().remove("type");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), expected);
    let lines = fake
        .run(&["model", "switch", "other", "-o", "jsonl"])
        .stdout;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, [step("asking"), switched(None)]);
}

#[test]
fn a_switch_that_fails_or_is_cut_is_no_success() {
    let failed = json!({"type": "failed", "message": "provider local (other): not_found: no such model",
        "error": {"kind": "not_found", "hint": "pawctl model pull other"}});
    let fake = Fake::new(move |_, _| Reply::Stream(vec![step("loading"), failed.clone()]));
    let ran = fake.run(&["model", "switch", "other"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (6, ""));
    assert!(
        ran.stderr.contains("pawctl model pull other"),
        "{}",
        ran.stderr
    );
    let cut = Fake::new(|_, _| Reply::Cut(vec![step("asking")]));
    let ran = cut.run(&["model", "switch", "other"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
}

#[test]
fn switching_back_names_no_model() {
    let fake = Fake::new(|_, _| Reply::Stream(vec![switched(Some("clerk"))]));
    assert_eq!(
        fake.run(&["model", "switch", "--agent", "clerk", "--back"])
            .code,
        0
    );
    assert_eq!(fake.params_of("model.switch"), json!({"agent": "clerk"}));
    for wrong in [
        &["model", "switch"][..],
        &["model", "switch", "--back"],
        &["model", "switch", "other", "--agent", "clerk", "--back"],
    ] {
        assert_eq!(fake.run(wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn a_pull_ends_with_what_the_provider_has() {
    let done = json!({"type": "done", "provider": "local", "model": "other", "ms": 61_000});
    let fake = Fake::new(move |_, _| Reply::Stream(vec![pulled(4), pulled(90), done.clone()]));
    let ran = fake.run(&["model", "pull", "other", "--provider", "local"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!("model_pull", ran.stdout);
    let cut = Fake::new(|_, _| Reply::Cut(vec![pulled(4)]));
    let ran = cut.run(&["model", "pull", "other"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
}

#[test]
fn interrupt_ends_a_pull_at_pawd_before_pawctl_is_gone() {
    let fake = Fake::new(|_, _| Reply::Stream(vec![pulled(4)]));
    let ran = fake.interrupted(&["model", "pull", "other"]);
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(
        fake.seen()
            .iter()
            .any(|(method, _)| method == "model.abort")
    );
}

#[test]
fn warming_shows_how_long_it_took() {
    let warmed = json!({"provider": "local", "model": "smollm2", "ms": 2_300});
    let fake = Fake::always(warmed);
    let ran = fake.run(&["model", "warm", "--timeout", "90s"]);
    insta::assert_snapshot!("model_warm", ran.stdout);
    let params = fake.params_of("model.warm");
    assert!(params["timeout_ms"].as_u64().unwrap() > 80_000, "{params}");
    let late = Fake::new(|_, _| Reply::Error(ErrorKind::TimedOut, "not ready", "wait"));
    assert_eq!(late.run(&["model", "warm"]).code, 124);
}
