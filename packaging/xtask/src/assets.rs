//! What is generated from pawctl's own command tree, so that it cannot say anything else than the program does: one man page
//! per command, and completions for three shells.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap_complete::{Shell, generate_to};

/// Writes `man1/*.1` and `completions/*` below `out`, anew.
pub(crate) fn assets(out: &Path) -> Result<PathBuf> {
    let (man, completions) = (out.join("man1"), out.join("completions"));
    for dir in [&man, &completions] {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    clap_mangen::generate_to(pawctl::cli::command(), &man)
        .context("write the man pages of pawctl")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut pawctl::cli::command(), "pawctl", &completions)
            .with_context(|| format!("write completions for {shell}"))?;
    }
    Ok(out.to_path_buf())
}
