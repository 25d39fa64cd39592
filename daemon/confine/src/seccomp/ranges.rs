//! A list in which nothing depends on arguments, as ranges of numbers.
//!
//! seccompiler compares with one number after the other: five instructions for each call, two thousand for a sandbox. The kernel checks,
//! translates and tries them for each process that is bound, which was half a millisecond of every sandbox; the ranges are a few dozen.

use std::collections::BTreeSet;

use libc::{BPF_ABS, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter,
};

/// Where `struct seccomp_data` (`linux/seccomp.h`) has the number of the call.
const NR: u32 = 0;

/// The program that answers `matched` to the calls with these numbers, `mismatch` to all others, and ends who calls in the way of
/// another architecture. Numbers with the bit of x32 are above all ranges.
pub(super) fn program(
    numbers: &BTreeSet<u32>,
    mismatch: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, BackendError> {
    let (otherwise, listed) = (u32::from(mismatch.clone()), u32::from(matched.clone()));
    // A list of none is the look at the architecture and the answer to all.
    let none = SeccompFilter::new([].into(), mismatch, matched, arch)?;
    let mut program = BpfProgram::try_from(none)?;
    program.pop();
    program.push(instruction(BPF_LD | BPF_W | BPF_ABS, NR, 0));
    for (first, behind) in ranges(numbers) {
        program.extend([
            skip_next_from(first),
            answer(otherwise),
            skip_next_from(behind),
            answer(listed),
        ]);
    }
    program.push(answer(otherwise));
    Ok(program)
}

/// The first number of each range, and the one behind its last.
fn ranges(numbers: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, behind)) if *behind == *number => *behind += 1,
            _ => ranges.push((*number, *number + 1)),
        }
    }
    ranges
}

/// Jumps over the next instruction for this number and all above it.
fn skip_next_from(number: u32) -> sock_filter {
    instruction(BPF_JMP | BPF_JGE | BPF_K, number, 1)
}

fn answer(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0)
}

fn instruction(code: u32, k: u32, jt: u8) -> sock_filter {
    // The kernel's structure has 16 bits for it, of which the codes above have 8.
    #[allow(clippy::cast_possible_truncation)]
    let code = code as u16;
    sock_filter { code, jt, jf: 0, k }
}
