//! The words after `pawctl sandbox`.

use clap::{Args, Subcommand};
use paw_api::egress::NetRule;

use super::{Image, Wait};
use crate::values::{milli, net, size};

#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// Show which runtimes there are and what was proven of them here
    Runtimes,
    /// Run a command in a sandbox of its own; --timeout is the life of the sandbox
    Run(Box<Run>),
    /// List running sandboxes
    List,
    /// Show a sandbox, running or ended not long ago
    Show {
        /// Its id
        id: String,
    },
    /// Run a further command in a sandbox that runs
    Exec(Box<Exec>),
    /// Print the last of what a sandbox's command said
    Logs {
        /// Its id
        id: String,
        /// Go on until the sandbox has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Show what running sandboxes have used
    Stats {
        /// Only this one
        id: Option<String>,
    },
    /// Forget sandboxes that have ended, and what they said
    Gc,
    /// Add, list and remove images
    #[command(subcommand)]
    Image(Image),
    /// Kill every process of a sandbox
    Kill {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Id of the sandbox
    pub(crate) id: String,
    /// A variable of the environment
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Working directory inside [default: /]
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Pass stdin on to the command
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give the command a terminal, which is the one we run in: keys, size and what is shown; keys go to it where stdin is a terminal
    #[arg(short = 't', long, conflicts_with = "json_result")]
    pub(crate) tty: bool,
    /// Print how it ended as one line of JSON; what the command writes goes to stderr
    #[arg(long)]
    pub(crate) json_result: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What makes the sandbox
    #[arg(long, value_parser = ["auto", "native", "gvisor", "kata"])]
    pub(crate) runtime: Option<String>,
    /// The weakest isolation that will do
    #[arg(long, value_parser = ["process", "kernel", "vm"])]
    pub(crate) isolation_floor: Option<String>,
    /// Installed image, absolute directory, or `host` [default: base]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// How many CPUs, for example 0.5
    #[arg(long, value_name = "N", value_parser = milli)]
    pub(crate) cpus: Option<u32>,
    /// Memory, for example 256M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
    /// Temporary disk, for example 100M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) disk: Option<u64>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    pub(crate) pids: Option<u32>,
    /// Share of a disk that several want at once, 1 to 10000; refused where the kernel cannot keep it [usual: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) io_weight: Option<u16>,
    /// Output that is passed on, for example 10M; the rest is thrown away
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_output: Option<u64>,
    /// What it may reach: HOST:PORT, '*.NAME:PORT' or broker/NAME, more than once; after a comma may follow method=GET+HEAD,
    /// path=/v1/, sent=1M, received=10M, requests=100 [default: none]
    #[arg(long, value_name = "none|HOST:PORT", value_parser = net)]
    pub(crate) net: Vec<Option<NetRule>>,
    /// A variable of the environment
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// The workspace of an agent, at /workspace; what is written there waits for a decision
    #[arg(long, value_name = "AGENT")]
    pub(crate) workspace: Option<String>,
    /// A mount
    #[arg(long, value_name = "SRC:DST[:ro]")]
    pub(crate) mount: Vec<String>,
    /// Working directory inside [default: /]
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Make a sandbox for this command alone, even if one waits for it
    #[arg(long)]
    pub(crate) cold: bool,
    /// Pass stdin on to the command
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give the command a terminal, which is the one we run in: keys, size and what is shown; keys go to it where stdin is a terminal
    #[arg(short = 't', long, conflicts_with_all = ["json_result", "detach"])]
    pub(crate) tty: bool,
    /// Let it go on without us: print the sandbox's id and end; `pawctl sandbox logs -f ID` reads along
    #[arg(long, short = 'd', conflicts_with_all = ["stdin", "json_result"])]
    pub(crate) detach: bool,
    /// Print how it ended as one line of JSON; what the command writes goes to stderr
    #[arg(long)]
    pub(crate) json_result: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}
