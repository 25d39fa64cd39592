//! Which step leads from which state to which. Nothing else changes a state.
//!
//! ```text
//!            ┌─ Ask ──► waiting_approval ─┬─ Approve ─┐
//! (accepted) ┤                │  │        └─ Deny ────┼──► rejected
//!            ├─ Allow ────────┼──┼─────────► approved ◄┘
//!            └─ Deny ──► rejected │           │   ▲
//!                             │   └ Expire    │   │ Again
//!                      Cancel │      │        │ Start
//!                             ▼      ▼        ▼   │
//!                     cancelled  expired   executing ─ Complete ─► completed
//!                         ▲                    ├────── TimeOut ──► timed_out
//!                         └─────── Cancel ─────┴────── Fail ─────► failed
//! ```
//!
//! Before its start, too, an action may be cancelled, fail or run into its deadline. What was interrupted while it was being done has failed; only where doing it
//! twice is the same as doing it once, it is done again.

use paw_policy::State;

/// Something that happens to an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Policy allows it as it is.
    Allow,
    /// Policy asks for a person.
    Ask,
    /// Policy or a person says no.
    Deny,
    /// A person says yes.
    Approve,
    /// Nobody answered in time.
    Expire,
    /// There is a free place, and its permit is spent.
    Start,
    /// It was done.
    Complete,
    /// It was tried and not done, or could not be tried.
    Fail,
    /// It was interrupted, and doing it twice is the same as doing it once.
    Again,
    /// Its deadline passed.
    TimeOut,
    /// Who asked takes it back.
    Cancel,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 11] = [
        Self::Allow,
        Self::Ask,
        Self::Deny,
        Self::Approve,
        Self::Expire,
        Self::Start,
        Self::Complete,
        Self::Fail,
        Self::Again,
        Self::TimeOut,
        Self::Cancel,
    ];
}

/// A step that this state does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an action that is {from} knows no step {step:?}")]
pub struct IllegalStep {
    /// Where the action stands.
    pub from: State,
    /// What was tried.
    pub step: Step,
}

/// Where a step leads.
///
/// # Errors
/// When the state does not know the step; the action stays as it is.
pub const fn next(from: State, step: Step) -> Result<State, IllegalStep> {
    let to = match (from, step) {
        (State::Queued, Step::Allow)
        | (State::WaitingApproval, Step::Approve)
        | (State::Executing, Step::Again) => State::Approved,
        (State::Queued, Step::Ask) => State::WaitingApproval,
        (State::Queued | State::WaitingApproval, Step::Deny) => State::Rejected,
        (State::WaitingApproval, Step::Expire) => State::Expired,
        (State::Approved, Step::Start) => State::Executing,
        (State::Executing, Step::Complete) => State::Completed,
        (
            State::Queued | State::WaitingApproval | State::Approved | State::Executing,
            Step::Fail,
        ) => State::Failed,
        (State::Approved | State::Executing, Step::TimeOut) => State::TimedOut,
        (
            State::Queued | State::WaitingApproval | State::Approved | State::Executing,
            Step::Cancel,
        ) => State::Cancelled,
        (from, step) => return Err(IllegalStep { from, step }),
    };
    Ok(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATES: [State; 10] = [
        State::Queued,
        State::WaitingApproval,
        State::Approved,
        State::Executing,
        State::Completed,
        State::Failed,
        State::Rejected,
        State::Expired,
        State::Cancelled,
        State::TimedOut,
    ];

    #[test]
    fn a_final_state_knows_no_step() {
        for state in STATES.into_iter().filter(|state| state.is_final()) {
            for step in Step::ALL {
                assert_eq!(next(state, step), Err(IllegalStep { from: state, step }));
            }
        }
    }

    #[test]
    fn every_open_state_can_be_cancelled() {
        for state in STATES.into_iter().filter(|state| !state.is_final()) {
            assert_eq!(next(state, Step::Cancel), Ok(State::Cancelled));
        }
    }

    #[test]
    fn nothing_is_executed_that_was_not_approved() {
        for state in STATES {
            for step in Step::ALL {
                if next(state, step) == Ok(State::Executing) {
                    assert_eq!((state, step), (State::Approved, Step::Start));
                }
                if next(state, step) == Ok(State::Approved) {
                    assert!(matches!(
                        (state, step),
                        (State::Queued, Step::Allow)
                            | (State::WaitingApproval, Step::Approve)
                            | (State::Executing, Step::Again)
                    ));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_sequence_of_steps_executes_twice(steps in prop::collection::vec(0..Step::ALL.len(), 0..40)) {
            let (mut state, mut executed) = (State::Queued, 0);
            for step in steps.into_iter().map(|index| Step::ALL[index]) {
                if let Ok(to) = next(state, step) {
                    executed += usize::from(to == State::Executing);
                    // What may be done again was not done, as far as that matters.
                    executed -= usize::from(step == Step::Again);
                    state = to;
                }
            }
            prop_assert!(executed <= 1);
        }
    }
}
