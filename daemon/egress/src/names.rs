//! Places for names that are looked up.
//!
//! The C library looks a name up in a thread of its own, which cannot be called off, and there are few of them. A server of a
//! name that does not answer holds one for as long as it likes. So a run has a few places and all runs of an agent have a few
//! more: neither keeps others from every name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Names of one run that are being looked up at once.
pub const OF_A_RUN: usize = 2;

/// Names of all runs of one agent that are being looked up at once; a quarter of those of all agents.
pub const OF_AN_AGENT: usize = 4;

/// The agents that have runs.
#[derive(Debug, Default)]
pub struct Agents(Mutex<BTreeMap<String, Weak<Semaphore>>>);

/// The places of a run.
#[derive(Debug, Clone)]
pub struct Places {
    run: Arc<Semaphore>,
    agent: Arc<Semaphore>,
}

/// A place; the next one waits until this is dropped.
#[derive(Debug)]
pub struct Place {
    _run: OwnedSemaphorePermit,
    _agent: OwnedSemaphorePermit,
}

impl Agents {
    /// Those of a new run of this agent.
    pub fn places(&self, agent: &str) -> Places {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        agents.retain(|_, places| places.strong_count() > 0);
        let known = agents.get(agent).and_then(Weak::upgrade);
        let places = known.unwrap_or_else(|| {
            let new = Arc::new(Semaphore::new(OF_AN_AGENT));
            agents.insert(agent.to_owned(), Arc::downgrade(&new));
            new
        });
        Places {
            run: Arc::new(Semaphore::new(OF_A_RUN)),
            agent: places,
        }
    }
}

impl Places {
    /// Waits for a place.
    pub(crate) async fn take(&self) -> Option<Place> {
        // The run's own first, so that who waits for it holds none that others of the agent could have.
        let run = Arc::clone(&self.run).acquire_owned().await.ok()?;
        let agent = Arc::clone(&self.agent).acquire_owned().await.ok()?;
        Some(Place {
            _run: run,
            _agent: agent,
        })
    }
}
