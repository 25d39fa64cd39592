//! One answer, out of as many attempts as it is worth.
//!
//! ```text
//!  question ─► attempt ──its terminator──► answer
//!                ▲  │ an error
//!                │  ▼
//!                │ decide: can the same question succeed later? ──no──► the error
//!                │  ▼ yes
//!                │ retries left, and the provider's budget of retries? ──no──► the error
//!                │  ▼ yes
//!                └─ wait: what the provider asks for, and a random time; not beyond the deadline
//! ```
//!
//! An attempt that fails in the middle of its answer is never shown as an answer: whoever listens is told that what came so far is
//! void, and hears the next attempt from its beginning. Every attempt is in the record of the action, however that ended.
//!
//! - [`decide`]: which errors are worth another attempt. Pure.
//! - [`backoff`]: how long to wait before it. Pure.
//! - [`budget`]: how many retries a provider's traffic pays for. Pure.
//! - [`listen`]: one attempt, heard piece by piece.
//! - [`tried`]: what was tried. Pure.

pub mod backoff;
pub mod budget;
pub mod decide;
pub mod listen;
pub mod tried;

use paw_llm::{ChatRequest, LlmError};
use tokio::time::{Instant, sleep_until};

pub use listen::{Listener, Spoken};
pub use tried::Tried;

use crate::{clock::now_ms, providers::Known};

/// Asks a provider until it has answered, an error is final, or no retry is left; what the last attempt failed with is then told.
/// Dropping the future ends it, and its connection; what was `tried` tells of that attempt, too.
///
/// # Errors
/// When there is no answer.
pub async fn ask(
    name: &str,
    known: &Known,
    request: ChatRequest,
    listener: &mut Listener,
    tried: &mut Tried,
    deadline: Instant,
) -> Result<Spoken, LlmError> {
    known.budget(budget::Budget::asked);
    let (mut retries, mut waits) = (0, 0);
    loop {
        tried.begin(name, &request.model, now_ms(), Instant::now());
        let said = listen::speak(&known.client, request.clone(), listener, tried).await;
        known.note(&said);
        let outcome = said.as_ref().map_or_else(LlmError::kind, |_| "ok");
        tried.end(outcome, Instant::now());
        let error = match said {
            Ok(spoken) => return Ok(spoken),
            Err(error) => error,
        };
        // A model that is loading is no outage: it is waited for, and that is no retry.
        let loading = matches!(error, LlmError::Loading { .. });
        let until = decide::again(&error)
            .map(|at_least| {
                Instant::now() + backoff::wait(waits, at_least, random().unwrap_or(u64::MAX))
            })
            .filter(|until| *until < deadline)
            .filter(|_| {
                loading
                    || (retries < known.settings.max_retries && known.budget(budget::Budget::take))
            });
        let Some(until) = until else {
            return Err(error);
        };
        waits += 1;
        if !loading {
            retries += 1;
        }
        listener.begin_again(name, &request.model, outcome).await;
        sleep_until(until).await;
    }
}

/// Without a random number the longest wait is chosen.
fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}
