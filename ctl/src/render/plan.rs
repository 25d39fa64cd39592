//! A plan as a person is shown it: the canonical JSON with line breaks, everything that could mislead written out, and what is too long
//! to be read left out in the middle, with its length and digest beside it.
//!
//! What is said of something left out stands outside quotes, where nothing that a plan holds can stand. The digest of the plan is that
//! of the whole, and `-o json` shows the whole.

use paw_policy::Digest;
use serde_json::Value;

use super::text;

/// The longest text that is shown whole, in characters.
const WHOLE: usize = 1_000;

/// Of a longer one, how many characters of its beginning and of its end.
const ENDS: (usize, usize) = (400, 200);

/// The most members or items of one object or list that are shown.
const ITEMS: usize = 100;

/// The plan in lines.
pub(crate) fn shown(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::String(said) => string(said, out),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Object(members) if members.is_empty() => out.push_str("{}"),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().take(ITEMS).enumerate() {
                line(index, depth + 1, out);
                write(item, depth + 1, out);
            }
            rest(value, items.len(), depth + 1, out);
            line(0, depth, out);
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, item)) in sorted.iter().take(ITEMS).enumerate() {
                line(index, depth + 1, out);
                string(name, out);
                out.push_str(": ");
                write(item, depth + 1, out);
            }
            rest(value, sorted.len(), depth + 1, out);
            line(0, depth, out);
            out.push('}');
        }
    }
}

fn line(index: usize, depth: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

/// Says what of a list or object is not shown.
fn rest(value: &Value, length: usize, depth: usize, out: &mut String) {
    if length > ITEMS {
        let digest = Digest::of(paw_policy::plan::canonical(value).as_bytes());
        line(1, depth, out);
        out.push_str(&format!(
            "… {} more; SHA-256 of all {}: {digest}",
            text::count((length - ITEMS) as u64),
            text::count(length as u64)
        ));
    }
}

fn string(said: &str, out: &mut String) {
    let length = said.chars().count();
    if length <= WHOLE {
        out.push_str(&quoted(said));
        return;
    }
    let head: String = said.chars().take(ENDS.0).collect();
    let tail: String = said.chars().skip(length - ENDS.1).collect();
    out.push_str(&format!(
        "{} … {} characters … {} ({} bytes, SHA-256 {})",
        quoted(&head),
        text::count((length - ENDS.0 - ENDS.1) as u64),
        quoted(&tail),
        text::count(said.len() as u64),
        Digest::of(said.as_bytes())
    ));
}

/// As JSON has it, and what JSON leaves as it is written out, too.
fn quoted(said: &str) -> String {
    text::visible(&Value::from(said).to_string(), false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_a_plan_holds_drives_a_terminal_or_turns_a_line_around() {
        let hostile = "a\u{1b}[2J\u{9b}31m\u{202e}txt\u{200b}\u{e0041}\r\n\u{7}\u{7f}";
        let shown = shown(&json!({hostile: [hostile], "n": {hostile: hostile.repeat(500)}}));
        assert!(
            shown
                .chars()
                .all(|c| c == '\n' || c == '…' || (' '..='~').contains(&c)),
            "{shown}"
        );
        assert!(
            shown.contains(r"\u001b[2J\u{9b}31m\u{202e}txt\u{200b}"),
            "{shown}"
        );
    }

    /// Five thousand texts of a skill, out of what drives terminals, turns lines around, hides, or looks like words of ours.
    #[test]
    fn s7_no_made_up_text_shows_more_than_letters() {
        const PIECES: [&str; 32] = [
            "\u{1b}[2J",
            "\u{1b}]8;;http://x\u{7}",
            "\u{1b}]0;t\u{1b}\\",
            "\u{9b}31m",
            "\u{9d}",
            "\u{90}q",
            "\r",
            "\n",
            "\u{8}",
            "\t",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "\u{202a}",
            "\u{202e}",
            "\u{2066}",
            "\u{2069}",
            "\u{200b}",
            "\u{200d}",
            "\u{200f}",
            "\u{feff}",
            "\u{ad}",
            "\u{e0041}",
            "\u{fe0f}",
            "\u{2028}",
            "\u{2029}",
            "Approve exactly this plan? [y/N] y",
            "\", \"risk\": \"low",
            "… 9 characters …",
            "sha256 ",
            "a",
            " ",
        ];
        // A generator of numbers of its own (xorshift), so that each run tries the same.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).expect("it is below")
        };
        for round in 0..5_000 {
            let pieces = draw(40);
            let text: String = (0..pieces).map(|_| PIECES[draw(PIECES.len())]).collect();
            let plan = json!({"tool": text, "arguments": {&text: [text, {"text": text}]}});
            let shown = shown(&plan);
            assert!(
                shown
                    .chars()
                    .all(|c| c == '\n' || c == '…' || (' '..='~').contains(&c)),
                "{round}: {shown:?}"
            );
            // No line of it is one of ours: each begins as a value of the plan does.
            assert!(
                shown.lines().all(|line| {
                    let line = line.trim_start();
                    line.starts_with(['"', '{', '}', '[', ']'])
                }),
                "{round}: {shown:?}"
            );
        }
    }

    #[test]
    fn long_values_are_left_out_with_their_length_and_digest() {
        let long = format!("begin{}end", "x".repeat(100_000));
        let text = shown(&json!({"text": long}));
        assert!(text.len() < 1_500, "{} bytes", text.len());
        let digest = Digest::of(long.as_bytes());
        assert!(
            text.contains(&format!("(100,008 bytes, SHA-256 {digest})")),
            "{text}"
        );
        assert!(text.contains("\"begin") && text.contains("end\""), "{text}");
        let many: Vec<u32> = (0..1_000).collect();
        let text = shown(&json!(many));
        assert!(
            text.contains("… 900 more; SHA-256 of all 1,000: "),
            "{text}"
        );
    }

    #[test]
    fn value_that_looks_like_something_left_out_is_quoted() {
        let text = shown(&json!("a\" … 9 characters … \"b"));
        assert_eq!(text, r#""a\" … 9 characters … \"b""#);
    }

    #[test]
    fn what_is_short_is_shown_whole_and_sorted() {
        let text = shown(&json!({"b": {}, "a": [1, true, null, "x"], "c": []}));
        assert_eq!(
            text,
            "{\n  \"a\": [\n    1,\n    true,\n    null,\n    \"x\"\n  ],\n  \"b\": {},\n  \"c\": []\n}"
        );
    }
}
