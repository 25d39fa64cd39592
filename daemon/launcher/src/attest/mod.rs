//! What the kernel says a sandbox is, read from outside, and whether that is what was asked.
//!
//! Every fact comes from `/proc/PID` of a process of the sandbox or from its cgroup; none from a configuration, and none from
//! inside. The check is in terms of rules that hold for every sandbox and of the plan. One mismatch, and the sandbox is killed
//! before a command runs in it. What cannot be seen from outside is named in the record.
//!
//! Of a native sandbox, landlock alone cannot be read: paw-init runs only if it was enforced (see paw-create), so its being
//! there, by device and inode, is the evidence. Of gVisor, see [`gvisor`].

mod gvisor;
mod layer;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use paw_confine::{
    report::Confinement,
    userns::{Extent, outside, parse_map},
};
use paw_launch::request::{Attestation, Facts, Limits};
use paw_policy::Digest;

use crate::{
    bundle::{Bound, INIT},
    ceilings::Approved,
    cgroup::{CgroupError, Leaf},
    pseudo,
    runtime::Maker,
    slots::INSIDE,
};

pub(crate) use self::gvisor::gvisor;

/// Namespaces of a sandbox; each is its own.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Mount points that may be written in every sandbox. `/proc` is the sandbox's own; what is global in it is mounted read-only.
const WRITABLE: [&str; 5] = ["/proc", "/dev", "/dev/shm", "/tmp", "/run"];

/// Temporary file systems whose size is the plan's `disk`.
const SIZED: [&str; 3] = ["/dev/shm", "/tmp", "/run"];

/// Why a sandbox is not what was asked, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestError {
    /// A file of `/proc` cannot be read.
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// A file of `/proc` is not as it was for the last ten years.
    #[error("{path} has no readable {what}")]
    Unreadable { path: PathBuf, what: &'static str },
    /// The kernel shows something else.
    #[error("{what} is {is}, and {wanted} was asked")]
    Mismatch {
        what: String,
        is: String,
        wanted: String,
    },
    /// The cgroup is not what it should be.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The program that makes the sandbox cannot be read.
    #[error("read the program of the runtime")]
    Program(#[source] io::Error),
    /// The facts cannot be written down.
    #[error("write the facts as JSON")]
    Canonical(#[source] serde_json::Error),
}

/// What a sandbox is compared with.
pub(crate) struct Expected<'a> {
    pub(crate) plan: &'a Approved,
    /// What the leaf was limited to.
    pub(crate) limits: &'a Limits,
    /// Its ids, in terms of the launcher's namespace.
    pub(crate) map: &'a [Extent],
    /// Its bundle.
    pub(crate) dir: &'a Path,
    pub(crate) leaf: &'a Leaf,
    pub(crate) bound: &'a [Bound],
    /// Digest of the paw-init that was mounted.
    pub(crate) init_digest: Digest,
    /// Digest of the image, if it has one.
    pub(crate) root_digest: Option<Digest>,
    /// The launcher's own map, which turns its ids into the host's.
    pub(crate) launcher_map: &'a [Extent],
    pub(crate) landlock_abi: u32,
    /// Limits that this kernel does not hold, in words.
    pub(crate) unheld: &'a [String],
    /// The network namespace that the launcher was started in, by its inode.
    pub(crate) host_network: u64,
}

/// Reads every fact of paw-init and compares it. The process must be paw-init, and must be our child, so that its number
/// cannot become somebody else's meanwhile.
pub(crate) fn native(
    pid: i32,
    expected: &Expected<'_>,
    maker: &dyn Maker,
) -> Result<Attestation, AttestError> {
    sealed(process(pid, expected, maker)?)
}

/// The facts of a paw-init that the host's kernel runs.
pub(crate) fn process(
    pid: i32,
    expected: &Expected<'_>,
    maker: &dyn Maker,
) -> Result<Facts, AttestError> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let plan = expected.plan;

    let status_path = proc.join("status");
    let status =
        Confinement::parse(&read(&status_path)?).map_err(|what| AttestError::Unreadable {
            path: status_path.clone(),
            what,
        })?;
    same("seccomp", status.seccomp, 2)?;
    same("no_new_privs", status.no_new_privs, true)?;
    for (set, name) in status.caps.iter().zip([
        "inheritable",
        "permitted",
        "effective",
        "bounding",
        "ambient",
    ]) {
        same(
            &format!("the {name} capability set"),
            set.as_str(),
            "0000000000000000",
        )?;
    }

    let wanted_map = expected.map;
    let uid_map = parse_map(&read(&proc.join("uid_map"))?);
    same("uid_map", shown(&uid_map), shown(wanted_map))?;
    same(
        "gid_map",
        shown(&parse_map(&read(&proc.join("gid_map"))?)),
        shown(wanted_map),
    )?;
    let wanted_id = outside(wanted_map, INSIDE).unwrap_or(u32::MAX);
    same("uid", status.uid, wanted_id)?;
    same("gid", status.gid, wanted_id)?;

    let namespaces = namespaces(&proc, &NAMESPACES, expected.host_network)?;
    let cgroups = expected.leaf.holds(pid)?;
    let mut limits = expected.leaf.read_back(expected.limits)?;
    limits.open_files = open_files(&proc)?;
    same(
        "the limit of open files",
        limits.open_files,
        plan.limits.open_files,
    )?;

    let mounts = mounts(&proc)?;
    check_mounts(&mounts, &plan.limits, expected.bound)?;
    check_bound(&proc, expected.bound)?;
    layer::check(&mounts, plan)?;
    check_program(&proc, expected.bound)?;

    let (interfaces, routes) = network(&proc)?;

    let host_id = |id| outside(expected.launcher_map, id).unwrap_or(u32::MAX);
    Ok(Facts {
        id: plan.id.clone(),
        runtime: maker.name(),
        runtime_version: maker.version(),
        runtime_digest: digest_of(maker)?,
        init_digest: expected.init_digest,
        root_digest: expected.root_digest,
        seccomp: status.seccomp,
        no_new_privs: status.no_new_privs,
        capabilities: status.caps,
        uid: host_id(status.uid),
        gid: host_id(status.gid),
        uid_map: uid_map
            .iter()
            .map(|extent| (extent.inside, extent.outside, extent.count))
            .collect(),
        namespaces,
        cgroups,
        limits,
        mounts: mounts
            .iter()
            .map(|mount| format!("{} {} {}", mount.target, mount.kind, mount.options))
            .collect(),
        interfaces,
        routes,
        landlock_abi: expected.landlock_abi,
        unseen: Vec::new(),
        unheld: expected.unheld.to_vec(),
        isolation: maker.isolation(),
    })
}

/// The facts with their digest.
pub(crate) fn sealed(facts: Facts) -> Result<Attestation, AttestError> {
    // Field order and the order of the maps are fixed by the types, so the text is canonical.
    let text = serde_json::to_vec(&facts).map_err(AttestError::Canonical)?;
    Ok(Attestation {
        digest: Digest::of(&text),
        facts,
    })
}

fn digest_of(maker: &dyn Maker) -> Result<Digest, AttestError> {
    maker.digest().map_err(AttestError::Program)
}

pub(crate) fn same<T: PartialEq + std::fmt::Display>(
    what: &str,
    is: T,
    wanted: T,
) -> Result<(), AttestError> {
    if is == wanted {
        Ok(())
    } else {
        Err(AttestError::Mismatch {
            what: what.to_owned(),
            is: is.to_string(),
            wanted: wanted.to_string(),
        })
    }
}

pub(crate) fn mismatch(
    what: String,
    is: impl Into<String>,
    wanted: impl Into<String>,
) -> AttestError {
    AttestError::Mismatch {
        what,
        is: is.into(),
        wanted: wanted.into(),
    }
}

pub(crate) fn read(path: &Path) -> Result<String, AttestError> {
    pseudo::read(path).map_err(|source| AttestError::Read {
        path: path.to_owned(),
        source,
    })
}

fn shown(map: &[Extent]) -> String {
    map.iter()
        .map(|e| format!("{} {} {}", e.inside, e.outside, e.count))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Inodes of the process's namespaces, each of which differs from ours. Our network is not the host's, and neither may be
/// the sandbox's.
fn namespaces(
    proc: &Path,
    wanted: &[&str],
    host_network: u64,
) -> Result<BTreeMap<String, u64>, AttestError> {
    let shared = |name: &str, whose: &str| {
        mismatch(format!("the {name} namespace"), whose, "one of its own")
    };
    wanted
        .iter()
        .map(|&name| {
            let is = namespace(proc, name)?;
            if is == namespace(Path::new("/proc/self"), name)? {
                return Err(shared(name, "the launcher's"));
            }
            if name == "net" && is == host_network {
                return Err(shared(name, "the one that the launcher was started in"));
            }
            Ok((name.to_owned(), is))
        })
        .collect()
}

/// The inode of one namespace of a process.
pub(crate) fn namespace(proc: &Path, name: &str) -> Result<u64, AttestError> {
    let path = proc.join("ns").join(name);
    let link = fs::read_link(&path).map_err(|source| AttestError::Read {
        path: path.clone(),
        source,
    })?;
    let text = link.to_string_lossy();
    text.split_once(":[")
        .and_then(|(_, rest)| rest.strip_suffix(']')?.parse::<u64>().ok())
        .ok_or(AttestError::Unreadable {
            path,
            what: "inode",
        })
}

fn open_files(proc: &Path) -> Result<u32, AttestError> {
    let path = proc.join("limits");
    let text = read(&path)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    // Soft and hard limit; the hard one is what the sandbox cannot get beyond.
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .ok_or(AttestError::Unreadable {
            path,
            what: "Max open files",
        })
}

/// One line of mountinfo.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) target: String,
    pub(crate) kind: String,
    pub(crate) options: String,
    super_options: String,
}

impl Mounted {
    fn is_read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
    }
}

pub(crate) fn mounts(proc: &Path) -> Result<Vec<Mounted>, AttestError> {
    let path = proc.join("mountinfo");
    let text = read(&path)?;
    text.lines()
        .map(|line| {
            parse_mount(line).ok_or_else(|| AttestError::Unreadable {
                path: path.clone(),
                what: "mount",
            })
        })
        .collect()
}

/// `id parent major:minor root target options [optional…] - kind source super_options`.
fn parse_mount(line: &str) -> Option<Mounted> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(4);
    let mut kind = kind.split(' ');
    Some(Mounted {
        target: place.next()?.to_owned(),
        options: place.next()?.to_owned(),
        kind: kind.next()?.to_owned(),
        super_options: kind.nth(1)?.to_owned(),
    })
}

/// The root is read-only, so is everything that the plan does not make writable, and temporary file systems have the plan's size.
fn check_mounts(mounts: &[Mounted], limits: &Limits, bound: &[Bound]) -> Result<(), AttestError> {
    let root = mounts.iter().find(|mount| mount.target == "/");
    if !root.is_some_and(Mounted::is_read_only) {
        return Err(mismatch(
            "the root file system".to_owned(),
            "writable",
            "read-only",
        ));
    }
    for mount in mounts.iter().filter(|mount| !mount.is_read_only()) {
        let own = WRITABLE.contains(&mount.target.as_str());
        // Bind mounts of single devices; the sandbox has no right to open one that it was not given.
        let device = mount.target.starts_with("/dev/");
        // Masked files of /proc are bind mounts of /dev/null.
        let masked = mount.target.starts_with("/proc/");
        let planned = bound
            .iter()
            .any(|bound| bound.writable && Path::new(&mount.target).starts_with(&bound.target));
        if !(own || device || masked || planned) {
            return Err(mismatch(
                format!("the mount {}", mount.target),
                "writable",
                "read-only",
            ));
        }
    }
    let page = rustix::param::page_size() as u64;
    for target in SIZED {
        let mount = mounts.iter().rfind(|mount| mount.target == target);
        let size = mount.and_then(|mount| {
            mount
                .super_options
                .split(',')
                .find_map(|option| option.strip_prefix("size="))
        });
        let wanted = format!("{}k", limits.disk.div_ceil(page) * page / 1024);
        same(
            &format!("the size of {target}"),
            size.unwrap_or("none"),
            &wanted,
        )?;
    }
    Ok(())
}

/// What is mounted is what was checked: between the check and the mount, a path could have become another one.
fn check_bound(proc: &Path, bound: &[Bound]) -> Result<(), AttestError> {
    for bound in bound {
        let path = proc
            .join("root")
            .join(bound.target.strip_prefix("/").unwrap_or(&bound.target));
        let found =
            fs::symlink_metadata(&path).map_err(|source| AttestError::Read { path, source })?;
        if (found.dev(), found.ino()) != bound.inode {
            return Err(mismatch(
                format!("{} inside", bound.target.display()),
                "another file",
                bound.source.display().to_string(),
            ));
        }
    }
    Ok(())
}

/// The program that says hello is the paw-init that was mounted, and nothing that an image brought.
fn check_program(proc: &Path, bound: &[Bound]) -> Result<(), AttestError> {
    let path = proc.join("exe");
    let found = fs::metadata(&path).map_err(|source| AttestError::Read { path, source })?;
    let wanted = bound
        .iter()
        .find(|bound| bound.target == Path::new(INIT))
        .map(|bound| bound.inode);
    if Some((found.dev(), found.ino())) == wanted {
        Ok(())
    } else {
        Err(mismatch(
            "the program".to_owned(),
            "another one",
            "paw-init",
        ))
    }
}

/// Interfaces and routes, of which there are only those of the loopback.
fn network(proc: &Path) -> Result<(Vec<String>, Vec<String>), AttestError> {
    let text = read(&proc.join("net/dev"))?;
    let interfaces: Vec<String> = text
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    same("network interfaces", interfaces.join(" "), "lo".to_owned())?;
    // `/proc/PID/net/route` begins with a heading and then with the interface; it does not list routes of the loopback.
    let routes: Vec<String> = read(&proc.join("net/route"))?
        .lines()
        .skip(1)
        .map(|line| {
            line.split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    same("routes", routes.join(", "), String::new())?;
    Ok((interfaces, routes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "100 90 0:50 /x / ro,nosuid,relatime - ext4 /dev/sda1 rw";
    const TMPFS: [&str; 3] = [
        "101 100 0:51 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=1024k,nr_inodes=256",
        "102 100 0:52 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1024k,nr_inodes=256",
        "103 100 0:53 / /run rw,nosuid - tmpfs tmpfs rw,size=1024k,nr_inodes=256",
    ];

    fn check(lines: &[&str], ok: bool) {
        let mounts: Vec<Mounted> = lines
            .iter()
            .map(|line| parse_mount(line).unwrap())
            .collect();
        let limits = Limits {
            cpu_milli: 1,
            memory: 1,
            disk: 1 << 20,
            pids: 1,
            open_files: 1,
            wall_ms: 1,
            io_weight: None,
        };
        let bound = [Bound {
            source: "/s".into(),
            target: "/work".into(),
            writable: true,
            inode: (0, 0),
            planned: true,
            seen: None,
        }];
        assert_eq!(
            check_mounts(&mounts, &limits, &bound).is_ok(),
            ok,
            "{lines:?}"
        );
    }

    #[test]
    fn only_what_the_plan_makes_writable_may_be_writable() {
        let with = |more: &'static str| [vec![ROOT], TMPFS.to_vec(), vec![more]].concat();
        check(&with("104 100 0:54 / /work rw - ext4 /dev/sda1 rw"), true);
        check(&with("104 100 0:54 / /usr ro - ext4 /dev/sda1 rw"), true);
        check(&with("104 100 0:54 / /usr rw - ext4 /dev/sda1 rw"), false);
        check(
            &with("104 100 0:54 / /worker rw - ext4 /dev/sda1 rw"),
            false,
        );
    }

    #[test]
    fn writable_root_is_refused() {
        let root = ROOT.replace(" ro,", " rw,");
        check(&[vec![root.as_str()], TMPFS.to_vec()].concat(), false);
    }

    #[test]
    fn temporary_file_system_of_another_size_is_refused() {
        let tmp = TMPFS[1].replace("size=1024k", "size=2048k");
        check(&[ROOT, TMPFS[0], &tmp, TMPFS[2]], false);
        check(&[ROOT, TMPFS[0], TMPFS[2]], false);
    }
}
