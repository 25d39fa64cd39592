//! Tries what must fail, and says what happened.
//!
//! A protection that was only asked for is not held. After the drop, landlock and seccomp, a process calls [`prove`] and does
//! not go on unless each probe failed the way it should. The same probes are what `doctor --prove` shows.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, setgid, setresuid};
use serde::Serialize;

use crate::{
    report::{Confinement, ReportError},
    sys,
};

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What was tried.
    pub probe: String,
    /// What has to happen.
    pub expected: &'static str,
    /// What happened.
    pub observed: String,
    /// Whether it is what has to happen.
    pub ok: bool,
}

/// Why the proof failed. The process must not go on.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// At least one probe succeeded that must fail.
    #[error("the confinement does not hold: {}", Broken(.0))]
    NotHeld(Vec<Probe>),
    /// `/proc` does not show us.
    #[error(transparent)]
    Report(#[from] ReportError),
}

struct Broken<'a>(&'a [Probe]);

impl fmt::Display for Broken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, probe) in self.0.iter().filter(|probe| !probe.ok).enumerate() {
            write!(
                f,
                "{}{}: expected {}, observed {}",
                if index == 0 { "" } else { "; " },
                probe.probe,
                probe.expected,
                probe.observed
            )?;
        }
        Ok(())
    }
}

/// Tries to regain root, to read what is not ours and to call what is forbidden.
///
/// `outside` is a file that everybody may read by its mode and that lies outside the landlock list: only landlock keeps us from
/// it. The call that is tried (`personality`, asking) succeeds in every process that has no filter.
///
/// # Errors
/// When any probe did not end as expected; the error holds all of them.
pub fn prove(outside: &Path) -> Result<Vec<Probe>, ProofError> {
    let now = Confinement::of_self(None)?;
    let none = |set: &String| set.bytes().all(|digit| digit == b'0');
    let [inheritable, permitted, effective, bounding, ambient] = &now.caps;
    let empty = [inheritable, permitted, effective, ambient]
        .into_iter()
        .all(none);
    let probes = vec![
        must_hold(
            "user",
            "not root",
            format!("uid {} gid {}", now.uid, now.gid),
            now.uid != 0 && now.gid != 0,
        ),
        must_hold(
            "capabilities",
            "none inheritable, permitted, effective or ambient",
            format!("{inheritable} {permitted} {effective} {ambient}, bounding {bounding}"),
            empty,
        ),
        must_hold(
            "no_new_privs",
            "set",
            now.no_new_privs.to_string(),
            now.no_new_privs,
        ),
        must_hold(
            "seccomp",
            "a filter",
            format!("mode {}", now.seccomp),
            now.seccomp == 2,
        ),
        must_fail(
            "become user 0",
            setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)),
        ),
        must_fail("become group 0", setgid(Gid::from_raw(0))),
        must_fail(
            "raise a capability",
            caps::raise(None, CapSet::Effective, Capability::CAP_SETUID),
        ),
        must_fail("open /etc/shadow", fs::File::open("/etc/shadow")),
        outside_probe(outside),
        must_fail("call personality", sys::personality()),
    ];
    if probes.iter().all(|probe| probe.ok) {
        Ok(probes)
    } else {
        Err(ProofError::NotHeld(probes))
    }
}

fn must_hold(probe: &str, expected: &'static str, observed: String, ok: bool) -> Probe {
    Probe {
        probe: probe.to_owned(),
        expected,
        observed,
        ok,
    }
}

fn must_fail<T, E: fmt::Display>(probe: &str, tried: Result<T, E>) -> Probe {
    let (observed, ok) = match tried {
        Ok(_) => ("it succeeded".to_owned(), false),
        Err(error) => (error.to_string(), true),
    };
    Probe {
        probe: probe.to_owned(),
        expected: "refused",
        observed,
        ok,
    }
}

/// A file that is not there proves nothing, so only a refusal counts.
fn outside_probe(outside: &Path) -> Probe {
    let tried = fs::File::open(outside);
    let missing =
        matches!(&tried, Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied);
    let mut probe = must_fail(&format!("open {}", PathBuf::from(outside).display()), tried);
    if missing {
        probe.ok = false;
        probe
            .observed
            .push_str(" (the file has to exist for this probe)");
    }
    probe
}
