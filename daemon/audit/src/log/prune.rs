//! What of a log is not kept any longer: it is said in the log, signed, and then removed.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use paw_api::audit::{Entry, Event};

use super::{Log, LogError, SET_BACK};
use crate::{
    format::Stamp,
    index,
    room::{self, Room},
    segment,
};

impl Log {
    /// Says which segments are not kept any longer; they are removed once that is signed.
    pub(super) fn prune(&mut self, at: Stamp) -> Result<(), LogError> {
        let Some(keep) = self.place.keep else {
            return Ok(());
        };
        let failed = |path: &Path, source| LogError::io("read", path, source);
        let dir = &self.place.dir;
        let numbers = segment::list(dir).map_err(|source| failed(dir, source))?;
        let mut begun = Vec::new();
        for number in numbers {
            let path = segment::path(dir, number);
            match segment::first_checkpoint(&path).map_err(|source| failed(&path, source))? {
                Some(checkpoint) => begun.push((number, checkpoint.utc_ms)),
                None => break,
            }
        }
        // What is in a segment ends where the next one begins, and the one that is written into stays.
        let first = first_kept(&begun, at.utc_ms, keep, self.place.segment_age)
            .unwrap_or(self.tip.first)
            .max(self.tip.first);
        if first == self.tip.first {
            return Ok(());
        }
        let mut entry = Entry::new(Event::LogPruned);
        let detail = &mut entry.detail;
        detail.insert("from_segment".into(), self.tip.first.to_string());
        detail.insert("to_segment".into(), (first - 1).to_string());
        self.append(&entry, at);
        self.tip.first = first;
        self.add_checkpoint(at);
        self.commit(true, Instant::now())?;
        self.save_key()
    }

    /// A segment that is not kept any longer may be all the room there is: removes it, where the next one cannot begin. To say that it goes takes
    /// some of what is kept for a full disk, which nobody gives for nothing.
    pub(super) fn make_room(&mut self, at: Stamp) {
        let numbers = segment::list(&self.place.dir).unwrap_or_default();
        if numbers.first().is_none_or(|it| *it >= self.written.0.first) {
            return;
        }
        room::give_back(&self.file, self.len);
        if self.write_witness(at).is_ok() {
            self.remove_pruned();
        }
        self.room = Room::behind(&self.file, self.len);
    }

    /// Removes the segments that the log says are not kept. What cannot be removed now is at the next time.
    pub(crate) fn remove_pruned(&self) {
        let numbers = segment::list(&self.place.dir).unwrap_or_default();
        for number in numbers {
            if number >= self.written.0.first {
                break;
            }
            index::remove(&self.place.dir, number);
            let path = segment::path(&self.place.dir, number);
            match std::fs::remove_file(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "old segment removed"),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = %error, "old segment cannot be removed");
                }
            }
        }
    }
}

/// The first segment that is kept: the newest one that began as long ago as is kept; none where all are kept. The segments stand with the
/// time when they began, the oldest first.
///
/// A clock that jumps makes nothing old. A segment is followed by another after its age, so each is taken to have lasted a day longer than
/// that at most, and half of what is kept at most; one that ended before it began, no time at all.
fn first_kept(begun: &[(u32, u64)], now_ms: u64, keep: Duration, age: Duration) -> Option<u32> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let longest = ms(age).saturating_add(SET_BACK).min(ms(keep) / 2);
    let (mut end, mut ago) = (now_ms, 0_u64);
    for (number, from) in begun.iter().rev() {
        ago = ago.saturating_add(end.saturating_sub(*from).min(longest));
        if ago >= ms(keep) {
            return Some(*number);
        }
        end = *from;
    }
    None
}
