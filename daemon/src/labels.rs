//! Where what agents keep came from: the taint of each directory that their skills write to, and of each thing in it that a tool names.
//!
//! It is pawd's to know and nobody's to say: a skill runs in a sandbox and could say anything. So a call that may write leaves the taint of
//! all that its turn had read, before anything of it is started; and whatever a tool gives back of such a directory brings the taint that
//! was left there into the turn that reads it (rules R1 and R2). Labels only accumulate. What a skill that ships names by an
//! argument (`item` in its manifest) has a label of its own, because that skill is ours; of every other one all things are one.
//!
//! One file, `labels.json` in pawd's own state, as before or as after whatever is killed when. It is written when a label is new, not
//! with each call.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paw_policy::{Name, Operation, Plan, Taint, TaintSet, ToolArguments, ToolClass};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::sandbox::{Provenance, Skill, Skills, least::reaches};

/// Things of one directory that have a label of their own; any further one counts as all of them.
const MAX_ITEMS: usize = 4096;

/// The longest name of a thing, in bytes; a longer one counts as all of them.
const MAX_ITEM: usize = 256;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Why labels are not known, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The file is there and cannot be read.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path} is not what pawd wrote")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The disk does not take it.
    #[error("write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is secret would come to where something is that sends.
    #[error(
        "something that sends is reading directory {directory}, and what is secret does not come there meanwhile"
    )]
    Sending {
        /// Which directory.
        directory: Name,
    },
}

/// By the names of directories.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Kept(BTreeMap<Name, Labelled>);

/// A directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Labelled {
    /// Of whatever nobody named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<TaintSet>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    items: BTreeMap<String, TaintSet>,
}

/// All labels.
#[derive(Debug)]
pub struct Labels {
    state: PathBuf,
    /// Held for moments alone.
    known: Mutex<Known>,
    /// Held while the file is written, so it is used from threads that may block.
    writing: Mutex<()>,
}

#[derive(Debug)]
struct Known {
    kept: Kept,
    /// How many calls are under way that see a directory and send.
    sending: BTreeMap<Name, usize>,
}

/// Something that sees a directory is sending, until this is dropped.
#[derive(Debug)]
pub struct Sending {
    labels: Arc<Labels>,
    directory: Name,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut known = self.labels.lock();
        if let Some(count) = known.sending.get_mut(&self.directory) {
            *count -= 1;
            if *count == 0 {
                known.sending.remove(&self.directory);
            }
        }
    }
}

impl Labels {
    /// Those of an earlier pawd.
    ///
    /// # Errors
    /// When they are there and cannot be understood: then nobody knows where things came from, and pawd does not guess.
    pub fn open(state: &Path) -> Result<Self, LabelsError> {
        let path = file(state);
        let read = || {
            if fs::metadata(&path)?.len() > MAX_FILE {
                return Err(io::Error::other("it is longer than 64 MiB"));
            }
            fs::read(&path)
        };
        let kept = match read() {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| LabelsError::Json { path, source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(LabelsError::Read { path, source }),
        };
        Ok(Self {
            state: state.to_owned(),
            known: Mutex::new(Known {
                kept,
                sending: BTreeMap::new(),
            }),
            writing: Mutex::new(()),
        })
    }

    /// What this call may write has this taint from now on; it is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be kept. Then nothing may be written.
    pub fn leave(
        &self,
        skill: &Skill,
        agent: &Name,
        call: &ToolArguments,
        taint: &TaintSet,
    ) -> Result<(), LabelsError> {
        match skill.directory(agent) {
            Some(directory) => self.leave_in(directory, item(skill, call), taint),
            None => Ok(()),
        }
    }

    /// The same for a thing in a directory, or for all of it.
    ///
    /// # Errors
    /// As [`Labels::leave`].
    pub fn leave_in(
        &self,
        directory: Name,
        item: Option<String>,
        taint: &TaintSet,
    ) -> Result<(), LabelsError> {
        // Who comes second finds on disk what the first one left.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, changed) = {
            let mut known = self.lock();
            let before = known.kept.clone();
            let labelled = known.kept.0.entry(directory.clone()).or_default();
            let own = item.filter(|item| {
                labelled.items.contains_key(item.as_str()) || labelled.items.len() < MAX_ITEMS
            });
            let label = match own {
                Some(item) => labelled.items.entry(item).or_default(),
                None => labelled.all.get_or_insert_default(),
            };
            *label = std::mem::take(label).with(taint);
            let changed = known.kept.clone();
            if taint.has(Taint::Secret) && known.sending.contains_key(&directory) {
                known.kept = before;
                return Err(LabelsError::Sending { directory });
            }
            (before, changed)
        };
        // It counts from here on, so that nothing that sends begins meanwhile.
        if changed != before
            && let Err(error) = self.write(&changed)
        {
            self.lock().kept = before;
            return Err(error);
        }
        Ok(())
    }

    /// Something that sees this directory begins to send, as it was judged with this taint; nothing if something secret has come
    /// there since.
    #[must_use]
    pub fn sends(self: &Arc<Self>, directory: Name, judged: &TaintSet) -> Option<Sending> {
        let mut known = self.lock();
        if all_of(&known.kept, &directory).has(Taint::Secret) && !judged.has(Taint::Secret) {
            return None;
        }
        *known.sending.entry(directory.clone()).or_default() += 1;
        Some(Sending {
            labels: Arc::clone(self),
            directory,
        })
    }

    /// Where that came from which what is planned takes by itself out of a directory that it sees: of whatever sends, runs or writes.
    #[must_use]
    pub fn read_by(&self, skills: &Skills, plan: &Plan) -> TaintSet {
        match &plan.operation {
            Operation::ToolCall(call) => {
                let skill = skills.get(&call.skill);
                let acts = skill.as_deref().is_some_and(|skill| acts(skill, call));
                if !acts {
                    return TaintSet::default();
                }
                let kept = self.of(skill.as_deref(), &plan.agent, call);
                if reaches(call.class) || call.net.is_some() {
                    kept.with(&TaintSet::of(Taint::Private))
                } else {
                    kept
                }
            }
            Operation::SandboxRun(spec) => {
                let Some(directory) = workspace_of(spec) else {
                    return TaintSet::default();
                };
                // What an agent wrote is no reason to ask a person who runs a command of their own; what others had a part in is.
                let kept = all_of(&self.lock().kept, &directory);
                let kept = kept.iter().filter(|label| *label != Taint::Model);
                let kept = kept.fold(TaintSet::default(), |all, label| {
                    all.with(&TaintSet::of(label))
                });
                if reaches_out(spec) {
                    kept.with(&TaintSet::of(Taint::Private))
                } else {
                    kept
                }
            }
            Operation::Chat(_)
            | Operation::ApiCall(_)
            | Operation::SkillChange(_)
            | Operation::ModelSwitch(_)
            | Operation::ConfigChange(_)
            | Operation::SecretChange(_)
            | Operation::FileOperation(_) => TaintSet::default(),
        }
    }

    /// What a call of this tool may have given back came from here, too. Of a skill that is not there any more nobody knows
    /// which directory it had, so it is both.
    #[must_use]
    pub fn of(&self, skill: Option<&Skill>, agent: &Name, call: &ToolArguments) -> TaintSet {
        let known = self.lock();
        let mut taint = TaintSet::default();
        let directories = match skill {
            Some(skill) => skill.directory(agent).into_iter().collect(),
            None => vec![agent.clone(), crate::sandbox::own(&call.skill, agent)],
        };
        let item = skill.and_then(|skill| item(skill, call));
        for directory in directories {
            let Some(labelled) = known.kept.0.get(&directory) else {
                continue;
            };
            let of_items: Vec<&TaintSet> = match &item {
                Some(item) => labelled.items.get(item.as_str()).into_iter().collect(),
                None => labelled.items.values().collect(),
            };
            for label in of_items.into_iter().chain(&labelled.all) {
                taint = taint.with(label);
            }
        }
        taint
    }

    fn write(&self, kept: &Kept) -> Result<(), LabelsError> {
        let (path, new) = (file(&self.state), self.state.join("labels.json.new"));
        let written = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec(kept)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.state)?.sync_all()
        };
        written().map_err(|source| LabelsError::Write { path, source })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whatever is in a directory.
fn all_of(kept: &Kept, directory: &Name) -> TaintSet {
    let labelled = kept.0.get(directory).into_iter();
    let labels = labelled.flat_map(|labelled| labelled.items.values().chain(&labelled.all));
    labels.fold(TaintSet::default(), TaintSet::with)
}

/// Whether a call does something with what it finds in its skill's directory, before anybody hears of it.
fn acts(skill: &Skill, call: &ToolArguments) -> bool {
    // Only of what ships is it believed that it does what its arguments say.
    let blind = || {
        let tool = skill.tools.get(&call.tool);
        skill.origin == Provenance::Shipped && tool.is_some_and(|tool| tool.blind)
    };
    let may = match call.class {
        ToolClass::ReadPublic | ToolClass::ReadPrivate => false,
        ToolClass::WriteLocalReversible | ToolClass::WriteDestructive => !blind(),
        ToolClass::Egress | ToolClass::Money | ToolClass::Exec | ToolClass::Admin => true,
    };
    may && skill.workspace.any()
}

/// The workspace that a person's command sees.
#[must_use]
pub fn workspace_of(spec: &Map<String, Value>) -> Option<Name> {
    spec.get("workspace")?.as_str()?.parse().ok()
}

/// Whether a person's command has a way out.
#[must_use]
pub fn reaches_out(spec: &Map<String, Value>) -> bool {
    let net = spec.get("net").and_then(Value::as_array);
    net.is_some_and(|net| !net.is_empty())
}

/// What the call names, if its skill is one that ships and says by which argument.
fn item(skill: &Skill, call: &ToolArguments) -> Option<String> {
    let named = match skill.origin {
        Provenance::Shipped => skill.tools.get(&call.tool)?.item.as_ref()?,
        Provenance::Installed => return None,
    };
    let item = call.arguments.get(named).and_then(Value::as_str)?;
    (item.len() <= MAX_ITEM).then(|| item.to_owned())
}

fn file(state: &Path) -> PathBuf {
    state.join("labels.json")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use paw_policy::{Digest, Taint, ToolClass};
    use serde_json::json;

    use super::*;
    use crate::sandbox::manifest::load_skill;

    fn memory() -> Skill {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("memory");
        fs::create_dir(&at).unwrap();
        fs::write(
            at.join("skill.toml"),
            include_str!("../skills/memory/skill.toml"),
        )
        .unwrap();
        load_skill(&at).unwrap()
    }

    fn call(tool: &str, arguments: Value) -> ToolArguments {
        let Value::Object(arguments) = arguments else {
            panic!("{arguments}");
        };
        ToolArguments {
            skill: "memory".parse().unwrap(),
            skill_digest: Digest::of(b""),
            tool: tool.to_owned(),
            class: ToolClass::ReadPrivate,
            arguments,
            net: None,
        }
    }

    fn words(taint: &TaintSet) -> Vec<Taint> {
        taint.iter().collect()
    }

    #[test]
    fn a_label_is_that_of_its_note_and_stays() {
        let (dir, skill) = (tempfile::tempdir().unwrap(), memory());
        let labels = Labels::open(dir.path()).unwrap();
        let agent: Name = "default".parse().unwrap();
        let save = |name: &str| call("save", json!({"name": name, "text": ""}));
        let web = TaintSet::of(Taint::Web).with(&TaintSet::of(Taint::Model));
        labels.leave(&skill, &agent, &save("a"), &web).unwrap();
        let clean = TaintSet::of(Taint::User);
        labels.leave(&skill, &agent, &save("b"), &clean).unwrap();
        // What is written over it later does not make it clean: earlier versions are there.
        labels.leave(&skill, &agent, &save("a"), &clean).unwrap();
        // The next pawd knows the same.
        for labels in [labels, Labels::open(dir.path()).unwrap()] {
            let read = |name: &str| {
                words(&labels.of(Some(&skill), &agent, &call("read", json!({"name": name}))))
            };
            assert_eq!(read("a"), [Taint::User, Taint::Web, Taint::Model]);
            assert_eq!(read("b"), [Taint::User]);
            assert_eq!(read("c"), []);
            // Who names none is told of all.
            let all = labels.of(Some(&skill), &agent, &call("search", json!({"text": "x"})));
            assert_eq!(words(&all), [Taint::User, Taint::Web, Taint::Model]);
            assert_eq!(
                labels.of(None, &agent, &call("read", json!({"name": "c"}))),
                all
            );
            let other: Name = "other".parse().unwrap();
            assert_eq!(
                words(&labels.of(Some(&skill), &other, &call("list", json!({})))),
                []
            );
        }
    }

    #[test]
    fn skill_that_does_not_ship_has_one_label_for_all() {
        let (dir, mut skill) = (tempfile::tempdir().unwrap(), memory());
        skill.origin = Provenance::Installed;
        let labels = Labels::open(dir.path()).unwrap();
        let agent: Name = "default".parse().unwrap();
        let save = call("save", json!({"name": "a", "text": ""}));
        labels
            .leave(&skill, &agent, &save, &TaintSet::of(Taint::Web))
            .unwrap();
        let read = call("read", json!({"name": "b"}));
        assert_eq!(words(&labels.of(Some(&skill), &agent, &read)), [Taint::Web]);
    }

    #[test]
    fn more_things_than_have_a_label_count_as_all() {
        let (dir, skill) = (tempfile::tempdir().unwrap(), memory());
        let agent: Name = "default".parse().unwrap();
        let items: BTreeMap<String, TaintSet> = (0..MAX_ITEMS)
            .map(|number| (number.to_string(), TaintSet::of(Taint::User)))
            .collect();
        let kept = Kept(BTreeMap::from([(
            skill.directory(&agent).unwrap(),
            Labelled { all: None, items },
        )]));
        fs::write(file(dir.path()), serde_json::to_vec(&kept).unwrap()).unwrap();
        let labels = Labels::open(dir.path()).unwrap();
        let save = |name: &str| call("save", json!({"name": name, "text": ""}));
        labels
            .leave(&skill, &agent, &save("more"), &TaintSet::of(Taint::Web))
            .unwrap();
        let read = call("read", json!({"name": "7"}));
        assert_eq!(
            words(&labels.of(Some(&skill), &agent, &read)),
            [Taint::User, Taint::Web]
        );
    }

    #[test]
    fn nothing_secret_comes_to_where_something_sends() {
        let (dir, skill) = (tempfile::tempdir().unwrap(), memory());
        let labels = Arc::new(Labels::open(dir.path()).unwrap());
        let agent: Name = "default".parse().unwrap();
        let directory = skill.directory(&agent).unwrap();
        let (user, secret) = (TaintSet::of(Taint::User), TaintSet::of(Taint::Secret));
        let save = call("save", json!({"name": "a", "text": ""}));
        let leave = |taint: &TaintSet| labels.leave(&skill, &agent, &save, taint);
        let first = labels.sends(directory.clone(), &user).unwrap();
        let second = labels.sends(directory.clone(), &user).unwrap();
        drop(first);
        assert!(matches!(leave(&secret), Err(LabelsError::Sending { .. })));
        leave(&user).unwrap();
        drop(second);
        let read = || words(&labels.of(Some(&skill), &agent, &save));
        assert_eq!(read(), [Taint::User], "what was refused left nothing");
        leave(&secret).unwrap();
        assert_eq!(read(), [Taint::User, Taint::Secret]);
        // Nobody begins to send from there any more but who was judged with it.
        assert!(labels.sends(directory.clone(), &user).is_none());
        assert!(labels.sends(directory, &secret).is_some());
    }

    #[test]
    fn what_is_no_file_of_ours_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file(dir.path()), "{\"default\": 1}").unwrap();
        assert!(matches!(
            Labels::open(dir.path()),
            Err(LabelsError::Json { .. })
        ));
    }
}
