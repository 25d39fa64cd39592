//! What is done after a task's end, whatever that was: first in the shim's own way, then by force.
//!
//! The launcher has killed the sandbox's processes, and the paw-shim that attended to it has ended. Every step has a limit, and
//! the next one does not count on it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use paw_launch::shim::{self as said, CLEARING, Said};
use paw_launcher::unmount::{self, UnmountError};
use tracing::warn;

use crate::{
    Which,
    attend::events_path,
    groups,
    start::{self, Address, StartError},
    task::{ENDING, REMOVING, Task},
    wire::WireError,
};

/// How long a shim may take to go after it was asked to.
const GOING: Duration = Duration::from_secs(1);

/// How long its program may take to clear up in its place.
const DELETING: Duration = Duration::from_secs(3);

/// How long killed processes may take to go.
const KILLED: Duration = Duration::from_secs(1);

// Each of them once, and killing twice, and some time for what takes none: the launcher must not end this in the middle.
const _: () = assert!(
    REMOVING.as_secs()
        + ENDING.as_secs()
        + GOING.as_secs()
        + DELETING.as_secs()
        + 2 * KILLED.as_secs()
        < CLEARING.as_secs()
);

/// What is still there; the next start of the launcher removes it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClearError {
    #[error("processes of the shim do not end: {0:?}")]
    Alive(Vec<i32>),
    #[error("remove the cgroups of the sandbox")]
    Groups(#[source] io::Error),
    #[error(transparent)]
    Mount(#[from] UnmountError),
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Why the shim did not go by itself.
#[derive(Debug, thiserror::Error)]
enum Stubborn {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Clears away everything of this sandbox's shim.
pub(crate) fn clear(which: &Which) -> Result<(), ClearError> {
    let bundle = std::env::current_dir().map_err(|source| ClearError::Files {
        step: "find the bundle",
        path: ".".into(),
        source,
    })?;
    let known = address(&bundle);
    let was_started = known.is_some();
    let address = match known {
        Some(Ok(address)) => Some(address),
        Some(Err(error)) => {
            warn!(paw_sandbox = %which.id, error = %paw_log::Chain(&error), "a shim that cannot be asked is killed");
            None
        }
        None => None,
    };
    let (mut deleted, mut shut) = (false, false);
    if let Some(address) = &address {
        match ask(address, which, &mut deleted) {
            Ok(()) => shut = groups::await_empty(&which.groups, Instant::now() + GOING),
            Err(error) => {
                warn!(paw_sandbox = %which.id, error = %paw_log::Chain(&error), "a shim does not end by itself and is killed");
            }
        }
    }
    if !shut && !groups::kill_all(&which.groups, Instant::now() + KILLED) {
        return Err(ClearError::Alive(groups::members(&which.groups)));
    }
    if was_started && !deleted {
        // What it keeps about the container is its own affair; if it does not manage, its files are removed with our /run.
        if let Err(error) = start::delete(which, DELETING) {
            warn!(paw_sandbox = %which.id, error = %paw_log::Chain(&error), "the shim's program cannot clear up in its place");
        }
        if !groups::kill_all(&which.groups, Instant::now() + KILLED) {
            return Err(ClearError::Alive(groups::members(&which.groups)));
        }
    }
    unmount::below(&bundle)?;
    for path in address
        .iter()
        .map(|address| address.path.clone())
        .chain([events_path(&which.id)])
    {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ClearError::Files {
                    step: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    groups::remove_everywhere(&which.cgroup).map_err(ClearError::Groups)?;
    groups::remove_everywhere(&format!("{}.shim", which.cgroup)).map_err(ClearError::Groups)
}

/// Where the shim listens: what was said, or what it wrote itself before that could be said. Both are judged like what a shim
/// prints: root removes this path in the end.
fn address(bundle: &Path) -> Option<Result<Address, StartError>> {
    let said = said::read(bundle)
        .ok()?
        .into_iter()
        .find_map(|line| match line {
            Said::Shim { address, version } => Some(Address::new(&address, version)),
            Said::Task { .. } | Said::End { .. } | Said::Lost { .. } => None,
        });
    said.or_else(|| {
        let text = fs::read_to_string(bundle.join("address")).ok()?;
        Some(Address::parse(&text))
    })
}

fn ask(address: &Address, which: &Which, deleted: &mut bool) -> Result<(), Stubborn> {
    let mut task = Task::new(address.connect()?, address.version, &which.id)?;
    match task.delete() {
        Ok(()) => *deleted = true,
        // It was asked in the wrong version, or there was no task: the shim's program clears up without it.
        Err(WireError::Refused { .. } | WireError::Unimplemented { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(task.shutdown()?)
}
