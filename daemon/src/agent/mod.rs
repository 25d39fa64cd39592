//! What an action does when its time has come: talk with a model, call a tool, run a command.
//!
//! This module holds no state of any action and decides nothing: it spends the permit that it is given.

pub mod adopted;
mod again;
pub mod asked;
mod change;
pub mod chat;
mod ended;
mod files;
#[doc(hidden)]
pub mod fuzz;
mod granted;
pub mod net;
pub mod persons;
mod pull;
pub mod run;
mod secret;
pub mod skill;
mod staged;
pub mod tool;
mod turn;
pub mod unmade;
mod worker;

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
};

use paw_policy::{Operation, Plan, Rules, TaintSet, ToolArguments};
use paw_store::ActionRecord;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::turn::remembered::Remembered;
use self::{
    adopted::Adoptions,
    net::{Ask, Ways},
    persons::Persons,
    unmade::Unmade,
};
use crate::{
    audit::Audit,
    canaries::Canaries,
    config::Config,
    gateway::{breakers::Breakers, kept::Answers},
    intake::Intake,
    labels::Labels,
    orchestrator::{
        handle::Actions,
        work::{Continuation, Execute, Outcome, Task},
    },
    providers::Providers,
    quota::Quotas,
    records::actor,
    sandbox::{Launchers, Owner, Pool, Proofs, Register, Skills},
    secrets::{Secrets, on_behalf},
    skills::Installed,
    storage::Storage,
};

/// Everything that executing needs.
pub struct Agents {
    /// What is configured now.
    pub config: watch::Receiver<Arc<Config>>,
    /// The providers that are configured now.
    pub providers: watch::Receiver<Arc<Providers>>,
    /// Which of their models are left alone.
    pub breakers: Arc<Breakers>,
    /// What may be asked and spent.
    pub quotas: Arc<Quotas>,
    /// Answers that are given again to who asks the same.
    pub kept: Arc<Mutex<Answers>>,
    /// Sessions and what was said in them.
    pub storage: Storage,
    /// The way to sandboxes.
    pub launchers: Launchers,
    /// Those that wait for their first command.
    pub pool: Pool,
    /// Skills that can be used.
    pub skills: Arc<Skills>,
    /// Those of them that were installed.
    pub installed: Arc<Installed>,
    /// Where what skills keep came from.
    pub labels: Arc<Labels>,
    /// What models were told of the tools of each agent.
    pub told: Remembered,
    /// Sandboxes of people's commands.
    pub register: Register,
    /// What an earlier pawd had begun and this one goes on with.
    pub adoptions: Adoptions,
    /// Whether sandboxes outlive this pawd: the launcher was not started by it.
    pub outlived: bool,
    /// What is known of each runtime.
    pub proofs: Proofs,
    /// Ways out of sandboxes.
    pub ways: Ways,
    /// Where paw-egress is.
    pub egress: PathBuf,
    /// The audit log, for what sandboxes reach.
    pub audit: Audit,
    /// Chats for which a person is asked.
    pub persons: Persons,
    /// Conversations of which no summary could be made.
    pub unmade: Unmade,
    /// Marks of the instructions of conversations.
    pub canaries: Canaries,
    /// The vault, for what brokers take of it.
    pub secrets: Secrets,
    /// What policy says now.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// Where questions go that sandboxes cause.
    pub asks: mpsc::Sender<Ask>,
    /// Where what a model asks for goes; set before anything is executed.
    pub door: OnceLock<Door>,
}

/// The one way in, as it is for everybody: judged, then accepted.
pub struct Door {
    /// Judges.
    pub intake: Intake,
    /// Accepts.
    pub actions: Actions,
}

impl Agents {
    /// Whether making this call twice is the same as making it once.
    fn is_idempotent(&self, call: &ToolArguments) -> bool {
        let skill = self.skills.get(&call.skill);
        // Of other files than those that were judged nobody knows.
        let skill = skill.filter(|skill| skill.digest == call.skill_digest);
        skill.is_some_and(|skill| skill.tools.get(&call.tool).is_some_and(|it| it.idempotent))
    }
}

impl Execute for Agents {
    fn execute(self: Arc<Self>, task: Task) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        // A secret that is used for it is used on behalf of who asked for it.
        Box::pin(on_behalf(task.id, actor(&task.caller), async move {
            let Task {
                id,
                parent,
                permit,
                caller,
                through,
                taint,
                deadline_ms,
                opens,
                progress,
                cancel,
                leave,
                drain,
            } = task;
            let plan = permit.spend();
            let owner = Owner {
                agent: plan.agent.clone(),
                uid: caller.uid,
                taint,
            };
            match plan.operation {
                Operation::Chat(chat) => {
                    let whose = turn::Whose {
                        id,
                        parent,
                        caller: &caller,
                        agent: &plan.agent,
                        session: plan.session.as_deref(),
                        opens,
                        taint: &owner.taint,
                        deadline_ms,
                    };
                    let stops = turn::Stops {
                        cancel: &cancel,
                        leave: &leave,
                        drain: &drain,
                    };
                    turn::run(&self, whose, chat, (progress, Vec::new()), stops).await
                }
                Operation::ToolCall(call) => {
                    let again = self.is_idempotent(&call);
                    let mut launcher = self.launchers.usual().state();
                    launcher.mark_unchanged();
                    let outcome =
                        tool::call(&self, (id, &caller, owner, &through), call, &cancel).await;
                    if again {
                        tool::wait_for_launcher(&outcome, launcher, &cancel).await;
                    }
                    outcome
                }
                Operation::SandboxRun(spec) => {
                    // With a launcher of our own, which ends with us, nothing can be left.
                    let leave = if self.outlived {
                        leave
                    } else {
                        CancellationToken::new()
                    };
                    let told = run::Told {
                        cancel: &cancel,
                        leave: &leave,
                    };
                    run::run(&self, (id, &caller, owner, &through), spec, progress, told).await
                }
                Operation::ApiCall(call) => net::allow(&self, &plan.agent, &call).await,
                Operation::SkillChange(asked) => {
                    skill::change(&self, (id, &caller, owner), asked, &cancel).await
                }
                Operation::ModelSwitch(asked) => {
                    let stops = change::Stops {
                        cancel: &cancel,
                        drain: &drain,
                    };
                    change::switch(&self, (id, &caller), asked, progress, stops).await
                }
                Operation::ConfigChange(asked) => {
                    let stops = change::Stops {
                        cancel: &cancel,
                        drain: &drain,
                    };
                    change::configure(&self, (id, &caller), asked, progress, stops).await
                }
                Operation::SecretChange(asked) => {
                    secret::change(&self.secrets, &caller, asked, progress).await
                }
                Operation::FileOperation(asked) => files::decide(&self, (id, &caller), asked).await,
            }
        }))
    }

    fn reads(&self, plan: &Plan) -> TaintSet {
        self.labels.read_by(&self.skills, plan)
    }

    fn interrupted(&self, record: &ActionRecord, outcome: Outcome) -> Outcome {
        match &record.plan.operation {
            Operation::Chat(chat) => {
                chat::interrupted(self, record, chat);
                turn::interrupted(self, record, chat, outcome)
            }
            Operation::ToolCall(_)
            | Operation::SandboxRun(_)
            | Operation::ApiCall(_)
            | Operation::SkillChange(_)
            | Operation::ModelSwitch(_)
            | Operation::ConfigChange(_)
            | Operation::SecretChange(_)
            | Operation::FileOperation(_) => outcome,
        }
    }

    fn repeats(&self, record: &ActionRecord) -> bool {
        match &record.plan.operation {
            Operation::ToolCall(call) => self.is_idempotent(call),
            Operation::Chat(_)
            | Operation::SandboxRun(_)
            | Operation::ApiCall(_)
            | Operation::SkillChange(_)
            | Operation::ModelSwitch(_)
            | Operation::ConfigChange(_)
            | Operation::SecretChange(_)
            | Operation::FileOperation(_) => false,
        }
    }

    fn goes_on(&self, record: &ActionRecord) -> bool {
        self.adoptions.has(record.id) || turn::is_begun(self, record)
    }

    fn go_on(self: Arc<Self>, task: Continuation) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let (id, by) = (task.record.id, actor(&task.record.requested_by));
        Box::pin(on_behalf(id, by, async move {
            match &task.record.plan.operation {
                Operation::Chat(_) => turn::go_on(&self, task).await,
                Operation::ToolCall(_)
                | Operation::SandboxRun(_)
                | Operation::ApiCall(_)
                | Operation::SkillChange(_)
                | Operation::ModelSwitch(_)
                | Operation::ConfigChange(_)
                | Operation::SecretChange(_)
                | Operation::FileOperation(_) => adopted::go_on(&self, task).await,
            }
        }))
    }
}
