//! The shim as a process: started in the bundle, and asked where it listens.

use std::{
    fs, io,
    io::Read,
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt, net::UnixStream, process::CommandExt},
    },
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::{Which, groups};

/// Containerd's namespace: shims keep what is of different ones apart.
pub(crate) const NAMESPACE: &str = "paw";

/// Where shims listen: the launcher's own `/run`, in which nothing of the host is.
const RUN: &str = "/run";

/// Where a containerd would listen, if there were one; shims only derive names from it.
const NO_CONTAINERD: &str = "/run/paw/containerd.sock";

/// The most that is taken of what a shim says when it starts.
const MAX_SAID: u64 = 4096;

/// Why the shim does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("start {path}")]
    Spawn { path: PathBuf, source: io::Error },
    #[error("{path} {action} did not end within {} s", .limit.as_secs())]
    Slow {
        path: PathBuf,
        action: &'static str,
        limit: Duration,
    },
    #[error("{path} {action} failed with {status}: {said}")]
    Failed {
        path: PathBuf,
        action: &'static str,
        status: String,
        said: String,
    },
    #[error("the shim does not say where it listens below {RUN}, but {0:?}")]
    NoAddress(String),
    #[error("connect to the shim at {path}")]
    Connect { path: PathBuf, source: io::Error },
}

/// Where a shim listens, and what it says it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) path: PathBuf,
    pub(crate) version: u32,
}

impl Address {
    /// From what `start` printed: `unix://PATH` from shims of the second version, JSON from newer ones.
    pub(crate) fn parse(said: &str) -> Result<Self, StartError> {
        let said = said.trim();
        let none = || StartError::NoAddress(said.chars().take(200).collect());
        let (address, version) = match serde_json::from_str::<serde_json::Value>(said) {
            Ok(value) => {
                let address = value["address"].as_str().ok_or_else(none)?.to_owned();
                let protocol = value["protocol"].as_str().unwrap_or("ttrpc");
                if protocol != "ttrpc" {
                    return Err(none());
                }
                let version = value["version"].as_u64().unwrap_or(2);
                (address, u32::try_from(version).map_err(|_| none())?)
            }
            Err(_) => (said.to_owned(), 2),
        };
        let path = address.strip_prefix("unix://").ok_or_else(none)?;
        Self::new(path, version)
    }

    /// A socket below the launcher's own `/run`, and nothing else: it is connected to, and in the end removed, with root's rights.
    pub(crate) fn new(path: &str, version: u32) -> Result<Self, StartError> {
        let below = Path::new(path).strip_prefix(RUN).is_ok_and(|below| {
            let mut parts = below.components().peekable();
            parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
        });
        if below && path.len() < 108 && !path.chars().any(char::is_control) {
            Ok(Self {
                path: path.into(),
                version,
            })
        } else {
            Err(StartError::NoAddress(path.chars().take(200).collect()))
        }
    }

    /// Connects. A shim that is stopped is connected to as well: the kernel does that.
    pub(crate) fn connect(&self) -> Result<UnixStream, StartError> {
        let fault = |source| StartError::Connect {
            path: self.path.clone(),
            source,
        };
        let found = fs::symlink_metadata(&self.path).map_err(fault)?;
        if !found.file_type().is_socket() {
            return Err(fault(io::Error::from(io::ErrorKind::ConnectionRefused)));
        }
        UnixStream::connect(&self.path).map_err(fault)
    }
}

/// Starts the shim of this bundle; it goes on by itself. `events` is where it tells what happens.
pub(crate) fn start(which: &Which, events: &Path, limit: Duration) -> Result<Address, StartError> {
    let mut command = command(which, "start");
    command.env("TTRPC_ADDRESS", events);
    Address::parse(&run(command, which, "start", limit)?)
}

/// Has the shim's program clear up without the shim: what containerd does when one has died. It runs within the shim's cgroup,
/// in which we cannot be ourselves: everybody there is killed afterwards.
pub(crate) fn delete(which: &Which, limit: Duration) -> Result<(), StartError> {
    let mut command = Command::new("/proc/self/exe");
    command
        .env_clear()
        .arg("delete")
        .args(["--id", &which.id, "--cgroup", &which.cgroup])
        .arg("--shim")
        .arg(&which.shim);
    if let Some(configuration) = &which.configuration {
        command.arg("--configuration").arg(configuration);
    }
    command.args(&which.groups);
    run(command, which, "delete", limit).map(drop)
}

/// Enters the shim's cgroup and becomes its program. Comes back only when that fails.
pub(crate) fn become_delete(which: &Which) -> StartError {
    let error = match groups::enter(&which.groups) {
        Ok(()) => command(which, "delete").exec(),
        Err(error) => error,
    };
    StartError::Spawn {
        path: which.shim.clone(),
        source: error,
    }
}

fn command(which: &Which, action: &str) -> Command {
    let mut command = Command::new(&which.shim);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        // As containerd does: a shim has little to do at the same time.
        .env("GOMAXPROCS", "2")
        .args(["-namespace", NAMESPACE, "-id", &which.id])
        .args(["-address", NO_CONTAINERD, "-publish-binary", "/bin/true"]);
    if let Some(configuration) = &which.configuration {
        command.env("KATA_CONF_FILE", configuration);
    }
    if action == "delete"
        && let Ok(bundle) = std::env::current_dir()
    {
        command.arg("-bundle").arg(bundle);
    }
    command.arg(action);
    command
}

/// Runs it to its end, within a time; gives what it said.
fn run(
    mut command: Command,
    which: &Which,
    action: &'static str,
    limit: Duration,
) -> Result<String, StartError> {
    let spawn = |source| StartError::Spawn {
        path: which.shim.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawn)?;
    let ended = pidfd_open(
        rustix::process::Pid::from_child(&child),
        PidfdFlags::empty(),
    )
    .map_err(|errno| spawn(errno.into()))?;
    let until = Instant::now() + limit;
    // What it says fits into its pipes; if it does not, it does not end, and that is noticed.
    let in_time = loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut waiting = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, timeout) {
            Ok(0) if left.is_zero() => break false,
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => break true,
            Err(errno) => return Err(spawn(errno.into())),
        }
    };
    if !in_time {
        // It is ours and not reaped.
        let _ = child.kill();
        let _ = child.wait();
        return Err(StartError::Slow {
            path: which.shim.clone(),
            action,
            limit,
        });
    }
    let status = child.wait().map_err(spawn)?;
    let said = child.stdout.take().map(what_waits).unwrap_or_default();
    if status.success() {
        return Ok(said);
    }
    let complaint = child.stderr.take().map(what_waits).unwrap_or_default();
    Err(StartError::Failed {
        path: which.shim.clone(),
        action,
        status: status.to_string(),
        said: format!("{} {}", said.trim(), complaint.trim()),
    })
}

/// What waits in a pipe. The end of it may never come: the shim that was left behind may hold it.
fn what_waits(pipe: impl Read + AsFd) -> String {
    let mut said = Vec::new();
    if rustix::io::ioctl_fionbio(&pipe, true).is_ok() {
        // An error says that there is no more now; what was read before it stays.
        let _ = pipe.take(MAX_SAID).read_to_end(&mut said);
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_taken_from_both_forms_and_from_nothing_else() {
        let check = |said: &str, expected: Option<(&str, u32)>| {
            let found = Address::parse(said).ok();
            let found = found
                .as_ref()
                .map(|it| (it.path.to_str().unwrap(), it.version));
            assert_eq!(found, expected, "{said}");
        };
        check(
            "unix:///run/containerd/s/ab\n",
            Some(("/run/containerd/s/ab", 2)),
        );
        check(
            r#"{"version":3,"address":"unix:///run/containerd/s/ab","protocol":"ttrpc"}"#,
            Some(("/run/containerd/s/ab", 3)),
        );
        check(
            r#"{"version":2,"address":"unix:///run/x","protocol":"grpc"}"#,
            None,
        );
        check(r#"{"version":3}"#, None);
        check("unix://relative", None);
        check("unix:///run/../etc/x", None);
        check("unix:///run/containerd/..", None);
        check("unix:///run", None);
        check("unix:///runner/x", None);
        check("unix:///etc/x", None);
        check("vsock://3:1024", None);
        check("", None);
        check("unix:///run/a\nunix:///run/b", None);
        check(&format!("unix:///run/{}", "a".repeat(200)), None);
    }
}
