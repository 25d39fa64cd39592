//! From a [`Start`] to a running process, or to the step that failed and its `errno`.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};
use paw_launch::frame::{NotStarted, Size, Start};

use crate::terminal::{self, Terminal};

/// A process, and what paw-init keeps of its terminal if it has one.
pub(crate) struct Started {
    pub(crate) process: process::Child,
    pub(crate) terminal: Option<Terminal>,
}

/// Starts a command with three pipes, in a process group of its own, or with a terminal, in a session of its own.
///
/// Nothing of paw-init's own environment or descriptors reaches it; the standard library resets its signal mask.
pub(crate) fn start(start: &Start) -> Result<Started, NotStarted> {
    let Some((name, arguments)) = start.argv.split_first() else {
        return Err(failed("argv", Errno::EINVAL));
    };
    let environment = start
        .env
        .iter()
        .map(|entry| entry.split_once('=').filter(|(name, _)| !name.is_empty()))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| failed("env", Errno::EINVAL))?;
    if !Path::new(&start.cwd).is_absolute() {
        return Err(failed("cwd", Errno::EINVAL));
    }
    // The command inherits this; changing it here tells a bad directory from a bad program, which `Command` cannot.
    env::set_current_dir(&start.cwd).map_err(|fault| failed_io("cwd", &fault))?;
    let started = find(name, path_of(&environment)).and_then(|program| {
        let (mut command, terminal) = match start.terminal {
            None => (with_pipes(&program, name), None),
            Some(size) => {
                let (command, terminal) = with_terminal(&program, name, size)?;
                (command, Some(terminal))
            }
        };
        let process = command
            .args(arguments)
            .env_clear()
            .envs(environment)
            .spawn()
            .map_err(|fault| failed_io("exec", &fault))?;
        Ok(Started { process, terminal })
    });
    // Staying there would keep a mount busy; `/` always exists, and where it does not, staying is harmless.
    let _ = env::set_current_dir("/");
    started
}

fn with_pipes(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg0(name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// It becomes the command once it has made the terminal that of a session of its own, which the first of a group cannot do.
fn with_terminal(
    program: &Path,
    name: &str,
    size: Size,
) -> Result<(Command, Terminal), NotStarted> {
    let (terminal, given) = terminal::open(size)?;
    let mut command = terminal::itself();
    command
        .arg(program)
        .arg(name)
        .stdin(given.stdin)
        .stdout(given.stdout)
        .stderr(given.stderr);
    Ok((command, terminal))
}

fn path_of<'a>(environment: &[(&str, &'a str)]) -> &'a str {
    environment
        .iter()
        .rev()
        .find(|(name, _)| *name == "PATH")
        .map_or("", |(_, path)| path)
}

/// Looks a program up as a shell does, except that an empty or relative element of `PATH` is skipped: it would make the
/// working directory, which a command may write to, a place where programs come from.
fn find(name: &str, path: &str) -> Result<PathBuf, NotStarted> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let mut why = Errno::ENOENT;
    for directory in env::split_paths(OsStr::new(path)).filter(|directory| directory.is_absolute())
    {
        let program = directory.join(name);
        if !program.is_file() {
            continue;
        }
        match access(&program, AccessFlags::X_OK) {
            Ok(()) => return Ok(program),
            Err(errno) => why = errno,
        }
    }
    Err(failed("find", why))
}

/// The answer to a start that failed at this step.
pub(crate) fn failed(step: &str, errno: Errno) -> NotStarted {
    NotStarted {
        errno: errno as i32,
        step: step.to_owned(),
    }
}

fn failed_io(step: &str, fault: &io::Error) -> NotStarted {
    // Without a number it is the standard library that refused: a NUL byte in a text.
    NotStarted {
        errno: fault.raw_os_error().unwrap_or(Errno::EINVAL as i32),
        step: step.to_owned(),
    }
}
