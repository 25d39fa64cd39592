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
//! void, and hears the next attempt from its beginning, or the error, where the route says so. Where a route hedges, a second target
//! is asked beside one whose answer is late to begin. Every attempt is in the record of the action, however that ended.
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
//! - [`race`]: the attempts that are under way, at most two.
//! - [`tried`]: what was tried. Pure.
//! - [`why`]: why a target has no answer. Pure.
//! - [`arms`]: what became of the conversations that each arm of a route was given. Pure.

pub mod arms;
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
mod race;
pub mod route;
pub mod sign;
pub mod tried;
pub mod why;

use std::{sync::Arc, time::Duration};

use paw_llm::ChatRequest;
use paw_policy::{Ceiling, TaintSet, Target};
use paw_store::Outlet;
use tokio::time::{Instant, sleep_until};

pub use listen::{Listener, Spoken};
pub use tried::Tried;
pub use why::Why;

use crate::{
    clock::now_ms,
    config::routes::OnBreak,
    metrics,
    providers::Known,
    quota::{Hold, Quotas, Who},
};
use breaker::Asker;
use breakers::{Breakers, Pass};
use course::{Course, Gate, Move, Terms};
use listen::{Heard, Voice};
use race::{Race, Runner};

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

impl Asked {
    /// Whether it may be sent what has these labels.
    #[must_use]
    pub fn may_receive(&self, labels: &TaintSet) -> bool {
        self.known.settings.may_receive.admits(labels)
    }
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
    /// The labels of all that is in it: who may receive less is not asked.
    pub labels: &'a TaintSet,
    /// Whether it may go on from this host to elsewhere.
    pub may_leave_host: bool,
    /// What becomes of an answer that breaks off.
    pub on_break: OnBreak,
    /// Whether a second target is asked beside one whose answer is late to begin; how long that is while too little is known of it.
    pub hedge: Option<Duration>,
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
    by: Asker,
    outlets: Vec<Outlet>,
    /// Leave to ask the target that is asked next.
    pass: Option<Pass>,
}

impl Doors<'_> {
    fn left_alone(&self) -> Vec<(usize, u64)> {
        let now = now_ms();
        let breakers = self.question.breakers;
        let until = |at| breakers.refuses(self.by, &self.outlets, at, now);
        (0..self.outlets.len())
            .filter_map(|at| Some((at, until(at)?)))
            .collect()
    }
}

impl Gate for Doors<'_> {
    fn is_open(&self, at: usize) -> bool {
        let breakers = self.question.breakers;
        let refused = breakers.refuses(self.by, &self.outlets, at, now_ms());
        refused.is_none()
    }

    fn enter(&mut self, at: usize) -> bool {
        let breakers = self.question.breakers;
        self.pass = breakers.pass(self.by, &self.outlets, at, now_ms());
        self.pass.is_some()
    }

    fn insist(&mut self, at: usize) {
        // As one that is asked by its own name.
        let alone = std::slice::from_ref(&self.outlets[at]);
        self.pass = self.question.breakers.pass(self.by, alone, 0, now_ms());
    }

    fn pay(&mut self, at: usize) -> bool {
        self.question.targets[at].known.budget(budget::Budget::take)
    }
}

/// Asks until one has answered, an error is final, or nobody is left; gives the place of the target that did. Dropping the future
/// ends the attempts that are under way, and their connections; what was `tried` tells of those, too.
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
        by: Asker {
            uid: question.who.uid,
            action: question.who.action.as_u128(),
        },
        outlets: targets.iter().map(outlet).collect(),
        pass: None,
    };
    let mut asking = Asking {
        question,
        estimated: price::Tokens::of(&question.request),
        paid_in: vec![false; targets.len()],
        tried,
        race: Race::default(),
    };
    let mut hedges = question.hedge;
    let mut last: Option<(usize, Why)> = None;
    // Why what was heard is void, where nobody can say yet whose answer takes its place: a hedge may be quicker.
    let mut void = None;
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
        let Asked { target, known, .. } = &targets[at];
        let hold = match step {
            Move::Ask(_) => match asking.admit(at) {
                Ok(hold) => Some(hold),
                Err(why) => {
                    doors.pass = None;
                    course.failed(at, why.verdict(), Instant::now());
                    last = Some((at, why));
                    continue;
                }
            },
            Move::Wait(..) | Move::End => None,
        };
        if let Some((_, why)) = &last {
            if hedges.is_some() {
                void = Some(why.kind());
            } else {
                listener.begin_again(target, why.kind()).await;
            }
        }
        if let Move::Wait(at, until) = step {
            doors.pass = None;
            if let Some((_, Why::Quota(_))) = last {
                let Some(_seat) = question.quotas.seat() else {
                    let (at, why) = last.expect("it was looked at above");
                    let left_alone = doors.left_alone();
                    return Err(Unanswered {
                        at,
                        why,
                        left_alone,
                    });
                };
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = question.quotas.freed() => course.look_again(at, Instant::now()),
                }
            } else {
                sleep_until(until).await;
            }
            continue;
        }
        asking.pay_in(at);
        asking.begin(at, doors.pass.take(), hold);
        // When its answer is late to begin; one question has one hedge, because each costs.
        let mut late = hedges
            .map(|unknown| known.usual_first_token(&target.model).unwrap_or(unknown))
            .and_then(|wait| Instant::now().checked_add(wait));
        while !asking.race.is_empty() {
            let (place, heard) = tokio::select! {
                biased;
                heard = asking.race.heard() => heard,
                () = sleep_until(late.unwrap_or(question.deadline)), if late.is_some() => {
                    late = None;
                    let beside = course.beside(&mut doors);
                    let pass = doors.pass.take();
                    match beside.map(|other| (other, asking.admit(other))) {
                        Some((other, Ok(hold))) => {
                            hedges = None;
                            let target = &targets[other].target;
                            let counted = metrics::targets();
                            counted.of(target.provider.as_str(), &target.model).hedged();
                            asking.begin(other, pass, Some(hold));
                        }
                        Some((other, Err(why))) => {
                            course.failed(other, why.verdict(), Instant::now());
                        }
                        None => {}
                    }
                    continue;
                }
            };
            let said = match heard {
                Heard::Piece(piece) => {
                    late = None;
                    if let Some(why) = void.take() {
                        let by = &targets[asking.race.target(place)].target;
                        listener.begin_again(by, why).await;
                    }
                    asking.race.piece(place, piece.len(), targets, asking.tried);
                    listener.hear(piece).await;
                    continue;
                }
                Heard::Ended(said) => said,
            };
            let at = asking.race.ended(place, &said, targets, asking.tried);
            match said {
                Ok(spoken) => {
                    if let Some(why) = void.take() {
                        listener.begin_again(&targets[at].target, why).await;
                    }
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
}

/// What goes on while one question is asked.
struct Asking<'a> {
    question: &'a Question<'a>,
    /// Tokens of the question.
    estimated: price::Tokens,
    /// Whose budget of retries this question has paid into.
    paid_in: Vec<bool>,
    tried: &'a mut Tried,
    race: Race,
}

impl Asking<'_> {
    fn pay_in(&mut self, at: usize) {
        let Asked { target, known, .. } = &self.question.targets[at];
        if std::mem::replace(&mut self.paid_in[at], true) {
            let counted = metrics::targets().of(target.provider.as_str(), &target.model);
            counted.retried();
        } else {
            known.budget(budget::Budget::asked);
        }
    }

    /// What stands before every attempt: that its provider may be sent this, and that there is what it may come to, which is set aside.
    fn admit(&self, at: usize) -> Result<Hold, Why> {
        let Asked {
            target,
            price,
            known,
            ..
        } = &self.question.targets[at];
        let ceiling = known.settings.may_receive;
        if !ceiling.admits(self.question.labels) {
            let asked = Ceiling::over(self.question.labels);
            return Err(Why::Confidential { asked, ceiling });
        }
        let (quotas, answer) = (self.question.quotas, self.question.request.max_tokens);
        let held = quotas.hold(
            (self.question.who, target),
            (self.estimated, answer),
            *price,
        );
        held.map_err(Why::Quota)
    }

    fn begin(&mut self, at: usize, pass: Option<Pass>, hold: Option<Hold>) {
        let Asked {
            target,
            known,
            price,
            ..
        } = &self.question.targets[at];
        let request = ChatRequest {
            model: target.model.clone(),
            ..self.question.request.clone()
        };
        let terms = tried::Terms {
            price: *price,
            asked: self.estimated,
        };
        let names = (target.provider.as_str(), target.model.as_str());
        let key = self.tried.begin(names, terms, now_ms(), Instant::now());
        if let Some(hold) = hold {
            self.tried.set_aside(key, hold);
        }
        self.race.begin(Runner {
            at,
            pass,
            key,
            voice: Voice::new(known, request, self.tried.told(key)),
        });
    }
}

/// Without a random number the longest wait is chosen.
pub(crate) fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}
