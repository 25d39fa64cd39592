//! Newline-delimited JSON: one record a line; empty lines mean nothing.

use super::lines::{Ends, Lines};
use crate::error::LlmError;

pub(super) struct Ndjson {
    lines: Lines,
}

impl Default for Ndjson {
    fn default() -> Self {
        Self {
            lines: Lines::new(Ends::Lf),
        }
    }
}

impl Ndjson {
    /// Calls `each` with every record that `bytes` complete.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        self.lines.push(bytes, |line| record(line, &mut each))
    }

    /// The last line needs no end.
    pub(super) fn finish(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        record(&self.lines.rest(), &mut each)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lines.held()
    }
}

fn record(
    line: &[u8],
    each: &mut impl FnMut(&[u8]) -> Result<(), LlmError>,
) -> Result<(), LlmError> {
    match line.trim_ascii() {
        [] => Ok(()),
        line => each(line),
    }
}
