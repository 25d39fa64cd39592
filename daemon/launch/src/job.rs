//! What the launcher and one of its jobs say to each other.
//!
//! A job is a program of ours that the launcher starts for one piece of work on its own state. The two have one socket of
//! packets, which the job finds at descriptor [`SOCKET`]:
//!
//! ```text
//! job        Ready      it is in its cgroup and has confined itself; the launcher looks whether that is so
//! launcher   Charge     what to do, with the descriptors that came with the request
//! job        Outcome    what came of it, with descriptors of its own; then it ends
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::Refusal;

/// Where a job finds its socket.
pub const SOCKET: i32 = 3;

/// The most bytes that the result of a job may have as JSON; what is larger is given page by page, or as a descriptor. It has
/// to fit into a reply with its envelope.
pub const MAX_RESULT: usize = crate::request::MAX_PACKET - 1024;

/// The first word of a job: from here on it does nothing but what its bounds allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// [`crate::request::VERSION`] that it was built with.
    pub version: u32,
}

/// What a job is told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charge {
    /// In the words of that job.
    pub order: Value,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It is done; the result is in the words of that job, with up to [`crate::packet::MAX_FDS`] descriptors beside it.
    Done(Value),
    /// It was not done, and nothing was changed.
    Refused(Refusal),
}
