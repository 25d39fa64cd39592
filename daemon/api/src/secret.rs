//! The vault: which secrets there are, who may use them, and how it is opened. No method gives a value out.

#![allow(
    clippy::too_many_arguments,
    reason = "they are the members of a message, passed by name on the wire"
)]

use std::{borrow::Cow, fmt};

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A text that is on its way to the vault, or a recovery key on its way to a person. It is wiped when it is dropped, and its `Debug`
/// does not show it.
#[derive(Clone)]
pub struct Hidden(pub SecretString);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

impl From<SecretString> for Hidden {
    fn from(text: SecretString) -> Self {
        Self(text)
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose_secret())
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

impl JsonSchema for Hidden {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_at: u64,
    /// Its versions, the oldest first; the last one is used where none is named.
    pub versions: Vec<SecretVersion>,
    /// Who may use it, as `provider:NAME`, `broker:NAME`, `agent:NAME`, `skill:NAME` or `bridge:NAME`.
    pub users: Vec<String>,
}

/// One value that a secret has or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretVersion {
    /// Its number, from 1.
    pub version: u64,
    /// Whether it is visible ASCII, and so can stand in a header.
    pub header: bool,
    /// When it was given, in milliseconds since 1970.
    pub created_at: u64,
    /// Until when it can be used, in milliseconds since 1970; the newest has no end.
    pub until: Option<u64>,
}

/// How the vault is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultStatus {
    /// `uninitialised`, `sealed`, `unsealed`, or `unusable` while its file cannot be used.
    pub state: String,
    /// Where its key comes from: `credential`, `file` or `passphrase`.
    pub key: Option<String>,
    /// Where a key comes from that pawd was started with, if it was with one.
    pub key_at_start: Option<String>,
    /// Which vault it is.
    pub vault: Option<String>,
    /// How many changes it has seen.
    pub generation: Option<u64>,
    /// How many secrets it has, while it is open.
    pub secrets: Option<u64>,
    /// Wrong keys that were tried since the last right one.
    pub wrong_keys: u64,
    /// Until when no passphrase and no recovery key is tried, in milliseconds since 1970.
    pub paused_until: Option<u64>,
    /// Why it is not open, and what to do.
    pub fault: Option<String>,
}

/// A vault was made, or has another key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct VaultKeyed {
    /// Opens the vault when its key is lost. It is shown this once, and is nowhere else.
    pub recovery_key: Hidden,
    /// How the vault is now.
    pub status: VaultStatus,
}

/// All of a vault in one piece. It is of no use without a key that opened the vault when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultCopy {
    /// The piece, in base64.
    pub copy: String,
    /// Which vault it is.
    pub vault: String,
    /// How many changes it has seen.
    pub generation: u64,
}

/// Secrets.
#[rpc(server, client, namespace = "secret", namespace_separator = ".")]
pub trait SecretRpc {
    /// How the vault is.
    #[method(name = "status", param_kind = map, with_extensions)]
    async fn status(&self) -> RpcResult<VaultStatus>;

    /// Makes the vault. Its key is the one that pawd was started with, this passphrase, or this key of 64 hexadecimal digits, which is
    /// in a file that the next start finds.
    #[method(name = "init", param_kind = map, with_extensions)]
    async fn init(&self, passphrase: Option<Hidden>, key: Option<Hidden>) -> RpcResult<VaultKeyed>;

    /// Opens the vault: with a passphrase, the recovery key, a key as in [`SecretRpcServer::init`], or, without any of them, the key
    /// that pawd was started with.
    #[method(name = "unlock", param_kind = map, with_extensions)]
    async fn unlock(
        &self,
        passphrase: Option<Hidden>,
        recovery: Option<Hidden>,
        key: Option<Hidden>,
    ) -> RpcResult<VaultStatus>;

    /// Forgets the keys of the vault, until it is unlocked.
    #[method(name = "lock", param_kind = map, with_extensions)]
    async fn lock(&self) -> RpcResult<VaultStatus>;

    /// Gives the vault another key, of the same kinds as [`SecretRpcServer::init`]. Values can be used meanwhile.
    #[method(name = "rekey", param_kind = map, with_extensions)]
    async fn rekey(&self, passphrase: Option<Hidden>, key: Option<Hidden>)
    -> RpcResult<VaultKeyed>;

    /// All secrets.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<Secret>>;

    /// One secret.
    #[method(name = "show", param_kind = map, with_extensions)]
    async fn show(&self, name: String) -> RpcResult<Secret>;

    /// Keeps a value under a new name. Nobody may use it yet.
    #[method(name = "set", param_kind = map, with_extensions)]
    async fn set(&self, name: String, value: Hidden) -> RpcResult<Secret>;

    /// Gives a secret another value; the one before can be used for so long by who names its version, and is destroyed then.
    #[method(name = "rotate", param_kind = map, with_extensions)]
    async fn rotate(&self, name: String, value: Hidden, keep_ms: Option<u64>) -> RpcResult<Secret>;

    /// Destroys a secret, or one older version of it; gives it as it was.
    #[method(name = "remove", param_kind = map, with_extensions)]
    async fn remove(&self, name: String, version: Option<u64>) -> RpcResult<Secret>;

    /// Lets somebody use a secret.
    #[method(name = "allow", param_kind = map, with_extensions)]
    async fn allow(&self, name: String, user: String) -> RpcResult<Secret>;

    /// Lets somebody use a secret no longer.
    #[method(name = "deny", param_kind = map, with_extensions)]
    async fn deny(&self, name: String, user: String) -> RpcResult<Secret>;

    /// All of the vault in one piece, encrypted as it is.
    #[method(name = "export", param_kind = map, with_extensions)]
    async fn export(&self) -> RpcResult<VaultCopy>;

    /// Puts such a piece in the place of what is there, and opens it: with a key as in [`SecretRpcServer::unlock`], which must be one
    /// that opened the vault when it was made. One that is older than the vault, or of another one, only with `force`.
    #[method(name = "import", param_kind = map, with_extensions)]
    async fn import(
        &self,
        copy: String,
        passphrase: Option<Hidden>,
        recovery: Option<Hidden>,
        key: Option<Hidden>,
        force: Option<bool>,
    ) -> RpcResult<VaultStatus>;

    /// Audit records of secrets, newest first, exactly as they are stored: uses, refusals and changes, of one secret or of all; `limit`
    /// at most 1000 (50 if not given).
    #[method(name = "log", param_kind = map, with_extensions)]
    async fn log(
        &self,
        name: Option<String>,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Value>>;
}
