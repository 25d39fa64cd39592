//! Values that stand nowhere by chance, and how they would be written where somebody tried to hide them.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A text in each of the six encodings: as it is, base64 at three alignments, hexadecimal, and as a URL has it.
#[must_use]
pub fn encodings(text: &str) -> Vec<Vec<u8>> {
    let hex = |upper: bool| {
        text.bytes()
            .map(|byte| {
                if upper {
                    format!("{byte:02X}")
                } else {
                    format!("{byte:02x}")
                }
            })
            .collect::<String>()
    };
    let url: String = text
        .chars()
        .map(|sign| match sign {
            sign if sign.is_ascii_alphanumeric() => sign.to_string(),
            sign => format!("%{:02X}", u32::from(sign)),
        })
        .collect();
    let mut all = vec![text.to_owned(), hex(false), hex(true), url];
    for before in 0..3 {
        let encoded = STANDARD.encode(format!("{}{text}", &"xyz"[..before]));
        // What depends on its neighbours is left out.
        let from = [0, 2, 3][before];
        let known = (before + text.len()) * 8 / 6;
        all.push(encoded[from..known].to_owned());
    }
    all.into_iter().map(String::into_bytes).collect()
}
