//! What pawd says to the launcher, which believes nothing of it, and what stands in `launcher.toml`; for the fuzzer.

use std::path::Path;

use paw_launch::request::{Numbered, Request, SandboxPlan};

use crate::ceilings::Ceilings;

/// Checks what a packet asks for against these ceilings, as before anything is made.
///
/// # Panics
/// When a plan is approved that mounts something which no ceiling names.
pub fn request(request: Numbered, ceilings: &Limits) {
    match request.request {
        Request::Create(plan) | Request::Prepare { plan, .. } => approve(*plan, &ceilings.0),
        _ => {}
    }
}

/// Ceilings that were read.
pub struct Limits(Ceilings);

/// Reads a `launcher.toml`, whoever owns it.
#[must_use]
pub fn ceilings(text: &str) -> Option<Limits> {
    let ceilings: Ceilings = toml::from_str(text).ok()?;
    ceilings.check().ok()?;
    Some(Limits(ceilings))
}

fn approve(plan: SandboxPlan, ceilings: &Ceilings) {
    let nowhere = Path::new("/nonexistent");
    let Ok(approved) = ceilings.approve(plan, nowhere, nowhere, Some(nowhere)) else {
        return;
    };
    for mount in &approved.mounts {
        let within = |dir: &Path| mount.source.starts_with(dir);
        assert!(
            within(nowhere) || ceilings.mount_prefixes.iter().any(|dir| within(dir)),
            "{} is mounted",
            mount.source.display()
        );
        assert!(mount.target.is_absolute());
    }
}
