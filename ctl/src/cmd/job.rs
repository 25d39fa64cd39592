//! `pawctl job`: what agents are told at set times, and what became of it.

use paw_api::job::{Job, JobRun};
use serde_json::json;

use super::or_stdin;
use crate::{
    cli::{self, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

pub(super) async fn run(global: &Global, out: &mut Out, command: cli::Job) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Job::List => {
            let answer = pawd.call("list jobs", "job.list", Params::none()).await?;
            out.answer(&answer, |jobs: &Vec<Job>, look| list(jobs, look))?;
        }
        cli::Job::Add {
            text,
            cron,
            tz,
            agent,
            name,
            overlap,
            catch_up,
        } => {
            let text = or_stdin(text)?;
            let tz = tz.unwrap_or_else(zone);
            let params = json!({"cron": cron, "tz": tz, "text": text, "agent": agent, "name": name,
                "overlap": overlap, "catch_up": catch_up});
            let answer = pawd
                .call("add the job", "job.add", Params::named(params))
                .await?;
            out.answer(&answer, |job: &Job, look| {
                let next = job
                    .next
                    .map_or_else(|| "never".to_owned(), |at| text::time(at, look));
                format!("added {}; it is next due {next}\n", text::line(&job.name))
            })?;
        }
        cli::Job::Remove { job } => {
            let params = Params::named(json!({"job": job}));
            let answer = pawd.call("remove the job", "job.remove", params).await?;
            out.answer(&answer, |job: &Job, _| {
                format!("removed {}\n", text::line(&job.name))
            })?;
        }
        cli::Job::Run { job } => {
            let params = Params::named(json!({"job": job}));
            let answer = pawd.call("run the job", "job.run", params).await?;
            out.answer(&answer, |run: &JobRun, _| begun(run))?;
        }
        cli::Job::History { job, limit } => {
            let params = Params::named(json!({"job": job, "limit": limit}));
            let answer = pawd
                .call("show the runs of the job", "job.history", params)
                .await?;
            out.answer(&answer, |runs: &Vec<JobRun>, look| history(runs, look))?;
        }
    }
    Ok(exit::DONE)
}

/// The time zone of this host, by its name.
fn zone() -> String {
    let here = jiff::tz::TimeZone::system();
    here.iana_name().unwrap_or("UTC").to_owned()
}

fn begun(run: &JobRun) -> String {
    match (&run.action, &run.note) {
        (Some(action), _) => format!(
            "began run {}; see what comes of it: pawctl action wait {}\n",
            run.seq,
            text::line(action)
        ),
        (None, note) => format!(
            "run {} could not begin: {}\n",
            run.seq,
            text::line(note.as_deref().unwrap_or("nobody knows why"))
        ),
    }
}

fn list(jobs: &[Job], look: &Look) -> String {
    let time = |at: Option<u64>, none: &str| {
        table::text(&at.map_or_else(|| none.to_owned(), |at| text::time(at, look)))
    };
    let rows = jobs
        .iter()
        .map(|job| {
            let last = job.last.as_deref().unwrap_or("-");
            let shown = match job.failures {
                0 | 1 => last.to_owned(),
                times => format!("{last} ({times} in a row)"),
            };
            // One that goes on takes no failure back.
            let seen = if job.failures > 0 { "failed" } else { last };
            vec![
                table::text(&job.name),
                table::number(job.owner),
                table::text(&job.agent),
                table::text(&format!("{} {}", job.cron, job.tz)),
                time(job.next, "never"),
                table::toned(tone(seen), &shown),
                time(job.last_at, "-"),
                table::text(&text::short(&job.text, 40)),
            ]
        })
        .collect();
    let head = &[
        "JOB", "OWNER", "AGENT", "SCHEDULE", "NEXT", "LAST", "AT", "TEXT",
    ];
    table::table(head, rows, look, "there are no jobs")
}

fn history(runs: &[JobRun], look: &Look) -> String {
    let rows = runs
        .iter()
        .map(|run| {
            let outcome = run.outcome.as_deref().unwrap_or("running");
            let due = match run.due {
                None => "asked for".to_owned(),
                Some(due) if run.times > 1 => {
                    format!("{} and {} times more", text::time(due, look), run.times - 1)
                }
                Some(due) => text::time(due, look),
            };
            let took = run.ended.map_or_else(
                || "-".to_owned(),
                |end| text::span(end.saturating_sub(run.at)),
            );
            vec![
                table::number(run.seq),
                table::text(&due),
                table::toned(tone(outcome), outcome),
                table::text(&took),
                table::text(run.action.as_deref().unwrap_or("-")),
                table::text(run.note.as_deref().unwrap_or("-")),
            ]
        })
        .collect();
    let head = &["RUN", "DUE", "OUTCOME", "TOOK", "ACTION", "WHY"];
    table::table(head, rows, look, "it did not run yet")
}

fn tone(outcome: &str) -> Tone {
    match outcome {
        "ok" => Tone::Good,
        "failed" | "timed_out" | "unknown" => Tone::Bad,
        _ => Tone::Plain,
    }
}
