//! One request to the proxy, and its answer: the head, as much of the body as is wanted, and the size and digest of all of it.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpStream, task::JoinSet};
use url::Url;

/// The most that is kept of an answer's head, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most headers of an answer.
const MAX_HEADERS: usize = 100;
/// How much of a body is read, in bytes; of more it is only known that there is more.
pub(crate) const MAX_BODY: u64 = 8 * 1024 * 1024;

/// What is sent, and what it is.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) body: Bytes,
    pub(crate) content_type: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The beginning of the body.
    pub(crate) beginning: Vec<u8>,
    /// How many bytes of it were read.
    pub(crate) bytes: u64,
    /// Whether there is more than was read.
    pub(crate) more: bool,
    /// SHA-256 of what was read, in hexadecimal digits.
    pub(crate) sha256: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The proxy of the sandbox is not there.
    #[error("the proxy of this sandbox does not answer: {0}")]
    Proxy(std::io::Error),
    /// What would be sent is no request.
    #[error("this cannot be asked: {0}")]
    Request(http::Error),
    /// It broke off.
    #[error("the connection broke off: {0}")]
    Broke(hyper::Error),
}

/// Asks through the proxy at this address, and keeps this much of the body.
pub(crate) async fn ask(
    proxy: &str,
    url: &Url,
    sent: Option<Sent>,
    keep: usize,
) -> Result<Answer, NoAnswer> {
    let request = request(url, sent).map_err(NoAnswer::Request)?;
    let stream = TcpStream::connect(proxy).await.map_err(NoAnswer::Proxy)?;
    stream.set_nodelay(true).map_err(NoAnswer::Proxy)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(NoAnswer::Broke)?;
    // Ends with this function; its faults arrive with the answer.
    let mut keeper = JoinSet::new();
    keeper.spawn(connection);
    let answer = sender
        .send_request(request)
        .await
        .map_err(NoAnswer::Broke)?;
    let (head, mut body) = answer.into_parts();
    let (mut beginning, mut digest) = (Vec::new(), Sha256::new());
    let (mut bytes, mut more) = (0, false);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(NoAnswer::Broke)?.into_data() else {
            continue;
        };
        let room = keep.saturating_sub(beginning.len());
        beginning.extend_from_slice(&data[..data.len().min(room)]);
        digest.update(&data);
        bytes += data.len() as u64;
        if bytes > MAX_BODY {
            more = true;
            break;
        }
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        beginning,
        bytes,
        more,
        sha256: hex::encode(digest.finalize()),
    })
}

/// The request as a proxy is asked it: with the whole URL, and nothing that says more about this host than that it asks.
fn request(url: &Url, sent: Option<Sent>) -> http::Result<Request<Full<Bytes>>> {
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = Request::builder()
        .uri(&url[..url::Position::AfterQuery])
        .header(header::HOST, authority)
        .header(
            header::USER_AGENT,
            concat!("paw-fetch/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "text/*, application/json, */*;q=0.5")
        // What is compressed could not be read here.
        .header(header::ACCEPT_ENCODING, "identity");
    match sent {
        None => request.method(Method::GET).body(Full::default()),
        Some(sent) => request
            .method(Method::POST)
            .header(header::CONTENT_TYPE, sent.content_type)
            .body(Full::new(sent.body)),
    }
}
