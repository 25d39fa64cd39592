//! What paw-init carries between the proxy's port inside and the outside: connections as numbered pairs of streams.
//!
//! ```text
//! outside                         paw-init
//!    │ ── egress_listen ────────────► │   before the first command
//!    │ ◄────────────── egress_listen ─ │   whether the port is open
//!    │ ◄─────────────── egress_open(n) │   somebody inside has connected
//!    │ ◄──► data(n), taken(n) ───────► │   at most WINDOW bytes of each direction unacknowledged
//!    │ ◄──► end(n), taken(n, closed) ► │   with both of both sides said, the number is forgotten
//! ```

use serde::{Deserialize, Serialize};

/// Where programs inside find their proxy, on 127.0.0.1.
pub const PORT: u16 = 3128;

/// How many bytes of one direction of one connection may be under way before the other side acknowledges them.
pub const WINDOW: usize = 64 * 1024;

/// Connections of one sandbox at once; further ones wait in the port's own queue.
pub const MAX_CONNECTIONS: usize = 64;

/// Whether the port is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listening {
    /// What kept it from being opened, as `errno`.
    pub errno: Option<i32>,
}

/// Room for more bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressTaken {
    /// Bytes that were taken.
    pub bytes: u32,
    /// Whether no more will be taken.
    pub closed: bool,
}
