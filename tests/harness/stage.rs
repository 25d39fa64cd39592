//! Where the programs under test are: the installed tree that `cargo xtask stage` lays out.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use tempfile::TempDir;

/// The `usr` directory of the staged tree, readable by everybody.
///
/// `PAWD_STAGE` names another tree, for example an unpacked package.
///
/// # Panics
/// When there is none; the message says how to make it.
#[must_use]
pub fn usr() -> &'static Path {
    static USR: LazyLock<(PathBuf, Option<TempDir>)> = LazyLock::new(|| {
        let named = env::var_os("PAWD_STAGE").map(PathBuf::from);
        let stage = named
            .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stage/debug"));
        let usr = stage.join("usr");
        assert!(
            usr.join("sbin/pawd").exists(),
            "{} is not there; run `cargo xtask stage`",
            usr.join("sbin/pawd").display()
        );
        let usr = usr.canonicalize().expect("it exists");
        if everybody_reaches(&usr) {
            return (usr, None);
        }
        // A checkout below a private home: the users that pawd runs as could not start its programs.
        let copy = tempfile::Builder::new()
            .prefix("pawd-stage-")
            .tempdir()
            .expect("a temporary directory");
        fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        copy_tree(&usr, &copy.path().join("usr"));
        (copy.path().join("usr"), Some(copy))
    });
    &USR.0
}

/// A program of ours by its name.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    match name {
        "pawd" => usr().join("sbin/pawd"),
        "pawctl" => usr().join("bin/pawctl"),
        other => usr().join("libexec/pawd").join(other),
    }
}

/// The files of an installed skill.
#[must_use]
pub fn skill(name: &str) -> PathBuf {
    usr().join("lib/pawd/skills").join(name)
}

/// The program `pawd` beside skills that are installed with it: those of the stage, and these, each a name and a manifest. It finds its
/// skills beside itself.
///
/// # Panics
/// When the directory cannot be filled.
#[must_use]
pub fn with_skills(dir: &Path, skills: &[(&str, &str)]) -> PathBuf {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let here = dir.join("usr");
    copy_tree(
        &usr().join("lib/pawd/skills"),
        &here.join("lib/pawd/skills"),
    );
    fs::create_dir_all(here.join("sbin")).expect("it is ours");
    let pawd = here.join("sbin/pawd");
    if fs::hard_link(program("pawd"), &pawd).is_err() {
        fs::copy(program("pawd"), &pawd).expect("there is room");
    }
    for (name, manifest) in skills {
        let skill = here.join("lib/pawd/skills").join(name);
        fs::create_dir(&skill).expect("it is ours");
        fs::write(skill.join("skill.toml"), manifest).expect("it is ours");
    }
    pawd
}

fn everybody_reaches(path: &Path) -> bool {
    path.ancestors()
        .all(|dir| fs::metadata(dir).is_ok_and(|metadata| metadata.mode() & 0o005 == 0o005))
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy is ours");
    for entry in fs::read_dir(from)
        .expect("the stage is readable")
        .filter_map(Result::ok)
    {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("it was listed");
        if kind.is_dir() {
            copy_tree(&source, &target);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source).expect("it is a link"), &target)
                .expect("the copy is ours");
        } else if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).expect("the copy is ours");
        }
    }
}
