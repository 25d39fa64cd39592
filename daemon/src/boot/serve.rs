//! The control socket: which methods there are, who is told of denials, and who may call now.

use std::{os::unix::net::UnixListener, sync::Arc};

use anyhow::{Context as _, anyhow};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::users::People;
use crate::{
    audit::Audit,
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
    let runtime = tokio::runtime::Handle::current();
    let denials = Denials::default();
    let on_denied: rpc::OnDenied = Arc::new(move |peer, method| {
        let Some(entry) = denials.note(peer, method, now_ms()) else {
            return;
        };
        warn!(
            message_id = paw_log::events::RPC_DENIED,
            uid = peer.uid,
            method,
            "call denied"
        );
        let audit = audit.clone();
        // A denial grants nothing, so it stands even while the writer is away.
        runtime.spawn(async move { drop(audit.durable(entry).await) });
    });
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
