//! The questions that wait for a person, each with its digest and its end.
//!
//! Equal ones are one question to people: the same plan, asked for by the same user and agents with data of the same origins. Each action behind it
//! waits for itself, expires for itself and is done for itself, with the plan that is stored with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use paw_policy::{Digest, TaintSet};
use uuid::Uuid;

/// The most actions that wait for one answer; the next one that is equal begins another question.
const FOLDED: usize = 64;

/// The open questions. A hundred thousand may wait, so of each as little is kept as it takes to find, count, close and answer it.
#[derive(Debug, Default)]
pub struct Questions {
    open: BTreeMap<Uuid, Kept>,
    by_expiry: BTreeSet<(u64, Uuid)>,
    /// What is asked once for several, and which those are, oldest first.
    groups: BTreeSet<(Group, Uuid)>,
    /// The oldest of each group: what people are asked.
    asked: BTreeSet<Uuid>,
    /// How many each user has; nobody is in it who has none.
    of_users: BTreeMap<u32, usize>,
}

/// What an action waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The plan.
    pub digest: Digest,
    /// When nobody can answer any more.
    pub expires_ms: u64,
    /// Who asked for it.
    pub uid: u32,
    /// Where its data came from.
    pub taint: TaintSet,
    /// By which way it came in and which agents asked; empty where a person asked the agent itself.
    pub way: Box<str>,
}

/// What is kept of a question.
#[derive(Debug)]
struct Kept {
    digest: Digest,
    expires_ms: u64,
    uid: u32,
    group: Group,
}

/// A digest of what makes questions equal: the plan, who wants it, where its data came from, and by which way it came in. The number tells
/// groups apart of which the first is full.
type Group = (Digest, u32);

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
    pub fn ask(&mut self, id: Uuid, question: Question) {
        self.drop(id);
        self.by_expiry.insert((question.expires_ms, id));
        let mut group = (alike(&question), 0);
        while self.members(group).count() >= FOLDED {
            group.1 += 1;
        }
        if let Some(first) = self.first(group) {
            self.asked.remove(&first);
        }
        self.groups.insert((group, id));
        self.asked.extend(self.first(group));
        *self.of_users.entry(question.uid).or_default() += 1;
        let Question {
            digest,
            expires_ms,
            uid,
            ..
        } = question;
        let kept = Kept {
            digest,
            expires_ms,
            uid,
            group,
        };
        self.open.insert(id, kept);
    }

    /// The digest of the plan that this action waits with, if it does.
    #[must_use]
    pub fn digest(&self, id: Uuid) -> Option<Digest> {
        self.open.get(&id).map(|question| question.digest)
    }

    /// Whether an answer fits; the question stays open.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn fits(&self, id: Uuid, digest: Digest, now_ms: u64) -> Result<(), NotAnswered> {
        let question = self.open.get(&id).ok_or(NotAnswered::NotWaiting)?;
        if now_ms >= question.expires_ms {
            return Err(NotAnswered::Expired);
        }
        if digest != question.digest {
            return Err(NotAnswered::OtherDigest);
        }
        Ok(())
    }

    /// Takes a question back, or closes it: no answer fits any more.
    pub fn drop(&mut self, id: Uuid) {
        let Some(question) = self.open.remove(&id) else {
            return;
        };
        self.by_expiry.remove(&(question.expires_ms, id));
        self.asked.remove(&id);
        if let Some(count) = self.of_users.get_mut(&question.uid) {
            *count -= 1;
            if *count == 0 {
                self.of_users.remove(&question.uid);
            }
        }
        self.groups.remove(&(question.group, id));
        self.asked.extend(self.first(question.group));
    }

    /// Those that wait for the same answer as this one, itself among them, oldest first.
    #[must_use]
    pub fn together(&self, id: Uuid) -> Vec<Uuid> {
        let question = self.open.get(&id);
        question
            .into_iter()
            .flat_map(|question| self.members(question.group))
            .collect()
    }

    /// The questions whose time has come, the first that came first, at most so many. They stay until they are closed.
    #[must_use]
    pub fn expired(&self, now_ms: u64, most: usize) -> Vec<Uuid> {
        let expired = self.by_expiry.iter().take_while(|(at, _)| *at <= now_ms);
        expired.take(most).map(|(_, id)| *id).collect()
    }

    /// Has a question expire then, and not when it said.
    pub fn postpone(&mut self, id: Uuid, until_ms: u64) {
        if let Some(question) = self.open.get_mut(&id) {
            self.by_expiry.remove(&(question.expires_ms, id));
            question.expires_ms = until_ms;
            self.by_expiry.insert((until_ms, id));
        }
    }

    /// When the next question expires, in milliseconds since 1970.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.by_expiry.first().map(|(at, _)| *at)
    }

    /// How many actions wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// How many of this user wait.
    #[must_use]
    pub fn of(&self, uid: u32) -> usize {
        self.of_users.get(&uid).copied().unwrap_or(0)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What people are asked, oldest first, after this one, and for how many actions each is; at most so many.
    pub fn asked(
        &self,
        after: Option<Uuid>,
        most: usize,
    ) -> impl Iterator<Item = (Uuid, usize)> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let asked = self.asked.range((from, Bound::Unbounded)).take(most);
        asked.map(|id| (*id, self.count(*id)))
    }

    /// How many wait for the same answer as this one.
    fn count(&self, id: Uuid) -> usize {
        let question = self.open.get(&id);
        question.map_or(1, |question| self.members(question.group).count())
    }

    fn first(&self, group: Group) -> Option<Uuid> {
        self.members(group).next()
    }

    /// Those of a group, oldest first.
    fn members(&self, group: Group) -> impl Iterator<Item = Uuid> + '_ {
        let all = (group, Uuid::nil())..=(group, Uuid::max());
        self.groups.range(all).map(|(_, id)| *id)
    }
}

/// What equal questions have in common. Each part has a length of its own or is behind the one byte that is in no label.
fn alike(question: &Question) -> Digest {
    let mut parts = question.digest.as_bytes().to_vec();
    parts.extend_from_slice(&question.uid.to_be_bytes());
    for taint in question.taint.iter() {
        parts.extend_from_slice(taint.as_str().as_bytes());
        parts.push(0);
    }
    parts.push(0);
    parts.extend_from_slice(question.way.as_bytes());
    Digest::of(&parts)
}

#[cfg(test)]
mod tests {
    use paw_policy::Taint;
    use proptest::prelude::*;

    use super::*;

    const ID: Uuid = id(7);

    const fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn question(plan: &[u8], uid: u32, taint: Taint, expires_ms: u64) -> Question {
        Question {
            digest: Digest::of(plan),
            expires_ms,
            uid,
            taint: TaintSet::of(taint),
            way: Box::default(),
        }
    }

    fn asked() -> (Questions, Digest) {
        let mut questions = Questions::default();
        questions.ask(ID, question(b"plan", 1, Taint::User, 1_000));
        (questions, Digest::of(b"plan"))
    }

    #[test]
    fn a_question_that_was_closed_takes_no_answer() {
        let (mut questions, digest) = asked();
        assert_eq!(questions.fits(ID, digest, 999), Ok(()));
        questions.drop(ID);
        assert_eq!(
            questions.fits(ID, digest, 999),
            Err(NotAnswered::NotWaiting)
        );
    }

    #[test]
    fn questions_are_counted_by_who_asks() {
        let (mut questions, _) = asked();
        // One that is asked anew is the same.
        questions.ask(ID, question(b"other", 1, Taint::User, 1_000));
        questions.ask(id(8), question(b"plan", 2, Taint::User, 2_000));
        assert_eq!([1, 2, 3].map(|uid| questions.of(uid)), [1, 1, 0]);
        for id in questions.expired(1_000, 9).into_iter().chain([id(9)]) {
            questions.drop(id);
        }
        assert_eq!([1, 2].map(|uid| questions.of(uid)), [0, 1]);
    }

    #[test]
    fn another_digest_does_not_answer() {
        let (questions, digest) = asked();
        let other = Digest::of(b"other");
        assert_eq!(questions.fits(ID, other, 1), Err(NotAnswered::OtherDigest));
        assert_eq!(questions.fits(ID, digest, 1), Ok(()));
    }

    /// Who sees that a person asked must not answer for what another agent asked.
    #[test]
    fn what_came_by_another_way_is_another_question() {
        let mut questions = Questions::default();
        for (number, way) in [(1, ""), (2, "asked by lead"), (3, "")] {
            let question = Question {
                way: way.into(),
                ..question(b"plan", 1, Taint::User, 1_000)
            };
            questions.ask(id(number), question);
        }
        assert_eq!(questions.together(id(1)), [id(1), id(3)]);
        assert_eq!(questions.together(id(2)), [id(2)]);
        questions.drop(id(2));
        assert_eq!(questions.together(id(1)), [id(1), id(3)]);
    }

    #[test]
    fn an_expired_question_cannot_be_answered() {
        let (mut questions, digest) = asked();
        assert_eq!(questions.fits(ID, digest, 1_000), Err(NotAnswered::Expired));
        assert_eq!(questions.expired(999, 9), Vec::<Uuid>::new());
        assert_eq!(questions.expired(1_000, 9), [ID]);
        questions.drop(ID);
        assert_eq!(questions.fits(ID, digest, 1), Err(NotAnswered::NotWaiting));
        assert!(questions.is_empty());
        assert_eq!(questions.next_expiry(), None);
    }

    #[test]
    fn questions_expire_in_the_order_of_their_ends() {
        let mut questions = Questions::default();
        for (number, at) in [(1, 30), (2, 10), (3, 20)] {
            questions.ask(id(number), question(b"x", 1, Taint::User, at));
        }
        assert_eq!(questions.next_expiry(), Some(10));
        assert_eq!(questions.expired(20, 9), [id(2), id(3)]);
        assert_eq!(questions.expired(20, 1), [id(2)]);
        questions.postpone(id(2), 21);
        assert_eq!(questions.expired(20, 9), [id(3)]);
        assert_eq!(questions.expired(21, 9), [id(3), id(2)]);
        assert_eq!(questions.len(), 3, "they stay until they are closed");
    }

    #[test]
    fn equal_questions_are_asked_once() {
        let mut questions = Questions::default();
        let ask = |questions: &mut Questions, number, plan: &[u8], uid, taint| {
            questions.ask(id(number), question(plan, uid, taint, 9));
        };
        ask(&mut questions, 1, b"a", 1, Taint::User);
        ask(&mut questions, 2, b"a", 1, Taint::User);
        ask(&mut questions, 3, b"b", 1, Taint::User);
        ask(&mut questions, 4, b"a", 2, Taint::User);
        ask(&mut questions, 5, b"a", 1, Taint::Web);
        ask(&mut questions, 6, b"a", 1, Taint::User);
        let shown = |questions: &Questions, after, most| -> Vec<(u128, usize)> {
            let asked = questions.asked(after, most);
            asked.map(|(id, count)| (id.as_u128(), count)).collect()
        };
        assert_eq!(shown(&questions, None, 9), [(1, 3), (3, 1), (4, 1), (5, 1)]);
        assert_eq!(shown(&questions, Some(id(1)), 2), [(3, 1), (4, 1)]);
        assert_eq!(questions.together(id(2)), [id(1), id(2), id(6)]);
        assert_eq!(questions.len(), 6);
        questions.drop(id(1));
        assert_eq!(
            shown(&questions, None, 1),
            [(2, 2)],
            "the next one stands for them"
        );
    }

    proptest! {
        /// Whatever is asked and closed: each that is open is in exactly one question that people see, and none is too long.
        #[test]
        fn every_open_action_is_behind_one_question(steps in prop::collection::vec((0_u128..150, 0_u8..3, any::<bool>()), 0..400)) {
            let mut questions = Questions::default();
            for (number, plan, close) in steps {
                if close {
                    questions.drop(id(number));
                } else {
                    questions.ask(id(number), question(&[plan], 1, Taint::User, 9));
                }
                let asked: Vec<(Uuid, usize)> = questions.asked(None, usize::MAX).collect();
                let behind: BTreeSet<Uuid> = asked.iter().flat_map(|(id, _)| questions.together(*id)).collect();
                prop_assert!(behind.iter().eq(questions.open.keys()));
                prop_assert_eq!(asked.iter().map(|(_, count)| count).sum::<usize>(), questions.len());
                prop_assert!(asked.iter().all(|(_, count)| *count <= FOLDED));
            }
        }
    }
}
