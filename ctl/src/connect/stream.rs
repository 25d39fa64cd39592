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

/// How long a place that is refused may take to say so: it is said before anything is asked.
const REFUSAL_LIMIT: Duration = Duration::from_millis(200);

/// The id of the request that begins the subscription, of the one that ends it, and of those in between.
const BEGIN: u64 = 1;
const END: u64 = 2;
const ASK: u64 = 3;

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
        "model.switch" => Some("model.leave"),
        "model.pull" => Some("model.abort"),
        "sandbox.run" => Some("sandbox.abort"),
        "sandbox.logs" => Some("sandbox.leave"),
        _ => None,
    }
}

impl Refusal {
    fn failure(self, doing: &str) -> Failure {
        Failure::Refused {
            doing: doing.to_owned(),
            code: self.code,
            message: self.message,
            data: self
                .data
                .and_then(|data| serde_json::from_str::<ErrorData>(data.get()).ok()),
        }
    }
}

/// A call on the connection of a subscription.
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) params: serde_json::Value,
}

/// What comes over the connection of a subscription.
pub(crate) enum Heard {
    /// An item.
    Item(Answer),
    /// The answer to [`Items::ask`].
    Answer(Result<(), Failure>),
    /// The subscription, or the connection, is over.
    End,
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
        let sent = lines.send(request.to_string()).await;
        // One that is refused its place is told so and closed, whatever it sends.
        match (next_line(doing, &mut lines).await?, sent) {
            (None, Err(error)) => Err(lost(doing, &error)),
            (line, _) => Ok(line),
        }
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
        } => Err(error.failure(doing)),
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
        match self.heard().await? {
            Heard::Item(item) => Ok(Some(item)),
            Heard::Answer(_) | Heard::End => Ok(None),
        }
    }

    /// Whatever comes next. A call that is dropped before it is done loses nothing.
    pub(crate) async fn heard(&mut self) -> Result<Heard, Failure> {
        let line = match self.deadline {
            None => next_line(&self.doing, &mut self.lines).await?,
            Some((until, limit)) => timeout_at(until, next_line(&self.doing, &mut self.lines))
                .await
                .map_err(|_| late(&self.doing, limit))??,
        };
        let Some(line) = line else {
            return Ok(Heard::End);
        };
        if line.id == Some(ASK) {
            let answer = line
                .error
                .map_or(Ok(()), |error| Err(error.failure(&self.doing)));
            return Ok(Heard::Answer(answer));
        }
        // A line without an item says that pawd ends the subscription.
        let item = line.params.and_then(|notification| notification.result);
        Ok(item.map_or(Heard::End, |raw| {
            Heard::Item(Answer {
                doing: self.doing.clone(),
                raw,
            })
        }))
    }

    /// Asks something over the same connection; the answer comes among the items. One call at a time.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<(), Failure> {
        let line = json!({"jsonrpc": "2.0", "id": ASK, "method": request.method, "params": request.params});
        let sent = self.lines.send(line.to_string()).await;
        sent.map_err(|error| lost(&self.doing, &error))
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

/// Why pawd gives us no place at this socket, if it does not: then it says so before anything is asked.
pub(super) async fn refusal(socket: &Path, doing: &str) -> Option<Failure> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_ANSWER));
    let line = timeout(REFUSAL_LIMIT, next_line(doing, &mut lines)).await;
    Some(line.ok()?.ok()??.error?.failure(doing))
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
