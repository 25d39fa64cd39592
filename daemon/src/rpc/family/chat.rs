//! `chat.*`

use jsonrpsee::{
    Extensions, PendingSubscriptionSink, SubscriptionSink,
    core::{SubscriptionResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    error::ErrorData,
    provider::{ChatEvent, ChatRpcServer},
};
use paw_policy::{State, TaintSet, Via};
use paw_store::{ActionRecord, Caller};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use super::{Family, fail, send};
use crate::{intake::Asked, orchestrator::work::Progress, rpc::caller};

/// Pieces of an answer that may wait for a slow reader before the model's connection is held back.
const PIECES: usize = 64;

#[async_trait]
impl ChatRpcServer for Family {
    async fn send(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        text: String,
        agent: Option<String>,
        session: Option<String>,
        provider: Option<String>,
        model: Option<String>,
        local_only: Option<bool>,
        route: Option<String>,
        schema: Option<Value>,
        images: Option<Vec<String>>,
    ) -> SubscriptionResult {
        let begun = match caller(extensions) {
            Ok(caller) => {
                let mut arguments = Map::from_iter([("text".to_owned(), Value::from(text))]);
                arguments.extend(provider.map(|name| ("provider".to_owned(), Value::from(name))));
                arguments.extend(model.map(|name| ("model".to_owned(), Value::from(name))));
                arguments.extend(route.map(|name| ("route".to_owned(), Value::from(name))));
                arguments.extend(schema.map(|schema| ("schema".to_owned(), schema)));
                arguments.extend(images.map(|all| ("images".to_owned(), Value::from(all))));
                let asked = Asked {
                    kind: "chat".into(),
                    arguments,
                    agent,
                    session,
                    local_only: local_only.unwrap_or(false),
                    knows: TaintSet::default(),
                    via: Via::Terminal,
                };
                self.begin_chat(asked, caller).await
            }
            Err(error) => Err(error),
        };
        match begun {
            Ok(begun) => match pending.accept().await {
                Ok(sink) => self.tell_chat(begun, sink).await,
                // Gone before it could be told anything.
                Err(_) => drop(self.actions.cancel(begun.record.id, begun.caller).await),
            },
            Err(error) => pending.reject(fail(error)).await,
        }
        Ok(())
    }
}

/// A chat that was accepted.
struct Begun {
    record: ActionRecord,
    caller: Caller,
    pieces: mpsc::Receiver<ChatEvent>,
    end: oneshot::Receiver<ActionRecord>,
}

impl Family {
    async fn begin_chat(&self, asked: Asked, caller: Caller) -> Result<Begun, Error> {
        let (to, pieces) = mpsc::channel(PIECES);
        let (tell, end) = oneshot::channel();
        let mut submission = self
            .intake
            .judge(asked, caller.clone(), Progress::Chat(to))
            .await?;
        submission.end = Some(tell);
        Ok(Begun {
            record: self.actions.submit(submission).await?,
            caller,
            pieces,
            end,
        })
    }

    /// Passes the pieces on and ends with `done` or `failed`. A client that is gone cancels the action.
    async fn tell_chat(&self, begun: Begun, sink: SubscriptionSink) {
        let Begun {
            record,
            caller,
            mut pieces,
            end,
        } = begun;
        let id = record.id;
        let session = record.plan.session.clone().unwrap_or_default();
        let mut there = send(
            &sink,
            &ChatEvent::Accepted {
                action_id: id.to_string(),
                session,
            },
        )
        .await;
        while there {
            tokio::select! {
                piece = pieces.recv() => match piece {
                    Some(piece) => there = send(&sink, &piece).await,
                    None => break,
                },
                () = sink.closed() => there = false,
            }
        }
        if !there {
            // The action may have ended meanwhile; then there is nothing to cancel.
            drop(self.actions.cancel(id, caller).await);
            return;
        }
        let told = tokio::select! {
            // As in `settled`: what the drain brought to its end is told.
            biased;
            told = end => told.ok(),
            () = self.over.cancelled() => None,
        };
        let settled = match told {
            Some(record) => Ok(record),
            // The driver has left it; what became of it is in the store.
            None => self.settled(id, super::FOREVER, State::is_final).await,
        };
        let last = match settled {
            Ok(record) => chat_end(record),
            Err(error) => failed(&error),
        };
        send(&sink, &last).await;
    }
}

fn chat_end(record: ActionRecord) -> ChatEvent {
    let result = record.result;
    let result = result.and_then(|value| serde_json::from_value(value).ok());
    let result = match (record.state, result) {
        (State::Completed, Some(result)) => return ChatEvent::Done(result),
        (_, result) => result.map(Box::new),
    };
    let retry_after_ms = record.error.as_ref().and_then(|it| it.retry_after_ms);
    let (kind, message, hint) = super::why(record.state, record.error);
    ChatEvent::Failed {
        message,
        error: ErrorData {
            kind,
            hint,
            retry_after_ms,
            id: Some(record.id.to_string()),
        },
        result,
    }
}

fn failed(error: &jsonrpsee::types::ErrorObjectOwned) -> ChatEvent {
    let data = error
        .data()
        .and_then(|data| serde_json::from_str(data.get()).ok());
    let error_data = data.unwrap_or(ErrorData {
        kind: ErrorKind::Internal,
        hint: String::new(),
        retry_after_ms: None,
        id: None,
    });
    ChatEvent::Failed {
        message: error.message().to_owned(),
        error: error_data,
        result: None,
    }
}
