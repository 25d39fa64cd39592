//! `pawctl`: asks pawd, shows the answer, says how it went by its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pawctl::run()
}
