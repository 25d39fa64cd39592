//! The driver's part for what waits for a person. Meanwhile its record is in the store alone, and of the action only what it takes to find,
//! order, expire and answer it is in memory: a hundred thousand may wait, and a record has 4 KB and more.
//!
//! ```text
//!  accepted, or answered once of twice ── set_aside ──► waits ── read_back ─┬─ take_up ──► an answer, its end
//!                                                         ▲                ├─ not now ──► waits on
//!                                                         └────────────────┘
//!                                                                          └─ lost ─────► failed
//! ```
//!
//! What is read back has to be what was stored when it began to wait, to the last byte: who asked, what for, with which labels and risk, until
//! when, and who has said yes before. Anything else is never done.

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
};
use paw_policy::{Digest, State};
use paw_store::{ActionRecord, Caller, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    driver::{Driver, Happened, Open},
    handle::{End, Reply},
    queue::Urgency,
    steps::{not_waiting, question, say},
    work::{Ending, Outcome, Progress},
};

/// What is kept of an action beside its question.
pub(super) struct Aside {
    /// Of the whole record, as it is stored meanwhile.
    record: Option<Digest>,
    /// Of most nobody hears anything: whoever asked has an id.
    listeners: Option<Box<Listeners>>,
    opens: bool,
    urgency: Urgency,
}

/// Who stays for it.
struct Listeners {
    progress: Progress,
    end: Option<End>,
}

/// Why an action that was to wait is not gone on with.
#[derive(Debug)]
pub(super) enum NotReadBack {
    /// Nothing waits under this id.
    NotWaiting,
    /// The store cannot be read now. It waits on.
    NotNow(StoreError),
    /// What was asked is not in the store any more.
    Lost {
        /// What is there.
        why: String,
        /// That, where it can be read.
        found: Option<Box<ActionRecord>>,
    },
}

impl Driver {
    /// Has an action wait for a person, as it is stored.
    pub(super) fn set_aside(&mut self, open: Open) {
        let stored = whole(&open.record);
        self.wait_on(open, stored);
    }

    /// Has an action wait for a person that is stored as something else than what is known of it here.
    pub(super) fn wait_on(&mut self, open: Open, stored: Option<Digest>) {
        let Open {
            record,
            progress,
            end,
            opens,
            urgency,
            ..
        } = open;
        self.questions.ask(record.id, question(&record));
        let listens = !matches!(progress, Progress::None) || end.is_some();
        let aside = Aside {
            record: stored,
            listeners: listens.then(|| Box::new(Listeners { progress, end })),
            opens,
            urgency,
        };
        self.aside.insert(record.id, aside);
    }

    /// The record of an action that waits.
    pub(super) fn read_back(&self, id: Uuid) -> Result<ActionRecord, NotReadBack> {
        let digest = self.questions.digest(id);
        let digest = digest.ok_or(NotReadBack::NotWaiting)?;
        let aside = self.aside.get(&id).ok_or(NotReadBack::NotWaiting)?;
        // Its wait was committed before anybody was told of it.
        match self.ports.storage.read().committed_action(id) {
            Ok(Some(record)) => match as_asked(&record, id, digest, aside.record) {
                Ok(()) => Ok(record),
                Err(why) => Err(NotReadBack::Lost {
                    why,
                    found: Some(Box::new(record)),
                }),
            },
            Ok(None) => Err(NotReadBack::Lost {
                why: "it is not in the store any more".into(),
                found: None,
            }),
            Err(error) => Err(unread(error)),
        }
    }

    /// Goes on with an action that waited: no answer fits it any more.
    pub(super) fn take_up(&mut self, record: ActionRecord) -> Option<&mut Open> {
        let id = record.id;
        self.questions.drop(id);
        let Aside {
            listeners,
            opens,
            urgency,
            record: _,
        } = self.aside.remove(&id)?;
        let listeners = listeners.map_or((Progress::None, None), |it| (it.progress, it.end));
        let open = Open {
            record,
            progress: listeners.0,
            cancel: CancellationToken::new(),
            reply: None,
            end: listeners.1,
            busy: false,
            opens,
            permit: None,
            urgency,
            overdue: false,
        };
        self.open.insert(id, Box::new(open));
        self.open.get_mut(&id).map(|open| &mut **open)
    }

    /// Takes back what waits for a person.
    pub(super) fn cancel_waiting(&mut self, id: Uuid, by: &Caller, reply: Reply) {
        let record = match self.read_back(id) {
            Ok(record) => record,
            Err(why) => return say(reply, Err(self.not_read_back(id, why))),
        };
        info!(paw_action = %id, uid = by.uid, "action is being cancelled");
        if let Some(open) = self.take_up(record) {
            open.reply = Some(reply);
        }
        self.end(id, Outcome::plain(Ending::Cancelled));
    }

    /// What whoever wanted something of it hears. What is lost has failed with that.
    pub(super) fn not_read_back(&mut self, id: Uuid, why: NotReadBack) -> Error {
        match why {
            NotReadBack::NotWaiting => not_waiting(id),
            NotReadBack::NotNow(error) => Error::new(
                ErrorKind::Unavailable,
                format!("its record cannot be read now: {}", paw_log::Chain(&error)),
                error.remedy(),
            )
            .about(id),
            NotReadBack::Lost { why, found } => {
                let message =
                    format!("what was asked cannot be read back, so it has failed: {why}");
                self.lost(id, &why, found);
                let hint =
                    "submit it again if it is still wanted, and look for what changed the store";
                Error::new(ErrorKind::Conflict, message, hint).about(id)
            }
        }
    }

    /// An action whose stored record is not what was asked has failed, and nothing of it was done.
    fn lost(&mut self, id: Uuid, why: &str, found: Option<Box<ActionRecord>>) {
        warn!(paw_action = %id, why, "an action that waited for a person cannot be read back");
        let digest = self.questions.digest(id);
        let found = found.map(|found| ActionRecord {
            id,
            state: State::WaitingApproval,
            ..*found
        });
        if found.and_then(|found| self.take_up(found)).is_some() {
            let outcome = Outcome::failed(
                "altered",
                format!("what is stored of it is not what was asked: {why}; nothing was done"),
                "submit it again if it is still wanted, and look for what changed the store",
            );
            return self.end(id, outcome);
        }
        // Nothing is there to which an end could be written; in the audit log it has one.
        self.questions.drop(id);
        self.aside.remove(&id);
        let mut entry = Entry::new(Event::ActionEnded);
        (entry.action, entry.digest) = (Some(id), digest);
        entry.outcome = Some(State::Failed.as_str().to_owned());
        entry.detail.insert("error".into(), "altered".into());
        let audit = self.ports.audit.clone();
        self.tasks.spawn(async move {
            // Without the writer there is nobody who could be told.
            drop(audit.soon(entry).await);
            Happened::Noted
        });
        self.tell(id, State::Failed);
    }
}

/// Why an action that waits cannot be read back. Of one whose own record is damaged nothing is left that could be done. A store that is
/// damaged as a whole says nothing of one action: what is ended because of that might be done after all once the file is put back.
fn unread(error: StoreError) -> NotReadBack {
    match error {
        StoreError::Unreadable { .. } => NotReadBack::Lost {
            why: paw_log::Chain(&error).to_string(),
            found: None,
        },
        error => NotReadBack::NotNow(error),
    }
}

/// Digest of all that is stored of an action; none of what cannot be written, which is like nothing else.
pub(super) fn whole(record: &ActionRecord) -> Option<Digest> {
    let text = serde_json::to_vec(record).ok()?;
    Some(Digest::of(&text))
}

/// Whether this is the action that waits under this id for an answer to this digest, and all of it what it was when it began to wait.
fn as_asked(
    record: &ActionRecord,
    id: Uuid,
    digest: Digest,
    all: Option<Digest>,
) -> Result<(), String> {
    if record.id != id {
        return Err(format!("it is stored as action {}", record.id));
    }
    if record.state != State::WaitingApproval {
        return Err(format!("it is stored as {}", record.state));
    }
    let stored = record.plan.digest();
    let stored = stored.map_err(|error| format!("its plan has no digest: {error}"))?;
    if stored != digest {
        return Err(format!(
            "people were shown the digest {digest}, and the plan that is stored has {stored}"
        ));
    }
    if record.digest != digest {
        return Err(format!(
            "people were shown the digest {digest}, and it is stored with {}",
            record.digest
        ));
    }
    if all.is_none() || whole(record) != all {
        return Err(
            "who asked for it, its labels, its risk or who agreed is stored as something else"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use paw_policy::{ChatArguments, Decision, Kind, Operation, Plan, Risk, Role, Taint, TaintSet};
    use paw_store::Answer;

    use super::*;

    fn plan(text: &str) -> Plan {
        Plan {
            agent: "default".parse().unwrap(),
            session: None,
            operation: Operation::Chat(ChatArguments {
                text: text.into(),
                provider: "local".parse().unwrap(),
                model: "small".into(),
                route: None,
                fallbacks: Vec::new(),
                local_only: false,
                places: std::collections::BTreeMap::new(),
                schema: None,
                images: Vec::new(),
            }),
        }
    }

    fn asker(uid: u32) -> Caller {
        Caller {
            uid,
            gid: 1,
            pid: 1,
            name: None,
            unit: None,
            role: Role::User,
        }
    }

    fn waits() -> ActionRecord {
        ActionRecord {
            id: Uuid::from_u128(1),
            digest: plan("hello").digest().unwrap(),
            plan: plan("hello"),
            kind: Kind::Chat,
            risk: Risk::Critical,
            taint: TaintSet::of(Taint::Web),
            decision: Decision::Ask,
            rules: Vec::new(),
            state: State::WaitingApproval,
            requested_by: asker(1),
            approved_by: None,
            first_yes: None,
            created_ms: 1,
            decided_ms: None,
            started_ms: None,
            ended_ms: None,
            expires_ms: Some(2),
            deadline_ms: None,
            result: None,
            error: None,
            attestation: None,
            sandbox: None,
            wait_reason: None,
            attempts: Vec::new(),
            parent: None,
            circumstances: paw_policy::Circumstances::default(),
            interrupted: 0,
        }
    }

    #[test]
    fn damaged_store_ends_no_question_and_a_damaged_record_ends_its_own() {
        let (path, detail) = ("pawd.redb".into(), "a page".to_owned());
        let file = unread(StoreError::Corrupt { path, detail });
        let NotReadBack::NotNow(error) = file else {
            panic!("{file:?}");
        };
        assert!(error.to_string().contains("is damaged"), "{error}");
        assert!(error.remedy().contains("newest backup"), "{error}");
        let (path, detail) = ("pawd.redb".into(), "action 1".to_owned());
        let one = unread(StoreError::Unreadable { path, detail });
        assert!(matches!(one, NotReadBack::Lost { .. }), "{one:?}");
    }

    #[test]
    fn what_is_read_back_is_what_was_asked() {
        let digest = waits().digest;
        let other = plan("other");
        let all = whole(&waits());
        let check =
            |record: &ActionRecord| as_asked(record, Uuid::from_u128(1), digest, all).is_ok();
        assert!(check(&waits()));
        for (what, record) in [
            (
                "another plan",
                ActionRecord {
                    plan: other.clone(),
                    ..waits()
                },
            ),
            (
                "another digest",
                ActionRecord {
                    digest: other.digest().unwrap(),
                    ..waits()
                },
            ),
            (
                "both",
                ActionRecord {
                    digest: other.digest().unwrap(),
                    plan: other,
                    ..waits()
                },
            ),
            (
                "another state",
                ActionRecord {
                    state: State::Approved,
                    ..waits()
                },
            ),
            (
                "another id",
                ActionRecord {
                    id: Uuid::nil(),
                    ..waits()
                },
            ),
            (
                "a label less",
                ActionRecord {
                    taint: TaintSet::default(),
                    ..waits()
                },
            ),
            (
                "another asker",
                ActionRecord {
                    requested_by: asker(2),
                    ..waits()
                },
            ),
            (
                "a yes that nobody said",
                ActionRecord {
                    first_yes: Some(Answer {
                        by: asker(2),
                        approve: true,
                        digest,
                        note: None,
                        at_ms: 1,
                        code: false,
                        grant: None,
                    }),
                    ..waits()
                },
            ),
            (
                "another risk",
                ActionRecord {
                    risk: Risk::Low,
                    ..waits()
                },
            ),
            (
                "more time",
                ActionRecord {
                    expires_ms: Some(3),
                    ..waits()
                },
            ),
        ] {
            assert!(!check(&record), "{what}");
        }
    }
}
