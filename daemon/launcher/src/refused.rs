//! Why there is no sandbox, and what pawd is told about it.

use std::io;

use nix::errno::Errno;
use paw_confine::userns::UsernsError;
use paw_launch::request::{Refusal, RefusalReason};

use crate::{
    attest::AttestError, bundle::BundleError, ceilings::refusal, cgroup::CgroupError,
    sandbox::CREATE_LIMIT,
};

/// Why a sandbox could not be made; each names its step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Userns(#[from] UsernsError),
    #[error(transparent)]
    Attest(#[from] AttestError),
    #[error("make the pipes of the sandbox")]
    Pipe(#[source] Errno),
    #[error("read paw-init")]
    Init(#[source] io::Error),
    #[error("read the image")]
    Root(#[source] io::Error),
    #[error("start paw-create")]
    Spawn(#[source] io::Error),
    #[error("paw-create failed: {0}")]
    Created(String),
    #[error("start paw-init")]
    Start(#[source] io::Error),
    #[error("paw-init ended before its hello: {0}")]
    NoHello(String),
    #[error("what paw-init said first is no hello: {0}")]
    BadHello(String),
    #[error("making the sandbox took longer than {} s", CREATE_LIMIT.as_secs())]
    TooSlow,
    #[error("it was killed while it was being made")]
    Killed,
}

impl CreateError {
    /// What pawd is told.
    pub(crate) fn refusal(&self) -> Refusal {
        let (reason, remedy) = match self {
            Self::Bundle(BundleError::Missing { .. } | BundleError::NoMountPoint { .. }) => (
                RefusalReason::Missing,
                "check that it is installed, readable for everybody, and not a symlink",
            ),
            Self::Cgroup(CgroupError::NoIoWeight) => (
                RefusalReason::Unsupported,
                "run it without an io weight, or schedule the disk by bfq; see `pawctl doctor`",
            ),
            Self::Attest(_)
            | Self::Cgroup(CgroupError::ReadBack { .. } | CgroupError::Elsewhere { .. }) => (
                RefusalReason::Attestation,
                "run `pawctl doctor --prove`; the sandbox was killed before a command ran in it",
            ),
            Self::Killed => (RefusalReason::Failed, "ask again if that was not intended"),
            _ => (
                RefusalReason::Failed,
                "see the journal of paw-launcher, and `pawctl doctor`",
            ),
        };
        refusal(reason, paw_log::Chain(self).to_string(), remedy)
    }
}
