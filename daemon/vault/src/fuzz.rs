//! What lies on the disk of a stolen or changed vault, and what keys are read from; for the fuzzer.

use secrecy::SecretString;
use uuid::Uuid;

use crate::{
    VaultError, check_name,
    crypt::Key,
    header::{Header, Slot},
    key::{HostKey, RecoveryKey},
    rows::Keys,
};

/// The keys of a vault that the fuzzer knows.
pub struct Known {
    key: Key,
    keys: Keys,
}

/// Always the same keys.
///
/// # Errors
/// When there is no memory that can be locked.
pub fn known() -> Result<Known, VaultError> {
    Ok(Known {
        key: Key::of(&[7; 32])?,
        keys: Keys::of(Key::of(&[9; 32])?)?,
    })
}

/// Reads bytes as a header, and has two keys tried on it.
///
/// # Panics
/// When a key opens what nobody sealed with it.
pub fn header(bytes: &[u8], known: &Known) {
    let Some(header) = Header::read(bytes) else {
        return;
    };
    for slot in [Slot::Usual, Slot::Recovery] {
        let opened = header.unwrap(slot, &known.key);
        assert!(!matches!(opened, Ok(Some(_))), "another key opens it");
    }
    assert!(!known.keys.is_signed(bytes, &bytes[..bytes.len().min(32)]));
    assert!(Header::read(&header.bytes()).is_some());
}

/// Reads bytes as a row: the first 33 are where it stands.
///
/// # Panics
/// When it is taken for one that was written.
pub fn row(bytes: &[u8], known: &Known) {
    let (at, row) = bytes.split_at(bytes.len().min(33));
    assert!(known.keys.read_about(Uuid::nil(), at, row).is_none());
}

/// Reads bytes as keys and as the name of a secret.
pub fn keys(bytes: &[u8]) {
    let _ = HostKey::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = check_name(&text);
    let _ = RecoveryKey::parse(&SecretString::from(text.into_owned()));
}
