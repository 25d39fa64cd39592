//! How confidential what a skill's tool gives back is: by its class, by what its calls see, and by what its manifest says.

use paw_policy::{Taint, TaintSet, ToolClass};
use serde::{Deserialize, Serialize};

use super::{
    least::reaches,
    manifest::{Skill, Tool},
};

/// How confidential what a tool gives back is, where its class does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidentiality {
    /// It leaves this host only by a person's yes to exactly that.
    Private,
    /// It stays on this host.
    Secret,
}

impl Confidentiality {
    /// The word that stands for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Secret => "secret",
        }
    }
}

impl Tool {
    /// The labels of what it gives back that say how confidential that is (rule R1): given by pawd for what was approved with the
    /// skill, never by what the tool says. Who sees a directory may tell of what an agent keeps there, whatever else it does, and who sees
    /// files of the host of those. Nobody knows what was left in what of the host a skill writes: it may be a secret.
    #[must_use]
    pub fn confidential(&self, skill: &Skill) -> TaintSet {
        let private = || TaintSet::of(Taint::Private);
        let by_class = match self.class {
            ToolClass::ReadPublic => TaintSet::default(),
            _ if skill.workspace.any() => private(),
            class => confidential(class),
        };
        let said = match self.confidentiality {
            None => TaintSet::default(),
            Some(Confidentiality::Private) => private(),
            Some(Confidentiality::Secret) => TaintSet::of(Taint::Secret),
        };
        by_class.with(&said).with(&self.sees(skill))
    }

    /// Those of what its calls see beside what an agent keeps: what such a call writes may have been read there, so it has them, too.
    #[must_use]
    pub fn sees(&self, skill: &Skill) -> TaintSet {
        let private = TaintSet::of(Taint::Private);
        let said = match self.confidentiality {
            None | Some(Confidentiality::Private) => TaintSet::default(),
            Some(Confidentiality::Secret) => TaintSet::of(Taint::Secret),
        };
        if reaches(self.class) || skill.mounts.is_empty() {
            said
        } else if skill.mounts.iter().any(|it| it.writable) {
            said.with(&private).with(&TaintSet::of(Taint::Secret))
        } else {
            said.with(&private)
        }
    }
}

/// The same by the class alone: what an agent keeps is not for everybody.
#[must_use]
pub fn confidential(class: ToolClass) -> TaintSet {
    match class {
        ToolClass::ReadPrivate => TaintSet::of(Taint::Private),
        ToolClass::ReadPublic
        | ToolClass::WriteLocalReversible
        | ToolClass::WriteDestructive
        | ToolClass::Egress
        | ToolClass::Money
        | ToolClass::Exec
        | ToolClass::Admin => TaintSet::default(),
    }
}
