//! What the host can see of a sandbox of gVisor.
//!
//! It sees the processes in the leaf: the supervisor (`runsc run`), the gofer, which alone sees the bundle, and the sentry, the
//! kernel of the sandbox, with the address spaces that it keeps as its children. It does not see what happens on that kernel:
//! which programs run, what they have mounted, which system calls they make. Those are named as unseen in the record.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use paw_confine::{
    report::Confinement,
    userns::{outside, parse_map},
};
use paw_launch::request::{Attestation, Facts};

use super::{
    AttestError, Expected, check_bound, digest_of, layer, mismatch, mounts, namespaces, network,
    read, same, sealed, shown,
};
use crate::{
    bundle::INIT,
    runtime::{Gvisor, Maker as _},
};

/// Namespaces that the sentry has for itself. The pid namespace is the launcher's: its processes are kept apart by their ids.
const SENTRY_NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "user", "uts"];

/// What the sentry may have in its own user namespace, which has no file system: chroot and admin, with which it locked itself
/// up, and ptrace.
const SENTRY_CAPABILITIES: u64 = 1 << 18 | 1 << 19 | 1 << 21;

/// What the gofer may have in the sandbox's user namespace: to act for any user on the files of the bundle, and chroot.
const GOFER_CAPABILITIES: u64 = 0x1f | 1 << 18;

/// What nobody outside can see.
const UNSEEN: [&str; 4] = [
    "processes inside: the sandbox's kernel keeps them",
    "system calls inside: the sandbox's kernel answers them; its own are bound by its filter",
    "mounts inside, and which of them are read-only; the root and the files behind each mount are seen",
    "the limit of open files inside",
];

/// A process of the leaf.
struct Member {
    pid: i32,
    proc: PathBuf,
    name: String,
    status: Confinement,
}

/// Reads every fact of every process in the leaf and compares it. `pid` must be `runsc run`, and must be our child.
pub(crate) fn gvisor(
    pid: i32,
    expected: &Expected<'_>,
    runtime: &Gvisor,
) -> Result<Attestation, AttestError> {
    let cgroups = expected.leaf.holds(pid)?;
    let limits = expected.leaf.read_back(expected.limits)?;
    let map = expected.map;
    let members = members(expected)?;
    let wanted = runtime.inode().map_err(AttestError::Program)?;
    for member in &members {
        same("no_new_privs", member.status.no_new_privs, true)?;
        same("seccomp", member.status.seccomp, 2)?;
        let own = |id: u32| {
            map.iter()
                .any(|extent| id.wrapping_sub(extent.outside) < extent.count)
        };
        if !own(member.status.uid) || !own(member.status.gid) {
            return Err(mismatch(
                format!("the user of {}", member.name),
                format!("{}:{}", member.status.uid, member.status.gid),
                "one of the sandbox's own",
            ));
        }
        namespaces(
            &member.proc,
            &["user", "net", "ipc", "uts", "mnt", "cgroup"],
            expected.host_network,
        )?;
    }

    let supervisor = one(&members, |member| member.pid == pid, "runsc run")?;
    let gofer = one(
        &members,
        |member| member.name == "runsc-gofer",
        "runsc-gofer",
    )?;
    let sentry = one(
        &members,
        |member| member.name == "runsc-sandbox",
        "runsc-sandbox",
    )?;
    let uid_map = parse_map(&read(&supervisor.proc.join("uid_map"))?);
    same("uid_map", shown(&uid_map), shown(map))?;
    for member in [supervisor, gofer, sentry] {
        let path = member.proc.join("exe");
        let found = fs::metadata(&path).map_err(|source| AttestError::Read { path, source })?;
        if (found.dev(), found.ino()) != wanted {
            return Err(mismatch(
                format!("the program of {}", member.name),
                "another one",
                "runsc",
            ));
        }
    }
    within("the gofer", gofer, GOFER_CAPABILITIES)?;
    // The sentry, and whatever runs under it.
    for member in &members {
        if member.pid != gofer.pid && member.pid != pid {
            within("the sentry", member, SENTRY_CAPABILITIES)?;
        }
    }
    // Their own filter on top of the launcher's, which all of them inherit. Kernels before 5.9 do not tell.
    for member in [gofer, sentry] {
        let (is, inherited) = (
            member.status.seccomp_filters,
            supervisor.status.seccomp_filters,
        );
        if inherited > 0 && is <= inherited {
            return Err(mismatch(
                format!("the filter of {}", member.name),
                "the launcher's alone",
                "one of its own",
            ));
        }
    }
    let (interfaces, routes) = network(&sentry.proc)?;

    let mounted = mounts(&gofer.proc)?;
    if !mounted
        .iter()
        .any(|mount| mount.target == "/" && mount.is_read_only())
    {
        return Err(mismatch(
            "the root file system".to_owned(),
            "writable",
            "read-only",
        ));
    }
    // What is mounted in a temporary file system of the sandbox is not below the gofer's root.
    let seen: Vec<_> = expected
        .bound
        .iter()
        .filter(|bound| !bound.target.starts_with("/tmp") && !bound.target.starts_with("/run"))
        .cloned()
        .collect();
    check_bound(&gofer.proc, &seen)?;
    layer::check(&mounted, expected.plan)?;
    if !seen.iter().any(|bound| bound.target == Path::new(INIT)) {
        return Err(mismatch(
            "the program".to_owned(),
            "another one",
            "paw-init",
        ));
    }

    let host_id = |id| outside(expected.launcher_map, id).unwrap_or(u32::MAX);
    sealed(Facts {
        id: expected.plan.id.clone(),
        runtime: runtime.name(),
        runtime_version: runtime.version(),
        runtime_digest: digest_of(runtime)?,
        init_digest: expected.init_digest,
        root_digest: expected.root_digest,
        seccomp: sentry.status.seccomp,
        no_new_privs: sentry.status.no_new_privs,
        capabilities: sentry.status.caps.clone(),
        uid: host_id(sentry.status.uid),
        gid: host_id(sentry.status.gid),
        uid_map: uid_map
            .iter()
            .map(|extent| (extent.inside, extent.outside, extent.count))
            .collect(),
        namespaces: namespaces(&sentry.proc, &SENTRY_NAMESPACES, expected.host_network)?,
        cgroups,
        limits,
        mounts: mounted
            .iter()
            .map(|mount| format!("{} {} {}", mount.target, mount.kind, mount.options))
            .collect(),
        interfaces,
        routes,
        landlock_abi: expected.landlock_abi,
        unseen: UNSEEN.map(str::to_owned).to_vec(),
        unheld: expected.unheld.to_vec(),
        isolation: runtime.isolation(),
    })
}

/// Every process of the leaf, each seen to be in it in every hierarchy that limits.
fn members(expected: &Expected<'_>) -> Result<Vec<Member>, AttestError> {
    let pids = expected.leaf.members();
    let mut members = Vec::with_capacity(pids.len());
    for pid in pids {
        match member(pid, expected) {
            Ok(member) => members.push(member),
            // runsc ends helpers of its own while it starts; one that is gone from the leaf is no part of the sandbox.
            Err(error) if expected.leaf.members().contains(&pid) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(members)
}

fn member(pid: i32, expected: &Expected<'_>) -> Result<Member, AttestError> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    expected.leaf.holds(pid)?;
    let path = proc.join("status");
    let status =
        Confinement::parse(&read(&path)?).map_err(|what| AttestError::Unreadable { path, what })?;
    // The first argument is runsc's own word for what this process is, given before any program of the sandbox ran.
    let arguments = read(&proc.join("cmdline"))?;
    let name = arguments.split('\0').next().unwrap_or_default().to_owned();
    Ok(Member {
        pid,
        proc,
        name,
        status,
    })
}

fn one<'a>(
    members: &'a [Member],
    is: impl Fn(&Member) -> bool,
    what: &'static str,
) -> Result<&'a Member, AttestError> {
    let mut found = members.iter().filter(|member| is(member));
    match (found.next(), found.next()) {
        (Some(member), None) => Ok(member),
        (found, _) => Err(mismatch(
            format!("the number of {what} in the leaf"),
            if found.is_some() {
                "more than one"
            } else {
                "none"
            },
            "one",
        )),
    }
}

/// Its capabilities are at most these.
fn within(who: &str, member: &Member, most: u64) -> Result<(), AttestError> {
    let effective = u64::from_str_radix(&member.status.caps_effective, 16).unwrap_or(u64::MAX);
    if effective & !most == 0 {
        Ok(())
    } else {
        Err(mismatch(
            format!("the effective capability set of {who}"),
            member.status.caps_effective.clone(),
            format!("at most {most:016x}"),
        ))
    }
}
