//! Exit codes of pawd, as sysexits.h names them; units and scripts rely on them.

use std::process::ExitCode;

/// The command line cannot be meant.
pub const USAGE: u8 = 64;
/// Something of ours failed that should not.
pub const SOFTWARE: u8 = 70;
/// A right, user or kernel feature that pawd needs is missing.
pub const PERMISSION: u8 = 77;
/// The configuration is wrong; a restart will not help.
pub const CONFIG: u8 = 78;

/// Why pawd ends, and with which code.
#[derive(Debug)]
pub enum Fatal {
    /// [`CONFIG`]
    Config(anyhow::Error),
    /// [`PERMISSION`]
    Permission(anyhow::Error),
    /// [`SOFTWARE`]
    Software(anyhow::Error),
}

impl Fatal {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) => CONFIG,
            Self::Permission(_) => PERMISSION,
            Self::Software(_) => SOFTWARE,
        })
    }

    /// What happened, with every cause.
    #[must_use]
    pub const fn error(&self) -> &anyhow::Error {
        match self {
            Self::Config(error) | Self::Permission(error) | Self::Software(error) => error,
        }
    }
}

impl From<anyhow::Error> for Fatal {
    fn from(error: anyhow::Error) -> Self {
        Self::Software(error)
    }
}
