//! One leaf: made, limited, read back, checked, measured, removed.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use cgroups_rs::fs::{MaxValue, cpu::CpuController, memory::MemController, pid::PidController};
use paw_launch::request::{Limits, Usage};

use super::{
    CgroupError, dir_of, files, io,
    mounted::{read_text, write},
    swap,
};

/// Length of the period over which CPU time is limited, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Where a hierarchy begins, which cgroups-rs wants to know, and looks at only to walk up from a group. Ours are made from the
/// directory that is known: through its list of hierarchies it would read all mounts again for every group.
const ROOT: &str = "/";

/// The group of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(super) dirs: BTreeMap<String, PathBuf>,
    pub(super) path: String,
    pub(super) unified: bool,
}

impl Leaf {
    /// Its absolute path below each hierarchy's root; what the OCI specification names.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// A group of the same sandbox beside this one, for what is not limited by the plan.
    pub(crate) fn beside(&self, what: &str) -> Self {
        let with = |path: &Path| {
            let mut path = path.as_os_str().to_owned();
            path.push(".");
            path.push(what);
            PathBuf::from(path)
        };
        Self {
            dirs: self
                .dirs
                .iter()
                .map(|(key, dir)| (key.clone(), with(dir)))
                .collect(),
            path: format!("{}.{what}", self.path),
            unified: self.unified,
        }
    }

    /// Its directory in every hierarchy.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.dirs.values().map(PathBuf::as_path)
    }

    /// The file in every hierarchy by which a process of one thread enters itself. Under v1 that is `tasks`, which moves its writer
    /// alone: `cgroup.procs` waits until no process of the whole system is forking or ending, for which the kernel takes some
    /// milliseconds. v2 has no such file for a move between groups.
    pub(crate) fn entrances(&self) -> impl Iterator<Item = PathBuf> {
        let file = if self.unified {
            "cgroup.procs"
        } else {
            "tasks"
        };
        self.dirs.values().map(move |dir| dir.join(file))
    }

    /// Makes it in every hierarchy, empty.
    pub(crate) fn make(&self) -> Result<(), CgroupError> {
        for dir in self.dirs.values() {
            fs::create_dir(dir).map_err(files("make", dir))?;
        }
        Ok(())
    }

    /// Sets the limits.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        let bytes = i64::try_from(limits.memory).unwrap_or(i64::MAX);
        MemController::new(self.dir("memory")?.into(), ROOT.into(), self.unified)
            .set_limit(bytes)
            .map_err(|error| CgroupError::Limit("memory", error))?;
        swap::forbid(self.dir("memory")?, self.unified, limits.memory)?;
        if self.unified {
            // One greedy process takes its whole sandbox down, rather than leaving half of it.
            write(&self.dirs[""].join("memory.oom.group"), "1")?;
        }
        self.pids()?
            .set_pid_max(MaxValue::Value(i64::from(limits.pids)))
            .map_err(|error| CgroupError::Limit("pids", error))?;
        self.cpu()?
            .set_cfs_quota_and_period(Some(quota(limits)), Some(PERIOD_US))
            .map_err(|error| CgroupError::Limit("cpu", error))?;
        match limits.io_weight {
            Some(weight) => io::set(self.io_dir().ok_or(CgroupError::NoIoWeight)?, weight),
            None => Ok(()),
        }
    }

    /// Reads the limits back; an error when one is not what was set. What a cgroup does not hold is taken from `wanted`.
    pub(crate) fn read_back(&self, wanted: &Limits) -> Result<Limits, CgroupError> {
        let unread = |what| move |error| CgroupError::Limit(what, error);
        // cgroups-rs reads every file of this controller for one value, which costs more than all the rest of the attestation.
        let file = if self.unified {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        // `max`, of v2, is no number and no limit.
        let memory: i64 = read_text(&self.dir("memory")?.join(file))?
            .trim()
            .parse()
            .unwrap_or(-1);
        let pids = match self.pids()?.get_pid_max().map_err(unread("pids"))? {
            MaxValue::Value(value) => value,
            MaxValue::Max => -1,
        };
        let cpu = self.cpu()?;
        let (quota_us, period_us) = (
            cpu.cfs_quota().map_err(unread("cpu"))?,
            cpu.cfs_period().map_err(unread("cpu"))?,
        );

        let same = |what, is: i128, wanted: i128| {
            if is == wanted {
                Ok(())
            } else {
                Err(CgroupError::ReadBack { what, is, wanted })
            }
        };
        // The kernel counts memory in pages and rounds down.
        same(
            "memory",
            memory.into(),
            i128::from(wanted.memory / 4096 * 4096),
        )?;
        same("pids", pids.into(), wanted.pids.into())?;
        same("cpu quota", quota_us.into(), quota(wanted).into())?;
        same("cpu period", period_us.into(), PERIOD_US.into())?;
        swap::read_back(self.dir("memory")?, self.unified, wanted.memory)?;
        let io_weight = match (self.io_dir(), wanted.io_weight) {
            (Some(dir), weight) => io::read_back(dir, weight)?,
            (None, Some(_)) => return Err(CgroupError::NoIoWeight),
            (None, None) => None,
        };
        Ok(Limits {
            io_weight,
            memory: u64::try_from(memory).unwrap_or(0),
            ..*wanted
        })
    }

    /// Checks that a process is in this group in every hierarchy that limits; gives their paths.
    pub(crate) fn holds(&self, pid: i32) -> Result<BTreeMap<String, String>, CgroupError> {
        let text = read_text(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let found: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
            })
            .filter(|(hierarchy, _)| self.dirs.contains_key(hierarchy))
            .collect();
        for hierarchy in self.dirs.keys() {
            let is = found.get(hierarchy).cloned().unwrap_or_default();
            if is != self.path {
                return Err(CgroupError::Elsewhere {
                    pid,
                    hierarchy: hierarchy.clone(),
                    is,
                    wanted: self.path.clone(),
                });
            }
        }
        Ok(found)
    }

    /// What its processes have used, without the wall time.
    pub(crate) fn usage(&self) -> Usage {
        let stat = self.cpu().map(|cpu| cpu.cpu().stat).unwrap_or_default();
        let number = |controller, file: &str| {
            let text = self
                .dir(controller)
                .and_then(|dir| read_text(&dir.join(file)));
            text.ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0)
        };
        // One file of each: cgroups-rs reads all that the controller has.
        let (cpu_us, memory_peak) = if self.unified {
            (field(&stat, "usage_usec"), number("memory", "memory.peak"))
        } else {
            (
                number("cpuacct", "cpuacct.usage") / 1000,
                number("memory", "memory.max_usage_in_bytes"),
            )
        };
        Usage {
            cpu_us,
            memory_peak,
            pids_denied: self
                .pids()
                .and_then(|pids| {
                    pids.get_pid_events()
                        .map_err(|error| CgroupError::Limit("pids", error))
                })
                .unwrap_or(0),
            cpu_throttled: field(&stat, "nr_throttled"),
            wall_ms: 0,
        }
    }

    /// Whether the kernel killed something in it for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        self.dir("memory")
            .and_then(|dir| read_text(&dir.join(file)))
            .is_ok_and(|text| field(&text, "oom_kill") > 0)
    }

    /// Every process in it, in any hierarchy.
    pub(crate) fn members(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .dirs
            .values()
            .filter_map(|dir| read_text(&dir.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Under v2, kills every process in it at once, whoever they belong to; `false` under v1, which has no such thing.
    pub(crate) fn kill(&self) -> Result<bool, CgroupError> {
        if !self.unified || !self.dirs[""].exists() {
            return Ok(false);
        }
        write(&self.dirs[""].join("cgroup.kill"), "1").map(|()| true)
    }

    /// Under v1, stops every process in it from running, so that none can fork while they are killed one by one.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        match self.dirs.get("freezer").filter(|dir| dir.exists()) {
            Some(dir) => write(
                &dir.join("freezer.state"),
                if frozen { "FROZEN" } else { "THAWED" },
            ),
            None => Ok(()),
        }
    }

    /// Removes it. `Ok(false)`: the kernel still holds it, because its last process has not left entirely; try again.
    pub(crate) fn remove(&self) -> Result<bool, CgroupError> {
        for dir in self.dirs.values() {
            match fs::remove_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => {
                    return Ok(false);
                }
                Err(source) => {
                    return Err(CgroupError::Files {
                        step: "remove",
                        path: dir.clone(),
                        source,
                    });
                }
            }
        }
        Ok(true)
    }

    fn pids(&self) -> Result<PidController, CgroupError> {
        let dir = self.dir("pids")?.into();
        Ok(PidController::new(dir, ROOT.into(), self.unified))
    }

    fn cpu(&self) -> Result<CpuController, CgroupError> {
        let dir = self.dir("cpu")?.into();
        Ok(CpuController::new(dir, ROOT.into(), self.unified))
    }

    fn dir(&self, controller: &'static str) -> Result<&Path, CgroupError> {
        dir_of(&self.dirs, self.unified, controller).ok_or(CgroupError::NoController(controller))
    }

    fn io_dir(&self) -> Option<&Path> {
        dir_of(&self.dirs, self.unified, "blkio")
    }
}

/// CPU time for each period, in microseconds.
fn quota(limits: &Limits) -> i64 {
    i64::from(limits.cpu_milli) * i64::try_from(PERIOD_US / 1000).unwrap_or(100)
}

/// The number after a name in a file of `name number` lines; 0 when it is not there.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}
