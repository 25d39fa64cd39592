//! The load loop: raw lines on raw sockets, so that what is measured is pawd and not a client library.

mod rpc;

use crate::{
    cli::{self, Global},
    fail::Failure,
    render::Out,
};

/// Runs a measurement.
pub(crate) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Bench,
) -> Result<u8, Failure> {
    match command {
        cli::Bench::Rpc {
            requests,
            concurrency,
            duration,
        } => rpc::run(global, out, requests, concurrency, duration).await,
    }
}
