//! Which system calls a process of ours may make: one list for each process, each entry with its reason.
//!
//! Filters are stacked, one for each list, and the kernel takes the strictest answer:
//!
//! - *allowed*: everything that is not in one of the lists gets [`Otherwise`]. For pawd and paw-audit that is the end of the
//!   process, which the kernel logs; for the launcher and the sandboxes it is `ENOSYS`, because programs of others run there
//!   and probe for calls that are newer than our list.
//! - *refused*: calls that libraries try and can do without, and calls that an attacker would try first: `EPERM`.
//! - *absent*: calls that must look as if the kernel had none: `ENOSYS`. `clone3` is here, because a filter cannot read the
//!   structure behind its pointer; the C library then falls back to `clone`, whose flags a filter can read.
//!
//! What is refused for some arguments only is a filter of its own, so that the others look at nothing but numbers ([`ranges`]).

mod audit;
mod egress;
mod job;
mod launcher;
mod pawd;
mod ranges;
mod sandbox;

use std::collections::{BTreeMap, BTreeSet};

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

impl Call {
    fn is_always(&self) -> bool {
        matches!(self.when, When::Always)
    }

    /// Its number, as a filter sees it: in 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn number(&self) -> u32 {
        self.nr as u32
    }
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
        let (refused, refused_sometimes): (Vec<Call>, Vec<Call>) =
            self.refused.iter().copied().partition(Call::is_always);
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
                &refused,
                SeccompAction::Allow,
                errno(Errno::EPERM),
            ),
            (
                "refused for some arguments",
                &refused_sometimes,
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
        if calls.iter().all(Call::is_always) {
            let numbers: BTreeSet<u32> = calls.iter().map(Call::number).collect();
            return ranges::program(&numbers, mismatch, matched, architecture()?).map_err(build);
        }
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in calls {
            let rules = rules.entry(call.nr).or_default();
            if let Some(conditions) = conditions(call.when).map_err(build)? {
                rules.push(SeccompRule::new(conditions).map_err(build)?);
            }
        }
        // To the builder, a call with no rule is one that always matches: one unconditional entry outweighs the others.
        for call in calls.iter().filter(|call| call.is_always()) {
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

    fn every_profile() -> [Profile; 12] {
        [
            pawd(),
            launcher(),
            launcher_with_gvisor(),
            launcher_with_shim(),
            shim_attendant(),
            doorkeeper(),
            audit(),
            egress(),
            image(),
            sandbox(),
            workspace(),
            Profile {
                process: "one with every kind of entry",
                allowed: calls! { "ends of a range": SYS_read SYS_write SYS_close; },
                refused: vec![call_when!(
                    SYS_close,
                    When::NoneOf {
                        argument: 1,
                        values: &[7]
                    },
                    "for some arguments only"
                )],
                absent: calls! { "as if there were none": SYS_clone3; },
                otherwise: Otherwise::Kill,
            },
        ]
    }

    /// What the kernel does with a program (`linux/bpf_common.h`), as far as filters of system calls use it.
    fn run(program: &BpfProgram, nr: u32, arguments: [u32; 6]) -> u32 {
        const AUDIT_ARCH: u32 = if cfg!(target_arch = "x86_64") {
            0xc000_003e
        } else {
            0xc000_00b7
        };
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let it = &program[at];
            at += 1;
            let mut jump = |is: bool| at += usize::from(if is { it.jt } else { it.jf });
            match u32::from(it.code) {
                0x20 => {
                    accumulator = match it.k {
                        0 => nr,
                        4 => AUDIT_ARCH,
                        argument => {
                            let (which, half) = ((argument - 16) / 8, (argument - 16) % 8);
                            if half == 0 {
                                arguments[which as usize]
                            } else {
                                0
                            }
                        }
                    }
                }
                0x54 => accumulator &= it.k,
                0x05 => at += it.k as usize,
                0x15 => jump(accumulator == it.k),
                0x25 => jump(accumulator > it.k),
                0x35 => jump(accumulator >= it.k),
                0x06 => return it.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    /// What the lists say, in the order of the kernel's strictness.
    fn meant(profile: &Profile, nr: u32, arguments: [u32; 6]) -> u32 {
        let holds = |call: &&Call| {
            call.number() == nr
                && match call.when {
                    When::Always => true,
                    When::Bits {
                        argument,
                        mask,
                        bits,
                    } => arguments[usize::from(argument)] & mask == bits,
                    When::NoneOf { argument, values } => {
                        !values.contains(&arguments[usize::from(argument)])
                    }
                }
        };
        let listed = |call: &&Call| call.number() == nr;
        let elsewhere = profile.refused.iter().chain(&profile.absent);
        let errno = |errno: Errno| u32::from(SeccompAction::Errno(errno as u32));
        if !profile.allowed.iter().any(|it| holds(&it)) && !elsewhere.clone().any(|it| listed(&it))
        {
            match profile.otherwise {
                Otherwise::Kill => SeccompAction::KillProcess.into(),
                Otherwise::Absent => errno(Errno::ENOSYS),
            }
        } else if profile.refused.iter().any(|it| holds(&it)) {
            errno(Errno::EPERM)
        } else if profile.absent.iter().any(|it| holds(&it)) {
            errno(Errno::ENOSYS)
        } else {
            SeccompAction::Allow.into()
        }
    }

    #[test]
    fn filters_answer_every_number_as_the_lists_say() {
        const X32: u32 = 0x4000_0000;
        let values = [0, 1, 2, 7, 10, 16, u32::MAX];
        let flags = (0..32)
            .map(|bit| 1 << bit)
            .chain([0x5412, 0x541c, 0x541d, 0x5423, 0x5401]);
        let tried: Vec<u32> = values.into_iter().chain(flags).collect();
        for profile in every_profile() {
            let Filters(programs) = profile.compile().unwrap();
            for nr in (0..500).chain(X32..X32 + 500).chain([u32::MAX]) {
                for value in &tried {
                    let arguments = [*value; 6];
                    // Of several answers the kernel takes the strictest one, and of equal ones that of the filter that came last.
                    let mut answers = programs.iter().map(|it| run(it, nr, arguments));
                    let mut told = answers.next().unwrap();
                    for answer in answers {
                        let rank = |answer: u32| (answer & 0xffff_0000).cast_signed();
                        if rank(answer) <= rank(told) {
                            told = answer;
                        }
                    }
                    assert_eq!(
                        told,
                        meant(&profile, nr, arguments),
                        "call {nr} with {value:#x} of {}",
                        profile.process
                    );
                }
            }
        }
    }

    #[test]
    fn filters_of_a_sandbox_are_short() {
        let Filters(programs) = sandbox().compile().unwrap();
        let length: usize = programs.iter().map(Vec::len).sum();
        assert!(length < 300, "{length} instructions");
    }

    #[test]
    fn every_entry_says_why() {
        for profile in every_profile() {
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
        for profile in every_profile() {
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
