//! What pawd counts and times of itself, told as OpenMetrics text.
//!
//! ```text
//!  something ended ──► counted here, in the process ──┐
//!                                                     ├─► text, when somebody asks
//!  how long a queue is, who is open, what is used ────┘ read then, and not before
//! ```
//!
//! There is one of it in the process, as there is one journal, so what counts needs no handle to it, and a reload loses nothing. To count
//! is a look into a small table and an atomic, or a lock that nobody holds for longer than an addition; nothing is allocated for labels
//! that were seen before.
//!
//! A label is a word of ours, or a name of the configuration. What a caller says is never one: a model that the configuration does not
//! name counts as `other`. So there are as many series as the configuration has names, and nobody can add one, or be read out of one: no
//! user, no conversation, no text is in any.
//!
//! - [`targets`]: what is counted of each model of each provider.
//! - [`reading`]: what is read when somebody asks.

pub mod reading;
pub mod targets;

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use paw_api::ErrorKind;
use paw_launch::request::Runtime;
use paw_policy::State;
use paw_store::ActionRecord;
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use reading::{Reading, Readings};
use targets::{Private, Public, Targets};

/// What the text is, for HTTP and for who reads it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Before each name.
const PREFIX: &str = "paw";

/// Seconds that a call within this host takes.
const SHORT: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0,
    60.0,
];

/// Seconds that a model, a sandbox or a command takes.
const LONG: [f64; 14] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0,
];

/// Seconds that a person takes.
const PATIENT: [f64; 9] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counts<const N: usize> = Family<Labels<N>, Counter>;
type Times<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

fn short() -> Histogram {
    Histogram::new(SHORT)
}

fn long() -> Histogram {
    Histogram::new(LONG)
}

fn patient() -> Histogram {
    Histogram::new(PATIENT)
}

/// Whose view is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Of whoever may see how the system is.
    Everybody,
    /// With what the questions of all users took and cost: on a quiet host the sum of one minute is somebody's one question.
    Administrator,
}

struct Metrics {
    everybody: Registry,
    administrator: Registry,
    targets: Arc<Targets>,
    calls: Times<1>,
    errors: Counts<1>,
    actions: Counts<2>,
    waits: Times<1>,
    runs: Times<1>,
    approvals: Times<1>,
    creates: Times<2>,
    execs: Times<1>,
    appends: Times<1>,
    answers: Counts<1>,
}

static ALL: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Connections of the control socket.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Calls that are not answered yet.
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    fn new() -> Self {
        let all = Self {
            everybody: Registry::with_prefix(PREFIX),
            administrator: Registry::with_prefix(PREFIX),
            targets: Arc::default(),
            calls: Family::new_with_constructor(short),
            errors: Family::default(),
            actions: Family::default(),
            waits: Family::new_with_constructor(long),
            runs: Family::new_with_constructor(long),
            approvals: Family::new_with_constructor(patient),
            creates: Family::new_with_constructor(long),
            execs: Family::new_with_constructor(long),
            appends: Family::new_with_constructor(short),
            answers: Family::default(),
        };
        all.registered()
    }

    fn registered(mut self) -> Self {
        let to = &mut self.everybody;
        time(
            to,
            "rpc_call",
            "Time from a call to its answer; of a subscription, to its acceptance",
            &self.calls,
        );
        time(
            to,
            "action_queue_wait",
            "Time from the permission of an action to its start",
            &self.waits,
        );
        time(
            to,
            "action_run",
            "Time from the start of an action to its end",
            &self.runs,
        );
        time(
            to,
            "approval_wait",
            "Time from a question to a person's answer, or to its end without one",
            &self.approvals,
        );
        time(
            to,
            "sandbox_create",
            "Time until a launcher made a sandbox and attested it, or refused",
            &self.creates,
        );
        time(
            to,
            "sandbox_exec",
            "Time from the start of a command in a sandbox to its end",
            &self.execs,
        );
        time(
            to,
            "audit_append",
            "Time from sending a record to the audit writer to its answer",
            &self.appends,
        );
        to.register(
            "rpc_errors",
            "Calls that were answered with an error",
            self.errors.clone(),
        );
        to.register(
            "actions",
            "Actions that came to their end",
            self.actions.clone(),
        );
        to.register(
            "kept_answer_lookups",
            "Questions whose answer was looked for among those that are kept",
            self.answers.clone(),
        );
        to.register(
            "build",
            "What runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        to.register_collector(Box::new(Public(Arc::clone(&self.targets))));
        self.administrator
            .register_collector(Box::new(Private(Arc::clone(&self.targets))));
        self
    }
}

fn time<const N: usize>(to: &mut Registry, name: &str, help: &str, times: &Times<N>) {
    to.register_with_unit(name, help, Unit::Seconds, times.clone());
}

/// What is counted of models.
#[must_use]
pub fn targets() -> &'static Targets {
    &ALL.targets
}

/// A call was answered.
pub fn called(method: &'static str, since: Instant) {
    let times = ALL.calls.get_or_create(&[("method", method)]);
    times.observe(since.elapsed().as_secs_f64());
}

/// A call was answered with the error of this code.
pub fn failed(code: i32) {
    let name = ErrorKind::of_code(code).map_or_else(|| protocol(code), word);
    ALL.errors.get_or_create(&[("error", name)]).inc();
}

/// An action came to its end, which is durable.
pub fn ended(record: &ActionRecord) {
    let kind = record.kind.as_str();
    let state = [("kind", kind), ("state", record.state.as_str())];
    ALL.actions.get_or_create(&state).inc();
    if let (Some(decided), Some(started)) = (record.decided_ms, record.started_ms) {
        let waits = ALL.waits.get_or_create(&[("kind", kind)]);
        waits.observe(seconds(started.saturating_sub(decided)));
    }
    if let (Some(started), Some(ended)) = (record.started_ms, record.ended_ms) {
        let runs = ALL.runs.get_or_create(&[("kind", kind)]);
        runs.observe(seconds(ended.saturating_sub(started)));
    }
    // Only a question has a time at which it expires.
    if record.expires_ms.is_some() {
        let answer = record.approved_by.as_ref();
        let word = match (answer.map(|answer| answer.approve), record.state) {
            (Some(true), _) => "approved",
            (Some(false), _) => "denied",
            (None, State::Expired) => "expired",
            (None, _) => "withdrawn",
        };
        let at = answer.map(|answer| answer.at_ms).or(record.ended_ms);
        let approvals = ALL.approvals.get_or_create(&[("answer", word)]);
        approvals.observe(seconds(
            at.unwrap_or_default().saturating_sub(record.created_ms),
        ));
    }
}

/// Sees a launcher make a sandbox, or not. One that nobody waits for any more is not counted.
///
/// # Errors
/// What it could not be made for.
pub async fn making<T, E>(
    runtime: Runtime,
    making: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let since = Instant::now();
    let made = making.await;
    let outcome = if made.is_ok() { "ok" } else { "failed" };
    let labels = [("runtime", runtime.as_str()), ("outcome", outcome)];
    let times = ALL.creates.get_or_create(&labels);
    times.observe(since.elapsed().as_secs_f64());
    made
}

/// A command in a sandbox came to its end, or its end is not known.
pub fn executed(since: Instant, known: bool) {
    let outcome = if known { "ended" } else { "lost" };
    let times = ALL.execs.get_or_create(&[("outcome", outcome)]);
    times.observe(since.elapsed().as_secs_f64());
}

/// The audit writer answered; somebody waits for a record that is durable.
pub fn appended(took: Duration, durable: bool) {
    let durable = if durable { "true" } else { "false" };
    let times = ALL.appends.get_or_create(&[("durable", durable)]);
    times.observe(took.as_secs_f64());
}

/// Somebody looked for an answer among those that are kept.
pub fn looked_for_answer(found: bool) {
    let result = if found { "hit" } else { "miss" };
    ALL.answers.get_or_create(&[("result", result)]).inc();
}

/// One more of what is counted while it is there.
#[derive(Debug)]
pub struct OneMore(&'static AtomicU64);

impl OneMore {
    fn of(count: &'static AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }

    /// A connection of the control socket.
    #[must_use]
    pub fn connection() -> Self {
        Self::of(&CONNECTIONS)
    }

    /// A call that is not answered yet.
    #[must_use]
    pub fn call() -> Self {
        Self::of(&IN_FLIGHT)
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Connections of the control socket that are open.
#[must_use]
pub fn connections() -> u64 {
    CONNECTIONS.load(Relaxed)
}

/// Calls that are not answered yet.
#[must_use]
pub fn in_flight() -> u64 {
    IN_FLIGHT.load(Relaxed)
}

/// All of it, and what was read just now.
///
/// # Errors
/// When a text cannot be written, which is a fault of ours.
pub fn text(view: View, read: Vec<Reading>) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(64 * 1024);
    encode_registry(&mut text, &ALL.everybody)?;
    if view == View::Administrator {
        encode_registry(&mut text, &ALL.administrator)?;
    }
    let mut now = Registry::with_prefix(PREFIX);
    now.register_collector(Box::new(Readings(read)));
    encode_registry(&mut text, &now)?;
    encode_eof(&mut text)?;
    Ok(text)
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

const fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Denied => "denied",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Busy => "busy",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Failed => "failed",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::Internal => "internal",
        ErrorKind::Cut => "cut",
    }
}

/// The word for a fault of the protocol.
const fn protocol(code: i32) -> &'static str {
    match code {
        -32_700 => "not_json",
        -32_600 => "not_a_request",
        -32_601 => "unknown_method",
        -32_602 => "bad_parameters",
        -32_007 => "request_too_big",
        -32_008 => "answer_too_big",
        -32_010 => "batch_too_big",
        -32_011 => "batch_answer_too_big",
        _ => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_word_of_its_own() {
        let faults = paw_api::fault::CODES.map(|(code, _)| protocol(code));
        let mut words: Vec<_> = ErrorKind::ALL.map(word).into_iter().chain(faults).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(
            words.len(),
            ErrorKind::ALL.len() + paw_api::fault::CODES.len()
        );
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::json!(kind), word(kind));
        }
    }
}
