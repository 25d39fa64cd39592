//! Faults of the protocol itself: what is answered before any method of ours was reached.
//!
//! The codes are those of JSON-RPC 2.0 and, for sizes, the ones that jsonrpsee uses; `data` has the same shape as in every
//! other error, so that a client needs one way to read both.

use jsonrpsee::types::ErrorObjectOwned;

use crate::error::{ErrorData, ErrorKind};

/// A fault of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault<'a> {
    /// The frame is not JSON, or not UTF-8.
    NotJson,
    /// It is JSON and not a request.
    NotARequest,
    /// Arrays and objects are nested deeper than `limit`.
    TooDeep {
        /// The deepest nesting that is read.
        limit: usize,
    },
    /// No such method.
    UnknownMethod {
        /// What was asked for, as it was written.
        method: &'a str,
    },
    /// The parameters do not fit the method.
    BadParams {
        /// What does not fit.
        why: &'a str,
    },
    /// The frame is longer than `limit` bytes.
    RequestTooBig {
        /// The longest frame that is read.
        limit: usize,
    },
    /// The answer would be longer than `limit` bytes.
    AnswerTooBig {
        /// The longest answer that is sent.
        limit: usize,
    },
    /// The batch has more than `limit` requests.
    BatchTooBig {
        /// The most requests of one batch.
        limit: usize,
    },
    /// The answers of a batch would together be longer than `limit` bytes.
    BatchAnswerTooBig {
        /// The longest answer that is sent.
        limit: usize,
    },
}

/// Codes of [`Fault`] with their names, as `rpc.discover` lists them.
pub const CODES: [(i32, &str); 8] = [
    (-32700, "not JSON"),
    (-32600, "not a request"),
    (-32601, "unknown method"),
    (-32602, "bad parameters"),
    (-32007, "request too big"),
    (-32008, "answer too big"),
    (-32010, "batch too big"),
    (-32011, "answer of the batch too big"),
];

/// Longest piece of a caller's own text that is repeated in an error, in bytes.
const MAX_QUOTE: usize = 128;

impl Fault<'_> {
    /// The JSON-RPC error code.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::NotJson => -32700,
            Self::NotARequest | Self::TooDeep { .. } => -32600,
            Self::UnknownMethod { .. } => -32601,
            Self::BadParams { .. } => -32602,
            Self::RequestTooBig { .. } => -32007,
            Self::AnswerTooBig { .. } => -32008,
            Self::BatchTooBig { .. } => -32010,
            Self::BatchAnswerTooBig { .. } => -32011,
        }
    }

    fn message(self) -> String {
        match self {
            Self::NotJson => "the frame is not JSON".into(),
            Self::NotARequest => "this is not a JSON-RPC 2.0 request".into(),
            Self::TooDeep { limit } => format!("the request is nested deeper than {limit}"),
            Self::UnknownMethod { method } => format!("no method {:?}", quoted(method)),
            Self::BadParams { why } => format!("bad parameters: {}", quoted(why)),
            Self::RequestTooBig { limit } => format!("the request is longer than {limit} bytes"),
            Self::AnswerTooBig { limit } => format!("the answer is longer than {limit} bytes"),
            Self::BatchTooBig { limit } => format!("the batch has more than {limit} requests"),
            Self::BatchAnswerTooBig { limit } => {
                format!("the answers of the batch are together longer than {limit} bytes")
            }
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::NotJson => {
                "send one JSON value in UTF-8 for each frame; on a plain connection each ends with a newline"
            }
            Self::NotARequest => {
                r#"send {"jsonrpc":"2.0","id":1,"method":"system.ping"}, or an array of such requests"#
            }
            Self::TooDeep { .. } => "send flatter arguments",
            Self::UnknownMethod { .. } => "rpc.discover lists every method",
            Self::BadParams { .. } => "rpc.discover lists the parameters of every method",
            Self::RequestTooBig { .. } => "send less at a time",
            Self::AnswerTooBig { .. } => {
                "ask for less: a smaller limit, one thing instead of a list"
            }
            Self::BatchTooBig { .. } | Self::BatchAnswerTooBig { .. } => "send smaller batches",
        }
    }

    const fn kind(self) -> ErrorKind {
        match self {
            Self::UnknownMethod { .. } => ErrorKind::NotFound,
            Self::NotJson
            | Self::NotARequest
            | Self::TooDeep { .. }
            | Self::BadParams { .. }
            | Self::RequestTooBig { .. }
            | Self::AnswerTooBig { .. }
            | Self::BatchTooBig { .. }
            | Self::BatchAnswerTooBig { .. } => ErrorKind::Invalid,
        }
    }
}

impl From<Fault<'_>> for ErrorObjectOwned {
    fn from(fault: Fault<'_>) -> Self {
        let data = ErrorData {
            kind: fault.kind(),
            hint: fault.hint().into(),
            retry_after_ms: None,
            id: None,
        };
        Self::owned(fault.code(), fault.message(), Some(data))
    }
}

/// The beginning of a text that a caller sent.
fn quoted(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_QUOTE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_wrote_is_quoted_in_part_only() {
        let error = ErrorObjectOwned::from(Fault::UnknownMethod {
            method: &"ä".repeat(10_000),
        });
        assert_eq!(
            error.message(),
            format!("no method \"{}\"", "ä".repeat(MAX_QUOTE / 2))
        );
    }

    #[test]
    fn no_code_of_the_protocol_is_one_of_ours() {
        for (code, _) in CODES {
            assert_eq!(ErrorKind::of_code(code), None);
        }
    }
}
