//! Providers, budgets and agents that an administrator registered by RPC, and which models agents were switched to: one file in pawd's
//! state, in the form of those of root, read before them.
//!
//! pawd writes it, so it is trusted for no more than it is for: it says who answers, what that may cost and what agents there are, and
//! nothing else, and what root's files say of that is theirs: a name that they have, an agent of which they name the provider, the model
//! or the route, and the weakest isolation. It is read before the drop, for the keys and ports that it names, which is why it is a file
//! and not a table of the store; and who reads it may be root, so no link is followed.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{
    Config,
    check::Written,
    fault::Faults,
    file::File,
    source::{self, Source},
    value,
};

/// Its name in pawd's state.
const FILE: &str = "providers.toml";

/// The longest file that is read, in bytes; [`MOST`] of everything are below it.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The most providers and the most agents that can be registered, and the most agents that can be switched.
pub const MOST: usize = 64;

/// What was registered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// Provider of agents that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_provider: Option<String>,
    /// All of them, by name.
    #[serde(default)]
    pub provider: BTreeMap<String, Entry>,
    /// Budgets, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budget: BTreeMap<String, BudgetEntry>,
    /// Agents, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub agent: BTreeMap<String, AgentEntry>,
    /// Who answers for an agent of which root's files do not say it, by the agent's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub switched: BTreeMap<String, Switched>,
}

/// Who answers for an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switched {
    /// Which provider, registered or of root's.
    pub provider: String,
    /// With which model.
    pub model: String,
}

/// One provider, with the keys of a `[provider.NAME]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "they are the keys of a section, see `file::Provider`"
)]
pub struct Entry {
    pub kind: String,
    pub base_url: String,
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_credential: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_plaintext: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_receive: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_interval: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
}

/// The most budgets that can be registered. Every question looks at all of them.
pub const MOST_BUDGETS: usize = 16;

/// One budget, with the keys of a `[budget.NAME]` section.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "they are the keys of a section, see `file::Budget`"
)]
pub struct BudgetEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<String>,
    pub per: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

/// One agent, with the keys of an `[agent.NAME]` section.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "they are the keys of a section, see `file::Agent`"
)]
pub struct AgentEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_floor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skills: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_leave_host: Option<bool>,
}

/// Why what was registered cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum RegisteredError {
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what pawd writes.
    #[error(
        "{path} is not what pawd wrote ({why}); mend it, or move it away to start without registered providers"
    )]
    Foreign {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It cannot be written.
    #[error("write {path}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where it is.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    state.join(FILE)
}

impl Registered {
    /// Reads it; without the file nothing is registered.
    ///
    /// # Errors
    /// When it cannot be read, belongs to somebody else, or says anything but providers.
    pub fn read(state: &Path) -> Result<Self, RegisteredError> {
        let path = path(state);
        let failed = |source| RegisteredError::Read {
            path: path.clone(),
            source,
        };
        let foreign = |why: String| RegisteredError::Foreign {
            path: path.clone(),
            why,
        };
        // Not blocking, so that a pipe in its place does not stop the start.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let facts = file.metadata().map_err(failed)?;
        let owner = fs::metadata(state).map_err(failed)?.uid();
        if !facts.is_file() || facts.nlink() != 1 || facts.uid() != owner {
            return Err(foreign("it is no file of its own".into()));
        }
        let mut text = String::new();
        file.take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(foreign("it is too long".into()));
        }
        let read: Self = toml::from_str(&text)
            .map_err(|error: toml::de::Error| foreign(error.message().to_owned()))?;
        let models = read.switched.values();
        if let Some(bad) = models
            .map(|it| &it.model)
            .find(|it| value::model(it).is_err())
        {
            return Err(foreign(format!("{bad:?} is no name of a model")));
        }
        Ok(read)
    }

    /// Notes what comes from this file, which is ours.
    pub(super) fn mark(config: &mut Config, ours: &str) {
        for settings in config.providers.values_mut() {
            settings.registered = settings.file == ours;
        }
        for settings in config.budgets.values_mut() {
            settings.registered = settings.file == ours;
        }
    }

    /// Has those answer to whom agents were switched. What root's files say has the last word, and a provider that is gone answers for
    /// nobody: then what the files say holds again.
    pub(super) fn switch(&self, config: &mut Config) {
        for (agent, settings) in &mut config.agents {
            let Some(to) = self.switched.get(agent.as_str()) else {
                continue;
            };
            let provider = config
                .providers
                .keys()
                .find(|name| name.as_str() == to.provider);
            if let (Some(provider), None) = (provider, &settings.answerer_fixed_in) {
                settings.provider = Some(provider.clone());
                settings.route = None;
                settings.model = Some(to.model.clone());
                settings.switched = true;
            }
        }
    }

    /// Leaves out budgets of an agent or a provider that root's files do not have any more: nothing can be spent of them, and what is
    /// registered keeps no pawd from starting.
    pub(super) fn forget_strays(&mut self, written: &Written) {
        let mut faults = Faults::default();
        let files: Vec<_> = written
            .files
            .iter()
            .map(|it| source::parse(it, &mut faults))
            .collect();
        let providers = &self.provider;
        let provider = |name: &String| {
            let of_root = |file: &File| file.provider.keys().any(|key| key.get_ref() == name);
            providers.contains_key(name) || files.iter().any(of_root)
        };
        let agents = &self.agent;
        let agent = |name: &String| {
            let of_root = |file: &File| file.agent.keys().any(|key| key.get_ref() == name);
            name == "default" || agents.contains_key(name) || files.iter().any(of_root)
        };
        self.budget.retain(|_, budget| {
            budget.provider.as_ref().is_none_or(provider) && budget.agent.as_ref().is_none_or(agent)
        });
    }

    /// Puts it in the place of what was there; after a crash it is the one or the other.
    ///
    /// # Errors
    /// When the disk does not take it; then everything is as before.
    pub fn write(&self, state: &Path) -> Result<(), RegisteredError> {
        let (path, new) = (path(state), state.join("providers.toml.new"));
        let text = self.text();
        let written = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(state)?.sync_all()
        };
        written().map_err(|source| RegisteredError::Write { path, source })
    }

    /// Its providers, budgets and agents as a configuration file.
    #[must_use]
    pub fn source(&self, state: &Path) -> Source {
        let providers = Self {
            switched: BTreeMap::new(),
            ..self.clone()
        };
        Source {
            name: path(state).display().to_string(),
            text: providers.text(),
        }
    }

    fn text(&self) -> String {
        toml::to_string(self).expect("texts, numbers and tables of them have a TOML")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::check::{Written, check_all};

    fn entry(url: &str, key: Option<&str>) -> Entry {
        Entry {
            kind: "openai".into(),
            base_url: url.into(),
            model: "m".into(),
            api_key_credential: key.map(str::to_owned),
            max_retries: Some(1),
            check_interval: Some("5000ms".into()),
            ..Entry::default()
        }
    }

    fn one(entry: Entry) -> Registered {
        Registered {
            provider: BTreeMap::from([("mine".to_owned(), entry)]),
            ..Registered::default()
        }
    }

    fn written(text: &str) -> Written {
        Written {
            files: vec![Source {
                name: "pawd.toml".into(),
                text: text.into(),
            }],
            policies: None,
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(
            Registered::read(state.path()).unwrap(),
            Registered::default()
        );
        let registered = Registered {
            default_provider: Some("mine".into()),
            ..one(entry("https://example.com", Some("k")))
        };
        for _ in 0..2 {
            registered.write(state.path()).unwrap();
            assert_eq!(Registered::read(state.path()).unwrap(), registered);
        }
    }

    #[test]
    fn link_or_pipe_in_its_place_is_not_followed() {
        let state = tempfile::tempdir().unwrap();
        let place = path(state.path());
        let secret = state.path().join("secret");
        fs::write(&secret, "x").unwrap();
        symlink(&secret, &place).unwrap();
        assert!(Registered::read(state.path()).is_err());
        fs::remove_file(&place).unwrap();
        fs::hard_link(&secret, &place).unwrap();
        assert!(Registered::read(state.path()).is_err());
        fs::remove_file(&place).unwrap();
        nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Registered::read(state.path()).is_err());
    }

    #[test]
    fn it_says_what_is_registered_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        for text in [
            "[roles]\nadmin = \"users\"",
            "[confinement]\nlandlock_floor = 1",
            "[agent.default]\nlimits = \"none\"",
            "[sandbox]\nisolation_floor = \"process\"",
            "[switched.default]\nprovider = \"a\"\nmodel = \"m\"\nskills = [\"files\"]",
            "[switched.default]\nprovider = \"a\"\nmodel = \"\\u0007\"",
            "[provider.x]\nkind = \"openai\"\nbase_url = \"https://a\"\nmodel = \"m\"\nmore = 1",
        ] {
            fs::write(path(state.path()), text).unwrap();
            let read = Registered::read(state.path());
            assert!(
                matches!(read, Err(RegisteredError::Foreign { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn file_of_root_has_the_last_word() {
        let state = Path::new("/state");
        let file = |default: &str| {
            written(&format!(
                "{default}\n[provider.theirs]\nkind = \"ollama\"\nbase_url = \"http://127.0.0.1:1\"\nmodel = \"m\""
            ))
        };
        let mut registered = one(entry("https://example.com", None));
        let theirs = entry("https://example.com", None);
        registered.provider.insert("theirs".into(), theirs);
        registered.default_provider = Some("mine".into());
        let read = |default: &str| {
            let config = check_all(&file(default), &registered, state).unwrap();
            let of_root = |name: &str| !config.providers[&name.parse().unwrap()].registered;
            assert!(of_root("theirs") && !of_root("mine"));
            (
                config.default_provider.map(|name| name.to_string()),
                config.default_fixed_in,
            )
        };
        assert_eq!(read(""), (Some("mine".into()), None));
        let fixed = read("default_provider = \"theirs\"");
        assert_eq!(fixed, (Some("theirs".into()), Some("pawd.toml".into())));
    }

    #[test]
    fn agent_of_which_a_file_says_who_answers_is_switched_there_alone() {
        let mut registered = one(entry("https://example.com", None));
        let to = Switched {
            provider: "mine".into(),
            model: "other".into(),
        };
        for agent in ["default", "named", "free", "nobody"] {
            registered.switched.insert(agent.into(), to.clone());
        }
        let gone = Switched {
            provider: "gone".into(),
            ..to
        };
        registered.switched.insert("lost".into(), gone);
        let file = "[agent.named]\nmodel = \"theirs\"\n[agent.free]\nmax_tokens = 5\n[agent.lost]\nmax_tokens = 5\n";
        let config = check_all(&written(file), &registered, Path::new("/state")).unwrap();
        let answers = |name: &str| {
            let agent = &config.agents[&name.parse().unwrap()];
            (agent.model.as_deref(), agent.switched)
        };
        assert_eq!(answers("default"), (Some("other"), true));
        assert_eq!(answers("free"), (Some("other"), true));
        assert_eq!(answers("named"), (Some("theirs"), false));
        assert_eq!(answers("lost"), (None, false));
        assert_eq!(config.agents.len(), 4);
    }

    #[test]
    fn what_the_next_start_would_refuse_is_refused_when_it_is_registered() {
        let long = entry(&format!("https://example.com/{}", "x".repeat(3_000)), None);
        let slow = Entry {
            total_timeout: Some("25h".into()),
            ..entry("https://example.com", None)
        };
        for bad in [long, slow] {
            let checked = check_all(&written(""), &one(bad.clone()), Path::new("/state"));
            assert!(checked.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn as_many_as_can_be_registered_can_be_read_again() {
        let state = tempfile::tempdir().unwrap();
        let times = Some(format!("{}ms", u64::MAX));
        let largest = Entry {
            base_url: format!("https://example.com/{}", "'".repeat(2_028)),
            // The characters that take most room when they are written.
            model: "\u{80}".repeat(value::MAX_MODEL / 2),
            api_key_credential: Some("x".repeat(64)),
            connect_timeout: times.clone(),
            first_token_timeout: times.clone(),
            stall_timeout: times.clone(),
            total_timeout: times,
            ..entry("", None)
        };
        let all = (0..MOST).map(|at| (format!("{at:0>64}"), largest.clone()));
        // What takes most room when it is written, in lists as long as they may be.
        let listed = |item: &str| Some(vec![item.to_owned(); 64]);
        let agent = |at: usize| {
            let entry = AgentEntry {
                instructions: Some("\u{7}".repeat(16 * 1024)),
                model: largest.model.clone().into(),
                skills: listed(&"x".repeat(64)),
                agents: listed(&"x".repeat(64)),
                net: listed(&"x".repeat(260)),
                ..AgentEntry::default()
            };
            (format!("{at:0>64}"), entry)
        };
        let registered = Registered {
            default_provider: None,
            budget: BTreeMap::new(),
            agent: (0..MOST).map(agent).collect(),
            provider: all.collect(),
            switched: (0..MOST)
                .map(|at| {
                    let to = Switched {
                        provider: "x".repeat(64),
                        // Each of them takes two when it is written.
                        model: "\"".repeat(value::MAX_MODEL),
                    };
                    (format!("{at:0>64}"), to)
                })
                .collect(),
        };
        registered.write(state.path()).unwrap();
        assert_eq!(Registered::read(state.path()).unwrap(), registered);
    }

    #[test]
    fn default_that_went_with_roots_file_stops_no_start() {
        let registered = Registered {
            default_provider: Some("gone".into()),
            ..one(entry("https://example.com", None))
        };
        let config = check_all(&written(""), &registered, Path::new("/state")).unwrap();
        assert_eq!(config.default_provider.unwrap().as_str(), "mine");
    }
}
