//! Sandboxes of a containerd shim: what the launcher does for one, which is to start paw-shim and to believe the kernel.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{sys::stat::Mode, unistd::Pid};
use paw_launch::{
    request::{Attestation, Isolation, Limits, Runtime},
    shim::{self as said, Said},
};
use paw_policy::Digest;
use serde_json::Value;

use super::{attest, pins::Pins, shim::Shim, specification};
use crate::{
    attest::{AttestError, Expected},
    bundle::Bound,
    ceilings::Approved,
    cgroup::Leaf,
    runtime::{Maker, Told},
    sandbox::CreateError,
    spawn::{Order, Spawned, Streams},
};

/// What a shim and its paw-shim may use; neither runs anything of the sandbox's.
const SHIM: Limits = Limits {
    cpu_milli: 2000,
    memory: 256 << 20,
    disk: 0,
    pids: 256,
    open_files: 0,
    wall_ms: 0,
    io_weight: None,
};

/// What a virtual machine needs beside what the plan gives to the programs in it: its hypervisor, its kernel, its agent.
const MACHINE_MEMORY: u64 = 512 << 20;
const MACHINE_PIDS: u32 = 128;

/// The least with which a virtual machine boots.
const LEAST_MACHINE: u64 = 128 << 20;

/// A usable shim and the program that speaks with it.
#[derive(Debug)]
pub(super) struct Kata {
    pub(super) shim: Shim,
    /// The paw-shim program.
    pub(super) helper: PathBuf,
    /// Whom paw-shim becomes once the shim runs.
    pub(super) nobody: (u32, u32),
    /// What is mounted in its sandboxes.
    pub(super) pins: Pins,
}

impl Kata {
    /// The cgroup of a sandbox's shim, beside that of the sandbox.
    fn group(leaf: &Leaf) -> Leaf {
        leaf.beside("shim")
    }

    /// What starts paw-shim for a sandbox, with nothing of ours but what is given.
    fn order(&self, word: &str, order: &Order<'_>, group: &Leaf) -> Command {
        let mut command = Command::new(&self.helper);
        command
            .arg(word)
            .args(["--id", order.id])
            .arg("--shim")
            .arg(self.shim.program.path())
            .args(["--cgroup", order.leaf.path()])
            .args(
                self.shim
                    .configuration
                    .iter()
                    .flat_map(|path| ["--configuration".as_ref(), path.as_os_str()]),
            )
            .args(group.dirs())
            .env_clear()
            .current_dir(order.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

impl Maker for Kata {
    fn name(&self) -> Runtime {
        Runtime::Kata
    }

    fn isolation(&self) -> Isolation {
        self.shim.isolation
    }

    fn version(&self) -> String {
        self.shim.version.clone()
    }

    fn digest(&self) -> io::Result<Digest> {
        self.shim.program.digest()
    }

    fn objection(&self, limits: &Limits) -> Option<String> {
        (self.shim.isolation == Isolation::Vm && limits.memory < LEAST_MACHINE).then(|| {
            format!(
                "memory of {} is too little for a virtual machine: it needs {LEAST_MACHINE}",
                limits.memory
            )
        })
    }

    fn leaf_limits(&self, limits: &Limits) -> Limits {
        match self.shim.isolation {
            Isolation::Process | Isolation::Kernel => *limits,
            Isolation::Vm => Limits {
                memory: limits.memory + MACHINE_MEMORY,
                pids: limits.pids + MACHINE_PIDS,
                ..*limits
            },
        }
    }

    /// A shim is no child of ours: it sees the host's files, where it was started.
    fn pins(&self) -> Option<&Pins> {
        Some(&self.pins)
    }

    fn specification(&self, plan: &Approved, cgroup: &str, bound: &[Bound]) -> Value {
        specification::write(self.shim.isolation, plan, cgroup, bound)
    }

    /// The three streams and the shim's log are FIFOs in the bundle, because a shim opens them by their names. Ours are opened
    /// here, each for its one direction, so that the end of the other side is seen.
    fn spawn(&self, order: &Order<'_>) -> Result<Spawned, CreateError> {
        if self.shim.isolation == Isolation::Process {
            let path = order.dir.join("config.json");
            let text = fs::read(&path).map_err(CreateError::Spawn)?;
            let mut written: Value =
                serde_json::from_slice(&text).map_err(|error| CreateError::Spawn(error.into()))?;
            specification::with_ids(&mut written, order.map);
            fs::write(&path, written.to_string()).map_err(CreateError::Spawn)?;
        }
        for name in ["in", "out", "err", "log"] {
            nix::unistd::mkfifo(&order.dir.join(name), Mode::S_IRUSR | Mode::S_IWUSR)
                .map_err(CreateError::Pipe)?;
        }
        let reader = |name: &str| open(order.dir, name, true);
        // Held until the writing end is there: without a reader it could not be opened. The shim opens its own later.
        let waiting = reader("in")?;
        let ours = Streams {
            stdin: blocking(open(order.dir, "in", false)?)?,
            stdout: reader("out")?.into(),
            stderr: reader("err")?.into(),
        };
        drop(waiting);
        let complaints = open(order.dir, "err", false)?;
        let group = Self::group(order.leaf);
        group.make()?;
        let started = group
            .limit(&SHIM)
            .map_err(CreateError::from)
            .and_then(|()| {
                let (uid, gid) = self.nobody;
                let mut command = self.order("attend", order, &group);
                command
                    .args(["--uid", &uid.to_string(), "--gid", &gid.to_string()])
                    .stderr(Stdio::from(complaints));
                start(command)
            });
        match started {
            Ok(child) => Ok(Spawned {
                child,
                report: None,
                ours,
            }),
            Err(error) => {
                // Nobody is in it yet; should it stay, the next start removes it.
                let _ = group.remove();
                Err(error)
            }
        }
    }

    fn attest(&self, _: i32, expected: &Expected<'_>) -> Result<Attestation, AttestError> {
        attest::shim(self, expected)
    }

    fn told(&self, dir: &Path) -> Told {
        let mut told = Told::default();
        match said::read(dir) {
            Ok(lines) => {
                let mut ended = false;
                for line in lines {
                    match line {
                        Said::Shim { .. } | Said::Task { .. } => {}
                        Said::End { oom, .. } => {
                            told.oom_killed = oom;
                            ended = true;
                        }
                        Said::Lost { why } => told.lost = Some(why),
                    }
                }
                if !ended && told.lost.is_none() {
                    told.lost = Some("paw-shim ended before its task".to_owned());
                }
            }
            Err(error) => told.lost = Some(format!("read what paw-shim said: {error}")),
        }
        told
    }

    fn beside(&self, leaf: &Leaf) -> Option<Leaf> {
        Some(Self::group(leaf))
    }

    fn clear(&self, order: &Order<'_>) -> Result<Option<Pid>, CreateError> {
        let group = Self::group(order.leaf);
        let child = start(self.order("clear", order, &group))?;
        Ok(Some(child))
    }
}

fn start(mut command: Command) -> Result<Pid, CreateError> {
    let child = command.spawn().map_err(CreateError::Spawn)?;
    i32::try_from(child.id())
        .map(Pid::from_raw)
        .map_err(|error| CreateError::Spawn(io::Error::other(error)))
}

/// Opens a FIFO of the bundle for one direction, without waiting for the other side.
fn open(dir: &Path, name: &str, read: bool) -> Result<File, CreateError> {
    OpenOptions::new()
        .read(read)
        .write(!read)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW)
        .open(dir.join(name))
        .map_err(CreateError::Spawn)
}

fn blocking(file: File) -> Result<OwnedFd, CreateError> {
    rustix::io::ioctl_fionbio(file.as_fd(), false)
        .map_err(|errno| CreateError::Spawn(errno.into()))?;
    Ok(file.into())
}
