//! The vault from outside: its states, what is in its file, and what becomes of a file that somebody changed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod copy;
mod life;
mod tamper;

use std::path::PathBuf;

use paw_vault::{
    NewKey, Source, Unlock, Vault,
    key::{HostKey, RecoveryKey},
};
use secrecy::SecretString;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000_000;

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// One that no sync has to wait for, where the host has such a place.
    fn in_memory() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { dir: dir.unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("vault.redb")
    }

    fn sealed(&self) -> Vault {
        Vault::at(&self.file()).unwrap()
    }

    fn open(&self) -> Vault {
        let vault = self.sealed();
        vault.unseal(&Unlock::Host(&key(1)), NOW).unwrap();
        vault
    }

    /// A new one that is open, and its recovery key.
    fn make(&self) -> (Vault, RecoveryKey) {
        let vault = self.sealed();
        let recovery = vault.init(&NewKey::Host(&key(1), Source::File)).unwrap();
        (vault, recovery)
    }
}

fn key(byte: u8) -> HostKey {
    HostKey::parse(&[byte; 32]).unwrap()
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

fn value(vault: &Vault, name: &str) -> Result<Vec<u8>, String> {
    value_of(vault, name, None, NOW)
}

fn value_of(vault: &Vault, name: &str, version: Option<u64>, now: u64) -> Result<Vec<u8>, String> {
    vault
        .get(name, version, now)
        .map(|value| value.bytes().to_vec())
        .map_err(|error| error.to_string())
}
