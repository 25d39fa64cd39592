//! The key that moves on: each record has a code (HMAC-SHA-256) by a key that is used once, replaced by its hash, and wiped.
//!
//! ```text
//!  first key K₁ ──► code of record 1      (given to who asks for it by `paw-audit --hand-out-key`, kept off the host)
//!     │ hash
//!     ▼
//!    K₂ ──────────► code of record 2
//!     │ hash            …
//!     ▼
//!    Kₙ₊₁ ────────► on the disk, in place of the one before, each time the log is signed
//! ```
//!
//! Who takes the key that is on the disk, or in memory, can make codes of records to come and none of those before: a hash is not
//! turned round. So whoever has the first key can tell a history that was written anew from the one that was written, even where the
//! key that signs was taken as well. Keys that follow from one first key are an *epoch*; each record says of which it is, and the
//! one that ends an epoch is coded by its last key.
//!
//! The writer keeps its key in memory that is never swapped: what a disk once held of an older key nobody could wipe there.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use paw_confine::sys::Locked;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    format::Tag,
    key::{KeyError, write_durably},
};

/// Name of the file with the key of the next record, in the writer's own directory.
pub const NEXT: &str = "audit.next";

/// What a first key begins with where it is written down: the epoch, its first record and the key follow.
const WRITTEN: &str = "paw-audit-key";

/// Bytes of a key.
const KEY: usize = 32;

const MAC_DOMAIN: &[u8] = b"pawd-audit-code/1\0";
const NEXT_DOMAIN: &[u8] = b"pawd-audit-next-key/1\0";

/// Where the two copies are in the file: in different pages, so that no torn write damages both.
const SLOT: u64 = 4096;
const SLOT_BYTES: usize = 4 + 4 + 8 + KEY + 32;
const MAGIC: [u8; 4] = *b"pak1";

/// The key of one record, from which that of the next follows; and the memory that it is in.
#[derive(Clone)]
pub struct Ratchet<K = Zeroizing<[u8; KEY]>> {
    epoch: u32,
    /// Number of the record that the key is for.
    next: u64,
    key: K,
}

impl Ratchet {
    /// A new first key, for this record.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn begin(epoch: u32, first: u64) -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; KEY]);
        getrandom::fill(&mut *key).map_err(KeyError::Random)?;
        Ok(Self {
            epoch,
            next: first,
            key,
        })
    }

    /// The same in memory that is never swapped, as the writer has it.
    ///
    /// # Errors
    /// When this process may not lock a page more.
    pub(crate) fn locked(&self) -> Result<Ratchet<Locked>, KeyError> {
        let mut locked = Ratchet {
            epoch: self.epoch,
            next: self.next,
            key: Locked::zeroed(KEY).map_err(KeyError::Memory)?,
        };
        locked.follow(self);
        Ok(locked)
    }

    /// Reads first keys as they are written down, one for each line; empty lines and those that begin with `#` are none.
    ///
    /// # Errors
    /// The number of the line that is none.
    pub fn read(text: &str) -> Result<Vec<Self>, usize> {
        let lines = text.lines().zip(1..).filter(|(line, _)| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        });
        lines
            .map(|(line, number)| Self::read_line(line.trim()).ok_or(number))
            .collect()
    }

    fn read_line(line: &str) -> Option<Self> {
        let mut parts = line.split(':');
        let mut key = Zeroizing::new([0; KEY]);
        let (word, epoch, next, digits) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if word != WRITTEN || parts.next().is_some() {
            return None;
        }
        hex::decode_to_slice(digits, &mut *key).ok()?;
        Some(Self {
            epoch: epoch.parse().ok()?,
            next: next.parse().ok()?,
            key,
        })
    }
}

impl<K: AsRef<[u8]> + AsMut<[u8]>> Ratchet<K> {
    /// Becomes this one, in its own memory.
    pub(crate) fn follow<L: AsRef<[u8]>>(&mut self, other: &Ratchet<L>) {
        (self.epoch, self.next) = (other.epoch, other.next);
        self.key.as_mut().copy_from_slice(other.key.as_ref());
    }

    /// Which keys it is one of.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Number of the record that the key is for.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The code of the record that the key is for, over the tag of the record before it and its own bytes up to `,"mac":`; the key is
    /// that of the next record afterwards.
    #[must_use]
    pub fn code(&mut self, prev: &Tag, body: &[u8]) -> Tag {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_ref())
            .expect("a key of any length makes a code");
        mac.update(MAC_DOMAIN);
        mac.update(prev);
        mac.update(body);
        let code = mac.finalize().into_bytes().into();
        self.step();
        code
    }

    /// Goes on to the key of this record, if it is not behind already.
    pub fn go_to(&mut self, record: u64) {
        while self.next < record {
            self.step();
        }
    }

    fn step(&mut self) {
        let hash = Sha256::new()
            .chain_update(NEXT_DOMAIN)
            .chain_update(self.key.as_ref());
        let mut next = Zeroizing::new([0; KEY]);
        hash.finalize_into((&mut *next).into());
        self.key.as_mut().copy_from_slice(&*next);
        self.next = self.next.saturating_add(1);
    }

    /// As it is written down for who keeps it off the host: one line.
    #[must_use]
    pub fn written(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(hex::encode(self.key.as_ref()));
        Zeroizing::new(format!("{WRITTEN}:{}:{}:{}\n", self.epoch, self.next, *key))
    }
}

impl<K> fmt::Debug for Ratchet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ratchet")
            .field("epoch", &self.epoch)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// The file with the key of the next record.
///
/// It is written over in place, because a new file would leave the bytes of the old one, and so the old key, on the disk.
#[derive(Debug)]
pub(crate) struct NextKey {
    path: PathBuf,
    file: File,
    /// Which of the two places holds the newest one.
    slot: u64,
    /// What it is for.
    saved: u64,
}

impl NextKey {
    /// The file, and the key in it; `None` when there is none yet.
    pub(crate) fn load(state: &Path) -> Result<Option<(Self, Ratchet)>, KeyError> {
        let path = state.join(NEXT);
        let failed = |step, source| KeyError::Io {
            step,
            path: path.clone(),
            source,
        };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("open", source)),
        };
        let mode = file
            .metadata()
            .map_err(|source| failed("look at", source))?
            .permissions()
            .mode()
            & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path, mode });
        }
        let mut newest: Option<(u64, Ratchet)> = None;
        for slot in 0..2 {
            let mut bytes = Zeroizing::new([0; SLOT_BYTES]);
            match file.read_exact_at(&mut *bytes, slot * SLOT) {
                Ok(()) => (),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(source) => return Err(failed("read", source)),
            }
            let found = unpack(&bytes);
            if let Some(found) = found
                && newest
                    .as_ref()
                    .is_none_or(|(_, other)| (other.epoch, other.next) < (found.epoch, found.next))
            {
                newest = Some((slot, found));
            }
        }
        let Some((slot, ratchet)) = newest else {
            return Err(KeyError::Bad(path));
        };
        let saved = ratchet.next;
        Ok(Some((
            Self {
                path,
                file,
                slot,
                saved,
            },
            ratchet,
        )))
    }

    /// Makes the file, with this key.
    pub(crate) fn create<K: AsRef<[u8]>>(
        state: &Path,
        ratchet: &Ratchet<K>,
    ) -> Result<Self, KeyError> {
        let path = state.join(NEXT);
        let failed = |step, source| KeyError::Io {
            step,
            path: path.clone(),
            source,
        };
        let mut bytes = Zeroizing::new(vec![0; 2 * SLOT as usize]);
        bytes[..SLOT_BYTES].copy_from_slice(&*pack(ratchet));
        write_durably(&path, &bytes, 0o600).map_err(|source| failed("write", source))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("open", source))?;
        Ok(Self {
            saved: ratchet.next,
            path,
            file,
            slot: 0,
        })
    }

    /// Puts this key in place of the one that is there, and wipes that.
    pub(crate) fn save<K: AsRef<[u8]>>(&mut self, ratchet: &Ratchet<K>) -> io::Result<()> {
        if self.saved == ratchet.next {
            return Ok(());
        }
        let other = 1 - self.slot;
        self.file.write_all_at(&*pack(ratchet), other * SLOT)?;
        self.file.sync_data()?;
        // Not before the new one is on the disk. This reaches it by itself, and with the next key's sync at the latest.
        self.file.write_all_at(&[0; SLOT_BYTES], self.slot * SLOT)?;
        (self.slot, self.saved) = (other, ratchet.next);
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn pack<K: AsRef<[u8]>>(ratchet: &Ratchet<K>) -> Zeroizing<[u8; SLOT_BYTES]> {
    let mut bytes = Zeroizing::new([0; SLOT_BYTES]);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&ratchet.epoch.to_le_bytes());
    bytes[8..16].copy_from_slice(&ratchet.next.to_le_bytes());
    bytes[16..48].copy_from_slice(ratchet.key.as_ref());
    let sum = Sha256::digest(&bytes[..48]);
    bytes[48..].copy_from_slice(&sum);
    bytes
}

fn unpack(bytes: &[u8; SLOT_BYTES]) -> Option<Ratchet> {
    let sum: [u8; 32] = Sha256::digest(&bytes[..48]).into();
    if bytes[..4] != MAGIC || bytes[48..] != sum {
        return None;
    }
    let mut key = Zeroizing::new([0; KEY]);
    key.copy_from_slice(&bytes[16..48]);
    Some(Ratchet {
        epoch: u32::from_le_bytes(bytes[4..8].try_into().ok()?),
        next: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
        key,
    })
}

/// What codes are checked with.
#[derive(Debug, Clone, Default)]
pub struct Codes {
    /// The key of some record, and those after it.
    now: Option<Ratchet>,
    /// First keys that were kept elsewhere.
    first: Vec<Ratchet>,
    /// How many were checked.
    pub checked: u64,
    /// Where records begin, behind those that were, whose epoch is another one than those of the keys; and which.
    unknown: Option<(u64, u32)>,
}

impl Codes {
    /// From the record on that this key is for; what is before it is not looked at.
    #[must_use]
    pub fn from(key: Ratchet) -> Self {
        Self {
            now: Some(key),
            ..Self::default()
        }
    }

    /// Of all records of the epochs that these are the first keys of.
    #[must_use]
    pub fn with(first: Vec<Ratchet>) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    /// From which record on, and of which epoch, the end of the log could not be checked although first keys were given. What is
    /// before a record that was checked could not be another one either: its code is over all of it.
    #[must_use]
    pub const fn unknown_end(&self) -> Option<(u64, u32)> {
        self.unknown
    }

    /// The key of this record.
    pub(crate) fn into_key(self, record: u64) -> Option<Ratchet> {
        let mut key = self.now?;
        key.go_to(record);
        Some(key)
    }

    /// Whether a first key says that this record has a code.
    pub(crate) fn demands(&self, record: u64) -> bool {
        self.first.iter().any(|key| record >= key.next)
    }

    /// Whether this may be the record's code, as far as the keys tell.
    pub(crate) fn fits(
        &mut self,
        record: u64,
        epoch: u32,
        code: &Tag,
        prev: &Tag,
        body: &[u8],
    ) -> bool {
        // A first key says from which record on its epoch is; nothing after that is of an older one, and nothing before of it.
        if self.first.iter().any(|key| {
            (epoch < key.epoch && record >= key.next) || (epoch >= key.epoch && record < key.next)
        }) {
            return false;
        }
        if self.now.as_ref().is_none_or(|key| key.epoch != epoch)
            && let Some(key) = self.first.iter().find(|key| key.epoch == epoch)
        {
            self.now = Some(key.clone());
        }
        let Some(mut key) = self
            .now
            .clone()
            .filter(|key| key.epoch == epoch && key.next <= record)
        else {
            if self.demands(record) {
                self.unknown = self.unknown.or(Some((record, epoch)));
            }
            return true;
        };
        key.go_to(record);
        let fits = key.code(prev, body) == *code;
        // After a record that does not fit the next one is still this one.
        if fits {
            self.checked += 1;
            self.now = Some(key);
            self.unknown = None;
        }
        fits
    }
}
