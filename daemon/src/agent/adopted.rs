//! Commands that an earlier pawd had started and that this one sees through to their ends.
//!
//! Before anything is accepted, every sandbox that is noted is looked for ([`take_on`]); what is found waits here until the
//! driver asks for it by its action. A call of a tool is never among them: the state of its protocol ended with the pawd that
//! spoke it. Whatever cannot be taken on is ended, and its action says so.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use paw_launch::request::{RefusalReason, Runtime, SandboxId, SandboxSummary};
use paw_policy::{Digest, Operation, State};
use paw_store::ActionRecord;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Agents,
    ended::{end_of_exec, finished, outcome_of},
    run::{Leaving, Told, cancelled},
};
use crate::{
    orchestrator::work::{Continuation, LAUNCHER_LOST, Outcome},
    sandbox::{
        self, Adopted, Attending, Exit, Found, GRACE, Going, Known, Launcher, LauncherError,
        Noting, Register, RunEnd, Sandbox, SandboxError, Starter,
        keep::{Command, Saved},
    },
};

/// What to do about a command that could not be taken on.
const LOOK: &str = "look at what it has done, then submit it again if it is still wanted";

/// What goes on, by action.
#[derive(Default)]
pub struct Adoptions(Mutex<BTreeMap<Uuid, Taken>>);

/// One of them.
enum Taken {
    /// The command that its sandbox was made for.
    Run {
        sandbox: Box<Sandbox>,
        /// Nothing, when its end was noted already.
        going: Option<Going>,
        exit: Option<Exit>,
        deadline: Instant,
    },
    /// A further command in a sandbox.
    Exec {
        starter: Starter,
        going: Box<Going>,
        deadline: Instant,
    },
    /// It has come to its end, as far as that is known.
    Over(Box<Outcome>),
}

impl Adoptions {
    /// Adds what was taken on.
    pub fn add(&self, taken: TakenOn) {
        self.lock().extend(taken.0);
    }

    pub(super) fn has(&self, action: Uuid) -> bool {
        self.lock().contains_key(&action)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of an earlier pawd goes on.
#[derive(Default)]
pub struct TakenOn(BTreeMap<Uuid, Taken>);

/// Takes on what an earlier pawd noted, as far as it is there and its action is being done. Whatever else runs is ended.
pub async fn take_on(
    launcher: &Launcher,
    register: &Register,
    found: Vec<Found>,
    executing: &BTreeMap<Uuid, ActionRecord>,
    there: &[SandboxSummary],
) -> TakenOn {
    let ours = found.into_iter().filter_map(|found| {
        if is_wanted(&found, executing) {
            return Some(found);
        }
        register.leave(&found.id, None);
        None
    });
    let ours: Vec<Found> = ours.collect();
    for sandbox in there {
        if !ours.iter().any(|found| found.id == sandbox.id) {
            warn!(paw_sandbox = %sandbox.id, "a sandbox of an earlier pawd is ended");
            if let Err(error) = launcher.kill(sandbox.id.clone()).await {
                warn!(error = %paw_log::Chain(&error), "it could not be ended; its deadline will");
            }
        }
    }
    let each = ours.iter().map(|found| {
        let summary = there.iter().find(|sandbox| sandbox.id == found.id);
        one(launcher, register, found, summary)
    });
    let mut taken: BTreeMap<Uuid, Taken> = join_all(each).await.into_iter().flatten().collect();
    // Of what is over, only those count whose action still waits to be told.
    taken.retain(|action, _| executing.contains_key(action));
    TakenOn(taken)
}

/// Nothing of an earlier pawd can be there: its launcher ended with it, or cannot be reached.
pub fn give_up(launcher: &Launcher, register: &Register, found: Vec<Found>) {
    for found in found {
        launcher.doom(found.id.clone());
        register.leave(&found.id, None);
    }
}

/// Whether the action of a sandbox is being done, and is its.
fn is_wanted(found: &Found, executing: &BTreeMap<Uuid, ActionRecord>) -> bool {
    let about = &found.saved.about;
    executing.get(&about.action).is_some_and(|record| {
        record.state == State::Executing
            && record.requested_by.uid == about.owner
            && matches!(record.plan.operation, Operation::SandboxRun(_))
    })
}

async fn one(
    launcher: &Launcher,
    register: &Register,
    found: &Found,
    summary: Option<&SandboxSummary>,
) -> Vec<(Uuid, Taken)> {
    let Found { id, saved } = found;
    match sandbox::adopt(launcher, id, saved).await {
        Ok(Adopted::Running { sandbox, commands }) => {
            info!(paw_sandbox = %id, commands = commands.len(), "a sandbox of an earlier pawd goes on");
            register.adopt(id, sandbox.starter().clone());
            let age = Duration::from_millis(summary.map_or(0, |summary| summary.age_ms));
            let wall = Duration::from_millis(saved.about.plan.limits.wall_ms);
            let deadline = Instant::now() + wall.saturating_sub(age) + GRACE;
            running(register, found, sandbox, commands, deadline)
        }
        Ok(Adopted::Ended(end, usage)) => {
            let main = saved.commands.first().and_then(|command| command.exit);
            let ended = RunEnd {
                exit: main.map(|exit| exit.exited),
                end,
                usage,
                output_truncated: main.is_some_and(|exit| exit.truncated),
            };
            register.leave(id, Some(ended));
            over(found, |main, command| {
                if main {
                    end_of(found, &ended)
                } else {
                    end_of(found, &end_of_exec(exit_of(command), Duration::ZERO))
                }
            })
        }
        Err(error) => {
            warn!(paw_sandbox = %id, error = %paw_log::Chain(&error), "a sandbox of an earlier pawd cannot be taken on");
            register.leave(id, None);
            let outcome = not_taken(&error);
            over(found, |_, _| outcome.clone())
        }
    }
}

/// Its commands, where the sandbox runs.
fn running(
    register: &Register,
    found: &Found,
    sandbox: Box<Sandbox>,
    mut commands: BTreeMap<u32, Going>,
    deadline: Instant,
) -> Vec<(Uuid, Taken)> {
    let Found { id, saved } = found;
    let mut taken = Vec::new();
    let starter = sandbox.starter().clone();
    let Some((main, further)) = saved.commands.split_first() else {
        register.leave(id, None);
        let outcome = not_begun();
        return over(found, |_, _| outcome.clone());
    };
    for command in further {
        let one = match (commands.remove(&command.number), exit_of(command)) {
            (_, Some(exit)) => Taken::Over(Box::new(end_of(
                found,
                &end_of_exec(Some(exit), Duration::ZERO),
            ))),
            (Some(going), None) if going.is_starved && command.stdin => {
                Taken::Over(Box::new(starved()))
            }
            (Some(going), None) => Taken::Exec {
                starter: starter.clone(),
                going: Box::new(going),
                deadline,
            },
            (None, None) => Taken::Over(Box::new(not_begun())),
        };
        taken.push((command.action, one));
    }
    let one = match (commands.remove(&main.number), exit_of(main)) {
        // Its end is noted after everything that it said.
        (_, exit @ Some(_)) => Taken::Run {
            sandbox,
            going: None,
            exit,
            deadline,
        },
        (Some(going), None) if !(going.is_starved && main.stdin) => Taken::Run {
            sandbox,
            going: Some(going),
            exit: None,
            deadline,
        },
        // The sandbox is dropped, which ends it.
        (Some(_), None) => {
            register.leave(id, None);
            Taken::Over(Box::new(starved()))
        }
        (None, None) => {
            register.leave(id, None);
            Taken::Over(Box::new(not_begun()))
        }
    };
    taken.push((main.action, one));
    taken
}

/// Sees one through to its end.
pub(super) async fn go_on(agents: &Agents, task: Continuation) -> Outcome {
    let Continuation {
        record,
        cancel,
        leave,
        ..
    } = task;
    let id = record.id;
    let told = Told {
        cancel: &cancel,
        leave: &leave,
    };
    let taken = agents.adoptions.lock().remove(&id);
    match taken {
        None => Outcome::failed("internal", "nothing was taken on under this id", LOOK),
        Some(Taken::Over(outcome)) => *outcome,
        Some(Taken::Run {
            sandbox,
            going,
            exit,
            deadline,
        }) => run(agents, *sandbox, (going, exit, deadline), told).await,
        Some(Taken::Exec {
            starter,
            going,
            deadline,
        }) => exec(agents, id, &starter, (*going, deadline), told).await,
    }
}

async fn run(
    agents: &Agents,
    sandbox: Sandbox,
    (going, exit, deadline): (Option<Going>, Option<Exit>, Instant),
    told: Told<'_>,
) -> Outcome {
    let id = sandbox.id().clone();
    let Some((known, log)) = known(&agents.register, &id) else {
        return Outcome::failed("internal", "the sandbox is not in the register", LOOK);
    };
    let mut leaving = Leaving::new(&agents.register, id.clone());
    let noting = Noting {
        log,
        action: known.action,
        output: true,
    };
    let work = async {
        let Some(Going { child, .. }) = going else {
            let (end, usage) = sandbox.end(GRACE).await?;
            return Ok(RunEnd {
                exit: exit.map(|exit| exit.exited),
                end,
                usage,
                output_truncated: exit.is_some_and(|exit| exit.output_truncated),
            });
        };
        let attending = Attending {
            child,
            stdin: None,
            terminal: None,
            events: None,
            noting: Some(&noting),
            deadline,
        };
        sandbox::attend_run(sandbox, attending, told.leave).await
    };
    let ended = tokio::select! {
        ended = work => Some(ended),
        () = cancelled(told) => None,
    };
    leaving.is(&ended);
    drop(leaving);
    let outcome = outcome_of(
        id.as_str(),
        known.plan.runtime,
        ended,
        Some(&*known.attestation),
        // A run loses its way out with the pawd that opened it.
        None,
    );
    of(outcome, &id, known.attestation.digest)
}

async fn exec(
    agents: &Agents,
    action: Uuid,
    starter: &Starter,
    (going, deadline): (Going, Instant),
    told: Told<'_>,
) -> Outcome {
    let id = starter.sandbox().clone();
    let Some((known, log)) = known(&agents.register, &id) else {
        return Outcome::failed("internal", "the sandbox is not in the register", LOOK);
    };
    let began = Instant::now();
    let noting = Noting {
        log,
        action,
        output: false,
    };
    let attending = Attending {
        child: going.child,
        stdin: None,
        terminal: None,
        events: None,
        noting: Some(&noting),
        deadline,
    };
    let ended = tokio::select! {
        ended = sandbox::attend_exec(starter, attending, told.leave) => Some(ended),
        () = cancelled(told) => None,
    };
    let ended = ended.map(|ended| ended.map(|exit| end_of_exec(exit, began.elapsed())));
    let outcome = outcome_of(
        id.as_str(),
        known.plan.runtime,
        ended,
        Some(&*known.attestation),
        // A run loses its way out with the pawd that opened it.
        None,
    );
    of(outcome, &id, known.attestation.digest)
}

fn known(register: &Register, id: &SandboxId) -> Option<(Known, std::sync::Arc<sandbox::Log>)> {
    Some((register.known(id)?, register.log(id)?))
}

/// What each command of a sandbox came to that does not go on; the first is what the sandbox was made for.
fn over(found: &Found, outcome: impl Fn(bool, Option<&Command>) -> Outcome) -> Vec<(Uuid, Taken)> {
    let Saved {
        about, commands, ..
    } = &found.saved;
    let of_this = |outcome| {
        let outcome = of(outcome, &found.id, about.attestation.digest);
        Taken::Over(Box::new(outcome))
    };
    let mut all = vec![(about.action, of_this(outcome(true, commands.first())))];
    for command in commands.iter().skip(1) {
        all.push((command.action, of_this(outcome(false, Some(command)))));
    }
    all
}

fn exit_of<'a>(command: impl Into<Option<&'a Command>>) -> Option<Exit> {
    let exit = command.into()?.exit?;
    Some(Exit {
        exited: exit.exited,
        output_truncated: exit.truncated,
    })
}

fn end_of(found: &Found, end: &RunEnd) -> Outcome {
    let about = &found.saved.about;
    let runtime: Runtime = about.plan.runtime;
    let outcome = finished(
        found.id.as_str(),
        runtime,
        end,
        Some(&*about.attestation),
        None,
    );
    of(outcome, &found.id, about.attestation.digest)
}

fn of(outcome: Outcome, id: &SandboxId, attestation: Digest) -> Outcome {
    Outcome {
        sandbox: Some(id.to_string()),
        attestation: Some(attestation),
        ..outcome
    }
}

fn interrupted(message: &str) -> Outcome {
    Outcome::failed("interrupted", message, LOOK)
}

fn not_begun() -> Outcome {
    interrupted("pawd ended before the command began")
}

fn starved() -> Outcome {
    interrupted(
        "pawd ended while the command was being given its input, and the rest of that is lost; it was killed",
    )
}

fn not_taken(error: &SandboxError) -> Outcome {
    let message = paw_log::Chain(error).to_string();
    match error {
        SandboxError::Launcher(LauncherError::Refused(refusal))
            if refusal.reason == RefusalReason::NotFound =>
        {
            let message = "the launcher ended while pawd was away, and the sandbox with it";
            Outcome::failed(LAUNCHER_LOST, message, LOOK)
        }
        SandboxError::Orphaned { .. } | SandboxError::Launcher(LauncherError::Lost) => {
            Outcome::failed(LAUNCHER_LOST, message, LOOK)
        }
        _ => interrupted(&message),
    }
}
