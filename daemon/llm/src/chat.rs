//! The words of a conversation with a model, the same for every provider.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Value, value::RawValue};

/// One question to a model: the whole conversation so far, oldest message first.
///
/// `Debug` prints what people wrote; do not log it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model's name as the provider spells it.
    pub model: String,
    /// The conversation, oldest first. The caller bounds its size; the provider's context length is the real limit.
    pub messages: Vec<Message>,
    /// What the model may call; it is told nothing of tools when there are none. Shared, because it is the same in most questions.
    pub tools: Arc<[Tool]>,
    /// Whether it has to call one.
    pub tool_choice: ToolChoice,
    /// The shape of the answer; free text when `None`.
    pub schema: Option<Schema>,
    /// The most tokens the answer may have; the provider's own limit when `None`.
    pub max_tokens: Option<u32>,
    /// Sampling temperature; the provider's default when `None`. Not every model accepts one.
    pub temperature: Option<f32>,
    /// Whether the answer comes piece by piece. Without it, one event carries the whole text.
    pub stream: bool,
}

impl ChatRequest {
    /// A streamed question without tools, in free text.
    #[must_use]
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self {
            model: model.into(),
            messages,
            tools: Arc::default(),
            tool_choice: ToolChoice::Auto,
            schema: None,
            max_tokens: None,
            temperature: None,
            stream: true,
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The operator's instructions.
    System(String),
    /// The person, or whatever stands in for one.
    User(Vec<Part>),
    /// What the model said earlier.
    Assistant {
        /// Its words; may be empty beside calls.
        text: String,
        /// The tools it called, in its order.
        calls: Vec<ToolCall>,
    },
    /// What a tool that it called gave back.
    Tool(ToolResult),
}

impl Message {
    /// A person's words.
    #[must_use]
    pub fn user(text: impl Into<String>) -> Self {
        Self::User(vec![Part::Text(text.into())])
    }

    /// The model's words, without calls.
    #[must_use]
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::Assistant {
            text: text.into(),
            calls: Vec::new(),
        }
    }
}

/// A piece of what a person shows a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// A picture.
    Image(Image),
}

/// A picture, as bytes. It is sent in the request itself: no provider is asked to fetch an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its format.
    pub format: ImageFormat,
    /// The file's bytes in base64, standard alphabet, padded.
    pub base64: String,
}

/// The formats of pictures that every provider with pictures takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    Webp,
    /// GIF, of which models see the first picture.
    Gif,
}

impl ImageFormat {
    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }
}

/// A function that a model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`, at most 64 bytes, which every provider takes.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON schema of its arguments, an object.
    pub parameters: Parameters,
}

/// A JSON schema as it is sent: written once, and told with many questions.
#[derive(Debug, Clone)]
pub struct Parameters(Box<RawValue>);

impl Parameters {
    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl From<&Value> for Parameters {
    fn from(schema: &Value) -> Self {
        Self(RawValue::from_string(schema.to_string()).expect("what a value is written as is JSON"))
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Parameters {}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// Whether a model has to call a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// Not now, although tools are told.
    None,
    /// At least one. Ollama has no word for it and is not told.
    Required,
    /// This one. Ollama has no word for it, and Mistral is told [`ToolChoice::Required`]'s word with this one by name.
    Named(String),
}

/// A tool call that a model makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Names the call, so that its result can be told. Where the provider gives none, `call_0`, `call_1`, and so on.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// The arguments as JSON text, as the model wrote them: it may be wrong JSON. `{}` when there are none.
    pub arguments: String,
    /// What the provider wants back unchanged with the result (Gemini's thought signature).
    pub signature: Option<String>,
}

/// What a tool gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// [`ToolCall::id`].
    pub id: String,
    /// [`ToolCall::name`].
    pub name: String,
    /// The result, as text.
    pub text: String,
    /// Whether the tool failed; then the text says why.
    pub failed: bool,
}

/// The shape that an answer has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// A name for it, of the same letters as a tool's.
    pub name: String,
    /// JSON schema of the answer.
    pub schema: Value,
}

/// What a stream yields, in order: any number of `Text`, the tool calls, then exactly one `Done`, unless it fails.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// The next piece of the answer; never empty, at most about 1 MiB.
    Text(String),
    /// A complete tool call. They come after the text, because a model may still change its arguments until its end.
    ToolCall(ToolCall),
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
    /// It waits for the results of the tools that it called.
    ToolCalls,
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
    /// Tokens of the question, those from a cache included.
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, hidden reasoning included.
    pub output_tokens: Option<u64>,
    /// Of the question's tokens, those that the provider had in its cache.
    pub cached_tokens: Option<u64>,
    /// Of the answer's tokens, those of hidden reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// A model that a provider offers. What the provider does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The name to ask for; at most 256 bytes and free of control characters.
    pub name: String,
    /// Tokens of question and answer together that it can hold.
    pub context: Option<u64>,
    /// Whether it can call tools.
    pub tools: Option<bool>,
    /// Whether it can see pictures.
    pub vision: Option<bool>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

impl Model {
    /// A model of which only the name is known.
    pub(crate) fn named(name: String) -> Self {
        Self {
            name,
            context: None,
            tools: None,
            vision: None,
            size: None,
        }
    }
}

/// Whether a provider that answers can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers as it should.
    Ready,
    /// It is up and still loading its model; this is not an outage.
    Loading,
}
