//! Text that cannot drive a terminal, and numbers as people read them.
//!
//! Everything that pawd sends may hold what a model, a tool or a stranger wrote. A terminal obeys control characters: they
//! can move the cursor over what was said before, set the title, or turn the direction of a line around. [`plain`] and
//! [`line`] take them out, [`visible`] shows them for what they are. All three work character by character, so a piece of a
//! stream is as safe as the whole.

use std::borrow::Cow;

use paw_policy::TaintSet;

use super::Look;

/// Whether a terminal or a reader can be misled by this character. Line feed and tab are judged by the callers.
const fn misleads(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}'                                  // C0, DEL, C1
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'           // direction
        | '\u{2066}'..='\u{2069}' | '\u{206a}'..='\u{206f}'
        | '\u{2028}' | '\u{2029}'                                                 // other line ends
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}') // invisible marks and tags
}

/// Characters that show nothing and are harmless in prose, but would make two different plans look the same.
const fn unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{3164}' | '\u{ffa0}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Text of several lines without control characters; line feeds and tabs stay.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let bad = |c: char| misleads(c) && c != '\n' && c != '\t';
    if text.contains(bad) {
        Cow::Owned(text.chars().filter(|c| !bad(*c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// What terminals and mail programs take for the beginning of an address, and how many of its bytes are before the mark that makes it one.
const BEGINS: [(&str, usize); 3] = [("://", 0), ("www.", 3), ("mailto:", 6)];

/// What one of them begins with; each is one byte.
const FIRST: [char; 5] = [':', 'w', 'W', 'm', 'M'];

/// What was said, as [`plain`] and [`unopened`].
pub(crate) fn said<'a>(text: &'a str, taint: &TaintSet) -> Cow<'a, str> {
    unopened(plain(text), taint)
}

/// A text in which, where it came from outside or nobody says where from, no address is one that a terminal, a viewer or a copy of it
/// opens.
pub(crate) fn unopened<'a>(text: Cow<'a, str>, taint: &TaintSet) -> Cow<'a, str> {
    if !taint.is_foreign() {
        return text;
    }
    let mut breaks = Breaking::default();
    let mut whole = breaks.next(&text);
    whole.push_str(&breaks.end());
    Cow::Owned(whole)
}

/// The same of a text that comes in pieces, which may part the beginning of an address anywhere.
#[derive(Default)]
pub(crate) struct Breaking {
    /// What may become the beginning of an address.
    held: String,
}

impl Breaking {
    /// As much as can be shown now that this has come, with what begins an address written so that it begins none.
    pub(crate) fn next(&mut self, piece: &str) -> String {
        let text = self.end() + piece;
        let (mut out, mut rest) = (String::with_capacity(text.len() + 8), text.as_str());
        while let Some(at) = rest.find(FIRST) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            if BEGINS.iter().any(|(word, _)| may_become(from, word)) {
                self.held = from.to_owned();
                return out;
            }
            let begins = BEGINS.iter().find(|(word, _)| {
                let head = from.get(..word.len());
                head.is_some_and(|head| head.eq_ignore_ascii_case(word))
            });
            rest = match begins {
                // As it was written but for what is behind its name.
                Some((word, name)) => {
                    let (begin, behind) = from.split_at(word.len());
                    let (name, mark) = begin.split_at(*name);
                    out.push_str(&format!("{name}[{}]{}", &mark[..1], &mark[1..]));
                    behind
                }
                None => {
                    out.push_str(&from[..1]);
                    &from[1..]
                }
            };
        }
        out.push_str(rest);
        out
    }

    /// What was held back: nothing follows it that would make it an address.
    pub(crate) fn end(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Whether so far this is the beginning of the word, and not all of it.
fn may_become(text: &str, word: &str) -> bool {
    let head = word.get(..text.len()).filter(|_| text.len() < word.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(text))
}

/// Text for one line: white space of any kind becomes a blank, control characters go.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    if !text.contains(misleads) {
        return Cow::Borrowed(text);
    }
    let blank = |c: char| {
        if matches!(c, '\n' | '\t' | '\r' | '\u{2028}' | '\u{2029}') {
            ' '
        } else {
            c
        }
    };
    Cow::Owned(text.chars().map(blank).filter(|c| !misleads(*c)).collect())
}

/// Text with everything that could mislead written out as `\u{…}`; line feeds stay if `lines` says so.
pub(crate) fn visible(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if (misleads(c) || unseen(c)) && !(lines && c == '\n') {
            out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// The first words of a text, in one line of at most `most` characters.
pub(crate) fn short(text: &str, most: usize) -> String {
    let text = line(text);
    if text.chars().count() <= most {
        return text.into_owned();
    }
    let head: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", head.trim_end())
}

/// A size in bytes.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A span of time, in its two largest units.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..=59 => format!("{}.{} s", s, (ms % 1000) / 100),
        60..=3599 => format!("{}m {}s", s / 60, s % 60),
        3600..=86_399 => format!("{}h {}m", s / 3600, (s % 3600) / 60),
        _ => format!("{}d {}h", s / 86_400, (s % 86_400) / 3600),
    }
}

/// An amount in US dollars, to a millionth; `~` says that it is assumed.
pub(crate) fn cost(dollars: f64, estimated: bool) -> String {
    let about = if estimated && dollars != 0.0 { "~" } else { "" };
    if dollars == 0.0 {
        "0".into()
    } else if dollars < 0.01 {
        format!("{about}${dollars:.6}")
    } else {
        format!("{about}${dollars:.4}")
    }
}

/// A point in time, in milliseconds since 1970: relative for a person, RFC 3339 for everybody else.
pub(crate) fn time(ms: u64, look: &Look) -> String {
    if !look.person {
        return rfc3339(ms);
    }
    let (distance, past) = if ms <= look.now {
        (look.now - ms, true)
    } else {
        (ms - look.now, false)
    };
    let s = distance / 1000;
    let rough = match s {
        0..=59 => format!("{s}s"),
        60..=3599 => format!("{}m", s / 60),
        3600..=86_399 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    };
    match (s, past) {
        (0, _) => "now".to_owned(),
        (_, true) => format!("{rough} ago"),
        (_, false) => format!("in {rough}"),
    }
}

/// A point in time in UTC, to the second.
pub(crate) fn rfc3339(ms: u64) -> String {
    i64::try_from(ms / 1000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use paw_policy::Taint;

    use super::*;

    const LOOK: Look = Look {
        colour: false,
        person: true,
        width: None,
        now: 1_700_000_000_000,
    };

    #[test]
    fn no_address_from_outside_can_be_opened() {
        let check = |text: &str, taint, expected: &str| {
            assert_eq!(said(text, &TaintSet::of(taint)), expected, "{text:?}");
        };
        check(
            "see https://evil.example/?a=b",
            Taint::Web,
            "see https[:]//evil.example/?a=b",
        );
        check("WWW.evil.example", Taint::Tool, "WWW[.]evil.example");
        check(
            "MailTo:a@evil.example, www",
            Taint::Web,
            "MailTo[:]a@evil.example, www",
        );
        check("ü www.ü.example", Taint::Channel, "ü www[.]ü.example");
        check("https://www.example", Taint::User, "https://www.example");
        let of_nobody = said("http://a.example", &TaintSet::default());
        assert_eq!(of_nobody, "http[:]//a.example");
    }

    #[test]
    fn no_address_can_be_opened_wherever_it_was_cut() {
        let text = "w: ww https://www.a.example ://ü mailto:b@c.example:/ wWw.d m:";
        let whole = "w: ww https[:]//www[.]a.example [:]//ü mailto[:]b@c.example:/ wWw[.]d m:";
        let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        for one in &cuts {
            for other in cuts.iter().filter(|other| *other >= one) {
                let mut breaks = Breaking::default();
                let pieces = [&text[..*one], &text[*one..*other], &text[*other..]];
                let shown = pieces.map(|piece| breaks.next(piece)).concat() + &breaks.end();
                assert_eq!(shown, whole, "{pieces:?}");
            }
        }
        // What is held back is no more than could be a beginning.
        let mut breaks = Breaking::default();
        assert_eq!(breaks.next("see mailto"), "see ");
        assert_eq!(breaks.next("es"), "mailtoes");
    }

    #[test]
    fn nothing_that_drives_a_terminal_passes() {
        let check = |text, expected| assert_eq!(plain(text), expected, "{text:?}");
        check(
            "plain text, ünïcode, 日本語, 👩\u{200d}👩",
            "plain text, ünïcode, 日本語, 👩\u{200d}👩",
        );
        check("a\u{1b}[31mred\u{1b}[0m", "a[31mred[0m");
        check("title\u{1b}]0;x\u{7}", "title]0;x");
        check("c1 \u{9b}2J\u{9d}0;x\u{9c}", "c1 2J0;x");
        check("over\rwritten\u{8}\u{7f}", "overwritten");
        check("bidi \u{202e}txt.exe\u{2066}\u{200f}", "bidi txt.exe");
        check("tags \u{e0041}\u{e007f}\u{feff}", "tags ");
        check("two\nlines\tand a tab", "two\nlines\tand a tab");
        check("other\u{2028}line", "otherline");
    }

    #[test]
    fn amounts_are_shown_to_a_millionth() {
        let check = |dollars, estimated, expected| assert_eq!(cost(dollars, estimated), expected);
        check(0.0, true, "0");
        check(0.000_012, false, "$0.000012");
        check(0.000_012, true, "~$0.000012");
        check(1.234_56, false, "$1.2346");
    }

    #[test]
    fn one_line_stays_one_line() {
        let check = |text, expected| assert_eq!(line(text), expected, "{text:?}");
        check("two\nlines\r\nthree", "two lines  three");
        check("a\tb", "a b");
        check("\u{1b}[2J", "[2J");
    }

    #[test]
    fn a_cut_in_the_middle_of_an_escape_sequence_changes_nothing() {
        let text = "ok \u{1b}[31mred\u{9b}m \u{202e}x";
        for (at, _) in text.char_indices() {
            let (head, tail) = text.split_at(at);
            assert_eq!(format!("{}{}", plain(head), plain(tail)), plain(text));
        }
    }

    #[test]
    fn what_misleads_is_shown_for_what_it_is() {
        let check = |text, expected: &str| assert_eq!(visible(text, false), expected, "{text:?}");
        check("a\u{202e}b", "a\\u{202e}b");
        check("rm\u{200b} -rf", "rm\\u{200b} -rf");
        check("\u{1b}[2J\n", "\\u{1b}[2J\\u{a}");
        check("tag\u{e0041}\u{fe0f}", "tag\\u{e0041}\\u{fe0f}");
        assert_eq!(visible("a\nb", true), "a\nb");
    }

    #[test]
    fn numbers_read_well() {
        let check = |bytes, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(1024 * 1024 - 1, "1.0 MiB");
        check(256 << 20, "256.0 MiB");
        check(u64::MAX, "16384.0 PiB");
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0, 999, 1500, 61_000, 3_660_000, 90_000_000].map(span),
            ["0 ms", "999 ms", "1.5 s", "1m 1s", "1h 1m", "1d 1h"]
        );
    }

    #[test]
    fn times_are_relative_for_people_and_absolute_for_programs() {
        let at = |delta: i64| LOOK.now.saturating_add_signed(delta);
        let check = |delta, expected: &str| assert_eq!(time(at(delta), &LOOK), expected);
        check(0, "now");
        check(-180_000, "3m ago");
        check(7_200_000, "in 2h");
        check(-200_000_000, "2d ago");
        assert_eq!(
            time(
                LOOK.now,
                &Look {
                    person: false,
                    ..LOOK
                }
            ),
            "2023-11-14T22:13:20Z"
        );
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(short("äöü äöü", 5), "äöü…");
        assert_eq!(short("short", 5), "short");
    }
}
