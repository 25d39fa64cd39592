//! The words of `pawctl approval`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::values::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Approval {
    /// List questions that wait for a person
    List,
    /// Show one question with the exact plan
    Show {
        /// Its id
        id: String,
    },
    /// Say yes to exactly the plan that is shown, once
    Approve {
        /// Its id
        id: String,
        #[command(flatten)]
        answer: Answer,
        /// Do not ask again
        #[arg(long)]
        yes: bool,
        /// A one-time code of your authenticator, for what takes a second factor; `-` reads it from stdin
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
        /// Grant what is like this for so long, too: 10m, 1h, at most a day
        #[arg(long = "for", value_name = "TIME", requires = "like", value_parser = duration)]
        for_time: Option<Duration>,
        /// What `--for` is for: the same tool, user, agent and kind of arguments, and its directory, host, or exactly its arguments
        #[arg(long, value_name = "this", value_parser = ["this"], requires = "for_time")]
        like: Option<String>,
    },
    /// Say no
    Deny {
        /// Its id
        id: String,
        #[command(flatten)]
        answer: Answer,
    },
    /// Show questions as they come, and answer them by a key
    Watch,
    /// List what is granted for a while
    Grants,
    /// Take a grant back
    Revoke {
        /// Its id
        id: String,
    },
    /// Enroll your authenticator for one-time codes, with a QR code
    Enroll {
        /// A code of the authenticator that you have already
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
    },
    /// Remove the authenticator of another user
    Forget {
        /// Their user id
        uid: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Answer {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Only if the plan has this digest
    #[arg(long, value_name = "SHA256")]
    pub(crate) digest: Option<String>,
}
