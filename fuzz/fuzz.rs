//! The fuzzer's program: libFuzzer drives the one target that `PAW_FUZZ` names. `fuzz/run` builds and starts it.
//!
//! Where `PAW_FUZZ_SEEDS` names a directory, the target's own seeds are written there first.

#![no_main]

use std::{env, fs, path::Path, process::exit, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use paw_fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: begin(),
    |bytes: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            (target.run)(bytes);
        }
    }
);

#[allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "it talks to whoever starts it"
)]
fn begin() {
    let named = env::var("PAW_FUZZ").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.name == named) else {
        for target in TARGETS {
            println!("{:<18} {}", target.name, target.what);
        }
        exit(if named == "list" { 0 } else { 64 });
    };
    if let Some(directory) = env::var_os("PAW_FUZZ_SEEDS") {
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            let place = Path::new(&directory).join(format!("seed-{number}"));
            if let Err(error) = fs::write(&place, seed) {
                eprintln!("cannot write {}: {error}", place.display());
                exit(74);
            }
        }
    }
    // Initialised once: this is called once.
    let _ = CHOSEN.set(target);
}
