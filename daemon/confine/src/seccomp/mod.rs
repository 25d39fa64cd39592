//! Which system calls a process of ours may make: one list for each process, each entry with its reason.
//!
//! Three filters are stacked, and the kernel takes the strictest answer:
//!
//! - *allowed*: everything that is not in one of the lists gets [`Otherwise`]. For pawd and paw-audit that is the end of the
//!   process, which the kernel logs; for the launcher and the sandboxes it is `ENOSYS`, because programs of others run there
//!   and probe for calls that are newer than our list.
//! - *refused*: calls that libraries try and can do without, and calls that an attacker would try first: `EPERM`.
//! - *absent*: calls that must look as if the kernel had none: `ENOSYS`. `clone3` is here, because a filter cannot read the
//!   structure behind its pointer; the C library then falls back to `clone`, whose flags a filter can read.

mod audit;
mod egress;
mod job;
mod launcher;
mod pawd;
mod sandbox;

use std::collections::BTreeMap;

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

pub use self::{
    audit::audit,
    egress::egress,
    job::{image, workspace},
    launcher::{doorkeeper, launcher, launcher_with_gvisor, launcher_with_shim, shim_attendant},
    pawd::pawd,
    sandbox::sandbox,
};
use crate::{ThreadError, alone};

/// One entry of a list.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its name in the C library, `SYS_` included.
    pub name: &'static str,
    /// Its number on this architecture.
    pub nr: i64,
    /// For which arguments the entry holds; several entries of one call add up.
    pub when: When,
    /// Why it is in the list.
    pub reason: &'static str,
}

/// For which arguments an entry holds. Arguments are compared as 32-bit values, which all of ours are.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// For all.
    Always,
    /// When the bits of `mask` in argument `argument` are those of `bits`.
    Bits {
        /// Index of the argument, from 0.
        argument: u8,
        /// Which bits are compared.
        mask: u32,
        /// What they have to be.
        bits: u32,
    },
    /// When argument `argument` is none of these.
    NoneOf {
        /// Index of the argument, from 0.
        argument: u8,
        /// The values that are left out.
        values: &'static [u32],
    },
}

/// What happens on a call that is in no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// `SIGSYS` for the whole process; the kernel logs it.
    Kill,
    /// `ENOSYS`.
    Absent,
}

/// The lists of one process.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Whose they are.
    pub process: &'static str,
    /// What it may call.
    pub allowed: Vec<Call>,
    /// What fails with `EPERM`.
    pub refused: Vec<Call>,
    /// What fails with `ENOSYS`.
    pub absent: Vec<Call>,
    /// What happens otherwise.
    pub otherwise: Otherwise,
}

/// Why the filters are not in place. The process must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// There are other threads already.
    #[error(transparent)]
    Threads(#[from] ThreadError),
    /// There are no lists for this architecture.
    #[error("no list of system calls for this architecture; x86_64 and aarch64 have one")]
    Architecture,
    /// A list cannot be made into a program, which is a fault of the list.
    #[error("build the {list} filter of {process}")]
    Build {
        /// Which list.
        list: &'static str,
        /// Whose.
        process: &'static str,
        /// What the builder says.
        source: seccompiler::BackendError,
    },
    /// The kernel refused.
    #[error("install the system call filter; CONFIG_SECCOMP_FILTER is needed")]
    Install(#[source] seccompiler::Error),
}

/// The compiled filters of a [`Profile`], in the order in which they have to be installed.
#[derive(Debug, Clone)]
pub struct Filters(Vec<BpfProgram>);

impl Profile {
    /// Compiles the lists.
    ///
    /// # Errors
    /// When a list is at fault or the architecture has none.
    pub fn compile(&self) -> Result<Filters, SeccompError> {
        let otherwise = match self.otherwise {
            Otherwise::Kill => SeccompAction::KillProcess,
            Otherwise::Absent => SeccompAction::Errno(Errno::ENOSYS as u32),
        };
        // What is refused or absent must pass this filter, so that the milder answer of the other one is the one that counts.
        let passes = self.refused.iter().chain(&self.absent).map(|call| Call {
            when: When::Always,
            ..*call
        });
        let let_through: Vec<Call> = self.allowed.iter().copied().chain(passes).collect();
        let errno = |errno: Errno| SeccompAction::Errno(errno as u32);
        // The strictest comes last: once it is in place, `seccomp` itself is a forbidden call for most processes.
        [
            (
                "absent",
                &self.absent,
                SeccompAction::Allow,
                errno(Errno::ENOSYS),
            ),
            (
                "refused",
                &self.refused,
                SeccompAction::Allow,
                errno(Errno::EPERM),
            ),
            ("allowed", &let_through, otherwise, SeccompAction::Allow),
        ]
        .into_iter()
        .filter(|(_, calls, ..)| !calls.is_empty())
        .map(|(list, calls, mismatch, matched)| self.program(list, calls, mismatch, matched))
        .collect::<Result<_, _>>()
        .map(Filters)
    }

    /// Compiles the lists and binds the calling thread, which must be the only one, for good.
    ///
    /// # Errors
    /// As [`Profile::compile`], and when there are other threads or the kernel refuses.
    pub fn apply(&self) -> Result<(), SeccompError> {
        alone()?;
        self.compile()?.install()
    }

    fn program(
        &self,
        list: &'static str,
        calls: &[Call],
        mismatch: SeccompAction,
        matched: SeccompAction,
    ) -> Result<BpfProgram, SeccompError> {
        let build = |source| SeccompError::Build {
            list,
            process: self.process,
            source,
        };
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in calls {
            let rules = rules.entry(call.nr).or_default();
            if let Some(conditions) = conditions(call.when).map_err(build)? {
                rules.push(SeccompRule::new(conditions).map_err(build)?);
            }
        }
        // To the builder, a call with no rule is one that always matches: one unconditional entry outweighs the others.
        for call in calls
            .iter()
            .filter(|call| matches!(call.when, When::Always))
        {
            rules.insert(call.nr, Vec::new());
        }
        let filter =
            SeccompFilter::new(rules, mismatch, matched, architecture()?).map_err(build)?;
        BpfProgram::try_from(filter).map_err(build)
    }
}

impl Filters {
    /// Binds the calling thread and its later children, for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(&self) -> Result<(), SeccompError> {
        self.0.iter().try_for_each(|program| {
            seccompiler::apply_filter(program).map_err(SeccompError::Install)
        })
    }
}

fn conditions(when: When) -> Result<Option<Vec<SeccompCondition>>, seccompiler::BackendError> {
    let condition = |argument, compare, value: u32| {
        SeccompCondition::new(argument, Length::Dword, compare, u64::from(value))
    };
    match when {
        When::Always => Ok(None),
        When::Bits {
            argument,
            mask,
            bits,
        } => Ok(Some(vec![condition(
            argument,
            Compare::MaskedEq(u64::from(mask)),
            bits,
        )?])),
        When::NoneOf { argument, values } => values
            .iter()
            .map(|value| condition(argument, Compare::Ne, *value))
            .collect::<Result<_, _>>()
            .map(Some),
    }
}

fn architecture() -> Result<TargetArch, SeccompError> {
    if cfg!(target_arch = "x86_64") {
        Ok(TargetArch::x86_64)
    } else if cfg!(target_arch = "aarch64") {
        Ok(TargetArch::aarch64)
    } else {
        Err(SeccompError::Architecture)
    }
}

/// Writes a list: groups of calls, each with the reason they share.
macro_rules! calls {
    ($($(#[$cfg:meta])* $reason:literal: $($name:ident)+;)*) => {{
        let mut list: Vec<$crate::seccomp::Call> = Vec::new();
        $($(#[$cfg])* list.extend([$($crate::seccomp::Call {
            name: stringify!($name),
            nr: libc::$name,
            when: $crate::seccomp::When::Always,
            reason: $reason,
        }),+]);)*
        list
    }};
}

/// Writes one entry that holds for some arguments only.
macro_rules! call_when {
    ($name:ident, $when:expr, $reason:literal) => {
        $crate::seccomp::Call {
            name: stringify!($name),
            nr: libc::$name,
            when: $when,
            reason: $reason,
        }
    };
}

pub(crate) use {call_when, calls};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_compiles() {
        for profile in [
            pawd(),
            launcher(),
            launcher_with_shim(),
            shim_attendant(),
            doorkeeper(),
            audit(),
            egress(),
            image(),
            sandbox(),
            workspace(),
        ] {
            profile.compile().unwrap();
        }
    }

    #[test]
    fn every_entry_says_why() {
        for profile in [
            pawd(),
            launcher(),
            launcher_with_shim(),
            shim_attendant(),
            doorkeeper(),
            audit(),
            egress(),
            image(),
            sandbox(),
            workspace(),
        ] {
            for call in profile
                .allowed
                .iter()
                .chain(&profile.refused)
                .chain(&profile.absent)
            {
                assert!(
                    call.reason.len() > 8,
                    "{} of {}",
                    call.name,
                    profile.process
                );
            }
        }
    }

    #[test]
    fn no_process_without_children_can_make_one_or_execute() {
        for profile in [pawd(), audit(), egress(), image(), workspace()] {
            for name in [
                "SYS_execve",
                "SYS_execveat",
                "SYS_clone3",
                "SYS_fork",
                "SYS_vfork",
            ] {
                assert!(
                    !profile.allowed.iter().any(|call| call.name == name),
                    "{name} of {}",
                    profile.process
                );
            }
        }
    }

    #[test]
    fn no_call_is_both_allowed_and_refused_outright() {
        for profile in [
            pawd(),
            launcher(),
            launcher_with_shim(),
            shim_attendant(),
            doorkeeper(),
            audit(),
            egress(),
            image(),
            sandbox(),
            workspace(),
        ] {
            for call in profile
                .refused
                .iter()
                .filter(|call| matches!(call.when, When::Always))
            {
                assert!(
                    !profile.allowed.iter().any(|other| other.nr == call.nr),
                    "{} of {}",
                    call.name,
                    profile.process
                );
            }
        }
    }

    #[test]
    fn the_launcher_lets_through_all_that_its_sandboxes_may_call() {
        let launcher = launcher();
        for call in sandbox().allowed {
            assert!(
                launcher.allowed.iter().any(|other| other.nr == call.nr),
                "{}",
                call.name
            );
        }
    }
}
