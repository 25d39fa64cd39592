//! One provider: its connections, its requests, and what HTTP says before an answer begins.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, StatusCode, redirect};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::chat::{ChatRequest, Health};
use crate::config::{ConfigError, Endpoint, KeySource, ProviderConfig, ProviderKind, key_header};
use crate::error::{Level, LlmError, Step};
use crate::models::Known;
use crate::said::Mask;
use crate::stream::{ChatStream, Deadline};
use crate::wire::{self, About, Decoder, Habits, Hints, RESETS, TokenLimit};

/// Error bodies are read up to here; what they say stands at their beginning.
const ERROR_LIMIT: usize = 64 * 1024;

/// The largest list of models that is read. The longest public one has about 1 MB.
pub(crate) const LIST_LIMIT: usize = 8 * 1024 * 1024;

/// The most tokens that an Ollama is told to keep room for where nobody set it; the memory for more is the operator's to give.
const MAX_CONTEXT: u64 = 16 * 1024;

/// Idle connections kept for the next question: as many as there are questions at once by default, so that none of them has to make its own.
const IDLE_CONNECTIONS: usize = 64;

/// A provider that can be asked. It has one pool of connections, is shared by reference, and holds no state of its
/// questions; what it tells of its models is kept for a while. Making one does no I/O and takes microseconds; certificate authorities
/// are loaded with the first request.
pub struct Provider {
    pub(crate) line: Arc<Line>,
    pub(crate) known: Known,
}

/// The way to a provider.
pub(crate) struct Line {
    pub(crate) endpoint: Endpoint,
    /// Asked for the key of each request, where the configuration has none.
    keys: Option<Arc<dyn KeySource>>,
    client: OnceCell<Client>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("kind", &self.line.endpoint.kind)
            .field("chat", &self.line.endpoint.place().as_str())
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// Checks the configuration.
    ///
    /// # Errors
    /// See [`ConfigError`]; each says what to change.
    pub fn new(config: ProviderConfig) -> Result<Self, ConfigError> {
        Self::made(config, None)
    }

    /// As [`Provider::new`], with a key that is asked for at each request and kept no longer.
    ///
    /// # Errors
    /// See [`ConfigError`]; each says what to change.
    pub fn asking(config: ProviderConfig, keys: Arc<dyn KeySource>) -> Result<Self, ConfigError> {
        Self::made(config, Some(keys))
    }

    fn made(config: ProviderConfig, keys: Option<Arc<dyn KeySource>>) -> Result<Self, ConfigError> {
        Ok(Self {
            line: Arc::new(Line {
                endpoint: Endpoint::try_from(config)?,
                keys,
                client: OnceCell::new(),
            }),
            known: Known::default(),
        })
    }

    /// Asks, and returns when the provider has begun to answer with success. Dropping the future or the stream closes the
    /// connection.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have.
    pub async fn chat(&self, request: ChatRequest) -> Result<ChatStream, LlmError> {
        let endpoint = &self.line.endpoint;
        let started = Instant::now();
        let deadline = self.line.deadline(started);
        let habits = Habits {
            limit: if endpoint.new_token_limit {
                TokenLimit::OpenAi
            } else {
                TokenLimit::Compatible
            },
            context: self.context(&request.model, deadline).await?,
        };
        let body = wire::question(endpoint.kind, &request, habits).map_err(|error| {
            LlmError::Malformed {
                what: format!("our own request: {error}"),
            }
        })?;
        let url = endpoint.chat(&request.model, request.stream);
        let response = self
            .line
            .send(Method::POST, &url, Some(body), deadline)
            .await?;
        let decoder = self.line.decoder(&response)?;
        Ok(ChatStream::new(
            response,
            decoder,
            started,
            endpoint.timeouts,
        ))
    }

    /// How many tokens an Ollama shall keep room for: what the maker of the model set, else what it was trained for, within
    /// [`MAX_CONTEXT`]. Other providers need not be told.
    pub(crate) async fn context(
        &self,
        model: &str,
        deadline: Deadline,
    ) -> Result<Option<u64>, LlmError> {
        let about = match self.about(model, deadline).await {
            Ok(Some(about)) => about,
            Err(error @ LlmError::TimedOut { .. }) => return Err(error),
            // What is wrong, the question itself will show; a server that only knows how to chat is no fault.
            Ok(None) | Err(_) => return Ok(None),
        };
        Ok(room(&about))
    }

    /// How many tokens of question and answer together it keeps room for, where it says so within this time.
    pub async fn window(&self, model: &str, limit: Duration) -> Option<u64> {
        let deadline = Deadline::new(Instant::now(), limit, Level::FirstToken);
        self.context(model, deadline).await.ok().flatten()
    }

    /// Which dialect it speaks.
    #[must_use]
    pub fn kind(&self) -> ProviderKind {
        self.line.endpoint.kind
    }

    /// Where an Ollama does this with the models that it holds.
    pub(crate) fn held_at(&self, what: &str) -> Option<Url> {
        // It stands beside what is shown of a model, whatever is before both.
        self.line.endpoint.show.as_ref()?.join(what).ok()
    }

    /// Whether the provider can be used now. A provider that is loading its model is up.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have, and never [`LlmError::Loading`].
    pub async fn check(&self) -> Result<Health, LlmError> {
        let endpoint = &self.line.endpoint;
        match self.line.get(&endpoint.health).await {
            Ok(body) => wire::is_healthy(endpoint.kind, &body).map(|()| Health::Ready),
            Err(LlmError::Loading { .. }) => Ok(Health::Loading),
            Err(error) => Err(error),
        }
    }
}

/// How many tokens an Ollama is told to keep room for, of a model of which it tells this.
pub(crate) fn room(about: &About) -> Option<u64> {
    let trained = about.trained.map(|trained| trained.min(MAX_CONTEXT));
    about.set.or(trained)
}

impl Line {
    pub(crate) async fn get(&self, url: &Url) -> Result<Vec<u8>, LlmError> {
        let deadline = self.deadline(Instant::now());
        let response = self.send(Method::GET, url, None, deadline).await?;
        body(response, LIST_LIMIT, deadline).await
    }

    pub(crate) fn deadline(&self, started: Instant) -> Deadline {
        let timeouts = &self.endpoint.timeouts;
        Deadline::new(started, timeouts.first_token, Level::FirstToken).or(Deadline::new(
            started,
            timeouts.total,
            Level::Total,
        ))
    }

    /// Sends a request and returns the response if its status says success.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        body: Option<Vec<u8>>,
        deadline: Deadline,
    ) -> Result<Response, LlmError> {
        let client = self
            .client
            .get_or_try_init(|| client(&self.endpoint))
            .await?;
        let mut request = Request::new(method, url.clone());
        if let Some(body) = body {
            request.headers_mut().insert(
                CONTENT_TYPE,
                reqwest::header::HeaderValue::from_static("application/json"),
            );
            *request.body_mut() = Some(body.into());
        }
        let mut mask = None;
        if let Some(keys) = &self.keys {
            let key = timeout_at(deadline.at, keys.key())
                .await
                .map_err(|_| deadline.passed())?
                .map_err(|why| LlmError::Key { why })?;
            let (name, value) =
                key_header(self.endpoint.kind, &key).map_err(|error| LlmError::Key {
                    why: error.to_string(),
                })?;
            request.headers_mut().insert(name, value);
            mask = Some(Mask::new(Some(key)));
        }
        let mut response = timeout_at(deadline.at, client.execute(request))
            .await
            .map_err(|_| deadline.passed())?
            .map_err(|error| transport(error, self.endpoint.timeouts.connect))?;
        // The key lives as long as an answer that could quote it.
        if let Some(mask) = mask {
            response.extensions_mut().insert(mask);
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            status if status.is_redirection() => {
                let mask = self.mask(&response);
                Err(self.redirected(status, response.headers(), &mask))
            }
            status => Err(self.refused(status, response, deadline).await),
        }
    }

    async fn refused(
        &self,
        status: StatusCode,
        response: Response,
        deadline: Deadline,
    ) -> LlmError {
        let text = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let mask = self.mask(&response);
        let hints = Hints {
            retry_after_ms: text("retry-after-ms"),
            retry_after: text(RETRY_AFTER.as_str()),
            date: text(DATE.as_str()),
            resets: RESETS.map(|(remaining, reset)| (text(remaining), text(reset))),
            should_retry: text("x-should-retry"),
        };
        let wish = hints.wish(Timestamp::now());
        // The status is the fact; a body that breaks off only explains less of it.
        let body = read(response, ERROR_LIMIT, deadline).await.0;
        wire::judge(Some(status.as_u16()), &body, wish, &mask)
    }

    /// What takes the key out of this answer.
    pub(crate) fn mask(&self, response: &Response) -> Mask {
        let of_it = response.extensions().get::<Mask>();
        of_it.unwrap_or(&self.endpoint.mask).clone()
    }

    /// A redirect would send the prompt and the key to a place that nobody configured.
    fn redirected(&self, status: StatusCode, headers: &HeaderMap, mask: &Mask) -> LlmError {
        let target = headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| self.endpoint.place().join(text).ok());
        let origin = target.map_or_else(
            || "nowhere".to_owned(),
            |url| url.origin().ascii_serialization(),
        );
        let origin = mask.clean(&origin);
        LlmError::Malformed {
            what: format!(
                "it redirects to {origin} ({}), and redirects are not followed",
                status.as_u16()
            ),
        }
    }

    /// Servers exist that say success and send an error or a whole answer where a stream was asked for, and the type of the
    /// content tells; others send a web page.
    fn decoder(&self, response: &Response) -> Result<Decoder, LlmError> {
        let (kind, mask) = (self.endpoint.kind, self.mask(response));
        let content = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match (content.as_str(), kind) {
            ("text/html", _) => Err(LlmError::Malformed {
                what: "a web page instead of an answer".to_owned(),
            }),
            // A whole answer is one line of its stream there.
            (_, ProviderKind::Ollama) => Ok(Decoder::new(kind, mask)),
            ("application/json", _) => Ok(Decoder::whole(kind, mask)),
            _ => Ok(Decoder::new(kind, mask)),
        }
    }
}

/// Loading the certificate authorities reads some 150 files, hence not on a thread that serves others.
async fn client(endpoint: &Endpoint) -> Result<Client, LlmError> {
    let mut headers = HeaderMap::new();
    headers.insert(
        ACCEPT,
        reqwest::header::HeaderValue::from_static(
            "application/json, text/event-stream, application/x-ndjson",
        ),
    );
    headers.extend(endpoint.headers.clone());
    let (connect, tls) = (endpoint.timeouts.connect, endpoint.tls);
    let build = move || {
        // reqwest asks for a process-wide provider of cryptography; whoever installed one before has the same purpose.
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        let loopback = [
            (Ipv4Addr::LOCALHOST, 0).into(),
            (Ipv6Addr::LOCALHOST, 0).into(),
        ];
        let builder = Client::builder()
            .user_agent(concat!("pawd/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(connect)
            .redirect(redirect::Policy::none())
            .referer(false)
            // The environment must not be able to send prompts and keys elsewhere.
            .no_proxy()
            // The name that counts as this host is never left to DNS.
            .resolve_to_addrs("localhost", &loopback)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            // Without it a small question on a kept connection waits some 40 ms for an acknowledgement.
            .tcp_nodelay(true);
        if tls {
            builder.https_only(true)
        } else {
            builder.tls_certs_only([])
        }
        .build()
    };
    let failed = |source: crate::Cause| LlmError::Transport {
        step: Step::Tls,
        source,
    };
    tokio::task::spawn_blocking(build)
        .await
        .map_err(|error| failed(Box::new(error)))?
        .map_err(|error| failed(Box::new(error)))
}

/// Reads a body that must be whole and within its limit.
pub(crate) async fn body(
    response: Response,
    limit: usize,
    deadline: Deadline,
) -> Result<Vec<u8>, LlmError> {
    let (body, end) = read(response, limit, deadline).await;
    end.map(|()| body)
}

/// Reads a body as far as it comes, and says how it ended.
async fn read(
    mut response: Response,
    limit: usize,
    deadline: Deadline,
) -> (Vec<u8>, Result<(), LlmError>) {
    let mut body = Vec::new();
    let end = loop {
        match timeout_at(deadline.at, response.chunk()).await {
            Err(_) => break Err(deadline.passed()),
            Ok(Err(error)) => {
                break Err(LlmError::Transport {
                    step: Step::Read,
                    source: Box::new(error.without_url()),
                });
            }
            Ok(Ok(None)) => break Ok(()),
            Ok(Ok(Some(bytes))) => {
                let room = limit - body.len();
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                if bytes.len() > room {
                    break Err(LlmError::TooLarge {
                        what: "the provider's answer",
                    });
                }
            }
        }
    };
    (body, end)
}

/// Names the step at which the network failed. The URL is taken out: our callers know it, and logs need not.
fn transport(error: reqwest::Error, connect: Duration) -> LlmError {
    if error.is_connect() && error.is_timeout() {
        return LlmError::TimedOut {
            level: Level::Connect,
            after: connect,
        };
    }
    let step = if error.is_dns() {
        Step::Resolve
    } else if is_tls(&error) {
        Step::Tls
    } else if error.is_connect() {
        Step::Connect
    } else {
        Step::Read
    };
    LlmError::Transport {
        step,
        source: Box::new(error.without_url()),
    }
}

/// Whether rustls is somewhere among the causes; it hides inside I/O errors, whose `source` skips it.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref());
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner)) {
            return true;
        }
        next = error.source();
    }
    false
}
