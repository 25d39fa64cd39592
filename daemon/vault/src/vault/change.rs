//! What changes a vault. A change is in the file durably when it returns, or did not happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{Inner, Lost, NewKey, Open, Vault, mark, open, version};
use crate::{
    MAX_SECRETS, MAX_USERS, MAX_VERSIONS, Unfit, VaultError, check_name,
    crypt::Key,
    file::{Change, Remains, Vaulted},
    header::{Header, Mark, Source},
    key::{RecoveryKey, Work},
    rows::{Keys, Secret, Tree, User},
};

impl Vault {
    /// Makes a vault, which is open then. Returns the recovery key, which is nowhere else.
    ///
    /// # Errors
    /// When there is one, or it cannot be written.
    pub fn init(&self, key: &NewKey<'_>) -> Result<RecoveryKey, VaultError> {
        let _turn = self.turn();
        // A file that cannot be used now is a vault all the same, and nothing may take its place.
        let inner = self.inner();
        if inner.file.is_some() || inner.lost.is_some() || self.path.symlink_metadata().is_ok() {
            return Err(VaultError::Initialised);
        }
        drop(inner);
        let (keys, header, recovery) = new_keys(mark(Uuid::now_v7(), 1), key)?;
        let code = keys.sign(&header.bytes());
        let (file, _) = Vaulted::write_anew(&self.path, (&header, &code), std::iter::empty())?;
        let open = Open {
            keys: Arc::new(keys),
            header,
            secrets: BTreeMap::new(),
            tree: Tree::new(),
        };
        self.replace(file, open);
        Ok(recovery)
    }

    /// Keeps a value under a new name. Nobody may use it yet.
    ///
    /// # Errors
    /// When there is a secret of that name, or name or value are not as they must be.
    pub fn set(&self, name: &str, value: &[u8], now_ms: u64) -> Result<Mark, VaultError> {
        check_name(name)?;
        let first = version(1, value, now_ms)?;
        self.change(|open, changes| {
            if open.secrets.contains_key(name) {
                return Err(VaultError::Exists);
            }
            if open.secrets.len() >= MAX_SECRETS {
                return Err(Unfit::Secrets.into());
            }
            let secret = Secret {
                name: name.to_owned(),
                created_ms: now_ms,
                versions: vec![first],
                users: BTreeSet::new(),
            };
            let row = open.keys.hide(open.header.vault, name, &first, value)?;
            changes.push((open.keys.version_key(name, first.number), Some(row)));
            open.put(secret, changes)
        })
    }

    /// Gives a secret another value. The one before can be used for so long, by who names its version; without a time it is destroyed.
    ///
    /// # Errors
    /// When there is no such secret, too many versions of it can be used, or the value is not as it must be.
    pub fn rotate(
        &self,
        name: &str,
        value: &[u8],
        keep_ms: u64,
        now_ms: u64,
    ) -> Result<Mark, VaultError> {
        let mut next = version(0, value, now_ms)?;
        self.change(|open, changes| {
            let mut secret = open.found(name)?;
            let last = secret.versions.last_mut().ok_or(VaultError::NotFound)?;
            last.until_ms = Some(now_ms.saturating_add(keep_ms));
            next.number = last.number + 1;
            secret.versions.push(next);
            open.retire(&mut secret, now_ms, changes);
            if secret.versions.len() > MAX_VERSIONS {
                return Err(Unfit::Versions.into());
            }
            let row = open.keys.hide(open.header.vault, name, &next, value)?;
            changes.push((open.keys.version_key(name, next.number), Some(row)));
            open.put(secret, changes)
        })
    }

    /// Destroys the data key of an older version.
    ///
    /// # Errors
    /// When there is none of that number, or it is the newest one: a secret without a value is to be removed.
    pub fn revoke(&self, name: &str, number: u64) -> Result<Mark, VaultError> {
        self.change(|open, changes| {
            let mut secret = open.found(name)?;
            let before = secret.versions.len();
            secret
                .versions
                .retain(|version| version.number != number || version.until_ms.is_none());
            if secret.versions.len() == before {
                return Err(VaultError::NoVersion);
            }
            changes.push((open.keys.version_key(name, number), None));
            open.put(secret, changes)
        })
    }

    /// Destroys a secret with all its versions.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove(&self, name: &str) -> Result<Mark, VaultError> {
        self.change(|open, changes| {
            let secret = open.found(name)?;
            for version in &secret.versions {
                changes.push((open.keys.version_key(name, version.number), None));
            }
            changes.push((open.keys.about_key(name), None));
            open.secrets.remove(name);
            Ok(())
        })
    }

    /// Lets somebody use a secret, or no longer.
    ///
    /// # Errors
    /// When there is no such secret, or too many may use it.
    pub fn let_use(&self, name: &str, user: &User, allowed: bool) -> Result<Mark, VaultError> {
        self.change(|open, changes| {
            let mut secret = open.found(name)?;
            if allowed {
                secret.users.insert(user.clone());
            } else {
                secret.users.remove(user);
            }
            if secret.users.len() > MAX_USERS {
                return Err(Unfit::Users.into());
            }
            open.put(secret, changes)
        })
    }

    /// Destroys every version whose time is over; `None` where there is none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sweep(&self, now_ms: u64) -> Result<Option<Mark>, VaultError> {
        let over: Vec<String> = self
            .secrets()?
            .iter()
            .filter(|secret| secret.versions.iter().any(|it| !it.is_valid(now_ms)))
            .map(|secret| secret.name.clone())
            .collect();
        if over.is_empty() {
            return Ok(None);
        }
        let swept = self.change(|open, changes| {
            for name in &over {
                // It may have been removed since.
                let Ok(mut secret) = open.found(name) else {
                    continue;
                };
                open.retire(&mut secret, now_ms, changes);
                open.put(secret, changes)?;
            }
            Ok(())
        });
        swept.map(Some)
    }

    /// Gives the vault another key, and a new root key below it: every data key is wrapped anew, and with the keys from before nothing
    /// of the file can be read any more. Returns the new recovery key. Values are read meanwhile. Interrupted anywhere, the file is
    /// wholly the old or wholly the new one.
    ///
    /// # Errors
    /// When the vault is sealed, or cannot be written.
    pub fn rekey(&self, key: &NewKey<'_>) -> Result<RecoveryKey, VaultError> {
        let _turn = self.turn();
        let (file, remains, open, recovery) = {
            let inner = self.inner();
            let (file, open) = inner.opened()?;
            let (keys, header, recovery) = new_keys(open.next(), key)?;
            let mut new = Open {
                keys: Arc::new(keys),
                header,
                secrets: open.secrets.clone(),
                tree: Tree::new(),
            };
            let mut rows = Vec::new();
            for secret in open.secrets.values() {
                rows.push(new.keys.about(new.header.vault, secret)?);
                for version in &secret.versions {
                    let (name, number) = (&secret.name, version.number);
                    let row = file.row(&open.keys.version_key(name, number))?;
                    let rewrapped = match row {
                        Some(row) => {
                            let vault = open.header.vault;
                            open.keys.rewrap(&new.keys, vault, name, version, &row)?
                        }
                        None => None,
                    };
                    let row = rewrapped
                        .ok_or_else(|| crate::file::tampered(&self.path, "a value was changed"))?;
                    rows.push((new.keys.version_key(name, number), row));
                }
            }
            let refs = || rows.iter().map(|(key, row)| (&key[..], &row[..]));
            new.tree = Tree::of(refs());
            new.header.cover(&new.tree);
            let code = new.keys.sign(&new.header.bytes());
            let (file, remains) = Vaulted::write_anew(&self.path, (&new.header, &code), refs())?;
            (file, remains, new, recovery)
        };
        self.replace(file, open);
        remains.wipe();
        Ok(recovery)
    }

    /// Has the vault count its changes on from this number, where it has seen fewer: opening an older copy of it on purpose is a change, and
    /// the newest one.
    ///
    /// # Errors
    /// When it is sealed, or cannot be written.
    pub fn count_from(&self, seen: u64) -> Result<Mark, VaultError> {
        self.change(|open, _| {
            open.header.generation = open.header.generation.max(seen);
            Ok(())
        })
    }

    /// The state that the next change leads to.
    ///
    /// # Errors
    /// When the vault is sealed.
    pub fn next_mark(&self) -> Result<Mark, VaultError> {
        let inner = self.inner();
        let (_, open) = inner.opened()?;
        Ok(open.next())
    }

    /// Makes a change of some rows, in the file first. Where it takes a row away, of what was there nothing must lie in the file
    /// afterwards, and the database would keep it: then the file is written anew.
    fn change(
        &self,
        make: impl FnOnce(&mut Open, &mut Vec<Change>) -> Result<(), VaultError>,
    ) -> Result<Mark, VaultError> {
        let _turn = self.turn();
        let (done, new) = {
            let inner = self.inner();
            let (file, open) = inner.opened()?;
            let mut new = open.clone();
            let mut changes = Vec::new();
            make(&mut new, &mut changes)?;
            for (key, row) in &changes {
                new.tree.set(key, row.as_deref());
            }
            new.header.generation = new.next().generation;
            new.header.cover(&new.tree);
            let code = new.keys.sign(&new.header.bytes());
            let header = (&new.header, &code);
            let done = if changes.iter().all(|(_, row)| row.is_some()) {
                file.change(header, &changes).map(|()| None)
            } else {
                self.without(file, header, &changes).map(Some)
            };
            (done, new)
        };
        let mark = new.header.mark();
        match done {
            Ok(None) => self.inner_mut().open = Some(new),
            Ok(Some((file, remains))) => {
                self.replace(file, new);
                remains.wipe();
            }
            Err(error) => {
                self.mend(new.keys)?;
                // A failure of the very last sync leaves open what is on the disk; the generation tells.
                if self.mark()? != mark {
                    return Err(error);
                }
            }
        }
        Ok(mark)
    }

    /// Writes all rows anew, with these changes.
    fn without(
        &self,
        file: &Vaulted,
        header: (&Header, &[u8; 32]),
        changes: &[Change],
    ) -> Result<(Vaulted, Remains), VaultError> {
        let mut rows: BTreeMap<_, _> = file.rows()?.into_iter().collect();
        for (key, row) in changes {
            match row {
                Some(row) => rows.insert(key.clone(), row.clone()),
                None => rows.remove(key),
            };
        }
        let rows = rows.iter().map(|(key, row)| (&key[..], &row[..]));
        Vaulted::write_anew(&self.path, header, rows)
    }

    /// Has this file in the place of the one before, which is closed.
    pub(super) fn replace(&self, file: Vaulted, open: Open) {
        *self.inner_mut() = Inner::of(file, open);
    }

    /// Opens the file anew: the database gives up on a handle after the first access that failed. What was there before the failure is
    /// there again; or the vault is sealed; or it cannot be opened now, and the next who asks tries again.
    fn mend(&self, keys: Arc<Keys>) -> Result<(), VaultError> {
        let mut inner = self.inner_mut();
        // The old handle goes first, because it holds the lock of the file.
        *inner = Inner::default();
        match open::again(&self.path, Arc::clone(&keys)) {
            Ok((file, open)) => {
                *inner = Inner::of(file, open);
                Ok(())
            }
            Err(error) => {
                match Vaulted::open(&self.path) {
                    Ok(file) => inner.file = file,
                    Err(why) => inner.lost = Some(Lost::new(Some(keys), &why)),
                }
                Err(error)
            }
        }
    }
}

impl Open {
    fn next(&self) -> Mark {
        mark(self.header.vault, self.header.generation.saturating_add(1))
    }

    fn found(&self, name: &str) -> Result<Secret, VaultError> {
        let found = self.secrets.get(name).ok_or(VaultError::NotFound)?;
        Ok(Secret::clone(found))
    }

    fn put(&mut self, secret: Secret, changes: &mut Vec<Change>) -> Result<(), VaultError> {
        let (key, row) = self.keys.about(self.header.vault, &secret)?;
        changes.push((key, Some(row)));
        self.secrets.insert(secret.name.clone(), Arc::new(secret));
        Ok(())
    }

    /// Takes away what can no longer be used.
    fn retire(&self, secret: &mut Secret, now_ms: u64, changes: &mut Vec<Change>) {
        let over = secret.versions.extract_if(.., |it| !it.is_valid(now_ms));
        changes.extend(over.map(|it| (self.keys.version_key(&secret.name, it.number), None)));
    }
}

/// Keys for a vault in this state, without rows.
fn new_keys(mark: Mark, key: &NewKey<'_>) -> Result<(Keys, Header, RecoveryKey), VaultError> {
    let keys = Keys::of(Key::random()?)?;
    let recovery = RecoveryKey::random()?;
    let header = match key {
        NewKey::Host(host, source) => {
            Header::new(mark, *source, None, &keys, &host.0, &recovery.0)?
        }
        NewKey::Passphrase(passphrase) => {
            let work = Work::new()?;
            let usual = work.key(passphrase)?;
            Header::new(
                mark,
                Source::Passphrase,
                Some(work),
                &keys,
                &usual,
                &recovery.0,
            )?
        }
    };
    Ok((keys, header, recovery))
}
