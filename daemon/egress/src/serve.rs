//! The door: pawd, and nobody else, opens one connection for each run.

use std::{future::Future, io, sync::Arc, time::Duration};

use paw_confine::peer::peer;
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use crate::run::{self, Shared};

/// Runs at once; further ones wait in the socket's own queue.
pub const MAX_RUNS: usize = 512;

/// How long to leave a socket alone that cannot accept, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves whoever of `allowed` connects, until `stop`.
///
/// # Errors
/// When the socket is of no use.
pub async fn serve(
    listener: UnixListener,
    allowed: &[u32],
    shared: Arc<Shared>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut runs = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            accepted = listener.accept(), if runs.len() < MAX_RUNS => match accepted {
                Ok((stream, _)) if is_allowed(&stream, allowed) => {
                    let shared = Arc::clone(&shared);
                    runs.spawn(run::serve(stream, shared));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = %error, "a connection cannot be accepted");
                    if timeout(PAUSE, &mut stop).await.is_ok() {
                        return Ok(());
                    }
                }
            },
            Some(ended) = runs.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %paw_log::Chain(&error), "a run ended early"),
                Err(error) => tracing::error!(error = %error, "a run ended by a fault of paw-egress"),
            },
        }
    }
}

fn is_allowed(stream: &UnixStream, allowed: &[u32]) -> bool {
    match peer(stream) {
        Ok(peer) if allowed.contains(&peer.uid) => true,
        Ok(peer) => {
            tracing::warn!(
                uid = peer.uid,
                pid = peer.pid,
                "connection refused: not the daemon's user"
            );
            false
        }
        Err(error) => {
            tracing::warn!(error = %error, "connection refused: its user is not known");
            false
        }
    }
}
