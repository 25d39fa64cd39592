//! The words of `pawctl policy`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Show the rules in force
    Show,
    /// Check rule files without pawd; those of this host if none is named
    Check {
        /// Cedar files
        files: Vec<PathBuf>,
    },
    /// Try cases against rule files without pawd; exit code 1 if one is not as expected
    Test {
        /// Cases, as TOML or JSON; see paw-policy(5)
        file: PathBuf,
        /// Cedar files; those of this host if none is named
        #[arg(long = "rules", value_name = "FILE")]
        rules: Vec<PathBuf>,
    },
    /// Say which rules decided about an action, and by what facts
    Explain {
        /// The action's id, or a unique beginning of it
        id: String,
    },
    /// Read the rules again; a fault leaves those in force as they are
    Reload,
}
