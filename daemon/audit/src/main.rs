//! paw-audit: the only writer of the audit log, in a process of its own.

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
