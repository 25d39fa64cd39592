//! A subscription, read line by line from a connection of its own.
//!
//! jsonrpsee's client reads ahead into a buffer and gives a subscription up when that is full, so a slow reader of our
//! output would lose the stream. Here nothing is read before the item before it was used: the kernel's buffer fills, and pawd
//! waits.

use std::{path::Path, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use paw_api::{ErrorData, client::MAX_ANSWER};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use super::{Answer, CALL_LIMIT};
use crate::fail::Failure;

/// How long the end of a subscription may take; after it the connection is closed anyway.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The id of the request that begins the subscription, and of the one that ends it.
const BEGIN: u64 = 1;
const END: u64 = 2;

/// Any line that pawd sends.
#[derive(Deserialize)]
struct Line {
    id: Option<u64>,
    result: Option<Box<RawValue>>,
    error: Option<Refusal>,
    params: Option<Notification>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i32,
    message: String,
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Notification {
    result: Option<Box<RawValue>>,
}

/// The method that ends a subscription.
fn end_of(method: &str) -> Option<&'static str> {
    match method {
        "chat.send" => Some("chat.cancel"),
        "events.subscribe" => Some("events.unsubscribe"),
        "sandbox.run" => Some("sandbox.abort"),
        "sandbox.logs" => Some("sandbox.leave"),
        _ => None,
    }
}

/// The items of a subscription.
pub(crate) struct Items {
    doing: String,
    lines: Framed<UnixStream, LinesCodec>,
    subscription: Box<RawValue>,
    end: &'static str,
    deadline: Option<(Instant, Duration)>,
}

/// Begins a subscription.
pub(super) async fn subscribe(
    socket: &Path,
    deadline: Option<(Instant, Duration)>,
    doing: &str,
    method: &str,
    params: Option<Box<RawValue>>,
) -> Result<Items, Failure> {
    let end = end_of(method).ok_or_else(|| Failure::Usage {
        doing: doing.to_owned(),
        why: format!("{method} is not a subscription that this pawctl knows"),
        remedy: "install the same version of pawd and pawctl".to_owned(),
    })?;
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| Failure::Unreachable {
            socket: socket.to_owned(),
            source,
        })?;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_ANSWER));
    let mut request = json!({"jsonrpc": "2.0", "id": BEGIN, "method": method});
    if let Some(params) = params {
        request["params"] =
            serde_json::from_str(params.get()).map_err(|source| Failure::Unreadable {
                doing: doing.to_owned(),
                source,
            })?;
    }
    let (until, limit) = deadline.unwrap_or_else(|| (Instant::now() + CALL_LIMIT, CALL_LIMIT));
    let begun = timeout_at(until, async {
        lines
            .send(request.to_string())
            .await
            .map_err(|error| lost(doing, &error))?;
        next_line(doing, &mut lines).await
    });
    let line = begun.await.map_err(|_| late(doing, limit))??;
    let Some(line) = line else {
        return Err(Failure::Lost {
            doing: doing.to_owned(),
            why: "pawd closed the connection".to_owned(),
        });
    };
    match line {
        Line {
            error: Some(error), ..
        } => Err(Failure::Refused {
            doing: doing.to_owned(),
            code: error.code,
            message: error.message,
            data: error
                .data
                .and_then(|data| serde_json::from_str::<ErrorData>(data.get()).ok()),
        }),
        Line {
            id: Some(BEGIN),
            result: Some(subscription),
            ..
        } => Ok(Items {
            doing: doing.to_owned(),
            lines,
            subscription,
            end,
            deadline,
        }),
        _ => Err(Failure::Lost {
            doing: doing.to_owned(),
            why: "pawd answered something else".to_owned(),
        }),
    }
}

impl Items {
    /// The next item as it came; none at the end of the stream, which is a cut unless a last item came before.
    ///
    /// A call that is dropped before it is done loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Answer>, Failure> {
        let line = match self.deadline {
            None => next_line(&self.doing, &mut self.lines).await?,
            Some((until, limit)) => timeout_at(until, next_line(&self.doing, &mut self.lines))
                .await
                .map_err(|_| late(&self.doing, limit))??,
        };
        // A line without an item says that pawd ends the subscription.
        let item = line
            .and_then(|line| line.params)
            .and_then(|notification| notification.result);
        Ok(item.map(|raw| Answer {
            doing: self.doing.clone(),
            raw,
        }))
    }

    /// Ends the subscription and waits until pawd has done it, so that what it started is gone when we are.
    pub(crate) async fn end(mut self) {
        let request =
            json!({"jsonrpc": "2.0", "id": END, "method": self.end, "params": [self.subscription]});
        // Any failure here means that the connection is gone or going, and the subscription with it.
        let _ = timeout(END_LIMIT, async {
            self.lines.send(request.to_string()).await.ok()?;
            while next_line(&self.doing, &mut self.lines).await.ok()??.id != Some(END) {}
            Some(())
        })
        .await;
    }
}

async fn next_line(
    doing: &str,
    lines: &mut Framed<UnixStream, LinesCodec>,
) -> Result<Option<Line>, Failure> {
    match lines.next().await {
        // An end in the middle of a line is an end.
        None | Some(Err(LinesCodecError::Io(_))) => Ok(None),
        Some(Err(error @ LinesCodecError::MaxLineLengthExceeded)) => Err(lost(doing, &error)),
        Some(Ok(line)) => {
            serde_json::from_str(&line)
                .map(Some)
                .map_err(|source| Failure::Unreadable {
                    doing: doing.to_owned(),
                    source,
                })
        }
    }
}

fn lost(doing: &str, error: &LinesCodecError) -> Failure {
    Failure::Lost {
        doing: doing.to_owned(),
        why: error.to_string(),
    }
}

fn late(doing: &str, limit: Duration) -> Failure {
    Failure::Deadline {
        doing: doing.to_owned(),
        limit,
        remedy: "give it longer with --timeout".to_owned(),
    }
}
