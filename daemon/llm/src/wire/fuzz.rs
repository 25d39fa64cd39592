//! What providers say besides their answers, for the fuzzer: lists of models, errors, news of a pull.

use super::{Mask, ProviderKind, fault, is_healthy, library, models};
use crate::error::LlmError;

/// Reads a body as everything that a provider of this kind may say outside of an answer.
pub fn beside(kind: ProviderKind, body: &[u8], mask: &Mask) {
    if let Ok(page) = models(kind, body) {
        assert!(page.models.iter().all(|model| super::is_name(&model.name)));
    }
    let _ = is_healthy(kind, body);
    for status in [None, Some(400), Some(429), Some(500)] {
        told(&fault::judge(status, body, fault::Wish::default(), mask));
    }
    let _ = super::about(body);
    let _ = library::running(body);
    let _ = library::held(body, mask);
    let mut pull = library::Pull::default();
    if pull.push(body, mask).is_ok() {
        let _ = pull.finish(mask);
    }
}

/// An error is shown to people and to callers, whatever is in it.
fn told(error: &LlmError) {
    let _ = error.to_string();
}
