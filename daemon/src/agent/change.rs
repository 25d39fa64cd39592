//! Who answers, or what is registered, is changed: by the permit of an action, whoever asked for it and by which way.
//!
//! ```text
//!  weighed ─ still what was judged? ─► made ready ─► recorded ─► written in one step ─► in force
//!     │                                    │ stopped: given back
//!     └── conflict, nothing done           └── nothing done
//! ```
//!
//! Neither is done a second time when pawd was killed over it: the file of what is registered is replaced in one step, so either the old or
//! the new holds in full, and whoever asked looks which (`interrupted`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use paw_api::{
    Error, ErrorKind,
    model::{Answerer, ModelSwitched, SwitchEvent},
};
use paw_policy::{ConfigArguments, Name, SwitchArguments, Target as Planned};
use paw_store::Caller;
use serde_json::json;
use tokio::{sync::watch, time::Instant as Deadline};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Agents, pull};
use crate::{
    intake::{Configured, Intake, config_change_of, switch_of},
    models::{
        ready::{self, Progress as Ready, Step},
        told,
    },
    orchestrator::work::{Ending, Outcome, Progress, failure},
    providers::{
        Known,
        register::{Change, Target},
    },
    reload::{By, Held, Reload},
};

/// What ends a switch that is not made yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stops<'a> {
    pub(super) cancel: &'a CancellationToken,
    pub(super) drain: &'a CancellationToken,
}

/// Changes what is configured.
pub(super) async fn configure(
    agents: &Agents,
    (action, caller): (Uuid, &Caller),
    asked: ConfigArguments,
    progress: Progress,
    stops: Stops<'_>,
) -> Outcome {
    let change = match config_change_of(asked.change, asked.name.as_str(), &asked.spec) {
        Ok(Configured::Fetched(model)) => {
            let whose = (&asked.name, model, asked.replaces);
            return pull::pull(agents, (action, caller), whose, progress, stops).await;
        }
        Ok(Configured::Read) => None,
        Ok(Configured::Registered(change)) => Some(change),
        Err(error) => return refused(error),
    };
    let changing = async {
        let by = By {
            caller: caller.clone(),
            action,
        };
        let Some(change) = change else {
            let read = reload(agents)?.read(by, asked.replaces).await?;
            return Ok(json!(read));
        };
        intake(agents)?.unused(&change)?;
        let held = Held::Is(asked.replaces);
        reload(agents)?.change(by, *change, held).await?;
        Ok::<_, Error>(json!({
            "change": asked.change,
            "name": asked.name,
            "difference": asked.difference,
        }))
    };
    match changing.await {
        Ok(done) => Outcome::plain(Ending::Completed(done)),
        Err(error) => refused(error),
    }
}

/// Makes a model ready and then has it answer; nothing is changed when that fails, or is stopped before.
pub(super) async fn switch(
    agents: &Agents,
    (action, caller): (Uuid, &Caller),
    asked: SwitchArguments,
    progress: Progress,
    stops: Stops<'_>,
) -> Outcome {
    let began = Instant::now();
    let weighed = match weigh(agents, &asked).await {
        Ok(weighed) => weighed,
        Err(error) => return refused(error),
    };
    let now = answerer(&asked.to);
    let listener = Listener {
        progress,
        target: now.clone(),
    };
    let (tell, told) = watch::channel(Ready::default());
    let making = make_ready(&weighed, &asked, &tell);
    let made = tokio::select! {
        made = making => made.map_err(refused),
        never = listener.pass_on(told) => match never {},
        () = stops.cancel.cancelled() => Err(Outcome::plain(Ending::Cancelled)),
        () = stops.drain.cancelled() => {
            let message = "pawd stopped before the model was ready; nothing has changed";
            Err(Outcome::failed("unavailable", message, "ask again after its next start"))
        }
    };
    let outcome = match made {
        Err(outcome) => outcome,
        Ok(()) => {
            // From here on it is made, or has failed: what is told as cancelled is not in force.
            listener.tell("switching");
            let by = By {
                caller: caller.clone(),
                action,
            };
            let held = Held::Comes(Box::new(weighed.target.clone()));
            let put = async {
                reload(agents)?
                    .change(by, weighed.change.clone(), held)
                    .await
            };
            match put.await {
                Err(error) => refused(error),
                Ok(()) => Outcome::plain(Ending::Completed(json!(ModelSwitched {
                    agent: asked.agent.as_ref().map(ToString::to_string),
                    now,
                    was: asked.was.as_ref().map(answerer),
                    ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                }))),
            }
        }
    };
    // What a switch that came to nothing brought into memory is not left there, unless somebody else answers with it.
    let is_done = matches!(outcome.ending, Ending::Completed(_));
    if !is_done && tell.borrow().brought && !uses(agents, &weighed.target) {
        ready::give_back(&weighed.known, &weighed.target.model).await;
    }
    outcome
}

/// A switch that is still what was judged.
struct Weighed {
    change: Change,
    target: Target,
    name: Name,
    known: Arc<Known>,
}

async fn weigh(agents: &Agents, asked: &SwitchArguments) -> Result<Weighed, Error> {
    let change = switch_of(asked);
    let weighed = reload(agents)?.weigh(change.clone()).await?;
    let is = |planned: &Planned, found: &Target| {
        planned.provider.as_str() == found.provider && planned.model == found.model
    };
    let fits =
        |found: &Target| is(&asked.to, found) && found.settings.base_url.as_str() == asked.place;
    let was = match (&asked.was, &weighed.was) {
        (Some(planned), Some(found)) => is(planned, found),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    match weighed.target.filter(fits) {
        Some(target) if was => {
            let (name, known) = told::known(&agents.providers.borrow(), &target.provider)?;
            Ok(Weighed {
                change,
                target,
                name,
                known,
            })
        }
        Some(_) | None => Err(Error::new(
            ErrorKind::Conflict,
            "who answers was changed by somebody else since this was asked for",
            "nothing has changed; ask again",
        )),
    }
}

async fn make_ready(
    weighed: &Weighed,
    asked: &SwitchArguments,
    tell: &watch::Sender<Ready>,
) -> Result<(), Error> {
    let (model, deadline) = (
        &weighed.target.model,
        Deadline::now() + Duration::from_millis(asked.timeout_ms),
    );
    let client = &weighed.known.client;
    let made = ready::make(client, model, asked.unlisted, deadline, tell).await;
    made.map_err(|error| told::not_ready((&weighed.name, &weighed.known), model, &error))
}

/// Who hears how far a switch is.
struct Listener {
    progress: Progress,
    target: Answerer,
}

/// Nothing is of this type.
enum Never {}

impl Listener {
    /// Says it, if anybody listens; who reads slowly misses it.
    fn tell(&self, step: &str) {
        match &self.progress {
            Progress::Switch(to) => drop(to.try_send(SwitchEvent::Progress {
                step: step.to_owned(),
                target: self.target.clone(),
            })),
            Progress::None
            | Progress::Chat(_)
            | Progress::Run { .. }
            | Progress::Pull { .. }
            | Progress::Value(_) => {}
        }
    }

    async fn pass_on(&self, mut told: watch::Receiver<Ready>) -> Never {
        self.tell(Step::Looking.as_str());
        while told.changed().await.is_ok() {
            let step = told.borrow_and_update().step;
            self.tell(step.as_str());
        }
        std::future::pending().await
    }
}

/// Whether questions go to this model by the configuration.
fn uses(agents: &Agents, target: &Target) -> bool {
    let config = agents.config.borrow();
    let providers = config.providers.iter();
    let all = config.agents.values();
    let mut routed = config.routes.values().flat_map(|route| &route.targets);
    let here = |name: &Name| name.as_str() == target.provider;
    providers
        .filter(|(name, _)| here(name))
        .any(|(_, settings)| settings.model == target.model)
        || all
            .filter(|agent| agent.provider.as_ref().is_some_and(here))
            .any(|agent| agent.model.as_ref() == Some(&target.model))
        || routed.any(|it| here(&it.target.provider) && it.target.model == target.model)
}

fn answerer(target: &Planned) -> Answerer {
    Answerer {
        provider: target.provider.to_string(),
        model: target.model.clone(),
    }
}

pub(super) fn intake(agents: &Agents) -> Result<&Intake, Error> {
    agents.door.get().map(|door| &door.intake).ok_or_else(|| {
        let message = "pawd is starting";
        Error::new(ErrorKind::Unavailable, message, "ask again in a moment")
    })
}

fn reload(agents: &Agents) -> Result<&Reload, Error> {
    Ok(&intake(agents)?.reload)
}

/// Why it was not done; everything is as it was.
pub(super) fn refused(error: Error) -> Outcome {
    let kind = match error.data.kind {
        ErrorKind::Denied => "denied",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Busy => "busy",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::Failed | ErrorKind::Internal | ErrorKind::Cut => "failed",
    };
    let mut why = failure(kind, error.message, error.data.hint);
    why.retry_after_ms = error.data.retry_after_ms;
    Outcome::plain(match error.data.kind {
        ErrorKind::TimedOut => Ending::TimedOut(why),
        _ => Ending::Failed(why),
    })
}
