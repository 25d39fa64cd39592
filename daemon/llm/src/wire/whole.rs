//! An answer in one piece: the whole body is one record.

use super::WHOLE_LIMIT;
use crate::error::LlmError;

#[derive(Default)]
pub(super) struct Whole {
    body: Vec<u8>,
}

impl Whole {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), LlmError> {
        if self.body.len() + bytes.len() > WHOLE_LIMIT {
            return Err(LlmError::TooLarge {
                what: "the provider's answer",
            });
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), LlmError>,
    ) -> Result<(), LlmError> {
        each(std::mem::take(&mut self.body).trim_ascii())
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.body.capacity()
    }
}
