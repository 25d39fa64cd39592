//! The directory of one sandbox on the host: what its root is put together from, and the OCI specification.
//!
//! Nothing of an image is ever written to, and an image needs no particular directories: the root is a skeleton of our own,
//! with a read-only bind mount for each top-level directory of the image that has something in it, its top-level symlinks copied,
//! and mount points for what a sandbox has besides: `/proc /dev /tmp /run /.paw/init` and the plan's mounts. It is a list, from
//! which paw-create makes it, in a file system and a mount namespace of the sandbox's own; only a shim gets it on disk.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::stat::fstat,
};
use paw_launch::{
    request::Limits,
    root::{self, Bind, Root, Temporary},
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde_json::{Value, json};

use crate::{
    ceilings::{Approved, ApprovedImage},
    runtime::Maker,
    slots::INSIDE,
    unmount::{self, UnmountError},
};

/// Where paw-init is inside.
pub(crate) const INIT: &str = "/.paw/init";

/// Top-level names that a sandbox has of its own; an image's entries of these names are left out.
const OWN: [&str; 6] = ["proc", "dev", "sys", "tmp", "run", ".paw"];

/// The most top-level entries of an image, and so of mounts that it takes.
const MAX_ENTRIES: usize = 64;

/// The most terminals of one sandbox. The kernel has some 3000 for all sandboxes and containers of the host together.
const MAX_TERMINALS: u32 = 16;

/// The memory for all bundles, in the words of tmpfs: one takes about 100 KiB, and what a runtime writes to its log.
const ROOM: &str = "size=128m,nr_inodes=65536,mode=0711";

/// What of the host's `/etc` a view of its `/usr` needs: links from `/usr/bin`, and where the libraries are.
const HOST_ETC: [&str; 4] = ["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"];

/// A file or directory that is mounted, and how to know it again from inside.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// Where it is on the host.
    pub(crate) source: PathBuf,
    /// Where it is inside.
    pub(crate) target: PathBuf,
    /// Whether it may be written.
    pub(crate) writable: bool,
    /// Device and inode of what was checked; what is mounted must be the same.
    pub(crate) inode: (u64, u64),
    /// Whether the plan asks for it, as against what every sandbox of the image has.
    pub(crate) planned: bool,
    /// Where the runtime finds it to mount it itself, never a path that others may change; nothing for what is in the root that
    /// paw-create puts together.
    pub(crate) seen: Option<String>,
}

impl Bound {
    /// Whether it is part of the root that paw-create puts together. What the plan asks for is not: it may be writable, which the
    /// sandbox's rules have to know of; it may be inside a temporary file system, which only the runtime makes; and gVisor
    /// serves a mount of its own so that what others change there is seen inside, which is not so in its root.
    fn is_in_root(&self) -> bool {
        !self.planned && !self.writable
    }

    /// Opens it a second time, if it is still what was checked; whether it is a directory.
    fn find_again(&self) -> Result<(OwnedFd, bool), BundleError> {
        let what = "find the mount source again";
        let (opened, inode, is_dir) = find(what, &self.source)?;
        if inode == self.inode {
            return Ok((opened, is_dir));
        }
        Err(BundleError::Missing {
            what,
            path: self.source.clone(),
            source: io::Error::other("something else is there now"),
        })
    }

    /// It as a mount of the OCI specification, with these options beside its access.
    pub(crate) fn mount(&self, options: &[&'static str], read_only: &[&'static str]) -> Value {
        let access = if self.writable { &[] } else { read_only };
        let options = [options, access].concat();
        json!({ "destination": self.target, "type": "bind", "source": self.seen, "options": options })
    }
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// Something that the plan names is not there, or is reached through a symlink.
    #[error("{what} {path}")]
    Missing {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The image cannot take the mount.
    #[error(
        "the image has no {target} to mount on; make that directory in the image, or mount below a name it has not"
    )]
    NoMountPoint { target: PathBuf },
    /// A path that cannot be written down as text.
    #[error("{path:?} is no UTF-8; rename it")]
    NoText { path: PathBuf },
    /// An image of this shape is not used.
    #[error("the image {path} has more than {MAX_ENTRIES} top-level entries")]
    TooMany { path: PathBuf },
    /// It is not removed while something is mounted in it.
    #[error(transparent)]
    Mounted(#[from] UnmountError),
    /// A file could not be made.
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn files(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError {
    let path = path.to_owned();
    move |source| BundleError::Files { step, path, source }
}

/// Opens a path without following any symlink, for its inode only.
fn find(what: &'static str, path: &Path) -> Result<(OwnedFd, (u64, u64), bool), BundleError> {
    let missing = |source| BundleError::Missing {
        what,
        path: path.to_owned(),
        source,
    };
    let opened = rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )
    .map_err(|errno| missing(errno.into()))?;
    let found = fstat(&opened).map_err(|errno| missing(errno.into()))?;
    let is_dir = found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR;
    Ok((opened, (found.st_dev, found.st_ino), is_dir))
}

/// Where bundles are, and what every one of them contains.
#[derive(Debug, Clone)]
pub(crate) struct Bundles {
    /// Directory of all of them.
    pub(crate) dir: PathBuf,
    /// The paw-init that is mounted into each.
    pub(crate) init: PathBuf,
}

/// A bundle on disk.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// What is bind mounted in it.
    pub(crate) bound: Vec<Bound>,
}

impl Bundles {
    /// Keeps them in memory from now on, in the launcher's own mount namespace: they are made and removed once for each sandbox and
    /// are worth nothing without it. On a disk that costs a sandbox more than its attestation, and each of them waits for what
    /// others make durable there.
    pub(crate) fn in_memory(&self) -> Result<(), BundleError> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bundles"), &self.dir, Some("tmpfs"), flags, Some(ROOM))
            .map_err(|errno| files("keep in memory", &self.dir)(errno.into()))
    }

    /// Makes the bundle of a plan. The owner is the root of the sandbox, as an id of our own namespace.
    pub(crate) fn make(
        &self,
        plan: &Approved,
        owner: u32,
        cgroup: &str,
        runtime: &dyn Maker,
    ) -> Result<Bundle, BundleError> {
        let dir = self.dir.join(plan.id.as_str());
        fs::create_dir(&dir).map_err(files("make", &dir))?;
        match self.fill(&dir, plan, owner, cgroup, runtime) {
            Ok(bound) => Ok(Bundle { dir, bound }),
            Err(error) => {
                // The first error is the one to tell; a directory that stays is swept at the next start.
                let _ = self.remove(plan.id.as_str(), runtime);
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        dir: &Path,
        plan: &Approved,
        owner: u32,
        cgroup: &str,
        runtime: &dyn Maker,
    ) -> Result<Vec<Bound>, BundleError> {
        set_mode(dir, 0o711)?;
        let mut skeleton = Skeleton::default();
        for name in OWN {
            skeleton.dir(name);
        }
        match &plan.image {
            ApprovedImage::Dir(image) => skeleton.image(image)?,
            ApprovedImage::Host => skeleton.host()?,
        }
        skeleton.etc();
        for mount in &plan.mounts {
            skeleton.mount(&mount.source, &mount.target, mount.writable, &plan.image)?;
            if let Some(bound) = skeleton.bound.last_mut() {
                bound.planned = true;
            }
        }
        skeleton.mount(&self.init, Path::new(INIT), false, &plan.image)?;

        let Skeleton {
            mut root,
            mut bound,
            ..
        } = skeleton;
        root.owner = owner;
        root.temporary = runtime.temporary(&plan.limits);
        for (number, bound) in bound.iter_mut().enumerate() {
            if let Some(pins) = runtime.pins() {
                let opened = bound.find_again()?;
                let at = pins
                    .pin(plan.id.as_str(), number, (opened.0.as_fd(), opened.1))
                    .map_err(files("bind", &bound.source))?;
                bound.seen = Some(text(&at)?);
                continue;
            }
            let source = text(&bound.source)?;
            if bound.is_in_root() {
                let path = text(inside(&bound.target))?;
                root.binds.push(Bind { source, path });
            } else {
                bound.seen = Some(format!("/mounts/{}", root.mounts.len()));
                root.mounts.push(source);
            }
        }
        let mut specification = runtime.specification(plan, cgroup, &bound);
        if runtime.pins().is_none() {
            publish(&dir.join(root::FILE), &serde_json::json!(root))?;
        } else {
            make(&dir.join("rootfs"), &root)?;
            specification["root"]["path"] = json!("rootfs");
        }
        publish(&dir.join("config.json"), &specification)?;
        Ok(bound)
    }

    /// Removes the bundle of a sandbox, if it is there.
    pub(crate) fn remove(&self, name: &str, runtime: &dyn Maker) -> Result<(), BundleError> {
        let dir = self.dir.join(name);
        if let Some(pins) = runtime.pins() {
            pins.release(name)
                .map_err(files("unbind the mounts of", &dir))?;
            // Its shim may have mounted something there, of which nothing is to be removed.
            unmount::below(&dir)?;
        }
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(files("remove", &dir)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The root in the making.
#[derive(Default)]
struct Skeleton {
    root: Root,
    /// Top-level names that come from the image.
    names: BTreeSet<String>,
    bound: Vec<Bound>,
}

impl Skeleton {
    fn image(&mut self, image: &Path) -> Result<(), BundleError> {
        find("find the image", image)?;
        let listing = fs::read_dir(image).map_err(files("list", image))?;
        for (count, entry) in listing.enumerate() {
            let entry = entry.map_err(files("list", image))?;
            if count >= MAX_ENTRIES {
                return Err(BundleError::TooMany {
                    path: image.to_owned(),
                });
            }
            let path = entry.path();
            let name = text(Path::new(&entry.file_name()))?;
            if OWN.contains(&name.as_str()) {
                continue;
            }
            let kind = entry.file_type().map_err(files("look at", &path))?;
            if kind.is_symlink() {
                // It is resolved inside, where it can only lead to what is inside.
                let target = fs::read_link(&path).map_err(files("read", &path))?;
                self.root.links.push((name.clone(), text(&target)?));
                self.names.insert(name);
            } else if kind.is_dir() && is_plain(&path) {
                // A directory of the skeleton is the same, without a mount; what is mounted below it finds its place made.
                self.dir(&name);
            } else if kind.is_dir() || kind.is_file() {
                self.bind(&path, &Path::new("/").join(&name), false)?;
                self.names.insert(name);
            }
        }
        Ok(())
    }

    fn host(&mut self) -> Result<(), BundleError> {
        self.bind(Path::new("/usr"), Path::new("/usr"), false)?;
        self.names.insert("usr".into());
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            // On a host without merged /usr these are directories with things of the host; then they are not shown.
            if let Ok(target) = fs::read_link(Path::new("/").join(name))
                && target.components().any(|part| part.as_os_str() == "usr")
            {
                self.root.links.push((name.to_owned(), text(&target)?));
                self.names.insert(name.into());
            }
        }
        self.dir("etc");
        for name in HOST_ETC {
            let source = Path::new("/etc").join(name);
            if source.exists() {
                self.bind(&source, &source, false)?;
            }
        }
        Ok(())
    }

    /// Names for the two users that exist inside, when the image has no `/etc` of its own.
    fn etc(&mut self) {
        if self.names.contains("etc") {
            return;
        }
        self.dir("etc");
        let texts = [
            (
                "etc/passwd",
                "root:x:0:0:root:/tmp:/bin/sh\npaw:x:1000:1000:paw:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
            ),
            ("etc/group", "root:x:0:\npaw:x:1000:\nnogroup:x:65534:\n"),
            ("etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
            (
                "etc/nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files\n",
            ),
        ];
        self.root
            .files
            .extend(texts.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    fn mount(
        &mut self,
        source: &Path,
        target: &Path,
        writable: bool,
        image: &ApprovedImage,
    ) -> Result<(), BundleError> {
        let bound = |inode| Bound {
            source: source.to_owned(),
            target: target.to_owned(),
            writable,
            inode,
            planned: false,
            seen: None,
        };
        let first = target.iter().nth(1).unwrap_or_default().to_string_lossy();
        if target.starts_with("/tmp") || target.starts_with("/run") {
            // Inside a temporary file system, which does not exist yet; the runtime makes the mount point there.
            let (_, inode, _) = find("find the mount source", source)?;
            self.bound.push(bound(inode));
            return Ok(());
        }
        if self.names.contains(&*first) || matches!((image, &*first), (ApprovedImage::Host, "etc"))
        {
            Self::check_mount_point(source, inside(target), image)?;
            let (_, inode, _) = find("find the mount source", source)?;
            // A mount in the place of a whole entry of the image: that entry is not seen, so it is not mounted beneath either.
            self.bound.retain(|bound| bound.target != target);
            self.bound.push(bound(inode));
            return Ok(());
        }
        // A symlink of the skeleton cannot be in the way: those come from the image and are in `names`.
        let mut made = PathBuf::new();
        for part in inside(target).parent().into_iter().flat_map(Path::iter) {
            made.push(part);
            self.dir(&text(&made)?);
        }
        self.bind(source, target, writable)
    }

    fn check_mount_point(
        source: &Path,
        relative: &Path,
        image: &ApprovedImage,
    ) -> Result<(), BundleError> {
        let none = || BundleError::NoMountPoint {
            target: Path::new("/").join(relative),
        };
        let place = match image {
            ApprovedImage::Dir(image) => image.join(relative),
            ApprovedImage::Host => Path::new("/").join(relative),
        };
        let (_, _, place_is_dir) = find("find the mount point", &place).map_err(|_| none())?;
        let (_, _, source_is_dir) = find("find the mount source", source)?;
        if place_is_dir == source_is_dir {
            Ok(())
        } else {
            Err(none())
        }
    }

    /// Makes the mount point in the skeleton and remembers the mount.
    fn bind(&mut self, source: &Path, target: &Path, writable: bool) -> Result<(), BundleError> {
        let (_, inode, is_dir) = find("find the mount source", source)?;
        let place = text(inside(target))?;
        if is_dir {
            self.dir(&place);
        } else {
            self.root.files.push((place, String::new()));
        }
        self.bound.push(Bound {
            source: source.to_owned(),
            target: target.to_owned(),
            writable,
            inode,
            planned: false,
            seen: None,
        });
        Ok(())
    }

    /// A directory, once; its parent is there.
    fn dir(&mut self, path: &str) {
        if !self.root.dirs.iter().any(|dir| dir == path) {
            self.root.dirs.push(path.to_owned());
        }
    }
}

/// Whether a directory of an image is as one of the skeleton: empty, and with its mode.
fn is_plain(path: &Path) -> bool {
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    is_empty && fs::metadata(path).is_ok_and(|found| found.mode() & 0o7777 == 0o755)
}

/// Writes a file that a runtime with the sandbox's own ids reads, too; there is nothing secret in it.
fn publish(path: &Path, value: &Value) -> Result<(), BundleError> {
    fs::write(path, value.to_string()).map_err(files("write", path))?;
    set_mode(path, 0o644)
}

/// Makes the skeleton on disk.
fn make(at: &Path, root: &Root) -> Result<(), BundleError> {
    let make_dir = |path: &Path| {
        fs::create_dir(path).map_err(files("make", path))?;
        set_mode(path, 0o755)
    };
    make_dir(at)?;
    for path in &root.dirs {
        make_dir(&at.join(path))?;
    }
    for path in ["tmp", "run"].map(|name| at.join(name)) {
        // runc gives a temporary file system the mode of what it is mounted over, whatever the specification says.
        if path.is_dir() {
            set_mode(&path, 0o1777)?;
        }
    }
    for (path, target) in &root.links {
        symlink(target, at.join(path)).map_err(files("link", &at.join(path)))?;
    }
    for (path, text) in &root.files {
        let path = at.join(path);
        fs::write(&path, text).map_err(files("write", &path))?;
        set_mode(&path, 0o644)?;
    }
    Ok(())
}

/// A path inside, as seen from the root.
fn inside(target: &Path) -> &Path {
    target.strip_prefix("/").unwrap_or(target)
}

fn text(path: &Path) -> Result<String, BundleError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| BundleError::NoText {
            path: path.to_owned(),
        })
}

/// The umask is 077; what a sandbox's root has to enter is said here.
fn set_mode(path: &Path, mode: u32) -> Result<(), BundleError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(files("set the mode of", path))
}

/// The temporary file systems that every sandbox has, with the plan's size.
pub(crate) fn temporary(limits: &Limits) -> [Temporary; 3] {
    [("dev/shm", false), ("tmp", true), ("run", true)].map(|(path, executable)| Temporary {
        path: path.to_owned(),
        mode: 0o1777,
        size: limits.disk,
        // An inode costs kernel memory too; one for each 4 KiB is more than files need.
        inodes: Some((limits.disk / 4096).clamp(64, 1 << 20)),
        executable,
    })
}

/// The same for a runtime that mounts them itself.
pub(crate) fn tmpfs_mounts(limits: &Limits) -> impl Iterator<Item = Value> {
    temporary(limits).into_iter().map(|it| {
        let sized = [
            Some(format!("mode={:o}", it.mode)),
            Some(format!("size={}", it.size)),
            it.inodes.map(|inodes| format!("nr_inodes={inodes}")),
            (!it.executable).then(|| "noexec".to_owned()),
        ];
        let options: Vec<String> = ["nosuid", "nodev"]
            .map(str::to_owned)
            .into_iter()
            .chain(sized.into_iter().flatten())
            .collect();
        json!({ "destination": format!("/{}", it.path), "type": "tmpfs", "source": "tmpfs", "options": options })
    })
}

/// A place for terminals, which are the sandbox's alone: none of the host's is in it.
pub(crate) fn terminals_mount() -> Value {
    json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0600", format!("max={MAX_TERMINALS}")] })
}

/// What the OCI specification says in every runtime; each adds its `linux` part.
pub(crate) fn specification(plan: &Approved, mounts: Vec<Value>) -> Value {
    let rlimit = |name: &str, value: u64| json!({ "type": name, "soft": value, "hard": value });
    let none: [&str; 0] = [];
    json!({
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": { "path": "/root", "readonly": true },
        "process": {
            "terminal": false,
            "user": { "uid": INSIDE, "gid": INSIDE, "umask": 18 },
            "args": [INIT],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"],
            "cwd": "/",
            "capabilities": { "bounding": none, "effective": none, "inheritable": none, "permitted": none, "ambient": none },
            "rlimits": [rlimit("RLIMIT_NOFILE", plan.limits.open_files.into()), rlimit("RLIMIT_CORE", 0)],
            "noNewPrivileges": true
        },
        "mounts": mounts
    })
}
