//! An agent's directory, and what its runs wrote to layers of their own.
//!
//! ```text
//! WORKSPACE/                     belongs to the workspace's owner, and nobody else may look in
//!   current -> generations/7     the one name that decides what the workspace is
//!   generations/7/files/         what runs see, read-only; no file here is ever written to
//!   generations/7/log.json       the commits that led here and can be undone
//!   history/ID/                  one of them: its changes, and the files that it replaced
//!   pending/ID/                  what the run ID changed and nobody has decided on
//! ```
//!
//! A commit makes a new generation out of links to the files of the last one, changes *that*, and then renames `current`. So a
//! workspace is as before or as after at any time, whatever is killed when; all changes of a commit arrive together; a run that
//! goes on meanwhile keeps the generation that it began with, as the kernel demands of a lower layer; and a file that is
//! replaced costs nothing to keep, because its other name keeps it. What is not reached from `current` is rubbish of an
//! interrupted order, or of a generation that nobody sees any more; the next order removes it.
//!
//! - [`place`], [`beneath`]: names, and what is done with them.
//! - [`entry`]: what stands at a name, what changes, and the digest of it.
//! - [`store`]: the layout above.
//! - [`collect`]: from what a run left to a pending layer.
//! - [`commit`], [`undo`]: one generation to the next.
//! - [`copy`]: a generation for a run that cannot have an overlay.
//! - [`show`]: a layer for people.
//! - [`serve`]: one order, from the first to the last word.

pub mod beneath;
pub mod collect;
pub mod commit;
pub mod copy;
pub mod entry;
pub mod place;
pub mod serve;
pub mod show;
pub mod store;
pub mod undo;

use std::io;

use paw_launch::{
    request::SandboxId,
    workspace::{Refused, Why},
};

use crate::place::BadPlace;

/// Why an order was not carried out. The workspace is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A file could not be opened, read or made.
    #[error("{step} {path}")]
    Files {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A record of ours cannot be understood.
    #[error("{what} is damaged")]
    Damaged {
        /// Which one.
        what: String,
        /// How.
        source: serde_json::Error,
    },
    /// Nothing is pending under this name.
    #[error("nothing of {0} is pending")]
    NotPending(SandboxId),
    /// Nothing of this name can be undone.
    #[error("no commit of {0} can be undone")]
    NotCommitted(SandboxId),
    /// Somebody has committed since it was decided what to take back.
    #[error("{0} is no longer the last commit")]
    NotLast(SandboxId),
    /// A pending layer is not what was shown.
    #[error("the changes are not those that were shown")]
    Changed,
    /// A file of a layer is not what was collected.
    #[error("the content of {0} is not what was collected")]
    Content(String),
    /// The workspace has changed where a layer changes it.
    #[error("the workspace has changed since: {}", .0.join(", "))]
    Conflict(Vec<String>),
    /// A bound was reached.
    #[error("more than {most} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: u64,
    },
    /// A path is none.
    #[error(transparent)]
    Place(#[from] BadPlace),
}

impl Fault {
    /// It as an answer.
    #[must_use]
    pub fn refused(&self) -> Refused {
        let (why, remedy) = match self {
            Self::NotPending(_) => (Why::NotFound, "see `pawctl workspace list`"),
            Self::NotCommitted(_) => (
                Why::NotFound,
                "only the last commits can be undone; see `pawctl workspace list`",
            ),
            Self::NotLast(_) => (
                Why::Changed,
                "see `pawctl workspace list`, then undo it again",
            ),
            Self::Changed => (
                Why::Changed,
                "look at it again with `pawctl workspace diff`",
            ),
            Self::Content(_) => (
                Why::Changed,
                "discard it: somebody wrote to the launcher's state",
            ),
            Self::Conflict(_) => (
                Why::Conflict,
                "discard it and run again on what the workspace is now",
            ),
            Self::TooMuch { .. } => (
                Why::TooMuch,
                "have the run write less, or raise [workspaces] in launcher.toml",
            ),
            Self::Files { .. } | Self::Damaged { .. } | Self::Place(_) => {
                (Why::Failed, "see the journal of paw-launcher")
            }
        };
        Refused {
            why,
            message: chain(self),
            remedy: remedy.to_owned(),
        }
    }
}

/// An error with every cause, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
