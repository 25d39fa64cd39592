//! What a command came to, as a result that is stored and shown.

use std::time::Duration;

use paw_api::sandbox::{NetUsage, RunResult};
use paw_launch::request::{Attestation, End, Runtime, Usage};
use serde_json::Value;

use super::{net::no_way, tool::not_made};
use crate::{
    orchestrator::work::{Ending, Outcome},
    sandbox::{Exit, RunEnd, RunError},
};

/// What a run came to; none when it was told to stop.
pub(super) fn outcome_of(
    id: &str,
    runtime: Runtime,
    ended: Option<Result<RunEnd, RunError>>,
    attestation: Option<&Attestation>,
    net: Option<NetUsage>,
) -> Outcome {
    match ended {
        Some(Ok(end)) => finished(id, runtime, &end, attestation, net),
        Some(Err(RunError::Egress(error))) => no_way(&error),
        Some(Err(RunError::Sandbox(error))) => not_made(&error, paw_log::Chain(&error).to_string()),
        Some(Err(error @ RunError::NotNoted(_))) => Outcome::failed(
            "unavailable",
            paw_log::Chain(&error).to_string(),
            "see whether the disk of pawd's state is full",
        ),
        Some(Err(RunError::Left)) => Outcome::plain(Ending::Left),
        Some(Err(RunError::Abandoned)) | None => Outcome::plain(Ending::Cancelled),
    }
}

/// How a further command ended: of all that a sandbox uses, only the time is its own.
pub(super) fn end_of_exec(exit: Option<Exit>, took: Duration) -> RunEnd {
    RunEnd {
        exit: exit.map(|exit| exit.exited),
        end: End {
            exit_code: None,
            signal: None,
            oom_killed: false,
            timed_out: exit.is_none(),
            killed: false,
        },
        usage: Usage {
            wall_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ..Usage::default()
        },
        output_truncated: exit.is_some_and(|exit| exit.output_truncated),
    }
}

pub(super) fn finished(
    id: &str,
    runtime: Runtime,
    ended: &RunEnd,
    attestation: Option<&Attestation>,
    net: Option<NetUsage>,
) -> Outcome {
    let RunEnd {
        exit,
        end,
        usage,
        output_truncated,
    } = ended;
    let result = RunResult {
        id: id.to_owned(),
        runtime: runtime.to_string(),
        exit_code: exit.and_then(|exit| exit.code),
        signal: exit.and_then(|exit| exit.signal),
        oom_killed: end.oom_killed,
        timed_out: end.timed_out,
        output_truncated: *output_truncated,
        wall_ms: usage.wall_ms,
        cpu_ms: usage.cpu_us / 1_000,
        memory_peak: usage.memory_peak,
        pids_denied: usage.pids_denied,
        cpu_throttled: usage.cpu_throttled,
        pooled: false,
        first_output_us: None,
        rounds: None,
        attestation: attestation.map_or(Value::Null, |attestation| {
            serde_json::to_value(attestation).unwrap_or(Value::Null)
        }),
        workspace: None,
        net,
    };
    match serde_json::to_value(&result) {
        Ok(value) => Outcome::plain(Ending::Completed(value)),
        Err(error) => Outcome::failed(
            "internal",
            error.to_string(),
            "report it with the journal of this time",
        ),
    }
}
