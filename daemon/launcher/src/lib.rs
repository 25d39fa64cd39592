//! Makes, attests, reaps and kills sandboxes; root of its own user namespace, nobody on the host.
//!
//! One thread, no network, no secret. It believes nothing pawd says: each request is checked against `launcher.toml`, which is
//! root's, and what was made is read back from the kernel before pawd may use it.
//!
//! - `start`: from root, or from a unit's user with two capabilities, to the inside of the user namespace.
//! - `door`: the process that stays outside and lets only pawd in.
//! - `serve`, `answer`, `connection`: the loop, what it is asked, and the wire.
//! - `sandbox`, `spawn`, `refused`: one sandbox's life, and why it did not begin; `ceilings`, `slots`, `bundle`, `cgroup`, `attest` are what it is made of.
//! - `runtime`: what makes sandboxes, one trait for all.
//! - `job`, `image`: short-lived programs of ours that work on the state, and what the one for images is asked.
//! - `kata`: the launcher for virtual machines, a program of its own with real root.
//! - [`hierarchies`], [`unmount`]: what that one and paw-shim remove behind a shim.
//! - `waiting`, `memory`: sandboxes that wait for their first command, and when the host has no memory for them.
//! - `workspaces`: a layer for each run that writes to a workspace, and what becomes of it.
//! - `sweep`: what an earlier life left behind.
//! - `steps`: how long everything took.
//!
//! A library and a program: the launcher for virtual machines shares all of this but the start.

mod answer;
mod attest;
mod bundle;
mod ceilings;
mod cgroup;
mod connection;
mod door;
mod ends;
#[doc(hidden)]
pub mod fuzz;
pub mod hierarchies;
mod host;
mod image;
mod job;
mod kata;
mod memory;
mod pseudo;
mod refused;
mod runtime;
mod sandbox;
mod serve;
mod slots;
mod spawn;
mod start;
mod steps;
mod sweep;
pub mod unmount;
mod waiting;
mod workspaces;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use tracing::error;

/// Makes, attests, reaps and kills sandboxes for pawd.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Descriptor of the listening SEQPACKET socket; without it, the one that systemd passes.
    #[arg(long)]
    listen_fd: Option<i32>,
    /// What may be asked for at most; must be root's. Without it, the file in /etc/pawd that has the name of this launcher.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Bundles and workspaces.
    #[arg(long)]
    state: PathBuf,
    /// Where paw-create and paw-init are.
    #[arg(long)]
    libexec: PathBuf,
    /// Images and skills that ship.
    #[arg(long)]
    data: PathBuf,
    /// Skills that were installed; without it, none can be used.
    #[arg(long)]
    skills: Option<PathBuf>,
    /// The group under which sandboxes are; without it, the group of the unit, or /pawd.
    #[arg(long)]
    cgroup: Option<String>,
    /// When the other side of this descriptor closes, every sandbox is killed and the launcher ends.
    #[arg(long)]
    lifeline_fd: Option<i32>,
    /// User to become when started as root.
    #[arg(long)]
    uid: Option<u32>,
    /// Group to become when started as root.
    #[arg(long)]
    gid: Option<u32>,
    /// Where the kernel says how much memory there is.
    #[arg(long, default_value = "/proc")]
    proc: PathBuf,
    /// The only user that may connect; without it, the owner of the socket.
    #[arg(long)]
    peer_uid: Option<u32>,
}

/// The whole program paw-launcher, from the command line to the exit code.
#[must_use]
pub fn program() -> ExitCode {
    launch("paw-launcher", start::run)
}

/// The whole program paw-launcher-kata.
#[must_use]
pub fn kata_program() -> ExitCode {
    launch("paw-launcher-kata", kata::run)
}

impl Options {
    /// The file of the ceilings.
    fn config(&self, default: &str) -> PathBuf {
        self.config.clone().unwrap_or_else(|| default.into())
    }
}

fn launch(
    name: &'static str,
    run: impl FnOnce(&Options) -> Result<(), start::StartError>,
) -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let wrong = error.use_stderr();
            // The usage text is all there is to say; when it cannot be written, the exit code says it.
            let _ = error.print();
            return if wrong {
                ExitCode::from(64)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if let Err(error) = paw_log::init(name, None) {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{name}: {}", paw_log::Chain(&error));
        return ExitCode::from(70);
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!(error = %paw_log::Chain(&failure), "{name} ends");
            ExitCode::from(failure.exit_code())
        }
    }
}
