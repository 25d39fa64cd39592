//! What a sandbox may reach: host, port, and as far as it can be seen, method and path.
//!
//! ```text
//!  HOST:PORT[,method=GET+HEAD][,path=/v1/][,sent=1M][,received=10M][,requests=100]
//!  broker/NAME[,…]
//! ```
//! `HOST` is a name, or `*.NAME` for every name below it. An address is no name: what a rule means must not depend on who has
//! that address today.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BROKER;

/// The longest name of a host.
const MAX_NAME: usize = 253;

/// The longest path prefix of a rule.
const MAX_PATH: usize = 256;

/// A host name in its one canonical form: lower case, ASCII, no dot at the end, and nothing that anybody could read as an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct HostName(String);

/// One host, or every host below a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this one.
    Exact(HostName),
    /// Every name that ends with a dot and this one; not itself.
    Below(HostName),
}

/// One thing that may be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct NetRule {
    /// Which hosts.
    pub host: HostPattern,
    /// Which port.
    pub port: u16,
    /// Which methods, in order and once each; none for all.
    pub methods: Vec<String>,
    /// Where the path begins.
    pub path: Option<String>,
    /// Bytes that may be sent.
    pub sent: Option<u64>,
    /// Bytes that may be received.
    pub received: Option<u64>,
    /// Requests, or encrypted connections.
    pub requests: Option<u64>,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no rule for a network: {why}")]
pub struct BadRule {
    text: String,
    why: &'static str,
}

impl HostName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the name by which brokered endpoints are asked for.
    #[must_use]
    pub fn is_broker(&self) -> bool {
        self.0 == BROKER
    }

    /// Whether this name is below another one.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        self.0
            .strip_suffix(other.as_str())
            .is_some_and(|rest| rest.ends_with('.'))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for HostName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > MAX_NAME {
            return Err("a host name has 1 to 253 characters");
        }
        let label = |label: &str| {
            let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(letter)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !text.split('.').all(label) {
            return Err(
                "a host name has letters, digits, '-', '_' and dots; write other letters as xn--…",
            );
        }
        // Every way to write an IPv4 address ends in a number: decimal, octal, hexadecimal, with one to four parts.
        let last = text.rsplit('.').next().unwrap_or_default();
        let hex = last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if last.bytes().all(|b| b.is_ascii_digit()) || hex {
            return Err("an address is no host name");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl HostPattern {
    /// Whether it names this host.
    #[must_use]
    pub fn matches(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(name) => host.is_below(name),
        }
    }

    /// Whether it names every host that the other one names.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(wide), Self::Below(name)) => name == wide || name.is_below(wide),
        }
    }
}

impl FromStr for HostPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("*.").or_else(|| text.strip_prefix('.')) {
            Some(name) => name.parse().map(Self::Below),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl NetRule {
    /// A rule for everything at one host and port.
    #[must_use]
    pub const fn all_of(host: HostName, port: u16) -> Self {
        Self {
            host: HostPattern::Exact(host),
            port,
            methods: Vec::new(),
            path: None,
            sent: None,
            received: None,
            requests: None,
        }
    }

    /// The rule for one brokered endpoint.
    #[must_use]
    pub fn of_broker(name: &str) -> Self {
        Self {
            path: Some(format!("/{name}/")),
            ..Self::all_of(HostName(BROKER.to_owned()), 80)
        }
    }

    /// The name of the broker that it reaches, if it is a rule for one.
    #[must_use]
    pub fn broker(&self) -> Option<&str> {
        let HostPattern::Exact(host) = &self.host else {
            return None;
        };
        let path = self.path.as_deref().filter(|_| host.is_broker())?;
        path.split('/').nth(1).filter(|name| !name.is_empty())
    }

    /// Whether it looks into requests, which it cannot where they are encrypted.
    #[must_use]
    pub fn looks_inside(&self) -> bool {
        !self.methods.is_empty() || self.path.is_some()
    }

    /// Whether a path is where this rule says. The path has to be free of dots and encoded slashes already.
    #[must_use]
    pub fn reaches(&self, path: &str) -> bool {
        match &self.path {
            None => true,
            Some(prefix) => {
                let rest = path.strip_prefix(prefix.as_str());
                rest.is_some_and(|rest| {
                    prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')
                })
            }
        }
    }

    /// Whether everything that the other rule allows is allowed by this one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let within = |mine: Option<u64>, theirs: Option<u64>| match (mine, theirs) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs <= mine,
        };
        self.host.covers(&other.host)
            && self.port == other.port
            && (self.methods.is_empty()
                || (!other.methods.is_empty()
                    && other
                        .methods
                        .iter()
                        .all(|method| self.methods.contains(method))))
            && (self.path.is_none() || other.path.as_ref().is_some_and(|path| self.reaches(path)))
            && within(self.sent, other.sent)
            && within(self.received, other.received)
            && within(self.requests, other.requests)
    }
}

impl FromStr for NetRule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        parse(text).map_err(|why| BadRule {
            text: text.chars().take(200).collect(),
            why,
        })
    }
}

fn parse(text: &str) -> Result<NetRule, &'static str> {
    let mut parts = text.split(',');
    let target = parts.next().unwrap_or_default();
    let mut rule = match target.split_once('/') {
        Some((BROKER, name)) => {
            let name: paw_policy::Name = name
                .parse()
                .map_err(|_| "a broker has a name, as in broker/NAME")?;
            NetRule::of_broker(name.as_str())
        }
        Some(_) => return Err("write HOST:PORT, or broker/NAME; a path follows as path=/…"),
        None => {
            let (host, port) = target
                .rsplit_once(':')
                .ok_or("the port is missing; write HOST:PORT")?;
            let host: HostPattern = host.parse()?;
            if matches!(&host, HostPattern::Exact(name) if name.is_broker()) {
                return Err("write broker/NAME for an endpoint with a credential");
            }
            // No sign and no leading zero: one port has one spelling.
            let port = match port.parse::<u16>() {
                Ok(number) if number != 0 && number.to_string() == port => number,
                Ok(_) | Err(_) => return Err("a port is a number from 1 to 65535"),
            };
            NetRule {
                host,
                ..NetRule::all_of(HostName(BROKER.to_owned()), port)
            }
        }
    };
    let broker = rule.path.is_some();
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or("write KEY=VALUE after a comma")?;
        match key {
            "method" if rule.methods.is_empty() => {
                rule.methods = value.split('+').map(str::to_owned).collect();
                rule.methods.sort();
                rule.methods.dedup();
                let good = |method: &String| {
                    (1..=16).contains(&method.len())
                        && method.bytes().all(|b| b.is_ascii_uppercase())
                        && method != "CONNECT"
                };
                if !rule.methods.iter().all(good) {
                    return Err("methods are written in capitals, as in method=GET+HEAD");
                }
            }
            "path" if rule.path.is_none() || broker => {
                if !is_plain_path(value) {
                    return Err(
                        "a path begins with / and has no dots, '%' or other signs that could mean another path",
                    );
                }
                match &rule.path {
                    Some(root) if broker => {
                        rule.path = Some(format!("{root}{}", value.trim_start_matches('/')));
                    }
                    _ => rule.path = Some(value.to_owned()),
                }
            }
            "sent" if rule.sent.is_none() => rule.sent = Some(size(value)?),
            "received" if rule.received.is_none() => rule.received = Some(size(value)?),
            "requests" if rule.requests.is_none() => {
                let number = value.parse().map_err(|_| "requests is a number")?;
                rule.requests = Some(number);
            }
            "method" | "path" | "sent" | "received" | "requests" => {
                return Err("each key may stand once");
            }
            _ => return Err("keys are method, path, sent, received and requests"),
        }
    }
    Ok(rule)
}

/// A path that means the same to everybody.
fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= MAX_PATH
        && path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/-_.~!$&'()*+;:@".contains(&b))
        && !path.split('/').any(|part| part == "." || part == "..")
        && !path.contains("//")
}

fn size(text: &str) -> Result<u64, &'static str> {
    let hint = "a size is a number of bytes, or one with K, M or G";
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| hint)?;
    number.checked_mul(1 << shift).ok_or(hint)
}

impl fmt::Display for NetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broker = matches!(&self.host, HostPattern::Exact(name) if name.is_broker());
        let path = match (&self.path, broker) {
            (Some(path), true) => {
                let (name, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
                write!(f, "{BROKER}/{name}")?;
                (!rest.is_empty()).then(|| format!("/{rest}"))
            }
            (path, _) => {
                write!(f, "{}:{}", self.host, self.port)?;
                path.clone()
            }
        };
        if !self.methods.is_empty() {
            write!(f, ",method={}", self.methods.join("+"))?;
        }
        if let Some(path) = path {
            write!(f, ",path={path}")?;
        }
        for (key, value) in [
            ("sent", self.sent),
            ("received", self.received),
            ("requests", self.requests),
        ] {
            if let Some(value) = value {
                write!(f, ",{key}={value}")?;
            }
        }
        Ok(())
    }
}

impl From<NetRule> for String {
    fn from(rule: NetRule) -> Self {
        rule.to_string()
    }
}

impl<'de> Deserialize<'de> for NetRule {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for NetRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NetRule".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "HOST:PORT or broker/NAME, then ,method= ,path= ,sent= ,received= ,requests="
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_as_it_was_written() {
        let check = |text: &str, canonical: &str| {
            let rule: NetRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), canonical);
            assert_eq!(canonical.parse::<NetRule>().unwrap(), rule);
        };
        check("Example.COM.:443", "example.com:443");
        check(".example.com:443", "*.example.com:443");
        check("*.example.com:443", "*.example.com:443");
        check(
            "a.b:80,path=/v1/,method=POST+GET+GET,requests=3,sent=1K,received=2M",
            "a.b:80,method=GET+POST,path=/v1/,sent=1024,received=2097152,requests=3",
        );
        check("broker/openai", "broker/openai");
        check(
            "broker/openai,path=/v1/,method=POST",
            "broker/openai,method=POST,path=/v1/",
        );
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "example.com",
            "example.com:0",
            "example.com:65536",
            "example.com:+80",
            "example.com:080",
            ":80",
            "*:80",
            "*.:80",
            "a..b:80",
            "-a.b:80",
            "127.0.0.1:80",
            "0x7f000001:80",
            "2130706433:80",
            "0177.0.0.1:80",
            "1.0x1:80",
            "[::1]:80",
            "::1:80",
            "user@example.com:80",
            "http://example.com:80",
            "exämple.com:80",
            "example.com:80,",
            "example.com:80,x=1",
            "example.com:80,method=get",
            "example.com:80,method=CONNECT",
            "example.com:80,path=v1",
            "example.com:80,path=/a/../b",
            "example.com:80,path=/%2e",
            "example.com:80,path=/a//b",
            "example.com:80,sent=1,sent=2",
            "example.com:80,sent=-1",
            "broker/",
            "broker/a/b",
            "broker/..",
            "broker:80",
            "other/name",
        ] {
            assert!(text.parse::<NetRule>().is_err(), "{text}");
        }
        assert!(
            format!("{}.com:80", "a".repeat(300))
                .parse::<NetRule>()
                .is_err()
        );
    }

    #[test]
    fn a_wider_rule_covers_a_narrower_one_and_never_the_other_way() {
        let check = |wide: &str, narrow: &str| {
            let (wide, narrow): (NetRule, NetRule) =
                (wide.parse().unwrap(), narrow.parse().unwrap());
            assert!(wide.covers(&narrow), "{wide} covers {narrow}");
            assert!(!narrow.covers(&wide), "{narrow} covers {wide}");
        };
        check("*.example.com:443", "a.example.com:443");
        check("*.example.com:443", "*.a.example.com:443");
        check("a.b:80", "a.b:80,method=GET");
        check("a.b:80,method=GET+HEAD", "a.b:80,method=GET");
        check("a.b:80", "a.b:80,path=/v1");
        check("a.b:80,path=/v1", "a.b:80,path=/v1/x");
        check("a.b:80", "a.b:80,sent=10");
        check("a.b:80,sent=10", "a.b:80,sent=9");
        let apart = |one: &str, two: &str| {
            let (one, two): (NetRule, NetRule) = (one.parse().unwrap(), two.parse().unwrap());
            assert!(!one.covers(&two) && !two.covers(&one), "{one} and {two}");
        };
        apart("*.example.com:443", "example.com:443");
        apart("*.example.com:443", "badexample.com:443");
        apart("a.b:80", "a.b:81");
        apart("a.b:80,path=/v1", "a.b:80,path=/v10");
    }
}
