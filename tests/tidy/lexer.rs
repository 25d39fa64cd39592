//! Just enough of Rust's grammar to tell code from comments, texts and tests. Not a parser: it never fails, it only blanks.

/// `text` with every comment and the inside of every literal blanked; lines keep their numbers.
pub(crate) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => text_end(bytes, at + 1),
            b'r' if !word_before(bytes, at) => raw_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        for byte in &mut out[at..end.max(at)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Only whole characters were blanked or kept, so this is UTF-8 as before.
    String::from_utf8_lossy(&out).into_owned()
}

/// What of [`code`] is part of the product: without the items under `#[cfg(test)]`.
pub(crate) fn product(text: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = code(text);
    while let Some(start) = code.find(MARK) {
        let rest = &code[start..];
        let open = rest.find('{').unwrap_or(rest.len());
        let semicolon = rest.find(';').unwrap_or(rest.len());
        let length = if semicolon < open {
            semicolon + 1
        } else {
            open + block(&rest[open..])
        };
        let blank: String = code[start..start + length]
            .chars()
            .map(|char| if char == '\n' { '\n' } else { ' ' })
            .collect();
        code.replace_range(start..start + length, &blank);
    }
    code
}

/// Lines (from 1) in which `word` stands as a whole word.
pub(crate) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    code.lines()
        .enumerate()
        .filter(|(_, line)| has_word(line, word))
        .map(|(index, _)| index + 1)
        .collect()
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let is_part =
        |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || char == '_');
    let (opens, closes) = (
        is_part(word.chars().next()),
        is_part(word.chars().next_back()),
    );
    line.match_indices(word).any(|(at, _)| {
        let before = opens && is_part(line[..at].chars().next_back());
        let after = closes && is_part(line[at + word.len()..].chars().next());
        !before && !after
    })
}

/// Length of the block that starts `text`, both braces included.
fn block(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, char) in text.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| at + length)
}

fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut next) = (0_usize, at);
    while next < bytes.len() {
        if bytes[next..].starts_with(b"/*") {
            depth += 1;
            next += 2;
        } else if bytes[next..].starts_with(b"*/") {
            depth -= 1;
            next += 2;
            if depth == 0 {
                return next;
            }
        } else {
            next += 1;
        }
    }
    next
}

fn text_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a raw text at `at`, or `at` if the `r` begins something else.
fn raw_end(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return at;
    }
    let close: Vec<u8> = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let from = at + 2 + hashes;
    bytes[from..]
        .windows(close.len())
        .position(|window| window == close)
        .map_or(bytes.len(), |length| from + length + close.len())
}

/// The end of a character literal at `at`, or `at` for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'\\') => bytes[at + 3..]
            .iter()
            .position(|byte| *byte == b'\'')
            .map_or(at, |length| at + 3 + length + 1),
        Some(_) => {
            let rest =
                String::from_utf8_lossy(&bytes[at + 1..bytes.len().min(at + 6)]).into_owned();
            let length = rest.chars().next().map_or(0, char::len_utf8);
            if bytes.get(at + 1 + length) == Some(&b'\'') {
                at + length + 2
            } else {
                at
            }
        }
        None => at,
    }
}

/// Whether a letter before `at` makes it part of a longer name, as the `r` of `for`; the `b` of `br"…"` does not.
fn word_before(bytes: &[u8], at: usize) -> bool {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match at.checked_sub(1).map(|before| bytes[before]) {
        Some(b'b') => at.checked_sub(2).is_some_and(|before| part(bytes[before])),
        Some(byte) => part(byte),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, kept: &str) {
        assert_eq!(
            code(text).split_whitespace().collect::<Vec<_>>().join(" "),
            kept,
            "{text}"
        );
    }

    #[test]
    fn comments_and_texts_are_blanked_and_code_stays() {
        check("a(); // unsafe", "a();");
        check("a /* x /* y */ z */ b", "a b");
        check(r#"f("unsafe \" {", x)"#, "f( , x)");
        check(
            r###"f(r#"a "quoted" unsafe"#, b"x", br"y")"###,
            "f( , b , b )",
        );
        check(
            r"let c = '{'; let d = '\''; let e: &'static str; let f = '\u{1b}';",
            "let c = ; let d = ; let e: &'static str; let f = ;",
        );
        check("for x in \"é\".chars() {}", "for x in .chars() {}");
        assert_eq!(code("a\n/* \n */ b").lines().count(), 3);
    }

    #[test]
    fn items_under_cfg_test_are_no_product() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { if x { y } } }\nfn c() {}\n#[cfg(test)]\nmod more;\n";
        let left = product(text);
        assert!(
            left.contains("fn a")
                && left.contains("fn c")
                && !left.contains("fn b")
                && !left.contains("more"),
            "{left}"
        );
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("an unsafe fn", "unsafe") && !has_word("unsafe_code", "unsafe"));
        assert!(has_word("thread::sleep(x)", "sleep") && !has_word("sleep_until(x)", "sleep"));
    }
}
