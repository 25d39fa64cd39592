//! One connection from inside: its request is read, judged, recorded, and only then goes anywhere.
//!
//! ```text
//!  head ─► target ─► rule ─► addresses ─► record ─► connection ─► tunnel, or one request and its answer
//!    └───────┴────────┴─────────┴───────────┴──────────┴─► an answer that says why not
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use paw_api::egress::{Decision, Finished, Reason};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Duration, Instant, sleep_until, timeout},
};

use crate::{
    head::{self, Head, HeadError},
    lane::Lane,
    plain,
    rules::Refusal,
    run::Run,
    target::{self, Target},
    tunnel,
};

/// How long what a refused client still sends is read, so that it can read why.
const LINGER: Duration = Duration::from_secs(2);

/// How much of it.
const MAX_LINGER: u64 = 1024 * 1024;

/// What passed over one connection so far.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// Serves one connection to its end.
pub(crate) async fn serve(mut lane: Lane, run: &Run) {
    let (head, bytes) = match head::read(&mut lane).await {
        Ok(read) => read,
        // Nobody is there to be told anything.
        Err(HeadError::Gone) => return,
        Err(error) => {
            let refusal = Refusal::new(Reason::Malformed, error.to_string());
            return refuse(lane, run, decision("", None), &refusal).await;
        }
    };
    let asked = if head.method == "CONNECT" {
        target::connect(&head.target)
    } else {
        target::plain(&head.target)
    };
    let target = match asked.and_then(|target| agree(&head, target)) {
        Ok(target) => target,
        Err(what) => {
            let mut decision = decision(&head.method, None);
            decision.host = printable(&head.target, 253);
            return refuse(lane, run, decision, &Refusal::new(Reason::Malformed, what)).await;
        }
    };
    if head.method == "CONNECT" {
        tunnel::serve(lane, run, &head, bytes, target).await;
    } else {
        plain::serve(lane, run, &head, bytes, target).await;
    }
}

/// Says that there is no place for one connection more.
pub(crate) async fn turn_away(lane: Lane, run: &Run) {
    let full = Refusal::new(
        Reason::Busy,
        "sandboxes of this host have as many connections as there may be",
    );
    refuse(lane, run, decision("", None), &full).await;
}

/// A request with a `Host` header of another host than its target is a trick; one of HTTP/1.1 always has one.
fn agree(head: &Head, target: Target) -> Result<Target, &'static str> {
    let default = (head.method == "CONNECT").then_some(target.port);
    match &head.host {
        Some(host) if !target::agrees(host, &target, default) => {
            Err("the Host header names another host than the target")
        }
        Some(_) | None => Ok(target),
    }
}

/// When something passed last.
pub(crate) struct Activity {
    began: Instant,
    /// In milliseconds since the beginning.
    last_ms: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }
}

impl Activity {
    /// Something passes.
    pub(crate) fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Ends when nothing has passed for so long.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let due =
                self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + limit;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// The beginning of what is said about a request.
pub(crate) fn decision(method: &str, target: Option<&Target>) -> Decision {
    Decision {
        seq: 0,
        refused: None,
        message: String::new(),
        method: printable(method, 32),
        host: target.map_or_else(String::new, |target| target.host.to_string()),
        port: target.map_or(0, |target| target.port),
        path: target.map_or_else(String::new, |target| printable(&target.path, 256)),
        address: None,
        rule: None,
        secret: None,
        broker: None,
        vault: false,
    }
}

/// The end of what was allowed.
pub(crate) fn finished(
    seq: u64,
    passed: &Passed,
    status: Option<u16>,
    fault: Option<Reason>,
) -> Finished {
    Finished {
        seq,
        sent: passed.sent.load(Ordering::Relaxed),
        received: passed.received.load(Ordering::Relaxed),
        status,
        fault,
    }
}

/// Records a refusal and tells the client.
pub(crate) async fn refuse(mut lane: Lane, run: &Run, decision: Decision, refusal: &Refusal) {
    let decision = Decision {
        refused: Some(refusal.reason),
        message: refusal.message.clone(),
        rule: decision.rule.filter(|_| refusal.reason != Reason::NoRule),
        ..decision
    };
    run.refuse(decision).await;
    // Who is gone does not want to know.
    if lane.write_all(&answer(refusal)).await.is_ok() && lane.shutdown().await.is_ok() {
        let mut nowhere = tokio::io::sink();
        let rest = async {
            let mut limited = (&mut lane).take(MAX_LINGER);
            tokio::io::copy(&mut limited, &mut nowhere).await
        };
        let _ = timeout(LINGER, rest).await;
    }
}

/// The answer to a refused request. It holds nothing that came from anywhere else.
pub(crate) fn answer(refusal: &Refusal) -> Bytes {
    let (status, later) = status(refusal.reason);
    let body = format!("paw-egress: {}\n", refusal.message);
    let later = if later { "Retry-After: 5\r\n" } else { "" };
    Bytes::from(format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nX-Paw-Refused: {}\r\n{later}\
         Connection: close\r\n\r\n{body}",
        body.len(),
        refusal.reason.as_str(),
    ))
}

/// The status for a reason, and whether trying again later can help.
pub(crate) const fn status(reason: Reason) -> (&'static str, bool) {
    match reason {
        Reason::Malformed => ("400 Bad Request", false),
        Reason::NoRule => ("403 Forbidden", true),
        Reason::NotThis
        | Reason::Unseen
        | Reason::UsedUp
        | Reason::Ceiling
        | Reason::Address
        | Reason::OtherName
        | Reason::Secret => ("403 Forbidden", false),
        Reason::Name | Reason::Unreachable | Reason::Leak => ("502 Bad Gateway", false),
        Reason::Busy | Reason::Unrecorded => ("503 Service Unavailable", true),
    }
}

/// What can be printed of a text from inside, at most this much of it.
pub(crate) fn printable(text: &str, most: usize) -> String {
    text.chars()
        .filter(char::is_ascii_graphic)
        .take(most)
        .collect()
}
