//! Changes of what is configured that are asked for by a method of their own: each is the action that `action.submit` makes of it, judged
//! by the same policy. What policy asks about is not done, and not forgotten: it waits, and the caller is told where.

use jsonrpsee::{Extensions, SubscriptionSink, core::RpcResult};
use paw_api::{Error, ErrorKind, error::ErrorData, model::SwitchEvent};
use paw_policy::{ConfigChange, Kind, State};
use paw_store::{ActionRecord, Caller, Failure};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tracing::warn;
use uuid::Uuid;

use super::{FOREVER, Family, fail, send, why};
use crate::{
    intake::{Asked, SwitchAsked},
    orchestrator::{queue::Urgency, work::Progress},
    rpc::caller,
};

/// News of a switch that wait for their reader; of more, those in between are left out.
const NEWS: usize = 16;

/// What a caller wishes as the arguments of an action have it.
pub(super) fn said<T: Serialize>(spec: &T) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(said)) => Ok(said),
        Ok(_) | Err(_) => {
            let message = "a specification that is no object";
            Err(Error::new(ErrorKind::Internal, message, "report it"))
        }
    }
}

impl Family {
    /// Changes what is registered, if policy lets this caller.
    pub(super) async fn configure(
        &self,
        extensions: &Extensions,
        change: ConfigChange,
        name: &str,
        spec: Map<String, Value>,
    ) -> RpcResult<()> {
        let caller = caller(extensions).map_err(fail)?;
        let arguments = [
            ("change".to_owned(), Value::from(change.as_str())),
            ("name".to_owned(), Value::from(name)),
            ("spec".to_owned(), Value::from(spec)),
        ];
        let asked = Asked {
            kind: Kind::ConfigChange.as_str().to_owned(),
            arguments: Map::from_iter(arguments),
            ..Asked::default()
        };
        let judged = self.intake.judge(asked, caller, Progress::None).await;
        let mut submission = judged.map_err(fail)?;
        submission.urgency = Urgency::Interactive;
        let record = self.actions.submit(submission).await.map_err(fail)?;
        if record.state == State::WaitingApproval {
            return Err(fail(waits(&record)));
        }
        let record = self.settled(record.id, FOREVER, State::is_final).await?;
        match record.state {
            State::Completed => Ok(()),
            state => {
                let (kind, message, hint) = why(state, record.error);
                Err(fail(Error::new(kind, message, hint).about(name)))
            }
        }
    }

    /// Has somebody else answer, if policy lets this caller, and tells how far that is; gives the last news, and none when the caller has
    /// left, which takes it back, or when nobody knows what became of it.
    pub(super) async fn switched(
        &self,
        wish: SwitchAsked,
        caller: Caller,
        sink: &SubscriptionSink,
    ) -> Option<SwitchEvent> {
        let (tell, mut news) = mpsc::channel(NEWS);
        let record = match self.begin_switch(wish, caller.clone(), tell).await {
            Ok(record) => record,
            Err(error) => {
                return Some(SwitchEvent::Failed {
                    message: error.message,
                    error: error.data,
                });
            }
        };
        let id = record.id;
        let mut there = true;
        if record.state == State::WaitingApproval {
            let action_id = id.to_string();
            there = send(sink, &SwitchEvent::Waiting { action_id }).await;
        }
        while there {
            tokio::select! {
                event = news.recv() => match event {
                    Some(event) => there = send(sink, &event).await,
                    None => break,
                },
                () = sink.closed() => there = false,
            }
        }
        if !there {
            // It may have ended meanwhile; then there is nothing to take back.
            drop(self.actions.cancel(id, caller).await);
            return None;
        }
        match self.settled(id, FOREVER, State::is_final).await {
            Ok(record) => end(id, record.state, record.result, record.error),
            Err(error) => {
                warn!(paw_action = %id, error = %error, "what became of a switch cannot be told");
                None
            }
        }
    }

    async fn begin_switch(
        &self,
        wish: SwitchAsked,
        caller: Caller,
        tell: mpsc::Sender<SwitchEvent>,
    ) -> Result<ActionRecord, Error> {
        let asked = Asked {
            kind: Kind::ModelSwitch.as_str().to_owned(),
            arguments: said(&wish)?,
            ..Asked::default()
        };
        let judged = self.intake.judge(asked, caller, Progress::Switch(tell));
        self.actions.submit(judged.await?).await
    }
}

/// A person is asked: nothing is done yet.
fn waits(record: &ActionRecord) -> Error {
    let id = record.id.to_string();
    let message = format!("nothing is changed yet: a person has to approve it, as action {id}");
    let hint = format!(
        "it is done by itself once somebody does: `pawctl approval show {id}`, `pawctl action wait {id}`"
    );
    Error::new(ErrorKind::Conflict, message, hint).about(id)
}

/// The last news of a switch; none where it was made and what it told cannot be read: then it has not failed, and nobody knows more.
fn end(
    id: Uuid,
    state: State,
    result: Option<Value>,
    failure: Option<Failure>,
) -> Option<SwitchEvent> {
    if state == State::Completed {
        let done = result.and_then(|value| serde_json::from_value(value).ok());
        if done.is_none() {
            warn!(paw_action = %id, "what a switch told that was made cannot be read");
        }
        return done.map(SwitchEvent::Done);
    }
    let retry_after_ms = failure.as_ref().and_then(|it| it.retry_after_ms);
    let (kind, message, hint) = why(state, failure);
    Some(SwitchEvent::Failed {
        message,
        error: ErrorData {
            kind,
            hint,
            retry_after_ms,
            id: Some(id.to_string()),
        },
    })
}

#[cfg(test)]
mod tests {
    use paw_api::model::{Answerer, ModelSwitched};
    use serde_json::json;

    use super::*;

    /// `failed` says that everything is as it was.
    #[test]
    fn switch_that_was_made_is_never_told_as_one_that_failed() {
        let told = ModelSwitched {
            agent: None,
            now: Answerer {
                provider: "local".into(),
                model: "m".into(),
            },
            was: None,
            ms: 1,
        };
        let end = |state, result| end(Uuid::nil(), state, result, None);
        assert_eq!(
            end(State::Completed, Some(json!(told))),
            Some(SwitchEvent::Done(told))
        );
        for unread in [None, Some(json!({"provider": "local"}))] {
            assert_eq!(end(State::Completed, unread), None);
        }
        for state in [State::Failed, State::Cancelled, State::TimedOut] {
            let last = end(state, None);
            assert!(matches!(last, Some(SwitchEvent::Failed { .. })), "{last:?}");
        }
    }
}
