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
//! void, and hears the next attempt from its beginning. Every attempt is told in the end.
//!
//! - [`decide`]: which errors are worth another attempt. Pure.
//! - [`backoff`]: how long to wait before it. Pure.
//! - [`budget`]: how many retries a provider's traffic pays for. Pure.
//! - [`listen`]: one attempt, heard piece by piece.

pub mod backoff;
pub mod budget;
pub mod decide;
pub mod listen;

use std::time::Duration;

use paw_api::provider::Attempt;
use paw_llm::{ChatRequest, LlmError};
use tokio::time::{Instant, sleep_until};

pub use listen::{Listener, Spoken};

use crate::providers::Known;

/// What a question came to.
#[derive(Debug)]
pub struct Told {
    /// The answer, or what the last attempt failed with.
    pub answer: Result<Spoken, LlmError>,
    /// Every attempt in order; waiting for a model that loads is one.
    pub attempts: Vec<Attempt>,
}

/// Asks a provider until it has answered, an error is final, or no retry is left. Dropping the future ends it, and its connection.
pub async fn ask(
    name: &str,
    known: &Known,
    request: ChatRequest,
    listener: &mut Listener,
    deadline: Instant,
) -> Told {
    known.budget(budget::Budget::asked);
    let (mut attempts, mut retries, mut waits) = (Vec::new(), 0, 0);
    loop {
        let began = Instant::now();
        let said = listen::speak(&known.client, request.clone(), listener).await;
        known.note(&said);
        let outcome = said.as_ref().map_or_else(LlmError::kind, |_| "ok");
        note(
            &mut attempts,
            Attempt {
                provider: name.to_owned(),
                model: request.model.clone(),
                outcome: outcome.to_owned(),
                ms: millis(began.elapsed()),
            },
        );
        let error = match said {
            Ok(spoken) => {
                return Told {
                    answer: Ok(spoken),
                    attempts,
                };
            }
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
            return Told {
                answer: Err(error),
                attempts,
            };
        };
        waits += 1;
        if !loading {
            retries += 1;
        }
        listener.begin_again(name, &request.model, outcome).await;
        sleep_until(until).await;
    }
}

/// Adds an attempt. Looking again and again whether a model is loaded is one attempt that lasts.
fn note(attempts: &mut Vec<Attempt>, attempt: Attempt) {
    match attempts.last_mut() {
        Some(last) if last.outcome == "loading" && attempt.outcome == "loading" => {
            last.ms += attempt.ms;
        }
        _ => attempts.push(attempt),
    }
}

/// Without a random number the longest wait is chosen.
fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
