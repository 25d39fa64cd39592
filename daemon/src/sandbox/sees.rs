//! Which directory the calls of a skill see, at `/workspace`.

use paw_policy::{Digest, Name};
use serde::{Deserialize, Serialize, Serializer};

use super::manifest::Skill;

/// How much of the names of a skill and an agent is in the name of a directory.
const SHOWN: usize = 20;

/// Which directory a skill's calls see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "Said")]
pub enum Sees {
    /// None.
    #[default]
    Nothing,
    /// The agent's workspace.
    Workspace,
    /// One of its own for each agent, which no other skill sees.
    Own,
}

impl Sees {
    /// Whether there is one.
    #[must_use]
    pub const fn any(self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Workspace | Self::Own => true,
        }
    }
}

impl Serialize for Sees {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_bool(false),
            Self::Workspace => serializer.serialize_bool(true),
            Self::Own => serializer.serialize_str("own"),
        }
    }
}

/// As a manifest says it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "true, false or \"own\" is expected")]
enum Said {
    Flag(bool),
    Word(Word),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Own,
}

impl From<Said> for Sees {
    fn from(said: Said) -> Self {
        match said {
            Said::Flag(false) => Self::Nothing,
            Said::Flag(true) => Self::Workspace,
            Said::Word(Word::Own) => Self::Own,
        }
    }
}

impl Skill {
    /// The name of the directory that its calls for this agent see.
    #[must_use]
    pub fn directory(&self, agent: &Name) -> Option<Name> {
        match self.workspace {
            Sees::Nothing => None,
            Sees::Workspace => Some(agent.clone()),
            Sees::Own => Some(own(&self.name, agent)),
        }
    }
}

/// The name of a skill's own directory for an agent: theirs, as far as there is room, and a digest, so that it is nobody else's.
#[must_use]
pub fn own(skill: &Name, agent: &Name) -> Name {
    let digest = Digest::of(format!("{agent}/{skill}").as_bytes()).to_string();
    let short = |name: &Name| name.as_str().chars().take(SHOWN).collect::<String>();
    let name = format!("{}-{}-{}", short(skill), short(agent), &digest[..16]);
    name.parse()
        .expect("two names and hexadecimal digits with hyphens between them are a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_skill_and_agent_has_a_directory_of_its_own() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let long = "a.".repeat(31) + "ab";
        let mut all: Vec<Name> = [
            ("memory", "default"),
            ("memory", "other"),
            ("memory-default", "x"),
            ("memory", "default-x"),
            (&long, &long),
            (&long, "default"),
        ]
        .map(|(skill, agent)| own(&name(skill), &name(agent)))
        .into();
        assert!(all[0].as_str().starts_with("memory-default-"), "{}", all[0]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn a_manifest_says_yes_no_or_own() {
        let read = |text: &str| {
            #[derive(Deserialize)]
            struct File {
                workspace: Sees,
            }
            toml::from_str::<File>(text).map(|file| file.workspace)
        };
        assert_eq!(read("workspace = true").unwrap(), Sees::Workspace);
        assert_eq!(read("workspace = false").unwrap(), Sees::Nothing);
        assert_eq!(read("workspace = \"own\"").unwrap(), Sees::Own);
        let error = read("workspace = \"all\"").unwrap_err().to_string();
        assert!(error.contains("is expected"), "{error}");
    }
}
