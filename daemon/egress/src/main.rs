//! paw-egress: the only way from a sandbox to a network, in a process of its own.

mod start;

use std::process::ExitCode;

fn main() -> ExitCode {
    let options = match start::options() {
        Ok(options) => options,
        Err(code) => return code,
    };
    match start::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report(),
    }
}
