//! paw-shim; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    paw_shim::program()
}
