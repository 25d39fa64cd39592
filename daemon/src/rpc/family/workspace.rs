//! `workspace.*`: who left something decides on it, and administrators.
//!
//! Showing comes first in every one of them, because only the launcher knows whose a layer is; a layer of somebody else is as if it
//! were not there. What changes a workspace is in the audit log, on disk, before it is done.

use jsonrpsee::{Extensions, core::RpcResult, core::async_trait};
use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    workspace::{
        Committed, Discarded, Undone, WaitingLayer, Workspace, WorkspaceDiff, WorkspaceRpcServer,
    },
};
use paw_launch::{
    request::SandboxId,
    workspace::{Answer, Why, WorkspaceRequest},
};
use paw_policy::{Name, Role};
use paw_store::Caller;
use serde::{Serialize, de::DeserializeOwned};

use super::{Family, fail};
use crate::{
    records,
    rpc::caller,
    sandbox::{LauncherError, WorkspaceError, workspace::ask},
};

#[async_trait]
impl WorkspaceRpcServer for Family {
    async fn list(
        &self,
        extensions: &Extensions,
        agent: Option<String>,
    ) -> RpcResult<Vec<Workspace>> {
        let caller = caller(extensions).map_err(fail)?;
        if let Some(name) = agent {
            let name = name.parse().map_err(|_| fail(unknown(&name)))?;
            return Ok(vec![self.listed(name, &caller).await.map_err(fail)?]);
        }
        let names = self.names().await.map_err(fail)?;
        let mut workspaces = Vec::with_capacity(names.len());
        for name in names {
            let listed = self.listed(name.clone(), &caller).await;
            workspaces.push(listed.or_else(|error| without(name, error)).map_err(fail)?);
        }
        Ok(workspaces)
    }

    async fn diff(
        &self,
        extensions: &Extensions,
        id: String,
        from: Option<u32>,
    ) -> RpcResult<WorkspaceDiff> {
        let caller = caller(extensions).map_err(fail)?;
        self.shown(&id, from.unwrap_or(0), &caller)
            .await
            .map_err(fail)
    }

    async fn commit(
        &self,
        extensions: &Extensions,
        id: String,
        digest: String,
    ) -> RpcResult<Committed> {
        let caller = caller(extensions).map_err(fail)?;
        let digest = digest.parse().map_err(|_| {
            fail(Error::new(
                ErrorKind::Invalid,
                "that is no digest",
                "give the one that `pawctl workspace diff` shows",
            ))
        })?;
        let shown = self.shown(&id, 0, &caller).await.map_err(fail)?;
        let layer: SandboxId = id.parse().map_err(|_| fail(unknown(&id)))?;
        let mut entry = Entry::new(Event::WorkspaceCommitted);
        entry.digest = Some(digest);
        entry
            .detail
            .insert("changes".into(), shown.total.to_string());
        self.recorded(entry, &id, &caller).await.map_err(fail)?;
        match self
            .done(&id, WorkspaceRequest::Commit { id: layer, digest })
            .await
        {
            Ok(Answer::Committed(committed)) => as_shown(&committed).map_err(fail),
            Ok(_) => Err(fail(confused())),
            Err(error) => Err(fail(error)),
        }
    }

    async fn discard(&self, extensions: &Extensions, id: String) -> RpcResult<Discarded> {
        let caller = caller(extensions).map_err(fail)?;
        self.shown(&id, 0, &caller).await.map_err(fail)?;
        let layer: SandboxId = id.parse().map_err(|_| fail(unknown(&id)))?;
        let entry = Entry::new(Event::WorkspaceDiscarded);
        self.recorded(entry, &id, &caller).await.map_err(fail)?;
        match self
            .done(&id, WorkspaceRequest::Discard { id: layer })
            .await
        {
            Ok(Answer::Discarded { changes }) => Ok(Discarded { changes }),
            Ok(_) => Err(fail(confused())),
            Err(error) => Err(fail(error)),
        }
    }

    async fn undo(&self, extensions: &Extensions, id: String) -> RpcResult<Undone> {
        let caller = caller(extensions).map_err(fail)?;
        let layer: SandboxId = id.parse().map_err(|_| fail(unknown(&id)))?;
        let (taken_back, last) = self.after(&layer, &caller).await.map_err(fail)?;
        let mut entry = Entry::new(Event::WorkspaceUndone);
        entry
            .detail
            .insert("commits".into(), taken_back.to_string());
        self.recorded(entry, &id, &caller).await.map_err(fail)?;
        let request = WorkspaceRequest::Undo { id: layer, last };
        match self.done(&id, request).await {
            Ok(Answer::Undone { layers }) => Ok(Undone {
                layers: layers.iter().map(ToString::to_string).collect(),
            }),
            Ok(_) => Err(fail(confused())),
            Err(error) => Err(fail(error)),
        }
    }
}

impl Family {
    async fn names(&self) -> Result<Vec<Name>, Error> {
        match self.done("", WorkspaceRequest::Names).await? {
            Answer::Names { names } => Ok(names),
            _ => Err(confused()),
        }
    }

    /// A workspace with what of it this caller may see.
    async fn listed(&self, name: Name, caller: &Caller) -> Result<Workspace, Error> {
        let agent = name.to_string();
        let listing = match self.done(&agent, WorkspaceRequest::List { name }).await? {
            Answer::List(listing) => listing,
            _ => return Err(confused()),
        };
        let own = |layer: &paw_launch::workspace::Waiting| may_decide(caller, layer.owner);
        let seen = |layers: Vec<paw_launch::workspace::Waiting>| {
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

    /// What a layer changes, if this caller may decide on it.
    async fn shown(&self, id: &str, from: u32, caller: &Caller) -> Result<WorkspaceDiff, Error> {
        let layer = id.parse().map_err(|_| unknown(id))?;
        match self
            .done(id, WorkspaceRequest::Diff { id: layer, from })
            .await?
        {
            Answer::Diff(diff) if may_decide(caller, diff.owner) => as_shown(&*diff),
            Answer::Diff(_) => Err(unknown(id)),
            _ => Err(confused()),
        }
    }

    /// How many commits an undo of this one takes back, and the last of them, if this caller may take back all of them.
    ///
    /// A workspace that cannot be looked into does not keep others from being undone. Where none of those has the commit, it may be
    /// in that one, so its fault is told and not that there is nothing.
    async fn after(&self, id: &SandboxId, caller: &Caller) -> Result<(usize, SandboxId), Error> {
        let mut fault = None;
        for name in self.names().await? {
            let agent = name.to_string();
            let listing = match self.done(&agent, WorkspaceRequest::List { name }).await {
                Ok(Answer::List(listing)) => listing,
                Ok(_) => return Err(confused()),
                Err(error) => {
                    fault.get_or_insert(error);
                    continue;
                }
            };
            let Some(first) = listing
                .commits
                .iter()
                .position(|commit| commit.layer == *id)
            else {
                continue;
            };
            let back = &listing.commits[first..];
            let ([head, ..], [.., last]) = (back, back) else {
                return Err(unknown(id.as_str()));
            };
            if !may_decide(caller, head.owner) {
                return Err(unknown(id.as_str()));
            }
            if back.iter().all(|commit| may_decide(caller, commit.owner)) {
                return Ok((back.len(), last.layer.clone()));
            }
            return Err(Error::new(
                ErrorKind::Denied,
                "others have committed after it, and their commits would be taken back, too",
                "ask an administrator",
            )
            .about(id.to_string()));
        }
        Err(fault.unwrap_or_else(|| unknown(id.as_str())))
    }

    /// Nothing is changed that is not in the log.
    async fn recorded(&self, mut entry: Entry, id: &str, caller: &Caller) -> Result<(), Error> {
        entry.actor = Some(records::actor(caller));
        entry.detail.insert("sandbox".into(), id.to_owned());
        match self.audit.durable(entry).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(
                ErrorKind::Unavailable,
                error.to_string(),
                error.remedy(),
            )),
        }
    }

    async fn done(&self, about: &str, request: WorkspaceRequest) -> Result<Answer, Error> {
        ask(self.launchers.usual(), request)
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
fn as_shown<T: DeserializeOwned>(said: &impl Serialize) -> Result<T, Error> {
    serde_json::to_value(said)
        .and_then(serde_json::from_value)
        .map_err(|_| confused())
}

fn unknown(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "nothing of that name is in a workspace",
        "see `pawctl workspace list`",
    )
    .about(id)
}

fn confused() -> Error {
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
        let diff = paw_launch::workspace::Diff {
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
