//! The sandboxes' cgroups: one leaf for each, made and limited before anything is in it, read back, checked, removed.
//!
//! paw-create enters the leaf by itself before it makes anything, so everything that it makes is born there. Neither entering nor
//! limits are left to a runtime: libcontainer's own way of limiting needs rights that the launcher has not, and under cgroup v2 it
//! swallows a failed move. Membership is checked from outside before the start, see [`Leaf::holds`].
//!
//! Two layouts are known. v2: one tree at `/sys/fs/cgroup`; the launcher itself sits in `PARENT/supervisor`, because a group
//! with members cannot hand out controllers. v1 (also the hybrid of it): a tree for each controller, `PARENT` in all that are used.

mod io;
mod leaf;
mod mounted;
mod swap;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Error as IoError,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use cgroups_rs::fs::hierarchies;
use paw_launch::request::SandboxId;
use tracing::debug;

use self::mounted::{read_text, v1_mounts, write};
pub(crate) use self::{io::LARGEST as LARGEST_IO_WEIGHT, leaf::Leaf};
use crate::ceilings::Total;

/// Name prefixes of every leaf, by which leftovers are found: of sandboxes, and of jobs.
const PREFIX: &str = "sb-";
const JOB_PREFIX: &str = "job-";

/// Where v2 is mounted; libcontainer and cgroups-rs know no other place.
const UNIFIED: &str = "/sys/fs/cgroup";

/// Controllers that carry a limit; without any one of them no sandbox is made.
const LIMITED: [&str; 3] = ["cpu", "memory", "pids"];

/// Controllers that are used where they are there, see [`io`].
const WELCOME: [&str; 1] = ["io"];

/// Controllers of v1 that are used: those that limit, count, or stop. A process stays where the launcher is in every other hierarchy,
/// since a group costs time that limits nothing; runc has other ideas, see [`crate::hierarchies`].
const USED: [&str; 6] = ["blkio", "cpu", "cpuacct", "freezer", "memory", "pids"];

/// How the name of a group begins that holds the groups of one user's launchers; the number of the user follows.
const OF_USER: &str = "pawd.";

/// Why a cgroup is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// A file or directory of a hierarchy could not be used.
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: IoError,
    },
    /// The kernel offers no limit of this kind here.
    #[error("no cgroup controller {0}; enable it (kernel command line, or Delegate= of the unit)")]
    NoController(&'static str),
    /// Setting a limit failed.
    #[error("set the limit of {0}")]
    Limit(&'static str, #[source] cgroups_rs::fs::error::Error),
    /// The plan demands a share of the disk, which nothing here keeps.
    #[error(
        "the kernel has no io weight here; it comes with the io controller (v2) or the scheduler bfq (v1)"
    )]
    NoIoWeight,
    /// A file of a hierarchy says something unexpected.
    #[error("{path} has no readable {what}")]
    Unreadable { path: PathBuf, what: &'static str },
    /// Swap cannot be limited, and there is swap.
    #[error("swap is in use and cannot be limited; boot with swapaccount=1, or without swap")]
    Swap,
    /// The kernel shows another value than the one that was set.
    #[error("{what} reads back as {is} after {wanted} was set")]
    ReadBack {
        what: &'static str,
        is: i128,
        wanted: i128,
    },
    /// A process is not where its limits are.
    #[error("process {pid} is in cgroup {is:?} of {hierarchy:?} and not in {wanted:?}")]
    Elsewhere {
        pid: i32,
        hierarchy: String,
        is: String,
        wanted: String,
    },
}

fn files(step: &'static str, path: &Path) -> impl FnOnce(IoError) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Files { step, path, source }
}

/// The group under which all sandboxes are.
#[derive(Debug, Clone)]
pub(crate) struct Parent {
    /// Directory of each hierarchy, by its controllers as `/proc/PID/cgroup` names them; one entry with an empty key for v2.
    dirs: BTreeMap<String, PathBuf>,
    /// The path below each hierarchy's root, with a leading slash and no trailing one.
    path: String,
    unified: bool,
}

impl Parent {
    /// Finds the hierarchies. `asked` is the path that the command line gives; without it, v2 takes the group that the launcher
    /// was started in (a delegated unit), and v1 takes `/pawd`.
    pub(crate) fn find(asked: Option<&str>) -> Result<Self, CgroupError> {
        let unified = hierarchies::is_cgroup2_unified_mode();
        let own = fs::read_to_string("/proc/self/cgroup")
            .map_err(files("read", Path::new("/proc/self/cgroup")))?;
        let path = match asked {
            Some(path) => format!("/{}", path.trim_matches('/')),
            None if unified => own
                .lines()
                .find_map(|line| line.strip_prefix("0::"))
                .map(|path| {
                    path.strip_suffix("/supervisor")
                        .unwrap_or(path)
                        .trim_end_matches('/')
                        .to_owned()
                })
                .unwrap_or_default(),
            None => "/pawd".to_owned(),
        };
        let relative = path.trim_start_matches('/');
        let dirs = if unified {
            BTreeMap::from([(String::new(), Path::new(UNIFIED).join(relative))])
        } else {
            v1_mounts(&USED)?
                .into_iter()
                .map(|(controllers, mount)| (controllers, mount.join(relative)))
                .collect()
        };
        Ok(Self {
            dirs,
            path,
            unified,
        })
    }

    /// Makes the group with the total limits and hands it to the launcher's user; only root can, and only standalone needs it.
    pub(crate) fn prepare(&self, uid: u32, gid: u32, total: Total) -> Result<(), CgroupError> {
        for dir in self.dirs.values() {
            fs::create_dir_all(dir).map_err(files("make", dir))?;
        }
        if self.unified {
            self.enable_controllers(Path::new(UNIFIED))?;
            self.enter_supervisor()?;
            self.enable_controllers(&self.dirs[""])?;
        }
        self.limit_total(total)?;
        if let Some(above) = self.above(uid).filter(|_| !self.unified) {
            // Whoever removes a group writes to the one above it. That one is ours alone and holds nobody.
            for dir in above {
                chown(dir, Some(uid), Some(gid)).map_err(files("give away", dir))?;
            }
        }
        for dir in self.dirs.values() {
            // The limit files of this directory stay root's: they hold the total.
            let given = [
                "",
                "cgroup.procs",
                "tasks",
                "cgroup.threads",
                "cgroup.subtree_control",
                "supervisor",
                "supervisor/cgroup.procs",
            ];
            for name in given {
                let path = if name.is_empty() {
                    dir.clone()
                } else {
                    dir.join(name)
                };
                if path.exists() {
                    chown(&path, Some(uid), Some(gid)).map_err(files("give away", &path))?;
                }
            }
        }
        Ok(())
    }

    /// The groups above, in each hierarchy, if they are for the groups of launchers of this user and for nothing else.
    fn above(&self, uid: u32) -> Option<Vec<&Path>> {
        let above = self.dirs.values().map(|dir| dir.parent());
        let above: Option<Vec<&Path>> = above.collect();
        let of_user = format!("{OF_USER}{uid}");
        above.filter(|dirs| dirs.iter().all(|dir| dir.ends_with(&of_user)))
    }

    /// Removes the group when everything in it has ended, where that can be done: under v2 the launcher itself is in it, and a unit's is
    /// its service manager's.
    pub(crate) fn remove(&self) {
        for dir in self.dirs.values().filter(|_| !self.unified) {
            if let Err(error) = fs::remove_dir(dir) {
                debug!(group = %dir.display(), %error, "the group of the sandboxes stays");
            }
        }
    }

    /// Under v2, moves the launcher out of the way and hands the controllers to the leaves, in a group that was delegated to it.
    pub(crate) fn open(&self) -> Result<(), CgroupError> {
        if self.unified {
            self.enter_supervisor()?;
            self.enable_controllers(&self.dirs[""])?;
        }
        let present: Vec<&str> = self.dirs.keys().flat_map(|key| key.split(',')).collect();
        let unified = if self.unified {
            read_text(&self.dirs[""].join("cgroup.controllers"))?
        } else {
            String::new()
        };
        match LIMITED.into_iter().find(|name| {
            !present.contains(name) && !unified.split_whitespace().any(|has| has == *name)
        }) {
            Some(missing) => Err(CgroupError::NoController(missing)),
            None => Ok(()),
        }
    }

    fn enter_supervisor(&self) -> Result<(), CgroupError> {
        let supervisor = self.dirs[""].join("supervisor");
        fs::create_dir_all(&supervisor).map_err(files("make", &supervisor))?;
        write(&supervisor.join("cgroup.procs"), "0")
    }

    /// Enables the limited controllers from `from` down to the parent itself.
    fn enable_controllers(&self, from: &Path) -> Result<(), CgroupError> {
        let parent = &self.dirs[""];
        let mut dirs: Vec<&Path> = parent
            .ancestors()
            .take_while(|dir| dir.starts_with(from))
            .collect();
        dirs.reverse();
        for dir in dirs {
            // While the launcher is a member of the parent itself, that one has to wait for `enter_supervisor`.
            if dir == parent && from != parent {
                continue;
            }
            let control = dir.join("cgroup.subtree_control");
            let (enabled, available) = (
                read_text(&control)?,
                read_text(&dir.join("cgroup.controllers"))?,
            );
            let lists = |text: &str, name: &str| text.split_whitespace().any(|has| has == name);
            let welcome = WELCOME.iter().filter(|name| lists(&available, name));
            for name in LIMITED
                .iter()
                .chain(welcome)
                .filter(|name| !lists(&enabled, name))
            {
                write(&control, &format!("+{name}"))?;
            }
        }
        Ok(())
    }

    fn limit_total(&self, total: Total) -> Result<(), CgroupError> {
        let limits = [
            (
                "memory",
                if self.unified {
                    "memory.max"
                } else {
                    "memory.limit_in_bytes"
                },
                total.memory,
            ),
            ("pids", "pids.max", total.pids.into()),
        ];
        for (controller, file, value) in limits {
            write(
                &self
                    .dir(controller)
                    .ok_or(CgroupError::NoController(controller))?
                    .join(file),
                &value.to_string(),
            )?;
        }
        Ok(())
    }

    fn dir(&self, controller: &str) -> Option<&Path> {
        dir_of(&self.dirs, self.unified, controller)
    }

    /// Limits that this kernel does not hold, in words.
    pub(crate) fn unheld(&self) -> Vec<String> {
        let handed_out = |dir: &&Path| {
            !self.unified
                || read_text(&dir.join("cgroup.subtree_control"))
                    .is_ok_and(|text| text.split_whitespace().any(|name| name == "io"))
        };
        io::obstacle(self.dir("blkio").filter(handed_out))
            .into_iter()
            .collect()
    }

    /// Its path below each hierarchy's root.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether a group of this name below a parent is a sandbox's.
    pub(crate) fn is_leaf(name: &OsStr) -> bool {
        name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
    }

    /// The leaf of a sandbox, which need not exist.
    pub(crate) fn leaf(&self, id: &SandboxId) -> Leaf {
        self.leaf_named(&format!("{PREFIX}{id}"))
    }

    /// The leaf of a job, which need not exist.
    pub(crate) fn job(&self, number: u64) -> Leaf {
        self.leaf_named(&format!("{JOB_PREFIX}{number}"))
    }

    fn leaf_named(&self, name: &str) -> Leaf {
        Leaf {
            dirs: self
                .dirs
                .iter()
                .map(|(key, dir)| (key.clone(), dir.join(name)))
                .collect(),
            path: format!("{}/{name}", self.path),
            unified: self.unified,
        }
    }

    /// Leaves that an earlier life left behind.
    pub(crate) fn leftovers(&self) -> Result<Vec<Leaf>, CgroupError> {
        let mut names = std::collections::BTreeSet::new();
        for dir in self.dirs.values().filter(|dir| dir.exists()) {
            for entry in fs::read_dir(dir).map_err(files("list", dir))? {
                let name = entry.map_err(files("list", dir))?.file_name();
                names.extend(
                    name.to_str()
                        .filter(|name| name.starts_with(PREFIX) || name.starts_with(JOB_PREFIX))
                        .map(str::to_owned),
                );
            }
        }
        Ok(names.iter().map(|name| self.leaf_named(name)).collect())
    }
}

/// The directory of the hierarchy that has this controller; under v2 there is one for all.
fn dir_of<'a>(
    dirs: &'a BTreeMap<String, PathBuf>,
    unified: bool,
    controller: &str,
) -> Option<&'a Path> {
    dirs.iter().find_map(|(key, dir)| {
        (unified || key.split(',').any(|name| name == controller)).then_some(dir.as_path())
    })
}
