//! What a request asks for: host, port and path, in the one form in which they are judged and used.

use paw_api::egress::HostName;

/// The longest target of a plain request.
const MAX_TARGET: usize = 8 * 1024;

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: HostName,
    /// The port.
    pub port: u16,
    /// The path, `/` at least; empty for an encrypted connection.
    pub path: String,
    /// The query without its question mark, if there is one.
    pub query: Option<String>,
    /// Whether the proxy is asked to encrypt it (`https://`); what a tunnel carries is encrypted by who asked for it.
    pub secure: bool,
}

/// The target of `CONNECT`: `HOST:PORT`.
///
/// # Errors
/// What it is that is no such thing.
pub fn connect(text: &str) -> Result<Target, &'static str> {
    let (host, port) = authority(text, None)?;
    Ok(Target {
        host,
        port,
        path: String::new(),
        query: None,
        secure: false,
    })
}

/// The target of any other request: `http://HOST[:PORT]/PATH[?QUERY]`, or the same with `https://` for one that the proxy encrypts.
///
/// # Errors
/// What it is that is no such thing.
pub fn plain(text: &str) -> Result<Target, &'static str> {
    if text.len() > MAX_TARGET {
        return Err("the target is longer than 8 KiB");
    }
    let after = |scheme: &str| {
        let (begins, rest) = text.split_at_checked(scheme.len())?;
        begins.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let (rest, secure) = match (after("http://"), after("https://")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => {
            return Err("write http:// or https:// and a host; a tunnel is asked for with CONNECT");
        }
    };
    if rest.contains('#') {
        return Err("a target has no fragment");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, port) = authority(&rest[..end], Some(usual_port(secure)))?;
    let (path, query) = match rest[end..].split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (&rest[end..], None),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target {
        host,
        port,
        path: path.to_owned(),
        query,
        secure,
    })
}

/// The port of a target that names none.
#[must_use]
pub const fn usual_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn authority(text: &str, default: Option<u16>) -> Result<(HostName, u16), &'static str> {
    if text.contains('@') {
        return Err("a host has no user and no password");
    }
    if text.contains(['[', ']']) {
        return Err("an address is no host name");
    }
    let (host, port) = match (text.split_once(':'), default) {
        (Some((host, port)), _) => {
            // One port has one spelling: no sign, no blank, no leading zero.
            let number = port
                .parse::<u16>()
                .ok()
                .filter(|number| *number != 0 && number.to_string() == port);
            (host, number.ok_or("a port is a number from 1 to 65535")?)
        }
        (None, Some(port)) => (text, port),
        (None, None) => return Err("the port is missing"),
    };
    Ok((host.parse()?, port))
}

/// Whether a `Host` header means the same as the target.
#[must_use]
pub fn agrees(header: &str, target: &Target, default: Option<u16>) -> bool {
    let default = default.unwrap_or(usual_port(target.secure));
    authority(header, Some(default)) == Ok((target.host.clone(), target.port))
}

/// What keeps a path from meaning the same to us and to the server; nothing for one that does.
///
/// It matters where a rule names paths: a server that resolves `..`, or decodes `%2e` or `%2f` first, serves another one.
#[must_use]
pub fn objection(path: &str) -> Option<&'static str> {
    let lower = path.to_ascii_lowercase();
    if ["%2f", "%5c", "%2e", "%25", "%00", "%3b", "%23", "%3f"]
        .iter()
        .any(|code| lower.contains(code))
    {
        return Some("the path has an encoded sign that could make it another path");
    }
    if path.bytes().any(|b| {
        matches!(
            b,
            b'\\' | b';' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
    }) {
        return Some("the path has a sign that could make it another path");
    }
    if path.split('/').any(|part| part == "." || part == "..") {
        return Some("the path has a part that is a dot or two");
    }
    if path.contains("//") {
        return Some("the path has an empty part");
    }
    let encoded = lower.split('%').skip(1);
    for code in encoded {
        let two = code.as_bytes().get(..2);
        if !two.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)) {
            return Some("the path has a % that encodes nothing");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_form() {
        for text in [
            "http://a.example/x?y=1",
            "HTTP://A.EXAMPLE/x?y=1",
            "http://a.example.:80/x?y=1",
        ] {
            let target = plain(text).unwrap();
            assert_eq!(
                (target.host.as_str(), target.port, target.path.as_str()),
                ("a.example", 80, "/x"),
                "{text}"
            );
            assert_eq!(target.query.as_deref(), Some("y=1"), "{text}");
        }
        assert_eq!(plain("http://a.example").unwrap().path, "/");
        let secure = plain("HTTPS://a.example/x").unwrap();
        assert_eq!((secure.port, secure.secure), (443, true));
        assert!(agrees("a.example", &secure, None));
        assert!(!agrees("a.example:80", &secure, None));
        assert_eq!(
            connect("A.example.:443").unwrap().host.as_str(),
            "a.example"
        );
    }

    #[test]
    fn every_way_to_write_an_address_is_no_host() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "127.0.0.1.",
            "1.2.3.4.5",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "::1",
            "[fe80::1%25eth0]",
            "169.254.169.254",
            "a.example.127.0.0.1",
            "１２７.0.0.1",
        ] {
            assert!(connect(&format!("{host}:443")).is_err(), "{host}");
            assert!(plain(&format!("http://{host}/")).is_err(), "{host}");
        }
    }

    #[test]
    fn targets_that_hide_another_host_are_refused() {
        for text in [
            "http://allowed.example@evil.example/",
            "http://allowed.example:80@evil.example/",
            "http://evil.example#allowed.example",
            "http://allowed.example\\@evil.example/",
            "http:/allowed.example/",
            "http:allowed.example",
            "//allowed.example/",
            "https:/allowed.example/",
            "https://allowed.example:/",
            "https://allowed.example@evil.example/",
            "ftp://allowed.example/",
            "/",
            "*",
            "allowed.example:80",
            "http://",
            "http:///x",
            "http://allowed.example:/",
            "http://allowed.example:0/",
            "http://allowed.example:080/",
            "http://allowed.example:+80/",
            "http://allowed.example:99999/",
            "http://allowed..example/",
            "http://.allowed.example/",
            "http://allowed.example../",
            "http://allowed%2eexample/",
            "http://a lowed.example/",
            "http://ällowed.example/",
        ] {
            assert!(plain(text).is_err(), "{text}");
        }
        for text in [
            "allowed.example",
            "allowed.example:",
            "allowed.example:443:443",
            "a@allowed.example:443",
            "http://allowed.example:443",
            ":443",
            "allowed.example:443/",
        ] {
            assert!(connect(text).is_err(), "{text}");
        }
        assert!(plain(&format!("http://a.example/{}", "x".repeat(9000))).is_err());
        assert!(plain(&format!("http://{}.example/", "x".repeat(300))).is_err());
    }

    #[test]
    fn the_host_header_has_to_name_the_target() {
        let target = plain("http://a.example:8080/").unwrap();
        let check =
            |header: &str, ok: bool| assert_eq!(agrees(header, &target, None), ok, "{header}");
        check("a.example:8080", true);
        check("A.EXAMPLE.:8080", true);
        check("a.example", false);
        check("b.example:8080", false);
        check("a.example:8080,b.example", false);
        check("user@a.example:8080", false);
        check("", false);
    }

    #[test]
    fn paths_that_servers_read_differently_are_objected_to() {
        for path in [
            "/v1/../admin",
            "/v1/..",
            "/./v1",
            "/v1/%2e%2e/admin",
            "/v1/%2E%2E/admin",
            "/v1/.%2e/x",
            "/v1%2f..%2fadmin",
            "/v1/..%2fx",
            "/v1\\..\\admin",
            "/v1/%5c..",
            "/v1//admin",
            "/v1/..;/admin",
            "/v1/%252e%252e/",
            "/v1/%00",
            "/v1/%zz",
            "/v1/%2",
            "/v1/%",
        ] {
            assert!(objection(path).is_some(), "{path}");
        }
        for path in [
            "/",
            "/v1/x",
            "/v1/a%20b",
            "/v1/~user/a.b/...c",
            "/v1/a:b@c,d",
        ] {
            assert_eq!(objection(path), None, "{path}");
        }
    }
}
