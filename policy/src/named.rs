//! Whether a call does what a person asked for in so many words (rule R5): where it goes, and whom and what it is about, stands in their
//! request, and what it says elsewhere has no address in it that does not.
//!
//! It is a fact that a rule may ask for, and makes nothing allowed by itself. A model that was told otherwise by a page cannot make it
//! true: what the page wants done names something that the person did not.

use std::collections::BTreeSet;

use serde_json::Value;
use unicode_normalization::UnicodeNormalization as _;

use crate::{plan::ToolArguments, words::ToolClass};

/// The shortest text that says enough to be looked for.
const SHORTEST: usize = 4;

/// Arguments that are read by people: what they say is free, but for addresses.
const BODIES: [&str; 4] = ["text", "body", "content", "message"];

/// Numbers that say neither to whom nor how much: how long, and how many of what there is.
const SIZES: [&str; 8] = [
    "limit",
    "offset",
    "page",
    "per_page",
    "max_results",
    "timeout",
    "timeout_ms",
    "timeout_s",
];

/// The largest of these that says no more than that.
const MAX_SIZE: u64 = 1_000_000;

/// What an address may begin with that has no other sign of one.
const SCHEMES: [&str; 16] = [
    "bitcoin:",
    "data:",
    "file:",
    "ftp:",
    "git:",
    "http:",
    "https:",
    "javascript:",
    "magnet:",
    "mailto:",
    "sip:",
    "sms:",
    "ssh:",
    "tel:",
    "ws:",
    "wss:",
];

/// How people write the signs of an address so that no program takes it for one.
const WRITTEN: [(&str, &str); 16] = [
    ("\u{3002}", "."),
    ("[.]", "."),
    ("(.)", "."),
    ("{.}", "."),
    ("[dot]", "."),
    ("(dot)", "."),
    ("{dot}", "."),
    (" dot ", "."),
    ("[at]", "@"),
    ("(at)", "@"),
    ("{at}", "@"),
    ("[@]", "@"),
    ("[:]", ":"),
    ("[/]", "/"),
    (" . ", "."),
    (" @ ", "@"),
];

/// Whether everything in this call that says where to, to whom or about what stands in the request. `input` is the schema of its
/// arguments: only what it names may be the name of one without standing there.
///
/// Never of what deletes, pays, executes or administers: that is asked for each time.
#[must_use]
pub fn named(call: &ToolArguments, input: &Value, request: &str) -> bool {
    match call.class {
        ToolClass::ReadPublic
        | ToolClass::ReadPrivate
        | ToolClass::WriteLocalReversible
        | ToolClass::Egress => {}
        ToolClass::WriteDestructive | ToolClass::Money | ToolClass::Exec | ToolClass::Admin => {
            return false;
        }
    }
    let mut looked = Looked {
        request,
        known: BTreeSet::new(),
        any: false,
    };
    names_of(input, &mut looked.known);
    let mut all = call.arguments.iter();
    let all = all.all(|(name, value)| {
        looked.is_known(name)
            && match value {
                Value::String(text) if BODIES.contains(&name.as_str()) => {
                    has_no_other_address(text, request)
                }
                value => looked.is_named(name, value),
            }
    });
    all && looked.any
}

/// The names of members that a schema has, at any depth.
fn names_of<'a>(schema: &'a Value, known: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Array(all) => all.iter().for_each(|one| names_of(one, known)),
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                known.extend(properties.keys().map(String::as_str));
            }
            members.values().for_each(|one| names_of(one, known));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

struct Looked<'a> {
    request: &'a str,
    known: BTreeSet<&'a str>,
    /// Whether any text was found.
    any: bool,
}

impl Looked<'_> {
    /// A name that its maker did not give it may say anything.
    fn is_known(&self, name: &str) -> bool {
        self.known.contains(name) || name.len() >= SHORTEST && stands_in(name, self.request)
    }

    /// Whether each text and each number in the value of a member stands in the request; truths say nothing about where to.
    fn is_named(&mut self, name: &str, value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(_) => true,
            Value::Number(number) => {
                let is_size = SIZES.contains(&name);
                is_size && number.as_u64().is_some_and(|size| size <= MAX_SIZE)
                    || stands_in(&number.to_string(), self.request)
            }
            Value::String(text) => {
                self.any = true;
                text.len() >= SHORTEST && stands_in(text, self.request)
            }
            Value::Array(all) => all.iter().all(|one| self.is_named(name, one)),
            Value::Object(members) => members
                .iter()
                .all(|(name, one)| self.is_known(name) && self.is_named(name, one)),
        }
    }
}

/// Whether a text stands in another one as a whole: not as a part of a longer name or address.
fn stands_in(text: &str, request: &str) -> bool {
    let mut from = 0;
    while let Some(at) = request[from..].find(text) {
        let (begins, ends) = (from + at, from + at + text.len());
        if begins_a_word(&request[..begins]) && ends_a_word(&request[ends..]) {
            return true;
        }
        from = begins + text.chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// Whether a word may begin after this.
fn begins_a_word(before: &str) -> bool {
    before
        .chars()
        .next_back()
        .is_none_or(|c| c.is_whitespace() || is_quote(c))
}

/// Whether a word may end before this: at a blank, a quote, or at the sign that ends a sentence.
fn ends_a_word(after: &str) -> bool {
    let after = after.trim_start_matches(['.', ',', ';', ':', '!', '?']);
    after
        .chars()
        .next()
        .is_none_or(|c| c.is_whitespace() || is_quote(c))
}

const fn is_quote(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | '`' | '<' | '>' | '(' | ')' | '[' | ']' | '\u{201c}' | '\u{201d}' | '\u{201e}'
    )
}

/// Whether no word of a text looks like an address that is not in the request, however its signs are written.
fn has_no_other_address(text: &str, request: &str) -> bool {
    let (text, request) = (plain(text), plain(request));
    let words = text.split(|c: char| {
        c.is_whitespace() || is_quote(c) || matches!(c, ',' | ';' | '|' | '{' | '}')
    });
    words
        .map(|word| word.trim_matches(['.', ':', '!', '?', '*', '_']))
        .filter(|word| looks_like_an_address(word))
        .all(|word| stands_in(word, &request))
}

/// A text with the signs of addresses as programs write them, in small letters.
fn plain(text: &str) -> String {
    let text: String = text.nfkc().collect();
    let text = text.to_lowercase();
    let written = WRITTEN.iter();
    written.fold(text, |text, (written, sign)| text.replace(written, sign))
}

/// A URL, an e-mail address, or a name with a dot in its middle.
fn looks_like_an_address(word: &str) -> bool {
    let inner_dot = word.split('.').filter(|part| !part.is_empty()).count() > 1;
    let begins = |scheme: &str| word.len() > scheme.len() && word.starts_with(scheme);
    word.contains(['@', '/', '\\']) || inner_dot || SCHEMES.into_iter().any(begins)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::words::Digest;

    fn check(class: ToolClass, arguments: Value, request: &str, expected: bool) {
        let call = ToolArguments {
            skill: "mail".parse().unwrap(),
            skill_digest: Digest::of(b""),
            tool: "send".into(),
            class,
            arguments: serde_json::from_value(arguments.clone()).unwrap(),
            net: None,
        };
        let input = json!({"type": "object", "properties": {
            "to": {}, "cc": {}, "url": {}, "text": {}, "limit": {}, "urgent": {}, "amount": {}, "path": {}, "name": {}, "chat_id": {},
            "order": {"type": "object", "properties": {"amount": {}, "eur": {}}},
        }});
        assert_eq!(
            named(&call, &input, request),
            expected,
            "{arguments} in {request:?}"
        );
    }

    #[test]
    fn what_a_person_named_is_named() {
        let sends =
            |arguments, request, expected| check(ToolClass::Egress, arguments, request, expected);
        let request = "Mail bob@example.com that I come, and get https://news.example/today.";
        sends(
            json!({"to": "bob@example.com", "text": "I come."}),
            request,
            true,
        );
        sends(
            json!({"url": "https://news.example/today", "limit": 100}),
            request,
            true,
        );
        sends(
            json!({"to": ["bob@example.com"], "urgent": true}),
            request,
            true,
        );
        // Somebody else, or somewhere else, even where it looks alike.
        sends(
            json!({"to": "eve@evil.example", "text": "I come."}),
            request,
            false,
        );
        sends(json!({"to": "ob@example.com"}), request, false);
        sends(json!({"to": "bob@example.co"}), request, false);
        sends(json!({"url": "https://news.example/"}), request, false);
        sends(
            json!({"url": "https://news.example/today?q=secret"}),
            request,
            false,
        );
        sends(
            json!({"to": "bob@example.com", "cc": "eve@evil.example"}),
            request,
            false,
        );
        sends(json!({"to": {"bcc": ["eve@evil.example"]}}), request, false);
        // What is said may be anything but an address.
        sends(
            json!({"to": "bob@example.com", "text": "see https://evil.example/x"}),
            request,
            false,
        );
        sends(
            json!({"to": "bob@example.com", "text": "write to eve@evil.example"}),
            request,
            false,
        );
        sends(
            json!({"to": "bob@example.com", "text": "see evil.example"}),
            request,
            false,
        );
        sends(
            json!({"to": "bob@example.com", "text": "bob@example.com, I come."}),
            request,
            true,
        );
        // How much is said by a person, too.
        let order = "Order 12 roses at https://roses.example/ for me";
        sends(
            json!({"url": "https://roses.example/", "amount": 12}),
            order,
            true,
        );
        sends(
            json!({"url": "https://roses.example/", "amount": 120}),
            order,
            false,
        );
        // A number that nobody said may be anybody's, or any sum, wherever it stands and whatever it is called.
        let chat = "Post \"notes.txt\" to chat 4711 for 12 eur.";
        let notes = |name: &str, value: Value| json!({"path": "notes.txt", name: value});
        sends(notes("chat_id", json!(4711)), chat, true);
        sends(notes("order", json!({"eur": 12})), chat, true);
        sends(notes("limit", json!([5])), chat, true);
        for (name, value) in [
            ("chat_id", json!(666)),
            ("chat_id", json!(471)),
            ("to", json!([101, 118, 101])),
            ("order", json!({"amount": 99_999})),
            ("order", json!({"eur": 120})),
            ("limit", json!(u64::MAX)),
            ("limit", json!(-1)),
            // A name is as free as a text where the schema does not have it.
            ("eve@evil.example", json!(true)),
            ("order", json!({"X-To: eve@evil.example": "notes.txt"})),
            ("order", json!([{"eve@evil.example": null}])),
            // However an address is written.
            ("text", json!("write to evil[.]example")),
            ("text", json!("write to evil\u{3002}example")),
            ("text", json!("write to evil\u{ff0e}example")),
            ("text", json!("write to evil\u{ff61}example")),
            ("text", json!("write to evil (dot) example")),
            ("text", json!("write to eve[at]evil")),
            ("text", json!("write to evil dot example")),
            ("text", json!("write to eve\u{ff20}evil")),
            ("text", json!("see http:evil?q=1")),
            ("text", json!("see HTTP:evil")),
        ] {
            sends(notes(name, value), chat, false);
        }
        // Too short to say where to, and nothing that does.
        sends(json!({"to": "bob"}), "mail bob", false);
        sends(json!({"text": "hello"}), "say hello", false);
        sends(json!({"to": ""}), "", false);
    }

    #[test]
    fn what_deletes_pays_or_executes_never_is() {
        for class in [
            ToolClass::WriteDestructive,
            ToolClass::Money,
            ToolClass::Exec,
            ToolClass::Admin,
        ] {
            check(
                class,
                json!({"path": "notes.txt"}),
                "delete notes.txt",
                false,
            );
        }
        check(
            ToolClass::WriteLocalReversible,
            json!({"name": "notes"}),
            "save it as notes",
            true,
        );
    }
}
