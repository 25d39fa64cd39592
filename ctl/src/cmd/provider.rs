//! `pawctl provider` and `pawctl model`: where answers come from.

use paw_api::provider::{Model, Percentiles, Provider, ProviderTest};
use serde_json::json;

use super::{block, status::provider_tone};
use crate::{
    cli::{self, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

pub(super) async fn providers(
    global: &Global,
    out: &mut Out,
    command: cli::Provider,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Provider::List => {
            let answer = pawd
                .call("list providers", "provider.list", Params::none())
                .await?;
            out.answer(&answer, |providers: &Vec<Provider>, look| {
                let rows = providers
                    .iter()
                    .map(|provider| {
                        let tone = provider_tone(&provider.state);
                        vec![
                            table::toned(tone, &format!("{} {}", tone.dot(), provider.name)),
                            table::text(&provider.kind),
                            table::toned(tone, &provider.state),
                            breaker(&provider.breaker, provider.breaker_until, look),
                            table::text(place(provider.local)),
                            table::text(&provider.model),
                            table::number(first_token(provider)),
                            table::number(whole_answer(provider)),
                            table::text(&at(provider.seen_at, look)),
                            table::text(&last_error(provider, look).unwrap_or_default()),
                        ]
                    })
                    .collect();
                let head = [
                    "  NAME",
                    "KIND",
                    "STATE",
                    "BREAKER",
                    "WHERE",
                    "MODEL",
                    "FIRST TOKEN",
                    "ANSWER",
                    "SEEN",
                    "LAST ERROR",
                ];
                table::table(
                    &head,
                    rows,
                    look,
                    "no provider is configured; see pawd.toml(5), [[providers]]",
                )
            })?;
            Ok(exit::DONE)
        }
        cli::Provider::Show { name } => {
            let answer = pawd
                .call(
                    "show the provider",
                    "provider.show",
                    Params::named(json!({"name": name})),
                )
                .await?;
            out.answer(&answer, |provider: &Provider, look| {
                let tone = provider_tone(&provider.state);
                let head = format!("{} {}\n", look.dot(tone), text::line(&provider.name));
                head + &block(vec![
                    ("      Kind", Some(text::line(&provider.kind).into_owned())),
                    (
                        "State",
                        Some(look.paint(tone, &text::line(&provider.state))),
                    ),
                    (
                        "Breaker",
                        Some(breaker_text(
                            &provider.breaker,
                            provider.breaker_until,
                            look,
                        )),
                    ),
                    ("Where", Some(place(provider.local).to_owned())),
                    ("URL", Some(text::line(&provider.base_url).into_owned())),
                    ("Model", Some(text::line(&provider.model).into_owned())),
                    (
                        "First token",
                        provider.latency.map(|_| first_token(provider)),
                    ),
                    (
                        "Answer",
                        provider.latency.map(|latency| {
                            let of = text::count(latency.answers);
                            format!("{} (p50 / p95 of {of})", whole_answer(provider))
                        }),
                    ),
                    ("Seen", Some(at(provider.seen_at, look))),
                    ("Last error", last_error(provider, look)),
                ])
            })?;
            Ok(exit::DONE)
        }
        cli::Provider::Reset { name } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd
                .call("reset the provider", "provider.reset", params)
                .await?;
            out.answer(&answer, |provider: &Provider, _| {
                format!("{} is asked again\n", text::line(&provider.name))
            })?;
            Ok(exit::DONE)
        }
        cli::Provider::Test { name } => {
            let answer = pawd
                .call_patiently(
                    "test the provider",
                    "provider.test",
                    Params::named(json!({"name": name})),
                )
                .await?;
            let seen: ProviderTest = answer.read()?;
            out.answer(&answer, |test: &ProviderTest, look| {
                let tone = if test.ok { Tone::Good } else { Tone::Bad };
                let mut shown = format!(
                    "{} {}: {} ({})\n",
                    look.dot(tone),
                    text::line(&test.name),
                    text::line(&test.message),
                    text::span(test.ms)
                );
                for model in &test.models {
                    shown.push_str(&format!("  {}\n", text::line(model)));
                }
                shown
            })?;
            Ok(if seen.ok { exit::DONE } else { exit::FAILED })
        }
    }
}

/// How long the first token takes: p50 / p95.
fn first_token(provider: &Provider) -> String {
    both(provider.latency.and_then(|latency| latency.first_token_ms))
}

/// How long the whole answer takes: p50 / p95.
fn whole_answer(provider: &Provider) -> String {
    both(provider.latency.map(|latency| latency.total_ms))
}

fn both(times: Option<Percentiles>) -> String {
    times.map_or_else(
        || "-".to_owned(),
        |times| format!("{} / {}", text::span(times.p50), text::span(times.p95)),
    )
}

fn at(time: Option<u64>, look: &Look) -> String {
    time.map_or_else(|| "never".to_owned(), |time| text::time(time, look))
}

fn last_error(provider: &Provider, look: &Look) -> Option<String> {
    let error = text::line(provider.last_error.as_deref()?);
    Some(match provider.last_error_at {
        Some(time) => format!("{}: {error}", text::time(time, look)),
        None => error.into_owned(),
    })
}

pub(super) const fn place(local: bool) -> &'static str {
    if local { "this host" } else { "elsewhere" }
}

/// Whether it is asked, and if not, until when.
pub(super) fn breaker_text(state: &str, until: Option<u64>, look: &Look) -> String {
    match until {
        Some(until) => format!(
            "{}, asked again {}",
            text::line(state),
            text::time(until, look)
        ),
        None => text::line(state).into_owned(),
    }
}

pub(super) fn breaker(state: &str, until: Option<u64>, look: &Look) -> table::Field {
    let tone = match state {
        "closed" => Tone::Good,
        "half_open" => Tone::Warn,
        _ => Tone::Bad,
    };
    table::toned(tone, &breaker_text(state, until, look))
}

pub(super) async fn models(
    global: &Global,
    out: &mut Out,
    command: cli::Model,
) -> Result<u8, Failure> {
    let cli::Model::List { provider } = command;
    let pawd = Connection::open(global).await?;
    let answer = pawd
        .call_patiently(
            "list models",
            "model.list",
            Params::named(json!({"provider": provider})),
        )
        .await?;
    out.answer(&answer, |models: &Vec<Model>, look| {
        let rows = models
            .iter()
            .map(|model| {
                vec![
                    table::text(&model.provider),
                    table::text(&model.name),
                    table::number(model.size.map_or_else(|| "-".to_owned(), text::size)),
                    if model.default {
                        table::toned(Tone::Good, "default")
                    } else {
                        table::text("")
                    },
                ]
            })
            .collect();
        table::table(
            &["PROVIDER", "MODEL", "SIZE", ""],
            rows,
            look,
            "no models: no provider answers, see pawctl provider list",
        )
    })?;
    Ok(exit::DONE)
}
