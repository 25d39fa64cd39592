//! paw-launcher-kata: the launcher for virtual machines, which has real root because a containerd shim needs it. Opt-in.
//!
//! Everything but the start and the runtime is the other launcher's: the loop, the ceilings, bundles, cgroups, the doorkeeper.
//!
//! ```text
//! paw-launcher-kata ── paw-shim attend   one for each sandbox: starts the shim, then gives up every right, and alone reads what
//!   (root, one thread)     │             the shim says: ttrpc, events, its log
//!                          └─ SHIM ──── hypervisor, or a container of runc where that is what was configured
//!                    ── paw-shim clear   after the end: Delete, Shutdown; and by force what does not go by itself
//!                          └─ SHIM delete   where the shim could not be asked; in its cgroup
//! ```
//!
//! - `start`: from root to root with few capabilities, no network, a `/run` of its own.
//! - `private`: that `/run`; `pins`: what sandboxes mount, bound in it.
//! - `shim`: what is installed, and what it really isolates by. A shim that is not Kata's makes no virtual machine, and is never
//!   taken for one.
//! - `leftovers`: what runc makes beside our cgroups.
//! - `maker`: one sandbox of it; `specification` and `attest` are what it is asked for and what is seen of it.

mod attest;
pub(crate) mod leftovers;
mod maker;
mod pins;
pub(crate) mod private;
mod shim;
mod specification;
mod start;

pub(crate) use self::{pins::Pins, start::run};
