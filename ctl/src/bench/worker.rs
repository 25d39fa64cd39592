//! `bench sandbox --worker`: a command is started once and gets one JSON line after the other; pawd measures each round.

use std::time::Duration;

use paw_api::sandbox::{Rounds, RunEvent, RunSpec};
use serde_json::json;

use super::{
    numbers::{Measured, show},
    sandbox::spec,
};
use crate::{
    cli::{Global, SandboxLoad},
    connect::{Connection, Params, socket_path},
    fail::{Failure, exit},
    render::Out,
};

const DOING: &str = "send lines through a command";

/// Lines, when no number is given.
const USUAL: u64 = 10_000;

/// How long the worker may live: as long as the launcher lets any sandbox.
const LIFE_MS: u64 = 3_600_000;

pub(super) async fn run(global: &Global, out: &mut Out, load: SandboxLoad) -> Result<u8, Failure> {
    let pawd = Connection::at(&socket_path(global), None).await?;
    let life = global.timeout.map_or(LIFE_MS, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    });
    let spec = RunSpec {
        cold: true,
        lines: Some(u32::try_from(load.requests.unwrap_or(USUAL)).unwrap_or(u32::MAX)),
        timeout_ms: Some(life),
        ..spec(&load, &["cat"])
    };
    let params = Params::named(json!({"spec": spec}));
    let mut items = pawd.subscribe(DOING, "sandbox.run", params).await?;
    loop {
        let Some(item) = items.next().await? else {
            return Err(Failure::Cut {
                doing: DOING.to_owned(),
                why: "the stream ended before the command did".to_owned(),
                remedy: "see what became of it: pawctl action list -n 1".to_owned(),
            });
        };
        match item.read()? {
            RunEvent::Ended(result) => {
                let Some(rounds) = result.rounds else {
                    return Err(Failure::Local {
                        doing: DOING.to_owned(),
                        why: "pawd did not measure anything".to_owned(),
                        remedy: "install the same version of pawd and pawctl".to_owned(),
                    });
                };
                let cpu = Duration::from_millis(result.cpu_ms);
                show(out, &measured(&rounds, cpu), "CPU of the sandbox")?;
                return Ok(if result.exit_code == Some(0) {
                    exit::DONE
                } else {
                    exit::FAILED
                });
            }
            RunEvent::Failed { message, error } => {
                return Err(Failure::NoSandbox {
                    why: message,
                    data: error,
                });
            }
            RunEvent::Waiting { .. }
            | RunEvent::Started { .. }
            | RunEvent::Stdout { .. }
            | RunEvent::Stderr { .. } => {}
        }
    }
}

fn measured(rounds: &Rounds, cpu: Duration) -> Measured {
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    let seconds = rounds.total_us / 1e6;
    Measured {
        requests: u64::from(rounds.count),
        errors: 0,
        rps: tenths(f64::from(rounds.count) / seconds.max(1e-9)),
        p50_us: rounds.p50_us,
        p95_us: rounds.p95_us,
        p99_us: rounds.p99_us,
        max_us: rounds.max_us,
        cpu_us_per_request: Some(tenths(
            cpu.as_secs_f64() * 1e6 / f64::from(rounds.count.max(1)),
        )),
        rss_peak: None,
        concurrency: 1,
        seconds: (seconds * 1000.0).round() / 1000.0,
        measures: Some("line_round_trip"),
        cold: None,
        against: None,
        held: None,
    }
}
