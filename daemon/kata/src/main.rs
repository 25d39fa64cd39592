//! paw-launcher-kata: makes sandboxes through a containerd shim, with the real root that a virtual machine needs. Opt-in.

use std::process::ExitCode;

fn main() -> ExitCode {
    paw_launcher::kata_program()
}
