//! Which shim is installed, and what stands between its sandboxes and this host.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use paw_launch::request::Isolation;

use crate::{ceilings::KataSettings, host::Program};

/// The device without which there is no virtual machine.
const KVM: &str = "/dev/kvm";

/// Where Kata looks for its configuration, in its own order.
const CONFIGURATIONS: [&str; 3] = [
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
];

/// What a version of Kata's shims begins with, whichever language they are written in.
const KATA: &str = "Kata Containers containerd shim";

/// Why no shim is usable here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("no shim at {path}; install Kata Containers, or set [kata] shim in launcher-kata.toml")]
    Missing { path: PathBuf, source: io::Error },
    #[error(
        "{path} can be written by others (user {uid}, mode {mode:o}); make it root's and not writable for others"
    )]
    Writable { path: PathBuf, uid: u32, mode: u32 },
    #[error("ask {path} for its version")]
    Version { path: PathBuf, source: io::Error },
    #[error("{path} says no version: {said:?}")]
    Versionless { path: PathBuf, said: String },
    #[error("{KVM} cannot be used, and a virtual machine needs it; load the kvm modules")]
    NoKvm(#[source] io::Error),
    #[error("Kata has no configuration at {}; set [kata] configuration in launcher-kata.toml", .0.display())]
    NoConfiguration(PathBuf),
    #[error("read {path}")]
    Configuration { path: PathBuf, source: io::Error },
    #[error("understand {path}")]
    Toml {
        path: PathBuf,
        source: toml::de::Error,
    },
    #[error(
        "{path} does not say sandbox_cgroup_only = true below [runtime]; without it the virtual machine runs outside the limits"
    )]
    Outside { path: PathBuf },
}

/// A usable shim.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) program: Program,
    /// For people.
    pub(crate) version: String,
    pub(crate) isolation: Isolation,
    /// The configuration that Kata is told to use.
    pub(crate) configuration: Option<PathBuf>,
}

impl Shim {
    /// Looks for the configured shim and for what it needs.
    pub(crate) fn find(settings: &KataSettings) -> Result<Self, ShimError> {
        let path = roots(&settings.shim)?;
        let said = version(&path)?;
        let Some(number) = number(&said) else {
            let said = said.chars().take(80).collect();
            return Err(ShimError::Versionless { path, said });
        };
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let isolation = isolation(&said);
        let configuration = match isolation {
            Isolation::Process | Isolation::Kernel => None,
            Isolation::Vm => {
                fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(KVM)
                    .map_err(ShimError::NoKvm)?;
                Some(configuration(settings.configuration.as_deref())?)
            }
        };
        Ok(Self {
            version: format!("{name} {number}"),
            program: Program::new(&path),
            isolation,
            configuration,
        })
    }
}

/// The file itself, which must be root's: it is executed as root.
fn roots(path: &Path) -> Result<PathBuf, ShimError> {
    let missing = |source| ShimError::Missing {
        path: path.to_owned(),
        source,
    };
    let path = fs::canonicalize(path).map_err(missing)?;
    let found = fs::metadata(&path).map_err(missing)?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(ShimError::Writable {
            path,
            uid: found.uid(),
            mode: found.mode() & 0o7777,
        });
    }
    Ok(path)
}

/// What it says about itself. Kata's shims tell with `--version`, and with `-v` only which containerd they are built from;
/// containerd's own know `-v` alone.
fn version(path: &Path) -> Result<String, ShimError> {
    let ask = |flag| {
        Command::new(path)
            .arg(flag)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map(|said| String::from_utf8_lossy(&said.stdout).into_owned())
            .map_err(|source| ShimError::Version {
                path: path.to_owned(),
                source,
            })
    };
    let said = ask("--version")?;
    if number(&said).is_some() {
        Ok(said)
    } else {
        ask("-v")
    }
}

/// What stands between the host and a sandbox of a shim that says this about itself.
fn isolation(said: &str) -> Isolation {
    if said.starts_with(KATA) {
        Isolation::Vm
    } else {
        Isolation::Process
    }
}

/// The word after `version`, in either spelling: `version: 3.2.0, commit: …` and `  Version:  1.6.20~ds1`.
fn number(said: &str) -> Option<&str> {
    let at = said.to_ascii_lowercase().find("version:")? + "version:".len();
    said[at..]
        .split([',', '\n'])
        .next()
        .map(str::trim)
        .filter(|number| number.starts_with(|c: char| c.is_ascii_digit()))
}

/// Kata's configuration, which has to keep all of a virtual machine within the sandbox's cgroup.
fn configuration(asked: Option<&Path>) -> Result<PathBuf, ShimError> {
    let path = match asked {
        Some(path) => path.to_owned(),
        None => CONFIGURATIONS
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .unwrap_or_else(|| CONFIGURATIONS[0].into()),
    };
    if !path.exists() {
        return Err(ShimError::NoConfiguration(path));
    }
    let path = roots(&path)?;
    let text = fs::read_to_string(&path).map_err(|source| ShimError::Configuration {
        path: path.clone(),
        source,
    })?;
    match keeps_within(&text) {
        Ok(true) => Ok(path),
        Ok(false) => Err(ShimError::Outside { path }),
        Err(source) => Err(ShimError::Toml { path, source }),
    }
}

/// Whether Kata keeps all that belongs to a virtual machine in the cgroup of its sandbox.
fn keeps_within(text: &str) -> Result<bool, toml::de::Error> {
    let table: toml::Table = toml::from_str(text)?;
    Ok(table
        .get("runtime")
        .and_then(|runtime| runtime.get("sandbox_cgroup_only"))
        .and_then(toml::Value::as_bool)
        .unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_found_in_what_shims_say() {
        for (said, expected) in [
            (
                "containerd-shim-runc-v2:\n  Version:  1.6.20~ds1\n  Revision: x\n",
                Some("1.6.20~ds1"),
            ),
            (
                "Kata Containers containerd shim (Golang): id: \"io.containerd.kata.v2\", version: 3.2.0, commit: abc\n",
                Some("3.2.0"),
            ),
            ("Version: \nRevision: 1", None),
            ("hello", None),
        ] {
            assert_eq!(number(said), expected, "{said}");
        }
    }

    #[test]
    fn shim_that_is_not_katas_isolates_by_process_only() {
        for (said, expected) in [
            (
                "containerd-shim-runc-v2:\n  Version:  1.6.20~ds1\n",
                Isolation::Process,
            ),
            (
                "containerd-shim-kata-v2:\n  Version:  1.6.20\n",
                Isolation::Process,
            ),
            (
                "Kata Containers containerd shim (Golang): id: \"io.containerd.kata.v2\", version: 3.2.0\n",
                Isolation::Vm,
            ),
        ] {
            assert_eq!(isolation(said), expected, "{said}");
        }
    }

    #[test]
    fn machine_outside_its_cgroup_is_noticed() {
        for (text, expected) in [
            ("[runtime]\nsandbox_cgroup_only = true\n", true),
            ("[runtime]\nsandbox_cgroup_only = false\n", false),
            ("[runtime]\nsandbox_cgroup_only = \"true\"\n", false),
            ("sandbox_cgroup_only = true\n", false),
            ("", false),
        ] {
            assert_eq!(keeps_within(text).unwrap(), expected, "{text}");
        }
    }
}
