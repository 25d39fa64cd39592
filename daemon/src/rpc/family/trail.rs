//! `audit.*`

use std::sync::PoisonError;

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    trail::{AuditFilter, AuditPage, AuditRpcServer, Verification},
};
use paw_audit::read::{self, Filter, Listed};
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
        let filter = Filter {
            action: read_word("action", action)?,
            events: read_word("event", event)?.into_iter().collect(),
            ..Filter::default()
        };
        self.records(filter, before, limit).await
    }

    async fn find(
        &self,
        _: &Extensions,
        filter: AuditFilter,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<AuditPage> {
        let filter = Filter {
            action: read_word("action", filter.action)?,
            events: read_word("event", filter.event)?.into_iter().collect(),
            kind: read_word("kind", filter.kind)?,
            since_ms: filter.since,
            until_ms: filter.until,
            uid: filter.uid,
            agent: filter.agent,
            outcome: filter.outcome,
            detail: None,
        };
        let listed = self.page(filter, before, limit).await?;
        Ok(AuditPage {
            records: listed.records,
            next: listed.next,
        })
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
    /// Records of the log, newest first.
    pub(super) async fn records(
        &self,
        filter: Filter,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Value>> {
        Ok(self.page(filter, before, limit).await?.records)
    }

    /// A page of the log.
    async fn page(
        &self,
        filter: Filter,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Listed> {
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
        finished(listed.await)
    }
}

/// What a word of a filter stands for.
fn read_word<T: serde::de::DeserializeOwned>(
    name: &str,
    word: Option<String>,
) -> RpcResult<Option<T>> {
    let read = word.map(|word| serde_json::from_value(Value::String(word)));
    read.transpose().map_err(|error| {
        fail(Error::new(
            ErrorKind::Invalid,
            format!("`{name}` is none: {error}"),
            "use the whole id of an action, and words as they stand in the records: pawctl audit list -o json",
        ))
    })
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
