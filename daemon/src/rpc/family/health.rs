//! How the system is: what `status` and `doctor` show, read from the kernel and the parts themselves at the time of asking.

use std::sync::PoisonError;

use paw_api::system::{
    AuditState, Confinement, Doctor, Finding, Probe, Process, QueueCounts, SandboxCounts, Severity,
    Status,
};
use paw_confine::{landlock::Enforced, report};
use paw_launch::request::{MemoryWatch, ProofState, Reply};

use super::Context;
use crate::{
    prove,
    sandbox::{self, LauncherState},
};

/// What was seen when pawd started, and cannot be seen again from inside.
#[derive(Debug, Clone)]
pub struct Born {
    /// What landlock enforces.
    pub landlock: Enforced,
    /// What was tried after the drop; all of it failed as it must, or pawd would not be here.
    pub probes: Vec<paw_confine::prove::Probe>,
    /// Whether all our processes run as one user, because pawd was started by somebody who is not root.
    pub shared_user: bool,
    /// Skills that were left out, and why.
    pub skill_faults: Vec<String>,
}

/// How the system is now.
pub async fn status(context: &Context) -> Status {
    let load = context.actions.load();
    let audit = context.audit.health();
    let launcher = context.launcher.status().await;
    let broker = sandbox::look(&context.paths.socket("egress")).await;
    let (broker_pid, broker_abi) =
        broker.map_or((None, 0), |ready| (Some(ready.pid), ready.landlock_abi));
    let (sandboxes, launcher_abi, doorkeeper) = match &launcher {
        Ok(Reply::Status {
            running,
            waiting,
            landlock_abi,
            doorkeeper,
            ..
        }) => ((*running, *waiting), *landlock_abi, *doorkeeper),
        Ok(_) | Err(_) => ((0, 0), 0, 0),
    };
    let mut problems = Vec::new();
    let mut processes: Vec<Process> = Vec::new();
    // The kernel tells a process's landlock rules to nobody else, so each says its own; the rest is what the kernel shows.
    let parts = [
        ("pawd", Some(std::process::id()), context.born.landlock.abi),
        ("paw-launcher", launcher_pid(context), launcher_abi),
        (
            "paw-audit",
            Some(audit.pid).filter(|pid| *pid != 0),
            audit.landlock_abi,
        ),
        ("paw-egress", broker_pid, broker_abi),
    ];
    for (name, pid, landlock_abi) in parts {
        match pid.map(|pid| (pid, report::Confinement::of(pid))) {
            Some((pid, Ok(seen))) => processes.push(process(name, pid, landlock_abi, &seen)),
            Some((_, Err(error))) => problems.push(format!(
                "{name} cannot be looked at: {}",
                paw_log::Chain(&error)
            )),
            None => problems.push(format!("{name} is not there; see `pawctl doctor`")),
        }
    }
    // Its list of system calls has none that opens a file or a port, so there is nothing for landlock to rule over.
    if doorkeeper != 0
        && let Ok(seen) = report::Confinement::of(doorkeeper)
    {
        processes.push(process("paw-launcher-door", doorkeeper, 0, &seen));
    }
    if !audit.writable {
        problems
            .push("the audit log cannot be written; nothing that needs a record is done".into());
    }
    if !context.storage.read().is_writable() {
        problems.push("the store cannot be written; nothing is accepted until it can".into());
    }
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_ms: u64::try_from(context.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        ready: audit.writable && !context.stop.is_cancelled(),
        processes,
        sandboxes: SandboxCounts {
            running: sandboxes.0,
            pooled: sandboxes.1,
        },
        queue: QueueCounts {
            queued: load.queued as u64,
            executing: load.executing as u64,
            waiting_approval: load.waiting as u64,
        },
        providers: context
            .providers
            .borrow()
            .iter()
            .map(|(name, known)| known.in_short(name))
            .collect(),
        audit: AuditState {
            seq: audit.seq,
            writable: audit.writable,
            verified: *context
                .verified
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        },
        problems,
    }
}

/// What is wrong, what follows, and what to do.
pub async fn doctor(context: &Context, prove: bool) -> Doctor {
    let mut findings = Vec::new();
    let mut find = |id: &str, severity, what: String, effect: &str, remedy: &str| {
        findings.push(Finding {
            id: id.into(),
            severity,
            what,
            effect: effect.into(),
            remedy: remedy.into(),
        });
    };
    if let LauncherState::Away { why } = &*context.launcher.state().borrow() {
        find(
            "launcher.absent",
            Severity::Error,
            format!("paw-launcher does not answer: {why}"),
            "no tool and no command can run",
            "systemctl status paw-launcher, then journalctl -u paw-launcher",
        );
    }
    if !context.audit.health().writable {
        find(
            "audit.absent",
            Severity::Error,
            "paw-audit does not answer, or has no room".into(),
            "nothing that needs a record is done",
            "systemctl status paw-audit; see that the log's disk has room",
        );
    }
    if sandbox::look(&context.paths.socket("egress"))
        .await
        .is_none()
    {
        find(
            "egress.absent",
            Severity::Warn,
            "paw-egress does not answer".into(),
            "no sandbox reaches a network; those that need none run",
            "systemctl status paw-egress, then journalctl -u paw-egress",
        );
    }
    if !context.storage.read().is_writable() {
        find(
            "store.read_only",
            Severity::Error,
            format!(
                "the store {} cannot be written",
                context.storage.read().path().display()
            ),
            "nothing is accepted; what is stored can be read",
            "see that its disk has room and is mounted for writing",
        );
    }
    if context.providers.borrow().iter().next().is_none() {
        find(
            "provider.none",
            Severity::Warn,
            "no provider is configured".into(),
            "nobody answers a chat",
            "add a [provider.NAME] section to pawd.toml, then `pawctl config reload`; see pawd.toml(5)",
        );
    }
    for part in &context.born.landlock.missing {
        find(
            "kernel.landlock",
            Severity::Warn,
            format!("the kernel's landlock has no {part}"),
            "that part of the confinement rests on seccomp and the unit alone",
            "use a newer kernel, or accept it; [confinement] landlock_floor refuses to start instead",
        );
    }
    if context.born.shared_user {
        find(
            "users.shared",
            Severity::Warn,
            "pawd was started by a user who is not root".into(),
            "pawd and its helpers are not separated from each other by the kernel",
            "start it as a service, or as root with --standalone",
        );
    }
    if context.config.borrow().shipped_policy {
        find(
            "policy.shipped",
            Severity::Info,
            "there is no policy directory; the shipped policy is in force".into(),
            "none",
            "copy the shipped 10-default.cedar to /etc/pawd/policy to change it",
        );
    }
    for fault in &context.born.skill_faults {
        find(
            "skill.faulty",
            Severity::Warn,
            fault.clone(),
            "that skill is not offered",
            "mend or remove it, then restart pawd",
        );
    }
    if let Ok(Reply::Status { memory_watch, .. }) = context.launcher.status().await
        && context.config.borrow().sandbox.pool.max > 0
    {
        match memory_watch {
            MemoryWatch::Pressure => {}
            MemoryWatch::Available => find(
                "pool.memory",
                Severity::Info,
                "the kernel does not tell the launcher of memory pressure (PSI)".into(),
                "while a sandbox waits for its first command, available memory is looked at every five seconds instead",
                "boot with psi=1; Linux before 6.4 tells only root",
            ),
            MemoryWatch::Nothing => find(
                "pool.memory",
                Severity::Warn,
                "the launcher cannot see how much memory is available".into(),
                "no sandbox waits for its first command; each is made when it is asked for",
                "let paw-launcher read /proc/meminfo (its unit must not have ProcSubset=pid)",
            ),
        }
    }
    match context.launcher.runtimes().await {
        Ok(runtimes) => {
            let required = context.config.borrow().sandbox.require_proof;
            for runtime in runtimes {
                let objection = (runtime.state != ProofState::Absent)
                    .then(|| context.proofs.objection(&runtime, required))
                    .flatten();
                let shown = context.proofs.shown(runtime);
                let what = format!("runtime {}: {}", shown.name, shown.reason);
                match (objection, shown.state) {
                    (Some(_), _) => find(
                        "runtime.refused",
                        Severity::Error,
                        what,
                        "what asks for it is refused",
                        "mend it, then run `pawctl doctor --prove`",
                    ),
                    (None, ProofState::Proven) => {}
                    (None, ProofState::Unverified) => find(
                        "runtime.unproven",
                        Severity::Info,
                        what,
                        "it is used; its sandboxes are attested, and nobody has tried to get out of one here",
                        "pawctl doctor --prove; [sandbox] require_proof refuses it until then",
                    ),
                    (None, ProofState::Absent) => find(
                        "runtime.absent",
                        Severity::Info,
                        what,
                        "what asks for it is refused",
                        "see `pawctl sandbox runtimes`",
                    ),
                }
            }
        }
        Err(error) => tracing::debug!(error = %paw_log::Chain(&error), "runtimes not listed"),
    }
    if let Ok(Reply::Status { unheld, .. }) = context.launcher.status().await {
        for limit in unheld {
            find(
                "limit.unheld",
                Severity::Info,
                limit,
                "sandboxes are not bound by it, and their attestations say so",
                "see LIMITS in paw-launcher(8)",
            );
        }
    }
    let mut probes: Vec<Probe> = Vec::new();
    if prove {
        probes.extend(context.born.probes.iter().map(probe));
        let prove = prove::prove(&context.launcher, &context.proofs, &context.storage);
        probes.extend(prove.await);
    }
    let ok = findings
        .iter()
        .all(|finding| finding.severity != Severity::Error)
        && probes.iter().all(|probe| probe.ok);
    Doctor {
        ok,
        findings,
        probes,
    }
}

fn launcher_pid(context: &Context) -> Option<u32> {
    match *context.launcher.state().borrow() {
        LauncherState::Connected { pid } => Some(pid),
        LauncherState::Connecting | LauncherState::Away { .. } => None,
    }
}

fn process(name: &str, pid: u32, landlock_abi: u32, seen: &report::Confinement) -> Process {
    Process {
        name: name.into(),
        pid,
        uid: seen.uid,
        confinement: Confinement {
            caps_effective: seen.caps_effective.clone(),
            no_new_privs: seen.no_new_privs,
            seccomp: seen.seccomp,
            landlock_abi,
            userns: seen.userns,
        },
        rss: seen.rss,
    }
}

fn probe(probe: &paw_confine::prove::Probe) -> Probe {
    Probe {
        probe: probe.probe.clone(),
        runtime: "pawd".into(),
        expected: probe.expected.to_owned(),
        observed: probe.observed.clone(),
        ok: probe.ok,
    }
}
