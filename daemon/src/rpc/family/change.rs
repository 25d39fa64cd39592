//! Changes of what is configured, and of what a workspace has in it, that are asked for by a method of their own: each is the action that
//! `action.submit` makes of it, judged by the same policy. What policy asks about is not done, and not forgotten: it waits, and the caller is
//! told where.

use jsonrpsee::{
    Extensions, PendingSubscriptionSink, SubscriptionSink,
    core::{RpcResult, SubscriptionResult},
};
use paw_api::{
    Error, ErrorKind,
    error::ErrorData,
    model::{PullEvent, SwitchEvent},
};
use paw_policy::{ConfigChange, Kind, Name, Operation, State};
use paw_store::{ActionRecord, Caller, Failure};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
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
        let arguments = of_config(change.as_str(), name, spec);
        self.changed(
            extensions,
            Kind::ConfigChange,
            (arguments, Progress::None),
            name,
        )
        .await
        .map(drop)
    }

    /// Changes something, if policy lets this caller; gives what that came to.
    pub(super) async fn changed(
        &self,
        extensions: &Extensions,
        kind: Kind,
        (arguments, beside): (Map<String, Value>, Progress),
        about: &str,
    ) -> RpcResult<Value> {
        let caller = caller(extensions).map_err(fail)?;
        let asked = Asked {
            kind: kind.as_str().to_owned(),
            arguments,
            ..Asked::default()
        };
        let judged = self.intake.judge(asked, caller, beside).await;
        let mut submission = judged.map_err(fail)?;
        submission.urgency = Urgency::Interactive;
        let record = self.actions.submit(submission).await.map_err(fail)?;
        if record.state == State::WaitingApproval {
            return Err(fail(waits(&record)));
        }
        let record = self.settled(record.id, FOREVER, State::is_final).await?;
        match record.state {
            State::Completed => Ok(record.result.unwrap_or_default()),
            state => {
                let (kind, message, hint) = why(state, record.error);
                Err(fail(Error::new(kind, message, hint).about(about)))
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
        if record.state == State::WaitingApproval {
            let action_id = id.to_string();
            // Who has left is seen below.
            send(sink, &SwitchEvent::Waiting { action_id }).await;
        }
        let record = self.followed((id, caller), &mut news, sink).await?;
        switch_ended((id, record.state), (record.result, record.error))
    }

    /// Has a provider fetch a model, if policy lets this caller, and tells how far that is. Who leaves ends it.
    pub(super) async fn pulled(
        &self,
        pending: PendingSubscriptionSink,
        (provider, model): (&Name, String),
        caller: Caller,
    ) -> SubscriptionResult {
        let (begun, begins) = oneshot::channel();
        let (tell, mut news) = mpsc::channel(NEWS);
        let progress = Progress::Pull { begun, news: tell };
        let spec = [("model".to_owned(), Value::from(model))];
        let arguments = of_config(
            ConfigChange::ModelPull.as_str(),
            provider.as_str(),
            Map::from_iter(spec),
        );
        let asked = Asked {
            kind: Kind::ConfigChange.as_str().to_owned(),
            arguments,
            ..Asked::default()
        };
        let submitted = async {
            let submission = self.intake.judge(asked, caller.clone(), progress).await?;
            let record = self.actions.submit(submission).await?;
            match record.state {
                State::WaitingApproval => Err(waits(&record)),
                _ => Ok(record.id),
            }
        };
        let id = match submitted.await {
            Ok(id) => id,
            Err(error) => {
                pending.reject(fail(error)).await;
                return Ok(());
            }
        };
        // What does not begin is refused, and no subscription.
        if begins.await.is_err() {
            let error = match self.settled(id, FOREVER, State::is_final).await {
                Ok(record) => {
                    let (kind, message, hint) = why(record.state, record.error);
                    fail(Error::new(kind, message, hint).about(id.to_string()))
                }
                Err(error) => error,
            };
            pending.reject(error).await;
            return Ok(());
        }
        let sink = match pending.accept().await {
            Ok(sink) => sink,
            Err(left) => {
                drop(self.actions.cancel(id, caller).await);
                return Err(left.into());
            }
        };
        let Some(record) = self.followed((id, caller), &mut news, &sink).await else {
            return Ok(());
        };
        let (of, what) = ((id, record.state), (record.result, record.error));
        let last = ended(of, what, PullEvent::Done, |message, error| {
            PullEvent::Failed { message, error }
        });
        if let Some(last) = last {
            send(&sink, &last).await;
        }
        Ok(())
    }

    /// Passes news of an action on until it has ended, and gives how; nothing when the caller has left, which takes it back, or when nobody
    /// knows what became of it.
    async fn followed<T: Serialize + Send + Sync>(
        &self,
        (id, caller): (Uuid, Caller),
        news: &mut mpsc::Receiver<T>,
        sink: &SubscriptionSink,
    ) -> Option<ActionRecord> {
        let mut there = !sink.is_closed();
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
            Ok(record) => Some(record),
            Err(error) => {
                warn!(paw_action = %id, error = %error, "what became of a change cannot be told");
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
    let value = match &record.plan.operation {
        Operation::SecretChange(change) if change.value.is_some() => {
            "; until then the value is in memory alone, and is forgotten if pawd ends"
        }
        _ => "",
    };
    let hint = format!(
        "it is done by itself once somebody does: `pawctl approval show {id}`, `pawctl action wait {id}`{value}"
    );
    Error::new(ErrorKind::Conflict, message, hint).about(id)
}

/// The last news of an action: what it came to, or why it came to nothing. None where it was done and what it told cannot be read: then it has
/// not failed, and nobody knows more.
fn ended<T, E: DeserializeOwned>(
    (id, state): (Uuid, State),
    (result, failure): (Option<Value>, Option<Failure>),
    done: impl FnOnce(E) -> T,
    failed: impl FnOnce(String, ErrorData) -> T,
) -> Option<T> {
    if state == State::Completed {
        let told = result.and_then(|value| serde_json::from_value(value).ok());
        if told.is_none() {
            warn!(paw_action = %id, "what a change told that was made cannot be read");
        }
        return told.map(done);
    }
    let retry_after_ms = failure.as_ref().and_then(|it| it.retry_after_ms);
    let (kind, message, hint) = why(state, failure);
    let error = ErrorData {
        kind,
        hint,
        retry_after_ms,
        id: Some(id.to_string()),
    };
    Some(failed(message, error))
}

fn switch_ended(of: (Uuid, State), what: (Option<Value>, Option<Failure>)) -> Option<SwitchEvent> {
    ended(of, what, SwitchEvent::Done, |message, error| {
        SwitchEvent::Failed { message, error }
    })
}

/// A change of what is configured, as the arguments of an action have it.
pub(super) fn of_config(change: &str, name: &str, spec: Map<String, Value>) -> Map<String, Value> {
    let arguments = [
        ("change".to_owned(), Value::from(change)),
        ("name".to_owned(), Value::from(name)),
        ("spec".to_owned(), Value::from(spec)),
    ];
    Map::from_iter(arguments)
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
        let end = |state, result| switch_ended((Uuid::nil(), state), (result, None));
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
