//! The command line of `pawctl agent`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List all
    List,
    /// Show one
    Show {
        /// Its name
        name: String,
    },
    /// Register an agent; it is kept over restarts
    Create {
        /// Its name; "default" in place of the one that is always there
        name: String,
        #[command(flatten)]
        says: Says,
    },
    /// Change an agent that was registered; what is not given stays
    Edit {
        /// Its name
        name: String,
        #[command(flatten)]
        says: Says,
        /// Say this of it no more, so that the default holds again
        #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = KEYS)]
        unset: Vec<String>,
    },
    /// Remove an agent that was registered
    Remove {
        /// Its name
        name: String,
    },
}

/// What can be said of an agent, by its keys in pawd.toml(5).
const KEYS: [&str; 13] = [
    "instructions",
    "provider",
    "model",
    "route",
    "isolation_floor",
    "workspace",
    "skills",
    "agents",
    "net",
    "max_turns",
    "max_tokens",
    "temperature",
    "may_leave_host",
];

/// What is said of an agent.
#[derive(Debug, Args)]
pub(crate) struct Says {
    /// What it is told before each conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) instructions: Option<String>,
    /// The same, out of a file
    #[arg(long, value_name = "FILE", conflicts_with = "instructions")]
    pub(crate) instructions_file: Option<PathBuf>,
    /// Which provider answers for it
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// With which model, if not the provider's
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Which route answers for it, in place of a provider
    #[arg(long, conflicts_with_all = ["provider", "model"])]
    pub(crate) route: Option<String>,
    /// The weakest isolation that will do for its tools: process, kernel or vm
    #[arg(long, value_name = "FLOOR")]
    pub(crate) isolation_floor: Option<String>,
    /// What becomes of what its tools write: commit, or stage for a person to decide
    #[arg(long, value_name = "WORD")]
    pub(crate) workspace: Option<String>,
    /// Skills that it may use: all of them
    #[arg(long, value_name = "SKILL", value_delimiter = ',')]
    pub(crate) skills: Option<Vec<String>>,
    /// Other agents that it may ask: all of them
    #[arg(long, value_name = "AGENT", value_delimiter = ',')]
    pub(crate) agents: Option<Vec<String>>,
    /// What its sandboxes may reach at most: all of it
    #[arg(long, value_name = "HOST:PORT|broker/NAME", value_delimiter = ',')]
    pub(crate) net: Option<Vec<String>>,
    /// How often its model may call tools in one turn of a conversation
    #[arg(long, value_name = "N")]
    pub(crate) max_turns: Option<u32>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// How much chance is in an answer, 0 to 2
    #[arg(long, value_name = "NUMBER")]
    pub(crate) temperature: Option<f64>,
    /// What was said with a provider on this host may go to one elsewhere
    #[arg(long)]
    pub(crate) may_leave_host: bool,
}
