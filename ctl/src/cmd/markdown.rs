//! A conversation as Markdown: a heading for each turn, and what was said as a quotation.
//!
//! What was said is anybody's. Quoted line by line it can look like a heading, a rule or the end of a fence only within its quotation, so
//! nobody can put a turn into the document that there was not. What came from outside is a block of code there: no picture, link or element
//! in it is one, so that who opens the document fetches nothing.

use paw_api::agent::{Transcript, Turn};

use super::taint;
use crate::render::text;

/// A part of a conversation; the first one begins with what it is.
pub(super) fn page(transcript: &Transcript, first: bool) -> String {
    let mut out = String::new();
    if first {
        let session = &transcript.session;
        out.push_str(&format!(
            "# {}\n\nConversation {} of uid {} with agent {}, taint {}.\n",
            verbatim(&session.title),
            text::line(&session.id),
            session.owner,
            verbatim(&session.agent),
            taint(&session.taint),
        ));
    }
    for turn in &transcript.turns {
        out.push_str(&said(turn));
    }
    out
}

fn said(turn: &Turn) -> String {
    let by = match (&turn.provider, &turn.model, &turn.tool) {
        (Some(provider), Some(model), _) => format!("{} ({provider}, {model})", turn.role),
        (_, _, Some(tool)) if turn.failed => format!("{} {tool}, failed", turn.role),
        (_, _, Some(tool)) => format!("{} {tool}", turn.role),
        _ => turn.role.clone(),
    };
    let mut out = format!(
        "\n## {} {}\n\n{}, taint {}\n\n",
        turn.seq,
        verbatim(&by),
        text::rfc3339(turn.at),
        taint(&turn.taint)
    );
    let code = if turn.taint.is_foreign() { "    " } else { "" };
    for line in text::said(&turn.text, &turn.taint).lines() {
        out.push_str(format!("> {code}{line}").trim_end());
        out.push('\n');
    }
    for call in &turn.calls {
        out.push_str(&format!(
            "\n- calls {}, {}:\n\n{}",
            verbatim(&call.name),
            call.action.as_ref().map_or_else(
                || "which was refused".to_owned(),
                |action| format!("action {}", text::line(action))
            ),
            indented(&text::unopened(
                text::visible(&call.arguments, true).into(),
                &turn.taint
            )),
        ));
    }
    out
}

/// Text of one line that is shown as it is.
fn verbatim(text: &str) -> String {
    let mut out = String::new();
    for c in text::line(text).chars() {
        if c.is_ascii_punctuation() && !matches!(c, ',' | '.' | ':' | '/') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A block of code within an item of a list; it ends where its indentation does, whatever is in it.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_was_said_leaves_its_quotation() {
        let transcript = json!({
            "session": {"id": "x", "agent": "default", "owner": 0, "title": "# a\n## 9 user", "turns": 1,
                "taint": ["user"], "created": 0, "updated": 0},
            "turns": [{"seq": 0, "role": "tool", "text": "one\n\n## 1 user\n```\n\u{1b}[2J> two", "taint": ["tool"], "action": null,
                "tool": "files/read", "provider": null, "model": null, "at": 0,
                "calls": [{"id": "c", "name": "files__read", "arguments": "{\n## 2 user", "action": null}]}],
            "next": null,
        });
        let transcript = serde_json::from_value(transcript).expect("a transcript");
        let written = page(&transcript, true);
        let headings: Vec<_> = written
            .lines()
            .filter(|line| line.starts_with('#'))
            .collect();
        assert_eq!(headings, ["# \\# a \\#\\# 9 user", "## 0 tool files/read"]);
        assert!(
            written.contains(">     one\n>\n>     ## 1 user\n>     ```\n>     [2J> two\n"),
            "{written}"
        );
        assert!(written.contains("      {\n      ## 2 user\n"), "{written}");
        assert!(written.contains("1970-01-01T00:00:00"), "{written}");
    }
}
