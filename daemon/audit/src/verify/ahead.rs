//! A look ahead, to name what was done.

use std::io;

use crate::{
    format::{is_checkpoint, parse_record},
    segment::{Lines, Next},
};

/// How far ahead a missing record is looked for before it is called deleted, in lines.
const LOOK_AHEAD: usize = 4096;

/// What comes after the line that does not fit, in the same segment and not far.
pub(super) struct Rest {
    /// Whether any of it is a line of a log.
    pub(super) has_lines: bool,
    numbers: Vec<u64>,
}

impl Rest {
    pub(super) fn read(lines: &mut Lines) -> io::Result<Self> {
        let mut rest = Self {
            has_lines: false,
            numbers: Vec::new(),
        };
        for _ in 0..LOOK_AHEAD {
            match lines.next()? {
                Next::End => break,
                Next::Partial => (),
                Next::Line(line) if is_checkpoint(line) => rest.has_lines = true,
                Next::Line(line) => {
                    if let Ok(record) = parse_record(line) {
                        rest.has_lines = true;
                        rest.numbers.push(record.seq);
                    }
                }
            }
        }
        Ok(rest)
    }

    pub(super) fn has_record(&self, seq: u64) -> bool {
        self.numbers.contains(&seq)
    }
}
