//! A provider fetches a model, by the permit of an action. What is fetched will be run, so that it is on record first.

use std::time::Instant;

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    model::{ModelPulled, PullEvent},
};
use paw_llm::LlmError;
use paw_policy::{Digest, Name};
use paw_store::Caller;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Agents,
    change::{Stops, intake, refused},
};
use crate::{
    models::{pulls, told},
    orchestrator::work::{Ending, Outcome, Progress},
    providers::Known,
    records::actor,
};

/// Fetches it; nothing is told of it to whoever has left, and nobody need listen.
pub(super) async fn pull(
    agents: &Agents,
    by: (Uuid, &Caller),
    (name, model, from): (&Name, String, Option<Digest>),
    progress: Progress,
    stops: Stops<'_>,
) -> Outcome {
    let (begun, news) = match progress {
        Progress::Pull { begun, news } => (Some(begun), Some(news)),
        Progress::None
        | Progress::Chat(_)
        | Progress::Switch(_)
        | Progress::Value(_)
        | Progress::Run { .. } => (None, None),
    };
    let pulling = fetch(agents, by, (name, &model, from), begun, news);
    tokio::select! {
        pulled = pulling => match pulled {
            Ok(pulled) => {
                info!(provider = %name, model, "model fetched");
                Outcome::plain(Ending::Completed(json!(pulled)))
            }
            Err(error) => {
                warn!(provider = %name, model, reason = %error.message, "model not fetched");
                refused(error)
            }
        },
        () = stops.cancel.cancelled() => {
            info!(provider = %name, model, "fetching a model was left");
            Outcome::plain(Ending::Cancelled)
        }
        () = stops.drain.cancelled() => {
            let message = "pawd stopped before the model was there";
            let hint = "ask again after its next start; what is there already is not fetched again";
            Outcome::failed("unavailable", message, hint)
        }
    }
}

async fn fetch(
    agents: &Agents,
    (action, caller): (Uuid, &Caller),
    (name, model, from): (&Name, &str, Option<Digest>),
    begun: Option<oneshot::Sender<()>>,
    news: Option<mpsc::Sender<PullEvent>>,
) -> Result<ModelPulled, Error> {
    let began = Instant::now();
    let (_, known) = told::known(&agents.providers.borrow(), name.as_str())?;
    if from != Some(pulls::place(&known)) {
        let message = format!("provider {name} is elsewhere since this was asked for");
        let hint = "nothing was fetched; ask again";
        return Err(Error::new(ErrorKind::Conflict, message, hint));
    }
    let _place = intake(agents)?.pulls.take()?;
    let mut entry = Entry::new(Event::ModelPulled);
    entry.action = Some(action);
    entry.actor = Some(actor(caller));
    entry.detail.insert("provider".into(), name.to_string());
    entry.detail.insert("model".into(), model.to_owned());
    agents
        .audit
        .durable(entry)
        .await
        .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))?;
    // Who asked may have left; whoever cancels for that is told.
    if let Some(begun) = begun {
        let _ = begun.send(());
    }
    through(&known, model, news)
        .await
        .map_err(|error| told::failed(name, model, &error))?;
    Ok(ModelPulled {
        provider: name.to_string(),
        model: model.to_owned(),
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Has it fetched to its end, and passes on how far that is.
async fn through(
    known: &Known,
    model: &str,
    news: Option<mpsc::Sender<PullEvent>>,
) -> Result<(), LlmError> {
    let Some(mut stream) = known.client.pull(model).await? else {
        // It was looked at before that it fetches models.
        return Ok(());
    };
    while let Some(far) = stream.next().await? {
        let Some(news) = &news else { continue };
        let event = PullEvent::Progress {
            status: far.status,
            completed: far.completed,
            total: far.total,
        };
        drop(news.send(event).await);
    }
    Ok(())
}
