//! A vault and its states. Changes are made one after the other; values are read beside each other and beside a change.

mod change;
mod copy;
mod open;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

pub use copy::MAX_COPY;
use secrecy::SecretString;
use uuid::Uuid;

use crate::{
    VaultError,
    file::{Tries, Vaulted, tampered},
    header::{Header, Mark, Source},
    key::{HostKey, RecoveryKey},
    rows::{Class, Keys, Secret, Tree, Version},
    value::Value,
};

/// So many wrong keys may be tried without a wait.
const FREE_TRIES: u64 = 4;

/// How long the first wait is, and the longest one, in milliseconds.
const WAIT: [u64; 2] = [1_000, 3_600_000];

/// What a vault is opened with.
#[derive(Debug)]
pub enum Unlock<'a> {
    /// The key that the host keeps.
    Host(&'a HostKey),
    /// What a person knows.
    Passphrase(&'a SecretString),
    /// What a person wrote down when the vault was made.
    Recovery(&'a RecoveryKey),
}

/// The key that a vault is to have.
#[derive(Debug)]
pub enum NewKey<'a> {
    /// One that the host keeps, and where.
    Host(&'a HostKey, Source),
    /// What a person knows.
    Passphrase(&'a SecretString),
}

/// Whether values can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is no vault.
    Uninitialised,
    /// There is one, and no key has opened it.
    Sealed,
    /// Values can be had.
    Unsealed,
}

/// What can be said of a vault in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Whether values can be had.
    pub state: State,
    /// Which vault, and how many changes it has seen; while it is sealed, as it says itself.
    pub mark: Option<Mark>,
    /// Where its key comes from.
    pub source: Option<Source>,
    /// How many secrets there are; known of an open one alone.
    pub secrets: Option<usize>,
    /// Wrong keys that were tried since the last right one.
    pub wrong_keys: u64,
    /// Until when none is tried, in milliseconds since 1970.
    pub paused_until_ms: Option<u64>,
}

/// A vault at its place in the file system, whether it is there or not.
pub struct Vault {
    path: PathBuf,
    /// Whoever changes something holds this, and then does the long part beside readers.
    turn: Mutex<()>,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    file: Option<Vaulted>,
    open: Option<Open>,
    /// A file that is there and could not be opened again after a failure, as on a full disk.
    lost: Option<Lost>,
}

/// What is known of a file that cannot be used now.
struct Lost {
    /// Its keys, where it was open.
    keys: Option<Arc<Keys>>,
    why: String,
}

/// What is in memory while it is open.
#[derive(Clone)]
struct Open {
    keys: Arc<Keys>,
    header: Header,
    secrets: BTreeMap<String, Arc<Secret>>,
    tree: Tree,
}

impl Vault {
    /// The vault of this file, sealed if it is there.
    ///
    /// # Errors
    /// When the file is there and is none, is damaged, or belongs to another process.
    pub fn at(path: &Path) -> Result<Self, VaultError> {
        Ok(Self {
            path: path.to_owned(),
            turn: Mutex::default(),
            inner: RwLock::new(Inner::sealed(path)?),
        })
    }

    /// The vault of a file that [`Vault::at`] could not open, for a reason that may go away. It is tried again by each who asks.
    #[must_use]
    pub fn lost(path: &Path, why: &VaultError) -> Self {
        Self {
            path: path.to_owned(),
            turn: Mutex::default(),
            inner: RwLock::new(Inner {
                lost: Some(Lost::new(None, why)),
                ..Inner::default()
            }),
        }
    }

    /// What can be said of it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn status(&self) -> Result<Status, VaultError> {
        let inner = self.inner();
        inner.usable()?;
        let Some(file) = &inner.file else {
            return Ok(Status {
                state: State::Uninitialised,
                mark: None,
                source: None,
                secrets: None,
                wrong_keys: 0,
                paused_until_ms: None,
            });
        };
        let tries = file.tries()?;
        let (header, state) = match &inner.open {
            Some(open) => (open.header.clone(), State::Unsealed),
            None => (header(file, &self.path)?.0, State::Sealed),
        };
        Ok(Status {
            state,
            mark: Some(header.mark()),
            source: Some(header.source),
            secrets: inner.open.as_ref().map(|open| open.secrets.len()),
            wrong_keys: tries.wrong,
            paused_until_ms: Some(tries.until_ms).filter(|until| *until > 0),
        })
    }

    /// Opens it; returns which state of it that is.
    ///
    /// # Errors
    /// When the key is another one, too many were tried, or what is there is not what was written.
    pub fn unseal(&self, with: &Unlock<'_>, now_ms: u64) -> Result<Mark, VaultError> {
        let _turn = self.turn();
        let opened = {
            let inner = self.inner();
            if inner.open.is_some() {
                return Err(VaultError::Unsealed);
            }
            inner.usable()?;
            let file = inner.file.as_ref().ok_or(VaultError::Uninitialised)?;
            open::unlock(file, &self.path, with, now_ms)?
        };
        let mark = opened.header.mark();
        self.inner_mut().open = Some(opened);
        Ok(mark)
    }

    /// Forgets the keys, at once. Whoever has a value already has it.
    pub fn seal(&self) {
        let _turn = self.turn();
        let mut inner = self.inner_mut();
        inner.open = None;
        if let Some(lost) = &mut inner.lost {
            lost.keys = None;
        }
    }

    /// The value of this version of a secret, or of the newest. Whether that may be had is not asked here.
    ///
    /// # Errors
    /// When it is not there, its time is over, the vault is sealed, or it was changed.
    pub fn get(&self, name: &str, version: Option<u64>, now_ms: u64) -> Result<Value, VaultError> {
        let inner = self.inner();
        let (file, open) = inner.opened()?;
        let secret = open.secrets.get(name).ok_or(VaultError::NotFound)?;
        let version = secret.version(version, now_ms)?;
        let row = file
            .row(&open.keys.version_key(name, version.number))?
            .ok_or_else(|| tampered(&self.path, "a value is missing"))?;
        open.keys
            .show(open.header.vault, name, &version, &row)?
            .ok_or_else(|| tampered(&self.path, "a value was changed"))
    }

    /// What is known of a secret.
    ///
    /// # Errors
    /// When there is none of that name, or the vault is sealed.
    pub fn secret(&self, name: &str) -> Result<Arc<Secret>, VaultError> {
        let inner = self.inner();
        let (_, open) = inner.opened()?;
        open.secrets.get(name).cloned().ok_or(VaultError::NotFound)
    }

    /// All secrets, by name, without their values.
    ///
    /// # Errors
    /// When the vault is sealed.
    pub fn secrets(&self) -> Result<Vec<Arc<Secret>>, VaultError> {
        let inner = self.inner();
        let (_, open) = inner.opened()?;
        Ok(open.secrets.values().cloned().collect())
    }

    /// Which state of it is open.
    ///
    /// # Errors
    /// When none is.
    pub fn mark(&self) -> Result<Mark, VaultError> {
        let inner = self.inner();
        let (_, open) = inner.opened()?;
        Ok(open.header.mark())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is now. One that could not be opened is tried again by each who asks.
    fn inner(&self) -> RwLockReadGuard<'_, Inner> {
        let read = || self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let inner = read();
        if inner.lost.is_none() {
            return inner;
        }
        drop(inner);
        self.inner_mut().find(&self.path);
        read()
    }

    fn inner_mut(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Lost {
    fn new(keys: Option<Arc<Keys>>, error: &VaultError) -> Self {
        let why = std::iter::successors(Some(error as &dyn std::error::Error), |it| it.source());
        let why: Vec<_> = why.map(ToString::to_string).collect();
        Self {
            keys,
            why: why.join(": "),
        }
    }
}

impl Inner {
    fn of(file: Vaulted, open: Open) -> Self {
        Self {
            file: Some(file),
            open: Some(open),
            lost: None,
        }
    }

    fn sealed(path: &Path) -> Result<Self, VaultError> {
        let file = Vaulted::open(path)?;
        if let Some(file) = &file {
            header(file, path)?;
        }
        Ok(Self {
            file,
            ..Self::default()
        })
    }

    /// Tries once more to open what could not be opened.
    fn find(&mut self, path: &Path) {
        let Some(Lost { keys, .. }) = self.lost.take() else {
            return;
        };
        let found = match &keys {
            Some(keys) => open::again(path, Arc::clone(keys)).map(|it| Self::of(it.0, it.1)),
            None => Self::sealed(path),
        };
        match found {
            Ok(found) => *self = found,
            Err(error) => self.lost = Some(Lost::new(keys, &error)),
        }
    }

    fn usable(&self) -> Result<(), VaultError> {
        match &self.lost {
            None => Ok(()),
            Some(lost) => Err(VaultError::Unusable {
                why: lost.why.clone(),
            }),
        }
    }

    fn opened(&self) -> Result<(&Vaulted, &Open), VaultError> {
        self.usable()?;
        let file = self.file.as_ref().ok_or(VaultError::Uninitialised)?;
        let open = self.open.as_ref().ok_or(VaultError::Sealed)?;
        Ok((file, open))
    }
}

/// The header of a file, which nobody has checked yet, and its code.
fn header(file: &Vaulted, path: &Path) -> Result<(Header, Vec<u8>, Vec<u8>), VaultError> {
    let (bytes, code) = file.header()?;
    let header = Header::read(&bytes).ok_or_else(|| tampered(path, "its header cannot be read"))?;
    Ok((header, bytes, code))
}

/// A new version of a value.
fn version(number: u64, value: &[u8], now_ms: u64) -> Result<Version, VaultError> {
    Ok(Version {
        number,
        class: Class::of(value)?,
        created_ms: now_ms,
        until_ms: None,
    })
}

const fn mark(vault: Uuid, generation: u64) -> Mark {
    Mark { vault, generation }
}

/// After one more wrong key.
fn one_more(tries: Tries, now_ms: u64) -> Tries {
    let wrong = tries.wrong.saturating_add(1);
    let until_ms = match wrong.checked_sub(FREE_TRIES + 1) {
        None => 0,
        Some(more) => {
            let wait = WAIT[0].saturating_mul(1 << more.min(20)).min(WAIT[1]);
            now_ms.saturating_add(wait)
        }
    };
    Tries { wrong, until_ms }
}
