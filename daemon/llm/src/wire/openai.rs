//! OpenAI's chat completions, and any compatible endpoint that is configured by this name.

use std::borrow::Cow;

use super::completions::{self, Manners, TokenLimit};
use crate::chat::ChatRequest;

pub(super) fn question(
    request: &ChatRequest,
    limit: TokenLimit,
) -> Result<Vec<u8>, serde_json::Error> {
    completions::question(
        request,
        Manners {
            limit,
            asks_for_usage: true,
            required: "required",
            id: |id| Cow::Borrowed(id),
        },
    )
}
