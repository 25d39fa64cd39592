//! `approval.*`

use std::collections::BTreeMap;

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    action::{Action, Answer, Approval, ApprovalRpcServer, Enrolment, Grant},
    audit::{Entry, Event},
};
use paw_policy::{Digest, State};
use paw_store::{Batch, Caller, StoreError};
use uuid::Uuid;

use super::{Family, LISTED, fail};
use crate::{
    clock::{now_ms, wall_ms},
    codes::CodeError,
    intake::unreadable,
    orchestrator::handle::Said,
    records::{self, actor, granted},
    rpc::caller,
};

#[async_trait]
impl ApprovalRpcServer for Family {
    async fn list(
        &self,
        extensions: &Extensions,
        after: Option<String>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Approval>> {
        caller(extensions).map_err(fail)?;
        let most = u32::try_from(paw_store::MAX_PAGE).unwrap_or(u32::MAX);
        // The page of a list: how long it may be, and from where it goes on.
        let page = super::page(limit.unwrap_or(most), after.as_deref()).map_err(fail)?;
        let asked = self.actions.asked(page.before, page.limit).await;
        let asked = asked.map_err(fail)?;
        let ids: Vec<_> = asked.iter().map(|(id, _)| *id).collect();
        // The oldest first, and as many as an answer holds: plans may be long, and whoever asks for long ones hides no other.
        let found = self.storage.read().actions_named(&ids, LISTED);
        let waiting: BTreeMap<_, _> = asked.into_iter().collect();
        let listed = found
            .map_err(|error| fail(unreadable(&error)))?
            .into_iter()
            // What was answered since is no question any more.
            .filter(|record| record.state == State::WaitingApproval)
            .map(|record| {
                let waiting = waiting.get(&record.id).copied().unwrap_or(1);
                records::approval(record, waiting)
            });
        Ok(listed.collect())
    }

    async fn show(&self, extensions: &Extensions, id: String) -> RpcResult<Approval> {
        let caller = caller(extensions).map_err(fail)?;
        let record = self.action(&id, &caller).map_err(fail)?;
        if record.state != State::WaitingApproval {
            let hint = format!(
                "it is {}; see pawctl action show {}",
                record.state, record.id
            );
            return Err(fail(
                Error::new(ErrorKind::NotFound, "that action waits for nobody", hint).about(id),
            ));
        }
        let waiting = self.actions.together(record.id).await.map_err(fail)?;
        Ok(records::approval(record, waiting))
    }

    async fn answer(
        &self,
        extensions: &Extensions,
        id: String,
        digest: Digest,
        answer: Answer,
        note: Option<String>,
        code: Option<String>,
        count: Option<u32>,
        for_ms: Option<u64>,
    ) -> RpcResult<Action> {
        let caller = caller(extensions).map_err(fail)?;
        let record = self.action(&id, &caller).map_err(fail)?;
        // A code is good once, so it is not spent on what is refused anyway.
        let fits = record.state == State::WaitingApproval
            && record.digest == digest
            && record.expires_ms.is_none_or(|expires| now_ms() < expires);
        if let Some(code) = code.as_ref().filter(|_| fits) {
            self.spend(&caller, code, Some(record.id))
                .await
                .map_err(fail)?;
        }
        let said = Said {
            digest,
            approve: match answer {
                Answer::Approve => true,
                Answer::Deny => false,
            },
            note: note.map(|note| records::shorten_to(&note, 1_000)),
            by: caller,
            code: code.is_some() && fits,
            count: count.map_or(1, |count| usize::try_from(count).unwrap_or(usize::MAX)),
            for_ms,
        };
        let answered = self.actions.answer(record.id, said).await;
        if code.is_some() && !fits {
            // The refusal is on record; what it says is that a code is missing, since none was spent.
            let message = "the answer fits no question that waits; the code is still good";
            let hint = format!("look again: pawctl approval show {id}");
            return Err(fail(
                Error::new(ErrorKind::Conflict, message, hint).about(id),
            ));
        }
        Ok(records::action(answered.map_err(fail)?, false))
    }

    async fn grants(&self, extensions: &Extensions) -> RpcResult<Vec<Grant>> {
        caller(extensions).map_err(fail)?;
        let held = self.grants.list(now_ms());
        Ok(held.into_iter().map(records::grant).collect())
    }

    async fn revoke(&self, extensions: &Extensions, id: String) -> RpcResult<Grant> {
        let caller = caller(extensions).map_err(fail)?;
        let unknown = || {
            let hint = "see `pawctl approval grants`";
            fail(Error::new(ErrorKind::NotFound, "there is no such grant", hint).about(&id))
        };
        let found: Uuid = id.parse().map_err(|_| unknown())?;
        // Out of force at once: what is taken away needs no record to be taken away. What follows keeps it from coming back.
        let grant = self.grants.remove(found).ok_or_else(unknown)?;
        let entry = granted(Event::GrantRevoked, &grant, &caller);
        let recorded = self.audit.durable(entry).await;
        let removed = async {
            let mut batch = Batch::new();
            batch.remove_grant(found)?;
            self.storage.commit_for_caller(batch).await
        };
        removed
            .await
            .map_err(|error: StoreError| fail(not_kept(&paw_log::Chain(&error).to_string())))?;
        recorded.map_err(|error| fail(not_kept(&error.to_string())))?;
        Ok(records::grant(grant))
    }

    async fn enroll(&self, extensions: &Extensions, code: Option<String>) -> RpcResult<Enrolment> {
        let caller = caller(extensions).map_err(fail)?;
        let name = caller
            .name
            .clone()
            .unwrap_or_else(|| format!("uid {}", caller.uid));
        let codes = self.codes.clone();
        let uid = caller.uid;
        let begun = blocking(move || codes.begin(uid, &name, code.as_deref(), wall_ms())).await;
        match begun {
            Ok(begun) => Ok(Enrolment {
                url: begun.url,
                secret: begun.secret,
            }),
            Err(error) => Err(fail(self.refuse(&caller, None, &error).await)),
        }
    }

    async fn confirm(&self, extensions: &Extensions, code: String) -> RpcResult<bool> {
        let caller = caller(extensions).map_err(fail)?;
        // The record comes before the effect, and a wrong code has none: so it is looked at first, and counts by the same clock.
        let (uid, now) = (caller.uid, wall_ms());
        if let Err(error) = self.codes.check(uid, &code, now) {
            return Err(fail(self.refuse(&caller, None, &error).await));
        }
        self.note_enrolment(&caller, uid, "enrolled")
            .await
            .map_err(fail)?;
        let codes = self.codes.clone();
        match blocking(move || codes.confirm(uid, &code, now)).await {
            Ok(()) => Ok(true),
            Err(error) => Err(fail(self.refuse(&caller, None, &error).await)),
        }
    }

    async fn forget(&self, extensions: &Extensions, uid: u32) -> RpcResult<bool> {
        let caller = caller(extensions).map_err(fail)?;
        if caller.uid == uid && uid != 0 {
            let hint = "another administrator can; to have another authenticator, enroll it with a code of this one";
            return Err(fail(Error::new(
                ErrorKind::Denied,
                "nobody removes their own second factor",
                hint,
            )));
        }
        self.note_enrolment(&caller, uid, "removed")
            .await
            .map_err(fail)?;
        let codes = self.codes.clone();
        match blocking(move || codes.forget(uid)).await {
            Ok(had) => Ok(had),
            Err(error) => Err(fail(self.refuse(&caller, None, &error).await)),
        }
    }
}

impl Family {
    /// Spends a one-time code of the caller's.
    async fn spend(&self, by: &Caller, code: &str, action: Option<Uuid>) -> Result<(), Error> {
        let (codes, uid, code) = (self.codes.clone(), by.uid, code.to_owned());
        match blocking(move || codes.spend(uid, &code, wall_ms())).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refuse(by, action, &error).await),
        }
    }

    /// Records a code that does not count, and says why.
    async fn refuse(&self, by: &Caller, action: Option<Uuid>, error: &CodeError) -> Error {
        let mut entry = Entry::new(Event::CodeRefused);
        entry.action = action;
        entry.actor = Some(actor(by));
        entry.outcome = Some(error.to_string());
        // A refusal grants nothing, so it stands even if its record is lost with the writer.
        drop(self.audit.durable(entry).await);
        refusal(error)
    }

    /// A second factor grants something, or takes something away: its record comes first.
    async fn note_enrolment(&self, by: &Caller, uid: u32, what: &str) -> Result<(), Error> {
        let mut entry = Entry::new(Event::ApproverEnrolled);
        entry.actor = Some(actor(by));
        entry.outcome = Some(what.to_owned());
        entry.detail.insert("uid".into(), uid.to_string());
        let recorded = self.audit.durable(entry).await;
        recorded
            .map(drop)
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))
    }
}

/// Files are written, so not on a thread that serves others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CodeError> + Send + 'static,
) -> Result<T, CodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(CodeError::Random(error.to_string())),
    }
}

fn refusal(error: &CodeError) -> Error {
    let message = paw_log::Chain(error).to_string();
    let denied = |hint: &str| Error::new(ErrorKind::Denied, message.clone(), hint);
    match error {
        CodeError::NotEnrolled => denied("enroll one: pawctl approval enroll"),
        CodeError::NotBegun => denied("begin it: pawctl approval enroll"),
        CodeError::Enrolled => {
            denied("give its code to have another one: pawctl approval enroll --code CODE")
        }
        CodeError::Wrong => {
            denied("give the code that the authenticator shows now; see that the clocks agree")
        }
        CodeError::Used => denied("wait for the next code"),
        CodeError::Paused { until_ms } => {
            denied("somebody may be guessing: see `pawctl audit list --event code_refused`")
                .retry_after_ms(until_ms.saturating_sub(wall_ms()))
        }
        CodeError::Full => Error::new(
            ErrorKind::Busy,
            message,
            "remove some: pawctl approval forget UID",
        ),
        CodeError::Read { .. }
        | CodeError::Foreign { .. }
        | CodeError::Write { .. }
        | CodeError::Random(_) => Error::new(
            ErrorKind::Unavailable,
            message,
            "see that pawd's state directory is whole, and that its disk has room",
        ),
    }
}

fn not_kept(why: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the grant is out of force, but that could not be noted: {why}"),
        "see the disk and the audit writer, and revoke it again after the next start of pawd",
    )
}
