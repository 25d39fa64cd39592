//! One task's life: the shim is started, the task made, checked and started, and its end awaited.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        stat::{Mode, umask},
    },
};
use paw_confine::{
    drop::{self, DropError},
    landlock::{self, Floor, LandlockError, PathRule, Ports, Rights, Rules},
    seccomp::{self, SeccompError},
};
use paw_launch::shim::{FILE, Said};

use crate::{
    Which,
    events::{Event, Events},
    groups,
    start::{self, StartError},
    task::Task,
    wire::WireError,
};

/// How long it may take until the task runs, whichever step of it is the slow one on a busy host. That is less than the launcher
/// gives to all that makes a sandbox, so that what was too slow is told here, with the end of the shim's log.
const MAKING: Duration = Duration::from_secs(8);

/// How long, after an end by SIGKILL, the news may take that memory was the reason.
const OOM_GRACE: Duration = Duration::from_millis(100);

/// The status of a process that SIGKILL ended, as shims write it.
const KILLED: u32 = 128 + 9;

/// How much of the shim's log is kept, in bytes, for the reason of a failure.
const MAX_LOG: usize = 2048;

/// Why there is no task, or why its end was not seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttendError {
    #[error("{0}")]
    Files(&'static str, #[source] io::Error),
    #[error(transparent)]
    Shim(#[from] StartError),
    #[error("{}", .log.as_ref().map_or_else(|| "ask the shim".to_owned(), |log| format!("ask the shim, whose log ends with {log:?}")))]
    Wire {
        source: WireError,
        log: Option<String>,
    },
    #[error("the task {pid} is in cgroup {is:?} of {hierarchy:?} and not in {wanted:?}")]
    Elsewhere {
        pid: u32,
        hierarchy: String,
        is: String,
        wanted: String,
    },
    #[error("the shim speaks of process {0}, which cannot be")]
    NoProcess(u32),
    #[error(transparent)]
    Drop(#[from] DropError),
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("{0}")]
    Kernel(&'static str, #[source] Errno),
}

/// Attends to it, from its beginning to its end; gives its status.
pub(crate) fn attend(which: &Which, (uid, gid): (u32, u32)) -> Result<u32, AttendError> {
    umask(Mode::from_bits_truncate(0o077));
    let mut record = Record::new().map_err(|error| AttendError::Files("make the record", error))?;
    let attended = live(which, (uid, gid), &mut record);
    if let Err(error) = &attended {
        record.say(&Said::Lost {
            why: paw_log::Chain(error).to_string(),
        })?;
    }
    attended
}

fn live(which: &Which, own: (u32, u32), record: &mut Record) -> Result<u32, AttendError> {
    let until = Instant::now() + MAKING;
    let bundle =
        std::env::current_dir().map_err(|error| AttendError::Files("find the bundle", error))?;
    groups::enter(&which.groups)
        .map_err(|error| AttendError::Files("enter the shim's cgroup", error))?;
    // The shim leaves whoever started it. As our child it is seen to end; should we end first, it becomes the launcher's.
    prctl::set_child_subreaper(true)
        .map_err(|errno| AttendError::Kernel("become the reaper of the shim", errno))?;
    let path = events_path(&which.id);
    let events =
        Events::listen(&path).map_err(|error| AttendError::Files("listen for events", error))?;
    // Without its log a shim ends at once. Held open before the shim is there, so that it does not wait for us.
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(bundle.join("log"))
        .map_err(|error| AttendError::Files("open the shim's log", error))?;
    let address = start::start(which, &path, left(until))?;
    record.say(&Said::Shim {
        address: address.path.to_string_lossy().into_owned(),
        version: address.version,
    })?;
    let socket = address.connect()?;
    confine(own)?;

    let mut log = Log {
        fifo: log,
        end: VecDeque::new(),
    };
    let task = Task::new(socket, address.version, &which.id);
    task.and_then(|mut task| {
        let is_kata = which.configuration.is_some();
        let pid = task.create(&bundle, is_kata, left(until))?;
        Ok((task, pid))
    })
    .map_err(|source| log.explain(source))
    .and_then(|(task, pid)| follow(which, (task, pid), until, events, &mut log, record))
}

/// What is left of the time until then.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Where the shim of this sandbox tells its events.
pub(crate) fn events_path(id: &str) -> PathBuf {
    Path::new("/run/paw").join(id)
}

/// From here on: nobody, no file but `/proc`, no socket but those that are open.
fn confine((uid, gid): (u32, u32)) -> Result<(), AttendError> {
    drop::drop_to(uid, gid, &[])?;
    let rules = Rules {
        paths: Some(vec![PathRule::new(
            "/proc",
            Rights::Read,
            "in which cgroup the task is",
        )]),
        connect: Ports::None,
        bind: Ports::None,
        scope: true,
    };
    landlock::enforce(&rules, Floor::default())?;
    seccomp::shim_attendant().apply()?;
    Ok(())
}

/// Checks where the task is, starts it, and waits for its end.
fn follow(
    which: &Which,
    (mut task, pid): (Task, u32),
    begin_until: Instant,
    mut events: Events,
    log: &mut Log,
    record: &mut Record,
) -> Result<u32, AttendError> {
    check_place(pid, &which.cgroup)?;
    // Before the start: the launcher reads it when paw-init says hello.
    record.say(&Said::Task {
        pid: i32::try_from(pid).map_err(|_| AttendError::NoProcess(pid))?,
    })?;
    task.start(left(begin_until))
        .map_err(|source| log.explain(source))?;
    let asked = task.wait().map_err(|source| log.explain(source))?;

    let (mut oom, mut status) = (false, None);
    let mut until: Option<Instant> = None;
    loop {
        for event in events.take(&which.id) {
            match event {
                Event::Oom => oom = true,
                Event::Exit(code) => status = status.or(Some(code)),
            }
        }
        log.drain();
        match task.ended(asked) {
            Ok(None) => {}
            Ok(Some(code)) => status = Some(code),
            Err(source) => return Err(log.explain(source)),
        }
        if let Some(status) = status {
            let late = until.get_or_insert_with(|| Instant::now() + OOM_GRACE);
            if status != KILLED || oom || Instant::now() >= *late {
                record.say(&Said::End { status, oom })?;
                return Ok(status);
            }
        }
        wait(&task, &events, log, until)?;
        if status.is_none() {
            match task.caller.fill() {
                Ok(()) => {}
                // It may have told the end before it left.
                Err(source) => {
                    let told = events.take(&which.id);
                    let exit = told.iter().find_map(|event| match event {
                        Event::Exit(code) => Some(*code),
                        Event::Oom => None,
                    });
                    oom |= told.contains(&Event::Oom);
                    match exit {
                        Some(code) => status = Some(code),
                        None => match task.ended(asked) {
                            Ok(Some(code)) => status = Some(code),
                            _ => return Err(log.explain(source)),
                        },
                    }
                }
            }
        }
    }
}

/// Waits for the shim's answer, an event, its log, or the time.
fn wait(
    task: &Task,
    events: &Events,
    log: &Log,
    until: Option<Instant>,
) -> Result<(), AttendError> {
    let mut waiting = vec![
        PollFd::new(events.listener.as_fd(), PollFlags::POLLIN),
        PollFd::new(log.fifo.as_fd(), PollFlags::POLLIN),
    ];
    for (socket, _) in &events.connections {
        waiting.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    }
    let timeout = match until {
        None => {
            waiting.push(PollFd::new(task.caller.socket().as_fd(), PollFlags::POLLIN));
            PollTimeout::NONE
        }
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    if log.is_over() {
        waiting.remove(1);
    }
    match poll(&mut waiting, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(AttendError::Kernel("wait for the shim", errno)),
    }
}

/// The task's process is where its limits are, in every hierarchy that has one. It has executed nothing yet.
fn check_place(pid: u32, wanted: &str) -> Result<(), AttendError> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .map_err(|error| AttendError::Files("look for the task's cgroups", error))?;
    let is_unified = text.lines().all(|line| line.starts_with("0::"));
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(hierarchy), Some(is)) = (parts.next(), parts.next()) else {
            continue;
        };
        // Beside the controllers of v1 there are hierarchies that limit nothing.
        let limits = if hierarchy.is_empty() {
            is_unified
        } else {
            ["cpu", "memory", "pids"]
                .iter()
                .any(|name| hierarchy.split(',').any(|has| has == *name))
        };
        if limits && is != wanted {
            return Err(AttendError::Elsewhere {
                pid,
                hierarchy: hierarchy.to_owned(),
                is: is.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
    }
    Ok(())
}

/// The shim's log, of which only the end is kept.
struct Log {
    fifo: File,
    end: VecDeque<u8>,
}

impl Log {
    fn drain(&mut self) {
        let mut more = [0; 4096];
        // An error says that there is no more now, and the end that the shim is gone, which is noticed elsewhere.
        while let Ok(count @ 1..) = (&self.fifo).read(&mut more) {
            self.end.extend(&more[..count]);
            let surplus = self.end.len().saturating_sub(MAX_LOG);
            self.end.drain(..surplus);
        }
    }

    /// Whether nobody will write any more, so that waiting for it would never wait.
    fn is_over(&self) -> bool {
        let mut waiting = [PollFd::new(self.fifo.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut waiting, PollTimeout::ZERO), Ok(1))
            && waiting[0]
                .revents()
                .is_some_and(|events| !events.contains(PollFlags::POLLIN))
    }

    fn explain(&mut self, source: WireError) -> AttendError {
        self.drain();
        let text: Vec<u8> = self.end.iter().copied().collect();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        // What is no news of a normal start.
        let text: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains("level=info"))
            .collect();
        let text = text.join("\n");
        AttendError::Wire {
            source,
            log: (!text.is_empty()).then_some(text),
        }
    }
}

/// The file in which the launcher reads.
struct Record(File);

impl Record {
    fn new() -> io::Result<Self> {
        OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(FILE)
            .map(Self)
    }

    /// One line, written at once, so that nobody reads half of it.
    fn say(&mut self, said: &Said) -> Result<(), AttendError> {
        let mut line = serde_json::to_vec(said)
            .map_err(|error| AttendError::Files("write the record", error.into()))?;
        line.push(b'\n');
        self.0
            .write_all(&line)
            .map_err(|error| AttendError::Files("write the record", error))
    }
}
