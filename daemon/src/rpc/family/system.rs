//! `system.*`

use std::path::{Component, Path};

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    action::Caller,
    audit::{Entry, Event},
    system::{BackedUp, Doctor, Metrics, Status, SystemRpcServer},
};

use super::{Family, fail, health, metrics};
use crate::{intake::unreadable, records, rpc::caller};

#[async_trait]
impl SystemRpcServer for Family {
    fn ping(&self) -> RpcResult<String> {
        Ok("pong".to_owned())
    }

    async fn status(&self, extensions: &Extensions) -> RpcResult<Status> {
        let caller = caller(extensions).map_err(fail)?;
        let mut status = health::status(self).await;
        match self.failing_jobs(&caller) {
            Ok(failing) => status.failing_jobs = failing,
            Err(error) => status
                .problems
                .push(format!("jobs cannot be looked at: {}", error.message)),
        }
        Ok(status)
    }

    async fn doctor(&self, _: &Extensions, prove: Option<bool>) -> RpcResult<Doctor> {
        Ok(health::doctor(self, prove == Some(true)).await)
    }

    async fn metrics(&self, extensions: &Extensions) -> RpcResult<Metrics> {
        let caller = caller(extensions).map_err(fail)?;
        metrics::metrics(self, caller.role).await.map_err(fail)
    }

    fn whoami(&self, extensions: &Extensions) -> RpcResult<Caller> {
        Ok(records::caller(&caller(extensions).map_err(fail)?))
    }

    async fn backup(&self, extensions: &Extensions, path: String) -> RpcResult<BackedUp> {
        let caller = caller(extensions).map_err(fail)?;
        let directory = self.paths.state.join("backup");
        let target = directory.join(file_name(&path, &directory).map_err(fail)?);
        let store = self.storage.shared();
        let shown = target.display().to_string();
        // A copy of a large store takes long, and redb blocks.
        let copied = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&directory)?;
            store.backup(&target).map_err(std::io::Error::other)?;
            std::fs::metadata(&target).map(|facts| facts.len())
        });
        let bytes = match copied.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                let store_error = error
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<paw_store::StoreError>());
                let plain = || {
                    Error::new(
                        ErrorKind::Failed,
                        format!("write {shown}: {error}"),
                        "look at the state directory",
                    )
                };
                return Err(fail(
                    store_error
                        .map_or_else(plain, unreadable)
                        .about(shown.clone()),
                ));
            }
            Err(error) => {
                return Err(fail(Error::new(
                    ErrorKind::Internal,
                    error.to_string(),
                    "report it",
                )));
            }
        };
        let mut entry = Entry::new(Event::BackupMade);
        entry.actor = Some(records::actor(&caller));
        entry.detail.insert("path".into(), shown.clone());
        let recorded = self.audit.durable(entry).await;
        recorded.map_err(|error| {
            fail(Error::new(
                ErrorKind::Unavailable,
                error.to_string(),
                error.remedy(),
            ))
        })?;
        Ok(BackedUp { path: shown, bytes })
    }
}

/// The plain file name that a backup is given: pawd writes nowhere else than below its own state directory.
fn file_name<'a>(path: &'a str, directory: &Path) -> Result<&'a str, Error> {
    let mut parts = Path::new(path).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) if path.len() <= 200 => name.to_str().ok_or(()),
        _ => Err(()),
    }
    .map_err(|()| {
        let hint = format!(
            "give a plain file name; it is written to {}",
            directory.display()
        );
        Error::new(
            ErrorKind::Invalid,
            "a backup is written only below pawd's own state directory",
            hint,
        )
    })
}
