//! From one frame to its answer: checks of form, the gate, the handler.
//!
//! Methods and handlers are jsonrpsee's. Its own server is not used, because it has no bound on requests in flight; what is
//! here drives the same callbacks under ours. A synchronous method is answered where it was read, without a task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use jsonrpsee::{
    Extensions,
    core::server::{
        BatchResponseBuilder, ConnectionId, MethodCallback, MethodResponse, MethodSink,
        SubscriptionState,
    },
    server::RandomStringIdProvider,
    types::{ErrorObjectOwned, Id, InvalidRequest, Notification, Params, Request},
};
use paw_api::{
    error::{Error, ErrorKind},
    fault::Fault,
};
use paw_policy::plan::is_deeper_than;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Limits, MayCall, Peer,
    gate::{Gate, Recorded, Refused},
    limits::LONG_FRAME,
    seats::Seat,
    share::{Aside, Flight, Slice, Takes, TooMuch, aside},
};
use crate::metrics::{self, OneMore};

/// What all connections share.
pub(super) struct Shared {
    pub(super) methods: jsonrpsee::Methods,
    pub(super) gate: Gate,
    pub(super) may_call: MayCall,
    pub(super) limits: Limits,
    /// Places for what pawd itself works on for long.
    pub(super) work: Arc<Semaphore>,
    /// Cancelled when pawd stops: nothing more is read.
    pub(super) stop: CancellationToken,
    /// Cancelled when the time to drain is over: what is still in flight is answered with an error.
    pub(super) drained: CancellationToken,
}

/// Bits of chance in the id of a subscription do not matter, ids are valid on their own connection only.
const SUBSCRIPTION_ID: usize = 16;

/// One connection, as its calls see it.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    pub(super) seat: Seat,
    pub(super) id: ConnectionId,
    /// What each handler gets: the [`Peer`].
    pub(super) extensions: Extensions,
    /// One permit for each subscription that may still be made.
    pub(super) subscriptions: Arc<Semaphore>,
    /// When its turn began.
    pub(super) slice: Arc<Slice>,
    /// Until when nothing more is read, after a refusal.
    pub(super) rest: Mutex<Option<Instant>>,
}

impl Session {
    /// Counts one request; refused, an error says how long to wait, and nothing more is read for a while.
    fn count(&self) -> Result<(), Duration> {
        let rest = self.shared.limits.rest;
        self.seat.request().map_err(|wait| {
            self.begin_rest();
            wait.max(rest)
        })
    }

    fn begin_rest(&self) {
        let until = Instant::now() + self.shared.limits.rest;
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Until when nothing more is to be read, if something was refused since this was last asked.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// An answer as it goes out.
pub(super) type Answer = Box<RawValue>;

/// What became of a frame.
pub(super) enum Begun {
    /// It asked for no answer.
    Silent,
    /// It is answered already.
    Answered(Answer),
    /// It will be; nothing if the answer went through the sink of subscriptions.
    InFlight(BoxFuture<'static, Option<Answer>>),
    /// The same, and if the sink gets an answer that is no error, items will follow.
    Subscribing(BoxFuture<'static, Option<Answer>>),
}

enum Call {
    Silent,
    Done(MethodResponse),
    Later(BoxFuture<'static, MethodResponse>),
    Subscription(BoxFuture<'static, MethodResponse>),
}

/// An error that answers no particular request.
pub(super) fn error(error: impl Into<ErrorObjectOwned>) -> Answer {
    MethodResponse::error(Id::Null, error.into()).into_json()
}

/// Begins with one frame: a request, a notification or a batch. Items of subscriptions go to `sink`.
pub(super) fn begin(session: &Arc<Session>, sink: &MethodSink, frame: &Bytes) -> Begun {
    if frame.len() > LONG_FRAME {
        aside(|| begin_here(session, sink, frame))
    } else {
        begin_here(session, sink, frame)
    }
}

fn begin_here(session: &Arc<Session>, sink: &MethodSink, frame: &Bytes) -> Begun {
    let limits = &session.shared.limits;
    // What is no request is counted as one; nobody is told, since it says no id.
    let Ok(text) = std::str::from_utf8(frame) else {
        let _ = session.count();
        return Begun::Answered(error(Fault::NotJson));
    };
    let text = text.trim_ascii();
    if is_deeper_than(limits.depth, text.as_bytes()) {
        let _ = session.count();
        return Begun::Answered(error(Fault::TooDeep {
            limit: limits.depth,
        }));
    }
    if text.starts_with('[') {
        let (session, frame) = (Arc::clone(session), frame.clone());
        return Begun::InFlight(async move { batch(&session, &frame).await }.boxed());
    }
    match call(session, Some(sink), text) {
        Call::Silent => Begun::Silent,
        Call::Done(response) => Begun::Answered(finish(response)),
        Call::Later(response) => {
            Begun::InFlight(response.map(|response| Some(finish(response))).boxed())
        }
        Call::Subscription(response) => Begun::Subscribing(
            response
                .map(|response| (!response.is_subscription()).then(|| finish(response)))
                .boxed(),
        ),
    }
}

async fn batch(session: &Arc<Session>, frame: &[u8]) -> Option<Answer> {
    let limits = &session.shared.limits;
    let read = || serde_json::from_slice::<Vec<&RawValue>>(frame);
    let is_long = frame.len() > LONG_FRAME;
    let Ok(requests) = (if is_long { aside(read) } else { read() }) else {
        let _ = session.count();
        return Some(error(Fault::NotJson));
    };
    if requests.is_empty() {
        return Some(error(Fault::NotARequest));
    }
    if requests.len() > limits.batch {
        return Some(error(Fault::BatchTooBig {
            limit: limits.batch,
        }));
    }
    let mut answers = BatchResponseBuilder::new_with_limit(limits.answer);
    // They are held here until the last one is there.
    let mut held = session.seat.share().unsent();
    for request in requests {
        // One after the other: a batch is one place in flight, so it may not use more than one.
        session.slice.pass_on().await;
        let begin = || call(session, None, request.get());
        let response = match if is_long { aside(begin) } else { begin() } {
            Call::Silent => continue,
            Call::Done(response) => response,
            Call::Later(response) | Call::Subscription(response) => response.await,
        };
        held.add(response.as_ref().len());
        if answers.append(reshaped(response)).is_err() {
            return Some(error(Fault::BatchAnswerTooBig {
                limit: limits.answer,
            }));
        }
    }
    (!answers.is_empty()).then(|| MethodResponse::from_batch(answers.finish()).into_json())
}

/// Begins with one request. Without a sink, subscriptions are refused.
fn call(session: &Session, sink: Option<&MethodSink>, text: &str) -> Call {
    let counted = session.count();
    let request: Request<'_> = match serde_json::from_str(text) {
        Ok(request) => request,
        Err(_) => return not_a_request(text),
    };
    let shared = &*session.shared;
    let id = request.id.clone();
    if let Err(wait) = counted {
        let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let busy = Error::new(
            ErrorKind::Busy,
            "more requests than the limit of this user",
            "send fewer, or raise rpc limits",
        );
        return Call::Done(MethodResponse::error(
            id,
            ErrorObjectOwned::from(busy.retry_after_ms(ms)),
        ));
    }
    if let Err(much) = session.seat.share().is_read(&shared.limits) {
        session.begin_rest();
        return Call::Done(too_much(id, much));
    }
    let raw = request.params.as_ref().map(|params| params.get());
    let method = match shared.gate.admit(&session.peer, &request.method, raw) {
        Ok(method) => method,
        Err(Refused::Fault(error)) => return Call::Done(MethodResponse::error(id, error)),
        Err(Refused::Denied(method, recorded, error)) => {
            return denied(session, (id, text.len()), method, recorded, error);
        }
    };
    let params = Params::new(raw);
    let limit = shared.limits.answer;
    let extensions = || session.extensions.clone();
    let callback = shared.methods.method(method.name);
    // Who has had enough may always say so.
    if !matches!(callback, Some(MethodCallback::Unsubscription(_)))
        && let Err(busy) = (shared.may_call)(&session.peer, method.name)
    {
        session.begin_rest();
        return Call::Done(MethodResponse::error(id, ErrorObjectOwned::from(busy)));
    }
    let fly = || {
        let flight = session.seat.share().fly(text.len(), &shared.limits);
        flight.map_err(|much| {
            session.begin_rest();
            Call::Done(too_much(id.clone(), much))
        })
    };
    match callback {
        None => Call::Done(MethodResponse::error(
            id,
            ErrorObjectOwned::from(Fault::UnknownMethod {
                method: method.name,
            }),
        )),
        Some(MethodCallback::Sync(callback)) => {
            let since = Instant::now();
            let run = || callback(id.clone(), params, limit, extensions());
            let response =
                catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panicked(id, method.name));
            metrics::called(method.name, since);
            Call::Done(response)
        }
        Some(MethodCallback::Async(callback)) => {
            let flight = match fly() {
                Ok(flight) => flight,
                Err(refused) => return refused,
            };
            let id = id.clone().into_owned();
            let response = callback(
                id.clone(),
                params.into_owned(),
                session.id,
                limit,
                extensions(),
            );
            let response = at_work(session, Takes::of(method.name), response, id.clone());
            Call::Later(bounded(shared, (response, flight), id, method.name))
        }
        Some(MethodCallback::Subscription(callback)) => {
            let Some(sink) = sink else {
                let invalid = Error::new(
                    ErrorKind::Invalid,
                    "a subscription cannot be in a batch",
                    "send it on its own",
                );
                return Call::Done(MethodResponse::error(id, ErrorObjectOwned::from(invalid)));
            };
            let Ok(permit) = Arc::clone(&session.subscriptions).try_acquire_owned() else {
                let text = format!(
                    "the connection has {} subscriptions already",
                    shared.limits.subscriptions
                );
                let busy = Error::new(ErrorKind::Busy, text, "end one, or open another connection");
                return Call::Done(MethodResponse::error(id, ErrorObjectOwned::from(busy)));
            };
            let flight = match fly() {
                Ok(flight) => flight,
                Err(refused) => return refused,
            };
            let ids = RandomStringIdProvider::new(SUBSCRIPTION_ID);
            let state = SubscriptionState {
                conn_id: session.id,
                id_provider: &ids,
                subscription_permit: permit,
            };
            let response = callback(id.clone(), params, sink.clone(), state, extensions());
            let id = id.clone().into_owned();
            Call::Subscription(bounded(shared, (response, flight), id, method.name))
        }
        Some(MethodCallback::Unsubscription(callback)) => match subscription_id(raw) {
            // jsonrpsee reads it from the first position only; the contract is by name.
            Ok(position) => Call::Done(callback(
                id,
                Params::new(Some(&position)),
                session.id,
                limit,
                extensions(),
            )),
            Err(fault) => Call::Done(MethodResponse::error(id, ErrorObjectOwned::from(fault))),
        },
    }
}

/// A denial, once it is on record; it is in flight until then, as any other call is. Where there can be no record, it is refused all the
/// same, and not for want of a role.
fn denied(
    session: &Session,
    (id, bytes): (Id<'_>, usize),
    method: &'static str,
    recorded: Recorded,
    error: ErrorObjectOwned,
) -> Call {
    let told =
        |recorded: Result<(), Error>| recorded.map_or_else(ErrorObjectOwned::from, |()| error);
    if let Some(recorded) = recorded.clone().now_or_never() {
        return Call::Done(MethodResponse::error(id, told(recorded)));
    }
    let shared = &session.shared;
    match session.seat.share().fly(bytes, &shared.limits) {
        Err(much) => {
            session.begin_rest();
            Call::Done(too_much(id, much))
        }
        Ok(flight) => {
            let own = id.clone().into_owned();
            let response = recorded.map(move |recorded| MethodResponse::error(own, told(recorded)));
            let response = (response.boxed(), flight);
            Call::Later(bounded(shared, response, id.into_owned(), method))
        }
    }
}

/// A refusal of a call for which there is no room.
fn too_much(id: Id<'_>, much: TooMuch) -> MethodResponse {
    let hint = "read what was answered, wait for what was asked, or ask for less at a time";
    let busy = Error::new(ErrorKind::Busy, much.text(), hint).retry_after_ms(1_000);
    MethodResponse::error(id, ErrorObjectOwned::from(busy))
}

/// A response that waits for its place, where it takes long, and is worked on where nobody waits for it.
fn at_work(
    session: &Session,
    takes: Takes,
    response: BoxFuture<'static, MethodResponse>,
    id: Id<'static>,
) -> BoxFuture<'static, MethodResponse> {
    let share = Arc::clone(session.seat.share());
    let shared = Arc::clone(&session.shared);
    match takes {
        Takes::Little => response,
        Takes::Errand => async move {
            // Nobody closes them.
            let _place = share.work().acquire_owned().await;
            response.await
        }
        .boxed(),
        Takes::Search => async move {
            let _own = share.work().acquire_owned().await;
            let _of_all = Arc::clone(&shared.work).acquire_owned().await;
            // While it waited, others of these may have been answered at length.
            match share.is_read(&shared.limits) {
                Ok(()) => Aside(response).await,
                Err(much) => too_much(id, much),
            }
        }
        .boxed(),
    }
}

/// The parameters of an unsubscription as an array of one string.
fn subscription_id(params: Option<&str>) -> Result<String, Fault<'static>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Given {
        Position([String; 1]),
        Name { subscription: String },
    }
    let fault = Fault::BadParams {
        why: "it takes the id of the subscription, as \"subscription\"",
    };
    match serde_json::from_str(params.unwrap_or("null")).map_err(|_| fault)? {
        Given::Position([id]) | Given::Name { subscription: id } => {
            serde_json::to_string(&[id]).map_err(|_| fault)
        }
    }
}

/// A response that comes even when the handler panics or pawd stops waiting for it. Its call counts as in flight until then.
fn bounded(
    shared: &Shared,
    (response, flight): (BoxFuture<'static, MethodResponse>, Flight),
    id: Id<'static>,
    method: &'static str,
) -> BoxFuture<'static, MethodResponse> {
    let drained = shared.drained.clone();
    let (since, in_flight) = (Instant::now(), OneMore::call());
    async move {
        let response = tokio::select! {
            biased;
            response = AssertUnwindSafe(response).catch_unwind() => response.unwrap_or_else(|_| panicked(id.clone(), method)),
            () = drained.cancelled_owned() => {
                let error = Error::new(
                    ErrorKind::Unavailable,
                    "pawd stopped before this was answered",
                    "ask again once it runs; what was accepted before is kept",
                );
                MethodResponse::error(id.clone(), ErrorObjectOwned::from(error))
            }
        };
        drop((in_flight, flight));
        metrics::called(method, since);
        response
    }
    .boxed()
}

fn panicked(id: Id<'_>, method: &'static str) -> MethodResponse {
    tracing::error!(method, "rpc handler panicked");
    let error = Error::new(
        ErrorKind::Internal,
        format!("{method} failed by a fault of pawd"),
        "see its journal, and report this",
    );
    MethodResponse::error(id, ErrorObjectOwned::from(error))
}

#[cold]
fn not_a_request(text: &str) -> Call {
    #[derive(serde::Deserialize)]
    struct WithId {
        #[serde(rename = "id")]
        _id: serde::de::IgnoredAny,
    }
    let has_id = serde_json::from_str::<WithId>(text).is_ok();
    if !has_id && serde_json::from_str::<Notification<'_, Option<&RawValue>>>(text).is_ok() {
        // Nobody would hear whether it was allowed, so it is not done at all.
        return Call::Silent;
    }
    if let Ok(InvalidRequest { id }) = serde_json::from_str(text) {
        return Call::Done(MethodResponse::error(
            id,
            ErrorObjectOwned::from(Fault::NotARequest),
        ));
    }
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let fault = if is_json {
        Fault::NotARequest
    } else {
        Fault::NotJson
    };
    Call::Done(MethodResponse::error(
        Id::Null,
        ErrorObjectOwned::from(fault),
    ))
}

fn finish(response: MethodResponse) -> Answer {
    reshaped(response).into_json()
}

/// jsonrpsee's own errors, in the shape of ours.
fn reshaped(response: MethodResponse) -> MethodResponse {
    #[derive(serde::Deserialize)]
    struct Failed<'a> {
        #[serde(borrow)]
        id: Id<'a>,
        #[serde(borrow)]
        error: Inner<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Inner<'a> {
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    let code = response.as_error_code();
    code.into_iter().for_each(metrics::failed);
    let Some(code @ (-32602 | -32603 | -32008)) = code else {
        return response;
    };
    let Ok(Failed { id, error }) = serde_json::from_str(response.as_ref()) else {
        return response;
    };
    let told = error
        .data
        .and_then(|data| serde_json::from_str::<String>(data.get()).ok());
    let error = match (code, &told) {
        (-32602, Some(why)) => Fault::BadParams { why }.into(),
        (-32602, None) if error.data.is_none() => Fault::BadParams {
            why: "they do not fit",
        }
        .into(),
        (-32008, Some(told)) => {
            let limit = told
                .rsplit(' ')
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default();
            Fault::AnswerTooBig { limit }.into()
        }
        (-32603, _) => ErrorObjectOwned::from(Error::new(
            ErrorKind::Internal,
            "a fault of pawd",
            "see its journal, and report this",
        )),
        _ => return response,
    };
    MethodResponse::error(id, error)
}
