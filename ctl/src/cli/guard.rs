//! The words of `pawctl guard`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Guard {
    /// Say how suspicious a text is, and why, without pawd
    Scan {
        /// The text; `-` or nothing reads stdin
        text: Option<String>,
    },
    /// Screen a file of labelled texts without pawd, and say what was found and how fast
    Eval {
        /// One JSON object a line: `id`, `text`, `kind` (`attack` or `benign`), `channel`, and `source` if there is one
        file: PathBuf,
    },
}
