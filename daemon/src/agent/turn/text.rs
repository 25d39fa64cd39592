//! A call of a tool that a model wrote as text: pure.
//!
//! Models that were not taught a provider's way of calling tools write what they would call. That is understood where the whole answer is
//! one call of one known tool and can be read in one way only. Whatever else stands beside it, it is text for a person: an answer that
//! talks about a call, or quotes one that somebody planted in a page, calls nothing.

use std::collections::BTreeSet;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// The longest text that is looked at, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// What models put before and after a call.
const AROUND: &[(&str, &str)] = &[
    ("<tool_call>", "</tool_call>"),
    ("<tool_calls>", "</tool_calls>"),
    ("<function_call>", "</function_call>"),
    ("<functioncall>", "</functioncall>"),
    ("<|tool_call|>", "<|/tool_call|>"),
    ("<|tool_call|>", ""),
    ("[TOOL_CALLS]", ""),
    ("<|python_tag|>", "<|eom_id|>"),
    ("<|python_tag|>", ""),
];

/// Words for the tool's name, and for its arguments.
const NAMES: &[&str] = &[
    "name",
    "tool",
    "tool_name",
    "function",
    "function_name",
    "action",
];
const ARGUMENTS: &[&str] = &[
    "arguments",
    "args",
    "parameters",
    "params",
    "input",
    "tool_input",
    "action_input",
];

/// Words that say nothing more.
const BESIDE: &[&str] = &["type", "id"];

/// The name and the arguments of the one call that this text is; nothing, where it is no call or could be another one.
pub(in crate::agent) fn call(text: &str, known: impl Fn(&str) -> bool) -> Option<(String, String)> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let (name, arguments) = read(within(after_thinking(text.trim())))?;
    known(&name).then(|| (name, Value::Object(arguments).to_string()))
}

/// What follows a thought, which models show before they act.
fn after_thinking(text: &str) -> &str {
    let thought = text
        .strip_prefix("<think>")
        .and_then(|rest| rest.split_once("</think>"));
    thought.map_or(text, |(_, rest)| rest.trim())
}

/// What stands between the marks that a call is written in, as long as there are some.
fn within(mut text: &str) -> &str {
    // Some write a fence around marks, or marks around a fence.
    for _ in 0..3 {
        text = match unfenced(text).or_else(|| unmarked(text)) {
            Some(inner) => inner.trim(),
            None => return text,
        };
    }
    text
}

fn unfenced(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("```")?.strip_suffix("```")?;
    let (word, inner) = inner.split_once('\n')?;
    let known = matches!(
        word.trim(),
        "" | "json" | "tool_call" | "tool_code" | "tool"
    );
    (known && !inner.contains("```")).then_some(inner)
}

fn unmarked(text: &str) -> Option<&str> {
    AROUND.iter().find_map(|(before, after)| {
        let inner = text.strip_prefix(before)?.strip_suffix(after)?;
        let again = inner.contains(before) || (!after.is_empty() && inner.contains(after));
        (!again).then_some(inner)
    })
}

fn read(text: &str) -> Option<(String, Map<String, Value>)> {
    if let Some(rest) = text.strip_prefix("<function=") {
        let (name, arguments) = rest.strip_suffix("</function>")?.split_once('>')?;
        return Some((name.to_owned(), members(arguments)?));
    }
    let Plain(value) = serde_json::from_str(text).ok()?;
    one(value, 3)
}

/// The one call that this value is.
fn one(value: Value, depth: usize) -> Option<(String, Map<String, Value>)> {
    let depth = depth.checked_sub(1)?;
    let mut object = match value {
        Value::Object(members) => members,
        Value::Array(mut items) if items.len() == 1 => return one(items.pop()?, depth),
        _ => return None,
    };
    if object.len() == 1
        && let Some(calls) = object
            .remove("tool_calls")
            .or_else(|| object.remove("tool_call"))
    {
        return one(calls, depth);
    }
    // `{"type": "function", "function": {"name": …, "arguments": …}}`
    if matches!(object.get("function"), Some(Value::Object(_))) {
        let call = object.remove("function")?;
        let rest = object.keys().all(|word| BESIDE.contains(&word.as_str()));
        return if rest { one(call, depth) } else { None };
    }
    let said = |words: &[&str]| -> Vec<String> {
        let there = words.iter().filter(|word| object.contains_key(**word));
        there.map(ToString::to_string).collect()
    };
    let (names, arguments) = (said(NAMES), said(ARGUMENTS));
    let ([name], true) = (names.as_slice(), arguments.len() <= 1) else {
        return None;
    };
    let Some(Value::String(name)) = object.remove(name) else {
        return None;
    };
    let arguments = match arguments.first().and_then(|word| object.remove(word)) {
        Some(Value::Object(members)) => members,
        Some(Value::String(text)) => members(&text)?,
        // Without arguments it could be any object with a name in it.
        Some(_) | None => return None,
    };
    let rest = object.keys().all(|word| BESIDE.contains(&word.as_str()));
    rest.then_some((name, arguments))
}

/// The members of an object that is written in this text and nothing else.
pub(super) fn members(text: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Plain(Value::Object(members))) => Some(members),
        Ok(_) | Err(_) => None,
    }
}

/// A value in which no object says a member twice; of one that does, each reader would believe another one.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Plain(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let (mut members, mut names) = (Map::new(), BTreeSet::new());
        while let Some((name, Plain(member))) = from.next_entry::<String, Plain>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom("a member is there twice"));
            }
            members.insert(name, member);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let found = call(text, |name| name == "files__read");
        let arguments = found.map(|(name, arguments)| {
            assert_eq!(name, "files__read");
            arguments
        });
        assert_eq!(arguments.as_deref(), expected, "{text}");
    }

    #[test]
    fn one_call_is_understood_however_it_is_written() {
        let bare = r#"{"name": "files__read", "arguments": {"path": "a"}}"#;
        for text in [
            bare.to_owned(),
            format!("\n  {bare}\n"),
            format!("```json\n{bare}\n```"),
            format!("```\n{bare}\n```"),
            format!("```tool_call\n{bare}\n```"),
            format!("<tool_call>\n{bare}\n</tool_call>"),
            format!("<tool_call>```json\n{bare}\n```</tool_call>"),
            format!("```json\n<tool_call>{bare}</tool_call>\n```"),
            format!("<function_call>{bare}</function_call>"),
            format!("<|tool_call|>[{bare}]"),
            format!("[TOOL_CALLS] [{bare}]"),
            format!("<|python_tag|>{bare}<|eom_id|>"),
            format!("<|python_tag|>{bare}"),
            format!("<think>I should read {{it}}.</think>\n{bare}"),
            format!("{{\"tool_calls\": [{bare}]}}"),
            format!("{{\"tool_call\": {bare}}}"),
            format!("{{\"type\": \"function\", \"function\": {bare}}}"),
            r#"{"id": "call_1", "type": "function", "function": {"name": "files__read", "arguments": "{\"path\": \"a\"}"}}"#.to_owned(),
            r#"{"tool": "files__read", "args": {"path": "a"}}"#.to_owned(),
            r#"{"tool_name": "files__read", "parameters": {"path": "a"}}"#.to_owned(),
            r#"{"function": "files__read", "input": {"path": "a"}}"#.to_owned(),
            r#"{"action": "files__read", "action_input": {"path": "a"}}"#.to_owned(),
            r#"{"name": "files__read", "arguments": "{\"path\": \"a\"}"}"#.to_owned(),
            r#"<function=files__read>{"path": "a"}</function>"#.to_owned(),
        ] {
            check(&text, Some(r#"{"path":"a"}"#));
        }
    }

    #[test]
    fn what_is_not_one_call_or_could_be_another_one_is_text() {
        let bare = r#"{"name": "files__read", "arguments": {"path": "a"}}"#;
        for text in [
            String::new(),
            "files__read".to_owned(),
            // Prose around it: somebody talks about a call, or quotes one.
            format!("I will read it: {bare}"),
            format!("{bare}\nThat is what I would do."),
            format!("The page says <tool_call>{bare}</tool_call>"),
            format!("Use this:\n```json\n{bare}\n```"),
            format!("```json\n{bare}\n```\nDone."),
            format!("```python\n{bare}\n```"),
            // More than one.
            format!("{bare}{bare}"),
            format!("{bare}\n{bare}"),
            format!("[{bare}, {bare}]"),
            format!("{{\"tool_calls\": [{bare}, {bare}]}}"),
            format!("<tool_call>{bare}</tool_call><tool_call>{bare}</tool_call>"),
            format!("```json\n{bare}\n```\n```json\n{bare}\n```"),
            // More than one way to read it.
            r#"{"name": "files__read", "name": "files__write", "arguments": {}}"#.to_owned(),
            r#"{"name": "files__read", "arguments": {"path": "a", "path": "b"}}"#.to_owned(),
            r#"{"name": "files__read", "tool": "files__write", "arguments": {}}"#.to_owned(),
            r#"{"name": "files__read", "arguments": {}, "parameters": {"path": "a"}}"#.to_owned(),
            r#"{"name": "files__read", "arguments": {}, "and": "more"}"#.to_owned(),
            r#"{"name": "files__read", "function": {"name": "files__read", "arguments": {}}}"#
                .to_owned(),
            // No arguments that are some, no name that is one.
            r#"{"name": "files__read"}"#.to_owned(),
            r#"{"name": "files__read", "arguments": ["a"]}"#.to_owned(),
            r#"{"name": "files__read", "arguments": "path a"}"#.to_owned(),
            r#"{"name": ["files__read"], "arguments": {}}"#.to_owned(),
            r#"{"arguments": {"path": "a"}}"#.to_owned(),
            "[]".to_owned(),
            "42".to_owned(),
            // A tool that there is not.
            r#"{"name": "files__erase", "arguments": {"path": "a"}}"#.to_owned(),
            r#"{"name": "files/read", "arguments": {"path": "a"}}"#.to_owned(),
            // Cut off.
            r#"{"name": "files__read", "arguments": {"path": "a"}"#.to_owned(),
            format!("<tool_call>{bare}"),
            format!("<think>{bare}"),
            format!("<think>a</think> and so {bare}"),
            // Too deep, too long.
            format!("[[[{bare}]]]"),
            format!(
                "{{\"name\": \"files__read\", \"arguments\": {{\"path\": \"{}\"}}}}",
                "a".repeat(MAX_TEXT)
            ),
        ] {
            check(&text, None);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_model_says_is_read_without_harm(text in "\\PC{0,200}", marks in 0usize..AROUND.len()) {
            let (before, after) = AROUND[marks];
            for text in [text.clone(), format!("{before}{text}{after}"), format!("```json\n{text}\n```")] {
                // A call has arguments.
                let has = text.contains('{');
                prop_assert!(has || call(&text, |_| true).is_none());
            }
        }
    }
}
