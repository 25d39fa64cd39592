//! The RPM packages, by rpmbuild on the staged tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{cargo, changelog, fresh, stage};

/// Makes `pawd` and `pawctl`; gives their files.
pub(crate) fn rpm(root: &Path, staged: &Path) -> Result<Vec<PathBuf>> {
    let out = cargo::target(root).join("packages/rpm");
    let recipe = root.join("packaging/rpm/pawd.spec");
    fresh::unless(
        &out,
        "rpm",
        &[staged, &recipe, &root.join("packaging/CHANGELOG.md")],
        || {
            let tree = out.join("tree");
            lay_out(root, staged, &tree)?;
            let entries = changelog::read(root)?;
            let spec = out.join("pawd.spec");
            let text = fs::read_to_string(&recipe)
                .with_context(|| format!("read {}", recipe.display()))?;
            fs::write(&spec, text + "\n" + &changelog::rpm(&entries)?)
                .with_context(|| format!("write {}", spec.display()))?;
            let mut build = Command::new("rpmbuild");
            build
                .env("SOURCE_DATE_EPOCH", changelog::epoch(&entries)?)
                .arg("-bb");
            for (name, value) in [
                ("_topdir", out.join("work").as_path()),
                ("_rpmdir", out.as_path()),
                (
                    "_rpmfilename",
                    Path::new("%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"),
                ),
                ("stage", tree.as_path()),
                ("ver", Path::new(env!("CARGO_PKG_VERSION"))),
                // The same bytes for the same tree, whoever builds.
                ("_buildhost", Path::new("reproducible")),
                ("use_source_date_epoch_as_buildtime", Path::new("1")),
                ("clamp_mtime_to_source_date_epoch", Path::new("1")),
            ] {
                build
                    .arg("--define")
                    .arg(format!("{name} {}", value.display()));
            }
            cargo::output(
                build
                    .arg("--target")
                    .arg(format!("{}-linux", std::env::consts::ARCH))
                    .arg(spec),
            )
            .map(drop)
        },
    )
}

/// A copy of the tree with what this family of distributions wants otherwise: compressed man pages, a licence file.
fn lay_out(root: &Path, staged: &Path, tree: &Path) -> Result<()> {
    cargo::run(Command::new("cp").arg("-a").arg(staged).arg(tree))?;
    let manuals = tree.join("usr/share/man");
    for section in ["man1", "man5", "man7", "man8"] {
        let pages = stage::files(&manuals.join(section))?;
        cargo::run(
            Command::new("gzip")
                .args(["-9", "-n"])
                .args(pages.iter().map(|(_, page)| page)),
        )?;
    }
    for package in ["pawd", "pawctl"] {
        let notices = tree.join("usr/share/doc").join(package).join("THIRD-PARTY");
        cargo::run(Command::new("gzip").args(["-9", "-n"]).arg(notices))?;
        let dir = tree.join("usr/share/licenses").join(package);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        fs::copy(root.join("LICENSE"), dir.join("LICENSE"))
            .with_context(|| format!("copy LICENSE to {}", dir.display()))?;
    }
    Ok(())
}
