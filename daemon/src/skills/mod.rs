//! Skills that were installed: what was approved of each, whether that is still so, and where their files are.
//!
//! ```text
//!  skill.send ─► incoming/ID ── skill.stage ─► trees/DIGEST ── approved ─► pinned, enabled
//!                (bounded,       (read, digest)  (nobody's      │              │ its files, or what its program announces, are
//!                 plain files)                    until then)   │  (disabled)  ▼ others than those that were approved
//!                                                               └──────── disabled: nothing of it is offered or called
//! ```
//!
//! Two places: the trees, which the launcher reads to mount them, and `skills.json` in pawd's own state, which says what was
//! approved, and which nobody else can read or write. A tree that no line of that file names is nothing. What is in a tree is
//! read in full at the start and when somebody asks; before a call it is seen whether anything of it was touched since.
//!
//! It decides nothing about who may install what: that is policy's, and by the time [`Installed::put`] is called a permit was spent.

pub mod incoming;
mod pins;
mod rights;
mod signs;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paw_policy::{Digest, Name};

pub use self::{
    incoming::{Incoming, NotTaken, Piece},
    pins::{Pin, Pins, PinsError},
    rights::{announced, difference, rights},
    signs::suspicious,
};
use crate::{
    config::Paths,
    sandbox::{
        Announced, ManifestError, Provenance, Skill, Skills, manifest::read_bundle, seal::stamp,
    },
};

/// The most skills that can be installed.
const MAX_SKILLS: usize = 256;

/// Why a skill is not enabled whose program was heard for the first time, or says something else.
const UNSEEN: &str =
    "nobody has approved the tools that its program announces: `pawctl skill enable` shows them";

/// Trees that were sent and that nobody has approved; of more, the oldest are removed.
const MAX_STAGED: usize = 8;

/// Why something cannot be done with a skill.
#[derive(Debug, thiserror::Error)]
pub enum SkillError {
    /// The files are no skill.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// What is approved cannot be kept.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The directory of the skills cannot be used.
    #[error("{step} {path}")]
    Files {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Nothing of this digest was sent, or it was removed meanwhile.
    #[error("no skill with the digest {0} was sent")]
    NotStaged(Digest),
    /// The files of a tree are not those of its digest.
    #[error("its files are not those that were approved: their digest is {found}")]
    Touched {
        /// The digest of what is there.
        found: Digest,
    },
    /// No skill of this name is installed.
    #[error("no skill {0} is installed")]
    Unknown(Name),
    /// A skill of this name came with the package.
    #[error("a skill {0} came with the package, and none of that name can be installed or changed")]
    Ships(Name),
    /// It is not the one that was meant any more.
    #[error("skill {0} is not what it was when this was asked for")]
    Changed(Name),
    /// There are too many.
    #[error("{MAX_SKILLS} skills are installed, which is the most")]
    Full,
}

impl SkillError {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "mend the bundle and send it again; see paw-skill(5)",
            Self::Pins(_) | Self::Files { .. } => {
                "see whether the disk of pawd's state is full or read-only"
            }
            Self::NotStaged(_) => "send it again: `pawctl skill install PATH`",
            Self::Touched { .. } => {
                "find out who changed them, then install the skill again, or remove it"
            }
            Self::Unknown(_) => "see `pawctl skill list`",
            Self::Ships(_) => "give the bundle another name",
            Self::Changed(_) => "look at it again, and ask again",
            Self::Full => "remove one: `pawctl skill remove NAME`",
        }
    }

    /// One word for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "invalid",
            Self::Pins(_) | Self::Files { .. } => "failed",
            Self::NotStaged(_) | Self::Unknown(_) => "not_found",
            Self::Touched { .. } => "skill_drifted",
            Self::Ships(_) | Self::Changed(_) => "conflict",
            Self::Full => "busy",
        }
    }
}

/// An installed skill, for people.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What was approved.
    pub pin: Pin,
    /// What its files say, if they can be read.
    pub skill: Option<Arc<Skill>>,
}

/// A skill that was disabled because it is not what was approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Which.
    pub skill: Name,
    /// What was approved.
    pub digest: Digest,
    /// What is different, for people.
    pub why: String,
}

struct Entry {
    skill: Option<Arc<Skill>>,
    /// Of its files when they were read last.
    stamp: Option<Digest>,
}

/// Everything that is installed. Its lock is held while files are read and written, so it is used from threads that may block.
pub struct Installed {
    dir: PathBuf,
    state: PathBuf,
    skills: Arc<Skills>,
    kept: Mutex<Kept>,
    staged: Mutex<BTreeMap<Digest, Arc<Skill>>>,
}

struct Kept {
    pins: Pins,
    entries: BTreeMap<Name, Entry>,
}

impl Installed {
    /// Reads what is installed, of which our state says what was approved, and publishes to `skills` what can be used.
    /// Also gives what is not what was approved; it is disabled from now on.
    ///
    /// # Errors
    /// When what was approved cannot be read or kept.
    pub fn open(paths: &Paths, skills: Arc<Skills>) -> Result<(Self, Vec<Drift>), SkillError> {
        let (dir, state) = (paths.skills.clone(), paths.state.clone());
        let mut pins = Pins::read(&state)?;
        let (mut entries, mut drifts) = (BTreeMap::new(), Vec::new());
        for (name, pin) in &mut pins.skills {
            let read = tree_of(&dir, &pin.digest);
            let entry = match load(&read, pin) {
                Ok(entry) => entry,
                Err(error) => {
                    if pin.enabled {
                        let why = paw_log::Chain(&error).to_string();
                        pin.enabled = false;
                        pin.why = Some(why.clone());
                        drifts.push(Drift {
                            skill: name.clone(),
                            digest: pin.digest,
                            why,
                        });
                    }
                    Entry {
                        skill: None,
                        stamp: None,
                    }
                }
            };
            entries.insert(name.clone(), entry);
        }
        if !drifts.is_empty() {
            pins.write(&state)?;
        }
        let installed = Self {
            dir,
            state,
            skills,
            kept: Mutex::new(Kept { pins, entries }),
            staged: Mutex::default(),
        };
        installed.publish(&installed.kept());
        Ok((installed, drifts))
    }

    /// All of them, whatever their state.
    #[must_use]
    pub fn list(&self) -> BTreeMap<Name, Shown> {
        let kept = self.kept();
        let shown = kept.pins.skills.iter().map(|(name, pin)| {
            let skill = kept.entries.get(name).and_then(|entry| entry.skill.clone());
            let pin = pin.clone();
            (name.clone(), Shown { pin, skill })
        });
        shown.collect()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<Shown> {
        self.list().remove(name)
    }

    /// Reads what was sent to this directory, and keeps it as a tree that can be approved.
    ///
    /// # Errors
    /// When it is no skill, or cannot be kept. Then nothing of it is left.
    pub fn stage(&self, sent: &Path) -> Result<Arc<Skill>, SkillError> {
        let staged = self.stage_tree(sent);
        if staged.is_err() {
            // What is left of it is removed at the next start.
            let _ = fs::remove_dir_all(sent);
        }
        staged
    }

    fn stage_tree(&self, sent: &Path) -> Result<Arc<Skill>, SkillError> {
        let skill = Arc::new(read_bundle(sent, Provenance::Installed)?);
        if self.skills.ships(&skill.name) {
            return Err(SkillError::Ships(skill.name.clone()));
        }
        let kept = self.kept();
        let tree = tree_of(&self.dir, &skill.digest);
        let trees = self.dir.join("trees");
        make_dir(&trees)?;
        if self.load(&skill.digest).is_ok() {
            // Sandboxes may have it mounted.
            remove_tree(sent)?;
        } else {
            // It was touched since it came; what was sent just now was not.
            remove_tree(&tree)?;
            fs::rename(sent, &tree).map_err(|source| files("keep", &tree, source))?;
        }
        let mut staged = self.staged();
        staged.insert(skill.digest, Arc::clone(&skill));
        self.remove_what_nobody_wants(&kept, &mut staged, &skill.digest)?;
        drop((kept, staged));
        // If it is installed already, its files are new ones now.
        self.restamp(&skill);
        Ok(skill)
    }

    /// What was sent and is not installed yet.
    #[must_use]
    pub fn find_staged(&self, digest: &Digest) -> Option<Arc<Skill>> {
        self.staged().get(digest).cloned()
    }

    /// Reads a tree in full.
    ///
    /// # Errors
    /// When it is not there, or is not what its digest says.
    pub fn load(&self, digest: &Digest) -> Result<Skill, SkillError> {
        let tree = tree_of(&self.dir, digest);
        if fs::symlink_metadata(&tree).is_err() {
            return Err(SkillError::NotStaged(*digest));
        }
        untouched(read_bundle(&tree, Provenance::Installed)?, digest)
    }

    /// A skill is installed, or enabled again, with what its program announced. Where nobody has `seen` that, it is kept to be shown, and
    /// the skill is not enabled.
    ///
    /// # Errors
    /// When another one is installed than was said, or it cannot be kept. Then everything is as before.
    pub fn put(
        &self,
        skill: Skill,
        announced: Option<Announced>,
        (replaces, seen): (Option<Digest>, Option<Digest>),
        now_ms: u64,
    ) -> Result<Shown, SkillError> {
        let mut kept = self.kept();
        let name = skill.name.clone();
        let before = kept.pins.skills.get(&name);
        if before.map(|pin| pin.digest) != replaces {
            return Err(SkillError::Changed(name));
        }
        if before.is_none() && kept.pins.skills.len() >= MAX_SKILLS {
            return Err(SkillError::Full);
        }
        let approved = before.and_then(|pin| {
            let digest = pin.announced?;
            let tools = pin.tools.clone();
            Some(Announced { tools, digest })
        });
        let is_seen = |heard: &Announced| {
            seen == Some(heard.digest)
                || approved.as_ref().map(|it| it.digest) == Some(heard.digest)
        };
        let (announced, heard) = match announced {
            Some(heard) if !is_seen(&heard) => (approved, Some(heard)),
            announced => (announced, None),
        };
        let pin = Pin {
            digest: skill.digest,
            version: skill.version.clone(),
            enabled: heard.is_none(),
            why: heard.is_some().then(|| UNSEEN.to_owned()),
            since_ms: now_ms,
            announced: announced.as_ref().map(|announced| announced.digest),
            tools: announced
                .map(|announced| announced.tools)
                .unwrap_or_default(),
            heard,
        };
        let entry = load(&tree_of(&self.dir, &skill.digest), &pin)?;
        let Some(skill) = entry.skill.clone() else {
            return Err(SkillError::NotStaged(pin.digest));
        };
        // What is recorded as approved is there after a power failure, too.
        let tree = tree_of(&self.dir, &skill.digest);
        let synced =
            sync_tree(&tree).and_then(|()| fs::File::open(self.dir.join("trees"))?.sync_all());
        synced.map_err(|source| files("sync", &tree, source))?;
        let mut pins = kept.pins.clone();
        let old = pins.skills.insert(name.clone(), pin.clone());
        pins.write(&self.state)?;
        kept.pins = pins;
        kept.entries.insert(name, entry);
        self.publish(&kept);
        self.staged().remove(&skill.digest);
        if let Some(old) = old.filter(|old| old.digest != skill.digest) {
            // Sandboxes that run have it mounted and keep it; whatever is left of it nobody wants, so the next staging removes it.
            let _ = remove_tree(&tree_of(&self.dir, &old.digest));
        }
        let skill = Some(skill);
        Ok(Shown { pin, skill })
    }

    /// Nothing of it is offered or called from now on; with a digest, only if it still is the one that was meant. Gives whether that
    /// is new.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be kept that it is so. Until the next start it holds all the same.
    pub fn disable(
        &self,
        name: &Name,
        digest: Option<&Digest>,
        why: &str,
    ) -> Result<bool, SkillError> {
        let mut kept = self.kept();
        let Some(pin) = kept.pins.skills.get_mut(name) else {
            return Err(self.unknown(name));
        };
        if digest.is_some_and(|digest| *digest != pin.digest) {
            return Err(SkillError::Changed(name.clone()));
        }
        let was = std::mem::replace(&mut pin.enabled, false);
        if was {
            pin.why = Some(why.to_owned());
        }
        self.publish(&kept);
        kept.pins.write(&self.state)?;
        Ok(was)
    }

    /// It is gone, with its files.
    ///
    /// # Errors
    /// When it is not the one of this digest, or its end cannot be kept.
    pub fn remove(&self, name: &Name, digest: &Digest) -> Result<(), SkillError> {
        let mut kept = self.kept();
        match kept.pins.skills.get(name) {
            None => return Err(self.unknown(name)),
            Some(pin) if pin.digest != *digest => return Err(SkillError::Changed(name.clone())),
            Some(_) => {}
        }
        let mut pins = kept.pins.clone();
        pins.skills.remove(name);
        pins.write(&self.state)?;
        kept.pins = pins;
        kept.entries.remove(name);
        self.publish(&kept);
        remove_tree(&tree_of(&self.dir, digest))
    }

    /// Reads all files of a skill again.
    ///
    /// # Errors
    /// When they are not those that were approved; whoever asks disables it.
    pub fn verify(&self, name: &Name) -> Result<(), SkillError> {
        let mut kept = self.kept();
        let Some(pin) = kept.pins.skills.get(name).cloned() else {
            return Err(self.unknown(name));
        };
        let entry = load(&tree_of(&self.dir, &pin.digest), &pin)?;
        kept.entries.insert(name.clone(), entry);
        Ok(())
    }

    /// Looks whether the files of a skill that is about to be used are those that were approved; they are only read again if
    /// something of them was touched.
    ///
    /// # Errors
    /// As [`Installed::verify`].
    pub fn fresh(&self, skill: &Skill) -> Result<(), SkillError> {
        match skill.origin {
            Provenance::Shipped => return Ok(()),
            Provenance::Installed => {}
        }
        // Not under the lock: calls look at their skills at the same time.
        let seen = stamp(&tree_of(&self.dir, &skill.digest))?;
        let known = {
            let kept = self.kept();
            kept.entries.get(&skill.name).and_then(|entry| entry.stamp)
        };
        if known == Some(seen) {
            return Ok(());
        }
        self.verify(&skill.name)
    }

    fn unknown(&self, name: &Name) -> SkillError {
        if self.skills.ships(name) {
            SkillError::Ships(name.clone())
        } else {
            SkillError::Unknown(name.clone())
        }
    }

    fn restamp(&self, skill: &Skill) {
        let mut kept = self.kept();
        let pinned = kept.pins.skills.get(&skill.name).cloned();
        if let Some(pin) = pinned.filter(|pin| pin.digest == skill.digest)
            && let Ok(entry) = load(&tree_of(&self.dir, &skill.digest), &pin)
        {
            kept.entries.insert(skill.name.clone(), entry);
        }
    }

    fn publish(&self, kept: &Kept) {
        let enabled = kept.pins.skills.iter().filter(|(_, pin)| pin.enabled);
        let usable = enabled.filter_map(|(name, _)| {
            let skill = kept.entries.get(name)?.skill.clone()?;
            Some((name.clone(), skill))
        });
        self.skills.publish(usable.collect());
    }

    /// Removes trees that nothing pins, all but the latest that were staged.
    fn remove_what_nobody_wants(
        &self,
        kept: &Kept,
        staged: &mut BTreeMap<Digest, Arc<Skill>>,
        last: &Digest,
    ) -> Result<(), SkillError> {
        let trees = self.dir.join("trees");
        let listed = fs::read_dir(&trees).map_err(|source| files("list", &trees, source))?;
        let mut unwanted = Vec::new();
        for entry in listed {
            let entry = entry.map_err(|source| files("list", &trees, source))?;
            let digest: Option<Digest> = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let pinned = digest.is_some_and(|digest| {
                digest == *last || kept.pins.skills.values().any(|pin| pin.digest == digest)
            });
            if !pinned {
                let at = entry.metadata().and_then(|meta| meta.modified()).ok();
                unwanted.push((at, entry.path(), digest));
            }
        }
        unwanted.sort();
        let surplus = (unwanted.len() + 1).saturating_sub(MAX_STAGED);
        for (_, path, digest) in unwanted.into_iter().take(surplus) {
            remove_tree(&path)?;
            if let Some(digest) = digest {
                staged.remove(&digest);
            }
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn staged(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Skill>>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a tree holds, as it was approved.
fn load(tree: &Path, pin: &Pin) -> Result<Entry, SkillError> {
    // Before the files: what is touched while they are read is seen at the next call.
    let stamp = stamp(tree)?;
    let mut skill = untouched(read_bundle(tree, Provenance::Installed)?, &pin.digest)?;
    if skill.announces {
        skill.tools.clone_from(&pin.tools);
        skill.announced = pin.announced;
    }
    Ok(Entry {
        skill: Some(Arc::new(skill)),
        stamp: Some(stamp),
    })
}

fn untouched(skill: Skill, digest: &Digest) -> Result<Skill, SkillError> {
    if skill.digest == *digest {
        Ok(skill)
    } else {
        Err(SkillError::Touched {
            found: skill.digest,
        })
    }
}

fn tree_of(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("trees").join(digest.to_string())
}

/// Makes a directory that everybody may look into, whatever our umask is.
fn make_dir(path: &Path) -> Result<(), SkillError> {
    use std::os::unix::fs::PermissionsExt as _;
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(|source| files("set the mode of", path, source)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(files("make", path, source)),
    }
}

/// Puts a directory with all that is in it on the disk.
fn sync_tree(tree: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    fs::File::open(tree)?.sync_all()
}

fn remove_tree(path: &Path) -> Result<(), SkillError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(files("remove", path, source)),
    }
}

fn files(step: &'static str, path: &Path, source: io::Error) -> SkillError {
    SkillError::Files {
        step,
        path: path.to_owned(),
        source,
    }
}
