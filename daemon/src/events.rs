//! News for whoever listens: numbered without gaps, the last ones kept, a slow reader is cut and told where to resume.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use paw_api::events::Event;
use tokio::sync::broadcast;

/// How many are kept for those who come late or read slowly.
pub const KEPT: usize = 1024;

/// The news of this life of pawd.
#[derive(Debug)]
pub struct News {
    kept: Mutex<Kept>,
    live: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Kept {
    seq: u64,
    last: VecDeque<Event>,
}

/// A place in the news: what was kept, then what comes.
#[derive(Debug)]
pub struct Reader {
    /// What was kept after the number that was asked for.
    pub kept: VecDeque<Event>,
    /// What comes after it.
    pub live: broadcast::Receiver<Event>,
}

/// What was asked for is no longer kept, or was never said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events after {asked} are not kept; the oldest that can follow is {oldest}")]
pub struct Gone {
    /// What was asked for.
    pub asked: u64,
    /// The least number after which everything is kept.
    pub oldest: u64,
}

impl Default for News {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            live: broadcast::Sender::new(KEPT),
        }
    }
}

impl News {
    /// Says something, at this time, about this action if about one.
    pub fn say(&self, at: u64, event: &str, action: Option<String>, text: impl Into<String>) {
        self.tell(at, event, action, text.into(), None);
    }

    /// Says something that is for this user.
    pub fn say_to(
        &self,
        owner: u32,
        at: u64,
        event: &str,
        action: Option<String>,
        text: impl Into<String>,
    ) {
        self.tell(at, event, action, text.into(), Some(owner));
    }

    fn tell(&self, at: u64, event: &str, action: Option<String>, text: String, owner: Option<u32>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.seq += 1;
        let event = Event {
            seq: kept.seq,
            at,
            event: event.to_owned(),
            action,
            text,
            owner,
        };
        if kept.last.len() == KEPT {
            kept.last.pop_front();
        }
        // Sent while the lock is held, so that nobody sees two numbers in the wrong order; whoever begins to listen does so under it, too.
        if self.live.receiver_count() > 0 {
            drop(self.live.send(event.clone()));
        }
        kept.last.push_back(event);
    }

    /// How many are kept; at most [`KEPT`].
    #[must_use]
    pub fn kept(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last.len()
    }

    /// A reader of everything after number `after`, or of what comes from now on.
    ///
    /// # Errors
    /// When what follows `after` is no longer kept, or `after` was not said yet.
    pub fn read(&self, after: Option<u64>) -> Result<Reader, Gone> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let oldest = kept.last.front().map_or(kept.seq, |event| event.seq - 1);
        match after {
            None => Ok(Reader {
                kept: VecDeque::new(),
                live,
            }),
            Some(asked) if asked < oldest || asked > kept.seq => Err(Gone { asked, oldest }),
            Some(asked) => Ok(Reader {
                kept: kept
                    .last
                    .iter()
                    .filter(|event| event.seq > asked)
                    .cloned()
                    .collect(),
                live,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(count: usize) -> News {
        let news = News::default();
        (0..count).for_each(|number| news.say(number as u64, "test", None, "x"));
        news
    }

    #[test]
    fn a_late_reader_gets_what_was_kept_without_gaps() {
        let reader = said(5).read(Some(2)).unwrap();
        assert_eq!(
            reader
                .kept
                .iter()
                .map(|event| event.seq)
                .collect::<Vec<_>>(),
            [3, 4, 5]
        );
    }

    #[test]
    fn what_is_no_longer_kept_is_said_to_be_gone() {
        let news = said(KEPT + 10);
        assert_eq!(
            news.read(Some(9)).unwrap_err(),
            Gone {
                asked: 9,
                oldest: 10
            }
        );
        assert_eq!(news.read(Some(10)).unwrap().kept.len(), KEPT);
    }

    #[test]
    fn a_number_of_an_earlier_life_is_gone() {
        assert_eq!(
            said(3).read(Some(4)).unwrap_err(),
            Gone {
                asked: 4,
                oldest: 0
            }
        );
    }
}
