//! The async client of the launcher: sandboxes as values that end when they are dropped.
//!
//! ```text
//!  driver ── run / call ──► Sandbox ── frames (two pipes) ──► paw-init ─► command
//!                │             │
//!                └── Launcher ─┴── packets (launcher.sock) ──► paw-launcher
//! ```
//!
//! - [`launcher`]: the one connection to a launcher, its requests, and the ends of sandboxes.
//! - [`launchers`]: which launchers there are, and which of them makes what.
//! - [`frames`]: commands inside one sandbox: start, streams with back-pressure, ends.
//! - [`manifest`]: which skills there are and what they say they do; [`seal`]: whether they are what they were.
//! - [`run()`]: one command in one sandbox, for `sandbox run`.
//! - [`mod@pool`]: sandboxes that were made before anybody asked.
//! - [`choose()`]: which runtime makes it.
//! - [`proofs`]: what hostile probes have shown of each runtime.
//! - [`register`]: which of them run, whose they are, what they said; [`keep`]: so that the next pawd knows it too.
//! - [`adopt()`]: going on with those that an earlier pawd made.
//! - [`workspace`]: what became of what a run wrote.
//! - [`egress`], [`relay`]: the way of its connections to paw-egress and back.
//! - [`witness`]: signed checkpoints of the audit log, which leave the host by paw-egress, too.
//! - [`mcp`]: one tool call of one skill in one sandbox.
//! - [`announce()`]: what the program of a skill says of itself, when it is approved and ever after.
//!
//! It decides nothing: what may run, with which limits and mounts, is in the plan it is given. And it believes nothing that
//! comes out of a sandbox: sizes, totals, counts and times are bounded here again.

mod adopt;
mod announce;
mod away;
mod choose;
pub mod confidential;
mod content;
mod egress;
mod folder;
pub mod frames;
#[doc(hidden)]
pub mod fuzz;
pub mod keep;
pub mod launcher;
pub mod launchers;
pub mod least;
mod life;
mod link;
mod made;
pub mod manifest;
pub mod mcp;
pub mod mounts;
mod named;
pub mod pool;
pub mod proofs;
pub mod register;
mod relay;
mod run;
pub(crate) mod seal;
mod sees;
mod stdin;
mod stream;
mod strict;
mod talk;
mod wire;
mod witness;
pub mod workspace;

#[cfg(test)]
mod outside;
#[cfg(test)]
mod tests;

pub use adopt::{Adopted, Going, adopt};
pub use announce::{Announced, announce};
pub use away::{LauncherError, LauncherState};
pub use choose::{ChoiceError, allow, choose};
pub use egress::{EgressError, Net, PROXY_ENVIRONMENT, hand, look};
pub use frames::{Child, Exit, Output, Process, Sandbox, SandboxError, Starter, Stdin};
pub use launcher::{Connection, Launcher, connect};
pub use launchers::{Launchers, Which};
pub use manifest::{ManifestError, Provenance, Skill, Skills, Tool};
pub use mcp::{McpError, ToolCall, ToolOutcome, call};
pub use named::{BadUrl, Url};
pub use pool::{Keeper, Origin, Owner, Pool};
pub use proofs::Proofs;
pub use register::{Found, Known, Log, Register, Stream};
pub use relay::{Answerer, Said};
pub(crate) use run::GRACE;
pub use run::{
    Attending, ExecSpec, Noting, RunEnd, RunError, RunEvent, RunSpec, Sizes, attend_exec,
    attend_run, exec, run, run_noted,
};
pub use sees::{Sees, own};
pub use witness::{Witnesses, witnesses};
pub use workspace::{WorkspaceError, settle};

use paw_launch::request::SandboxId;

/// The sandbox id that these random bytes spell.
#[must_use]
pub fn sandbox_id(random: [u8; 8]) -> SandboxId {
    format!("{:016x}", u64::from_le_bytes(random))
        .parse()
        .expect("16 hexadecimal digits are an id")
}
