//! Making packages again only when something that goes into them is newer than they are.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};

use crate::stage;

/// Empties `out` and runs `make`, unless `out` has files of this suffix that are newer than all `inputs`; gives the files.
pub(crate) fn unless(
    out: &Path,
    suffix: &str,
    inputs: &[&Path],
    make: impl FnOnce() -> Result<()>,
) -> Result<Vec<PathBuf>> {
    let made = with_suffix(out, suffix).unwrap_or_default();
    let made_at = made
        .iter()
        .map(|file| modified(file))
        .collect::<Result<Vec<_>>>()?;
    let changed_at = inputs
        .iter()
        .map(|input| newest(input))
        .collect::<Result<Vec<_>>>()?;
    if made_at
        .iter()
        .min()
        .is_some_and(|oldest| Some(oldest) >= changed_at.iter().max())
    {
        return Ok(made);
    }
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    make()?;
    let made = with_suffix(out, suffix)?;
    ensure!(
        !made.is_empty(),
        "no .{suffix} came out in {}",
        out.display()
    );
    // Both packagers date what they make by the changelog, to be reproducible; here it must be the time of making.
    for file in &made {
        let now = fs::File::options()
            .append(true)
            .open(file)
            .and_then(|file| file.set_modified(SystemTime::now()));
        now.with_context(|| format!("date {}", file.display()))?;
    }
    Ok(made)
}

fn with_suffix(dir: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let files = stage::files(dir)?.into_iter().map(|(_, path)| path);
    Ok(files
        .filter(|path| path.extension().is_some_and(|found| found == suffix))
        .collect())
}

fn newest(path: &Path) -> Result<SystemTime> {
    let mut time = modified(path)?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
            time = time.max(newest(
                &entry
                    .with_context(|| format!("read {}", path.display()))?
                    .path(),
            )?);
        }
    }
    Ok(time)
}

fn modified(path: &Path) -> Result<SystemTime> {
    let found = path.symlink_metadata().and_then(|found| found.modified());
    found.with_context(|| format!("look at {}", path.display()))
}
