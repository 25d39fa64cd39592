//! What pawd says to the writer of the audit log, which does not trust it, and what a filter is held against; for the fuzzer.

use paw_api::audit::{Append, AppendRefused};

use crate::serve;

/// Reads a line as a request.
///
/// # Errors
/// Why it is none.
pub fn request(line: &[u8]) -> Result<Append, AppendRefused> {
    serve::understand(line)
}
