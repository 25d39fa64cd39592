//! The vault through pawctl and its users: what is kept in it goes where it is allowed to and is found nowhere else.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    process::{Output, Stdio},
};

use harness::{
    Model, Pawd, Root, Setup, stage, within,
    words::{rest, say},
};
use jsonrpsee::async_client::Client;
use nix::sys::signal::Signal;
use paw_api::{
    audit::{Answer, Entry, Event},
    provider::{ChatEvent, ProviderRpcClient, ProviderSpec},
    secret::{SecretRpcClient, VaultStatus},
    trail::AuditRpcClient,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::UnixStream};

use crate::trail::append;

/// A value that stands nowhere by chance.
pub(crate) const CANARY: &str = "sk-canary-7f3a91bcd4e05268";

/// A pawd with a key for its vault, and the model as provider `local`, so that its port may be connected to.
pub(crate) async fn with_key(model: &Model) -> Pawd {
    let setup = Setup::new().ollama(model);
    let root = setup.root();
    key_file(&root, "etc/vault.key", '1');
    Pawd::start_in(root, setup).await
}

pub(crate) fn key_file(root: &Root, path: &str, digit: char) {
    root.write(path, &(digit.to_string().repeat(64) + "\n"));
    root.mode(path, 0o400);
    root.give(path);
}

/// `pawctl ARGUMENTS` with this on stdin.
async fn told(pawd: &Pawd, arguments: &[&str], stdin: &str) -> Output {
    let mut child = std::process::Command::new(stage::program("pawctl"))
        .arg("--root")
        .arg(pawd.root.path())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // One that does not read it has failed already, and says so.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    within("pawctl", ended).await.unwrap()
}

pub(crate) async fn done(pawd: &Pawd, arguments: &[&str], stdin: &str) -> String {
    let output = told(pawd, arguments, stdin).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code, and what it said.
pub(crate) async fn refused(pawd: &Pawd, arguments: &[&str], stdin: &str) -> (i32, String) {
    let output = told(pawd, arguments, stdin).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), said)
}

/// A provider `mine` whose key is the secret of this name.
pub(crate) async fn provider(client: &Client, model: &Model, secret: &str) {
    let spec = ProviderSpec {
        kind: Some("openai".into()),
        base_url: Some(model.url()),
        model: Some("m".into()),
        max_retries: Some(0),
        api_key_secret: Some(secret.into()),
        ..ProviderSpec::default()
    };
    client.add("mine".into(), spec).await.unwrap();
}

pub(crate) async fn test(client: &Client) -> Result<(), String> {
    let tested = ProviderRpcClient::test(client, Some("mine".into())).await;
    tested.map(drop).map_err(|error| error.to_string())
}

/// Keys that the model was asked with for an answer, in their order.
pub(crate) fn keys(model: &Model) -> Vec<String> {
    let asked = model.asked().into_iter();
    asked
        .filter(|it| it.line.contains("completions"))
        .map(|it| {
            let mut found = it.headers.iter().filter_map(|header| {
                let (name, value) = header.split_once(": ")?;
                name.eq_ignore_ascii_case("authorization")
                    .then(|| value.trim_start_matches("Bearer ").to_owned())
            });
            found.next().unwrap_or_default()
        })
        .collect()
}

/// The recovery key that pawctl showed.
pub(crate) fn recovery_key(shown: &str) -> String {
    let line = shown.lines().find(|it| it.starts_with("Recovery key: "));
    line.unwrap()
        .trim_start_matches("Recovery key: ")
        .to_owned()
}

pub(crate) async fn status(client: &Client) -> VaultStatus {
    SecretRpcClient::status(client).await.unwrap()
}

pub(crate) async fn records(client: &Client, event: &str) -> Vec<Value> {
    AuditRpcClient::list(client, None, Some(event.into()), None, None)
        .await
        .unwrap()
}

/// Every file below a directory that holds this, however it was written there.
pub(crate) fn files_with(directory: &Path, needles: &[Vec<u8>], found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_with(&entry.path(), needles, found);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            let here = needles.iter().filter(|needle| holds(&bytes, needle));
            found.extend(here.map(|_| entry.path().display().to_string()));
        }
    }
}

pub(crate) fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|part| part == needle)
}

/// Whether the memory of a process holds this; whoever may not look has seen that others may not, either.
fn memory_holds(pid: i32, needle: &[u8]) -> Option<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = Vec::new();
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next()?, words.next()?);
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let bounds = [start, end].map(|it| u64::from_str_radix(it, 16).unwrap());
        bytes.resize(usize::try_from(bounds[1] - bounds[0]).unwrap(), 0);
        // Pages that are only reserved cannot be read.
        if memory.seek(SeekFrom::Start(bounds[0])).is_ok()
            && memory.read_exact(&mut bytes).is_ok()
            && holds(&bytes, needle)
        {
            return Some(true);
        }
    }
    Some(false)
}

#[tokio::test]
async fn a_secret_goes_to_whom_it_is_for_and_is_found_nowhere_else() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    let mut said = vec![done(&pawd, &["secret", "init"], "").await];
    said.push(done(&pawd, &["secret", "set", "cloud"], &format!("{CANARY}\n")).await);
    said.push(done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await);
    provider(&client, &model, "cloud").await;
    test(&client).await.unwrap();
    ProviderRpcClient::default(&client, "mine".into())
        .await
        .unwrap();
    let events = rest(&mut say(&client, "hello").await).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(_))),
        "{events:?}"
    );
    assert_eq!(keys(&model), [CANARY, CANARY]);
    for arguments in [
        &["secret", "list", "-o", "json"][..],
        &["secret", "show", "cloud"],
        &["secret", "log"],
        &["secret", "status"],
        &["provider", "show", "mine"],
        &["provider", "list", "-o", "json"],
        &["audit", "list", "-o", "json"],
        &["events", "--after", "0"],
        &["metrics"],
        &["status", "-o", "json"],
        &["session", "list", "-o", "json"],
        &["action", "list", "-o", "json"],
    ] {
        said.push(done(&pawd, arguments, "").await);
    }
    // Error texts that are about it, or about a try to have it shown.
    for arguments in [
        &["secret", "set", "cloud"][..],
        &["secret", "set", "a name that is none"],
        &["secret", "show", CANARY],
        &["secret", "allow", "cloud", "nobody"],
    ] {
        let (code, error) = refused(&pawd, arguments, CANARY).await;
        assert_ne!(code, 0);
        said.push(error.replace(&format!("show {CANARY}"), ""));
    }
    said.push(pawd.daemon.stderr());
    said.push(pawd.audit.as_ref().unwrap().stderr());
    for pid in [pawd.daemon.pid(), pawd.audit.as_ref().unwrap().pid()] {
        for file in ["cmdline", "environ"] {
            // Root may look; a pawd that nobody may look into is as good.
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            said.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let core = limits
            .lines()
            .find(|it| it.starts_with("Max core file size"));
        assert!(
            core.is_none_or(|it| it.split_whitespace().nth(4) == Some("0")),
            "{limits}"
        );
    }
    for text in &said {
        // The name of a secret that is not there may be repeated to who asked for it.
        assert!(!text.replace("cloud", "").contains(CANARY), "{text}");
    }
    let needles = [
        CANARY.as_bytes().to_vec(),
        CANARY
            .bytes()
            .flat_map(|byte| format!("{byte:02x}").into_bytes())
            .collect(),
    ];
    let mut found = Vec::new();
    files_with(pawd.root.path(), &needles, &mut found);
    assert_eq!(found, [] as [String; 0]);
    // Those that have no business with it.
    let audit = pawd.audit.as_ref().unwrap().pid();
    assert_ne!(memory_holds(audit, CANARY.as_bytes()), Some(true));
}

#[tokio::test]
async fn a_secret_is_for_nobody_until_somebody_is_allowed() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    provider(&client, &model, "cloud").await;
    let why = test(&client).await.unwrap_err();
    assert!(
        why.contains("pawctl secret allow cloud provider:mine"),
        "{why}"
    );
    done(&pawd, &["secret", "allow", "cloud", "provider:other"], "").await;
    test(&client).await.unwrap_err();
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    test(&client).await.unwrap();
    done(&pawd, &["secret", "deny", "cloud", "provider:mine"], "").await;
    test(&client).await.unwrap_err();
    assert_eq!(keys(&model), [CANARY], "nothing was sent without the key");
    let refused = records(&client, "secret_refused").await;
    assert!(refused.len() >= 3, "{refused:?}");
    let used = records(&client, "secret_used").await;
    let entry = &used[0]["entry"];
    assert_eq!(entry["detail"]["secret"], "cloud");
    assert_eq!(entry["detail"]["for"], "provider:mine");
    assert_eq!(entry["detail"]["version"], "1");
}

#[tokio::test]
async fn provider_is_added_changed_and_made_the_default_by_pawctl_with_a_secret_as_its_key() {
    let (model, spare) = (Model::start().await, Model::start().await);
    let setup = Setup::new().ollama(&model);
    // So that its port may be connected to.
    let setup = setup.provider("spare", "ollama", &spare.url(), "");
    let root = setup.root();
    key_file(&root, "etc/vault.key", '1');
    let pawd = Pawd::start_in(root, setup).await;
    done(&pawd, &["secret", "init"], "").await;
    for name in ["cloud", "other"] {
        done(&pawd, &["secret", "set", name], &format!("{CANARY}-{name}")).await;
        done(&pawd, &["secret", "allow", name, "provider:mine"], "").await;
    }
    let (url, spare_url) = (model.url(), spare.url());
    let add = [
        "provider",
        "add",
        "mine",
        "--kind",
        "openai",
        "--base-url",
        &url,
        "--model",
        "m",
    ];
    let with_secret = [&add[..], &["--api-key-secret", "cloud"]].concat();
    done(&pawd, &with_secret, "").await;
    done(&pawd, &["provider", "default", "mine"], "").await;
    done(&pawd, &["chat", "hello"], "").await;
    let edit = [
        "provider",
        "edit",
        "mine",
        "--base-url",
        &spare_url,
        "--api-key-secret",
        "other",
    ];
    done(&pawd, &edit, "").await;
    done(&pawd, &["chat", "hello"], "").await;
    assert_eq!(keys(&model), [format!("{CANARY}-cloud")]);
    assert_eq!(keys(&spare), [format!("{CANARY}-other")]);
    let shown = done(&pawd, &["provider", "show", "mine", "-o", "json"], "").await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["api_key_secret"], "other", "{shown}");
    // The key itself is no argument.
    let with_key = [&add[..], &["--api-key", "sk-x"]].concat();
    let (code, why) = refused(&pawd, &with_key, "").await;
    assert_eq!(code, 2, "{why}");
}

#[tokio::test]
async fn each_use_is_on_record_with_who_asked_and_for_which_action() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    ProviderRpcClient::default(&client, "mine".into())
        .await
        .unwrap();
    let events = rest(&mut say(&client, "hello").await).await;
    let Some(ChatEvent::Done(chat)) = events.last() else {
        panic!("{events:?}")
    };
    let used = records(&client, "secret_used").await;
    let of_chat = used
        .iter()
        .find(|it| it["entry"]["action"] == json!(chat.action_id));
    let of_chat = of_chat.unwrap_or_else(|| panic!("{used:?}"));
    assert!(of_chat["entry"]["actor"]["uid"].is_u64(), "{of_chat}");
    let shown = done(&pawd, &["secret", "log", "cloud", "-o", "json"], "").await;
    let shown: Vec<Value> = serde_json::from_str(&shown).unwrap();
    let events: Vec<&str> = shown
        .iter()
        .map(|it| it["entry"]["event"].as_str().unwrap())
        .collect();
    assert!(events.contains(&"secret_used") && events.contains(&"secret_changed"));
    assert!(!events.contains(&"vault_changed") && !events.contains(&"action_started"));
    // Each change is told before it is made, with the state that it leads to, and after it.
    let changed = records(&client, "secret_changed").await;
    let words: Vec<(&str, &str)> = changed
        .iter()
        .rev()
        .map(|it| {
            let entry = &it["entry"];
            let word = |value: &Value| value.as_str().unwrap().to_owned().leak() as &str;
            (
                word(&entry["outcome"]),
                word(&entry["detail"]["generation"]),
            )
        })
        .collect();
    assert_eq!(
        words,
        [("begun", "2"), ("done", "2"), ("begun", "3"), ("done", "3")]
    );
}

#[tokio::test]
async fn without_a_record_no_secret_is_used() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    test(&client).await.unwrap();
    let audit = pawd.audit.take().unwrap();
    drop(audit);
    let why = test(&client).await.unwrap_err();
    assert!(why.contains("without a record"), "{why}");
    assert_eq!(keys(&model), [CANARY]);
    pawd.start_audit_again();
    within("a record can be written again", async {
        while test(&client).await.is_err() {}
    })
    .await;
}

#[tokio::test]
async fn without_a_key_nothing_that_needs_one_works_and_it_says_how_to_make_one() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    assert_eq!(status(&client).await.state, "uninitialised");
    for arguments in [&["secret", "init"][..], &["secret", "set", "cloud"]] {
        let (code, said) = refused(&pawd, arguments, CANARY).await;
        assert_eq!(code, 1);
        let how = if arguments[1] == "init" {
            "systemd-creds"
        } else {
            "pawctl secret init"
        };
        assert!(said.contains(how), "{said}");
    }
    provider(&client, &model, "cloud").await;
    let why = test(&client).await.unwrap_err();
    assert!(why.contains("pawctl secret init"), "{why}");
    assert_eq!(keys(&model), [] as [&str; 0]);
    let mut found = Vec::new();
    files_with(pawd.root.path(), &[CANARY.as_bytes().to_vec()], &mut found);
    assert_eq!(found, [] as [String; 0]);
    assert!(!pawd.root.path().join("state/vault.redb").exists());
}

#[tokio::test]
async fn vault_opens_with_its_key_at_the_start_and_else_with_the_recovery_key() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    let recovery = recovery_key(&done(&pawd, &["secret", "init"], "").await);
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&pawd.client().await, &model, "cloud").await;
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    test(&client).await.unwrap();
    // Another key, as if its own was lost.
    pawd.stop().await;
    key_file(&pawd.root, "etc/vault.key", '2');
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(status(&client).await.state, "sealed");
    let why = test(&client).await.unwrap_err();
    assert!(why.contains("the vault is sealed"), "{why}");
    let (code, said) = refused(&pawd, &["secret", "set", "other"], CANARY).await;
    assert!(code == 1 && said.contains("pawctl secret unlock"), "{said}");
    let (code, said) = refused(&pawd, &["secret", "unlock", "--recovery"], "not a key").await;
    assert!(code == 2 && !said.contains("not a key"), "{said}");
    done(&pawd, &["secret", "unlock", "--recovery"], &recovery).await;
    // Without a restart.
    test(&client).await.unwrap();
    done(&pawd, &["secret", "lock"], "").await;
    test(&client).await.unwrap_err();
    assert_eq!(keys(&model), [CANARY, CANARY]);
}

/// The attacker has a copy of the file from before a secret was replaced, and puts it back; then one of another vault.
#[tokio::test]
async fn older_copy_of_the_vault_is_not_opened_but_with_the_recovery_key() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    let recovery = recovery_key(&done(&pawd, &["secret", "init"], "").await);
    done(&pawd, &["secret", "set", "cloud"], "sk-old-0000").await;
    pawd.stop().await;
    let file = pawd.root.path().join("state/vault.redb");
    let older = fs::read(&file).unwrap();
    pawd.start_again().await;
    done(&pawd, &["secret", "rotate", "cloud"], CANARY).await;
    pawd.stop().await;
    let newer = fs::read(&file).unwrap();
    // The writer of the log is started anew, too: what it knows comes from the log.
    pawd.audit.as_mut().unwrap().kill9().await;
    pawd.start_audit_again();
    fs::write(&file, &older).unwrap();
    pawd.start_again().await;
    assert_eq!(status(&pawd.client().await).await.state, "sealed");
    let (code, said) = refused(&pawd, &["secret", "unlock"], "").await;
    assert!(code == 1 && said.contains("older copy"), "{said}");
    let told = records(&pawd.client().await, "vault_changed").await;
    let outcome = told[0]["entry"]["outcome"].as_str().unwrap();
    assert!(outcome.contains("older copy"), "{outcome}");
    // What was not rolled back opens.
    pawd.stop().await;
    fs::write(&file, &newer).unwrap();
    pawd.start_again().await;
    assert_eq!(status(&pawd.client().await).await.state, "unsealed");
    // Who restores a backup says so with the recovery key, and from then on it is the one that is known.
    pawd.stop().await;
    fs::write(&file, &older).unwrap();
    pawd.start_again().await;
    done(&pawd, &["secret", "unlock", "--recovery"], &recovery).await;
    let back = status(&pawd.client().await).await.generation;
    assert_eq!(back, Some(4), "it is a change after the newest one");
    pawd.stop().await;
    let newer_still = fs::read(&file).unwrap();
    pawd.start_again().await;
    assert_eq!(status(&pawd.client().await).await.state, "unsealed");
    // So what was there before it is the older one now.
    pawd.stop().await;
    fs::write(&file, &newer).unwrap();
    pawd.start_again().await;
    assert_eq!(status(&pawd.client().await).await.state, "sealed");
    pawd.stop().await;
    fs::write(&file, &newer_still).unwrap();
    pawd.start_again().await;
    assert_eq!(status(&pawd.client().await).await.state, "unsealed");
    // Another vault in its place, with the same key of the host.
    pawd.stop().await;
    fs::remove_file(&file).unwrap();
    pawd.start_again().await;
    done(&pawd, &["secret", "init"], "").await;
    pawd.stop().await;
    fs::write(&file, &newer).unwrap();
    pawd.start_again().await;
    let (code, said) = refused(&pawd, &["secret", "unlock"], "").await;
    assert!(code == 1 && said.contains("another vault"), "{said}");
    // And back to the first one on purpose: it counts on from what the log knew of it, and not from what the file says.
    done(&pawd, &["secret", "unlock", "--recovery"], &recovery).await;
    assert_eq!(status(&pawd.client().await).await.generation, Some(5));
}

/// Who has taken over pawd tells the log that the vault has seen fewer changes, and puts back the file with what was removed since.
#[tokio::test]
async fn log_is_not_told_that_the_vault_has_seen_fewer_changes() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    pawd.stop().await;
    let file = pawd.root.path().join("state/vault.redb");
    let older = fs::read(&file).unwrap();
    pawd.start_again().await;
    done(&pawd, &["secret", "remove", "cloud"], "").await;
    let seen = status(&pawd.client().await).await;
    let told = |vault: &str, generation: u64| {
        let mut entry = Entry::new(Event::VaultChanged);
        entry.outcome = Some("done".into());
        entry.detail.insert("vault".into(), vault.to_owned());
        let generation = generation.to_string();
        entry.detail.insert("generation".into(), generation);
        entry
    };
    let vault = seen.vault.unwrap();
    let another = "00000000-0000-4000-8000-000000000001";
    let answers = append(
        &pawd,
        [
            told(&vault, 2),
            told(another, 1),
            told(&vault, 2),
            told(&vault, u64::MAX),
        ]
        .into_iter(),
    )
    .await;
    let taken: Vec<bool> = answers
        .iter()
        .map(|answer| matches!(answer, Answer::Appended(_)))
        .collect();
    assert_eq!(taken, [false, true, false, false], "{answers:?}");
    pawd.stop().await;
    fs::write(&file, &older).unwrap();
    pawd.start_again().await;
    assert_eq!(status(&pawd.client().await).await.state, "sealed");
    let (code, said) = refused(&pawd, &["secret", "unlock"], "").await;
    assert!(
        code == 1 && said.contains("is not what was written"),
        "{said}"
    );
}

/// The file is gone, and a copy of it from before the newest change is put back.
#[tokio::test]
async fn copy_that_is_older_than_the_log_knows_is_put_back_by_force_alone() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    let copy = pawd.root.path().join("copy");
    let copy = copy.to_str().unwrap();
    done(&pawd, &["secret", "export", copy], "").await;
    done(&pawd, &["secret", "set", "more"], "value").await;
    pawd.stop().await;
    fs::remove_file(pawd.root.path().join("state/vault.redb")).unwrap();
    pawd.start_again().await;
    let (code, why) = refused(&pawd, &["secret", "import", copy], "").await;
    assert!(code == 1 && why.contains("older than the vault"), "{why}");
    done(&pawd, &["secret", "import", copy, "--force"], "").await;
    assert_eq!(status(&pawd.client().await).await.generation, Some(4));
    pawd.stop().await;
    pawd.start_again().await;
    assert_eq!(status(&pawd.client().await).await.state, "unsealed");
}

#[tokio::test]
async fn vault_with_a_passphrase_is_opened_by_a_person() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let (code, said) = refused(&pawd, &["secret", "init", "--passphrase"], "short").await;
    assert!(code == 2 && said.contains("at least 12"), "{said}");
    let passphrase = "correct horse battery\n";
    done(&pawd, &["secret", "init", "--passphrase"], passphrase).await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(status(&client).await.state, "sealed");
    let (code, said) = refused(&pawd, &["secret", "unlock"], "correct horse batteri").await;
    assert!(code == 4 && said.contains("not the key"), "{said}");
    assert_eq!(status(&client).await.wrong_keys, 1);
    done(&pawd, &["secret", "unlock"], passphrase).await;
    assert_eq!(status(&client).await.secrets, Some(1));
    let written = [
        pawd.daemon.stderr(),
        json!(records(&client, "vault_changed").await).to_string(),
    ];
    assert!(
        written.iter().all(|it| !it.contains("horse")),
        "{written:?}"
    );
}

#[tokio::test]
async fn older_version_is_used_by_who_names_it_until_its_time_is_over() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], "one").await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud@1").await;
    done(&pawd, &["secret", "rotate", "cloud", "--keep", "1h"], "two").await;
    test(&client).await.unwrap();
    let newest = ProviderSpec {
        api_key_secret: Some("cloud".into()),
        ..ProviderSpec::default()
    };
    client.edit("mine".into(), newest).await.unwrap();
    test(&client).await.unwrap();
    assert_eq!(keys(&model), ["one", "two"]);
    let pinned = ProviderSpec {
        api_key_secret: Some("cloud@1".into()),
        ..ProviderSpec::default()
    };
    client.edit("mine".into(), pinned).await.unwrap();
    done(&pawd, &["secret", "remove", "cloud", "--version", "1"], "").await;
    let why = test(&client).await.unwrap_err();
    assert!(why.contains("no such version"), "{why}");
}

#[tokio::test]
async fn another_key_takes_the_place_of_the_first_while_secrets_are_used() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    let client = pawd.client().await;
    let first = recovery_key(&done(&pawd, &["secret", "init"], "").await);
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    let old = fs::read(pawd.root.path().join("etc/vault.key")).unwrap();
    let shown = done(&pawd, &["secret", "rekey", "--key-file"], "").await;
    test(&client).await.unwrap();
    let new = fs::read(pawd.root.path().join("etc/vault.key")).unwrap();
    assert_ne!(old, new);
    assert!(!pawd.root.path().join("etc/vault.key.next").exists());
    pawd.root.give("etc/vault.key");
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    test(&client).await.unwrap();
    done(&pawd, &["secret", "lock"], "").await;
    let (code, _) = refused(&pawd, &["secret", "unlock", "--recovery"], &first).await;
    assert_eq!(code, 4, "the first recovery key is worth nothing any more");
    done(
        &pawd,
        &["secret", "unlock", "--recovery"],
        &recovery_key(&shown),
    )
    .await;
    test(&client).await.unwrap();
}

/// Nobody hears that they are not given a secret before that is on the disk.
#[tokio::test]
async fn refusal_of_a_secret_is_on_record_before_anybody_hears_of_it() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    provider(&client, &model, "cloud").await;
    let before = records(&client, "secret_refused").await.len();
    let writer = pawd.audit.take().expect("it has a writer");
    writer.signal(Signal::SIGSTOP);
    let asked = test(&client);
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => panic!("{answer:?} before there can be a record"),
        _said = pawd.daemon.says("audit writer does not answer", 1) => {}
    }
    writer.signal(Signal::SIGCONT);
    let why = within("the answer", asked).await.unwrap_err();
    assert!(why.contains("is not for provider:mine"), "{why}");
    let after = records(&client, "secret_refused").await.len();
    assert!(after > before, "{after} of {before}");
    // And where there can be no record, that is what they hear.
    drop(writer);
    pawd.daemon.says("audit writer lost", 1).await;
    let why = test(&client).await.unwrap_err();
    assert!(!why.contains("is not for"), "{why}");
    assert!(keys(&model).is_empty());
}

/// Who asks for a change and goes away has it made to its end, and on record to its end.
#[tokio::test]
async fn change_whose_caller_goes_away_is_recorded_to_its_end() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    let mut caller = UnixStream::connect(pawd.root.control()).await.unwrap();
    let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "secret.rekey", "params": {"passphrase": "of nobody here"}});
    caller
        .write_all(format!("{asked}\n").as_bytes())
        .await
        .unwrap();
    let outcomes = async || -> Vec<(String, String)> {
        let all = records(&client, "vault_changed").await;
        let told = |record: &Value| {
            let entry = &record["entry"];
            let change = entry["detail"]["change"].as_str().unwrap().to_owned();
            (change, entry["outcome"].as_str().unwrap().to_owned())
        };
        all.iter().map(told).collect()
    };
    let begun = ("rekeyed".to_owned(), "begun".to_owned());
    within("the record of its beginning", async {
        while !outcomes().await.contains(&begun) {}
    })
    .await;
    drop(caller);
    // Changes are made one after the other, so this one follows that one's end.
    done(&pawd, &["secret", "set", "cloud"], "value\n").await;
    let rekeyed = ("rekeyed".to_owned(), "done".to_owned());
    assert!(
        outcomes().await.contains(&rekeyed),
        "{:?}",
        outcomes().await
    );
    assert_eq!(status(&client).await.key.as_deref(), Some("passphrase"));
}
