//! Whether a call does what a person asked for in so many words (rule R5): where it goes, and whom and what it is about, stands in their
//! request, and what it says elsewhere has no address in it that does not.
//!
//! It is a fact that a rule may ask for, and makes nothing allowed by itself. A model that was told otherwise by a page cannot make it
//! true: what the page wants done names something that the person did not.

use serde_json::Value;

use crate::{plan::ToolArguments, words::ToolClass};

/// The shortest text that says enough to be looked for.
const SHORTEST: usize = 4;

/// Arguments that are read by people: what they say is free, but for addresses.
const BODIES: [&str; 4] = ["text", "body", "content", "message"];

/// Numbers that say how much: what they say has to stand in the request, too.
const AMOUNTS: [&str; 6] = ["amount", "sum", "total", "price", "quantity", "count"];

/// Whether everything in this call that says where to, to whom or about what stands in the request.
///
/// Never of what deletes, pays, executes or administers: that is asked for each time.
#[must_use]
pub fn named(call: &ToolArguments, request: &str) -> bool {
    match call.class {
        ToolClass::ReadPublic
        | ToolClass::ReadPrivate
        | ToolClass::WriteLocalReversible
        | ToolClass::Egress => {}
        ToolClass::WriteDestructive | ToolClass::Money | ToolClass::Exec | ToolClass::Admin => {
            return false;
        }
    }
    let mut any = false;
    let all = call.arguments.iter().all(|(name, value)| match value {
        Value::String(text) if BODIES.contains(&name.as_str()) => {
            has_no_other_address(text, request)
        }
        Value::Number(amount) if AMOUNTS.contains(&name.as_str()) => {
            stands_in(&amount.to_string(), request)
        }
        value => is_named(value, request, &mut any),
    });
    all && any
}

/// Whether each text in a value stands in the request; numbers and truths say nothing about where to.
fn is_named(value: &Value, request: &str, any: &mut bool) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => {
            *any = true;
            text.len() >= SHORTEST && stands_in(text, request)
        }
        Value::Array(all) => all.iter().all(|one| is_named(one, request, any)),
        Value::Object(members) => members.values().all(|one| is_named(one, request, any)),
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

/// Whether no word of a text looks like an address that is not in the request.
fn has_no_other_address(text: &str, request: &str) -> bool {
    let words = text.split(|c: char| {
        c.is_whitespace() || is_quote(c) || matches!(c, ',' | ';' | '|' | '{' | '}')
    });
    words
        .map(|word| word.trim_matches(['.', ':', '!', '?', '*', '_']))
        .filter(|word| looks_like_an_address(word))
        .all(|word| stands_in(word, request))
}

/// A URL, an e-mail address, or a name with a dot in its middle.
fn looks_like_an_address(word: &str) -> bool {
    let inner_dot = word.split('.').filter(|part| !part.is_empty()).count() > 1;
    word.contains("://") || word.contains('@') || word.contains('/') || inner_dot
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
        assert_eq!(
            named(&call, request),
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
