//! paw-workspace: one order on one workspace, then the end. A job of the launcher.
//!
//! ```text
//! paw-workspace OWNER WORKSPACE LEFT ENTRANCE...   whose it is, its directory, that of a run or nothing, by what to enter its cgroup;
//!                                                  fd 3 is the launcher's socket
//! ```
//!
//! It becomes the owner of the workspace, so that it can do no more with these files than whoever made them. What the order is
//! about was written by a sandbox; what is done with it is in the library.
//!
//! The wall around its files is that owner's id, which owns nothing else, and no landlock domain: below the launcher's own domain,
//! which rules over the network only, the kernel answers every link and rename from one directory to another with EXDEV as soon as a
//! further domain rules over files, whatever that one allows. A commit is made of such links.

use std::{env, fs, io::Write as _, path::PathBuf, process::ExitCode};

use nix::{
    errno::Errno,
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use paw_confine::seccomp;
use paw_job::{Bounds, Done};
use paw_launch::{request::Refusal, workspace::Answer, workspace::Task};
use paw_workspace::{beneath::Dir, serve::serve_opened};

const USAGE: &str =
    "usage: paw-workspace OWNER WORKSPACE LEFT ENTRANCE...; it is started by paw-launcher";

/// Descriptors at once: deep trees are walked with a few for each level.
const OPEN_FILES: u64 = 512;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [owner, root, left, entrances @ ..] = arguments.as_slice() else {
        return fail(64, USAGE);
    };
    let Some(owner) = owner.to_str().and_then(|owner| owner.parse().ok()) else {
        return fail(64, USAGE);
    };
    // The launcher's rights are for two steps: entering the cgroup, which is the launcher's, and becoming somebody else.
    for entrance in entrances {
        if let Err(error) = fs::write(entrance, "0") {
            return fail(70, &format!("enter {}: {error}", entrance.display()));
        }
    }
    let left = match Some(left).filter(|left| !left.as_os_str().is_empty()) {
        None => None,
        Some(left) => match Dir::open(left) {
            Ok(left) => Some(left),
            Err(fault) => return fail(70, &paw_workspace::chain(&fault)),
        },
    };
    if let Err(errno) = become_owner(owner) {
        return fail(
            77,
            &format!("become the owner {owner} of the workspace: {errno}"),
        );
    }
    let bounds = Bounds {
        // See above: links would be forbidden.
        paths: None,
        keep: Vec::new(),
        calls: seccomp::workspace(),
        open_files: OPEN_FILES,
    };
    paw_job::run(&[], bounds, |task: Task, _| {
        Ok::<Done<Answer>, Refusal>(serve_opened(&task, root, left).into())
    })
}

fn become_owner(owner: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

fn fail(code: u8, what: &str) -> ExitCode {
    // Nothing is left to do when even this cannot be said: the exit code says it too.
    let _ = writeln!(std::io::stderr(), "{what}");
    ExitCode::from(code)
}
