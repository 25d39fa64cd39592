//! How a run came out, told: the journal, whoever listens, and of one that came to no good end the audit log. What its owner is shown in the
//! terminal is read from the store.

use paw_api::audit::{Entry, Event};
use paw_store::{JobRecord, RunOutcome, RunRecord};
use tracing::{info, warn};

use super::keeper::Ports;
use crate::{clock::now_ms, records};

/// Tells how this run of this job came out, once it has.
pub(super) async fn tell(ports: &Ports, job: &JobRecord, run: &RunRecord) {
    let (name, note) = (&job.name, run.note.as_deref().unwrap_or("-"));
    let Some(outcome) = run.outcome else { return };
    let (word, owner) = (outcome.as_str(), job.owner.uid);
    let action = run.action.map(|id| id.to_string());
    let text = format!("job {name} of uid {owner}: {word}");
    let say = |event: &str, text: String| {
        let action = action.clone();
        ports.news.say_to(owner, now_ms(), event, action, text);
    };
    match outcome {
        RunOutcome::Ok => {
            info!(job = %name, uid = owner, outcome = word, "run of a job ended");
        }
        RunOutcome::Skipped => {
            warn!(job = %name, uid = owner, outcome = word, note, "run of a job was not begun");
        }
        RunOutcome::Failed | RunOutcome::TimedOut | RunOutcome::Unknown => {
            warn!(
                message_id = paw_log::events::JOB_RUN_FAILED,
                job = %name,
                paw_owner_uid = owner,
                outcome = word,
                note,
                "run of a job did not come to a good end"
            );
            say(
                "job.run_failed",
                format!("{text} ({})", records::shorten(note)),
            );
            let entry = failed_run(job, run, outcome);
            // It has happened: a log that cannot be written now keeps no other run from beginning, but for the time that this takes.
            if let Err(error) = ports.audit.soon(entry).await {
                warn!(job = %name, error = %error, "that a run of a job came to no good end is not in the audit log");
            }
        }
    }
    say("job.run_ended", text);
}

/// What the audit log has of a run that came to no good end.
fn failed_run(job: &JobRecord, run: &RunRecord, outcome: RunOutcome) -> Entry {
    let mut entry = Entry::new(Event::JobRunFailed);
    entry.action = run.action;
    entry.outcome = Some(outcome.as_str().to_owned());
    for (key, value) in [
        ("job", job.id.to_string()),
        ("name", job.name.to_string()),
        ("owner", job.owner.uid.to_string()),
        ("agent", job.agent.to_string()),
        ("run", run.seq.to_string()),
        (
            "why",
            records::shorten_to(run.note.as_deref().unwrap_or("-"), 500),
        ),
    ] {
        entry.detail.insert(key.into(), value);
    }
    entry
}
