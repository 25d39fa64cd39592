//! The control socket: which methods there are, who is told of denials, and who may call now.

use std::{os::unix::net::UnixListener, sync::Arc};

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use paw_api::{Error, ErrorKind};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::users::People;
use crate::{
    audit::{Audit, AuditError},
    clock::now_ms,
    exit::Fatal,
    quota::rates::{What, Whose},
    rpc::{self, Limits, denials::Denials, family},
};

/// Serves until `stop`.
///
/// # Errors
/// When the socket cannot be used, or the methods are not those of the table.
pub(super) fn serve(
    control: UnixListener,
    context: family::Context,
    people: &People,
    audit: Audit,
    limits: Limits,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>, Fatal> {
    control
        .set_nonblocking(true)
        .context("prepare the control socket")?;
    let listener =
        tokio::net::UnixListener::from_std(control).context("prepare the control socket")?;
    let rates = Arc::clone(&context.rates);
    let methods = family::methods(context)
        .context("register the methods")
        .map_err(Fatal::Software)?;
    let unmatched = rpc::unmatched(&methods, paw_api::methods::TABLE);
    if !unmatched.is_empty() {
        return Err(Fatal::Software(anyhow!(
            "methods without a row in the table, or the other way round: {unmatched:?}"
        )));
    }
    let names = people.names.clone();
    let identify = rpc::identify(people.roles.clone(), move |uid| names.get(&uid).cloned());
    let on_denied = on_denied(audit, stop.clone());
    let may_call: rpc::MayCall = Arc::new(move |peer, method| {
        let whose = Whose {
            uid: peer.uid,
            name: peer.name.as_deref(),
        };
        rates.count(What::Call(method), whose)
    });
    let service = rpc::Service {
        methods,
        table: paw_api::methods::TABLE,
        identify,
        on_denied,
        may_call,
        limits,
    };
    Ok(rpc::serve(listener, service, stop))
}

/// Has denials recorded, beside the call: who is denied and goes away is on record all the same. Those that are counted are at a stop, too.
fn on_denied(audit: Audit, stop: CancellationToken) -> rpc::OnDenied {
    let runtime = tokio::runtime::Handle::current();
    let denials = Arc::<Denials<rpc::Recorded>>::default();
    Arc::new(move |peer, method| {
        let record = |entry| {
            warn!(
                message_id = paw_log::events::RPC_DENIED,
                uid = peer.uid,
                method,
                "call denied"
            );
            let audit = audit.clone();
            recorded(runtime.spawn(async move { audit.durable(entry).await.map(drop) }))
        };
        let later = |pair, left| {
            let (audit, denials, stop) = (audit.clone(), Arc::clone(&denials), stop.clone());
            recorded(runtime.spawn(async move {
                // They have waited long enough, or nobody waits any longer.
                let _ = tokio::time::timeout(left, stop.cancelled()).await;
                match denials.rest(pair, now_ms()) {
                    Some(entry) => audit.durable(entry).await.map(drop),
                    None => Ok(()),
                }
            }))
        };
        denials.note(peer, method, now_ms(), record, later)
    })
}

/// Waits for the record of a denial. Without one nobody is told of a denial: that nothing is done without a record is.
fn recorded(record: JoinHandle<Result<(), AuditError>>) -> rpc::Recorded {
    let refused = |why: String, remedy: String| {
        let message = format!("this is not done, and cannot be recorded: {why}");
        Err(Error::new(ErrorKind::Unavailable, message, remedy))
    };
    let record = async move {
        match record.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => refused(error.to_string(), error.remedy()),
            Err(error) => refused(error.to_string(), "see the journal of pawd".to_owned()),
        }
    };
    record.boxed().shared()
}
