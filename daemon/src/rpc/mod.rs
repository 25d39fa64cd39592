//! The control plane: one Unix socket, three framings, the same methods.
//!
//! The first byte of a connection decides: `{`, `[` or blank for newline-delimited JSON-RPC, a capital letter for HTTP, which
//! may become WebSocket. Each connection is one task under [`Limits`]; the module `connection` says how it is bounded, `gate`
//! who may call what, and `flow` what happens to a client that does not read.
//!
//! Handlers are jsonrpsee's: they are registered in a `Methods` and find out who is calling by [`caller`].
//! - A synchronous handler runs on the connection's task and must return at once; everything that waits is `async`.
//! - The future of an asynchronous handler is dropped when its connection goes away. What must come to its end belongs to
//!   another task, which the handler sends to and waits for.
//! - The task of a subscription is its own. It waits in `send` while the client does not read, sees `closed` when it is
//!   gone, and must watch the token of pawd's stop itself; it has [`Limits::drain`] for its last item.

mod connection;
pub mod denials;
pub mod discover;
mod dispatch;
pub mod family;
mod flow;
mod gate;
mod http;
mod limits;
mod lines;
mod peer;
mod seats;
mod share;
mod websocket;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use jsonrpsee::{Extensions, Methods, core::server::ConnectionId, types::ErrorObjectOwned};
use nix::sys::socket::{MsgFlags, recv, send};
use paw_api::{
    error::{Error, ErrorKind},
    fault::Fault,
    methods::Method,
};
use paw_policy::Role;
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::{codec::Framed, sync::CancellationToken};
use tracing::{debug, error, warn};

pub use gate::{MayCall, OnDenied, Recorded};
pub use limits::Limits;
pub use peer::{Identify, Peer, Roles, caller, identify};

use self::{
    connection::converse,
    dispatch::{Session, Shared},
    flow::{Flow, Guarded},
    gate::Gate,
    lines::Lines,
    seats::{Full, Seat, Seats},
    share::{InTurn, Slice},
};

/// What is served, to whom, and within which bounds.
pub struct Service {
    /// The handlers.
    pub methods: Methods,
    /// What may be called; `paw_api::methods::TABLE`. What is registered and not listed here cannot be reached.
    pub table: &'static [Method],
    /// Who somebody is.
    pub identify: Identify,
    /// Told of every denial.
    pub on_denied: OnDenied,
    /// Whether somebody may call a method now, or has done so too often.
    pub may_call: MayCall,
    /// The bounds.
    pub limits: Limits,
}

/// Names that are registered and not in the table, or in the table and not registered. Empty when all is well; a daemon for
/// which it is not empty must not start.
#[must_use]
pub fn unmatched(methods: &Methods, table: &[Method]) -> Vec<&'static str> {
    let listed = |name: &str| table.iter().any(|method| method.name == name);
    let strays = methods.method_names().filter(|name| !listed(name));
    let missing = table
        .iter()
        .map(|method| method.name)
        .filter(|name| methods.method(name).is_none());
    strays.chain(missing).collect()
}

/// Time after the drain in which the last errors are written, before what is left is cut.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long nothing is accepted after the system ran out of descriptors or memory. There is no event to wait for: another
/// process may hold what is missing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`. Then nothing more is read, calls in flight are answered, subscriptions have [`Limits::drain`] to come
/// to their end, and what is left after that is cut. A failing `accept` never ends it.
pub async fn serve(listener: UnixListener, service: Service, stop: CancellationToken) {
    let Service {
        methods,
        table,
        identify,
        on_denied,
        may_call,
        limits,
    } = service;
    let drained = CancellationToken::new();
    let gate = Gate { table, on_denied };
    let shared = Arc::new(Shared {
        methods,
        gate,
        may_call,
        work: Arc::new(Semaphore::new(limits.work)),
        limits,
        stop: stop.clone(),
        drained: drained.clone(),
    });
    let seats = Seats::new();
    let refusals = Refusals::new();
    let mut spare = spare(&listener);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                note(&ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let admitted = admit(&stream, &identify, &seats, &shared.limits, &refusals);
                if let Some((peer, seat)) = admitted {
                    let (slice, share) = (Slice::new(), Arc::clone(seat.share()));
                    let connection =
                        connect(stream, peer, seat, Arc::clone(&shared), Arc::clone(&slice));
                    connections.spawn(InTurn::new(&share, slice, connection.boxed()));
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, open = connections.len(), "cannot accept a connection");
                // The spare descriptor lets us tell the one who waits, instead of leaving them in the queue.
                drop(spare.take());
                if let Some(Ok((stream, _))) = listener.accept().now_or_never() {
                    tell(&stream, &refusals.host);
                }
                spare = self::spare(&listener);
                let _ = timeout(ACCEPT_PAUSE, stop.cancelled()).await;
            }
        }
    }
    drop(listener);
    if timeout(shared.limits.drain, all_ended(&mut connections))
        .await
        .is_err()
    {
        drained.cancel();
        if timeout(GOODBYE, all_ended(&mut connections)).await.is_err() {
            warn!(
                open = connections.len(),
                "connections cut at the end of the drain"
            );
            connections.shutdown().await;
        }
    }
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        note(&ended);
    }
}

fn note(ended: &Result<(), JoinError>) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!(error = %failure, "rpc connection panicked");
    }
}

fn spare(listener: &impl AsFd) -> Option<OwnedFd> {
    listener.as_fd().try_clone_to_owned().ok()
}

/// Whether an error of `accept` is about the connection that was to be accepted, not about us.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// What those are told who get no place; made once, so that turning somebody away costs next to nothing.
struct Refusals {
    everybody: Bytes,
    user: Bytes,
    host: Bytes,
}

impl Refusals {
    fn new() -> Self {
        let line = |text: &str, hint: &str| {
            let busy = Error::new(ErrorKind::Busy, text, hint).retry_after_ms(1000);
            lines::line(dispatch::error(busy))
        };
        let close = "close connections that are not needed, or wait";
        Self {
            everybody: line("pawd has as many connections as it takes", close),
            user: line("this user has as many connections as it may", close),
            host: line(
                "pawd has no descriptor or memory left for a connection",
                "raise LimitNOFILE of pawd.service",
            ),
        }
    }
}

fn admit(
    stream: &UnixStream,
    identify: &Identify,
    seats: &Arc<Seats>,
    limits: &Limits,
    refusals: &Refusals,
) -> Option<(Peer, Seat)> {
    // Who has all places of one user is turned away before anything else is asked: that may come thousands of times a second.
    let full = |full, uid: u32| {
        debug!(uid, ?full, "connection refused");
        tell(
            stream,
            match full {
                Full::Everybody => &refusals.everybody,
                Full::User => &refusals.user,
            },
        );
    };
    let uid = match paw_confine::peer::uid(stream) {
        Ok(uid) if seats.is_full(uid, limits) => {
            full(Full::User, uid);
            return None;
        }
        other => other,
    };
    let who = match uid.and_then(|_| paw_confine::peer::peer(stream)) {
        Ok(who) => who,
        Err(error) => {
            warn!(%error, "the kernel does not say who connected");
            return None;
        }
    };
    let peer = identify(who);
    match seats.take(peer.uid, peer.role == Some(Role::Admin), limits) {
        Ok(seat) => {
            // Asked of who has a place alone, as it is a file that is read.
            let unit = paw_confine::peer::unit(peer.pid).map(Arc::from);
            Some((Peer { unit, ..peer }, seat))
        }
        Err(why) => {
            full(why, peer.uid);
            None
        }
    }
}

/// Says why before the connection is closed; what does not fit into an empty socket buffer is not said.
fn tell(stream: &UnixStream, line: &[u8]) {
    let _ = send(
        stream.as_raw_fd(),
        line,
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
    );
}

fn say(stream: &UnixStream, error: impl Into<ErrorObjectOwned>) {
    let _ = stream.try_write(&lines::line(dispatch::error(error)));
}

/// Numbers connections; one counter for all sockets, because subscriptions are found by this number.
static CONNECTION: AtomicUsize = AtomicUsize::new(1);

async fn connect(
    stream: UnixStream,
    peer: Peer,
    seat: Seat,
    shared: Arc<Shared>,
    slice: Arc<Slice>,
) {
    let first = tokio::select! {
        first = timeout(shared.limits.first_byte, first_byte(&stream)) => first,
        () = shared.stop.cancelled() => return,
    };
    let Ok(Ok(Some(first))) = first else { return };
    let limits = &shared.limits;
    let subscriptions = Arc::new(Semaphore::new(limits.subscriptions));
    let flow = Arc::<Flow>::default();
    let guarded = Guarded::new(
        stream,
        Arc::clone(&flow),
        Arc::clone(&subscriptions),
        seat.share().long(),
        limits,
    );
    let mut extensions = Extensions::new();
    extensions.insert(peer.clone());
    let id = ConnectionId(CONNECTION.fetch_add(1, Ordering::Relaxed));
    let request = limits.request;
    let session = Arc::new(Session {
        shared,
        peer,
        seat,
        id,
        extensions,
        subscriptions,
        slice,
        rest: Mutex::default(),
    });
    match first {
        b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n' => {
            let framed = Framed::new(guarded, Lines::new(request, Arc::clone(&flow)));
            converse(framed, session, flow, connection::HALF_CLOSES).await;
        }
        b'A'..=b'Z' => http::serve(guarded, session, flow).await,
        _ => {
            say(guarded.get_ref(), Fault::NotJson);
            // Closing with bytes unread would reset the connection, and the error might not be seen.
            let _ = guarded.get_ref().try_read(&mut [0; 4096]);
        }
    }
}

/// The first byte that the client sends, left in the socket. None if it closes without one.
async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    stream
        .async_io(Interest::READABLE, || {
            let mut byte = [0];
            let count = recv(stream.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK)?;
            Ok((count == 1).then_some(byte[0]))
        })
        .await
}
