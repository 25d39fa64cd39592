//! paw-launcher: makes, attests, reaps and kills sandboxes; root of its own user namespace, nobody on the host.

use std::process::ExitCode;

fn main() -> ExitCode {
    paw_launcher::program()
}
