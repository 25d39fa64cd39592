//! When the host is short of memory: the kernel says so where it has PSI, else what is available is looked at.
//!
//! Only sandboxes that wait for their first command are given up for it, so without any of them nothing is watched.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use paw_launch::request::MemoryWatch;
use tracing::info;

/// What the kernel is to wake us for: something waited 150 ms for memory within two seconds. Who is not root may only ask for
/// windows that are a multiple of two seconds. The kernel puts a zero in the place of the last byte, so that is one.
const TRIGGER: &[u8] = b"some 150000 2000000\0";

/// How often what is available is looked at where the kernel wakes nobody, and only while something waits.
const LOOK: Duration = Duration::from_secs(5);

/// One part in this many of all memory must be available.
const LEAST: u64 = 16;

/// With more than one part in this many available, whoever waits for memory waits at a limit of its own, and nothing that we give
/// back would help it.
const PLENTY: u64 = 4;

/// The host's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    meminfo: PathBuf,
    pressure: Option<File>,
    next: Instant,
}

impl Memory {
    /// Opens what `proc` has. Before landlock and while we may be root: older kernels let nobody else ask to be woken.
    pub(crate) fn open(proc: &Path) -> Self {
        let pressure = trigger(&proc.join("pressure/memory"));
        if let Err(error) = &pressure {
            info!(%error, "the kernel does not tell of memory pressure; what is available is looked at while a sandbox waits");
        }
        Self {
            meminfo: proc.join("meminfo"),
            pressure: pressure.ok(),
            next: Instant::now(),
        }
    }

    /// How it is watched.
    pub(crate) fn watch(&self) -> MemoryWatch {
        if self.pressure.is_some() {
            MemoryWatch::Pressure
        } else if self.available().is_some() {
            MemoryWatch::Available
        } else {
            MemoryWatch::Nothing
        }
    }

    /// Whether less than a sixteenth of all memory is available. What cannot be read counts as short: nothing is kept waiting
    /// on a host whose memory nobody sees.
    pub(crate) fn is_short(&self) -> bool {
        self.available()
            .is_none_or(|(available, total)| available < total / LEAST)
    }

    /// Whether pressure that the kernel told of is the host's.
    pub(crate) fn is_tight(&self) -> bool {
        self.available()
            .is_none_or(|(available, total)| available < total / PLENTY)
    }

    /// The descriptor that is readable out of band when the kernel sees pressure.
    pub(crate) fn pressure(&self) -> Option<BorrowedFd<'_>> {
        self.pressure.as_ref().map(AsFd::as_fd)
    }

    /// When to look by ourselves while something waits.
    pub(crate) fn next_look(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time to. `true`: it is short.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + LOOK;
        self.is_short()
    }

    fn available(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(&self.meminfo).ok()?;
        Some((field(&text, "MemAvailable:")?, field(&text, "MemTotal:")?))
    }
}

fn trigger(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    // The kernel wants all of it at once.
    file.write_all(TRIGGER)?;
    Ok(file)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(meminfo: &str, short: bool) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("meminfo"), meminfo).unwrap();
        assert_eq!(Memory::open(dir.path()).is_short(), short, "{meminfo}");
    }

    #[test]
    fn less_than_a_sixteenth_is_short() {
        check("MemTotal: 16000 kB\nMemAvailable: 1000 kB\n", false);
        check("MemTotal: 16000 kB\nMemAvailable: 999 kB\n", true);
    }

    #[test]
    fn pressure_with_plenty_available_is_not_the_hosts() {
        let check = |available, tight| {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("MemTotal: 16000 kB\nMemAvailable: {available} kB\n");
            fs::write(dir.path().join("meminfo"), text).unwrap();
            assert_eq!(Memory::open(dir.path()).is_tight(), tight, "{available}");
        };
        check(4000, false);
        check(3999, true);
    }

    #[test]
    fn what_nobody_can_see_is_short() {
        check("", true);
        check("MemTotal: 16000 kB\n", true);
    }

    #[test]
    fn it_is_looked_at_once_in_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(dir.path());
        let now = Instant::now();
        assert_eq!(
            [now, now + LOOK / 2, now + LOOK].map(|at| memory.look(at)),
            [true, false, true]
        );
        assert_eq!(memory.watch(), MemoryWatch::Nothing);
    }
}
