//! The words of the control socket: methods, messages, ids, error codes, and a client.
//!
//! Everything `pawctl` shows comes from the methods in here; others script against them, so they change only with a version
//! and a golden file in `daemon/api/wire/`. This crate says what is said, not who may say it: the table in [`methods`] names
//! the role that each method needs, and pawd enforces it in one place.

pub mod action;
pub mod agent;
pub mod audit;
pub mod budget;
#[cfg(feature = "client")]
pub mod client;
pub mod egress;
pub mod error;
pub mod events;
pub mod fault;
pub mod image;
pub mod job;
pub mod methods;
pub mod model;
pub mod provider;
pub mod sandbox;
pub mod secret;
pub mod skill;
pub mod system;
pub mod trail;
pub mod workspace;

pub use error::{Error, ErrorData, ErrorKind};

/// The version of the wire: the whole number changes when a script could break.
pub const WIRE_VERSION: &str = "1.0";
