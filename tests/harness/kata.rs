//! The real launcher for sandboxes of a containerd shim, beside a pawd that it does not end with.
//!
//! The shim is runc's, as Debian's containerd has it: what it makes is no virtual machine, and no more is said of it here.

use std::{
    fs,
    io::PipeWriter,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::{Root, Running, root, stage, standalone::gone};

/// Where Debian's containerd has its shim.
pub const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

/// First host id of the sandboxes of these tests, far from those of the usual launcher's.
const IDS: u32 = 1_879_048_192;

/// Who speaks with the shims here: nobody, but not the nobody that pawd is.
const ATTENDANT: u32 = 65_533;

/// Why sandboxes of a shim cannot be made here.
#[must_use]
pub fn obstacle() -> Option<String> {
    [SHIM, "/usr/sbin/runc"]
        .into_iter()
        .find(|path| !Path::new(path).exists())
        .map(|path| format!("{path} is missing: apt-get install containerd runc"))
}

/// What it may be asked for.
#[must_use]
pub fn config() -> String {
    format!(
        "runtimes = [\"kata\"]\nimage_dirs = []\nmount_prefixes = []\nmax_sandboxes = 8\n\n\
         [kata]\nenabled = true\nshim = \"{SHIM}\"\n\n[ids]\nbase = {IDS}\nslots = 16\n"
    )
}

/// One that runs. At its end, what it made ends too.
pub struct KataLauncher {
    /// The process.
    pub process: Running,
    lifeline: Option<PipeWriter>,
    cgroup: String,
}

impl KataLauncher {
    /// Starts it on the root's `run/launcher-kata.sock`, for who the processes of a test run as.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(root: &Root) -> Self {
        let path = root.path().join("run/launcher-kata.sock");
        let _ = fs::remove_file(&path);
        let flags = SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket");
        bind(&socket, &SocketAddrUnix::new(&path).expect("a short path"))
            .expect("the root is ours");
        listen(&socket, 4).expect("it is bound");
        root.mode("run/launcher-kata.sock", 0o600);
        root.give("run/launcher-kata.sock");
        let state = root.path().join("launcher-kata");
        fs::create_dir_all(&state).expect("the root is ours");
        root.mode("launcher-kata", 0o711);
        root.write("etc/launcher-kata.toml", &config());
        let name = root.path().file_name().unwrap_or_default();
        let cgroup = format!("/{}-kata", name.to_string_lossy().replace('.', ""));
        let (lifeline, ours) = std::io::pipe().expect("a pipe");
        let mut command = Command::new(stage::program("paw-launcher-kata"));
        command
            .args([
                "--listen-fd",
                "3",
                "--lifeline-fd",
                "4",
                "--cgroup",
                &cgroup,
            ])
            .args(["--peer-uid", &root::uid().to_string()])
            .args([
                "--uid",
                &ATTENDANT.to_string(),
                "--gid",
                &ATTENDANT.to_string(),
            ])
            .arg("--config")
            .arg(root.path().join("etc/launcher-kata.toml"))
            .arg("--state")
            .arg(&state)
            .arg("--libexec")
            .arg(stage::usr().join("libexec/pawd"))
            .arg("--data")
            .arg(stage::usr().join("lib/pawd"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS");
        let mapping = |parent_fd: OwnedFd, child_fd| FdMapping {
            parent_fd,
            child_fd,
        };
        command
            .fd_mappings(vec![mapping(socket, 3), mapping(lifeline.into(), 4)])
            .expect("the numbers are free");
        Self {
            process: Running::start("paw-launcher-kata", command),
            lifeline: Some(ours),
            cgroup,
        }
    }

    /// Control groups of its sandboxes, in every hierarchy.
    ///
    /// # Panics
    /// When the kernel does not say what is mounted.
    #[must_use]
    pub fn sandbox_groups(&self) -> Vec<PathBuf> {
        let of = |total: PathBuf| fs::read_dir(total).into_iter().flatten();
        self.totals()
            .into_iter()
            .flat_map(of)
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("sb-") && path.is_dir()
            })
            .collect()
    }

    fn totals(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4))
            .map(|hierarchy| Path::new(hierarchy).join(self.cgroup.trim_start_matches('/')))
            .collect()
    }
}

impl Drop for KataLauncher {
    fn drop(&mut self) {
        // It ends what it made before it ends itself.
        self.lifeline = None;
        let _ = gone(u32::try_from(self.process.pid()).unwrap_or_default());
        self.process.abandon();
        for total in self.totals() {
            let _ = fs::remove_dir(total.join("supervisor"));
            let _ = fs::remove_dir(total);
        }
    }
}
