//! Endpoints that call themselves compatible with OpenAI: llama.cpp, vLLM, LM Studio, Groq, OpenRouter and others. They know the
//! older names.

use super::completions::TokenLimit;
use super::openai;
use crate::chat::ChatRequest;

pub(super) fn question(request: &ChatRequest) -> Result<Vec<u8>, serde_json::Error> {
    openai::question(request, TokenLimit::Compatible)
}
