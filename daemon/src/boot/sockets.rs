//! The sockets: taken from the service manager, or made with the owners and modes that say who may connect.

use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use anyhow::{Context as _, anyhow};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};

use super::users::{Account, People};
use crate::{config::Paths, exit::Fatal};

/// What pawd and its helpers listen on.
pub(super) struct Sockets {
    /// The control socket.
    pub(super) control: UnixListener,
    /// The launcher's; only where we start it.
    pub(super) launcher: Option<OwnedFd>,
    /// That of the launcher for virtual machines; only where we start it, and it is switched on.
    pub(super) kata: Option<OwnedFd>,
    /// The audit writer's; only where we start it.
    pub(super) audit: Option<OwnedFd>,
    /// The broker's; only where we start it.
    pub(super) egress: Option<OwnedFd>,
}

/// Opens them.
pub(super) fn open(paths: &Paths, people: &People, standalone: bool) -> Result<Sockets, Fatal> {
    if let Some(control) = activated()? {
        return Ok(Sockets {
            control,
            launcher: None,
            kata: None,
            audit: None,
            egress: None,
        });
    }
    make_directories(paths, people, standalone)?;
    let control = listener(&paths.socket("control"), SockType::Stream)?;
    allow(&paths.socket("control"), people.own, people.clients, 0o660)?;
    let ours = |is_wanted: bool, name: &str, kind: SockType| -> Result<Option<OwnedFd>, Fatal> {
        if !is_wanted {
            return Ok(None);
        }
        let socket = listener(&paths.socket(name), kind)?;
        allow(&paths.socket(name), people.own, None, 0o600)?;
        Ok(Some(socket))
    };
    let launcher = ours(standalone, "launcher", SockType::SeqPacket)?;
    let has_kata = standalone && people.shim.is_some();
    if standalone && !has_kata {
        // A socket says that its launcher is switched on, and here nobody but us would make one.
        forget(&paths.socket("launcher-kata"), SockType::SeqPacket)?;
    }
    let kata = ours(has_kata, "launcher-kata", SockType::SeqPacket)?;
    let audit = ours(standalone, "audit", SockType::Stream)?;
    let egress = ours(standalone, "egress", SockType::Stream)?;
    Ok(Sockets {
        control: control.into(),
        launcher,
        kata,
        audit,
        egress,
    })
}

/// The control socket of the service manager, if it passed one.
fn activated() -> Result<Option<UnixListener>, Fatal> {
    let passed: Vec<(i32, String)> = sd_notify::listen_fds_with_names()
        .context("read LISTEN_FDS and LISTEN_FDNAMES")?
        .map(|(fd, name)| (fd.as_raw_fd(), name))
        .collect();
    match passed.as_slice() {
        [] => Ok(None),
        [(number, name)] if name == "control" => {
            let fd =
                paw_confine::sys::inherited(*number).context("take over the control socket")?;
            Ok(Some(fd.into()))
        }
        others => {
            let names: Vec<&str> = others.iter().map(|(_, name)| name.as_str()).collect();
            let message = format!(
                "the service manager passed sockets {names:?}; one named \"control\" is expected"
            );
            Err(Fatal::Config(anyhow!(
                "{message}; see FileDescriptorName= in paw-control.socket"
            )))
        }
    }
}

/// Makes the directories below a root of our own, or those that a package did not make.
fn make_directories(paths: &Paths, people: &People, standalone: bool) -> Result<(), Fatal> {
    let mut wanted = vec![
        (&paths.run, 0o755, None),
        (&paths.state, 0o700, Some(people.own)),
    ];
    if people.shim.is_some() {
        // Root's, whose that launcher is.
        wanted.push((&paths.kata_state, 0o711, None));
    }
    if standalone {
        wanted.extend([
            (&paths.launcher_state, 0o711, Some(people.launcher)),
            (&paths.audit_state, 0o700, Some(people.audit)),
            (&paths.skills, 0o755, Some(people.own)),
            // Only the writer's group may read the log; pawd is in it, who may connect to pawd is not.
            (&paths.log, 0o2750, Some(people.audit)),
        ]);
    }
    for (path, mode, owner) in wanted {
        make_directory(path, mode)
            .with_context(|| format!("make {}", path.display()))
            .map_err(Fatal::Permission)?;
        if let Some(owner) = owner
            && nix::unistd::geteuid().is_root()
        {
            let given = chown(path, Some(owner.uid), Some(owner.gid));
            given.with_context(|| format!("give {} to uid {}", path.display(), owner.uid))?;
            // Changing the owner clears the set-group-id bit.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .with_context(|| format!("set the mode of {}", path.display()))?;
        }
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// A listening socket at this path. One that nobody listens on any more is replaced; anything else is left alone.
fn listener(path: &Path, kind: SockType) -> Result<OwnedFd, Fatal> {
    let shown = path.display();
    if let Ok(facts) = fs::symlink_metadata(path) {
        if !facts.file_type().is_socket() {
            let message = format!(
                "{shown} is there and is no socket; move it away, or start pawd with another --root"
            );
            return Err(Fatal::Config(anyhow!("{message}")));
        }
        if listened_on(path, kind) {
            let message = format!(
                "another pawd listens on {shown}; stop it first (systemctl stop pawd), or use another --root"
            );
            return Err(Fatal::Permission(anyhow!("{message}")));
        }
        remove(path)?;
    }
    let made = || -> nix::Result<OwnedFd> {
        let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(fd)
    };
    made()
        .with_context(|| format!("listen on {shown}"))
        .map_err(Fatal::Permission)
}

/// Removes the socket that an earlier life had and this one does not. One that somebody listens on, and what is no socket, is left
/// alone.
fn forget(path: &Path, kind: SockType) -> Result<(), Fatal> {
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.file_type().is_socket() && !listened_on(path, kind) => remove(path),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), Fatal> {
    fs::remove_file(path)
        .with_context(|| {
            format!(
                "remove the socket {} that an earlier pawd left behind",
                path.display()
            )
        })
        .map_err(Fatal::from)
}

/// Whether somebody accepts connections there. A socket of the other type answers with EPROTOTYPE, and so is in use as well.
fn listened_on(path: &Path, kind: SockType) -> bool {
    match kind {
        SockType::Stream => match UnixStream::connect(path) {
            Ok(_) => true,
            Err(error) => {
                error.kind() != ErrorKind::ConnectionRefused && error.kind() != ErrorKind::NotFound
            }
        },
        _ => {
            let tried = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
                .and_then(|fd| nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?));
            !matches!(
                tried,
                Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOENT)
            )
        }
    }
}

/// Says who may connect.
fn allow(path: &Path, owner: Account, group: Option<u32>, mode: u32) -> Result<(), Fatal> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    if nix::unistd::geteuid().is_root() {
        let given = chown(path, Some(owner.uid), Some(group.unwrap_or(owner.gid)));
        given.with_context(|| format!("give {} to uid {}", path.display(), owner.uid))?;
    }
    Ok(())
}
