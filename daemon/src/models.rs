//! Models behind the providers: whether one answers, before it is relied on, and which ones are made ready at the start.
//!
//! - [`ready`]: one model, loaded and asked.
//! - [`pulls`]: places for those that are fetched.
//! - [`warm`]: the configured ones, in the background.
//! - [`told`]: what is said of one, and what becomes of it, as callers hear it.

pub mod pulls;
pub mod ready;
pub mod told;
pub mod warm;
