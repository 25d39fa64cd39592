//! How our processes log: into the journal with fields when systemd started them, as readable text on stderr otherwise.
//!
//! Nothing leaves the process unread: values that look like keys are replaced, control characters are shown, and lengths are
//! bounded, in both places and for every field, because what is logged often quotes what a model, a provider or a client said.
//!
//! Fields of ours are named `paw_action`, `paw_agent`, `paw_sandbox`, `paw_channel`, `paw_provider`, and so on; the journal shows them
//! as `PAW_ACTION=`. A lifecycle event says `message_id = events::…` from [`events`], so that `journalctl -x` explains it.
//!
//! This crate knows nothing of configuration files: the level comes in as text.

mod chain;
pub mod events;
mod init;
mod redact;
mod scrub;
mod text;

pub use chain::Chain;
pub use init::{InitError, Logging, init};
pub use redact::{FIELD_MAX, MESSAGE_MAX, redacted};
