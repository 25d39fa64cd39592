//! Hostile probes in every runtime that is here: what `doctor --prove` shows.
//!
//! The program that tries is in the image `probe`. What it says of itself is compared with what must happen; what a limit holds is
//! taken from how the sandbox ended, which the launcher saw from outside. Nothing here can make a probe pass: a sandbox that is
//! not made, a line that is missing or unreadable, an end that is not the expected one are each shown as what they are.

use std::time::Duration;

use paw_api::system::Probe;
use paw_launch::request::{
    Image, Isolation, Limits, ProofState, Runtime, RuntimeState, SandboxId, SandboxPlan,
};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use tracing::{info, warn};

use crate::{
    clock::now_ms,
    sandbox::{Launchers, Proofs, RunEnd, RunEvent, RunSpec, proofs::Tried, run, sandbox_id},
    storage::Storage,
};

/// Where the program is in its image.
const PROGRAM: &str = "/bin/paw-probe";

/// The most that is kept of what it says, in bytes.
const MOST_SAID: u64 = 256 * 1024;

/// How long one sandbox may take, from the request to its end.
const LIMIT: Duration = Duration::from_secs(330);

/// What a probe gets; small, so that bombs are quick.
const LIMITS: Limits = Limits {
    cpu_milli: 1000,
    memory: 128 << 20,
    disk: 8 << 20,
    pids: 32,
    open_files: 256,
    wall_ms: 300_000,
    io_weight: None,
};

/// How long a bomb has that comes to its limit by itself, in milliseconds. No limit is proven by this: a gVisor that intercepts each
/// call, on a machine that is emulated itself, takes a minute for what takes another one a second.
const PATIENCE_MS: u64 = 120_000;

/// What is expected where the choice of error is the kernel's own.
const AN_ERROR: &str = "an error";

/// What is expected of a call that is made with nothing to do: a kernel that would do it complains of the arguments.
const REFUSED: &str = "refused";

/// Errors that are such a complaint.
const COMPLAINTS: [&str; 4] = ["EINVAL", "EFAULT", "EBADF", "ENOEXEC"];

/// A bomb, and how its end shows that it was held.
struct Bomb {
    word: &'static str,
    name: &'static str,
    expected: &'static str,
    memory: u64,
    wall_ms: u64,
    most_output: u64,
    observe: fn(&RunEnd, &str) -> String,
}

const BOMBS: [Bomb; 10] = [
    Bomb {
        word: "memory",
        name: "use more memory",
        expected: "killed for want of memory",
        memory: LIMITS.memory,
        wall_ms: PATIENCE_MS,
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
        memory: LIMITS.memory,
        wall_ms: PATIENCE_MS,
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
        memory: LIMITS.memory,
        wall_ms: PATIENCE_MS,
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
        // A gVisor that knows no size of a tmpfs is stopped by its memory.
        memory: 64 << 20,
        wall_ms: PATIENCE_MS,
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
        word: "files",
        name: "open more files",
        expected: "none beyond 256",
        memory: LIMITS.memory,
        wall_ms: PATIENCE_MS,
        most_output: MOST_SAID,
        // Nobody outside counts them in a sandbox with a kernel of its own, so it is the program's own word that speaks against it.
        observe: |end, said| match said.trim().parse::<u64>() {
            // Far fewer would be a limit of something else.
            Ok(open) if (128..=u64::from(LIMITS.open_files)).contains(&open) => {
                "none beyond 256".to_owned()
            }
            Ok(open) => format!("{open} open files"),
            Err(_) => ended(end),
        },
    },
    Bomb {
        word: "output",
        name: "never stop talking",
        expected: "cut, and ended at the deadline",
        memory: LIMITS.memory,
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
        memory: LIMITS.memory,
        wall_ms: 1_000,
        most_output: MOST_SAID,
        observe: at_the_deadline,
    },
    Bomb {
        word: "stubborn",
        name: "stay beyond the deadline, deaf to every signal",
        expected: "ended at the deadline",
        memory: LIMITS.memory,
        wall_ms: 1_000,
        most_output: MOST_SAID,
        observe: at_the_deadline,
    },
    Bomb {
        word: "daemon",
        name: "fork twice and stay",
        expected: "ended with its command",
        memory: LIMITS.memory,
        wall_ms: 30_000,
        most_output: MOST_SAID,
        observe: with_its_command,
    },
    Bomb {
        word: "orphan",
        name: "leave a process that holds the pipes",
        expected: "ended with its command",
        memory: LIMITS.memory,
        wall_ms: 30_000,
        most_output: MOST_SAID,
        observe: with_its_command,
    },
];

fn at_the_deadline(end: &RunEnd, _: &str) -> String {
    if end.end.timed_out {
        "ended at the deadline".to_owned()
    } else {
        ended(end)
    }
}

fn with_its_command(end: &RunEnd, _: &str) -> String {
    if end.exit.and_then(|exit| exit.code) == Some(0) && !end.end.timed_out {
        "ended with its command".to_owned()
    } else {
        ended(end)
    }
}

/// A line of paw-probe.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    probe: String,
    expected: String,
    observed: String,
}

/// A probe, and whether it was made at all; one that was not says nothing about the wall.
struct Made {
    probe: Probe,
    is_made: bool,
}

/// Tries everything in every runtime that is here, and keeps what was seen.
pub async fn prove(launchers: &Launchers, proofs: &Proofs, storage: &Storage) -> Vec<Probe> {
    if let Err(error) = launchers.usual().runtimes().await {
        let why = paw_log::Chain(&error).to_string();
        return vec![seen("list the runtimes", "launcher", "a list", why)];
    }
    let mut probes = Vec::new();
    for state in launchers.runtimes().await {
        if state.state == ProofState::Absent {
            continue;
        }
        let mut made = calls(launchers, &state).await;
        for bomb in &BOMBS {
            made.push(explode(launchers, state.name, bomb).await);
        }
        let names = |is_made| {
            made.iter()
                .filter(|one| one.is_made == is_made && !one.probe.ok)
                .map(|one| one.probe.probe.clone())
                .collect()
        };
        let tried = Tried {
            probes: made.len() as u64,
            fallen: names(true),
            not_made: names(false),
        };
        if let Err(error) = proofs.keep(storage, &state, tried, now_ms()).await {
            warn!(runtime = %state.name, error = %paw_log::Chain(&error), "what the probes saw is not stored; it counts until pawd ends");
        }
        probes.extend(made.into_iter().map(|one| one.probe));
    }
    probes
}

/// At the start, where proof is required: makes the probes unless each runtime that is here was proven since the host was started.
pub async fn prove_what_is_refused(launchers: Launchers, proofs: Proofs, storage: Storage) {
    if let Err(error) = launchers.usual().runtimes().await {
        warn!(error = %paw_log::Chain(&error), "the runtimes are not proven; run `pawctl doctor --prove`");
        return;
    }
    let is_refused = launchers.runtimes().await.iter().any(|runtime| {
        runtime.state != ProofState::Absent && proofs.objection(runtime, true).is_some()
    });
    if is_refused {
        let probes = prove(&launchers, &proofs, &storage).await;
        let fallen = probes.iter().filter(|probe| !probe.ok).count();
        info!(probes = probes.len(), fallen, "runtimes tried");
    }
}

async fn calls(launchers: &Launchers, state: &RuntimeState) -> Vec<Made> {
    let runtime = state.name;
    let name = "try forbidden calls";
    // Beside it lives another one that leaves open whatever it can; it is killed when it is dropped.
    let (ready, is_ready) = oneshot::channel();
    let neighbour = one(
        launchers,
        runtime,
        &["neighbour"],
        LIMITS,
        MOST_SAID,
        Some(ready),
    );
    let words = ["calls", wall(state)];
    let calls = async {
        if is_ready.await.is_err() {
            return Err("the sandbox beside it said nothing".to_owned());
        }
        one(launchers, runtime, &words, LIMITS, MOST_SAID, None).await
    };
    let told = tokio::select! {
        told = calls => told,
        neighbour = neighbour => match neighbour {
            Ok((end, _)) => Err(format!("of the sandbox beside it: {}", ended(&end))),
            Err(why) => Err(format!("the sandbox beside it: {why}")),
        },
    };
    let told = match told {
        Ok((end, said)) if end.exit.and_then(|exit| exit.code) == Some(0) => said,
        Ok((end, _)) => return vec![not_made(name, runtime, "a report", ended(&end))],
        Err(why) => return vec![not_made(name, runtime, "a report", why)],
    };
    told.lines()
        .map(|line| match serde_json::from_str::<Line>(line) {
            Ok(line) => made(&line.probe, runtime, &line.expected, line.observed),
            Err(error) => not_made(name, runtime, "a line of JSON", error.to_string()),
        })
        .collect()
}

/// What answers a program's system calls there, which says what errors are to be expected.
fn wall(state: &RuntimeState) -> &'static str {
    match (state.name, state.isolation) {
        (Runtime::Kata, Isolation::Process) => "shim",
        (_, Isolation::Process) => "native",
        (_, Isolation::Kernel | Isolation::Vm) => "gvisor",
    }
}

async fn explode(launchers: &Launchers, runtime: Runtime, bomb: &Bomb) -> Made {
    let limits = Limits {
        memory: bomb.memory,
        wall_ms: bomb.wall_ms,
        ..LIMITS
    };
    let words = [bomb.word];
    match one(launchers, runtime, &words, limits, bomb.most_output, None).await {
        Ok((end, said)) => made(
            bomb.name,
            runtime,
            bomb.expected,
            (bomb.observe)(&end, &said),
        ),
        Err(why) => not_made(bomb.name, runtime, bomb.expected, why),
    }
}

/// Runs the program once; what it wrote to stdout, or why it did not run. Its first words are told when they come.
async fn one(
    launchers: &Launchers,
    runtime: Runtime,
    words: &[&str],
    limits: Limits,
    most_output: u64,
    mut first_words: Option<oneshot::Sender<()>>,
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
        // Whatever there is: what it is called by and what was seen of it stand in the table.
        floor: Isolation::Process,
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
        terminal: None,
        most_output,
        net: None,
    };
    let (events, mut heard) = mpsc::channel(16);
    let listening = async {
        let mut said = Vec::new();
        while let Some(event) = heard.recv().await {
            match event {
                RunEvent::Stdout(bytes) => {
                    said.extend_from_slice(&bytes);
                    if let Some(first_words) = first_words.take() {
                        // Who waited may have left.
                        let _ = first_words.send(());
                    }
                }
                RunEvent::Started { .. } | RunEvent::Stderr(_) => {}
            }
        }
        said
    };
    let running = async {
        let ended = run(launchers, spec, &events).await;
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

fn made(probe: &str, runtime: Runtime, expected: &str, observed: String) -> Made {
    Made {
        probe: seen(probe, runtime.as_str(), expected, observed),
        is_made: true,
    }
}

fn not_made(probe: &str, runtime: Runtime, expected: &str, why: String) -> Made {
    Made {
        probe: seen(probe, runtime.as_str(), expected, why),
        is_made: false,
    }
}

fn is_as_expected(expected: &str, observed: &str) -> bool {
    observed == expected
        || expected == AN_ERROR && is_error(observed)
        || expected == REFUSED && is_error(observed) && !COMPLAINTS.contains(&observed)
}

fn seen(probe: &str, runtime: &str, expected: &str, observed: String) -> Probe {
    let short = |text: &str| text.chars().take(200).collect::<String>();
    Probe {
        probe: short(probe),
        runtime: runtime.to_owned(),
        expected: short(expected),
        ok: is_as_expected(expected, &observed),
        observed: short(&observed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_expected_is_a_wall_that_held() {
        for (expected, observed, ok) in [
            ("EPERM", "EPERM", true),
            ("EPERM", "it worked", false),
            ("EPERM", "EINVAL", false),
            (AN_ERROR, "ENOSYS", true),
            (AN_ERROR, "it worked", false),
            (AN_ERROR, "EVERYTHING worked", false),
            (REFUSED, "EPERM", true),
            (REFUSED, "ENOSYS", true),
            (REFUSED, "EFAULT", false),
            (REFUSED, "it worked", false),
            ("none", "3 processes", false),
        ] {
            assert_eq!(
                is_as_expected(expected, observed),
                ok,
                "{expected} {observed}"
            );
        }
    }
}
