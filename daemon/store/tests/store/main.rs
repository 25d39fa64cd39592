//! The store, through its public face: one binary, because each one is a link.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]

mod backup;
mod crash;
mod damage;
mod notes;
mod pages;
mod room;
mod sessions;
mod support;
