//! `workspace.*`: what is shown, and what becomes of it; each of these that changes something is an action of kind `file_operation`.

use jsonrpsee::{Extensions, core::RpcResult, core::async_trait};
use paw_api::{
    Error, ErrorKind,
    workspace::{Committed, Discarded, Undone, Workspace, WorkspaceDiff, WorkspaceRpcServer},
};
use paw_policy::{Digest, FileChange, Kind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Family, fail};
use crate::{
    orchestrator::work::Progress,
    rpc::caller,
    workspaces::{confused, unknown},
};

#[async_trait]
impl WorkspaceRpcServer for Family {
    async fn list(
        &self,
        extensions: &Extensions,
        agent: Option<String>,
    ) -> RpcResult<Vec<Workspace>> {
        let caller = caller(extensions).map_err(fail)?;
        let workspaces = &self.intake.workspaces;
        match agent {
            Some(name) => {
                let name = name.parse().map_err(|_| fail(unknown(&name)))?;
                let listed = workspaces.listed(name, &caller).await;
                Ok(vec![listed.map_err(fail)?])
            }
            None => workspaces.all(&caller).await.map_err(fail),
        }
    }

    async fn diff(
        &self,
        extensions: &Extensions,
        id: String,
        from: Option<u32>,
    ) -> RpcResult<WorkspaceDiff> {
        let caller = caller(extensions).map_err(fail)?;
        let shown = self
            .intake
            .workspaces
            .shown(&id, from.unwrap_or(0), &caller);
        shown.await.map_err(fail)
    }

    async fn commit(
        &self,
        extensions: &Extensions,
        id: String,
        digest: String,
    ) -> RpcResult<Committed> {
        let digest: Digest = digest.parse().map_err(|_| {
            fail(Error::new(
                ErrorKind::Invalid,
                "that is no digest",
                "give the one that `pawctl workspace diff` shows",
            ))
        })?;
        let said = ("digest".to_owned(), Value::from(digest.to_string()));
        self.decide(extensions, FileChange::Commit, &id, Some(said))
            .await
    }

    async fn discard(&self, extensions: &Extensions, id: String) -> RpcResult<Discarded> {
        self.decide(extensions, FileChange::Discard, &id, None)
            .await
    }

    async fn undo(&self, extensions: &Extensions, id: String) -> RpcResult<Undone> {
        self.decide(extensions, FileChange::Undo, &id, None).await
    }
}

impl Family {
    /// Has this become of a layer, if policy lets this caller.
    async fn decide<T: DeserializeOwned>(
        &self,
        extensions: &Extensions,
        change: FileChange,
        id: &str,
        more: Option<(String, Value)>,
    ) -> RpcResult<T> {
        let said = [
            ("change".to_owned(), Value::from(change.as_str())),
            ("id".to_owned(), Value::from(id)),
        ];
        let arguments = Map::from_iter(said.into_iter().chain(more));
        let done = self.changed(
            extensions,
            Kind::FileOperation,
            (arguments, Progress::None),
            id,
        );
        serde_json::from_value(done.await?).map_err(|_| fail(confused()))
    }
}
