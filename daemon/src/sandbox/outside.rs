//! For tests: a launcher that makes no sandboxes. It speaks the launcher's protocol on a real socket and starts the real
//! paw-init as a plain process, so that everything but the isolation is real and nothing needs root.

use std::{
    collections::BTreeMap,
    env,
    io::{PipeReader, PipeWriter, pipe},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use paw_launch::{
    packet::{self, PacketError, Received},
    request::{
        Attestation, End, Event, Facts, Image, Isolation, Limits, Message, Numbered, Refusal,
        RefusalReason, Reply, Request, Runtime, SandboxId, SandboxPlan, SandboxSummary, Usage,
        VERSION,
    },
};
use paw_policy::Digest;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Launcher, Launchers, Which, connect, sandbox_id};

/// What the fake launcher does instead of starting paw-init, for tests of what pawd makes of it.
pub(super) type Init = Arc<dyn Fn(&SandboxPlan, PipeReader, PipeWriter) -> Child + Send + Sync>;

/// A fake launcher that serves one connection after the other until it is dropped.
pub(super) struct Outside {
    pub(super) socket: PathBuf,
    current: Arc<Mutex<Option<OwnedFd>>>,
    habits: Arc<Habits>,
    listener: Arc<OwnedFd>,
    serving: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// What the fake does with some requests.
pub(super) struct Habits {
    /// Sandboxes at once.
    pub(super) max: AtomicUsize,
    /// Whether a claim is refused.
    pub(super) refuses_claims: AtomicBool,
    /// Every sandbox that was claimed.
    pub(super) claimed: Mutex<Vec<SandboxId>>,
    /// Every sandbox that was to be killed.
    pub(super) killed: Mutex<Vec<SandboxId>>,
    /// Every sandbox that was asked for, to wait or to run at once.
    pub(super) asked: Mutex<Vec<SandboxPlan>>,
}

impl Outside {
    pub(super) fn new() -> Self {
        // Built before anybody waits for a sandbox with a deadline.
        let init = program("paw-init");
        Self::with_init(Arc::new(move |_, stdin, stdout| {
            Command::new(&init)
                .stdin(stdin)
                .stdout(stdout)
                .spawn()
                .unwrap()
        }))
    }

    pub(super) fn with_init(init: Init) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("launcher.sock");
        let listener = Arc::new(listen(&socket));
        let current = Arc::<Mutex<Option<OwnedFd>>>::default();
        let habits = Arc::new(Habits {
            max: AtomicUsize::new(usize::MAX),
            refuses_claims: AtomicBool::new(false),
            claimed: Mutex::default(),
            killed: Mutex::default(),
            asked: Mutex::default(),
        });
        let serving = thread::spawn({
            let (listener, current, habits) = (listener.clone(), current.clone(), habits.clone());
            move || {
                let running = Arc::new(Mutex::new(BTreeMap::new()));
                while let Ok(peer) = rustix::net::accept(&*listener) {
                    *current.lock().unwrap() = Some(peer.try_clone().unwrap());
                    serve(&peer, &init, &running, &habits);
                }
            }
        });
        Self {
            socket,
            current,
            habits,
            listener,
            serving: Some(serving),
            _dir: dir,
        }
    }

    /// What it does with some requests.
    pub(super) fn habits(&self) -> &Habits {
        &self.habits
    }

    /// A client of it, whose task runs on this runtime.
    pub(super) fn client(&self) -> Launcher {
        let (launcher, connection) = connect(Which::Usual, self.socket.clone());
        tokio::spawn(connection.run());
        launcher
    }

    /// The same as the only launcher of a host.
    pub(super) fn launchers(&self) -> Launchers {
        let nowhere = self.socket.with_file_name("launcher-kata.sock");
        let (kata, connection) = connect(Which::Kata, nowhere);
        tokio::spawn(connection.run());
        Launchers::new(self.client(), kata)
    }

    /// Breaks the current connection, as a crash of the launcher would.
    pub(super) fn hang_up(&self) {
        if let Some(peer) = self.current.lock().unwrap().take() {
            rustix::net::shutdown(&peer, rustix::net::Shutdown::Both).unwrap();
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both).unwrap();
        self.hang_up();
        self.serving.take().unwrap().join().unwrap();
    }
}

/// A plan that asks for nothing in particular; its id is unique in this process.
pub(super) fn plan() -> SandboxPlan {
    static NEXT: Mutex<u64> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    *next += 1;
    let limits = Limits {
        cpu_milli: 1000,
        memory: 1 << 26,
        disk: 1 << 20,
        pids: 16,
        open_files: 64,
        wall_ms: 30_000,
        io_weight: None,
    };
    SandboxPlan {
        id: sandbox_id(next.to_le_bytes()),
        runtime: Runtime::Native,
        image: Image::Host,
        mounts: Vec::new(),
        limits,
        floor: Isolation::Process,
    }
}

/// Our own binary of this name, freshly built beside this test.
pub(super) fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let test = env::current_exe().unwrap();
        let dir = test.ancestors().nth(2).unwrap().to_owned();
        let mut cargo = Command::new(env::var_os("CARGO").expect("these tests are run by cargo"));
        // Of the whole workspace, and with one of the tests: with other features, every dependency would be built once more.
        cargo
            .args(["build", "--quiet", "--workspace"])
            .args(["--bin=paw-init", "--bin=paw-files", "--test=tidy"])
            .arg("--target-dir")
            .arg(dir.parent().unwrap());
        assert!(
            cargo.status().unwrap().success(),
            "build paw-init and paw-files"
        );
        dir
    });
    dir.join(name)
}

fn listen(path: &Path) -> OwnedFd {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 8).unwrap();
    socket
}

/// How to end what was started: a kill, or the news that it ended.
type Running = Arc<Mutex<BTreeMap<SandboxId, (u32, mpsc::Sender<()>)>>>;

fn serve(peer: &OwnedFd, init: &Init, running: &Running, habits: &Habits) {
    loop {
        let Numbered { seq, request } = match packet::receive(peer.as_fd()) {
            Ok(Received { message, .. }) => message,
            Err(PacketError::Closed) => return,
            Err(fault) => panic!("{fault}"),
        };
        let refused = |reason, message: &str| {
            Reply::Refused(Refusal {
                reason,
                message: message.to_owned(),
                remedy: "ask for something else".to_owned(),
            })
        };
        let mut fds = Vec::new();
        let reply = match request {
            Request::Hello { .. } => Reply::Hello {
                version: VERSION,
                pid: std::process::id(),
            },
            Request::Create(plan) if plan.limits.memory > 1 << 40 => {
                refused(RefusalReason::Ceiling, "memory is beyond the ceiling")
            }
            Request::Create(_) | Request::Prepare { .. }
                if running.lock().unwrap().len() >= habits.max.load(Ordering::Relaxed) =>
            {
                refused(RefusalReason::Full, "no place is left")
            }
            Request::Claim { .. } if habits.refuses_claims.load(Ordering::Relaxed) => {
                refused(RefusalReason::NotFound, "no such sandbox waits")
            }
            Request::Claim { id } => {
                habits.claimed.lock().unwrap().push(id);
                Reply::Claimed
            }
            Request::Create(plan) | Request::Prepare { plan, .. } => {
                habits.asked.lock().unwrap().push((*plan).clone());
                let (stdin, to) = pipe().unwrap();
                let (from, stdout) = pipe().unwrap();
                let process = init(&plan, stdin, stdout);
                let (killing, killed) = mpsc::channel();
                running
                    .lock()
                    .unwrap()
                    .insert(plan.id.clone(), (process.id(), killing));
                let attestation = Box::new(attestation(&plan));
                let (peer, running, id) =
                    (peer.try_clone().unwrap(), running.clone(), plan.id.clone());
                thread::spawn(move || reap(process, &killed, id, &running, &peer));
                fds.extend([OwnedFd::from(to), OwnedFd::from(from)]);
                Reply::Created { attestation }
            }
            Request::Kill { id } => match running.lock().unwrap().get(&id) {
                Some((pid, killing)) => {
                    habits.killed.lock().unwrap().push(id);
                    killing.send(()).unwrap();
                    let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                    Reply::Killing
                }
                None => refused(RefusalReason::NotFound, "no such sandbox"),
            },
            Request::List => Reply::Sandboxes {
                sandboxes: running
                    .lock()
                    .unwrap()
                    .iter()
                    .map(|(id, (pid, _))| summary(id, *pid))
                    .collect(),
            },
            Request::Stats { .. } => Reply::Stats(Usage::default()),
            Request::Runtimes => Reply::Runtimes {
                runtimes: Vec::new(),
            },
            Request::Attach { .. }
            | Request::Status
            | Request::Image { .. }
            | Request::ListAfter { .. }
            | Request::Workspaces { .. } => refused(RefusalReason::Malformed, "not in this fake"),
        };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if packet::send(peer.as_fd(), &Message::Reply { seq, reply }, &borrowed).is_err() {
            return;
        }
    }
}

fn reap(
    mut process: Child,
    killed: &mpsc::Receiver<()>,
    id: SandboxId,
    running: &Running,
    peer: &OwnedFd,
) {
    use std::os::unix::process::ExitStatusExt as _;
    let status: ExitStatus = process.wait().unwrap();
    running.lock().unwrap().remove(&id);
    let end = End {
        exit_code: status.code(),
        signal: status.signal(),
        oom_killed: false,
        timed_out: false,
        killed: killed.try_recv().is_ok(),
    };
    // After a hang-up nobody hears it, as with the real one.
    let _ = packet::send(
        peer.as_fd(),
        &Message::Event(Event::Ended {
            id,
            end,
            usage: Usage::default(),
        }),
        &[],
    );
}

pub(super) fn attestation(plan: &SandboxPlan) -> Attestation {
    Attestation {
        digest: Digest::of(plan.id.as_str().as_bytes()),
        facts: Facts {
            id: plan.id.clone(),
            runtime: plan.runtime,
            runtime_version: "fake".to_owned(),
            runtime_digest: Digest::of(b""),
            init_digest: Digest::of(b""),
            root_digest: None,
            seccomp: 0,
            no_new_privs: false,
            capabilities: Default::default(),
            uid: 0,
            gid: 0,
            uid_map: Vec::new(),
            namespaces: BTreeMap::new(),
            cgroups: BTreeMap::new(),
            limits: plan.limits,
            mounts: Vec::new(),
            interfaces: Vec::new(),
            routes: Vec::new(),
            landlock_abi: 0,
            unseen: Vec::new(),
            unheld: Vec::new(),
            isolation: Isolation::Process,
        },
    }
}

fn summary(id: &SandboxId, pid: u32) -> SandboxSummary {
    let plan = plan();
    SandboxSummary {
        id: id.clone(),
        runtime: plan.runtime,
        pid,
        age_ms: 0,
        limits: plan.limits,
        attestation: Digest::of(b""),
        waiting: false,
    }
}
