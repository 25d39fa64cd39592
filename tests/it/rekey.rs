//! Another key for the vault: it is used all the time, and whatever is interrupted, one of the keys that stand there opens it.

use std::{fs, process::Stdio};

use harness::{Model, Pawd, Root, Setup, Traced, stage, traced::Call, within};
use nix::libc::{SYS_fsync, SYS_linkat, SYS_sendto, SYS_write};
#[cfg(target_arch = "x86_64")]
use nix::libc::{SYS_rename, SYS_unlink};
#[cfg(target_arch = "aarch64")]
use nix::libc::{SYS_renameat as SYS_rename, SYS_unlinkat as SYS_unlink};
use paw_api::secret::{Hidden, SecretRpcClient};
use paw_vault::{NewKey, Source, Vault, key::HostKey};
use secrecy::SecretString;

use crate::secrets::{CANARY, done, key_file, keys, provider, refused, status, test, with_key};

/// A vault with so many secrets where pawd looks for it, made by nobody that the log knows.
fn vault_of(root: &Root, count: usize) {
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let place = place.unwrap();
    let path = place.path().join("vault.redb");
    let key = HostKey::parse("1".repeat(64).as_bytes()).unwrap();
    let vault = Vault::at(&path).unwrap();
    vault.init(&NewKey::Host(&key, Source::File)).unwrap();
    let provider = "provider:mine".parse().unwrap();
    for number in 0..count {
        let name = format!("secret-{number}");
        let value = format!("{CANARY}-{number}");
        vault.set(&name, value.as_bytes(), number as u64).unwrap();
    }
    vault.let_use("secret-0", &provider, true).unwrap();
    drop(vault);
    fs::copy(path, root.path().join("state/vault.redb")).unwrap();
    root.mode("state/vault.redb", 0o600);
    root.give("state/vault.redb");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_used_and_the_vault_tells_of_itself_all_the_time_that_it_gets_another_key() {
    const SECRETS: usize = 3000;
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    key_file(&root, "etc/vault.key", '1');
    vault_of(&root, SECRETS);
    let mut pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    provider(&client, &model, "secret-0").await;
    test(&client).await.unwrap();
    let (user, asker, changer) = (
        pawd.client().await,
        pawd.client().await,
        pawd.client().await,
    );
    let (over, ended) = tokio::sync::watch::channel(false);
    let changed = async {
        for digit in ['2', '3'] {
            let key = Hidden(SecretString::from(digit.to_string().repeat(64)));
            within("another key", changer.rekey(None, Some(key)))
                .await
                .unwrap();
        }
        over.send_replace(true);
    };
    let used = async {
        let mut used = 0;
        while !*ended.borrow() {
            test(&user).await.unwrap();
            used += 1;
        }
        used
    };
    let told = async {
        let mut told = 0;
        while !*ended.borrow() {
            let seen = status(&asker).await;
            assert_eq!(
                (seen.state.as_str(), seen.secrets),
                ("unsealed", Some(SECRETS as u64)),
                "{seen:?}"
            );
            told += 1;
        }
        told
    };
    let ((), used, told) = tokio::join!(changed, used, told);
    // Not one or two that began before it and waited for its end.
    assert!(used > 5 && told > 5, "{used} uses, told {told} times");
    let first = format!("{CANARY}-0");
    assert!(keys(&model).iter().all(|key| *key == first));
    // The last key is the one.
    pawd.stop().await;
    fs::remove_file(pawd.root.path().join("etc/vault.key")).unwrap();
    key_file(&pawd.root, "etc/vault.key", '3');
    pawd.start_again().await;
    let client = pawd.client().await;
    let seen = status(&client).await;
    assert_eq!(seen.secrets, Some(SECRETS as u64), "{seen:?}");
    test(&client).await.unwrap();
}

/// What pawctl does that somebody else could see, or that a crash could undo.
const STEPS: [i64; 6] = [
    SYS_write, SYS_fsync, SYS_linkat, SYS_unlink, SYS_rename, SYS_sendto,
];

/// `pawctl secret rekey --key-file`, whose calls are seen.
fn rekey(root: &Root) -> Traced {
    let mut command = Traced::command(&stage::program("pawctl"));
    command.arg("--root").arg(root.path());
    command.args(["secret", "rekey", "--key-file"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Traced::start(command)
}

/// Whether the vault is opened by the key in the file alone, and there is no other one beside it.
async fn opens_by_its_file(pawd: &Pawd, what: &str) {
    let client = pawd.client().await;
    done(pawd, &["secret", "lock"], "").await;
    let etc = pawd.root.path().join("etc");
    let digits = fs::read_to_string(etc.join("vault.key")).unwrap();
    let key = Hidden(SecretString::from(digits.trim().to_owned()));
    let opened = within("unlocking", client.unlock(None, None, Some(key))).await;
    assert_eq!(opened.expect(what).state, "unsealed", "{what}");
    for name in ["vault.key.next", "vault.key.draft"] {
        assert!(!etc.join(name).exists(), "{what}: {name}");
    }
}

/// Of two that change the key at once, one is told that there is another, and the vault has the key that stands in the file.
#[tokio::test(flavor = "multi_thread")]
async fn two_who_change_the_key_at_once_leave_the_key_of_the_vault() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    // The worst of it: one has written its key down, and not yet put it where pawd would find it.
    let first = rekey(&pawd.root);
    first.hold(SYS_linkat);
    first.was_held(1).await;
    let (code, said) = refused(&pawd, &["secret", "rekey", "--key-file"], "").await;
    assert!(
        code == 1 && said.contains("another pawctl"),
        "{code} {said}"
    );
    first.hold_no_more();
    first.go_on();
    first.ended().await;
    opens_by_its_file(&pawd, "held").await;
    // And as it comes.
    for round in 0..20 {
        let rekey = async || pawd.pawctl(&["secret", "rekey", "--key-file"]).await;
        let (one, other) = tokio::join!(rekey(), rekey());
        assert!(
            one.status.success() || other.status.success(),
            "{one:?} {other:?}"
        );
        opens_by_its_file(&pawd, &format!("round {round}")).await;
    }
}

/// A key that an earlier change left may be the vault's only one: who is refused with it does not remove it.
#[tokio::test(flavor = "multi_thread")]
async fn key_that_an_interrupted_change_left_outlives_a_refusal() {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    done(&pawd, &["secret", "init"], "").await;
    let interrupted = rekey(&pawd.root);
    interrupted.hold(SYS_rename);
    interrupted.was_held(1).await;
    interrupted.kill();
    done(&pawd, &["secret", "lock"], "").await;
    let (code, said) = refused(&pawd, &["secret", "rekey", "--key-file"], "").await;
    assert!(code == 1 && said.contains("sealed"), "{code} {said}");
    // It opens the vault, and comes to its place.
    done(&pawd, &["secret", "unlock"], "").await;
    done(&pawd, &["secret", "rekey", "--key-file"], "").await;
    opens_by_its_file(&pawd, "at the end").await;
}

/// pawd reads what root made, as it does on a host before it gives root up.
fn give_keys(root: &Root) {
    for name in ["etc/vault.key", "etc/vault.key.next"] {
        if root.path().join(name).exists() {
            root.give(name);
        }
    }
}

/// The vault can be used, and can be by a pawd that is started now.
async fn is_well(pawd: &mut Pawd, what: &str) {
    test(&pawd.client().await).await.expect(what);
    give_keys(&pawd.root);
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    let seen = status(&client).await;
    assert_eq!(seen.state, "unsealed", "{what}: {seen:?}");
    test(&client).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_key_file_that_is_interrupted_anywhere_leaves_a_key_that_opens_the_vault() {
    let model = Model::start().await;
    let mut pawd = with_key(&model).await;
    let client = pawd.client().await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "cloud"], CANARY).await;
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    let calls = rekey(&pawd.root).ended().await;
    is_well(&mut pawd, "all of it").await;
    let of = |number: &i64| {
        let is = |call: &&Call| call.number == *number;
        calls.iter().filter(is).count()
    };
    for number in [SYS_fsync, SYS_linkat, SYS_rename] {
        assert!(of(&number) > 0, "{number} is not seen");
    }
    for number in STEPS {
        for at in 1..=of(&number) {
            let traced = rekey(&pawd.root);
            traced.hold(number);
            for held in 1..at {
                traced.was_held(held).await;
                traced.go_on();
            }
            traced.was_held(at).await;
            traced.kill();
            let what = format!("killed before call {number}, the {at}th time");
            is_well(&mut pawd, &what).await;
            // The same again comes to its end, and leaves one key.
            let again = done(&pawd, &["secret", "rekey", "--key-file"], "").await;
            assert!(again.contains("Recovery key: "), "{what}: {again}");
            let next = pawd.root.path().join("etc/vault.key.next");
            assert!(!next.exists(), "{what}");
        }
    }
    is_well(&mut pawd, "at the end").await;
    assert!(keys(&model).iter().all(|key| key == CANARY));
}
