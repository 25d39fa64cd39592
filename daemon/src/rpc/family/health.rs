//! How the system is: what `status` and `doctor` show, read from the kernel and the parts themselves at the time of asking.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use paw_api::system::{
    AuditState, Confinement, Doctor, Finding, Probe, Process, QueueCounts, SandboxCounts, Severity,
    Status, WitnessState,
};
use paw_confine::{landlock::Enforced, report};
use paw_launch::request::{MemoryWatch, ProofState, Reply};
use tokio::sync::watch;

use super::Context;
use crate::{
    audit::Audit,
    clock::behind_ms,
    prove,
    providers::in_short,
    sandbox::{self, Launcher, LauncherState, Launchers, Which},
};

/// By so many milliseconds the host's clock may be behind without anybody being told: it is corrected all the time.
const CLOCK_MAY_BE_BEHIND: u64 = 60_000;

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

/// What launchers, broker and kernel say.
#[derive(Debug, Default)]
struct Looked {
    processes: Vec<Process>,
    sandboxes: SandboxCounts,
    problems: Vec<String>,
}

/// The way to a look at all processes. Whoever asks while one is under way shares the next one: helpers answer one question after the
/// other, so many who ask would make each other wait. One task looks, so nobody waits for another one who asks.
#[derive(Debug)]
pub struct Looks {
    /// How many have asked.
    asked: watch::Sender<u64>,
    /// What was seen last, by a look that began when so many had asked.
    seen: watch::Receiver<(u64, Arc<Looked>)>,
}

impl Looks {
    /// What a look sees that began when this was asked, or later.
    async fn look(&self) -> Arc<Looked> {
        let mut mine = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            mine = *asked;
        });
        let mut seen = self.seen.clone();
        match seen.wait_for(|(asked, _)| *asked >= mine).await {
            Ok(seen) => Arc::clone(&seen.1),
            Err(_) => Arc::new(Looked {
                problems: vec!["pawd is stopping; nobody looks at its processes any more".into()],
                ..Looked::default()
            }),
        }
    }
}

/// The way to looks, and the task that looks; it ends with the way.
pub fn looks(
    audit: Audit,
    launchers: Launchers,
    egress: PathBuf,
    landlock_abi: u32,
) -> (Looks, impl Future<Output = ()> + Send) {
    let (asked, mut wanted) = watch::channel(0);
    let (tell, seen) = watch::channel((0, Arc::default()));
    let work = async move {
        while wanted.changed().await.is_ok() {
            let asked = *wanted.borrow_and_update();
            let looked = look(&audit, &launchers, &egress, landlock_abi).await;
            tell.send_replace((asked, Arc::new(looked)));
        }
    };
    (Looks { asked, seen }, work)
}

async fn look(audit: &Audit, launchers: &Launchers, egress: &Path, landlock_abi: u32) -> Looked {
    let audit = audit.health();
    let (usual, kata, broker) = tokio::join!(
        seen_of(Which::Usual, launchers.usual()),
        seen_of(Which::Kata, launchers.kata()),
        sandbox::look(egress),
    );
    let launchers = [usual, kata];
    let (broker_pid, broker_abi) =
        broker.map_or((None, 0), |ready| (Some(ready.pid), ready.landlock_abi));
    let mut problems = Vec::new();
    let mut processes: Vec<Process> = Vec::new();
    // The kernel tells a process's landlock rules to nobody else, so each says its own; the rest is what the kernel shows.
    let mut parts = vec![("pawd", Some(std::process::id()), landlock_abi)];
    for seen in launchers.iter().filter(|seen| !seen.is_off) {
        parts.push((seen.which.unit(), seen.pid, seen.landlock_abi));
    }
    parts.extend([
        (
            "paw-audit",
            Some(audit.pid).filter(|pid| *pid != 0),
            audit.landlock_abi,
        ),
        ("paw-egress", broker_pid, broker_abi),
    ]);
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
    for launcher in launchers.iter().filter(|launcher| launcher.doorkeeper != 0) {
        if let Ok(seen) = report::Confinement::of(launcher.doorkeeper) {
            let name = format!("{}-door", launcher.which.unit());
            processes.push(process(&name, launcher.doorkeeper, 0, &seen));
        }
    }
    Looked {
        processes,
        sandboxes: SandboxCounts {
            running: launchers.iter().map(|seen| seen.running).sum(),
            pooled: launchers.iter().map(|seen| seen.waiting).sum(),
        },
        problems,
    }
}

/// How the system is now.
pub async fn status(context: &Context) -> Status {
    let looked = context.looks.look().await;
    let load = context.actions.load();
    let audit = context.audit.health();
    let mut problems = looked.problems.clone();
    if !audit.writable {
        problems
            .push("the audit log cannot be written; nothing that needs a record is done".into());
    }
    if !context.storage.read().is_writable() {
        problems.push("the store cannot be written; nothing is accepted until it can".into());
    }
    if let Some(since) = context.storage.read().stalled() {
        problems.push(format!(
            "the disk of the store has not answered for {} s; what waits for it is not known to be stored, and lists show what was there before",
            since.as_secs()
        ));
    }
    let witness = context.witnesses.state();
    if let Some(WitnessState {
        sink,
        behind,
        error: Some(error),
        ..
    }) = &witness
    {
        problems.push(format!(
            "checkpoints of the audit log do not leave this host, and {sink} has none of the last {behind} records: {error}"
        ));
    }
    if let Some(trouble) = context.secrets.trouble() {
        problems.push(format!(
            "{}; what needs a secret does not work; {}",
            trouble.what, trouble.remedy
        ));
    }
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_ms: u64::try_from(context.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        ready: audit.writable && !context.stop.is_cancelled(),
        processes: looked.processes.clone(),
        sandboxes: looked.sandboxes,
        queue: QueueCounts {
            queued: load.queued as u64,
            executing: load.executing as u64,
            waiting_approval: load.waiting as u64,
        },
        providers: context
            .providers
            .borrow()
            .shown()
            .into_iter()
            .map(in_short)
            .collect(),
        audit: AuditState {
            seq: audit.seq,
            writable: audit.writable,
            verified: *context
                .verified
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            witness,
        },
        problems,
        // Whose those are, is for who answers to say.
        failing_jobs: Vec::new(),
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
    if let LauncherState::Away { why } = &*context.launchers.kata().state().borrow() {
        find(
            "launcher.kata",
            Severity::Warn,
            format!("paw-launcher-kata is switched on and does not answer: {why}"),
            "what asks for the runtime kata is refused",
            "systemctl status paw-launcher-kata, then journalctl -u paw-launcher-kata",
        );
    }
    if let LauncherState::Away { why } = &*context.launchers.usual().state().borrow() {
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
    if let Some(WitnessState {
        sink,
        behind,
        error: Some(error),
        ..
    }) = context.witnesses.state()
    {
        find(
            "audit.witness",
            Severity::Warn,
            format!("{sink} has no checkpoint of the last {behind} records: {error}"),
            "who takes over this host can write what the audit log has of them anew, unless the journal is forwarded",
            "see that the server is there and has a certificate for its name; [witness] of egress.toml(5), then restart paw-egress",
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
    let behind = behind_ms();
    if behind > CLOCK_MAY_BE_BEHIND {
        find(
            "clock.behind",
            Severity::Warn,
            format!(
                "the clock of this host is {} s behind what it was: it was set back",
                behind / 1_000
            ),
            "for pawd time goes on from where it was, so that nothing that has ended begins again; only jobs and one-time codes go by the clock",
            "see that the clock is right (timedatectl), then restart pawd",
        );
    }
    if let Some(trouble) = context.secrets.trouble() {
        find(
            &format!("vault.{}", trouble.kind),
            if trouble.is_grave {
                Severity::Error
            } else {
                Severity::Warn
            },
            trouble.what,
            "what needs a secret does not work: providers and brokers whose key is in the vault",
            trouble.remedy,
        );
    }
    let providers = context.providers.borrow().shown();
    if providers.is_empty() {
        find(
            "provider.none",
            Severity::Warn,
            "no provider is configured".into(),
            "nobody answers a chat",
            "pawctl provider add, or a [provider.NAME] section in pawd.toml(5) and `pawctl config reload`",
        );
    }
    let config = Arc::clone(&context.config.borrow());
    for stray in &config.strays {
        find(
            "agent.lacks",
            Severity::Warn,
            format!("registered agent {}: {}", stray.agent, stray.message),
            "it does without what it names there",
            "pawctl agent edit NAME, or mend what it names in pawd.toml(5)",
        );
    }
    for provider in providers {
        if let Some(why) = provider.waits_for {
            find(
                "provider.waiting",
                Severity::Warn,
                format!("provider {}: {why}", provider.name),
                "it is not asked",
                "pawctl provider show NAME",
            );
        } else if provider.state == "failing" {
            let why = provider.last_error.unwrap_or_default();
            find(
                "provider.down",
                Severity::Warn,
                format!("provider {}: {why}", provider.name),
                "chats that need it fail",
                "pawctl provider test NAME",
            );
        }
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
    if let Ok(Reply::Status { memory_watch, .. }) = context.launchers.usual().status().await
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
    let required = context.config.borrow().sandbox.require_proof;
    for runtime in context.launchers.runtimes().await {
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
    let mut told = BTreeSet::new();
    for launcher in [context.launchers.usual(), context.launchers.kata()] {
        if let Ok(Reply::Status { unheld, .. }) = launcher.status().await {
            told.extend(unheld);
        }
    }
    for limit in told {
        find(
            "limit.unheld",
            Severity::Info,
            limit,
            "sandboxes are not bound by it, and their attestations say so",
            "see LIMITS in paw-launcher(8)",
        );
    }
    let mut probes: Vec<Probe> = Vec::new();
    if prove {
        probes.extend(context.born.probes.iter().map(probe));
        let prove = prove::prove(&context.launchers, &context.proofs, &context.storage);
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

/// What a launcher says of itself.
struct SeenLauncher {
    which: Which,
    /// Whether it need not be there, and is not.
    is_off: bool,
    pid: Option<u32>,
    landlock_abi: u32,
    /// 0 for none.
    doorkeeper: u32,
    running: u32,
    waiting: u32,
}

async fn seen_of(which: Which, launcher: &Launcher) -> SeenLauncher {
    let (pid, is_off) = match *launcher.state().borrow() {
        LauncherState::Connected { pid } => (Some(pid), false),
        LauncherState::Connecting | LauncherState::Away { .. } => (None, false),
        LauncherState::Off => (None, true),
    };
    let nothing = SeenLauncher {
        which,
        is_off,
        pid,
        landlock_abi: 0,
        doorkeeper: 0,
        running: 0,
        waiting: 0,
    };
    match launcher.status().await {
        Ok(Reply::Status {
            running,
            waiting,
            landlock_abi,
            doorkeeper,
            ..
        }) => SeenLauncher {
            landlock_abi,
            doorkeeper,
            running,
            waiting,
            ..nothing
        },
        Ok(_) | Err(_) => nothing,
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
