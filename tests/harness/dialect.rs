//! The words of each wire format, as a provider says them: answers in pieces, what stands around them, and refusals.

use serde_json::{Value, json};

/// What is said where nothing is wrong.
pub const TEXT: &str = "Hello world";

/// Tokens of each question.
pub const INPUT: u64 = 3;

/// Tokens of each answer.
pub const OUTPUT: u64 = 2;

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `ollama`
    Ollama,
    /// `openai`
    OpenAi,
    /// `openai-compatible`
    Compatible,
    /// `anthropic`
    Anthropic,
    /// `gemini`
    Gemini,
    /// `mistral`
    Mistral,
}

/// What a provider has against a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many questions in a short time.
    Rate,
    /// Nothing is left of what was paid for.
    Quota,
    /// It cannot serve now.
    Overload,
    /// The question is too long.
    Context,
    /// Its filter refuses the question.
    Filter,
    /// It does not know the key.
    Auth,
    /// It does not know the model.
    Model,
    /// It does not understand the question, and says no more.
    Bad,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ollama,
        Self::OpenAi,
        Self::Compatible,
        Self::Anthropic,
        Self::Gemini,
        Self::Mistral,
    ];

    /// The word for it in the configuration.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
            Self::Compatible => "openai-compatible",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Mistral => "mistral",
        }
    }

    /// One record of a stream.
    #[must_use]
    pub fn record(self, record: &Value) -> String {
        self.raw(&record.to_string())
    }

    /// Bytes where a record should be.
    #[must_use]
    pub fn raw(self, record: &str) -> String {
        match self {
            Self::Ollama => format!("{record}\n"),
            Self::Gemini => format!("data: {record}\r\n\r\n"),
            Self::OpenAi | Self::Compatible | Self::Anthropic | Self::Mistral => {
                format!("data: {record}\n\n")
            }
        }
    }

    /// What shows that somebody is there, and is no record of an answer.
    #[must_use]
    pub const fn alive(self) -> &'static str {
        match self {
            Self::Ollama => "\n",
            Self::Anthropic => "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            Self::OpenAi | Self::Compatible | Self::Gemini | Self::Mistral => ": wait\n\n",
        }
    }

    /// What comes before the first piece.
    #[must_use]
    pub fn opening(self) -> String {
        match self {
            Self::Ollama | Self::Gemini => String::new(),
            Self::OpenAi | Self::Compatible | Self::Mistral => self.record(&completion(
                &json!({"role": "assistant", "content": ""}),
                None,
            )),
            Self::Anthropic => {
                let usage = json!({"input_tokens": INPUT, "output_tokens": 1});
                let start =
                    json!({"type": "message_start", "message": {"model": "m", "usage": usage}});
                let block = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
                self.record(&start) + &self.record(&block)
            }
        }
    }

    /// A piece of an answer.
    #[must_use]
    pub fn piece(self, text: &str) -> String {
        self.record(&match self {
            Self::Ollama => {
                json!({"model": "m", "message": {"role": "assistant", "content": text}, "done": false})
            }
            Self::OpenAi | Self::Compatible | Self::Mistral => {
                completion(&json!({"content": text}), None)
            }
            Self::Anthropic => {
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
            }
            Self::Gemini => {
                json!({"modelVersion": "m", "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}]})
            }
        })
    }

    /// What comes after the last piece.
    #[must_use]
    pub fn ending(self) -> String {
        self.ends(["stop", "end_turn"])
    }

    /// The same with the word for why, as most say it and as Anthropic does; Ollama and Gemini have none for calls.
    fn ends(self, [why, of_anthropic]: [&str; 2]) -> String {
        match self {
            Self::Ollama => self.record(&json!({
                "model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop",
                "prompt_eval_count": INPUT, "eval_count": OUTPUT,
            })),
            Self::OpenAi | Self::Compatible => {
                let counts = json!({"model": "m", "choices": [], "usage": completion_usage()});
                self.record(&completion(&json!({}), Some(why)))
                    + &self.record(&counts)
                    + &self.raw("[DONE]")
            }
            Self::Mistral => {
                let mut last = completion(&json!({"content": ""}), Some(why));
                last["usage"] = completion_usage();
                self.record(&last) + &self.raw("[DONE]")
            }
            Self::Anthropic => [
                json!({"type": "content_block_stop", "index": 0}),
                json!({"type": "message_delta", "delta": {"stop_reason": of_anthropic}, "usage": {"output_tokens": OUTPUT}}),
                json!({"type": "message_stop"}),
            ]
            .iter()
            .map(|event| self.record(event))
            .collect(),
            Self::Gemini => self.record(&json!({
                "modelVersion": "m",
                "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": INPUT, "candidatesTokenCount": OUTPUT},
            })),
        }
    }

    /// The id of the only call of an answer; nothing where calls have none.
    #[must_use]
    pub const fn id_of_the_call(self) -> Option<&'static str> {
        match self {
            Self::OpenAi | Self::Compatible => Some("call_abc"),
            Self::Anthropic => Some("toolu_1"),
            Self::Mistral => Some("D681PevKs"),
            Self::Ollama | Self::Gemini => None,
        }
    }

    /// The beginning of an answer with a whole call of a tool, and not its end; where arguments are streamed, they come in two pieces.
    #[must_use]
    pub fn call(self, name: &str, arguments: &Value) -> String {
        let text = arguments.to_string();
        let (first, second) = text.split_at(text.len() / 2);
        let id = self.id_of_the_call();
        let call = match self {
            Self::Ollama => {
                let call = json!({"function": {"name": name, "arguments": arguments}});
                let message = json!({"role": "assistant", "content": "", "tool_calls": [call]});
                self.record(&json!({"model": "m", "message": message, "done": false}))
            }
            Self::OpenAi | Self::Compatible => {
                let begun = json!({"index": 0, "id": id, "type": "function", "function": {"name": name, "arguments": first}});
                let more = json!({"index": 0, "function": {"arguments": second}});
                [begun, more]
                    .iter()
                    .map(|call| self.record(&completion(&json!({"tool_calls": [call]}), None)))
                    .collect()
            }
            Self::Mistral => {
                let call =
                    json!({"index": 0, "id": id, "function": {"name": name, "arguments": text}});
                self.record(&completion(&json!({"tool_calls": [call]}), None))
            }
            Self::Anthropic => {
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                let piece = |text: &str| json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": text}});
                [
                    json!({"type": "content_block_stop", "index": 0}),
                    json!({"type": "content_block_start", "index": 1, "content_block": block}),
                    piece(first),
                    piece(second),
                    json!({"type": "content_block_stop", "index": 1}),
                ]
                .iter()
                .map(|event| self.record(event))
                .collect()
            }
            Self::Gemini => {
                let part = json!({"functionCall": {"name": name, "args": arguments}, "thoughtSignature": "sig"});
                self.record(&json!({"modelVersion": "m", "candidates": [{"index": 0, "content": {"role": "model", "parts": [part]}}]}))
            }
        };
        self.opening() + &call
    }

    /// A whole answer that calls a tool.
    #[must_use]
    pub fn calls(self, name: &str, arguments: &Value) -> String {
        let end = self.ends(["tool_calls", "tool_use"]);
        // The block of the text has ended already, and that of the call.
        let end = match self {
            Self::Anthropic => end
                .split_once("\n\n")
                .map(|(_, rest)| rest.to_owned())
                .unwrap_or_default(),
            _ => end,
        };
        self.call(name, arguments) + &end
    }

    /// A whole answer.
    #[must_use]
    pub fn answer(self) -> String {
        let (first, second) = TEXT.split_at(TEXT.len() / 2);
        self.opening() + &self.piece(first) + &self.piece(second) + &self.ending()
    }

    /// A whole answer without the last thing that makes it one, although all of it was said.
    #[must_use]
    pub fn unfinished(self) -> String {
        let whole = self.answer();
        let end = match self {
            Self::Ollama => self.ending().len(),
            Self::OpenAi | Self::Compatible | Self::Mistral => self.raw("[DONE]").len(),
            Self::Anthropic => self.record(&json!({"type": "message_stop"})).len(),
            Self::Gemini => self.ending().len(),
        };
        whole[..whole.len() - end].to_owned()
    }

    /// A refusal in this dialect: its status, and its body with these further details.
    #[must_use]
    pub fn refuses(self, refusal: Refusal, details: Option<Value>) -> (u16, String) {
        let (status, word, message) = self.words(refusal);
        let mut body = match self {
            Self::Ollama if details.is_none() => json!({"error": message}),
            Self::Ollama => json!({"error": {"message": message}}),
            Self::OpenAi | Self::Compatible => {
                json!({"error": {"message": message, "type": word, "param": null, "code": word}})
            }
            Self::Anthropic => {
                json!({"type": "error", "error": {"type": word, "message": message}, "request_id": "req_1"})
            }
            Self::Gemini => json!({"error": {"code": status, "message": message, "status": word}}),
            Self::Mistral => {
                json!({"object": "error", "message": message, "type": word, "param": null, "code": "1300"})
            }
        };
        if let Some(details) = details {
            let place = match self {
                Self::Mistral => &mut body,
                _ => &mut body["error"],
            };
            place["details"] = details;
        }
        (status, body.to_string())
    }

    /// Status, word and message of a refusal, as the provider was seen to say it.
    fn words(self, refusal: Refusal) -> (u16, &'static str, &'static str) {
        match (refusal, self) {
            (Refusal::Rate, Self::OpenAi | Self::Compatible) => {
                (429, "rate_limit_exceeded", "slow down")
            }
            (Refusal::Rate, Self::Anthropic) => (429, "rate_limit_error", "slow down"),
            (Refusal::Rate, Self::Gemini) => (429, "RESOURCE_EXHAUSTED", "slow down"),
            (Refusal::Rate, Self::Mistral) => (429, "rate_limited", "slow down"),
            (Refusal::Rate, Self::Ollama) => (429, "", "too many requests"),
            (Refusal::Quota, Self::Ollama) => (429, "", "you have reached your weekly usage limit"),
            (Refusal::Quota, Self::Anthropic) => (429, "billing_error", "nothing is left"),
            (Refusal::Quota, Self::Gemini) => (429, "RESOURCE_EXHAUSTED", "quota of the day"),
            (Refusal::Quota, Self::OpenAi | Self::Compatible | Self::Mistral) => {
                (429, "insufficient_quota", "check your plan")
            }
            (Refusal::Overload, Self::Anthropic) => (529, "overloaded_error", "Overloaded"),
            (Refusal::Overload, Self::Gemini) => (503, "UNAVAILABLE", "The model is overloaded."),
            (Refusal::Overload, Self::Ollama) => (503, "", "server busy, please try again"),
            (Refusal::Overload, Self::OpenAi | Self::Compatible | Self::Mistral) => {
                (503, "server_error", "The server is overloaded")
            }
            (Refusal::Context, Self::OpenAi | Self::Compatible) => {
                (400, "context_length_exceeded", "it is too long")
            }
            (Refusal::Context, Self::Anthropic) => (
                400,
                "invalid_request_error",
                "prompt is too long: 210000 tokens > 200000 maximum",
            ),
            (Refusal::Context, Self::Gemini) => (
                400,
                "INVALID_ARGUMENT",
                "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            ),
            (Refusal::Context, Self::Mistral) => (
                400,
                "invalid_request_error",
                "Prompt contains 9 tokens, too large for model with 8 maximum context length",
            ),
            (Refusal::Context, Self::Ollama) => {
                (400, "", "the input length exceeds the context length")
            }
            (Refusal::Filter, Self::OpenAi | Self::Compatible) => {
                (400, "content_filter", "it was filtered")
            }
            (Refusal::Filter, Self::Anthropic) => (
                400,
                "invalid_request_error",
                "Output blocked by content filtering policy",
            ),
            (Refusal::Filter, Self::Gemini) => (
                400,
                "INVALID_ARGUMENT",
                "blocked by content filtering policy",
            ),
            (Refusal::Filter, Self::Mistral) => {
                (400, "content_policy_violation", "it was filtered")
            }
            (Refusal::Filter, Self::Ollama) => {
                (400, "", "refused by the content management policy")
            }
            (Refusal::Auth, Self::OpenAi | Self::Compatible) => {
                (401, "invalid_api_key", "the key is wrong")
            }
            (Refusal::Auth, Self::Anthropic) => (401, "authentication_error", "invalid x-api-key"),
            (Refusal::Auth, Self::Gemini) => (401, "UNAUTHENTICATED", "the key is wrong"),
            (Refusal::Auth, Self::Mistral | Self::Ollama) => (401, "", "Unauthorized"),
            (Refusal::Bad, Self::OpenAi | Self::Compatible | Self::Anthropic | Self::Mistral) => {
                (400, "invalid_request_error", "a field is missing")
            }
            (Refusal::Bad, Self::Gemini) => (400, "INVALID_ARGUMENT", "a field is missing"),
            (Refusal::Bad, Self::Ollama) => (400, "", "a field is missing"),
            (Refusal::Model, Self::OpenAi | Self::Compatible) => {
                (404, "model_not_found", "there is no such model")
            }
            (Refusal::Model, Self::Anthropic) => (404, "not_found_error", "model: m"),
            (Refusal::Model, Self::Gemini) => (404, "NOT_FOUND", "models/m is not found"),
            (Refusal::Model, Self::Mistral | Self::Ollama) => (404, "", "model 'm' not found"),
        }
    }
}

/// One record of an answer over the wire of OpenAI: what is new, and why it stopped, if it did.
#[must_use]
pub fn completion(delta: &Value, finish: Option<&str>) -> Value {
    json!({"object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn completion_usage() -> Value {
    json!({"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT})
}
