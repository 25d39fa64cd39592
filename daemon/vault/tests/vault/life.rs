//! States, keys, versions, lists.

use std::fs;

use paw_vault::{
    MAX_VALUE, MAX_VERSIONS, NewKey, Source, State, Unfit, Unlock, User, Vault, VaultError,
    key::RecoveryKey,
};
use secrecy::ExposeSecret as _;

use crate::{NOW, Place, key, secret, value, value_of};

fn message<T>(result: Result<T, VaultError>) -> String {
    match result {
        Ok(_) => "done".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn states_are_as_they_are_drawn() {
    let place = Place::new();
    let vault = place.sealed();
    let state = |vault: &Vault| vault.status().unwrap().state;
    assert_eq!(state(&vault), State::Uninitialised);
    assert!(!place.file().exists(), "nothing is made by looking");
    assert_eq!(value(&vault, "a"), Err("there is no vault yet".into()));
    let unseal = |key_byte| vault.unseal(&Unlock::Host(&key(key_byte)), NOW);
    assert_eq!(message(unseal(1)), "there is no vault yet");
    vault
        .init(&NewKey::Host(&key(1), Source::Credential))
        .unwrap();
    assert_eq!(state(&vault), State::Unsealed);
    assert_eq!(
        message(vault.init(&NewKey::Host(&key(1), Source::File))),
        "there is a vault already"
    );
    vault.set("a", b"one", NOW).unwrap();
    assert_eq!(message(unseal(1)), "the vault is not sealed");
    vault.seal();
    assert_eq!(state(&vault), State::Sealed);
    let sealed = "the vault is sealed";
    assert_eq!(value(&vault, "a"), Err(sealed.into()));
    assert_eq!(message(vault.secrets()), sealed);
    assert_eq!(message(vault.secret("a")), sealed);
    assert_eq!(message(vault.set("b", b"x", NOW)), sealed);
    assert_eq!(message(vault.rotate("a", b"x", 0, NOW)), sealed);
    assert_eq!(message(vault.remove("a")), sealed);
    assert_eq!(
        message(vault.rekey(&NewKey::Host(&key(2), Source::File))),
        sealed
    );
    assert_eq!(message(unseal(2)), "this is not the key of the vault");
    assert_eq!(unseal(1).unwrap().generation, 2);
    assert_eq!(value(&vault, "a"), Ok(b"one".to_vec()));
    let status = vault.status().unwrap();
    assert_eq!(
        (status.source, status.secrets),
        (Some(Source::Credential), Some(1))
    );
}

#[test]
fn what_is_kept_is_there_after_a_new_start() {
    let place = Place::new();
    let (vault, _) = place.make();
    let long = vec![0xff; MAX_VALUE];
    vault.set("short", b"x", NOW).unwrap();
    vault.set("long", &long, NOW).unwrap();
    let user: User = "provider:openai".parse().unwrap();
    vault.let_use("short", &user, true).unwrap();
    drop(vault);
    let vault = place.open();
    assert_eq!(value(&vault, "short"), Ok(b"x".to_vec()));
    assert_eq!(value(&vault, "long"), Ok(long));
    assert!(vault.secret("short").unwrap().users.contains(&user));
    assert!(
        vault.secret("long").unwrap().users.is_empty(),
        "nobody at first"
    );
    vault.let_use("short", &user, false).unwrap();
    assert!(vault.secret("short").unwrap().users.is_empty());
    for (name, value, why) in [
        ("short", &b"y"[..], VaultError::Exists),
        ("a b", b"y", Unfit::Name.into()),
        ("new", b"", Unfit::Empty.into()),
        ("new", &[7; MAX_VALUE + 1], Unfit::Long.into()),
    ] {
        assert_eq!(message(vault.set(name, value, NOW)), why.to_string());
    }
}

#[test]
fn older_version_can_be_used_for_its_time_and_by_its_number() {
    let place = Place::new();
    let (vault, _) = place.make();
    vault.set("token", b"one", NOW).unwrap();
    vault.rotate("token", b"two", 1_000, NOW).unwrap();
    let none = Err("there is no such version of that secret".to_owned());
    assert_eq!(value(&vault, "token"), Ok(b"two".to_vec()));
    assert_eq!(
        value_of(&vault, "token", Some(1), NOW + 999),
        Ok(b"one".to_vec())
    );
    assert_eq!(value_of(&vault, "token", Some(1), NOW + 1_000), none);
    assert_eq!(value_of(&vault, "token", Some(3), NOW), none);
    assert_eq!(vault.sweep(NOW + 999).unwrap(), None);
    assert!(vault.sweep(NOW + 1_000).unwrap().is_some());
    // Its data key is gone, whatever a clock says.
    assert_eq!(value_of(&vault, "token", Some(1), NOW), none);
    vault.rotate("token", b"three", 0, NOW).unwrap();
    assert_eq!(value_of(&vault, "token", Some(2), NOW), none);
    assert_eq!(
        value_of(&vault, "token", Some(3), NOW),
        Ok(b"three".to_vec())
    );
    vault.rotate("token", b"four", 5_000, NOW).unwrap();
    assert_eq!(message(vault.revoke("token", 4)), none.clone().unwrap_err());
    vault.revoke("token", 3).unwrap();
    assert_eq!(value_of(&vault, "token", Some(3), NOW), none);
    drop(vault);
    let vault = place.open();
    assert_eq!(value(&vault, "token"), Ok(b"four".to_vec()));
    for number in 5..4 + MAX_VERSIONS {
        let value = number.to_string();
        vault.rotate("token", value.as_bytes(), 5_000, NOW).unwrap();
    }
    let full = vault.rotate("token", b"more", 5_000, NOW);
    assert_eq!(message(full), Unfit::Versions.to_string());
}

#[test]
fn every_key_opens_and_no_other_one_does() {
    let place = Place::new();
    let vault = place.sealed();
    let passphrase = secret("correct horse battery");
    let recovery = vault.init(&NewKey::Passphrase(&passphrase)).unwrap();
    vault.set("a", b"one", NOW).unwrap();
    let wrong = "this is not the key of the vault";
    let other = RecoveryKey::parse(&Place::new().make().1.text()).unwrap();
    vault.seal();
    let mut now = NOW;
    for bad in [
        Unlock::Passphrase(&secret("correct horse batteri")),
        Unlock::Recovery(&other),
        Unlock::Host(&key(1)),
    ] {
        assert_eq!(message(vault.unseal(&bad, now)), wrong);
    }
    vault.unseal(&Unlock::Passphrase(&passphrase), now).unwrap();
    vault.seal();
    let written = RecoveryKey::parse(&recovery.text()).unwrap();
    vault.unseal(&Unlock::Recovery(&written), now).unwrap();
    assert_eq!(value(&vault, "a"), Ok(b"one".to_vec()));
    // A new key makes the ones before worthless.
    let new = vault.rekey(&NewKey::Host(&key(2), Source::File)).unwrap();
    assert_ne!(new.text().expose_secret(), recovery.text().expose_secret());
    assert_eq!(value(&vault, "a"), Ok(b"one".to_vec()));
    drop(vault);
    let vault = place.sealed();
    for bad in [
        Unlock::Passphrase(&passphrase),
        Unlock::Recovery(&written),
        Unlock::Host(&key(1)),
    ] {
        now += 10_000;
        assert_eq!(message(vault.unseal(&bad, now)), wrong);
    }
    vault.unseal(&Unlock::Recovery(&new), now).unwrap();
    vault.seal();
    vault.unseal(&Unlock::Host(&key(2)), now).unwrap();
    assert_eq!(value(&vault, "a"), Ok(b"one".to_vec()));
}

#[test]
fn guesses_are_slowed_down_and_that_outlives_a_start() {
    let place = Place::new();
    let (vault, recovery) = place.make();
    drop(vault);
    let other = RecoveryKey::parse(&Place::new().make().1.text()).unwrap();
    let mut now = NOW;
    let tried =
        |now, key: &RecoveryKey| message(place.sealed().unseal(&Unlock::Recovery(key), now));
    for _ in 0..5 {
        assert_eq!(tried(now, &other), "this is not the key of the vault");
    }
    let mut wait = 1_000;
    for _ in 0..14 {
        let paused = tried(now, &recovery);
        assert!(paused.contains(&format!("in {wait} ms")), "{paused}");
        now += wait;
        assert_eq!(tried(now, &other), "this is not the key of the vault");
        wait = (wait * 2).min(3_600_000);
    }
    assert_eq!(wait, 3_600_000);
    // The host's own key is not guessed, and the wait does not keep pawd from starting.
    place.open();
    let vault = place.sealed();
    assert_eq!(vault.status().unwrap().wrong_keys, 0);
    vault.unseal(&Unlock::Recovery(&recovery), now).unwrap();
}

/// Wrong keys were tried while the clock was a year ahead.
#[test]
fn wait_of_a_clock_that_was_ahead_ends_when_a_wait_does() {
    let place = Place::new();
    let (vault, recovery) = place.make();
    drop(vault);
    let other = RecoveryKey::parse(&Place::new().make().1.text()).unwrap();
    let ahead = NOW + 365 * 24 * 3_600_000;
    for _ in 0..5 {
        let tried = place.sealed().unseal(&Unlock::Recovery(&other), ahead);
        assert_eq!(message(tried), "this is not the key of the vault");
    }
    let with = Unlock::Recovery(&recovery);
    let paused = message(place.sealed().unseal(&with, NOW));
    assert!(paused.contains("in 3600000 ms"), "{paused}");
    let early = message(place.sealed().unseal(&with, NOW + 3_599_999));
    assert!(early.contains("in 1 ms"), "{early}");
    place.sealed().unseal(&with, NOW + 3_600_000).unwrap();
}

#[test]
fn a_second_process_is_refused() {
    let place = Place::new();
    let (_vault, _) = place.make();
    let message = message(Vault::at(&place.file()));
    assert!(
        message.ends_with("is in use by another process"),
        "{message}"
    );
}

#[test]
fn names_and_values_are_not_in_the_file() {
    let place = Place::new();
    let (vault, _) = place.make();
    let planted: Vec<(String, String)> = (0..200)
        .map(|n| {
            (
                format!("planted-name-{n:03}"),
                format!("planted-value-{n:03}"),
            )
        })
        .collect();
    for (name, value) in &planted {
        vault.set(name, value.as_bytes(), NOW).unwrap();
        let user: User = format!("skill:planted-user-{}", value.len())
            .parse()
            .unwrap();
        vault.let_use(name, &user, true).unwrap();
    }
    for (name, _) in &planted[..20] {
        vault.remove(name).unwrap();
    }
    drop(vault);
    let bytes = fs::read(place.file()).unwrap();
    for word in ["planted-", "provider", "skill:"] {
        let found = bytes
            .windows(word.len())
            .any(|part| part == word.as_bytes());
        assert!(!found, "{word} is in the file");
    }
    let others: Vec<_> = fs::read_dir(place.dir.path()).unwrap().collect();
    assert_eq!(others.len(), 1, "{others:?}");
}

/// A change that writes the file anew fails where there is no place for the draft. Nothing is lost by it, and nothing takes the
/// place of the vault.
#[test]
fn change_that_fails_leaves_the_vault_open_as_it_was() {
    let place = Place::new();
    let (vault, _) = place.make();
    for name in ["a", "b"] {
        vault.set(name, name.as_bytes(), NOW).unwrap();
    }
    let draft = place.dir.path().join("vault.redb.new");
    fs::create_dir_all(draft.join("in the way")).unwrap();
    let before = vault.status().unwrap();
    for _ in 0..2 {
        vault.remove("b").unwrap_err();
        vault.rotate("a", b"another", 0, NOW).unwrap_err();
        vault
            .rekey(&NewKey::Host(&key(2), Source::File))
            .unwrap_err();
        assert_eq!(vault.status().unwrap(), before);
        assert_eq!(value(&vault, "b"), Ok(b"b".to_vec()));
        let again = vault.init(&NewKey::Host(&key(2), Source::File));
        assert_eq!(message(again), "there is a vault already");
    }
    drop(vault);
    let vault = place.open();
    assert_eq!(
        value(&vault, "a"),
        Ok(b"a".to_vec()),
        "nor does it keep it from being opened"
    );
    fs::remove_dir_all(&draft).unwrap();
    vault.remove("b").unwrap();
    assert_eq!(
        message(vault.get("b", None, NOW)),
        "there is no such secret"
    );
}

/// A file that cannot be opened again after a failure is a vault that cannot be used, until it can be opened.
#[test]
fn vault_that_cannot_be_opened_again_is_no_vault_that_was_never_made() {
    for sealed in [false, true] {
        let place = Place::new();
        let (vault, _) = place.make();
        vault.set("a", b"a", NOW).unwrap();
        let (draft, away) = (
            place.dir.path().join("vault.redb.new"),
            place.dir.path().join("away"),
        );
        fs::create_dir_all(draft.join("in the way")).unwrap();
        fs::rename(place.file(), &away).unwrap();
        fs::create_dir(place.file()).unwrap();
        vault.remove("a").unwrap_err();
        let cannot = "the vault cannot be used: open ";
        assert!(
            message(vault.status()).starts_with(cannot),
            "{}",
            message(vault.status())
        );
        assert!(value(&vault, "a").unwrap_err().starts_with(cannot));
        let again = vault.init(&NewKey::Host(&key(2), Source::File));
        assert_eq!(message(again), "there is a vault already");
        if sealed {
            vault.seal();
        }
        fs::remove_dir(place.file()).unwrap();
        fs::rename(&away, place.file()).unwrap();
        if sealed {
            assert_eq!(vault.status().unwrap().state, State::Sealed);
            vault.unseal(&Unlock::Host(&key(1)), NOW).unwrap();
        }
        assert_eq!(vault.status().unwrap().state, State::Unsealed);
        assert_eq!(value(&vault, "a"), Ok(b"a".to_vec()));
    }
}
