//! The words on the command line, and nothing else. Man pages and completions are made from [`command`].

mod agent;
mod approval;
mod audit;
mod guard;
mod image;
mod job;
mod model;
mod policy;
mod provider;
mod sandbox;
mod secret;
mod session;
mod workspace;

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use self::{
    agent::{Agent, Says},
    approval::Approval,
    audit::{Audit, AuditFilter, ExportFormat},
    guard::Guard,
    image::Image,
    job::Job,
    model::Model,
    policy::Policy,
    provider::{More, Provider},
    sandbox::{Exec, Run, Sandbox},
    secret::{NewKey, Secret},
    session::{Session, Written},
    workspace::Workspaces,
};
use crate::values::duration;

/// The whole command line, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Administers pawd: status, chat, actions, approvals, sandboxes, audit.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 pawd not reachable, 4 denied, 5 waiting for approval (with --no-wait), 6 not
/// found, 124 deadline passed. `sandbox run` gives the exit code of the command itself, 125 when there was no sandbox.
#[derive(Debug, Parser)]
#[command(name = "pawctl", version = crate::VERSION, subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// What stdout shall hold
    #[arg(
        short = 'o',
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Give up after this long: 500ms, 30s, 5m, 2h (a plain number is seconds)
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// No colours, whatever the terminal can do
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Never start a pager
    #[arg(long, global = true)]
    pub(crate) no_pager: bool,
    /// Directory that pawd was started with as --root
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Control socket of pawd (also: PAWD_SOCKET) [default: /run/pawd/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// What stdout shall hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    #[default]
    Table,
    /// The result of the method, unchanged
    Json,
    /// One line of JSON for each item
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how pawd and its processes are, and what confines them
    Status,
    /// Say what is wrong and what to do; works when pawd is down, too
    Doctor {
        /// Try hostile things from outside and report what was seen
        #[arg(long)]
        prove: bool,
    },
    /// Show news: the kept ones, or with -f those that come
    Events {
        /// Go on with news as they happen
        #[arg(short, long)]
        follow: bool,
        /// Begin after this number
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
    },
    /// Print what pawd has counted and timed, as OpenMetrics text
    Metrics,
    /// Print the completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Call any method; `rpc rpc.discover` lists them
    Rpc {
        /// Name of the method
        method: String,
        /// Parameters as JSON; `-` reads them from stdin
        params: Option<String>,
    },
    /// Talk with an agent
    Chat(Chat),
    /// Ask for actions and see what became of them
    #[command(subcommand)]
    Action(Action),
    /// Answer what waits for a person
    #[command(subcommand)]
    Approval(Approval),
    /// Show and register agents
    #[command(subcommand)]
    Agent(Agent),
    /// Show, export or delete conversations
    #[command(subcommand)]
    Session(Session),
    /// Run commands in sandboxes of their own
    #[command(subcommand)]
    Sandbox(Sandbox),
    /// Decide on what runs wrote to workspaces
    #[command(subcommand)]
    Workspace(Workspaces),
    /// Show, install and check skills, and call their tools
    #[command(subcommand)]
    Skill(Skill),
    /// Offer the tools of an agent to another program, as an MCP server over stdin and stdout
    Mcp {
        /// Which agent's [default: default]
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Show, register and test providers
    #[command(subcommand)]
    Provider(Provider),
    /// Show routes: providers that stand in for each other
    #[command(subcommand)]
    Route(Named),
    /// Show what was spent, and say what may be
    #[command(subcommand)]
    Budget(Budget),
    /// Have agents told something at set times
    #[command(subcommand)]
    Job(Job),
    /// Keep secrets in the vault, and say who may use them; no command shows one
    #[command(subcommand)]
    Secret(Secret),
    /// Show models, have another one answer, fetch and load them
    #[command(subcommand)]
    Model(Model),
    /// Show, check and explain the rules
    #[command(subcommand)]
    Policy(Policy),
    /// Screen texts for injected instructions
    #[command(subcommand)]
    Guard(Guard),
    /// Show, check and reload the configuration
    #[command(subcommand)]
    Config(Config),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Write a copy of the store
    Backup {
        /// File on pawd's host, in its backup directory; it must not exist
        file: String,
    },
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// What to say; `-` reads stdin; without it a conversation begins
    pub(crate) text: Option<String>,
    /// Which agent
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// Go on with this conversation
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Which provider
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Which model
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Which route, in place of a provider and a model
    #[arg(long, value_name = "NAME", conflicts_with_all = ["provider", "model"])]
    pub(crate) route: Option<String>,
    /// Only a provider on this host may answer
    #[arg(long, conflicts_with = "background")]
    pub(crate) local_only: bool,
    /// The answer has to follow the JSON schema in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Show this picture, too (PNG, JPEG, WebP or GIF); may be given again
    #[arg(long = "image", value_name = "FILE", requires = "text")]
    pub(crate) images: Vec<PathBuf>,
    /// Print the action's id and do not wait for the answer
    #[arg(long, requires = "text")]
    pub(crate) background: bool,
    /// Print the answer when it is complete
    #[arg(long)]
    pub(crate) no_stream: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Do not wait for the end; exit code 5 when a person has to answer first
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Ask for something and wait until it is done
    Submit {
        /// chat, tool_call, skill_change, model_switch or config_change
        kind: String,
        /// Arguments as a JSON object; `-` reads them from stdin
        arguments: String,
        /// On behalf of which agent
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
        /// In which conversation
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// List actions, newest first
    List {
        /// Only those in this state
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// At most this many [default: 50]
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<u32>,
        /// Go on after the page that ended here
        #[arg(long, value_name = "ID")]
        before: Option<String>,
    },
    /// Show one action with its plan
    Show {
        /// Its id, or a unique beginning of it
        id: String,
    },
    /// Wait until an action is final
    Wait {
        /// Its id, or a unique beginning of it
        id: String,
    },
    /// Take an action back
    Cancel {
        /// Its id, or a unique beginning of it
        id: String,
    },
    /// Say which rules decided, and how they read
    Explain {
        /// Its id, or a unique beginning of it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Named {
    /// List all
    List,
    /// Show one
    Show {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Budget {
    /// Show what was spent and set aside since a budget last began
    Show {
        /// Its name; all of them if not given
        name: Option<String>,
    },
    /// Register a budget, or change one that was registered; what is not given stays
    Set {
        /// Its name
        name: String,
        /// What may be spent, in US dollars
        #[arg(long, value_name = "DOLLARS", value_parser = crate::values::dollars)]
        cost: Option<u64>,
        /// Tokens that may be used
        #[arg(long, value_name = "N")]
        tokens: Option<u64>,
        /// After which time it begins anew: day, month or ever
        #[arg(long)]
        per: Option<String>,
        /// Split it: each provider, model, agent, user, session has all of it
        #[arg(long, value_name = "WORD", value_delimiter = ',')]
        each: Option<Vec<String>>,
        /// On questions to this provider alone
        #[arg(long)]
        provider: Option<String>,
        /// On questions to this model alone
        #[arg(long)]
        model: Option<String>,
        /// By this agent alone
        #[arg(long)]
        agent: Option<String>,
        /// By this user alone
        #[arg(long)]
        user: Option<String>,
        /// Remove it
        #[arg(long, conflicts_with_all = ["cost", "tokens", "per", "each", "provider", "model", "agent", "user"])]
        remove: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Skill {
    /// List skills
    List,
    /// Show one skill and its tools
    Show {
        /// Its name
        name: String,
    },
    /// Call a tool and wait for its result
    Call {
        /// Name of the skill
        skill: String,
        /// Name of the tool
        tool: String,
        /// Arguments as a JSON object; `-` reads them from stdin
        #[arg(default_value = "{}")]
        arguments: String,
        /// On behalf of which agent
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
        /// In which conversation
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Send a bundle, show what it would be allowed to do, and have it installed once somebody approves it
    Install {
        /// Its directory, with skill.toml
        path: PathBuf,
        #[command(flatten)]
        wait: Wait,
    },
    /// Compare the files of installed skills with what was approved; what differs is disabled
    Verify {
        /// Only this one
        name: Option<String>,
    },
    /// Have a disabled skill used again, once somebody approves it
    Enable {
        /// Its name
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Switch an installed skill off, at once
    Disable {
        /// Its name
        name: String,
    },
    /// Have an installed skill and its files removed, once somebody approves it
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Show what pawd runs on, defaults included
    Show,
    /// Check the files without touching the running pawd
    Check,
    /// Read the files again; a fault leaves everything as it is
    Reload,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Round trips of a trivial method over the control socket
    Rpc {
        /// How many requests in all
        #[arg(long, value_name = "N", conflicts_with = "duration")]
        requests: Option<u64>,
        /// How many connections, each with one request at a time
        #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
        concurrency: u16,
        /// For how long [default: 5s]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        duration: Option<Duration>,
    },
    /// Chats with a model that answers at once, and what pawd adds to them
    Chat(ChatLoad),
    /// A command in a sandbox of its own, from the request to its end
    Sandbox(SandboxLoad),
}

#[derive(Debug, Args)]
pub(crate) struct ChatLoad {
    /// The model is a part of pawctl, and listens where the provider is: at a free port of this host
    #[arg(long, required = true)]
    pub(crate) stub: bool,
    /// The provider; of kind openai-compatible, and configured for measuring alone
    #[arg(long, value_name = "NAME", default_value = "stub")]
    pub(crate) provider: String,
    /// How many chats in all
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) requests: Option<u64>,
    /// How many connections, each with one chat at a time
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) concurrency: u16,
    /// For how long [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Tokens of each answer, each sent by itself
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) tokens: u16,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxLoad {
    /// How many sandboxes in all
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) requests: Option<u64>,
    /// How many connections, each with one sandbox at a time
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) concurrency: u16,
    /// For how long [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// What makes the sandboxes
    #[arg(long, value_parser = ["auto", "native", "gvisor", "kata"])]
    pub(crate) runtime: Option<String>,
    /// Installed image, absolute directory, or `host` [default: base]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// From the request to the end of a command in a sandbox that is made for it; this is the default
    #[arg(long, conflicts_with_all = ["pool", "worker"])]
    pub(crate) cold: bool,
    /// From the claim of a sandbox that waits to the first byte of output
    #[arg(long, conflicts_with = "worker")]
    pub(crate) pool: bool,
    /// One JSON line through a command that runs, and its answer; `--requests` are the lines [default: 10000]
    #[arg(long, conflicts_with_all = ["concurrency", "duration"])]
    pub(crate) worker: bool,
    /// The command [default: `true`, with --pool `echo ready`, with --worker `cat`]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_is_for() {
        fn check(command: &clap::Command) {
            assert!(
                command.get_about().is_some(),
                "{} has no description",
                command.get_name()
            );
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no help",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
