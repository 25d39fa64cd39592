//! What an administrator does with the vault. Each change is in the audit log before it is made, with the state of the vault that it
//! leads to, and once more when it was made or failed.

use std::sync::Arc;

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    secret::{Secret, SecretVersion, VaultStatus},
};
use paw_store::Caller;
use paw_vault::{
    Class, Mark, NewKey, Source, State, User, Vault, VaultError,
    key::{HostKey, RecoveryKey},
};
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use super::{ON_BEHALF, Secrets, With, held::Held, start::StartKeys, told, unlock};
use crate::{
    clock::now_ms,
    records::{actor, shorten},
};

/// Which key a vault is to have.
#[derive(Debug, Default)]
pub struct Wanted {
    /// What a person knows.
    pub passphrase: Option<SecretString>,
    /// 64 hexadecimal digits that are in a file which the next start finds.
    pub key: Option<SecretString>,
}

/// Who is to use a secret.
///
/// # Errors
/// When nobody can be called that, or would use it.
pub fn user_of(text: &str) -> Result<User, Error> {
    let user: User = text
        .parse()
        .map_err(|error| told(&VaultError::Unfit(error)))?;
    match &user {
        User::Provider(_) | User::Broker(_) | User::Agent(_) | User::Skill(_) => Ok(user),
        // Nobody would look at it.
        User::Bridge(_) => Err(Error::new(
            ErrorKind::Invalid,
            "in this version, no bridge uses secrets of the vault",
            "name a provider, or a broker and an agent or a skill",
        )),
    }
}

/// What is to be recorded of a change.
pub(super) struct Told {
    event: Event,
    what: &'static str,
    secret: Option<String>,
    by: Option<Caller>,
    /// The action that it is done by.
    action: Option<Uuid>,
    detail: Vec<(&'static str, String)>,
}

impl Told {
    fn of_secret(by: &Caller, what: &'static str, secret: &str) -> Self {
        Self {
            event: Event::SecretChanged,
            what,
            secret: Some(shorten(secret)),
            by: Some(by.clone()),
            action: ON_BEHALF.try_with(|(action, _)| *action).ok(),
            detail: Vec::new(),
        }
    }

    pub(super) fn of_vault(by: Option<&Caller>, what: &'static str) -> Self {
        Self {
            event: Event::VaultChanged,
            what,
            secret: None,
            by: by.cloned(),
            action: None,
            detail: Vec::new(),
        }
    }

    pub(super) fn with(mut self, key: &'static str, value: String) -> Self {
        self.detail.push((key, value));
        self
    }

    /// The record of it, with this state of the vault.
    pub(super) fn at(&self, mark: Mark, outcome: &str) -> Entry {
        let mut entry = self.entry(outcome.into());
        mark_of(&mut entry, mark);
        entry
    }

    fn entry(&self, outcome: String) -> Entry {
        let mut entry = Entry::new(self.event);
        entry.actor = self.by.as_ref().map(actor);
        entry.outcome = Some(outcome);
        entry.action = self.action;
        let detail = &mut entry.detail;
        detail.insert("change".into(), self.what.into());
        if let Some(secret) = &self.secret {
            detail.insert("secret".into(), secret.clone());
        }
        for (key, value) in &self.detail {
            detail.insert((*key).into(), value.clone());
        }
        entry
    }
}

impl Secrets {
    /// How the vault is.
    #[must_use]
    pub fn status(&self) -> VaultStatus {
        let key_at_start = self.0.keys.newest().map(|(_, it)| it.as_str().to_owned());
        let found = self.vault().and_then(Vault::status);
        let mut status = VaultStatus {
            state: "unusable".into(),
            key: None,
            key_at_start,
            vault: None,
            generation: None,
            secrets: None,
            wrong_keys: 0,
            paused_until: None,
            fault: None,
        };
        match found {
            Ok(found) => {
                status.state = match found.state {
                    State::Uninitialised => "uninitialised",
                    State::Sealed => "sealed",
                    State::Unsealed => "unsealed",
                }
                .into();
                status.key = found.source.map(|it| it.as_str().to_owned());
                status.vault = found.mark.map(|mark| mark.vault.to_string());
                status.generation = found.mark.map(|mark| mark.generation);
                status.secrets = found.secrets.map(|count| count as u64);
                status.wrong_keys = found.wrong_keys;
                status.paused_until = found.paused_until_ms.filter(|until| *until > now_ms());
                let trouble = self.trouble().map(|it| (it.what, it.remedy));
                let none = || {
                    (
                        VaultError::Uninitialised.to_string(),
                        VaultError::Uninitialised.remedy(),
                    )
                };
                let missing = trouble.or_else(|| (found.state == State::Uninitialised).then(none));
                status.fault = missing.map(|(what, remedy)| format!("{what}; {remedy}"));
            }
            Err(error) => {
                let why = paw_log::Chain(&error).to_string();
                status.fault = Some(format!("{why}; {}", error.remedy()));
            }
        }
        status
    }

    /// Makes the vault; returns its recovery key.
    ///
    /// # Errors
    /// When there is one, no key for it, or it cannot be written.
    pub async fn init(&self, by: &Caller, wanted: Wanted) -> Result<SecretString, Error> {
        let source = self.source_of(&wanted)?;
        let note = Told::of_vault(Some(by), "made").with("key", source.to_string());
        let recovery = self.change(note, move |vault, keys| {
            let made = with_key(&wanted, keys, |key| vault.init(key))?;
            Ok((made, vault.mark()?))
        });
        Ok(recovery.await?.text())
    }

    /// Gives the vault another key; returns the new recovery key.
    ///
    /// # Errors
    /// When it is sealed, there is no key for it, or it cannot be written.
    pub async fn rekey(&self, by: &Caller, wanted: Wanted) -> Result<SecretString, Error> {
        let source = self.source_of(&wanted)?;
        let note = Told::of_vault(Some(by), "rekeyed").with("key", source.to_string());
        let recovery = self.change(note, move |vault, keys| {
            let made = with_key(&wanted, keys, |key| vault.rekey(key))?;
            Ok((made, vault.mark()?))
        });
        Ok(recovery.await?.text())
    }

    /// Opens the vault with one of these, or with the key that pawd was started with.
    ///
    /// # Errors
    /// When that is not its key, or what is there is not what was written.
    pub async fn unlock(&self, by: Option<&Caller>, with: With) -> Result<(), Error> {
        let what = match &with {
            With {
                recovery: Some(_), ..
            } => "recovery key",
            With {
                passphrase: Some(_),
                ..
            } => "passphrase",
            With { .. } => "key of the host",
        };
        let note = Told::of_vault(by, "unlocked").with("with", what.into());
        let inner = Arc::clone(&self.0);
        self.change(note, move |vault, keys| {
            let mark = inner.open(vault, &with, || unlock(vault, keys, &with))?;
            Ok(((), mark))
        })
        .await
    }

    /// Forgets the keys of the vault.
    ///
    /// # Errors
    /// When it is not open, or that cannot be recorded.
    pub async fn lock(&self, by: &Caller) -> Result<(), Error> {
        let note = Told::of_vault(Some(by), "locked");
        self.change(note, |vault, _| {
            let mark = vault.mark()?;
            vault.seal();
            Ok(((), mark))
        })
        .await
    }

    /// All secrets.
    ///
    /// # Errors
    /// When the vault is sealed.
    pub fn list(&self) -> Result<Vec<Secret>, Error> {
        let all = self.vault().and_then(|vault| vault.secrets());
        let all = all.map_err(|error| told(&error))?;
        Ok(all.iter().map(|secret| shown(secret)).collect())
    }

    /// One secret.
    ///
    /// # Errors
    /// When there is none of that name, or the vault is sealed.
    pub fn show(&self, name: &str) -> Result<Secret, Error> {
        let found = self.vault().and_then(|vault| vault.secret(name));
        found
            .map(|secret| shown(&secret))
            .map_err(|error| told(&error).about(shorten(name)))
    }

    /// Whether a name is free.
    ///
    /// # Errors
    /// `conflict` where it is not, or the vault is sealed.
    pub fn has_none(&self, name: &str) -> Result<(), Error> {
        match self.vault().and_then(|vault| vault.secret(name)) {
            Err(VaultError::NotFound) => Ok(()),
            Ok(_) => Err(told(&VaultError::Exists).about(shorten(name))),
            Err(error) => Err(told(&error).about(shorten(name))),
        }
    }

    /// Keeps a value under a new name.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn set(&self, by: &Caller, name: &str, value: Held) -> Result<Secret, Error> {
        self.of_secret(
            Told::of_secret(by, "set", name),
            name,
            move |vault, name| vault.set(name, value.bytes(), now_ms()),
        )
        .await
    }

    /// Gives a secret another value.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn rotate(
        &self,
        by: &Caller,
        name: &str,
        value: Held,
        keep_ms: u64,
    ) -> Result<Secret, Error> {
        let note = Told::of_secret(by, "rotated", name).with("keep_ms", keep_ms.to_string());
        self.of_secret(note, name, move |vault, name| {
            vault.rotate(name, value.bytes(), keep_ms, now_ms())
        })
        .await
    }

    /// Destroys a secret, or an older version of it; gives it as it was.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written.
    pub async fn remove(
        &self,
        by: &Caller,
        name: &str,
        version: Option<u64>,
    ) -> Result<Secret, Error> {
        let was = self.show(name)?;
        let mut note = Told::of_secret(by, "removed", name);
        if let Some(version) = version {
            note = note.with("version", version.to_string());
        }
        let owned = name.to_owned();
        self.change(note, move |vault, _| {
            let mark = match version {
                Some(version) => vault.revoke(&owned, version),
                None => vault.remove(&owned),
            };
            Ok(((), mark?))
        })
        .await
        .map_err(|error| error.about(shorten(name)))?;
        Ok(was)
    }

    /// Lets somebody use a secret, or no longer.
    ///
    /// # Errors
    /// When there is no such secret, or nobody can be called that.
    pub async fn let_use(
        &self,
        by: &Caller,
        name: &str,
        user: &str,
        allowed: bool,
    ) -> Result<Secret, Error> {
        let user = user_of(user)?;
        let what = if allowed { "allowed" } else { "denied" };
        let note = Told::of_secret(by, what, name).with("for", user.to_string());
        self.of_secret(note, name, move |vault, name| {
            vault.let_use(name, &user, allowed)
        })
        .await
    }

    async fn of_secret(
        &self,
        note: Told,
        name: &str,
        work: impl FnOnce(&Vault, &str) -> Result<Mark, VaultError> + Send + 'static,
    ) -> Result<Secret, Error> {
        let owned = name.to_owned();
        let made = self.change(note, move |vault, _| {
            let mark = work(vault, &owned)?;
            Ok((vault.secret(&owned)?, mark))
        });
        made.await
            .map(|secret| shown(&secret))
            .map_err(|error| error.about(shorten(name)))
    }

    /// Records what is about to change, changes it, and records what came of that: all of it, also when who asked goes away meanwhile.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        note: Told,
        work: impl FnOnce(&Vault, &StartKeys) -> Result<(T, Mark), VaultError> + Send + 'static,
    ) -> Result<T, Error> {
        let its = self.clone();
        let made = tokio::spawn(async move { its.change_to_its_end(note, work).await });
        made.await.unwrap_or_else(|error| {
            Err(told(&VaultError::Unusable {
                why: error.to_string(),
            }))
        })
    }

    async fn change_to_its_end<T: Send + 'static>(
        &self,
        note: Told,
        work: impl FnOnce(&Vault, &StartKeys) -> Result<(T, Mark), VaultError> + Send + 'static,
    ) -> Result<T, Error> {
        let _turn = self.0.turn.lock().await;
        let vault = self.vault().map_err(|error| told(&error))?;
        let mut entry = note.entry("begun".into());
        if let Ok(next) = vault.next_mark() {
            mark_of(&mut entry, next);
        }
        let recorded = self.0.audit.durable(entry).await;
        recorded.map_err(|error| {
            Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy())
        })?;
        let inner = Arc::clone(&self.0);
        // Files are written, and a passphrase takes half a second of work, so not on a thread that serves others.
        let done = tokio::task::spawn_blocking(move || {
            let vault = inner.vault.as_ref().map_err(|_| VaultError::Sealed)?;
            work(vault, &inner.keys)
        });
        let done = match done.await {
            Ok(done) => done,
            Err(error) => Err(VaultError::Unusable {
                why: error.to_string(),
            }),
        };
        let entry = match &done {
            Ok((_, mark)) => {
                self.0.reached(*mark);
                self.0.changed.notify_one();
                note.at(*mark, "done")
            }
            Err(error) => note.entry(format!("failed: {}", paw_log::Chain(error))),
        };
        // What was begun is on record already; this says how it went.
        if let Err(error) = self.0.audit.soon(entry).await {
            tracing::warn!(error = %error, "what became of a change of the vault is not in the audit log");
        }
        done.map(|(value, _)| value).map_err(|error| told(&error))
    }

    /// Where the key comes from that is wanted.
    fn source_of(&self, wanted: &Wanted) -> Result<Source, Error> {
        match wanted {
            Wanted {
                passphrase: Some(_),
                key: Some(_),
            } => Err(Error::new(
                ErrorKind::Invalid,
                "a vault has one key: a passphrase, or a key that the host keeps",
                "give one of them",
            )),
            Wanted {
                passphrase: Some(_),
                ..
            } => Ok(Source::Passphrase),
            Wanted { key: Some(_), .. } => Ok(Source::File),
            Wanted { .. } => {
                let source = self.0.keys.newest().map(|(_, source)| *source);
                source.ok_or_else(no_key)
            }
        }
    }
}

fn no_key() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "there is no key for the vault: pawd was started without one",
        "make one with systemd-creds and restart pawd (paw-vault(7)), or run `pawctl secret init --key-file` or `--passphrase`",
    )
}

fn mark_of(entry: &mut Entry, mark: Mark) {
    let detail = &mut entry.detail;
    detail.insert("vault".into(), mark.vault.to_string());
    detail.insert("generation".into(), mark.generation.to_string());
}

fn with_key(
    wanted: &Wanted,
    keys: &StartKeys,
    make: impl FnOnce(&NewKey<'_>) -> Result<RecoveryKey, VaultError>,
) -> Result<RecoveryKey, VaultError> {
    match (&wanted.passphrase, &wanted.key) {
        (Some(passphrase), _) => make(&NewKey::Passphrase(passphrase)),
        (None, Some(key)) => {
            let key = HostKey::parse(key.expose_secret().as_bytes())?;
            make(&NewKey::Host(&key, Source::File))
        }
        (None, None) => {
            let (key, source) = keys.newest().ok_or(VaultError::WrongKey)?;
            make(&NewKey::Host(key, *source))
        }
    }
}

fn shown(secret: &paw_vault::Secret) -> Secret {
    Secret {
        name: secret.name.clone(),
        created_at: secret.created_ms,
        versions: secret
            .versions
            .iter()
            .map(|version| SecretVersion {
                version: version.number,
                header: version.class == Class::Text,
                created_at: version.created_ms,
                until: version.until_ms,
            })
            .collect(),
        users: secret.users.iter().map(ToString::to_string).collect(),
    }
}
