//! `pawctl status`: one round trip, one screen.

use paw_api::system::{Process, Status};

use crate::{
    cli::Global,
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

pub(super) async fn run(global: &Global, out: &mut Out) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let answer = pawd
        .call("ask for the status", "system.status", Params::none())
        .await?;
    out.answer(&answer, |status: &Status, look| screen(status, look))?;
    Ok(exit::DONE)
}

fn screen(status: &Status, look: &Look) -> String {
    let (tone, ready) = match (status.ready, status.problems.is_empty()) {
        (true, true) => (Tone::Good, "ready"),
        (true, false) => (Tone::Warn, "ready, with problems"),
        (false, _) => (Tone::Bad, "not ready"),
    };
    let mut screen = format!(
        "{} pawd {}: {}, up {}\n",
        look.dot(tone),
        text::line(&status.version),
        look.paint(tone, ready),
        text::span(status.uptime_ms)
    );
    let (queue, sandboxes, audit) = (status.queue, status.sandboxes, &status.audit);
    let waiting = format!("{} waiting for approval", queue.waiting_approval);
    let waiting = if queue.waiting_approval > 0 {
        look.paint(Tone::Warn, &waiting)
    } else {
        waiting
    };
    let written = if audit.writable {
        "writable".to_owned()
    } else {
        look.paint(Tone::Bad, "not writable")
    };
    let verified = match audit.verified {
        Some(true) => look.paint(Tone::Good, "verified"),
        Some(false) => look.paint(Tone::Bad, "does not verify"),
        None => "not verified since start".to_owned(),
    };
    let mut rows = vec![
        (
            "   Actions",
            format!(
                "{} executing, {} queued, {waiting}",
                queue.executing, queue.queued
            ),
        ),
        (
            "Sandboxes",
            format!("{} running, {} pooled", sandboxes.running, sandboxes.pooled),
        ),
        (
            "Audit",
            format!("{} records, {written}, {verified}", text::count(audit.seq)),
        ),
    ];
    if let Some(witness) = &audit.witness {
        let behind = match &witness.error {
            None => format!("{} records behind", text::count(witness.behind)),
            Some(_) => look.paint(
                Tone::Warn,
                &format!("{} records behind", text::count(witness.behind)),
            ),
        };
        rows.push((
            "Witness",
            format!("{}, {behind}", text::line(&witness.sink)),
        ));
    }
    screen.push_str(&table::block(&rows));
    screen.push('\n');
    let rows = status.processes.iter().map(process).collect();
    let head = [
        "  PROCESS",
        "PID",
        "UID",
        "MEMORY",
        "CAPABILITIES",
        "NO NEW PRIVS",
        "SECCOMP",
        "LANDLOCK",
        "USERNS",
    ];
    screen.push_str(&table::table(&head, rows, look, "no process is reported"));
    screen.push('\n');
    let rows = status
        .providers
        .iter()
        .map(|provider| {
            let tone = provider_tone(&provider.state);
            vec![
                table::toned(tone, &format!("{} {}", tone.dot(), provider.name)),
                table::text(&provider.kind),
                table::toned(tone, &provider.state),
            ]
        })
        .collect();
    screen.push_str(&table::table(
        &["  PROVIDER", "KIND", "STATE"],
        rows,
        look,
        "no provider is configured",
    ));
    if !status.failing_jobs.is_empty() {
        screen.push('\n');
        for job in &status.failing_jobs {
            let times = match job.failures {
                1 => String::new(),
                times => format!(", {times} in a row"),
            };
            screen.push_str(&format!(
                "{} job {} of uid {}: {}{times}, {}: {}\n",
                look.dot(Tone::Bad),
                text::line(&job.name),
                job.owner,
                text::line(&job.outcome),
                text::time(job.at, look),
                text::line(job.why.as_deref().unwrap_or("nobody knows why"))
            ));
        }
        screen.push_str("see what became of one: pawctl job history NAME\n");
    }
    if !status.problems.is_empty() {
        screen.push('\n');
        for problem in &status.problems {
            screen.push_str(&format!(
                "{} {}\n",
                look.dot(Tone::Bad),
                text::line(problem)
            ));
        }
        screen.push_str("what to do: pawctl doctor\n");
    }
    screen
}

/// The meaning of a provider's state.
pub(super) fn provider_tone(state: &str) -> Tone {
    match state {
        "ready" => Tone::Good,
        "failing" => Tone::Bad,
        "loading" => Tone::Warn,
        _ => Tone::Dim,
    }
}

fn process(process: &Process) -> Vec<table::Field> {
    let confinement = &process.confinement;
    let capable = u64::from_str_radix(&confinement.caps_effective, 16) != Ok(0);
    // Inside a user namespace of its own capabilities reach nothing outside of it.
    let (caps, caps_tone) = match (capable, confinement.userns) {
        (false, _) => ("none".to_owned(), Tone::Good),
        (true, true) => (
            format!("{} (own userns)", confinement.caps_effective),
            Tone::Plain,
        ),
        (true, false) => (confinement.caps_effective.clone(), Tone::Bad),
    };
    let (seccomp, seccomp_tone) = match confinement.seccomp {
        2 => ("filter", Tone::Good),
        1 => ("strict", Tone::Good),
        _ => ("none", Tone::Bad),
    };
    let landlock = match confinement.landlock_abi {
        0 => table::toned(Tone::Bad, "none"),
        abi => table::toned(Tone::Good, &format!("abi {abi}")),
    };
    let confined =
        !(caps_tone == Tone::Bad || seccomp_tone == Tone::Bad || !confinement.no_new_privs);
    let tone = if confined { Tone::Good } else { Tone::Bad };
    vec![
        table::toned(tone, &format!("{} {}", tone.dot(), process.name)),
        table::number(process.pid),
        table::number(process.uid),
        table::number(text::size(process.rss)),
        table::toned(caps_tone, &caps),
        if confinement.no_new_privs {
            table::toned(Tone::Good, "yes")
        } else {
            table::toned(Tone::Bad, "no")
        },
        table::toned(seccomp_tone, seccomp),
        landlock,
        table::text(if confinement.userns { "own" } else { "host" }),
    ]
}
