//! paw-shim: speaks with the containerd shim of one sandbox. A fresh process for each; started by paw-launcher-kata alone.
//!
//! It is separate from the launcher because the launcher is root, and what a shim says is foreign: protobuf, JSON, a log. So the
//! shim is started and connected to, and then this process gives up every right it has and only reads, writes and waits. And a
//! shim that hangs holds up this process and nothing else; the launcher kills it when the sandbox's time is over.
//!
//! ```text
//! paw-shim attend --id ID --shim PROGRAM --uid N --gid N --cgroup PATH [--configuration FILE] GROUP...     in the bundle
//!   FIFOs in, out, err, log are there; stderr is err     ends with the task, and says what it saw in the file `said`
//! paw-shim clear --id ID --shim PROGRAM --cgroup PATH [--configuration FILE] GROUP...                      in the bundle
//!   Delete, Shutdown, and by force what is left          0: nothing of it is left
//! paw-shim delete (as clear)                                                                               in the bundle
//!   enters the shim's cgroup and becomes SHIM delete, so that nothing it starts outlives `clear`
//! ```
//!
//! - `attend`: one task's life. `clear`: what is done after it.
//! - `start`: the shim as a process. `task`: what is asked of it. `events`: what it tells unasked.
//! - `wire`: ttrpc. Our own: the crate's client wakes up a hundred times a second while it waits, needs two threads, and never
//!   returns from some broken connections. Messages and their encoding are the crate's.
//! - `groups`: the cgroups of a shim. `fuzz`: what a shim says, for the fuzzer.

mod attend;
mod clear;
mod events;
#[doc(hidden)]
pub mod fuzz;
mod groups;
mod start;
mod task;
mod wire;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tracing::error;

/// Speaks with the containerd shim of one sandbox; started by paw-launcher-kata, in the sandbox's bundle.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Starts the shim and the task, and waits for its end.
    Attend {
        #[command(flatten)]
        which: Which,
        /// User to become once the shim runs.
        #[arg(long)]
        uid: u32,
        /// Group to become once the shim runs.
        #[arg(long)]
        gid: u32,
    },
    /// Clears away what is left of the shim.
    Clear {
        #[command(flatten)]
        which: Which,
    },
    /// Becomes the shim's program, which clears up in the place of a shim, within the shim's cgroup; started by `clear`.
    Delete {
        #[command(flatten)]
        which: Which,
    },
}

/// Which sandbox's shim.
#[derive(Debug, Args)]
struct Which {
    /// Id of the sandbox, and of its task.
    #[arg(long)]
    id: String,
    /// The shim program.
    #[arg(long)]
    shim: PathBuf,
    /// The task's cgroup, below each hierarchy's root.
    #[arg(long)]
    cgroup: String,
    /// Configuration that Kata is told to use.
    #[arg(long)]
    configuration: Option<PathBuf>,
    /// The shim's own cgroup, in each hierarchy.
    groups: Vec<PathBuf>,
}

/// The whole program, from its arguments to its exit code.
#[must_use]
pub fn program() -> ExitCode {
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
    match options.what {
        What::Attend { which, uid, gid } => match attend::attend(&which, (uid, gid)) {
            // The launcher reads the status from the file; as an exit code it is for people who trace processes.
            Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
            Err(error) => {
                use std::io::Write;
                // It goes where paw-init's own last words go, and the launcher passes them on.
                let _ = writeln!(std::io::stderr(), "paw-shim: {}", paw_log::Chain(&error));
                ExitCode::FAILURE
            }
        },
        What::Delete { which } => {
            use std::io::Write;
            // It goes where the shim's own last words go, and `clear` passes them on.
            let error = start::become_delete(&which);
            let _ = writeln!(std::io::stderr(), "paw-shim: {}", paw_log::Chain(&error));
            ExitCode::FAILURE
        }
        What::Clear { which } => {
            if paw_log::init("paw-shim", None).is_err() {
                return ExitCode::from(70);
            }
            match clear::clear(&which) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    error!(paw_sandbox = %which.id, error = %paw_log::Chain(&failure), "cannot clear up behind a shim");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
