//! WebSocket messages as frames.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{connection::Incoming, dispatch::Answer, flow::Flow};

/// Bytes that tungstenite gathers before it writes unasked.
const WRITE_BUFFER: usize = 64 * 1024;

/// The messages of one connection. Its end is the end of the stream; a message that is too long, or that is no WebSocket at
/// all, ends it with an error, as the protocol demands.
pub(super) struct Messages<S> {
    socket: WebSocketStream<S>,
    flow: Arc<Flow>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Messages<S> {
    /// Over a stream that was upgraded already. Messages have at most `limit` bytes.
    pub(super) async fn new(stream: S, limit: usize, flow: Arc<Flow>) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit))
            .write_buffer_size(WRITE_BUFFER);
        Self {
            socket: WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await,
            flow,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for Messages<S> {
    type Item = io::Result<Incoming>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Incoming>>> {
        let message = ready!(self.socket.poll_next_unpin(cx));
        self.flow.frame_ended(false, 0);
        Poll::Ready(message.map(|message| {
            message.map_err(as_io).map(|message| match message {
                Message::Text(text) => Incoming::Frame(text.into()),
                Message::Binary(bytes) => Incoming::Frame(bytes),
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                    Incoming::Nothing
                }
            })
        }))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Answer> for Messages<S> {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_ready_unpin(cx).map_err(as_io)
    }

    fn start_send(mut self: Pin<&mut Self>, answer: Answer) -> io::Result<()> {
        self.socket
            .start_send_unpin(Message::text(String::from(Box::<str>::from(answer))))
            .map_err(as_io)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(as_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_close_unpin(cx).map_err(as_io)
    }
}

fn as_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
