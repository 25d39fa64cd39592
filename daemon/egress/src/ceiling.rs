//! What may be reached at most: `egress.toml`, which is root's. pawd's rules for a run are checked against it and never go beyond.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use http::HeaderName;
use ipnet::IpNet;
use paw_api::egress::{HostName, HostPattern, MAX_SECRET, NetRule};
use paw_confine::sys::Locked;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;
use url::Url;

use crate::{
    inject::{Injected, Template},
    witness::{Sink, SinkFile},
};

/// `egress.toml` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default = "web")]
    ports: Vec<u16>,
    #[serde(default)]
    allow_addresses: Vec<IpNet>,
    #[serde(default)]
    addresses: BTreeMap<HostName, Vec<IpAddr>>,
    #[serde(default = "default_sent")]
    max_sent: u64,
    #[serde(default = "default_received")]
    max_received: u64,
    #[serde(default = "default_requests")]
    max_requests: u64,
    /// Who may vouch for servers that are reached with `https://`, beside those that this host trusts.
    ca: Option<PathBuf>,
    #[serde(default)]
    broker: BTreeMap<String, BrokerFile>,
    /// Where signed checkpoints of the audit log go; nowhere without it.
    witness: Option<SinkFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrokerFile {
    url: Url,
    secret: Option<String>,
    credential: Option<String>,
    #[serde(default = "authorization")]
    header: String,
    #[serde(default = "bearer")]
    value: String,
    ca: Option<PathBuf>,
}

fn web() -> Vec<u16> {
    vec![80, 443]
}

fn default_sent() -> u64 {
    64 << 20
}

fn default_received() -> u64 {
    1 << 30
}

fn default_requests() -> u64 {
    10_000
}

fn authorization() -> String {
    "authorization".into()
}

fn bearer() -> String {
    "Bearer {}".into()
}

/// What may be reached at most.
#[derive(Debug)]
pub struct Ceiling {
    hosts: Hosts,
    ports: Vec<u16>,
    /// Ranges that are reached although they are not public.
    pub allow_addresses: Vec<IpNet>,
    /// Names that are not asked for, because their addresses are known.
    pub addresses: BTreeMap<HostName, Vec<IpAddr>>,
    /// Bytes that one rule of one run may send at most.
    pub max_sent: u64,
    /// Bytes that one rule of one run may receive at most.
    pub max_received: u64,
    /// Requests that one rule of one run may make at most.
    pub max_requests: u64,
    /// Who may vouch for servers, beside whom this host trusts.
    pub ca: Vec<CertificateDer<'static>>,
    /// Endpoints with a credential, by name.
    pub brokers: BTreeMap<String, Broker>,
    /// Where signed checkpoints of the audit log go. No sandbox reaches it by this.
    pub witness: Option<Sink>,
}

#[derive(Debug)]
enum Hosts {
    Any,
    Only(Vec<HostPattern>),
}

/// An endpoint that is reached as `http://broker/NAME/…`, with a credential that the sandbox never sees.
#[derive(Debug)]
pub struct Broker {
    /// Its host.
    pub host: HostName,
    /// Its port.
    pub port: u16,
    /// What stands before every path; ends with `/`.
    pub base: String,
    /// Which header carries the credential.
    pub header: HeaderName,
    /// Name of the secret or of the credential, for records.
    pub secret: String,
    /// Where its value comes from.
    pub credential: Credential,
    /// Who may vouch for the endpoint, in place of whom this host trusts.
    pub ca: Vec<CertificateDer<'static>>,
}

/// Where the value of a broker's credential comes from.
#[derive(Debug)]
pub enum Credential {
    /// A file that root keeps; it was read at the start.
    File(Injected),
    /// The vault: pawd hands it over for each request, and here it stands then.
    Vault(Template),
}

/// Why the ceiling cannot be used. paw-egress does not start.
#[derive(Debug, thiserror::Error)]
pub enum CeilingError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Whoever may write this file decides what sandboxes may reach.
    #[error(
        "{path} belongs to user {uid} with mode {mode:o}; make it root's: chown root:root, chmod 644"
    )]
    NotRoots {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// A credential that others may read is none.
    #[error("{path} may be read by others (mode {mode:o}); run: chmod 0400 {path}")]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not TOML, or has a key that we do not know.
    #[error("understand {path}")]
    Toml {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{path}: {what}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what is expected.
        what: String,
    },
}

impl Ceiling {
    /// Reads and checks the file and the credentials that it names. Without the file nothing is allowed.
    ///
    /// # Errors
    /// When anything in it cannot be meant, is not root's, or a credential is not there.
    pub fn read(path: &Path, credentials: &Path) -> Result<Self, CeilingError> {
        let read = |source| CeilingError::Read {
            path: path.to_owned(),
            source,
        };
        let text = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(read(error)),
            Ok(found) if !found.is_file() || found.uid() != 0 || found.mode() & 0o022 != 0 => {
                return Err(CeilingError::NotRoots {
                    path: path.to_owned(),
                    uid: found.uid(),
                    mode: found.mode() & 0o7777,
                });
            }
            Ok(_) => fs::read_to_string(path).map_err(read)?,
        };
        Self::parse(&text, path, credentials)
    }

    /// Checks what a file says, whosever it is; `path` is for messages.
    ///
    /// # Errors
    /// When anything in it cannot be meant, or a credential is not there.
    pub fn parse(text: &str, path: &Path, credentials: &Path) -> Result<Self, CeilingError> {
        let file: File = toml::from_str(text).map_err(|source| CeilingError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Self::check(file, path, credentials)
    }

    fn check(file: File, path: &Path, credentials: &Path) -> Result<Self, CeilingError> {
        let value = |what: String| CeilingError::Value {
            path: path.to_owned(),
            what,
        };
        let hosts = if file.hosts == ["*"] {
            Hosts::Any
        } else {
            let parsed: Result<_, _> = file
                .hosts
                .iter()
                .map(|text| {
                    let host = text.parse::<HostPattern>();
                    host.map_err(|why| value(format!("hosts: {text:?}: {why}")))
                })
                .collect();
            Hosts::Only(parsed?)
        };
        if file.ports.contains(&0) || file.ports.len() > 256 {
            return Err(value(
                "ports are from 1 to 65535, at most 256 of them".into(),
            ));
        }
        let mut brokers = BTreeMap::new();
        for (name, broker) in file.broker {
            let checked = Broker::check(broker, credentials, &|what| {
                value(format!("[broker.{name}] {what}"))
            })?;
            if NetRule::of_broker(&name).to_string().parse() != Ok(NetRule::of_broker(&name)) {
                return Err(value(format!("{name:?} is no name of a broker")));
            }
            brokers.insert(name, checked);
        }
        Ok(Self {
            hosts,
            ports: file.ports,
            allow_addresses: file.allow_addresses,
            addresses: file.addresses,
            max_sent: file.max_sent,
            max_received: file.max_received,
            max_requests: file.max_requests,
            ca: certificates(file.ca.as_deref(), &value)?,
            brokers,
            witness: file
                .witness
                .map(|witness| {
                    Sink::check(witness, credentials, &|what| {
                        value(format!("[witness] {what}"))
                    })
                })
                .transpose()?,
        })
    }

    /// What about a rule is beyond the ceiling; nothing when it may be given to a run.
    #[must_use]
    pub fn objection(&self, rule: &NetRule) -> Option<String> {
        if let HostPattern::Exact(host) = &rule.host
            && host.is_broker()
        {
            let name = broker_of(rule.path.as_deref().unwrap_or_default());
            return match name {
                Some((name, _)) if self.brokers.contains_key(name) => None,
                _ => Some(format!("{rule}: there is no such [broker.NAME]")),
            };
        }
        let host_ok = match &self.hosts {
            Hosts::Any => true,
            Hosts::Only(hosts) => hosts.iter().any(|host| host.covers(&rule.host)),
        };
        if !host_ok {
            Some(format!("{rule}: the host is not in `hosts`"))
        } else if !self.ports.contains(&rule.port) {
            Some(format!("{rule}: port {} is not in `ports`", rule.port))
        } else {
            None
        }
    }

    /// Every port that may have to be connected to, for the kernel to hold.
    #[must_use]
    pub fn all_ports(&self) -> Vec<u16> {
        let mut ports = self.ports.clone();
        ports.extend(self.brokers.values().map(|broker| broker.port));
        ports.extend(self.witness.as_ref().map(|sink| sink.port));
        // Answers of name servers that do not fit into a datagram.
        ports.push(53);
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

impl Broker {
    fn check(
        file: BrokerFile,
        credentials: &Path,
        value: &dyn Fn(String) -> CeilingError,
    ) -> Result<Self, CeilingError> {
        let BrokerFile {
            url,
            secret,
            credential,
            header,
            value: template,
            ca,
        } = file;
        let plain = url.scheme() == "https"
            && url.port() != Some(0)
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let host = url
            .host_str()
            .and_then(|host| host.parse::<HostName>().ok());
        let (Some(host), true) = (host, plain) else {
            return Err(value(
                "url: write https://HOST[:PORT]/PATH, with a name for the host, without user and query".into(),
            ));
        };
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| value(format!("header: {header:?} is no name of a header")))?;
        if [
            http::header::HOST,
            http::header::CONTENT_LENGTH,
            http::header::TRANSFER_ENCODING,
            http::header::CONNECTION,
        ]
        .contains(&header)
        {
            return Err(value(format!("header: {header} has another meaning")));
        }
        let template = Template::parse(&template).ok_or_else(|| {
            value(
                "value: write {} where the credential belongs, once, and only what a header can carry".into(),
            )
        })?;
        let (secret, credential) = match (secret, credential) {
            (Some(secret), None) if is_secret(&secret) => (secret, Credential::Vault(template)),
            (Some(secret), None) => {
                return Err(value(format!(
                    "secret: {secret:?} is no name of a secret of the vault"
                )));
            }
            (None, Some(credential)) => {
                if credential.parse::<HostName>().is_err() {
                    return Err(value(format!(
                        "credential: {credential:?} is no name of a file"
                    )));
                }
                let secret = read_credential(&credentials.join(&credential))?;
                let injected = template
                    .fill(&secret)
                    .map_err(|why| value(format!("credential {credential} {why}")))?;
                (credential, Credential::File(injected))
            }
            (Some(_), Some(_)) | (None, None) => {
                return Err(value(
                    "name a secret of the vault as secret, or a file as credential: one of them"
                        .into(),
                ));
            }
        };
        let ca = certificates(ca.as_deref(), value)?;
        let mut base = url.path().to_owned();
        if !base.ends_with('/') {
            base.push('/');
        }
        Ok(Self {
            host,
            port: url.port_or_known_default().unwrap_or(443),
            base,
            header,
            secret,
            credential,
            ca,
        })
    }
}

/// The certificates of a file; none without one.
pub(crate) fn certificates(
    path: Option<&Path>,
    value: &dyn Fn(String) -> CeilingError,
) -> Result<Vec<CertificateDer<'static>>, CeilingError> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| value(format!("ca: read {}: {error}", path.display())))
}

/// The name in a broker's path, and what follows its slash.
#[must_use]
pub fn broker_of(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

/// Whether that can name a secret of the vault, and one version of it where it does.
fn is_secret(text: &str) -> bool {
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = name.bytes().next();
    name.len() <= 64
        && name.bytes().all(inner)
        && begins.is_some_and(|byte| byte.is_ascii_alphanumeric())
        && version.is_none_or(|version| version.parse::<u64>().is_ok_and(|number| number > 0))
}

/// A credential from its file, without the line end; in memory of its own.
pub(crate) fn read_credential(path: &Path) -> Result<Locked, CeilingError> {
    use io::Read as _;
    let read = |source| CeilingError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = fs::File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(CeilingError::Readable {
            path: path.to_owned(),
            mode: mode & 0o7777,
        });
    }
    // One byte more than it may have, and its line end: what is longer is seen to be.
    let mut bytes = Locked::zeroed(MAX_SECRET + 3).map_err(read)?;
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]).map_err(read)? {
            0 => break,
            more => length += more,
        }
    }
    let text = bytes[..length].trim_ascii();
    let mut credential = Locked::zeroed(text.len()).map_err(read)?;
    credential.copy_from_slice(text);
    Ok(credential)
}
