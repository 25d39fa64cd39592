//! From the command line to a confined process that serves, and to its exit code.
//!
//! The order is fixed: what needs a right is taken first (socket, ceiling, credentials, roots of trust), then the rights are
//! given up, then the drop is proven, and only then the first thread is started and the first foreign byte is read.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use paw_api::egress::Ready;
use paw_confine::{
    drop::{DropError, drop_to},
    landlock::{Floor, LandlockError, PathRule, Ports, Rights, Rules, enforce},
    prove::{ProofError, prove},
    seccomp::{self, SeccompError},
    sys::inherited,
};
use paw_egress::{
    ceiling::{Ceiling, CeilingError},
    hand::Values,
    names::Agents,
    run::{MAX_LANES, Shared},
    serve::serve,
    upstream::{Outside, system_lookup},
    witness::{self, Door},
};
use sd_notify::NotifyState;
use tokio::{
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

const USAGE: u8 = 64;
const BUG: u8 = 70;
const PERMISSION: u8 = 77;
const CONFIG: u8 = 78;

/// A file that every user may read and that this process must not.
const OUTSIDE: &str = "/etc/passwd";

/// Where the administrator writes names down.
const HOSTS: &str = "/etc/hosts";

/// Names that are being resolved at once: each waits in a thread of its own, because the C library knows no other way.
const RESOLVERS: usize = 16;

/// The only way from a sandbox to a network.
#[derive(Debug, Parser)]
#[command(name = "paw-egress", version)]
pub(crate) struct Options {
    /// Descriptor of the listening socket; without it the one that systemd passes is taken.
    #[arg(long, value_name = "N")]
    listen_fd: Option<i32>,
    /// What may be reached at most; without the file, nothing.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory of the credentials; without it the one of the service manager is taken.
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// Descriptor of a pipe; the process ends when its other end is closed.
    #[arg(long, value_name = "N")]
    lifeline_fd: Option<i32>,
    /// User to become when started as root.
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    /// Group to become when started as root.
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
    /// Users who may connect; without it, the owner of the socket, or the one that this process runs as.
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
    #[error(
        "no listening socket: pass one with --listen-fd, or start it through paw-egress.socket"
    )]
    NoSocket,
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
    #[error("started as root without --uid and --gid: give the user that connects to the network")]
    Root,
    #[error(transparent)]
    Drop(#[from] DropError),
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("start the async runtime")]
    Runtime(#[source] std::io::Error),
    #[error("serve")]
    Serve(#[source] std::io::Error),
}

impl Failed {
    /// Says what failed, and gives the exit code that stands for it.
    pub(crate) fn report(&self) -> ExitCode {
        tracing::error!(error = %paw_log::Chain(self), "paw-egress ends");
        ExitCode::from(match self {
            Self::Descriptor(..) | Self::NoSocket => USAGE,
            Self::Root | Self::Drop(_) | Self::Landlock(_) | Self::Proof(_) => PERMISSION,
            Self::Seccomp(_) => BUG,
            Self::Logging(_) | Self::Ceiling(_) => CONFIG,
            Self::Runtime(_) | Self::Serve(_) => 1,
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
    let _logging = paw_log::init("paw-egress", None)?;
    let listener = UnixListener::from(listening(options.listen_fd)?);
    let lifeline = options
        .lifeline_fd
        .map(inherited)
        .transpose()
        .map_err(|e| Failed::Descriptor("lifeline", e))?;
    let credentials = options
        .credentials
        .or_else(|| std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))
        .unwrap_or_else(|| options.config.with_file_name("credentials"));
    let ceiling = Ceiling::read(&options.config, &credentials)?;
    let trusted = trusted(&ceiling);

    // A socket of mode 0600 can be opened by its owner, so the unit that made it has said who may connect. Read before
    // landlock hides the path.
    let owner = listener
        .local_addr()
        .ok()
        .and_then(|address| Some(fs::metadata(address.as_pathname()?).ok()?.uid()));
    let me = nix::unistd::geteuid().as_raw();
    let (uid, gid) = options
        .uid
        .zip(options.gid)
        .unwrap_or_else(|| (me, nix::unistd::getegid().as_raw()));
    let landlock_abi = confine(uid, gid, ceiling.all_ports())?;

    let peers = if options.peer_uid.is_empty() {
        vec![owner.unwrap_or(uid)]
    } else {
        options.peer_uid
    };
    let shared = Arc::new(Shared {
        witness: Arc::new(Door::new(ceiling.witness.as_ref())),
        ceiling: Arc::new(ceiling),
        outside: Outside::new(system_lookup(Path::new(HOSTS)), trusted),
        values: Values::default(),
        places: Arc::new(Semaphore::new(MAX_LANES)),
        agents: Agents::default(),
        ready: Ready {
            pid: std::process::id(),
            landlock_abi,
        },
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVERS)
        .build()
        .map_err(Failed::Runtime)?;
    let served = runtime.block_on(live(listener, lifeline, &peers, shared));
    // A name that is still being resolved is nothing to wait for.
    runtime.shutdown_background();
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    tracing::info!("egress closed");
    served
}

async fn live(
    listener: UnixListener,
    lifeline: Option<OwnedFd>,
    peers: &[u32],
    shared: Arc<Shared>,
) -> Result<(), Failed> {
    listener.set_nonblocking(true).map_err(Failed::Runtime)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(Failed::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failed::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failed::Runtime)?;
    let lifeline = lifeline
        .map(pipe::Receiver::from_owned_fd)
        .transpose()
        .map_err(Failed::Runtime)?;
    let cut = async {
        match lifeline {
            // Nothing is ever written to it, so whatever it says is its end.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    };
    tracing::info!(brokers = shared.ceiling.brokers.len(), "egress open");
    // Who started us by hand does not listen.
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = cut => {}
        }
    };
    let sending = {
        let shared = Arc::clone(&shared);
        async move {
            let Some(sink) = shared.ceiling.witness.clone() else {
                return std::future::pending().await;
            };
            tracing::info!(%sink, "checkpoints of the audit log are sent");
            let (outside, ceiling) = (shared.outside.clone(), Arc::clone(&shared.ceiling));
            let names = shared.agents.places("");
            witness::send(Arc::clone(&shared.witness), sink, outside, ceiling, names).await
        }
    };
    tokio::select! {
        served = serve(listener, peers, shared, stop) => served.map_err(Failed::Serve),
        never = sending => match never {},
    }
}

/// Whom this host and `egress.toml` trust to vouch for servers. Without any, brokers that name their own `ca` still work.
fn trusted(ceiling: &Ceiling) -> rustls::RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(error = %error, "certificates of this host cannot be read");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots.add_parsable_certificates(ceiling.ca.iter().cloned());
    if roots.is_empty() {
        tracing::warn!(
            "this host trusts nobody; install ca-certificates, or name a ca in egress.toml"
        );
    }
    roots
}

/// Gives up every right but connecting to a few ports, and tries whether that holds. Returns the landlock ABI that binds.
fn confine(uid: u32, gid: u32, ports: Vec<u16>) -> Result<u32, Failed> {
    if uid == 0 {
        return Err(Failed::Root);
    }
    drop_to(uid, gid, &[])?;
    let read = |path: &str, reason| PathRule::optional(Path::new(path), Rights::Read, reason);
    let rules = Rules {
        paths: Some(vec![
            PathRule::new(
                "/proc/self",
                Rights::Read,
                "to read back how this process is confined",
            ),
            read("/etc/resolv.conf", "name servers"),
            read("/run/systemd/resolve", "what resolv.conf may link to"),
            read("/run/resolvconf", "the same"),
            read("/run/NetworkManager", "the same"),
            read(HOSTS, "names of hosts"),
            read("/etc/nsswitch.conf", "how names are resolved"),
            read("/etc/gai.conf", "which address is preferred"),
            read("/etc/host.conf", "how names are resolved"),
            read("/etc/ld.so.cache", "finding the resolver's libraries"),
            read("/usr/lib", "the resolver's libraries"),
            read("/usr/lib64", "the same"),
            read("/lib", "the same"),
            read("/lib64", "the same"),
        ]),
        connect: Ports::Only(ports),
        bind: Ports::Only(Vec::new()),
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
    seccomp::egress().apply()?;
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
