//! `pawctl model`: which models there are, and which one answers.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use paw_api::model::{Answerer, Model, ModelSwitched, ModelWarmed, PullEvent, SwitchEvent};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{action::say_waiting, block};
use crate::{
    cli::{self, Format, Global},
    connect::{Answer, Connection, Items, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

/// How often a sign of life moves while nothing else can be told.
const TICK: Duration = Duration::from_millis(120);

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Model,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Model::Ab { route } => super::route::arms(&pawd, out, &route).await?,
        cli::Model::List { provider } => {
            let params = Params::named(json!({"provider": provider}));
            let answer = pawd
                .call_patiently("list models", "model.list", params)
                .await?;
            out.answer(&answer, |models: &Vec<Model>, look| listed(models, look))?;
        }
        cli::Model::Show { name, provider } => {
            let params = Params::named(json!({"name": name, "provider": provider}));
            let answer = pawd
                .call_patiently("show the model", "model.show", params)
                .await?;
            out.answer(&answer, |model: &Model, _| shown(model))?;
        }
        cli::Model::Switch {
            model,
            provider,
            agent,
            back: _,
            unlisted,
        } => {
            let params = json!({
                "model": model,
                "provider": provider,
                "agent": agent,
                "unlisted": unlisted.then_some(true),
                "timeout_ms": pawd.remaining_ms(),
            });
            switch(&pawd, out, Params::named(params)).await?;
        }
        cli::Model::Pull { model, provider } => {
            let params = Params::named(json!({"model": model, "provider": provider}));
            pull(&pawd, out, params).await?;
        }
        cli::Model::Warm { model, provider } => {
            let params = json!({
                "model": model,
                "provider": provider,
                "timeout_ms": pawd.remaining_ms(),
            });
            let bar = spinner("loading");
            let answer = pawd
                .call_patiently("warm the model", "model.warm", Params::named(params))
                .await;
            bar.finish_and_clear();
            out.answer(&answer?, |warmed: &ModelWarmed, look| {
                format!(
                    "{} {} ({}) is ready, after {}\n",
                    look.dot(Tone::Good),
                    text::line(&warmed.provider),
                    text::line(&warmed.model),
                    text::span(warmed.ms)
                )
            })?;
        }
    }
    Ok(exit::DONE)
}

fn listed(models: &[Model], look: &Look) -> String {
    let rows = models
        .iter()
        .map(|model| {
            let (loaded, default) = (model.loaded == Some(true), model.default);
            vec![
                table::text(&model.provider),
                table::text(&model.name),
                table::number(model.size.map_or_else(|| "-".to_owned(), text::size)),
                if loaded {
                    table::toned(Tone::Good, "loaded")
                } else {
                    table::text("")
                },
                if default {
                    table::toned(Tone::Good, "default")
                } else {
                    table::text("")
                },
            ]
        })
        .collect();
    table::table(
        &["PROVIDER", "MODEL", "SIZE", "", ""],
        rows,
        look,
        "no models: no provider answers, see pawctl provider list",
    )
}

fn shown(model: &Model) -> String {
    let told = |what: Option<bool>| what.map(|it| if it { "yes" } else { "no" }.to_owned());
    block(vec![
        ("Name", Some(text::line(&model.name).into_owned())),
        ("Provider", Some(text::line(&model.provider).into_owned())),
        ("Size", model.size.map(text::size)),
        ("Context", model.context.map(text::count)),
        ("Tools", told(model.tools)),
        ("Pictures", told(model.vision)),
        ("In memory", told(model.loaded)),
        ("Default", model.default.then(|| "yes".to_owned())),
    ])
}

/// What pawd says of long work that it has not ended.
enum News {
    /// It goes on.
    More,
    /// It is done.
    Done,
}

async fn switch(pawd: &Connection, out: &mut Out, params: Params) -> Result<(), Failure> {
    const DOING: &str = "switch the model";
    let mut items = pawd.subscribe(DOING, "model.switch", params).await?;
    let bar = spinner("looking");
    let told = follow(out, &mut items, DOING, |item, out| {
        let event: SwitchEvent = item.read()?;
        match event {
            SwitchEvent::Waiting { action_id } => {
                bar.set_message("waiting for approval");
                say_waiting(out, &action_id);
                Ok(News::More)
            }
            SwitchEvent::Progress { step, target } => {
                bar.set_message(format!("{} {}", text::line(&step), who(&target)));
                Ok(News::More)
            }
            SwitchEvent::Done(done) => {
                bar.finish_and_clear();
                if out.format == Format::Table {
                    out.print(&switched(&done));
                }
                Ok(News::Done)
            }
            SwitchEvent::Failed { message, error } => Err(Failure::Refused {
                doing: DOING.to_owned(),
                code: error.kind.code(),
                message,
                data: Some(error),
            }),
        }
    })
    .await;
    bar.finish_and_clear();
    ended(
        told,
        items,
        "the switch was left; if it was not done yet, nothing has changed",
    )
    .await
}

fn switched(done: &ModelSwitched) -> String {
    let for_whom = match &done.agent {
        Some(agent) => format!(" for agent {}", text::line(agent)),
        None => String::new(),
    };
    let was = match &done.was {
        Some(was) if *was != done.now => format!(", before it was {}", who(was)),
        Some(_) | None => String::new(),
    };
    format!(
        "{} answers{for_whom} from now on{was}; ready after {}\n",
        who(&done.now),
        text::span(done.ms)
    )
}

fn who(target: &Answerer) -> String {
    let [provider, model] = [&target.provider, &target.model].map(|word| text::line(word));
    format!("{provider} ({model})")
}

async fn pull(pawd: &Connection, out: &mut Out, params: Params) -> Result<(), Failure> {
    const DOING: &str = "pull the model";
    let mut items = pawd.subscribe(DOING, "model.pull", params).await?;
    let bar = spinner("asking");
    let mut step = None;
    let told = follow(out, &mut items, DOING, |item, out| {
        let event: PullEvent = item.read()?;
        match event {
            PullEvent::Progress {
                status,
                completed,
                total,
            } => {
                // Who draws no bar says each step once, with how much there is to fetch.
                if bar.is_hidden() && step.as_ref() != Some(&status) {
                    let size = total.map_or_else(String::new, |it| format!(", {}", text::size(it)));
                    out.say(&format!("{}{size}", text::line(&status)));
                }
                measure(&bar, total);
                bar.set_position(completed.unwrap_or(0));
                bar.set_message(text::line(&status).into_owned());
                step = Some(status);
                Ok(News::More)
            }
            PullEvent::Done(done) => {
                bar.finish_and_clear();
                if out.format == Format::Table {
                    out.print(&format!(
                        "{} has {}, after {}\n",
                        text::line(&done.provider),
                        text::line(&done.model),
                        text::span(done.ms)
                    ));
                }
                Ok(News::Done)
            }
            PullEvent::Failed { message, error } => Err(Failure::Refused {
                doing: DOING.to_owned(),
                code: error.kind.code(),
                message,
                data: Some(error),
            }),
        }
    })
    .await;
    bar.finish_and_clear();
    ended(
        told,
        items,
        "the pull was ended; what is there already is not fetched again",
    )
    .await
}

/// Takes items until the last one or Ctrl-C, then nothing.
async fn follow(
    out: &mut Out,
    items: &mut Items,
    doing: &str,
    mut each: impl FnMut(&Answer, &mut Out) -> Result<News, Failure>,
) -> Result<Option<()>, Failure> {
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| Failure::io("listen for Ctrl-C", &error))?;
    loop {
        let item = tokio::select! {
            item = items.next() => item?,
            _ = interrupts.recv() => return Ok(None),
        };
        let Some(item) = item else {
            return Err(Failure::Cut {
                doing: doing.to_owned(),
                why: "the stream ended before it was done".to_owned(),
                remedy: "see what became of it: pawctl model list, pawctl agent list".to_owned(),
            });
        };
        if out.format == Format::Jsonl {
            out.json(item.raw.get());
            out.flush()?;
        }
        let news = each(&item, out)?;
        if matches!(news, News::Done) {
            if out.format == Format::Json {
                out.json(&without_type(&item)?);
            }
            return Ok(Some(()));
        }
    }
}

/// Ends what was not done, so that it is over at pawd, too, when we are.
async fn ended(
    told: Result<Option<()>, Failure>,
    items: Items,
    interrupted: &str,
) -> Result<(), Failure> {
    match told {
        Ok(Some(())) => Ok(()),
        Ok(None) => {
            items.end().await;
            Err(Failure::Interrupted {
                why: interrupted.to_owned(),
            })
        }
        Err(failure) => {
            items.end().await;
            Err(failure)
        }
    }
}

/// The last item without the member that told it apart in the stream.
fn without_type(item: &Answer) -> Result<String, Failure> {
    let mut members: Map<String, Value> = item.read()?;
    members.remove("type");
    Ok(Value::Object(members).to_string())
}

/// Nothing of it is seen where stderr is no terminal.
fn spinner(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.enable_steady_tick(TICK);
    styled(bar, "{spinner} {msg} {elapsed}")
}

/// Once it is known how much there is, the bar shows how much of it is there.
fn measure(bar: &ProgressBar, total: Option<u64>) {
    let template = match total {
        Some(total) if bar.length() != Some(total) => {
            bar.set_length(total);
            "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}"
        }
        None if bar.length().is_some() => {
            bar.unset_length();
            "{spinner} {msg} {elapsed}"
        }
        Some(_) | None => return,
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
