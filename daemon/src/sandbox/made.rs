//! What the launcher hands over: the ends of a sandbox that runs, and how one has ended.

use std::os::fd::OwnedFd;

use paw_launch::request::{Attestation, End, Usage};
use tokio::sync::oneshot;

/// How a sandbox ended, and what it used.
pub(super) type Ending = (End, Usage);

/// A sandbox that runs.
pub(super) struct Made {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) ended: oneshot::Receiver<Ending>,
}

/// What became of a sandbox that an earlier pawd had made.
pub(super) enum Attached {
    /// It runs, and is what it was attested to be.
    Running(Box<Attestation>, Made),
    /// It has ended.
    Ended(End, Usage),
}
