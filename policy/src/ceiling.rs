//! How confidential what leaves for somebody may be. Labels say what data is; a ceiling says what its receiver is for.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::words::{Taint, TaintSet, UnknownWord};

/// How confidential what somebody is sent may be at most.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Ceiling {
    /// What is neither private nor secret.
    Public,
    /// What is not secret.
    Private,
    /// Everything.
    Secret,
}

impl Ceiling {
    /// Every ceiling, from the lowest.
    pub const ALL: [Self; 3] = [Self::Public, Self::Private, Self::Secret];

    /// The word that stands for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Secret => "secret",
        }
    }

    /// The lowest ceiling under which data with these labels is.
    #[must_use]
    pub fn over(labels: &TaintSet) -> Self {
        match (labels.has(Taint::Secret), labels.has(Taint::Private)) {
            (true, _) => Self::Secret,
            (false, true) => Self::Private,
            (false, false) => Self::Public,
        }
    }

    /// Whether data with these labels is under it.
    #[must_use]
    pub fn admits(self, labels: &TaintSet) -> bool {
        Self::over(labels) <= self
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Ceiling {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|ceiling| ceiling.as_str() == text)
            .ok_or_else(|| UnknownWord(text.to_owned()))
    }
}
