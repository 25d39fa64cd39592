//! paw-egress: the only way from a sandbox to a network, in a process of its own.

mod start;

use std::{alloc::System, process::ExitCode};

use zeroizing_alloc::ZeroAlloc;

/// Credentials pass through buffers of libraries; none of them keeps one after it was given back.
#[global_allocator]
static WIPES: ZeroAlloc<System> = ZeroAlloc(System);

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
