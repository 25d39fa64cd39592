//! The words of a conversation with a model, the same for every provider.

use serde::Serialize;

/// One question to a model: the whole conversation so far, oldest message first.
///
/// `Debug` prints what people wrote; do not log it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model's name as the provider spells it.
    pub model: String,
    /// The conversation, oldest first. The caller bounds its size; the provider's context length is the real limit.
    pub messages: Vec<Message>,
    /// The most tokens the answer may have; the provider's own limit when `None`.
    pub max_tokens: Option<u32>,
    /// Sampling temperature; the provider's default when `None`. Not every model accepts one.
    pub temperature: Option<f32>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Whose words these are.
    pub role: Role,
    /// The words. Both dialects call the field `content` on the wire.
    #[serde(rename = "content")]
    pub text: String,
}

/// Whose words a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator's instructions.
    System,
    /// The person, or whatever stands in for one.
    User,
    /// The model's earlier answers.
    Assistant,
}

/// What a stream yields, in order: any number of `Text`, then exactly one `Done`, unless it fails.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// The next piece of the answer; never empty, at most about 1 MiB.
    Text(String),
    /// The answer is complete.
    Done(Done),
}

/// How a complete answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Why the model stopped.
    pub finish: Finish,
    /// What was counted, as far as the provider said.
    pub usage: Usage,
    /// The model that really answered, when the provider names it; it may differ from the one that was asked for.
    pub model: Option<String>,
}

/// Why a model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model came to its end.
    Stop,
    /// The token limit of the request or of the model was reached; the answer is shortened.
    Length,
    /// The provider withheld the rest.
    ContentFilter,
    /// A word we have no meaning for, at most 64 bytes and free of control characters.
    Other(String),
}

/// Tokens as the provider counted them; `None` is "not told", which is not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the question.
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, hidden reasoning included.
    pub output_tokens: Option<u64>,
}

/// A model that a provider offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The name to ask for; at most 256 bytes and free of control characters.
    pub name: String,
}

/// Whether a provider that answers can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers as it should.
    Ready,
    /// It is up and still loading its model; this is not an outage.
    Loading,
}
