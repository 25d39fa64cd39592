//! pawd: parse, boot, exit code.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use mimalloc::MiMalloc;
use pawd::{
    boot::{Options, boot},
    exit::USAGE,
};
use zeroizing_alloc::ZeroAlloc;

/// Secrets pass through buffers of libraries on their way in and out; none of them keeps one after it was given back.
#[global_allocator]
static WIPES: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // The text is all there is to say; if it cannot be written, the exit code says it.
            drop(error.print());
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    #[cfg(debug_assertions)]
    if let Ok(place) = std::env::var(paw_store::point::VARIABLE) {
        paw_store::point::die_at(&place);
    }
    match boot(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            drop(writeln!(std::io::stderr(), "pawd: {:#}", fatal.error()));
            fatal.code()
        }
    }
}
