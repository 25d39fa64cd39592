//! What opens a vault: 32 bytes that the host keeps, a passphrase, or the recovery key that was shown when the vault was made.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    VaultError,
    crypt::{KEY, Key, fill},
};

/// The fewest characters of a passphrase.
pub const MIN_PASSPHRASE: usize = 12;

/// The longest passphrase, in bytes.
pub const MAX_PASSPHRASE: usize = 1024;

/// A key is not as it must be. Nothing of it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is neither 32 bytes nor their hexadecimal form.
    #[error("a key has 32 bytes, as they are or as 64 hexadecimal digits")]
    Length,
    /// It is no recovery key, or a digit of it is wrong.
    #[error(
        "this is no recovery key: it has nine groups, and the last one tells whether the others are right"
    )]
    Recovery,
    /// Too short, or too long.
    #[error(
        "a passphrase has at least {MIN_PASSPHRASE} characters and at most {MAX_PASSPHRASE} bytes"
    )]
    Passphrase,
    /// The file says that a passphrase is to be tried with less work than is safe, or with more than this host does.
    #[error(
        "the parameters of the passphrase are not within what is safe; somebody changed the vault"
    )]
    Parameters,
}

/// How a passphrase becomes a key. What is stored is checked before it is used: nobody lowers the work by changing the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Memory, in KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Different for each vault and each passphrase.
    pub salt: [u8; 16],
}

/// What is used for new passphrases, and what the file may say at least and at most.
const MEMORY: [u32; 3] = [64 * 1024, 64 * 1024, 1024 * 1024];
const PASSES: [u32; 3] = [3, 3, 32];

impl Work {
    /// As is safe today, with a salt of its own.
    pub(crate) fn new() -> Result<Self, VaultError> {
        let mut work = Self {
            memory: MEMORY[0],
            passes: PASSES[0],
            salt: [0; 16],
        };
        fill(&mut work.salt)?;
        Ok(work)
    }

    fn check(&self) -> Result<(), KeyError> {
        let within = |value: u32, bounds: [u32; 3]| (bounds[1]..=bounds[2]).contains(&value);
        if within(self.memory, MEMORY) && within(self.passes, PASSES) {
            Ok(())
        } else {
            Err(KeyError::Parameters)
        }
    }

    /// The key that this passphrase is. Takes about half a second and 64 MiB.
    pub(crate) fn key(&self, passphrase: &SecretString) -> Result<Key, VaultError> {
        self.check()?;
        let text = passphrase.expose_secret();
        let fits = text.chars().count() >= MIN_PASSPHRASE && text.len() <= MAX_PASSPHRASE;
        if !fits {
            return Err(KeyError::Passphrase.into());
        }
        let params = Params::new(self.memory, self.passes, 1, Some(KEY))
            .map_err(|_| KeyError::Parameters)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Key::zeroed()?;
        let mut memory = vec![Block::default(); argon2.params().block_count()];
        let made = argon2.hash_password_into_with_memory(
            text.as_bytes(),
            &self.salt,
            key.bytes_mut(),
            &mut memory,
        );
        memory.iter_mut().for_each(|block| block.zeroize());
        made.map_err(|_| KeyError::Parameters)?;
        Ok(key)
    }
}

/// The key-encryption key that the host keeps: a credential, or a file that only root reads.
#[derive(Debug)]
pub struct HostKey(pub(crate) Key);

impl HostKey {
    /// Reads a key: 32 bytes, or 64 hexadecimal digits with or without a line end.
    ///
    /// # Errors
    /// When it is neither, or there is no memory for it.
    pub fn parse(bytes: &[u8]) -> Result<Self, VaultError> {
        // Half as many digits as a key has are no key of 32 bytes, but a weaker one.
        if bytes.len() == KEY && !bytes.iter().all(u8::is_ascii_hexdigit) {
            return Ok(Self(Key::of(bytes)?));
        }
        let mut key = Key::zeroed()?;
        hex::decode_to_slice(bytes.trim_ascii(), key.bytes_mut()).map_err(|_| KeyError::Length)?;
        Ok(Self(key))
    }
}

/// Digits in a group of a recovery key.
const GROUP: usize = 8;

/// A key that opens a vault when its usual key is lost. Shown once, as nine groups of hexadecimal digits, the last of which tells
/// whether the others are right.
pub struct RecoveryKey(pub(crate) Key);

impl RecoveryKey {
    pub(crate) fn random() -> Result<Self, VaultError> {
        Key::random().map(Self)
    }

    /// As a person writes it down.
    #[must_use]
    pub fn text(&self) -> SecretString {
        let mut digits = Zeroizing::new(hex::encode(self.0.bytes()));
        digits.push_str(&check(self.0.bytes()));
        let mut text = String::with_capacity(digits.len() + digits.len() / GROUP);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(digit);
        }
        SecretString::from(text)
    }

    /// As it was written down; spaces and dashes may stand anywhere.
    ///
    /// # Errors
    /// When it is none, or a digit is wrong.
    pub fn parse(text: &SecretString) -> Result<Self, VaultError> {
        let kept = |sign: &char| !sign.is_whitespace() && *sign != '-';
        let digits: Zeroizing<String> =
            Zeroizing::new(text.expose_secret().chars().filter(kept).collect());
        let (key, end) = digits.split_at_checked(2 * KEY).ok_or(KeyError::Recovery)?;
        let mut recovery = Self(Key::zeroed()?);
        hex::decode_to_slice(key, recovery.0.bytes_mut()).map_err(|_| KeyError::Recovery)?;
        if check(recovery.0.bytes()).eq_ignore_ascii_case(end) {
            Ok(recovery)
        } else {
            Err(KeyError::Recovery.into())
        }
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

/// The group that tells whether the others are right.
fn check(key: &[u8]) -> String {
    // In parts, so that no copy of the key is made that nobody wipes.
    let hash = Sha256::new().chain_update(b"pawd-vault/1 recovery");
    let mut digest = hash.chain_update(key).finalize();
    let text = hex::encode(&digest[..GROUP / 2]);
    digest.zeroize();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(result: Result<T, VaultError>) -> Option<KeyError> {
        match result {
            Err(VaultError::Key(error)) => Some(error),
            _ => None,
        }
    }

    #[test]
    fn recovery_key_is_read_as_it_was_shown_and_a_wrong_digit_is_noticed() {
        let key = RecoveryKey::random().unwrap();
        let text = key.text();
        let text = text.expose_secret();
        assert_eq!(text.split('-').count(), 9);
        for written in [
            text.to_owned(),
            text.to_uppercase(),
            format!("  {}\n", text.replace('-', " ")),
        ] {
            let read = RecoveryKey::parse(&written.into()).unwrap();
            assert_eq!(read.0.bytes(), key.0.bytes());
        }
        for at in (0..text.len()).filter(|at| at % 9 != 8) {
            let mut wrong = text.to_owned();
            let other = if &text[at..=at] == "0" { "1" } else { "0" };
            wrong.replace_range(at..=at, other);
            assert_eq!(
                refused(RecoveryKey::parse(&wrong.into())),
                Some(KeyError::Recovery)
            );
        }
        for short in ["", "-", "abc", &text[1..]] {
            assert_eq!(
                refused(RecoveryKey::parse(&short.into())),
                Some(KeyError::Recovery)
            );
        }
        assert_eq!(format!("{key:?}"), "RecoveryKey(..)");
    }

    #[test]
    fn key_of_the_host_is_32_bytes_or_64_digits() {
        let bytes: Vec<u8> = (0..32).collect();
        let text = hex::encode(&bytes) + "\n";
        for good in [bytes.as_slice(), text.as_bytes()] {
            assert_eq!(HostKey::parse(good).unwrap().0.bytes(), bytes);
        }
        for bad in [
            &b""[..],
            &[7; 31],
            &[7; 33],
            b"not hexadecimal",
            &[b'a'; 32],
        ] {
            assert_eq!(refused(HostKey::parse(bad)), Some(KeyError::Length));
        }
    }

    #[test]
    fn parameters_below_the_floor_are_refused() {
        let good = Work {
            memory: 64 * 1024,
            passes: 3,
            salt: [7; 16],
        };
        good.check().unwrap();
        let passphrase = SecretString::from("correct horse battery");
        for bad in [
            Work {
                memory: 64 * 1024 - 1,
                ..good
            },
            Work {
                memory: 8,
                passes: 1,
                ..good
            },
            Work { passes: 2, ..good },
            Work {
                memory: u32::MAX,
                ..good
            },
            Work {
                passes: u32::MAX,
                ..good
            },
        ] {
            assert_eq!(refused(bad.key(&passphrase)), Some(KeyError::Parameters));
        }
        for bad in ["", "elf letters", &"x".repeat(MAX_PASSPHRASE + 1)] {
            assert_eq!(
                refused(good.key(&SecretString::from(bad))),
                Some(KeyError::Passphrase)
            );
        }
    }

    #[test]
    fn each_vault_has_its_own_salt_and_so_its_own_key() {
        let passphrase = SecretString::from("correct horse battery");
        let (one, other) = (Work::new().unwrap(), Work::new().unwrap());
        assert_ne!(one.salt, other.salt);
        let key = one.key(&passphrase).unwrap();
        assert_ne!(key.bytes(), other.key(&passphrase).unwrap().bytes());
        assert_eq!(key.bytes(), one.key(&passphrase).unwrap().bytes());
    }
}
