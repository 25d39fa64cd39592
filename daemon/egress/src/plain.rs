//! One request and its answer, to a server or, with a credential added, to a broker's endpoint.
//!
//! What is asked for as `https://` is seen here, judged by its method and path, and encrypted from here on; the server is one that
//! this host trusts. So whoever is in a sandbox needs no certificates and no encryption of its own, and none is worked around.
//!
//! What goes out is written anew from what was understood: its framing, its `Host`, its path. Headers that concern one hop
//! stay here, so that nobody can use them to take a header away or to smuggle a second request. A redirect is an answer like
//! any other: whoever follows it comes back with a request that is judged again.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use paw_api::egress::{HostName, Reason};
use paw_confine::sys::Locked;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{Duration, Instant, Sleep, sleep_until, timeout},
};

use crate::{
    ceiling::Credential,
    head::{Head, MAX_HEADERS},
    inject::Injected,
    lane::Lane,
    leak::{Forms, Sieve},
    proxy::{Activity, Passed, answer, decision, finished, refuse, status},
    rules::{Granted, Refusal},
    run::{Allowed, Run},
    target::{Target, usual_port},
    upstream::Checked,
};

/// How long an endpoint may think before it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// How long a body may make no progress, in either direction.
const IDLE: Duration = Duration::from_secs(120);

/// How long nothing of a request or its answer may pass, whoever keeps it: more than an endpoint may think.
const STILL: Duration = Duration::from_secs(360);

/// The most that is kept of an answer's head.
const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// Headers that concern one hop, beside those that `Connection` names.
const HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Header of the answers that are ours: why a request was refused.
const REFUSED: &str = "x-paw-refused";

/// Headers by which some servers take another method, or another path, than the one that was judged.
const OTHER_REQUEST: [&str; 5] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut")]
struct Cut(#[source] Option<hyper::Error>);

/// What became of the request, told by the bodies.
#[derive(Default)]
struct Fate {
    passed: Passed,
    activity: Activity,
    ended: Mutex<(Option<u16>, Option<Reason>)>,
}

impl Fate {
    fn cut(&self, reason: Reason) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(reason);
    }
}

/// Where the request goes.
struct Way {
    checked: Checked,
    granted: Arc<Granted>,
    /// The target of the request line that goes out.
    path: String,
    host: HeaderValue,
    /// The broker's name, when it is one.
    broker: Option<String>,
    /// The header that the broker adds.
    injected: Option<(HeaderName, Injected)>,
    /// The name that the server's certificate has to be for, where the connection is encrypted from here.
    secure: Option<HostName>,
}

/// Serves any method but `CONNECT`.
pub(crate) async fn serve(mut lane: Lane, run: &Run, head: &Head, bytes: Bytes, target: Target) {
    let mut decision = decision(&head.method, Some(&target));
    let mut way = match find(run, head, &target, &mut decision).await {
        Ok(way) => way,
        Err(refusal) => return refuse(lane, run, decision, &refusal).await,
    };
    let Allowed { seq, value } = match run.allow(decision.clone()).await {
        Ok(allowed) => allowed,
        Err(refusal) => return refuse(lane, run, decision, &refusal).await,
    };
    let fate = Arc::new(Fate::default());
    fate.passed
        .sent
        .store(head.length as u64, Ordering::Relaxed);
    let mut connections = JoinSet::new();
    let connected = match inject(run, &mut way, value) {
        Ok(()) => connect(run, &way, &mut connections).await,
        Err(refusal) => Err(refusal),
    };
    match connected {
        Err(refusal) => {
            run.finish(finished(seq, &fate.passed, None, Some(refusal.reason)))
                .await;
            refuse(lane, run, decision, &refusal).await;
        }
        Ok(sender) => {
            lane.unread(bytes);
            exchange(lane, way, sender, &fate).await;
            let (status, fault) = *fate.ended.lock().unwrap_or_else(PoisonError::into_inner);
            run.finish(finished(seq, &fate.passed, status, fault)).await;
        }
    }
}

async fn find(
    run: &Run,
    head: &Head,
    target: &Target,
    decision: &mut paw_api::egress::Decision,
) -> Result<Way, Refusal> {
    let granted = run.rules.judge_plain(&head.method, target)?;
    decision.rule = Some(granted.rule.clone());
    granted
        .send(head.length)
        .map_err(|_| Refusal::new(Reason::UsedUp, "the bytes of this rule are used up"))?;
    let query = target
        .query
        .as_ref()
        .map_or_else(String::new, |query| format!("?{query}"));
    let (host, port, path, broker, usual) = if target.host.is_broker() {
        let (broker, path) = run.rules.broker(&target.path)?;
        let name = crate::ceiling::broker_of(&target.path).map(|(name, _)| name.to_owned());
        decision.secret = Some(broker.secret.clone());
        decision.broker.clone_from(&name);
        decision.vault = matches!(broker.credential, Credential::Vault(_));
        (broker.host.clone(), broker.port, path, name, 443)
    } else {
        (
            target.host.clone(),
            target.port,
            target.path.clone(),
            None,
            usual_port(target.secure),
        )
    };
    let checked = run
        .shared
        .outside
        .find(run.rules.ceiling(), &run.names, &host, port)
        .await?;
    decision.address = checked.first();
    let authority = if port == usual {
        host.to_string()
    } else {
        format!("{host}:{port}")
    };
    Ok(Way {
        checked,
        granted,
        path: format!("{path}{query}"),
        host: HeaderValue::from_str(&authority)
            .expect("letters, digits, '-', '_', '.' and ':' make a header"),
        broker,
        injected: None,
        secure: target.secure.then_some(host),
    })
}

/// Adds the header with the broker's credential: the one that was read at the start, or this value of the vault.
fn inject(run: &Run, way: &mut Way, value: Option<Locked>) -> Result<(), Refusal> {
    let broker = way
        .broker
        .as_ref()
        .and_then(|name| run.rules.ceiling().brokers.get(name));
    let Some(broker) = broker else { return Ok(()) };
    let injected = match (&broker.credential, value) {
        (Credential::File(injected), _) => injected.clone(),
        (Credential::Vault(template), Some(value)) => template.fill(&value).map_err(|why| {
            Refusal::new(
                Reason::Secret,
                format!("the secret of this broker {why}; give it another value"),
            )
        })?,
        (Credential::Vault(_), None) => {
            return Err(Refusal::new(
                Reason::Secret,
                "the secret of this broker is not there",
            ));
        }
    };
    way.injected = Some((broker.header.clone(), injected));
    Ok(())
}

type Sender = hyper::client::conn::http1::SendRequest<UnsyncBoxBody<Bytes, Cut>>;

async fn connect(run: &Run, way: &Way, connections: &mut JoinSet<()>) -> Result<Sender, Refusal> {
    let outside = &run.shared.outside;
    match way
        .broker
        .as_ref()
        .and_then(|name| run.rules.ceiling().brokers.get(name))
    {
        Some(broker) => {
            shake_hands(
                outside.connect_broker(broker, &way.checked).await?,
                connections,
            )
            .await
        }
        None => match &way.secure {
            Some(host) => {
                let encrypted = outside.connect_secure(host, &way.checked).await?;
                shake_hands(encrypted, connections).await
            }
            None => shake_hands(way.checked.connect().await?, connections).await,
        },
    }
}

async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    connections: &mut JoinSet<()>,
) -> Result<Sender, Refusal> {
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_ANSWER_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Refusal::new(Reason::Unreachable, "the server does not speak HTTP"))?;
    // Its faults arrive with the answer, or in the middle of its body.
    connections.spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Reads the request, sends it on, and passes the answer back.
async fn exchange(lane: Lane, mut way: Way, sender: Sender, fate: &Arc<Fate>) {
    let injected = way.injected.take();
    // There is one request, so there is one use of the sender.
    let once = Mutex::new(Some((way, sender)));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (injected, fate) = (injected.clone(), Arc::clone(fate));
        async move {
            let Some((way, sender)) = taken else {
                return Ok(refused(&Refusal::new(
                    Reason::Malformed,
                    "one connection carries one request",
                )));
            };
            let answered = pass(request, &way, sender, injected, &fate).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|refusal| {
                fate.cut(refusal.reason);
                refused(&refusal)
            }))
        }
    });
    // An error here is a client that left, or a body that was cut; the fate says which.
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_ANSWER_HEAD)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(lane), service);
    // Bodies see who is slow to send only, not who does not take what is there.
    tokio::select! {
        _ = served => {}
        () = fate.activity.idle(STILL) => {}
    }
}

type Answered = Response<UnsyncBoxBody<Bytes, Cut>>;

async fn pass(
    request: Request<Incoming>,
    way: &Way,
    mut sender: Sender,
    injected: Option<(HeaderName, Injected)>,
    fate: &Arc<Fate>,
) -> Result<Answered, Refusal> {
    let (mut parts, body) = request.into_parts();
    parts.uri = way
        .path
        .parse::<Uri>()
        .map_err(|_| Refusal::new(Reason::Malformed, "the path cannot be sent on"))?;
    parts.version = http::Version::HTTP_11;
    strip(&mut parts.headers);
    parts.headers.remove(header::EXPECT);
    let rule = &way.granted.rule;
    if !rule.methods.is_empty() || rule.path.is_some() || injected.is_some() {
        strip_other_requests(&mut parts.headers);
    }
    parts.headers.insert(header::HOST, way.host.clone());
    let mut forms = None;
    if let Some((name, injected)) = injected {
        // Whatever the sandbox says who it is, the endpoint hears the broker only. An answer that is compressed, or bound to a
        // session, could carry the credential, or something as good, past the sieve.
        for name in [header::AUTHORIZATION, header::COOKIE] {
            parts.headers.remove(name);
        }
        parts.headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        parts.headers.remove(header::RANGE);
        parts.headers.insert(name, injected.value);
        forms = Some(injected.forms);
    }
    let body = Metered {
        inner: body,
        granted: Arc::clone(&way.granted),
        fate: Arc::clone(fate),
        inward: false,
        sieve: None,
        idle: Box::pin(sleep_until(Instant::now() + IDLE)),
        ended: false,
    };
    let sent = sender.send_request(Request::from_parts(parts, UnsyncBoxBody::new(body)));
    let unreachable = |what| Refusal::new(Reason::Unreachable, what);
    let response = timeout(ANSWER_LIMIT, sent)
        .await
        .map_err(|_| unreachable("the server did not answer in time"))?
        .map_err(
            |_| match fate.ended.lock().unwrap_or_else(PoisonError::into_inner).1 {
                Some(Reason::UsedUp) => {
                    Refusal::new(Reason::UsedUp, "the bytes of this rule are used up")
                }
                _ => unreachable("the server did not answer as HTTP does"),
            },
        )?;
    let (mut parts, body) = response.into_parts();
    // The server's own words for the status are kept there, and nobody has looked through them.
    parts.extensions.clear();
    strip(&mut parts.headers);
    // Only a refusal of ours is marked as one.
    parts.headers.remove(REFUSED);
    if let Some(forms) = &forms {
        look_through(&mut parts.headers, forms)?;
    }
    if parts.status.is_informational() {
        return Err(unreachable("the server wants another protocol"));
    }
    let head = head_length(&parts.headers);
    way.granted
        .receive(head)
        .map_err(|_| Refusal::new(Reason::UsedUp, "the bytes of this rule are used up"))?;
    fate.passed
        .received
        .fetch_add(head as u64, Ordering::Relaxed);
    fate.ended.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(parts.status.as_u16());
    let body = Metered {
        inner: body,
        granted: Arc::clone(&way.granted),
        fate: Arc::clone(fate),
        inward: true,
        sieve: forms.map(Sieve::new),
        idle: Box::pin(sleep_until(Instant::now() + IDLE)),
        ended: false,
    };
    Ok(Response::from_parts(parts, UnsyncBoxBody::new(body)))
}

/// Takes away what concerns one hop only: named ones first, because what they name could be anything.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
}

/// Takes away what asks for another request than the one that was judged. A server that hands headers on as variables makes
/// `_` of every `-`, so they are the same to it.
fn strip_other_requests(headers: &mut HeaderMap) {
    let same: Vec<HeaderName> = headers
        .keys()
        .filter(|name| OTHER_REQUEST.contains(&&*name.as_str().replace('_', "-")))
        .cloned()
        .collect();
    for name in same {
        headers.remove(name);
    }
}

/// Refuses an answer whose headers hold the credential, or whose body could hide it.
fn look_through(headers: &mut HeaderMap, forms: &Forms) -> Result<(), Refusal> {
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded || forms.are_in_headers(headers) {
        return Err(Refusal::new(
            Reason::Leak,
            "the answer could have shown the credential, and was thrown away",
        ));
    }
    headers.remove(header::SET_COOKIE);
    Ok(())
}

/// How many bytes an answer's head has inside, its status line included.
fn head_length(headers: &HeaderMap) -> usize {
    const STATUS_LINE: usize = "HTTP/1.1 200 OK\r\n\r\n".len();
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    STATUS_LINE + headers.iter().map(line).sum::<usize>()
}

/// Our own answer in place of the server's.
fn refused(refusal: &Refusal) -> Answered {
    let whole = answer(refusal);
    let body = whole
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .map_or_else(Bytes::new, |at| whole.slice(at + 4..));
    let code = status(refusal.reason)
        .0
        .get(..3)
        .and_then(|code| code.parse::<u16>().ok());
    let body = if body.is_empty() {
        UnsyncBoxBody::new(Empty::new().map_err(|never| match never {}))
    } else {
        UnsyncBoxBody::new(Full::new(body).map_err(|never| match never {}))
    };
    let mut response = Response::new(body);
    *response.status_mut() = code
        .and_then(|code| http::StatusCode::from_u16(code).ok())
        .unwrap_or(http::StatusCode::BAD_GATEWAY);
    response
        .headers_mut()
        .insert(REFUSED, HeaderValue::from_static(refusal.reason.as_str()));
    response
}

/// A body that is counted, looked through if there is a sieve, and cut when it goes too far or stands still. Trailers stay here.
struct Metered {
    inner: Incoming,
    granted: Arc<Granted>,
    fate: Arc<Fate>,
    inward: bool,
    sieve: Option<Sieve>,
    idle: Pin<Box<Sleep>>,
    ended: bool,
}

impl Metered {
    fn count(&self, bytes: usize) -> Result<(), Cut> {
        let (counted, total) = if self.inward {
            (self.granted.receive(bytes), &self.fate.passed.received)
        } else {
            (self.granted.send(bytes), &self.fate.passed.sent)
        };
        counted.map_err(|_| self.cut(Reason::UsedUp))?;
        self.fate.activity.note();
        total.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    fn cut(&self, reason: Reason) -> Cut {
        self.fate.cut(reason);
        Cut(None)
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            let polled = Pin::new(&mut this.inner).poll_frame(context);
            let Poll::Ready(next) = polled else {
                ready!(this.idle.as_mut().poll(context));
                this.ended = true;
                return Poll::Ready(Some(Err(this.cut(Reason::Unreachable))));
            };
            this.idle.as_mut().reset(Instant::now() + IDLE);
            let bytes = match next {
                None => {
                    this.ended = true;
                    match this.sieve.as_mut().map(Sieve::rest) {
                        Some(rest) if !rest.is_empty() => rest,
                        Some(_) | None => return Poll::Ready(None),
                    }
                }
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(Cut(Some(error)))));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Err(_) => continue,
                    Ok(data) => match &mut this.sieve {
                        None => data,
                        Some(sieve) => match sieve.pass(&data) {
                            Ok(clean) if clean.is_empty() => continue,
                            Ok(clean) => clean,
                            Err(_) => {
                                this.ended = true;
                                return Poll::Ready(Some(Err(this.cut(Reason::Leak))));
                            }
                        },
                    },
                },
            };
            if let Err(cut) = this.count(bytes.len()) {
                this.ended = true;
                return Poll::Ready(Some(Err(cut)));
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.sieve.is_none() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
