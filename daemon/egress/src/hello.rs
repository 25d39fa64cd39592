//! What a tunnel begins with: the name that an encrypted connection asks for, which it says in the clear before anything else.
//!
//! A content network serves many hosts at one address and goes by this name: without the check, a rule for one of them would
//! reach all of them. The same holds for a request that is not encrypted, and that one has a way where it is judged itself.

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
    /// It asks for the host that was judged, or is neither TLS nor HTTP where nobody has to be.
    Good,
}

/// The first bytes that a sandbox sends, as they come. Each is looked at once, in however small pieces they come.
pub struct Opening<'a> {
    host: &'a HostName,
    /// They have to be TLS.
    must: bool,
    acceptor: Acceptor,
    line: Line,
    /// How many of them were looked at.
    seen: usize,
}

/// How far the first line of what is not encrypted has come. It is one of HTTP when after empty lines, which servers pass over,
/// come a word, a gap, and the protocol's name before the line ends. The preface of HTTP/2 looks the same.
#[derive(Default)]
enum Line {
    /// Nothing but gaps and empty lines.
    #[default]
    Before,
    Word,
    /// After the gap, with as many letters of the protocol's name at its end.
    Rest(usize),
}

/// What the last word of a request's line begins with.
const PROTOCOL: &[u8] = b"HTTP/";

impl<'a> Opening<'a> {
    /// For a connection to this host. Where `must` is set, it has to be encrypted.
    #[must_use]
    pub fn new(host: &'a HostName, must: bool) -> Self {
        Self {
            host,
            must,
            acceptor: Acceptor::default(),
            line: Line::default(),
            seen: 0,
        }
    }

    /// Looks at everything that has come so far.
    ///
    /// # Errors
    /// When it asks for another host, is no TLS where it must be, or is a request that has to take the other way.
    pub fn look(&mut self, bytes: &[u8]) -> Result<Greeting, Refusal> {
        let new = bytes.get(self.seen..).unwrap_or_default();
        self.seen = bytes.len();
        let greeting = match bytes.first() {
            None => Greeting::Unfinished,
            Some(&HANDSHAKE) => self.encrypted(new)?,
            Some(_) if self.must => {
                return refuse("port 443 is for encrypted connections, and this is none");
            }
            Some(_) => self.line.read(new)?,
        };
        if greeting == Greeting::Unfinished && bytes.len() > MAX_HELLO {
            return refuse("the greeting of the connection is too long");
        }
        Ok(greeting)
    }

    fn encrypted(&mut self, new: &[u8]) -> Result<Greeting, Refusal> {
        let mut rest = new;
        while !rest.is_empty() {
            if self.acceptor.read_tls(&mut rest).is_err() {
                return refuse("the greeting of the encrypted connection cannot be read");
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let asked = hello.server_name().map(str::parse::<HostName>);
                    return match asked {
                        Some(Ok(name)) if name == *self.host => Ok(Greeting::Good),
                        Some(_) => refuse(
                            "the encrypted connection asks for another host than CONNECT did",
                        ),
                        None => {
                            refuse("the encrypted connection does not say which host it asks for")
                        }
                    };
                }
                Err(_) => return refuse("the greeting of the encrypted connection cannot be read"),
            }
        }
        Ok(Greeting::Unfinished)
    }
}

impl Line {
    fn read(&mut self, new: &[u8]) -> Result<Greeting, Refusal> {
        for byte in new {
            *self = match self {
                Self::Before if is_gap(*byte) => Self::Before,
                Self::Before | Self::Word if is_of_a_method(*byte) => Self::Word,
                // A line of one word, or bytes of another protocol.
                Self::Before | Self::Word if !is_gap(*byte) || *byte == b'\n' => {
                    return Ok(Greeting::Good);
                }
                Self::Before | Self::Word => Self::Rest(0),
                Self::Rest(_) if matches!(byte, b'\n' | 0) => return Ok(Greeting::Good),
                Self::Rest(letters) if byte.eq_ignore_ascii_case(&PROTOCOL[*letters]) => {
                    Self::Rest(*letters + 1)
                }
                // Only its first letter begins it again: the name holds no second H.
                Self::Rest(_) => Self::Rest(usize::from(byte.eq_ignore_ascii_case(&b'H'))),
            };
            if matches!(self, Self::Rest(letters) if *letters == PROTOCOL.len()) {
                return refuse(
                    "a request that is not encrypted is judged by itself: ask the proxy for http://HOST/PATH instead of CONNECT",
                );
            }
        }
        Ok(Greeting::Unfinished)
    }
}

/// Whether servers take this byte for a gap between words; some take any that moves the cursor.
const fn is_gap(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 11
}

/// Whether a method may hold this byte ([RFC 9110, section 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2)).
const fn is_of_a_method(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

fn refuse<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::new(Reason::OtherName, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bytes: &[u8]) -> Result<Greeting, Refusal> {
        let host = "allowed.example".parse().unwrap();
        Opening::new(&host, false).look(bytes)
    }

    #[test]
    fn a_request_in_the_clear_is_found_however_it_begins() {
        let host = "allowed.example".parse().unwrap();
        for request in [
            "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n",
            "get / http/1.1\n",
            &format!("{} / HTTP/1.1\n", "M".repeat(5000)),
            "ANY-THING\t/\tHTTP/1.0\n",
            "GET\x0b/\x0bHTTP/1.1\r\n",
            "GET /\u{e9} HTTP/1.1\r\n",
            "GET http://other.example/ HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            // Before the line is over.
            "GET / HTTP/1.1",
            "GET /hhtthttp HTTP/1.1",
            "GET /hHTTP/1.1",
        ] {
            assert!(look(request.as_bytes()).is_err(), "{request:?}");
            // And in pieces of one byte.
            let mut opening = Opening::new(&host, false);
            let mut pieces =
                (1..=request.len()).map(|end| opening.look(&request.as_bytes()[..end]));
            let told = pieces.find(|told| *told != Ok(Greeting::Unfinished));
            assert!(told.is_some_and(|told| told.is_err()), "{request:?}");
        }
        assert_eq!(look(&[b'M'; 5000]), Ok(Greeting::Unfinished));
        for length in 1.."GET / HTTP/".len() - 1 {
            let part = &"GET / HTTP/"[..length];
            assert_eq!(look(part.as_bytes()), Ok(Greeting::Unfinished), "{part:?}");
        }
    }

    #[test]
    fn what_is_neither_passes_without_waiting_for_more() {
        for other in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
            b"0032git-upload-pack /project.git\0host=myserver.com\0",
            b"*1\r\n$4\r\nPING\r\n",
            b"hi\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"{\"id\": 1}",
        ] {
            assert_eq!(look(other), Ok(Greeting::Good), "{other:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let endless = [b"GET ".to_vec(), vec![b'x'; MAX_HELLO]].concat();
        assert!(look(&endless).is_err());
    }
}
