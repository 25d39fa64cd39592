//! The launcher, the audit writer and the egress broker where no service manager starts them.
//!
//! They are started by root, before the drop, and become users of their own. Afterwards pawd can neither signal nor restart
//! them: they hold one end of a pipe, the lifeline, and end when pawd is gone, however it went. When one of them ends first,
//! pawd ends too, because without root nothing can take its place; whoever supervises pawd starts all of them again.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{PidfdFlags, pidfd_open};

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
        .arg("--cgroup")
        .arg(cgroup(paths));
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
        .arg("--cgroup")
        .arg(format!("{}-kata", cgroup(paths)));
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

/// The group of this pawd's sandboxes: one name for the installed pawd, another one for each root.
fn cgroup(paths: &Paths) -> String {
    if paths.run == std::path::Path::new("/run/pawd") {
        return "/pawd".into();
    }
    let digest = paw_policy::Digest::of(paths.run.as_os_str().as_encoded_bytes()).to_string();
    format!("/pawd-{}", &digest[..12])
}
