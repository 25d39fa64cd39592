//! The words of the job that keeps images.
//!
//! An image is a directory tree whose address is its digest, and names point to trees. Two names may point to one tree.

use std::collections::BTreeMap;

use paw_policy::{Digest, Name};
use serde::{Deserialize, Serialize};

use crate::request::SandboxId;

/// What pawd asks about images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageOrder {
    /// A page of the list; answered by [`ImagePage`].
    List {
        /// The last name of the page before.
        after: Option<Name>,
    },
    /// Takes a name away, and every tree that then nobody needs; answered by [`Swept`].
    Remove {
        /// Which one.
        name: Name,
    },
    /// Takes in the archive that comes beside the request; answered by [`Added`].
    Add {
        /// What it shall be called.
        name: Name,
        /// Whether the archive is an OCI image layout or the root itself.
        origin: Origin,
    },
    /// Removes what nobody needs: trees without a name or a sandbox, and what broken-off work left; answered by [`Swept`].
    Sweep,
}

/// What the launcher tells the job: the order, and what it knows of sandboxes and shipped images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCharge {
    /// What was asked.
    pub order: ImageOrder,
    /// Images that came with the package; their names cannot be given to others.
    pub shipped: Vec<Name>,
    /// Sandboxes that run in a tree.
    pub used: BTreeMap<Digest, Vec<SandboxId>>,
    /// How large an image may be.
    pub bounds: ImageBounds,
}

/// How large an image may be; `[images]` of `launcher.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageBounds {
    /// Bytes of all its layers, unpacked.
    pub max_bytes: u64,
    /// Entries of all its layers.
    pub max_entries: u64,
}

impl Default for ImageBounds {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            max_entries: 200_000,
        }
    }
}

/// Where the root of an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// An OCI image layout.
    Oci,
    /// A plain directory.
    Directory,
    /// The package.
    Shipped,
}

/// What the configuration of an OCI image says. It is shown and not obeyed: what runs in a sandbox, as whom and with which
/// environment is said by the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// What stands in the file of a name, below `names` of the launcher's images: the tree, and what is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Digest of the tree, which is the name of its directory below `trees`.
    pub digest: Digest,
    /// Where it came from.
    pub origin: Origin,
    /// Digest of the manifest that it was made from.
    pub manifest: Option<Digest>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Layers that it was made from.
    pub layers: u32,
    /// When it was added, in milliseconds since 1970.
    pub added_ms: u64,
    /// What its maker suggests.
    pub suggested: Suggested,
}

/// The longest file of a name, in bytes.
pub const MAX_RECORD: u64 = 16 * 1024;

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    /// Its name.
    pub name: Name,
    /// Where it came from.
    pub origin: Origin,
    /// Digest of its tree; none for a shipped one, which nobody has walked.
    pub digest: Option<Digest>,
    /// Digest of the manifest that it was made from.
    pub manifest: Option<Digest>,
    /// Bytes of its files; none, as the next three, for a shipped one.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub entries: Option<u64>,
    /// Layers that it was made from; 0 for a directory.
    pub layers: Option<u32>,
    /// When it was added, in milliseconds since 1970.
    pub added_ms: Option<u64>,
    /// What its maker suggests.
    pub suggested: Suggested,
    /// Sandboxes that run in it.
    pub used_by: Vec<SandboxId>,
}

/// Answer to [`ImageOrder::List`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePage {
    /// In order of their names.
    pub images: Vec<ImageInfo>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// Answer to [`ImageOrder::Add`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// Its name.
    pub name: Name,
    /// Digest of its tree.
    pub digest: Digest,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Layers that it was made from; 0 for a directory.
    pub layers: u32,
    /// Devices, pipes and sockets that were left out.
    pub left_out: u64,
    /// Whether its tree was there already.
    pub already: bool,
}

/// Answer to [`ImageOrder::Remove`] and [`ImageOrder::Sweep`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swept {
    /// Trees that were removed.
    pub trees: Vec<Digest>,
    /// Bytes of their files.
    pub bytes: u64,
    /// Trees that no name points to, kept because sandboxes run in them.
    pub kept: Vec<Digest>,
}
