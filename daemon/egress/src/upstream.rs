//! From a name to a connection: resolved once, every address checked, and connected to an address that was checked.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use paw_api::egress::{HostName, Reason};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    address,
    ceiling::{Broker, Ceiling},
    hosts,
    names::Places,
    rules::Refusal,
};

/// How long a name may take to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take until a server is there, encryption included.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Addresses of one name that are tried.
const MAX_TRIED: usize = 4;

/// Addresses of one name that are looked at; with more it is no honest answer.
const MAX_ADDRESSES: usize = 64;

/// What a lookup becomes.
pub type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Asks for the addresses of a name.
pub type Lookup = Arc<dyn Fn(HostName) -> Looking + Send + Sync>;

/// The way out.
#[derive(Clone)]
pub struct Outside {
    lookup: Lookup,
    public: Arc<rustls::ClientConfig>,
}

/// Addresses that were checked.
#[derive(Debug, Clone)]
pub struct Checked {
    addresses: Vec<IpAddr>,
    port: u16,
    /// Those of them that the administrator opened, which may be this host's own.
    opened: Vec<IpAddr>,
}

impl Outside {
    /// A way out that resolves with `lookup` and trusts whom this host trusts.
    #[must_use]
    pub fn new(lookup: Lookup, trusted: rustls::RootCertStore) -> Self {
        Self {
            lookup,
            public: Arc::new(tls(trusted)),
        }
    }

    /// The addresses of a host, if a sandbox may reach every one of them.
    ///
    /// All of them are checked and not only the first: a name that leads inside and outside is a trick, or a mistake.
    ///
    /// # Errors
    /// When there is none, or one of them may not be reached.
    pub async fn find(
        &self,
        ceiling: &Ceiling,
        names: &Places,
        host: &HostName,
        port: u16,
    ) -> Result<Checked, Refusal> {
        let addresses = self.resolve(ceiling, names, host).await?;
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(Refusal::new(
                Reason::Name,
                "the name has no address, or too many",
            ));
        }
        let own = address::own().map_err(|error| {
            Refusal::new(
                Reason::Address,
                format!("the addresses of this host cannot be read: {error}"),
            )
        })?;
        for address in &addresses {
            if let Some(what) = address::objection(*address, &ceiling.allow_addresses, &own) {
                return Err(Refusal::new(
                    Reason::Address,
                    format!("the name leads to an address that no sandbox may reach: {what}"),
                ));
            }
        }
        let is_opened = |address: &IpAddr| address::is_in(*address, &ceiling.allow_addresses);
        let opened = addresses.iter().copied().filter(is_opened).collect();
        Ok(Checked {
            addresses,
            port,
            opened,
        })
    }

    /// The addresses of a host that root named and no sandbox can: it may be anywhere.
    ///
    /// # Errors
    /// When there is none.
    pub async fn find_named(
        &self,
        ceiling: &Ceiling,
        names: &Places,
        host: &HostName,
        port: u16,
    ) -> Result<Checked, Refusal> {
        let addresses = self.resolve(ceiling, names, host).await?;
        Ok(Checked {
            opened: addresses.clone(),
            addresses,
            port,
        })
    }

    /// The addresses of a host: those that root wrote, else those that its name has.
    async fn resolve(
        &self,
        ceiling: &Ceiling,
        names: &Places,
        host: &HostName,
    ) -> Result<Vec<IpAddr>, Refusal> {
        if let Some(known) = ceiling.addresses.get(host) {
            return Ok(known.clone());
        }
        timeout(RESOLVE_LIMIT, self.ask(names, host))
            .await
            .map_err(|_| Refusal::new(Reason::Name, "the name was not resolved in time"))?
            .ok_or_else(|| Refusal::new(Reason::Name, "the name has no address"))
    }

    /// An encrypted connection to it, whose certificate is checked.
    ///
    /// # Errors
    /// When nobody answers, or somebody else does.
    pub async fn connect_named(
        &self,
        host: &HostName,
        ca: &[CertificateDer<'static>],
        http: bool,
        checked: &Checked,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        let mut config = if ca.is_empty() {
            (*self.public).clone()
        } else {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(ca.iter().cloned());
            tls(roots)
        };
        if !http {
            config.alpn_protocols.clear();
        }
        encrypted(Arc::new(config), host, checked).await
    }

    /// The addresses of a name. Whoever gives up waiting leaves the lookup, and its place, to whatever it is waiting for.
    async fn ask(&self, names: &Places, host: &HostName) -> Option<Vec<IpAddr>> {
        let place = names.take().await?;
        let looking = (self.lookup)(host.clone());
        let asked = tokio::spawn(async move {
            let _place = place;
            looking.await
        });
        asked.await.ok()?.ok()
    }

    /// An encrypted connection to a broker's endpoint, whose certificate is checked.
    ///
    /// # Errors
    /// When nobody answers, or somebody else does.
    pub async fn connect_broker(
        &self,
        broker: &Broker,
        checked: &Checked,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        let config = if broker.ca.is_empty() {
            Arc::clone(&self.public)
        } else {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(broker.ca.iter().cloned());
            Arc::new(tls(roots))
        };
        encrypted(config, &broker.host, checked).await
    }

    /// An encrypted connection to a server whom this host trusts to have that name.
    ///
    /// # Errors
    /// When nobody answers, or somebody else does.
    pub async fn connect_secure(
        &self,
        host: &HostName,
        checked: &Checked,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        encrypted(Arc::clone(&self.public), host, checked).await
    }
}

async fn encrypted(
    config: Arc<rustls::ClientConfig>,
    host: &HostName,
    checked: &Checked,
) -> Result<TlsStream<TcpStream>, Refusal> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    let unreachable = |what: String| Refusal::new(Reason::Unreachable, what);
    let name = ServerName::try_from(host.as_str().to_owned())
        .map_err(|_| unreachable("the host has no name that a certificate can have".into()))?;
    let tcp = checked.connect().await?;
    timeout_at(deadline, TlsConnector::from(config).connect(name, tcp))
        .await
        .map_err(|_| unreachable("the endpoint did not encrypt in time".into()))?
        .map_err(|error| unreachable(format!("the endpoint cannot be trusted: {error}")))
}

impl Checked {
    /// The address that is tried first, for the record.
    #[must_use]
    pub fn first(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    /// A connection to one of the addresses; there is no further lookup.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn connect(&self) -> Result<TcpStream, Refusal> {
        let tried = async {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in self.addresses.iter().take(MAX_TRIED) {
                match TcpStream::connect(SocketAddr::new(*address, self.port)).await {
                    Ok(stream)
                        if !self.opened.contains(address) && is_within_this_host(&stream) =>
                    {
                        return Ok(None);
                    }
                    Ok(stream) => {
                        // Small pieces go out at once; without it they would only come later.
                        let _ = stream.set_nodelay(true);
                        return Ok(Some(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match timeout(CONNECT_LIMIT, tried).await {
            Ok(Ok(Some(stream))) => Ok(stream),
            Ok(Ok(None)) => Err(Refusal::new(
                Reason::Address,
                "the name leads to an address that no sandbox may reach: this host",
            )),
            Ok(Err(error)) => Err(Refusal::new(
                Reason::Unreachable,
                format!("nobody answers there: {}", error.kind()),
            )),
            Err(_) => Err(Refusal::new(
                Reason::Unreachable,
                "nobody answers there in time",
            )),
        }
    }
}

/// Whether both ends are this host's: it also answers to addresses that no interface has, where a route says so.
fn is_within_this_host(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(ours), Ok(theirs)) => ours.ip() == theirs.ip(),
        // Whose it is cannot be known.
        _ => true,
    }
}

fn tls(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // HTTP/1.1 is what is spoken here.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Asks this host's own resolver, as every program of it does; `written` is where its administrator wrote names down.
#[must_use]
pub fn system_lookup(written: &'static Path) -> Lookup {
    Arc::new(move |host: HostName| {
        Box::pin(async move {
            // The dot keeps search domains of resolv.conf out: they would turn the name into another one. A name without one of its
            // own is left as it is, and no search domain is tried when it is found in /etc/hosts.
            let name = if host.as_str().contains('.') {
                // As for the C library, a file that cannot be read has no name. One that was replaced is behind landlock's rules.
                let known = hosts::addresses(written, &host).unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot read the names of this host; restart paw-egress if its file was replaced");
                    Vec::new()
                });
                if !known.is_empty() {
                    return Ok(known);
                }
                format!("{host}.")
            } else {
                host.as_str().to_owned()
            };
            let found = tokio::net::lookup_host((name, 0)).await?;
            let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            addresses.dedup();
            Ok(addresses)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_with_a_dot_that_is_written_down_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = Box::leak(Box::new(dir.path().join("hosts")));
        std::fs::write(&file, "192.0.2.7 db.paw.invalid\n").unwrap();
        let lookup = system_lookup(file);
        let found = lookup("db.paw.invalid".parse().unwrap()).await.unwrap();
        assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    }
}
