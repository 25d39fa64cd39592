//! What can be wrong with the launcher, and whether it is there.

use std::{path::PathBuf, time::Duration};

use paw_launch::{
    packet::PacketError,
    request::{Refusal, Reply},
};

/// Why the launcher did not do something.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// There is no connection. It is tried again all the time; nothing has to be restarted here.
    #[error(
        "the launcher does not answer on {socket}: {why}; start it (systemctl start {unit}), pawd connects again by itself",
        socket = socket.display()
    )]
    Away {
        /// Its unit.
        unit: &'static str,
        /// Where it is expected.
        socket: PathBuf,
        /// Why it is not there.
        why: String,
    },
    /// It refused, and says why and what to do.
    #[error("the launcher refused: {}; {}", .0.message, .0.remedy)]
    Refused(Refusal),
    /// The connection broke while the answer was awaited. A sandbox that was being made is killed as soon as the launcher is back.
    #[error("the connection to the launcher broke before it answered; try again")]
    Lost,
    /// It did not answer in time.
    #[error("the launcher did not answer within {} s; see its journal (journalctl -u 'paw-launcher*')", .0.as_secs())]
    Slow(Duration),
    /// It answered something else than what was asked.
    #[error(
        "the launcher answered {answer} to {asked}; pawd and paw-launcher must be of the same version"
    )]
    Confused {
        /// What was asked.
        asked: &'static str,
        /// What it answered.
        answer: &'static str,
    },
    /// The request itself cannot be sent.
    #[error("the request cannot be sent to the launcher")]
    Unsendable(#[source] PacketError),
}

/// Whether the launcher is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LauncherState {
    /// The first attempt is not over.
    Connecting,
    /// It said Hello.
    Connected {
        /// Its process id as it sees it from the host.
        pid: u32,
    },
    /// It is not there; attempts go on.
    Away {
        /// Why, for people.
        why: String,
    },
    /// It is one that need not be there, and nothing says that it should: it has no socket. Attempts go on.
    Off,
}

/// That this answer does not belong to what was asked.
pub(super) fn confused(asked: &'static str, answer: &Reply) -> LauncherError {
    let answer = match answer {
        Reply::Hello { .. } => "hello",
        Reply::Created { .. } => "created",
        Reply::Ended { .. } => "ended",
        Reply::Killing => "killing",
        Reply::Sandboxes { .. } => "sandboxes",
        Reply::Stats(_) => "stats",
        Reply::Runtimes { .. } => "runtimes",
        Reply::Status { .. } => "status",
        Reply::Refused(_) => "refused",
        Reply::Done { .. } => "done",
        Reply::Claimed => "claimed",
    };
    LauncherError::Confused { asked, answer }
}
