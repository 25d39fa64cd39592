//! From root to as little of it as a shim can live with; then the loop.
//!
//! ```text
//! root
//!   read what is root's: ceilings, programs, the shim's version; make the cgroup
//!   a mount namespace and a /run of our own
//!   fork the doorkeeper, which becomes nobody
//!   no_new_privs, undumpable; capabilities: those of the lists below, and no way back to the others
//!   kill and remove what an earlier life left
//!   a network namespace of its own, with nothing in it
//!   landlock: TCP on the one port of the proxy, no abstract socket, no signal outside
//!   seccomp, subreaper
//!   READY, loop
//! ```

use std::{path::Path, rc::Rc};

use caps::Capability;
use nix::{
    sys::{
        prctl,
        stat::{Mode, umask},
    },
    unistd::{User, geteuid},
};
use paw_confine::{drop, seccomp, sys, userns::Extent};
use paw_launch::{
    NOT_ALLOWED,
    request::{Isolation, Runtime},
};
use sd_notify::NotifyState;
use tracing::info;

use super::{maker::Kata, pins::Pins, private, shim::Shim};
use crate::{
    Options,
    bundle::Bundles,
    ceilings::Ceilings,
    cgroup::Parent,
    door,
    host::{self, Host},
    image::Shipped,
    runtime::{Maker, Runtimes},
    serve::{Launcher, Sources, notify},
    slots::Slots,
    start::{Places, StartError, block_signals, confine, leave_network, listener, owner},
    sweep,
    workspaces::Workspaces,
};

/// What may be asked for at most.
const CONFIG: &str = "/etc/pawd/launcher-kata.toml";

/// The group of these sandboxes where no service manager gives one: not that of the other launcher, which sweeps its own.
const CGROUP: &str = "/pawd-kata";

/// Whom the doorkeeper and paw-shim become when the command line names nobody.
const NOBODY: &str = "paw-shim";

/// What stays of root's capabilities, and why: without any of the first seven, runc's shim makes no container (tried one by one).
const KEPT: [(Capability, &str); 9] = [
    (Capability::CAP_SYS_ADMIN, "mounts, namespaces, cgroups"),
    (
        Capability::CAP_SYS_CHROOT,
        "the root of a container, or of what runs a machine",
    ),
    (
        Capability::CAP_SETUID,
        "the map of a container's user namespace, and its user",
    ),
    (Capability::CAP_SETGID, "the same for groups"),
    (
        Capability::CAP_CHOWN,
        "the streams of a container belong to its user",
    ),
    (
        Capability::CAP_DAC_OVERRIDE,
        "what belongs to other users: cgroups, workspaces",
    ),
    (
        Capability::CAP_SYS_PTRACE,
        "namespaces of a process that hides its memory, in /proc; the system call ptrace is refused",
    ),
    (Capability::CAP_KILL, "ends what has other users"),
    (Capability::CAP_SETPCAP, "paw-shim empties its bounding set"),
];

/// What a hypervisor may need besides. Kept only where the shim is Kata's; not tried, because no such host was there.
const FOR_MACHINES: [(Capability, &str); 4] = [
    (Capability::CAP_NET_ADMIN, "the machine's network namespace"),
    (Capability::CAP_MKNOD, "device nodes of a machine's root"),
    (
        Capability::CAP_SYS_RESOURCE,
        "limits and the out-of-memory score of a hypervisor",
    ),
    (
        Capability::CAP_FOWNER,
        "modes of what is shared with a machine",
    ),
];

fn capabilities(machine: bool) -> Vec<Capability> {
    let more = if machine { &FOR_MACHINES[..] } else { &[] };
    KEPT.iter()
        .chain(more)
        .map(|(capability, _)| *capability)
        .collect()
}

/// Starts, serves, and ends.
pub(crate) fn run(options: &Options) -> Result<(), StartError> {
    umask(Mode::from_bits_truncate(0o077));
    let config = options.config(CONFIG);
    let ceilings = Ceilings::read(&config)?;
    if !ceilings.kata.enabled {
        return Err(StartError::NotEnabled(config));
    }
    if !geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
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
    let places = Places::find(options, "paw-shim")?;
    if places.state.starts_with("/run") {
        return Err(StartError::BelowRun(places.state));
    }
    let nobody = match (options.uid, options.gid) {
        (Some(uid), Some(gid)) => (uid, gid),
        _ => User::from_name(NOBODY)
            .ok()
            .flatten()
            .map(|user| (user.uid.as_raw(), user.gid.as_raw()))
            .filter(|(uid, _)| *uid != 0)
            .ok_or(StartError::Nobody(NOBODY))?,
    };
    let delegated =
        options.cgroup.is_none() && Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let parent = match (&options.cgroup, delegated) {
        (None, false) => Parent::find(Some(CGROUP))?,
        (asked, _) => Parent::find(asked.as_deref())?,
    };
    let mut machine = false;
    let kata = if ceilings.runtimes.contains(&Runtime::Kata) {
        Shim::find(&ceilings.kata)
            .map(|shim| {
                machine = shim.isolation == Isolation::Vm;
                let kata = Kata {
                    shim,
                    helper: places.create.clone(),
                    nobody,
                    pins: Pins::new(),
                };
                Rc::new(kata) as Rc<dyn Maker>
            })
            .map_err(|error| paw_log::Chain(&error).to_string())
    } else {
        Err(format!("runtimes in launcher-kata.toml {NOT_ALLOWED}"))
    };

    if !delegated {
        // Owned by root as before; what is done here besides is to make it, with the total limits.
        parent.prepare(0, 0, ceilings.total)?;
    }
    places.prepare()?;
    let signals = block_signals().map_err(|errno| StartError::Kernel("block signals", errno))?;
    parent.open()?;
    private::make()?;
    let memory = crate::memory::Memory::open(&options.proc);
    let (door, doorkeeper) = door::keep(listener, peer, nobody)?;
    drop::seal()?;
    drop::stay_root_with(&capabilities(machine))?;
    prctl::set_child_subreaper(true)
        .map_err(|errno| StartError::Kernel("become the reaper of orphans", errno))?;
    let bundles = Bundles {
        dir: places.state.join("bundles"),
        init: places.init.clone(),
    };
    sweep::sweep(&parent, &[&bundles.dir])?;
    super::leftovers::remove(&parent)?;
    let network = leave_network()?;
    let enforced = confine(&seccomp::launcher_with_shim())?;

    let slots = Slots::read(
        ceilings.ids.base,
        ceilings.ids,
        places.state.join("workspaces"),
    )?;
    let host = Host {
        unheld: parent.unheld(),
        shipped: Shipped::new(&places.data),
        data: places.data,
        skills: places.skills,
        programs: places.programs,
        has_jobs: false,
        state: places.state,
        parent,
        bundles,
        runtimes: Runtimes::kata(kata),
        init: host::Program::new(&places.init),
        // Ids are the host's own here.
        map: [
            Extent {
                inside: 0,
                outside: 0,
                count: ceilings.ids.base,
            },
            Extent {
                inside: ceilings.ids.base,
                outside: ceilings.ids.base,
                count: u32::MAX - ceilings.ids.base,
            },
        ],
        ceilings,
        landlock_abi: enforced.abi,
        memory,
        doorkeeper: doorkeeper.as_raw().unsigned_abs(),
        network,
    };
    info!(peer, landlock_abi = enforced.abi, "ready");
    notify(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let workspaces = Workspaces::none(
        host.state.join("workspaces"),
        "workspaces are kept by paw-launcher",
    );
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
