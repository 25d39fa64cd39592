//! Pictures that come with a question. What one is, its own bytes say and nobody's word; what cannot be recognised is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use paw_llm::{Image, ImageFormat};

/// The most pictures of one question.
pub const MOST: usize = 4;

/// The most bytes of all pictures of a question, in base64. They are part of the plan, which is shown, stored and bound to an approval
/// as a whole.
pub const BYTES: usize = 160 * 1024;

/// A picture of standard, padded base64; nothing if it is none that models see.
#[must_use]
pub fn picture(base64: &str) -> Option<Image> {
    let bytes = STANDARD.decode(base64).ok()?;
    let format = match bytes.as_slice() {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => ImageFormat::Png,
        [0xff, 0xd8, 0xff, ..] => ImageFormat::Jpeg,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => ImageFormat::Gif,
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => ImageFormat::Webp,
        _ => return None,
    };
    Some(Image {
        format,
        base64: base64.to_owned(),
    })
}

/// What is wrong with the pictures of a question.
///
/// # Errors
/// What, for the caller.
pub fn check(pictures: &[String]) -> Result<(), String> {
    if pictures.len() > MOST {
        return Err(format!(
            "{} pictures; at most {MOST} are taken",
            pictures.len()
        ));
    }
    let bytes: usize = pictures.iter().map(String::len).sum();
    if bytes > BYTES {
        return Err(format!(
            "pictures of {bytes} bytes in base64; at most {BYTES} are taken"
        ));
    }
    match pictures.iter().position(|base64| picture(base64).is_none()) {
        Some(at) => Err(format!(
            "picture {at} is no PNG, JPEG, WebP or GIF in base64"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_what_the_bytes_say() {
        let format = |bytes: &[u8]| picture(&STANDARD.encode(bytes)).map(|image| image.format);
        assert_eq!(format(b"\x89PNG\r\n\x1a\n..."), Some(ImageFormat::Png));
        assert_eq!(format(b"\xff\xd8\xff\xe0..."), Some(ImageFormat::Jpeg));
        assert_eq!(format(b"GIF89a..."), Some(ImageFormat::Gif));
        assert_eq!(format(b"RIFF\x04\0\0\0WEBPVP8 "), Some(ImageFormat::Webp));
        assert_eq!(format(b"<svg>"), None);
        assert_eq!(format(b""), None);
        assert_eq!(picture("not base64"), None);
    }

    #[test]
    fn pictures_have_bounds() {
        let small = STANDARD.encode(b"GIF89a");
        assert_eq!(check(&vec![small.clone(); MOST]), Ok(()));
        assert!(check(&vec![small.clone(); MOST + 1]).is_err());
        let mut bytes = b"GIF89a".to_vec();
        bytes.resize(BYTES / 4 * 3, 0);
        assert_eq!(check(&[STANDARD.encode(&bytes)]), Ok(()));
        assert!(check(&[STANDARD.encode(&bytes), small]).is_err());
    }
}
