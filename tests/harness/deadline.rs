//! A deadline on everything that a test waits for.

use std::{future::Future, time::Duration};

/// Long enough for a busy machine; reaching it is a failure.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Waits for `future`, at most [`LIMIT`].
///
/// # Panics
/// When it takes longer; `what` says what did not happen.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: did not happen within {LIMIT:?}"),
    }
}
