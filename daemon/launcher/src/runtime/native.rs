//! Sandboxes of libcontainer, which paw-create makes: namespaces, landlock, seccomp.

use std::{ffi::OsString, fs::File, io, path::Path};

use paw_launch::{
    request::{Attestation, Limits, Runtime},
    root::Temporary,
};
use paw_policy::Digest;
use serde_json::{Value, json};

use super::Maker;
use crate::{
    attest::{self, AttestError, Expected},
    bundle::{Bound, specification, temporary, terminals_mount},
    ceilings::Approved,
    host,
    sandbox::CreateError,
    spawn::{Order, Pipes, Program, Spawned, start},
};

/// The library that makes native sandboxes, as Cargo.toml pins it.
const VERSION: &str = "libcontainer 0.7.0";

/// libcontainer, in paw-create.
#[derive(Debug)]
pub(crate) struct Native {
    create: host::Program,
}

impl Native {
    pub(crate) fn new(create: &Path) -> Self {
        Self {
            create: host::Program::new(create),
        }
    }
}

impl Maker for Native {
    fn name(&self) -> Runtime {
        Runtime::Native
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn digest(&self) -> io::Result<Digest> {
        self.create.digest()
    }

    fn objection(&self, _: &Limits) -> Option<String> {
        None
    }

    fn leaf_limits(&self, limits: &Limits) -> Limits {
        *limits
    }

    /// libcontainer makes forty system calls for each mount, most of them to be sure of `/proc`.
    fn temporary(&self, limits: &Limits) -> Vec<Temporary> {
        let dev = Temporary {
            path: "dev".to_owned(),
            mode: 0o755,
            size: 64 << 10,
            inodes: None,
            executable: false,
        };
        [dev].into_iter().chain(temporary(limits)).collect()
    }

    /// Its cgroup is the root of what paw-create lets libcontainer see, which it cannot write: it stays in its leaf.
    /// It has no `linux.resources`: writing the device rules that libcontainer adds then takes rights on the host; limits are
    /// written by [`crate::cgroup`]. It has no id maps: the user namespace is made before, as descriptor 6.
    fn specification(&self, plan: &Approved, _: &str, bound: &[Bound]) -> Value {
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
            terminals_mount(),
        ];
        // The recursive forms also bind what is mounted below the source, which would otherwise be refused: a less privileged
        // namespace may not look beneath a mount of the host.
        let options = ["rbind", "nosuid", "rnosuid", "nodev", "rnodev"];
        mounts.extend(
            bound
                .iter()
                .filter(|bound| bound.seen.is_some())
                .map(|bound| bound.mount(&options, &["ro", "rro"])),
        );
        let mut specification = specification(plan, mounts);
        specification["linux"] = json!({
            "cgroupsPath": "/",
            "namespaces": [
                { "type": "user", "path": "/proc/self/fd/6" },
                { "type": "pid" }, { "type": "mount" }, { "type": "network" }, { "type": "uts" }, { "type": "ipc" }, { "type": "cgroup" }
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/kallsyms", "/proc/config.gz"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        });
        specification
    }

    fn spawn(&self, order: &Order<'_>) -> Result<Spawned, CreateError> {
        let Pipes { ours, theirs } = Pipes::new()?;
        let (report, said) = Pipes::report()?;
        order.run()?;
        let nothing = File::open("/dev/null").map_err(CreateError::Spawn)?;
        let own = said.try_clone().map_err(CreateError::Spawn)?;
        let mut arguments = vec!["native".into(), order.dir.into(), order.id.into()];
        arguments.extend(order.leaf.entrances().map(OsString::from));
        let child = start(Program {
            path: self.create.path(),
            arguments,
            descriptors: vec![
                (nothing.into(), 0),
                (own, 1),
                (said, 2),
                (theirs.stdin, 3),
                (theirs.stdout, 4),
                (theirs.stderr, 5),
                (order.namespace()?, 6),
            ],
        })?;
        Ok(Spawned {
            child,
            report: Some(report),
            ours,
        })
    }

    fn attest(&self, pid: i32, expected: &Expected<'_>) -> Result<Attestation, AttestError> {
        attest::native(pid, expected, self)
    }
}
