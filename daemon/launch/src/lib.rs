//! What pawd and the launcher say to each other, and how it is framed.
//!
//! Four, all bounded, neither trusting the other end:
//!
//! - [`request`] over [`packet`]: typed requests and replies between pawd and the launcher, one JSON document per SEQPACKET
//!   packet, file descriptors beside it.
//! - [`job`]: what the launcher and its own short-lived programs say; [`image`]: the words of the one that keeps images.
//! - [`frame`]: what goes over stdin and stdout of `paw-init`, the PID 1 of every sandbox, in every runtime.
//! - [`resume`]: how another pawd goes on with those frames after the one that began was killed.
//! - [`shim`]: what is told of a containerd shim, from one process of the launcher's to the next.
//! - [`root`]: what paw-launcher has paw-create put a sandbox's root together from; [`tree`]: what the digest of an image is of.
//!
//! This crate knows no process of ours: it only says what the bytes mean.

pub mod egress;
pub mod frame;
#[cfg(feature = "requests")]
pub mod image;
#[cfg(feature = "requests")]
pub mod job;
#[cfg(feature = "requests")]
pub mod packet;
#[cfg(feature = "requests")]
pub mod request;
pub mod resume;
pub mod root;
#[cfg(feature = "requests")]
pub mod shim;
#[cfg(feature = "requests")]
pub mod tree;
#[cfg(feature = "requests")]
mod waiting;
#[cfg(feature = "requests")]
pub mod workspace;

/// How the reason of a runtime ends that is absent because the launcher's own configuration does not name it.
pub const NOT_ALLOWED: &str = "does not allow it";
