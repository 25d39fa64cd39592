//! Hostile probes in every runtime that is here: what `doctor --prove` shows.
//!
//! The program that tries is in the image `probe`. What it says of itself is compared with what must happen; what a limit holds is
//! taken from how the sandbox ended, which the launcher saw from outside. Nothing here can make a probe pass: a sandbox that is
//! not made, a line that is missing or unreadable, an end that is not the expected one are each shown as what they are.

use std::time::Duration;

use paw_api::system::Probe;
use paw_launch::request::{Image, Limits, ProofState, Runtime, SandboxId, SandboxPlan};
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use crate::sandbox::{Launcher, RunEnd, RunEvent, RunSpec, run, sandbox_id};

/// Where the program is in its image.
const PROGRAM: &str = "/bin/paw-probe";

/// The most that is kept of what it says, in bytes.
const MOST_SAID: u64 = 256 * 1024;

/// How long one sandbox may take, from the request to its end.
const LIMIT: Duration = Duration::from_secs(60);

/// What a probe gets; small, so that bombs are quick.
const LIMITS: Limits = Limits {
    cpu_milli: 1000,
    memory: 128 << 20,
    disk: 8 << 20,
    pids: 32,
    open_files: 256,
    wall_ms: 30_000,
};

/// What is expected where the choice of error is the kernel's own.
const AN_ERROR: &str = "an error";

/// A bomb, and how its end shows that it was held.
struct Bomb {
    word: &'static str,
    name: &'static str,
    expected: &'static str,
    wall_ms: u64,
    most_output: u64,
    observe: fn(&RunEnd, &str) -> String,
}

const BOMBS: [Bomb; 7] = [
    Bomb {
        word: "memory",
        name: "use more memory",
        expected: "killed for want of memory",
        wall_ms: 30_000,
        most_output: MOST_SAID,
        observe: |end, _| {
            if end.end.oom_killed {
                "killed for want of memory".to_owned()
            } else {
                ended(end)
            }
        },
    },
    Bomb {
        word: "fork",
        name: "start more processes",
        expected: "stopped",
        wall_ms: 30_000,
        most_output: MOST_SAID,
        // The cgroup counted a fork that it denied; how far the program got is only its own word.
        observe: |end, _| {
            if end.usage.pids_denied > 0 {
                "stopped".to_owned()
            } else {
                ended(end)
            }
        },
    },
    Bomb {
        word: "disk",
        name: "write more than the disk",
        expected: "no room beyond 8 MiB",
        wall_ms: 30_000,
        most_output: MOST_SAID,
        observe: |end, said| match said.trim().parse::<u64>() {
            Ok(bytes) if bytes <= LIMITS.disk => "no room beyond 8 MiB".to_owned(),
            Ok(bytes) => format!("room for {bytes} bytes"),
            Err(_) => ended(end),
        },
    },
    Bomb {
        word: "inode",
        name: "make more files",
        expected: "stopped",
        wall_ms: 30_000,
        most_output: MOST_SAID,
        observe: |end, said| match said.trim().parse::<u64>() {
            // As many as there are blocks of 4 KiB on the disk, or fewer.
            Ok(files) if files <= LIMITS.disk / 4096 => "stopped".to_owned(),
            Ok(files) => format!("{files} files"),
            Err(_) if end.end.oom_killed => "stopped".to_owned(),
            Err(_) => ended(end),
        },
    },
    Bomb {
        word: "output",
        name: "never stop talking",
        expected: "cut, and ended at the deadline",
        wall_ms: 2_000,
        most_output: 64 * 1024,
        observe: |end, said| {
            if end.output_truncated && end.end.timed_out && said.len() <= 64 * 1024 {
                "cut, and ended at the deadline".to_owned()
            } else {
                ended(end)
            }
        },
    },
    Bomb {
        word: "sleep",
        name: "stay beyond the deadline",
        expected: "ended at the deadline",
        wall_ms: 1_000,
        most_output: MOST_SAID,
        observe: |end, _| {
            if end.end.timed_out {
                "ended at the deadline".to_owned()
            } else {
                ended(end)
            }
        },
    },
    Bomb {
        word: "orphan",
        name: "leave a process that holds the pipes",
        expected: "ended with its command",
        wall_ms: 30_000,
        most_output: MOST_SAID,
        observe: |end, _| {
            if end.exit.and_then(|exit| exit.code) == Some(0) && !end.end.timed_out {
                "ended with its command".to_owned()
            } else {
                ended(end)
            }
        },
    },
];

/// A line of paw-probe.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    probe: String,
    expected: String,
    observed: String,
}

/// Tries everything in every runtime that is here.
pub async fn prove(launcher: &Launcher) -> Vec<Probe> {
    let runtimes = match launcher.runtimes().await {
        Ok(runtimes) => runtimes,
        Err(error) => {
            return vec![seen(
                "list the runtimes",
                "launcher",
                "a list",
                paw_log::Chain(&error).to_string(),
            )];
        }
    };
    let mut probes = Vec::new();
    for state in runtimes {
        if state.state == ProofState::Absent {
            continue;
        }
        probes.extend(calls(launcher, state.name).await);
        for bomb in &BOMBS {
            probes.push(explode(launcher, state.name, bomb).await);
        }
    }
    probes
}

async fn calls(launcher: &Launcher, runtime: Runtime) -> Vec<Probe> {
    let name = "try forbidden calls";
    let told = match one(
        launcher,
        runtime,
        &["calls", runtime.as_str()],
        LIMITS,
        MOST_SAID,
    )
    .await
    {
        Ok((end, said)) if end.exit.and_then(|exit| exit.code) == Some(0) => said,
        Ok((end, _)) => return vec![seen(name, runtime.as_str(), "a report", ended(&end))],
        Err(why) => return vec![seen(name, runtime.as_str(), "a report", why)],
    };
    told.lines()
        .map(|line| match serde_json::from_str::<Line>(line) {
            Ok(line) => seen(&line.probe, runtime.as_str(), &line.expected, line.observed),
            Err(error) => seen(name, runtime.as_str(), "a line of JSON", error.to_string()),
        })
        .collect()
}

async fn explode(launcher: &Launcher, runtime: Runtime, bomb: &Bomb) -> Probe {
    let limits = Limits {
        wall_ms: bomb.wall_ms,
        ..LIMITS
    };
    let observed = match one(launcher, runtime, &[bomb.word], limits, bomb.most_output).await {
        Ok((end, said)) => (bomb.observe)(&end, &said),
        Err(why) => why,
    };
    seen(bomb.name, runtime.as_str(), bomb.expected, observed)
}

/// Runs the program once; what it wrote to stdout, or why it did not run.
async fn one(
    launcher: &Launcher,
    runtime: Runtime,
    words: &[&str],
    limits: Limits,
    most_output: u64,
) -> Result<(RunEnd, String), String> {
    let plan = SandboxPlan {
        id: fresh_id()?,
        runtime,
        image: Image::Named(
            "probe"
                .parse()
                .map_err(|_| "the image has no name".to_owned())?,
        ),
        mounts: Vec::new(),
        limits,
    };
    let spec = RunSpec {
        plan,
        argv: std::iter::once(PROGRAM)
            .chain(words.iter().copied())
            .map(str::to_owned)
            .collect(),
        env: Vec::new(),
        cwd: "/tmp".to_owned(),
        stdin: None,
        most_output,
    };
    let (events, mut heard) = mpsc::channel(16);
    let listening = async {
        let mut said = Vec::new();
        while let Some(event) = heard.recv().await {
            match event {
                RunEvent::Stdout(bytes) => said.extend_from_slice(&bytes),
                RunEvent::Started { .. } | RunEvent::Stderr(_) => {}
            }
        }
        said
    };
    let running = async {
        let ended = run(launcher, spec, &events).await;
        drop(events);
        ended
    };
    match timeout(LIMIT, async { tokio::join!(running, listening) }).await {
        Ok((Ok(end), said)) => Ok((end, String::from_utf8_lossy(&said).into_owned())),
        Ok((Err(error), _)) => Err(paw_log::Chain(&error).to_string()),
        Err(_) => Err(format!("no end within {} s", LIMIT.as_secs())),
    }
}

fn fresh_id() -> Result<SandboxId, String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| format!("no random number: {error}"))?;
    Ok(sandbox_id(random))
}

/// How it ended, for people.
fn ended(end: &RunEnd) -> String {
    let how = match end.exit {
        Some(exit) => match (exit.code, exit.signal) {
            (Some(code), _) => format!("it ended with {code}"),
            (None, Some(signal)) => format!("signal {signal} ended it"),
            (None, None) => "it ended".to_owned(),
        },
        None => "the sandbox ended".to_owned(),
    };
    let why = [
        (end.end.oom_killed, ", for want of memory"),
        (end.end.timed_out, ", at the deadline"),
        (end.output_truncated, ", its output cut"),
    ];
    let why: String = why
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, why)| why)
        .collect();
    how + &why
}

/// Whether this is the name of an `errno`.
fn is_error(observed: &str) -> bool {
    observed.starts_with('E')
        && observed
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

fn seen(probe: &str, runtime: &str, expected: &str, observed: String) -> Probe {
    let short = |text: &str| text.chars().take(200).collect::<String>();
    Probe {
        probe: short(probe),
        runtime: runtime.to_owned(),
        expected: short(expected),
        ok: observed == expected || expected == AN_ERROR && is_error(&observed),
        observed: short(&observed),
    }
}
