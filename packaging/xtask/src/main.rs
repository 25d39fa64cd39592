//! `cargo xtask`: what building and packaging need beyond cargo.
//!
//! ```text
//! stage ──► target/stage/<debug|release>/   the installed tree; pawd runs from it as it stands
//!             └─► deb  target/packages/deb/*.deb
//!             └─► rpm  target/packages/rpm/*.rpm
//! ```
//!
//! Each command may be repeated; what did not change is not written again. It knows no secret, signs nothing, and installs
//! nothing on the machine that it runs on.

mod assets;
mod cargo;
mod changelog;
mod deb;
mod elf;
mod fresh;
mod image;
mod notices;
mod rpm;
mod stage;
mod tree;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Builds the installed tree and the packages of pawd.
#[derive(Parser)]
#[command(name = "cargo xtask", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build all binaries and lay out the installed tree in target/stage
    Stage {
        /// With the release profile
        #[arg(long)]
        release: bool,
    },
    /// Write the generated man pages and completions of pawctl
    Assets {
        /// Where to
        #[arg(long, default_value = "target/assets")]
        out: PathBuf,
    },
    /// Make the Debian packages from the release tree
    Deb,
    /// Make the RPM packages from the release tree
    Rpm,
}

#[expect(clippy::print_stderr, reason = "there is no log here, only a person")]
fn main() -> ExitCode {
    match run(&Cli::parse().task) {
        Ok(made) => {
            made.iter().for_each(|made| say(made));
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("cargo xtask: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does it, and gives what was made.
fn run(task: &Task) -> Result<Vec<PathBuf>> {
    let root = repository()?;
    match task {
        Task::Stage { release } => Ok(vec![stage::stage(&root, cargo::Profile::new(*release))?]),
        Task::Assets { out } => Ok(vec![assets::assets(&root.join(out))?]),
        Task::Deb => deb::deb(&root, &stage::stage(&root, cargo::Profile::Release)?),
        Task::Rpm => rpm::rpm(&root, &stage::stage(&root, cargo::Profile::Release)?),
    }
}

/// Prints where something was made: the one thing that scripts read from us.
#[expect(clippy::print_stdout, reason = "the paths are this program's output")]
fn say(made: &Path) {
    println!("{}", made.display());
}

/// The root of the checkout, from the place of this crate in it.
fn repository() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .context("packaging/xtask has no grandparent")
}
