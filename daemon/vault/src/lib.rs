//! The vault: named secrets in a file, and the daemon's only home of key material.
//!
//! ```text
//!  key-encryption key ──► root key ─┬─► wraps ──► a data key for each version ──► its value
//!  recovery key ────────►           ├─► hides names and lists
//!                                   └─► signs the header: generation, count, root over all rows
//!
//!  uninitialised ── init ──► unsealed ◄── unseal ── sealed
//!                               └─────── seal ───────►
//! ```
//!
//! - [`key`]: what opens a vault: 32 bytes of the host's, a passphrase, or the recovery key.
//! - [`Vault`]: the file and its states. [`Value`]: what it gives out.
//! - [`User`]: who may use a secret.
//!
//! What stands in the file is of no use without a key, and says how many secrets there are and about how long, and nothing else. Each
//! row is bound to its place, so none can be exchanged, renamed or put back; the header is bound to all rows and counts changes, so an
//! older copy of the whole file shows by its generation to whoever remembers a newer one. A value is erased by destroying its data
//! key, and by writing the file anew, because a database keeps what it freed.
//!
//! It uses redb by itself and not `paw-store`: that crate's tables are pawd's records, which may be read by whoever has the file. It
//! knows no configuration, no clock and no audit log; who asks and whether that was recorded is for its caller to see to.

mod crypt;
mod error;
mod file;
#[doc(hidden)]
pub mod fuzz;
mod header;
pub mod key;
mod rows;
mod value;
mod vault;

pub use error::VaultError;
pub use header::{Mark, Source};
pub use rows::{Class, Secret, Unfit, User, Version, check_name};
pub use value::Value;
pub use vault::{MAX_COPY, NewKey, State, Status, Unlock, Vault};

/// The longest value, in bytes.
pub const MAX_VALUE: usize = 16 * 1024;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 64;

/// The most secrets of a vault.
pub const MAX_SECRETS: usize = 10_000;

/// The most users that one secret is for.
pub const MAX_USERS: usize = 64;

/// The most versions of one secret that can be used at once: the newest, and older ones whose time is not over.
pub const MAX_VERSIONS: usize = 8;
