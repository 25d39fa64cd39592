//! The command line of `pawctl model`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Compare the arms of a route
    ///
    /// A chat counts for the target that its plan names first, whoever answered it in the end; times, tokens and costs are
    /// those of that target's own attempts. The newest 20000 chats that are remembered are looked at.
    Ab {
        /// The route
        #[arg(value_name = "ROUTE")]
        route: String,
    },
    /// List models
    List {
        /// Only those of this provider
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// Show one model: what it can hold and do, where the provider tells
    Show {
        /// Its name
        name: String,
        /// Which provider; the default one if not given
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// Have another model answer from now on, once it has answered a question; Ctrl-C before that leaves all as it was
    Switch {
        /// Its name
        #[arg(required_unless_present = "back")]
        model: Option<String>,
        /// Which provider; the one that answers now if not given
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        /// For this agent alone; else it is what the provider uses for all who name no model
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
        /// For the agent answers again whom the configuration says
        #[arg(long, requires = "agent", conflicts_with_all = ["model", "provider", "unlisted"])]
        back: bool,
        /// Take a model that the provider does not list
        #[arg(long)]
        unlisted: bool,
    },
    /// Have a provider fetch a model (Ollama); Ctrl-C ends it
    Pull {
        /// Its name
        model: String,
        /// Which provider; the default one if not given
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// Load a model, so that its next question need not wait for that
    Warm {
        /// Its name; the provider's own if not given
        model: Option<String>,
        /// Which provider; the default one if not given
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
}
