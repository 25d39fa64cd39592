//! paw-image: keeps images for sandboxes. A job of the launcher, and the only program of ours that reads archives of others.
//!
//! ```text
//! paw-image STATE ENTRANCE...      the directory of all images, and where to be limited; fd 3 is the launcher's socket
//! ```
//!
//! - `store`: names, trees, what is being made, and how two of us keep out of each other's way.
//! - `add`, `list`, `sweep`: what is asked of it.
//! - `layout`, `oci`: an OCI image layout and its documents; `layer`, `stream`: archives and their packing.
//! - `path`, `root`: which names are paths, and a root that is being made.
//! - `fuzz`: what is foreign here, for the fuzzer.

mod add;
#[doc(hidden)]
pub mod fuzz;
mod layer;
mod layout;
mod list;
mod oci;
mod path;
mod root;
mod store;
mod stream;
mod sweep;

#[cfg(test)]
mod tests;

use std::{env, io::Write as _, os::fd::OwnedFd, path::PathBuf, process::ExitCode};

use paw_confine::{
    landlock::{PathRule, Rights},
    seccomp,
};
use paw_job::{Bounds, Done};
use paw_launch::{
    image::{ImageCharge, ImageOrder},
    request::Refusal,
};
use serde_json::Value;

use crate::store::Store;

const USAGE: &str = "usage: paw-image STATE ENTRANCE...; it is started by paw-launcher";

/// Descriptors at once: deep trees are walked with one for each level.
const OPEN_FILES: u64 = 256;

/// The whole program, from its arguments to its exit code.
#[must_use]
pub fn program() -> ExitCode {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let Some(dir) = arguments.next() else {
        let _ = writeln!(std::io::stderr(), "{USAGE}");
        return ExitCode::from(64);
    };
    let entrances: Vec<PathBuf> = arguments.collect();
    let bounds = Bounds {
        paths: Some(vec![PathRule::new(
            &dir,
            Rights::ReadWrite,
            "images are kept here, and nowhere else",
        )]),
        keep: Vec::new(),
        calls: seccomp::image(),
        open_files: OPEN_FILES,
    };
    paw_job::run(&entrances, bounds, |charge: ImageCharge, fds| {
        work(&dir, charge, fds).map(Done::from)
    })
}

fn work(dir: &std::path::Path, charge: ImageCharge, fds: Vec<OwnedFd>) -> Result<Value, Refusal> {
    let store = Store::open(dir)?;
    let ImageCharge {
        order,
        shipped,
        used,
        bounds,
    } = charge;
    match order {
        ImageOrder::Add { name, origin } => {
            said(add::add(&store, &name, origin, &shipped, bounds, fds)?)
        }
        ImageOrder::List { after } => said(list::page(&store, &shipped, &used, after.as_ref())?),
        ImageOrder::Remove { name } => {
            sweep::forget(&store, &name, &shipped)?;
            said(sweep::sweep(&store)?)
        }
        ImageOrder::Sweep => said(sweep::sweep(&store)?),
    }
}

fn said(result: impl serde::Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(result).map_err(|error| store::StoreError::Write(error).into())
}
