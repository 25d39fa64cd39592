//! Load loops, and the numbers that come of them.

mod chat;
mod numbers;
mod rpc;
mod sandbox;
mod stub;
mod worker;

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
        cli::Bench::Chat(load) => chat::run(global, out, load).await,
        cli::Bench::Sandbox(load) if load.worker => worker::run(global, out, load).await,
        cli::Bench::Sandbox(load) => sandbox::run(global, out, load).await,
    }
}
