//! Words between pawd and paw-egress, the only way from a sandbox to a network.
//!
//! One connection for each run, over a stream Unix socket: what is said on it concerns that run, and its end ends every
//! connection of that run. A frame is a header of 9 bytes and a payload: `length: u32` of the payload, `tag: u8`, `number: u32`,
//! all little endian; control frames carry JSON. The last five tags are those of paw-init: pawd passes them on without looking.
//!
//! ```text
//!  pawd                                  paw-egress
//!    │ ── begin(run, rules) ───────────────► │   beyond the ceiling: refused, and the connection is closed
//!    │ ◄──────────────────────────── ready ─ │
//!    │ ── open(n) data(n)… end(n) ─────────► │   at most WINDOW bytes of each direction unacknowledged
//!    │ ◄──────────────── decision(allowed) ─ │   it waits: no record, no effect
//!    │ ══ hand(run, seq, value) ═══════════► │   where it takes a secret of the vault: over a connection of its own
//!    │ ── recorded ────────────────────────► │
//!    │ ◄─ data(n)… taken(n) end(n) finished ─ │
//!    │ ── allow(rule) ─────────────────────► │   a person has approved one more
//! ```
//!
//! Each direction of a connection ends twice: `end` from who sends, and `taken` with `closed` from who receives, when all of it
//! was passed on or none of it can be. With all four said, the connection is forgotten on both sides.
//!
//! Checkpoints of the audit log go over a connection of their own too: [`Witness`], then each [`Checkpoint`] as it is signed, and back
//! a [`Witnessed`] whenever it changes how far they have come.
//!
//! A value of the vault goes over a connection of its own, which carries nothing else: [`Hand`], then its bytes, and one frame
//! [`Tag::Handed`] back. Neither side puts it where frames of a run lie, and both keep it in memory that is locked and wiped.

mod rule;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use rule::{BadRule, HostName, HostPattern, NetRule};

/// The version of these words, in [`Begin`].
pub const VERSION: u32 = 4;

/// The largest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Bytes of a frame before its payload.
pub const HEADER: usize = 9;

/// How many bytes of one direction of one connection may be under way before they are acknowledged.
pub const WINDOW: usize = 64 * 1024;

/// Connections of one run at once.
pub const MAX_CONNECTIONS: usize = 64;

/// Rules of one run, those that a person added included.
pub const MAX_RULES: usize = 64;

/// The longest value of a secret that a broker takes, in bytes.
pub const MAX_SECRET: usize = 4 * 1024;

/// The shortest one: a shorter one could stand in an answer by chance, which would then be cut.
pub const MIN_SECRET: usize = 8;

/// The name under which requests reach an endpoint with a credential: `http://broker/NAME/…`.
pub const BROKER: &str = "broker";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// To paw-egress, first: [`Begin`].
    Begin = 1,
    /// From paw-egress: [`Ready`].
    Ready = 2,
    /// From paw-egress, last: [`Refused`].
    Refused = 3,
    /// From paw-egress: [`Decision`].
    Decision = 4,
    /// To paw-egress: [`Recorded`].
    Recorded = 5,
    /// From paw-egress: [`Finished`].
    Finished = 6,
    /// To paw-egress: a [`NetRule`] that a person has approved, under a number of pawd's.
    Allow = 7,
    /// From paw-egress: [`Added`], under that number.
    Added = 8,
    /// To paw-egress, first on a connection of its own: [`Hand`]; the bytes of the value follow it, in no frame.
    Hand = 9,
    /// From paw-egress, on that connection, last: it has the value, or wants none.
    Handed = 10,
    /// To paw-egress, first on a connection of its own: [`Witness`].
    Witness = 11,
    /// To paw-egress, on that connection: [`Checkpoint`].
    Checkpoint = 12,
    /// From paw-egress, on that connection, whenever it changes: [`Witnessed`].
    Witnessed = 13,
    /// To paw-egress: somebody inside has connected.
    Open = 17,
    /// Both ways: raw bytes.
    Data = 18,
    /// Both ways: no more bytes will be sent.
    End = 19,
    /// Both ways: [`Taken`].
    Taken = 20,
}

/// Why bytes are not a frame. The connection is of no use after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The tag is none of [`Tag`].
    #[error("unknown frame tag {0}")]
    UnknownTag(u8),
    /// The header announces more than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes; at most {MAX_PAYLOAD} are allowed")]
    TooLong(u32),
}

impl TryFrom<u8> for Tag {
    type Error = FrameError;

    fn try_from(tag: u8) -> Result<Self, FrameError> {
        Ok(match tag {
            1 => Self::Begin,
            2 => Self::Ready,
            3 => Self::Refused,
            4 => Self::Decision,
            5 => Self::Recorded,
            6 => Self::Finished,
            7 => Self::Allow,
            8 => Self::Added,
            9 => Self::Hand,
            10 => Self::Handed,
            11 => Self::Witness,
            12 => Self::Checkpoint,
            13 => Self::Witnessed,
            17 => Self::Open,
            18 => Self::Data,
            19 => Self::End,
            20 => Self::Taken,
            other => return Err(FrameError::UnknownTag(other)),
        })
    }
}

/// Writes the header of a frame.
#[must_use]
pub fn header(length: usize, tag: Tag, number: u32) -> [u8; HEADER] {
    debug_assert!(length <= MAX_PAYLOAD);
    let mut header = [0; HEADER];
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = tag as u8;
    header[5..].copy_from_slice(&number.to_le_bytes());
    header
}

/// Reads the header of a frame: payload length, what it is, and of which connection.
///
/// # Errors
/// When the length is over [`MAX_PAYLOAD`] or the tag is unknown.
pub fn parse_header(header: [u8; HEADER]) -> Result<(usize, Tag, u32), FrameError> {
    let [l0, l1, l2, l3, tag, n0, n1, n2, n3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    match usize::try_from(length) {
        Ok(length) if length <= MAX_PAYLOAD => Ok((
            length,
            Tag::try_from(tag)?,
            u32::from_le_bytes([n0, n1, n2, n3]),
        )),
        _ => Err(FrameError::TooLong(length)),
    }
}

/// A run, and what it may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// [`VERSION`] of pawd.
    pub version: u32,
    /// Which sandbox it is; text for logs.
    pub run: String,
    /// Whose sandbox it is: what all runs of one agent take together is bounded.
    pub agent: String,
    /// What it may reach. None is no rule, and nothing.
    pub rules: Vec<NetRule>,
}

/// The value of a secret of the vault, for one request of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hand {
    /// [`VERSION`] of pawd.
    pub version: u32,
    /// Which run, as [`Begin`] names it.
    pub run: String,
    /// Which decision of it waits for the value.
    pub seq: u64,
    /// How many bytes follow, from [`MIN_SECRET`] to [`MAX_SECRET`].
    pub length: u32,
}

/// Checkpoints of the audit log follow, which are to leave this host if its administrator has said where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// [`VERSION`] of pawd.
    pub version: u32,
}

/// The longest checkpoint, in bytes.
pub const MAX_CHECKPOINT: usize = 16 * 1024;

/// Checkpoints that wait to be sent: a quarter of an hour of a busy log.
pub const MOST_CHECKPOINTS: usize = 1024;

/// A checkpoint of the audit log, which paw-audit has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The last record that it is for.
    pub seq: u64,
    /// The line, at most [`MAX_CHECKPOINT`] bytes, without its end.
    pub line: String,
}

/// How far checkpoints have come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnessed {
    /// Where they go; nowhere where `egress.toml` has no `[witness]`.
    pub sink: Option<String>,
    /// How many wait.
    pub queued: u32,
    /// How many were left out because too many waited.
    pub dropped: u64,
    /// The last record that one is for which has left; 0 where none has since paw-egress began.
    pub sent: u64,
    /// Why the last try failed; nothing where it did not.
    pub error: Option<String>,
}

/// The run has its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Process id of paw-egress. Text for `status`; nothing is decided by it.
    pub pid: u32,
    /// The landlock ABI whose rules bind it.
    pub landlock_abi: u32,
}

/// The run has no way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// What is not allowed, for people.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// What became of a rule that a person has approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// Why it was not added; nothing when it holds from now on.
    pub refused: Option<Refused>,
}

/// Room for more bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Bytes that were taken.
    pub bytes: u32,
    /// Whether no more will be taken.
    pub closed: bool,
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The request is not one that can be judged: its syntax, its target, its headers.
    Malformed,
    /// No rule of the run names this host and port; a person may be asked.
    NoRule,
    /// Rules name the host, and none of them this method or path.
    NotThis,
    /// A rule for methods or paths cannot be held over an encrypted connection.
    Unseen,
    /// The rule's bytes or requests are used up.
    UsedUp,
    /// The ceiling of this host's administrator does not allow it.
    Ceiling,
    /// The name leads to an address that no sandbox may reach.
    Address,
    /// The name cannot be resolved.
    Name,
    /// Nobody answers there, or not in time, or not as a server of this protocol.
    Unreachable,
    /// A tunnel is not what was judged: its encrypted connection asks for another host or does not come, or it carries a request in
    /// the clear.
    OtherName,
    /// The answer would have shown the credential.
    Leak,
    /// There are as many connections as there may be.
    Busy,
    /// There is no record, so there is no effect.
    Unrecorded,
    /// The broker's secret is not for this run, or is not there.
    Secret,
}

impl Reason {
    /// The word that stands for this reason on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoRule => "no_rule",
            Self::NotThis => "not_this",
            Self::Unseen => "unseen",
            Self::UsedUp => "used_up",
            Self::Ceiling => "ceiling",
            Self::Address => "address",
            Self::Name => "name",
            Self::Unreachable => "unreachable",
            Self::OtherName => "other_name",
            Self::Leak => "leak",
            Self::Busy => "busy",
            Self::Unrecorded => "unrecorded",
            Self::Secret => "secret",
        }
    }
}

/// One request was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Number of this decision in its run.
    pub seq: u64,
    /// Why it was refused; nothing when it is allowed, and then it waits for [`Recorded`].
    pub refused: Option<Reason>,
    /// What is wrong, for people; empty when it is allowed.
    pub message: String,
    /// The method, `CONNECT` for an encrypted connection.
    pub method: String,
    /// The host as it was asked for, at most 253 characters that can be printed.
    pub host: String,
    /// The port; 0 when none could be read.
    pub port: u16,
    /// The path without its query, at most 256 characters; empty where it cannot be seen.
    pub path: String,
    /// Where the connection goes.
    pub address: Option<IpAddr>,
    /// The rule that allows it.
    pub rule: Option<NetRule>,
    /// The name of the secret that is used; its record is on the disk before it is.
    pub secret: Option<String>,
    /// The broker that uses it.
    pub broker: Option<String>,
    /// Whether the secret is one of the vault: then its value is waited for, as [`Hand`].
    pub vault: bool,
}

/// A decision is in the audit log, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Which decision.
    pub seq: u64,
    /// Whether it is; otherwise what it allows does not happen.
    pub ok: bool,
    /// Whether it is not because of the secret that it takes: nobody let this run use it, or it is not to be had.
    pub secret: bool,
}

/// What was allowed has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// Which decision.
    pub seq: u64,
    /// Bytes from the sandbox, headers included.
    pub sent: u64,
    /// Bytes to the sandbox, without headers.
    pub received: u64,
    /// Status of the answer; nothing for an encrypted connection, or when there was none.
    pub status: Option<u16>,
    /// Why it ended early.
    pub fault: Option<Reason>,
}
