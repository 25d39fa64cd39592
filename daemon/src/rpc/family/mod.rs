//! The handlers, one file per family of methods. Each is short: who is it, convert, one call, convert back.

mod action;
mod agent;
mod approval;
mod budget;
mod change;
mod chat;
mod config;
mod events;
pub mod health;
mod image;
mod job;
mod mcp;
mod metrics;
mod model;
mod provider;
mod route;
mod sandbox;
mod secret;
mod shown;
mod skill;
mod system;
mod trail;
mod workspace;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use jsonrpsee::{Methods, RpcModule, core::RegisterMethodError, types::ErrorObjectOwned};
use paw_api::{
    Error, ErrorKind,
    action::{ActionRpcServer, ApprovalRpcServer, McpRpcServer},
    agent::{AgentRpcServer, SessionRpcServer, SkillRpcServer},
    budget::BudgetRpcServer,
    events::EventsRpcServer,
    image::ImageRpcServer,
    job::JobRpcServer,
    model::ModelRpcServer,
    provider::{ChatRpcServer, ProviderRpcServer, RouteRpcServer},
    sandbox::SandboxRpcServer,
    secret::SecretRpcServer,
    skill::SkillStoreRpcServer,
    system::{ConfigRpcServer, PolicyRpcServer, SystemRpcServer},
    trail::AuditRpcServer,
    workspace::WorkspaceRpcServer,
};
use paw_launch::frame::Size;
use paw_policy::Rules;
use paw_store::ActionRecord;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::health::{Born, Looks};
pub use self::image::Uploads;
use crate::{
    agent::net::Ways,
    audit::Audit,
    codes::Codes,
    config::{Config, Paths},
    events::News,
    gateway::{breakers::Breakers, kept::Answers},
    grants::Grants,
    intake::{Intake, may_see, unreadable},
    jobs::Jobs,
    orchestrator::handle::Actions,
    providers::Providers,
    quota::{Quotas, rates::Rates},
    reload::Reload,
    sandbox::{Launchers, Pool, Proofs, Register, Skills, Witnesses},
    secrets::Secrets,
    skills::{Incoming, Installed},
    storage::Storage,
};

/// What the handlers use.
pub struct Context {
    /// The driver's door.
    pub actions: Actions,
    /// The one way in.
    pub intake: Intake,
    /// What is done at set times.
    pub jobs: Jobs,
    /// The store.
    pub storage: Storage,
    /// The audit log.
    pub audit: Audit,
    /// News.
    pub news: Arc<News>,
    /// The way to sandboxes.
    pub launchers: Launchers,
    /// Sandboxes that wait.
    pub pool: Pool,
    /// Sandboxes of people's commands.
    pub register: Register,
    /// What is known of each runtime.
    pub proofs: Proofs,
    /// Ways out of sandboxes.
    pub ways: Ways,
    /// Skills that can be used.
    pub skills: Arc<Skills>,
    /// Those of them that were installed, and those that are disabled.
    pub installed: Arc<Installed>,
    /// Bundles that are being sent.
    pub incoming: Incoming,
    /// What is configured now.
    pub config: watch::Receiver<Arc<Config>>,
    /// Providers that are configured now.
    pub providers: watch::Receiver<Arc<Providers>>,
    /// Which of their models are left alone.
    pub breakers: Arc<Breakers>,
    /// What may be asked and spent.
    pub quotas: Arc<Quotas>,
    /// How often pawd may be called, and agents act.
    pub rates: Arc<Rates>,
    /// Answers that are given again.
    pub kept: Arc<Mutex<Answers>>,
    /// Rules in force.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// What people granted.
    pub grants: Arc<Grants>,
    /// One-time codes of approvers.
    pub codes: Codes,
    /// How far checkpoints of the audit log have come.
    pub witnesses: Witnesses,
    /// The vault.
    pub secrets: Secrets,
    /// The way to read the configuration again.
    pub reload: Reload,
    /// Where everything is.
    pub paths: Paths,
    /// What was seen at the start: confinement and probes.
    pub born: Born,
    /// The way to a look at all processes.
    pub looks: Looks,
    /// When pawd was ready.
    pub since: Instant,
    /// Told when pawd stops.
    pub stop: CancellationToken,
    /// Cancelled once the drain is over.
    pub over: CancellationToken,
    /// Whether the log was verified in this life, and how that came out.
    pub verified: Mutex<Option<bool>>,
    /// Archives that are being sent.
    pub uploads: Uploads,
    /// Input and windows of commands that run, by action.
    pub inputs: Mutex<BTreeMap<Uuid, Input>>,
}

/// Where the input of a running command goes, and the size of the window before it.
#[derive(Debug, Clone)]
pub struct Input {
    /// Whose command it is.
    pub uid: u32,
    /// The sandbox, once it is known.
    pub sandbox: Option<String>,
    /// Its stdin, until that has ended; none where it takes nothing.
    pub to: Option<mpsc::Sender<std::io::Result<bytes::Bytes>>>,
    /// The size of its terminal; none where it has pipes.
    pub size: Option<watch::Sender<Size>>,
}

/// All handlers; cheap to clone.
#[derive(Clone)]
pub struct Family(Arc<Context>);

impl std::ops::Deref for Family {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

/// Every method of the control socket.
///
/// # Errors
/// When two have the same name.
pub fn methods(context: Context) -> Result<Methods, RegisterMethodError> {
    let family = Family(Arc::new(context));
    let mut all = RpcModule::new(());
    all.merge(SystemRpcServer::into_rpc(family.clone()))?;
    all.merge(ConfigRpcServer::into_rpc(family.clone()))?;
    all.merge(PolicyRpcServer::into_rpc(family.clone()))?;
    all.merge(ActionRpcServer::into_rpc(family.clone()))?;
    all.merge(ApprovalRpcServer::into_rpc(family.clone()))?;
    all.merge(AgentRpcServer::into_rpc(family.clone()))?;
    all.merge(SessionRpcServer::into_rpc(family.clone()))?;
    all.merge(SkillRpcServer::into_rpc(family.clone()))?;
    all.merge(SkillStoreRpcServer::into_rpc(family.clone()))?;
    all.merge(ChatRpcServer::into_rpc(family.clone()))?;
    all.merge(ProviderRpcServer::into_rpc(family.clone()))?;
    all.merge(ModelRpcServer::into_rpc(family.clone()))?;
    all.merge(RouteRpcServer::into_rpc(family.clone()))?;
    all.merge(BudgetRpcServer::into_rpc(family.clone()))?;
    all.merge(SandboxRpcServer::into_rpc(family.clone()))?;
    all.merge(SecretRpcServer::into_rpc(family.clone()))?;
    all.merge(ImageRpcServer::into_rpc(family.clone()))?;
    all.merge(JobRpcServer::into_rpc(family.clone()))?;
    all.merge(McpRpcServer::into_rpc(family.clone()))?;
    all.merge(EventsRpcServer::into_rpc(family.clone()))?;
    all.merge(AuditRpcServer::into_rpc(family.clone()))?;
    all.merge(WorkspaceRpcServer::into_rpc(family))?;
    all.merge(super::discover::module(env!("CARGO_PKG_VERSION")))?;
    Ok(all.into())
}

impl Family {
    /// The action that an id or a unique beginning of one names, if this caller may see it.
    fn action(&self, id: &str, caller: &paw_store::Caller) -> Result<ActionRecord, Error> {
        let unknown = || {
            Error::new(
                ErrorKind::NotFound,
                "there is no such action",
                "see `pawctl action list`",
            )
            .about(id)
        };
        let found = match id.parse::<Uuid>() {
            Ok(id) => self
                .storage
                .read()
                .action(id)
                .map_err(|error| unreadable(&error))?,
            Err(_) => self.by_beginning(id, caller)?,
        };
        found
            .filter(|record| may_see(caller, record.requested_by.uid) || may_answer(caller, record))
            .map(|record| seen_by(caller, record))
            .ok_or_else(unknown)
    }

    /// Looks through the newest actions for one whose id begins like this.
    fn by_beginning(
        &self,
        beginning: &str,
        caller: &paw_store::Caller,
    ) -> Result<Option<ActionRecord>, Error> {
        let plain = beginning.len() >= 6
            && beginning
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b == b'-');
        if !plain {
            let hint = "use the id as it is listed, or at least the first 6 characters of it";
            return Err(Error::new(
                ErrorKind::Invalid,
                "that is no id of an action",
                hint,
            ));
        }
        let page = paw_store::Page::newest(paw_store::MAX_PAGE);
        let listed = self
            .storage
            .read()
            .actions(&paw_store::ActionFilter::default(), &page)
            .map_err(|error| unreadable(&error))?;
        let mut fitting = listed.records.into_iter().filter(|record| {
            record.id.to_string().starts_with(&beginning.to_lowercase())
                && may_see(caller, record.requested_by.uid)
        });
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => {
                let message = format!("several actions begin with {beginning}");
                Err(Error::new(
                    ErrorKind::Invalid,
                    message,
                    "write more of the id",
                ))
            }
            (found, _) => Ok(found),
        }
    }
}

/// Approvers see what waits for them, whoever asked, and how that went on which they answered.
fn may_answer(caller: &paw_store::Caller, record: &ActionRecord) -> bool {
    let mut answers = record.approved_by.iter().chain(&record.first_yes);
    let answered = answers.any(|answer| answer.by.uid == caller.uid);
    let waits = record.state == paw_policy::State::WaitingApproval;
    caller.role >= paw_policy::Role::Approver && (waits || answered)
}

/// An action as somebody sees it: what it came to is told to who asked for it, and not to who allowed it.
fn seen_by(caller: &paw_store::Caller, mut record: ActionRecord) -> ActionRecord {
    if !may_see(caller, record.requested_by.uid) {
        record.result = None;
        if let Some(error) = record
            .error
            .as_mut()
            .filter(|_| record.started_ms.is_some())
        {
            "who asked for it is told why".clone_into(&mut error.message);
        }
    }
    record
}

/// Sends an item of a subscription; `false` when the client is gone.
async fn send<T: Serialize + Sync>(sink: &jsonrpsee::SubscriptionSink, item: &T) -> bool {
    match serde_json::value::to_raw_value(item) {
        Ok(json) => sink.send(json).await.is_ok(),
        Err(error) => {
            tracing::error!(error = %error, "an item cannot be written as JSON");
            false
        }
    }
}

/// An error on its way out.
fn fail(error: Error) -> ErrorObjectOwned {
    error.into()
}

/// Longer than anything is waited for here: each action has a deadline of its own.
const FOREVER: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// Bytes of what may be long that one answer lists; half of what an answer may have.
const LISTED: usize = 8 * 1024 * 1024;

/// A page of a list: at most so many, before this id.
fn page(limit: u32, before: Option<&str>) -> Result<paw_store::Page, Error> {
    let invalid = |message: &str, hint: &str| Error::new(ErrorKind::Invalid, message, hint);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 || limit > paw_store::MAX_PAGE {
        return Err(invalid(
            "the page is too long or empty",
            "ask for 1 to 1000",
        ));
    }
    let mut page = paw_store::Page::newest(limit);
    page.before = match before {
        None => None,
        Some(id) => Some(
            id.parse()
                .map_err(|_| invalid("`before` is no id", "pass on `next` of the page before"))?,
        ),
    };
    Ok(page)
}

/// Why an action did not complete, as an error to its caller.
fn why(
    state: paw_policy::State,
    failure: Option<paw_store::Failure>,
) -> (ErrorKind, String, String) {
    use paw_policy::State;
    let kind = match (state, failure.as_ref().map(|failure| failure.kind.as_str())) {
        (State::Rejected, _) | (_, Some("denied" | "over_budget")) => ErrorKind::Denied,
        (State::TimedOut | State::Expired, _) => ErrorKind::TimedOut,
        (State::Cancelled, _) => ErrorKind::Conflict,
        (_, Some("unavailable")) => ErrorKind::Unavailable,
        (_, Some("conflict")) => ErrorKind::Conflict,
        (_, Some("not_found")) => ErrorKind::NotFound,
        (_, Some("invalid" | "ceiling")) => ErrorKind::Invalid,
        (_, Some("busy" | "limited")) => ErrorKind::Busy,
        _ => ErrorKind::Failed,
    };
    match failure {
        Some(failure) => (kind, failure.message, failure.hint.unwrap_or_default()),
        None => (
            kind,
            format!("the action is {state}"),
            "submit it again if it is still wanted".into(),
        ),
    }
}
