//! Skills that come and go: bundles that are sent, and what is looked at and switched off. What needs a person's yes (to install, to
//! enable, to remove) is an action of kind `skill_change`.

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use paw_policy::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{agent::Skill, image::Upload};

/// Some bytes of one file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundlePiece {
    /// Its path in the bundle, with `/` between names.
    pub path: String,
    /// Whether it can be executed.
    #[serde(default)]
    pub executable: bool,
    /// Where in the file the bytes are: 0 makes it, anything else goes on where it ends.
    #[serde(default)]
    pub offset: u64,
    /// The bytes, in base64.
    pub data: String,
}

/// A bundle that was sent and read. Nothing of it can be used yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SkillStaged {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// Digest of its files; what an approval is bound to.
    pub digest: Digest,
    /// Digest of what is installed under its name.
    pub replaces: Option<Digest>,
    /// What it may do once it is installed.
    pub rights: Map<String, Value>,
    /// How that differs from what is installed: `+` for what it gets, `-` for what it loses.
    pub difference: Vec<String>,
}

/// Whether an installed skill is what was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkillChecked {
    /// Its name.
    pub name: String,
    /// Whether its files are those that were approved. If not, it is disabled from now on.
    pub ok: bool,
    /// Whether it may be used.
    pub enabled: bool,
    /// What is different, or why it may not be used.
    pub why: Option<String>,
}

/// Skills that come and go.
#[rpc(server, client, namespace = "skill", namespace_separator = ".")]
pub trait SkillStoreRpc {
    /// Pieces of files of a bundle, at most 256 of them and 128 KiB; without `upload` the first ones of a new one.
    #[method(name = "send", param_kind = map, with_extensions)]
    async fn send(&self, files: Vec<BundlePiece>, upload: Option<String>) -> RpcResult<Upload>;

    /// Reads a bundle that was sent, and says what it would be allowed to do.
    #[method(name = "stage", param_kind = map, with_extensions)]
    async fn stage(&self, upload: String) -> RpcResult<SkillStaged>;

    /// Reads the files of one installed skill, or of all, and compares them with what was approved.
    #[method(name = "verify", param_kind = map, with_extensions)]
    async fn verify(&self, name: Option<String>) -> RpcResult<Vec<SkillChecked>>;

    /// Nothing of an installed skill may be used from now on.
    #[method(name = "disable", param_kind = map, with_extensions)]
    async fn disable(&self, name: String) -> RpcResult<Skill>;
}
