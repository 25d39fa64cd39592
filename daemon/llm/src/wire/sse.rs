//! Server-sent events, as far as models use them: the joined `data` of each event. Names, ids, retry times and comments
//! are skipped, because the dialects here repeat in their data whatever matters.

use super::LIMIT;
use super::lines::{Ends, Lines};
use crate::error::LlmError;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) struct Sse {
    lines: Lines,
    event: Event,
}

/// The event whose blank line has not come yet.
#[derive(Default)]
struct Event {
    data: Vec<u8>,
    has_data: bool,
    begun: bool,
}

impl Default for Sse {
    fn default() -> Self {
        Self {
            lines: Lines::new(Ends::CrOrLf),
            event: Event::default(),
        }
    }
}

impl Sse {
    /// Calls `each` with the data of every event that `bytes` complete.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        let Self { lines, event } = self;
        lines.push(bytes, |line| event.line(line, &mut each))
    }

    /// The standard drops an event without its blank line; servers exist that end right after `data: [DONE]`, so here
    /// the end of the stream counts as one.
    pub(super) fn finish(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        let rest = self.lines.rest();
        if !rest.is_empty() {
            self.event.line(&rest, &mut each)?;
        }
        self.event.line(b"", &mut each)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lines.held() + self.event.data.capacity()
    }
}

impl Event {
    fn line(
        &mut self,
        mut line: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(each);
        }
        let Some(value) = line.strip_prefix(b"data") else {
            return Ok(());
        };
        let value = match value {
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            [] => value,
            // Another field whose name only begins with `data`.
            _ => return Ok(()),
        };
        if self.data.len() + value.len() >= LIMIT {
            return Err(LlmError::TooLarge {
                what: "an event of the provider's answer",
            });
        }
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn dispatch(
        &mut self,
        each: &mut impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        self.has_data = false;
        let outcome = match self.data.trim_ascii() {
            [] => Ok(()),
            data => each(data),
        };
        self.data.clear();
        outcome
    }
}
