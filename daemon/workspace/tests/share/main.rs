//! A copy shares its blocks where the file system can do that. Needs root: the file system is one of its own, in a file, and is
//! mounted where nobody else sees it.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests, which the linter cannot know of a runner of our own"
)]

#[path = "../rig/mod.rs"]
mod rig;

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, ExitCode},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statvfs::statvfs,
};
use paw_launch::workspace::Bounds;
use paw_workspace::{
    beneath::Dir,
    copy::{Copied, Way, copy},
};

use crate::rig::BOUNDS;

/// Bytes of the one file. What a file system needs for itself is far less.
const SIZE: usize = 32 << 20;

fn main() -> ExitCode {
    let all: [(&str, &str); 2] = [
        ("copy_shares_its_blocks_on_xfs", "xfs"),
        ("copy_shares_its_blocks_on_btrfs", "btrfs"),
    ];
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let mut out = std::io::stdout();
    for (name, kind) in all {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let said = match mounted(dir.path(), kind) {
            Err(why) => format!("skipped: {why}"),
            Ok(()) => {
                copy_shares_its_blocks(&dir.path().join("mounted"));
                "ok".to_owned()
            }
        };
        // The loop device goes with its mount.
        let _ = nix::mount::umount(&dir.path().join("mounted"));
        writeln!(out, "test {name} ... {said}").unwrap();
    }
    ExitCode::SUCCESS
}

/// Mounts an empty file system of this kind in `dir`, in a mount namespace of this process.
fn mounted(dir: &Path, kind: &str) -> Result<(), String> {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    if !known.lines().any(|line| line.trim() == kind) {
        return Err(format!("this kernel has no {kind}"));
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| format!("no mount namespace: {errno}"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| format!("mounts cannot be made private: {errno}"))?;
    let (image, at) = (dir.join("image"), dir.join("mounted"));
    File::create(&image).unwrap().set_len(512 << 20).unwrap();
    fs::create_dir(&at).unwrap();
    run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))?;
    run(Command::new("mount")
        .args(["-o", "loop"])
        .args([&image, &at]))
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    output.status.success().then_some(()).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("{program}: {}", said.trim().replace('\n', " "))
    })
}

fn copy_shares_its_blocks(at: &Path) {
    let (from, to) = (at.join("from"), at.join("to"));
    for dir in [&from, &to] {
        fs::create_dir(dir).unwrap();
    }
    let content: Vec<u8> = (0..SIZE).map(|at| at.to_le_bytes()[at % 4]).collect();
    fs::write(from.join("large"), &content).unwrap();
    let before = free(at);
    let bounds = Bounds {
        bytes: 64 << 20,
        ..BOUNDS
    };
    let open = |path: &Path| Dir::open(path).unwrap();
    let expected = Copied {
        files: 1,
        bytes: SIZE as u64,
        way: Way::Share,
    };
    assert_eq!(copy(&open(&from), &open(&to), &bounds).unwrap(), expected);
    assert!(before - free(at) < SIZE as u64 / 4, "{before} {}", free(at));
    assert!(fs::read(to.join("large")).unwrap() == content);
    // And it is a file of its own.
    fs::write(to.join("large"), "other").unwrap();
    assert!(fs::read(from.join("large")).unwrap() == content);
}

/// Bytes that are free once everything is on the disk.
fn free(at: &Path) -> u64 {
    nix::unistd::syncfs(File::open(at).unwrap()).unwrap();
    let stat = statvfs(at).unwrap();
    stat.blocks_free() * stat.fragment_size()
}
