//! Sandboxes of gVisor: `runsc` in the foreground, as our child, with the ids of the sandbox's own slot.
//!
//! ```text
//! paw-launcher ── paw-create gvisor: enters leaf, user namespace, empty net, ipc, uts and cgroup namespaces
//!                  └─ becomes `runsc run` ── runsc-gofer    the only one that sees the bundle
//!                                         └─ runsc-sandbox  the kernel of the sandbox: no file system, no network
//!                                              └─ processes of paw-init and its commands, which the kernel of the host sees as
//!                                                 address spaces only
//! ```
//!
//! `runsc wait` is never used: it polls. Nothing of ours listens for runsc; it ends with paw-init, with the same exit code.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use paw_confine::userns::outside;
use paw_launch::request::{Attestation, Limits, Runtime};
use paw_policy::Digest;
use serde_json::{Value, json};

use super::Maker;
use crate::{
    attest::{self, AttestError, Expected},
    bundle::{Bound, specification, tmpfs_mounts},
    ceilings::{Approved, GvisorSettings, Platform},
    host::Program,
    sandbox::CreateError,
    spawn::{self, Order, Pipes, Spawned, start},
};

/// The oldest release that was seen to hold, and the one that Debian 12 has.
const OLDEST: u32 = 20_221_219;

/// The first release whose systrap is as complete as its ptrace (gVisor made it the default in its 2023 releases).
const SYSTRAP: u32 = 20_230_904;

/// The first release that is told to open files in the gofer alone. Those of 2023 and later let the sentry do it, with rights over
/// files that it has no other use for (`--directfs`); where it is not told, the attestation refuses the sandbox.
const GOFER_ALONE: u32 = SYSTRAP;

/// What its kernel needs to boot beside the programs in it, in bytes.
const LEAST_MEMORY: u64 = 64 << 20;

/// Threads and processes of runsc itself, which the host's cgroup counts together with those of the sandbox. Measured: about 40 on
/// two processors; its Go runtime makes more where there are more.
const OWN_PIDS: u32 = 192;

/// Why gVisor is not usable here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GvisorError {
    #[error(
        "no runsc at {path}; install the Debian package runsc, or set [gvisor] runsc in launcher.toml"
    )]
    Missing { path: PathBuf, source: io::Error },
    #[error(
        "{path} can be written by others (user {uid}, mode {mode:o}); make it root's and not writable for others"
    )]
    Writable { path: PathBuf, uid: u32, mode: u32 },
    #[error("ask {path} for its version")]
    Version { path: PathBuf, source: io::Error },
    #[error("{path} says its version is {said:?}, which has no date in it")]
    Dateless { path: PathBuf, said: String },
    #[error("{path} is of {date}; {OLDEST} is the oldest that is used")]
    Old { path: PathBuf, date: u32 },
    #[error(
        "{path} is of {date} and has no systrap, which [gvisor] platform asks for; {SYSTRAP} is the first that has it"
    )]
    NoSystrap { path: PathBuf, date: u32 },
}

/// A usable runsc.
#[derive(Debug)]
pub(crate) struct Gvisor {
    create: PathBuf,
    runsc: Program,
    date: u32,
    platform: &'static str,
}

impl Gvisor {
    /// Looks for runsc and asks for its version.
    pub(crate) fn find(settings: &GvisorSettings, create: &Path) -> Result<Self, GvisorError> {
        let missing = |source| GvisorError::Missing {
            path: settings.runsc.clone(),
            source,
        };
        let path = fs::canonicalize(&settings.runsc).map_err(missing)?;
        let found = fs::metadata(&path).map_err(missing)?;
        if found.uid() != 0 || found.mode() & 0o022 != 0 {
            return Err(GvisorError::Writable {
                path,
                uid: found.uid(),
                mode: found.mode() & 0o7777,
            });
        }
        let said = Command::new(&path)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(|source| GvisorError::Version {
                path: path.clone(),
                source,
            })?;
        let said = String::from_utf8_lossy(&said.stdout);
        let Some(date) = date(&said) else {
            let said = said.chars().take(80).collect();
            return Err(GvisorError::Dateless { path, said });
        };
        if date < OLDEST {
            return Err(GvisorError::Old { path, date });
        }
        let platform = match (settings.platform, date >= SYSTRAP) {
            (Platform::Ptrace, _) | (Platform::Auto, false) => "ptrace",
            (Platform::Systrap | Platform::Auto, true) => "systrap",
            (Platform::Systrap, false) => return Err(GvisorError::NoSystrap { path, date }),
        };
        Ok(Self {
            create: create.to_owned(),
            runsc: Program::new(&path),
            date,
            platform,
        })
    }

    /// The runsc program's file, as device and inode.
    pub(crate) fn inode(&self) -> io::Result<(u64, u64)> {
        let found = fs::metadata(self.runsc.path())?;
        Ok((found.dev(), found.ino()))
    }
}

/// The date in a version: releases are `release-20240729.0`, Debian's are `0.0~20221219.0`.
fn date(said: &str) -> Option<u32> {
    said.lines()
        .next()?
        .split(|c: char| !c.is_ascii_digit())
        .find(|digits| digits.len() == 8)?
        .parse()
        .ok()
}

impl Maker for Gvisor {
    fn name(&self) -> Runtime {
        Runtime::Gvisor
    }

    fn version(&self) -> String {
        format!("runsc {} {}", self.date, self.platform)
    }

    fn digest(&self) -> io::Result<Digest> {
        self.runsc.digest()
    }

    fn objection(&self, limits: &Limits) -> Option<String> {
        (limits.memory < LEAST_MEMORY).then(|| {
            format!(
                "memory of {} is too little for gVisor, whose kernel counts: it needs {LEAST_MEMORY}",
                limits.memory
            )
        })
    }

    fn leaf_limits(&self, limits: &Limits) -> Limits {
        Limits {
            pids: limits.pids.saturating_add(OWN_PIDS),
            ..*limits
        }
    }

    /// runsc is in the sandbox's user namespace already, and its leaf is made; both are left out. `/dev` is its own.
    fn specification(&self, plan: &Approved, _: &str, bound: &[Bound]) -> Value {
        let mut mounts = vec![json!({ "destination": "/proc", "type": "proc", "source": "proc" })];
        mounts.extend(tmpfs_mounts(&plan.limits));
        mounts.extend(
            bound
                .iter()
                .filter(|bound| bound.seen.is_some())
                .map(|bound| bound.mount(&["rbind", "nosuid", "nodev"], &["ro"])),
        );
        let mut specification = specification(plan, mounts);
        specification["linux"] = json!({
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "network" }, { "type": "uts" }, { "type": "ipc" }]
        });
        specification
    }

    fn spawn(&self, order: &Order<'_>) -> Result<Spawned, CreateError> {
        let Pipes { ours, theirs } = Pipes::new()?;
        let run = order.run()?;
        // Its files are the sandbox's: who breaks out of gVisor is nobody but this sandbox's own user.
        let owner = outside(order.map, 0);
        chown(&run, owner, owner).map_err(CreateError::Spawn)?;
        let mut arguments = vec![
            "gvisor".into(),
            order.dir.into(),
            order.id.into(),
            self.runsc.path().into(),
            format!("--platform={}", self.platform).into(),
        ];
        if self.date >= GOFER_ALONE {
            arguments.push("--directfs=false".into());
        }
        arguments.extend(order.leaf.entrances().map(OsString::from));
        let child = start(spawn::Program {
            path: &self.create,
            arguments,
            descriptors: vec![
                (theirs.stdin, 0),
                (theirs.stdout, 1),
                (theirs.stderr, 2),
                (order.namespace()?, 6),
            ],
        })?;
        Ok(Spawned {
            child,
            report: None,
            ours,
        })
    }

    fn attest(&self, pid: i32, expected: &Expected<'_>) -> Result<Attestation, AttestError> {
        attest::gvisor(pid, expected, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_of_a_release_is_found() {
        for (said, expected) in [
            (
                "runsc version 0.0~20221219.0\nspec: 1.0.2-dev\n",
                Some(20_221_219),
            ),
            ("runsc version release-20240729.0\n", Some(20_240_729)),
            ("runsc version 1.0\nbuilt 20240729\n", None),
            ("", None),
        ] {
            assert_eq!(date(said), expected, "{said}");
        }
    }
}
