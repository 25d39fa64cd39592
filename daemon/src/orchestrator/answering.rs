//! The driver's part for questions: a person's answer, or its absence.

use std::sync::Arc;

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
};
use paw_policy::{
    Digest, Factors, State, Yes,
    grant::{self, Like},
    judge::may_approve,
};
use paw_store::{
    ActionRecord, Answer, GrantRecord,
    point::{self, Point},
};
use tracing::warn;
use uuid::Uuid;

use super::{
    approval::NotAnswered,
    driver::{Driver, Happened},
    handle::{Reply, Said},
    lifecycle::{Step, next},
    steps::{Lasting, batch, first_yes, not_waiting, principal, say, say_end, write},
    waiting::{NotReadBack, whole},
    work::failure,
};
use crate::{
    clock::now_ms,
    grants::MAX_GRANTS,
    metrics,
    records::{actor, entry_of, granted},
};

/// Questions that are being closed at once because their time came: as many as the store writes together.
pub(super) const EXPIRE_AT_ONCE: usize = 64;

/// When a question that expired and could not be read is looked for again, in milliseconds.
const LOOK_AGAIN_MS: u64 = 1_000;

/// What an answer comes to, before anything of it is stored.
struct Weighed {
    yes: Yes,
    grant: Option<Box<GrantRecord>>,
}

impl Driver {
    /// A person's answer to a question, and so to as many of the actions behind it as they were told of.
    pub(super) fn answer(&mut self, id: Uuid, said: &Said, reply: Reply) {
        let others: Vec<Uuid> = self.questions.together(id);
        let others = others.into_iter().filter(|other| *other != id);
        let others: Vec<Uuid> = others.take(said.count.saturating_sub(1)).collect();
        if !self.answer_one(id, said, Some(reply)) {
            return;
        }
        let alone = Said {
            for_ms: None,
            ..said.clone()
        };
        for other in others {
            self.answer_one(other, &alone, None);
        }
    }

    /// Whether the answer was taken.
    fn answer_one(&mut self, id: Uuid, said: &Said, reply: Option<Reply>) -> bool {
        let now = now_ms();
        let record = self.read_back(id);
        let record = record.map_err(|why| self.not_read_back(id, why));
        let weighed = record.and_then(|record| {
            let weighed = self.weigh_answer(&record, said, now)?;
            Ok((weighed, record))
        });
        let (weighed, mut record) = match weighed {
            Ok(weighed) => weighed,
            Err(error) => {
                self.note_refusal(id, said, &error);
                if let Some(reply) = reply {
                    say(reply, Err(error));
                }
                return false;
            }
        };
        point::reached(Point::Answers);
        let was = whole(&record);
        let step = if said.approve {
            Step::Approve
        } else {
            Step::Deny
        };
        // It was weighed as one that waits, so there is such a step.
        let Ok(decided) = next(record.state, step) else {
            if let Some(reply) = reply {
                say(reply, Err(not_waiting(id)));
            }
            return false;
        };
        let answer = Answer {
            by: said.by.clone(),
            approve: said.approve,
            digest: said.digest,
            note: said.note.clone(),
            at_ms: now,
            code: said.code,
            grant: weighed.grant.as_ref().map(|grant| grant.id),
        };
        let event = match (said.approve, weighed.yes) {
            (true, Yes::OneOfTwo) => {
                record.first_yes = Some(answer);
                record.wait_reason = Some("a second person has to approve it, too".into());
                Event::ActionFirstApproved
            }
            (true, Yes::Decides) => {
                record.state = decided;
                record.approved_by = Some(answer);
                Event::ActionApproved
            }
            (false, _) => {
                record.state = decided;
                record.ended_ms = Some(now);
                let reason = said
                    .note
                    .as_deref()
                    .map_or_else(String::new, |note| format!(": {note}"));
                record.error = Some(failure(
                    "denied",
                    format!("a person denied it{reason}"),
                    "ask them why",
                ));
                record.approved_by = Some(answer);
                Event::ActionRejected
            }
        };
        if event != Event::ActionFirstApproved {
            record.decided_ms = Some(now);
            record.wait_reason = None;
        }
        let mut entry = entry_of(event, &record, &self.ports.rules.borrow());
        entry.actor = Some(actor(&said.by));
        if said.code {
            entry.detail.insert("second_factor".into(), "code".into());
        } else if let Some(first) = &record.first_yes {
            let first = first.by.uid.to_string();
            entry.detail.insert("first_yes_of_uid".into(), first);
        }
        let mut entries = vec![entry];
        let mut batch = batch(&record, None);
        if let Some(grant) = weighed.grant.as_deref() {
            entries.push(granted(Event::GrantMade, grant, &said.by));
            batch = batch.and_then(|mut batch| {
                batch.put_grant(grant)?;
                for ended in self.ports.grants.ended(now) {
                    batch.remove_grant(ended)?;
                }
                Ok(batch)
            });
        }
        // It is no question until this answer is kept: nothing else may become of it meanwhile.
        let Some(open) = self.take_up(record) else {
            return false;
        };
        open.busy = true;
        let (storage, audit) = (self.ports.storage.clone(), self.ports.audit.clone());
        let grant = weighed.grant;
        self.tasks.spawn(async move {
            let written = write(&storage, &audit, entries, Lasting::Both, batch).await;
            Happened::Answered {
                id,
                was,
                result: written.map_err(|why| why.error),
                grant,
                reply,
            }
        });
        true
    }

    fn note_refusal(&mut self, id: Uuid, said: &Said, error: &Error) {
        let mut entry = Entry::new(Event::AnswerRefused);
        entry.action = Some(id);
        entry.actor = Some(actor(&said.by));
        entry.digest = Some(said.digest);
        entry.outcome = Some(error.message.clone());
        let audit = self.ports.audit.clone();
        self.tasks.spawn(async move {
            // A refusal grants nothing, so it stands even if its record is lost with the writer.
            drop(audit.durable(entry).await);
            Happened::Noted
        });
    }

    /// Whether this answer fits a question that waits, whether policy lets that person give it, and what it comes to.
    fn weigh_answer(&self, record: &ActionRecord, said: &Said, now: u64) -> Result<Weighed, Error> {
        let id = record.id;
        let (requester, approver) = (principal(&record.requested_by), principal(&said.by));
        let rules = Arc::clone(&self.ports.rules.borrow());
        let first = first_yes(record).map(|first| first.by.uid);
        // Whoever could say yes with all that it takes may say no without it.
        let factors = Factors {
            code: said.code || !said.approve,
            seconded: first.is_some_and(|uid| uid != said.by.uid) || !said.approve,
        };
        let yes =
            may_approve(&rules, record.risk, &requester, &approver, factors).map_err(|error| {
                Error::new(
                    ErrorKind::Denied,
                    error.to_string(),
                    "ask somebody who may, or give a one-time code with --code: see `pawctl policy show` and paw-policy(5)",
                )
                .about(id)
            })?;
        // The question itself may have been put off, to be looked for again.
        let fits = match record.expires_ms {
            Some(expires_ms) if now >= expires_ms => Err(NotAnswered::Expired),
            Some(_) | None => self.questions.fits(id, said.digest, now),
        };
        fits.map_err(|error| match error {
            NotAnswered::NotWaiting => not_waiting(id),
            NotAnswered::OtherDigest | NotAnswered::Expired => Error::new(
                ErrorKind::Conflict,
                error.to_string(),
                format!("look again: pawctl approval show {id}"),
            )
            .about(id),
        })?;
        if yes == Yes::OneOfTwo && first == Some(said.by.uid) {
            let message = "you have approved it already; it takes a second person, or your code";
            let hint = "have another approver answer it, or answer it with --code";
            return Err(Error::new(ErrorKind::Conflict, message, hint).about(id));
        }
        let grant = match (said.for_ms.filter(|_| said.approve), yes) {
            (None, _) => None,
            // What takes two is granted by nobody alone.
            (Some(_), Yes::OneOfTwo) => {
                let message = "it takes two to approve this, and you are the first";
                let hint = "approve it without --for; who approves it after you can grant it, too";
                return Err(Error::new(ErrorKind::Denied, message, hint).about(id));
            }
            (Some(for_ms), Yes::Decides) => Some(self.grant(record, said, (now, for_ms))?),
        };
        Ok(Weighed { yes, grant })
    }

    /// The grant that an answer makes.
    fn grant(
        &self,
        record: &ActionRecord,
        said: &Said,
        (now, for_ms): (u64, u64),
    ) -> Result<Box<GrantRecord>, Error> {
        if self.ports.grants.list(now).len() >= MAX_GRANTS {
            let message = format!("{MAX_GRANTS} grants are in force already");
            let hint = "revoke some: pawctl approval grants; or write a rule instead";
            return Err(Error::new(ErrorKind::Busy, message, hint));
        }
        let (id, until_ms) = (Uuid::now_v7(), now.saturating_add(for_ms));
        let like = Like {
            plan: &record.plan,
            requester: &principal(&record.requested_by),
            taint: &record.taint,
            circumstances: &record.circumstances,
            risk: record.risk,
        };
        let text = grant::text(&format!("grant-{id}"), like, now, until_ms).map_err(|error| {
            let hint = "approve it alone, without --for";
            Error::new(ErrorKind::Denied, error.to_string(), hint).about(record.id)
        })?;
        Ok(Box::new(GrantRecord {
            id,
            text,
            action: record.id,
            digest: record.digest,
            by: said.by.clone(),
            uid: record.requested_by.uid,
            agent: record.plan.agent.clone(),
            note: said.note.clone(),
            made_ms: now,
            until_ms,
        }))
    }

    pub(super) fn answered(
        &mut self,
        (id, was): (Uuid, Option<Digest>),
        result: Result<(), Error>,
        grant: Option<Box<GrantRecord>>,
        reply: Option<Reply>,
    ) {
        point::reached(Point::Answered);
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        open.busy = false;
        if let Err(error) = result {
            // The answer is not durable, so it was not given: the question is open again, and in the store it never was anything else.
            if let Some(open) = self.open.remove(&id) {
                self.wait_on(*open, was);
            }
            if let Some(reply) = reply {
                say(reply, Err(error));
            }
            return;
        }
        let record = open.record.clone();
        match record.state {
            State::Approved => self.queue.push(open.ticket()),
            // Its time may have come meanwhile; then it expires next.
            State::WaitingApproval => {
                if let Some(open) = self.open.remove(&id) {
                    self.set_aside(*open);
                }
            }
            _ => {
                metrics::ended(&record);
                if let Some(end) = self.open.remove(&id).and_then(|open| open.end) {
                    say_end(end, record.clone());
                }
            }
        }
        if let Some(grant) = grant {
            self.ports.grants.add(*grant);
        }
        self.tell(id, record.state);
        if let Some(reply) = reply {
            say(reply, Ok(record));
        }
    }

    /// Closes questions whose time has come: so many at a time as may be in memory again for it.
    pub(super) fn expire(&mut self) {
        let now = now_ms();
        let room = EXPIRE_AT_ONCE.saturating_sub(self.expiring);
        for id in self.questions.expired(now, room) {
            point::reached(Point::Expires);
            let record = match self.read_back(id) {
                Ok(record) => record,
                Err(NotReadBack::NotNow(error)) => {
                    warn!(paw_action = %id, error = %paw_log::Chain(&error), "a question that expired cannot be read; it is looked for again");
                    self.questions
                        .postpone(id, now.saturating_add(LOOK_AGAIN_MS));
                    continue;
                }
                Err(why) => {
                    drop(self.not_read_back(id, why));
                    continue;
                }
            };
            // It was read back as one that waits, so there is such a step.
            let Ok(state) = next(record.state, Step::Expire) else {
                continue;
            };
            let Some(open) = self.take_up(record) else {
                continue;
            };
            open.record.state = state;
            open.record.ended_ms = Some(now);
            open.record.wait_reason = None;
            open.record.error = Some(failure(
                "expired",
                "nobody answered in time",
                "submit it again if it is still wanted",
            ));
            self.expiring += 1;
            self.close(id, Event::ActionExpired, None);
        }
    }
}
