//! The driver's part for questions: a person's answer, or its absence.

use std::sync::Arc;

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
};
use paw_policy::{Digest, State, judge::may_approve};
use paw_store::{Answer, Caller};
use tracing::warn;
use uuid::Uuid;

use super::{
    approval::NotAnswered,
    driver::{Driver, Happened},
    handle::Reply,
    lifecycle::{Step, next},
    steps::{batch, internal, not_waiting, principal, say, write},
    work::failure,
};
use crate::{
    clock::now_ms,
    records::{actor, entry_of},
};

impl Driver {
    pub(super) fn answer(
        &mut self,
        id: Uuid,
        digest: Digest,
        approve: bool,
        note: Option<String>,
        by: Caller,
        reply: Reply,
    ) {
        let now = now_ms();
        let checked = self.check_answer(id, digest, &by, now);
        let open = match (checked, self.open.get_mut(&id)) {
            (Ok(()), Some(open)) => open,
            (Err(error), _) => {
                let mut entry = Entry::new(Event::AnswerRefused);
                entry.action = Some(id);
                entry.actor = Some(actor(&by));
                entry.digest = Some(digest);
                entry.outcome = Some(error.message.clone());
                let audit = self.ports.audit.clone();
                // A refusal grants nothing, so it stands even if its record is lost with the writer.
                tokio::spawn(async move { drop(audit.durable(entry).await) });
                return say(reply, Err(error));
            }
            (Ok(()), None) => return say(reply, Err(not_waiting(id))),
        };
        open.before = Some(Box::new(open.record.clone()));
        let step = if approve { Step::Approve } else { Step::Deny };
        match next(open.record.state, step) {
            Ok(state) => open.record.state = state,
            Err(error) => return say(reply, Err(internal(&error))),
        }
        open.busy = true;
        open.record.decided_ms = Some(now);
        open.record.wait_reason = None;
        if !approve {
            open.record.ended_ms = Some(now);
            let reason = note
                .as_deref()
                .map_or_else(String::new, |note| format!(": {note}"));
            open.record.error = Some(failure(
                "denied",
                format!("a person denied it{reason}"),
                "ask them why",
            ));
        }
        open.record.approved_by = Some(Answer {
            by: by.clone(),
            approve,
            digest,
            note,
            at_ms: now,
        });
        let event = if approve {
            Event::ActionApproved
        } else {
            Event::ActionRejected
        };
        let mut entry = entry_of(event, &open.record, &self.ports.rules.borrow());
        entry.actor = Some(actor(&by));
        let batch = batch(&open.record, None);
        let (storage, audit) = (self.ports.storage.clone(), self.ports.audit.clone());
        self.tasks.spawn(async move {
            let result = write(&storage, &audit, vec![entry], true, batch).await;
            Happened::Answered { id, result, reply }
        });
    }

    /// Whether this answer fits a question that waits, and whether policy lets that person give it. Closes the question.
    pub(super) fn check_answer(
        &mut self,
        id: Uuid,
        digest: Digest,
        by: &Caller,
        now: u64,
    ) -> Result<(), Error> {
        let record = match self.open.get(&id) {
            Some(open) if open.record.state == State::WaitingApproval && !open.busy => &open.record,
            Some(_) | None => return Err(not_waiting(id)),
        };
        let (requester, approver) = (principal(&record.requested_by), principal(by));
        let rules = Arc::clone(&self.ports.rules.borrow());
        may_approve(&rules, record.risk, &requester, &approver).map_err(|error| {
            Error::new(
                ErrorKind::Denied,
                error.to_string(),
                "ask somebody who may: see `pawctl policy show`",
            )
            .about(id)
        })?;
        self.questions
            .answer(id, digest, now)
            .map_err(|error| match error {
                NotAnswered::NotWaiting => not_waiting(id),
                NotAnswered::OtherDigest | NotAnswered::Expired => Error::new(
                    ErrorKind::Conflict,
                    error.to_string(),
                    format!("look again: pawctl approval show {id}"),
                )
                .about(id),
            })
    }

    pub(super) fn answered(&mut self, id: Uuid, result: Result<(), Error>, reply: Reply) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        open.busy = false;
        let before = open.before.take();
        if let Err(error) = result {
            // The answer is not durable, so it was not given: the question is open again.
            if let Some(before) = before {
                self.questions
                    .ask(id, before.digest, before.expires_ms.unwrap_or(0));
                open.record = *before;
            }
            return say(reply, Err(error));
        }
        let record = open.record.clone();
        match record.state {
            State::Approved => self.queue.push(id),
            _ => drop(self.open.remove(&id)),
        }
        self.tell(id, record.state);
        say(reply, Ok(record));
    }

    pub(super) fn expire(&mut self) {
        let now = now_ms();
        for id in self.questions.expire(now) {
            let Some(open) = self.open.get_mut(&id) else {
                continue;
            };
            match next(open.record.state, Step::Expire) {
                Ok(state) => open.record.state = state,
                Err(error) => {
                    warn!(paw_action = %id, error = %error, "a question expired that did not wait");
                    continue;
                }
            }
            open.record.ended_ms = Some(now);
            open.record.wait_reason = None;
            open.record.error = Some(failure(
                "expired",
                "nobody answered in time",
                "submit it again if it is still wanted",
            ));
            self.close(id, Event::ActionExpired, None);
        }
    }
}
