//! The command line of `pawctl secret`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::values::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Make the vault, and show its recovery key this once
    Init(NewKey),
    /// Show how the vault is, and what is missing
    Status,
    /// Open the vault: with its passphrase, or with the key that pawd was started with
    Unlock {
        /// With the recovery key
        #[arg(long)]
        recovery: bool,
    },
    /// Seal the vault: nobody has a secret until it is unlocked
    Lock,
    /// Give the vault another key, while it is used, and show its new recovery key this once
    Rekey(NewKey),
    /// Keep a value under a new name; it is asked for on the terminal, or read from stdin
    Set {
        /// Its name
        name: String,
    },
    /// List secrets, and who may use them
    List,
    /// Show one secret and its versions, without any value
    Show {
        /// Its name
        name: String,
    },
    /// Give a secret another value, asked for on the terminal or read from stdin
    Rotate {
        /// Its name
        name: String,
        /// How long the value before can be used, by who names its version (NAME@1); without it, it is destroyed at once
        #[arg(long, value_name = "TIME", value_parser = duration)]
        keep: Option<Duration>,
    },
    /// Destroy a secret, or one older version of it
    Remove {
        /// Its name
        name: String,
        /// This version alone
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Let somebody use a secret: a provider, or a broker for an agent or a skill
    Allow {
        /// Its name
        name: String,
        #[command(flatten)]
        users: Users,
    },
    /// Let them use it no longer
    Deny {
        /// Its name
        name: String,
        #[command(flatten)]
        users: Users,
    },
    /// Write the whole vault, encrypted as it is, to a new file
    Export {
        /// The file; nobody else may read it
        file: PathBuf,
    },
    /// Put such a file in the place of the vault, and open it with a key that it was made with
    Import {
        /// The file
        file: PathBuf,
        /// With the recovery key
        #[arg(long, conflicts_with = "passphrase")]
        recovery: bool,
        /// With a passphrase
        #[arg(long)]
        passphrase: bool,
        /// Even if it is older than the vault that is there, or of another one: what came after it is lost
        #[arg(long)]
        force: bool,
    },
    /// List uses, refusals and changes of secrets, newest first
    Log {
        /// Of this secret alone
        name: Option<String>,
        /// Older than this record
        #[arg(long, value_name = "SEQ")]
        before: Option<u64>,
        /// At most so many, up to 1000
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
}

/// Who is meant, at least one. What goes out through a broker takes two: the broker, and the agent or the skill that asks.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Users {
    /// As KIND:NAME, where KIND is provider, broker, agent or skill
    #[arg(value_name = "USER")]
    users: Vec<String>,
    /// A provider of models, as its key
    #[arg(long, value_name = "NAME")]
    provider: Vec<String>,
    /// A [broker.NAME] of egress.toml, which adds it to requests of those who may use it
    #[arg(long, value_name = "NAME")]
    broker: Vec<String>,
    /// An agent, with all its skills and commands
    #[arg(long, value_name = "NAME")]
    agent: Vec<String>,
    /// A skill, whichever agent uses it
    #[arg(long, value_name = "NAME")]
    skill: Vec<String>,
}

impl Users {
    /// All of them, as KIND:NAME.
    pub(crate) fn all(self) -> Vec<String> {
        let of = |kind: &'static str, names: Vec<String>| {
            names.into_iter().map(move |name| format!("{kind}:{name}"))
        };
        self.users
            .into_iter()
            .chain(of("provider", self.provider))
            .chain(of("broker", self.broker))
            .chain(of("agent", self.agent))
            .chain(of("skill", self.skill))
            .collect()
    }
}

/// Which key a vault is to have; without any of these, the one that pawd was started with.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct NewKey {
    /// A passphrase, which is asked for; the vault is sealed at each start until somebody gives it
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// A new key in the file vault.key of the configuration, which only root reads
    #[arg(long)]
    pub(crate) key_file: bool,
}
