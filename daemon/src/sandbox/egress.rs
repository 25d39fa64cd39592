//! pawd's side of paw-egress: one connection for each run that may reach something.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use paw_api::egress::{
    Begin, FrameError, HEADER, Hand, NetRule, Ready, Refused, Tag, VERSION, header, parse_header,
};
use paw_launch::request::SandboxId;
use paw_policy::Name;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
    time::timeout,
};

use super::relay::Said;

/// How long paw-egress may take to take a run.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);

/// How long it may take to say that it is there.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Why a run has no way out.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// Nobody answers.
    #[error("paw-egress does not answer")]
    Away(#[source] io::Error),
    /// It does not allow these rules.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// It said something else than it has to.
    #[error("paw-egress is confused: {0}")]
    Confused(String),
}

impl From<FrameError> for EgressError {
    fn from(error: FrameError) -> Self {
        Self::Confused(error.to_string())
    }
}

/// Variables by which programs find their proxy, in the spellings that are in use.
pub const PROXY_ENVIRONMENT: [&str; 6] = [
    "http_proxy=http://127.0.0.1:3128",
    "https_proxy=http://127.0.0.1:3128",
    "HTTP_PROXY=http://127.0.0.1:3128",
    "HTTPS_PROXY=http://127.0.0.1:3128",
    "no_proxy=localhost,127.0.0.1",
    "NO_PROXY=localhost,127.0.0.1",
];

/// The way out of a sandbox.
#[derive(Debug)]
pub struct Net {
    /// Where paw-egress is.
    pub socket: PathBuf,
    /// Whose sandbox it is.
    pub agent: Name,
    /// What may be reached.
    pub rules: Vec<NetRule>,
    /// Where goes what paw-egress says.
    pub said: mpsc::Sender<Said>,
    /// Answers to it, from [`super::Answerer::channel`].
    pub answers: mpsc::Receiver<Bytes>,
}

/// A way out that paw-egress has begun, and that no sandbox has yet.
pub(super) struct Way {
    pub(super) stream: UnixStream,
    pub(super) said: mpsc::Sender<Said>,
    pub(super) answers: mpsc::Receiver<Bytes>,
}

impl Net {
    /// Has paw-egress begin it for this sandbox.
    ///
    /// # Errors
    /// As [`begin`].
    pub(super) async fn begin(self, id: &SandboxId) -> Result<Way, EgressError> {
        let (run, agent) = (id.to_string(), self.agent.to_string());
        let (stream, _) = begin(&self.socket, run, agent, self.rules).await?;
        Ok(Way {
            stream,
            said: self.said,
            answers: self.answers,
        })
    }
}

/// Opens a run with these rules.
///
/// # Errors
/// When paw-egress is away, or its ceiling does not allow the rules.
async fn begin(
    socket: &Path,
    run: String,
    agent: String,
    rules: Vec<NetRule>,
) -> Result<(UnixStream, Ready), EgressError> {
    let opened = async {
        let mut stream = UnixStream::connect(socket)
            .await
            .map_err(EgressError::Away)?;
        let begin = Begin {
            version: VERSION,
            run,
            agent,
            rules,
        };
        let frame = control(Tag::Begin, 0, &begin);
        stream.write_all(&frame).await.map_err(EgressError::Away)?;
        let (tag, _, payload) = next(&mut stream)
            .await?
            .ok_or_else(|| EgressError::Away(io::ErrorKind::UnexpectedEof.into()))?;
        match tag {
            Tag::Ready => Ok((stream, read(&payload)?)),
            Tag::Refused => Err(EgressError::Refused(read(&payload)?)),
            other => Err(EgressError::Confused(format!(
                "it answers with a frame {other:?}"
            ))),
        }
    };
    timeout(BEGIN_LIMIT, opened)
        .await
        .unwrap_or_else(|_| Err(EgressError::Away(io::ErrorKind::TimedOut.into())))
}

/// Hands a value over, for the decision that waits for it, on a connection of its own: straight from where it lies.
///
/// # Errors
/// When paw-egress is away, or does not say that it has it.
pub async fn hand(socket: &Path, to: &Hand, value: &[u8]) -> Result<(), EgressError> {
    let handed = async {
        let mut stream = UnixStream::connect(socket)
            .await
            .map_err(EgressError::Away)?;
        let head = control(Tag::Hand, 0, to);
        stream.write_all(&head).await.map_err(EgressError::Away)?;
        stream.write_all(value).await.map_err(EgressError::Away)?;
        match next(&mut stream).await? {
            Some((Tag::Handed, ..)) => Ok(()),
            Some((other, ..)) => Err(EgressError::Confused(format!(
                "it answers with a frame {other:?}"
            ))),
            None => Err(EgressError::Away(io::ErrorKind::UnexpectedEof.into())),
        }
    };
    timeout(BEGIN_LIMIT, handed)
        .await
        .unwrap_or_else(|_| Err(EgressError::Away(io::ErrorKind::TimedOut.into())))
}

/// Who answers at the broker's socket; nobody when it is away. A run without rules is opened for it, and closed at once.
pub async fn look(socket: &Path) -> Option<Ready> {
    let looked = timeout(
        LOOK_LIMIT,
        begin(socket, "status".into(), String::new(), Vec::new()),
    );
    looked.await.ok()?.ok().map(|(_, ready)| ready)
}

/// The next frame; nothing at the end.
pub(super) async fn next(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(Tag, u32, Bytes)>, EgressError> {
    let mut start = [0; HEADER];
    match from.read_exact(&mut start).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(EgressError::Away(error)),
    }
    let (length, tag, number) = parse_header(start)?;
    let mut payload = BytesMut::zeroed(length);
    from.read_exact(&mut payload)
        .await
        .map_err(EgressError::Away)?;
    Ok(Some((tag, number, payload.freeze())))
}

pub(super) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, EgressError> {
    serde_json::from_slice(payload).map_err(|error| EgressError::Confused(error.to_string()))
}

/// A control frame.
pub(super) fn control(tag: Tag, number: u32, message: &impl Serialize) -> Bytes {
    let json =
        serde_json::to_vec(message).expect("numbers, flags and bounded texts are always JSON");
    data(tag, number, &json)
}

/// A frame of raw bytes.
pub(super) fn data(tag: Tag, number: u32, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&header(payload.len(), tag, number));
    frame.extend_from_slice(payload);
    frame.freeze()
}
