//! What the kernel says a process is confined to.

use std::{fs, io, path::PathBuf};

use serde::Serialize;

use crate::landlock::Enforced;

/// Inode of the initial user namespace, a constant of the kernel (`PROC_USER_INIT_INO`).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// `CapEff`, as 16 hexadecimal digits; all zeros is none.
    pub caps_effective: String,
    /// `CapInh CapPrm CapEff CapBnd CapAmb`, in this order.
    pub caps: [String; 5],
    /// Whether no program that it executes can give it more rights.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 a filter.
    pub seccomp: u32,
    /// How many filters are stacked; 0 where the kernel does not tell (before 5.9).
    pub seccomp_filters: u32,
    /// The landlock ABI whose rules bind it; 0 when there are none, or when that is not known because the kernel tells only
    /// the process itself.
    pub landlock_abi: u32,
    /// What of landlock is enforced, for the calling process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub landlock: Option<Enforced>,
    /// Whether it lives in another user namespace than the host's.
    pub userns: bool,
    /// Resident memory, in bytes.
    pub rss: u64,
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It is gone, or `/proc` does not show it.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel's text is not what it was for the last ten years.
    #[error("{path} has no readable line {line}")]
    Unexpected {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: &'static str,
    },
}

impl Confinement {
    /// The calling process, with what it knows of its own landlock rules.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn of_self(landlock: Option<&Enforced>) -> Result<Self, ReportError> {
        let mut own = Self::read("self")?;
        own.landlock_abi = landlock.map_or(0, |enforced| enforced.abi);
        own.landlock = landlock.cloned();
        Ok(own)
    }

    /// Another process.
    ///
    /// # Errors
    /// When it is gone or `/proc` does not show it.
    pub fn of(pid: u32) -> Result<Self, ReportError> {
        Self::read(&pid.to_string())
    }

    fn read(process: &str) -> Result<Self, ReportError> {
        let path = PathBuf::from(format!("/proc/{process}/status"));
        let text = read(&path)?;
        let mut report =
            Self::parse(&text).map_err(|line| ReportError::Unexpected { path, line })?;
        // The link can be read by who may trace the process; the map by everybody, and it shows an identity for the host's own.
        report.userns = match fs::read_link(format!("/proc/{process}/ns/user")) {
            Ok(link) => link.as_os_str() != INITIAL_USER_NAMESPACE,
            Err(_) => !is_identity(&read(&PathBuf::from(format!("/proc/{process}/uid_map")))?),
        };
        Ok(report)
    }

    /// Reads the text of `/proc/PID/status`; tells the line that it misses. What stands in other files stays at its default.
    ///
    /// # Errors
    /// The name of the first line that is missing or unreadable.
    pub fn parse(status: &str) -> Result<Self, &'static str> {
        let line = |name: &'static str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
                .ok_or(name)
        };
        let effective = |name| {
            line(name)?
                .split_whitespace()
                .nth(1)
                .and_then(|id| id.parse().ok())
                .ok_or(name)
        };
        let number = |name| line(name)?.parse::<u32>().map_err(|_| name);
        let caps = [
            line("CapInh")?,
            line("CapPrm")?,
            line("CapEff")?,
            line("CapBnd")?,
            line("CapAmb")?,
        ]
        .map(str::to_owned);
        Ok(Self {
            uid: effective("Uid")?,
            gid: effective("Gid")?,
            caps_effective: caps[2].clone(),
            caps,
            no_new_privs: number("NoNewPrivs")? == 1,
            seccomp: number("Seccomp")?,
            seccomp_filters: number("Seccomp_filters").unwrap_or(0),
            landlock_abi: 0,
            landlock: None,
            userns: false,
            rss: line("VmRSS")
                .ok()
                .and_then(|rss| rss.split_whitespace().next()?.parse::<u64>().ok())
                .map_or(0, |kibibytes| kibibytes * 1024),
        })
    }
}

fn is_identity(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn read(path: &PathBuf) -> Result<String, ReportError> {
    fs::read_to_string(path).map_err(|source| ReportError::Read {
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nVmRSS:\t 12 kB\nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000001\nCapEff:\t0000000000000002\nCapBnd:\t0000000000000003\nCapAmb:\t0000000000000004\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn status_is_read_as_the_kernel_writes_it() {
        let report = Confinement::parse(STATUS).unwrap();
        let seen = (
            report.uid,
            report.gid,
            report.caps_effective.as_str(),
            report.seccomp,
            report.seccomp_filters,
            report.rss,
        );
        assert_eq!(seen, (2, 6, "0000000000000002", 2, 3, 12 * 1024));
        assert!(report.no_new_privs);
    }

    #[test]
    fn missing_line_is_named_and_not_guessed() {
        assert_eq!(
            Confinement::parse(&STATUS.replace("CapBnd", "Other")).unwrap_err(),
            "CapBnd"
        );
    }

    #[test]
    fn own_process_can_be_looked_at() {
        let own = Confinement::of_self(None).unwrap();
        assert_eq!(
            (own.uid, own.userns),
            (
                nix::unistd::geteuid().as_raw(),
                Confinement::of(std::process::id()).unwrap().userns
            )
        );
    }
}
