//! One answer on its way: reads the network, feeds the decoder, watches the clock.
//!
//! ```text
//! waiting ─ record ─▶ flowing ─ terminator ─▶ draining ─ end of body ─▶ over
//!    └──────── error ────┴──────────────────────────────────────────────▶ over
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Response;
use tokio::time::{Instant, timeout, timeout_at};

use crate::chat::{ChatEvent, Usage};
use crate::config::Timeouts;
use crate::error::{Level, LlmError};
use crate::wire::Decoder;

/// After the terminator the body's end is at most a packet away. Reading it lets the connection be used again; a provider
/// that keeps it open loses the connection instead.
const DRAIN: Duration = Duration::from_millis(50);

/// An answer that is on its way. Dropping it closes the connection to the provider, which stops the model's work.
pub struct ChatStream {
    /// `None` when the stream is over.
    response: Option<Response>,
    decoder: Decoder,
    ready: VecDeque<ChatEvent>,
    failed: Option<LlmError>,
    started: Instant,
    /// Since when the next record is waited for; `None` while nobody waits.
    waiting: Option<Instant>,
    timeouts: Timeouts,
    told: Told,
}

/// What a stream has told of its usage so far; it is known when the stream breaks off or is dropped, too. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<Usage>>);

impl Told {
    /// As it was last told.
    #[must_use]
    pub fn so_far(&self) -> Usage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was told anew.
    pub fn tell(&self, usage: Usage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }
}

/// The limit that passes first.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) level: Level,
    pub(crate) after: Duration,
}

impl Deadline {
    pub(crate) fn new(from: Instant, after: Duration, level: Level) -> Self {
        Self {
            at: from + after,
            level,
            after,
        }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    pub(crate) fn passed(self) -> LlmError {
        LlmError::TimedOut {
            level: self.level,
            after: self.after,
        }
    }
}

impl ChatStream {
    pub(crate) fn new(
        response: Response,
        decoder: Decoder,
        started: Instant,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            response: Some(response),
            decoder,
            ready: VecDeque::new(),
            failed: None,
            started,
            waiting: None,
            timeouts,
            told: Told::default(),
        }
    }

    /// Tells there what is known of its usage, from now on.
    #[must_use]
    pub fn telling(self, told: Told) -> Self {
        Self { told, ..self }
    }

    /// The next event, or `None` when the stream is over: after `Done`, or after the one error.
    ///
    /// Nothing is lost when the returned future is dropped before it is ready. Call it once more after `Done` and take
    /// its `None`: that gives the connection back for the next question.
    pub async fn next(&mut self) -> Option<Result<ChatEvent, LlmError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Some(error) = self.failed.take() {
                self.response = None;
                return Some(Err(error));
            }
            if self.decoder.is_done() {
                self.drain().await;
                return None;
            }
            let response = self.response.as_mut()?;
            // A provider that floods us with comments is always ready to be read and must not starve other tasks.
            tokio::task::coop::consume_budget().await;
            // The timer below is asked only when the network has nothing, so the outermost limit is asked here.
            let total = Deadline::new(self.started, self.timeouts.total, Level::Total);
            let now = Instant::now();
            if now >= total.at {
                self.failed = Some(total.passed());
                continue;
            }
            let waiting = *self.waiting.get_or_insert(now);
            let deadline = total.or(match self.decoder.records() {
                0 => Deadline::new(self.started, self.timeouts.first_token, Level::FirstToken),
                _ => Deadline::new(waiting, self.timeouts.stall, Level::Stall),
            });
            let outcome = match timeout_at(deadline.at, response.chunk()).await {
                Err(_) => Err(deadline.passed()),
                Ok(Err(error)) => Err(LlmError::Cut {
                    source: Some(Box::new(error.without_url())),
                }),
                Ok(Ok(None)) => self.decoder.finish(&mut self.ready),
                Ok(Ok(Some(bytes))) => {
                    let before = self.decoder.records();
                    let outcome = self.decoder.push(&bytes, &mut self.ready);
                    if self.decoder.records() > before {
                        self.waiting = None;
                        self.told.tell(self.decoder.usage());
                    }
                    outcome
                }
            };
            // What came before the fault is delivered before it.
            self.failed = outcome.err();
        }
    }

    async fn drain(&mut self) {
        if let Some(response) = &mut self.response {
            let _end_or_error_or_late = timeout(DRAIN, async {
                while let Ok(Some(_)) = response.chunk().await {}
            })
            .await;
            self.response = None;
        }
    }
}
