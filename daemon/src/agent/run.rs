//! A command of a person, in a sandbox of its own or in one that runs already.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use paw_api::sandbox::{RunEvent as Shown, RunSpec as Asked};
use paw_launch::{
    request::{Attestation, Image, Limits, Mount, MountSource, SandboxId, SandboxPlan},
    workspace::Settle,
};
use paw_policy::{Name, Taint, TaintSet};
use paw_store::Caller;
use serde_json::{Map, Value};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{io::StreamReader, sync::CancellationToken};
use uuid::Uuid;

use super::{
    Agents,
    asked::{self, Checked, check},
    ended::{end_of_exec, outcome_of},
    net::{Whose, way_out},
    staged,
    tool::{begins_to_send, fresh_id, left, not_chosen},
    worker,
};
use crate::{
    labels::Sending,
    orchestrator::work::{Ending, Outcome, Progress},
    sandbox::{
        self, ExecSpec, Known, Noting, Owner, PROXY_ENVIRONMENT, Register, RunEnd, RunError,
        RunEvent, RunSpec, Sandbox, Sizes,
    },
};

/// Events of a command that may wait for their reader.
const EVENTS: usize = 16;

/// How long the last output of a command may wait for its reader.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long a further command may take when nothing is said: as long as the sandbox.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a command with a terminal is told of it where it was told nothing else: what every terminal of today can do.
const TERMINAL_ENVIRONMENT: &str = "TERM=xterm";

/// Where a command finds the workspace that it asked for.
pub const WORKSPACE: &str = "/workspace";

/// The environment of a command that is given none.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/tmp",
    "LANG=C.UTF-8",
];

/// What an execution may be told while it runs.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    /// To stop.
    pub(super) cancel: &'a CancellationToken,
    /// To let go of what another pawd goes on with.
    pub(super) leave: &'a CancellationToken,
}

/// Runs a command for a person: with whose action it is, who asked, and for whom its sandbox may be used.
pub(super) async fn run(
    agents: &Agents,
    (action, caller, owner, through): (Uuid, &Caller, Owner, &[Name]),
    spec: Map<String, Value>,
    progress: Progress,
    told: Told<'_>,
) -> Outcome {
    let asked: Asked = match serde_json::from_value(Value::Object(spec)) {
        Ok(asked) => asked,
        Err(error) => {
            let hint = "see `pawctl sandbox run --help`";
            return Outcome::failed("invalid", error.to_string(), hint);
        }
    };
    let (output, input, sizes) = match progress {
        Progress::Run {
            output,
            input,
            terminal,
        } => (Some(output), input, terminal),
        Progress::None
        | Progress::Chat(_)
        | Progress::Switch(_)
        | Progress::Value(_)
        | Progress::Pull { .. } => (None, None, None),
    };
    let terminal = match terminal_of(&asked, sizes) {
        Ok(terminal) => terminal,
        Err(outcome) => return *outcome,
    };
    let stdin = input.filter(|_| asked.stdin).map(|input| {
        Box::new(StreamReader::new(ReceiverStream::new(input)))
            as Box<dyn tokio::io::AsyncRead + Send + Unpin>
    });
    let mut env = if asked.env.is_empty() {
        ENVIRONMENT.map(str::to_owned).to_vec()
    } else {
        asked.env.clone()
    };
    let further = asked.sandbox.as_ref().and_then(|id| id.parse().ok());
    if !asked.net.is_empty() || further.is_some_and(|id| agents.ways.of(&id).is_some()) {
        env.extend(PROXY_ENVIRONMENT.map(str::to_owned));
    }
    if terminal.is_some() && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push(TERMINAL_ENVIRONMENT.to_owned());
    }
    let cwd = asked.workdir.clone().unwrap_or_else(|| "/".into());
    let most_output = asked
        .max_output
        .unwrap_or_else(|| agents.config.borrow().sandbox.max_output);
    if let Some(id) = &asked.sandbox {
        let command = ExecSpec {
            argv: asked.argv.clone(),
            env,
            cwd,
            stdin,
            terminal,
            most_output,
            limit: asked.timeout_ms.map_or(LONGEST, Duration::from_millis),
        };
        return exec(agents, (action, id), command, output, told).await;
    }
    let mut plan = match plan_of(agents, &asked, owner.uid).await {
        Ok(plan) => plan,
        Err(outcome) => return *outcome,
    };
    let (uid, agent, began) = (owner.uid, owner.agent.clone(), Instant::now());
    let taint = owner.taint.clone();
    let _sending = match leave_label(agents, &asked, &taint).await {
        Ok(sending) => sending,
        Err(outcome) => return *outcome,
    };
    let origin = if asked.cold {
        agents.pool.cold()
    } else {
        agents.pool.origin(owner, &mut plan).await
    };
    let pooled = origin.is_pooled();
    if let Some(lines) = asked.lines {
        let work = worker::rounds(origin, plan, asked.argv, env, cwd, lines);
        return tokio::select! {
            outcome = work => outcome,
            () = told.cancel.cancelled() => Outcome::plain(Ending::Cancelled),
        };
    }
    let (id, runtime) = (plan.id.to_string(), plan.runtime);
    let (layer, workspace) = (plan.id.clone(), asked.workspace.clone());
    let whose = Whose {
        action,
        caller,
        agent: &agent,
        through,
        skill: None,
        taint: &taint,
    };
    let (way, keeping) = match way_out(agents, &plan.id, whose, asked.net) {
        Ok(way) => way,
        Err(outcome) => return *outcome,
    };
    let used = way.as_ref().map(|(way, _)| Arc::clone(way));
    let spec = RunSpec {
        plan: plan.clone(),
        argv: asked.argv,
        env,
        cwd,
        stdin,
        terminal,
        most_output,
        net: way.map(|(_, net)| net),
    };
    let (events, heard) = mpsc::channel(EVENTS);
    let mut leaving = Leaving::new(&agents.register, plan.id.clone());
    let note = |sandbox: &Sandbox| {
        let known = Known {
            owner: uid,
            action,
            plan,
            attestation: Box::new(sandbox.attestation().clone()),
            ended: false,
            end: None,
        };
        let log = agents.register.enter(known, sandbox.starter().clone())?;
        Ok(Some(Noting {
            log,
            action,
            output: true,
        }))
    };
    let mut heard_of = Heard::default();
    let running = async {
        // The run ends what it says about its network, so its records are complete before its result is.
        let (ended, ()) = tokio::join!(
            async {
                let ended = sandbox::run_noted(origin, spec, &events, note, told.leave).await;
                drop(events);
                ended
            },
            keeping,
        );
        ended
    };
    let work = heard_to_the_end(running, heard_of.pass_on(heard, output));
    let ended = tokio::select! {
        ended = work => Some(ended),
        () = cancelled(told) => None,
    };
    leaving.is(&ended);
    drop(leaving);
    let outcome = outcome_of(
        &id,
        runtime,
        ended,
        heard_of.attestation.as_deref(),
        used.map(|way| way.usage()),
    );
    let outcome = worker::amended(outcome, |result| {
        result.pooled = pooled;
        result.first_output_us = heard_of.first_output.map(|at| micros(at - began));
    });
    let outcome = match workspace {
        Some(agent) => staged::staged(agents, layer, agent, outcome).await,
        None => outcome,
    };
    Outcome {
        sandbox: Some(id),
        attestation: heard_of.attestation.as_ref().map(|it| it.digest),
        ..outcome
    }
}

/// Before a command is started that sees a workspace: what it writes there came from where the command did, and from the network if it has
/// one. While it has, nothing secret comes there.
async fn leave_label(
    agents: &Agents,
    asked: &Asked,
    taint: &TaintSet,
) -> Result<Option<Sending>, Box<Outcome>> {
    let directory: Option<Name> = asked.workspace.as_ref().and_then(|name| name.parse().ok());
    let Some(directory) = directory else {
        return Ok(None);
    };
    let (mut taint, mut sending) = (taint.clone(), None);
    if !asked.net.is_empty() {
        sending = Some(begins_to_send(agents, directory.clone(), &taint)?);
        taint = taint.with(&TaintSet::of(Taint::Web));
    }
    left(agents, move |labels| {
        labels.leave_in(directory, None, &taint)
    })
    .await?;
    Ok(sending)
}

/// The sizes of the terminal that was asked for. Where nobody listens it keeps the one that it begins with.
fn terminal_of(asked: &Asked, sizes: Option<Sizes>) -> Result<Option<Sizes>, Box<Outcome>> {
    let Some(size) = &asked.terminal else {
        return Ok(None);
    };
    if sizes.is_some() {
        return Ok(sizes);
    }
    let size = asked::size_of(size)
        .map_err(|error| Box::new(Outcome::failed("invalid", error.message, error.data.hint)))?;
    Ok(Some(watch::channel(size).1))
}

/// Waits until it shall stop. What shall be left at the same time is not stopped: that is for whoever can leave it.
pub(super) async fn cancelled(told: Told<'_>) {
    told.cancel.cancelled().await;
    if told.leave.is_cancelled() {
        std::future::pending().await
    }
}

/// Runs a further command in a sandbox of the same user that runs already. What the sandbox uses is counted with the command
/// that it was made for; here only the time is this command's own.
async fn exec(
    agents: &Agents,
    (action, id): (Uuid, &str),
    command: ExecSpec,
    output: Option<mpsc::Sender<Shown>>,
    told: Told<'_>,
) -> Outcome {
    let found = id.parse::<SandboxId>().ok().and_then(|id| {
        let known = agents.register.known(&id)?;
        Some((
            agents.register.starter(&id)?,
            agents.register.log(&id)?,
            known,
        ))
    });
    let Some((starter, log, known)) = found else {
        let hint = "see `pawctl sandbox list`";
        return Outcome::failed("not_found", format!("no sandbox {id} runs"), hint);
    };
    let began = Instant::now();
    let (events, heard) = mpsc::channel(EVENTS);
    let started = RunEvent::Started {
        id: known.plan.id.clone(),
        attestation: known.attestation.clone(),
        starter: starter.clone(),
    };
    let noting = Noting {
        log,
        action,
        output: false,
    };
    let mut heard_of = Heard::default();
    let running = async {
        // A channel that was just made has room.
        drop(events.try_send(started));
        let ended = sandbox::exec(&starter, command, &events, Some(&noting), told.leave).await;
        drop(events);
        ended
    };
    let work = heard_to_the_end(running, heard_of.pass_on(heard, output));
    let ended = tokio::select! {
        ended = work => Some(ended),
        () = cancelled(told) => None,
    };
    let ended = ended.map(|ended| ended.map(|exit| end_of_exec(exit, began.elapsed())));
    Outcome {
        sandbox: Some(id.to_owned()),
        attestation: Some(known.attestation.digest),
        ..outcome_of(
            id,
            known.plan.runtime,
            ended,
            Some(&*known.attestation),
            agents.ways.of(&known.plan.id).map(|way| way.usage()),
        )
    }
}

/// Runs both; once the command has ended, who listens has [`LAST_WORDS`] for what is left: a reader that has stopped reading
/// holds no place for a command that is over.
async fn heard_to_the_end<T>(
    running: impl Future<Output = Result<T, RunError>>,
    passing: impl Future<Output = ()>,
) -> Result<T, RunError> {
    tokio::pin!(running, passing);
    let mut passed = false;
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            () = &mut passing, if !passed => passed = true,
        }
    };
    // What is left says it again to the next pawd, so nobody has to be waited for.
    let left = matches!(ended, Err(RunError::Left));
    if !passed && !left && timeout(LAST_WORDS, passing).await.is_err() {
        tracing::warn!("the last output of a command was not read; it is dropped");
    }
    ended
}

/// What was heard of a run.
#[derive(Default)]
struct Heard {
    attestation: Option<Box<Attestation>>,
    /// When it first said something.
    first_output: Option<Instant>,
}

/// A sandbox leaves the register with whoever ran it, also when that is dropped in the middle.
pub(super) struct Leaving {
    register: Register,
    id: SandboxId,
    end: Option<RunEnd>,
    /// Whether another pawd goes on with it.
    goes_on: bool,
}

impl Leaving {
    pub(super) fn new(register: &Register, id: SandboxId) -> Self {
        Self {
            register: register.clone(),
            id,
            end: None,
            goes_on: false,
        }
    }

    /// How it ended.
    pub(super) fn is(&mut self, ended: &Option<Result<RunEnd, RunError>>) {
        self.goes_on = matches!(ended, Some(Err(RunError::Left)));
        self.end = ended
            .as_ref()
            .and_then(|ended| ended.as_ref().ok())
            .copied();
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.goes_on {
            self.register.leave(&self.id, self.end);
        }
    }
}

impl Heard {
    /// Passes events on to whoever listens. Output that nobody listens to is thrown away; the result says how it ended.
    async fn pass_on(
        &mut self,
        mut heard: mpsc::Receiver<RunEvent>,
        mut to: Option<mpsc::Sender<Shown>>,
    ) {
        let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        while let Some(event) = heard.recv().await {
            if matches!(event, RunEvent::Stdout(_) | RunEvent::Stderr(_)) {
                self.first_output.get_or_insert_with(Instant::now);
            }
            let shown = match event {
                RunEvent::Started {
                    id, attestation, ..
                } => {
                    self.attestation = Some(attestation);
                    Shown::Started {
                        action_id: String::new(),
                        id: id.to_string(),
                    }
                }
                RunEvent::Stdout(bytes) => Shown::Stdout { data: text(&bytes) },
                RunEvent::Stderr(bytes) => Shown::Stderr { data: text(&bytes) },
            };
            if let Some(listener) = &to
                && listener.send(shown).await.is_err()
            {
                // Nobody listens any more. Whoever left while the command ran has cancelled it; whoever left while a person
                // was being asked finds the result in the record.
                to = None;
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The plan of a sandbox from what was asked and the defaults. The launcher checks it against its ceilings.
async fn plan_of(agents: &Agents, asked: &Asked, owner: u32) -> Result<SandboxPlan, Box<Outcome>> {
    let defaults = agents.config.borrow().sandbox.clone();
    let limits = Limits {
        cpu_milli: asked.cpu_milli.unwrap_or(defaults.limits.cpu_milli),
        memory: asked.memory.unwrap_or(defaults.limits.memory),
        disk: asked.disk.unwrap_or(defaults.limits.disk),
        pids: asked.pids.unwrap_or(defaults.limits.pids),
        open_files: defaults.limits.open_files,
        wall_ms: asked.timeout_ms.unwrap_or(defaults.limits.wall_ms),
        io_weight: asked.io_weight.or(defaults.limits.io_weight),
    };
    let checked = check(asked)
        .map_err(|error| Box::new(Outcome::failed("invalid", error.message, error.data.hint)))?;
    let Checked {
        runtime,
        floor,
        image,
        mut mounts,
        workspace,
    } = checked;
    mounts.extend(workspace.map(|workspace| Mount {
        source: MountSource::Layer {
            workspace,
            // Nobody else decides on what a person's command wrote.
            then: Settle::Stage,
            owner: Some(owner),
        },
        target: WORKSPACE.into(),
        writable: true,
    }));
    // The configuration may have become stricter since this was judged.
    let floor = floor.max(defaults.isolation_floor);
    let runtime = sandbox::choose(
        &agents.launchers,
        &agents.proofs,
        defaults.require_proof,
        runtime,
        floor,
    )
    .await
    .map_err(|error| Box::new(not_chosen(&error)))?;
    let plan = SandboxPlan {
        id: fresh_id()?,
        runtime,
        image: image.unwrap_or(Image::Named(defaults.image)),
        mounts,
        limits,
        floor,
    };
    Ok(plan)
}
