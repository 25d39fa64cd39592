//! The questions that wait for a person, each with its digest and its end.

use std::collections::{BTreeMap, BTreeSet};

use paw_policy::Digest;
use uuid::Uuid;

/// The open questions.
#[derive(Debug, Default)]
pub struct Questions {
    open: BTreeMap<Uuid, Question>,
    by_expiry: BTreeSet<(u64, Uuid)>,
}

#[derive(Debug, Clone, Copy)]
struct Question {
    digest: Digest,
    expires_ms: u64,
}

/// Why an answer is refused. The question, if there is one, stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnswered {
    /// Nothing waits under this id, or not any more.
    #[error("nothing waits for an answer under this id")]
    NotWaiting,
    /// The answer names another plan than the one that waits.
    #[error("the answer names another digest than the plan that waits")]
    OtherDigest,
    /// It came too late.
    #[error("the question has expired")]
    Expired,
}

impl Questions {
    /// Asks. A question with the same id is replaced: an action has only one.
    pub fn ask(&mut self, id: Uuid, digest: Digest, expires_ms: u64) {
        self.drop(id);
        self.open.insert(id, Question { digest, expires_ms });
        self.by_expiry.insert((expires_ms, id));
    }

    /// Takes an answer: if it fits, the question is closed, and no second answer will fit.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn answer(&mut self, id: Uuid, digest: Digest, now_ms: u64) -> Result<(), NotAnswered> {
        let question = *self.open.get(&id).ok_or(NotAnswered::NotWaiting)?;
        if now_ms >= question.expires_ms {
            return Err(NotAnswered::Expired);
        }
        if digest != question.digest {
            return Err(NotAnswered::OtherDigest);
        }
        self.drop(id);
        Ok(())
    }

    /// Takes a question back.
    pub fn drop(&mut self, id: Uuid) {
        if let Some(question) = self.open.remove(&id) {
            self.by_expiry.remove(&(question.expires_ms, id));
        }
    }

    /// Takes out every question whose time has come.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Uuid> {
        let mut expired = Vec::new();
        while let Some((at, id)) = self
            .by_expiry
            .first()
            .copied()
            .filter(|(at, _)| *at <= now_ms)
        {
            self.by_expiry.remove(&(at, id));
            self.open.remove(&id);
            expired.push(id);
        }
        expired
    }

    /// When the next question expires, in milliseconds since 1970.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.by_expiry.first().map(|(at, _)| *at)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The ids of those that wait, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.open.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(7);

    fn asked() -> (Questions, Digest) {
        let (mut questions, digest) = (Questions::default(), Digest::of(b"plan"));
        questions.ask(ID, digest, 1_000);
        (questions, digest)
    }

    #[test]
    fn a_question_is_answered_once() {
        let (mut questions, digest) = asked();
        assert_eq!(questions.answer(ID, digest, 999), Ok(()));
        assert_eq!(
            questions.answer(ID, digest, 999),
            Err(NotAnswered::NotWaiting)
        );
    }

    #[test]
    fn another_digest_does_not_answer_and_leaves_the_question_open() {
        let (mut questions, digest) = asked();
        assert_eq!(
            questions.answer(ID, Digest::of(b"other"), 1),
            Err(NotAnswered::OtherDigest)
        );
        assert_eq!(questions.answer(ID, digest, 1), Ok(()));
    }

    #[test]
    fn an_expired_question_cannot_be_answered() {
        let (mut questions, digest) = asked();
        assert_eq!(
            questions.answer(ID, digest, 1_000),
            Err(NotAnswered::Expired)
        );
        assert_eq!(questions.expire(999), Vec::<Uuid>::new());
        assert_eq!(questions.expire(1_000), [ID]);
        assert_eq!(
            questions.answer(ID, digest, 1),
            Err(NotAnswered::NotWaiting)
        );
        assert!(questions.is_empty());
        assert_eq!(questions.next_expiry(), None);
    }

    #[test]
    fn questions_expire_in_the_order_of_their_ends() {
        let mut questions = Questions::default();
        for (number, at) in [(1, 30), (2, 10), (3, 20)] {
            questions.ask(Uuid::from_u128(number), Digest::of(b"x"), at);
        }
        assert_eq!(questions.next_expiry(), Some(10));
        assert_eq!(
            questions.expire(20),
            [Uuid::from_u128(2), Uuid::from_u128(3)]
        );
        assert_eq!(questions.len(), 1);
    }
}
