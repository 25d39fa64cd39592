//! The only way from a sandbox to a network: rules, pinned addresses, injected credentials.
//!
//! ```text
//!  pawd ── one connection for each run ──► run ─► lane ─► proxy ─┬─► tunnel ─► server
//!                                                               └─► plain ──► server, or broker's endpoint with its credential
//! ```
//!
//! - [`ceiling`]: what may be reached at most, from `egress.toml`, which is root's.
//! - [`rules`]: what one run may reach, and what is left of it.
//! - [`head`], [`target`]: what a request asks for, if it can be read in one way only.
//! - [`address`], [`upstream`]: which addresses may be reached; the one that was checked is the one that is connected to.
//! - [`hello`]: the name that an encrypted connection asks for.
//! - [`hand`], [`inject`]: credentials on their way in and out; [`leak`]: credentials in answers.
//! - [`run`], [`serve`]: the protocol with pawd.
//! - [`witness`]: checkpoints of the audit log on their way to another host.
//!
//! It keeps nothing: no store, no vault, no file; what it is handed for a request it has for that request. All foreign bytes of the network side are parsed here, by a process that can do
//! nothing else.

pub mod address;
pub mod ceiling;
pub mod hand;
pub mod head;
pub mod hello;
mod hosts;
pub mod inject;
mod lane;
pub mod leak;
pub mod names;
mod plain;
mod proxy;
pub mod rules;
pub mod run;
pub mod serve;
pub mod target;
mod tunnel;
pub mod upstream;
pub mod witness;
