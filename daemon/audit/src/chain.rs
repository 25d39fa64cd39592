//! Whether a line may follow the ones before it.

use ed25519_dalek::VerifyingKey;

use crate::format::{
    CHECKPOINT_EVERY, Checkpoint, LineError, Tag, is_checkpoint, read_checkpoint, read_record,
};

/// Where the log has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tip {
    /// Number of the last record; 0 before the first.
    pub seq: u64,
    /// Its tag.
    pub tag: Tag,
    /// Number that the next checkpoint has.
    pub next_checkpoint: u64,
    /// How many records there are since the last checkpoint.
    pub unsigned: u64,
}

/// What a line that fits is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The next record; whether it tells of a recovery.
    Record {
        /// Bytes were dropped by a recovery just before it.
        recovered: bool,
    },
    /// The next checkpoint.
    Checkpoint(Checkpoint),
}

/// Why a line does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// The line by itself is wrong.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The record has another number than the one that comes next.
    #[error("record {found} stands where record {expected} should")]
    Number {
        /// Which should come.
        expected: u64,
        /// Which came.
        found: u64,
    },
    /// The record does not continue the record before.
    #[error("the record continues another one than the one before it")]
    Prev,
    /// The checkpoint has another number than the one that comes next.
    #[error("checkpoint {found} stands where checkpoint {expected} should")]
    CheckpointNumber {
        /// Which should come.
        expected: u64,
        /// Which came.
        found: u64,
    },
    /// The checkpoint tells of another content.
    #[error("checkpoint after record {signed}, at record {at}, tells of another content")]
    Content {
        /// The last record that it signs.
        signed: u64,
        /// The last record that stands before it.
        at: u64,
    },
    /// More records follow each other than the writer ever leaves unsigned.
    #[error("a checkpoint is missing")]
    Unsigned,
    /// The segment does not begin with a checkpoint.
    #[error("the segment does not begin with a checkpoint")]
    Start,
}

/// The checked part of a log.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Where it has come to.
    pub tip: Tip,
    key: VerifyingKey,
}

impl Chain {
    /// The chain of a log before its first line.
    #[must_use]
    pub fn new(key: VerifyingKey) -> Self {
        Self {
            tip: Tip::default(),
            key,
        }
    }

    /// The chain from a segment's first checkpoint on, believing the signature for all that was before it.
    ///
    /// # Errors
    /// When the line is not a checkpoint that this key signed.
    pub fn resume(key: VerifyingKey, first: &[u8]) -> Result<(Self, Checkpoint), Break> {
        let checkpoint = read_checkpoint(first, &key)?;
        let tip = Tip {
            seq: checkpoint.seq,
            tag: *checkpoint.tag.as_bytes(),
            next_checkpoint: checkpoint.n + 1,
            unsigned: 0,
        };
        Ok((Self { tip, key }, checkpoint))
    }

    /// Goes one line on. The line stands without its end, at `offset` of `segment`.
    ///
    /// # Errors
    /// When the line does not fit; the chain stays where it was.
    pub fn step(&mut self, line: &[u8], segment: u32, offset: u64) -> Result<Link, Break> {
        if is_checkpoint(line) {
            return self.checkpoint(line, segment, offset);
        }
        let (record, tag) = read_record(line)?;
        let expected = self.tip.seq + 1;
        if record.seq != expected {
            return Err(Break::Number {
                expected,
                found: record.seq,
            });
        }
        if crate::format::tag(record.prev) != Some(self.tip.tag) {
            return Err(Break::Prev);
        }
        if self.tip.unsigned >= CHECKPOINT_EVERY {
            return Err(Break::Unsigned);
        }
        if offset == 0 {
            return Err(Break::Start);
        }
        let recovered = record
            .entry
            .get()
            .starts_with("{\"event\":\"log_recovered\"");
        self.tip = Tip {
            seq: expected,
            tag,
            unsigned: self.tip.unsigned + 1,
            ..self.tip
        };
        Ok(Link::Record { recovered })
    }

    fn checkpoint(&mut self, line: &[u8], segment: u32, offset: u64) -> Result<Link, Break> {
        let checkpoint = read_checkpoint(line, &self.key)?;
        let expected = self.tip.next_checkpoint;
        // The content comes first: where records are missing, checkpoints are too, and the records are what matters.
        if checkpoint.seq != self.tip.seq || checkpoint.tag.as_bytes() != &self.tip.tag {
            return Err(Break::Content {
                signed: checkpoint.seq,
                at: self.tip.seq,
            });
        }
        if checkpoint.n != expected {
            return Err(Break::CheckpointNumber {
                expected,
                found: checkpoint.n,
            });
        }
        if checkpoint.segment != segment || checkpoint.offset != offset {
            return Err(Break::Content {
                signed: checkpoint.seq,
                at: self.tip.seq,
            });
        }
        self.tip.next_checkpoint += 1;
        self.tip.unsigned = 0;
        Ok(Link::Checkpoint(checkpoint))
    }
}
