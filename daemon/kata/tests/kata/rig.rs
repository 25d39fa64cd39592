//! A paw-launcher-kata with a state, a cgroup and a shim of its own. Everything is removed at the end.

use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use paw_launch::request::{Reply, Request, Runtime, RuntimeState, SandboxPlan};

use crate::shared::{self, Client, busybox, copy, open_to_all};

/// First id of the range for these sandboxes.
pub(crate) const BASE: u32 = 700_000_000;

/// Where Debian's containerd has its shim, and where Kata has its own.
const RUNC: &str = "/usr/bin/containerd-shim-runc-v2";
const KATA: [&str; 2] = [
    "/usr/bin/containerd-shim-kata-v2",
    "/opt/kata/bin/containerd-shim-kata-v2",
];

/// The shim that is tested.
pub(crate) fn shim() -> PathBuf {
    if let Ok(named) = std::env::var("PAW_TEST_SHIM") {
        return named.into();
    }
    let kata = KATA.iter().find(|path| Path::new(path).exists());
    match kata {
        Some(path) if Path::new("/dev/kvm").exists() => path.into(),
        _ => RUNC.into(),
    }
}

/// Whether it makes virtual machines.
pub(crate) fn is_kata() -> bool {
    shim().to_string_lossy().contains("kata")
}

/// Why these tests cannot run here.
pub(crate) fn obstacle() -> Option<String> {
    if let Some(why) = shared::obstacle() {
        return Some(why);
    }
    if !shim().exists() {
        return Some(format!(
            "{} is missing: apt-get install containerd runc",
            shim().display()
        ));
    }
    None
}

/// A launcher with everything of its own.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: String,
    pub(crate) launcher: Child,
    lifeline: Option<std::io::PipeWriter>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_shim(&shim())
    }

    /// With this program as the shim.
    pub(crate) fn with_shim(shim: &Path) -> Self {
        Self::with(shim, shared::init())
    }

    /// With another program in the place of paw-init.
    pub(crate) fn with(shim: &Path, init: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        open_to_all(path);
        for name in [
            "libexec",
            "data",
            "data/images",
            "data/skills",
            "state",
            "shared",
        ] {
            fs::create_dir(path.join(name)).unwrap();
            open_to_all(&path.join(name));
        }
        copy(
            &shared::built().join("debug/paw-shim"),
            &path.join("libexec/paw-shim"),
        );
        copy(init, &path.join("libexec/paw-init"));
        busybox(&path.join("data/images/busybox"));
        fs::write(path.join("launcher-kata.toml"), config(path, shim, true)).unwrap();
        let cgroup = format!(
            "/paw-kata-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let (launcher, lifeline) = launch(path, &cgroup, Stdio::inherit());
        let rig = Self {
            dir,
            cgroup,
            launcher,
            lifeline: Some(lifeline),
        };
        rig.client();
        rig
    }

    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(&self.dir.path().join("launcher.sock"));
        client.greet();
        client
    }

    /// Kills the launcher without a warning and starts another one.
    pub(crate) fn crash_and_restart(&mut self) {
        self.launcher.kill().unwrap();
        self.launcher.wait().unwrap();
        let (launcher, lifeline) = launch(self.dir.path(), &self.cgroup, Stdio::inherit());
        (self.launcher, self.lifeline) = (launcher, Some(lifeline));
        self.client();
    }

    /// What the launcher says of the runtime kata.
    pub(crate) fn state(&self) -> RuntimeState {
        let Reply::Runtimes { runtimes } = self.client().ask(Request::Runtimes).0 else {
            panic!("no runtimes");
        };
        runtimes
            .into_iter()
            .find(|state| state.name == Runtime::Kata)
            .unwrap()
    }

    /// Every directory that is a sandbox's in any hierarchy, also those that limit nothing.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        hierarchies()
            .iter()
            .filter_map(|root| fs::read_dir(root.join(self.cgroup.trim_start_matches('/'))).ok())
            .flat_map(|entries| entries.map(|entry| entry.unwrap().path()))
            .filter(|path| {
                path.is_dir()
                    && path
                        .file_name()
                        .unwrap()
                        .to_string_lossy()
                        .starts_with("sb-")
            })
            .collect()
    }

    /// Pids of this rig: in its cgroups, or with its directory on their command line.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let own = self.dir.path().to_string_lossy().into_owned();
        processes()
            .into_iter()
            .filter(|(pid, command)| {
                let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                *pid != self.launcher.id().cast_signed()
                    && (groups.contains(&self.cgroup) || command.contains(&own))
                    && !command.contains("launcher-kata.toml")
            })
            .collect()
    }

    /// The process of this sandbox's shim.
    pub(crate) fn shim_of(&self, id: &str) -> i32 {
        let name = shim().file_name().unwrap().to_string_lossy().into_owned();
        processes()
            .into_iter()
            .find(|(_, command)| {
                command.contains(&name) && command.contains(id) && !command.contains("--shim")
            })
            .unwrap()
            .0
    }

    /// What is in a directory of the launcher's own `/run`, which no other process sees.
    pub(crate) fn run(&self, name: &str) -> Vec<String> {
        let dir = format!("/proc/{}/root/run/{name}", self.launcher.id());
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Mounts below the state, as the launcher sees them.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.launcher.id())).unwrap();
        let own = self.dir.path().to_string_lossy().into_owned();
        text.lines()
            .filter(|line| line.contains(&own))
            .map(str::to_owned)
            .collect()
    }

    /// Asserts that nothing is there of any sandbox.
    pub(crate) fn assert_nothing_is_left(&self) {
        let bundles: Vec<_> = fs::read_dir(self.dir.path().join("state/bundles"))
            .unwrap()
            .collect();
        assert_eq!(bundles.len(), 0, "{bundles:?}");
        assert_eq!(self.groups(), Vec::<PathBuf>::new());
        assert_eq!(self.mounts(), Vec::<String>::new());
        assert_eq!(self.run("containerd/s"), Vec::<String>::new());
        assert_eq!(self.run("containerd/runc/paw"), Vec::<String>::new());
        assert_eq!(self.run("paw"), Vec::<String>::new());
        assert_eq!(self.run("paw-mounts"), Vec::<String>::new());
        assert_eq!(self.processes(), Vec::new());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.launcher.wait();
        // Where what clears up was killed, the next start would remove the shim's group; there is none.
        for group in self.groups() {
            let _ = fs::remove_dir(group);
        }
        for root in hierarchies() {
            let own = root.join(self.cgroup.trim_start_matches('/'));
            let _ = fs::remove_dir(own.join("supervisor"));
            let _ = fs::remove_dir(own);
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter(|line| line.contains(" - cgroup"))
        .map(|line| line.split(' ').nth(4).unwrap().into())
        .collect()
}

/// Every process of this host and its command line.
pub(crate) fn processes() -> Vec<(i32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (!command.is_empty()).then_some((pid, command))
        })
        .collect()
}

/// `launcher-kata.toml`.
pub(crate) fn config(dir: &Path, shim: &Path, enabled: bool) -> String {
    format!(
        "runtimes = [\"kata\"]\nimage_dirs = []\nmount_prefixes = [\"{dir}/shared\"]\nmax_sandboxes = 4\n\
         [kata]\nenabled = {enabled}\nshim = \"{shim}\"\n[ids]\nbase = {BASE}\nslots = 8\n\
         [limits]\ncpu_milli = 2000\nmemory = 268435456\ndisk = 67108864\npids = 64\nopen_files = 1024\nwall_ms = 60000\n\
         [total]\nmemory = 1073741824\npids = 2048\n",
        dir = dir.display(),
        shim = shim.display()
    )
}

/// Starts paw-launcher-kata with what is in this directory.
pub(crate) fn launch(dir: &Path, cgroup: &str, stderr: Stdio) -> (Child, std::io::PipeWriter) {
    let path = dir.join("launcher.sock");
    let _ = fs::remove_file(&path);
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    listen(&listener, Backlog::new(16).unwrap()).unwrap();
    let (lifeline, ours) = std::io::pipe().unwrap();
    let mapping = |parent_fd, child_fd| FdMapping {
        parent_fd,
        child_fd,
    };
    let mut command = Command::new(shared::built().join("debug/paw-launcher-kata"));
    command
        .args(["--listen-fd", "3", "--lifeline-fd", "4", "--cgroup", cgroup])
        .args(["--uid", "65534", "--gid", "65534"])
        .arg("--config")
        .arg(dir.join("launcher-kata.toml"))
        .arg("--state")
        .arg(dir.join("state"))
        .arg("--libexec")
        .arg(dir.join("libexec"))
        .arg("--data")
        .arg(dir.join("data"))
        .env(
            "PAWD_LOG",
            std::env::var("PAWD_LOG").unwrap_or_else(|_| "error".to_owned()),
        )
        .stderr(stderr)
        .fd_mappings(vec![mapping(listener, 3), mapping(lifeline.into(), 4)])
        .unwrap();
    (command.spawn().unwrap(), ours)
}

/// A plan with small limits.
pub(crate) fn plan(id: u64) -> SandboxPlan {
    let plan = shared::plan(id);
    let mut limits = plan.limits;
    if is_kata() {
        limits.memory = 256 << 20;
    }
    SandboxPlan {
        runtime: Runtime::Kata,
        limits,
        ..plan
    }
}

/// Whether a process lives.
pub(crate) fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A file that root alone may write, and everybody execute.
pub(crate) fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    open_to_all(path);
    assert_eq!(fs::metadata(path).unwrap().uid(), 0);
}

/// How long what should come at once may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
