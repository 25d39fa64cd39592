//! A vault as one piece, put back: by who has a key, whole, and not over something newer.

use paw_vault::{NewKey, Source, State, Unlock, Vault, VaultError};

use crate::{NOW, Place, key, value};

/// A vault with two secrets, its copy, and its recovery key.
fn copied(place: &Place) -> (Vault, Vec<u8>, paw_vault::key::RecoveryKey) {
    let (vault, recovery) = place.make();
    vault.set("one", b"value of one", NOW).unwrap();
    vault.set("two", b"value of two", NOW).unwrap();
    let (copy, mark) = vault.export().unwrap();
    assert_eq!(mark, vault.mark().unwrap());
    (vault, copy, recovery)
}

#[test]
fn copy_is_put_back_with_the_key_or_the_recovery_key_and_with_no_other_one() {
    let (_, copy, recovery) = copied(&Place::new());
    for with in [Unlock::Host(&key(1)), Unlock::Recovery(&recovery)] {
        let place = Place::new();
        let vault = place.sealed();
        vault.import(&copy, &with, |_| 0, false).unwrap();
        assert_eq!(value(&vault, "one"), Ok(b"value of one".to_vec()));
        drop(vault);
        // It is the vault from then on.
        assert_eq!(value(&place.open(), "two"), Ok(b"value of two".to_vec()));
    }
    let place = Place::new();
    let vault = place.sealed();
    let error = vault
        .import(&copy, &Unlock::Host(&key(2)), |_| 0, true)
        .unwrap_err();
    assert!(matches!(error, VaultError::WrongKey), "{error}");
    assert_eq!(vault.status().unwrap().state, State::Uninitialised);
    assert!(!place.file().exists());
}

#[test]
fn older_copy_is_put_back_by_force_alone_and_counts_as_a_change() {
    let place = Place::new();
    let (vault, copy, _) = copied(&place);
    // As old as what is there.
    vault
        .import(&copy, &Unlock::Host(&key(1)), |_| 0, false)
        .unwrap();
    vault.rotate("one", b"newer of one", 0, NOW).unwrap();
    let newest = vault.mark().unwrap();
    let error = vault
        .import(&copy, &Unlock::Host(&key(1)), |_| 0, false)
        .unwrap_err();
    assert!(matches!(error, VaultError::Older { .. }), "{error}");
    assert_eq!(value(&vault, "one"), Ok(b"newer of one".to_vec()));
    let forced = vault
        .import(&copy, &Unlock::Host(&key(1)), |_| 0, true)
        .unwrap();
    assert!(
        forced.generation > newest.generation,
        "{forced:?} {newest:?}"
    );
    assert_eq!(value(&vault, "one"), Ok(b"value of one".to_vec()));
    drop(vault);
    assert_eq!(place.open().mark().unwrap(), forced);
}

#[test]
fn copy_of_another_vault_is_put_back_by_force_alone() {
    let (_, copy, _) = copied(&Place::new());
    let place = Place::new();
    let (vault, _) = place.make();
    vault.set("mine", b"value", NOW).unwrap();
    let error = vault
        .import(&copy, &Unlock::Host(&key(1)), |_| 0, false)
        .unwrap_err();
    assert!(matches!(error, VaultError::AnotherVault), "{error}");
    assert_eq!(value(&vault, "mine"), Ok(b"value".to_vec()));
    vault
        .import(&copy, &Unlock::Host(&key(1)), |_| 0, true)
        .unwrap();
    value(&vault, "mine").unwrap_err();
}

#[test]
fn copy_from_before_a_rekey_takes_the_key_that_it_was_made_with() {
    let place = Place::new();
    let (vault, copy, recovery) = copied(&place);
    vault.rekey(&NewKey::Host(&key(2), Source::File)).unwrap();
    vault
        .import(&copy, &Unlock::Host(&key(2)), |_| 0, true)
        .unwrap_err();
    vault
        .import(&copy, &Unlock::Recovery(&recovery), |_| 0, true)
        .unwrap();
    assert_eq!(value(&vault, "one"), Ok(b"value of one".to_vec()));
}

#[test]
fn copy_that_was_changed_or_cut_anywhere_is_none() {
    let place = Place::new();
    let (vault, copy, _) = copied(&place);
    let other = {
        vault.rotate("one", b"newer of one", 0, NOW).unwrap();
        vault.export().unwrap().0
    };
    let refused = |bad: &[u8], what: &str| {
        let error = vault.import(bad, &Unlock::Host(&key(1)), |_| 0, true);
        assert!(error.is_err(), "{what}");
    };
    for at in 0..copy.len() {
        let mut bad = copy.clone();
        bad[at] ^= 1 << (at % 8);
        refused(&bad, &format!("byte {at}"));
        refused(&copy[..at], &format!("cut at {at}"));
    }
    refused(&[&copy[..], &copy[..]].concat(), "twice");
    // Put together from two: the header of one, the rows of the other.
    let rows = |copy: &[u8]| {
        let mut at = b"pawd-vault-copy/1\n".len();
        for _ in 0..2 {
            let length = u32::from_be_bytes(copy[at..at + 4].try_into().unwrap());
            at += 4 + usize::try_from(length).unwrap();
        }
        at
    };
    refused(
        &[&other[..rows(&other)], &copy[rows(&copy)..]].concat(),
        "two copies",
    );
    assert_eq!(value(&vault, "one"), Ok(b"newer of one".to_vec()));
}
