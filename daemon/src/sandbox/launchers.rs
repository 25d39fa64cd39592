//! Which launchers there are, and which of them makes what.
//!
//! ```text
//!  plan ── its runtime ──┬─ native, gvisor ──► launcher.sock       paw-launcher, which also has images, workspaces and jobs
//!                        └─ kata ────────────► launcher-kata.sock  paw-launcher-kata, where it is switched on
//! ```
//!
//! A plan goes to the launcher of its runtime and to no other, whether that is there or not. A sandbox belongs to the launcher that
//! made it, and lives and dies with that one alone.

use std::{future::Future, time::Duration};

use paw_launch::request::{
    ProofState, RefusalReason, Runtime, RuntimeState, SandboxId, SandboxPlan, SandboxSummary, Usage,
};

use super::{Launcher, LauncherError, LauncherState, Sandbox, SandboxError};

/// Which launcher is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that every host has.
    Usual,
    /// The one for virtual machines, which has to be switched on.
    Kata,
}

impl Which {
    /// The one that makes sandboxes of this runtime.
    #[must_use]
    pub const fn makes(runtime: Runtime) -> Self {
        match runtime {
            Runtime::Native | Runtime::Gvisor => Self::Usual,
            Runtime::Kata => Self::Kata,
        }
    }

    /// The name of its program and its unit.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Usual => "paw-launcher",
            Self::Kata => "paw-launcher-kata",
        }
    }
}

/// Why nobody listens where nobody has to.
const OFF: &str = "paw-launcher-kata is not switched on, see paw-launcher-kata(8)";

/// Both. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launchers {
    usual: Launcher,
    kata: Launcher,
}

impl Launchers {
    /// These two.
    #[must_use]
    pub const fn new(usual: Launcher, kata: Launcher) -> Self {
        Self { usual, kata }
    }

    /// The one that every host has; images, workspaces and jobs are with it.
    #[must_use]
    pub const fn usual(&self) -> &Launcher {
        &self.usual
    }

    /// The one for virtual machines.
    #[must_use]
    pub const fn kata(&self) -> &Launcher {
        &self.kata
    }

    /// The one that makes sandboxes of this runtime.
    #[must_use]
    pub const fn of(&self, runtime: Runtime) -> &Launcher {
        match Which::makes(runtime) {
            Which::Usual => &self.usual,
            Which::Kata => &self.kata,
        }
    }

    /// Makes a sandbox. Dropping the future, or what it returns, kills it.
    ///
    /// # Errors
    /// As [`Launcher::create`].
    pub async fn create(&self, plan: SandboxPlan) -> Result<Sandbox, SandboxError> {
        self.of(plan.runtime).create(plan).await
    }

    /// Makes a sandbox that waits at most `idle` for its first command. Dropping the future, or what it returns, kills it.
    ///
    /// # Errors
    /// As [`Launcher::prepare`].
    pub async fn prepare(
        &self,
        plan: SandboxPlan,
        idle: Duration,
    ) -> Result<Sandbox, SandboxError> {
        self.of(plan.runtime).prepare(plan, idle).await
    }

    /// Every sandbox there is, of both.
    ///
    /// # Errors
    /// When the usual launcher is away, or the other one is there and does not say.
    pub async fn list(&self) -> Result<Vec<SandboxSummary>, LauncherError> {
        let mut all = self.usual.list().await?;
        if self.has_kata() {
            all.extend(self.kata.list().await?);
        }
        Ok(all)
    }

    /// What a running sandbox has used so far.
    ///
    /// # Errors
    /// When the launcher is away or knows no such sandbox.
    pub async fn stats(&self, id: SandboxId) -> Result<Usage, LauncherError> {
        let usual = self.usual.stats(id.clone());
        self.whoever_has(usual, self.kata.stats(id)).await
    }

    /// Kills every process of a sandbox; its end is told to whoever has it.
    ///
    /// # Errors
    /// When the launcher is away or knows no such sandbox.
    pub async fn kill(&self, id: SandboxId) -> Result<(), LauncherError> {
        let usual = self.usual.kill(id.clone());
        self.whoever_has(usual, self.kata.kill(id)).await
    }

    /// Every runtime that the design knows. Those of a launcher that is away are absent, and it is said why.
    pub async fn runtimes(&self) -> Vec<RuntimeState> {
        let (usual, kata) = tokio::join!(self.usual.runtimes(), self.kata.runtimes());
        let of = |runtime| match Which::makes(runtime) {
            Which::Usual => pick(&usual, runtime),
            Which::Kata => pick(&kata, runtime),
        };
        Runtime::ALL
            .into_iter()
            .map(|runtime| of(runtime).unwrap_or_else(|error| self.absent(runtime, &error)))
            .collect()
    }

    /// One runtime, as its launcher says it is. One that only a launcher has which need not be there is absent without that.
    ///
    /// # Errors
    /// When the launcher that every host has is away.
    pub async fn runtime(&self, runtime: Runtime) -> Result<RuntimeState, LauncherError> {
        let said = self.of(runtime).runtimes().await;
        match Which::makes(runtime) {
            Which::Usual => said.map(|said| {
                let found = said.into_iter().find(|state| state.name == runtime);
                found.unwrap_or_else(|| absent(runtime, "the launcher does not know it".to_owned()))
            }),
            Which::Kata => {
                Ok(pick(&said, runtime).unwrap_or_else(|error| self.absent(runtime, &error)))
            }
        }
    }

    /// Whether the launcher for virtual machines is there.
    #[must_use]
    pub fn has_kata(&self) -> bool {
        matches!(*self.kata.state().borrow(), LauncherState::Connected { .. })
    }

    fn absent(&self, runtime: Runtime, why: &str) -> RuntimeState {
        let is_off = *self.of(runtime).state().borrow() == LauncherState::Off;
        absent(runtime, if is_off { OFF } else { why }.to_owned())
    }

    /// Asks the usual launcher and, when that does not have it, the other one.
    async fn whoever_has<T>(
        &self,
        usual: impl Future<Output = Result<T, LauncherError>>,
        kata: impl Future<Output = Result<T, LauncherError>>,
    ) -> Result<T, LauncherError> {
        let first = match usual.await {
            Err(error) if self.has_kata() && may_be_elsewhere(&error) => error,
            told => return told,
        };
        match kata.await {
            Err(error) if may_be_elsewhere(&error) => Err(first),
            told => told,
        }
    }
}

/// Whether somebody else could still know better.
fn may_be_elsewhere(error: &LauncherError) -> bool {
    match error {
        LauncherError::Refused(refusal) => refusal.reason == RefusalReason::NotFound,
        LauncherError::Away { .. } | LauncherError::Lost | LauncherError::Slow(_) => true,
        LauncherError::Confused { .. } | LauncherError::Unsendable(_) => false,
    }
}

fn pick(
    said: &Result<Vec<RuntimeState>, LauncherError>,
    runtime: Runtime,
) -> Result<RuntimeState, String> {
    match said {
        Ok(said) => said
            .iter()
            .find(|state| state.name == runtime)
            .cloned()
            .ok_or_else(|| "the launcher does not know it".to_owned()),
        Err(error) => Err(paw_log::Chain(error).to_string()),
    }
}

fn absent(runtime: Runtime, reason: String) -> RuntimeState {
    RuntimeState {
        name: runtime,
        state: ProofState::Absent,
        version: None,
        reason,
        digest: None,
        isolation: runtime.isolation(),
    }
}
