//! HTTP/1.1 on the same socket: `POST /` for calls, `GET /` with an upgrade for WebSocket, `GET /metrics`, `GET /healthz`.
//!
//! HTTP/2 is not served: each of its connections brings its own two hundred streams past our bounds.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{
    BodyExt, Full, LengthLimitError, Limited, StreamBody, combinators::UnsyncBoxBody,
};
use hyper::{
    body::{Body as _, Frame, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jsonrpsee::core::server::MethodSink;
use paw_api::{
    error::{Error, ErrorKind},
    fault::Fault,
    system::Metrics,
};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    connection::{self, converse},
    dispatch::{self, Answer, Begun, Session},
    flow::{Flow, Guarded},
    lines,
    share::Unsent,
    websocket::Messages,
};
use crate::metrics::CONTENT_TYPE;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// A WebSocket that was asked for, until HTTP is over on this connection.
type Upgrade = Arc<Mutex<Option<OnUpgrade>>>;

/// Serves one connection, first as HTTP and then, if it was upgraded, as WebSocket.
pub(super) async fn serve(stream: Guarded, session: Arc<Session>, flow: Arc<Flow>) {
    let upgrade = Upgrade::default();
    let service = {
        let (session, upgrade, flow) = (
            Arc::clone(&session),
            Arc::clone(&upgrade),
            Arc::clone(&flow),
        );
        hyper::service::service_fn(move |request| {
            let (session, upgrade, flow) = (
                Arc::clone(&session),
                Arc::clone(&upgrade),
                Arc::clone(&flow),
            );
            async move { Ok::<_, Infallible>(route(request, &session, &upgrade, &flow).await) }
        })
    };
    {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(session.shared.limits.frame)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = session.shared.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %session.peer, %error, "http connection ended");
            return;
        }
    }
    let upgrade = upgrade
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(upgrade) = upgrade
        && let Ok(stream) = upgrade.await
    {
        let messages = Messages::new(
            TokioIo::new(stream),
            session.shared.limits.request,
            Arc::clone(&flow),
        )
        .await;
        converse(messages, session, flow, connection::CLOSES_AT_ONCE).await;
    }
}

async fn route(
    mut request: Request<Incoming>,
    session: &Arc<Session>,
    upgrade: &Upgrade,
    flow: &Flow,
) -> Response<Body> {
    // Requests that came together are taken one after the other, and others have their turn in between.
    session.slice.pass_on().await;
    if let Some(until) = session.rests_until() {
        tokio::time::sleep_until(until.into()).await;
    }
    // With each request begins a new count of what it is long, and of how long it may take.
    flow.frame_ended(request.method() == Method::POST, 0);
    let response = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") if has(&request, &header::UPGRADE, "websocket") => {
            web_socket(&mut request, upgrade)
        }
        (&Method::POST, "/") => post(request, session, flow).await,
        (&Method::GET, "/metrics") => metrics(session).await,
        (&Method::GET, "/healthz") => plain(StatusCode::OK, JSON, r#"{"status":"ok"}"#),
        (_, "/") => refuse_method("POST"),
        (_, "/healthz" | "/metrics") => refuse_method("GET"),
        _ => failure(
            StatusCode::NOT_FOUND,
            &Error::new(ErrorKind::NotFound, "no such path", "POST requests to /"),
        ),
    };
    flow.frame_ended(false, 0);
    response
}

fn refuse_method(allowed: &'static str) -> Response<Body> {
    let error = Error::new(
        ErrorKind::Invalid,
        "this path has no such method",
        format!("use {allowed}"),
    );
    let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, &error);
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn web_socket(request: &mut Request<Incoming>, upgrade: &Upgrade) -> Response<Body> {
    let Some(key) = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()))
    else {
        return failure(
            StatusCode::BAD_REQUEST,
            &Error::new(
                ErrorKind::Invalid,
                "no Sec-WebSocket-Key",
                "use a WebSocket client",
            ),
        );
    };
    if !has(request, &header::SEC_WEBSOCKET_VERSION, "13") {
        let mut response = failure(
            StatusCode::UPGRADE_REQUIRED,
            &Error::new(
                ErrorKind::Invalid,
                "not WebSocket version 13",
                "use RFC 6455",
            ),
        );
        response.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return response;
    }
    let Ok(accept) = HeaderValue::from_str(&key) else {
        return failure(
            StatusCode::BAD_REQUEST,
            &Error::new(
                ErrorKind::Invalid,
                "bad Sec-WebSocket-Key",
                "use a WebSocket client",
            ),
        );
    };
    *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(hyper::upgrade::on(request));
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, JSON, "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn post(request: Request<Incoming>, session: &Arc<Session>, flow: &Flow) -> Response<Body> {
    let limits = &session.shared.limits;
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| {
            let essence = value
                .as_bytes()
                .split(|byte| *byte == b';')
                .next()
                .unwrap_or_default();
            essence
                .trim_ascii()
                .eq_ignore_ascii_case(b"application/json")
        });
    if !is_json {
        let error = Error::new(
            ErrorKind::Invalid,
            "the body is not called JSON",
            "send Content-Type: application/json",
        );
        return failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error);
    }
    let too_big = || {
        answered(
            StatusCode::PAYLOAD_TOO_LARGE,
            dispatch::error(Fault::RequestTooBig {
                limit: limits.request,
            }),
        )
    };
    if request.body().size_hint().lower() > limits.request as u64 {
        return too_big();
    }
    let body = tokio::time::timeout(
        limits.frame,
        Limited::new(request.into_body(), limits.request).collect(),
    );
    let body = body.await;
    flow.frame_ended(false, 0);
    let frame = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_big(),
        Ok(Err(_)) => {
            return failure(
                StatusCode::BAD_REQUEST,
                &Error::new(ErrorKind::Invalid, "the body broke off", "send it again"),
            );
        }
        Err(_) => {
            let error = Error::new(
                ErrorKind::TimedOut,
                "the body was not complete in time",
                "send it at once",
            );
            return failure(StatusCode::REQUEST_TIMEOUT, &error);
        }
    };
    let (out, items) = mpsc::channel(limits.subscription_queue);
    match dispatch::begin(session, &MethodSink::new(out), &frame) {
        Begun::Silent => plain(StatusCode::NO_CONTENT, JSON, ""),
        Begun::Answered(answer) => held(session, answer),
        Begun::InFlight(call) => match call.await {
            Some(answer) => held(session, answer),
            None => plain(StatusCode::NO_CONTENT, JSON, ""),
        },
        Begun::Subscribing(call) => streamed(call, items),
    }
}

/// What `system.metrics` answers, as who collects it wants to have it. It is that very call, so whoever may not make it is denied here,
/// too.
async fn metrics(session: &Arc<Session>) -> Response<Body> {
    #[derive(serde::Deserialize)]
    struct Told {
        result: Option<Metrics>,
        error: Option<Failed>,
    }
    #[derive(serde::Deserialize)]
    struct Failed {
        code: i32,
    }
    let call = Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"method":"system.metrics"}"#);
    let (out, _) = mpsc::channel(1);
    let answer = match dispatch::begin(session, &MethodSink::new(out), &call) {
        Begun::Silent => None,
        Begun::Answered(answer) => Some(answer),
        Begun::InFlight(call) | Begun::Subscribing(call) => call.await,
    };
    let Some(answer) = answer else {
        return plain(StatusCode::NO_CONTENT, JSON, "");
    };
    match serde_json::from_str(answer.get()) {
        Ok(Told {
            result: Some(Metrics { text, .. }),
            ..
        }) => plain(StatusCode::OK, HeaderValue::from_static(CONTENT_TYPE), text),
        Ok(Told {
            error: Some(Failed { code }),
            ..
        }) if code == ErrorKind::Denied.code() => answered(StatusCode::FORBIDDEN, answer),
        Ok(_) | Err(_) => answered(StatusCode::SERVICE_UNAVAILABLE, answer),
    }
}

/// The answer to a subscription, then its items, one line each; hanging up ends it. The sender is held back while the
/// client does not read.
fn streamed(
    call: BoxFuture<'static, Option<Answer>>,
    items: mpsc::Receiver<Answer>,
) -> Response<Body> {
    let lines = stream::unfold((Some(call), items), |(mut call, mut items)| async move {
        let answer = loop {
            let Some(pending) = call.as_mut() else {
                break items.recv().await?;
            };
            // The answer of an accepted subscription comes through `items`; what the call itself gives is an error.
            tokio::select! {
                biased;
                item = items.recv() => if let Some(item) = item { break item } else { break call.take()?.await? },
                failed = pending => {
                    call = None;
                    if let Some(failed) = failed { break failed }
                }
            }
        };
        Some((
            Ok::<_, Infallible>(Frame::data(lines::line(answer))),
            (call, items),
        ))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, JSON_LINES);
    response
}

fn answered(status: StatusCode, answer: Answer) -> Response<Body> {
    plain(status, JSON, String::from(Box::<str>::from(answer)))
}

/// An answer that counts as unsent until all of it is written.
fn held(session: &Session, answer: Answer) -> Response<Body> {
    struct Held(
        Box<str>,
        #[allow(dead_code, reason = "dropped with the text")] Unsent,
    );
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    let text = Box::<str>::from(answer);
    let mut unsent = session.seat.share().unsent();
    unsent.add(text.len());
    plain(StatusCode::OK, JSON, Bytes::from_owner(Held(text, unsent)))
}

fn failure(status: StatusCode, error: &Error) -> Response<Body> {
    answered(status, dispatch::error(error.clone()))
}

fn plain(status: StatusCode, kind: HeaderValue, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn has(request: &Request<Incoming>, name: &header::HeaderName, value: &str) -> bool {
    request
        .headers()
        .get(name)
        .is_some_and(|given| given.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
}
