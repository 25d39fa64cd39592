//! What goes over the wire, against the golden files in `wire/`.
//!
//! Each file is read as its type and written again; both must say the same. So a member that is renamed, dropped or new shows
//! here, and the files are what others may rely on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use jsonrpsee::types::ErrorObjectOwned;
use paw_api::{
    ErrorKind, action, agent, budget,
    error::{Error, ErrorData},
    events, image, job, model, provider, sandbox, secret, skill, system, trail, workspace,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("wire")
        .join(name)
        .with_extension("json");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn check<T: Serialize + DeserializeOwned>(name: &str) {
    let golden = golden(name);
    let read: T =
        serde_json::from_value(golden.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(read).unwrap(), golden, "{name}");
}

/// Every `type` of a file that lists the items of a subscription.
fn types(name: &str) -> BTreeSet<String> {
    golden(name)
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn messages_are_what_their_golden_files_say() {
    check::<action::Action>("action");
    check::<action::Action>("action-new");
    check::<action::Approval>("approval");
    check::<action::Grant>("grant");
    check::<action::Enrolment>("enrolment");
    check::<action::Page<action::Action>>("page");
    check::<action::Caller>("caller");
    check::<agent::Agent>("agent");
    check::<agent::AgentSpec>("agent-spec");
    check::<agent::Transcript>("transcript");
    check::<agent::Skill>("skill");
    check::<skill::SkillStaged>("skill-staged");
    check::<skill::SkillChecked>("skill-checked");
    check::<skill::BundlePiece>("bundle-piece");
    check::<provider::Provider>("provider");
    check::<provider::ProviderTest>("provider-test");
    check::<provider::Route>("route");
    check::<budget::Budget>("budget");
    check::<job::Job>("job");
    check::<job::JobRun>("job-run");
    check::<provider::Arms>("arms");
    check::<provider::ProviderSpec>("provider-spec");
    check::<model::Model>("model");
    check::<model::ModelWarmed>("model-warmed");
    check::<image::ImageInfo>("image");
    check::<image::ImageAdded>("image-added");
    check::<image::ImagesSwept>("images-swept");
    check::<image::Upload>("upload");
    check::<sandbox::RunSpec>("run-spec");
    check::<sandbox::RuntimeInfo>("runtime");
    check::<sandbox::SandboxInfo>("sandbox");
    check::<sandbox::SandboxDetail>("sandbox-detail");
    check::<sandbox::SandboxUsage>("sandbox-usage");
    check::<sandbox::SandboxesForgotten>("sandboxes-forgotten");
    check::<secret::Secret>("secret");
    check::<secret::VaultStatus>("vault-status");
    check::<secret::VaultKeyed>("vault-keyed");
    check::<workspace::Workspace>("workspace");
    check::<workspace::WorkspaceDiff>("workspace-diff");
    check::<workspace::Committed>("workspace-committed");
    check::<workspace::Discarded>("workspace-discarded");
    check::<workspace::Undone>("workspace-undone");
    check::<system::Status>("status");
    check::<system::Doctor>("doctor");
    check::<system::Reloaded>("reloaded");
    check::<system::Rule>("rule");
    check::<system::Explanation>("explanation");
    check::<system::BackedUp>("backed-up");
    check::<trail::Verification>("verification");
}

#[test]
fn items_of_subscriptions_are_what_their_golden_files_say() {
    check::<Vec<provider::ChatEvent>>("chat-events");
    assert_eq!(
        types("chat-events"),
        [
            "accepted",
            "delta",
            "done",
            "failed",
            "stream_reset",
            "tool"
        ]
        .map(String::from)
        .into()
    );
    check::<Vec<sandbox::RunEvent>>("run-events");
    assert_eq!(
        types("run-events"),
        ["ended", "failed", "started", "stderr", "stdout", "waiting"]
            .map(String::from)
            .into()
    );
    check::<Vec<sandbox::LogEvent>>("log-events");
    assert_eq!(
        types("log-events"),
        ["end", "stderr", "stdout"].map(String::from).into()
    );
    check::<Vec<model::SwitchEvent>>("switch-events");
    check::<Vec<model::PullEvent>>("pull-events");
    for name in ["switch-events", "pull-events"] {
        assert_eq!(
            types(name),
            ["done", "failed", "progress"].map(String::from).into()
        );
    }
    check::<Vec<events::EventItem>>("event-items");
    assert_eq!(
        types("event-items"),
        ["cut", "event"].map(String::from).into()
    );
}

#[test]
fn a_command_needs_no_more_than_its_arguments() {
    let spec: sandbox::RunSpec = serde_json::from_value(json!({"argv": ["true"]})).unwrap();
    assert_eq!(
        (spec.argv, spec.stdin, spec.memory),
        (vec!["true".to_owned()], false, None)
    );
}

#[test]
fn a_command_with_an_unknown_member_is_refused() {
    let error = serde_json::from_value::<sandbox::RunSpec>(json!({"argv": ["true"], "uid": 0}))
        .unwrap_err();
    assert!(error.to_string().contains("unknown field `uid`"), "{error}");
}

#[test]
fn every_kind_of_error_has_its_code_and_shape() {
    let written: Vec<Value> = ErrorKind::ALL
        .into_iter()
        .map(|kind| {
            let error = Error::new(kind, "what failed and why", "what to do")
                .about("its id")
                .retry_after_ms(250);
            json!({"error": ErrorObjectOwned::from(error), "exit_code": kind.exit_code()})
        })
        .collect();
    assert_eq!(Value::from(written), golden("errors"));
}

#[test]
fn what_an_error_does_not_have_is_not_written() {
    let data = serde_json::to_value(Error::new(ErrorKind::Failed, "a", "b").data).unwrap();
    assert_eq!(data, json!({"kind": "failed", "hint": "b"}));
    assert_eq!(serde_json::from_value::<ErrorData>(data).unwrap().id, None);
}

#[test]
fn codes_and_kinds_are_one_to_one() {
    let codes: BTreeSet<i32> = ErrorKind::ALL.into_iter().map(ErrorKind::code).collect();
    assert_eq!(codes.len(), ErrorKind::ALL.len());
    assert!(codes.iter().all(|code| (-32099..=-32000).contains(code)));
    for kind in ErrorKind::ALL {
        assert_eq!(ErrorKind::of_code(kind.code()), Some(kind));
    }
}
