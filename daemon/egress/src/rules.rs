//! The rules of one run, what is left of each, and the judgement of one request.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use paw_api::egress::{MAX_RULES, NetRule, Reason};

use crate::{
    ceiling::{Broker, Ceiling, broker_of},
    target::{self, Target},
};

/// One rule, and what is left of it.
#[derive(Debug)]
pub struct Granted {
    /// The rule.
    pub rule: NetRule,
    sent: AtomicU64,
    received: AtomicU64,
    requests: AtomicU64,
}

/// More than a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rule's bytes or requests are used up")]
pub struct UsedUp;

/// Why a request is refused, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// The rules of one run.
#[derive(Debug)]
pub struct Rules {
    ceiling: Arc<Ceiling>,
    granted: Mutex<Vec<Arc<Granted>>>,
}

impl Granted {
    fn new(rule: NetRule, ceiling: &Ceiling) -> Self {
        let least = |asked: Option<u64>, most: u64| AtomicU64::new(asked.unwrap_or(most).min(most));
        Self {
            sent: least(rule.sent, ceiling.max_sent),
            received: least(rule.received, ceiling.max_received),
            requests: least(rule.requests, ceiling.max_requests),
            rule,
        }
    }

    /// Counts bytes from the sandbox, before they go out.
    ///
    /// # Errors
    /// When they are more than is left.
    pub fn send(&self, bytes: usize) -> Result<(), UsedUp> {
        take(&self.sent, bytes as u64)
    }

    /// Counts bytes to the sandbox, before they go in.
    ///
    /// # Errors
    /// When they are more than is left.
    pub fn receive(&self, bytes: usize) -> Result<(), UsedUp> {
        take(&self.received, bytes as u64)
    }
}

fn take(left: &AtomicU64, amount: u64) -> Result<(), UsedUp> {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(amount)
    })
    .map(drop)
    .map_err(|_| UsedUp)
}

impl Rules {
    /// The rules of a run, if all of them are below the ceiling.
    ///
    /// # Errors
    /// What is beyond it.
    pub fn new(ceiling: Arc<Ceiling>, rules: Vec<NetRule>) -> Result<Self, String> {
        let all = Self {
            ceiling,
            granted: Mutex::default(),
        };
        for rule in rules {
            all.add(rule)?;
        }
        Ok(all)
    }

    /// One more rule.
    ///
    /// # Errors
    /// When it is beyond the ceiling, or there are too many.
    pub fn add(&self, rule: NetRule) -> Result<(), String> {
        if let Some(objection) = self.ceiling.objection(&rule) {
            return Err(objection);
        }
        let mut granted = self.lock();
        if granted.len() >= MAX_RULES {
            return Err(format!("a run has at most {MAX_RULES} rules"));
        }
        granted.push(Arc::new(Granted::new(rule, &self.ceiling)));
        Ok(())
    }

    /// The ceiling that holds for all runs.
    #[must_use]
    pub fn ceiling(&self) -> &Ceiling {
        &self.ceiling
    }

    /// Judges an encrypted connection, of which only host and port can be seen.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge_connect(&self, target: &Target) -> Result<Arc<Granted>, Refusal> {
        let named = self.named(target)?;
        let blind = named
            .into_iter()
            .filter(|granted| !granted.rule.looks_inside());
        count(blind, || {
            Refusal::new(
                Reason::Unseen,
                "the rules for this host name methods or paths, which cannot be seen in a tunnel; \
                 ask the proxy for https:// without one, or for a broker of this host",
            )
        })
    }

    /// Judges a plain request.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge_plain(&self, method: &str, target: &Target) -> Result<Arc<Granted>, Refusal> {
        let named = self.named(target)?;
        let methods = |granted: &Arc<Granted>| {
            let methods = &granted.rule.methods;
            methods.is_empty() || methods.iter().any(|known| known == method)
        };
        let fitting: Vec<_> = named.into_iter().filter(methods).collect();
        let needs_path = fitting.iter().all(|granted| granted.rule.path.is_some());
        let objection = target::objection(&target.path);
        if let Some(objection) = objection.filter(|_| needs_path && !fitting.is_empty()) {
            return Err(Refusal::new(Reason::Malformed, objection));
        }
        let reaching = fitting.into_iter().filter(|granted| {
            granted.rule.path.is_none()
                || (objection.is_none() && granted.rule.reaches(&target.path))
        });
        count(reaching, || {
            Refusal::new(
                Reason::NotThis,
                "no rule allows this method and path at this host",
            )
        })
    }

    /// The broker that a path names, and what follows. The path was judged before.
    ///
    /// # Errors
    /// When there is none.
    pub fn broker(&self, path: &str) -> Result<(&Broker, String), Refusal> {
        let found =
            broker_of(path).and_then(|(name, rest)| Some((self.ceiling.brokers.get(name)?, rest)));
        let (broker, rest) =
            found.ok_or_else(|| Refusal::new(Reason::Ceiling, "there is no such broker"))?;
        Ok((broker, format!("{}{rest}", broker.base)))
    }

    fn named(&self, target: &Target) -> Result<Vec<Arc<Granted>>, Refusal> {
        let named: Vec<_> = self
            .lock()
            .iter()
            .filter(|granted| {
                granted.rule.port == target.port && granted.rule.host.matches(&target.host)
            })
            .cloned()
            .collect();
        if !named.is_empty() {
            return Ok(named);
        }
        let wanted = NetRule::all_of(target.host.clone(), target.port);
        Err(match self.ceiling.objection(&wanted) {
            Some(_) => Refusal::new(
                Reason::Ceiling,
                "neither the rules of this run nor the administrator allow this host and port",
            ),
            None => Refusal::new(
                Reason::NoRule,
                "no rule of this run allows this host and port; a person may be asked, so try again later",
            ),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Granted>>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first rule that has a request left, which is counted.
fn count(
    fitting: impl Iterator<Item = Arc<Granted>>,
    otherwise: impl FnOnce() -> Refusal,
) -> Result<Arc<Granted>, Refusal> {
    let mut any = false;
    for granted in fitting {
        any = true;
        if take(&granted.requests, 1).is_ok() {
            return Ok(granted);
        }
    }
    Err(if any {
        Refusal::new(Reason::UsedUp, "the requests of this rule are used up")
    } else {
        otherwise()
    })
}
