//! A conversation in the terminal.

use paw_api::ErrorKind;
use serde_json::{Value, json};

use crate::{
    fake::{Fake, Reply},
    fixtures::{self, ID, action},
};

fn accepted() -> Value {
    json!({"type": "accepted", "action_id": ID, "session": "s"})
}

fn delta(seq: u64, text: &str) -> Value {
    json!({"type": "delta", "seq": seq, "text": text})
}

#[test]
fn a_chat_is_shown_piece_by_piece_without_control_characters() {
    let fake = Fake::new(|_, _| {
        let mut done = fixtures::chat_result("Hello there");
        done["type"] = json!("done");
        Reply::Stream(vec![
            accepted(),
            delta(0, "Hel\u{1b}"),
            delta(1, "[31mlo \u{202e}"),
            delta(2, "\u{9b}2Jthere\r\u{7}"),
            done,
        ])
    });
    let ran = fake.run(&["chat", "hi", "--agent", "a", "--local-only"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "Hel[31mlo 2Jthere\n"),
        "{}",
        ran.stderr
    );
    assert_eq!(
        fake.params_of("chat.send"),
        json!({"text": "hi", "agent": "a", "local_only": true})
    );
}

#[test]
fn schema_and_pictures_of_a_chat_are_read_from_files() {
    let fake = Fake::new(|_, _| Reply::Error(ErrorKind::Denied, "no", "no"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("schema"), "{\"type\": \"object\"}").expect("it is ours");
    std::fs::write(path("picture"), "GIF89a").expect("it is ours");
    std::fs::write(path("long"), vec![0; 600 * 1024]).expect("it is ours");
    let (schema, picture) = (path("schema"), path("picture"));
    let ran = fake.run(&[
        "chat", "hi", "--schema", &schema, "--image", &picture, "--image", &picture,
    ]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert_eq!(
        fake.params_of("chat.send"),
        json!({"text": "hi", "schema": {"type": "object"}, "images": ["R0lGODlh", "R0lGODlh"]})
    );
    for (option, file, code) in [
        ("--schema", &picture, 2),
        ("--image", &path("long"), 2),
        ("--image", &path("none"), 1),
    ] {
        let ran = fake.run(&["chat", "hi", option, file]);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains(file.as_str()), "{}", ran.stderr);
    }
}

#[test]
fn a_chat_that_begins_again_says_so_and_shows_the_whole_answer() {
    let fake = Fake::new(|_, _| {
        let mut done = fixtures::chat_result("Hello");
        done["type"] = json!("done");
        let reset = json!({"type": "stream_reset", "provider": "p", "model": "m", "why": "cut"});
        Reply::Stream(vec![
            accepted(),
            delta(0, "Half an"),
            delta(1, " ans"),
            reset,
            delta(0, "Hello"),
            done,
        ])
    });
    let ran = fake.run(&["chat", "hi"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "Half an ans\nHello\n"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("broke off (cut) and begins again at p (m)"),
        "{}",
        ran.stderr
    );
    assert_eq!(fake.run(&["chat", "hi", "--no-stream"]).stdout, "Hello\n");
}

#[test]
fn a_chat_as_json_is_the_result_of_the_contract() {
    let fake = Fake::new(|_, _| {
        let mut done = fixtures::chat_result("Hello");
        done["type"] = json!("done");
        Reply::Stream(vec![accepted(), delta(0, "Hello"), done])
    });
    let ran = fake.run(&["chat", "hi", "-o", "json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap(),
        fixtures::chat_result("Hello")
    );
    assert_eq!(fake.run(&["chat", "hi", "--no-stream"]).stdout, "Hello\n");
}

#[test]
fn a_chat_says_who_answered_and_who_did_not() {
    let fake = Fake::new(|_, _| {
        let mut done = fixtures::chat_result("Hello");
        done["type"] = json!("done");
        done["provider"] = json!("spare");
        done["model"] = json!("small");
        let attempt = |provider: &str, outcome: &str| {
            json!({"provider": provider, "model": "m", "outcome": outcome, "at": 1, "ms": 1,
                   "first_token_ms": null})
        };
        done["attempts"] = json!([attempt("first", "overload"), attempt("spare", "ok")]);
        Reply::Stream(vec![accepted(), delta(0, "Hello"), done])
    });
    let ran = fake.run(&["chat", "hi", "--route", "main"]);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        (
            "Hello\n",
            "answered by spare (small), after first (overload), for $0.000013\n"
        )
    );
    assert_eq!(
        fake.params_of("chat.send"),
        json!({"text": "hi", "route": "main"})
    );
    let both = fake.run(&["chat", "hi", "--route", "main", "--provider", "first"]);
    assert_eq!(both.code, 2, "{}", both.stderr);
}

#[test]
fn a_chat_reads_what_to_say_from_stdin() {
    let fake = Fake::new(|_, _| Reply::Error(ErrorKind::Denied, "no", "no"));
    assert_eq!(fake.run_with(&["chat", "-"], &[], b"from stdin").code, 4);
    assert_eq!(fake.params_of("chat.send"), json!({"text": "from stdin"}));
}

#[test]
fn a_chat_that_ends_without_its_last_item_is_an_error() {
    let fake = Fake::new(|_, _| Reply::Cut(vec![accepted(), delta(0, "Half an ans")]));
    let ran = fake.run(&["chat", "hi"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "Half an ans\n"));
    insta::assert_snapshot!("stream_cut", ran.stderr);
}

#[test]
fn an_answer_that_is_longer_than_any_buffer_is_complete() {
    const PIECES: u64 = 80_000;
    let fake = Fake::new(|_, _| {
        let mut done = fixtures::chat_result("");
        done["type"] = json!("done");
        Reply::Stream(
            (0..PIECES)
                .map(|seq| delta(seq, "x\n"))
                .chain([done])
                .collect(),
        )
    });
    let ran = fake.run(&["chat", "hi"]);
    assert_eq!(
        (ran.code, ran.stdout.lines().count() as u64),
        (0, PIECES),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_chat_that_misses_a_piece_is_an_error() {
    let fake = Fake::new(|_, _| Reply::Stream(vec![accepted(), delta(0, "a"), delta(2, "c")]));
    let ran = fake.run(&["chat", "hi"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("piece 1 is missing"), "{}", ran.stderr);
}

#[test]
fn a_chat_that_fails_says_why() {
    let error = json!({"kind": "unavailable", "hint": "start ollama"});
    let failed = json!({"type": "failed", "message": "no provider answers", "error": error});
    let fake = Fake::new(move |_, _| Reply::Stream(vec![accepted(), failed.clone()]));
    let ran = fake.run(&["chat", "hi"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        "pawctl: failed: chat\n  why: no provider answers\n  do:  start ollama\n"
    );
}

#[test]
fn a_chat_in_the_background_gives_the_id_at_once() {
    let fake = Fake::always(action("executing"));
    let ran = fake.run(&["chat", "hi", "--background", "--provider", "p"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("{ID}\n")));
    let params = fake.params_of("action.submit");
    assert_eq!(
        params,
        json!({"kind": "chat", "arguments": {"text": "hi", "provider": "p"}, "wait": false})
    );
}
