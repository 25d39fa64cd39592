//! pawd: hosts AI agents as a system service under zero trust.
//!
//! The binary is a table of contents ([`boot`]); everything it does is here, so that tests can look at each part. The map and
//! the invariants, each with the test that holds it, are in `daemon/ARCHITECTURE.md`.

pub mod agent;
pub mod audit;
pub mod boot;
pub mod canaries;
pub mod clock;
pub mod codes;
pub mod config;
pub mod events;
pub mod exit;
pub mod fits;
pub mod gateway;
pub mod grants;
pub mod intake;
pub mod jobs;
pub mod labels;
pub mod metrics;
pub mod models;
pub mod orchestrator;
pub mod pictures;
pub mod prove;
pub mod providers;
pub mod questions;
pub mod quota;
pub mod records;
pub mod reload;
pub mod retention;
pub mod rpc;
pub mod sandbox;
pub mod schema;
pub mod screen;
pub mod secrets;
pub mod skills;
pub mod storage;
pub mod workspaces;
