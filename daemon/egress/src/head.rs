//! The head of a request, checked byte by byte before any parser interprets it.
//!
//! Two programs that read one request differently are how requests are smuggled. What could be read in two ways is refused
//! here: line ends that are not CRLF, folded headers, blanks before a colon, two lengths, a length beside an encoding. One
//! connection carries one request, so nothing that follows it is ever taken for another one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

/// The longest head, in bytes.
pub const MAX_HEAD: usize = 32 * 1024;

/// The most headers of one request.
pub const MAX_HEADERS: usize = 100;

/// How long a head may take from its connection on: who sends a byte a minute holds a place for nothing.
const HEAD_LIMIT: Duration = Duration::from_secs(15);

/// A head that can be read in one way only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: String,
    /// The target as it stands in the request line.
    pub target: String,
    /// Every `Host` header; at most one.
    pub host: Option<String>,
    /// Bytes of the head, with the empty line.
    pub length: usize,
}

/// Why there is no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The connection ended, or failed, before anything could be said to it.
    #[error("the connection ended before its request did")]
    Gone,
    /// It took too long.
    #[error("the request's head did not come within {} s", HEAD_LIMIT.as_secs())]
    Slow,
    /// It is too long.
    #[error("the request's head has more than {MAX_HEAD} bytes")]
    TooLong,
    /// It could be read in more than one way, or in none.
    #[error("{0}")]
    Ambiguous(&'static str),
}

/// Reads a head, and gives all bytes that were read: the head, and what came with it.
///
/// # Errors
/// When there is none that can be used.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<(Head, Bytes), HeadError> {
    let mut bytes = BytesMut::with_capacity(2048);
    let whole = async {
        loop {
            if let Some(at) = end_of_head(&bytes) {
                return Ok(at);
            }
            if bytes.len() >= MAX_HEAD {
                return Err(HeadError::TooLong);
            }
            match from.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return Err(HeadError::Gone),
                Ok(_) => {}
            }
        }
    };
    let end = timeout(HEAD_LIMIT, whole)
        .await
        .map_err(|_| HeadError::Slow)??;
    if end > MAX_HEAD {
        return Err(HeadError::TooLong);
    }
    let head = check(&bytes[..end]).map_err(HeadError::Ambiguous)?;
    Ok((head, bytes.freeze()))
}

/// Where the head ends: behind its empty line, whatever line ends it has, so that a wrong one is refused and not waited for.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut empty = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if empty => return Some(at + 1),
            b'\n' => empty = true,
            b'\r' => {}
            _ => empty = false,
        }
    }
    None
}

/// Checks a whole head.
///
/// # Errors
/// What makes it readable in more than one way, or in none.
pub fn check(head: &[u8]) -> Result<Head, &'static str> {
    let text = head
        .strip_suffix(b"\r\n\r\n")
        .ok_or("the head does not end with an empty line")?;
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        lines.push(line);
    }
    // The last line lost its end together with the empty line.
    let last = lines.len() - 1;
    let mut clean = Vec::with_capacity(lines.len());
    for (index, line) in lines.into_iter().enumerate() {
        let line = if index == last {
            line
        } else {
            line.strip_suffix(b"\r")
                .ok_or("a line does not end with CR and LF")?
        };
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return Err("a line holds a CR or a zero byte");
        }
        clean.push(line);
    }
    let (first, headers) = clean.split_first().ok_or("there is no request line")?;
    let (method, target) = request_line(first)?;
    if headers.len() > MAX_HEADERS {
        return Err("there are more than 100 headers");
    }
    let (mut host, mut length, mut encoding) = (None, false, false);
    for header in headers {
        let colon = header
            .iter()
            .position(|byte| *byte == b':')
            .ok_or("a header has no colon, or is folded")?;
        let (name, value) = (&header[..colon], header[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err("the name of a header has a blank or another sign that it must not have");
        }
        if value
            .iter()
            .any(|byte| *byte < 0x20 && *byte != b'\t' || *byte == 0x7f)
        {
            return Err("the value of a header has a control character");
        }
        match name.to_ascii_lowercase().as_slice() {
            b"host" if host.is_some() => return Err("there are two Host headers"),
            b"host" => {
                let value =
                    std::str::from_utf8(value).map_err(|_| "the Host header is not text")?;
                host = Some(value.to_owned());
            }
            b"content-length" if length => return Err("there are two Content-Length headers"),
            b"content-length" => {
                length = true;
                if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                    return Err("Content-Length is not one number");
                }
            }
            b"transfer-encoding" if encoding => {
                return Err("there are two Transfer-Encoding headers");
            }
            b"transfer-encoding" => {
                encoding = true;
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("Transfer-Encoding is something other than chunked");
                }
            }
            _ => {}
        }
    }
    if length && encoding {
        return Err("there are both Content-Length and Transfer-Encoding");
    }
    Ok(Head {
        method,
        target,
        host,
        length: head.len(),
    })
}

fn request_line(line: &[u8]) -> Result<(String, String), &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "the request line is not ASCII")?;
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("the request line is not METHOD TARGET VERSION");
    };
    if method.is_empty()
        || method.len() > 32
        || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
    {
        return Err("the method is not a word in capitals");
    }
    if target.is_empty() || !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the target holds a sign that it must not have");
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err("only HTTP/1.1 and HTTP/1.0 are spoken here");
    }
    Ok((method.to_owned(), target.to_owned()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_head_is_read() {
        let head = check(b"GET http://a.b/c HTTP/1.1\r\nHost: a.b\r\nX: y\r\n\r\n").unwrap();
        assert_eq!(
            (head.method.as_str(), head.target.as_str()),
            ("GET", "http://a.b/c")
        );
        assert_eq!(head.host.as_deref(), Some("a.b"));
        assert_eq!(check(b"GET / HTTP/1.0\r\n\r\n").unwrap().host, None);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for head in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\n\tHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nHOST: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding\x0b: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nX: a\0b\r\n\r\n",
            "POST / HTTP/1.1\r\nX: a\x01b\r\n\r\n",
            "POST / HTTP/1.1\r\n: x\r\n\r\n",
            "POST / HTTP/1.1\r\nNoColon\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET\t/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/0.9\r\n\r\n",
            "get / HTTP/1.1\r\n\r\n",
            "GET /\x7f HTTP/1.1\r\n\r\n",
            "GET /ä HTTP/1.1\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "",
        ] {
            assert!(check(head.as_bytes()).is_err(), "{head:?}");
        }
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "A: b\r\n".repeat(MAX_HEADERS + 1)
        );
        assert!(check(many.as_bytes()).is_err());
    }

    #[tokio::test]
    async fn an_endless_head_is_refused_at_its_bound() {
        let mut endless = tokio::io::repeat(b'a');
        assert_eq!(read(&mut endless).await.unwrap_err(), HeadError::TooLong);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_not_waited_for() {
        let (mut to, mut from) = tokio::io::duplex(64);
        let slow = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let mut second = tokio::time::interval(Duration::from_secs(1));
            while to.write_all(b"x").await.is_ok() {
                second.tick().await;
            }
        });
        assert_eq!(read(&mut from).await.unwrap_err(), HeadError::Slow);
        slow.abort();
    }
}
