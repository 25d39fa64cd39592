//! A model that calls the skill that ships, with real sandboxes: what it did is there, seen from outside.

use std::{fs, path::Path};

use harness::{
    Answer as Says, Model, cases,
    report::Case,
    standalone::Standalone,
    words::{accepted, answer, next, say},
};
use paw_api::{action::Answer, provider::ChatEvent};
use serde_json::json;

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![without_sandboxes; what_a_model_writes_after_an_approval_is_in_the_workspace]
}

async fn what_a_model_writes_after_an_approval_is_in_the_workspace() {
    let model = Model::start().await;
    let provider = format!(
        "[provider.local]\nkind = \"ollama\"\nbase_url = \"{}\"\nmodel = \"m\"\n",
        model.url()
    );
    let system = Standalone::start(&provider).await;
    let client = system.client().await;
    let (list, read) = (
        ("files__list", json!({"path": "."})),
        ("files__read", json!({"path": "haiku.txt"})),
    );
    let write = (
        "files__write",
        json!({"path": "haiku.txt", "text": "An old silent pond"}),
    );
    for step in [list, write, read] {
        model.will(Says::calls(&[step]));
    }
    model.will(Says::says(&["It is written."]));
    let mut chat = say(&client, "write a haiku").await;
    accepted(&mut chat).await;
    let result = loop {
        match next(&mut chat).await {
            ChatEvent::Tool(called) if called.state == "waiting_approval" => {
                assert_eq!(called.tool, "files/write");
                let (id, digest) = (
                    called.action_id.expect("it is one"),
                    called.digest.expect("it waits"),
                );
                answer(&client, &id, digest, Answer::Approve)
                    .await
                    .expect("an administrator may");
            }
            ChatEvent::Tool(called) => assert_ne!(called.state, "failed", "{called:?}"),
            ChatEvent::Done(result) => break result,
            ChatEvent::Failed { message, .. } => panic!("{message}"),
            ChatEvent::Accepted { .. }
            | ChatEvent::Delta { .. }
            | ChatEvent::StreamReset { .. } => {}
        }
    };
    assert_eq!(result.text, "It is written.");
    let asked = model.asked();
    let last = asked
        .iter()
        .rfind(|it| it.line.contains("/chat"))
        .expect("it was asked");
    assert!(
        last.body.to_string().contains("An old silent pond"),
        "it has read what it wrote"
    );
    let found = find(&system.root.path().join("launcher/workspaces"), "haiku.txt");
    let text = found.map(|path| fs::read_to_string(path).expect("it is readable"));
    assert_eq!(text.as_deref(), Some("An old silent pond"));
}

/// A file of this name anywhere below a directory.
fn find(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    entries
        .into_iter()
        .find_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => find(&entry.path(), name),
            Ok(_) if entry.file_name() == name => Some(entry.path()),
            Ok(_) | Err(_) => None,
        })
}
