//! `pawctl session`: what was said.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

/// How a conversation is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Written {
    /// `{session, summary, turns}`, with all that pawd keeps.
    Json,
    /// Markdown.
    Md,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// List conversations, newest first
    List {
        /// At most this many [default: 50]
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<u32>,
        /// Go on after the page that ended here
        #[arg(long, value_name = "ID")]
        before: Option<String>,
        /// Also those that agents began by asking each other
        #[arg(long)]
        all: bool,
    },
    /// Show what was said
    Show {
        /// Its id
        id: String,
    },
    /// Write a whole conversation to a file
    Export {
        /// Its id
        id: String,
        /// File to make; stdout if not given
        file: Option<PathBuf>,
        /// As a document for programs, or as one for people
        #[arg(long, value_enum, default_value_t = Written::Json)]
        format: Written,
    },
    /// Remove a conversation and those that its agent began for it; their actions and the audit log stay
    Delete {
        /// Its id
        id: String,
    },
}
