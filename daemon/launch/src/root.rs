//! What paw-launcher tells paw-create to put the root of a sandbox together from: a file beside the OCI specification.
//!
//! Paths are relative to the root, without `..`. Directories, links and files are made first, in an empty file system; then temporary
//! file systems and the mounts come on top of them, in their order.

use serde::{Deserialize, Serialize};

/// Its name in the bundle.
pub const FILE: &str = "root.json";

/// Everything in the root of a sandbox. What is mounted later, such as `/proc`, has its directory here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Directories, parents first.
    pub dirs: Vec<String>,
    /// Symbolic links with where they lead to, which is resolved inside only.
    pub links: Vec<(String, String)>,
    /// Files with their text; mount points for files are empty.
    pub files: Vec<(String, String)>,
    /// Temporary file systems that may be written, an outer one before what is in it.
    pub temporary: Vec<Temporary>,
    /// Whose they are: the root of the sandbox, as an id of the launcher's own user namespace.
    pub owner: u32,
    /// What of the host is seen.
    pub binds: Vec<Bind>,
    /// What of the host the runtime mounts itself, later: absolute paths, of which it finds the first as `/mounts/0`.
    pub mounts: Vec<String>,
}

/// An empty file system in memory, where no device and no setuid bit counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temporary {
    /// Where it is in the root; the directory is made in the one around it where it is not there.
    pub path: String,
    /// Permissions of its own directory.
    pub mode: u32,
    /// How much it holds, in bytes.
    pub size: u64,
    /// How many files it holds; the kernel's own measure where nothing is said.
    pub inodes: Option<u64>,
    /// Whether programs in it can be executed.
    pub executable: bool,
}

/// A file or directory of the host with everything that is mounted below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Absolute path on the host; no part of it may be a symbolic link.
    pub source: String,
    /// Where it is in the root; read-only there.
    pub path: String,
}
