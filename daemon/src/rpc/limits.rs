//! Every bound of the control plane, in one place.

use std::time::Duration;

use crate::config::RpcBounds;

/// From how many bytes on a frame counts as long: of one user only a few such are read at a time, and none is looked through on a thread
/// that others wait for.
pub(super) const LONG_FRAME: usize = 32 * 1024;

/// What one caller may cost. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, counted from `accept`, whether they speak or not.
    pub connections: usize,
    /// Of these, places that only root and members of the administrators' groups get, so that nobody can lock them out.
    pub reserved_for_admin: usize,
    /// Connections of one user at a time.
    pub connections_per_uid: usize,
    /// Requests of one connection that may be unanswered; beyond it nothing more is read from it.
    pub in_flight: usize,
    /// Bytes of these requests; beyond it nothing more is read either. One request may exceed it by its own length.
    pub in_flight_bytes: usize,
    /// Longest request or batch.
    pub request: usize,
    /// Longest answer, of a batch as well.
    pub answer: usize,
    /// Most requests in a batch.
    pub batch: usize,
    /// Deepest nesting of arrays and objects in a request.
    pub depth: usize,
    /// Live subscriptions of one connection.
    pub subscriptions: usize,
    /// Items of a connection's subscriptions that wait to be written; beyond it their senders wait. An item is as long as its
    /// sender made it: keep it below 64 KiB.
    pub subscription_queue: usize,
    /// Answers that wait to be written to a connection. Above it, nothing is read from that connection and its calls in
    /// flight are not driven on; one answer may exceed it by its own length.
    pub unsent: usize,
    /// Calls of one user, over all connections, that may be unanswered; one more is refused.
    pub in_flight_per_uid: usize,
    /// Bytes of these calls; what would exceed it is refused.
    pub in_flight_bytes_per_uid: usize,
    /// Frames of one user longer than [`LONG_FRAME`] that are read at a time; the others are read when one of these is done.
    pub long_frames_per_uid: usize,
    /// Answers of one user, in bytes and over all connections, that wait to be written. Above it, calls of that user are refused.
    pub unsent_per_uid: usize,
    /// Calls of methods that take long which are worked on at a time for one user; the others wait for their turn.
    pub work_per_uid: usize,
    /// The same for everybody, of those that pawd itself works on.
    pub work: usize,
    /// Requests per second of one user, over all connections; 0 for no limit. Root is not limited.
    pub requests_per_second: u32,
    /// Requests that may come at once within that rate.
    pub request_burst: u32,
    /// How long a connection is not read after a refusal for want of room or pace, so that refusing costs less than asking.
    pub rest: Duration,
    /// Time until the first byte of a connection.
    pub first_byte: Duration,
    /// Time from the first byte of a frame to its last one. Between frames a connection may be silent for ever.
    pub frame: Duration,
    /// Time that a write may make no progress before the connection is closed.
    pub write_stall: Duration,
    /// The same while a subscription is live: its sender is held back meanwhile, and a person may have paused a pager.
    pub write_stall_subscribed: Duration,
    /// Time for calls in flight and subscriptions to come to their end once pawd stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            reserved_for_admin: 16,
            connections_per_uid: 64,
            in_flight: 64,
            in_flight_bytes: 4 * 1024 * 1024,
            request: 1024 * 1024,
            answer: 16 * 1024 * 1024,
            batch: 64,
            depth: 64,
            subscriptions: 16,
            subscription_queue: 32,
            unsent: 2 * 1024 * 1024,
            in_flight_per_uid: 512,
            in_flight_bytes_per_uid: 16 * 1024 * 1024,
            long_frames_per_uid: 8,
            unsent_per_uid: 32 * 1024 * 1024,
            work_per_uid: 2,
            work: 4,
            requests_per_second: 20_000,
            request_burst: 40_000,
            rest: Duration::from_millis(100),
            first_byte: Duration::from_secs(10),
            frame: Duration::from_secs(30),
            write_stall: Duration::from_secs(60),
            write_stall_subscribed: Duration::from_secs(600),
            drain: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// With what is configured.
    #[must_use]
    pub fn of(bounds: &RpcBounds) -> Self {
        Self {
            connections: bounds.connections as usize,
            connections_per_uid: bounds.connections_per_user as usize,
            requests_per_second: bounds.requests_per_second,
            request_burst: bounds.requests_per_second.saturating_mul(2),
            ..Self::default()
        }
    }
}
