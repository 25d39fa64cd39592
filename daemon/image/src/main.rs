//! paw-image; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    paw_image::program()
}
