//! What a model wrote, looked through before anybody hears of it: for the mark of its instructions, and for keys.
//!
//! ```text
//!  mark in the answer ──► it is withheld        ┐
//!  mark in a call ──────► the call is refused   ├─► on record, and the conversation is `suspicious` from then on
//!  a key in either ─────► it goes on            ┘
//! ```
//!
//! With `suspicious`, whatever the model calls after that is asked for. A key is no reason to withhold an answer: people ask for examples.

use paw_api::audit::{Entry, Event};
use paw_llm::Message;
use paw_policy::{
    Taint, TaintSet,
    guard::secrets::{Canary, secrets_in},
};

use super::{Turn, ask::Answer};
use crate::{canaries, records::actor, screen};

/// In place of an answer.
const WITHHELD: &str = "(The answer is withheld: it showed the mark of the instructions. What was asked may have been meant to bring them out.)";

/// In place of what a call passes. It is no JSON, so nothing can be called with it.
pub(super) const WITHHELD_ARGUMENTS: &str = "(withheld: they held the mark of the instructions)";

/// Has the mark stand at the end of the instructions; where there are none, there is nothing to be shown.
pub(in crate::agent) fn mark(messages: &mut [Message], canary: &Canary) {
    if let Some(Message::System(text)) = messages.first_mut()
        && !text.is_empty()
    {
        text.push_str("\n\n");
        text.push_str(&canaries::told(canary));
    }
}

impl Turn<'_> {
    /// Looks an answer through. What is in it afterwards may be told, stored and called.
    pub(super) async fn look_through(&mut self, answer: &mut Answer) {
        self.listener.rest().await;
        let spoken = &mut answer.spoken;
        let mut keys: Vec<&'static str> =
            secrets_in(&spoken.text).iter().map(|it| it.what).collect();
        let mut marked = Vec::new();
        for call in &mut spoken.calls {
            let (found, holds_mark) = screen::leaves(&call.arguments, &self.canary);
            keys.extend(found);
            if holds_mark || self.canary.is_in(&call.name) {
                call.arguments = WITHHELD_ARGUMENTS.into();
                marked.push("call");
            }
        }
        if self.canary.is_in(&spoken.text) {
            spoken.text = WITHHELD.into();
            marked.push("answer");
            // Pieces of it were told before it could be seen.
            self.listener
                .begin_again(&answer.target, "it showed the mark of the instructions")
                .await;
            self.listener.hear(WITHHELD.into()).await;
        }
        if marked.is_empty() && keys.is_empty() {
            return;
        }
        self.taint = std::mem::take(&mut self.taint).with(&TaintSet::of(Taint::Suspicious));
        keys.sort_unstable();
        keys.dedup();
        let mut entry = Entry::new(Event::TextScreened);
        entry.action = Some(self.whose.id);
        entry.actor = Some(actor(self.whose.caller));
        entry.taint = Some(self.taint.clone());
        for (name, words) in [("canary", &marked), ("keys", &keys)] {
            if !words.is_empty() {
                entry.detail.insert(name.into(), words.join(" "));
            }
        }
        entry
            .detail
            .insert("session".into(), self.ready.session.to_string());
        // It grants nothing: what is withheld stays so, and the label is stored with the conversation.
        if let Err(error) = self.agents.audit.soon(entry).await {
            tracing::warn!(paw_action = %self.whose.id, error = %error, "what a model wrote was screened, and that is not in the audit log");
        }
    }
}
