//! One attempt, heard piece by piece.

use paw_api::provider::ChatEvent;
use paw_llm::{ChatRequest, Done, Finish, LlmError, Provider};
use tokio::{sync::mpsc, time::Instant};

use super::{Tried, breakers::Pass};
use crate::orchestrator::work::Progress;

/// The longest answer that is kept, in bytes. A model that goes on is stopped and the answer marked as cut by length.
const MAX_ANSWER: usize = 128 * 1024;

/// An answer that came to its end.
#[derive(Debug)]
pub struct Spoken {
    /// What was said.
    pub text: String,
    /// How it ended.
    pub done: Done,
}

/// Who hears the pieces. A listener that is gone does not end an attempt: its caller cancels for that.
#[derive(Debug)]
pub struct Listener {
    to: Option<mpsc::Sender<ChatEvent>>,
    seq: u64,
}

impl Listener {
    /// Who hears the pieces of a chat; nobody, of what is not one.
    #[must_use]
    pub fn new(progress: Progress) -> Self {
        let to = match progress {
            Progress::Chat(to) => Some(to),
            Progress::None | Progress::Run { .. } => None,
        };
        Self { to, seq: 0 }
    }

    /// Hears a piece of the answer.
    pub async fn hear(&mut self, text: String) {
        let seq = self.seq;
        self.seq += 1;
        self.tell(ChatEvent::Delta { seq, text }).await;
    }

    /// Whether a piece of the attempt that is under way was heard.
    #[must_use]
    pub const fn has_heard(&self) -> bool {
        self.seq > 0
    }

    /// What was heard so far is void; without a piece there is nothing to be told.
    pub async fn begin_again(&mut self, provider: &str, model: &str, why: &str) {
        if self.seq > 0 {
            self.seq = 0;
            self.tell(ChatEvent::StreamReset {
                provider: provider.to_owned(),
                model: model.to_owned(),
                why: why.to_owned(),
            })
            .await;
        }
    }

    async fn tell(&mut self, event: ChatEvent) {
        if let Some(to) = &self.to
            && to.send(event).await.is_err()
        {
            self.to = None;
        }
    }
}

/// Sends the request and passes the pieces on.
///
/// # Errors
/// When the answer does not come to its terminator.
pub async fn speak(
    client: &Provider,
    request: ChatRequest,
    listener: &mut Listener,
    tried: &mut Tried,
    pass: Option<&mut Pass>,
) -> Result<Spoken, LlmError> {
    let mut stream = client.chat(request).await?;
    let (mut text, mut end, mut pass) = (String::new(), None, pass);
    while let Some(event) = stream.next().await {
        match event? {
            paw_llm::ChatEvent::Text(piece) if end.is_none() => {
                if text.len() + piece.len() > MAX_ANSWER {
                    end = Some(Done {
                        finish: Finish::Length,
                        usage: paw_llm::Usage::default(),
                        model: None,
                    });
                    break;
                }
                tried.heard(piece.len(), Instant::now());
                if let Some(pass) = pass.take() {
                    pass.heard();
                }
                text.push_str(&piece);
                listener.hear(piece).await;
            }
            // It was told of no tool, and what was cut says nothing any more.
            paw_llm::ChatEvent::Text(_) | paw_llm::ChatEvent::ToolCall(_) => {}
            paw_llm::ChatEvent::Done(done) => end = Some(done),
        }
    }
    match end {
        Some(done) => Ok(Spoken { text, done }),
        None => Err(LlmError::Cut { source: None }),
    }
}
