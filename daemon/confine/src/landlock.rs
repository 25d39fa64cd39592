//! Landlock as data: which paths with which rights, which ports, which scopes, and why.
//!
//! The kernel's version decides what can be enforced: files from 5.13 (ABI 1), TCP ports from 6.7 (ABI 4), abstract sockets and
//! signals from 6.12 (ABI 6). Whatever the running kernel has is used in full, and a part that it lacks is named. A
//! [`Floor`] says which parts the process refuses to live without.

use std::{fs, path::PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use serde::Serialize;

use crate::{ThreadError, alone, sys};

/// The newest ABI whose every right was tested here. A newer kernel is used as if it were this one, because rights that nobody
/// tried (ABI 9 also rules over connecting to Unix sockets) would break what works.
const TESTED: u32 = 7;

/// What may be done below a path. Everything that is not listed is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Read files and list directories.
    Read,
    /// [`Rights::Read`], and execute files.
    ReadExecute,
    /// Read, make, write, rename and remove; not execute, and no device nodes.
    ReadWrite,
    /// All of it, device nodes excepted: a place where programs may be built and run.
    All,
    /// Read and write existing files and devices; make and remove nothing.
    UseFiles,
}

impl Rights {
    fn access(self, abi: ABI) -> BitFlags<AccessFs> {
        let nodes = AccessFs::MakeChar | AccessFs::MakeBlock;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Self::Read => read,
            Self::ReadExecute => read | AccessFs::Execute,
            Self::ReadWrite => AccessFs::from_all(abi) & !nodes & !AccessFs::Execute,
            Self::All => AccessFs::from_all(abi) & !nodes,
            Self::UseFiles => {
                read | AccessFs::WriteFile
                    | (AccessFs::from_all(abi) & (AccessFs::IoctlDev | AccessFs::Truncate))
            }
        }
    }
}

/// One granted path.
#[derive(Debug, Clone)]
pub struct PathRule {
    /// The path; a directory stands for everything below it.
    pub path: PathBuf,
    /// What may be done there.
    pub rights: Rights,
    /// Whether the process can do without it when it does not exist.
    pub optional: bool,
    /// Why the process needs it.
    pub reason: &'static str,
}

impl PathRule {
    /// A path that must exist.
    pub fn new(path: impl Into<PathBuf>, rights: Rights, reason: &'static str) -> Self {
        Self {
            path: path.into(),
            rights,
            optional: false,
            reason,
        }
    }

    /// A path that need not exist.
    pub fn optional(path: impl Into<PathBuf>, rights: Rights, reason: &'static str) -> Self {
        Self {
            optional: true,
            ..Self::new(path, rights, reason)
        }
    }
}

/// TCP ports of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ports {
    /// Landlock does not rule over this direction.
    Any,
    /// These and no other; an empty list denies all.
    Only(Vec<u16>),
    /// None at all.
    #[default]
    None,
}

/// Everything that landlock shall enforce.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Granted paths. `None`: landlock does not rule over files, which a process that mounts needs (a file domain forbids
    /// every mount).
    pub paths: Option<Vec<PathRule>>,
    /// Ports that may be connected to over TCP.
    pub connect: Ports,
    /// Ports that may be bound for TCP.
    pub bind: Ports,
    /// Whether abstract Unix sockets and processes outside are out of reach.
    pub scope: bool,
}

/// The parts without which the process does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// Files: Linux 5.13.
    pub files: bool,
    /// TCP ports: Linux 6.7.
    pub net: bool,
    /// Abstract sockets and signals: Linux 6.12.
    pub scope: bool,
}

/// What the kernel enforces now, for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Enforced {
    /// ABI of the running kernel.
    pub kernel_abi: u32,
    /// ABI whose rules are enforced; lower than the kernel's when that is newer than what was tested.
    pub abi: u32,
    /// Whether files are ruled.
    pub files: bool,
    /// Whether TCP ports are ruled.
    pub net: bool,
    /// Whether abstract sockets and signals are ruled.
    pub scope: bool,
    /// What was asked and the kernel cannot do, with the version that can.
    pub missing: Vec<&'static str>,
}

/// Why the rules are not enforced. The process must not go on.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// There are other threads already.
    #[error(transparent)]
    Threads(#[from] ThreadError),
    /// The kernel has no landlock at all.
    #[error(
        "landlock is not available: boot with `lsm=landlock,...` (see /sys/kernel/security/lsm for what is there now), on Linux 5.13 or newer"
    )]
    Unavailable,
    /// The kernel lacks a part that the floor demands.
    #[error(
        "landlock lacks {0}, which the configured floor demands; use a newer kernel or lower the floor"
    )]
    BelowFloor(&'static str),
    /// A path that the process needs is not there.
    #[error("open {path} ({reason})")]
    Path {
        /// Which one.
        path: PathBuf,
        /// What it is needed for.
        reason: &'static str,
        /// Why it could not be opened.
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error("{step}")]
    Kernel {
        /// Which step.
        step: &'static str,
        /// What it said.
        source: RulesetError,
    },
}

/// Enforces the rules on the calling thread, which must be the only one, and on its later children.
///
/// # Errors
/// When a part below the floor is missing, a needed path is not there, or the kernel refuses. Rules are never enforced in part.
pub fn enforce(rules: &Rules, floor: Floor) -> Result<Enforced, LandlockError> {
    alone()?;
    enforce_for_abi(rules, floor, sys::landlock_abi())
}

/// [`enforce`] as on a kernel of this ABI, which must not be newer than the running one.
fn enforce_for_abi(
    rules: &Rules,
    floor: Floor,
    kernel_abi: u32,
) -> Result<Enforced, LandlockError> {
    if kernel_abi == 0 {
        return Err(LandlockError::Unavailable);
    }
    let enforced = plan(rules, kernel_abi);
    let demanded = [
        (
            floor.files && !enforced.files,
            "rules for files (Linux 5.13)",
        ),
        (
            floor.net && !enforced.net,
            "rules for TCP ports (Linux 6.7)",
        ),
        (
            floor.scope && !enforced.scope,
            "scopes for abstract sockets and signals (Linux 6.12)",
        ),
    ];
    if let Some((_, part)) = demanded.into_iter().find(|(missing, _)| *missing) {
        return Err(LandlockError::BelowFloor(part));
    }
    if !(enforced.files || enforced.net || enforced.scope) {
        // The floor is met and nothing that was asked exists here; `missing` says so.
        return Ok(enforced);
    }
    apply(rules, &enforced)?;
    Ok(enforced)
}

/// What can be enforced of these rules at this ABI.
fn plan(rules: &Rules, kernel_abi: u32) -> Enforced {
    let abi = kernel_abi.min(TESTED);
    let asks_net = rules.connect != Ports::Any || rules.bind != Ports::Any;
    let mut missing = Vec::new();
    if asks_net && abi < 4 {
        missing.push("rules for TCP ports (Linux 6.7)");
    }
    if rules.scope && abi < 6 {
        missing.push("scopes for abstract sockets and signals (Linux 6.12)");
    }
    if rules.paths.is_some() && abi < 5 {
        missing.push(if abi < 3 {
            "rules for truncate (Linux 6.2) and device ioctl (Linux 6.10)"
        } else {
            "rules for device ioctl (Linux 6.10)"
        });
    }
    Enforced {
        kernel_abi,
        abi,
        files: rules.paths.is_some(),
        net: asks_net && abi >= 4,
        scope: rules.scope && abi >= 6,
        missing,
    }
}

fn apply(rules: &Rules, enforced: &Enforced) -> Result<(), LandlockError> {
    let kernel = |step| move |source| LandlockError::Kernel { step, source };
    let abi = ABI::from(i32::try_from(enforced.abi).unwrap_or(0));
    // Only what the kernel has is asked for, so that every refusal is a fault and none is silently skipped.
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if enforced.files {
        ruleset = ruleset
            .handle_access(AccessFs::from_all(abi))
            .map_err(kernel("rule over files"))?;
    }
    if enforced.net {
        for (ports, access) in [
            (&rules.connect, AccessNet::ConnectTcp),
            (&rules.bind, AccessNet::BindTcp),
        ] {
            if *ports != Ports::Any {
                ruleset = ruleset
                    .handle_access(access)
                    .map_err(kernel("rule over TCP ports"))?;
            }
        }
    }
    if enforced.scope {
        ruleset = ruleset
            .scope(Scope::from_all(abi))
            .map_err(kernel("rule over scopes"))?;
    }
    let mut ruleset = ruleset
        .create()
        .map_err(kernel("make a landlock ruleset"))?;

    for rule in rules.paths.iter().flatten() {
        let is_dir = match fs::metadata(&rule.path) {
            Ok(found) => found.is_dir(),
            Err(source) if rule.optional && source.kind() == std::io::ErrorKind::NotFound => {
                continue;
            }
            Err(source) => {
                return Err(LandlockError::Path {
                    path: rule.path.clone(),
                    reason: rule.reason,
                    source,
                });
            }
        };
        let mut access = rule.rights.access(abi);
        if !is_dir {
            access &= AccessFs::from_file(abi);
        }
        let opened = PathFd::new(&rule.path).map_err(|error| LandlockError::Path {
            path: rule.path.clone(),
            reason: rule.reason,
            source: std::io::Error::other(error),
        })?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(opened, access))
            .map_err(kernel("allow a path"))?;
    }
    if enforced.net {
        for (ports, access) in [
            (&rules.connect, AccessNet::ConnectTcp),
            (&rules.bind, AccessNet::BindTcp),
        ] {
            if let Ports::Only(ports) = ports {
                for port in ports {
                    ruleset = ruleset
                        .add_rule(NetPort::new(*port, access))
                        .map_err(kernel("allow a port"))?;
                }
            }
        }
    }
    ruleset
        .restrict_self()
        .map_err(kernel("enforce the landlock rules"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> Rules {
        Rules {
            paths: Some(Vec::new()),
            connect: Ports::None,
            bind: Ports::None,
            scope: true,
        }
    }

    #[test]
    fn each_kernel_gets_all_it_can_and_names_the_rest() {
        let check = |abi, files, net, scope, missing: usize| {
            let got = plan(&strict(), abi);
            assert_eq!(
                (got.files, got.net, got.scope, got.missing.len()),
                (files, net, scope, missing),
                "ABI {abi}"
            );
        };
        check(1, true, false, false, 3);
        check(2, true, false, false, 3);
        check(4, true, true, false, 2);
        check(6, true, true, true, 0);
        check(9, true, true, true, 0);
    }

    #[test]
    fn newer_kernel_is_used_as_the_newest_tested_one() {
        assert_eq!(plan(&strict(), 10).abi, TESTED);
    }

    #[test]
    fn part_below_the_floor_is_named() {
        let floor = Floor {
            files: true,
            net: true,
            scope: false,
        };
        let error = enforce_for_abi(&strict(), floor, 2).unwrap_err();
        assert!(error.to_string().contains("TCP ports"), "{error}");
    }

    #[test]
    fn kernel_without_landlock_is_refused_with_a_remedy() {
        let error = enforce_for_abi(&strict(), Floor::default(), 0).unwrap_err();
        assert!(error.to_string().contains("lsm=landlock"), "{error}");
    }
}
