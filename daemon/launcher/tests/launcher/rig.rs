//! A launcher with a state, a cgroup and images of its own, and a client for it. Everything is removed at the end.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown, symlink},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    },
};
use paw_launch::{
    frame::{self, HEADER, Start, Tag},
    packet,
    request::{
        Attestation, End, Event, Image, Isolation, Limits, Message, Numbered, Refusal, Reply,
        Request, Runtime, SandboxId, SandboxPlan, Usage, VERSION,
    },
    resume::{Nonce, Resumed, Seeker, writes},
    workspace::{Answer, Settle, Settled, WorkspaceRequest},
};

/// The host user that the launcher becomes; nobody's on any machine that runs tests.
pub(crate) const UID: u32 = 599_990_001;
/// First id of the range for sandboxes.
pub(crate) const BASE: u32 = 600_000_000;
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const CONFIG: &str = "runtimes = [\"native\", \"gvisor\"]\nimage_dirs = [\"@DIR@/images\"]\nmount_prefixes = [\"@DIR@/shared\"]\n\
    max_sandboxes = 4\n[ids]\nbase = 600000000\nslots = 8\n[limits]\ncpu_milli = 2000\nmemory = 268435456\ndisk = 67108864\n\
    pids = 64\nopen_files = 1024\nwall_ms = 60000\n[total]\nmemory = 1073741824\npids = 512\n";

/// Why these tests cannot run here.
pub(crate) fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("they make sandboxes on the real kernel, which takes root".to_owned());
    }
    if !Path::new("/bin/busybox").exists() {
        return Some("/bin/busybox is missing: apt-get install busybox-static".to_owned());
    }
    None
}

/// Why the tests of gVisor cannot run here.
pub(crate) fn gvisor_obstacle() -> Option<String> {
    (!Path::new("/usr/bin/runsc").exists())
        .then(|| "/usr/bin/runsc is missing: apt-get install runsc".to_owned())
}

/// Where cargo builds: this test is `DIR/debug/deps/TEST`.
pub(crate) fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_owned()
}

/// Builds what the launcher starts, and gives the directory of it.
pub(crate) fn programs() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // As `cargo xtask stage` builds them, and with the features that it has them have.
        cargo(&[
            "--workspace",
            "--bin=paw-create",
            "--bin=paw-image",
            "--bin=paw-workspace",
            "--test=tidy",
        ]);
        built().join("debug")
    })
}

/// Builds paw-init, and gives where it is.
pub(crate) fn init() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| linked("paw-init"))
}

/// Builds paw-probe, and gives where it is.
#[allow(dead_code, reason = "tests of other runtimes use the rest")]
pub(crate) fn probe() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| linked("paw-probe"))
}

/// What `cargo xtask stage` links statically. One of them by itself would have other features, and every dependency would be built once more.
const STATIC: [&str; 7] = [
    "--package=paw-init",
    "--package=paw-fetch",
    "--package=paw-files",
    "--package=paw-memory",
    "--package=paw-shell",
    "--package=paw-probe",
    "--package=paw-create",
];

/// Builds a program that runs inside, linked statically as packages have it.
fn linked(program: &str) -> PathBuf {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let linked = format!("target.{triple}.rustflags=[\"-Ctarget-feature=+crt-static\"]");
    let target = ["--target", &triple, "--config", &linked];
    cargo(&[&STATIC[..], &target].concat());
    built().join(triple).join("debug").join(program)
}

fn cargo(what: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    let built = cargo
        .args(["build", "--quiet"])
        .args(what)
        .status()
        .unwrap();
    assert!(built.success());
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
        Self::with_init(init())
    }

    /// With more in its configuration.
    pub(crate) fn configured(more: &str) -> Self {
        Self::with(init(), more)
    }

    /// With another program in the place of paw-init.
    pub(crate) fn with_init(init: &Path) -> Self {
        Self::with(init, "")
    }

    fn with(init: &Path, more: &str) -> Self {
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
            "images",
            "shared",
            "proc",
        ] {
            fs::create_dir(path.join(name)).unwrap();
            open_to_all(&path.join(name));
        }
        for name in ["paw-create", "paw-image", "paw-workspace"] {
            copy(&programs().join(name), &path.join("libexec").join(name));
        }
        copy(init, &path.join("libexec/paw-init"));
        busybox(&path.join("data/images/busybox"));
        fs::write(
            path.join("launcher.toml"),
            CONFIG.replace("@DIR@", path.to_str().unwrap()) + more,
        )
        .unwrap();
        write_memory(path, 16_000_000, 8_000_000);
        let cgroup = format!(
            "/paw-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let (launcher, lifeline) = launch(path, &cgroup, As::Root);
        let rig = Self {
            dir,
            cgroup,
            launcher,
            lifeline: Some(lifeline),
        };
        rig.client();
        rig
    }

    /// With another program in the place of a job's.
    pub(crate) fn with_job(name: &str, script: &str) -> Self {
        let rig = Self::new();
        let path = rig.dir.path().join("libexec").join(name);
        fs::write(&path, script).unwrap();
        open_to_all(&path);
        rig
    }

    /// Kills the launcher without a warning and starts another one.
    pub(crate) fn crash_and_restart(&mut self, who: As) {
        self.launcher.kill().unwrap();
        self.launcher.wait().unwrap();
        let (launcher, lifeline) = launch(self.dir.path(), &self.cgroup, who);
        (self.launcher, self.lifeline) = (launcher, Some(lifeline));
        self.client();
    }

    /// Closes the lifeline and waits for the launcher's end.
    pub(crate) fn cut_lifeline(&mut self) -> std::process::ExitStatus {
        self.lifeline = None;
        self.launcher.wait().unwrap()
    }

    /// A connection that has said hello.
    pub(crate) fn client(&self) -> Client {
        let mut client = self.stranger();
        client.greet();
        client
    }

    /// A connection that has said nothing.
    pub(crate) fn stranger(&self) -> Client {
        Client::connect(&self.socket())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("launcher.sock")
    }

    /// Every directory of the cgroup's hierarchies that belongs to a sandbox or a job.
    pub(crate) fn leaves(&self) -> Vec<PathBuf> {
        let roots: Vec<PathBuf> = fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        roots
            .iter()
            .chain([&PathBuf::from("/sys/fs/cgroup")])
            .filter_map(|root| fs::read_dir(root.join(self.cgroup.trim_start_matches('/'))).ok())
            .flat_map(|entries| entries.map(|entry| entry.unwrap().path()))
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with(['s', 'j'])
                    && !path.ends_with("supervisor")
            })
            .collect()
    }

    /// What the launcher takes for the host's memory, in KiB.
    pub(crate) fn set_memory(&self, total: u64, available: u64) {
        write_memory(self.dir.path(), total, available);
    }

    /// The launcher's process id.
    pub(crate) fn launcher_pid(&self) -> u32 {
        self.launcher.id()
    }

    /// Names in a directory of the state, as the launcher sees it: it keeps the bundles in a mount namespace of its own.
    pub(crate) fn state(&self, name: &str) -> Vec<String> {
        let state = self.dir.path().join("state");
        let seen = PathBuf::from(format!(
            "/proc/{}/root{}",
            self.launcher.id(),
            state.display()
        ));
        // Of a launcher that has ended nothing but the disk is left.
        let dir = if seen.exists() { seen } else { state };
        let entries = fs::read_dir(dir.join(name)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.launcher.wait();
        for root in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(root.path().join(self.cgroup.trim_start_matches('/')));
        }
        let _ = fs::remove_dir(
            Path::new("/sys/fs/cgroup")
                .join(self.cgroup.trim_start_matches('/'))
                .join("supervisor"),
        );
        let _ =
            fs::remove_dir(Path::new("/sys/fs/cgroup").join(self.cgroup.trim_start_matches('/')));
    }
}

/// Puts it in place at once, so that nobody reads half of it.
fn write_memory(dir: &Path, total: u64, available: u64) {
    let text = format!("MemTotal: {total} kB\nMemAvailable: {available} kB\n");
    let new = dir.join("proc/new");
    fs::write(&new, text).unwrap();
    open_to_all(&new);
    fs::rename(new, dir.join("proc/meminfo")).unwrap();
}

/// As whom a launcher is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// Root, as by `pawd --standalone`.
    Root,
    /// The launcher's user with two ambient capabilities, as by its unit.
    Unit,
}

fn launch(dir: &Path, cgroup: &str, who: As) -> (Child, std::io::PipeWriter) {
    let path = dir.join("launcher.sock");
    let _ = fs::remove_file(&path);
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    // Open to all on purpose: that only pawd's user gets in must not hang on the mode of a file.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    listen(&listener, Backlog::new(16).unwrap()).unwrap();
    let (lifeline, ours) = std::io::pipe().unwrap();
    let user = UID.to_string();
    let program = built().join("debug/paw-launcher");
    let mut command = match who {
        As::Root => {
            let mut command = Command::new(&program);
            command.args(["--uid", &user, "--gid", &user]);
            command
        }
        As::Unit => {
            let mut command = Command::new("setpriv");
            let capabilities = [
                "--inh-caps=-all,+setuid,+setgid",
                "--ambient-caps=-all,+setuid,+setgid",
                "--bounding-set=-all,+setuid,+setgid",
            ];
            command
                .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
                .args(capabilities)
                .arg(program);
            command
        }
    };
    command
        .args(["--listen-fd", "3", "--lifeline-fd", "4", "--cgroup", cgroup])
        .arg("--config")
        .arg(dir.join("launcher.toml"))
        .arg("--state")
        .arg(dir.join("state"))
        .arg("--libexec")
        .arg(dir.join("libexec"))
        .arg("--data")
        .arg(dir.join("data"))
        .arg("--proc")
        .arg(dir.join("proc"))
        .env(
            "PAWD_LOG",
            std::env::var("PAWD_LOG").unwrap_or_else(|_| "error".to_owned()),
        )
        .fd_mappings(vec![
            FdMapping {
                parent_fd: listener,
                child_fd: 3,
            },
            FdMapping {
                parent_fd: lifeline.into(),
                child_fd: 4,
            },
        ])
        .unwrap();
    (command.spawn().unwrap(), ours)
}

pub(crate) fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    open_to_all(to);
}

/// An image that is nothing but busybox: no `/proc`, no `/tmp`, no library.
pub(crate) fn busybox(image: &Path) {
    fs::create_dir_all(image.join("bin")).unwrap();
    open_to_all(image);
    open_to_all(&image.join("bin"));
    copy(Path::new("/bin/busybox"), &image.join("bin/busybox"));
    for name in [
        "sh", "cat", "ls", "id", "sleep", "echo", "dd", "touch", "mount", "unshare", "true", "ps",
        "wc", "rm", "mkdir", "stat",
    ] {
        symlink("busybox", image.join("bin").join(name)).unwrap();
    }
}

/// A plan with small limits.
pub(crate) fn plan(id: u64) -> SandboxPlan {
    SandboxPlan {
        id: sandbox_id(id),
        runtime: Runtime::Native,
        image: Image::Named("busybox".parse().unwrap()),
        mounts: Vec::new(),
        limits: Limits {
            cpu_milli: 1000,
            memory: 64 << 20,
            disk: 8 << 20,
            pids: 32,
            open_files: 256,
            wall_ms: 30_000,
            io_weight: None,
        },
        floor: Isolation::Process,
    }
}

pub(crate) fn sandbox_id(id: u64) -> SandboxId {
    format!("{id:016x}").parse().unwrap()
}

/// What pawd's side sees.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    seq: u64,
    ended: BTreeMap<SandboxId, (End, Usage)>,
}

impl Client {
    /// A connection that has said nothing.
    pub(crate) fn connect(path: &Path) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let stream = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        connect(stream.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Self {
            socket: stream,
            seq: 0,
            ended: BTreeMap::new(),
        }
    }

    /// Says hello.
    pub(crate) fn greet(&mut self) {
        let reply = self.ask(Request::Hello { version: VERSION }).0;
        assert!(matches!(reply, Reply::Hello { .. }), "{reply:?}");
    }

    /// Asks and waits for the answer; ends that are told meanwhile are kept.
    pub(crate) fn ask(&mut self, request: Request) -> (Reply, Vec<OwnedFd>) {
        let seq = self.send(request);
        self.answer(seq)
    }

    /// Waits for the answer to a request; ends that are told meanwhile are kept.
    pub(crate) fn answer(&mut self, seq: u64) -> (Reply, Vec<OwnedFd>) {
        loop {
            match self.receive() {
                (Message::Reply { seq: got, reply }, fds) if got == seq => return (reply, fds),
                (Message::Event(Event::Ended { id, end, usage }), _) => {
                    self.ended.insert(id, (end, usage));
                }
                (other, _) => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Asks what takes a descriptor.
    pub(crate) fn ask_with(&mut self, request: Request, fd: impl AsFd) -> (Reply, Vec<OwnedFd>) {
        let seq = self.send_with(request, &[fd.as_fd()]);
        self.answer(seq)
    }

    pub(crate) fn send(&mut self, request: Request) -> u64 {
        self.send_with(request, &[])
    }

    fn send_with(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> u64 {
        self.seq += 1;
        packet::send(
            self.socket.as_fd(),
            &Numbered {
                seq: self.seq,
                request,
            },
            fds,
        )
        .unwrap();
        self.seq
    }

    pub(crate) fn receive(&self) -> (Message, Vec<OwnedFd>) {
        ready(&self.socket);
        let received = packet::receive(self.socket.as_fd()).unwrap();
        (received.message, received.fds)
    }

    pub(crate) fn refused(&mut self, plan: SandboxPlan) -> Refusal {
        match self.ask(Request::Create(Box::new(plan))).0 {
            Reply::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Makes a sandbox.
    pub(crate) fn create(&mut self, plan: SandboxPlan) -> Running {
        let id = plan.id.clone();
        match self.ask(Request::Create(Box::new(plan))) {
            (Reply::Created { attestation }, fds) => Running::new(id, *attestation, fds),
            (other, _) => panic!("not created: {other:?}"),
        }
    }

    /// Makes a sandbox that waits.
    pub(crate) fn prepare(&mut self, plan: SandboxPlan, idle_ms: u64) -> Running {
        let id = plan.id.clone();
        let plan = Box::new(plan);
        match self.ask(Request::Prepare { plan, idle_ms }) {
            (Reply::Created { attestation }, fds) => Running::new(id, *attestation, fds),
            (other, _) => panic!("not created: {other:?}"),
        }
    }

    /// Waits until a sandbox is gone.
    pub(crate) fn ended(&mut self, id: &SandboxId) -> (End, Usage) {
        while !self.ended.contains_key(id) {
            match self.receive() {
                (Message::Event(Event::Ended { id, end, usage }), _) => {
                    self.ended.insert(id, (end, usage));
                }
                (other, _) => panic!("unexpected {other:?}"),
            }
        }
        self.ended.remove(id).unwrap()
    }

    /// Kills a sandbox and waits until it is gone.
    pub(crate) fn kill(&mut self, id: &SandboxId) -> (End, Usage) {
        let reply = self.ask(Request::Kill { id: id.clone() }).0;
        assert_eq!(reply, Reply::Killing);
        self.ended(id)
    }

    /// Says what becomes of a layer, and waits until it is done.
    pub(crate) fn settle(&mut self, id: u64, then: Settle) -> Settled {
        let about = WorkspaceRequest::Settle {
            id: sandbox_id(id),
            then,
        };
        match self.workspace(about) {
            Answer::Settled(settled) => settled,
            other => panic!("not settled: {other:?}"),
        }
    }

    /// What is answered about workspaces.
    pub(crate) fn workspace(&mut self, about: WorkspaceRequest) -> Answer {
        match self.ask(Request::Workspaces { about }).0 {
            Reply::Done { result } => serde_json::from_value(result).unwrap(),
            other => panic!("not done: {other:?}"),
        }
    }

    /// Runs one command in a sandbox of its own.
    pub(crate) fn run(&mut self, plan: SandboxPlan, argv: &[&str]) -> Output {
        let id = plan.id.clone();
        let mut running = self.create(plan);
        let output = running.run(argv);
        self.kill(&id);
        output
    }
}

/// A sandbox that runs.
pub(crate) struct Running {
    pub(crate) id: SandboxId,
    pub(crate) attestation: Attestation,
    stdin: fs::File,
    stdout: fs::File,
    child: u32,
}

/// What a command left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Running {
    pub(crate) fn new(id: SandboxId, attestation: Attestation, fds: Vec<OwnedFd>) -> Self {
        let [stdin, stdout] = <[OwnedFd; 2]>::try_from(fds).unwrap();
        Self {
            id,
            attestation,
            stdin: stdin.into(),
            stdout: stdout.into(),
            child: 0,
        }
    }

    pub(crate) fn start(&mut self, argv: &[&str]) {
        self.child += 1;
        let start = Start {
            argv: argv.iter().map(ToString::to_string).collect(),
            env: vec!["PATH=/bin:/usr/bin".to_owned()],
            cwd: "/tmp".to_owned(),
            terminal: None,
        };
        let payload = serde_json::to_vec(&start).unwrap();
        self.stdin
            .write_all(&frame::header(payload.len(), Tag::Start, self.child))
            .unwrap();
        self.stdin.write_all(&payload).unwrap();
    }

    /// Sends a frame about the newest command.
    #[allow(dead_code, reason = "tests of other runtimes use it")]
    pub(crate) fn send(&mut self, tag: Tag, payload: &[u8]) {
        self.stdin
            .write_all(&frame::header(payload.len(), tag, self.child))
            .unwrap();
        self.stdin.write_all(payload).unwrap();
    }

    #[allow(dead_code, reason = "tests of other runtimes use it")]
    /// Takes all that the newest command writes, acknowledging it, until its end.
    pub(crate) fn collect(&mut self) -> (Vec<u8>, Option<i32>) {
        let mut out = Vec::new();
        loop {
            let (tag, payload) = self.frame();
            match tag {
                Tag::Stdout => {
                    let stdout = u32::try_from(payload.len()).unwrap();
                    out.extend(payload);
                    let credit = frame::Credit { stdout, stderr: 0 };
                    self.send(Tag::Credit, &serde_json::to_vec(&credit).unwrap());
                }
                Tag::Exited => {
                    let exited: frame::Exited = serde_json::from_slice(&payload).unwrap();
                    return (out, exited.code);
                }
                Tag::StdinTaken => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Runs a command to its end.
    pub(crate) fn run(&mut self, argv: &[&str]) -> Output {
        self.start(argv);
        self.outcome()
    }

    /// Goes on where another outside stopped.
    pub(crate) fn resume(&mut self, nonce: &Nonce) -> Resumed {
        self.write(Tag::Resume, 0, nonce);
        let mut seeker = Seeker::new(nonce, 1 << 20);
        loop {
            // Byte by byte, so that nothing behind the answer is taken.
            let mut byte = [0];
            self.read(&mut byte);
            if let Some((resumed, _)) = seeker.take(&byte).unwrap() {
                return resumed;
            }
        }
    }

    pub(crate) fn write(&mut self, tag: Tag, child: u32, payload: &[u8]) {
        for write in writes(tag, child, payload) {
            self.stdin.write_all(&write).unwrap();
        }
    }

    /// What the command says from now on, to its end.
    pub(crate) fn outcome(&mut self) -> Output {
        let (mut output, mut out, mut err) = (Output::default(), Vec::new(), Vec::new());
        loop {
            let (tag, payload) = self.frame();
            match tag {
                Tag::Stdout => out.extend(payload),
                Tag::Stderr => err.extend(payload),
                Tag::Exited => {
                    let exited: frame::Exited = serde_json::from_slice(&payload).unwrap();
                    (output.code, output.signal) = (exited.code, exited.signal);
                    break;
                }
                Tag::NotStarted => panic!("{}", String::from_utf8_lossy(&payload)),
                Tag::StdinTaken => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        (output.stdout, output.stderr) = (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        );
        output
    }

    /// Waits until a command has said something.
    pub(crate) fn await_output(&mut self) {
        while self.frame().0 != Tag::Stdout {}
    }

    fn frame(&mut self) -> (Tag, Vec<u8>) {
        let mut header = [0; HEADER];
        self.read(&mut header);
        let (length, tag, _) = frame::parse_header(header).unwrap();
        let mut payload = vec![0; length];
        self.read(&mut payload);
        (tag, payload)
    }

    /// The launcher made its end of the pipe non-blocking.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            ready(&self.stdout);
            match self.stdout.read(&mut buffer[done..]) {
                Ok(0) => panic!("paw-init is gone"),
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Waits until there is something to read.
pub(crate) fn ready(fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let count = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
    assert_eq!(count, 1, "nothing came within {PATIENCE:?}");
}

/// Whether a process lives.
pub(crate) fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Processes whose host uid lies in the sandboxes' range, by pid.
pub(crate) fn sandbox_processes() -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        paw_confine::report::Confinement::of(*pid)
            .is_ok_and(|process| (BASE..BASE + 8 * 65536).contains(&process.uid))
            && lives(*pid)
    })
    .collect()
}

/// Waits until a condition about other processes holds; their ends send us no event, so the kernel is asked by pidfd.
pub(crate) fn await_end(pid: u32) {
    let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return;
    };
    if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        ready(pidfd);
    }
}

/// A program that runs as another user.
pub(crate) fn as_user(uid: u32, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).uid(uid).gid(uid);
    command
}

/// Makes a directory that another host user owns.
pub(crate) fn directory_of(path: &Path, uid: u32) {
    fs::create_dir(path).unwrap();
    chown(path, Some(uid), Some(uid)).unwrap();
}

pub(crate) fn elapsed_ms(since: Instant) -> u128 {
    since.elapsed().as_millis()
}
