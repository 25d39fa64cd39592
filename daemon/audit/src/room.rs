//! Room for what must be on record although the disk is full: that something was denied, and how it ended what had begun.
//!
//! It is behind the end of the segment: blocks that are the file's before anything is written into them, so that nobody else takes
//! them. They are no part of the log, which is as long as ever.
//!
//! ```text
//!  records ──┤ end of the log                                    │ RESERVE behind the end
//!            ├── allocated ───────────────────┬──────────────────┤
//!            │ how something ended            │ also: denials    │ also: everything else, once there is AGAIN more
//! ```

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use paw_api::audit::{Entry, Event};
use paw_policy::Decision;

/// So much is kept behind the end of the log, in bytes.
pub const RESERVE: u64 = 1024 * 1024;

/// So much more must be there before a disk that was full is none any more, in bytes: a record that is shorter than the last one has
/// found a place since, and the next would not.
pub const AGAIN: u64 = 128 * 1024;

/// After so long a full disk is looked at again, whether or not there is a record for it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a denial leaves to others, who are fewer.
const LEFT_BY_DENIALS: u64 = RESERVE / 2;

/// What every record leaves, for the checkpoint behind it.
const LEFT_BY_ALL: u64 = 4 * 1024;

/// Blocks are asked for in pieces of this size, in bytes.
const PIECE: u64 = 4 * 1024;

/// In so many parts is looked for how much of it there is, where it is not all there.
const PARTS: u64 = 16;

/// Who may write into what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// Nobody: it is about to happen, and does not where it cannot be on record.
    No,
    /// What has happened, or was kept from happening.
    Some,
    /// How something ended that is on record.
    All,
}

impl Claim {
    /// That of a record, for which somebody waits, or not: then what it tells of may have happened.
    pub(crate) fn of(entry: &Entry, is_awaited: bool) -> Self {
        let by_event = match entry.event {
            Event::ActionEnded
            | Event::ActionExpired
            | Event::ActionCancelled
            | Event::EgressEnded
            | Event::DaemonStopping => Self::All,
            Event::SecretChanged | Event::VaultChanged
                if entry.outcome.as_deref() != Some("begun") =>
            {
                Self::All
            }
            Event::ActionJudged if entry.decision == Some(Decision::Deny) => Self::Some,
            Event::ConfigRefused
            | Event::RpcDenied
            | Event::ActionRejected
            | Event::AnswerRefused
            | Event::CodeRefused
            | Event::GrantRevoked
            | Event::SandboxKilled
            | Event::SecretRefused
            | Event::TextScreened
            | Event::EgressRefused
            | Event::JobRemoved
            | Event::JobRunFailed
            | Event::LogRecovered
            | Event::LogKeyed
            | Event::LogPruned => Self::Some,
            Event::DaemonStarted
            | Event::ConfigLoaded
            | Event::PolicyLoaded
            | Event::ActionSubmitted
            | Event::ActionJudged
            | Event::ActionApproved
            | Event::ActionStarted
            | Event::ActionFirstApproved
            | Event::GrantMade
            | Event::ApproverEnrolled
            | Event::SecretUsed
            | Event::SecretChanged
            | Event::VaultChanged
            | Event::EgressAllowed
            | Event::SkillChanged
            | Event::AgentChanged
            | Event::ProviderChanged
            | Event::BudgetChanged
            | Event::ModelPulled
            | Event::JobAdded
            | Event::SessionDeleted
            | Event::BackupMade
            | Event::ImageAdded
            | Event::ImageRemoved
            | Event::WorkspaceCommitted
            | Event::WorkspaceDiscarded
            | Event::WorkspaceUndone => Self::No,
        };
        by_event.max(if is_awaited { Self::No } else { Self::Some })
    }

    /// So much of what is kept is left by who has this claim.
    const fn leaves(self) -> u64 {
        match self {
            Self::No => RESERVE,
            Self::Some => LEFT_BY_DENIALS,
            Self::All => LEFT_BY_ALL,
        }
    }
}

/// The room behind the end of a segment.
#[derive(Debug)]
pub(crate) struct Room {
    /// Up to here the file has blocks; nothing is known where the file system does not give them before they are written.
    until: Option<u64>,
    full: bool,
    /// When a full disk is looked at again.
    look_by: Option<Instant>,
}

impl Room {
    /// Keeps room behind the end of this file, as far as there is any.
    pub(crate) fn behind(file: &File, end: u64) -> Self {
        let mut room = Self {
            until: Some(end),
            full: false,
            look_by: None,
        };
        room.fill(file, end);
        if room.full {
            // What an earlier writer kept here is not known, and is here all the same.
            for wanted in (1..=PARTS).map(|part| end + part * RESERVE / PARTS) {
                match (room.until, allocate(file, end, wanted)) {
                    (Some(_), Ok(())) => room.until = Some(wanted),
                    (_, _) => break,
                }
            }
        }
        room
    }

    /// Whether there was no room for everything when it was last looked for.
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    /// When [`Room::tick`] has something to do; never, where there is room.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.look_by
    }

    /// Looks again for what was not there, if that has become due.
    pub(crate) fn tick(&mut self, file: &File, end: u64, now: Instant) {
        if self.look_by.is_some_and(|due| due <= now) {
            self.look_by = None;
            self.fill(file, end);
        }
        if self.full {
            self.look_by.get_or_insert(now + LOOK_AGAIN);
        } else {
            self.look_by = None;
        }
    }

    /// Whether a record that would end here may be written.
    pub(crate) fn has(&mut self, file: &File, end: u64, claim: Claim) -> bool {
        self.fill(file, end);
        match self.until {
            Some(until) if self.full => until >= end.saturating_add(claim.leaves()),
            Some(_) | None => true,
        }
    }

    /// The file was cut here, and what was behind it is not the file's any more.
    pub(crate) fn was_cut(&mut self, end: u64) {
        self.until = self.until.map(|_| end);
    }

    /// Has all behind this end that is to be kept there, if it is to be had.
    fn fill(&mut self, file: &File, end: u64) {
        let Some(until) = self.until else { return };
        let more = if self.full { AGAIN } else { 0 };
        let wanted = (end + RESERVE + more).next_multiple_of(PIECE);
        if until >= wanted {
            self.full = false;
            return;
        }
        match allocate(file, until, wanted) {
            Ok(()) => (self.until, self.full) = (Some(wanted), false),
            Err(error) if is_full(&error) => self.full = true,
            // Then a write finds out that the disk is full.
            Err(error) => {
                tracing::warn!(error = %error, "the file system of the audit log keeps no room for a full disk");
                (self.until, self.full) = (None, false);
            }
        }
    }
}

/// Gives the blocks behind the end of a file back.
pub(crate) fn give_back(file: &File, end: u64) {
    // Where that fails, a megabyte is taken that nobody uses.
    let _ = file.set_len(end);
}

fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    let number = |number: u64| i64::try_from(number).map_err(io::Error::other);
    let (from, length) = (number(from)?, number(to - from)?);
    loop {
        match fallocate(
            file.as_fd(),
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            from,
            length,
        ) {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Whether that is what a file system says that has no more blocks, for this file or at all.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
