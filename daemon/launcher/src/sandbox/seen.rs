//! What others see of a sandbox.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use paw_launch::request::{Attestation, SandboxSummary, Usage};

use super::{Phase, Sandbox};

impl Sandbox {
    /// The attestation, while it runs.
    pub(crate) fn attestation(&self) -> Option<&Attestation> {
        match &self.phase {
            Phase::Running { attestation, .. } => Some(attestation),
            Phase::Creating { .. } | Phase::Greeting { .. } | Phase::Ending { .. } => None,
        }
    }

    /// Copies of the two descriptors that pawd gets.
    pub(crate) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![
            self.streams.stdin.try_clone()?,
            self.streams.stdout.try_clone()?,
        ])
    }

    /// One line of the list, while it runs.
    pub(crate) fn summary(&self, now: Instant) -> Option<SandboxSummary> {
        let Phase::Running { attestation, since } = &self.phase else {
            return None;
        };
        Some(SandboxSummary {
            id: self.plan.id.clone(),
            runtime: attestation.facts.runtime,
            pid: self
                .init
                .and_then(|pid| u32::try_from(pid.as_raw()).ok())
                .unwrap_or(0),
            age_ms: millis(now - *since),
            limits: self.plan.limits,
            attestation: attestation.digest,
            waiting: self.idle.is_some(),
        })
    }

    /// What it has used so far, while it runs.
    pub(crate) fn usage(&self, now: Instant) -> Option<Usage> {
        let Phase::Running { since, .. } = &self.phase else {
            return None;
        };
        Some(Usage {
            wall_ms: millis(now - *since),
            ..self.leaf.usage()
        })
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
