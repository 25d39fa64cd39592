//! One answer, out of as many attempts at as many targets as it is worth.
//!
//! ```text
//!  question ─► who is next? ──nobody, or not before the deadline──► the last error
//!                ▲  │ a target
//!                │  ▼
//!                │ attempt ──its terminator──► answer
//!                │  │ an error
//!                │  ▼
//!                └─ decide: who may still answer this question?
//! ```
//!
//! An attempt that fails in the middle of its answer is never shown as an answer: whoever listens is told that what came so far is
//! void, and hears the next attempt from its beginning, or the error, where the route says so. Every attempt is in the record of the
//! action, however that ended.
//!
//! - [`route`]: in which order the targets of a route are asked. Pure; decided when a question is taken in.
//! - [`course`]: who is asked next, and when. Pure.
//! - [`decide`]: what an error means for that. Pure.
//! - [`backoff`]: how long to wait before a retry. Pure.
//! - [`breaker`]: whether a target is asked at all. Pure; [`breakers`]: all of them; [`look`]: what goes on beside the questions.
//! - [`sign`]: what an attempt or a check says of a target. Pure.
//! - [`budget`]: how many retries a provider's traffic pays for. Pure.
//! - [`price`]: what an attempt costs. Pure.
//! - [`kept`]: answers that are given again to who asks the same. Pure.
//! - [`listen`]: one attempt, heard piece by piece.
//! - [`tried`]: what was tried. Pure.
//! - [`why`]: why a target has no answer. Pure.

pub mod backoff;
pub mod breaker;
pub mod breakers;
pub mod budget;
pub mod course;
pub mod decide;
pub mod kept;
pub mod listen;
pub mod look;
pub mod price;
pub mod route;
pub mod sign;
pub mod tried;
pub mod why;

use std::sync::Arc;

use paw_llm::ChatRequest;
use paw_policy::Target;
use paw_store::Outlet;
use tokio::time::{Instant, sleep_until};

pub use listen::{Listener, Spoken};
pub use tried::{Bill, Tried};
pub use why::Why;

use crate::{
    clock::now_ms,
    config::routes::OnBreak,
    providers::Known,
    quota::{Quotas, Who},
};
use breakers::{Breakers, Pass};
use course::{Course, Gate, Move, Terms};

/// A target that can be asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its names.
    pub target: Target,
    /// Its provider.
    pub known: Arc<Known>,
    /// Tokens that it can hold, where that is known.
    pub context: Option<u64>,
    /// What its tokens cost.
    pub price: price::Price,
}

/// One question to whoever of these answers it.
#[derive(Debug)]
pub struct Question<'a> {
    /// Who may answer, in order; at least one.
    pub targets: &'a [Asked],
    /// Who of them is left alone.
    pub breakers: &'a Arc<Breakers>,
    /// What may be asked and spent.
    pub quotas: &'a Arc<Quotas>,
    /// For whom.
    pub who: &'a Who,
    /// What is asked; the model is each target's own.
    pub request: ChatRequest,
    /// Whether it may go on from this host to elsewhere.
    pub may_leave_host: bool,
    /// What becomes of an answer that breaks off.
    pub on_break: OnBreak,
    /// How long it is worth an answer.
    pub deadline: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Place of the target that was asked last.
    pub at: usize,
    /// Why it has no answer.
    pub why: Why,
    /// Who was left alone meanwhile, and until when, in milliseconds since 1970.
    pub left_alone: Vec<(usize, u64)>,
}

/// What stands before the targets of one question.
struct Doors<'a> {
    question: &'a Question<'a>,
    outlets: Vec<Outlet>,
    /// Leave to ask the target that is asked next.
    pass: Option<Pass>,
}

impl Doors<'_> {
    fn left_alone(&self) -> Vec<(usize, u64)> {
        let now = now_ms();
        let until = |at| self.question.breakers.refuses(&self.outlets, at, now);
        (0..self.outlets.len())
            .filter_map(|at| Some((at, until(at)?)))
            .collect()
    }
}

impl Gate for Doors<'_> {
    fn is_open(&self, at: usize) -> bool {
        let refused = self.question.breakers.refuses(&self.outlets, at, now_ms());
        refused.is_none()
    }

    fn enter(&mut self, at: usize) -> bool {
        self.pass = self.question.breakers.pass(&self.outlets, at, now_ms());
        self.pass.is_some()
    }

    fn insist(&mut self, at: usize) {
        // As one that is asked by its own name.
        let alone = std::slice::from_ref(&self.outlets[at]);
        self.pass = self.question.breakers.pass(alone, 0, now_ms());
    }

    fn pay(&mut self, at: usize) -> bool {
        self.question.targets[at].known.budget(budget::Budget::take)
    }
}

/// Asks until one has answered, an error is final, or nobody is left; gives the place of the target that did. Dropping the future
/// ends the attempt that is under way, and its connection; what was `tried` tells of that attempt, too.
///
/// # Errors
/// When there is no answer.
pub async fn ask(
    question: &Question<'_>,
    listener: &mut Listener,
    tried: &mut Tried,
) -> Result<(usize, Spoken), Unanswered> {
    let targets = question.targets;
    let terms = |asked: &Asked| Terms {
        local: asked.known.settings.is_local(),
        context: asked.context,
        max_retries: asked.known.settings.max_retries,
    };
    let mut course = Course::new(
        targets.iter().map(terms).collect(),
        question.may_leave_host,
        question.deadline,
    );
    let outlet = |asked: &Asked| breakers::outlet(&asked.target, &asked.known.settings);
    let mut doors = Doors {
        question,
        outlets: targets.iter().map(outlet).collect(),
        pass: None,
    };
    let mut heard = vec![false; targets.len()];
    let estimated = price::Tokens::of(&question.request);
    let mut last: Option<(usize, Why)> = None;
    loop {
        let step = course.next(Instant::now(), random().unwrap_or(u64::MAX), &mut doors);
        let (Move::Ask(at) | Move::Wait(at, _)) = step else {
            let (at, why) = last.expect("there is always one who is asked, and it failed");
            let left_alone = doors.left_alone();
            return Err(Unanswered {
                at,
                why,
                left_alone,
            });
        };
        let Asked {
            target,
            known,
            price,
            ..
        } = &targets[at];
        let hold = match step {
            Move::Ask(_) => {
                let answer = question.request.max_tokens;
                let quotas = question.quotas;
                match quotas.hold((question.who, target), (estimated, answer), *price) {
                    Ok(hold) => Some(hold),
                    Err(refusal) => {
                        doors.pass = None;
                        let why = Why::Quota(refusal);
                        course.failed(at, why.verdict(), Instant::now());
                        last = Some((at, why));
                        continue;
                    }
                }
            }
            Move::Wait(..) | Move::End => None,
        };
        if let Some((_, why)) = &last {
            listener
                .begin_again(target.provider.as_str(), &target.model, why.kind())
                .await;
        }
        if let Move::Wait(_, until) = step {
            doors.pass = None;
            sleep_until(until).await;
            continue;
        }
        if !std::mem::replace(&mut heard[at], true) {
            known.budget(budget::Budget::asked);
        }
        let request = ChatRequest {
            model: target.model.clone(),
            ..question.request.clone()
        };
        let terms = tried::Terms {
            price: *price,
            asked: estimated,
        };
        let names = (target.provider.as_str(), target.model.as_str());
        tried.begin(names, terms, now_ms(), Instant::now());
        hold.into_iter().for_each(|hold| tried.set_aside(hold));
        let said =
            listen::speak(&known.client, request, listener, tried, doors.pass.as_mut()).await;
        known.note(&said);
        if let Some(pass) = doors.pass.take() {
            pass.ended(&said, now_ms(), random().unwrap_or(u64::MAX));
        }
        let (outcome, bill) = match &said {
            Ok(spoken) => ("ok", Bill::Told(spoken.done.usage)),
            Err(error) => (error.kind(), Bill::of(error)),
        };
        tried.end(outcome, bill, Instant::now());
        match said {
            Ok(spoken) => {
                tried.last().into_iter().for_each(|it| known.took(it));
                return Ok((at, spoken));
            }
            Err(error) => {
                let broke = listener.has_heard() && question.on_break == OnBreak::Fail;
                let why = Why::Provider(error);
                course.failed(at, why.verdict(), Instant::now());
                if broke {
                    return Err(Unanswered {
                        at,
                        why,
                        left_alone: Vec::new(),
                    });
                }
                last = Some((at, why));
            }
        }
    }
}

/// Without a random number the longest wait is chosen.
pub(crate) fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}
