//! From the command line to a confined process that serves, and to its exit code.
//!
//! The order is fixed: everything that needs a right is taken first (sockets, signals), then the rights are given up, then the
//! drop is proven, and only then the first byte of the log or of a request is read.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use paw_api::audit::Hello;
use paw_audit::{
    Log, LogError,
    format::Stamp,
    log::{Place, SEGMENT_AGE, SEGMENT_BYTES},
    serve::{ServeError, serve},
};
use paw_confine::{
    drop::{DropError, drop_to},
    landlock::{Floor, LandlockError, PathRule, Ports, Rights, Rules, enforce},
    prove::{ProofError, prove},
    seccomp::{self, SeccompError},
    sys::inherited,
};
use sd_notify::NotifyState;

const USAGE: u8 = 64;
const BUG: u8 = 70;
const PERMISSION: u8 = 77;
const CONFIG: u8 = 78;

/// A file that every user may read and that this process must not.
const OUTSIDE: &str = "/etc/passwd";

/// Appends to the audit log, chains and signs it; nothing else.
#[derive(Debug, Parser)]
#[command(name = "paw-audit", version)]
pub(crate) struct Options {
    /// Descriptor of the listening socket; without it the one that systemd passes is taken.
    #[arg(long, value_name = "N")]
    listen_fd: Option<i32>,
    /// Directory of the log.
    #[arg(long, value_name = "DIR")]
    log_dir: PathBuf,
    /// Directory of the signing key, which nobody else may read.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Descriptor of a pipe; the process ends when its other end is closed.
    #[arg(long, value_name = "N")]
    lifeline_fd: Option<i32>,
    /// User to become when started as root.
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    /// Group to become when started as root.
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
    /// After how many days a segment of the log is followed by a new one.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    segment_age: Option<u16>,
    /// For how many days records are kept at least; without it nothing is removed.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
    /// Go on with a new first key of the records' codes, write it to standard output, and end. The service must be stopped.
    #[arg(long, conflicts_with = "listen_fd")]
    hand_out_key: bool,
    /// Users who may append; without it, the owner of the socket, or the one that this process runs as.
    #[arg(long, value_name = "U")]
    peer_uid: Vec<u32>,
}

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Logging(#[from] paw_log::InitError),
    #[error("take over the {0} that the process was started with")]
    Descriptor(&'static str, #[source] std::io::Error),
    #[error("no listening socket: pass one with --listen-fd, or start it through paw-audit.socket")]
    NoSocket,
    #[error("read /proc/sys/kernel/random/boot_id")]
    BootId(#[source] std::io::Error),
    #[error("take over the signals")]
    Signals(#[source] nix::Error),
    #[error("started as root without --uid and --gid: give the user that writes the log")]
    Root,
    #[error(transparent)]
    Drop(#[from] DropError),
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("write the key to standard output; it is lost, ask for another one")]
    HandOut(#[source] std::io::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Failed {
    /// Says what failed, and gives the exit code that stands for it.
    pub(crate) fn report(&self) -> ExitCode {
        tracing::error!(error = %paw_log::Chain(self), "paw-audit ends");
        ExitCode::from(match self {
            Self::Descriptor(..) | Self::NoSocket => USAGE,
            Self::Root | Self::Drop(_) | Self::Landlock(_) | Self::Proof(_) => PERMISSION,
            Self::Seccomp(_) => BUG,
            Self::Logging(_) => CONFIG,
            Self::BootId(_)
            | Self::Signals(_)
            | Self::HandOut(_)
            | Self::Log(_)
            | Self::Serve(_) => 1,
        })
    }
}

/// Reads the command line.
pub(crate) fn options() -> Result<Options, ExitCode> {
    Options::try_parse().map_err(|error| {
        // Nowhere else to say it.
        let _ = error.print();
        if error.use_stderr() {
            ExitCode::from(USAGE)
        } else {
            ExitCode::SUCCESS
        }
    })
}

/// Serves until it is told to stop.
pub(crate) fn run(options: Options) -> Result<(), Failed> {
    let _logging = paw_log::init("paw-audit", None)?;
    let listener = match options.hand_out_key {
        true => None,
        false => Some(UnixListener::from(listening(options.listen_fd)?)),
    };
    let lifeline = options
        .lifeline_fd
        .map(inherited)
        .transpose()
        .map_err(|e| Failed::Descriptor("lifeline", e))?;
    let signals = signals().map_err(Failed::Signals)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(Failed::BootId)?
        .trim()
        .to_owned();

    // A socket of mode 0600 can be opened by its owner, so the unit that made it has said who may append. Read before
    // landlock hides the path.
    let owner = listener
        .as_ref()
        .and_then(|listener| listener.local_addr().ok())
        .and_then(|address| Some(fs::metadata(address.as_pathname()?).ok()?.uid()));
    let me = nix::unistd::geteuid().as_raw();
    let (uid, gid) = options
        .uid
        .zip(options.gid)
        .unwrap_or_else(|| (me, nix::unistd::getegid().as_raw()));
    let landlock_abi = confine(uid, gid, &options.log_dir, &options.state)?;

    let peers = if options.peer_uid.is_empty() {
        vec![owner.unwrap_or(uid)]
    } else {
        options.peer_uid
    };
    let place = Place {
        dir: options.log_dir,
        state: options.state,
        boot_id,
        segment_bytes: SEGMENT_BYTES,
        segment_age: options.segment_age.map_or(SEGMENT_AGE, days),
        keep: options.keep.map(days),
    };
    let mut log = Log::open(place)?;
    if options.hand_out_key {
        return hand_out_key(&mut log);
    }
    tracing::info!(last_record = log.last(), "audit log open");
    // Who started us by hand does not listen.
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("recording")]);

    let mut stop = vec![signals.as_fd()];
    stop.extend(lifeline.as_ref().map(|pipe| pipe.as_fd()));
    let hello = Hello {
        other_vaults: Vec::new(),
        pid: std::process::id(),
        landlock_abi,
        vault: None,
    };
    let Some(listener) = listener else {
        return Err(Failed::NoSocket);
    };
    serve(log, &listener, &peers, &stop, hello)?;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    tracing::info!("audit log closed");
    Ok(())
}

fn days(count: u16) -> Duration {
    Duration::from_secs(u64::from(count) * 24 * 3600)
}

/// Writes a new first key where nobody but who started this sees it.
fn hand_out_key(log: &mut Log) -> Result<(), Failed> {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        tracing::warn!(
            "this is the only copy of the key: keep it off this host, and wipe it from the screen"
        );
    }
    let written = log.hand_out_key(Stamp::now())?;
    out.write_all(written.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failed::HandOut)?;
    tracing::info!(record = log.last(), "a new first key was handed out");
    Ok(())
}

/// Gives up every right but writing in two directories, and tries whether that holds. Returns the landlock ABI that binds.
fn confine(uid: u32, gid: u32, log_dir: &Path, state: &Path) -> Result<u32, Failed> {
    if uid == 0 {
        return Err(Failed::Root);
    }
    drop_to(uid, gid, &[])?;
    let rules = Rules {
        paths: Some(vec![
            PathRule::new(log_dir, Rights::ReadWrite, "the log"),
            PathRule::new(
                state,
                Rights::ReadWrite,
                "the signing key and the newest checkpoint",
            ),
            PathRule::new(
                "/proc/self",
                Rights::Read,
                "to read back how this process is confined",
            ),
        ]),
        connect: Ports::None,
        bind: Ports::None,
        scope: true,
    };
    let enforced = enforce(
        &rules,
        Floor {
            files: true,
            net: false,
            scope: false,
        },
    )?;
    for missing in &enforced.missing {
        tracing::warn!(missing, "landlock of this kernel is incomplete");
    }
    seccomp::audit().apply()?;
    let probes = prove(Path::new(OUTSIDE))?;
    tracing::info!(
        uid,
        gid,
        landlock_abi = enforced.abi,
        probes = probes.len(),
        "confined"
    );
    Ok(enforced.abi)
}

fn listening(number: Option<i32>) -> Result<OwnedFd, Failed> {
    let number = match number {
        Some(number) => number,
        None => {
            let mut passed =
                sd_notify::listen_fds().map_err(|e| Failed::Descriptor("socket", e))?;
            passed.next().ok_or(Failed::NoSocket)?
        }
    };
    inherited(number).map_err(|e| Failed::Descriptor("socket", e))
}

/// SIGTERM and SIGINT as something to wait for beside the sockets.
fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
