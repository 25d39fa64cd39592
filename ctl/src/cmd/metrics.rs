//! `pawctl metrics`: the text that programs collect, as it is.

use paw_api::system::Metrics;

use crate::{
    cli::Global,
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Out, text},
};

pub(super) async fn run(global: &Global, out: &mut Out) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let answer = pawd
        .call("ask for the metrics", "system.metrics", Params::none())
        .await?;
    out.answer(&answer, |metrics: &Metrics, _| {
        let lines = metrics.text.lines();
        lines
            .map(|line| format!("{}\n", text::line(line)))
            .collect()
    })?;
    Ok(exit::DONE)
}
