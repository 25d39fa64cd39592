//! How a job begins and ends: a short-lived program that the launcher starts for one piece of work on its own state.
//!
//! ```text
//! enter the cgroup that was made for it            argv names the file of each hierarchy by which a process of one thread enters
//! give up capabilities, then landlock, then seccomp
//! say Ready; the launcher looks whether all of that is so
//! hear the charge, work, say what came of it, end
//! ```
//!
//! Nothing foreign is read before the third line. What the work is, this crate does not know.

use std::{
    error::Error,
    fs, io,
    io::Write as _,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
};

use caps::Capability;
use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::Signal,
    },
};
use paw_confine::{
    drop::{self, DropError},
    landlock::{self, Floor, LandlockError, PathRule, Ports, Rules},
    seccomp::{Profile, SeccompError},
    sys,
};
use paw_launch::{
    job::{Charge, Outcome, Ready, SOCKET},
    packet::{self, PacketError},
    request::{Refusal, RefusalReason, VERSION},
};
use serde::{Serialize, de::DeserializeOwned};

/// What a job may do, once it has begun.
#[derive(Debug)]
pub struct Bounds {
    /// The only paths it can reach. `None`: its user is the wall, because below the launcher's own landlock domain a further one
    /// for files forbids every link and rename from one directory to another.
    pub paths: Option<Vec<PathRule>>,
    /// Capabilities that its work takes, in the launcher's user namespace.
    pub keep: Vec<Capability>,
    /// The only calls it can make.
    pub calls: Profile,
    /// Descriptors at the same time.
    pub open_files: u64,
}

/// What a job gives back.
#[derive(Debug)]
pub struct Done<R> {
    /// In the words of the job.
    pub result: R,
    /// Handed over with it.
    pub fds: Vec<OwnedFd>,
}

impl<R> From<R> for Done<R> {
    fn from(result: R) -> Self {
        Self {
            result,
            fds: Vec::new(),
        }
    }
}

/// Why a job did not even begin, or could not say what came of it.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// There is no socket where the launcher puts it.
    #[error("take the socket of the launcher; this program is started by paw-launcher")]
    Socket(#[source] io::Error),
    /// It is not bound by the limits that were made for it.
    #[error("enter {path}")]
    Cgroup {
        /// By which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused a bound.
    #[error("{0}")]
    Kernel(&'static str, #[source] Errno),
    /// A right is still there.
    #[error(transparent)]
    Drop(#[from] DropError),
    /// Paths are not ruled.
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    /// Calls are not ruled.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The launcher is gone, or speaks another language.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// Runs one job from its beginning to its end. `entrances` are the files by which it enters its cgroup, `bounds` what its work takes.
pub fn run<O: DeserializeOwned, R: Serialize>(
    entrances: &[PathBuf],
    bounds: Bounds,
    work: impl FnOnce(O, Vec<OwnedFd>) -> Result<Done<R>, Refusal>,
) -> ExitCode {
    match begin(entrances, bounds).and_then(|socket| serve(&socket, work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The launcher keeps what is said here for its refusal; when it cannot be said, the exit code says it.
            let _ = writeln!(io::stderr(), "{}", chain(&error));
            ExitCode::from(70)
        }
    }
}

fn begin(entrances: &[PathBuf], bounds: Bounds) -> Result<OwnedFd, JobError> {
    let socket = sys::inherited(SOCKET).map_err(JobError::Socket)?;
    for path in entrances {
        fs::write(path, "0").map_err(|source| JobError::Cgroup {
            path: path.clone(),
            source,
        })?;
    }
    // A launcher that is gone wants nothing any more; what was begun is cleared away by the next one.
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| JobError::Kernel("end with the launcher", errno))?;
    setrlimit(
        Resource::RLIMIT_NOFILE,
        bounds.open_files,
        bounds.open_files,
    )
    .map_err(|errno| JobError::Kernel("limit the open files", errno))?;
    // Before landlock: it takes /proc away, which is asked how many threads there are.
    let calls = bounds.calls.compile()?;
    drop::keep_only(&bounds.keep)?;
    drop::seal()?;
    let rules = Rules {
        paths: bounds.paths,
        connect: Ports::None,
        bind: Ports::None,
        scope: true,
    };
    landlock::enforce(
        &rules,
        Floor {
            files: rules.paths.is_some(),
            ..Floor::default()
        },
    )?;
    calls.install()?;
    Ok(socket)
}

fn serve<O: DeserializeOwned, R: Serialize>(
    socket: &OwnedFd,
    work: impl FnOnce(O, Vec<OwnedFd>) -> Result<Done<R>, Refusal>,
) -> Result<(), JobError> {
    packet::send(socket.as_fd(), &Ready { version: VERSION }, &[])?;
    let received = packet::receive::<Charge>(socket.as_fd())?;
    let (outcome, fds) = match serde_json::from_value(received.message.order) {
        Ok(order) => match work(order, received.fds) {
            Ok(Done { result, fds }) => (
                serde_json::to_value(result).map_or_else(unwritable, Outcome::Done),
                fds,
            ),
            Err(refusal) => (Outcome::Refused(refusal), Vec::new()),
        },
        Err(error) => (Outcome::Refused(malformed(&error)), Vec::new()),
    };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    Ok(packet::send(socket.as_fd(), &outcome, &fds)?)
}

fn malformed(error: &serde_json::Error) -> Refusal {
    Refusal {
        reason: RefusalReason::Malformed,
        message: format!("the order is not understood: {error}"),
        remedy: "use the same version of paw-launcher and its programs".to_owned(),
    }
}

fn unwritable(error: serde_json::Error) -> Outcome {
    Outcome::Refused(Refusal {
        reason: RefusalReason::Failed,
        message: format!("the result cannot be written as JSON: {error}"),
        remedy: "report this as a fault".to_owned(),
    })
}

/// An error with every cause, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
