//! The header: which vault it is, how it is opened, and what the rows are. It is signed with a key that only an open vault has.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    VaultError,
    crypt::{Key, bind},
    key::Work,
    rows::{Keys, Tree},
};

/// The version of the format.
const FORMAT: u32 = 1;

/// Where the key-encryption key comes from. A vault has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A credential of the service manager's.
    Credential,
    /// A file that only root reads.
    File,
    /// A passphrase that a person knows.
    Passphrase,
}

impl Source {
    /// In one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::File => "file",
            Self::Passphrase => "passphrase",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which state of which vault: whoever remembers a newer one knows that this is an older copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Which vault.
    pub vault: Uuid,
    /// How many changes it has seen.
    pub generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    format: u32,
    pub(crate) vault: Uuid,
    pub(crate) generation: u64,
    pub(crate) rows: u64,
    root: String,
    pub(crate) source: Source,
    /// How a passphrase becomes the key, where it is one.
    pub(crate) work: Option<Work>,
    /// The root key under the key-encryption key, and under the recovery key.
    pub(crate) slots: [String; 2],
}

/// Which key a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Usual,
    Recovery,
}

impl Slot {
    const fn purpose(self) -> &'static str {
        match self {
            Self::Usual => "usual",
            Self::Recovery => "recovery",
        }
    }
}

impl Header {
    /// The header of a vault without rows that these two keys open.
    pub(crate) fn new(
        mark: Mark,
        source: Source,
        work: Option<Work>,
        keys: &Keys,
        usual: &Key,
        recovery: &Key,
    ) -> Result<Self, VaultError> {
        let mut header = Self {
            format: FORMAT,
            vault: mark.vault,
            generation: mark.generation,
            rows: 0,
            root: String::new(),
            source,
            work,
            slots: [String::new(), String::new()],
        };
        header.cover(&Tree::new());
        header.slots = [
            header.wrap(Slot::Usual, usual, &keys.root)?,
            header.wrap(Slot::Recovery, recovery, &keys.root)?,
        ];
        Ok(header)
    }

    /// Takes over what the rows are now.
    pub(crate) fn cover(&mut self, tree: &Tree) {
        self.rows = tree.rows();
        self.root = hex::encode(tree.root());
    }

    /// Whether these are the rows.
    pub(crate) fn covers(&self, tree: &Tree) -> bool {
        self.rows == tree.rows() && self.root == hex::encode(tree.root())
    }

    pub(crate) const fn mark(&self) -> Mark {
        Mark {
            vault: self.vault,
            generation: self.generation,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are always JSON")
    }

    /// Reads a header, which is believed when [`Keys::is_signed`] says so and not before.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let header: Self = serde_json::from_slice(bytes).ok()?;
        (header.format == FORMAT).then_some(header)
    }

    /// The root key, if this key opens that slot.
    pub(crate) fn unwrap(&self, slot: Slot, key: &Key) -> Result<Option<Keys>, VaultError> {
        let [usual, recovery] = &self.slots;
        let text = match slot {
            Slot::Usual => usual,
            Slot::Recovery => recovery,
        };
        let Ok(sealed) = hex::decode(text) else {
            return Ok(None);
        };
        let mut root = Key::zeroed()?;
        let opened = key
            .derive(slot.purpose())?
            .open(&self.aad(slot), &sealed, root.bytes_mut());
        opened.then(|| Keys::of(root)).transpose()
    }

    fn wrap(&self, slot: Slot, key: &Key, root: &Key) -> Result<String, VaultError> {
        let sealed = key
            .derive(slot.purpose())?
            .seal(&self.aad(slot), root.bytes())?;
        Ok(hex::encode(sealed))
    }

    /// A slot belongs to its vault, and to the way in which its key is made.
    fn aad(&self, slot: Slot) -> Vec<u8> {
        let work = self.work.map_or_else(Vec::new, |work| {
            [
                &work.memory.to_be_bytes()[..],
                &work.passes.to_be_bytes(),
                &work.salt,
            ]
            .concat()
        });
        bind(&[
            b"pawd-vault/1",
            b"slot",
            slot.purpose().as_bytes(),
            self.vault.as_bytes(),
            self.source.as_str().as_bytes(),
            &work,
        ])
    }
}
