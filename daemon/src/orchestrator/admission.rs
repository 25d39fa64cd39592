//! The driver's part for what comes in: whether there is room for it, and whether it begins at once.

use std::sync::Arc;

use paw_api::{Error, ErrorKind};
use paw_policy::{
    Decision, Kind, Operation, Permit, Plan, Role, Rules, State, ToolClass, permit as allowed,
};
use paw_store::ActionRecord;

use super::{
    driver::{Driver, Open},
    handle::{Judged, Load},
    lifecycle::{Step, next},
    queue::{Bounds, Ticket, Urgency},
    steps::permit,
};
use crate::{
    clock::now_ms,
    config::ActionBounds,
    quota::rates::{What, Whose},
};

/// The least and the longest time after which it is said to be worth asking again, in milliseconds.
const AGAIN: (u64, u64) = (50, 60_000);

/// Which part of the questions that there may be one user may have.
const SHARE: usize = 4;

/// The beginning of an execution.
pub(super) struct Begun {
    pub(super) state: State,
    pub(super) permit: Permit<Plan>,
}

impl Open {
    /// What the queue knows of it.
    pub(super) fn ticket(&self) -> Ticket {
        ticket(&self.record, self.urgency)
    }
}

fn ticket(record: &ActionRecord, urgency: Urgency) -> Ticket {
    Ticket {
        id: record.id,
        kind: record.kind,
        agent: record.plan.agent.clone(),
        uid: record.requested_by.uid,
        urgency,
        writes: writes(&record.plan.operation),
        deadline_ms: record.deadline_ms,
    }
}

/// Whether this writes to its agent's workspace, and for a moment only. A command writes there, too, and may take minutes for which
/// nobody shall wait: two that change the same file at once are told so by the launcher.
const fn writes(operation: &Operation) -> bool {
    match operation {
        Operation::ToolCall(call) => match call.class {
            ToolClass::WriteLocalReversible | ToolClass::WriteDestructive => true,
            ToolClass::ReadPublic
            | ToolClass::ReadPrivate
            | ToolClass::Egress
            | ToolClass::Money
            | ToolClass::Exec
            | ToolClass::Admin => false,
        },
        Operation::Chat(_)
        | Operation::SandboxRun(_)
        | Operation::ApiCall(_)
        | Operation::SkillChange(_)
        | Operation::ModelSwitch(_)
        | Operation::ConfigChange(_)
        | Operation::SecretChange(_)
        | Operation::FileOperation(_) => false,
    }
}

/// The bounds of the line and of the places.
pub(super) fn line(bounds: &ActionBounds) -> Bounds {
    Bounds {
        places: bounds.concurrency as usize,
        of_kind: Kind::ALL.map(|kind| bounds.at_once.of(kind) as usize),
        line: bounds.queue as usize,
        background: bounds.background as usize,
    }
}

impl Driver {
    /// What a running action asks for is as urgent as that one.
    pub(super) fn inherited(&self, record: &ActionRecord, urgency: Urgency) -> Urgency {
        let parent = record.parent.and_then(|parent| self.open.get(&parent));
        parent.map_or(urgency, |parent| parent.urgency)
    }

    /// What is allowed, and finds a place free and nobody in line before it, begins with its acceptance: one step on disk, where
    /// it would be two. Whatever speaks against it is found again, and told, when its turn comes.
    pub(super) fn begin_at_once(
        &mut self,
        (record, urgency): (&ActionRecord, Urgency),
        rules: &Arc<Rules>,
        judged: &Judged,
    ) -> Option<Begun> {
        // So is what has come since to where it reads.
        let reads = self.ports.executor.reads(&record.plan);
        if !reads.iter().all(|label| record.taint.has(label)) {
            return None;
        }
        let state = next(next(State::Queued, Step::Allow).ok()?, Step::Start).ok()?;
        let permit = if Arc::ptr_eq(rules, &judged.by) {
            // The same rules say the same of the same plan.
            allowed(record.plan.clone(), &judged.verdict)
        } else {
            permit(rules, &mut record.clone(), &reads)
        };
        let permit = permit.ok()?;
        self.queue
            .take(&ticket(record, urgency))
            .then_some(Begun { state, permit })
    }

    /// Whether one more action may come in.
    pub(super) fn admit(&self, record: &ActionRecord, urgency: Urgency) -> Result<(), Error> {
        let now = now_ms();
        let busy = |message: String, again_ms: u64| {
            Error::new(
                ErrorKind::Busy,
                message,
                "wait for some to end, or raise the bound in [actions]",
            )
            .retry_after_ms(again_ms)
        };
        if self.draining {
            let error = Error::new(
                ErrorKind::Unavailable,
                "pawd is stopping",
                "try again when it is back",
            );
            return Err(error.retry_after_ms(2_000));
        }
        let room = match record.decision {
            Decision::Allow => self
                .queue
                .room(&ticket(record, urgency), now)
                .map_err(|full| busy(full.to_string(), full.again_ms)),
            Decision::Ask if self.questions.len() >= self.bounds.approvals as usize => {
                // A person may answer any moment; the first of them expires then at the latest.
                let next = self.questions.next_expiry().unwrap_or(now);
                let again = next.saturating_sub(now).clamp(AGAIN.0, AGAIN.1);
                let waiting = self.questions.len();
                Err(busy(
                    format!("{waiting} questions are waiting for a person"),
                    again,
                ))
            }
            Decision::Ask if self.has_its_share(record) => {
                let next = self.questions.next_expiry().unwrap_or(now);
                let again = next.saturating_sub(now).clamp(AGAIN.0, AGAIN.1);
                let of = self.questions.of(record.requested_by.uid);
                Err(busy(
                    format!(
                        "{of} questions of yours are waiting for a person, and the places for others are theirs"
                    ),
                    again,
                ))
            }
            Decision::Ask | Decision::Deny => Ok(()),
        };
        room?;
        // What policy denies counts, too: it is judged, recorded and listed. What has no room does not.
        let whose = Whose {
            uid: record.requested_by.uid,
            name: record.requested_by.name.as_deref(),
        };
        let asks = record.decision == Decision::Ask;
        let what = What::Action(&record.plan.agent, asks);
        self.ports.rates.count(what, whose)
    }

    /// Whether a user has all the questions that one may have: a quarter of those that there may be. Administrators are bounded by
    /// all of them alone.
    fn has_its_share(&self, record: &ActionRecord) -> bool {
        let share = (self.bounds.approvals as usize).div_ceil(SHARE);
        let by = &record.requested_by;
        !matches!(by.role, Role::Admin) && self.questions.of(by.uid) >= share
    }

    pub(super) fn queue_load(&self) -> Load {
        let executing = self.queue.running();
        let waiting = self.questions.len();
        Load {
            queued: self.open.len().saturating_sub(executing),
            in_line: Urgency::ALL.map(|urgency| self.queue.waiting(urgency)),
            executing,
            waiting,
        }
    }
}
