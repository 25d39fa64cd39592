//! What one step of the driver is made of: its permit, its record, its batch.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::future::join_all;
use paw_api::{Error, ErrorKind, audit::Entry};
use paw_policy::{
    Approval, Decision, Facts, NotApproved, Permit, Plan, Principal, Risk, Rules, Taint, TaintSet,
    judge, permit as allowed, permit_approved,
};
use paw_store::{
    ActionRecord, Answer, Batch, Caller, SessionRecord, Speaker, StoreError, TurnRecord,
    point::{self, Point},
};
use tokio::time::{Instant, Interval};
use uuid::Uuid;

use super::{
    approval::Question,
    handle::{End, Reply},
    work::{Exchange, Progress},
};
use crate::{
    audit::{Audit, AuditError},
    clock::now_ms,
    storage::Storage,
};

/// The permit of an action whose time has come: by policy, or by the answer that is stored with it. It is judged once more, by
/// the rules in force now: a rule that came meanwhile counts, and an approval of an old risk is none. So is one of a plan in which
/// something has a part by now that whoever approved it was not told of.
pub(super) fn permit(
    rules: &Arc<Rules>,
    record: &mut ActionRecord,
    reads: &TaintSet,
) -> Result<Permit<Plan>, NotApproved> {
    let told = record.taint.clone();
    let news = |label: &Taint| {
        let confidential = matches!(label, Taint::Private | Taint::Secret);
        (label.is_foreign() || confidential) && !told.has(*label)
    };
    if record.approved_by.is_some() && reads.iter().any(|label| news(&label)) {
        return Err(NotApproved::OtherData);
    }
    record.taint = told.with(reads);
    let facts = Facts {
        principal: principal(&record.requested_by),
        taint: record.taint.clone(),
        circumstances: record.circumstances.clone(),
        now_ms: now_ms(),
    };
    let verdict = judge(rules, &record.plan, &facts).map_err(|_| NotApproved::OtherPlan)?;
    if verdict.digest != record.digest || verdict.risk != record.risk {
        return Err(NotApproved::OtherPlan);
    }
    match &record.approved_by {
        Some(answer) if answer.approve => {
            let approval = Approval {
                digest: answer.digest,
                by: principal(&answer.by),
                code: answer.code,
                first: first_yes(record).map(|first| principal(&first.by)),
            };
            permit_approved(
                rules,
                record.plan.clone(),
                &verdict,
                &principal(&record.requested_by),
                &approval,
            )
        }
        Some(_) => Err(NotApproved::Denied),
        None => allowed(record.plan.clone(), &verdict),
    }
}

/// What an action that waits for a person waits for.
pub(super) fn question(record: &ActionRecord) -> Question {
    Question {
        digest: record.digest,
        expires_ms: record.expires_ms.unwrap_or(0),
        uid: record.requested_by.uid,
        taint: record.taint.clone(),
        way: record.circumstances.way().into(),
    }
}

/// The yes of another approver to the same plan, which came before.
pub(super) fn first_yes(record: &ActionRecord) -> Option<&Answer> {
    let first = record.first_yes.as_ref();
    first.filter(|first| first.approve && first.digest == record.digest)
}

/// A caller as policy knows them.
pub(super) const fn principal(caller: &Caller) -> Principal {
    Principal {
        uid: caller.uid,
        role: caller.role,
    }
}

/// What has to be on the disk before a step has its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// Both records: it grants something, or is an answer of a person.
    Both,
    /// That in the store: somebody relies on it, and does not stay to see what becomes of it.
    Stored,
    /// Nothing; both are in the hands of the kernel, and on the disk within 50 ms.
    Soon,
}

impl Lasting {
    /// Of a step of an action that policy allowed.
    pub(super) fn of(record: &ActionRecord, progress: &Progress) -> Self {
        if record.risk >= Risk::High {
            Self::Both
        } else if matches!(progress, Progress::None) {
            Self::Stored
        } else {
            Self::Soon
        }
    }
}

/// Writes a step to the audit log and then to the store; both, or an error and no effect. Of several entries none waits for the
/// one before it to be on disk.
pub(super) async fn write(
    storage: &Storage,
    audit: &Audit,
    entries: Vec<Entry>,
    lasting: Lasting,
    batch: Result<Batch, StoreError>,
) -> Result<(), Unwritten> {
    let batch = batch.map_err(|error| Unwritten {
        error: not_stored(&error),
        is_on_record: false,
    })?;
    // Each is polled for the first time in its turn, so they are in the log in this order.
    let recorded = join_all(entries.into_iter().map(async |entry| match lasting {
        Lasting::Both => audit.durable(entry).await.map(drop),
        Lasting::Stored | Lasting::Soon => audit.soon(entry).await,
    }));
    let recorded = recorded.await;
    let is_on_record = recorded
        .iter()
        .any(|one| !matches!(one, Err(AuditError::Refused { .. })));
    if let Some(error) = recorded.into_iter().find_map(Result::err) {
        let error = Error::new(
            ErrorKind::Unavailable,
            format!("no record, no effect: {error}"),
            error.remedy(),
        );
        return Err(Unwritten {
            error,
            is_on_record,
        });
    }
    point::reached(Point::StepRecorded);
    let stored = match lasting {
        Lasting::Both | Lasting::Stored => storage.commit(batch).await,
        Lasting::Soon => storage.note(batch),
    };
    point::reached(Point::StepStored);
    stored.map_err(|error| Unwritten::by_the_store(&error))
}

/// A step that was not written, and so not made.
#[derive(Debug)]
pub(super) struct Unwritten {
    /// Why.
    pub error: Error,
    /// Whether the audit log may tell of it all the same.
    pub is_on_record: bool,
}

impl Unwritten {
    /// The store did not take what the log had taken.
    pub(super) fn by_the_store(error: &StoreError) -> Self {
        Self {
            error: not_stored(error),
            is_on_record: true,
        }
    }
}

/// Why a step is not in the store, as its caller hears it.
pub(super) fn not_stored(error: &StoreError) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        paw_log::Chain(error).to_string(),
        error.remedy(),
    )
}

/// The batch of one step.
pub(super) fn batch(
    record: &ActionRecord,
    session: Option<&SessionRecord>,
) -> Result<Batch, StoreError> {
    let mut batch = Batch::new();
    if let Some(session) = session {
        batch.put_session(session)?;
    }
    batch.put_action(record)?;
    Ok(batch)
}

/// The batch of an end with what was said. A session that was deleted meanwhile takes no more turns; its actions stay.
pub(super) fn batch_with_exchange(
    record: &ActionRecord,
    exchange: Option<&Exchange>,
) -> Result<Batch, StoreError> {
    let mut batch = batch(record, None)?;
    let Some(exchange) = exchange else {
        return Ok(batch);
    };
    let at_ms = now_ms();
    let answered = TaintSet::of(Taint::Model);
    let read = record.taint.clone().with(&exchange.taint).with(&answered);
    let turn = |role, text: &String, taint| TurnRecord {
        session: exchange.session,
        // The store knows which it is when it gets there.
        seq: 0,
        role,
        text: text.clone(),
        taint,
        action: Some(record.id),
        provider: None,
        model: None,
        local: None,
        calls: Vec::new(),
        result_of: None,
        attempts: Vec::new(),
        at_ms,
    };
    let question = exchange.question.as_ref();
    let question = question.map(|text| turn(Speaker::User, text, record.taint.clone()));
    let answer = TurnRecord {
        provider: exchange.by.as_ref().map(|(provider, _)| provider.clone()),
        model: exchange.by.as_ref().map(|(_, model)| model.clone()),
        local: Some(exchange.local),
        ..turn(Speaker::Assistant, &exchange.answer, read)
    };
    batch.say(
        exchange.session,
        question.into_iter().chain([answer]).collect(),
    )?;
    Ok(batch)
}

/// Why policy denied an action, in words.
pub(super) fn denial(record: &ActionRecord) -> String {
    debug_assert_eq!(record.decision, Decision::Deny);
    if record.rules.is_empty() {
        "no rule of the policy permits it".into()
    } else {
        format!("denied by {}", record.rules.join(", "))
    }
}

/// Nothing waits under this id.
pub(super) fn not_waiting(id: Uuid) -> Error {
    let hint = format!("see what became of it: pawctl action show {id}");
    Error::new(
        ErrorKind::Conflict,
        "nothing waits for an answer under this id, or not any more",
        hint,
    )
    .about(id.to_string())
}

/// A fault of ours.
pub(super) fn internal(error: &dyn std::error::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        error.to_string(),
        "report it with the journal of this time",
    )
}

/// Tells who waits, if they still do.
pub(super) fn say(reply: Reply, result: Result<ActionRecord, Error>) {
    drop(reply.send(result));
}

/// Tells who stayed for an end, if they still do.
pub(super) fn say_end(end: End, record: ActionRecord) {
    drop(end.send(record));
}

/// Waits until this time of the wall clock, in milliseconds since 1970; for ever if there is none.
pub(super) async fn until(at_ms: Option<u64>) {
    match at_ms {
        Some(at) => tokio::time::sleep(Duration::from_millis(at.saturating_sub(now_ms()))).await,
        None => pending().await,
    }
}

/// Waits until this time; for ever if there is none.
pub(super) async fn past(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

/// Waits for the next beat; for ever without one.
pub(super) async fn tick(beat: &mut Option<Interval>) {
    match beat {
        Some(beat) => drop(beat.tick().await),
        None => pending().await,
    }
}
