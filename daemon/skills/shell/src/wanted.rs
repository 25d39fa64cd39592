//! From the arguments of a call to the program that is started.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path},
    process::Command,
};

use paw_skill::{Fault, read};
use serde::Deserialize;
use serde_json::Value;

/// Longest command line, and longest argument of a script, in bytes.
const MAX_COMMAND: usize = 64 * 1024;
/// Most arguments of a script.
const MAX_ARGUMENTS: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunArguments {
    command: String,
    #[serde(default)]
    stdin: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptArguments {
    script: String,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    stdin: Option<String>,
}

/// A program and what it reads.
type Wanted = Result<(Command, Option<String>), Fault>;

/// A command line.
pub(crate) fn command(arguments: Value) -> Wanted {
    let RunArguments { command, stdin } = read(arguments)?;
    if command.trim().is_empty() || command.len() > MAX_COMMAND || command.contains('\0') {
        return refuse(format!(
            "a command line has 1 to {MAX_COMMAND} bytes and no NUL"
        ));
    }
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    Ok((shell, stdin))
}

/// A script below this directory.
pub(crate) fn script(dir: &Path, arguments: Value) -> Wanted {
    let ScriptArguments {
        script,
        arguments,
        stdin,
    } = read(arguments)?;
    let long = |text: &String| text.len() > MAX_COMMAND || text.contains('\0');
    if arguments.len() > MAX_ARGUMENTS || arguments.iter().any(long) {
        return refuse(format!(
            "at most {MAX_ARGUMENTS} arguments of at most {MAX_COMMAND} bytes, without NUL"
        ));
    }
    let inside = Path::new(&script);
    let plain = inside
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let path = dir.join(inside);
    let found = (plain && !script.is_empty() && !script.contains('\0'))
        .then(|| std::fs::symlink_metadata(&path).ok())
        .flatten()
        .filter(std::fs::Metadata::is_file);
    let Some(found) = found else {
        return refuse(format!("there is no script {script:?} in this skill"));
    };
    let mut command = if found.permissions().mode() & 0o111 != 0 {
        Command::new(&path)
    } else {
        let interpreter = match path.extension().and_then(|ending| ending.to_str()) {
            Some("sh") => "/bin/sh",
            Some("py") => "/usr/bin/python3",
            Some("js" | "mjs") => "/usr/bin/node",
            _ => return refuse(format!("{script:?} cannot be executed")),
        };
        let mut command = Command::new(interpreter);
        command.arg(&path);
        command
    };
    command.args(arguments);
    Ok((command, stdin))
}

fn refuse(why: String) -> Wanted {
    Err(Fault::Refused(why))
}
