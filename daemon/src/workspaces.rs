//! Workspaces as a caller sees them: who left something decides on it, and administrators.
//!
//! Only the launcher knows whose a layer is, so it is shown before anything is decided on it; a layer of somebody else is as if it were not
//! there. What becomes of one is an action: `intake` makes its plan, and `agent` does it.

use paw_api::{
    Error, ErrorKind,
    workspace::{WaitingLayer, Workspace, WorkspaceDiff},
};
use paw_launch::{
    request::SandboxId,
    workspace::{Answer, Diff, Listing, Waiting, Why, WorkspaceRequest},
};
use paw_policy::{Name, Role};
use paw_store::Caller;
use serde::{Serialize, de::DeserializeOwned};

use crate::sandbox::{LauncherError, Launchers, WorkspaceError, workspace::ask};

/// The way to workspaces; cheap to clone.
#[derive(Clone)]
pub struct Workspaces(Launchers);

impl From<Launchers> for Workspaces {
    fn from(launchers: Launchers) -> Self {
        Self(launchers)
    }
}

impl Workspaces {
    /// Every workspace with what of it this caller may see. One that cannot be looked into keeps no other from being listed.
    ///
    /// # Errors
    /// When the launcher is away.
    pub async fn all(&self, caller: &Caller) -> Result<Vec<Workspace>, Error> {
        let names = self.names().await?;
        let mut workspaces = Vec::with_capacity(names.len());
        for name in names {
            let listed = self.listed(name.clone(), caller).await;
            workspaces.push(listed.or_else(|error| without(name, error))?);
        }
        Ok(workspaces)
    }

    /// A workspace with what of it this caller may see.
    ///
    /// # Errors
    /// When there is none, or it cannot be looked into.
    pub async fn listed(&self, name: Name, caller: &Caller) -> Result<Workspace, Error> {
        let agent = name.to_string();
        let listing = self.listing(name).await?;
        let own = |layer: &Waiting| may_decide(caller, layer.owner);
        let seen = |layers: Vec<Waiting>| {
            layers
                .iter()
                .filter(|layer| own(layer))
                .map(as_shown::<WaitingLayer>)
                .collect::<Result<_, _>>()
        };
        Ok(Workspace {
            agent,
            files: listing.files,
            bytes: listing.bytes,
            pending: seen(listing.pending)?,
            commits: seen(listing.commits)?,
            fault: None,
        })
    }

    /// What a layer changes, from a change on, in the words of the control socket.
    ///
    /// # Errors
    /// As [`Self::waits`].
    pub async fn shown(
        &self,
        id: &str,
        from: u32,
        caller: &Caller,
    ) -> Result<WorkspaceDiff, Error> {
        as_shown(&self.waits(id, from, caller).await?)
    }

    /// What a layer changes that waits, from a change on, if this caller may decide on it.
    ///
    /// # Errors
    /// `not_found` where there is none that they may decide on.
    pub async fn waits(&self, id: &str, from: u32, caller: &Caller) -> Result<Diff, Error> {
        let layer = id.parse().map_err(|_| unknown(id))?;
        let request = WorkspaceRequest::Diff { id: layer, from };
        match self.done(id, request).await? {
            Answer::Diff(diff) if may_decide(caller, diff.owner) => Ok(*diff),
            Answer::Diff(_) => Err(unknown(id)),
            _ => Err(confused()),
        }
    }

    /// Whose workspace a layer that waits is for.
    ///
    /// # Errors
    /// When it waits in none.
    pub async fn of_waiting(&self, id: &SandboxId) -> Result<Name, Error> {
        let (name, ..) = self.find(id, |listing| &listing.pending).await?;
        Ok(name)
    }

    /// The commits that an undo of this one takes back, the oldest first, and whose workspace that is, if this caller may take back all
    /// of them.
    ///
    /// # Errors
    /// `not_found` where there is no such commit that they may take back, `denied` where others have committed after it.
    pub async fn after(
        &self,
        id: &SandboxId,
        caller: &Caller,
    ) -> Result<(Name, Vec<Waiting>), Error> {
        let (name, listing, first) = self.find(id, |listing| &listing.commits).await?;
        let back = listing.commits.into_iter().skip(first).collect::<Vec<_>>();
        if !back
            .first()
            .is_some_and(|first| may_decide(caller, first.owner))
        {
            return Err(unknown(id.as_str()));
        }
        if back.iter().all(|commit| may_decide(caller, commit.owner)) {
            return Ok((name, back));
        }
        Err(Error::new(
            ErrorKind::Denied,
            "others have committed after it, and their commits would be taken back, too",
            "ask an administrator",
        )
        .about(id.to_string()))
    }

    /// The workspace that has this among these of its layers, and at which place.
    ///
    /// A workspace that cannot be looked into does not keep others from being found. Where none of those has it, it may be in that one, so
    /// its fault is told and not that there is nothing.
    async fn find(
        &self,
        id: &SandboxId,
        among: impl Fn(&Listing) -> &Vec<Waiting>,
    ) -> Result<(Name, Listing, usize), Error> {
        let mut fault = None;
        for name in self.names().await? {
            match self.listing(name.clone()).await {
                Ok(listing) => {
                    let mut layers = among(&listing).iter();
                    if let Some(at) = layers.position(|layer| layer.layer == *id) {
                        return Ok((name, listing, at));
                    }
                }
                Err(error) if error.data.kind == ErrorKind::Internal => return Err(error),
                Err(error) => {
                    fault.get_or_insert(error);
                }
            }
        }
        Err(fault.unwrap_or_else(|| unknown(id.as_str())))
    }

    async fn names(&self) -> Result<Vec<Name>, Error> {
        match self.done("", WorkspaceRequest::Names).await? {
            Answer::Names { names } => Ok(names),
            _ => Err(confused()),
        }
    }

    async fn listing(&self, name: Name) -> Result<Listing, Error> {
        let about = name.to_string();
        match self.done(&about, WorkspaceRequest::List { name }).await? {
            Answer::List(listing) => Ok(listing),
            _ => Err(confused()),
        }
    }

    /// Has the launcher do something with a layer.
    ///
    /// # Errors
    /// Why it was not done; then everything is as it was.
    pub async fn done(&self, about: &str, request: WorkspaceRequest) -> Result<Answer, Error> {
        ask(self.0.usual(), request)
            .await
            .map_err(|error| refused(about, &error))
    }
}

/// A workspace of which nothing can be told, for a reason that is its own and not the launcher's.
fn without(name: Name, error: Error) -> Result<Workspace, Error> {
    match error.data.kind {
        ErrorKind::Failed | ErrorKind::NotFound => Ok(Workspace {
            agent: name.to_string(),
            files: 0,
            bytes: 0,
            pending: Vec::new(),
            commits: Vec::new(),
            fault: Some(error.message),
        }),
        _ => Err(error),
    }
}

/// Whose it is, and administrators.
fn may_decide(caller: &Caller, owner: Option<u32>) -> bool {
    caller.role == Role::Admin || owner == Some(caller.uid)
}

/// The same in the words of the control socket: both write the same JSON.
///
/// # Errors
/// When they do not.
pub fn as_shown<T: DeserializeOwned>(said: &impl Serialize) -> Result<T, Error> {
    serde_json::to_value(said)
        .and_then(serde_json::from_value)
        .map_err(|_| confused())
}

/// There is none, or none of this caller.
#[must_use]
pub fn unknown(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "nothing of that name is in a workspace",
        "see `pawctl workspace list`",
    )
    .about(id)
}

/// The answer is to another question.
#[must_use]
pub fn confused() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the launcher answered something else",
        "install pawd and paw-launcher from one package",
    )
}

fn refused(about: &str, error: &WorkspaceError) -> Error {
    use paw_launch::request::RefusalReason;
    let kind = match error {
        WorkspaceError::Refused(refused) => match refused.why {
            Why::NotFound => return unknown(about),
            Why::Changed | Why::Conflict => ErrorKind::Conflict,
            Why::TooMuch | Why::Failed => ErrorKind::Failed,
        },
        WorkspaceError::Launcher(LauncherError::Refused(refusal)) => match refusal.reason {
            RefusalReason::NotFound => return unknown(about),
            RefusalReason::Full => ErrorKind::Busy,
            _ => ErrorKind::Failed,
        },
        WorkspaceError::Launcher(LauncherError::Confused { .. }) | WorkspaceError::Confused => {
            ErrorKind::Internal
        }
        WorkspaceError::Launcher(_) => ErrorKind::Unavailable,
    };
    Error::new(kind, paw_log::Chain(error).to_string(), error.remedy()).about(about)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_of_the_launcher_are_words_of_the_control_socket() {
        let diff = Diff {
            layer: "00000000000000aa".parse().unwrap(),
            owner: Some(7),
            at_ms: 1,
            digest: paw_policy::Digest::of(b""),
            total: 1,
            changes: vec![paw_launch::workspace::Change {
                path: "a".into(),
                old: None,
                new: Some(paw_launch::workspace::Thing {
                    kind: paw_launch::workspace::Kind::File,
                    mode: 0o600,
                    size: 1,
                    digest: None,
                    target: None,
                }),
                text: None,
                note: None,
            }],
            next: None,
            left_out: Vec::new(),
            conflicts: Vec::new(),
        };
        let shown: WorkspaceDiff = as_shown(&diff).unwrap();
        assert_eq!(json!(shown), json!(diff));
    }

    #[test]
    fn only_whose_it_is_decides_and_administrators() {
        let caller = |uid, role| Caller {
            uid,
            gid: uid,
            pid: 1,
            role,
            name: None,
            unit: None,
        };
        for (uid, role, owner, may) in [
            (7, Role::User, Some(7), true),
            (8, Role::User, Some(7), false),
            (8, Role::Approver, Some(7), false),
            (8, Role::User, None, false),
            (8, Role::Admin, Some(7), true),
            (8, Role::Admin, None, true),
        ] {
            assert_eq!(
                may_decide(&caller(uid, role), owner),
                may,
                "{uid} {role} {owner:?}"
            );
        }
    }
}
