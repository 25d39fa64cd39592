//! The words of `pawctl audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::values::moment;

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List records, newest first
    List(AuditFilter),
    /// Show one record
    Show {
        /// Its number
        seq: u64,
    },
    /// Show the newest records, oldest of them first
    Tail {
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        lines: u32,
        /// Go on with records as they come
        #[arg(short, long)]
        follow: bool,
    },
    /// Check chain and signatures: exit 0 whole, 1 tampered with, 2 cannot be verified, 3 torn tail
    Verify {
        /// Log directory, or a file in it, to check without pawd
        #[arg(group = "elsewhere")]
        path: Option<PathBuf>,
        /// What audit prove wrote, to check with nothing but the public key
        #[arg(long, value_name = "FILE", group = "elsewhere", requires = "key")]
        proof: Option<PathBuf>,
        /// Public key that was kept elsewhere; without it the one beside the log
        #[arg(long, value_name = "FILE", requires = "elsewhere")]
        key: Option<PathBuf>,
        /// First keys of the records' codes, as paw-audit --hand-out-key wrote them: finds a log that was signed anew
        #[arg(long, value_name = "FILE", requires = "path")]
        codes: Option<PathBuf>,
        /// Checkpoints that were kept elsewhere: a copy of audit.checkpoint, the journal of paw-audit, or what a server of syslog got
        #[arg(long, value_name = "FILE", requires = "elsewhere")]
        witness: Vec<PathBuf>,
    },
    /// Write a proof that a record is in the log, which audit verify --proof checks without the log
    Prove {
        /// The record's number
        seq: u64,
        /// File to make; stdout if not given
        file: Option<PathBuf>,
        /// Number of the checkpoint to prove it by, such as one that was kept elsewhere [default: the first one after the record]
        #[arg(long, value_name = "N")]
        checkpoint: Option<u64>,
        /// Log directory, or a file in it [default: that of this host]
        #[arg(long, value_name = "PATH")]
        log: Option<PathBuf>,
    },
    /// Write records, oldest first, as JSON lines or for a collector of events
    Export {
        /// File to make; stdout if not given
        file: Option<PathBuf>,
        /// Log directory, or a file in it, to read without pawd
        #[arg(long, value_name = "PATH")]
        log: Option<PathBuf>,
        /// From this record on
        #[arg(long, value_name = "SEQ", default_value_t = 1)]
        from: u64,
        /// JSON lines, or lines of the Common Event Format
        #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ExportFormat::Jsonl)]
        format: ExportFormat,
    },
}

/// What records are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Exactly as they are stored.
    Jsonl,
    /// For systems that collect events.
    Cef,
}

#[derive(Debug, Args)]
pub(crate) struct AuditFilter {
    /// Only those since this time: 2h (ago), or 2026-11-24T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<u64>,
    /// Only those until this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<u64>,
    /// Only those of what this user did
    #[arg(long, value_name = "UID")]
    pub(crate) uid: Option<u32>,
    /// Only those about this agent
    #[arg(long, value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// Only those about actions of this kind
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// Only those of what ended so: completed, failed, done, ...
    #[arg(long, value_name = "OUTCOME")]
    pub(crate) outcome: Option<String>,
    /// Only those about this action
    #[arg(long, value_name = "ID")]
    pub(crate) action: Option<String>,
    /// Only those of this event
    #[arg(long, value_name = "EVENT")]
    pub(crate) event: Option<String>,
    /// Only those with a smaller number
    #[arg(long, value_name = "SEQ")]
    pub(crate) before: Option<u64>,
    /// At most this many [default: 50]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}
