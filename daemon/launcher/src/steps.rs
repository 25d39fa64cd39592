//! How long each step of a sandbox's life took, for whoever looks for the time: `PAWD_LOG=paw_launcher::steps=debug`.

use std::time::Instant;

use paw_launch::request::Runtime;
use tracing::debug;

/// A step that has an end which the launcher notices.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Leaf, bundle, user namespace and pipes; ends when paw-create was started.
    Prepare,
    /// paw-create at work, until it is reaped.
    Create,
    /// paw-init from its start to its hello. Of a runtime without a report, its creation, too.
    Greet,
    /// Reading and comparing the facts.
    Attest,
    /// Everything that pawd wants of it.
    Live,
    /// From the end of its first process to the last trace of it.
    Remove,
}

/// The steps of one sandbox.
#[derive(Debug)]
pub(crate) struct Steps {
    since: Instant,
    micros: [u128; 6],
}

impl Steps {
    pub(crate) fn begin() -> Self {
        Self {
            since: Instant::now(),
            micros: [0; 6],
        }
    }

    /// The step that ran until now.
    pub(crate) fn done(&mut self, step: Step) {
        let now = Instant::now();
        self.micros[step as usize] = (now - self.since).as_micros();
        self.since = now;
    }

    pub(crate) fn tell(&self, runtime: Runtime) {
        let [prepare, create, greet, attest, live, remove] = self.micros;
        debug!(
            %runtime, prepare_us = prepare, create_us = create, greet_us = greet, attest_us = attest, live_us = live,
            remove_us = remove, "steps of a sandbox"
        );
    }
}
