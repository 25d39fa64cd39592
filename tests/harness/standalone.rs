//! The whole system on the real kernel: `pawd --standalone` as root, with the real launcher, under users of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use jsonrpsee::async_client::Client;
use nix::sys::signal::{Signal, kill};
use paw_api::system::SystemRpcClient;

use crate::{
    LIMIT, PROCESS_WILL_DO, Root, Running, Window, kata, notify::Notify, operated_by_one, pawd,
    stage, within,
};

/// First host id of the sandboxes of these tests, far from what an installed launcher uses.
const IDS: u32 = 1_610_612_736;

/// Users that exist for one test.
pub struct Accounts {
    names: [String; 5],
}

impl Accounts {
    /// Makes them.
    ///
    /// # Panics
    /// When `useradd` fails.
    #[must_use]
    pub fn make() -> Self {
        let mark = std::process::id();
        let accounts = Self {
            names: ["d", "l", "a", "e", "s"].map(|part| format!("pawt{mark}{part}")),
        };
        for name in &accounts.names {
            let done = Command::new("useradd")
                .args(["-r", "-U", "-M", "-s", "/usr/sbin/nologin", name])
                .status()
                .expect("useradd is there");
            assert!(done.success(), "useradd {name}: {done}");
        }
        accounts
    }

    /// The lines of configuration that name them.
    #[must_use]
    pub fn config(&self) -> String {
        let [user, launcher, audit, egress, shim] = &self.names;
        format!(
            "[confinement]\nuser = \"{user}\"\nlauncher_user = \"{launcher}\"\naudit_user = \"{audit}\"\negress_user = \"{egress}\"\nshim_user = \"{shim}\"\n"
        )
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        for name in &self.names {
            // A test that fails for another reason shall say that reason.
            let _ = Command::new("userdel").arg(name).status();
        }
    }
}

/// A pawd with all its processes.
pub struct Standalone {
    /// What it says to a service manager.
    pub notify: Notify,
    /// The process that was started: pawd itself.
    pub daemon: Running,
    /// Where it has everything.
    pub root: Root,
    /// How many launchers it has.
    launchers: usize,
    _accounts: Accounts,
}

impl Standalone {
    /// Starts it with further lines of configuration, and waits until it is ready and the launcher is, too.
    ///
    /// # Panics
    /// When it does not become ready; what it said is shown.
    pub async fn start(config: &str) -> Self {
        Self::start_for(config, 8).await
    }

    /// As [`Standalone::start`], with room for so many sandboxes at once.
    ///
    /// # Panics
    /// As [`Standalone::start`].
    pub async fn start_for(config: &str, max_sandboxes: u32) -> Self {
        Self::start_all(config, max_sandboxes, false, &[]).await
    }

    /// As [`Standalone::start`], with a launcher for sandboxes of a shim, which is runc's, beside the usual one.
    ///
    /// # Panics
    /// As [`Standalone::start`].
    pub async fn start_with_shim(config: &str) -> Self {
        Self::start_all(config, 8, true, &[]).await
    }

    /// As [`Standalone::start`], with a launcher for sandboxes of a shim where that is wanted, and with further files by their
    /// path below its root, which `ROOT` in them stands for. Credentials, and the key of a vault, are only their owner's.
    ///
    /// # Panics
    /// As [`Standalone::start`].
    pub async fn start_with(config: &str, with_shim: bool, files: &[(&str, &str)]) -> Self {
        Self::start_all(config, 8, with_shim, files).await
    }

    async fn start_all(
        config: &str,
        max_sandboxes: u32,
        with_shim: bool,
        files: &[(&str, &str)],
    ) -> Self {
        let accounts = Accounts::make();
        let root = Root::bare();
        if with_shim {
            root.write("etc/launcher-kata.toml", &kata::config());
        }
        root.write(
            "etc/pawd.toml",
            &format!(
                "{}\n[agent.default]\nskills = [\"files\"]\n{config}",
                accounts.config()
            ),
        );
        root.write("etc/pawd.d/00-isolation.toml", PROCESS_WILL_DO);
        operated_by_one(&root);
        root.write("etc/launcher.toml", &format!("runtimes = [\"native\", \"gvisor\"]\nimage_dirs = []\nmount_prefixes = [\"{}/host\"]\nmax_sandboxes = {max_sandboxes}\n\n[ids]\nbase = {IDS}\nslots = {}\n", root.path().display(), 2 * max_sandboxes));
        for (path, text) in files {
            root.write(
                path,
                &text.replace("ROOT", &root.path().display().to_string()),
            );
            if path.contains("credentials/") || path.ends_with("vault.key") {
                root.mode(path, 0o400);
            }
        }
        let (daemon, notify) = launch(&root);
        let mut system = Self {
            notify,
            daemon,
            root,
            launchers: 1 + usize::from(with_shim),
            _accounts: accounts,
        };
        system.ready().await;
        system
    }

    /// Starts it again after its end.
    ///
    /// # Panics
    /// As [`Standalone::start`].
    pub async fn start_again(&mut self) {
        self.daemon.end().await;
        let (daemon, notify) = launch(&self.root);
        (self.daemon, self.notify) = (daemon, notify);
        self.ready().await;
    }

    async fn ready(&mut self) {
        let ready = tokio::select! {
            _ = self.notify.hears("READY=1") => true,
            _ = self.daemon.end() => false,
        };
        assert!(
            ready,
            "pawd ended instead of becoming ready:\n{}",
            self.daemon.stderr()
        );
        self.daemon.says("launcher connected", self.launchers).await;
    }

    /// A client, as root.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn client(&self) -> Client {
        within(
            "connecting to pawd",
            paw_api::client::connect(&self.root.control()),
        )
        .await
        .expect("pawd listens")
    }

    /// pawctl with these arguments, in a terminal of this size.
    #[must_use]
    pub fn pawctl_in_a_window(&self, size: (u16, u16), arguments: &[&str]) -> Window {
        let mut command = Command::new(stage::program("pawctl"));
        command.arg("--root").arg(self.root.path()).args(arguments);
        Window::open(size, &command)
    }

    /// `pawctl ARGUMENTS` against it.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn pawctl(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(stage::program("pawctl"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(arguments)
            .kill_on_drop(true);
        within("pawctl", command.output())
            .await
            .expect("pawctl starts")
    }

    /// The same with this on its stdin.
    ///
    /// # Panics
    /// As [`Standalone::pawctl`].
    pub async fn pawctl_with(&self, arguments: &[&str], stdin: impl AsRef<[u8]>) -> Output {
        use tokio::io::AsyncWriteExt as _;
        let mut command = tokio::process::Command::new(stage::program("pawctl"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("pawctl starts");
        let mut input = child.stdin.take().expect("it is piped");
        // What it says is read meanwhile, so that neither waits for the other. One that does not read has failed already, and
        // says so.
        let writing = async move {
            let _ = input.write_all(stdin.as_ref()).await;
        };
        let both = async { tokio::join!(writing, child.wait_with_output()).1 };
        within("pawctl", both).await.expect("pawctl ends")
    }

    /// What its status says of each process: name and process id.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn processes(&self) -> BTreeMap<String, u32> {
        let status = within("status", self.client().await.status())
            .await
            .expect("it answers");
        status
            .processes
            .into_iter()
            .map(|process| (process.name, process.pid))
            .collect()
    }

    /// Every process of it as the kernel shows them from outside: pawd, and whatever descends from it or was handed over to
    /// somebody else but still has a file of the root open or runs in a group of its launcher.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let group = self.cgroup_name();
        let pawd = u32::try_from(self.daemon.pid()).unwrap_or_default();
        let all = processes();
        let mut family = vec![pawd];
        loop {
            let more: Vec<u32> = all
                .iter()
                .filter(|one| family.contains(&one.parent) && !family.contains(&one.pid))
                .map(|one| one.pid)
                .collect();
            if more.is_empty() {
                break;
            }
            family.extend(more);
        }
        all.into_iter()
            .filter(|one| family.contains(&one.pid) || one.cgroup.contains(&group))
            .collect()
    }

    /// What is left of it on the host: processes, mounts, directories and control groups of sandboxes.
    ///
    /// The group that carries the total limits is none of them: [`Standalone::groups`] tells of that.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let (root, group) = (self.root.path().display().to_string(), self.cgroup_name());
        let mut left: Vec<String> = processes()
            .into_iter()
            .filter(|one| one.command.contains(&root) || one.cgroup.contains(&group))
            .map(|one| format!("process {} {}", one.pid, one.command))
            .collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&root))
                .map(|line| format!("mount {line}")),
        );
        left.extend(
            self.sandbox_groups()
                .iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
        let bundles = ["launcher/bundles", "launcher-kata/bundles"];
        left.extend(
            bundles
                .into_iter()
                .filter_map(|dir| fs::read_dir(self.root.path().join(dir)).ok())
                .flatten()
                .filter_map(Result::ok)
                .map(|entry| format!("directory {}", entry.path().display())),
        );
        left
    }

    /// Control groups of its sandboxes, in every hierarchy.
    #[must_use]
    pub fn sandbox_groups(&self) -> Vec<PathBuf> {
        self.groups()
            .into_iter()
            .flat_map(|total| below(&total))
            .filter(|group| is_of_a_sandbox(group))
            .collect()
    }

    /// The control groups with the total limits of its launchers, in every hierarchy.
    #[must_use]
    pub fn groups(&self) -> Vec<PathBuf> {
        let name = self.cgroup_name();
        let mut totals = groups(&name);
        totals.extend(groups(&format!("pawd-{name}-kata")));
        totals
    }

    /// The name of the control group that its launcher makes, by which the one of shims is called, too.
    fn cgroup_name(&self) -> String {
        let run = self.root.path().join("run");
        let digest = paw_policy::Digest::of(run.as_os_str().as_encoded_bytes()).to_string();
        digest[..12].to_owned()
    }

    /// Tells it to stop, and gives its exit code.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(&mut self) -> i32 {
        self.daemon.signal(Signal::SIGTERM);
        self.daemon.refused().await.0
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        let seen = self.seen();
        self.daemon.abandon();
        // The helpers end because pawd has ended. The root can be removed when nobody writes to it any more.
        for process in &seen {
            let _ = gone(process.pid);
        }
        for total in self.groups() {
            let mut all = below(&total);
            all.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
            // What still runs in one of them keeps it; then the test has failed already.
            for group in all.iter().chain([&total]) {
                let _ = fs::remove_dir(group);
            }
        }
    }
}

fn launch(root: &Root) -> (Running, Notify) {
    let path: PathBuf = root.path().join("notify.sock");
    let _ = fs::remove_file(&path);
    let notify = Notify::bind(&path);
    let mut command = pawd::command(root);
    command.arg("--standalone").env("NOTIFY_SOCKET", &path);
    (Running::start("pawd", command), notify)
}

/// Kills a process of the system under test, and only that.
///
/// # Panics
/// When it is not there.
pub fn kill9(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
    kill(pid, Signal::SIGKILL).expect("it runs");
}

/// Waits for the end of a process that is not our child, by the kernel's own word; says whether it came in time. Blocks.
#[must_use = "a process that goes on is a fault"]
pub fn gone(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return true;
    };
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return true;
    };
    let limit = rustix::event::Timespec {
        tv_sec: i64::try_from(LIMIT.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut wait = [rustix::event::PollFd::new(
        &handle,
        rustix::event::PollFlags::IN,
    )];
    loop {
        match rustix::event::poll(&mut wait, Some(&limit)) {
            // A child of ours stopped or ended meanwhile.
            Err(rustix::io::Errno::INTR) => {}
            told => return told == Ok(1),
        }
    }
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its id.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its command line, with blanks.
    pub command: String,
    /// Its real, effective, saved and file system uid.
    pub uids: Vec<u32>,
    /// The same of its gid.
    pub gids: Vec<u32>,
    /// `CapEff`.
    pub capabilities: u64,
    /// `NoNewPrivs`.
    pub no_new_privs: bool,
    /// `Seccomp`: 2 is a filter.
    pub seccomp: u32,
    /// Inode of its user namespace.
    pub userns: u64,
    /// `/proc/PID/cgroup`.
    pub cgroup: String,
}

/// Looks at one process.
#[must_use]
pub fn look(pid: u32) -> Option<Seen> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    // A process without a memory of its own has ended, and waits for its parent.
    field("VmSize:")?;
    let command = fs::read(dir.join("cmdline")).ok()?;
    Some(Seen {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        command: String::from_utf8_lossy(&command).replace('\0', " "),
        uids: numbers(field("Uid:")?),
        gids: numbers(field("Gid:")?),
        capabilities: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
        no_new_privs: field("NoNewPrivs:")? == "1",
        seccomp: field("Seccomp:")?.parse().ok()?,
        userns: fs::metadata(dir.join("ns/user")).ok()?.ino(),
        cgroup: fs::read_to_string(dir.join("cgroup")).ok()?,
    })
}

fn numbers(words: &str) -> Vec<u32> {
    let words = words.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

fn processes() -> Vec<Seen> {
    let entries = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(look)
        .collect()
}

/// Control groups of this name, in whichever hierarchies the host has.
fn groups(name: &str) -> Vec<PathBuf> {
    below(&PathBuf::from("/sys/fs/cgroup"))
        .into_iter()
        .filter(|dir| dir.file_name().is_some_and(|last| last == name))
        .collect()
}

/// Every directory below this one.
fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let dirs = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path());
    dirs.flat_map(|dir| {
        std::iter::once(dir.clone())
            .chain(below(&dir))
            .collect::<Vec<_>>()
    })
    .collect()
}

/// Whether a group is named after a sandbox, by the 16 digits of its id.
fn is_of_a_sandbox(group: &Path) -> bool {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    name.split(['-', '.'])
        .any(|part| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
