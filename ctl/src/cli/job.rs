//! `pawctl job`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// List jobs, and how their last runs came out
    List,
    /// Have an agent told something at set times
    Add {
        /// What it is told; `-` reads stdin
        text: String,
        /// When: minute, hour, day of the month, month, day of the week, as in crontab(5)
        #[arg(long, value_name = "SCHEDULE")]
        cron: String,
        /// In which time zone, such as Europe/Berlin [default: the one here]
        #[arg(long, value_name = "ZONE")]
        tz: Option<String>,
        /// Which agent
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
        /// What it shall be called [default: a number]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Begin a run also while the one before it goes on
        #[arg(long)]
        overlap: bool,
        /// Make up for what was missed while pawd did not run, by one run
        #[arg(long)]
        catch_up: bool,
    },
    /// Remove a job; a run that goes on is not cancelled
    Remove {
        /// Its name, or its id
        job: String,
    },
    /// Begin a run now
    Run {
        /// Its name, or its id
        job: String,
    },
    /// Show its runs, newest first
    History {
        /// Its name, or its id
        job: String,
        /// At most this many [default: 20]
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<u32>,
    },
}
