//! Chats in whose name a person is being asked something now, as other chats that wait for them see it.
//!
//! The time of a chat does not pass while a person is asked, and neither does that of the chat which asked it, and so on. Whoever waits says so
//! here and takes it back; at most every chat that is being executed, or rests while it waits, is in it.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;
use uuid::Uuid;

/// Which chats those are.
#[derive(Debug, Clone)]
pub struct Persons(Arc<watch::Sender<BTreeSet<Uuid>>>);

/// A person is asked for this chat, until this is dropped.
#[derive(Debug)]
pub(super) struct Waits {
    persons: Persons,
    chat: Uuid,
}

impl Default for Persons {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Persons {
    /// A person is asked for this chat.
    pub(super) fn wait_for(&self, chat: Uuid) -> Waits {
        self.0.send_if_modified(|chats| chats.insert(chat));
        Waits {
            persons: self.clone(),
            chat,
        }
    }

    /// The chats for which a person is asked, as they change.
    pub(super) fn watch(&self) -> watch::Receiver<BTreeSet<Uuid>> {
        self.0.subscribe()
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let Self { persons, chat } = self;
        persons.0.send_if_modified(|chats| chats.remove(chat));
    }
}
