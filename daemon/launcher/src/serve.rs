//! The loop: one thread, one `poll`, a table of sandboxes.
//!
//! It wakes for a signal (a child ended, we are to stop), a new connection from the doorkeeper, a packet, room to send, a hello,
//! the end of the lifeline, and the next deadline. Whatever it then does is short; nothing in it waits for one sandbox.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal,
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use paw_launch::{
    packet,
    request::{Event, Message, Refusal, Reply, SandboxId},
};
use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::{
    connection::{Connection, ConnectionError, ConnectionId},
    door::Visitor,
    ends::Ends,
    host::Host,
    job::{Asked, Jobs, Over},
    sandbox::{CreateError, Finished, Sandbox},
    slots::Slots,
    workspaces::Workspaces,
};

/// Connections at the same time. pawd has one; a second one is a pawd that restarts, the others are for `doctor`.
const MAX_CONNECTIONS: usize = 8;

/// Requests of one connection in one round, so that a fast asker does not keep the others waiting.
const MAX_REQUESTS: usize = 16;

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The kernel refused to wait or to tell.
    #[error("{0}")]
    Kernel(&'static str, #[source] Errno),
    /// Nobody accepts connections any more.
    #[error("the doorkeeper ended: {0}")]
    Doorkeeper(String),
}

/// What the loop waits for besides its connections and sandboxes.
pub(crate) struct Sources {
    pub(crate) signals: SignalFd,
    pub(crate) door: OwnedFd,
    pub(crate) doorkeeper: Pid,
    /// Its end is ours: whoever started us holds the other side.
    pub(crate) lifeline: Option<OwnedFd>,
    pub(crate) watchdog: Option<Duration>,
}

/// The state of the loop.
pub(crate) struct Launcher {
    pub(crate) host: Host,
    pub(crate) slots: Slots,
    pub(crate) sandboxes: BTreeMap<SandboxId, Sandbox>,
    pub(crate) jobs: Jobs,
    pub(crate) workspaces: Workspaces,
    pub(crate) connections: Vec<Connection>,
    next_connection: ConnectionId,
    /// Children that were reaped before anybody knew whose they are: a paw-init can end before paw-create has told its number.
    unclaimed: BTreeMap<i32, (Option<i32>, Option<i32>)>,
    pub(crate) stopping: bool,
    /// How the last sandboxes ended, for a pawd that comes back and asks.
    pub(crate) ends: Ends,
}

/// Which descriptor of a round is whose.
enum Waiter {
    Signals,
    Door,
    Lifeline,
    Memory,
    Connection(ConnectionId),
    Hello(SandboxId),
    Job(u64),
}

impl Launcher {
    pub(crate) fn new(host: Host, slots: Slots, workspaces: Workspaces) -> Self {
        Self {
            host,
            slots,
            sandboxes: BTreeMap::new(),
            jobs: Jobs::default(),
            workspaces,
            connections: Vec::new(),
            next_connection: 0,
            unclaimed: BTreeMap::new(),
            stopping: false,
            ends: Ends::default(),
        }
    }

    /// Serves until a signal or the end of the lifeline, and until the last sandbox and job is gone after that.
    pub(crate) fn serve(&mut self, sources: &Sources) -> Result<(), ServeError> {
        let mut ping = sources
            .watchdog
            .map(|every| (every, Instant::now() + every));
        loop {
            if self.stopping && self.sandboxes.is_empty() && self.jobs.is_empty() {
                return Ok(());
            }
            let ready = self.wait(sources, ping.map(|(_, at)| at))?;
            let now = Instant::now();
            for waiter in ready {
                match waiter {
                    Waiter::Signals => self.signals(sources, now)?,
                    Waiter::Door => self.admit(&sources.door),
                    Waiter::Lifeline => self.stop("the lifeline ended", now),
                    Waiter::Memory if self.host.memory.is_tight() => self.drain(now),
                    Waiter::Memory => {}
                    Waiter::Connection(id) => self.talk(id, now),
                    Waiter::Hello(id) => self.hello(&id, now),
                    Waiter::Job(number) => self.jobs.hear(number, now),
                }
            }
            if self.watches_memory() && self.host.memory.look(now) {
                self.drain(now);
            }
            self.deadlines(now);
            self.finish(now);
            if let Some((every, at)) = &mut ping
                && now >= *at
            {
                *at = now + *every;
                notify(&[NotifyState::Watchdog]);
            }
        }
    }

    fn wait(&self, sources: &Sources, ping: Option<Instant>) -> Result<Vec<Waiter>, ServeError> {
        let mut whose = vec![Waiter::Signals, Waiter::Door];
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags)> = vec![
            (sources.signals.as_fd(), PollFlags::POLLIN),
            (sources.door.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(lifeline) = sources.lifeline.as_ref().filter(|_| !self.stopping) {
            whose.push(Waiter::Lifeline);
            fds.push((lifeline.as_fd(), PollFlags::POLLIN));
        }
        for connection in &self.connections {
            whose.push(Waiter::Connection(connection.id));
            fds.push((connection.as_fd(), connection.interest()));
        }
        for (id, sandbox) in &self.sandboxes {
            if let Some(stdout) = sandbox.awaits_hello() {
                whose.push(Waiter::Hello(id.clone()));
                fds.push((stdout.as_fd(), PollFlags::POLLIN));
            }
        }
        for (number, socket) in self.jobs.waiting() {
            whose.push(Waiter::Job(number));
            fds.push((socket, PollFlags::POLLIN));
        }
        if let Some(pressure) = self
            .host
            .memory
            .pressure()
            .filter(|_| self.anything_waits())
        {
            whose.push(Waiter::Memory);
            fds.push((pressure, PollFlags::POLLPRI));
        }
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .map(|(fd, events)| PollFd::new(fd, events))
            .collect();

        let next = self
            .sandboxes
            .values()
            .map(Sandbox::deadline)
            .chain(self.jobs.deadlines())
            .chain(self.workspaces.deadlines())
            .chain(ping)
            .chain(self.watches_memory().then(|| self.host.memory.next_look()))
            .min();
        // Rounded up: a millisecond too early would be a round for nothing.
        let timeout = next.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ServeError::Kernel("wait for events", errno)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() != Some(false)).collect();
        Ok(whose
            .into_iter()
            .zip(ready)
            .filter_map(|(waiter, ready)| ready.then_some(waiter))
            .collect())
    }

    /// Whether we have to look at the host's memory ourselves.
    fn watches_memory(&self) -> bool {
        self.host.memory.pressure().is_none() && self.anything_waits()
    }

    fn signals(&mut self, sources: &Sources, now: Instant) -> Result<(), ServeError> {
        while let Some(signal) = sources
            .signals
            .read_signal()
            .map_err(|errno| ServeError::Kernel("read signals", errno))?
        {
            if i32::try_from(signal.ssi_signo) != Ok(Signal::SIGCHLD as i32) {
                self.stop("a signal asked for it", now);
            }
        }
        // Signals of one kind are merged, so every child is looked at.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.reaped(pid, Some(code), None, sources, now)?
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.reaped(pid, None, Some(signal as i32), sources, now)?
                }
                Ok(_) | Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(ServeError::Kernel("reap children", errno)),
            }
        }
    }

    fn reaped(
        &mut self,
        pid: Pid,
        code: Option<i32>,
        signal: Option<i32>,
        sources: &Sources,
        now: Instant,
    ) -> Result<(), ServeError> {
        if pid == sources.doorkeeper {
            return Err(ServeError::Doorkeeper(format!(
                "exit code {code:?}, signal {signal:?}"
            )));
        }
        if self.jobs.reaped(pid, code, signal, now) {
            return Ok(());
        }
        let Some(sandbox) = self
            .sandboxes
            .values_mut()
            .find(|sandbox| sandbox.owns(pid))
        else {
            self.unclaimed.insert(pid.as_raw(), (code, signal));
            return Ok(());
        };
        sandbox.reaped(pid, code, signal, now);
        if let Some(init) = sandbox.init()
            && let Some((code, signal)) = self.unclaimed.remove(&init.as_raw())
        {
            sandbox.reaped(init, code, signal, now);
        }
        Ok(())
    }

    fn stop(&mut self, why: &str, now: Instant) {
        if !self.stopping {
            info!(why, sandboxes = self.sandboxes.len(), "stopping");
            notify(&[NotifyState::Stopping]);
            self.stopping = true;
        }
        self.jobs.stop(now);
        self.workspaces.abandon();
        for sandbox in self.sandboxes.values_mut() {
            sandbox.kill(now);
        }
    }

    fn admit(&mut self, door: &OwnedFd) {
        loop {
            match packet::receive::<Visitor>(door.as_fd()) {
                Ok(received) => {
                    let Some(socket) = received.fds.into_iter().next() else {
                        continue;
                    };
                    if self.connections.len() >= MAX_CONNECTIONS {
                        warn!(
                            pid = received.message.pid,
                            "refused a connection: there are {MAX_CONNECTIONS}"
                        );
                        continue;
                    }
                    let id = self.next_connection;
                    self.next_connection += 1;
                    debug!(pid = received.message.pid, connection = id, "connection");
                    self.connections
                        .push(Connection::new(id, received.message.pid, socket));
                }
                // When it closed the channel, it ended, and SIGCHLD says so.
                Err(_) => return,
            }
        }
    }

    /// Takes requests and sends what waits; closes the connection when that fails.
    fn talk(&mut self, id: ConnectionId, now: Instant) {
        for _ in 0..MAX_REQUESTS {
            let Some(connection) = self
                .connections
                .iter_mut()
                .find(|connection| connection.id == id)
            else {
                return;
            };
            let taken = connection.flush().and_then(|()| connection.receive());
            let done = match taken {
                Ok(None) => return,
                Ok(Some(Ok((request, fds)))) => self.answer(id, request, fds, now),
                Ok(Some(Err(error))) => self.malformed(id, &error),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                self.close(id, &error);
                return;
            }
        }
    }

    pub(crate) fn close(&mut self, id: ConnectionId, error: &ConnectionError) {
        if let Some(at) = self
            .connections
            .iter()
            .position(|connection| connection.id == id)
        {
            let connection = self.connections.swap_remove(at);
            debug!(pid = connection.pid, connection = id, error = %paw_log::Chain(error), "connection closed");
            self.forsake(id);
        }
    }

    pub(crate) fn reply(
        &mut self,
        id: ConnectionId,
        seq: u64,
        reply: Reply,
    ) -> Result<(), ConnectionError> {
        self.reply_with(id, seq, reply, Vec::new())
    }

    pub(crate) fn reply_with(
        &mut self,
        id: ConnectionId,
        seq: u64,
        reply: Reply,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ConnectionError> {
        match self
            .connections
            .iter_mut()
            .find(|connection| connection.id == id)
        {
            Some(connection) => connection.send(Message::Reply { seq, reply }, fds),
            // Whoever asked is gone.
            None => Ok(()),
        }
    }

    fn hello(&mut self, id: &SandboxId, now: Instant) {
        let Some(sandbox) = self.sandboxes.get_mut(id) else {
            return;
        };
        if !sandbox.hear(&self.host, now) {
            return;
        }
        let (connection, seq) = sandbox.asked;
        self.host.runtimes.prove(sandbox.plan.runtime);
        if !self.connections.iter().any(|it| it.id == connection) {
            // Whoever asked is gone and never heard of it, so nobody could ever ask for it.
            warn!(paw_sandbox = %id, "nobody waits for this sandbox any more");
            return sandbox.kill(now);
        }
        if let Some(attestation) = sandbox.attestation() {
            info!(paw_sandbox = %id, uid = attestation.facts.uid, attestation = %attestation.digest, "sandbox started");
        }
        if let Err(error) = self.attach(connection, seq, &id.clone()) {
            self.close(connection, &error);
        }
    }

    fn deadlines(&mut self, now: Instant) {
        for sandbox in self
            .sandboxes
            .values_mut()
            .filter(|sandbox| sandbox.deadline() <= now)
        {
            sandbox.overdue(now);
        }
        self.jobs.overdue(now);
        self.workspaces.overdue(now);
    }

    /// Lets go of sandboxes whose last trace is removed, and tells whom it concerns.
    fn finish(&mut self, now: Instant) {
        let host = &self.host;
        let finished: Vec<(SandboxId, Finished)> = self
            .sandboxes
            .iter_mut()
            .filter_map(|(id, sandbox)| Some((id.clone(), sandbox.finish(host, now)?)))
            .collect();
        for (id, finished) in finished {
            let Some(sandbox) = self.sandboxes.remove(&id) else {
                continue;
            };
            let (connection, seq) = sandbox.asked;
            self.slots.give_back(sandbox.slot);
            // Its descriptors too are gone before anybody is told that it is.
            drop(sandbox);
            match finished {
                Finished::Refused(error) => {
                    self.workspaces.close(&id);
                    let refusal = tell(&id, &error);
                    if let Err(error) = self.reply(connection, seq, Reply::Refused(refusal)) {
                        self.close(connection, &error);
                    }
                }
                Finished::Ended(end, usage) => {
                    info!(
                        paw_sandbox = %id, exit_code = end.exit_code, signal = end.signal, oom_killed = end.oom_killed,
                        timed_out = end.timed_out, killed = end.killed, cpu_us = usage.cpu_us, wall_ms = usage.wall_ms,
                        "sandbox ended"
                    );
                    self.ends.note(id.clone(), end, usage);
                    self.layer_ended(&id, end.killed || end.timed_out, now);
                    self.broadcast(&Event::Ended { id, end, usage });
                }
            }
        }
        if self.sandboxes.is_empty() {
            self.unclaimed.clear();
        }
        for Over { asked, reply, fds } in self.jobs.finish(now) {
            match asked {
                Asked::Nobody => {}
                Asked::Connection(connection, seq) => {
                    if let Err(error) = self.reply_with(connection, seq, reply, fds) {
                        self.close(connection, &error);
                    }
                }
                Asked::Workspace(ticket) => self.order_over(ticket, reply, now),
            }
        }
        self.begin_orders(now);
    }

    fn broadcast(&mut self, event: &Event) {
        let ids: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|connection| connection.greeted)
            .map(|it| it.id)
            .collect();
        for id in ids {
            let sent = match self
                .connections
                .iter_mut()
                .find(|connection| connection.id == id)
            {
                Some(connection) => connection.send(Message::Event(event.clone()), Vec::new()),
                None => Ok(()),
            };
            if let Err(error) = sent {
                self.close(id, &error);
            }
        }
    }
}

/// Logs why there is no sandbox, and makes it a refusal.
pub(crate) fn tell(id: &SandboxId, error: &CreateError) -> Refusal {
    warn!(paw_sandbox = %id, error = %paw_log::Chain(error), "sandbox refused");
    error.refusal()
}

/// Tells the service manager. When it cannot be told, it will find out by itself.
pub(crate) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify the service manager");
    }
}
