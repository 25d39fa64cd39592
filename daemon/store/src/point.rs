//! Places between two steps at which a test has this process die, so that it is seen from outside what a death there leaves behind.
//!
//! A build that ships has none of it: without debug assertions [`reached`] is empty, there is nothing that could be told where to die,
//! and packaging refuses a program in which the name of the variable is found.

/// The variable that says where to die: `PLACE:N`, at the place of that name, when it is reached for the Nth time. Or where to stand still, as
/// a disk that does not answer makes it: `PLACE:/PATH`, while there is a named pipe at that path, until somebody opens it for writing.
/// Nothing looks for it in a build that ships.
pub const VARIABLE: &str = "PAWD_TEST_DIES_AT";

/// A place between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Something is to be noted; nothing of it is anywhere.
    NoteBegins,
    /// It is beside the store, and nowhere else.
    NoteWritten,
    /// Notes are on the disk.
    NotesSynced,
    /// Notes are in a transaction of the tables that is not committed.
    NotesApplied,
    /// A transaction is complete and not committed.
    CommitBegins,
    /// It is committed; nobody knows.
    CommitDone,
    /// At the start: what was noted is in a transaction that is not committed.
    ReplayBegins,
    /// It is committed.
    ReplayDone,
    /// A run of a job is claimed, and its action nowhere.
    Claimed,
    /// The driver has what somebody asks for; it is nowhere else.
    Taken,
    /// A step is in the audit log and not in the store.
    StepRecorded,
    /// It is in both; the driver does not know.
    StepStored,
    /// An acceptance is stored, and its caller not told.
    Accepted,
    /// Its caller is told; nothing is begun.
    AcceptedTold,
    /// An action has a place; its beginning is nowhere.
    Starts,
    /// Its beginning is written, and its permit not spent.
    Begun,
    /// It is done; only the task that did it knows.
    Executed,
    /// Its end is nowhere.
    Ends,
    /// Its end is in the audit log and not in the store.
    EndRecorded,
    /// Its end is stored, and nobody told.
    EndStored,
    /// A person's answer is weighed, and nowhere.
    Answers,
    /// It is stored, and that person not told.
    Answered,
    /// An action is to be taken back.
    Cancels,
    /// A question has expired, and nothing says so.
    Expires,
    /// At the start: an action was interrupted, and nothing says so.
    Recovers,
    /// At the start: an action goes on.
    GoesOn,
}

impl Point {
    /// All of them. One that is reached at a start follows one that leaves behind what that start finds.
    pub const ALL: [Self; 26] = [
        Self::NoteBegins,
        Self::NotesSynced,
        Self::NotesApplied,
        Self::CommitBegins,
        Self::CommitDone,
        Self::NoteWritten,
        Self::ReplayBegins,
        Self::ReplayDone,
        Self::Claimed,
        Self::Taken,
        Self::StepRecorded,
        Self::StepStored,
        Self::Accepted,
        Self::GoesOn,
        Self::AcceptedTold,
        Self::Starts,
        Self::Begun,
        Self::Recovers,
        Self::Executed,
        Self::Ends,
        Self::EndRecorded,
        Self::EndStored,
        Self::Answers,
        Self::Answered,
        Self::Cancels,
        Self::Expires,
    ];
}

#[cfg(debug_assertions)]
pub use armed::{die_at, reached};

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn reached(_: Point) {}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        fs,
        path::PathBuf,
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering::SeqCst},
        },
    };

    use super::Point;

    static AT: OnceLock<(Point, What)> = OnceLock::new();

    enum What {
        /// Dies, once it was reached so many times more.
        Die(AtomicU32),
        /// Stands still while this is there.
        Stall(PathBuf),
    }

    /// From now on this process dies, or stands still, at this place; what is no place is none.
    pub fn die_at(text: &str) {
        let read = || {
            let (name, what) = text.split_once(':')?;
            let point = Point::ALL
                .into_iter()
                .find(|point| format!("{point:?}") == name)?;
            let what = if what.starts_with('/') {
                What::Stall(what.into())
            } else {
                What::Die(AtomicU32::new(what.parse().ok()?))
            };
            Some((point, what))
        };
        if let Some(at) = read() {
            // The first word counts.
            let _ = AT.set(at);
        }
    }

    /// Dies here, if it was told to: at once, with all its threads, and without anything that an orderly end would do.
    pub fn reached(point: Point) {
        match AT.get() {
            Some((at, What::Die(left))) if *at == point => {
                if left.fetch_sub(1, SeqCst) == 1 {
                    std::process::abort();
                }
            }
            Some((at, What::Stall(pipe))) if *at == point => {
                // Opening waits for the other side; where there is no pipe, there is nothing to wait for.
                drop(fs::File::open(pipe));
            }
            Some(_) | None => {}
        }
    }
}
