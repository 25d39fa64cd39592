//! Somebody changes the file: never a wrong value, never an empty vault.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use paw_vault::{State, Unlock, Vault, VaultError, key::HostKey};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::{NOW, Place, key, secret, value, value_of};

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");

/// What is in a vault: every value by its name.
fn all(vault: &Vault) -> Result<BTreeMap<String, Vec<u8>>, VaultError> {
    vault
        .secrets()?
        .iter()
        .map(|secret| {
            let value = vault.get(&secret.name, None, NOW)?;
            Ok((secret.name.clone(), value.bytes().to_vec()))
        })
        .collect()
}

/// What a file gives to who has the key.
fn reads(place: &Place) -> Result<BTreeMap<String, Vec<u8>>, VaultError> {
    let vault = Vault::at(&place.file())?;
    assert_ne!(
        vault.status()?.state,
        State::Uninitialised,
        "empty is not to be believed"
    );
    vault.unseal(&Unlock::Host(&key(1)), NOW)?;
    all(&vault)
}

fn hundred(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let (vault, _) = place.make();
    for n in 0..100 {
        let value = format!("value {n} {}", "x".repeat(n));
        vault
            .set(&format!("name-{n}"), value.as_bytes(), NOW + n as u64)
            .unwrap();
    }
    all(&vault).unwrap()
}

/// A generator of places; the same ones each time.
struct Places(u64);

impl Places {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

/// The file of a vault with a hundred secrets, and what is in it.
struct Hundred {
    file: Vec<u8>,
    truth: BTreeMap<String, Vec<u8>>,
}

impl Hundred {
    fn new() -> Self {
        let place = Place::in_memory();
        let truth = hundred(&place);
        Self {
            file: fs::read(place.file()).unwrap(),
            truth,
        }
    }

    /// Makes each of these changes of the file, as many at once as there are processors: how many were noticed. What is not noticed
    /// has changed nothing; there is never a panic, a wrong value or an empty vault.
    fn noticed<T: Sync + Debug>(
        &self,
        changes: &[T],
        change: impl Fn(&mut Vec<u8>, &T) + Sync,
    ) -> usize {
        let next = AtomicUsize::new(0);
        let work = || {
            let place = Place::in_memory();
            let mut noticed = 0;
            while let Some(made) = changes.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut bad = self.file.clone();
                change(&mut bad, made);
                fs::write(place.file(), &bad).unwrap();
                match catch_unwind(AssertUnwindSafe(|| reads(&place))) {
                    Ok(Ok(found)) => assert!(found == self.truth, "{made:?}"),
                    Ok(Err(_)) => noticed += 1,
                    Err(_) => panic!("{made:?}: a panic"),
                }
            }
            noticed
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let noticed = threads.into_iter().map(|it| it.join().unwrap());
            noticed.sum()
        })
    }
}

/// `PAW_FLIPS=10000 cargo test -p paw-vault` tries more.
#[test]
fn flipped_bits_give_no_wrong_value_and_no_empty_vault() {
    let vault = Hundred::new();
    let mut places = Places(7);
    let count = std::env::var("PAW_FLIPS")
        .ok()
        .and_then(|it| it.parse().ok());
    let flips: Vec<(usize, u8)> = (0..count.unwrap_or(500))
        .map(|_| (places.next(vault.file.len()), 1 << places.next(8)))
        .collect();
    let noticed = vault.noticed(&flips, |bytes, (at, bit)| bytes[*at] ^= bit);
    // Pages that hold nothing may say anything.
    assert!(noticed > 0 && noticed < flips.len(), "{noticed}");
}

#[test]
fn file_that_is_cut_anywhere_or_emptied_is_no_empty_vault() {
    const PAGE: usize = 4096;
    let vault = Hundred::new();
    let length = vault.file.len();
    let around = (PAGE..=length)
        .step_by(PAGE)
        .flat_map(|at| [at - 1, at, at + 1]);
    let cuts: Vec<usize> = (0..1024)
        .chain((1024..length).step_by(997))
        .chain(around)
        .filter(|at| *at < length)
        .collect();
    let noticed = vault.noticed(&cuts, |bytes, length| bytes.truncate(*length));
    assert_eq!(noticed, cuts.len());
}

#[test]
fn wrong_key_is_one_error_whatever_is_wrong_with_it() {
    let (place, other) = (Place::new(), Place::new());
    let (vault, _) = place.make();
    vault.set("one", b"value of one", NOW).unwrap();
    vault.seal();
    let (_, recovery_of_another) = other.make();
    let passphrase = secret("correct horse battery staple");
    let nearly = {
        let mut bytes = [1; 32];
        bytes[31] ^= 1;
        HostKey::parse(&bytes).unwrap()
    };
    for (what, with) in [
        ("another key", Unlock::Host(&key(2))),
        ("all but a bit of it", Unlock::Host(&nearly)),
        (
            "a recovery key of another vault",
            Unlock::Recovery(&recovery_of_another),
        ),
        (
            "a passphrase where there is none",
            Unlock::Passphrase(&passphrase),
        ),
    ] {
        let error = vault.unseal(&with, NOW).unwrap_err();
        assert!(matches!(error, VaultError::WrongKey), "{what}: {error}");
        assert_eq!(error.to_string(), "this is not the key of the vault");
        assert_eq!(vault.status().unwrap().state, State::Sealed, "{what}");
        vault.secrets().expect_err(what);
    }
    vault.unseal(&Unlock::Host(&key(1)), NOW).unwrap();
    assert_eq!(value(&vault, "one"), Ok(b"value of one".to_vec()));
}

type Rows<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

/// Changes rows as somebody does who knows the format and has no key.
fn edit(place: &Place, change: impl FnOnce(&mut Rows<'_>)) {
    let database = Database::open(place.file()).unwrap();
    let txn = database.begin_write().unwrap();
    change(&mut txn.open_table(ROWS).unwrap());
    txn.commit().unwrap();
}

fn rows(place: &Place) -> Vec<(Vec<u8>, Vec<u8>)> {
    let database = Database::open(place.file()).unwrap();
    let txn = database.begin_read().unwrap();
    let table = txn.open_table(ROWS).unwrap();
    let rows = table.iter().unwrap().map(|row| {
        let (key, value) = row.unwrap();
        (key.value().to_vec(), value.value().to_vec())
    });
    rows.collect()
}

#[test]
fn exchanged_removed_renamed_and_older_rows_are_noticed() {
    let place = Place::new();
    let (vault, _) = place.make();
    vault.set("one", b"value of one", NOW).unwrap();
    vault.set("two", b"value of two", NOW).unwrap();
    drop(vault);
    let before = rows(&place);
    let vault = place.open();
    vault
        .rotate("one", b"newer of one", 60_000, NOW + 1)
        .unwrap();
    drop(vault);
    let good = fs::read(place.file()).unwrap();
    let now = rows(&place);
    let of = |kind: u8| -> Vec<&(Vec<u8>, Vec<u8>)> {
        now.iter().filter(|(key, _)| key[0] == kind).collect()
    };
    let check = |what: &str, change: &dyn Fn(&mut Rows<'_>)| {
        fs::write(place.file(), &good).unwrap();
        edit(&place, change);
        let error = reads(&place).expect_err(what);
        assert!(
            matches!(error, VaultError::Tampered { .. }),
            "{what}: {error}"
        );
    };
    for kind in [1, 2] {
        let (first, second) = (of(kind)[0], of(kind)[1]);
        check("rows exchanged", &|table| {
            table.insert(&first.0[..], &second.1[..]).unwrap();
            table.insert(&second.0[..], &first.1[..]).unwrap();
        });
        check("a row removed", &|table| {
            table.remove(&first.0[..]).unwrap();
        });
        check("a row under another name", &|table| {
            let mut key = first.0.clone();
            key[5] ^= 1;
            table.remove(&first.0[..]).unwrap();
            table.insert(&key[..], &first.1[..]).unwrap();
        });
        check("a row twice", &|table| {
            let mut key = first.0.clone();
            key[5] ^= 1;
            table.insert(&key[..], &first.1[..]).unwrap();
        });
    }
    check("an older list", &|table| {
        for (key, row) in before.iter().filter(|(key, _)| key[0] == 1) {
            table.insert(&key[..], &row[..]).unwrap();
        }
    });
    check("an older value under a newer number", &|table| {
        let newer = now
            .iter()
            .find(|(key, _)| key[0] == 2 && key[40] == 2)
            .unwrap();
        let older = now
            .iter()
            .find(|(key, _)| key[..33] == newer.0[..33] && key[40] == 1);
        table.insert(&newer.0[..], &older.unwrap().1[..]).unwrap();
    });
    check("everything removed", &|table| {
        table.retain(|_, _| false).unwrap();
    });
    fs::write(place.file(), &good).unwrap();
    assert_eq!(reads(&place).unwrap().len(), 2);
}

#[test]
fn changed_header_is_noticed() {
    let place = Place::new();
    hundred(&place);
    let good = fs::read(place.file()).unwrap();
    let header = {
        let database = Database::open(place.file()).unwrap();
        let txn = database.begin_read().unwrap();
        let table = txn.open_table(ABOUT).unwrap();
        String::from_utf8(table.get("header").unwrap().unwrap().value().to_vec()).unwrap()
    };
    for (from, to) in [
        ("\"generation\":101", "\"generation\":102"),
        ("\"rows\":200", "\"rows\":0"),
        ("\"source\":\"file\"", "\"source\":\"credential\""),
        ("\"format\":1", "\"format\":2"),
        (
            "\"work\":null",
            "\"work\":{\"memory\":8,\"passes\":1,\"salt\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
        ),
    ] {
        assert!(header.contains(from), "{header}");
        fs::write(place.file(), &good).unwrap();
        let database = Database::open(place.file()).unwrap();
        let txn = database.begin_write().unwrap();
        let changed = header.replace(from, to);
        let mut table = txn.open_table(ABOUT).unwrap();
        table.insert("header", changed.as_bytes()).unwrap();
        drop(table);
        txn.commit().unwrap();
        drop(database);
        reads(&place).expect_err(from);
    }
}

#[test]
fn older_copy_of_the_file_shows_by_its_generation() {
    let place = Place::new();
    let (vault, _) = place.make();
    vault.set("token", b"one", NOW).unwrap();
    drop(vault);
    let older = fs::read(place.file()).unwrap();
    let vault = place.open();
    vault.rotate("token", b"two", 0, NOW).unwrap();
    let newest = vault.mark().unwrap();
    drop(vault);
    fs::write(place.file(), older).unwrap();
    let vault = place.open();
    let mark = vault.mark().unwrap();
    assert_eq!(
        (mark.vault, mark.generation + 1),
        (newest.vault, newest.generation)
    );
}

#[test]
fn what_was_erased_cannot_be_had_with_every_key() {
    let place = Place::new();
    let (vault, _) = place.make();
    vault.set("kept", b"kept value", NOW).unwrap();
    vault.set("gone", b"gone value", NOW).unwrap();
    vault.set("turned", b"old of turned", NOW).unwrap();
    drop(vault);
    // Everything that an attacker needs who has the key: the rows as they stand in the file.
    let doomed = rows(&place);
    let vault = place.open();
    vault.remove("gone").unwrap();
    vault.rotate("turned", b"new of turned", 0, NOW).unwrap();
    assert_eq!(value_of(&vault, "turned", Some(1), NOW).ok(), None);
    drop(vault);
    let left = rows(&place);
    let bytes = fs::read(place.file()).unwrap();
    let gone: Vec<_> = doomed
        .iter()
        .filter(|row| row.0[0] == 2 && !left.contains(row))
        .collect();
    assert_eq!(gone.len(), 2);
    for (_, row) in gone {
        // The wrapped data key; without it the rest is noise.
        let wrapped = &row[..72];
        assert!(!bytes.windows(wrapped.len()).any(|part| part == wrapped));
    }
    assert_eq!(value(&place.open(), "kept"), Ok(b"kept value".to_vec()));
}

#[test]
fn keys_from_before_a_rekey_open_nothing_of_the_file() {
    use paw_vault::{NewKey, Source};
    let place = Place::new();
    let (vault, _) = place.make();
    vault.set("token", b"value", NOW).unwrap();
    drop(vault);
    let before = rows(&place);
    let old = fs::read(place.file()).unwrap();
    let slots: Vec<String> = {
        let text = String::from_utf8_lossy(&old);
        let at = text.find("\"slots\":[\"").unwrap() + 10;
        vec![text[at..at + 144].to_owned()]
    };
    let vault = place.open();
    vault.rekey(&NewKey::Host(&key(2), Source::File)).unwrap();
    drop(vault);
    let bytes = fs::read(place.file()).unwrap();
    let holds = |part: &[u8]| bytes.windows(part.len()).any(|it| it == part);
    for slot in slots {
        assert!(
            !holds(slot.as_bytes()),
            "the old root key is still in the file"
        );
    }
    for (key, row) in before {
        assert!(
            !holds(&key) && !holds(&row[..72]),
            "an old row is still in the file"
        );
    }
    let vault = place.sealed();
    vault.unseal(&Unlock::Host(&key(1)), NOW).unwrap_err();
    vault.unseal(&Unlock::Host(&key(2)), NOW).unwrap();
    assert_eq!(value(&vault, "token"), Ok(b"value".to_vec()));
}
