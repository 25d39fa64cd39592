//! Cuts bytes into lines, wherever the network cut them before, and holds at most [`LIMIT`] bytes of an unfinished one.

use super::LIMIT;
use crate::error::LlmError;

/// Which bytes end a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Only LF; a CR before it is left to the reader, for whom it is white space.
    Lf,
    /// LF, CR, or both together, as server-sent events have it.
    CrOrLf,
}

pub(super) struct Lines {
    ends: Ends,
    tail: Vec<u8>,
    after_cr: bool,
}

impl Lines {
    pub(super) fn new(ends: Ends) -> Self {
        Self {
            ends,
            tail: Vec::new(),
            after_cr: false,
        }
    }

    /// Calls `each` with every line that `bytes` complete, without its end.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        while let Some(&first) = bytes.first() {
            // The line ended at the CR already; waiting for a possible LF would hold back an answer's last event.
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes
                .iter()
                .position(|&byte| byte == b'\n' || (byte == b'\r' && self.ends == Ends::CrOrLf));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.tail.len() + piece.len() > LIMIT {
                return Err(LlmError::TooLarge {
                    what: "a line of the provider's answer",
                });
            }
            let Some(end) = end else {
                self.tail.extend_from_slice(piece);
                return Ok(());
            };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if self.tail.is_empty() {
                each(piece)?;
            } else {
                self.tail.extend_from_slice(piece);
                each(&self.tail)?;
                self.tail.clear();
            }
        }
        Ok(())
    }

    /// What stands after the last line end, once.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.tail)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.tail.capacity()
    }
}
