//! Images: what sandboxes have as their root.

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// `shipped`, `oci` or `directory`.
    pub origin: String,
    /// Digest of its tree; none for a shipped one.
    pub digest: Option<String>,
    /// Digest of the OCI manifest that it was made from.
    pub manifest: Option<String>,
    /// Bytes of its files; none, as the next three, for a shipped one.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub entries: Option<u64>,
    /// Layers that it was made from.
    pub layers: Option<u32>,
    /// When it was added, in milliseconds since 1970.
    pub added_ms: Option<u64>,
    /// What its maker suggests; nothing of it is obeyed.
    pub suggested: Suggested,
    /// How many sandboxes run in it.
    pub used_by: u64,
}

/// What the configuration of an OCI image says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suggested {
    /// When it was built, as text.
    pub created: Option<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Command, entry point first.
    pub command: Vec<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User.
    pub user: Option<String>,
}

/// An archive that is being sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upload {
    /// Names it in the calls that follow.
    pub upload: String,
    /// Bytes that have arrived.
    pub bytes: u64,
}

/// An image that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageAdded {
    /// Its name.
    pub name: String,
    /// Digest of its tree.
    pub digest: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Layers that it was made from; 0 for a directory.
    pub layers: u32,
    /// Devices, pipes and sockets that were left out.
    pub left_out: u64,
    /// Whether its tree was there already, under another name.
    pub already: bool,
}

/// What was removed with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImagesSwept {
    /// Digests of trees that are gone.
    pub trees: Vec<String>,
    /// Bytes of their files.
    pub bytes: u64,
    /// Digests of trees without a name in which sandboxes still run; they go with a later call.
    pub kept: Vec<String>,
}

/// Images.
#[rpc(server, client, namespace = "image", namespace_separator = ".")]
pub trait ImageRpc {
    /// Images by name: those that came with the package, and those that were added.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self) -> RpcResult<Vec<ImageInfo>>;

    /// Bytes (base64, at most 64 KiB decoded) of an archive; without `upload` the first ones of a new one.
    #[method(name = "send", param_kind = map, with_extensions)]
    async fn send(&self, data: String, upload: Option<String>) -> RpcResult<Upload>;

    /// Makes an image of an archive that was sent: `origin` is `oci` for an image layout, `directory` for a root itself.
    #[method(name = "add", param_kind = map, with_extensions)]
    async fn add(&self, upload: String, name: String, origin: String) -> RpcResult<ImageAdded>;

    /// Takes a name away, and with it the trees that nobody needs any more.
    #[method(name = "remove", param_kind = map, with_extensions)]
    async fn remove(&self, name: String) -> RpcResult<ImagesSwept>;
}
