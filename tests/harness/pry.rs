//! What the kernel answers to somebody who tries to look into a process.

use std::{
    collections::BTreeMap,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

/// Each way that `pry` knows, and what it was answered there as this user: `ok`, or the name of an error. `program` is the path of
/// `pry`; being somebody else needs root. Blocks.
///
/// # Panics
/// When it cannot be started, or does not know what to do.
#[must_use]
pub fn pry(program: &Path, (uid, gid): (u32, u32), pid: u32) -> BTreeMap<String, String> {
    // The target directory may be private; whoever runs this must be able to read it.
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
        .expect("it is ours");
    let copy = dir.path().join("pry");
    std::fs::copy(program, &copy).expect("the program was built with the tests");
    let mut command = Command::new(copy);
    command.arg(pid.to_string()).uid(uid).gid(gid);
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("it is text");
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(way, answer)| (way.to_owned(), answer.to_owned()))
        .collect()
}
