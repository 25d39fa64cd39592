//! What a broker adds to a request: the header's value with the credential in it, and the forms in which that is looked for in the
//! answer. Both lie in memory that is locked, in no core dump, and wiped when the request is over.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use paw_api::egress::{MAX_SECRET, MIN_SECRET};
use paw_confine::sys::Locked;

use crate::leak::Forms;

/// Where in a header's value the credential stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    before: String,
    after: String,
}

/// A header's value with a credential in it. Cheap to clone; the last one that goes wipes it.
#[derive(Debug, Clone)]
pub struct Injected {
    /// The value, marked so that nobody prints it.
    pub value: HeaderValue,
    /// In which forms the credential is looked for in answers.
    pub forms: Arc<Forms>,
}

/// Why something can be no credential. It names nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It would be found where it is not.
    #[error("is shorter than {MIN_SECRET} characters")]
    Short,
    /// It is no text of a header's.
    #[error("is longer than {MAX_SECRET} characters")]
    Long,
    /// A header cannot carry it.
    #[error("has characters that no header can carry")]
    Characters,
    /// There is no memory that can be locked; `LimitMEMLOCK` bounds it.
    #[error("finds no memory that can be locked (LimitMEMLOCK)")]
    Memory,
}

impl Template {
    /// Reads a template, in which `{}` stands for the credential, once.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.split_once("{}")?;
        if after.contains("{}") || HeaderValue::from_str(text).is_err() {
            return None;
        }
        Some(Self {
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }

    /// Puts a credential in its place.
    ///
    /// # Errors
    /// When it can be none.
    pub fn fill(&self, credential: &[u8]) -> Result<Injected, Unfit> {
        if credential.len() < MIN_SECRET {
            return Err(Unfit::Short);
        }
        if credential.len() > MAX_SECRET {
            return Err(Unfit::Long);
        }
        let text = std::str::from_utf8(credential).map_err(|_| Unfit::Characters)?;
        let (before, after) = (self.before.as_bytes(), self.after.as_bytes());
        let length = before.len() + credential.len() + after.len();
        let mut filled = Locked::zeroed(length).map_err(|_| Unfit::Memory)?;
        let (start, rest) = filled.split_at_mut(before.len());
        let (middle, end) = rest.split_at_mut(credential.len());
        start.copy_from_slice(before);
        middle.copy_from_slice(credential);
        end.copy_from_slice(after);
        let bytes = Bytes::from_owner(Owned(filled));
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| Unfit::Characters)?;
        value.set_sensitive(true);
        let forms = Forms::of(text).map_err(|_| Unfit::Memory)?;
        Ok(Injected {
            value,
            forms: Arc::new(forms),
        })
    }
}

/// Locked memory as the owner of bytes.
struct Owned(Locked);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_stands_where_its_template_says() {
        let bearer = Template::parse("Bearer {}").unwrap();
        assert_eq!(
            bearer.fill(b"0123456789").unwrap().value,
            "Bearer 0123456789"
        );
        let both = Template::parse("token={};v=1").unwrap();
        assert_eq!(
            both.fill(b"0123456789").unwrap().value,
            "token=0123456789;v=1"
        );
        for none in ["Bearer", "{} {}", "a\nb {}"] {
            assert_eq!(Template::parse(none), None, "{none}");
        }
    }

    #[test]
    fn what_can_be_no_credential_is_refused_and_not_shown() {
        let template = Template::parse("{}").unwrap();
        let why = |credential: &[u8]| template.fill(credential).unwrap_err();
        assert_eq!(why(b"1234567"), Unfit::Short);
        assert_eq!(why(&[b'x'; MAX_SECRET + 1]), Unfit::Long);
        assert_eq!(why(b"01234567\r\nHost: other"), Unfit::Characters);
        assert_eq!(why(&[0xff; 16]), Unfit::Characters);
        let injected = template.fill(b"0123456789").unwrap();
        assert!(!format!("{injected:?}").contains("0123456789"));
    }
}
