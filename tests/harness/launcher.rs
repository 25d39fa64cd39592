//! A launcher without walls: it speaks the real packets, and every "sandbox" is the real paw-init as a plain process.
//!
//! pawd cannot tell the difference, which is the point: what pawd promises about sandboxes is tested here without root, and
//! what the kernel promises is tested in `e2e` with the real launcher. Where a real sandbox would mount something, this one
//! puts the host's path into the command line.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paw_launch::{
    NOT_ALLOWED,
    frame::{self, HEADER, Start, Tag},
    packet::{self, Received},
    request::{
        Attestation, End, Event, Facts, Isolation, MemoryWatch, Message, MountSource, Numbered,
        ProofState, Refusal, RefusalReason, Reply, Request, Runtime, RuntimeState, SandboxId,
        SandboxPlan, SandboxSummary, Usage, VERSION,
    },
    workspace::{Answer, Settled, WorkspaceRequest},
};
use paw_policy::Digest;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    shutdown, socket_with,
};

use crate::{LIMIT, layers::Layers, root, stage};

/// Counts fake launchers.
static LIVES: AtomicU32 = AtomicU32::new(1);

/// The launcher's side of the socket, and everything that it started. It ends with this value, as one that is killed: what it
/// started is killed, and nobody is told. It outlives any pawd.
pub struct FakeLauncher {
    shared: Arc<Shared>,
    listener: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    workspaces: PathBuf,
    skills: PathBuf,
    /// What it says is its process: each life has another one.
    pid: u32,
}

#[derive(Default)]
struct State {
    /// The connection, as long as there is one.
    connection: Option<Arc<OwnedFd>>,
    running: BTreeMap<SandboxId, Sandbox>,
    /// Every plan that was ever asked for.
    plans: Vec<SandboxPlan>,
    /// What to say to the next plans instead of making them.
    refusals: Vec<Refusal>,
    /// How those that are over ended.
    ends: BTreeMap<SandboxId, (End, Usage)>,
    /// The most sandboxes at once; none where there is no end to it.
    most: Option<usize>,
    /// Whether its configuration keeps it from gVisor.
    not_allowed: bool,
    /// Whether the next one stands still.
    stop_next: bool,
    layers: Layers,
    stopping: bool,
}

struct Sandbox {
    plan: SandboxPlan,
    /// Copies, so that neither side sees an end while pawd is away.
    pipes: [OwnedFd; 2],
    pid: u32,
    began: Instant,
    killed: bool,
    timed_out: bool,
    /// Whether it waits for its first command.
    waiting: bool,
    /// When its time is over.
    deadline: Instant,
}

impl FakeLauncher {
    /// Listens on the root's `run/launcher.sock`.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn start(root: &root::Root) -> Self {
        let path = root.path().join("run/launcher.sock");
        // One that was killed leaves its name behind, as a real one does.
        let _ = fs::remove_file(&path);
        let listener = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket");
        bind(
            &listener,
            &SocketAddrUnix::new(&path).expect("a short path"),
        )
        .expect("the root is ours");
        listen(&listener, 4).expect("it is bound");
        root.mode("run/launcher.sock", 0o600);
        root.give("run/launcher.sock");
        let workspaces = root.path().join("launcher/workspaces");
        fs::create_dir_all(&workspaces).expect("the root is ours");
        root.give("launcher/workspaces");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            workspaces,
            skills: root.path().join("skills/trees"),
            pid: LIVES.fetch_add(1, Ordering::Relaxed),
        });
        let listener = Arc::new(listener);
        let (accepting, of) = (Arc::clone(&listener), Arc::clone(&shared));
        let thread = thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok(connection) = accept_with(&accepting, SocketFlags::CLOEXEC) {
                converse(&of, &Arc::new(connection));
            }
        });
        Self {
            shared,
            listener,
            thread: Some(thread),
        }
    }

    /// Every plan that was asked for so far.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    #[must_use]
    pub fn plans(&self) -> Vec<SandboxPlan> {
        self.shared.lock().plans.clone()
    }

    /// Says this to the next plan instead of making it.
    pub fn will_refuse(&self, reason: RefusalReason, message: &str, remedy: &str) {
        self.shared.lock().refusals.push(Refusal {
            reason,
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// Says from now on that its configuration does not allow gVisor.
    pub fn may_not_use_gvisor(&self) {
        self.shared.lock().not_allowed = true;
    }

    /// Has places for so many sandboxes at once from now on, as a real one has by its max_sandboxes.
    pub fn has_places(&self, most: usize) {
        self.shared.lock().most = Some(most);
    }

    /// Somebody's run left this in an agent's workspace, where it waits; the digest of what it changes.
    ///
    /// # Panics
    /// When there can be no such agent or sandbox.
    pub fn has_layer(&self, agent: &str, id: &str, owner: u32) -> Digest {
        let (agent, id) = (agent.parse(), id.parse());
        let (agent, id) = (agent.expect("a name"), id.expect("an id"));
        self.shared.lock().layers.left(&agent, &id, owner)
    }

    /// The paw-init of the next sandbox is stopped at once, so that nothing in it goes on.
    pub fn will_stop(&self) {
        self.shared.lock().stop_next = true;
    }

    /// Waits until so many sandboxes run. Blocks the thread; call it where that does not matter.
    ///
    /// # Panics
    /// When it does not become so in time.
    pub fn wait_for_running(&self, count: usize) {
        let state = self.shared.lock();
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, LIMIT, |state| state.running.len() != count)
            .expect("nobody panics with it");
        assert!(
            !waited.timed_out(),
            "{} sandboxes run, not {count}",
            state.running.len()
        );
    }

    /// Waits until so many sandboxes wait for their first command, and gives their ids. Blocks as
    /// [`FakeLauncher::wait_for_running`] does.
    ///
    /// # Panics
    /// When it does not become so in time.
    #[must_use]
    pub fn wait_for_waiting(&self, count: usize) -> Vec<SandboxId> {
        let state = self.shared.lock();
        let waiting = |state: &State| -> Vec<SandboxId> {
            let all = state.running.iter();
            let waiting = all.filter(|(_, sandbox)| sandbox.waiting);
            waiting.map(|(id, _)| id.clone()).collect()
        };
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, LIMIT, |state| waiting(state).len() != count)
            .expect("nobody panics with it");
        let ids = waiting(&state);
        assert!(!waited.timed_out(), "{ids:?} wait, not {count}");
        ids
    }

    /// Ends one as a crash of its first process would.
    pub fn crash(&self, id: &SandboxId) {
        if let Some(sandbox) = self.shared.lock().running.get(id) {
            end(sandbox.pid);
        }
    }

    /// Where the workspace of an agent is.
    #[must_use]
    pub fn workspace(&self, agent: &str) -> PathBuf {
        self.shared.workspaces.join(agent)
    }
}

impl Drop for FakeLauncher {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            for sandbox in state.running.values() {
                end(sandbox.pid);
            }
            if let Some(connection) = &state.connection {
                // The other side may have closed it.
                let _ = shutdown(connection, Shutdown::Both);
            }
        }
        let _ = shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl State {
    fn count(&self, of: impl Fn(&Sandbox) -> bool) -> u32 {
        let count = self.running.values().filter(|sandbox| of(sandbox)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A test that failed while it looked must still be able to end what runs.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, message: &Message, fds: &[&OwnedFd]) {
        let connection = self.lock().connection.clone();
        if let Some(connection) = connection {
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            // pawd may be gone; the next one asks what runs.
            let _ = packet::send(connection.as_fd(), message, &fds);
        }
    }
}

fn converse(shared: &Arc<Shared>, connection: &Arc<OwnedFd>) {
    {
        let mut state = shared.lock();
        if state.stopping {
            return;
        }
        state.connection = Some(Arc::clone(connection));
    }
    while let Ok(Received {
        message: Numbered { seq, request },
        ..
    }) = packet::receive::<Numbered>(connection.as_fd())
    {
        let (reply, fds) = answer(shared, request);
        shared.say(
            &Message::Reply { seq, reply },
            &fds.iter().collect::<Vec<_>>(),
        );
    }
    shared.lock().connection = None;
}

fn answer(shared: &Arc<Shared>, request: Request) -> (Reply, Vec<OwnedFd>) {
    let not_found = || Reply::Refused(refusal(RefusalReason::NotFound, "there is no such sandbox"));
    let reply = match request {
        Request::Hello { .. } => Reply::Hello {
            version: VERSION,
            pid: shared.pid,
        },
        Request::Create(plan) => return create(shared, *plan, None),
        Request::Prepare { plan, idle_ms } => return create(shared, *plan, Some(idle_ms)),
        Request::Claim { id } => match shared.lock().running.get_mut(&id) {
            Some(sandbox) if sandbox.waiting => {
                sandbox.waiting = false;
                sandbox.began = Instant::now();
                let life = Duration::from_millis(sandbox.plan.limits.wall_ms);
                sandbox.deadline = sandbox.began + life;
                shared.changed.notify_all();
                Reply::Claimed
            }
            _ => not_found(),
        },
        Request::Kill { id } => match shared.lock().running.get_mut(&id) {
            Some(sandbox) => {
                sandbox.killed = true;
                end(sandbox.pid);
                Reply::Killing
            }
            None => not_found(),
        },
        Request::Attach { id } => {
            let state = shared.lock();
            match (state.running.get(&id), state.ends.get(&id)) {
                (Some(sandbox), _) => {
                    let attestation = Box::new(attestation(&sandbox.plan));
                    let copies = sandbox.pipes.iter().map(|pipe| pipe.try_clone());
                    let copies = copies.collect::<io::Result<_>>();
                    return (
                        Reply::Created { attestation },
                        copies.expect("there is room"),
                    );
                }
                (None, Some((end, usage))) => Reply::Ended {
                    end: *end,
                    usage: *usage,
                },
                (None, None) => not_found(),
            }
        }
        Request::List => {
            let state = shared.lock();
            let sandboxes = state.running.iter().map(|(id, sandbox)| SandboxSummary {
                id: id.clone(),
                runtime: Runtime::Native,
                pid: sandbox.pid,
                age_ms: u64::try_from(sandbox.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                limits: sandbox.plan.limits,
                attestation: Digest::of(b"fake"),
                waiting: sandbox.waiting,
            });
            Reply::Sandboxes {
                sandboxes: sandboxes.collect(),
            }
        }
        // It lists all of them at once.
        Request::ListAfter { .. } => Reply::Sandboxes {
            sandboxes: Vec::new(),
        },
        Request::Stats { id } => {
            if shared.lock().running.contains_key(&id) {
                Reply::Stats(Usage::default())
            } else {
                not_found()
            }
        }
        Request::Runtimes => Reply::Runtimes {
            runtimes: vec![
                RuntimeState {
                    name: Runtime::Native,
                    state: ProofState::Unverified,
                    version: None,
                    reason: "a fake for tests".into(),
                    digest: None,
                    isolation: Isolation::Process,
                },
                RuntimeState {
                    name: Runtime::Gvisor,
                    state: ProofState::Absent,
                    version: None,
                    reason: if shared.lock().not_allowed {
                        format!("runtimes in launcher.toml {NOT_ALLOWED}")
                    } else {
                        "not in this fake".into()
                    },
                    digest: None,
                    isolation: Isolation::Kernel,
                },
            ],
        },
        Request::Status => {
            let state = shared.lock();
            let waiting = state.count(|sandbox| sandbox.waiting);
            let running = state.count(|sandbox| !sandbox.waiting);
            drop(state);
            Reply::Status {
                proc_status: fs::read_to_string("/proc/self/status").unwrap_or_default(),
                landlock_abi: 0,
                rss: 0,
                running,
                waiting,
                doorkeeper: 0,
                unheld: Vec::new(),
                memory_watch: MemoryWatch::Available,
            }
        }
        // Here a run writes to the workspace itself, so there is nothing left to be done.
        Request::Workspaces {
            about: WorkspaceRequest::Settle { then, .. },
        } => Reply::Done {
            result: serde_json::to_value(Answer::Settled(Settled {
                then,
                changes: 1,
                left_out: Vec::new(),
                dropped: Vec::new(),
            }))
            .expect("an answer is JSON"),
        },
        Request::Workspaces { about } => Reply::Done {
            result: serde_json::to_value(shared.lock().layers.answer(&about))
                .expect("an answer is JSON"),
        },
        Request::Image { .. } => {
            Reply::Refused(refusal(RefusalReason::Failed, "this fake has no jobs"))
        }
    };
    (reply, Vec::new())
}

fn create(shared: &Arc<Shared>, plan: SandboxPlan, idle_ms: Option<u64>) -> (Reply, Vec<OwnedFd>) {
    let refused = {
        let mut state = shared.lock();
        state.plans.push(plan.clone());
        if state.most.is_some_and(|most| state.running.len() >= most) {
            Some(refusal(RefusalReason::Full, "as many are there as may be"))
        } else {
            (!state.refusals.is_empty()).then(|| state.refusals.remove(0))
        }
    };
    if let Some(refusal) = refused {
        return (Reply::Refused(refusal), Vec::new());
    }
    match spawn(shared, &plan, idle_ms) {
        Ok(fds) => (
            Reply::Created {
                attestation: Box::new(attestation(&plan)),
            },
            fds,
        ),
        Err(error) => (
            Reply::Refused(refusal(RefusalReason::Failed, &error.to_string())),
            Vec::new(),
        ),
    }
}

fn spawn(
    shared: &Arc<Shared>,
    plan: &SandboxPlan,
    idle_ms: Option<u64>,
) -> io::Result<Vec<OwnedFd>> {
    let places = places(shared, plan)?;
    let mut command = Command::new(stage::program("paw-init"));
    command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    if nix::unistd::geteuid().is_root() {
        command.uid(root::uid()).gid(root::gid());
    }
    let mut child = command.spawn()?;
    if std::mem::take(&mut shared.lock().stop_next) {
        let pid =
            nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP)?;
    }
    let (mut inside_in, inside_out) = (
        child.stdin.take().expect("a pipe"),
        child.stdout.take().expect("a pipe"),
    );
    let (mut from_pawd, to_init) = io::pipe()?;
    thread::spawn(move || {
        // Ends when either side closes; closing paw-init's stdin ends paw-init.
        let _ = translate(&mut from_pawd, &mut inside_in, &places);
    });
    let pipes: [OwnedFd; 2] = [to_init.into(), inside_out.into()];
    let mut state = shared.lock();
    let sandbox = Sandbox {
        plan: plan.clone(),
        pipes: [pipes[0].try_clone()?, pipes[1].try_clone()?],
        pid: child.id(),
        began: Instant::now(),
        killed: false,
        timed_out: false,
        waiting: idle_ms.is_some(),
        deadline: Instant::now() + Duration::from_millis(idle_ms.unwrap_or(plan.limits.wall_ms)),
    };
    state.running.insert(plan.id.clone(), sandbox);
    drop(state);
    shared.changed.notify_all();
    let (of, id) = (Arc::clone(shared), plan.id.clone());
    thread::spawn(move || reap(&of, id, child));
    let (of, id) = (Arc::clone(shared), plan.id.clone());
    thread::spawn(move || {
        let mut state = of.lock();
        // A claim gives it another deadline.
        while let Some(left) = state
            .running
            .get(&id)
            .map(|sandbox| sandbox.deadline.saturating_duration_since(Instant::now()))
        {
            if left.is_zero() {
                if let Some(sandbox) = state.running.get_mut(&id) {
                    sandbox.timed_out = true;
                    end(sandbox.pid);
                }
                return;
            }
            (state, _) = of
                .changed
                .wait_timeout(state, left)
                .expect("nobody panics with it");
        }
    });
    Ok(pipes.into())
}

/// Where on the host each mounted path is.
fn places(shared: &Shared, plan: &SandboxPlan) -> io::Result<Vec<(String, PathBuf)>> {
    plan.mounts
        .iter()
        .map(|mount| {
            let source = match &mount.source {
                MountSource::Path(path) => path.clone(),
                MountSource::Skill(name) => stage::skill(&name.to_string()),
                MountSource::Installed(digest) => shared.skills.join(digest.to_string()),
                MountSource::Workspace(name)
                | MountSource::Layer {
                    workspace: name, ..
                } => {
                    let path = shared.workspaces.join(name.to_string());
                    fs::create_dir_all(&path)?;
                    std::os::unix::fs::chown(&path, Some(root::uid()), Some(root::gid()))?;
                    path
                }
            };
            Ok((mount.target.display().to_string(), source))
        })
        .collect()
}

/// Passes frames on, with the host's paths instead of the inside ones in every [`Start`].
fn translate(
    from: &mut impl Read,
    to: &mut impl Write,
    places: &[(String, PathBuf)],
) -> io::Result<()> {
    let mut parts = Vec::new();
    loop {
        let mut header = [0; HEADER];
        from.read_exact(&mut header)?;
        let (length, tag, child) = frame::parse_header(header).map_err(io::Error::other)?;
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        match tag {
            Tag::Part => {
                parts.append(&mut payload);
                continue;
            }
            Tag::Resume => parts.clear(),
            _ => {
                parts.append(&mut payload);
                payload = std::mem::take(&mut parts);
            }
        }
        if tag == Tag::Start {
            let mut start: Start = serde_json::from_slice(&payload)?;
            for word in &mut start.argv {
                *word = host_path(word, places);
            }
            start.cwd = host_path(&start.cwd, places);
            payload = serde_json::to_vec(&start)?;
        }
        to.write_all(&frame::header(payload.len(), tag, child))?;
        to.write_all(&payload)?;
        to.flush()?;
    }
}

fn host_path(word: &str, places: &[(String, PathBuf)]) -> String {
    let place = places.iter().find_map(|(target, source)| {
        Path::new(word)
            .strip_prefix(target)
            .ok()
            .map(|rest| (source, rest))
    });
    match place {
        Some((source, rest)) if rest.as_os_str().is_empty() => source.display().to_string(),
        Some((source, rest)) => source.join(rest).display().to_string(),
        None => word.to_owned(),
    }
}

fn reap(shared: &Shared, id: SandboxId, mut child: Child) {
    let status = child.wait().expect("it is our child");
    let mut state = shared.lock();
    let Some(sandbox) = state.running.remove(&id) else {
        return;
    };
    let end_of = End {
        exit_code: status.code(),
        signal: status.signal(),
        oom_killed: false,
        timed_out: sandbox.timed_out,
        killed: sandbox.killed,
    };
    let usage = Usage {
        wall_ms: u64::try_from(sandbox.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        ..Usage::default()
    };
    state.ends.insert(id.clone(), (end_of, usage));
    drop(state);
    // What a real launcher kills with the cgroup, this one kills with the process group.
    end(sandbox.pid);
    shared.changed.notify_all();
    shared.say(
        &Message::Event(Event::Ended {
            id,
            end: end_of,
            usage,
        }),
        &[],
    );
}

/// Kills paw-init with its process group.
fn end(pid: u32) {
    let group = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
    // It may have ended by itself.
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
}

fn refusal(reason: RefusalReason, message: &str) -> Refusal {
    Refusal {
        reason,
        message: message.into(),
        remedy: "this is a fake launcher; look at the test".into(),
    }
}

/// Honest about what this is: no filter, no namespace, no limit.
fn attestation(plan: &SandboxPlan) -> Attestation {
    let facts = Facts {
        id: plan.id.clone(),
        runtime: plan.runtime,
        runtime_version: "fake".into(),
        runtime_digest: Digest::of(b"fake"),
        init_digest: Digest::of(b"fake"),
        root_digest: None,
        seccomp: 0,
        no_new_privs: false,
        capabilities: std::array::from_fn(|_| "0000000000000000".to_owned()),
        uid: root::uid(),
        gid: root::gid(),
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
    };
    let canonical = serde_json::to_vec(&facts).expect("facts are plain");
    Attestation {
        digest: Digest::of(&canonical),
        facts,
    }
}
