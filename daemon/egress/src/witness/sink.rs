//! The place that checkpoints are sent to: a server of syslog over TLS ([RFC 5425](https://www.rfc-editor.org/rfc/rfc5425)), or one that
//! takes each as the body of a POST. Either is encrypted, and has a certificate for its name.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use paw_api::egress::{Checkpoint, HostName};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use url::Url;

use crate::{
    ceiling::{Ceiling, CeilingError, certificates, read_credential},
    inject::{Injected, Template},
    names::Places,
    rules::Refusal,
    upstream::Outside,
};

/// The port of syslog over TLS.
const SYSLOG: u16 = 6514;

/// Facility `log audit` (13), severity `notice` (5).
const PRIORITY: u32 = 13 * 8 + 5;

/// The most bytes that a server of syslog may say, which has nothing to say.
const MOST_SAID: usize = 64 * 1024;

/// The most that is kept of an answer's head.
const MAX_HEAD: usize = 64 * 1024;

/// `[witness]` of `egress.toml`, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkFile {
    url: Url,
    ca: Option<PathBuf>,
    credential: Option<String>,
}

/// Where checkpoints go.
#[derive(Debug, Clone)]
pub struct Sink {
    kind: Kind,
    host: HostName,
    pub(crate) port: u16,
    /// Who may vouch for it, in place of whom this host trusts.
    ca: Vec<CertificateDer<'static>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Syslog {
        /// What this host calls itself.
        own: String,
    },
    Https {
        path: String,
        authorization: Option<Injected>,
    },
}

/// Why one was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// There is no connection to it, or none to somebody who is it.
    #[error("{}", .0.message)]
    Connect(Refusal),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// It does not speak HTTP.
    #[error("it does not answer as a server of HTTP")]
    Http(#[from] hyper::Error),
    /// It does not take it.
    #[error("it answers {0}")]
    Status(http::StatusCode),
    /// It takes too long.
    #[error("it did not take it in time")]
    Slow,
}

/// A connection that is kept.
pub(super) struct Link {
    stream: TlsStream<TcpStream>,
    said: usize,
}

impl Link {
    /// Waits for its end. What the other side says has no meaning.
    pub(super) async fn ended(&mut self) {
        let mut bytes = [0; 1024];
        while self.said < MOST_SAID {
            match self.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(count) => self.said += count,
            }
        }
    }
}

impl Sink {
    /// Checks what a file says.
    ///
    /// # Errors
    /// When it cannot be meant, or a file that it names is not there.
    pub(crate) fn check(
        file: SinkFile,
        credentials: &Path,
        value: &dyn Fn(String) -> CeilingError,
    ) -> Result<Self, CeilingError> {
        let SinkFile {
            url,
            ca,
            credential,
        } = file;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let host = url.host_str().and_then(|host| host.parse().ok());
        // Nothing listens there, and to the kernel it means any port that is free.
        let plain = plain && url.port() != Some(0);
        let meant = || {
            value(
                "url: write syslog://HOST[:PORT] or https://HOST[:PORT]/PATH, with a name for the host, without user and query"
                    .into(),
            )
        };
        let (Some(host), true) = (host, plain) else {
            return Err(meant());
        };
        let (kind, usual) = match url.scheme() {
            "syslog" if matches!(url.path(), "" | "/") && credential.is_none() => {
                (Kind::Syslog { own: own_name() }, SYSLOG)
            }
            "syslog" => {
                let what = "url: a server of syslog has no path, and takes no credential";
                return Err(value(what.into()));
            }
            "https" => {
                let authorization = credential
                    .map(|name| authorization(&name, credentials, value))
                    .transpose()?;
                let path = url.path().to_owned();
                let kind = Kind::Https {
                    path,
                    authorization,
                };
                (kind, 443)
            }
            _ => return Err(meant()),
        };
        Ok(Self {
            kind,
            host,
            port: url.port().unwrap_or(usual),
            ca: certificates(ca.as_deref(), value)?,
        })
    }

    /// Sends one. A server of syslog keeps its connection in `link`; nobody says there that a line has arrived.
    pub(super) async fn send(
        &self,
        link: &mut Option<Link>,
        outside: &Outside,
        ceiling: &Ceiling,
        names: &Places,
        checkpoint: &Checkpoint,
    ) -> Result<(), SendError> {
        let connect = async || {
            let found = outside.find_named(ceiling, names, &self.host, self.port);
            let checked = found.await.map_err(SendError::Connect)?;
            let http = matches!(self.kind, Kind::Https { .. });
            let connected = outside.connect_named(&self.host, &self.ca, http, &checked);
            connected.await.map_err(SendError::Connect)
        };
        match &self.kind {
            Kind::Syslog { own } => {
                let open = match link.take() {
                    Some(open) => open,
                    None => Link {
                        stream: connect().await?,
                        said: 0,
                    },
                };
                let open = link.insert(open);
                let framed = framed(own, &checkpoint.line, now_ms());
                open.stream.write_all(&framed).await?;
                open.stream.flush().await?;
                Ok(())
            }
            Kind::Https {
                path,
                authorization,
            } => {
                let stream = connect().await?;
                self.post(stream, path, authorization.as_ref(), checkpoint)
                    .await
            }
        }
    }

    async fn post(
        &self,
        stream: TlsStream<TcpStream>,
        path: &str,
        authorization: Option<&Injected>,
        checkpoint: &Checkpoint,
    ) -> Result<(), SendError> {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut request = Request::post(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close");
        if let Some(injected) = authorization {
            request = request.header(header::AUTHORIZATION, injected.value.clone());
        }
        let body = Full::new(Bytes::from(checkpoint.line.clone()));
        let request = request.body(body).map_err(io::Error::other)?;
        // The body of the answer has no meaning, and goes with its connection.
        let answered = async {
            tokio::pin!(connection);
            let mut is_over = false;
            let answer = sender.send_request(request);
            tokio::pin!(answer);
            loop {
                tokio::select! {
                    answer = &mut answer => return answer,
                    _ = &mut connection, if !is_over => is_over = true,
                }
            }
        };
        let status = answered.await?.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(SendError::Status(status))
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        match &self.kind {
            Kind::Syslog { .. } => write!(f, "syslog://{host}:{port}"),
            Kind::Https { path, .. } => write!(f, "https://{host}:{port}{path}"),
        }
    }
}

/// The header that says who we are to it.
fn authorization(
    name: &str,
    credentials: &Path,
    value: &dyn Fn(String) -> CeilingError,
) -> Result<Injected, CeilingError> {
    if name.parse::<HostName>().is_err() {
        return Err(value(format!("credential: {name:?} is no name of a file")));
    }
    let secret = read_credential(&credentials.join(name))?;
    let bearer = Template::parse("Bearer {}").expect("it has its place once");
    let filled = bearer.fill(&secret);
    filled.map_err(|why| value(format!("credential {name} {why}")))
}

/// What this host calls itself, as a line of syslog can have it.
fn own_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let fits = (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        name.to_owned()
    } else {
        "-".to_owned()
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A line of syslog ([RFC 5424](https://www.rfc-editor.org/rfc/rfc5424)) with its length before it, as RFC 5425 has it.
pub(super) fn framed(own: &str, line: &str, now_ms: i64) -> Vec<u8> {
    let time =
        Timestamp::from_millisecond(now_ms).map_or_else(|_| "-".to_owned(), |it| it.to_string());
    let message = format!("<{PRIORITY}>1 {time} {own} paw-audit - checkpoint - {line}");
    format!("{} {message}", message.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_syslog_has_its_length_before_it() {
        let framed = framed("host.example", "{\"checkpoint\":{}}", 1_700_000_000_123);
        let text = String::from_utf8(framed).unwrap();
        let (length, message) = text.split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), message.len());
        assert_eq!(
            message,
            "<109>1 2023-11-14T22:13:20.123Z host.example paw-audit - checkpoint - {\"checkpoint\":{}}"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let check = |text: &str| {
            let file: SinkFile = toml::from_str(text).unwrap();
            let value = |what| CeilingError::Value {
                path: "egress.toml".into(),
                what,
            };
            Sink::check(file, Path::new("/nowhere"), &value).map(|sink| sink.to_string())
        };
        let good = [
            (
                "url = \"syslog://logs.example\"",
                "syslog://logs.example:6514",
            ),
            (
                "url = \"syslog://logs.example:7000\"",
                "syslog://logs.example:7000",
            ),
            (
                "url = \"https://logs.example/in\"",
                "https://logs.example:443/in",
            ),
        ];
        for (text, shown) in good {
            assert_eq!(check(text).unwrap(), shown);
        }
        for bad in [
            "url = \"http://logs.example/\"",
            "url = \"syslog://logs.example/path\"",
            "url = \"syslog://user@logs.example\"",
            "url = \"syslog://logs.example:0\"",
            "url = \"https://logs.example/?a=b\"",
            "url = \"syslog://logs.example\"\ncredential = \"x\"",
            "url = \"https://logs.example/\"\ncredential = \"../x\"",
            "url = \"https://logs.example/\"\ncredential = \"not-there\"",
            "url = \"https://logs.example/\"\nca = \"/not/there\"",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
