//! `events.*`

use jsonrpsee::{
    Extensions, PendingSubscriptionSink,
    core::{SubscriptionResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    error::ErrorData,
    events::{EventItem, EventsRpcServer},
};
use tokio::sync::broadcast::error::RecvError;

use super::{Family, fail, send};

#[async_trait]
impl EventsRpcServer for Family {
    async fn watch(
        &self,
        pending: PendingSubscriptionSink,
        _: &Extensions,
        after: Option<u64>,
    ) -> SubscriptionResult {
        let mut reader = match self.news.read(after) {
            Ok(reader) => reader,
            Err(gone) => {
                let hint = format!("begin anew, or pass after = {}", gone.oldest);
                pending
                    .reject(fail(Error::new(ErrorKind::Cut, gone.to_string(), hint)))
                    .await;
                return Ok(());
            }
        };
        let sink = pending.accept().await?;
        let mut last = after.unwrap_or(0);
        for event in reader.kept {
            last = event.seq;
            if !send(&sink, &EventItem::Event(event)).await {
                return Ok(());
            }
        }
        loop {
            let heard = tokio::select! {
                heard = reader.live.recv() => heard,
                () = sink.closed() => return Ok(()),
                () = self.stop.cancelled() => return Ok(()),
            };
            match heard {
                Ok(event) => {
                    last = event.seq;
                    if !send(&sink, &EventItem::Event(event)).await {
                        return Ok(());
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    let hint = format!("subscribe again with after = {last}");
                    let error = ErrorData {
                        kind: ErrorKind::Cut,
                        hint,
                        retry_after_ms: None,
                        id: None,
                    };
                    send(
                        &sink,
                        &EventItem::Cut {
                            resume_after: last,
                            error,
                        },
                    )
                    .await;
                    return Ok(());
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }
}
