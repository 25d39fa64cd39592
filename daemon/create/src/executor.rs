//! The last steps inside a sandbox, between libcontainer's set-up and paw-init.
//!
//! This runs in the sandbox's init process: the root is the sandbox's, the user is not root, every capability is gone. What is
//! left to do is what libcontainer does not: landlock, and the system call filter.

use std::{ffi::CString, io::Write as _, path::Path};

use libcontainer::{
    oci_spec::runtime::{Mount, Spec},
    workload::{Executor, ExecutorError, ExecutorValidationError},
};
use paw_confine::{
    landlock::{self, Floor, PathRule, Ports, Rights, Rules},
    seccomp::Filters,
};
use paw_launch::{egress::PORT, root::Temporary};

/// Confines the process that it runs in, then executes the sandbox's program. It carries the filter, compiled beforehand.
#[derive(Debug, Clone)]
pub(crate) struct Confined {
    filters: Filters,
    temporary: Vec<Temporary>,
}

impl Confined {
    pub(crate) fn new(filters: Filters, temporary: Vec<Temporary>) -> Self {
        Self { filters, temporary }
    }

    fn run(&self, spec: &Spec) -> Result<(), String> {
        let arguments = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().clone())
            .ok_or("the specification has no command")?;
        let arguments: Vec<CString> = arguments
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()
            .map_err(|_| "the command has a zero byte")?;
        let program = arguments
            .first()
            .ok_or("the specification has no command")?;
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        // Files are the floor: they exist in every kernel with landlock, and the rest is also held by the network and pid
        // namespaces of the sandbox.
        landlock::enforce(
            &rules(mounts, &self.temporary),
            Floor {
                files: true,
                net: false,
                scope: false,
            },
        )
        .map_err(|error| chain(&error))?;
        self.filters.install().map_err(|error| chain(&error))?;
        let errno = match nix::unistd::execv(program, &arguments) {
            Ok(never) => match never {},
            Err(errno) => errno,
        };
        Err(format!("execute {}: {errno}", program.to_string_lossy()))
    }
}

impl Executor for Confined {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Err(error) = self.run(spec) else {
            return Ok(());
        };
        // The launcher reads the sandbox's stderr when paw-init does not say hello.
        let _ = writeln!(std::io::stderr(), "{error}");
        Err(ExecutorError::Other(error))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let program = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().as_ref()?.first().cloned())
            .unwrap_or_default();
        if Path::new(&program).is_file() {
            Ok(())
        } else {
            Err(ExecutorValidationError::ArgValidationError(format!(
                "{program:?} is not in the sandbox"
            )))
        }
    }
}

/// The root is there to read and to execute; what is mounted writable may be written; no network and no process outside.
fn rules(mounts: &[Mount], temporary: &[Temporary]) -> Rules {
    let mut paths = vec![
        PathRule::new("/", Rights::ReadExecute, "programs and their data"),
        PathRule::new(
            "/dev",
            Rights::UseFiles,
            "the devices that every program expects",
        ),
    ];
    paths.extend(
        mounts
            .iter()
            .filter(|mount| is_writable(mount))
            .map(|mount| {
                PathRule::new(
                    mount.destination(),
                    Rights::All,
                    "mounted writable by the plan",
                )
            }),
    );
    // Whoever is not root may not write in `/dev` beyond what is in it.
    let outside_dev = temporary.iter().filter(|it| it.path != "dev");
    paths.extend(outside_dev.map(|it| {
        let path = Path::new("/").join(&it.path);
        PathRule::new(path, Rights::All, "in memory, and the sandbox's own")
    }));
    Rules {
        paths: Some(paths),
        // The namespace has nothing but its loopback, and this is the one port on it where something may be: the proxy of
        // paw-init, which is bound by this domain, too.
        connect: Ports::Only(vec![PORT]),
        bind: Ports::Only(vec![PORT]),
        scope: true,
    }
}

fn is_writable(mount: &Mount) -> bool {
    let has = |word: &str| {
        mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == word)
    };
    mount.typ().as_deref() == Some("bind") && !has("ro") && !has("rro")
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
