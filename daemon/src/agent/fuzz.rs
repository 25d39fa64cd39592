//! What a model writes, for the fuzzer.

use serde_json::{Map, Value};

use super::turn::text;

/// Reads a text as a call of any tool.
///
/// # Panics
/// When the arguments of a call are no object.
pub fn written_call(said: &str) {
    if let Some((_, arguments)) = text::call(said, |_| true) {
        serde_json::from_str::<Map<String, Value>>(&arguments).expect("arguments are an object");
    }
}
