//! The installed tree: every file that a package will own, at the place where it will be, with its mode.
//!
//! pawd finds its parts from its own path, so the tree runs as it stands: tests and `packaging/quickstart` use it, and the
//! packages are made from it, which is why nothing can be in the one and missing in the other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    assets,
    cargo::{self, Built, Profile},
    elf, image, notices,
    tree::Tree,
};

/// Builds everything and lays it out; gives the root of the tree.
pub(crate) fn stage(root: &Path, profile: Profile) -> Result<PathBuf> {
    let built = cargo::build(root, profile)?;
    let generated = assets::assets(&cargo::target(root).join("assets"))?;
    let mut tree = Tree::at(cargo::target(root).join("stage").join(profile.directory()))?;
    programs(&mut tree, &built)?;
    image::base(&mut tree, "usr/lib/pawd/images/base")?;
    for skill in ["fetch", "files", "memory", "shell"] {
        let at = format!("usr/lib/pawd/skills/{skill}");
        tree.file(
            &format!("{at}/skill.toml"),
            0o644,
            &root.join(format!("daemon/skills/{skill}/skill.toml")),
        )?;
        let program = format!("paw-{skill}");
        let built = built.linked.join(&program);
        linked(&mut tree, &format!("{at}/bin/{program}"), &built)?;
    }
    linked(
        &mut tree,
        "usr/lib/pawd/images/probe/bin/paw-probe",
        &built.linked.join("paw-probe"),
    )?;
    system(&mut tree, root)?;
    manuals(&mut tree, root, &generated)?;
    if profile == Profile::Release {
        // Of what is packaged; each of the packages can be installed without the other.
        let notices = notices::third_party(root)?;
        for package in ["pawd", "pawctl"] {
            let path = format!("usr/share/doc/{package}/THIRD-PARTY");
            tree.bytes(&path, 0o644, notices.as_bytes())?;
        }
    }
    tree.finish()
}

fn programs(tree: &mut Tree, built: &Built) -> Result<()> {
    tree.file("usr/sbin/pawd", 0o755, &built.host.join("pawd"))?;
    tree.file("usr/bin/pawctl", 0o755, &built.host.join("pawctl"))?;
    for name in [
        "paw-launcher",
        "paw-image",
        "paw-workspace",
        "paw-audit",
        "paw-egress",
        "paw-launcher-kata",
        "paw-shim",
    ] {
        tree.file(
            &format!("usr/libexec/pawd/{name}"),
            0o755,
            &built.host.join(name),
        )?;
    }
    for name in ["paw-init", "paw-create"] {
        linked(
            tree,
            &format!("usr/libexec/pawd/{name}"),
            &built.linked.join(name),
        )?;
    }
    Ok(())
}

/// A program that must not need a library: of whatever root it meets inside of a sandbox, or for the time that takes.
fn linked(tree: &mut Tree, path: &str, from: &Path) -> Result<()> {
    let file = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    ensure!(
        elf::has_interpreter(&file) == Some(false),
        "{} is not a static binary; in a sandbox it could not start",
        from.display()
    );
    tree.bytes(path, 0o755, &file)
}

/// What systemd, the journal and the administrator find.
fn system(tree: &mut Tree, root: &Path) -> Result<()> {
    let units = root.join("units");
    for (name, path) in files(&units)? {
        match name.rsplit_once('.').map(|(_, kind)| kind) {
            Some("service" | "socket" | "slice") => {
                tree.file(&format!("usr/lib/systemd/system/{name}"), 0o644, &path)?
            }
            Some("preset") => tree.file(
                &format!("usr/lib/systemd/system-preset/{name}"),
                0o644,
                &path,
            )?,
            Some("sysusers") => tree.file("usr/lib/sysusers.d/pawd.conf", 0o644, &path)?,
            Some("tmpfiles") => tree.file("usr/lib/tmpfiles.d/pawd.conf", 0o644, &path)?,
            _ => anyhow::bail!(
                "{} is of a kind that has no place in the installed tree",
                path.display()
            ),
        }
    }
    let packaging = root.join("packaging");
    tree.file(
        "usr/lib/systemd/catalog/pawd.catalog",
        0o644,
        &packaging.join("pawd.catalog"),
    )?;
    tree.file(
        "etc/pawd/pawd.toml",
        0o644,
        &packaging.join("etc/pawd.toml"),
    )?;
    tree.file(
        "etc/pawd/launcher.toml",
        0o644,
        &root.join("daemon/launcher/launcher.toml"),
    )?;
    tree.file(
        "etc/pawd/launcher-kata.toml",
        0o644,
        &root.join("daemon/kata/launcher-kata.toml"),
    )?;
    tree.file(
        "etc/pawd/egress.toml",
        0o644,
        &root.join("daemon/egress/egress.toml"),
    )?;
    tree.dir("etc/pawd/pawd.d")?;
    tree.file(
        "etc/pawd/policy/10-default.cedar",
        0o644,
        &root.join("policy/default.cedar"),
    )
}

fn manuals(tree: &mut Tree, root: &Path, generated: &Path) -> Result<()> {
    for (name, path) in files(&root.join("packaging/man"))?
        .into_iter()
        .chain(files(&generated.join("man1"))?)
    {
        let section = name
            .rsplit_once('.')
            .map(|(_, section)| section)
            .with_context(|| format!("{name} has no section"))?;
        tree.file(&format!("usr/share/man/man{section}/{name}"), 0o644, &path)?;
    }
    let completions = generated.join("completions");
    tree.file(
        "usr/share/bash-completion/completions/pawctl",
        0o644,
        &completions.join("pawctl.bash"),
    )?;
    tree.file(
        "usr/share/zsh/site-functions/_pawctl",
        0o644,
        &completions.join("_pawctl"),
    )?;
    tree.file(
        "usr/share/fish/vendor_completions.d/pawctl.fish",
        0o644,
        &completions.join("pawctl.fish"),
    )?;
    tree.file(
        "usr/share/doc/pawd/CHANGELOG.md",
        0o644,
        &root.join("packaging/CHANGELOG.md"),
    )?;
    tree.file(
        "usr/share/doc/pawd/single-operator.cedar",
        0o644,
        &root.join("policy/single-operator.cedar"),
    )?;
    tree.file(
        "usr/share/doc/pawd/default.cases.toml",
        0o644,
        &root.join("policy/default.cases.toml"),
    )?;
    tree.file(
        "usr/share/doc/pawd/prices.toml",
        0o644,
        &root.join("daemon/prices.toml"),
    )
}

/// The files of a directory by name, in order.
pub(crate) fn files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        if entry
            .file_type()
            .with_context(|| format!("look at {}", entry.path().display()))?
            .is_file()
        {
            let name = entry
                .file_name()
                .into_string()
                .ok()
                .with_context(|| format!("{} is not named in UTF-8", entry.path().display()))?;
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
