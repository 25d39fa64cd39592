//! Errors as callers see them: a code, a sentence, and data that programs and people can act on.

use std::fmt;

use jsonrpsee::types::ErrorObjectOwned;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What went wrong, for programs. Each has one JSON-RPC code in -32000…-32099 and one exit code of pawctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Policy or role says no.
    Denied,
    /// No such thing.
    NotFound,
    /// The arguments are understood and cannot be meant.
    Invalid,
    /// Not possible in the present state, for example a second answer.
    Conflict,
    /// A queue or limit is full; `retry_after_ms` says when to come back.
    Busy,
    /// A part that this needs (launcher, audit, provider) is not there.
    Unavailable,
    /// It was tried and failed.
    Failed,
    /// The deadline passed.
    TimedOut,
    /// A fault of ours.
    Internal,
    /// The stream was cut because the reader was too slow; `id` says where to resume.
    Cut,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Denied,
        Self::NotFound,
        Self::Invalid,
        Self::Conflict,
        Self::Busy,
        Self::Unavailable,
        Self::Failed,
        Self::TimedOut,
        Self::Internal,
        Self::Cut,
    ];

    /// The JSON-RPC error code.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Denied => -32001,
            Self::NotFound => -32002,
            Self::Invalid => -32003,
            Self::Conflict => -32004,
            Self::Busy => -32005,
            Self::Unavailable => -32006,
            // -32007 to -32009 are jsonrpsee's own: request too big, response too big, batch.
            Self::Failed => -32020,
            Self::TimedOut => -32021,
            Self::Internal => -32022,
            Self::Cut => -32023,
        }
    }

    /// The exit code of pawctl, as the contract lists them.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Denied => 4,
            Self::NotFound => 6,
            Self::TimedOut => 124,
            Self::Invalid => 2,
            Self::Conflict
            | Self::Busy
            | Self::Unavailable
            | Self::Failed
            | Self::Internal
            | Self::Cut => 1,
        }
    }

    /// The kind of a code, if it is one of ours.
    #[must_use]
    pub fn of_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// `data` of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorData {
    /// For programs.
    pub kind: ErrorKind,
    /// What to do about it.
    pub hint: String,
    /// When trying again makes sense, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The thing that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// An error on its way to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// One sentence: what failed and why.
    pub message: String,
    /// The rest.
    pub data: ErrorData,
}

impl Error {
    /// An error of this kind; `message` says what failed and why, `hint` what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            data: ErrorData {
                kind,
                hint: hint.into(),
                retry_after_ms: None,
                id: None,
            },
        }
    }

    /// The same, about this thing.
    #[must_use]
    pub fn about(mut self, id: impl Into<String>) -> Self {
        self.data.id = Some(id.into());
        self
    }

    /// The same, with a time to come back.
    #[must_use]
    pub const fn retry_after_ms(mut self, ms: u64) -> Self {
        self.data.retry_after_ms = Some(ms);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for ErrorObjectOwned {
    fn from(error: Error) -> Self {
        Self::owned(error.data.kind.code(), error.message, Some(error.data))
    }
}
