//! What the host can see of a sandbox behind a shim.
//!
//! Of a container that runc made, everything that it sees of a native one, landlock's file rules excepted, which nobody put on.
//! Of a virtual machine, what runs it: that the kernel's own KVM is in use by a process within the sandbox's cgroups, that
//! paw-init is *not* a process of this host, and the rights of what is. What happens inside is named as unseen.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use paw_confine::report::Confinement;
use paw_launch::{
    request::{Attestation, Facts, Isolation},
    shim::{self as said, Said},
};

use super::maker::Kata;
use crate::{
    attest::{AttestError, Expected, mismatch, mounts, process, read, same, sealed},
    bundle::INIT,
    runtime::Maker as _,
};

/// What nobody outside can see of a container that a shim made.
const UNSEEN_PROCESS: [&str; 2] = [
    "landlock: the shim put no file rules on paw-init; the launcher's rules about networks, sockets and signals bind it",
    "what the shim and runc did before paw-init ran: they run as root of this host, within the launcher's filter",
];

/// What nobody outside can see of a virtual machine.
const UNSEEN_MACHINE: [&str; 5] = [
    "processes, their ids, capabilities and filters inside: the machine's own kernel keeps them",
    "mounts inside, and which of them are read-only",
    "limits of processes, open files and disk inside: the machine's own kernel keeps them; the machine as a whole is limited here",
    "network inside: the machine was given no interface",
    "the kernel and the root of the machine, beside their being those of the configured shim",
];

/// Reads every fact and compares it.
pub(super) fn shim(kata: &Kata, expected: &Expected<'_>) -> Result<Attestation, AttestError> {
    let pid = task(expected)?;
    let facts = match kata.isolation() {
        Isolation::Process | Isolation::Kernel => Facts {
            landlock_abi: 0,
            unseen: UNSEEN_PROCESS.map(str::to_owned).to_vec(),
            ..process(pid, expected, kata)?
        },
        Isolation::Vm => machine(pid, expected, kata)?,
    };
    sealed(facts)
}

/// The process that paw-shim named. That it is one of this sandbox's, its cgroup says.
fn task(expected: &Expected<'_>) -> Result<i32, AttestError> {
    let path = expected.dir.join(said::FILE);
    let lines = said::read(expected.dir).map_err(|source| AttestError::Read {
        path: path.clone(),
        source,
    })?;
    lines
        .iter()
        .find_map(|line| match line {
            Said::Task { pid } => Some(*pid),
            Said::Shim { .. } | Said::End { .. } | Said::Lost { .. } => None,
        })
        .ok_or(AttestError::Unreadable { path, what: "task" })
}

fn machine(pid: i32, expected: &Expected<'_>, kata: &Kata) -> Result<Facts, AttestError> {
    let cgroups = expected.leaf.holds(pid)?;
    let limits = expected.leaf.read_back(expected.limits)?;
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let path = proc.join("status");
    let status =
        Confinement::parse(&read(&path)?).map_err(|what| AttestError::Unreadable { path, what })?;
    same("no_new_privs", status.no_new_privs, true)?;
    same("seccomp", status.seccomp, 2)?;

    let init = expected
        .bound
        .iter()
        .find(|bound| bound.target == Path::new(INIT))
        .map(|bound| bound.inode);
    let members: Vec<i32> = expected
        .leaf
        .members()
        .into_iter()
        .chain(expected.leaf.beside("shim").members())
        .collect();
    let mut has_machine = false;
    for member in &members {
        let proc = PathBuf::from(format!("/proc/{member}"));
        if let Ok(found) = fs::metadata(proc.join("exe"))
            && Some((found.dev(), found.ino())) == init
        {
            return Err(mismatch(
                "paw-init".to_owned(),
                "a process of this host",
                "one inside of a virtual machine",
            ));
        }
        has_machine |= holds_machine(&proc);
    }
    if !has_machine {
        return Err(mismatch(
            "the virtual machine of the sandbox".to_owned(),
            "none",
            "one of the kernel's own, held by a process in its cgroups",
        ));
    }
    let mounted = mounts(&proc)?;
    Ok(Facts {
        id: expected.plan.id.clone(),
        runtime: kata.name(),
        runtime_version: kata.version(),
        runtime_digest: kata.digest().map_err(AttestError::Program)?,
        init_digest: expected.init_digest,
        root_digest: expected.root_digest,
        seccomp: status.seccomp,
        no_new_privs: status.no_new_privs,
        capabilities: status.caps,
        uid: status.uid,
        gid: status.gid,
        uid_map: Vec::new(),
        namespaces: std::collections::BTreeMap::new(),
        cgroups,
        limits,
        mounts: mounted
            .iter()
            .map(|mount| format!("{} {} {}", mount.target, mount.kind, mount.options))
            .collect(),
        interfaces: Vec::new(),
        routes: Vec::new(),
        landlock_abi: 0,
        unseen: UNSEEN_MACHINE.map(str::to_owned).to_vec(),
        unheld: expected.unheld.to_vec(),
        isolation: Isolation::Vm,
    })
}

/// Whether a process holds a virtual machine of KVM. The kernel gives its descriptor this name, and no program can.
fn holds_machine(proc: &Path) -> bool {
    let Ok(listing) = fs::read_dir(proc.join("fd")) else {
        return false;
    };
    listing.filter_map(Result::ok).any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|to| to == Path::new("anon_inode:kvm-vm"))
    })
}
