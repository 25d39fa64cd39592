//! The root of a sandbox, put together in a mount namespace of our own, in which nothing else of the host is left.
//!
//! ```text
//! /bundle        the specification, and the runtime's state
//! /root          the sandbox's root: a small read-only file system of its own, with what the plan shows of the host mounted in it
//! /mounts        what the runtime mounts itself, because it may be written, or is inside of what only the runtime makes
//! /proc /dev     the host's, for the runtime
//! /tmp           an empty directory, for gVisor to mount on
//! ```
//!
//! A runtime gets one root instead of a mount for each part of it, which was most of what making a sandbox cost: libcontainer
//! makes thirty system calls for a mount, gVisor a connection. And neither it nor the sandbox is ever in a mount namespace that
//! has the host's files in it.
//!
//! Mounts are made in a file system of this namespace, which matters for gVisor, too: it makes its root read-only by mounting it
//! again, and the kernel refuses that to a user namespace where the mount below is nosuid or nodev, as everything of a systemd
//! unit without new privileges is.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode as Umask, umask},
    unistd::pivot_root,
};
use paw_confine::sys;
use paw_launch::root::{FILE, Root, Temporary};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, symlinkat},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

/// Where the bundle is afterwards.
pub(crate) const BUNDLE: &str = "/bundle";

/// Flags of the two small file systems, which hold directories and links, and no program.
const SMALL: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const SMALL_SIZE: &str = "mode=755,size=1m,nr_inodes=4096";

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    /// The list cannot be understood.
    #[error("read {FILE} of the bundle")]
    List(#[source] serde_json::Error),
    /// A step failed.
    #[error("{step} {path}")]
    Step {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn fault<E: Into<io::Error>>(
    step: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> RootError {
    move |error| RootError::Step {
        step,
        path: path.as_ref().to_owned(),
        source: error.into(),
    }
}

/// Something of the host that a runtime needs besides, to read only.
pub(crate) struct Kept<'a> {
    pub(crate) source: &'a Path,
    /// Where it is afterwards.
    pub(crate) path: &'a Path,
}

/// Goes into namespaces of these kinds, and one of its own for mounts, and puts the root together there. Gives what it is made of.
pub(crate) fn assemble(
    bundle: &Path,
    namespaces: CloneFlags,
    kept: &[Kept<'_>],
) -> Result<Root, RootError> {
    let list = bundle.join(FILE);
    let text = fs::read(&list).map_err(fault("read", &list))?;
    let root: Root = serde_json::from_slice(&text).map_err(RootError::List)?;

    unshare(CloneFlags::CLONE_NEWNS | namespaces)
        .map_err(fault("make the namespaces of", bundle))?;
    let own = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, own, None::<&str>)
        .map_err(fault("keep to ourselves", "/"))?;
    // Everything that stays is taken hold of before the host's files go out of sight.
    let mut staged = vec![
        (PathBuf::from("/proc"), tree(Path::new("/proc"))?),
        (PathBuf::from("/dev"), tree(Path::new("/dev"))?),
        (PathBuf::from(BUNDLE), tree(bundle)?),
    ];
    for Kept { source, path } in kept {
        let tree = tree(source)?;
        sys::restrict_mounts(tree.as_fd(), true).map_err(fault("restrict", source))?;
        staged.push((path.to_path_buf(), tree));
    }
    for (number, source) in root.mounts.iter().enumerate() {
        let tree = tree(Path::new(source))?;
        staged.push((PathBuf::from(format!("/mounts/{number}")), tree));
    }
    let mut binds = Vec::with_capacity(root.binds.len());
    for bind in &root.binds {
        let tree = tree(Path::new(&bind.source))?;
        sys::restrict_mounts(tree.as_fd(), true).map_err(fault("restrict", &bind.source))?;
        binds.push((bind.path.as_str(), tree));
    }

    // Modes are meant as they are written here, for the sandbox's user as well.
    let mask = umask(Umask::from_bits_truncate(0o022));
    let stage = small(bundle)?;
    for dir in ["root", "tmp"] {
        make_dir(stage.as_fd(), dir)?;
    }
    for (path, tree) in &staged {
        let path = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
        place(stage.as_fd(), &path, tree)?;
        put(stage.as_fd(), &path, tree)?;
    }
    std::env::set_current_dir(bundle).map_err(fault("go to", bundle))?;
    let inside = small(Path::new("root"))?;
    fill(inside.as_fd(), &root)?;
    for it in &root.temporary {
        temporary(Path::new("root"), it, root.owner)?;
    }
    for (path, tree) in &binds {
        put(inside.as_fd(), path, tree)?;
    }
    umask(mask);
    let read_only = SMALL | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, "root", None::<&str>, read_only, None::<&str>)
        .map_err(fault("make read-only", "root"))?;

    // The old root is mounted over the new one, and taken away from there.
    pivot_root(".", ".").map_err(fault("leave", "/"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(fault("let go of", "/"))?;
    std::env::set_current_dir("/").map_err(fault("go to", "/"))?;
    Ok(root)
}

/// A file or directory with everything that is mounted below it, as a mount that is nowhere yet. No link is followed.
fn tree(source: &Path) -> Result<OwnedFd, RootError> {
    let found = openat2(
        CWD,
        source,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )
    .map_err(fault("find", source))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&found, "", flags).map_err(fault("look at the mounts of", source))
}

/// Mounts an empty file system.
fn small(at: &Path) -> Result<OwnedFd, RootError> {
    mount(Some("tmpfs"), at, Some("tmpfs"), SMALL, Some(SMALL_SIZE)).map_err(fault("mount", at))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, at, flags, Mode::empty()).map_err(fault("open", at))
}

/// Mounts a temporary file system. Everything around it was made here, so no link is in the way.
fn temporary(root: &Path, it: &Temporary, owner: u32) -> Result<(), RootError> {
    let path = root.join(&it.path);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(fault("make", &path)(error));
        }
        _ => {}
    }
    let Temporary { mode, size, .. } = it;
    let mut options = format!("mode={mode:o},size={size},uid={owner},gid={owner}");
    if let Some(inodes) = it.inodes {
        options.push_str(&format!(",nr_inodes={inodes}"));
    }
    let mut flags = SMALL;
    flags.set(MsFlags::MS_NOEXEC, !it.executable);
    mount(
        Some("tmpfs"),
        &path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(fault("mount", &path))
}

fn make_dir(root: BorrowedFd<'_>, path: &str) -> Result<(), RootError> {
    mkdirat(root, path, Mode::from_raw_mode(0o755)).map_err(fault("make", path))
}

fn make_file(root: BorrowedFd<'_>, path: &str) -> Result<File, RootError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(root, path, flags, Mode::from_raw_mode(0o644))
        .map(File::from)
        .map_err(fault("make", path))
}

/// Makes the mount point of a tree, with its parents.
fn place(root: BorrowedFd<'_>, path: &str, tree: &OwnedFd) -> Result<(), RootError> {
    let found = fstat(tree).map_err(fault("look at", path))?;
    for (at, _) in path.match_indices('/') {
        match mkdirat(root, &path[..at], Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(fault("make", &path[..at])(errno)),
        }
    }
    if FileType::from_raw_mode(found.st_mode).is_dir() {
        make_dir(root, path)
    } else {
        make_file(root, path).map(drop)
    }
}

fn fill(root: BorrowedFd<'_>, list: &Root) -> Result<(), RootError> {
    for path in &list.dirs {
        make_dir(root, path)?;
    }
    for (path, target) in &list.links {
        symlinkat(target.as_str(), root, path.as_str()).map_err(fault("link", path))?;
    }
    for (path, text) in &list.files {
        make_file(root, path)?
            .write_all(text.as_bytes())
            .map_err(fault("write", path))?;
    }
    Ok(())
}

/// Mounts a tree. Its place is looked for below the root and through no link: an image cannot lead it elsewhere.
fn put(root: BorrowedFd<'_>, path: &str, tree: &OwnedFd) -> Result<(), RootError> {
    let place = openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
    )
    .map_err(fault("find the mount point", path))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", &place, "", flags).map_err(fault("mount on", path))
}

/// Enters the leaf. These are the files in which a process of one thread enters itself, see `Leaf::entrances` of the launcher.
pub(crate) fn enter(entrances: &[PathBuf]) -> Result<(), RootError> {
    for path in entrances {
        fs::write(path, "0").map_err(fault("enter by", path))?;
    }
    Ok(())
}
