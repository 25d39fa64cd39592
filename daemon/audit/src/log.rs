//! The writer: appends records in groups, signs checkpoints, and gives back exactly what was durable when the disk refuses.
//!
//! ```text
//! append* ──commit──► in the file ──sync, at once or within 50 ms──► durable ──1 s after the first──► signed, witnessed
//!            └─fails─► the file is cut back to before the group, and so is the chain
//! ```

mod prune;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use paw_api::audit::{Entry, Event, Signed, VaultMark};
use paw_confine::sys::Locked;
use paw_policy::Digest;

use crate::{
    chain::Tip,
    format::{
        CHECKPOINT_EVERY, Checkpoint, Contents, Stamp, VERSION, vault_mark, write_checkpoint,
        write_record,
    },
    index::Indexer,
    key::{KeyError, write_durably},
    mac::{NextKey, Ratchet},
    room::{self, Claim, Room},
    segment::{self, WITNESS},
    vaults::{Contradiction, Others},
};

/// A record that need not be durable at once is after so long.
pub const SYNC_WITHIN: Duration = Duration::from_millis(50);

/// A record is signed at the latest so long after it was written.
pub const SIGN_WITHIN: Duration = Duration::from_secs(1);

/// A segment that has reached this size, in bytes, is followed by a new one.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// A segment of this age is followed by a new one.
pub const SEGMENT_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes that a line of the log has more than the request for it, at most, with a checkpoint that may follow.
const AROUND: usize = 2048;

/// A clock that is this much earlier than when the segment began was ahead then, in milliseconds.
const SET_BACK: u64 = 24 * 3600 * 1000;

/// Where a log lives and how it is written.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory of the log itself, which readers may read.
    pub dir: PathBuf,
    /// The writer's own directory, with the signing key.
    pub state: PathBuf,
    /// Which boot of the host this is.
    pub boot_id: String,
    /// [`SEGMENT_BYTES`], or less in a test.
    pub segment_bytes: u64,
    /// A segment whose first line is so old is followed by a new one, if anything was written since.
    pub segment_age: Duration,
    /// A segment is removed when its last record is so old and a newer segment is there; never, where it is not said.
    pub keep: Option<Duration>,
}

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another writer has it.
    #[error("the audit log {0} has another writer already; stop that paw-audit first")]
    InUse(PathBuf),
    /// There is no room; nothing of the group was written.
    #[error("no space left for the audit log {0}")]
    Full(PathBuf),
    /// The disk failed; nothing of the group was written.
    #[error("{step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk failed so that nobody knows what it holds. The writer must end; its next start finds out.
    #[error("{step} {path}: what the disk holds is not known any more")]
    Lost {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not what was written. The writer does not go on with it.
    #[error(
        "the audit log {path} is not what was written: {what}. Keep the directory as evidence (pawctl audit verify tells more), and move it and the state directory away to begin a new log"
    )]
    Tampered {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The key is the problem.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl LogError {
    /// Whether the log is as it was before and the next try may succeed.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Io { .. })
    }

    pub(crate) fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full(path),
            _ => Self::Io { step, path, source },
        }
    }
}

/// The open log. There is one for each directory on the host.
#[derive(Debug)]
pub struct Log {
    pub(crate) place: Place,
    pub(crate) key: SigningKey,
    /// Its lock says that this is the only writer.
    pub(crate) _lock: File,
    pub(crate) file: File,
    pub(crate) segment: u32,
    /// The last record before it.
    pub(crate) before: u64,
    /// When its first line was written, in milliseconds since the Unix epoch.
    pub(crate) begun_ms: u64,
    /// Length of the file, all of it good lines.
    pub(crate) len: u64,
    /// What is kept behind that.
    pub(crate) room: Room,
    /// Where the file ends, and the key of the record that comes next there.
    pub(crate) written: (Tip, Ratchet<Locked>),
    /// Where the file will end after the next commit.
    pub(crate) tip: Tip,
    /// The key of the record that comes next.
    pub(crate) code: Ratchet<Locked>,
    pub(crate) next_key: NextKey,
    pub(crate) vaults: Others,
    /// The newest checkpoint that is beside the log.
    pub(crate) signed: Option<Signed>,
    pub(crate) index: Indexer,
    pub(crate) group: Vec<u8>,
    pub(crate) sync_by: Option<Instant>,
    pub(crate) sign_by: Option<Instant>,
}

/// Why a record is not appended.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// It says of the vault what the log knows not to be so.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// What it takes the place of could not be remembered.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Log {
    /// Whether a record of somebody else, which came in this many bytes, may be appended now: whoever keeps the vault can say much, but
    /// not that it has seen fewer changes than it has; and a full disk has room for what was denied and for what ended, or, where nobody
    /// waits for the record to be durable, may have happened.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(
        &mut self,
        entry: &Entry,
        size: usize,
        is_awaited: bool,
    ) -> Result<(), NotAdmitted> {
        let end = self.len + (self.group.len() + size + AROUND) as u64;
        if !self.room.has(&self.file, end, Claim::of(entry, is_awaited)) {
            let path = segment::path(&self.place.dir, self.segment);
            return Err(LogError::Full(path).into());
        }
        let Some(mark) = vault_mark(entry) else {
            return Ok(());
        };
        let newest = self.tip.vault;
        self.vaults.check(newest, mark)?;
        if let Some(newest) = newest.filter(|it| it.vault != mark.vault) {
            self.vaults.leave(newest)?;
        }
        Ok(())
    }

    /// Whether the disk had no room for everything when that was last looked for.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.room.is_full()
    }

    /// The newest checkpoint that is beside the log.
    #[must_use]
    pub const fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }

    /// The vaults that were in use before the one that the log tells of last.
    #[must_use]
    pub fn other_vaults(&self) -> Vec<VaultMark> {
        self.vaults.all()
    }

    /// Adds a record to the group that the next commit writes; returns its number.
    pub fn append(&mut self, entry: &Entry, at: Stamp) -> u64 {
        let seq = self.code.next();
        self.tip.epoch = self.code.epoch();
        let prev = self.tip.tag;
        let boot_id = &self.place.boot_id;
        let from = self.len + self.group.len() as u64;
        let tag = write_record(&mut self.group, &mut self.code, boot_id, at, entry, &prev);
        let to = self.len + self.group.len() as u64;
        self.index.add(entry, seq, at.utc_ms, from, to);
        (self.tip.seq, self.tip.tag) = (seq, tag);
        self.tip.unsigned += 1;
        self.tip.tree.push(&tag);
        if let Some(mark) = vault_mark(entry) {
            self.tip.vault = Some(mark);
        }
        if self.tip.unsigned >= CHECKPOINT_EVERY {
            self.add_checkpoint(at);
        }
        seq
    }

    /// Writes the group, and has it on the disk on return if `durable`.
    ///
    /// # Errors
    /// When it cannot be written: the log is then as before the group, and its numbers are given again. After
    /// [`LogError::Lost`] it must not be used any more.
    pub fn commit(&mut self, durable: bool, now: Instant) -> Result<(), LogError> {
        if let Err(source) = self.file.write_all(&self.group) {
            return Err(self.take_back("write", source));
        }
        if !self.group.is_empty() {
            self.len += self.group.len() as u64;
            self.written.0 = self.tip.clone();
            self.written.1.follow(&self.code);
            self.group.clear();
            self.index.flush(false);
            self.sync_by.get_or_insert(now + SYNC_WITHIN);
            self.sign_by.get_or_insert(now + SIGN_WITHIN);
        }
        if durable {
            self.sync()?;
        }
        Ok(())
    }

    /// When [`Log::tick`] has something to do; never, when everything is signed and there is room.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let all = [self.sync_by, self.sign_by, self.room.due()];
        all.into_iter().flatten().min()
    }

    /// Does what has become due.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn tick(&mut self, now: Instant, at: Stamp) -> Result<(), LogError> {
        self.room.tick(&self.file, self.len, now);
        if self.sign_by.is_some_and(|due| due <= now) {
            // What cannot be signed now, because the disk is full, is tried again later and not at once.
            self.sign_by = Some(now + SIGN_WITHIN);
            self.seal(at)?;
        } else if self.sync_by.is_some_and(|due| due <= now) {
            self.sync()?;
        }
        Ok(())
    }

    /// Signs what is not signed, makes all of it durable, and puts the witness beside it. Begins a new segment if it is time.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn seal(&mut self, at: Stamp) -> Result<(), LogError> {
        if self.tip.unsigned > 0 {
            self.add_checkpoint(at);
        }
        self.commit(true, Instant::now())?;
        self.save_key()?;
        let age = at.utc_ms.saturating_sub(self.begun_ms);
        let is_old = u128::from(age) >= self.place.segment_age.as_millis();
        // Begun while the clock was ahead, it would not become old for as long as that was.
        let was_ahead = self.begun_ms > at.utc_ms.saturating_add(SET_BACK);
        let is_over = (is_old || was_ahead) && self.has_records();
        let rotates = self.len >= self.place.segment_bytes || is_over;
        if rotates {
            self.prune(at)?;
            if let Err(error) = self.rotate(at) {
                self.make_room(at);
                return Err(error);
            }
        }
        self.write_witness(at)?;
        self.sign_by = None;
        if rotates {
            self.remove_pruned();
        }
        Ok(())
    }

    /// Number of the last record that is in the file.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.written.0.seq
    }

    /// The newest state of the vault that a record in the file tells of.
    #[must_use]
    pub const fn vault(&self) -> Option<VaultMark> {
        self.written.0.vault
    }

    /// Goes on with a new first key, and gives it, as it is to be written down: whoever has it can check every code behind the record
    /// that tells of it. It is nowhere else.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn hand_out_key(&mut self, at: Stamp) -> Result<zeroize::Zeroizing<String>, LogError> {
        // The record of it is the last one of the epoch that ends: only who has its key can end it.
        let first = Ratchet::begin(self.code.epoch() + 1, self.code.next() + 1)?;
        let written = first.written();
        let mut entry = Entry::new(Event::LogKeyed);
        let detail = &mut entry.detail;
        detail.insert("epoch".into(), first.epoch().to_string());
        self.append(&entry, at);
        self.tip.epoch = first.epoch();
        self.code.follow(&first);
        self.seal(at)?;
        Ok(written)
    }

    /// Puts the key of the next record in place of the ones before it, which nobody has any more then.
    pub(crate) fn save_key(&mut self) -> Result<(), LogError> {
        let saved = self.next_key.save(&self.written.1);
        saved.map_err(|source| LogError::io("write", self.next_key.path(), source))
    }

    /// Whether anything was written since the segment began.
    const fn has_records(&self) -> bool {
        self.written.0.seq > self.before
    }

    fn add_checkpoint(&mut self, at: Stamp) {
        let offset = self.len + self.group.len() as u64;
        let checkpoint = self.checkpoint(self.segment, offset, self.tip.next_checkpoint, at, false);
        write_checkpoint(&mut self.group, &checkpoint, &self.key);
        self.tip.next_checkpoint += 1;
        self.tip.unsigned = 0;
    }

    /// The checkpoint of what there is; the first of a segment has the tree itself.
    fn checkpoint(&self, segment: u32, offset: u64, n: u64, at: Stamp, first: bool) -> Checkpoint {
        checkpoint_of(
            &self.tip,
            self.code.epoch(),
            (segment, offset),
            n,
            at,
            first,
        )
    }

    fn sync(&mut self) -> Result<(), LogError> {
        if self.sync_by.is_some() {
            // After a failed sync the kernel may have dropped the pages and call them clean: trying again would prove nothing.
            let path = segment::path(&self.place.dir, self.segment);
            self.file.sync_data().map_err(|source| LogError::Lost {
                step: "sync",
                path,
                source,
            })?;
            self.sync_by = None;
        }
        Ok(())
    }

    /// Cuts the file back to what was good, so that the next group continues there.
    fn take_back(&mut self, step: &'static str, source: io::Error) -> LogError {
        let path = segment::path(&self.place.dir, self.segment);
        self.group.clear();
        self.index.forget();
        self.tip = self.written.0.clone();
        self.code.follow(&self.written.1);
        self.room.was_cut(self.len);
        match self.file.set_len(self.len) {
            Ok(()) => LogError::io(step, &path, source),
            Err(source) => LogError::Lost {
                step: "cut back",
                path,
                source,
            },
        }
    }

    /// Begins the next segment. On failure the log goes on in this one.
    fn rotate(&mut self, at: Stamp) -> Result<(), LogError> {
        let next = self.segment + 1;
        let path = segment::path(&self.place.dir, next);
        let first = self.checkpoint(next, 0, self.tip.next_checkpoint, at, true);
        let (file, len) = begin_segment(&path, &first, &self.key)
            .map_err(|source| LogError::io("begin", &path, source))?;
        let room = Room::behind(&file, len);
        if room.is_full() {
            // It goes on where there is still room for some.
            let _ = std::fs::remove_file(&path);
            return Err(LogError::Full(path));
        }
        room::give_back(&self.file, self.len);
        (self.file, self.len, self.segment, self.room) = (file, len, next, room);
        self.index.flush(true);
        self.index = Indexer::open(&self.place.dir, next, len);
        (self.begun_ms, self.before) = (at.utc_ms, self.tip.seq);
        self.tip.next_checkpoint += 1;
        self.written.0 = self.tip.clone();
        Ok(())
    }

    /// Writes the newest checkpoint where a reader and the next start look for it.
    pub(crate) fn write_witness(&mut self, at: Stamp) -> Result<(), LogError> {
        // It says again what the last checkpoint in the log says; only its place is different, and that is not compared.
        let newest = self.checkpoint(
            self.segment,
            self.len,
            self.tip.next_checkpoint.saturating_sub(1),
            at,
            false,
        );
        let mut line = Vec::new();
        write_checkpoint(&mut line, &newest, &self.key);
        // The writer's own copy comes last: it must never be ahead of the other, nor any of them ahead of the log.
        for (dir, mode) in [(&self.place.dir, 0o640), (&self.place.state, 0o600)] {
            let path = dir.join(WITNESS);
            write_durably(&path, &line, mode)
                .map_err(|source| LogError::io("write", &path, source))?;
        }
        // Who has the log's files and its key has not yet what the journal was told, least of all where that is sent elsewhere.
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        tracing::info!(message_id = paw_log::events::AUDIT_SIGNED, record = newest.seq, checkpoint = %text, "audit log signed");
        self.signed = Some(Signed {
            seq: newest.seq,
            checkpoint: text.into_owned(),
        });
        Ok(())
    }
}

/// What is signed of a log that has come to here, with the key of the next record in this epoch.
pub(crate) fn checkpoint_of(
    tip: &Tip,
    epoch: u32,
    (segment, offset): (u32, u64),
    n: u64,
    at: Stamp,
    first: bool,
) -> Checkpoint {
    let peaks = tip.tree.peaks().iter().filter(|_| first);
    Checkpoint {
        v: VERSION,
        n,
        segment,
        offset,
        seq: tip.seq,
        tag: Digest::from_bytes(tip.tag),
        utc_ms: at.utc_ms,
        log: Some(Contents {
            size: tip.tree.size(),
            root: Digest::from_bytes(tip.tree.root()),
            epoch,
            first: tip.first,
            vault: tip.vault,
            peaks: peaks.map(|peak| Digest::from_bytes(*peak)).collect(),
        }),
    }
}

/// Makes a segment that holds its first checkpoint, durably; replaces one that a crash left half-made.
pub(crate) fn begin_segment(
    path: &Path,
    first: &Checkpoint,
    key: &SigningKey,
) -> io::Result<(File, u64)> {
    let mut line = Vec::new();
    write_checkpoint(&mut line, first, key);
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    let made = file
        .set_len(0)
        .and_then(|()| file.write_all(&line))
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all());
    if let Err(error) = made {
        // Without its first line it is not a segment; what cannot be removed is replaced by the next try.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok((file, line.len() as u64))
}
