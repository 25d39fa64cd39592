//! A client of the control socket: newline-delimited JSON-RPC under jsonrpsee's typed traits.

use std::path::Path;

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use jsonrpsee::{
    async_client::{Client, ClientBuilder},
    core::client::{ReceivedMessage, TransportReceiverT, TransportSenderT},
};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

/// The longest answer that is read, in bytes; pawd sends none that is longer.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Items of one subscription that may wait for their reader. jsonrpsee's client ends a subscription beyond it, and an end
/// without a last item is reported as a cut.
const SUBSCRIPTION_BUFFER: usize = 64 * 1024;

/// How long a call may take when its caller sets no deadline of its own.
const CALL_LIMIT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

type Lines = Framed<UnixStream, LinesCodec>;

struct Sender(SplitSink<Lines, String>);
struct Receiver(SplitStream<Lines>);

impl TransportSenderT for Sender {
    type Error = LinesCodecError;

    async fn send(&mut self, message: String) -> Result<(), Self::Error> {
        self.0.send(message).await
    }
}

impl TransportReceiverT for Receiver {
    type Error = LinesCodecError;

    async fn receive(&mut self) -> Result<ReceivedMessage, Self::Error> {
        match self.0.next().await {
            Some(line) => line.map(ReceivedMessage::Text),
            None => Err(LinesCodecError::Io(
                std::io::ErrorKind::UnexpectedEof.into(),
            )),
        }
    }
}

/// Connects to the control socket at `path`.
///
/// # Errors
/// As `connect(2)`: `NotFound` when pawd is not there, `PermissionDenied` when the caller may not reach it.
pub async fn connect(path: &Path) -> std::io::Result<Client> {
    Ok(over(UnixStream::connect(path).await?))
}

/// A client over a stream that is connected already. Must be called within a tokio runtime.
#[must_use]
pub fn over(stream: UnixStream) -> Client {
    let (sender, receiver) =
        Framed::new(stream, LinesCodec::new_with_max_length(MAX_ANSWER)).split();
    ClientBuilder::new()
        .request_timeout(CALL_LIMIT)
        .max_buffer_capacity_per_subscription(SUBSCRIPTION_BUFFER)
        .build_with_tokio(Sender(sender), Receiver(receiver))
}
