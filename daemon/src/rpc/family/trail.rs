//! `audit.*`

use std::sync::PoisonError;

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    trail::{AuditRpcServer, Verification},
};
use paw_audit::read::{self, Filter};
use serde_json::Value;

use super::{Family, fail};

/// Most records of one answer.
const MAX_RECORDS: u32 = 1_000;

#[async_trait]
impl AuditRpcServer for Family {
    async fn list(
        &self,
        _: &Extensions,
        action: Option<String>,
        event: Option<String>,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Value>> {
        let invalid =
            |message: &str, hint: &str| fail(Error::new(ErrorKind::Invalid, message, hint));
        let action = match action {
            None => None,
            Some(id) => Some(
                id.parse()
                    .map_err(|_| invalid("`action` is no id", "use the whole id of the action"))?,
            ),
        };
        let event = match event {
            None => None,
            Some(word) => Some(
                serde_json::from_value(Value::String(word)).map_err(|error| {
                    invalid(
                        &format!("`event` is no event of the log: {error}"),
                        "see pawctl-audit(1)",
                    )
                })?,
            ),
        };
        let filter = Filter {
            action,
            events: event.into_iter().collect(),
            detail: None,
        };
        self.records(filter, before, limit).await
    }

    async fn verify(&self, _: &Extensions) -> RpcResult<Verification> {
        self.audit.heard().await;
        let directory = self.paths.log.clone();
        let verified = tokio::task::spawn_blocking(move || Ok(paw_audit::verify(&directory, None)));
        let report = finished(verified.await)?;
        *self.verified.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.ok);
        Ok(Verification {
            ok: report.ok,
            state: word(&report.state).unwrap_or_default(),
            records: report.records,
            checkpoints: report.checkpoints,
            first_bad_seq: report.first_bad_seq,
            fault: report
                .fault
                .and_then(|fault| word(&fault))
                .or(report.reason),
        })
    }
}

impl Family {
    /// A page of the log.
    pub(super) async fn records(
        &self,
        filter: Filter,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Value>> {
        let limit = limit.unwrap_or(50);
        if limit == 0 || limit > MAX_RECORDS {
            return Err(fail(Error::new(
                ErrorKind::Invalid,
                "the page is too long or empty",
                "ask for 1 to 1000",
            )));
        }
        // What the caller has heard of is there.
        self.audit.heard().await;
        let directory = self.paths.log.clone();
        // Reading files blocks, and the log may be long.
        let listed = tokio::task::spawn_blocking(move || {
            read::list(&directory, &filter, before, limit as usize)
        });
        Ok(finished(listed.await)?.records)
    }
}

/// The word that stands for a fault or a state on every wire.
fn word(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(value)
        .ok()?
        .as_str()
        .map(str::to_owned)
}

fn finished<T>(joined: Result<std::io::Result<T>, tokio::task::JoinError>) -> RpcResult<T> {
    match joined {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let hint = "see that the log directory is there and that pawd's group may read it";
            Err(fail(Error::new(
                ErrorKind::Unavailable,
                format!("read the audit log: {error}"),
                hint,
            )))
        }
        Err(error) => Err(fail(Error::new(
            ErrorKind::Internal,
            error.to_string(),
            "report it",
        ))),
    }
}
