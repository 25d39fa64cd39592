//! Building our binaries with cargo, and running the other programs that packaging is made of.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// With which profile cargo builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests.
    Debug,
    /// For packages.
    Release,
}

impl Profile {
    /// The profile that `--release` stands for, or not.
    pub(crate) fn new(release: bool) -> Self {
        if release { Self::Release } else { Self::Debug }
    }

    /// The name of its directory below `target`.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// The crates whose binaries run on the host.
const HOST: [&str; 8] = [
    "pawd",
    "pawctl",
    "paw-launcher",
    "paw-image",
    "paw-workspace",
    "paw-audit",
    "paw-egress",
    "paw-kata",
];

/// The crates whose binaries run inside a sandbox, where no library of the host can be relied on, and the one that makes a sandbox:
/// it is started for each, and forks twice, so it has nothing to look for, to relocate and to copy.
const STATIC: [&str; 7] = [
    "paw-init",
    "paw-fetch",
    "paw-files",
    "paw-memory",
    "paw-shell",
    "paw-probe",
    "paw-create",
];

/// Where the built binaries are.
pub(crate) struct Built {
    /// Of [`HOST`].
    pub(crate) host: PathBuf,
    /// Of [`STATIC`].
    pub(crate) linked: PathBuf,
}

/// Builds all binaries.
pub(crate) fn build(root: &Path, profile: Profile) -> Result<Built> {
    let target = target(root);
    let triple = triple();
    let mut host = cargo(root, profile);
    match profile {
        // With one of the tests, so that dependencies have the features that tests want of them, and are built once.
        Profile::Debug => host.args(["--workspace", "--bins", "--test", "tidy"]),
        Profile::Release => host.args(HOST.iter().flat_map(|name| ["-p", name])),
    };
    run(&mut host)?;
    run(cargo(root, profile)
        .args(STATIC.iter().flat_map(|name| ["-p", name]))
        .args(["--target", &triple, "--config"])
        .arg(format!(
            "target.{triple}.rustflags=[\"-Ctarget-feature=+crt-static\"]"
        )))?;
    if profile == Profile::Release {
        ships_nothing_of_tests(&target.join("release/pawd"))?;
    }
    Ok(Built {
        host: target.join(profile.directory()),
        linked: target.join(triple).join(profile.directory()),
    })
}

/// Refuses a pawd that could be told where to die, as those are that tests run (`daemon/store/src/point.rs`).
fn ships_nothing_of_tests(pawd: &Path) -> Result<()> {
    let told = b"PAWD_TEST_DIES_AT";
    let program = std::fs::read(pawd).with_context(|| format!("read {}", pawd.display()))?;
    ensure!(
        !program.windows(told.len()).any(|part| part == told),
        "{} has places to die at, which only tests want; build it without debug assertions",
        pawd.display()
    );
    Ok(())
}

/// Cargo's target directory.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The crates whose programs are shipped.
pub(crate) fn shipped() -> impl Iterator<Item = &'static str> {
    HOST.into_iter().chain(STATIC)
}

/// What cargo knows of our crates and of those that they need on this kind of host.
pub(crate) fn metadata(root: &Path) -> Result<serde_json::Value> {
    let mut command = program(root);
    command.args(["metadata", "--format-version=1", "--locked"]);
    command.arg(format!("--filter-platform={}", triple()));
    serde_json::from_str(&output(&mut command)?).context("read what cargo metadata says")
}

/// The kind of host that we build for, which is this one's.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn program(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

fn cargo(root: &Path, profile: Profile) -> Command {
    let mut command = program(root);
    command.args(["build", "--quiet", "--locked"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    command
}

/// Runs a program to its end; anything but success is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let status = command.status().with_context(|| missing(&name))?;
    ensure!(status.success(), "{} ended with {status}", line(command));
    Ok(())
}

/// Runs a program and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_owned();
    let output = command.output().with_context(|| missing(&name))?;
    ensure!(
        output.status.success(),
        "{} ended with {}: {}",
        line(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something else than text", line(command)))
}

fn missing(name: &OsStr) -> String {
    format!(
        "run {}; packaging/test installs what packaging needs",
        name.to_string_lossy()
    )
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_with_places_to_die_at_is_not_packaged() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("pawd");
        std::fs::write(&program, b"\x7fELF and so on").unwrap();
        ships_nothing_of_tests(&program).unwrap();
        std::fs::write(&program, b"\x7fELF PAWD_TEST_DIES_AT\0").unwrap();
        let refused = ships_nothing_of_tests(&program).unwrap_err().to_string();
        assert!(refused.contains("debug assertions"), "{refused}");
    }
}
