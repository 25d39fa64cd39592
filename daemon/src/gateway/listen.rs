//! One attempt, heard piece by piece.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, stream};
use paw_api::provider::{ChatEvent, ToolCalled};
use paw_llm::{ChatRequest, ChatStream, Done, LlmError, Told, ToolCall, ToolChoice};
use paw_policy::{Target, guard::secrets::Canary};
use tokio::sync::mpsc;

use crate::{orchestrator::work::Progress, providers::Known};

/// The longest answer that is kept, in bytes. A model that goes on is stopped, and there is no answer.
const MAX_ANSWER: usize = 128 * 1024;

/// The most that all calls of one answer may pass to tools, in bytes.
const MAX_CALLED: usize = 512 * 1024;

/// An answer that came to its end.
#[derive(Debug)]
pub struct Spoken {
    /// What was said.
    pub text: String,
    /// Tools that are called, of those that the question told.
    pub calls: Vec<ToolCall>,
    /// How it ended.
    pub done: Done,
}

/// Who hears the pieces. A listener that is gone does not end an attempt: its caller cancels for that.
///
/// It hears nothing of the mark of the instructions, wherever pieces end: what may be its beginning waits for the next piece, and after
/// the mark nothing more is heard of that attempt.
#[derive(Debug)]
pub struct Listener {
    to: Option<mpsc::Sender<ChatEvent>>,
    seq: u64,
    canary: Canary,
    /// The end of what was heard, and what waits behind it.
    heard: String,
    waits: usize,
    /// The mark has come.
    stopped: bool,
}

/// How much of what was heard is looked at again with the next piece, in bytes.
const BEHIND: usize = 256;

impl Listener {
    /// Who hears the pieces of a chat; nobody, of what is not one.
    #[must_use]
    pub fn new(progress: Progress, canary: Canary) -> Self {
        let to = match progress {
            Progress::Chat(to) => Some(to),
            Progress::None
            | Progress::Run { .. }
            | Progress::Switch(_)
            | Progress::Value(_)
            | Progress::Pull { .. } => None,
        };
        Self {
            to,
            seq: 0,
            canary,
            heard: String::new(),
            waits: 0,
            stopped: false,
        }
    }

    /// Hears a piece of the answer.
    pub async fn hear(&mut self, text: String) {
        let text = self.pass(text);
        if !text.is_empty() {
            self.tell_piece(text).await;
        }
    }

    /// The answer is over: what waited is heard.
    pub async fn rest(&mut self) {
        let from = self.heard.len() - std::mem::take(&mut self.waits);
        let rest = self.heard.split_off(from);
        if !rest.is_empty() {
            self.tell_piece(rest).await;
        }
        self.forget();
    }

    /// What may be heard with this piece.
    fn pass(&mut self, text: String) -> String {
        if self.stopped {
            return String::new();
        }
        let from = self.heard.len() - self.waits;
        self.heard.push_str(&text);
        if self.canary.is_in(&self.heard) {
            self.stopped = true;
            (self.heard, self.waits) = (String::new(), 0);
            return String::new();
        }
        // What was heard of it already cannot be taken back; the rest of it waits.
        let begun = self.canary.begins_at_the_end_of(&self.heard);
        // Signs that stand so far from each other are looked for in the whole answer.
        let begun = if begun > BEHIND { 0 } else { begun };
        self.waits = begun.min(self.heard.len() - from);
        let piece = if from == self.heard.len() - text.len() && self.waits == 0 {
            text
        } else {
            self.heard[from..self.heard.len() - self.waits].to_owned()
        };
        let keep = self.heard.len().saturating_sub(BEHIND.max(self.waits));
        let keep = self.heard.floor_char_boundary(keep);
        self.heard.drain(..keep);
        piece
    }

    fn forget(&mut self) {
        (self.heard, self.waits, self.stopped) = (String::new(), 0, false);
    }

    async fn tell_piece(&mut self, text: String) {
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
    pub async fn begin_again(&mut self, by: &Target, why: &str) {
        self.forget();
        if self.seq > 0 {
            self.seq = 0;
            self.tell(ChatEvent::StreamReset {
                provider: by.provider.to_string(),
                model: by.model.clone(),
                why: why.to_owned(),
            })
            .await;
        }
    }

    /// What became of a tool that the model called. The model is asked again after that, so pieces are numbered from 0 again.
    pub async fn tool(&mut self, called: ToolCalled) {
        self.forget();
        self.seq = 0;
        self.tell(ChatEvent::Tool(called)).await;
    }

    async fn tell(&mut self, event: ChatEvent) {
        if let Some(to) = &self.to
            && to.send(event).await.is_err()
        {
            self.to = None;
        }
    }
}

/// What an attempt says next.
#[derive(Debug)]
pub(super) enum Heard {
    /// The next piece of its answer.
    Piece(String),
    /// It is over. An answer that does not come to its terminator is an error.
    Ended(Result<Spoken, LlmError>),
}

/// The answer of one attempt on its way: any number of pieces, then one end. Dropping it closes its connection.
pub(super) struct Voice(Pin<Box<dyn Stream<Item = Heard> + Send>>);

enum At {
    Asks(Arc<Known>, ChatRequest, Told),
    Hears(Box<ChatStream>, Said),
    Over,
}

/// What came so far.
#[derive(Default)]
struct Said {
    text: String,
    calls: Vec<ToolCall>,
    /// Whether it was told of a tool; what it calls otherwise is nothing.
    told: bool,
}

impl Voice {
    /// Sends the request as soon as it is listened to. What its answer says of its usage is `told` as soon as it says it.
    pub(super) fn new(known: &Arc<Known>, request: ChatRequest, told: Told) -> Self {
        let at = At::Asks(Arc::clone(known), request, told);
        Self(Box::pin(stream::unfold(at, |at| async {
            let (heard, at) = next(at).await?;
            Some((heard, at))
        })))
    }

    /// What it says next; nothing is lost between two calls.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let over = || Heard::Ended(Err(LlmError::Cut { source: None }));
        let heard = self.0.as_mut().poll_next(cx);
        heard.map(|heard| heard.unwrap_or_else(over))
    }
}

async fn next(at: At) -> Option<(Heard, At)> {
    let ended = |said| Some((Heard::Ended(said), At::Over));
    let (mut stream, mut said) = match at {
        At::Asks(known, request, told) => {
            let said = Said {
                told: !request.tools.is_empty() && request.tool_choice != ToolChoice::None,
                ..Said::default()
            };
            match known.client.chat(request).await {
                Ok(stream) => (Box::new(stream.telling(told)), said),
                Err(error) => return ended(Err(error)),
            }
        }
        At::Hears(stream, said) => (stream, said),
        At::Over => return None,
    };
    let mut end = None;
    while let Some(event) = stream.next().await {
        match event {
            Ok(paw_llm::ChatEvent::Text(piece)) if end.is_none() => {
                if said.text.len() + piece.len() > MAX_ANSWER {
                    // The stream is dropped with this, and its connection closed.
                    return ended(Err(LlmError::TooLarge {
                        what: "the answer of the model (more than 128 KiB)",
                    }));
                }
                said.text.push_str(&piece);
                return Some((Heard::Piece(piece), At::Hears(stream, said)));
            }
            Ok(paw_llm::ChatEvent::ToolCall(call)) if end.is_none() && said.told => {
                let known: usize = said.calls.iter().map(|call| call.arguments.len()).sum();
                if known + call.arguments.len() > MAX_CALLED {
                    return ended(Err(LlmError::TooLarge {
                        what: "what the model wants to call (more than 512 KiB)",
                    }));
                }
                said.calls.push(call);
            }
            // Without tools there is nothing to be called, and what has ended says nothing any more.
            Ok(paw_llm::ChatEvent::Text(_) | paw_llm::ChatEvent::ToolCall(_)) => {}
            Ok(paw_llm::ChatEvent::Done(done)) => end = Some(done),
            Err(error) => return ended(Err(error)),
        }
    }
    match end {
        Some(done) => ended(Ok(Spoken {
            text: said.text,
            calls: said.calls,
            done,
        })),
        None => ended(Err(LlmError::Cut { source: None })),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    fn listener() -> (Listener, Canary) {
        let canary = Canary::of(*b"0123456789abcdef");
        (Listener::new(Progress::None, canary.clone()), canary)
    }

    /// What is heard of these pieces, and of the end.
    fn heard(listener: &mut Listener, pieces: &[&str]) -> String {
        let mut all: String = pieces
            .iter()
            .map(|piece| listener.pass((*piece).to_owned()))
            .collect();
        let from = listener.heard.len() - listener.waits;
        all.push_str(&listener.heard[from..]);
        all
    }

    #[test]
    fn ordinary_pieces_are_heard_as_they_come() {
        let (mut listener, _) = listener();
        for piece in ["Hello", ", wörld", " abcdef 30", &"é".repeat(400), "."] {
            assert_eq!(listener.pass(piece.to_owned()), piece);
        }
        assert!(listener.heard.len() <= BEHIND + 1);
    }

    #[test]
    fn nothing_of_the_mark_is_heard_beyond_its_first_characters_however_it_is_cut() {
        let spaced = |text: &str, between: &str| {
            let signs: Vec<String> = text.chars().map(String::from).collect();
            signs.join(between)
        };
        let forms: [&dyn Fn(&str) -> String; 7] = [
            &str::to_owned,
            &str::to_uppercase,
            &|text| spaced(text, " "),
            &|text| spaced(text, "-\n"),
            &|text| text.chars().rev().collect(),
            &|text| text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            &|text| STANDARD.encode(text),
        ];
        for (number, form) in forms.into_iter().enumerate() {
            for size in 1..=40 {
                let (mut listener, canary) = listener();
                let text = format!("It is {} and more.", form(canary.text()));
                let pieces: Vec<&str> = (0..text.len())
                    .step_by(size)
                    .map(|at| &text[at..(at + size).min(text.len())])
                    .collect();
                let told = heard(&mut listener, &pieces);
                let signs = told.chars().filter(char::is_ascii_alphanumeric).count();
                assert!(signs <= "Itis".len() + 3, "{number} by {size}: {told}");
                assert!(listener.stopped, "{number} by {size}");
            }
        }
    }

    #[test]
    fn beginning_of_a_mark_that_was_none_is_heard_after_all() {
        let (mut listener, canary) = listener();
        let begins = &canary.text()[..20];
        assert_eq!(listener.pass(begins.to_owned()), "");
        let told = heard(&mut listener, &["zz", " and so on"]);
        assert_eq!(told, format!("{begins}zz and so on"));
        let told = heard(&mut listener, &["end ", begins]);
        assert!(told.ends_with(begins), "{told}");
    }
}
