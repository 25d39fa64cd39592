//! The vault from outside: what becomes of versions with time, and a copy of it that is put back.

use std::fs;

use harness::Model;
use paw_api::secret::SecretRpcClient;
use serde_json::{Value, json};

use crate::secrets::{
    CANARY, done, holds, keys, provider, records, recovery_key, refused, status, test, with_key,
};

#[tokio::test]
async fn version_whose_time_is_over_is_destroyed_then_without_anybody_asking() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], "value-one").await;
    done(
        &pawd,
        &["secret", "rotate", "cloud", "--keep", "1s"],
        "value-two",
    )
    .await;
    let shown = SecretRpcClient::show(&client, "cloud".into())
        .await
        .unwrap();
    assert_eq!(shown.versions.len(), 2);
    pawd.daemon
        .says("versions of secrets are destroyed", 1)
        .await;
    let shown = SecretRpcClient::show(&client, "cloud".into())
        .await
        .unwrap();
    assert_eq!(shown.versions.len(), 1, "{shown:?}");
    let changed = records(&client, "vault_changed").await;
    let detail = &changed[0]["entry"]["detail"];
    assert_eq!(detail["change"], "versions destroyed whose time is over");
}

#[tokio::test]
async fn vault_is_exported_and_put_back_and_an_older_one_by_force_alone() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    let recovery = recovery_key(&done(&pawd, &["secret", "init"], "").await);
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    let file = pawd.root.path().join("copy");
    let file = file.to_str().unwrap();
    let said = done(&pawd, &["secret", "export", file], "").await;
    assert!(said.contains("generation 3"), "{said}");
    let copy = fs::read(file).unwrap();
    assert!(!holds(&copy, CANARY.as_bytes()) && !holds(&copy, b"cloud"));
    // A file that is there is not written over.
    refused(&pawd, &["secret", "export", file], "").await;
    done(
        &pawd,
        &["secret", "rotate", "cloud"],
        "sk-canary-of-later-0123456789",
    )
    .await;
    let (code, why) = refused(&pawd, &["secret", "import", file], "").await;
    assert!(
        code == 1 && why.contains("older than the vault"),
        "{code} {why}"
    );
    provider(&client, &model, "cloud").await;
    test(&client).await.unwrap();
    done(
        &pawd,
        &["secret", "import", file, "--recovery", "--force"],
        &recovery,
    )
    .await;
    test(&client).await.unwrap();
    assert_eq!(keys(&model), ["sk-canary-of-later-0123456789", CANARY]);
    let changed = records(&client, "vault_changed").await;
    let changes: Vec<&Value> = changed
        .iter()
        .map(|it| &it["entry"]["detail"]["change"])
        .collect();
    assert!(
        changes.contains(&&json!("imported")) && changes.contains(&&json!("exported")),
        "{changes:?}"
    );
    let mark = status(&client).await.generation;
    assert_eq!(mark, Some(5), "it counts as a change after the newest one");
}

/// As on a full disk after a crash: the file is there, and cannot be opened when pawd starts.
#[tokio::test]
async fn vault_that_could_not_be_opened_at_the_start_is_opened_once_it_can_be() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    assert_eq!(pawd.stop().await, 0);
    pawd.root.mode("state/vault.redb", 0o000);
    pawd.start_again().await;
    let client = pawd.client().await;
    let seen = status(&client).await;
    assert_eq!(seen.state, "unusable", "{seen:?}");
    test(&client).await.unwrap_err();
    assert_eq!(keys(&model), [""; 0]);
    // Nothing takes its place, and whoever needs it next has it.
    pawd.root.mode("state/vault.redb", 0o600);
    test(&client).await.unwrap();
    assert_eq!(keys(&model), [CANARY]);
    assert_eq!(status(&client).await.state, "unsealed");
}
