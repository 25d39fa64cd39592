//! What becomes of an action, from its acceptance to its end.
//!
//! - [`lifecycle`] says which step leads from which state to which: pure.
//! - [`queue`] says which action is done next and how many at once, and [`pace`] when it is worth asking again: pure.
//! - [`approval`] holds the questions that wait for a person: pure.
//! - [`driver`] is the one task that owns the three; it stores, records, starts and answers.
//!   Its parts for what comes in, for questions and for ends are in `admission`, `answering` and `ending`, `waiting` for what is
//!   kept in the store alone meanwhile; `steps` has what each step is made of.
//! - [`handle`] is its door.
//! - [`work`] is what the driver needs done and does not do itself.

mod admission;
mod answering;
pub mod approval;
pub mod driver;
mod ending;
pub mod handle;
pub mod lifecycle;
pub mod pace;
pub mod queue;
mod steps;
mod turns;
mod waiting;
pub mod work;
