//! The image `base`: the small root file system that sandboxes get when nothing else is asked for.
//!
//! It is Debian's static busybox with a link per applet, two name files and empty mount points. No package manager, no
//! set-uid program, nothing that phones home.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::{cargo, elf, tree::Tree};

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: &str = "/bin/busybox";

/// What the launcher mounts over, or what programs expect to be there.
const EMPTY: [&str; 17] = [
    "dev",
    "etc",
    "home",
    "lib",
    "lib64",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "skill",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "var/tmp",
    "workspace",
];

/// Puts the image into `tree` at `at`.
pub(crate) fn base(tree: &mut Tree, at: &str) -> Result<()> {
    let busybox = std::fs::read(BUSYBOX)
        .ok()
        .filter(|file| elf::has_interpreter(file) == Some(false));
    ensure!(
        busybox.is_some(),
        "{BUSYBOX} is missing or not static; install Debian's busybox-static"
    );
    tree.file(&format!("{at}/bin/busybox"), 0o755, Path::new(BUSYBOX))?;
    for applet in cargo::output(Command::new(BUSYBOX).arg("--list"))?
        .lines()
        .filter(|name| *name != "busybox")
    {
        tree.link(&format!("{at}/bin/{applet}"), "busybox")?;
    }
    for path in EMPTY {
        tree.dir(&format!("{at}/{path}"))?;
    }
    tree.bytes(
        &format!("{at}/etc/passwd"),
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    tree.bytes(
        &format!("{at}/etc/group"),
        0o644,
        b"root:x:0:\nnogroup:x:65534:\n",
    )
}
