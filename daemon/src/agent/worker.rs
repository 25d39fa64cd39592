//! Rounds of lines through a command that runs, to measure what a call costs once its worker is started.

use std::time::Duration;

use paw_api::sandbox::{Rounds, RunResult};
use paw_launch::request::SandboxPlan;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    time::{Instant, timeout_at},
};

use super::{ended::finished, tool::not_made};
use crate::{
    orchestrator::work::{Ending, Outcome, failure},
    sandbox::{Child, Origin, RunEnd, SandboxError},
};

/// The most rounds that are measured.
const MAX_ROUNDS: u32 = 1_000_000;

/// The longest line that a worker may answer, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// How long its sandbox may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// What is sent: as small as a request of a tool can be.
const LINE: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n";

/// Starts the command and sends it so many lines, each after the answer to the one before.
pub(super) async fn rounds(
    origin: Origin,
    plan: SandboxPlan,
    argv: Vec<String>,
    env: Vec<String>,
    cwd: String,
    count: u32,
) -> Outcome {
    let (id, runtime, pooled) = (plan.id.to_string(), plan.runtime, origin.is_pooled());
    let deadline = Instant::now() + Duration::from_millis(plan.limits.wall_ms);
    let failed = |error: &SandboxError| not_made(error, paw_log::Chain(error).to_string());
    let sandbox = match origin.sandbox(plan).await {
        Ok(sandbox) => sandbox,
        Err(error) => return failed(&error),
    };
    let attestation = Box::new(sandbox.attestation().clone());
    // Each answer is at most a line, so this bounds all of them.
    let most_output = u64::from(count.min(MAX_ROUNDS)).saturating_mul(MAX_LINE);
    let mut child = match sandbox.starter().start(argv, env, cwd, most_output).await {
        Ok(child) => child,
        Err(error) => return failed(&error),
    };
    let measured = timeout_at(deadline, talk(&mut child, count.min(MAX_ROUNDS))).await;
    let exit = match measured {
        Ok(Ok(_)) => timeout_at(deadline, child.process.wait()).await,
        Ok(Err(_)) | Err(_) => Ok(Err(SandboxError::Gone)),
    };
    let (end, usage) = match sandbox.end(END_LIMIT).await {
        Ok(ended) => ended,
        Err(error) => return failed(&error),
    };
    let rounds = match measured {
        Ok(Ok(rounds)) => rounds,
        Ok(Err(why)) => {
            let hint = "give a command that answers each line by a line at once, for instance cat";
            return Outcome::failed("protocol", why, hint);
        }
        Err(_) => {
            let message = "the rounds took longer than the sandbox may live".to_owned();
            let hint = "measure fewer, or give it more time";
            return Outcome::plain(Ending::TimedOut(failure("timed_out", message, hint)));
        }
    };
    let ended = RunEnd {
        exit: exit.ok().and_then(Result::ok).map(|exit| exit.exited),
        end,
        usage,
        output_truncated: false,
    };
    let outcome = finished(&id, runtime, &ended, Some(&attestation), None);
    let outcome = amended(outcome, |result| {
        result.pooled = pooled;
        result.rounds = Some(rounds);
    });
    Outcome {
        sandbox: Some(id),
        attestation: Some(attestation.digest),
        ..outcome
    }
}

/// The same with something added to the result of a run.
pub(super) fn amended(outcome: Outcome, change: impl FnOnce(&mut RunResult)) -> Outcome {
    let Ending::Completed(value) = outcome.ending else {
        return outcome;
    };
    let changed = serde_json::from_value::<RunResult>(value.clone())
        .and_then(|mut result| {
            change(&mut result);
            serde_json::to_value(result)
        })
        // It was made of one a moment ago; what could not be read back is passed on as it is.
        .unwrap_or(value);
    Outcome {
        ending: Ending::Completed(changed),
        ..outcome
    }
}

/// Sends the lines and reads the answers; why that did not work, for people.
async fn talk(child: &mut Child, count: u32) -> Result<Rounds, String> {
    let mut stdout = BufReader::new(&mut child.stdout);
    let mut times = Vec::with_capacity(count as usize);
    let mut answer = Vec::with_capacity(LINE.len());
    for _ in 0..count {
        let began = Instant::now();
        let sent = child.stdin.write_all(LINE).await;
        sent.map_err(|error| format!("the command takes no more lines: {error}"))?;
        answer.clear();
        while !answer.ends_with(b"\n") {
            let room = MAX_LINE - answer.len() as u64;
            let mut bounded = tokio::io::AsyncReadExt::take(&mut stdout, room);
            match bounded.read_until(b'\n', &mut answer).await {
                Ok(0) => return Err("the command ended, or its line is too long".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("read its answer: {error}")),
            }
        }
        times.push(began.elapsed());
        let good = serde_json::from_slice::<Value>(&answer).is_ok();
        if !good {
            return Err("its answer is no JSON".to_owned());
        }
    }
    // The end of its input lets it end.
    let _ = child.stdin.shutdown().await;
    Ok(summary(times))
}

fn summary(mut times: Vec<Duration>) -> Rounds {
    times.sort_unstable();
    let us = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    // The nearest rank: the smallest time that so many of a hundred do not exceed.
    let at = |hundredths: usize| {
        let rank = (times.len() * hundredths).div_ceil(100).max(1) - 1;
        times.get(rank).copied().map_or(0.0, us)
    };
    Rounds {
        count: u32::try_from(times.len()).unwrap_or(u32::MAX),
        p50_us: at(50),
        p95_us: at(95),
        p99_us: at(99),
        max_us: at(100),
        total_us: us(times.iter().sum()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let seen = summary((1..=200).map(Duration::from_micros).collect());
        assert_eq!(
            (
                seen.count,
                seen.p50_us,
                seen.p95_us,
                seen.p99_us,
                seen.max_us
            ),
            (200, 100.0, 190.0, 198.0, 200.0)
        );
        assert_eq!(summary(Vec::new()).max_us, 0.0);
    }
}
