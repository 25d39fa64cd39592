//! Frames between the outside and `paw-init`, over its stdin (towards it) and stdout (from it).
//!
//! A frame is a header of 9 bytes and a payload: `length: u32` of the payload, `tag: u8`, `child: u32`, all little endian.
//! A payload is at most [`MAX_PAYLOAD`] bytes. Control frames carry JSON, data frames carry raw bytes, so streams are binary
//! safe. `child` names one command inside the sandbox and is chosen by the outside.
//!
//! ```text
//! outside                         paw-init
//!    │ ◄──────────── hello ────────── │   once, before anything else
//!    │ ── start(child 1, argv…) ────► │
//!    │ ◄─ stdout(1) stderr(1) ─────── │   at most WINDOW bytes of each stream unacknowledged
//!    │ ── credit(1, stdout, n) ─────► │
//!    │ ── stdin(1) … stdin_end(1) ──► │   at most WINDOW bytes of it unacknowledged
//!    │ ◄─ stdin_taken(1, n) ───────── │
//!    │ ── signal(1, 15) ────────────► │
//!    │ ── resize(1, 50 × 200) ──────► │   only of a command with a terminal
//!    │ ◄─ exited(1, code) ─────────── │   after the last byte of its output, or a grandchild holds the pipes
//!    │ ── forget(1) ────────────────► │   its end is noted; until then paw-init keeps it
//!    │ ── end, or end of stdin ─────► │   paw-init kills what is left and exits
//! ```
//!
//! An outside that is killed may leave half of what it was doing in either pipe; [`crate::resume`] says how the next one goes
//! on without losing, doubling or misreading a byte.
//!
//! A command that is started with a [`Size`] has a terminal in place of pipes: it writes everything to stdout, and the end of its
//! stdin is the terminal's end-of-file character.
//!
//! The outside trusts nothing in a frame: it bounds sizes, totals and time itself.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// The largest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Bytes of a frame before its payload.
pub const HEADER: usize = 9;

/// How many bytes of one stream (stdout, stderr, and stdin too) may be under way before the other side acknowledges them.
///
/// Stdin has a window for the sake of everything behind it: were paw-init to stop reading because one child does not take
/// its input, the credit that would let that child go on could not reach it.
pub const WINDOW: usize = 256 * 1024;

/// The version of this protocol, in [`Hello`].
pub const VERSION: u32 = 3;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tag {
    /// From paw-init: [`Hello`].
    Hello = 1,
    /// To paw-init: [`Start`].
    Start = 2,
    /// To paw-init: raw bytes for a child's stdin.
    Stdin = 3,
    /// To paw-init: no more bytes for a child's stdin.
    StdinEnd = 4,
    /// From paw-init: raw bytes of a child's stdout.
    Stdout = 5,
    /// From paw-init: raw bytes of a child's stderr.
    Stderr = 6,
    /// To paw-init: [`Credit`].
    Credit = 7,
    /// To paw-init: [`Signal`], to a child and its process group.
    Signal = 8,
    /// From paw-init: [`Exited`].
    Exited = 9,
    /// From paw-init: [`NotStarted`].
    NotStarted = 10,
    /// From paw-init: [`StdinTaken`].
    StdinTaken = 11,
    /// To paw-init: it is over. It kills what is left and exits, as at the end of its stdin, which may never come: the
    /// launcher holds a copy of the other end, so that a restarted pawd can go on where the last one was.
    End = 12,
    /// To paw-init: the beginning of a payload that is longer than one write can be; the frame behind it has the rest.
    Part = 13,
    /// To paw-init: another outside goes on from here. From paw-init: what it answers, [`crate::resume::Resumed`].
    Resume = 14,
    /// To paw-init: the end of this child is noted outside; its number is free again.
    Forget = 15,
    /// To paw-init: open the proxy's port. From paw-init: [`crate::egress::Listening`].
    EgressListen = 16,
    /// From paw-init: somebody inside has connected to the proxy's port.
    EgressOpen = 17,
    /// Both ways: raw bytes of a connection.
    EgressData = 18,
    /// Both ways: no more bytes of a connection come from this side.
    EgressEnd = 19,
    /// Both ways: [`crate::egress::EgressTaken`].
    EgressTaken = 20,
    /// To paw-init: [`Size`], the new one of a child's terminal.
    Resize = 21,
}

impl TryFrom<u8> for Tag {
    type Error = FrameError;

    fn try_from(tag: u8) -> Result<Self, FrameError> {
        Ok(match tag {
            1 => Self::Hello,
            2 => Self::Start,
            3 => Self::Stdin,
            4 => Self::StdinEnd,
            5 => Self::Stdout,
            6 => Self::Stderr,
            7 => Self::Credit,
            8 => Self::Signal,
            9 => Self::Exited,
            10 => Self::NotStarted,
            11 => Self::StdinTaken,
            12 => Self::End,
            13 => Self::Part,
            14 => Self::Resume,
            15 => Self::Forget,
            16 => Self::EgressListen,
            17 => Self::EgressOpen,
            18 => Self::EgressData,
            19 => Self::EgressEnd,
            20 => Self::EgressTaken,
            21 => Self::Resize,
            other => return Err(FrameError::UnknownTag(other)),
        })
    }
}

/// Why bytes are not a frame. The stream is of no use after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The tag is none of [`Tag`].
    #[error("unknown frame tag {0}")]
    UnknownTag(u8),
    /// The header announces more than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes; at most {MAX_PAYLOAD} are allowed")]
    TooLong(u32),
}

/// First frame of paw-init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`VERSION`] of paw-init.
    pub version: u32,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Program and arguments; the program is looked up in `PATH` of `env` when it has no slash.
    pub argv: Vec<String>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Absolute working directory.
    pub cwd: String,
    /// The size of its terminal; without one it has three pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Size>,
}

/// The size of a terminal, in characters. None has no rows or no columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Lines.
    pub rows: NonZeroU16,
    /// Characters in a line.
    pub cols: NonZeroU16,
}

/// Room for more output of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credit {
    /// Bytes of stdout that were taken.
    pub stdout: u32,
    /// Bytes of stderr that were taken.
    pub stderr: u32,
}

/// Room for more input of a child. Sent for bytes that were thrown away too, because the child had closed its stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinTaken {
    /// Bytes of stdin that were taken.
    pub bytes: u32,
    /// Whether the child will take no more.
    pub closed: bool,
}

/// A signal for a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Its number.
    pub signal: i32,
}

/// A child's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exited {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}

/// A child that could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotStarted {
    /// What kept it from starting, as `errno`; 2 not found, 13 not executable.
    pub errno: i32,
    /// The step that failed.
    pub step: String,
}

/// Writes the header of a frame.
#[must_use]
pub fn header(length: usize, tag: Tag, child: u32) -> [u8; HEADER] {
    debug_assert!(length <= MAX_PAYLOAD);
    let mut header = [0; HEADER];
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = tag as u8;
    header[5..].copy_from_slice(&child.to_le_bytes());
    header
}

/// Reads the header of a frame: payload length, what it is, and whose.
///
/// # Errors
/// When the length is over [`MAX_PAYLOAD`] or the tag is unknown.
pub fn parse_header(header: [u8; HEADER]) -> Result<(usize, Tag, u32), FrameError> {
    let [l0, l1, l2, l3, tag, c0, c1, c2, c3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    match usize::try_from(length) {
        Ok(length) if length <= MAX_PAYLOAD => Ok((
            length,
            Tag::try_from(tag)?,
            u32::from_le_bytes([c0, c1, c2, c3]),
        )),
        _ => Err(FrameError::TooLong(length)),
    }
}
