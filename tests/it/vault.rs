//! The vault from outside: what becomes of versions with time, and a copy of it that is put back.

use std::fs;

use harness::{Model, Pawd, Setup};
use paw_api::secret::SecretRpcClient;
use serde_json::{Value, json};

use crate::secrets::{
    CANARY, done, holds, key_file, keys, provider, records, recovery_key, refused, status, test,
    with_key,
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

/// As systemd hands over `LoadCredentialEncrypted=pawd-kek:…`: a file of that name in a directory of this service.
#[tokio::test]
async fn credential_of_the_service_manager_opens_the_vault_and_comes_before_a_file() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model).credentials("handed-over");
    let root = setup.root();
    key_file(&root, "handed-over/pawd-kek", '2');
    key_file(&root, "etc/vault.key", '1');
    root.give("handed-over");
    let mut pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let at_start = status(&client).await.key_at_start;
    assert_eq!(at_start.as_deref(), Some("credential"));
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    let seen = status(&client).await;
    assert_eq!(seen.key.as_deref(), Some("credential"), "{seen:?}");
    // Whatever is in the file by then, or if there is none, it is the credential that opens it.
    for file in [Some('3'), None] {
        pawd.stop().await;
        fs::remove_file(pawd.root.path().join("etc/vault.key")).unwrap();
        if let Some(digit) = file {
            key_file(&pawd.root, "etc/vault.key", digit);
        }
        pawd.start_again().await;
        let seen = status(&pawd.client().await).await;
        assert_eq!(
            (seen.state.as_str(), seen.secrets),
            ("unsealed", Some(1)),
            "{file:?}: {seen:?}"
        );
    }
    // The file alone, with another key, does not.
    pawd.stop().await;
    key_file(&pawd.root, "etc/vault.key", '1');
    fs::remove_file(pawd.root.path().join("handed-over/pawd-kek")).unwrap();
    pawd.start_again().await;
    let seen = status(&pawd.client().await).await;
    assert_eq!(seen.state, "sealed", "{seen:?}");
    // With the credential's key in it, neither: a vault has one source, and its header says which.
    pawd.stop().await;
    fs::remove_file(pawd.root.path().join("etc/vault.key")).unwrap();
    key_file(&pawd.root, "etc/vault.key", '2');
    pawd.start_again().await;
    let seen = status(&pawd.client().await).await;
    assert_eq!(seen.key_at_start.as_deref(), Some("file"), "{seen:?}");
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

/// What `doctor` finds about the vault, whether all is well otherwise, and the problems of `status`.
async fn found(pawd: &Pawd) -> (Vec<(String, String)>, bool, String) {
    let shown = async |command: &str| {
        let output = pawd.pawctl(&[command, "-o", "json"]).await;
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let doctor = shown("doctor").await;
    let findings = doctor["findings"].as_array().unwrap().iter();
    let of_vault = findings.filter_map(|it| {
        let word = |name: &str| it[name].as_str().unwrap().to_owned();
        let id = word("id").strip_prefix("vault.")?.to_owned();
        assert!(!word("what").is_empty() && !word("remedy").is_empty());
        Some((id, word("severity")))
    });
    let of_vault = of_vault.collect();
    let text = pawd.pawctl(&["doctor"]).await;
    let well = String::from_utf8_lossy(&text.stdout).contains("all is well");
    let status = shown("status").await;
    (of_vault, well, status["problems"].to_string())
}

fn word(id: &str, severity: &str) -> Vec<(String, String)> {
    vec![(id.to_owned(), severity.to_owned())]
}

#[tokio::test]
async fn vault_that_keeps_secrets_from_being_used_is_told_of_by_doctor_and_status() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let (nothing, _, problems) = found(&pawd).await;
    assert!(nothing.is_empty(), "there is none: {nothing:?}");
    assert!(!problems.contains("vault"), "{problems}");
    let passphrase = "correct horse battery\n";
    done(&pawd, &["secret", "init", "--passphrase"], passphrase).await;
    assert_eq!(found(&pawd).await.0, [], "it is open");
    pawd.stop().await;
    let file = pawd.root.path().join("state/vault.redb");
    let older = fs::read(&file).unwrap();
    pawd.start_again().await;
    let (sealed, well, problems) = found(&pawd).await;
    assert_eq!((sealed, well), (word("sealed", "warn"), false));
    assert!(problems.contains("pawctl secret unlock"), "{problems}");
    done(&pawd, &["secret", "unlock"], passphrase).await;
    assert_eq!(found(&pawd).await.0, []);
    done(&pawd, &["secret", "set", "more"], "value").await;
    pawd.stop().await;
    fs::write(&file, &older).unwrap();
    pawd.start_again().await;
    // Without anybody having tried to open it.
    let (put_back, well, problems) = found(&pawd).await;
    assert_eq!((put_back, well), (word("older", "error"), false));
    assert!(problems.contains("older copy"), "{problems}");
    let fault = status(&pawd.client().await).await.fault.unwrap();
    assert!(fault.contains("older copy"), "{fault}");
    pawd.stop().await;
    fs::remove_file(&file).unwrap();
    pawd.start_again().await;
    let (gone, _, problems) = found(&pawd).await;
    assert_eq!(gone, word("gone", "error"));
    assert!(problems.contains("pawctl secret import"), "{problems}");
}

#[tokio::test]
async fn import_says_which_key_is_missing_and_not_that_a_vault_is_sealed() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let (code, said) = refused(
        &pawd,
        &["secret", "init", "--passphrase"],
        "twice twice\ntwice twice\n",
    )
    .await;
    assert!(code == 2 && said.contains("more than one line"), "{said}");
    let passphrase = "correct horse battery\n";
    done(&pawd, &["secret", "init", "--passphrase"], passphrase).await;
    let copy = pawd.root.path().join("copy");
    let copy = copy.to_str().unwrap();
    done(&pawd, &["secret", "export", copy], "").await;
    // Into the open vault, and where there is none.
    for is_there in [true, false] {
        let (code, said) = refused(&pawd, &["secret", "import", copy], "").await;
        assert_eq!(code, 4, "{said}");
        assert!(
            said.contains("--passphrase") && said.contains("--recovery"),
            "{said}"
        );
        assert!(
            !said.contains("sealed") && !said.contains("unlock"),
            "{said}"
        );
        if is_there {
            pawd.stop().await;
            fs::remove_file(pawd.root.path().join("state/vault.redb")).unwrap();
            pawd.start_again().await;
        }
    }
    done(
        &pawd,
        &["secret", "import", copy, "--passphrase"],
        passphrase,
    )
    .await;
    let (code, said) = refused(&pawd, &["secret", "allow", "cloud", "foo:bar"], "").await;
    assert!(
        code == 2 && said.contains("skill:NAME") && !said.contains("bridge"),
        "{said}"
    );
}

#[tokio::test]
async fn key_of_the_vault_that_others_may_use_or_that_is_no_plain_file_is_none() {
    let root = Setup::new().root();
    let path = root.path().join("etc/vault.key");
    let check = async |what: &str, make: &dyn Fn(), remedy: &str| {
        make();
        let (code, said) = harness::pawd::refused(&root).await;
        assert_eq!(code, 78, "{what}: {said}");
        assert!(said.contains(remedy), "{what}: {said}");
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
    };
    for mode in [0o600, 0o440, 0o404, 0o500, 0o700, 0o4400] {
        let open = || {
            key_file(&root, "etc/vault.key", '1');
            root.mode("etc/vault.key", mode);
        };
        check(&format!("mode {mode:o}"), &open, "chmod 0400").await;
    }
    let another = root.path().join("etc/another.key");
    key_file(&root, "etc/another.key", '1');
    let link = || std::os::unix::fs::symlink(&another, &path).unwrap();
    let directory = || fs::create_dir(&path).unwrap();
    let pipe = || {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        root.give("etc/vault.key");
    };
    for (what, make) in [
        ("a link", &link as &dyn Fn()),
        ("a directory", &directory),
        ("a pipe", &pipe),
    ] {
        check(what, make, "is no plain file").await;
    }
    let padded = "1".repeat(64) + &"\n".repeat(64);
    for text in ["", "1", &"1".repeat(32), &"1".repeat(63), &padded] {
        let unfit = || {
            root.write("etc/vault.key", text);
            root.mode("etc/vault.key", 0o400);
            root.give("etc/vault.key");
        };
        let what = format!("{} bytes", text.len());
        check(&what, &unfit, "install -m 0400 /dev/stdin").await;
    }
}

#[tokio::test]
async fn sealed_vault_tells_how_it_is_and_is_opened_and_does_nothing_else() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    done(&pawd, &["secret", "lock"], "").await;
    let copy = pawd.root.path().join("copy");
    let copy = copy.to_str().unwrap();
    for arguments in [
        &["list"][..],
        &["show", "cloud"],
        &["set", "another"],
        &["rotate", "cloud"],
        &["remove", "cloud"],
        &["allow", "cloud", "agent:default"],
        &["deny", "cloud", "provider:mine"],
        &["export", copy],
        &["rekey"],
        &["lock"],
    ] {
        let all = [&["secret"], arguments].concat();
        let (code, said) = refused(&pawd, &all, "a value").await;
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(
            said.contains("the vault is sealed"),
            "{arguments:?}: {said}"
        );
    }
    let why = test(&client).await.unwrap_err();
    assert!(why.contains("the vault is sealed"), "{why}");
    assert!(keys(&model).is_empty());
    assert_eq!(status(&client).await.state, "sealed");
    done(&pawd, &["secret", "log"], "").await;
    done(&pawd, &["secret", "unlock"], "").await;
    test(&client).await.unwrap();
}
