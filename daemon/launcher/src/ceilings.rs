//! What may be asked for at most: `launcher.toml`, and the check of a plan against it.
//!
//! The file belongs to root. A plan that passes becomes an [`Approved`], which nothing else can make and which is all that the
//! rest of the launcher sees: names are resolved to host paths, every path is absolute and free of `..`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use paw_launch::{
    image::ImageBounds,
    request::{
        Image, Isolation, Limits, MountSource, Refusal, RefusalReason, Runtime, SandboxId,
        SandboxPlan,
    },
    workspace::Settle,
};
use paw_policy::Name;
use serde::Deserialize;

use crate::{
    cgroup::LARGEST_IO_WEIGHT,
    image::{self, Tree},
    workspaces::{Overlay, WorkspaceSettings},
};

/// The most mounts that one plan may have.
pub(crate) const MAX_MOUNTS: usize = 32;

/// The longest path inside a sandbox, in bytes.
const MAX_TARGET: usize = 255;

/// The least that a sandbox can live with; below these it would fail in ways that look like faults of the program in it.
const LEAST: Limits = Limits {
    cpu_milli: 10,
    memory: 8 << 20,
    disk: 64 << 10,
    pids: 4,
    open_files: 32,
    wall_ms: 100,
    io_weight: None,
};

/// The largest io weight where `launcher.toml` does not say one: ten times the usual.
const MOST_IO_WEIGHT: u16 = 1_000;

/// Where a sandbox's own things are mounted; plans keep out of there.
const RESERVED: [&str; 4] = ["/proc", "/dev", "/sys", "/.paw"];

/// `launcher.toml`, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ceilings {
    #[serde(default = "strongest_first")]
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) image_dirs: Vec<PathBuf>,
    pub(crate) mount_prefixes: Vec<PathBuf>,
    #[serde(default = "yes")]
    pub(crate) host_image: bool,
    #[serde(default = "default_sandboxes")]
    pub(crate) max_sandboxes: u32,
    #[serde(default = "default_idle")]
    pub(crate) max_idle_ms: u64,
    #[serde(default)]
    pub(crate) gvisor: GvisorSettings,
    #[serde(default)]
    pub(crate) kata: KataSettings,
    #[serde(default)]
    pub(crate) ids: Ids,
    #[serde(default = "default_limits")]
    pub(crate) limits: Limits,
    #[serde(default)]
    pub(crate) total: Total,
    /// How large an image may be that is added.
    #[serde(default)]
    pub(crate) images: ImageBounds,
    #[serde(default)]
    pub(crate) workspaces: WorkspaceSettings,
}

/// Where gVisor is, and how it intercepts system calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GvisorSettings {
    pub(crate) runsc: PathBuf,
    pub(crate) platform: Platform,
}

/// Where the shim of virtual machines is; read by paw-launcher-kata alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KataSettings {
    /// Whether paw-launcher-kata may run at all: it has real root.
    pub(crate) enabled: bool,
    pub(crate) shim: PathBuf,
    /// Kata's own configuration; without it, the one that Kata would take.
    pub(crate) configuration: Option<PathBuf>,
}

impl Default for KataSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            shim: "/usr/bin/containerd-shim-kata-v2".into(),
            configuration: None,
        }
    }
}

/// How gVisor intercepts the system calls of a program. Its third way, kvm, needs a device of the host and is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// systrap where this version has it, else ptrace.
    Auto,
    /// By seccomp and signals.
    Systrap,
    /// By ptrace.
    Ptrace,
}

impl Default for GvisorSettings {
    fn default() -> Self {
        Self {
            runsc: "/usr/bin/runsc".into(),
            platform: Platform::Auto,
        }
    }
}

/// Host ids that sandboxes use.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ids {
    pub(crate) base: u32,
    pub(crate) slots: u32,
}

/// Limits of all sandboxes together.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Total {
    pub(crate) memory: u64,
    pub(crate) pids: u32,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            base: 536_870_912,
            slots: 64,
        }
    }
}

impl Default for Total {
    fn default() -> Self {
        Self {
            memory: 8 << 30,
            pids: 8192,
        }
    }
}

fn strongest_first() -> Vec<Runtime> {
    vec![Runtime::Gvisor, Runtime::Native]
}

fn yes() -> bool {
    true
}

fn default_sandboxes() -> u32 {
    32
}

fn default_idle() -> u64 {
    600_000
}

fn default_limits() -> Limits {
    Limits {
        cpu_milli: 4000,
        memory: 4 << 30,
        disk: 1 << 30,
        pids: 1024,
        open_files: 4096,
        wall_ms: 3_600_000,
        io_weight: Some(MOST_IO_WEIGHT),
    }
}

/// Why the ceilings cannot be used. The launcher does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CeilingsError {
    /// The file cannot be read.
    #[error("read {path}; copy the example that is shipped with paw-launcher")]
    Read { path: PathBuf, source: io::Error },
    /// Whoever may write this file decides what sandboxes may do.
    #[error(
        "{path} belongs to user {uid} with mode {mode:o}; make it root's: chown root:root, chmod 644"
    )]
    NotRoots { path: PathBuf, uid: u32, mode: u32 },
    /// It is not TOML, or has a key that we do not know.
    #[error("understand {path}")]
    Toml {
        path: PathBuf,
        source: toml::de::Error,
    },
    /// A value makes no sense.
    #[error("{path}: {what}")]
    Value { path: PathBuf, what: String },
}

impl Ceilings {
    /// Reads and checks the file. Called before the user namespace is entered: inside it, root's files look like nobody's.
    pub(crate) fn read(path: &Path) -> Result<Self, CeilingsError> {
        let read = |source| CeilingsError::Read {
            path: path.to_owned(),
            source,
        };
        let found = fs::symlink_metadata(path).map_err(read)?;
        if !found.is_file() || found.uid() != 0 || found.mode() & 0o022 != 0 {
            return Err(CeilingsError::NotRoots {
                path: path.to_owned(),
                uid: found.uid(),
                mode: found.mode() & 0o7777,
            });
        }
        let text = fs::read_to_string(path).map_err(read)?;
        let ceilings: Self = toml::from_str(&text).map_err(|source| CeilingsError::Toml {
            path: path.to_owned(),
            source,
        })?;
        ceilings.check().map_err(|what| CeilingsError::Value {
            path: path.to_owned(),
            what,
        })?;
        Ok(ceilings)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        for dir in self.image_dirs.iter().chain(&self.mount_prefixes) {
            if !is_normal(dir) {
                return Err(format!(
                    "{} is not an absolute path without `.` and `..`",
                    dir.display()
                ));
            }
        }
        let ids = u64::from(self.ids.slots) * 65536;
        if self.ids.slots < 2
            || u64::from(self.ids.base) + ids > u64::from(u32::MAX)
            || self.ids.base < 65536
        {
            return Err(
                "ids: a base from 65536 on and at least 2 slots that end below 2^32 are needed"
                    .to_owned(),
            );
        }
        if let Some(weight) = self.limits.io_weight
            && !(1..=LARGEST_IO_WEIGHT).contains(&weight)
        {
            return Err(format!(
                "io_weight must be between 1 and {LARGEST_IO_WEIGHT}"
            ));
        }
        if self.max_sandboxes == 0 || self.max_sandboxes >= self.ids.slots {
            return Err(format!(
                "max_sandboxes must be between 1 and slots - 1 ({})",
                self.ids.slots - 1
            ));
        }
        Ok(())
    }

    /// Checks a plan. `data` holds the images and skills that ship, `state` the workspaces, `skills` the skills that were installed.
    pub(crate) fn approve(
        &self,
        plan: SandboxPlan,
        data: &Path,
        state: &Path,
        skills: Option<&Path>,
    ) -> Result<Approved, Refusal> {
        self.check_runtime(plan.runtime)?;
        self.check_limits(&plan.limits)?;
        let mut tree = None;
        let image = match plan.image {
            Image::Named(name) => {
                let path;
                (path, tree) = image::named(&name, data, state)?;
                ApprovedImage::Dir(path)
            }
            Image::Dir(path) => ApprovedImage::Dir(below(&path, &self.image_dirs, "image_dirs")?),
            Image::Host if self.host_image => ApprovedImage::Host,
            Image::Host => {
                return Err(ceiling(
                    "the host's /usr may not be an image here",
                    "set host_image = true in launcher.toml",
                ));
            }
        };
        if plan.mounts.len() > MAX_MOUNTS {
            return Err(ceiling(
                &format!(
                    "{} mounts; at most {MAX_MOUNTS} are possible",
                    plan.mounts.len()
                ),
                "mount fewer directories",
            ));
        }
        let mut mounts: Vec<ApprovedMount> = Vec::with_capacity(plan.mounts.len());
        for mount in plan.mounts {
            let target = check_target(&mount.target)?;
            if mounts.iter().any(|other| other.target == target) {
                return Err(ceiling(
                    &format!("{} is mounted twice", target.display()),
                    "give each mount its own target",
                ));
            }
            let (source, writable) = match mount.source {
                MountSource::Path(path) => (
                    below(&path, &self.mount_prefixes, "mount_prefixes")?,
                    mount.writable,
                ),
                // Skills are verified when they are installed; whoever runs one must not be able to change it.
                MountSource::Skill(_) | MountSource::Installed(_) if mount.writable => {
                    return Err(ceiling(
                        "a skill's files cannot be mounted writable",
                        "mount the skill read-only",
                    ));
                }
                MountSource::Skill(name) => (data.join("skills").join(name.as_str()), false),
                // Where they are is on our command line, which is root's; the rest of the path is 64 digits.
                MountSource::Installed(digest) => match skills {
                    Some(skills) => (skills.join("trees").join(digest.to_string()), false),
                    None => {
                        return Err(ceiling(
                            "skills that were installed cannot be used here",
                            "start the launcher with --skills",
                        ));
                    }
                },
                source @ (MountSource::Workspace(_) | MountSource::Layer { .. }) => {
                    let (name, layer) = match source {
                        MountSource::Layer {
                            workspace,
                            then,
                            owner,
                        } => (workspace, (then, owner)),
                        MountSource::Workspace(name) => (name, (Settle::Stage, None)),
                        MountSource::Path(_)
                        | MountSource::Skill(_)
                        | MountSource::Installed(_) => continue,
                    };
                    let path = state.join("workspaces").join(name.as_str());
                    if mounts
                        .iter()
                        .any(|other| other.workspace.as_ref().is_some_and(|other| *other != name))
                    {
                        return Err(ceiling(
                            "two workspaces in one sandbox",
                            "give a sandbox one workspace",
                        ));
                    }
                    mounts.push(ApprovedMount {
                        source: path,
                        target,
                        writable: mount.writable,
                        workspace: Some(name),
                        layer,
                    });
                    continue;
                }
            };
            mounts.push(ApprovedMount {
                source,
                target,
                writable,
                workspace: None,
                layer: (Settle::Discard, None),
            });
        }
        Ok(Approved {
            id: plan.id,
            runtime: plan.runtime,
            image,
            tree,
            overlay: None,
            mounts,
            limits: plan.limits,
            floor: plan.floor,
        })
    }

    fn check_runtime(&self, runtime: Runtime) -> Result<(), Refusal> {
        if !self.runtimes.contains(&runtime) {
            return Err(ceiling(
                &format!("the runtime {runtime} is not allowed on this host"),
                "add it to runtimes in launcher.toml",
            ));
        }
        Ok(())
    }

    fn check_limits(&self, asked: &Limits) -> Result<(), Refusal> {
        let most = &self.limits;
        let each = [
            (
                "cpu_milli",
                asked.cpu_milli.into(),
                LEAST.cpu_milli.into(),
                most.cpu_milli.into(),
            ),
            ("memory", asked.memory, LEAST.memory, most.memory),
            ("disk", asked.disk, LEAST.disk, most.disk),
            (
                "pids",
                asked.pids.into(),
                LEAST.pids.into(),
                most.pids.into(),
            ),
            (
                "open_files",
                asked.open_files.into(),
                LEAST.open_files.into(),
                most.open_files.into(),
            ),
            ("wall_ms", asked.wall_ms, LEAST.wall_ms, most.wall_ms),
            (
                "io_weight",
                asked.io_weight.unwrap_or(1).into(),
                1,
                most.io_weight.unwrap_or(MOST_IO_WEIGHT).into(),
            ),
        ];
        match each
            .into_iter()
            .find(|(_, asked, least, most)| asked < least || asked > most)
        {
            None => Ok(()),
            Some((name, asked, least, most)) => Err(ceiling(
                &format!("{name} of {asked} is not between {least} and {most}"),
                "ask for less, or raise limits in launcher.toml",
            )),
        }
    }
}

/// A plan that keeps all ceilings.
#[derive(Debug, Clone)]
pub(crate) struct Approved {
    pub(crate) id: SandboxId,
    pub(crate) runtime: Runtime,
    pub(crate) image: ApprovedImage,
    /// Set when the image is one that was added; it is not removed meanwhile.
    pub(crate) tree: Option<Rc<Tree>>,
    /// What the overlay of its workspace is made of, once there is one.
    pub(crate) overlay: Option<Overlay>,
    pub(crate) mounts: Vec<ApprovedMount>,
    pub(crate) limits: Limits,
    pub(crate) floor: Isolation,
}

/// Where the root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApprovedImage {
    Dir(PathBuf),
    Host,
}

/// A mount whose source is a path that may be mounted.
#[derive(Debug, Clone)]
pub(crate) struct ApprovedMount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) writable: bool,
    /// Set when the source is an agent's workspace, which is made at first use.
    pub(crate) workspace: Option<Name>,
    /// What becomes of what is written to it when nobody says, and the host uid of whom it is.
    pub(crate) layer: (Settle, Option<u32>),
}

impl Approved {
    /// The workspace of this plan, if it has one.
    pub(crate) fn workspace(&self) -> Option<&Name> {
        self.mounts
            .iter()
            .find_map(|mount| mount.workspace.as_ref())
    }
}

/// Whether a path is absolute and has neither `.`, `..` nor a trailing part that would be normalised away.
fn is_normal(path: &Path) -> bool {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let clean = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
    absolute && clean && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn below(path: &Path, prefixes: &[PathBuf], key: &str) -> Result<PathBuf, Refusal> {
    if is_normal(path) && prefixes.iter().any(|prefix| path.starts_with(prefix)) {
        Ok(path.to_owned())
    } else {
        let what = format!(
            "{} is not below any of {key}, or not a plain absolute path",
            path.display()
        );
        Err(ceiling(
            &what,
            &format!("add its directory to {key} in launcher.toml"),
        ))
    }
}

fn check_target(target: &Path) -> Result<PathBuf, Refusal> {
    let reserved = RESERVED.iter().any(|reserved| target.starts_with(reserved));
    let control = target
        .to_str()
        .is_none_or(|text| text.chars().any(char::is_control));
    if is_normal(target)
        && target != Path::new("/")
        && target.as_os_str().len() <= MAX_TARGET
        && !reserved
        && !control
    {
        Ok(target.to_owned())
    } else {
        let what = format!("{} cannot be a mount target", target.display());
        Err(ceiling(
            &what,
            "use a plain absolute path of at most 255 bytes outside /proc, /dev, /sys and /.paw",
        ))
    }
}

pub(crate) fn ceiling(message: &str, remedy: &str) -> Refusal {
    refusal(RefusalReason::Ceiling, message.to_owned(), remedy)
}

/// A refusal with its remedy.
pub(crate) fn refusal(reason: RefusalReason, message: String, remedy: &str) -> Refusal {
    Refusal {
        reason,
        message,
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use paw_launch::request::Mount;

    use super::*;

    const SHIPPED: &str = include_str!("../launcher.toml");

    fn ceilings() -> Ceilings {
        let mut ceilings: Ceilings = toml::from_str(SHIPPED).unwrap();
        ceilings.image_dirs.push("/srv/images".into());
        ceilings.mount_prefixes.push("/srv/data".into());
        ceilings
    }

    fn plan() -> SandboxPlan {
        SandboxPlan {
            id: "0123456789abcdef".parse().unwrap(),
            runtime: Runtime::Native,
            image: Image::Host,
            mounts: Vec::new(),
            limits: Limits {
                cpu_milli: 500,
                memory: 64 << 20,
                disk: 1 << 20,
                pids: 16,
                open_files: 64,
                wall_ms: 1000,
                io_weight: None,
            },
            floor: Isolation::Process,
        }
    }

    fn approve(plan: SandboxPlan) -> Result<Approved, RefusalReason> {
        ceilings()
            .approve(
                plan,
                Path::new("/data"),
                Path::new("/state"),
                Some(Path::new("/skills")),
            )
            .map_err(|refusal| refusal.reason)
    }

    fn mount(source: MountSource, target: &str, writable: bool) -> Mount {
        Mount {
            source,
            target: target.into(),
            writable,
        }
    }

    #[test]
    fn shipped_example_is_valid() {
        toml::from_str::<Ceilings>(SHIPPED)
            .unwrap()
            .check()
            .unwrap();
    }

    #[test]
    fn unknown_key_is_refused() {
        assert!(
            toml::from_str::<Ceilings>("image_dirs = []\nmount_prefixes = []\nrutimes = []")
                .is_err()
        );
    }

    #[test]
    fn plan_within_all_ceilings_is_approved() {
        assert_eq!(approve(plan()).unwrap().image, ApprovedImage::Host);
    }

    #[test]
    fn each_limit_has_a_ceiling_and_a_floor() {
        let check = |change: fn(&mut Limits)| {
            let mut plan = plan();
            change(&mut plan.limits);
            assert_eq!(approve(plan).unwrap_err(), RefusalReason::Ceiling);
        };
        check(|limits| limits.cpu_milli = 4001);
        check(|limits| limits.memory = (4 << 30) + 1);
        check(|limits| limits.disk = (1 << 30) + 1);
        check(|limits| limits.pids = 1025);
        check(|limits| limits.open_files = 4097);
        check(|limits| limits.wall_ms = 3_600_001);
        check(|limits| limits.cpu_milli = 0);
        check(|limits| limits.memory = 4096);
        check(|limits| limits.pids = 0);
        check(|limits| limits.wall_ms = 0);
    }

    #[test]
    fn image_outside_the_allowed_directories_is_refused() {
        let check = |path: &str, allowed: bool| {
            let plan = SandboxPlan {
                image: Image::Dir(path.into()),
                ..plan()
            };
            assert_eq!(approve(plan).is_ok(), allowed, "{path}");
        };
        check("/srv/images/a", true);
        check("/srv/imagesx/a", false);
        check("/srv/images/../secret", false);
        check("/srv/images/./a", false);
        check("/srv/images//a", false);
        check("srv/images/a", false);
        check("/", false);
    }

    #[test]
    fn mount_outside_the_prefixes_is_refused() {
        let check = |source: &str, target: &str, allowed: bool| {
            let plan = SandboxPlan {
                mounts: vec![mount(MountSource::Path(source.into()), target, false)],
                ..plan()
            };
            assert_eq!(approve(plan).is_ok(), allowed, "{source} on {target}");
        };
        check("/srv/data/x", "/x", true);
        check("/etc", "/x", false);
        check("/srv/data/../../etc", "/x", false);
        check("/srv/data/x", "/x/../y", false);
        check("/srv/data/x", "x", false);
        check("/srv/data/x", "/", false);
        check("/srv/data/x", "/proc/self", false);
        check("/srv/data/x", "/.paw/init", false);
        check("/srv/data/x", "/a\nb", false);
    }

    #[test]
    fn skill_cannot_be_mounted_writable() {
        let digest = paw_policy::Digest::of(b"a bundle");
        for source in [
            MountSource::Skill("files".parse().unwrap()),
            MountSource::Installed(digest),
        ] {
            let plan = SandboxPlan {
                mounts: vec![mount(source, "/skill", true)],
                ..plan()
            };
            assert_eq!(approve(plan).unwrap_err(), RefusalReason::Ceiling);
        }
        let read_only = SandboxPlan {
            mounts: vec![mount(MountSource::Installed(digest), "/skill", false)],
            ..plan()
        };
        let place = format!("/skills/trees/{digest}");
        assert_eq!(
            approve(read_only).unwrap().mounts[0].source,
            Path::new(&place)
        );
    }

    #[test]
    fn two_workspaces_are_refused() {
        let workspace = |name: &str| MountSource::Workspace(name.parse().unwrap());
        let mounts = vec![
            mount(workspace("a"), "/a", true),
            mount(workspace("b"), "/b", false),
        ];
        assert_eq!(
            approve(SandboxPlan { mounts, ..plan() }).unwrap_err(),
            RefusalReason::Ceiling
        );
    }

    #[test]
    fn target_used_twice_is_refused() {
        let source = || MountSource::Path("/srv/data/x".into());
        let mounts = vec![mount(source(), "/x", false), mount(source(), "/x", true)];
        assert_eq!(
            approve(SandboxPlan { mounts, ..plan() }).unwrap_err(),
            RefusalReason::Ceiling
        );
    }

    #[test]
    fn runtime_that_is_not_listed_is_refused() {
        assert_eq!(
            approve(SandboxPlan {
                runtime: Runtime::Kata,
                ..plan()
            })
            .unwrap_err(),
            RefusalReason::Ceiling
        );
    }

    #[test]
    fn file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("launcher.toml");
        fs::write(&path, SHIPPED).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(
            Ceilings::read(&path),
            Err(CeilingsError::NotRoots { .. })
        ));
    }
}
