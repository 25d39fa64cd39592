//! The daemon's durable state: actions, sessions and turns in one file, behind typed tables.
//!
//! This crate is the only home of redb. It is synchronous and knows no async runtime; who calls it from one does so on a
//! thread that may block. It keeps what it is given and finds it again; it judges nothing and has no clock.
//!
//! - Everything is written by [`Store::commit`], which takes a [`Batch`] and is all or nothing and durable on return; or by
//!   [`Store::note`], which outlives the process on return, and the machine from the next [`Store::sync`] on.
//! - Everything is read from a snapshot, in pages of at most [`MAX_PAGE`] records.
//! - The file belongs to one process at a time, carries its schema version, and is never replaced by an empty one.
//!
//! ```text
//! opened ──commit fails──► reopened ──cannot be written──► readable only ──next commit reopens──► opened
//! ```

mod backup;
mod batch;
mod error;
mod file;
mod forget;
#[doc(hidden)]
pub mod fuzz;
mod grant;
mod job;
mod journal;
mod notes;
mod open;
mod outage;
mod overlay;
mod placed;
pub mod point;
mod proof;
mod prune;
mod query;
mod record;
mod schema;
mod session;
mod spent;
mod store;
mod summary;
mod turn;

pub use backup::Verified;
pub use batch::{Batch, MAX_BATCH, MAX_RECORD};
pub use error::StoreError;
pub use file::OpenOptions;
pub use forget::{Kept, Surplus, TooMuch};
pub use grant::GrantRecord;
pub use job::{JobRecord, RUNS_KEPT, RunOutcome, RunRecord};
pub use outage::{Outage, OutageRecord, Outlet};
pub use proof::ProofRecord;
pub use query::{ActionFilter, Counts, Listed, MAX_PAGE, MAX_SCAN, Page};
pub use record::{
    ActionRecord, Answer, Attempt, CallRecord, Caller, Failure, ResultOf, SessionRecord, Speaker,
    TurnRecord,
};
pub use schema::{OPEN_STATES, SCHEMA_VERSION};
pub use spent::{Account, Sum};
pub use store::Store;
pub use summary::{SummaryRecord, digest_of};
