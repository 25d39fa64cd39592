//! The Debian packages, by debhelper on the staged tree; the root of the checkout stays free of `debian/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{cargo, changelog, fresh, stage};

/// Makes `pawd` and `pawctl`; gives their files.
pub(crate) fn deb(root: &Path, staged: &Path) -> Result<Vec<PathBuf>> {
    let out = cargo::target(root).join("packages/deb");
    let recipe = root.join("packaging/debian");
    fresh::unless(
        &out,
        "deb",
        &[staged, &recipe, &root.join("packaging/CHANGELOG.md")],
        || {
            let source = out.join("pawd");
            lay_out(root, staged, &recipe, &source)?;
            let mut build = Command::new("dpkg-buildpackage");
            build.current_dir(&source).args([
                "--build=binary",
                "--unsigned-changes",
                "--unsigned-source",
            ]);
            build.env(
                "SOURCE_DATE_EPOCH",
                changelog::epoch(&changelog::read(root)?)?,
            );
            // Its own log is long and only of interest when it fails.
            cargo::output(&mut build).map(drop)
        },
    )
}

/// The source directory that dpkg-buildpackage expects: the tree, and `debian/` with the units under debhelper's names.
fn lay_out(root: &Path, staged: &Path, recipe: &Path, source: &Path) -> Result<()> {
    let debian = source.join("debian");
    fs::create_dir_all(source).with_context(|| format!("make {}", source.display()))?;
    cargo::run(
        Command::new("cp")
            .arg("-a")
            .arg(staged)
            .arg(source.join("tree")),
    )?;
    cargo::run(Command::new("cp").arg("-a").arg(recipe).arg(&debian))?;
    for (name, path) in stage::files(&root.join("units"))? {
        let (unit, kind) = name
            .rsplit_once('.')
            .with_context(|| format!("{name} has no suffix"))?;
        match kind {
            "sysusers" | "tmpfiles" => copy(&path, &debian.join(&name))?,
            "service" | "socket" if unit == "pawd" => copy(&path, &debian.join(&name))?,
            "service" | "socket" => copy(&path, &debian.join(format!("pawd.{name}")))?,
            // Debian enables what is installed; slices are installed with the rest of the tree.
            _ => {}
        }
    }
    copy(
        &root.join("packaging/CHANGELOG.md"),
        &source.join("CHANGELOG.md"),
    )?;
    let log = debian.join("changelog");
    fs::write(&log, changelog::debian(&changelog::read(root)?)?)
        .with_context(|| format!("write {}", log.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}
