//! The few operations everything is made of: seal and open, derive, hash. No format and no file.

use chacha20poly1305::{AeadInOut as _, KeyInit as _, Tag, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use paw_confine::sys::Locked;
use sha2::{Digest as _, Sha256};

use crate::VaultError;

/// The length of every key, in bytes.
pub(crate) const KEY: usize = 32;

/// The length of a nonce and of a tag, which stand around each sealed text.
const NONCE: usize = 24;
const TAG: usize = 16;

/// A key in memory of its own.
#[derive(Debug)]
pub(crate) struct Key(Locked);

impl Key {
    /// A new one.
    pub(crate) fn random() -> Result<Self, VaultError> {
        let mut key = Self::zeroed()?;
        fill(&mut key.0)?;
        Ok(key)
    }

    /// As these bytes, of which there are [`KEY`].
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, VaultError> {
        let mut key = Self::zeroed()?;
        key.0.copy_from_slice(bytes);
        Ok(key)
    }

    /// The key for one purpose, from which this one does not follow.
    pub(crate) fn derive(&self, purpose: &str) -> Result<Self, VaultError> {
        let mut derived = Self::zeroed()?;
        let mac = self.mac(purpose, &[]);
        derived.0.copy_from_slice(&mac);
        Ok(derived)
    }

    /// All zeros, to be written.
    pub(crate) fn zeroed() -> Result<Self, VaultError> {
        Locked::zeroed(KEY).map(Self).map_err(VaultError::Memory)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// A code over these bytes that only who has the key can make.
    pub(crate) fn mac(&self, purpose: &str, bytes: &[u8]) -> [u8; 32] {
        let mut mac = self.start(purpose);
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }

    /// Whether that is the code of these bytes. Takes as long whatever is wrong.
    pub(crate) fn is_mac(&self, purpose: &str, bytes: &[u8], code: &[u8]) -> bool {
        let mut mac = self.start(purpose);
        mac.update(bytes);
        mac.verify_slice(code).is_ok()
    }

    fn start(&self, purpose: &str) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&self.0)
            .expect("a key of any length makes a code");
        mac.update(b"pawd-vault/1\0");
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac
    }

    /// Hides bytes, bound to `aad`: nonce, ciphertext, tag.
    pub(crate) fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut sealed = vec![0; NONCE + plain.len() + TAG];
        let (nonce, rest) = sealed.split_at_mut(NONCE);
        let (text, tag) = rest.split_at_mut(plain.len());
        fill(nonce)?;
        text.copy_from_slice(plain);
        let made = self
            .cipher()
            .encrypt_inout_detached(&nonce_of(nonce), aad, text.into())
            .expect("a text is shorter than 256 GiB");
        tag.copy_from_slice(&made);
        Ok(sealed)
    }

    /// Opens what [`Key::seal`] made into `plain`, which has the right length; `false` where anything is different.
    #[must_use]
    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8], plain: &mut [u8]) -> bool {
        if opened_length(sealed) != Some(plain.len()) {
            return false;
        }
        let (nonce, rest) = sealed.split_at(NONCE);
        let (text, tag) = rest.split_at(plain.len());
        let mut code = Tag::default();
        code.copy_from_slice(tag);
        plain.copy_from_slice(text);
        // What does not fit is not decrypted.
        self.cipher()
            .decrypt_inout_detached(&nonce_of(nonce), aad, (&mut *plain).into(), &code)
            .is_ok()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        let mut key = chacha20poly1305::Key::default();
        key.copy_from_slice(&self.0);
        let cipher = XChaCha20Poly1305::new(&key);
        zeroize::Zeroize::zeroize(&mut key[..]);
        cipher
    }
}

/// How long the text is that is sealed in these bytes.
pub(crate) fn opened_length(sealed: &[u8]) -> Option<usize> {
    sealed.len().checked_sub(NONCE + TAG)
}

/// Bytes to which something is bound: the parts, each with its length, so that no two lists are the same bytes.
pub(crate) fn bind(parts: &[&[u8]]) -> Vec<u8> {
    let mut bound = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bound.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

pub(crate) fn hash(purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"pawd-vault/1\0");
    hash.update(purpose.as_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), VaultError> {
    getrandom::fill(bytes).map_err(VaultError::Random)
}

fn nonce_of(bytes: &[u8]) -> XNonce {
    let mut nonce = XNonce::default();
    nonce.copy_from_slice(bytes);
    nonce
}
