//! No swap: what a sandbox has stays in memory, so that its memory limit is the whole of it.

use std::path::Path;

use super::{
    CgroupError,
    mounted::{read_text, swap_is_in_use, write},
};

/// v1 counts memory and swap together, v2 swap alone.
fn file(unified: bool) -> &'static str {
    if unified {
        "memory.swap.max"
    } else {
        "memory.memsw.limit_in_bytes"
    }
}

fn most(unified: bool, memory: u64) -> u64 {
    if unified { 0 } else { memory / 4096 * 4096 }
}

/// Leaves it none. Where the kernel cannot limit it, there must be none on this host.
pub(super) fn forbid(dir: &Path, unified: bool, memory: u64) -> Result<(), CgroupError> {
    let path = dir.join(file(unified));
    if path.exists() {
        write(&path, &most(unified, memory).to_string())
    } else {
        there_is_none()
    }
}

/// Reads back that it has none.
pub(super) fn read_back(dir: &Path, unified: bool, memory: u64) -> Result<(), CgroupError> {
    let path = dir.join(file(unified));
    if !path.exists() {
        return there_is_none();
    }
    let text = read_text(&path)?;
    let wanted = most(unified, memory);
    // `max` is no number, and is none of ours.
    let is = text.trim().parse().unwrap_or(u64::MAX);
    if is == wanted {
        Ok(())
    } else {
        Err(CgroupError::ReadBack {
            what: "swap",
            is: is.into(),
            wanted: wanted.into(),
        })
    }
}

fn there_is_none() -> Result<(), CgroupError> {
    if swap_is_in_use()? {
        Err(CgroupError::Swap)
    } else {
        Ok(())
    }
}
