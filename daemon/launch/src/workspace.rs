//! Words about workspaces: what a run left in its own layer, and what can be done with it.
//!
//! A run never writes to its agent's directory. It writes to a layer, which after its end is committed, discarded, or *pending*
//! until somebody decides. The launcher hands each of these to `paw-workspace`, a program that may touch this one workspace and
//! nothing else: [`Task`] goes in, [`Answer`] comes out. Paths are text with everything escaped that is not plainly printable
//! (see there), so what is shown is exactly what is meant.

use paw_policy::{Digest, Name};
use serde::{Deserialize, Serialize};

use crate::request::SandboxId;

/// The most bytes of an [`Answer`] as JSON: it has to fit into a packet with its envelope. What does not comes with the next page.
pub const MAX_ANSWER: usize = crate::request::MAX_PACKET - 1024;

/// What shall become of a layer when its sandbox has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settle {
    /// It becomes part of the workspace at once, without a question.
    Commit,
    /// It waits for a decision.
    Stage,
    /// Nothing of it is kept.
    Discard,
}

impl Settle {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Stage => "stage",
            Self::Discard => "discard",
        }
    }
}

/// What pawd asks the launcher about workspaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "workspace", rename_all = "snake_case", deny_unknown_fields)]
pub enum WorkspaceRequest {
    /// Say what becomes of the layer of a sandbox that has ended. Of a layer of which nothing is said becomes what its plan says.
    Settle {
        /// The sandbox.
        id: SandboxId,
        /// What becomes of it.
        then: Settle,
    },
    /// Show what a pending layer changes.
    Diff {
        /// The sandbox that wrote it.
        id: SandboxId,
        /// The first change to show.
        from: u32,
    },
    /// Make a pending layer part of its workspace, if it is what was shown.
    Commit {
        /// The sandbox that wrote it.
        id: SandboxId,
        /// The digest that was shown.
        digest: Digest,
    },
    /// Throw a pending layer away.
    Discard {
        /// The sandbox that wrote it.
        id: SandboxId,
    },
    /// Take back a commit and every one after it.
    Undo {
        /// The sandbox whose layer was committed.
        id: SandboxId,
        /// The last commit when this was decided: what came later is not taken back unseen.
        last: SandboxId,
    },
    /// What is pending and what can be undone, of one workspace.
    List {
        /// Which one.
        name: Name,
    },
    /// The names of all workspaces.
    Names,
}

/// One order for paw-workspace, on its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What to do.
    pub order: Order,
    /// Where everything has its end.
    pub bounds: Bounds,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// Generations that sandboxes still see; they are not removed.
    pub live: Vec<u64>,
}

/// What paw-workspace is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Fill an empty directory with a copy of a generation, for a run that cannot have an overlay.
    Copy {
        /// Which generation.
        generation: u64,
    },
    /// Compare what a run left with the generation that it began with, and keep the difference as a pending layer.
    Collect {
        /// The sandbox.
        layer: SandboxId,
        /// What it began with.
        generation: u64,
        /// Whether what is collected is the upper directory of an overlay, or a whole copy.
        overlay: bool,
        /// The host uid of whom it is.
        owner: Option<u32>,
        /// Whether to commit it at once.
        commit: bool,
    },
    /// [`WorkspaceRequest::Diff`].
    Diff {
        /// Which layer.
        layer: SandboxId,
        /// The first change to show.
        from: u32,
    },
    /// [`WorkspaceRequest::Commit`].
    Commit {
        /// Which layer.
        layer: SandboxId,
        /// The digest that was shown.
        digest: Digest,
    },
    /// [`WorkspaceRequest::Discard`].
    Discard {
        /// Which layer.
        layer: SandboxId,
    },
    /// [`WorkspaceRequest::Undo`].
    Undo {
        /// Which layer.
        layer: SandboxId,
        /// The last one when this was decided.
        last: SandboxId,
    },
    /// [`WorkspaceRequest::List`].
    List,
}

/// Where a workspace has its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Bytes of all files of a workspace; also of one layer, and of all pending layers together.
    pub bytes: u64,
    /// Files, directories and links of a workspace; also the changes of one layer.
    pub files: u32,
    /// Pending layers.
    pub pending: u32,
    /// How long a layer may be pending, in milliseconds.
    pub pending_ms: u64,
    /// Commits that can be undone.
    pub undo: u32,
    /// Bytes that are kept to undo them.
    pub undo_bytes: u64,
}

/// What paw-workspace says at its end, and what pawd gets of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To a copy.
    Copied {
        /// Files, directories and links of it.
        files: u32,
        /// Bytes of it.
        bytes: u64,
    },
    /// To [`WorkspaceRequest::Settle`].
    Settled(Settled),
    /// To [`WorkspaceRequest::Diff`].
    Diff(Box<Diff>),
    /// To [`WorkspaceRequest::Commit`].
    Committed(Committed),
    /// To [`WorkspaceRequest::Discard`].
    Discarded {
        /// How many changes are gone.
        changes: u32,
    },
    /// To [`WorkspaceRequest::Undo`].
    Undone {
        /// The sandboxes whose layers were taken back, the newest first.
        layers: Vec<SandboxId>,
    },
    /// To [`WorkspaceRequest::List`].
    List(Listing),
    /// To [`WorkspaceRequest::Names`].
    Names {
        /// All of them.
        names: Vec<Name>,
    },
    /// It was not done, and nothing was changed.
    Refused(Refused),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// For programs.
    pub why: Why,
    /// For people.
    pub message: String,
    /// For people: what to do about it.
    pub remedy: String,
}

/// The closed list of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// There is no such layer or commit.
    NotFound,
    /// It is not what was shown.
    Changed,
    /// The workspace has changed where the layer changes it.
    Conflict,
    /// Beyond a bound.
    TooMuch,
    /// A file could not be read or written.
    Failed,
}

/// What became of a layer at the end of its run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// What was done; [`Settle::Discard`] too where there was nothing to keep.
    pub then: Settle,
    /// How many changes it has.
    pub changes: u32,
    /// What of it cannot be part of a workspace, and why.
    pub left_out: Vec<LeftOut>,
    /// Older pending layers that had to make room.
    pub dropped: Vec<SandboxId>,
}

/// Something that a run made and that is not kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Where.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What a pending layer changes, or a page of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diff {
    /// The sandbox that wrote it.
    #[serde(rename = "id")]
    pub layer: SandboxId,
    /// The host uid of whom it is.
    pub owner: Option<u32>,
    /// When the run ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// Digest of all changes, contents and replaced contents included: what a commit names.
    pub digest: Digest,
    /// How many changes it has.
    pub total: u32,
    /// Changes from the one that was asked for.
    pub changes: Vec<Change>,
    /// The first change of the next page, if there is one.
    pub next: Option<u32>,
    /// What of the run is not kept.
    pub left_out: Vec<LeftOut>,
    /// Paths where the workspace has changed since; while there is one, it cannot be committed.
    pub conflicts: Vec<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Where, beneath the workspace.
    pub path: String,
    /// What is there now.
    pub old: Option<Thing>,
    /// What will be there.
    pub new: Option<Thing>,
    /// How the text differs, as a unified diff.
    pub text: Option<String>,
    /// Why there is no text, where one could be expected.
    pub note: Option<String>,
}

/// A file, a directory or a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Digest of a file's content.
    pub digest: Option<Digest>,
    /// Where a link leads.
    pub target: Option<String>,
}

/// What a workspace is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, which is kept and never followed.
    Link,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committed {
    /// The sandbox that wrote it.
    #[serde(rename = "id")]
    pub layer: SandboxId,
    /// How many changes.
    pub changes: u32,
    /// Files, directories and links of the workspace after it.
    pub files: u32,
    /// Bytes of all its files after it.
    pub bytes: u64,
}

/// What is pending and what can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Files, directories and links, as of the last commit.
    pub files: u32,
    /// Bytes of all files, as of the last commit.
    pub bytes: u64,
    /// Layers that wait, the oldest first.
    pub pending: Vec<Waiting>,
    /// Commits that can be undone, the oldest first.
    pub commits: Vec<Waiting>,
}

/// A layer in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// The sandbox that wrote it.
    #[serde(rename = "id")]
    pub layer: SandboxId,
    /// The host uid of whom it is.
    pub owner: Option<u32>,
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many changes it has.
    pub changes: u32,
    /// Bytes of its new files.
    pub bytes: u64,
}
