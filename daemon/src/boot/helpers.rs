//! The launcher, the audit writer and the egress broker where no service manager starts them.
//!
//! They are started by root, before the drop, and become users of their own. Afterwards pawd can neither signal nor restart
//! them: they hold one end of a pipe, the lifeline, and end when pawd is gone, however it went. When one of them ends first,
//! pawd ends too, because without root nothing can take its place; whoever supervises pawd starts all of them again.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, anyhow};
use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::sync::oneshot;

use super::{
    sockets::Sockets,
    users::{Account, People},
};
use crate::{config::Paths, exit::Fatal};

/// The number under which a helper finds its socket.
const LISTEN_FD: i32 = 3;

/// The number under which a helper finds its end of the lifeline.
const LIFELINE_FD: i32 = 4;

/// The helpers of this pawd.
#[derive(Debug)]
pub(super) struct Helpers {
    /// Each by name, with the descriptor that becomes readable at its end.
    pub(super) running: Vec<(&'static str, Child, OwnedFd)>,
    /// Closed when pawd ends.
    _lifeline: OwnedFd,
}

impl Helpers {
    /// Whether this one is among them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.running.iter().any(|(helper, ..)| *helper == name)
    }
}

/// Starts all of them.
pub(super) fn start(paths: &Paths, people: &People, sockets: &Sockets) -> Result<Helpers, Fatal> {
    let (held, lifeline) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .context("make the lifeline of the helpers")?;
    let mut audit = Command::new(paths.libexec.join("paw-audit"));
    audit
        .arg("--log-dir")
        .arg(&paths.log)
        .arg("--state")
        .arg(&paths.audit_state);
    let mut launcher = Command::new(paths.libexec.join("paw-launcher"));
    launcher
        .arg("--config")
        .arg(paths.etc.join("launcher.toml"))
        .arg("--state")
        .arg(&paths.launcher_state)
        .arg("--libexec")
        .arg(&paths.libexec)
        .arg("--data")
        .arg(&paths.data)
        .arg("--skills")
        .arg(&paths.skills)
        .arg("--cgroup")
        .arg(cgroup(paths, people.launcher.uid));
    // Real root, so it is not started with anybody's account: the one that it is told is for what it starts beside a shim.
    let mut kata = Command::new(paths.libexec.join("paw-launcher-kata"));
    kata.arg("--config")
        .arg(paths.etc.join("launcher-kata.toml"))
        .arg("--state")
        .arg(&paths.kata_state)
        .arg("--libexec")
        .arg(&paths.libexec)
        .arg("--data")
        .arg(&paths.data)
        .arg("--skills")
        .arg(&paths.skills)
        .arg("--cgroup")
        .arg(kata_cgroup(paths));
    let mut egress = Command::new(paths.libexec.join("paw-egress"));
    egress
        .arg("--config")
        .arg(paths.etc.join("egress.toml"))
        .arg("--credentials")
        .arg(paths.etc.join("credentials"));
    let parts = [
        ("paw-audit", audit, people.audit, sockets.audit.as_ref()),
        ("paw-egress", egress, people.egress, sockets.egress.as_ref()),
        (
            "paw-launcher",
            launcher,
            people.launcher,
            sockets.launcher.as_ref(),
        ),
        (
            "paw-launcher-kata",
            kata,
            people.shim.unwrap_or(people.own),
            sockets.kata.as_ref(),
        ),
    ];
    let mut running = Vec::new();
    for (name, command, account, socket) in parts {
        let Some(socket) = socket else { continue };
        running.push(spawn(name, command, account, people.own, socket, &held)?);
    }
    Ok(Helpers {
        running,
        _lifeline: lifeline,
    })
}

/// The name of the first helper that ends; never, without helpers. A thread waits for it, because a descriptor of this kind
/// cannot be given to the runtime without giving up the guarantees of its type; it sleeps until then and ends with the process.
pub(super) fn watch(
    helpers: Option<&Helpers>,
) -> Result<impl Future<Output = &'static str> + use<>, Fatal> {
    let (tell, told) = oneshot::channel();
    let mut watched: Vec<(&'static str, OwnedFd)> = Vec::new();
    for (name, _, ended) in helpers.into_iter().flat_map(|helpers| &helpers.running) {
        watched.push((name, ended.try_clone().context("watch a helper")?));
    }
    if !watched.is_empty() {
        let wait = move || {
            let mut fds: Vec<PollFd<'_>> = watched
                .iter()
                .map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
                .collect();
            while matches!(poll(&mut fds, PollTimeout::NONE), Err(Errno::EINTR)) {}
            let ended = fds
                .iter()
                .position(|fd| fd.any() == Some(true))
                .and_then(|index| watched.get(index));
            // Nobody listens any more when pawd stops first.
            let _ = tell.send(ended.map_or("a helper", |(name, _)| *name));
        };
        std::thread::Builder::new()
            .name("helpers".into())
            .spawn(wait)
            .context("watch the helpers")?;
    }
    Ok(async move {
        match told.await {
            Ok(name) => name,
            Err(_) => std::future::pending().await,
        }
    })
}

/// Why pawd ends because a helper did, with the exit code that the helper's own end calls for.
pub(super) fn end_of(helpers: Option<&mut Helpers>, name: &'static str) -> Fatal {
    let child = helpers.and_then(|helpers| {
        helpers
            .running
            .iter_mut()
            .find(|(known, ..)| *known == name)
    });
    let status = child.and_then(|(_, child, _)| child.try_wait().ok().flatten());
    let how = status.map_or_else(
        || "for a reason unknown".to_owned(),
        |status| format!("with {status}"),
    );
    let error = anyhow!(
        "{name} ended {how}; what it said about it stands before this. pawd gave up root and cannot start it again: mend the \
         cause, and let a supervisor restart pawd"
    );
    match status
        .and_then(|status| status.code())
        .and_then(|code| u8::try_from(code).ok())
    {
        Some(crate::exit::CONFIG) => Fatal::Config(error),
        Some(crate::exit::PERMISSION) => Fatal::Permission(error),
        _ => Fatal::Software(error),
    }
}

fn spawn(
    name: &'static str,
    mut command: Command,
    account: Account,
    peer: Account,
    socket: &OwnedFd,
    lifeline: &OwnedFd,
) -> Result<(&'static str, Child, OwnedFd), Fatal> {
    let copy = |fd: &OwnedFd| fd.try_clone().context("copy a descriptor for a helper");
    command
        .args([
            "--listen-fd",
            &LISTEN_FD.to_string(),
            "--lifeline-fd",
            &LIFELINE_FD.to_string(),
        ])
        .args([
            "--uid",
            &account.uid.to_string(),
            "--gid",
            &account.gid.to_string(),
        ])
        .args(["--peer-uid", &peer.uid.to_string()])
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::null())
        .fd_mappings(vec![
            FdMapping {
                parent_fd: copy(socket)?,
                child_fd: LISTEN_FD,
            },
            FdMapping {
                parent_fd: copy(lifeline)?,
                child_fd: LIFELINE_FD,
            },
        ])
        .context("hand descriptors to a helper")?;
    let program = command.get_program().to_owned();
    let child = command.spawn().with_context(|| {
        format!(
            "start {}; is pawd installed completely?",
            program.to_string_lossy()
        )
    })?;
    let pid = rustix::process::Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::NONBLOCK).with_context(|| format!("watch {name}"))?;
    tracing::debug!(
        helper = name,
        pid = child.id(),
        fd = ended.as_raw_fd(),
        "helper started"
    );
    Ok((name, child, ended))
}

/// The group of this pawd's sandboxes: one name for the installed pawd, another one for each root. That one is below a group of the
/// launcher's user, who can so remove it at the end: at the top it would take root, which nobody is then.
fn cgroup(paths: &Paths, launcher: u32) -> String {
    match name(paths) {
        None => "/pawd".into(),
        Some(name) => format!("/pawd.{launcher}/{name}"),
    }
}

/// The same for sandboxes of a shim, whose launcher is root.
fn kata_cgroup(paths: &Paths) -> String {
    name(paths).map_or_else(|| "/pawd-kata".into(), |name| format!("/pawd-{name}-kata"))
}

/// What tells the roots apart.
fn name(paths: &Paths) -> Option<String> {
    if paths.run == std::path::Path::new("/run/pawd") {
        return None;
    }
    let digest = paw_policy::Digest::of(paths.run.as_os_str().as_encoded_bytes()).to_string();
    Some(digest[..12].to_owned())
}
