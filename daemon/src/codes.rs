//! One-time codes of approvers (RFC 6238): who has enrolled an authenticator, and whether a code is right, new, and not one of many.
//!
//! The secrets are a file of their own in pawd's state, which its user alone may read, and so in no copy of the store. Each code that
//! fits is noted there before it counts for anything, so it fits once, also over a crash; so is each that does not fit, so that nobody
//! guesses on after a restart.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::OFlags;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use totp_rs::{Builder, Secret, Totp};

/// Its name in the state directory.
const FILE: &str = "approvers.toml";

/// The longest file, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// The most approvers.
const MAX_APPROVERS: usize = 1000;

/// How long an enrolment waits for its first code, in milliseconds.
const MAX_BEGUN_MS: u64 = 10 * 60 * 1_000;

/// Codes that may be wrong, one after the other, before a pause.
const WRONG: u32 = 5;

/// The first pause, in milliseconds; each further wrong code doubles it, up to [`MAX_PAUSE_MS`].
const PAUSE_MS: u64 = 60 * 1_000;

/// The longest pause, in milliseconds.
const MAX_PAUSE_MS: u64 = 3_600 * 1_000;

/// Everybody who has enrolled; cheap to clone.
#[derive(Clone)]
pub struct Codes(Arc<Inner>);

struct Inner {
    state: PathBuf,
    // Held while the file is written, on a thread that may block.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    enrolled: BTreeMap<u32, Enrolled>,
    begun: BTreeMap<u32, Begun>,
}

#[derive(Clone)]
struct Enrolled {
    secret: SecretString,
    last_step: u64,
    wrong: u32,
    paused_until_ms: u64,
}

struct Begun {
    secret: SecretString,
    at_ms: u64,
    wrong: u32,
}

/// What an authenticator takes up, shown once.
#[derive(Debug)]
pub struct Enrolment {
    /// `otpauth://…`.
    pub url: String,
    /// The secret in base32, for who types it.
    pub secret: String,
}

/// The file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    approver: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    secret: String,
    last_step: u64,
    wrong: u32,
    paused_until_ms: u64,
}

/// Why a code does not count, or an enrolment is none.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// They have no authenticator.
    #[error("nobody with this uid has enrolled an authenticator")]
    NotEnrolled,
    /// No enrolment has begun, or it was too long ago.
    #[error("no enrolment waits for its first code")]
    NotBegun,
    /// They have one, and it takes its code to get another.
    #[error("an authenticator is enrolled already")]
    Enrolled,
    /// It does not fit.
    #[error("the code does not fit")]
    Wrong,
    /// It fitted once.
    #[error("the code was used already")]
    Used,
    /// Too many did not fit.
    #[error("too many codes did not fit")]
    Paused {
        /// When the next one is looked at, in milliseconds since 1970.
        until_ms: u64,
    },
    /// There are too many approvers.
    #[error("there are {MAX_APPROVERS} approvers already")]
    Full,
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what pawd wrote.
    #[error("{path} is not what pawd wrote ({why})")]
    Foreign {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It cannot be written; then no code counts.
    #[error("write {path}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not even the kernel has a random number.
    #[error("make a secret: {0}")]
    Random(String),
}

impl Codes {
    /// Who has enrolled, as an earlier pawd wrote it.
    ///
    /// # Errors
    /// When the file is there and is not one of pawd's own.
    pub fn open(state: &Path) -> Result<Self, CodeError> {
        let known = Known {
            enrolled: read(&state.join(FILE), state)?,
            begun: BTreeMap::new(),
        };
        Ok(Self(Arc::new(Inner {
            state: state.to_owned(),
            known: Mutex::new(known),
        })))
    }

    /// Begins to enroll: makes a secret, which counts for nothing until a code of it was given. Who has one needs its `code` for that.
    ///
    /// # Errors
    /// When that code is missing or does not count.
    pub fn begin(
        &self,
        uid: u32,
        name: &str,
        code: Option<&str>,
        now_ms: u64,
    ) -> Result<Enrolment, CodeError> {
        let mut known = self.lock();
        if known.enrolled.contains_key(&uid) {
            let code = code.ok_or(CodeError::Enrolled)?;
            self.spend_known(&mut known, uid, code, now_ms)?;
        } else if known.enrolled.len() >= MAX_APPROVERS {
            return Err(CodeError::Full);
        }
        known
            .begun
            .retain(|_, begun| now_ms < begun.at_ms.saturating_add(MAX_BEGUN_MS));
        if known.begun.len() >= MAX_APPROVERS {
            return Err(CodeError::Full);
        }
        let mut bytes = [0; 20];
        getrandom::fill(&mut bytes).map_err(|error| CodeError::Random(error.to_string()))?;
        let secret = Secret::new_stack(bytes).to_base32();
        // A colon would end the name within the address.
        let account: String = name.chars().filter(|c| *c != ':').collect();
        let url = Builder::new()
            .with_secret(Secret::new_stack(bytes))
            .with_issuer(Some("pawd"))
            .with_account_name(account)
            .build()
            .and_then(|totp| totp.to_url())
            .map_err(|error| CodeError::Random(error.to_string()))?;
        let begun = Begun {
            secret: SecretString::from(secret.clone()),
            at_ms: now_ms,
            wrong: 0,
        };
        known.begun.insert(uid, begun);
        Ok(Enrolment { url, secret })
    }

    /// Whether this code would confirm the enrolment that somebody began. A wrong one is counted.
    ///
    /// # Errors
    /// When it would not.
    pub fn check(&self, uid: u32, code: &str, now_ms: u64) -> Result<(), CodeError> {
        self.lock().begun_by(uid, code, now_ms).map(drop)
    }

    /// Ends an enrolment with the first code of the new secret, which takes the place of an earlier one.
    ///
    /// # Errors
    /// When none has begun, the code does not fit, or the file cannot be written.
    pub fn confirm(&self, uid: u32, code: &str, now_ms: u64) -> Result<(), CodeError> {
        let mut known = self.lock();
        let (secret, step) = known.begun_by(uid, code, now_ms)?;
        let enrolled = Enrolled {
            secret,
            last_step: step,
            wrong: 0,
            paused_until_ms: 0,
        };
        let before = known.enrolled.insert(uid, enrolled);
        if let Err(error) = self.write(&known.enrolled) {
            match before {
                Some(before) => drop(known.enrolled.insert(uid, before)),
                None => drop(known.enrolled.remove(&uid)),
            }
            return Err(error);
        }
        known.begun.remove(&uid);
        Ok(())
    }

    /// Spends a code: it counts from here on, and never again.
    ///
    /// # Errors
    /// When it does not count.
    pub fn spend(&self, uid: u32, code: &str, now_ms: u64) -> Result<(), CodeError> {
        self.spend_known(&mut self.lock(), uid, code, now_ms)
    }

    /// Removes somebody's authenticator; whether there was one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget(&self, uid: u32) -> Result<bool, CodeError> {
        let mut known = self.lock();
        known.begun.remove(&uid);
        let Some(before) = known.enrolled.remove(&uid) else {
            return Ok(false);
        };
        if let Err(error) = self.write(&known.enrolled) {
            known.enrolled.insert(uid, before);
            return Err(error);
        }
        Ok(true)
    }

    fn spend_known(
        &self,
        known: &mut Known,
        uid: u32,
        code: &str,
        now_ms: u64,
    ) -> Result<(), CodeError> {
        let before = known.enrolled.get(&uid).ok_or(CodeError::NotEnrolled)?;
        let mut before = before.clone();
        if now_ms < before.paused_until_ms {
            // A clock that was set back makes no pause longer than it can be.
            let longest = now_ms.saturating_add(MAX_PAUSE_MS);
            let until_ms = before.paused_until_ms.min(longest);
            if until_ms < before.paused_until_ms {
                before.paused_until_ms = until_ms;
                known.enrolled.insert(uid, before);
                self.write(&known.enrolled)?;
            }
            return Err(CodeError::Paused { until_ms });
        }
        let fitting = totp(&before.secret).and_then(|totp| totp.check(code, now_ms / 1_000));
        let (after, result) = match fitting {
            // Of an older step than the last one that fitted: it was seen, or could have been.
            Some(step) if step <= before.last_step => {
                (failed(&before, now_ms), Err(CodeError::Used))
            }
            Some(step) => {
                let after = Enrolled {
                    last_step: step,
                    wrong: 0,
                    ..before.clone()
                };
                (after, Ok(()))
            }
            None => (failed(&before, now_ms), Err(CodeError::Wrong)),
        };
        known.enrolled.insert(uid, after);
        // What is not noted has not been looked at; the wrong ones of this life stay counted all the same.
        self.write(&known.enrolled)?;
        result
    }

    fn write(&self, enrolled: &BTreeMap<u32, Enrolled>) -> Result<(), CodeError> {
        let state = &self.0.state;
        let (path, new) = (state.join(FILE), state.join(format!("{FILE}.new")));
        let approver = enrolled.iter().map(|(uid, it)| {
            let entry = Entry {
                secret: it.secret.expose_secret().to_owned(),
                last_step: it.last_step,
                wrong: it.wrong,
                paused_until_ms: it.paused_until_ms,
            };
            (uid.to_string(), entry)
        });
        let file = File {
            approver: approver.collect(),
        };
        let text = SecretString::from(
            toml::to_string(&file).expect("texts, numbers and tables of them have a TOML"),
        );
        let written = || {
            // Never through a name that somebody else has made.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(text.expose_secret().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(state)?.sync_all()
        };
        written().map_err(|source| CodeError::Write { path, source })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The secret of an enrolment that this code ends, and the step of the code.
    fn begun_by(
        &mut self,
        uid: u32,
        code: &str,
        now_ms: u64,
    ) -> Result<(SecretString, u64), CodeError> {
        let begun = self.begun.get_mut(&uid).ok_or(CodeError::NotBegun)?;
        if now_ms >= begun.at_ms.saturating_add(MAX_BEGUN_MS) || begun.wrong >= WRONG {
            self.begun.remove(&uid);
            return Err(CodeError::NotBegun);
        }
        let Some(step) = totp(&begun.secret).and_then(|totp| totp.check(code, now_ms / 1_000))
        else {
            begun.wrong += 1;
            return Err(CodeError::Wrong);
        };
        Ok((begun.secret.clone(), step))
    }
}

fn failed(before: &Enrolled, now_ms: u64) -> Enrolled {
    let wrong = before.wrong.saturating_add(1);
    let paused_until_ms = match wrong.checked_sub(WRONG) {
        None => 0,
        Some(more) => {
            let pause = PAUSE_MS.saturating_mul(1 << more.min(16)).min(MAX_PAUSE_MS);
            now_ms.saturating_add(pause)
        }
    };
    Enrolled {
        wrong,
        paused_until_ms,
        ..before.clone()
    }
}

fn totp(secret: &SecretString) -> Option<Totp> {
    let secret = Secret::try_from_base32(secret.expose_secret()).ok()?;
    Builder::new().with_secret(secret).build().ok()
}

fn read(path: &Path, state: &Path) -> Result<BTreeMap<u32, Enrolled>, CodeError> {
    let failed = |source| CodeError::Read {
        path: path.to_owned(),
        source,
    };
    let foreign = |why: &str| CodeError::Foreign {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    // Not blocking, so that a pipe in its place does not stop the start.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    };
    let facts = file.metadata().map_err(failed)?;
    let owner = fs::metadata(state).map_err(failed)?.uid();
    if !facts.is_file() || facts.nlink() != 1 || facts.uid() != owner || facts.mode() & 0o077 != 0 {
        return Err(foreign(
            "it is no file of its own that only its owner may read",
        ));
    }
    let mut text = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let text = SecretString::from(text);
    // The parser's words quote the line, which holds a secret.
    let file: File =
        toml::from_str(text.expose_secret()).map_err(|_| foreign("it cannot be read"))?;
    file.approver
        .into_iter()
        .map(|(uid, entry)| {
            let uid: u32 = uid.parse().map_err(|_| foreign("a name is no uid"))?;
            let enrolled = Enrolled {
                secret: SecretString::from(entry.secret),
                last_step: entry.last_step,
                wrong: entry.wrong,
                paused_until_ms: entry.paused_until_ms,
            };
            totp(&enrolled.secret).ok_or_else(|| foreign("a secret is none"))?;
            Ok((uid, enrolled))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const NOW: u64 = 1_795_478_400_000;
    const STEP: u64 = 30_000;

    fn code(enrolment: &Enrolment, at_ms: u64) -> String {
        let totp = Totp::from_url(&enrolment.url).unwrap();
        totp.generate(at_ms / 1_000).to_string()
    }

    /// Somebody who enrolled three steps ago.
    fn enrolled() -> (tempfile::TempDir, Codes, Enrolment) {
        let state = tempfile::tempdir().unwrap();
        let codes = Codes::open(state.path()).unwrap();
        let then = NOW - 3 * STEP;
        let enrolment = codes.begin(7, "ann:e", None, then).unwrap();
        codes.confirm(7, &code(&enrolment, then), then).unwrap();
        (state, codes, enrolment)
    }

    #[test]
    fn code_counts_once_also_after_a_restart() {
        let (state, codes, enrolment) = enrolled();
        let now = code(&enrolment, NOW);
        codes.spend(7, &now, NOW).unwrap();
        assert!(matches!(codes.spend(7, &now, NOW), Err(CodeError::Used)));
        let again = Codes::open(state.path()).unwrap();
        assert!(matches!(again.spend(7, &now, NOW), Err(CodeError::Used)));
        let older = code(&enrolment, NOW - STEP);
        assert!(
            matches!(again.spend(7, &older, NOW), Err(CodeError::Used)),
            "it could have been seen"
        );
        again
            .spend(7, &code(&enrolment, NOW + STEP), NOW + STEP)
            .unwrap();
    }

    #[test]
    fn code_of_enrolment_counts_for_nothing_else() {
        let (_state, codes, enrolment) = enrolled();
        let then = NOW - 3 * STEP;
        let used = codes.spend(7, &code(&enrolment, then), then);
        assert!(matches!(used, Err(CodeError::Used)));
    }

    #[test]
    fn guessing_is_paused_ever_longer_also_after_a_restart() {
        let (state, codes, enrolment) = enrolled();
        for _ in 0..WRONG {
            assert!(matches!(
                codes.spend(7, "000000x", NOW),
                Err(CodeError::Wrong)
            ));
        }
        let right = code(&enrolment, NOW);
        let until = |codes: &Codes, at| match codes.spend(7, &right, at) {
            Err(CodeError::Paused { until_ms }) => until_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            until(&codes, NOW),
            NOW + PAUSE_MS,
            "the right one is not looked at either"
        );
        let codes = Codes::open(state.path()).unwrap();
        assert_eq!(until(&codes, NOW + PAUSE_MS - 1), NOW + PAUSE_MS);
        assert!(matches!(
            codes.spend(7, "1", NOW + PAUSE_MS),
            Err(CodeError::Wrong)
        ));
        assert_eq!(until(&codes, NOW + PAUSE_MS), NOW + 3 * PAUSE_MS);
        let later = NOW + 3 * PAUSE_MS;
        codes.spend(7, &code(&enrolment, later), later).unwrap();
    }

    /// The wrong ones were told while the clock was a year ahead.
    #[test]
    fn pause_of_a_clock_that_was_ahead_ends_when_a_pause_does() {
        let (state, codes, enrolment) = enrolled();
        let ahead = NOW + 365 * 24 * 3_600 * 1_000;
        for _ in 0..WRONG {
            drop(codes.spend(7, "000000x", ahead));
        }
        let paused = codes.spend(7, &code(&enrolment, NOW), NOW);
        assert!(
            matches!(paused, Err(CodeError::Paused { until_ms }) if until_ms == NOW + MAX_PAUSE_MS)
        );
        let codes = Codes::open(state.path()).unwrap();
        let later = NOW + MAX_PAUSE_MS;
        let early = codes.spend(7, &code(&enrolment, later - 1), later - 1);
        assert!(matches!(early, Err(CodeError::Paused { .. })));
        codes.spend(7, &code(&enrolment, later), later).unwrap();
    }

    #[test]
    fn another_authenticator_takes_the_code_of_the_first() {
        let (_state, codes, enrolment) = enrolled();
        assert!(matches!(
            codes.begin(7, "a", None, NOW),
            Err(CodeError::Enrolled)
        ));
        assert!(matches!(
            codes.begin(7, "a", Some("1"), NOW),
            Err(CodeError::Wrong)
        ));
        let second = codes
            .begin(7, "a", Some(&code(&enrolment, NOW)), NOW)
            .unwrap();
        let later = NOW + STEP;
        codes
            .spend(7, &code(&enrolment, later), later)
            .expect("the first one holds until then");
        assert!(matches!(
            codes.confirm(7, "1", later),
            Err(CodeError::Wrong)
        ));
        codes.confirm(7, &code(&second, later), later).unwrap();
        let last = later + STEP;
        assert!(matches!(
            codes.spend(7, &code(&enrolment, last), last),
            Err(CodeError::Wrong)
        ));
        codes.spend(7, &code(&second, last), last).unwrap();
    }

    #[test]
    fn enrolment_ends_by_itself_and_codes_are_their_own() {
        let (_state, codes, enrolment) = enrolled();
        let now = code(&enrolment, NOW);
        assert!(matches!(
            codes.spend(8, &now, NOW),
            Err(CodeError::NotEnrolled)
        ));
        assert!(matches!(
            codes.confirm(8, &now, NOW),
            Err(CodeError::NotBegun)
        ));
        let begun = codes.begin(8, "b", None, NOW).unwrap();
        let late = NOW + MAX_BEGUN_MS;
        let ended = codes.confirm(8, &code(&begun, late), late);
        assert!(matches!(ended, Err(CodeError::NotBegun)));
        assert!(codes.forget(7).unwrap() && !codes.forget(7).unwrap());
        assert!(matches!(
            codes.spend(7, &now, NOW),
            Err(CodeError::NotEnrolled)
        ));
    }

    #[test]
    fn secrets_are_a_file_that_only_pawd_reads() {
        let (state, _codes, enrolment) = enrolled();
        let path = state.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .contains(&enrolment.secret)
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Codes::open(state.path()),
            Err(CodeError::Foreign { .. })
        ));
        fs::rename(&path, state.path().join("elsewhere")).unwrap();
        symlink(state.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(
            Codes::open(state.path()),
            Err(CodeError::Read { .. })
        ));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "[approver.7]\nsecret = \"MZXW6\"\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = Codes::open(state.path()).err().unwrap().to_string();
        assert!(!error.contains("MZXW6"), "{error}");
    }

    #[test]
    fn code_that_cannot_be_noted_does_not_count() {
        let (state, codes, enrolment) = enrolled();
        fs::remove_dir_all(state.path()).unwrap();
        let spent = codes.spend(7, &code(&enrolment, NOW), NOW);
        assert!(matches!(spent, Err(CodeError::Write { .. })));
    }
}
