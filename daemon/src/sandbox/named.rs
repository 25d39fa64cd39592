//! What a call of a tool may reach because one of its arguments names it: one host, at one port, with a few methods.
//!
//! A skill that fetches what it is told to cannot name hosts in its manifest. So the rule of such a call is made of the URL that it is
//! called with, stands in the plan that policy judges and a person approves, and is the only one that its sandbox gets for it.

use paw_api::egress::{HostName, NetRule};
use paw_policy::ToolClass;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::least::reaches;

/// The longest URL, in bytes; paw-egress takes no longer one.
const MAX_URL: usize = 8 * 1024;

/// Which argument is a URL, and what may be asked there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Url {
    /// The argument; required, and of type string.
    pub argument: String,
    /// The methods, as HTTP writes them; one at least.
    pub methods: Vec<String>,
}

/// Why a URL is none that a call can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the argument {argument:?} is no URL to reach: {why}")]
pub struct BadUrl {
    argument: String,
    why: String,
}

impl Url {
    /// What is wrong with it in a tool of this class, of which it names an argument or not.
    pub(super) fn check(&self, class: ToolClass, is_argument: bool) -> Result<(), &'static str> {
        if !reaches(class) {
            return Err("only a tool of class egress or money reaches what it is told");
        }
        if !is_argument {
            return Err("the name of a required argument of type string is expected");
        }
        let upper = |method: &String| {
            (1..=16).contains(&method.len())
                && method.bytes().all(|b| b.is_ascii_uppercase())
                && method != "CONNECT"
        };
        if self.methods.is_empty() || self.methods.len() > 8 || !self.methods.iter().all(upper) {
            return Err("1 to 8 methods are expected, in capital letters");
        }
        Ok(())
    }

    /// The rule for what these arguments name.
    ///
    /// # Errors
    /// When they name nothing that a rule can be for.
    pub fn rule(&self, arguments: &Map<String, Value>) -> Result<NetRule, BadUrl> {
        let bad = |why: &str| BadUrl {
            argument: self.argument.clone(),
            why: why.to_owned(),
        };
        let text = arguments.get(&self.argument).and_then(Value::as_str);
        let text = text.filter(|text| text.len() <= MAX_URL);
        let text = text.ok_or_else(|| bad("a text of at most 8 KiB is expected"))?;
        let url = url::Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("it begins with neither http:// nor https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it has a user or a password"));
        }
        let host = url.host_str().unwrap_or_default();
        let host: HostName = host.parse().map_err(bad)?;
        if host.is_broker() {
            return Err(bad(
                "brokers are for skills that name them in their manifest",
            ));
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port == 0 {
            return Err(bad("its port is none"));
        }
        let mut methods = self.methods.clone();
        methods.sort();
        methods.dedup();
        Ok(NetRule {
            methods,
            ..NetRule::all_of(host, port)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(url: &str) -> Result<String, String> {
        let of = Url {
            argument: "url".into(),
            methods: vec!["GET".into()],
        };
        let Value::Object(arguments) = json!({"url": url}) else {
            unreachable!("it is an object");
        };
        let rule = of.rule(&arguments).map_err(|error| error.to_string())?;
        // As it stands in the plan, it is read again when it is executed.
        assert_eq!(rule.to_string().parse::<NetRule>().as_ref(), Ok(&rule));
        Ok(rule.to_string())
    }

    #[test]
    fn a_url_is_one_host_and_port() {
        for (url, expected) in [
            (
                "http://a.example/x?y=https://b.example",
                "a.example:80,method=GET",
            ),
            ("HTTPS://A.Example./x", "a.example:443,method=GET"),
            (
                "https://a.example:8443#b.example",
                "a.example:8443,method=GET",
            ),
            (
                "https://b\u{fc}cher.example/",
                "xn--bcher-kva.example:443,method=GET",
            ),
        ] {
            assert_eq!(rule(url).as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_host_or_hides_one_gives_no_rule() {
        for url in [
            "",
            "a.example",
            "ftp://a.example/",
            "file:///etc/passwd",
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://a.example@b.example/",
            "http://:pw@b.example/",
            "http://a.example:0/",
            "http://broker/api/",
            "http://*.example/",
            "http://a.example,b.example/",
        ] {
            assert!(rule(url).is_err(), "{url}: {:?}", rule(url));
        }
        assert!(rule(&format!("http://a.example/{}", "x".repeat(MAX_URL))).is_err());
    }
}
