//! Sandboxes of people's commands as they are shown: what they are, what they used, what they said.

use base64::Engine as _;
use jsonrpsee::SubscriptionSink;
use paw_api::{
    Error, ErrorKind,
    sandbox::{LogEvent, NetUsage, SandboxDetail, SandboxUsage},
};
use paw_launch::request::{SandboxId, Usage};
use serde_json::Value;

use super::send;
use crate::sandbox::{Known, Log, Stream};

/// Everything that is known of one.
pub(super) fn detail(
    id: &SandboxId,
    known: Known,
    usage: Option<SandboxUsage>,
    net: Option<NetUsage>,
) -> SandboxDetail {
    let json = |value: serde_json::Result<Value>| value.unwrap_or(Value::Null);
    SandboxDetail {
        id: id.to_string(),
        state: if known.ended { "ended" } else { "running" }.into(),
        action_id: known.action.to_string(),
        owner: known.owner,
        runtime: known.plan.runtime.to_string(),
        plan: json(serde_json::to_value(&known.plan)),
        usage,
        end: known.end.map(|end| json(serde_json::to_value(end.end))),
        attestation: json(serde_json::to_value(&known.attestation)),
        net,
    }
}

/// What it used, in the units of the contract.
pub(super) fn usage_of(id: &SandboxId, usage: Usage) -> SandboxUsage {
    SandboxUsage {
        id: id.to_string(),
        cpu_ms: usage.cpu_us / 1_000,
        memory_peak: usage.memory_peak,
        pids_denied: usage.pids_denied,
        cpu_throttled: usage.cpu_throttled,
        wall_ms: usage.wall_ms,
    }
}

/// There is none of this id, or it is somebody else's, which is the same.
pub(super) fn unknown(id: &str) -> Error {
    let hint = "see `pawctl sandbox list`; ended ones are remembered for a while";
    Error::new(ErrorKind::NotFound, "there is no such sandbox", hint).about(id)
}

/// What a log holds, and with `follow` what comes, until the sandbox has ended or nobody reads any more.
pub(super) async fn tell_log(log: &Log, sink: &SubscriptionSink, follow: bool) {
    let mut news = log.news();
    let mut next = 0;
    loop {
        news.mark_unchanged();
        let read = log.read(next);
        next = read.next;
        for (stream, bytes) in read.pieces {
            let data = base64::engine::general_purpose::STANDARD.encode(&bytes);
            let event = match stream {
                Stream::Stdout => LogEvent::Stdout { data },
                Stream::Stderr => LogEvent::Stderr { data },
            };
            if !send(sink, &event).await {
                return;
            }
        }
        if read.closed || !follow {
            let running = !read.closed;
            send(sink, &LogEvent::End { running }).await;
            return;
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = sink.closed() => return,
        }
    }
}
