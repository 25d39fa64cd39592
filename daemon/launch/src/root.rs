//! What paw-launcher tells paw-create to put the root of a sandbox together from: a file beside the OCI specification.
//!
//! Paths are relative to the root, without `..`. Directories, links and files are made first, in an empty file system; then the
//! mounts come on top of them, in their order.

use serde::{Deserialize, Serialize};

/// Its name in the bundle.
pub const FILE: &str = "root.json";

/// Everything in the root of a sandbox. What is mounted later, such as `/proc` and `/tmp`, has its directory here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Directories, parents first.
    pub dirs: Vec<String>,
    /// Symbolic links with where they lead to, which is resolved inside only.
    pub links: Vec<(String, String)>,
    /// Files with their text; mount points for files are empty.
    pub files: Vec<(String, String)>,
    /// What of the host is seen.
    pub binds: Vec<Bind>,
    /// What of the host the runtime mounts itself, later: absolute paths, of which it finds the first as `/mounts/0`.
    pub mounts: Vec<String>,
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
