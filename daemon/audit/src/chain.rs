//! Whether a line may follow the ones before it.

use ed25519_dalek::VerifyingKey;
use paw_api::audit::VaultMark;

use crate::{
    format::{
        CHECKPOINT_EVERY, Checkpoint, Contents, LineError, Tag, VERSION, is_checkpoint,
        raw_vault_mark, read_checkpoint, read_record,
    },
    mac::Codes,
    tree::Tree,
};

/// Where the log has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tip {
    /// Number of the last record; 0 before the first.
    pub seq: u64,
    /// Its tag.
    pub tag: Tag,
    /// Number that the next checkpoint has.
    pub next_checkpoint: u64,
    /// How many records there are since the last checkpoint.
    pub unsigned: u64,
    /// The version of the segment's lines; 0 before the first.
    pub version: u32,
    /// Of which epoch the key of the next record's code is.
    pub epoch: u32,
    /// The first segment that is kept.
    pub first: u32,
    /// The newest state of the vault that a record tells of.
    pub vault: Option<VaultMark>,
    /// The tree over the records.
    pub tree: Tree,
}

impl Tip {
    /// What a checkpoint that begins a log's part in this version says is there.
    fn begin(&mut self, version: u32, said: Option<&Contents>) -> Option<()> {
        if let Some(said) = said {
            self.tree = said.tree()?;
            (self.epoch, self.first, self.vault) = (said.epoch, said.first, said.vault);
        }
        self.version = version;
        Some(())
    }
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
    /// The record's code was not made with its key.
    #[error("the code of the record was not made with the record's key")]
    Code,
    /// A line of an older version stands behind newer ones, or of a newer one where no segment begins.
    #[error("a line of version {found} stands where version {expected} is written")]
    Version {
        /// Which is written there.
        expected: u32,
        /// Which came.
        found: u32,
    },
    /// The record is of another epoch than the one before, and none ended there.
    #[error("the record is of epoch {found} where epoch {expected} is")]
    Epoch {
        /// Which is.
        expected: u32,
        /// Which came.
        found: u32,
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
    /// What the records' codes are checked with.
    pub codes: Codes,
    key: VerifyingKey,
}

impl Chain {
    /// The chain of a log before its first line.
    #[must_use]
    pub fn new(key: VerifyingKey, codes: Codes) -> Self {
        Self {
            tip: Tip::default(),
            codes,
            key,
        }
    }

    /// The chain from a segment's first checkpoint on, believing the signature for all that was before it.
    ///
    /// # Errors
    /// When the line is not a checkpoint that this key signed, or a segment does not begin with it.
    pub fn resume(
        key: VerifyingKey,
        codes: Codes,
        first: &[u8],
    ) -> Result<(Self, Checkpoint), Break> {
        let checkpoint = read_checkpoint(first, &key)?;
        let mut tip = Tip {
            seq: checkpoint.seq,
            tag: *checkpoint.tag.as_bytes(),
            next_checkpoint: checkpoint.n + 1,
            ..Tip::default()
        };
        tip.begin(checkpoint.v, checkpoint.log.as_ref())
            .ok_or(Break::Start)?;
        Ok((Self { tip, codes, key }, checkpoint))
    }

    /// Goes one line on. The line stands without its end, at `offset` of `segment`.
    ///
    /// # Errors
    /// When the line does not fit; the chain stays where it was.
    pub fn step(&mut self, line: &[u8], segment: u32, offset: u64) -> Result<Link, Break> {
        if is_checkpoint(line) {
            return self.checkpoint(line, segment, offset);
        }
        let (record, tag, coded) = read_record(line)?;
        let expected = self.tip.seq + 1;
        if record.seq != expected {
            return Err(Break::Number {
                expected,
                found: record.seq,
            });
        }
        let prev = self.tip.tag;
        if crate::format::tag(record.prev) != Some(prev) {
            return Err(Break::Prev);
        }
        if offset == 0 {
            return Err(Break::Start);
        }
        if record.v != self.tip.version {
            return Err(Break::Version {
                expected: self.tip.version,
                found: record.v,
            });
        }
        if self.tip.unsigned >= CHECKPOINT_EVERY {
            return Err(Break::Unsigned);
        }
        let says = |event: &str| record.entry.get().starts_with(event);
        match coded {
            Some(coded) => {
                if coded.epoch != self.tip.epoch {
                    return Err(Break::Epoch {
                        expected: self.tip.epoch,
                        found: coded.epoch,
                    });
                }
                let fits = self
                    .codes
                    .fits(expected, coded.epoch, &coded.mac, &prev, coded.body);
                if !fits {
                    return Err(Break::Code);
                }
                // Its own code is by a key of the epoch that it ends: without that, nobody begins another one.
                self.tip.epoch += u32::from(says("{\"event\":\"log_keyed\""));
                self.tip.tree.push(&tag);
            }
            None if self.codes.demands(expected) => return Err(Break::Code),
            None => {}
        }
        if let Some(mark) = raw_vault_mark(record.entry) {
            self.tip.vault = Some(mark);
        }
        let recovered = says("{\"event\":\"log_recovered\"");
        (self.tip.seq, self.tip.tag) = (expected, tag);
        self.tip.unsigned += 1;
        Ok(Link::Record { recovered })
    }

    fn checkpoint(&mut self, line: &[u8], segment: u32, offset: u64) -> Result<Link, Break> {
        let checkpoint = read_checkpoint(line, &self.key)?;
        let expected = self.tip.next_checkpoint;
        let content = Break::Content {
            signed: checkpoint.seq,
            at: self.tip.seq,
        };
        // The content comes first: where records are missing, checkpoints are too, and the records are what matters.
        if checkpoint.seq != self.tip.seq || checkpoint.tag.as_bytes() != &self.tip.tag {
            return Err(content);
        }
        if checkpoint.n != expected {
            return Err(Break::CheckpointNumber {
                expected,
                found: checkpoint.n,
            });
        }
        if checkpoint.segment != segment || checkpoint.offset != offset {
            return Err(content);
        }
        let begins = offset == 0 && checkpoint.v > self.tip.version;
        if checkpoint.v != self.tip.version && !begins {
            return Err(Break::Version {
                expected: self.tip.version,
                found: checkpoint.v,
            });
        }
        if begins {
            let mut tip = self.tip.clone();
            let is_new = |said: &Contents| said.size == 0;
            tip.begin(checkpoint.v, checkpoint.log.as_ref())
                .filter(|()| checkpoint.log.as_ref().is_none_or(is_new))
                .ok_or(content)?;
            self.tip = tip;
        }
        if let Some(said) = &checkpoint.log {
            let tree = &self.tip.tree;
            let fits = (said.size, said.root.as_bytes()) == (tree.size(), &tree.root())
                && (said.peaks.is_empty() || said.tree().as_ref() == Some(tree))
                && said.epoch == self.tip.epoch
                && said.vault == self.tip.vault
                && said.first >= self.tip.first;
            if !fits {
                return Err(content);
            }
            self.tip.first = said.first;
        }
        self.tip.next_checkpoint += 1;
        self.tip.unsigned = 0;
        Ok(Link::Checkpoint(checkpoint))
    }
}

/// Whether the writer of this version can go on in a segment that has come to here.
pub(crate) const fn is_ours(tip: &Tip) -> bool {
    tip.version == VERSION
}
