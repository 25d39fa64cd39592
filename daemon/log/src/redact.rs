//! What a text must lose before it may leave the process: keys, control characters, excess length.

use std::{borrow::Cow, fmt, sync::LazyLock};

use regex::Regex;

/// Bytes of a message at most, beyond which it is cut.
pub const MESSAGE_MAX: usize = 8 * 1024;

/// Bytes of one field at most. 32 such fields and a message fit into one datagram to the journal (212,992 bytes), so that a
/// confined process never needs the memory file that longer entries would be sent in.
pub const FIELD_MAX: usize = 4 * 1024;

/// Bytes of a value that are looked at; what a `Debug` writes beyond them is not even kept.
const CAPTURE_MAX: usize = 64 * 1024;

/// What stands where a key was.
const MARK: &str = "[redacted]";

/// What keys look like, each with whose they are. The engine is linear in the length of the text, whatever it says.
const KEYS: &[&str] = &[
    // A private key in PEM, to its end or, if that is missing, to the end of the text.
    r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
    // OpenAI, Anthropic and those who copied them.
    r"\bsk-[A-Za-z0-9_-]{8,}",
    // An HTTP credential, also when a header map is printed.
    r#"(?i)\b(?:proxy-)?authorization["']?\s*[:=]\s*["']?(?:[a-z]+\s+)?[^\s"',}]{6,}"#,
    r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}",
    // Headers and parameters whose value is the key.
    r#"(?i)\b(?:x-api-key|api[_-]?key|access[_-]?token|client[_-]?secret|password)["']?\s*[:=]\s*["']?[^\s"'&,;}]{6,}"#,
    // AWS access key ids.
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    // Google API keys.
    r"\bAIza[A-Za-z0-9_-]{30,}",
    // Slack tokens.
    r"\bxox[a-z]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{8,}",
    // GitHub tokens.
    r"\bgh[opusr]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}",
    // Telegram bot tokens.
    r"\b[0-9]{8,10}:[A-Za-z0-9_-]{35}\b",
    // JSON web tokens.
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    // User and password in a URL.
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@",
];

static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    let all = KEYS
        .iter()
        .map(|key| format!("(?:{key})"))
        .collect::<Vec<_>>()
        .join("|");
    Regex::new(&all).expect("a constant expression, compiled by every test of this module")
});

/// `text` with everything that looks like a key replaced by `[redacted]` and control characters (and those that turn the
/// direction of writing) shown as escapes.
#[must_use]
pub fn redacted(text: &str) -> String {
    escaped(&PATTERN.replace_all(text, format!("${{scheme}}{MARK}"))).into_owned()
}

/// What `value` prints, fit to leave the process, in at most `limit` bytes and a note of what was cut.
pub(crate) fn printed(value: fmt::Arguments<'_>, limit: usize) -> String {
    let mut capture = Capture {
        text: String::new(),
        over: 0,
    };
    // A Display that fails midway still has said what it has said; there is nobody to report it to.
    let _ = fmt::write(&mut capture, value);
    if capture.over > 0 {
        // The capture may have ended inside a key, too early for it to be recognised.
        let kept = capture.text.rfind(char::is_whitespace).unwrap_or(0);
        capture.over += capture.text.len() - kept;
        capture.text.truncate(kept);
    }
    cut(redacted(&capture.text), limit, capture.over)
}

fn cut(mut text: String, limit: usize, mut over: usize) -> String {
    if text.len() > limit {
        let kept = text.floor_char_boundary(limit);
        over += text.len() - kept;
        text.truncate(kept);
    }
    if over > 0 {
        text.push_str(&format!(" [{over} bytes cut]"));
    }
    text
}

fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(must_be_shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if must_be_shown(char) {
            out.extend(char.escape_default())
        } else {
            out.push(char)
        }
    }
    Cow::Owned(out)
}

/// Whether a character could move the cursor, colour the line or turn its direction instead of being read.
fn must_be_shown(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Keeps the first [`CAPTURE_MAX`] bytes that are written, and counts the rest.
struct Capture {
    text: String,
    over: usize,
}

impl fmt::Write for Capture {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = if self.over > 0 {
            0
        } else {
            CAPTURE_MAX - self.text.len()
        };
        let kept = text.floor_char_boundary(room);
        self.text.push_str(&text[..kept]);
        self.over += text.len() - kept;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(redacted(text), expected, "{text:?}");
    }

    #[test]
    fn keys_are_replaced_and_what_stands_beside_them_stays() {
        check(
            "key sk-proj-abcdEFGH1234 was refused",
            "key [redacted] was refused",
        );
        check("sk-ant-api03-aaaaaaaaaaaaaaaa", "[redacted]");
        check(
            r#"{"authorization": "Bearer abc.def-ghi123"}"#,
            r#"{"[redacted]"}"#,
        );
        check("authorization: basic dXNlcjpwYXNzd29yZA==", "[redacted]");
        check("sent Bearer abc.def-ghi123", "sent [redacted]");
        check("x-api-key: 0123456789abcdef", "[redacted]");
        check(
            "GET /v1?api_key=0123456789&model=m",
            "GET /v1?[redacted]&model=m",
        );
        check("id AKIAIOSFODNN7EXAMPLE.", "id [redacted].");
        check("AIzaSyA1234567890abcdefghijklmnopqrstuv", "[redacted]");
        check("token xoxb-1234-5678-abcdef", "token [redacted]");
        check("ghp_0123456789abcdefABCDEF", "[redacted]");
        check("github_pat_11ABCDEFG0123456789_x", "[redacted]");
        check(
            "bot123456789:AAabcdefghijklmnopqrstuvwxyz0123456",
            "bot123456789:AAabcdefghijklmnopqrstuvwxyz0123456",
        );
        check(
            "/123456789:AAabcdefghijklmnopqrstuvwxyz0123456/getMe",
            "/[redacted]/getMe",
        );
        check("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjMifQ.c2ln", "[redacted]");
        check(
            "proxy http://me:secret@proxy:3128/ refused",
            "proxy http://[redacted]proxy:3128/ refused",
        );
        check(
            "a -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- b",
            "a [redacted] b",
        );
        check("a -----BEGIN PRIVATE KEY-----\nMIIE", "a [redacted]");
    }

    #[test]
    fn ordinary_words_are_left_alone() {
        for text in [
            "sandbox started",
            "task-force met the risk-averse",
            "bearer of news",
            "a basic configuration",
            "sha256:9f86d081884c7d659a2feaa0c55ad015",
            "http://127.0.0.1:11434/api/chat",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn control_characters_are_shown() {
        check(
            "a\x1b[31mred\nb\t\u{7f}\u{85}\u{202e}",
            "a\\u{1b}[31mred\\nb\\t\\u{7f}\\u{85}\\u{202e}",
        );
        check("größer → ok", "größer → ok");
    }

    #[test]
    fn long_text_is_cut_at_a_character_and_says_so() {
        assert_eq!(
            printed(format_args!("{}", "é".repeat(10)), 7),
            "ééé [14 bytes cut]"
        );
        assert_eq!(printed(format_args!("short"), 7), "short");
    }

    #[test]
    fn key_across_the_end_of_the_capture_is_not_shown() {
        let text = format!("{} sk-abcdefghijkl", "x ".repeat(CAPTURE_MAX / 2 - 4));
        let said = printed(format_args!("{text}"), CAPTURE_MAX);
        assert!(
            !said.contains("sk-") && said.contains("bytes cut]"),
            "{}",
            &said[said.len() - 60..]
        );
    }
}
