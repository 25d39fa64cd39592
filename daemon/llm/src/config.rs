//! What a provider is told, and the check that makes an [`Endpoint`] of it, which cannot be wrong.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use crate::said::Mask;

/// Whoever keeps a key and gives it out at the moment of each use; it is forgotten after it.
pub trait KeySource: Send + Sync {
    /// The key for one request, or why it cannot be had.
    fn key(&self) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + '_>>;
}

/// What the daemon's configuration says about one provider.
pub struct ProviderConfig {
    /// Which dialect it speaks.
    pub kind: ProviderKind,
    /// Where it is. Without a path the dialect's own is meant: `/v1`, for Gemini `/v1beta`; any other path is taken as it stands.
    pub base_url: Url,
    /// The key, sent in the one header that the dialect has for it.
    pub api_key: Option<SecretString>,
    /// How long it may take; every limit is longer than zero and at most a day.
    pub timeouts: Timeouts,
    /// Lets `http://` go to a host other than this one. Whoever sits between then reads prompts, answers and the key.
    pub allow_plaintext: bool,
}

impl fmt::Debug for ProviderConfig {
    /// Leaves out everything of the URL but its origin: people put keys into the rest, and this is not checked yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderConfig")
            .field("kind", &self.kind)
            .field("base_url", &self.base_url.origin().ascii_serialization())
            .field("api_key", &self.api_key)
            .field("timeouts", &self.timeouts)
            .field("allow_plaintext", &self.allow_plaintext)
            .finish()
    }
}

/// Which dialect a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    /// Ollama's own API: `/api/chat`, NDJSON.
    Ollama,
    /// OpenAI, and compatible endpoints under its name: `/v1/chat/completions`, server-sent events.
    OpenAi,
    /// Whatever calls itself compatible with OpenAI: the same, with the older names.
    Compatible,
    /// Anthropic: `/v1/messages`, server-sent events.
    Anthropic,
    /// Google Gemini: `:streamGenerateContent`, server-sent events.
    Gemini,
    /// Mistral: `/v1/chat/completions` with manners of its own.
    Mistral,
}

impl ProviderKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ollama,
        Self::OpenAi,
        Self::Compatible,
        Self::Anthropic,
        Self::Gemini,
        Self::Mistral,
    ];

    /// The word for it in the configuration and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
            Self::Compatible => "openai-compatible",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Mistral => "mistral",
        }
    }
}

/// How long a provider may take. Each limit ends the request with [`LlmError::TimedOut`](crate::LlmError::TimedOut).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving, connecting and TLS together.
    pub connect: Duration,
    /// From the request to the first record of the answer. Keep-alive comments do not count. Also the limit of
    /// [`Provider::models`](crate::Provider::models) and [`Provider::check`](crate::Provider::check).
    pub first_token: Duration,
    /// Between two records of the answer. Only time spent waiting counts, not time the reader takes.
    pub stall: Duration,
    /// From the request to the end of the answer.
    pub total: Duration,
}

/// Why a provider's configuration cannot be used. No text of it holds the key or more of the URL than scheme and host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Neither http nor https.
    #[error("base_url has scheme {scheme:?}; only https, and http to this host, are spoken")]
    Scheme {
        /// The scheme that was given.
        scheme: String,
    },
    /// Plain HTTP to another host, which was not allowed.
    #[error(
        "base_url sends prompts and keys to {host} unencrypted; use https, or set allow_plaintext for a network you trust"
    )]
    Plaintext {
        /// The host that was given.
        host: String,
    },
    /// A user name or password in the URL.
    #[error("base_url holds a user name or password; put the key into api_key instead")]
    Credentials,
    /// A query or fragment, which some use for keys.
    #[error(
        "base_url has a query or fragment; remove what follows `?` or `#`, and put a key into api_key"
    )]
    Query,
    /// The key cannot stand in an HTTP header.
    #[error(
        "api_key is empty or has characters that cannot stand in an HTTP header; check for line breaks or spaces around it"
    )]
    Key,
    /// A limit of zero or above [`Timeouts::LONGEST`].
    #[error("timeouts.{which} is zero or longer than a day; give the time the provider may take")]
    Timeout {
        /// The field's name.
        which: &'static str,
    },
}

/// A provider's address and manners after the check.
pub(crate) struct Endpoint {
    pub(crate) kind: ProviderKind,
    chat: Chat,
    pub(crate) models: Url,
    pub(crate) health: Url,
    /// Of Ollama only: where it tells about a model.
    pub(crate) show: Option<Url>,
    /// What goes with every request: the key, and the version of the protocol.
    pub(crate) headers: HeaderMap,
    pub(crate) mask: Mask,
    pub(crate) timeouts: Timeouts,
    /// Whether TLS is spoken at all; without it no certificate authority is loaded.
    pub(crate) tls: bool,
    /// OpenAI itself refuses the older `max_tokens` for its newer models; compatible servers often know only that.
    pub(crate) new_token_limit: bool,
}

/// Where questions go.
enum Chat {
    /// To one place, which reads the model's name in the question.
    One(Url),
    /// To a place for each model, below this one.
    PerModel(Url),
}

impl Endpoint {
    /// Where questions to this model go.
    pub(crate) fn chat(&self, model: &str, stream: bool) -> Url {
        match &self.chat {
            Chat::One(url) => url.clone(),
            Chat::PerModel(models) => {
                let mut url = models.clone();
                let verb = if stream {
                    url.set_query(Some("alt=sse"));
                    "streamGenerateContent"
                } else {
                    "generateContent"
                };
                // A name is one segment of the path, whatever is in it; the scheme has a path, so this cannot fail.
                if let Ok(mut path) = url.path_segments_mut() {
                    path.push(&format!("{model}:{verb}"));
                }
                url
            }
        }
    }

    /// Where it is, for people.
    pub(crate) fn place(&self) -> &Url {
        match &self.chat {
            Chat::One(url) | Chat::PerModel(url) => url,
        }
    }
}

impl TryFrom<ProviderConfig> for Endpoint {
    type Error = ConfigError;

    fn try_from(config: ProviderConfig) -> Result<Self, ConfigError> {
        let base = config.base_url;
        let tls = match base.scheme() {
            "https" => true,
            "http" => false,
            other => {
                return Err(ConfigError::Scheme {
                    scheme: other.to_owned(),
                });
            }
        };
        // The schemes above cannot be parsed without a host.
        let host = base.host().ok_or_else(|| ConfigError::Scheme {
            scheme: base.scheme().to_owned(),
        })?;
        if !tls && !config.allow_plaintext && !is_this_host(&host) {
            return Err(ConfigError::Plaintext {
                host: host.to_string(),
            });
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(ConfigError::Credentials);
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(ConfigError::Query);
        }
        config.timeouts.check()?;
        let version = match config.kind {
            _ if base.path() != "/" => "",
            ProviderKind::Ollama => "",
            ProviderKind::Gemini => "v1beta/",
            ProviderKind::OpenAi
            | ProviderKind::Compatible
            | ProviderKind::Anthropic
            | ProviderKind::Mistral => "v1/",
        };
        let at = |path: &str| below(&base, &format!("{version}{path}"));
        let (chat, models, health) = match config.kind {
            ProviderKind::Ollama => (Chat::One(at("api/chat")), at("api/tags"), at("api/version")),
            ProviderKind::OpenAi | ProviderKind::Compatible | ProviderKind::Mistral => (
                Chat::One(at("chat/completions")),
                at("models"),
                at("models"),
            ),
            ProviderKind::Anthropic => {
                let mut models = at("models");
                models.set_query(Some("limit=1000"));
                (Chat::One(at("messages")), models.clone(), models)
            }
            ProviderKind::Gemini => {
                let mut models = at("models");
                models.set_query(Some("pageSize=1000"));
                (Chat::PerModel(at("models")), models.clone(), models)
            }
        };
        Ok(Self {
            kind: config.kind,
            chat,
            models,
            health,
            show: (config.kind == ProviderKind::Ollama).then(|| at("api/show")),
            headers: headers(config.kind, config.api_key.as_ref())?,
            new_token_limit: base.host_str() == Some("api.openai.com"),
            mask: Mask::new(config.api_key),
            timeouts: config.timeouts,
            tls,
        })
    }
}

impl Timeouts {
    /// No limit may be longer.
    pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

    fn check(&self) -> Result<(), ConfigError> {
        let limits = [
            ("connect", self.connect),
            ("first_token", self.first_token),
            ("stall", self.stall),
            ("total", self.total),
        ];
        match limits
            .iter()
            .find(|(_, limit)| limit.is_zero() || *limit > Self::LONGEST)
        {
            Some((which, _)) => Err(ConfigError::Timeout { which }),
            None => Ok(()),
        }
    }
}

/// Loopback by address, or by the one name that the client pins to loopback without asking DNS.
fn is_this_host(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => IpAddr::V6(*address).to_canonical().is_loopback(),
    }
}

/// `base` with `path` below it, whether or not it ends in a slash.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// The header that carries a key in this dialect.
pub(crate) fn key_header(
    kind: ProviderKind,
    key: &SecretString,
) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let (name, scheme) = match kind {
        ProviderKind::Ollama
        | ProviderKind::OpenAi
        | ProviderKind::Compatible
        | ProviderKind::Mistral => (AUTHORIZATION, "Bearer "),
        ProviderKind::Anthropic => (HeaderName::from_static("x-api-key"), ""),
        ProviderKind::Gemini => (HeaderName::from_static("x-goog-api-key"), ""),
    };
    Ok((name, credential(scheme, key)?))
}

/// The headers that a dialect wants with every request.
fn headers(kind: ProviderKind, key: Option<&SecretString>) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    if kind == ProviderKind::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    if let Some(key) = key {
        let (name, value) = key_header(kind, key)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn credential(scheme: &str, key: &SecretString) -> Result<HeaderValue, ConfigError> {
    let key = key.expose_secret();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ConfigError::Key);
    }
    let text = SecretString::from(format!("{scheme}{key}"));
    let mut value = HeaderValue::from_str(text.expose_secret()).map_err(|_| ConfigError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config(kind: ProviderKind, url: &str) -> ProviderConfig {
        let timeouts = Timeouts {
            connect: SECOND,
            first_token: SECOND,
            stall: SECOND,
            total: SECOND,
        };
        ProviderConfig {
            kind,
            base_url: url.parse().expect("a URL"),
            api_key: None,
            timeouts,
            allow_plaintext: false,
        }
    }

    fn refusal(config: ProviderConfig) -> Option<ConfigError> {
        Endpoint::try_from(config).err()
    }

    #[test]
    fn plaintext_goes_to_this_host_only() {
        for url in [
            "http://127.0.0.1:11434",
            "http://127.8.8.8",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]/",
            "http://LOCALHOST:1/",
        ] {
            assert_eq!(refusal(config(ProviderKind::Ollama, url)), None, "{url}");
        }
        for (url, host) in [
            ("http://10.0.0.1", "10.0.0.1"),
            ("http://example.org/v1", "example.org"),
            ("http://localhost.example.org", "localhost.example.org"),
            ("http://evil.localhost", "evil.localhost"),
            ("http://0.0.0.0", "0.0.0.0"),
            ("http://[fe80::1]", "[fe80::1]"),
        ] {
            let expected = ConfigError::Plaintext {
                host: host.to_owned(),
            };
            assert_eq!(
                refusal(config(ProviderKind::OpenAi, url)),
                Some(expected),
                "{url}"
            );
        }
    }

    #[test]
    fn plaintext_elsewhere_needs_its_own_word() {
        let allowed = ProviderConfig {
            allow_plaintext: true,
            ..config(ProviderKind::OpenAi, "http://10.0.0.1")
        };
        assert_eq!(refusal(allowed), None);
    }

    #[test]
    fn urls_that_hide_something_are_refused() {
        let check = |url: &str, expected: ConfigError| {
            assert_eq!(
                refusal(config(ProviderKind::OpenAi, url)),
                Some(expected),
                "{url}"
            );
        };
        check(
            "ftp://example.org",
            ConfigError::Scheme {
                scheme: "ftp".to_owned(),
            },
        );
        check(
            "file:///etc/shadow",
            ConfigError::Scheme {
                scheme: "file".to_owned(),
            },
        );
        check("https://sk-key@example.org", ConfigError::Credentials);
        check("https://:sk-key@example.org", ConfigError::Credentials);
        check("https://example.org/v1?key=sk-key", ConfigError::Query);
        check(
            "https://x.openai.azure.com/openai/deployments/d?api-version=1",
            ConfigError::Query,
        );
        check("https://example.org/v1#sk-key", ConfigError::Query);
    }

    #[test]
    fn bare_host_means_the_dialects_path_and_any_other_path_stays() {
        let at = |kind, url, stream| {
            Endpoint::try_from(config(kind, url))
                .expect("a good configuration")
                .chat("m/1?x", stream)
                .to_string()
        };
        let chat = |kind, url| at(kind, url, true);
        let open = ProviderKind::OpenAi;
        assert_eq!(
            chat(open, "https://api.openai.com"),
            "https://api.openai.com/v1/chat/completions"
        );
        assert_eq!(
            chat(open, "https://api.openai.com/v1/"),
            "https://api.openai.com/v1/chat/completions"
        );
        assert_eq!(
            chat(open, "https://h/openai/v4"),
            "https://h/openai/v4/chat/completions"
        );
        assert_eq!(
            chat(ProviderKind::Ollama, "http://127.0.0.1:11434"),
            "http://127.0.0.1:11434/api/chat"
        );
        assert_eq!(
            chat(ProviderKind::Ollama, "https://h/ollama/"),
            "https://h/ollama/api/chat"
        );
        for kind in [ProviderKind::Compatible, ProviderKind::Mistral] {
            assert_eq!(chat(kind, "https://h"), "https://h/v1/chat/completions");
        }
        assert_eq!(
            chat(ProviderKind::Anthropic, "https://h"),
            "https://h/v1/messages"
        );
        assert_eq!(
            chat(ProviderKind::Gemini, "https://h"),
            "https://h/v1beta/models/m%2F1%3Fx:streamGenerateContent?alt=sse"
        );
        assert_eq!(
            at(ProviderKind::Gemini, "https://h", false),
            "https://h/v1beta/models/m%2F1%3Fx:generateContent"
        );
        // As Azure's place is written, which reads the name of a deployment where others read that of a model.
        assert_eq!(
            chat(
                ProviderKind::Compatible,
                "https://x.openai.azure.com/openai/v1"
            ),
            "https://x.openai.azure.com/openai/v1/chat/completions"
        );
    }

    #[test]
    fn key_that_breaks_the_header_is_refused() {
        for key in ["", "sk\nX-Evil: 1", "sk ", "schlüssel"] {
            let keyed = ProviderConfig {
                api_key: Some(key.into()),
                ..config(ProviderKind::OpenAi, "https://h")
            };
            assert_eq!(refusal(keyed), Some(ConfigError::Key), "{key:?}");
        }
    }

    #[test]
    fn timeout_out_of_bounds_is_named() {
        for limit in [Duration::ZERO, Duration::MAX] {
            let mut config = config(ProviderKind::OpenAi, "https://h");
            config.timeouts.stall = limit;
            assert_eq!(
                refusal(config),
                Some(ConfigError::Timeout { which: "stall" }),
                "{limit:?}"
            );
        }
    }

    #[test]
    fn debug_of_a_configuration_holds_no_secret() {
        let keyed = ProviderConfig {
            api_key: Some("sk-secret".into()),
            ..config(ProviderKind::OpenAi, "https://u:sk-secret@h/sk-secret")
        };
        let shown = format!("{keyed:?}");
        assert!(
            shown.contains("https://h") && !shown.contains("sk-secret"),
            "{shown}"
        );
    }
}
