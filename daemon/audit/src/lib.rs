//! The audit log: its format, its only writer, its verifier and its reader.
//!
//! - [`format`]: what a line looks like, and what is hashed and signed.
//! - [`chain`]: whether a line may follow the one before; the writer's recovery and the verifier use the same code.
//! - [`mac`]: the key that moves on with each record. [`tree`]: the Merkle tree over all of them.
//! - [`log`]: the writer. [`serve`]: who may ask it to write, over a Unix socket. [`room`]: what of it a full disk has a place for.
//! - [`verify`]: whether a log is what was written. [`read`]: pages of it. [`proof`]: that one record is in it.
//!
//! A log is a directory: `audit.000001.log` and so on, `audit.pub` (the key that verifies), `audit.checkpoint` (the newest
//! signature, so that a cut end shows), `audit.lock` (held by the writer). The signing key, the key of the next record
//! (`audit.next`), a second `audit.checkpoint` and the vaults of before (`audit.vaults`) are in a directory of the writer's own. What the log cannot do: somebody who has the
//! signing key can sign another history, which shows to who has the first key of the codes or an older checkpoint of the
//! journal's; and what is newer than the newest checkpoint (at most 256 records or one second) can be cut off.

pub mod chain;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
mod index;
pub mod key;
pub mod log;
pub mod mac;
pub mod proof;
pub mod read;
mod recover;
pub mod room;
pub mod segment;
pub mod serve;
pub mod tree;
pub mod vaults;
pub mod verify;

pub use log::{Log, LogError};
pub use verify::{Checks, Fault, Report, State, verify, verify_with};
