//! Whether an answer is text, and that text.

use http::{HeaderMap, header};

/// The longest content type that is told, in bytes.
const MAX_TYPE: usize = 128;

/// What an answer says that it is; in characters that can be shown.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.chars().take(MAX_TYPE).collect())
}

/// The text in these bytes, of an answer with these headers; nothing where it is none, or in letters that are not read here.
pub(crate) fn text_of(headers: &HeaderMap, bytes: &[u8]) -> Option<String> {
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded || bytes.contains(&0) {
        return None;
    }
    let Some(said) = content_type(headers) else {
        return whole(bytes).map(str::to_owned);
    };
    let said = said.to_ascii_lowercase();
    let (kind, parameters) = said.split_once(';').unwrap_or((&said, ""));
    if !is_text(kind.trim()) {
        return None;
    }
    match charset(parameters).as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii" | "ascii") => {
            Some(String::from_utf8_lossy(cut(bytes)).into_owned())
        }
        Some("iso-8859-1" | "latin1" | "latin-1") => {
            Some(bytes.iter().map(|byte| char::from(*byte)).collect())
        }
        Some(_) => None,
    }
}

/// Without the beginning of a letter that was cut off at the end.
fn cut(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        Ok(_) | Err(_) => bytes,
    }
}

fn whole(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(cut(bytes)).ok()
}

fn is_text(kind: &str) -> bool {
    kind.starts_with("text/")
        || ["+json", "+xml", "+yaml"]
            .iter()
            .any(|end| kind.ends_with(end))
        || matches!(
            kind,
            "application/json"
                | "application/xml"
                | "application/javascript"
                | "application/x-ndjson"
                | "application/x-www-form-urlencoded"
                | "application/yaml"
                | "application/toml"
                | "application/sql"
        )
}

fn charset(parameters: &str) -> Option<String> {
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        (name.trim() == "charset").then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: &str, bytes: &[u8]) -> Option<String> {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, kind.parse().expect("a value"));
        }
        text_of(&headers, bytes)
    }

    #[test]
    fn text_is_read_and_nothing_else() {
        let is = |kind, bytes: &[u8], expected: Option<&str>| {
            assert_eq!(text(kind, bytes).as_deref(), expected, "{kind}");
        };
        is("text/html", b"a", Some("a"));
        is(
            "Text/HTML; Charset=\"UTF-8\"",
            "\u{e4}".as_bytes(),
            Some("\u{e4}"),
        );
        is("text/plain;charset=iso-8859-1", b"\xe4", Some("\u{e4}"));
        is("text/plain;charset=koi8-r", b"\xe4", None);
        is("application/problem+json", b"{}", Some("{}"));
        is("application/octet-stream", b"a", None);
        is("image/png", b"a", None);
        is("", b"a", Some("a"));
        is("", b"\xff\xfe", None);
        is("text/plain", b"a\0b", None);
        // Cut in the middle of a letter.
        is("text/plain", b"a\xc3", Some("a"));
        is("text/plain", b"a\xffb", Some("a\u{fffd}b"));
    }

    #[test]
    fn what_is_compressed_is_no_text() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "text/html".parse().expect("a value"));
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().expect("a value"));
        assert_eq!(text_of(&headers, b"a"), None);
    }
}
