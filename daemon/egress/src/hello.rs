//! The name that an encrypted connection asks for, which it says in the clear before anything else.
//!
//! A content network serves many hosts at one address and goes by this name: without the check, a rule for one of them would
//! reach all of them.

use paw_api::egress::{HostName, Reason};
use rustls::server::Acceptor;

use crate::rules::Refusal;

/// The longest greeting, in bytes.
const MAX_HELLO: usize = 32 * 1024;

/// First byte of every encrypted connection: a TLS record that holds a handshake.
const HANDSHAKE: u8 = 22;

/// What is known of a connection's first bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// More bytes are needed.
    Unfinished,
    /// It asks for the host that was judged, or does not speak TLS where nobody has to.
    Good,
}

/// Looks at the first bytes that a sandbox sends. Where `must` is set, they have to be TLS.
///
/// # Errors
/// When they ask for another host, or are no TLS where they must be.
pub fn look(bytes: &[u8], host: &HostName, must: bool) -> Result<Greeting, Refusal> {
    let refuse = |what: &str| Err(Refusal::new(Reason::OtherName, what));
    match bytes.first() {
        None => return Ok(Greeting::Unfinished),
        Some(&HANDSHAKE) => {}
        Some(_) if must => {
            return refuse("port 443 is for encrypted connections, and this is none");
        }
        Some(_) => return Ok(Greeting::Good),
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return refuse("the greeting of the encrypted connection cannot be read");
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let asked = hello.server_name().map(str::parse::<HostName>);
                return match asked {
                    Some(Ok(name)) if name == *host => Ok(Greeting::Good),
                    Some(_) => {
                        refuse("the encrypted connection asks for another host than CONNECT did")
                    }
                    None => refuse("the encrypted connection does not say which host it asks for"),
                };
            }
            Err(_) => return refuse("the greeting of the encrypted connection cannot be read"),
        }
    }
    if bytes.len() > MAX_HELLO {
        return refuse("the greeting of the encrypted connection is too long");
    }
    Ok(Greeting::Unfinished)
}
