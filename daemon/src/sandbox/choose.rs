//! Which runtime makes a sandbox: the first that is here and isolates enough, and never anything weaker.

use paw_launch::request::{Isolation, ProofState, Runtime};

use super::{LauncherError, Launchers, Proofs};

/// Why no runtime makes this sandbox.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// The one that was asked for isolates less than it must.
    #[error(
        "the runtime {runtime} isolates by {isolation} here, and {floor} is the least that will do"
    )]
    TooWeak {
        /// Which one.
        runtime: Runtime,
        /// What it isolates by.
        isolation: Isolation,
        /// What is demanded.
        floor: Isolation,
    },
    /// The one that was asked for is not here, and nothing takes its place.
    #[error("the runtime {runtime} is not here: {why}")]
    Absent {
        /// Which one.
        runtime: Runtime,
        /// Why not.
        why: String,
    },
    /// The one that was asked for is here, and what is known of it speaks against its use.
    #[error("the runtime {runtime} is not used: {why}")]
    Unproven {
        /// Which one.
        runtime: Runtime,
        /// What is known.
        why: String,
    },
    /// None that isolates enough is here.
    #[error("no runtime here isolates by {floor} or more: {why}")]
    None {
        /// What is demanded.
        floor: Isolation,
        /// Each that would do, and why it is not here.
        why: String,
    },
    /// The launcher, which knows, is away.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
}

/// Checks a runtime that was asked for by name, as far as its name says what it is; [`choose()`] asks what it is here.
///
/// # Errors
/// When even at best it isolates less than `floor`.
pub fn allow(runtime: Runtime, floor: Isolation) -> Result<Runtime, ChoiceError> {
    enough(runtime, runtime.isolation(), floor)
}

fn enough(
    runtime: Runtime,
    isolation: Isolation,
    floor: Isolation,
) -> Result<Runtime, ChoiceError> {
    if isolation >= floor {
        Ok(runtime)
    } else {
        Err(ChoiceError::TooWeak {
            runtime,
            isolation,
            floor,
        })
    }
}

/// The runtime that was asked for, or else the lightest one here that isolates by `floor` or more and that nothing speaks
/// against, see [`Proofs`].
///
/// # Errors
/// When there is none, or the launcher cannot be asked.
pub async fn choose(
    launchers: &Launchers,
    proofs: &Proofs,
    proof_is_required: bool,
    asked: Option<Runtime>,
    floor: Isolation,
) -> Result<Runtime, ChoiceError> {
    if let Some(runtime) = asked {
        allow(runtime, floor)?;
        let state = launchers.runtime(runtime).await?;
        if state.state == ProofState::Absent {
            let why = state.reason;
            return Err(ChoiceError::Absent { runtime, why });
        }
        enough(runtime, state.isolation, floor)?;
        return match proofs.objection(&state, proof_is_required) {
            Some(why) => Err(ChoiceError::Unproven { runtime, why }),
            None => Ok(runtime),
        };
    }
    let mut missing = Vec::new();
    for runtime in Runtime::ALL {
        if runtime.isolation() < floor {
            continue;
        }
        // A launcher that every host has and that is away is no reason to take another one's runtime.
        let state = launchers.runtime(runtime).await?;
        if state.state == ProofState::Absent {
            missing.push(format!("{runtime}: {}", state.reason));
        } else if state.isolation < floor {
            missing.push(format!("{runtime}: isolates by {} here", state.isolation));
        } else {
            match proofs.objection(&state, proof_is_required) {
                Some(why) => missing.push(format!("{runtime}: {why}")),
                None => return Ok(runtime),
            }
        }
    }
    Err(ChoiceError::None {
        floor,
        why: missing.join("; "),
    })
}
