//! The compiled skill over raw JSON lines: what it keeps, and what it does not.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{fs, process::Command};

use paw_skill::testing::Conversation;
use serde_json::json;

fn at(root: &tempfile::TempDir) -> Conversation {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paw-memory"));
    Conversation::with(command.arg("--root").arg(root.path()), "paw-memory")
}

#[test]
fn a_note_is_kept_with_its_versions() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(&root);
    assert_eq!(memory.call("list", json!({})).0, "(no notes)\n");
    memory.call("save", json!({"name": "heron", "text": "one\n"}));
    let (_, saved) = memory.call("save", json!({"name": "heron", "text": "Two\n"}));
    assert_eq!(saved, json!({"name": "heron", "version": 2}));
    // Another process, as for each call, knows the same.
    let mut memory = at(&root);
    assert_eq!(memory.call("read", json!({"name": "heron"})).0, "Two\n");
    let first = json!({"name": "heron", "version": 1});
    assert_eq!(memory.call("read", first).0, "one\n");
    assert_eq!(
        memory.call("search", json!({"text": "TWO"})).0,
        "heron: Two\n"
    );
    let (_, listed) = memory.call("list", json!({}));
    assert_eq!(
        listed,
        json!({"notes": [{"name": "heron", "version": 2, "size": 4}]})
    );
    memory.call("forget", json!({"name": "heron"}));
    let why = memory.refused("read", json!({"name": "heron"}));
    assert!(why.contains("no note heron"), "{why}");
}

#[test]
fn what_is_kept_is_bounded() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(&root);
    for number in 0..25 {
        memory.call("save", json!({"name": "a", "text": number.to_string()}));
    }
    assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 20);
    let why = memory.refused("read", json!({"name": "a", "version": 5}));
    assert!(why.contains("there are 6, 7"), "{why}");
    let why = memory.refused("save", json!({"name": "a", "text": "x".repeat(16_385)}));
    assert!(why.contains("16385 bytes"), "{why}");
    for number in 0..999 {
        fs::create_dir(root.path().join(format!("n{number}"))).unwrap();
        fs::write(root.path().join(format!("n{number}/1")), "x\n".repeat(200)).unwrap();
    }
    let why = memory.refused("save", json!({"name": "more", "text": ""}));
    assert!(why.contains("1000 notes"), "{why}");
    memory.call("save", json!({"name": "n5", "text": "again"}));
    let (_, found) = memory.call("search", json!({"text": "x"}));
    assert_eq!(
        (found["hits"].as_array().unwrap().len(), &found["truncated"]),
        (100, &json!(true))
    );
    memory.call("list", json!({}));
}

#[test]
fn a_name_leads_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(&root);
    for name in [
        "",
        "..",
        ".",
        "../x",
        "/etc",
        "a/b",
        "a\u{0}",
        "A",
        "ä",
        "a.b",
        &"a".repeat(65),
    ] {
        for (tool, arguments) in [
            ("save", json!({"name": name, "text": "x"})),
            ("read", json!({"name": name})),
            ("forget", json!({"name": name})),
        ] {
            let why = memory.refused(tool, arguments);
            assert!(why.contains("is expected"), "{tool} {name:?}: {why}");
        }
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
