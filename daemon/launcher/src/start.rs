//! From root, or from a unit's user with two capabilities, to the inside of the user namespace; then the loop.
//!
//! ```text
//! root (standalone) or the unit's user with CAP_SETUID and CAP_SETGID
//!   read what is root's: ceilings, programs; make the cgroup (root only)
//!   become the launcher's user, keeping the two capabilities
//!   fork the doorkeeper, which stays outside
//!   make the user namespace, enter it, become its root             no right on the host from here on
//!   no_new_privs, undumpable
//!   kill and remove what an earlier life left                      before landlock: its signal scope would be in the way
//!   a network namespace of its own, with nothing in it
//!   landlock: TCP on the one port of the proxy, no abstract socket,
//!     no signal outside                                            never files: that would forbid every mount
//!   seccomp, subreaper
//!   READY, loop
//! ```

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use caps::Capability;
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, umask},
    },
    unistd::{chdir, getegid, geteuid},
};
use paw_confine::{
    drop::{self, DropError},
    landlock::{self, Enforced, Floor, LandlockError, Ports, Rules},
    seccomp::{self, Profile, SeccompError},
    sys,
    userns::{self, UsernsError},
};
use paw_launch::egress::PORT;
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::{
    Options,
    attest::{AttestError, namespace},
    bundle::{BundleError, Bundles},
    ceilings::{Ceilings, CeilingsError},
    cgroup::{CgroupError, Parent},
    door::{self, DoorError},
    host::{self, Host},
    image::Shipped,
    job::Program,
    kata::{leftovers::LeftoverError, private::PrivateError},
    memory::Memory,
    runtime::Runtimes,
    serve::{Launcher, ServeError, Sources, notify},
    slots::{SLOT, Slots, WorkspaceError, launcher_map},
    sweep::{self, SweepError},
    workspaces::{
        Workspaces,
        layer::{self, LayerError},
        place,
    },
};

/// Why the launcher does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Ceilings(#[from] CeilingsError),
    #[error("started as root without a user to become; give --uid and --gid")]
    NoUser,
    #[error("no socket to listen on: give --listen-fd, or start it by its socket unit")]
    NoSocket,
    #[error("take over {0}")]
    Descriptor(&'static str, #[source] io::Error),
    #[error("the socket's owner cannot be read; give --peer-uid")]
    NoOwner(#[source] Errno),
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{path} can be written by others (user {uid}, mode {mode:o}); make it root's and not writable for others"
    )]
    Writable { path: PathBuf, uid: u32, mode: u32 },
    #[error(
        "{0} does not say enabled = true below [kata]; this launcher has real root, so that is asked for twice"
    )]
    NotEnabled(PathBuf),
    #[error(
        "there is no user {0} for what speaks with shims; make it with `systemd-sysusers pawd.conf`, or give --uid and --gid"
    )]
    Nobody(&'static str),
    #[error("not started as root, which a shim needs")]
    NotRoot,
    #[error(
        "the state directory {0} is below /run, which this launcher has for itself; give another --state"
    )]
    BelowRun(PathBuf),
    #[error(transparent)]
    Private(#[from] PrivateError),
    #[error(transparent)]
    Leftovers(#[from] LeftoverError),
    #[error(transparent)]
    Drop(#[from] DropError),
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error(transparent)]
    Userns(#[from] UsernsError),
    /// What network the host has cannot be read.
    #[error("look at the network of the host")]
    HostNetwork(#[from] AttestError),
    /// The launcher stays in the network of the host.
    #[error("leave the network of the host")]
    Network(#[source] Errno),
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Workspaces(#[from] WorkspaceError),
    #[error(transparent)]
    Layers(#[from] LayerError),
    #[error(transparent)]
    Bundles(BundleError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error("{0}")]
    Kernel(&'static str, #[source] Errno),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl StartError {
    /// 64 usage, 70 bug or surprise, 77 permission, 78 configuration.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoUser
            | Self::Nobody(_)
            | Self::NotRoot
            | Self::BelowRun(_)
            | Self::NoSocket
            | Self::Descriptor(..)
            | Self::NoOwner(_) => 64,
            Self::Ceilings(_)
            | Self::NotEnabled(_)
            | Self::Writable { .. }
            | Self::Files { .. } => 78,
            Self::HostNetwork(_)
            | Self::Network(_)
            | Self::Drop(_)
            | Self::Userns(_)
            | Self::Landlock(_)
            | Self::Seccomp(_)
            | Self::Cgroup(_)
            | Self::Layers(_)
            | Self::Bundles(_)
            | Self::Workspaces(_) => 77,
            Self::Private(_)
            | Self::Leftovers(_)
            | Self::Door(_)
            | Self::Sweep(_)
            | Self::Kernel(..)
            | Self::Serve(_) => 70,
        }
    }
}

/// Starts, serves, and ends.
pub(crate) fn run(options: &Options) -> Result<(), StartError> {
    umask(Mode::from_bits_truncate(0o077));
    let ceilings = Ceilings::read(&options.config("/etc/pawd/launcher.toml"))?;
    let listener = listener(options)?;
    let lifeline = options
        .lifeline_fd
        .map(sys::inherited)
        .transpose()
        .map_err(|error| StartError::Descriptor("the lifeline", error))?;
    let peer = match options.peer_uid {
        Some(uid) => uid,
        None => owner(&listener).map_err(StartError::NoOwner)?,
    };
    let places = Places::find(options, "paw-create")?;
    let parent = Parent::find(options.cgroup.as_deref())?;
    let memory = Memory::open(&options.proc);
    let runtimes = Runtimes::find(&ceilings, &places.create);
    // Whatever we start is there, too.
    chdir("/").map_err(|errno| StartError::Kernel("go to /", errno))?;

    let (uid, gid) = become_launcher(options, &ceilings, &parent, &places)?;
    // Signals are blocked before the first child exists, so that no end of one is missed.
    let signals = block_signals().map_err(|errno| StartError::Kernel("block signals", errno))?;
    // Before the first child: under v2 a group hands out no controllers while a process, the doorkeeper too, sits in it.
    parent.open()?;
    let (door, doorkeeper) = door::keep(listener, peer, (uid, gid))?;

    let map = launcher_map(uid, ceilings.ids);
    let gid_map = launcher_map(gid, ceilings.ids);
    userns::enter(userns::make(&map, &gid_map)?)?;
    drop::seal()?;
    prctl::set_child_subreaper(true)
        .map_err(|errno| StartError::Kernel("become the reaper of orphans", errno))?;
    let bundles = Bundles {
        dir: places.state.join("bundles"),
        init: places.init.clone(),
    };
    let layers = places.state.join("layers");
    layer::own_mounts(&layers)?;
    sweep::sweep(&parent, &[&bundles.dir, &layers])?;
    bundles.in_memory().map_err(StartError::Bundles)?;
    place::migrate(&places.state)?;
    let overlay = if ceilings.workspaces.overlay {
        layer::probe(&layers)
    } else {
        Err(LayerError::Off)
    };
    let network = leave_network()?;
    let profile = if runtimes.has_gvisor() {
        seccomp::launcher_with_gvisor()
    } else {
        seccomp::launcher()
    };
    let enforced = confine(&profile)?;

    let slots = Slots::read(SLOT, ceilings.ids, places.state.join("workspaces"))?;
    let workspaces = Workspaces::new(places.state.join("workspaces"), layers, overlay);
    let host = Host {
        unheld: parent.unheld(),
        ceilings,
        shipped: Shipped::new(&places.data),
        data: places.data,
        skills: places.skills,
        state: places.state,
        programs: places.programs,
        has_jobs: true,
        parent,
        bundles,
        runtimes,
        init: host::Program::new(&places.init),
        map,
        landlock_abi: enforced.abi,
        memory,
        doorkeeper: doorkeeper.as_raw().unsigned_abs(),
        network,
    };
    info!(uid, gid, peer, landlock_abi = enforced.abi, "ready");
    notify(&[NotifyState::Ready]);
    // Twice as often as it has to be, as the manual of systemd advises.
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let group = host.parent.clone();
    Launcher::new(host, slots, workspaces).serve(&Sources {
        signals,
        door,
        doorkeeper,
        lifeline,
        watchdog,
    })?;
    group.remove();
    info!("stopped");
    Ok(())
}

/// Where everything is, with every symlink on the way resolved once, while it is known whom the paths belong to.
pub(crate) struct Places {
    pub(crate) state: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) skills: Option<PathBuf>,
    /// The program that makes one sandbox.
    pub(crate) create: PathBuf,
    pub(crate) init: PathBuf,
    /// The directory of the programs that jobs run.
    pub(crate) programs: PathBuf,
}

impl Places {
    /// `create` is the name of the program that makes one sandbox.
    pub(crate) fn find(options: &Options, create: &str) -> Result<Self, StartError> {
        let resolve = |path: &Path| {
            fs::canonicalize(path).map_err(|source| StartError::Files {
                step: "find",
                path: path.to_owned(),
                source,
            })
        };
        let places = Self {
            state: resolve(&options.state)?,
            data: resolve(&options.data)?,
            skills: options.skills.as_deref().map(resolve).transpose()?,
            create: resolve(&options.libexec.join(create))?,
            init: resolve(&options.libexec.join("paw-init"))?,
            programs: resolve(&options.libexec)?,
        };
        // Jobs are the business of the launcher that makes sandboxes by paw-create.
        let jobs: Vec<PathBuf> = Program::ALL
            .into_iter()
            .filter(|_| create == "paw-create")
            .map(|program| places.programs.join(program.file()))
            .collect();
        // Whoever can write one of these is the launcher, or is in every sandbox.
        for path in [&places.create, &places.init].into_iter().chain(&jobs) {
            let found = fs::metadata(path).map_err(|source| StartError::Files {
                step: "look at",
                path: path.clone(),
                source,
            })?;
            if found.uid() != 0 || found.mode() & 0o022 != 0 {
                return Err(StartError::Writable {
                    path: path.clone(),
                    uid: found.uid(),
                    mode: found.mode() & 0o7777,
                });
            }
        }
        Ok(places)
    }

    /// Hands the state directory to the launcher's user. Root touches nothing below it: what stands there belongs to that user,
    /// who could have put a link to anything in its place.
    fn give(&self, uid: u32, gid: u32) -> Result<(), StartError> {
        chown(&self.state, Some(uid), Some(gid)).map_err(|source| StartError::Files {
            step: "give away",
            path: self.state.clone(),
            source,
        })
    }

    /// Makes the directories below the state, as the launcher's user. Sandboxes pass through them, so they can be searched but
    /// not listed.
    pub(crate) fn prepare(&self) -> Result<(), StartError> {
        let dirs = ["", "bundles", "workspaces", "layers"]
            .map(|name| self.state.join(name))
            .into_iter()
            .chain(Program::ALL.map(|program| self.state.join(program.dir())));
        for path in dirs {
            let files = |step| {
                let path = path.clone();
                move |source| StartError::Files { step, path, source }
            };
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => {
                    let other = io::Error::from(io::ErrorKind::NotADirectory);
                    return Err(files("use as a directory")(other));
                }
                Err(_) => fs::create_dir(&path).map_err(files("make"))?,
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o711))
                .map_err(files("set the mode of"))?;
        }
        Ok(())
    }
}

/// Gives up being root, or finds that it was never needed; keeps what writing the map of a user namespace takes.
fn become_launcher(
    options: &Options,
    ceilings: &Ceilings,
    parent: &Parent,
    places: &Places,
) -> Result<(u32, u32), StartError> {
    let (uid, gid) = if geteuid().is_root() {
        let (Some(uid), Some(gid)) = (options.uid, options.gid) else {
            return Err(StartError::NoUser);
        };
        places.give(uid, gid)?;
        parent.prepare(uid, gid, ceilings.total)?;
        (uid, gid)
    } else {
        (geteuid().as_raw(), getegid().as_raw())
    };
    drop::drop_keeping(
        uid,
        gid,
        &[],
        &[Capability::CAP_SETUID, Capability::CAP_SETGID],
    )?;
    places.prepare()?;
    Ok((uid, gid))
}

pub(crate) fn listener(options: &Options) -> Result<OwnedFd, StartError> {
    let take = |number| {
        sys::inherited(number)
            .map_err(|error| StartError::Descriptor("the listening socket", error))
    };
    if let Some(number) = options.listen_fd {
        return take(number);
    }
    let mut passed = sd_notify::listen_fds()
        .map_err(|error| StartError::Descriptor("the sockets of systemd", error))?;
    passed.next().map_or(Err(StartError::NoSocket), take)
}

/// The owner of a listening socket's file: whoever may connect to a socket of mode 0600.
pub(crate) fn owner(listener: &OwnedFd) -> Result<u32, Errno> {
    use nix::sys::socket::{UnixAddr, getsockname};
    use std::os::fd::AsRawFd;
    let address: UnixAddr = getsockname(listener.as_raw_fd())?;
    let path = address.path().ok_or(Errno::ENOENT)?;
    Ok(nix::sys::stat::stat(path)?.st_uid)
}

pub(crate) fn block_signals() -> Result<SignalFd, Errno> {
    let set: SigSet = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ]
    .into_iter()
    .collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Goes to a network namespace with nothing in it, and says which one was left. A launcher never needs a network, and so the one
/// port that its landlock domain has to leave to its sandboxes, for the proxy inside, leads nowhere from here.
pub(crate) fn leave_network() -> Result<u64, StartError> {
    let left = namespace(Path::new("/proc/self"), "net")?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(StartError::Network)?;
    Ok(left)
}

/// What the launcher can forbid itself and still make sandboxes. All of it is inherited by them, so the one
/// port is what a program inside can bind and connect to over TCP at most.
pub(crate) fn confine(profile: &Profile) -> Result<Enforced, StartError> {
    let rules = Rules {
        paths: None,
        connect: Ports::Only(vec![PORT]),
        bind: Ports::Only(vec![PORT]),
        scope: true,
    };
    // No part is the floor: on a kernel that has none of them, sandboxes are still bound by namespaces and by file rules.
    let enforced = landlock::enforce(&rules, Floor::default())?;
    for part in &enforced.missing {
        warn!(part, "this kernel's landlock cannot do what was asked");
    }
    profile.apply()?;
    Ok(enforced)
}
