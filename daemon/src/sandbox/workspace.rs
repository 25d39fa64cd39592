//! What pawd asks the launcher about workspaces, and what became of a run's layer.

use std::time::Duration;

use paw_launch::{
    request::{Request, SandboxId},
    workspace::{Answer, Refused, Settle, Settled, Why, WorkspaceRequest},
};

use super::{Launcher, LauncherError};

/// How long an order may take; the launcher's own limit is shorter, and orders on one workspace wait for each other.
const LIMIT: Duration = Duration::from_secs(300);

/// Why something about a workspace was not done. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The launcher is away, or has no such workspace or layer.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// It was refused for what is in it.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// The answer is to another question.
    #[error("the launcher answered something else")]
    Confused,
}

impl WorkspaceError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Launcher(LauncherError::Refused(refusal)) => refusal.remedy.clone(),
            Self::Refused(refused) => refused.remedy.clone(),
            Self::Launcher(_) | Self::Confused => {
                "see `systemctl status paw-launcher` and `pawctl doctor`".into()
            }
        }
    }

    /// Whether somebody else changed the same files meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.why == Why::Conflict)
    }
}

/// Asks, and gives what is no refusal.
///
/// # Errors
/// When the launcher is away or the order is refused.
pub async fn ask(launcher: &Launcher, about: WorkspaceRequest) -> Result<Answer, WorkspaceError> {
    let request = Request::Workspaces { about };
    let (result, _) = launcher.work(request, Vec::new(), LIMIT).await?;
    match serde_json::from_value(result) {
        Ok(Answer::Refused(refused)) => Err(WorkspaceError::Refused(refused)),
        Ok(answer) => Ok(answer),
        Err(_) => Err(WorkspaceError::Confused),
    }
}

/// Says what becomes of a run's layer, now or when its sandbox has ended, and waits until that is done.
///
/// # Errors
/// When it was not done: the layer is gone then.
pub async fn settle(
    launcher: &Launcher,
    id: SandboxId,
    then: Settle,
) -> Result<Settled, WorkspaceError> {
    match ask(launcher, WorkspaceRequest::Settle { id, then }).await? {
        Answer::Settled(settled) => Ok(settled),
        _ => Err(WorkspaceError::Confused),
    }
}
