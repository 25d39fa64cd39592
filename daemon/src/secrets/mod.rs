//! The vault in pawd: who may have a value, on whose behalf, and that this is in the audit log before it is given out.
//!
//! - [`start`]: keys that pawd is started with, read before the drop.
//! - [`admin`]: what an administrator does with it; [`copy`]: a copy of it, and back.
//! - [`held`]: values that are not in it yet.
//! - `older`: that a copy of its file from before some change is not taken for it.
//! - [`time`]: versions whose time is over.
//!
//! A value is had at the moment of its use, and nobody here keeps one. What a sealed vault is asked for is refused and recorded like
//! anything else.

pub mod admin;
pub mod copy;
pub mod held;
mod older;
pub use older::Trouble;
pub mod start;
pub mod time;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use paw_api::{
    Error, ErrorKind,
    audit::{Actor, Entry, Event, VaultMark},
};
use paw_llm::KeySource;
use paw_policy::Name;
use paw_vault::{
    State, Unlock, User, Value, Vault, VaultError,
    key::{HostKey, RecoveryKey},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Mutex, Notify};
use tracing::{error, info};
use uuid::Uuid;

use self::start::StartKeys;
use crate::{audit::Audit, clock::now_ms, config::SecretName};

tokio::task_local! {
    /// For which action something is done, and for whom.
    static ON_BEHALF: (Uuid, Actor);
}

/// Does this for an action: a secret that is used meanwhile is used for it, and its record says so.
pub async fn on_behalf<T>(action: Uuid, by: Actor, work: impl Future<Output = T>) -> T {
    ON_BEHALF.scope((action, by), work).await
}

/// The vault, and who is told of its uses; cheap to clone.
#[derive(Debug, Clone)]
pub struct Secrets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Why its file cannot be used, where it cannot.
    vault: Result<Vault, VaultError>,
    keys: StartKeys,
    audit: Audit,
    /// Changes are made and recorded one after the other, so that the log has their order.
    turn: Mutex<()>,
    /// The state of the vault that this pawd had recorded last.
    newest: std::sync::Mutex<Option<VaultMark>>,
    /// How many changes each vault has seen that this pawd has had; few, since an administrator makes or puts back each.
    reached: std::sync::Mutex<BTreeMap<Uuid, u64>>,
    /// Something was changed, and with it perhaps what ends next.
    changed: Notify,
    /// Its file could not be opened when pawd started, and has not been since.
    lost_at_start: AtomicBool,
    /// For values that are not in it yet.
    places: held::Places,
}

/// What somebody opens the vault with: at most one of them; without any, the key that pawd was started with.
#[derive(Debug, Default)]
pub struct With {
    /// What a person knows.
    pub passphrase: Option<SecretString>,
    /// What a person wrote down when the vault was made.
    pub recovery: Option<SecretString>,
    /// The host's key, as digits.
    pub key: Option<SecretString>,
}

/// What a secret is used for.
#[derive(Debug, Clone)]
pub struct Use<'a> {
    /// Through what it is used, which must be allowed to; nothing where who uses it has it.
    pub through: Option<&'a User>,
    /// Who uses it: one of these must be allowed to.
    pub users: &'a [User],
    /// The action that it is for, and who asked for that; nothing where it is for pawd itself.
    pub on_behalf: Option<(Uuid, Actor)>,
    /// What else the record says.
    pub detail: BTreeMap<String, String>,
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UseError {
    /// The vault says no.
    #[error("secret {secret}: {source}; {}", source.remedy())]
    Vault {
        /// Which secret.
        secret: String,
        /// Why.
        source: VaultError,
    },
    /// Nobody let them.
    #[error(
        "secret {secret} is not for {user}; let them use it: pawctl secret allow {secret} {user}"
    )]
    NotAllowed {
        /// Which secret.
        secret: String,
        /// Who wanted it.
        user: String,
    },
    /// Policy does not permit it.
    #[error(
        "policy does not permit the use of secret {secret} through {through} ({by}); see pawctl policy show"
    )]
    Policy {
        /// Which secret.
        secret: String,
        /// Through what.
        through: String,
        /// The rules that decided.
        by: String,
    },
    /// The skill did not say that it needs it, so nobody was asked for that.
    #[error(
        "skill {skill} does not name secret {secret} in its skill.toml (secrets = [\"{secret}\"])"
    )]
    Undeclared {
        /// Which secret.
        secret: String,
        /// Whose run it is.
        skill: String,
    },
    /// It can stand in no header.
    #[error(
        "secret {0} has characters that can stand in no header; give it another value: pawctl secret rotate {0}"
    )]
    NoText(String),
    /// Its record could not be written.
    #[error("secret {secret} is not given out without a record of it: {why}")]
    Unrecorded {
        /// Which secret.
        secret: String,
        /// Why there is none.
        why: String,
    },
}

impl UseError {
    /// Policy does not permit it, by these rules.
    #[must_use]
    pub fn policy(secret: &SecretName, through: &User, rules: &[String]) -> Self {
        Self::Policy {
            secret: secret.to_string(),
            through: through.to_string(),
            by: match rules {
                [] => "no rule permits it".into(),
                rules => rules.join(", "),
            },
        }
    }
}

impl Use<'_> {
    /// The record of this use, or of why it is none.
    fn entry(&self, secret: &SecretName, refused: Option<&UseError>) -> Entry {
        let mut entry = Entry::new(match refused {
            None => Event::SecretUsed,
            Some(_) => Event::SecretRefused,
        });
        if let Some((action, by)) = &self.on_behalf {
            (entry.action, entry.actor) = (Some(*action), Some(by.clone()));
        }
        let detail = &mut entry.detail;
        detail.extend(self.detail.clone());
        detail.insert("secret".into(), secret.name.clone());
        let users: Vec<String> = self.users.iter().map(ToString::to_string).collect();
        detail.insert("for".into(), users.join(" "));
        if let Some(through) = self.through {
            detail.insert("through".into(), through.to_string());
        }
        if let Some(error) = refused {
            entry.outcome = Some(crate::records::shorten_to(&error.to_string(), 300));
        }
        entry
    }
}

impl Secrets {
    /// The vault of this state directory, sealed if it is there.
    #[must_use]
    pub fn at(state: &std::path::Path, keys: StartKeys, audit: Audit) -> Self {
        let file = state.join("vault.redb");
        let vault = Vault::at(&file);
        if let Err(error) = &vault {
            error!(error = %paw_log::Chain(error), remedy = error.remedy(), "the vault cannot be used; what needs a secret does not work");
        }
        // What was changed stays so until an administrator has seen to it; anything else may go away while pawd runs.
        let (vault, lost) = match vault {
            Err(error) if !matches!(error, VaultError::Tampered { .. }) => {
                (Ok(Vault::lost(&file, &error)), true)
            }
            other => (other, false),
        };
        Self(Arc::new(Inner {
            vault,
            keys,
            audit,
            turn: Mutex::default(),
            newest: std::sync::Mutex::default(),
            reached: std::sync::Mutex::default(),
            changed: Notify::new(),
            lost_at_start: AtomicBool::new(lost),
            places: held::Places::default(),
        }))
    }

    /// A vault that could not be opened at the start is opened as then by the first who asks once it can be.
    pub async fn look_again(&self) {
        if self.0.lost_at_start.load(Relaxed)
            && self.vault().and_then(Vault::status).is_ok()
            && self.0.lost_at_start.swap(false, Relaxed)
        {
            info!("the vault that could not be used is there again");
            // It asks for nothing that would look again.
            Box::pin(self.open_at_start()).await;
        }
    }

    /// Opens the vault with the key that pawd was started with, if there are both. Whether it is open then is no condition for pawd to
    /// run: what needs a secret says what is missing.
    pub async fn open_at_start(&self) {
        let state = match self.vault().and_then(|vault| vault.status()) {
            Ok(status) => status.state,
            // It was told of when it was read.
            Err(_) => return,
        };
        if let (State::Uninitialised, Some(known)) = (state, self.newest()) {
            error!(vault = %known.vault, change = known.generation, "the vault that the audit log knows is gone; put back its file, what needs a secret does not work");
        }
        if state != State::Sealed {
            return;
        }
        match self.unlock(None, With::default()).await {
            Ok(()) => info!("the vault is open"),
            Err(error) => {
                error!(reason = %error.message, remedy = %error.data.hint, "the vault stays sealed; what needs a secret does not work");
            }
        }
    }

    /// Gives out a value for one use as a text, once that is in the audit log. Every attempt is.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn value(&self, secret: &SecretName, of: Use<'_>) -> Result<SecretString, UseError> {
        let value = self.locked(secret, of).await?;
        value
            .text()
            .ok_or_else(|| UseError::NoText(secret.name.clone()))
    }

    /// The same, in memory of its own.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn locked(&self, secret: &SecretName, of: Use<'_>) -> Result<Value, UseError> {
        self.look_again().await;
        let now = now_ms();
        let judged = self.judge(secret, &of, now);
        let mut entry = of.entry(secret, judged.as_ref().err());
        if let Ok(version) = &judged {
            entry.detail.insert("version".into(), version.to_string());
        }
        self.record(secret, entry).await?;
        let version = judged?;
        let failed = |source| UseError::Vault {
            secret: secret.to_string(),
            source,
        };
        self.vault()
            .and_then(|vault| vault.get(&secret.name, Some(version), now))
            .map_err(failed)
    }

    /// Whether a secret might be used like this now, by its own list. Nothing is given out, so nothing is recorded.
    ///
    /// # Errors
    /// Why it could not be had.
    pub fn may(&self, secret: &SecretName, of: &Use<'_>) -> Result<(), UseError> {
        self.judge(secret, of, now_ms()).map(drop)
    }

    /// Has it recorded that a use was refused by somebody else than the vault; gives what is to be told of it once that is on the disk.
    pub async fn refused(&self, secret: &SecretName, of: Use<'_>, why: UseError) -> UseError {
        let entry = of.entry(secret, Some(&why));
        self.record(secret, entry).await.err().unwrap_or(why)
    }

    /// Nothing is given out, and nobody told that they are not given it, before that is on record.
    async fn record(&self, secret: &SecretName, entry: Entry) -> Result<(), UseError> {
        let recorded = self.0.audit.durable(entry).await;
        recorded.map(drop).map_err(|error| UseError::Unrecorded {
            secret: secret.to_string(),
            why: error.to_string(),
        })
    }

    /// Whether a secret may be used by one of these, and which version that is.
    fn judge(&self, secret: &SecretName, of: &Use<'_>, now: u64) -> Result<u64, UseError> {
        let failed = |source| UseError::Vault {
            secret: secret.to_string(),
            source,
        };
        let known = self
            .vault()
            .and_then(|vault| vault.secret(&secret.name))
            .map_err(failed)?;
        let not_allowed = |user: Option<&User>| UseError::NotAllowed {
            secret: secret.name.clone(),
            user: user.map_or_else(|| "anybody".into(), ToString::to_string),
        };
        if !of.users.iter().any(|user| known.users.contains(user)) {
            return Err(not_allowed(of.users.first()));
        }
        if let Some(through) = of.through.filter(|it| !known.users.contains(*it)) {
            return Err(not_allowed(Some(through)));
        }
        let version = match secret.version {
            Some(number) => known.versions.iter().find(|it| it.number == number),
            None => known.versions.last(),
        };
        let version = version
            .filter(|version| version.is_valid(now))
            .ok_or_else(|| failed(VaultError::NoVersion))?;
        match version.class {
            paw_vault::Class::Text => Ok(version.number),
            paw_vault::Class::Bytes => Err(UseError::NoText(secret.name.clone())),
        }
    }

    /// Where a provider's key comes from.
    #[must_use]
    pub fn key_of(&self, provider: &Name, secret: SecretName) -> ProviderKey {
        ProviderKey {
            secrets: self.clone(),
            user: [User::Provider(provider.to_string())],
            secret,
        }
    }

    fn vault(&self) -> Result<&Vault, VaultError> {
        self.0.vault.as_ref().map_err(|error| match error {
            VaultError::Tampered { path, what } => VaultError::Tampered {
                path: path.clone(),
                what,
            },
            VaultError::InUse { path } => VaultError::InUse { path: path.clone() },
            other => VaultError::Unusable {
                why: paw_log::Chain(other).to_string(),
            },
        })
    }
}

/// A provider's key, which is had anew for each request.
#[derive(Debug)]
pub struct ProviderKey {
    secrets: Secrets,
    user: [User; 1],
    secret: SecretName,
}

impl KeySource for ProviderKey {
    fn key(&self) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + '_>> {
        let on_behalf = ON_BEHALF.try_with(Clone::clone).ok();
        Box::pin(async move {
            let of = Use {
                through: None,
                users: &self.user,
                on_behalf,
                detail: BTreeMap::from([("purpose".into(), "request to a provider".into())]),
            };
            let value = self.secrets.value(&self.secret, of).await;
            value.map_err(|error| error.to_string())
        })
    }
}

/// An error of the vault's, as callers see it.
#[must_use]
pub fn told(error: &VaultError) -> Error {
    let kind = match error {
        VaultError::NotFound | VaultError::NoVersion => ErrorKind::NotFound,
        VaultError::Unfit(_)
        | VaultError::Key(_)
        | VaultError::NoCopy(_)
        | VaultError::CopyTooLong => ErrorKind::Invalid,
        VaultError::Uninitialised
        | VaultError::Initialised
        | VaultError::Sealed
        | VaultError::Unsealed
        | VaultError::Exists
        | VaultError::Older { .. }
        | VaultError::AnotherVault => ErrorKind::Conflict,
        VaultError::WrongKey | VaultError::Paused { .. } => ErrorKind::Denied,
        VaultError::Tampered { .. }
        | VaultError::InUse { .. }
        | VaultError::Unusable { .. }
        | VaultError::Memory(_)
        | VaultError::Random(_)
        | VaultError::Io { .. }
        | VaultError::Engine { .. } => ErrorKind::Unavailable,
    };
    let told = Error::new(kind, paw_log::Chain(error).to_string(), error.remedy());
    match error {
        VaultError::Paused { wait_ms } => told.retry_after_ms(*wait_ms),
        _ => told,
    }
}

/// Opens the vault with what is given, or with a key that pawd was started with.
fn unlock(vault: &Vault, keys: &StartKeys, with: &With) -> Result<(), VaultError> {
    let now = now_ms();
    opening(keys, with, |key| vault.unseal(key, now).map(drop))
}

/// Does something that takes a key with what is given, or with the keys that pawd was started with.
fn opening<T>(
    keys: &StartKeys,
    with: &With,
    open: impl Fn(&Unlock<'_>) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    if let Some(recovery) = &with.recovery {
        let key = RecoveryKey::parse(recovery)?;
        return open(&Unlock::Recovery(&key));
    }
    if let Some(passphrase) = &with.passphrase {
        return open(&Unlock::Passphrase(passphrase));
    }
    if let Some(key) = &with.key {
        let key = HostKey::parse(key.expose_secret().as_bytes())?;
        return open(&Unlock::Host(&key));
    }
    let mut last = VaultError::Sealed;
    for (key, _) in &keys.0 {
        match open(&Unlock::Host(key)) {
            Ok(opened) => return Ok(opened),
            // An interrupted change of the key leaves two, one of which is right.
            Err(error @ VaultError::WrongKey) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
