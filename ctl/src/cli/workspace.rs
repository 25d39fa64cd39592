//! The command line of `pawctl workspace`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Workspaces {
    /// List what is pending, and what was committed and can be undone
    List {
        /// Only the workspace of this agent
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
    },
    /// Show what a run changed: files, sizes, modes, and how texts differ
    Diff {
        /// Id of the sandbox that wrote it
        id: String,
    },
    /// Make what a run wrote part of the workspace, exactly as it was shown
    Commit {
        /// Id of the sandbox that wrote it
        id: String,
        /// The digest that was shown; without it, the changes are shown and you are asked
        #[arg(long, value_name = "SHA256")]
        digest: Option<String>,
        /// Commit what is there without asking
        #[arg(long, conflicts_with = "digest")]
        yes: bool,
    },
    /// Throw away what a run wrote
    Discard {
        /// Id of the sandbox that wrote it
        id: String,
    },
    /// Take back a commit and every one after it
    Undo {
        /// Id of the sandbox that wrote it
        id: String,
    },
}
