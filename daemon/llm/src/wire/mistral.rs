//! Mistral's chat completions: the usage comes unasked, a call that must be made is `any`, and the id of a call has nine
//! letters or digits, so that ids of other providers (after a failover in the middle of a conversation) are translated.

use std::borrow::Cow;

use super::completions::{self, Manners, TokenLimit};
use crate::chat::ChatRequest;

/// Letters of a call's id.
const ID: usize = 9;

pub(super) fn question(request: &ChatRequest) -> Result<Vec<u8>, serde_json::Error> {
    completions::question(
        request,
        Manners {
            limit: TokenLimit::Compatible,
            asks_for_usage: false,
            required: "any",
            id,
        },
    )
}

/// The same id for the same id, in nine letters; those that fit stay.
fn id(id: &str) -> Cow<'_, str> {
    if id.len() == ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Cow::Borrowed(id);
    }
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // FNV-1a: two ids of one conversation meet once in ten thousand million million.
    let mut hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let letters = std::iter::repeat_with(|| {
        let letter = LETTERS[usize::try_from(hash % 62).unwrap_or(0)];
        hash /= 62;
        char::from(letter)
    });
    Cow::Owned(letters.take(ID).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_others_become_nine_letters_and_stay_apart() {
        assert_eq!(id("D681PevKs"), "D681PevKs");
        for other in ["call_0", "toolu_01A09q90qw90lq917835lq9", "", "ümläute12"] {
            let ours = id(other);
            assert_eq!(ours.len(), ID, "{other}");
            assert!(ours.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(ours, id(other));
        }
        assert_ne!(id("call_0"), id("call_1"));
    }
}
