//! The command line of `pawctl provider`.

use std::time::Duration;

use clap::{Args, Subcommand};
use paw_policy::Ceiling;

use crate::values::{ceiling, duration};

#[derive(Debug, Subcommand)]
pub(crate) enum Provider {
    /// List providers: state, how long answers take (p50 / p95), last error
    List,
    /// Show one provider
    Show {
        /// Its name
        name: String,
    },
    /// Register a provider; it is kept over restarts
    Add {
        /// Its name
        name: String,
        /// ollama, openai, openai-compatible, anthropic, gemini or mistral
        #[arg(long)]
        kind: String,
        /// Where it is; https, or http on this host
        #[arg(long, value_name = "URL")]
        base_url: String,
        /// Model that is used when none is named
        #[arg(long)]
        model: String,
        #[command(flatten)]
        more: More,
    },
    /// Change a provider that was registered; what is not given stays
    Edit {
        /// Its name
        name: String,
        /// Which wire it speaks
        #[arg(long)]
        kind: Option<String>,
        /// Where it is
        #[arg(long, value_name = "URL")]
        base_url: Option<String>,
        /// Model that is used when none is named
        #[arg(long)]
        model: Option<String>,
        /// It needs no key any more
        #[arg(long, conflicts_with_all = ["api_key_credential", "api_key_secret"])]
        no_api_key: bool,
        /// Http may be spoken to this host alone again
        #[arg(long, conflicts_with = "allow_plaintext")]
        no_allow_plaintext: bool,
        /// Its model is not made ready at the start any more
        #[arg(long, conflicts_with = "warm")]
        no_warm: bool,
        #[command(flatten)]
        more: More,
    },
    /// Remove a provider that was registered
    Remove {
        /// Its name
        name: String,
    },
    /// Make a provider the one of agents that name none
    Default {
        /// Its name
        name: String,
    },
    /// Let routes ask a provider again that they leave alone because it failed
    Reset {
        /// Its name
        name: String,
    },
    /// Ask a provider a short question, and show what that took
    Test {
        /// Its name; the default one if not given
        name: Option<String>,
    },
}

/// What a provider can do without.
#[derive(Debug, Args)]
pub(crate) struct More {
    /// Secret of the vault that is its key, or one version of it (NAME@2), never the key
    #[arg(long, value_name = "NAME", conflicts_with = "api_key_credential")]
    pub(crate) api_key_secret: Option<String>,
    /// Credential that holds its key: the name of a file, never the key
    #[arg(long, value_name = "NAME")]
    pub(crate) api_key_credential: Option<String>,
    /// Http may be spoken to another host; whoever is in between reads everything
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
    /// How confidential what it is sent may be at most: public, private or secret; secret is for this host alone
    #[arg(long, value_name = "LEVEL", value_parser = ceiling)]
    pub(crate) may_receive: Option<Ceiling>,
    /// Make its model ready when pawd starts
    #[arg(long)]
    pub(crate) warm: bool,
    /// How often a question that failed for the moment is asked again
    #[arg(long, value_name = "N")]
    pub(crate) max_retries: Option<u32>,
    /// How often it is asked whether it is there
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) check_interval: Option<Duration>,
    /// Time to connect
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) connect_timeout: Option<Duration>,
    /// Time to the first token
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) first_token_timeout: Option<Duration>,
    /// Time between two parts of an answer
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) stall_timeout: Option<Duration>,
    /// Time for a whole answer
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) total_timeout: Option<Duration>,
}
