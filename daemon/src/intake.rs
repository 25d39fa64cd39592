//! From what a caller asks to an action that policy has judged: the one way in for every surface.
//!
//! Nothing is taken from the message that the kernel, the store, the configuration or policy can say: who asks, whose session
//! it is, what a tool can do, how risky that is, and where the data came from.

mod arguments;
mod called;
mod changes;
mod chats;
mod command;
mod cost;
mod files;
mod secrets;
mod skills;
mod targets;

use std::sync::Arc;

use paw_api::{Error, ErrorKind, sandbox::RunSpec};
use paw_policy::{
    ApiArguments, Circumstances, Facts, Kind, Name, Operation, Plan, Principal, Role, Rules, State,
    Taint, TaintSet, ToolArguments, Via, judge,
};
use paw_store::{ActionRecord, Caller, SessionRecord, StoreError};
use serde_json::{Map, Value};
use tokio::sync::watch;
use uuid::Uuid;

use arguments::{ToolAsked, not_submitted, read, unknown_kind};
pub use called::{By, Called, Consulted};
pub use changes::{Configured, SwitchAsked, THIS, config_change_of, switch_of};
use command::{own_run, written};
pub use files::not_what_was_shown;

use crate::{
    agent::{asked, net::Ask},
    clock::now_ms,
    config::{AgentSettings, Config},
    fits,
    labels::Labels,
    models::pulls::Pulls,
    orchestrator::{
        handle::{Judged, Submission},
        queue::Urgency,
        work::Progress,
    },
    providers::Providers,
    records::shorten,
    reload::Reload,
    sandbox::{Register, Skills, least::reaches},
    screen,
    secrets::Secrets,
    skills::Installed,
    storage::Storage,
    workspaces::Workspaces,
};

/// The longest text of one chat, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// What judging needs to know.
#[derive(Clone)]
pub struct Intake {
    /// Agents and limits.
    pub config: watch::Receiver<Arc<Config>>,
    /// Which providers there are.
    pub providers: watch::Receiver<Arc<Providers>>,
    /// The rules in force.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// What tools there are.
    pub skills: Arc<Skills>,
    /// What was sent and what is installed.
    pub installed: Arc<Installed>,
    /// Where what skills keep came from.
    pub labels: Arc<Labels>,
    /// Sessions.
    pub storage: Storage,
    /// Sandboxes of people's commands.
    pub register: Register,
    /// What changes would come to.
    pub reload: Reload,
    /// What runs wrote.
    pub workspaces: Workspaces,
    /// Places of models that are being fetched.
    pub pulls: Pulls,
    /// What the vault keeps.
    pub secrets: Secrets,
}

/// What a caller asks, before anything of it is believed.
#[derive(Debug, Default)]
pub struct Asked {
    /// The kind, as text.
    pub kind: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
    /// On whose behalf; `default` if not given.
    pub agent: Option<String>,
    /// In which conversation; a new one if not given and one is needed.
    pub session: Option<String>,
    /// Whether only a provider on this host will do.
    pub local_only: bool,
    /// The labels of what whoever asks knows beside that conversation.
    pub knows: TaintSet,
    /// The way in; the control socket if not given.
    pub via: Via,
}

/// The session that an action belongs to.
struct Place {
    id: Uuid,
    taint: TaintSet,
    opens: Option<SessionRecord>,
}

/// What is asked, in which conversation, and what is known of it beside that.
struct Typed {
    operation: Operation,
    place: Option<Place>,
    circumstances: Circumstances,
}

impl Typed {
    fn plain(operation: Operation, place: Option<Place>) -> Self {
        Self {
            operation,
            place,
            circumstances: Circumstances::default(),
        }
    }
}

impl Intake {
    /// Judges what is asked.
    ///
    /// # Errors
    /// `denied` for what is not known, `invalid` for what cannot be meant, `not_found` for what is not there. What policy
    /// denies is no error here: it is an action in state `rejected`, with its record.
    pub async fn judge(
        &self,
        asked: Asked,
        caller: Caller,
        progress: Progress,
    ) -> Result<Submission, Error> {
        let config = Arc::clone(&self.config.borrow());
        let kind: Kind = asked.kind.parse().map_err(|_| unknown_kind(&asked.kind))?;
        let (agent, settings) = agent(&config, asked.agent.as_deref())?;
        let via = asked.via.clone();
        let typed = match kind {
            Kind::Chat => self.chat(&config, (&agent, settings), asked, &caller)?,
            Kind::ToolCall => self.tool_call((&agent, settings), asked, &caller)?,
            Kind::SkillChange => Typed::plain(skills::change(&self.installed, asked)?, None),
            Kind::ModelSwitch => self.switch(asked, &caller).await?,
            Kind::ConfigChange => self.configure(asked, &caller, &progress).await?,
            Kind::FileOperation => {
                let operation = files::operation(&self.workspaces, asked, &caller);
                Typed::plain(operation.await?, None)
            }
            Kind::ApiCall | Kind::SecretUse => return Err(not_submitted(kind)),
        };
        let Typed {
            operation,
            place,
            circumstances,
        } = typed;
        let signs = match &operation {
            // A schema is shown to the model, too.
            Operation::Chat(chat) => match &chat.schema {
                Some(schema) => signs(&chat.text)?.with(&signs(&schema.to_string())?),
                None => signs(&chat.text)?,
            },
            // What is passed to a tool goes out, and may go far.
            Operation::ToolCall(call) => screen::passed(&call.arguments),
            Operation::SandboxRun(_)
            | Operation::ApiCall(_)
            | Operation::SkillChange(_)
            | Operation::ModelSwitch(_)
            | Operation::ConfigChange(_)
            | Operation::SecretChange(_)
            | Operation::FileOperation(_) => TaintSet::default(),
        };
        let taint = place
            .as_ref()
            .map_or_else(TaintSet::default, |place| place.taint.clone())
            .with(&origin(&caller))
            .with(&wrote(&via))
            .with(&signs);
        let plan = Plan {
            agent,
            session: place.as_ref().map(|place| place.id.to_string()),
            operation,
        };
        self.submission(
            plan,
            caller,
            (
                taint,
                Circumstances {
                    via,
                    ..circumstances
                },
            ),
            place.and_then(|place| place.opens),
            progress,
        )
    }

    /// Judges a command that a person wants to run in a sandbox.
    ///
    /// # Errors
    /// As [`Intake::judge`].
    pub fn judge_run(
        &self,
        spec: RunSpec,
        caller: Caller,
        progress: Progress,
    ) -> Result<Submission, Error> {
        let config = Arc::clone(&self.config.borrow());
        let workspace = spec.workspace.clone();
        let (agent, settings) = agent(&config, workspace.as_deref())?;
        let mut taint = origin(&caller);
        let operation = match &spec.sandbox {
            Some(id) => {
                let (operation, of_it) = self.further_run(id.clone(), spec, &caller)?;
                taint = taint.with(&of_it);
                operation
            }
            None => own_run(&config, (&agent, settings), spec)?,
        };
        self.submission(
            Plan {
                agent,
                session: None,
                operation,
            },
            caller,
            (taint, Circumstances::default()),
            None,
            progress,
        )
    }

    /// A further command in a sandbox that runs: it may choose nothing of that sandbox, and must be of the same user. What came to that
    /// sandbox with its first command has a part in this one.
    fn further_run(
        &self,
        id: String,
        spec: RunSpec,
        caller: &Caller,
    ) -> Result<(Operation, TaintSet), Error> {
        asked::check(&spec)?;
        let known = id.parse().ok().and_then(|id| self.register.known(&id));
        let known = known.filter(|known| !known.ended && may_see(caller, known.owner));
        let Some(known) = known else {
            let hint = "see `pawctl sandbox list`";
            return Err(Error::new(ErrorKind::NotFound, "no such sandbox runs", hint).about(id));
        };
        let first = self.storage.read().action(known.action);
        let first = first.map_err(|error| unreadable(&error))?;
        let taint = first.map(|first| first.taint).unwrap_or_default();
        let chosen = spec.runtime.is_some()
            || spec.isolation_floor.is_some()
            || spec.image.is_some()
            || spec.workspace.is_some()
            || !spec.mounts.is_empty()
            || spec.cpu_milli.is_some()
            || spec.memory.is_some()
            || spec.disk.is_some()
            || spec.pids.is_some()
            || spec.io_weight.is_some()
            || !spec.net.is_empty();
        if chosen {
            let message = "a command in a sandbox that runs can choose nothing of that sandbox";
            let hint = "leave out runtime, image, mounts, network and limits";
            return Err(Error::new(ErrorKind::Invalid, message, hint));
        }
        Ok((written(&spec)?, taint))
    }

    /// Judges whether a sandbox that was refused something shall be given it. It asks in the name of who asked for the sandbox;
    /// what it wants was said by a program inside, and is worth as much.
    ///
    /// # Errors
    /// `denied` for what the agent's sandboxes may not reach at all.
    pub fn judge_ask(&self, ask: Ask) -> Result<Submission, Error> {
        let config = Arc::clone(&self.config.borrow());
        let (agent, settings) = agent(&config, Some(ask.agent.as_str()))?;
        asked::within(settings, std::slice::from_ref(&ask.rule), &agent)?;
        let found = self.storage.read().action(ask.action);
        let asked_for = found.map_err(|error| unreadable(&error))?.ok_or_else(|| {
            let hint = "submit it again";
            Error::new(
                ErrorKind::NotFound,
                "the action of that sandbox is not kept any more",
                hint,
            )
        })?;
        let taint = asked_for.taint.with(&TaintSet::of(Taint::Tool));
        let known = (taint, asked_for.circumstances.way_alone());
        let plan = Plan {
            agent,
            session: None,
            operation: Operation::ApiCall(ApiArguments {
                sandbox: ask.sandbox.to_string(),
                run: ask.action.to_string(),
                rule: ask.rule.to_string(),
            }),
        };
        let submission = self.submission(plan, ask.caller, known, None, Progress::None)?;
        // A program waits for it.
        Ok(Submission {
            urgency: Urgency::Interactive,
            ..submission
        })
    }

    fn submission(
        &self,
        plan: Plan,
        caller: Caller,
        (taint, circumstances): (TaintSet, Circumstances),
        session: Option<SessionRecord>,
        progress: Progress,
    ) -> Result<Submission, Error> {
        // Whoever asks: what it takes by itself out of a directory has a part in it.
        let taint = taint.with(&self.labels.read_by(&self.skills, &plan));
        let rules = Arc::clone(&self.rules.borrow());
        let facts = Facts {
            principal: Principal {
                uid: caller.uid,
                role: caller.role,
            },
            taint: taint.clone(),
            circumstances: circumstances.clone(),
            now_ms: now_ms(),
        };
        let verdict = judge(&rules, &plan, &facts).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                error.to_string(),
                "send less, or in several actions",
            )
        })?;
        let record = ActionRecord {
            id: Uuid::now_v7(),
            kind: plan.kind(),
            digest: verdict.digest,
            plan,
            risk: verdict.risk,
            taint,
            decision: verdict.decision,
            rules: verdict.rules.clone(),
            state: State::Queued,
            requested_by: caller,
            approved_by: None,
            first_yes: None,
            created_ms: now_ms(),
            decided_ms: None,
            started_ms: None,
            ended_ms: None,
            expires_ms: None,
            deadline_ms: None,
            result: None,
            error: None,
            attestation: None,
            sandbox: None,
            wait_reason: None,
            attempts: Vec::new(),
            parent: None,
            circumstances,
            interrupted: 0,
        };
        // Who has pieces of it told as they come stays for its end.
        let urgency = match &progress {
            Progress::Chat(_)
            | Progress::Run { .. }
            | Progress::Switch(_)
            | Progress::Pull { .. } => Urgency::Interactive,
            Progress::None | Progress::Value(_) => Urgency::Background,
        };
        Ok(Submission {
            record,
            judged: Judged { by: rules, verdict },
            session,
            progress,
            urgency,
            end: None,
        })
    }

    fn tool_call(
        &self,
        agent: (&Name, &AgentSettings),
        asked: Asked,
        caller: &Caller,
    ) -> Result<Typed, Error> {
        let call = self.tool(agent, read(asked.arguments)?)?;
        let place = match asked.session.as_deref() {
            None => None,
            Some(text) => {
                let session = self.session(text, caller)?;
                Some(Place {
                    id: session.id,
                    taint: session.taint,
                    opens: None,
                })
            }
        };
        Ok(Typed::plain(Operation::ToolCall(call), place))
    }

    /// The tool that is called, if this agent may call it and the arguments are some of it.
    fn tool(
        &self,
        (agent, settings): (&Name, &AgentSettings),
        asked: ToolAsked,
    ) -> Result<ToolArguments, Error> {
        let ToolAsked {
            skill,
            tool,
            arguments,
        } = asked;
        let denied = |message: String, hint: &str| Error::new(ErrorKind::Denied, message, hint);
        let name: Name = skill
            .parse()
            .map_err(|_| denied(format!("{skill:?} is no skill"), "see `pawctl skill list`"))?;
        let installed = self.skills.get(&name).ok_or_else(|| {
            denied(
                format!("there is no skill {name}"),
                "see `pawctl skill list`",
            )
        })?;
        if !settings.skills.contains(&name) {
            return Err(denied(
                format!("the agent may not use skill {name}"),
                "add it to the agent's skills in pawd.toml",
            ));
        }
        let known = installed.tools.get(&tool).ok_or_else(|| {
            denied(
                format!("skill {name} has no tool {}", shorten(&tool)),
                "see `pawctl skill show`",
            )
        })?;
        if reaches(known.class) && known.url.is_none() {
            asked::within(settings, &installed.net, agent)?;
        }
        fits::check(&known.input, &arguments).map_err(|fault| {
            let message = format!("{name}/{tool} does not take this: {fault}");
            Error::new(ErrorKind::Invalid, message, "see `pawctl skill show`")
        })?;
        let net = match &known.url {
            None => None,
            Some(url) => {
                let rule = url.rule(&arguments).map_err(|bad| {
                    let message = format!("{name}/{tool} does not take this: {bad}");
                    let hint = "write http:// or https://, the name of a host, and a path";
                    Error::new(ErrorKind::Invalid, message, hint)
                })?;
                asked::within(settings, std::slice::from_ref(&rule), agent)?;
                Some(rule.to_string())
            }
        };
        Ok(ToolArguments {
            skill: name,
            skill_digest: installed.digest,
            tool,
            class: known.class,
            arguments,
            net,
        })
    }

    /// The session that is named, or a new one.
    fn place(
        &self,
        agent: &Name,
        named: Option<&str>,
        text: &str,
        caller: &Caller,
    ) -> Result<Place, Error> {
        if let Some(named) = named {
            let session = self.session(named, caller)?;
            if session.agent != *agent {
                let message = format!("session {} is with agent {}", session.id, session.agent);
                return Err(Error::new(
                    ErrorKind::Conflict,
                    message,
                    "begin a new session, or name that agent",
                ));
            }
            return Ok(Place {
                id: session.id,
                taint: session.taint,
                opens: None,
            });
        }
        let (id, now) = (Uuid::now_v7(), now_ms());
        let opens = SessionRecord {
            id,
            agent: agent.clone(),
            owner_uid: caller.uid,
            title: crate::records::shorten_to(text, 60),
            created_ms: now,
            updated_ms: now,
            turns: 0,
            bytes: 0,
            taint: origin(caller),
            parent: None,
        };
        Ok(Place {
            id,
            taint: TaintSet::default(),
            opens: Some(opens),
        })
    }

    /// A session that this caller may see. Somebody else's is as if it were not there.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` when the store cannot be read.
    pub fn session(&self, id: &str, caller: &Caller) -> Result<SessionRecord, Error> {
        let unknown = || {
            Error::new(
                ErrorKind::NotFound,
                "there is no such session",
                "see `pawctl session list`",
            )
            .about(id)
        };
        let id: Uuid = id.parse().map_err(|_| unknown())?;
        let found = self
            .storage
            .read()
            .session(id)
            .map_err(|error| unreadable(&error))?;
        found
            .filter(|session| may_see(caller, session.owner_uid))
            .ok_or_else(unknown)
    }
}

/// Whether a caller may see what belongs to this user.
#[must_use]
pub const fn may_see(caller: &Caller, owner: u32) -> bool {
    caller.uid == owner || matches!(caller.role, Role::Admin)
}

/// The store cannot be read.
#[must_use]
pub fn unreadable(error: &StoreError) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        paw_log::Chain(error).to_string(),
        error.remedy(),
    )
}

/// Where data comes from that a caller of the control socket sends.
fn origin(caller: &Caller) -> TaintSet {
    TaintSet::of(match caller.role {
        Role::Admin => Taint::Operator,
        Role::Approver | Role::User => Taint::User,
    })
}

/// Who wrote it, beside the caller: what comes by MCP a model did, which pawd knows nothing of and which may have read anything.
fn wrote(via: &Via) -> TaintSet {
    match via {
        Via::Mcp => TaintSet::of(Taint::Model),
        Via::Terminal | Via::Job(_) | Via::Channel(_) => TaintSet::default(),
    }
}

/// The labels of what is found in a text that a model is to read. Every one is screened first, whoever says it.
fn signs(text: &str) -> Result<TaintSet, Error> {
    screen::said(text).map_err(|why| {
        let hint = "see what is hidden with `pawctl guard scan`, and send the text without it";
        Error::new(ErrorKind::Denied, why, hint)
    })
}

fn agent<'a>(config: &'a Config, name: Option<&str>) -> Result<(Name, &'a AgentSettings), Error> {
    let name = name.unwrap_or("default");
    let found = config
        .agents
        .iter()
        .find(|(known, _)| known.as_str() == name);
    found
        .map(|(name, settings)| (name.clone(), settings))
        .ok_or_else(|| {
            let error = Error::new(
                ErrorKind::NotFound,
                format!("there is no agent {}", shorten(name)),
                "see `pawctl agent list`",
            );
            error.about(name)
        })
}
