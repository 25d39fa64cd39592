//! What keeps pawd from starting: each cause is refused with what failed, why, and what to do, and nothing stored is harmed.

use std::{fs, os::unix::net::UnixListener};

use harness::{FakeLauncher, Pawd, Root, Setup, pawd::refused, within};
use paw_api::system::SystemRpcClient;

const USAGE: i32 = 64;
const SOFTWARE: i32 = 70;
const PERMISSION: i32 = 77;
const CONFIG: i32 = 78;

/// Starts pawd in this root, expects this exit code, and that what it says contains all of these.
async fn check(root: &Root, code: i32, says: &[&str]) {
    let (exit, text) = refused(root).await;
    assert_eq!(exit, code, "{text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_listed_with_its_place_and_a_hint() {
    let root = Root::new();
    root.write(
        "etc/pawd.toml",
        "[log]\nlevel = \"shouting\"\n\n[rpc]\nconnections = 0\nfrobs = 3\n\n[provider.p]\nkind = \"oracle\"\nbase_url = \"not a url\"\nmodel = \"m\"\n\n[agent.a]\nprovider = \"nobody\"\n",
    );
    check(
        &root,
        CONFIG,
        &[
            "pawd.toml:2:9",
            "pawd.toml:5:15",
            "pawd.toml:6:",
            "pawd.toml:9:8",
            "pawd.toml:10:12",
            "pawd.toml:14:12",
            "frobs",
            "hint",
        ],
    )
    .await;
}

#[tokio::test]
async fn text_that_is_no_toml_is_refused_with_its_line() {
    let root = Root::new();
    root.write("etc/pawd.toml", "[log\nlevel = 1\n");
    check(&root, CONFIG, &["pawd.toml:1:"]).await;
}

#[tokio::test]
async fn fault_of_a_second_file_names_that_file() {
    let root = Root::new();
    root.write("etc/pawd.toml", "");
    root.write("etc/pawd.d/20-more.toml", "[actions]\nqueue = \"many\"\n");
    check(&root, CONFIG, &["20-more.toml:2:9"]).await;
}

#[tokio::test]
async fn fault_of_a_policy_is_a_fault_of_the_configuration() {
    let root = Root::new();
    root.write(
        "etc/policy/10-mine.cedar",
        "permit (principal, action, resource",
    );
    check(&root, CONFIG, &["10-mine.cedar"]).await;
}

#[tokio::test]
async fn configuration_that_others_may_write_is_refused() {
    for (name, mode) in [("etc/pawd.toml", 0o666), ("etc", 0o777)] {
        let root = Root::new();
        root.write("etc/pawd.toml", "");
        root.mode(name, mode);
        check(
            &root,
            CONFIG,
            &[root.path().join(name).to_str().unwrap(), "chmod"],
        )
        .await;
    }
}

#[tokio::test]
async fn check_config_lists_faults_and_starts_nothing() {
    let root = Root::new();
    root.write("etc/pawd.toml", "[log]\nlevel = \"shouting\"\n");
    let mut command = harness::pawd::command(&root);
    command.arg("--check-config");
    let (exit, text) = harness::Running::unprivileged("pawd", command)
        .refused()
        .await;
    assert!(
        exit == CONFIG && text.contains("pawd.toml:2:9"),
        "{exit} {text}"
    );
    assert!(!root.control().exists());
}

#[tokio::test]
async fn unknown_option_is_a_usage_error() {
    let root = Root::new();
    let mut command = harness::pawd::command(&root);
    command.arg("--frobnicate");
    let (exit, text) = harness::Running::unprivileged("pawd", command)
        .refused()
        .await;
    assert!(
        exit == USAGE && text.contains("--frobnicate"),
        "{exit} {text}"
    );
}

#[tokio::test]
async fn second_instance_is_refused_and_the_first_notices_nothing() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    check(&pawd.root, PERMISSION, &["another pawd", "control.sock"]).await;
    assert_eq!(client.ping().await.unwrap(), "pong");
    assert_eq!(
        pawd.client().await.ping().await.unwrap(),
        "pong",
        "the path still leads to the first one"
    );
}

#[tokio::test]
async fn socket_path_that_is_taken_by_a_file_is_left_alone() {
    let root = Root::new();
    root.write("run/control.sock", "precious");
    check(&root, CONFIG, &["control.sock", "no socket"]).await;
    assert_eq!(fs::read_to_string(root.control()).unwrap(), "precious");
}

#[tokio::test]
async fn socket_that_a_dead_pawd_left_behind_is_replaced() {
    let root = Root::new();
    root.write("etc/pawd.toml", "");
    drop(UnixListener::bind(root.control()).unwrap());
    root.give("run/control.sock");
    let pawd = Pawd::start_in(root, Setup::new()).await;
    assert_eq!(pawd.client().await.ping().await.unwrap(), "pong");
}

#[tokio::test]
async fn damaged_store_is_refused_with_what_to_do_and_not_touched() {
    let root = Root::new();
    let junk = b"redb".repeat(4096);
    fs::write(root.path().join("state/pawd.redb"), &junk).unwrap();
    root.mode("state/pawd.redb", 0o600);
    root.give("state/pawd.redb");
    check(
        &root,
        SOFTWARE,
        &["pawd.redb", "damaged", "copy the newest backup"],
    )
    .await;
    assert!(
        fs::read(root.path().join("state/pawd.redb")).unwrap() == junk,
        "the file was changed"
    );
}

#[tokio::test]
async fn store_of_a_newer_version_is_refused_and_stays_readable() {
    let root = Root::new();
    let newer = include_bytes!("newer.redb");
    fs::write(root.path().join("state/pawd.redb"), newer).unwrap();
    root.mode("state/pawd.redb", 0o600);
    root.give("state/pawd.redb");
    // The database notes that it was opened; what it holds is the same the second time.
    for _ in 0..2 {
        check(&root, SOFTWARE, &["pawd.redb", "999", "install pawd 9.9.9"]).await;
    }
}

#[tokio::test]
async fn store_in_use_is_refused() {
    let mut pawd = Pawd::start(Setup::new()).await;
    // The same state under another root: another socket, so only the store is in the way.
    let other = Root::new();
    fs::remove_dir(other.path().join("state")).unwrap();
    std::os::unix::fs::symlink(pawd.root.path().join("state"), other.path().join("state")).unwrap();
    check(&other, SOFTWARE, &["in use"]).await;
    assert_eq!(pawd.stop().await, 0);
}

#[tokio::test]
async fn without_audit_writer_pawd_does_not_start() {
    let root = Root::new();
    let _launcher = FakeLauncher::start(&root);
    check(&root, SOFTWARE, &["audit writer"]).await;
}

#[tokio::test]
async fn missing_key_of_a_provider_is_refused_with_where_to_put_it() {
    let root = Root::new();
    root.write(
        "etc/pawd.toml",
        "[provider.p]\nkind = \"openai\"\nbase_url = \"https://api.example.com/v1\"\nmodel = \"m\"\napi_key_credential = \"p.key\"\n",
    );
    check(&root, CONFIG, &["p.key", "LoadCredential"]).await;
}

#[tokio::test]
async fn standalone_without_root_is_refused_with_the_reason() {
    let root = Root::new();
    let mut command = harness::pawd::command(&root);
    command.arg("--standalone");
    let (exit, text) = within("refusal", async {
        harness::Running::unprivileged("pawd", command)
            .refused()
            .await
    })
    .await;
    assert!(exit == PERMISSION && text.contains("root"), "{exit} {text}");
}

#[tokio::test]
async fn kernel_below_the_configured_floor_is_refused() {
    let root = Root::new();
    root.write("etc/pawd.toml", "[confinement]\nlandlock_floor = 64\n");
    check(
        &root,
        PERMISSION,
        &["landlock ABI", "floor is 64", "newer kernel"],
    )
    .await;
}
