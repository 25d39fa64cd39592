//! Providers of language models: wire formats, streaming, timeouts, typed errors.
//!
//! This crate is the daemon's only home of `reqwest` and TLS. It opens one answer at a time and says truthfully how it
//! ended: with its terminator ([`ChatEvent::Done`]) or with one [`LlmError`]. A truncated answer is never a success.
//!
//! ```text
//! ProviderConfig ─ checked once ─▶ Provider ─ chat ─▶ ChatStream ─▶ Text … Text Done
//!                                     │                  │ bytes
//!                                     └─ reqwest         └─ wire: lines → records → events   (pure)
//! ```
//!
//! It deliberately does not know retries, failover, budgets, routes, agents or the configuration file: whoever calls
//! [`Provider::chat`] decides by [`LlmError::kind`] what to do next.

mod cache;
mod chat;
mod config;
mod error;
mod models;
mod provider;
mod said;
mod stream;
pub mod wire;

pub use cache::Looks;
pub use chat::{
    ChatEvent, ChatRequest, Done, Finish, Health, Image, ImageFormat, Message, Model, Parameters,
    Part, Schema, Tool, ToolCall, ToolChoice, ToolResult, Usage,
};
pub use config::{ConfigError, KeySource, ProviderConfig, ProviderKind, Timeouts};
pub use error::{Cause, Level, LlmError, Step};
pub use models::{Fill, PullStream, Pulled, looks};
pub use provider::Provider;
pub use said::{Mask, Said};
pub use stream::{ChatStream, Told};
