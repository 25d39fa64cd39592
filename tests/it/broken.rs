//! Row O2: policies that cannot be meant. None of them is what pawd starts with, and none replaces the one that is in force.

use std::fs;

use harness::{
    Pawd, Root, Setup,
    pawd::refused,
    within,
    words::{call, data},
};
use paw_api::{ErrorKind, system::PolicyRpcClient, trail::AuditRpcClient};
use paw_policy::State;
use serde_json::json;

/// One in a line: what is no Cedar, has no name or one that is taken, names what there is not, or compares what cannot be compared.
const BROKEN: &str = include_str!("policy/broken.txt");

const CONFIG: i32 = 78;

/// A file in which the third line is broken.
fn file(third: &str) -> String {
    format!(
        "// What this host adds.\n@id(\"fine\") permit (principal, action == Action::\"chat\", resource);\n{third}"
    )
}

/// A start reads them as a reload does, which is asked of each below; here some of each sort.
#[tokio::test]
async fn o2_broken_policies_of_each_sort_are_not_started_with_and_told_by_their_line() {
    assert!(BROKEN.lines().count() >= 60);
    let mut untold = Vec::new();
    for broken in BROKEN.lines().step_by(7) {
        let root = Root::new();
        root.write("etc/policy/60-broken.cedar", &file(broken));
        let (exit, text) = refused(&root).await;
        if exit != CONFIG || !text.contains("60-broken.cedar:3:") {
            untold.push(format!("{broken}\n  exit {exit}: {text}"));
        }
        assert!(!root.control().exists(), "{broken}");
    }
    assert!(untold.is_empty(), "{}", untold.join("\n"));
}

#[tokio::test]
async fn o2_no_broken_policy_replaces_the_one_in_force() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let reload = async || within("reloading", PolicyRpcClient::reload(&client)).await;
    for broken in BROKEN.lines() {
        pawd.root.write("etc/policy/60-broken.cedar", &file(broken));
        let error = reload().await.expect_err(broken);
        assert_eq!(data(&error).kind, ErrorKind::Invalid, "{broken}");
        let said = error.to_string();
        assert!(said.contains("60-broken.cedar:3:"), "{broken}: {said}");
        let action = call(&client, "list", json!({"path": "."})).await;
        let decided = (action.state, action.verdict.rules);
        assert_eq!(decided, (State::Completed, vec!["read".into()]), "{broken}");
    }
    let refused = Some("config_refused".to_owned());
    let records = AuditRpcClient::list(&client, None, refused, None, Some(1000));
    let records = within("the log", records).await.unwrap();
    assert_eq!(records.len(), BROKEN.lines().count());
    // The same file, mended.
    let good = "@id(\"fine\") permit (principal, action == Action::\"chat\", resource);\n";
    pawd.root.write("etc/policy/60-broken.cedar", good);
    assert_eq!(reload().await.unwrap().changed, ["policy"]);
}

/// What is no text, too much of it, or anybody's has no line; it is told by its file.
#[tokio::test]
async fn o2_policy_that_is_no_text_or_that_others_may_write_is_refused() {
    let good = "@id(\"fine\") permit (principal, action, resource);\n";
    let spoil = |root: &Root, which: usize| {
        let path = root.path().join("etc/policy/60-broken.cedar");
        root.write("etc/policy/60-broken.cedar", good);
        match which {
            0 => fs::write(&path, b"\xff\xfe"),
            1 => fs::write(&path, good.repeat(100_000)),
            2 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
            3 => fs::remove_file(&path).and_then(|()| std::os::unix::fs::symlink("nowhere", &path)),
            4 => {
                root.mode("etc/policy/60-broken.cedar", 0o666);
                Ok(())
            }
            _ => {
                root.mode("etc/policy", 0o777);
                Ok(())
            }
        }
        .unwrap();
    };
    for which in 0..6 {
        let root = Root::new();
        spoil(&root, which);
        let (exit, text) = refused(&root).await;
        let named = text.contains("60-broken.cedar") || text.contains("etc/policy");
        assert!(exit == CONFIG && named, "{which}: {exit} {text}");
    }
}
