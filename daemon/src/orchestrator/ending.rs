//! The driver's part for ends: of an execution, of an action that never came to one, and of an earlier life of pawd.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use paw_api::audit::Event;
use paw_policy::{Risk, State};
use paw_store::{
    ActionRecord, StoreError,
    point::{self, Point},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    driver::{Driver, Happened, Open},
    lifecycle::{Step, next},
    queue::Urgency,
    steps::{Unwritten, batch_with_exchange, say},
    work::{Continuation, Ending, Exchange, LAUNCHER_LOST, Outcome, Progress, failure},
};
use crate::{clock::now_ms, quota::Unstored, records::entry_of};

/// How often an action that was interrupted is done again: what ends pawd each time shall not do so for ever.
const MAX_AGAIN: u32 = 3;

impl Driver {
    /// Takes an action of an earlier life into account, as the store has it.
    pub(super) fn adopt(&mut self, record: ActionRecord) {
        match record.state {
            State::Queued | State::WaitingApproval | State::Approved | State::Executing => {}
            State::Completed
            | State::Failed
            | State::Rejected
            | State::Expired
            | State::Cancelled
            | State::TimedOut => return,
        }
        let open = Open {
            record,
            progress: Progress::None,
            cancel: CancellationToken::new(),
            reply: None,
            end: None,
            busy: false,
            opens: false,
            permit: None,
            // Whoever waited for it was connected to that life.
            urgency: Urgency::Background,
            overdue: false,
        };
        if open.record.state == State::WaitingApproval {
            return self.set_aside(open);
        }
        if open.record.state == State::Approved {
            self.queue.push(open.ticket());
        }
        self.open.insert(open.record.id, Box::new(open));
    }

    /// Goes on with what was being done when an earlier life ended, or ends it.
    pub(super) fn recover(&mut self) {
        let executing: Vec<Uuid> = self
            .open
            .values()
            .filter(|open| open.record.state == State::Executing)
            .map(|open| open.record.id)
            .collect();
        for id in executing {
            let Some(open) = self.open.get(&id) else {
                continue;
            };
            if self.ports.executor.goes_on(&open.record) {
                point::reached(Point::GoesOn);
                self.go_on(id);
                continue;
            }
            point::reached(Point::Recovers);
            if self.again(id) {
                continue;
            }
            let Some(open) = self.open.get(&id) else {
                continue;
            };
            warn!(paw_action = %id, "an action was interrupted by the end of an earlier pawd");
            let outcome = Outcome::failed(
                "interrupted",
                "pawd ended while this was being done; how far it got is not known",
                "look at what it has done, then submit it again if it is still wanted",
            );
            let outcome = self.ports.executor.interrupted(&open.record, outcome);
            self.end(id, outcome);
        }
    }

    /// Puts an action that was interrupted in line again, if it may be done twice; its start is judged, recorded and stored like the first.
    fn again(&mut self, id: Uuid) -> bool {
        let Some(open) = self.open.get_mut(&id) else {
            return false;
        };
        let may = open.record.interrupted < MAX_AGAIN && self.ports.executor.repeats(&open.record);
        let Some(state) = may
            .then(|| next(open.record.state, Step::Again).ok())
            .flatten()
        else {
            return false;
        };
        open.record.state = state;
        open.record.started_ms = None;
        open.record.interrupted += 1;
        warn!(paw_action = %id, times = open.record.interrupted, "an action that was interrupted is done again");
        self.queue.push(open.ticket());
        true
    }

    /// Sees an execution through that an earlier life had begun. Its state does not change: it never stopped.
    fn go_on(&mut self, id: Uuid) {
        let Some(open) = self.open.get(&id) else {
            return;
        };
        let task = Continuation {
            record: open.record.clone(),
            cancel: open.cancel.clone(),
            leave: self.leave.clone(),
            drain: self.drain.clone(),
        };
        self.queue.resume(open.ticket());
        info!(paw_action = %id, "an action of an earlier pawd goes on");
        let executor = Arc::clone(&self.ports.executor);
        self.tasks.spawn(async move {
            let work = AssertUnwindSafe(executor.go_on(task)).catch_unwind();
            let outcome = work.await.unwrap_or_else(|_| fault_of_ours());
            Happened::Ended { id, outcome }
        });
    }

    /// Ends what has passed its deadline: what stands in line at once, what is being done when it has stopped.
    pub(super) fn end_what_is_overdue(&mut self) {
        while let Some((id, is_begun)) = self.queue.overdue(now_ms()) {
            let Some(open) = self.open.get_mut(&id) else {
                continue;
            };
            if is_begun {
                open.overdue = true;
                open.cancel.cancel();
            } else {
                self.end(id, Outcome::plain(overdue()));
            }
        }
    }

    /// Whether an execution was interrupted by the end of its launcher, and nobody has taken it back meanwhile.
    fn lost_its_launcher(&self, id: Uuid, outcome: &Outcome) -> bool {
        let lost =
            matches!(&outcome.ending, Ending::Failed(failure) if failure.kind == LAUNCHER_LOST);
        let wanted = |open: &Open| open.reply.is_none() && !open.cancel.is_cancelled();
        lost && self.open.get(&id).is_some_and(|open| wanted(open))
    }

    /// Notes how an execution, or an action that never came to one, ended.
    pub(super) fn end(&mut self, id: Uuid, outcome: Outcome) {
        if self.lost_its_launcher(id, &outcome) && self.again(id) {
            return;
        }
        let draining = self.draining;
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let Outcome {
            ending,
            sandbox,
            attestation,
            exchange,
            shows,
            attempts,
        } = outcome;
        let repeats = self.ports.executor.repeats(&open.record);
        let ending = match ending {
            Ending::Cancelled if open.overdue => overdue(),
            // The next life does it again.
            Ending::Cancelled
                if draining
                    && repeats
                    && open.reply.is_none()
                    && open.record.state == State::Executing =>
            {
                Ending::Left
            }
            // Nobody asked for this cancellation: pawd is stopping.
            Ending::Cancelled
                if draining && open.reply.is_none() && open.record.state == State::Executing =>
            {
                Ending::Failed(failure(
                    "interrupted",
                    "pawd stopped while this was being done",
                    "submit it again if it is still wanted",
                ))
            }
            ending => ending,
        };
        let (step, result, error) = match ending {
            Ending::Completed(value) => (Step::Complete, Some(value), None),
            Ending::Failed(failure) => (Step::Fail, shows, Some(failure)),
            Ending::TimedOut(failure) => (Step::TimeOut, shows, Some(failure)),
            Ending::Cancelled => (Step::Cancel, shows, None),
            Ending::Left => {
                // In the store it is being done, which is true; the next life finds it there.
                info!(paw_action = %id, "an action goes on without this pawd");
                drop(self.open.remove(&id));
                return;
            }
        };
        match next(open.record.state, step) {
            Ok(state) => open.record.state = state,
            Err(error) => {
                return warn!(paw_action = %id, error = %error, "an end that does not fit was ignored");
            }
        }
        (open.record.result, open.record.error) = (result, error);
        (open.record.sandbox, open.record.attestation) = (sandbox, attestation);
        open.record.attempts = attempts;
        open.record.ended_ms = Some(now_ms());
        open.record.wait_reason = None;
        let event = if step == Step::Cancel {
            Event::ActionCancelled
        } else {
            Event::ActionEnded
        };
        self.close(id, event, exchange);
    }

    /// An acceptance that did not become durable: the caller hears why. Where its record may be in the audit log all the same, it has an
    /// end there, too, and nothing was done. What the log refused has none: the room of a full disk is kept for what had begun.
    pub(super) fn not_accepted(&mut self, open: Open, why: Unwritten) {
        let Unwritten {
            error,
            is_on_record,
        } = why;
        let Open {
            mut record, reply, ..
        } = open;
        // What policy denied stays denied.
        if let Ok(state) = next(record.state, Step::Fail) {
            record.state = state;
        }
        record.error = Some(failure("unavailable", &error.message, &error.data.hint));
        let entry = entry_of(Event::ActionEnded, &record, &self.ports.rules.borrow());
        if is_on_record {
            let audit = self.ports.audit.clone();
            self.tasks.spawn(async move {
                // Where the writer is away, nobody knows; it is told when it is back, if that is soon.
                drop(audit.soon(entry).await);
                Happened::Noted
            });
        }
        if let Some(reply) = reply {
            say(reply, Err(error));
        }
    }

    /// Makes an end durable. It has happened, so it is tried until it is.
    pub(super) fn close(&mut self, id: Uuid, event: Event, exchange: Option<Box<Exchange>>) {
        point::reached(Point::Ends);
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        open.busy = true;
        // Where it never began, a value that went with it is wiped.
        open.progress = Progress::None;
        let (record, risk) = (open.record.clone(), open.record.risk);
        let entry = entry_of(event, &record, &self.ports.rules.borrow());
        let (storage, audit) = (self.ports.storage.clone(), self.ports.audit.clone());
        let quotas = Arc::clone(&self.ports.quotas);
        info!(
            message_id = paw_log::events::ACTION_ENDED,
            paw_action = %id,
            paw_agent = %record.plan.agent,
            state = %record.state,
            "action ended"
        );
        let spent = quotas.unstored(id);
        let end = move |spent: &Unstored| {
            let mut batch = batch_with_exchange(&record, exchange.as_deref())
                .or_else(|error| batch_with_exchange(&without_result(&record, &error), None))?;
            spent.put(&mut batch)?;
            Ok(batch)
        };
        let mut entry = vec![entry];
        if risk < Risk::High {
            match audit.now(entry) {
                Ok(()) => {
                    point::reached(Point::EndRecorded);
                    match end(&spent).and_then(|batch| storage.note(batch)) {
                        Ok(()) => {
                            spent.ended(true);
                            return self.closed(id);
                        }
                        Err(error) => {
                            warn!(paw_action = %id, error = %paw_log::Chain(&error), "an end cannot be noted; storing it");
                        }
                    }
                    entry = Vec::new();
                }
                Err(back) => entry = back,
            }
        }
        self.tasks.spawn(async move {
            for entry in entry {
                if let Err(error) = audit.soon(entry).await {
                    warn!(paw_action = %id, error = %error, "the end of an action is not in the audit log");
                }
            }
            point::reached(Point::EndRecorded);
            let stored = storage.commit_at_last(|| end(&spent)).await;
            spent.ended(stored);
            Happened::Closed { id }
        });
    }
}

/// The same end of an action whose result cannot be stored: that it ended is what must not be lost.
fn without_result(record: &ActionRecord, error: &StoreError) -> ActionRecord {
    let why = paw_log::Chain(error).to_string();
    warn!(paw_action = %record.id, error = %why, "what an action came to is too long to be kept");
    let hint = "it was done all the same; have it answer less";
    ActionRecord {
        result: None,
        attempts: Vec::new(),
        error: Some(failure(
            "not_kept",
            format!("its result is not kept: {why}"),
            hint,
        )),
        ..record.clone()
    }
}

/// The end of what its asker gave so much time.
fn overdue() -> Ending {
    Ending::TimedOut(failure(
        "timed_out",
        "the deadline that it was submitted with has passed",
        "give it more time with timeout_ms (--timeout), or none",
    ))
}

/// What an execution comes to that panicked.
pub(super) fn fault_of_ours() -> Outcome {
    Outcome::failed(
        "internal",
        "the execution ended by a fault of pawd",
        "report it with the journal of this time",
    )
}
