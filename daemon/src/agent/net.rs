//! The way out of one sandbox, as pawd sees it: what was decided is recorded and counted, and what was refused for want of a rule
//! becomes a question.
//!
//! ```text
//!  paw-egress ── decided ──► record ── durable where a secret is used ──► recorded ──► it goes on
//!       │           └─ a secret of the vault ─► policy, its list, record ─► handed over ─► it goes on
//!       ▲           └─ refused, no rule ──► question ── a person approves ──┐
//!       └─────────────────────────────── allow(rule) ◄──────────────────────┘
//! ```

mod secret;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use paw_api::{
    audit::{Entry, Event},
    egress::{Added, Decision, Finished, HostName, NetRule, Reason, Recorded, Refused},
    sandbox::NetUsage,
};
use paw_launch::request::SandboxId;
use paw_policy::{ApiArguments, Name, Rules, TaintSet};
use paw_store::Caller;
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use uuid::Uuid;

use self::secret::Handed;
use super::Agents;
use crate::{
    audit::Audit,
    orchestrator::work::{Ending, Outcome},
    records::actor,
    sandbox::{Answerer, EgressError, Net, Said, Skill},
    secrets::Secrets,
};

/// What paw-egress says that may wait to be recorded.
const EVENTS: usize = 16;

/// Different refusals of one run that are recorded one by one for each reason; of further ones only the number is known. For each
/// reason, so that nobody hides an attack behind a hundred harmless refusals.
const MAX_RECORDED: usize = 64;

/// Questions that one run may cause.
const MAX_ASKED: usize = 8;

/// How long paw-egress may take to add a rule.
const ADD_LIMIT: Duration = Duration::from_secs(10);

/// Ways that are remembered; as many as sandboxes may run and are remembered after their end.
const MAX_KNOWN: usize = 1024;

/// Why an approved rule does not hold.
#[derive(Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// The run is over, or its way out is lost.
    Gone,
    /// paw-egress does not add it.
    Refused(Refused),
}

/// What one run may reach, and what it has done with that.
#[derive(Debug)]
pub struct Way {
    answerer: Answerer,
    rules: Mutex<Vec<NetRule>>,
    /// The number of the next rule that is added.
    asked: AtomicU32,
    adding: Mutex<BTreeMap<u32, oneshot::Sender<Added>>>,
    allowed: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The ways of sandboxes that run, and of those that are remembered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ways(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    ways: BTreeMap<SandboxId, Arc<Way>>,
    /// In the order in which they came.
    order: VecDeque<SandboxId>,
}

impl Ways {
    /// The way of this sandbox, if it has one.
    #[must_use]
    pub fn of(&self, id: &SandboxId) -> Option<Arc<Way>> {
        self.lock().ways.get(id).cloned()
    }

    pub(super) fn enter(&self, id: SandboxId, way: Arc<Way>) {
        let mut known = self.lock();
        known.order.push_back(id.clone());
        known.ways.insert(id, way);
        while known.order.len() > MAX_KNOWN {
            if let Some(oldest) = known.order.pop_front() {
                known.ways.remove(&oldest);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a sandbox what a person has approved.
pub(super) async fn allow(agents: &Agents, agent: &Name, call: &ApiArguments) -> Outcome {
    let gone = || {
        let message = format!("sandbox {} has ended, or has no way out", call.sandbox);
        Outcome::failed(
            "not_found",
            message,
            "run it again, with the rule from the start",
        )
    };
    let Ok(rule) = call.rule.parse::<NetRule>() else {
        return Outcome::failed(
            "invalid",
            format!("{:?} is no rule", call.rule),
            "report it",
        );
    };
    if let Err(outcome) = within(agents, agent, std::slice::from_ref(&rule)) {
        return *outcome;
    }
    let way = call.sandbox.parse().ok().and_then(|id| agents.ways.of(&id));
    match way {
        None => gone(),
        Some(way) => match way.allow(rule).await {
            Ok(()) => Outcome::plain(Ending::Completed(
                json!({"sandbox": call.sandbox, "rule": call.rule}),
            )),
            Err(NotAdded::Gone) => gone(),
            Err(NotAdded::Refused(refused)) => {
                Outcome::failed("denied", refused.message, refused.remedy)
            }
        },
    }
}

/// Keeps the records of a way until its run is over.
pub(super) type Keeping = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A way out and what its run needs of it; none without rules.
pub(super) type WayOut = Option<(Arc<Way>, Net)>;

/// Whose way out it is.
#[derive(Debug, Clone)]
pub(super) struct Whose<'a> {
    /// The action.
    pub(super) action: Uuid,
    /// Who asked for it.
    pub(super) caller: &'a Caller,
    /// The agent whose sandbox it is.
    pub(super) agent: &'a Name,
    /// The agents that had it asked.
    pub(super) through: &'a [Name],
    /// The skill whose tool runs in it; none for a command.
    pub(super) skill: Option<&'a Skill>,
    /// Where what led to it came from.
    pub(super) taint: &'a TaintSet,
}

/// The way out of a sandbox and the keeper of its records, where its run has rules.
///
/// # Errors
/// When a rule goes beyond what the agent's sandboxes may reach.
pub(super) fn way_out(
    agents: &Agents,
    id: &SandboxId,
    whose: Whose<'_>,
    rules: Vec<NetRule>,
) -> Result<(WayOut, Keeping), Box<Outcome>> {
    if rules.is_empty() {
        return Ok((None, Box::pin(std::future::ready(()))));
    }
    within(agents, whose.agent, &rules)?;
    let (answerer, answers) = Answerer::channel();
    let (tell, said) = mpsc::channel(EVENTS);
    let way = Arc::new(Way::new(answerer, rules.clone()));
    agents.ways.enter(id.clone(), Arc::clone(&way));
    let keeper = Keeper {
        way: Arc::clone(&way),
        sandbox: id.clone(),
        action: whose.action,
        caller: whose.caller.clone(),
        agent: whose.agent.clone(),
        through: whose.through.to_vec(),
        skill: whose.skill.map(|skill| skill.name.clone()),
        declared: whose
            .skill
            .map(|skill| skill.secrets.clone())
            .unwrap_or_default(),
        taint: whose.taint.clone(),
        audit: agents.audit.clone(),
        asks: agents.asks.clone(),
        secrets: agents.secrets.clone(),
        rules: agents.rules.clone(),
        egress: agents.egress.clone(),
    };
    let net = Net {
        socket: agents.egress.clone(),
        agent: whose.agent.clone(),
        rules,
        said: tell,
        answers,
    };
    Ok((Some((way, net)), Box::pin(keeper.keep(said))))
}

/// Whether an agent's sandboxes may still have these rules: since they were judged, the configuration may have become stricter.
fn within(agents: &Agents, agent: &Name, rules: &[NetRule]) -> Result<(), Box<Outcome>> {
    let config = Arc::clone(&agents.config.borrow());
    let settings = config.agents.get(agent);
    match settings.map_or(rules.first(), |settings| settings.beyond(rules)) {
        None => Ok(()),
        Some(rule) => Err(Box::new(Outcome::failed(
            "denied",
            format!("sandboxes of agent {agent} may not reach {rule}"),
            "add it to the agent's net in pawd.toml",
        ))),
    }
}

/// The sandbox was not made, because it has no way to where its run may go.
pub(super) fn no_way(error: &EgressError) -> Outcome {
    let message = paw_log::Chain(error).to_string();
    match error {
        EgressError::Refused(refused) => Outcome::failed("denied", message, refused.remedy.clone()),
        EgressError::Away(_) | EgressError::Confused(_) => Outcome::failed(
            "unavailable",
            message,
            "see `systemctl status paw-egress` and `pawctl doctor`",
        ),
    }
}

/// A person shall be asked whether a run may reach one thing more.
#[derive(Debug)]
pub struct Ask {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// The action it belongs to.
    pub action: Uuid,
    /// Who asked for that.
    pub caller: Caller,
    /// The agent whose sandbox it is.
    pub agent: Name,
    /// What it would take.
    pub rule: NetRule,
}

/// Whose way it is, and who hears of it.
pub(super) struct Keeper {
    pub(super) way: Arc<Way>,
    pub(super) sandbox: SandboxId,
    pub(super) action: Uuid,
    pub(super) caller: Caller,
    pub(super) agent: Name,
    pub(super) through: Vec<Name>,
    pub(super) skill: Option<Name>,
    /// Secrets that the skill says it needs.
    pub(super) declared: BTreeSet<String>,
    pub(super) taint: TaintSet,
    pub(super) audit: Audit,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) secrets: Secrets,
    pub(super) rules: watch::Receiver<Arc<Rules>>,
    pub(super) egress: PathBuf,
}

impl Way {
    /// A way that nothing has gone yet.
    pub(super) fn new(answerer: Answerer, rules: Vec<NetRule>) -> Self {
        Self {
            answerer,
            rules: Mutex::new(rules),
            asked: AtomicU32::new(1),
            adding: Mutex::default(),
            allowed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// Adds a rule that a person has approved.
    ///
    /// # Errors
    /// When the run is over, or paw-egress does not add it.
    pub async fn allow(&self, rule: NetRule) -> Result<(), NotAdded> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.adding().insert(number, tell);
        let added = async {
            if !self.answerer.allow(number, &rule).await {
                return Err(NotAdded::Gone);
            }
            told.await.map_err(|_| NotAdded::Gone)
        };
        let added = timeout(ADD_LIMIT, added).await;
        self.adding().remove(&number);
        match added.unwrap_or(Err(NotAdded::Gone))?.refused {
            Some(refused) => Err(NotAdded::Refused(refused)),
            None => {
                self.rules
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(rule);
                Ok(())
            }
        }
    }

    /// Who waits to hear what became of a rule. Who does not wait any more has given up.
    fn adding(&self) -> MutexGuard<'_, BTreeMap<u32, oneshot::Sender<Added>>> {
        self.adding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has been used for so far.
    #[must_use]
    pub fn usage(&self) -> NetUsage {
        NetUsage {
            rules: self
                .rules
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            allowed: self.allowed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

impl Keeper {
    /// Records, counts and asks until the run is over.
    pub(super) async fn keep(self, mut said: mpsc::Receiver<Said>) {
        let mut recorded: BTreeMap<Reason, BTreeSet<(String, u16)>> = BTreeMap::new();
        let mut more: BTreeMap<Reason, u64> = BTreeMap::new();
        let mut asked = BTreeSet::new();
        while let Some(said) = said.recv().await {
            match said {
                Said::Finished(finished) => self.finished(&finished).await,
                Said::Added(number, added) => {
                    if let Some(asked) = self.way.adding().remove(&number) {
                        let _ = asked.send(added);
                    }
                }
                Said::Decided(decision) => match decision.refused {
                    None => self.allowed(&decision).await,
                    Some(reason) => {
                        self.way.refused.fetch_add(1, Ordering::Relaxed);
                        let known = recorded.entry(reason).or_default();
                        let what = (decision.host.clone(), decision.port);
                        if known.contains(&what) || known.len() >= MAX_RECORDED {
                            *more.entry(reason).or_default() += 1;
                        } else {
                            known.insert(what);
                            self.refused(&decision, reason, &mut asked).await;
                        }
                    }
                },
            }
        }
        // Nobody answers them any more.
        self.way.adding().clear();
        for (reason, count) in more {
            self.counted(reason, count).await;
        }
    }

    /// How many refusals there were beside those with a record of their own.
    async fn counted(&self, reason: Reason, count: u64) {
        let mut entry = self.of_this_run(Event::EgressRefused);
        let detail = &mut entry.detail;
        detail.insert("reason".into(), reason.as_str().to_owned());
        detail.insert("further".into(), count.to_string());
        drop(self.audit.soon(entry).await);
    }

    async fn allowed(&self, decision: &Decision) {
        if decision.vault {
            let (recorded, refused) = match self.hand_over(decision).await {
                Handed::Over => (true, false),
                Handed::Refused => (false, true),
            };
            if recorded {
                self.way.allowed.fetch_add(1, Ordering::Relaxed);
            }
            let answer = Recorded {
                seq: decision.seq,
                ok: recorded,
                secret: refused,
            };
            self.way.answerer.recorded(answer).await;
            return;
        }
        self.way.allowed.fetch_add(1, Ordering::Relaxed);
        let event = if decision.secret.is_some() {
            Event::SecretUsed
        } else {
            Event::EgressAllowed
        };
        let entry = self.entry(event, decision);
        // What uses a secret is on the disk before it happens; the rest is at the writer.
        let written = if decision.secret.is_some() {
            self.audit.durable(entry).await.map(drop)
        } else {
            self.audit.soon(entry).await
        };
        if let Err(error) = &written {
            tracing::warn!(paw_sandbox = %self.sandbox, error = %error, "no record, no connection");
        }
        let answer = Recorded {
            seq: decision.seq,
            ok: written.is_ok(),
            secret: false,
        };
        self.way.answerer.recorded(answer).await;
    }

    async fn refused(&self, decision: &Decision, reason: Reason, asked: &mut BTreeSet<NetRule>) {
        let mut entry = self.entry(Event::EgressRefused, decision);
        entry
            .detail
            .insert("reason".into(), reason.as_str().to_owned());
        entry
            .detail
            .insert("message".into(), decision.message.clone());
        // A refusal grants nothing, so it stands even if its record is lost with the writer.
        drop(self.audit.soon(entry).await);
        let wanted = decision
            .host
            .parse::<HostName>()
            .ok()
            .filter(|host| reason == Reason::NoRule && !host.is_broker() && decision.port != 0);
        let Some(host) = wanted else { return };
        let rule = NetRule {
            // No more than what was tried; what is encrypted shows no method.
            methods: Vec::from_iter(
                (decision.method != "CONNECT").then(|| decision.method.clone()),
            ),
            ..NetRule::all_of(host, decision.port)
        };
        // A method that no rule can name is nothing that anybody is asked for.
        if rule.to_string().parse().as_ref() != Ok(&rule) {
            return;
        }
        if asked.len() < MAX_ASKED && asked.insert(rule.clone()) {
            let ask = Ask {
                sandbox: self.sandbox.clone(),
                action: self.action,
                caller: self.caller.clone(),
                agent: self.agent.clone(),
                rule,
            };
            if self.asks.try_send(ask).is_err() {
                tracing::warn!(paw_sandbox = %self.sandbox, "too many questions at once; one was not asked");
            }
        }
    }

    async fn finished(&self, finished: &Finished) {
        self.way.sent.fetch_add(finished.sent, Ordering::Relaxed);
        self.way
            .received
            .fetch_add(finished.received, Ordering::Relaxed);
        let mut entry = self.about(Event::EgressEnded, finished.seq);
        let detail = &mut entry.detail;
        detail.insert("sent".into(), finished.sent.to_string());
        detail.insert("received".into(), finished.received.to_string());
        if let Some(status) = finished.status {
            detail.insert("status".into(), status.to_string());
        }
        if let Some(fault) = finished.fault {
            detail.insert("fault".into(), fault.as_str().to_owned());
        }
        drop(self.audit.soon(entry).await);
    }

    fn of_this_run(&self, event: Event) -> Entry {
        let mut entry = Entry::new(event);
        entry.action = Some(self.action);
        entry.actor = Some(actor(&self.caller));
        entry
            .detail
            .insert("sandbox".into(), self.sandbox.to_string());
        entry
    }

    fn about(&self, event: Event, seq: u64) -> Entry {
        let mut entry = self.of_this_run(event);
        entry.detail.insert("decision".into(), seq.to_string());
        entry
    }

    fn entry(&self, event: Event, decision: &Decision) -> Entry {
        let mut entry = self.of_this_run(event);
        entry.detail.extend(self.about_decision(decision));
        if let Some(secret) = &decision.secret {
            entry.detail.insert("secret".into(), secret.clone());
        }
        entry
    }

    /// What is recorded of a decision, beside the secret that it takes.
    fn about_decision(&self, decision: &Decision) -> BTreeMap<String, String> {
        let text = |name: &str, value: String| (name.to_owned(), value);
        let mut detail = BTreeMap::from([
            text("sandbox", self.sandbox.to_string()),
            text("decision", decision.seq.to_string()),
            text("method", decision.method.clone()),
            text("host", decision.host.clone()),
            text("port", decision.port.to_string()),
        ]);
        let address = decision.address.map(|address| address.to_string());
        let path = Some(decision.path.clone()).filter(|path| !path.is_empty());
        for (name, value) in [
            ("path", path),
            ("address", address),
            ("rule", decision.rule.as_ref().map(ToString::to_string)),
        ] {
            detail.extend(value.map(|value| text(name, value)));
        }
        detail
    }
}

#[cfg(test)]
mod tests {
    use paw_api::egress::{HEADER, parse_header};

    use super::*;

    fn rule() -> NetRule {
        "one.example:443".parse().unwrap()
    }

    #[tokio::test]
    async fn rule_that_paw_egress_does_not_add_is_refused_and_not_shown_as_one_of_the_run() {
        let (answerer, mut answers) = Answerer::channel();
        let way = Way::new(answerer, Vec::new());
        let mut answer = async |refused| {
            let frame = answers.recv().await.unwrap();
            let (_, _, number) = parse_header(*frame.first_chunk::<HEADER>().unwrap()).unwrap();
            let asked = way.adding().remove(&number).unwrap();
            asked.send(Added { refused }).unwrap();
        };
        let refused = Refused {
            message: "a run has at most 64 rules".into(),
            remedy: "ask for less".into(),
        };
        let (allowed, ()) = tokio::join!(way.allow(rule()), answer(Some(refused.clone())));
        assert_eq!(allowed, Err(NotAdded::Refused(refused)));
        assert_eq!(way.usage().rules, []);
    }

    #[tokio::test]
    async fn rule_for_a_run_that_is_over_is_told_of_as_that() {
        let (answerer, answers) = Answerer::channel();
        let way = Way::new(answerer, Vec::new());
        drop(answers);
        assert_eq!(way.allow(rule()).await, Err(NotAdded::Gone));
        // Over before it was answered.
        let (answerer, mut answers) = Answerer::channel();
        let way = Way::new(answerer, Vec::new());
        let ended = async {
            answers.recv().await.unwrap();
            way.adding().clear();
        };
        let (allowed, ()) = tokio::join!(way.allow(rule()), ended);
        assert_eq!(allowed, Err(NotAdded::Gone));
    }
}
