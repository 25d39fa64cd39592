//! Workspaces: what runs left that nobody has decided on, and what becomes of it.

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A workspace with what is pending and what can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Workspace {
    /// The agent whose it is.
    pub agent: String,
    /// Files, directories and links, as of the last commit.
    pub files: u32,
    /// Bytes of all files, as of the last commit.
    pub bytes: u64,
    /// Layers that wait for a decision, the oldest first; a user sees their own.
    pub pending: Vec<WaitingLayer>,
    /// Commits that can be undone, the oldest first; a user sees their own.
    pub commits: Vec<WaitingLayer>,
    /// Why nothing of it can be told, where that is so; it keeps no other from being listed.
    pub fault: Option<String>,
}

/// What one run left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingLayer {
    /// The sandbox that wrote it.
    pub id: String,
    /// The host uid of whom it is, where that is known.
    pub owner: Option<u32>,
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many changes.
    pub changes: u32,
    /// Bytes of its new files.
    pub bytes: u64,
}

/// What a pending layer changes, or a page of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceDiff {
    /// The sandbox that wrote it.
    pub id: String,
    /// The host uid of whom it is, where that is known.
    pub owner: Option<u32>,
    /// When the run ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// What a commit names: SHA-256 over every change, with what is replaced and what replaces it.
    pub digest: String,
    /// How many changes it has in all.
    pub total: u32,
    /// Changes from the one that was asked for.
    pub changes: Vec<WorkspaceChange>,
    /// The first change of the next page, if there is one.
    pub next: Option<u32>,
    /// What the run made that is not kept.
    pub left_out: Vec<LeftOut>,
    /// Paths where the workspace has changed since; while there is one, it cannot be committed.
    pub conflicts: Vec<String>,
}

/// One change. Whatever is not plainly printable in it is escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceChange {
    /// Where, beneath the workspace.
    pub path: String,
    /// What is there now.
    pub old: Option<Thing>,
    /// What will be there.
    pub new: Option<Thing>,
    /// How the text differs, as a unified diff.
    pub text: Option<String>,
    /// Why there is no text, or not all of it.
    pub note: Option<String>,
}

/// A file, a directory or a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thing {
    /// `file`, `directory` or `link`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// SHA-256 of a file's content.
    pub digest: Option<String>,
    /// Where a link leads; it is never followed outside a sandbox.
    pub target: Option<String>,
}

/// Something that a run made and that is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// Where.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Committed {
    /// The sandbox that wrote it.
    pub id: String,
    /// How many changes.
    pub changes: u32,
    /// Files, directories and links of the workspace after it.
    pub files: u32,
    /// Bytes of all its files after it.
    pub bytes: u64,
}

/// What was thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Discarded {
    /// How many changes.
    pub changes: u32,
}

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Undone {
    /// Sandboxes whose commits were taken back, the newest first.
    pub layers: Vec<String>,
}

/// What became of what a run wrote to its agent's workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunLayer {
    /// The agent whose workspace it is.
    pub agent: String,
    /// `stage`: it waits for a decision. `commit`: it is part of the workspace. `discard`: nothing was changed.
    pub then: String,
    /// How many changes.
    pub changes: u32,
    /// What the run made that is not kept.
    pub left_out: Vec<LeftOut>,
}

/// `workspace.*`
#[rpc(server, namespace = "workspace", namespace_separator = ".")]
pub trait WorkspaceRpc {
    /// Workspaces with what is pending and what can be undone; of one agent, if it is named.
    #[method(name = "list", param_kind = map, with_extensions)]
    async fn list(&self, agent: Option<String>) -> RpcResult<Vec<Workspace>>;

    /// What a pending layer changes, from a change on.
    #[method(name = "diff", param_kind = map, with_extensions)]
    async fn diff(&self, id: String, from: Option<u32>) -> RpcResult<WorkspaceDiff>;

    /// Makes a pending layer part of its workspace, if it is the one that was shown.
    #[method(name = "commit", param_kind = map, with_extensions)]
    async fn commit(&self, id: String, digest: String) -> RpcResult<Committed>;

    /// Throws a pending layer away.
    #[method(name = "discard", param_kind = map, with_extensions)]
    async fn discard(&self, id: String) -> RpcResult<Discarded>;

    /// Takes back a commit and every one after it.
    #[method(name = "undo", param_kind = map, with_extensions)]
    async fn undo(&self, id: String) -> RpcResult<Undone>;
}
