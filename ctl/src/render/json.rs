//! JSON as it came; on a terminal with the characters escaped that could drive it, which changes no value.

use serde_json::value::RawValue;

use super::text;

/// The lines of a result as JSON lines: the items of a list or of a page, or the result itself.
pub(crate) fn lines(raw: &RawValue) -> Vec<&str> {
    #[derive(serde::Deserialize)]
    struct Page<'a> {
        #[serde(borrow, alias = "records")]
        items: Vec<&'a RawValue>,
    }
    let whole = raw.get();
    if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(whole) {
        return items.into_iter().map(RawValue::get).collect();
    }
    match serde_json::from_str::<Page<'_>>(whole) {
        Ok(page) => page.items.into_iter().map(RawValue::get).collect(),
        Err(_) => vec![whole],
    }
}

/// The same document with control and direction characters written as `\uXXXX`.
pub(crate) fn for_terminal(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        let safe = c == '\n' || !text::plain(c.encode_utf8(&mut [0; 4])).is_empty();
        if safe {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// JSON with the members of objects on lines of their own. Only white space between tokens is added.
pub(crate) fn indented(document: &str) -> String {
    let (mut out, mut depth) = (String::with_capacity(document.len() * 2), 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    let mut chars = document.chars().peekable();
    let fresh_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                if matches!((c, chars.peek()), ('{', Some('}')) | ('[', Some(']'))) {
                    out.extend(chars.next());
                } else {
                    depth += 1;
                    fresh_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                fresh_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                fresh_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn lists_and_pages_become_lines() {
        let check = |text, expected: &[&str]| assert_eq!(lines(&raw(text)), expected, "{text}");
        check(r#"[{"a":1}, 2]"#, &[r#"{"a":1}"#, "2"]);
        check(
            r#"{"items":[{"b":1},{"a": 2}],"next":null}"#,
            &[r#"{"b":1}"#, r#"{"a": 2}"#],
        );
        check(r#"{"records":[{"b":1}],"next":7}"#, &[r#"{"b":1}"#]);
        check(r#"{"records":7}"#, &[r#"{"records":7}"#]);
        check(r#"{"a":1}"#, &[r#"{"a":1}"#]);
        check("[]", &[]);
    }

    #[test]
    fn escaping_for_a_terminal_changes_no_value() {
        let document = "{\"a\":\"x\u{9b}2J\u{202e}\u{e0041}ü\"}";
        let shown = for_terminal(document);
        assert_eq!(shown, "{\"a\":\"x\\u009b2J\\u202e\\udb40\\udc41ü\"}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(document));
    }

    #[test]
    fn indenting_adds_only_white_space_between_tokens() {
        let document = r#"{"a":"x, y: {\"z\\\"","b":[1,{"c":{}}],"d":[]}"#;
        let shown = indented(document);
        assert_eq!(
            shown,
            "{\n  \"a\": \"x, y: {\\\"z\\\\\\\"\",\n  \"b\": [\n    1,\n    {\n      \"c\": {}\n    }\n  ],\n  \"d\": []\n}"
        );
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(document));
    }
}
