//! `action.*`

use std::time::Duration;

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    action::{Action, ActionRpcServer, Page},
};
use paw_policy::{Role, State, TaintSet, Via};
use paw_store::{ActionFilter, ActionRecord, Caller};
use serde_json::{Map, Value};
use tokio::{sync::broadcast::error::RecvError, time::timeout};
use uuid::Uuid;

use super::{Family, LISTED, fail, seen_by};
use crate::{
    intake::{Asked, unreadable},
    orchestrator::{queue::Urgency, work::Progress},
    records,
    rpc::caller,
};

/// How long `action.wait` waits when its caller does not say.
const WAIT: Duration = Duration::from_secs(60);

/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Actions of a page when its caller does not say.
const PAGE: u32 = 50;

#[async_trait]
impl ActionRpcServer for Family {
    async fn submit(
        &self,
        extensions: &Extensions,
        kind: String,
        arguments: Map<String, Value>,
        agent: Option<String>,
        session: Option<String>,
        wait: Option<bool>,
        timeout_ms: Option<u64>,
    ) -> RpcResult<Action> {
        let caller = caller(extensions).map_err(fail)?;
        let asked = Asked {
            kind,
            arguments,
            agent,
            session,
            local_only: false,
            knows: TaintSet::default(),
            via: Via::Terminal,
        };
        self.ask(asked, caller, wait == Some(true), timeout_ms)
            .await
    }

    async fn list(
        &self,
        extensions: &Extensions,
        state: Option<State>,
        limit: Option<u32>,
        before: Option<String>,
    ) -> RpcResult<Page<Action>> {
        let caller = caller(extensions).map_err(fail)?;
        let filter = ActionFilter {
            states: state.into_iter().collect(),
            uid: (caller.role != Role::Admin).then_some(caller.uid),
            ..ActionFilter::default()
        };
        let page = super::page(limit.unwrap_or(PAGE), before.as_deref()).map_err(fail)?;
        let listed = self
            .storage
            .read()
            .actions(&filter, &page)
            .map_err(|error| fail(unreadable(&error)))?;
        // As many as an answer holds, and the first whatever its length: so who goes on from `next` comes to the end.
        let (mut room, mut items) = (LISTED, Vec::new());
        let mut next = listed.next.map(|id| id.to_string());
        for action in listed
            .records
            .into_iter()
            .map(|it| records::action(it, false))
        {
            let length = serde_json::to_vec(&action).map_or(LISTED, |text| text.len());
            match (room.checked_sub(length), items.last()) {
                (Some(left), _) => room = left,
                (None, None) => room = 0,
                (None, Some(Action { id, .. })) => {
                    next = Some(id.clone());
                    break;
                }
            }
            items.push(action);
        }
        Ok(Page { items, next })
    }

    async fn show(&self, extensions: &Extensions, id: String) -> RpcResult<Action> {
        let caller = caller(extensions).map_err(fail)?;
        Ok(records::action(
            self.action(&id, &caller).map_err(fail)?,
            true,
        ))
    }

    async fn wait(
        &self,
        extensions: &Extensions,
        id: String,
        timeout_ms: Option<u64>,
    ) -> RpcResult<Action> {
        let caller = caller(extensions).map_err(fail)?;
        let record = self.action(&id, &caller).map_err(fail)?;
        let record = self
            .settled(record.id, limit(timeout_ms), |state| state.is_final())
            .await?;
        Ok(records::action(seen_by(&caller, record), false))
    }

    async fn cancel(&self, extensions: &Extensions, id: String) -> RpcResult<Action> {
        let caller = caller(extensions).map_err(fail)?;
        let record = self.action(&id, &caller).map_err(fail)?;
        if !crate::intake::may_see(&caller, record.requested_by.uid) {
            let error = Error::new(
                ErrorKind::Denied,
                "somebody else asked for it",
                "answer it with no: pawctl approval deny",
            );
            return Err(fail(error.about(id)));
        }
        let record = self.actions.cancel(record.id, caller).await.map_err(fail)?;
        Ok(records::action(record, false))
    }
}

impl Family {
    /// Submits it, and gives the action as it is stored; with `wait` once it is final or waits for a person.
    pub(super) async fn ask(
        &self,
        asked: Asked,
        caller: Caller,
        wait: bool,
        timeout_ms: Option<u64>,
    ) -> RpcResult<Action> {
        let mut submission = self
            .intake
            .judge(asked, caller, Progress::None)
            .await
            .map_err(fail)?;
        if wait {
            submission.urgency = Urgency::Interactive;
        } else {
            // Nobody stays for it, so it is the action's own.
            let record = &mut submission.record;
            record.deadline_ms = timeout_ms.map(|ms| record.created_ms.saturating_add(ms));
        }
        let record = self.actions.submit(submission).await.map_err(fail)?;
        let record = if wait && record.state != State::WaitingApproval {
            self.settled(record.id, limit(timeout_ms), |state| state.is_final())
                .await?
        } else {
            record
        };
        Ok(records::action(record, false))
    }

    /// The action once its state is one that `settled` accepts.
    pub(super) async fn settled(
        &self,
        id: Uuid,
        limit: Duration,
        settled: impl Fn(State) -> bool,
    ) -> RpcResult<ActionRecord> {
        let mut changes = self.actions.changes();
        let look = || match self.storage.read().action(id) {
            Ok(Some(record)) => Ok(record),
            Ok(None) => Err(Error::new(
                ErrorKind::NotFound,
                "there is no such action",
                "it may have been pruned",
            )
            .about(id.to_string())),
            Err(error) => Err(unreadable(&error)),
        };
        // Listening begins before the first look, so that no change falls in between.
        let wait = async {
            loop {
                let record = look()?;
                if settled(record.state) {
                    return Ok(record);
                }
                loop {
                    match changes.recv().await {
                        Ok(change) if change.id == id => break,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => {
                            return Err(Error::new(
                                ErrorKind::Unavailable,
                                "pawd is stopping",
                                "ask again when it is back",
                            ));
                        }
                    }
                }
            }
        };
        let stopped = self.over.cancelled();
        tokio::select! {
            // What the drain still brought to its end is told, not the end of pawd.
            biased;
            waited = timeout(limit, wait) => match waited {
                Ok(result) => result.map_err(fail),
                Err(_) => {
                    let message = format!("the action is not final after {} ms", limit.as_millis());
                    Err(fail(Error::new(ErrorKind::TimedOut, message, format!("it goes on: pawctl action wait {id}")).about(id.to_string())))
                }
            },
            () = stopped => Err(fail(Error::new(ErrorKind::Unavailable, "pawd is stopping", "ask again when it is back"))),
        }
    }
}

fn limit(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(WAIT, Duration::from_millis).min(MAX_WAIT)
}
