//! paw-egress from outside: a sandbox that tries to get further than its rules, against real servers on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod broker;
mod bypass;
mod limits;
mod process;
mod rig;
mod rules;
mod secure;
