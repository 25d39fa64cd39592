//! The audit log, through its files and its socket: one binary, because each one is a link.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod crash;
mod door;
mod faults;
mod forger;
mod keys;
mod mutations;
mod old;
mod pages;
mod proofs;
mod room;
mod rotation;
mod support;
mod vaults;
