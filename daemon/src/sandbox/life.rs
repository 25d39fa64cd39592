//! Whether the launcher that made a sandbox still lives. What it made does not outlive it.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use super::{Launcher, LauncherState};

/// How long a launcher whose connection broke may take to be there again: it is only as far away as its socket.
const RETURN: Duration = Duration::from_secs(1);

/// One life of the launcher, from the outside.
#[derive(Clone)]
pub(super) struct Life {
    /// Its process, if it was there at all.
    born: Option<u32>,
    state: watch::Receiver<LauncherState>,
}

impl Life {
    /// The life of the launcher that is there now.
    pub(super) fn of(launcher: &Launcher) -> Self {
        let state = launcher.state();
        let born = process(&state.borrow());
        Self { born, state }
    }

    /// Waits until it is known to be over: another one answers, or none does.
    pub(super) async fn is_over(&mut self) {
        let Some(born) = self.born else {
            return std::future::pending().await;
        };
        loop {
            let gone = |state: &LauncherState| process(state) != Some(born);
            if self.state.wait_for(gone).await.is_err() {
                // Nobody looks after the connection any more: it is we who end.
                return std::future::pending().await;
            }
            let there = self.state.wait_for(|state| process(state).is_some());
            let back = match timeout(RETURN, there).await {
                Ok(Ok(state)) => process(&state) == Some(born),
                Ok(Err(_)) | Err(_) => false,
            };
            if !back {
                return;
            }
        }
    }

    /// Whether another one is there.
    pub(super) fn has_other(&self) -> bool {
        process(&self.state.borrow()).is_some_and(|pid| Some(pid) != self.born)
    }
}

fn process(state: &LauncherState) -> Option<u32> {
    match state {
        LauncherState::Connected { pid } => Some(*pid),
        LauncherState::Connecting | LauncherState::Away { .. } | LauncherState::Off => None,
    }
}
