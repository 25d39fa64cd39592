//! `pawctl provider`: where answers come from.

use std::time::Duration;

use paw_api::provider::{Percentiles, Provider, ProviderSpec, ProviderTest};
use serde_json::{Value, json};

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
                listed(providers, look)
            })?;
        }
        cli::Provider::Show { name } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd
                .call("show the provider", "provider.show", params)
                .await?;
            out.answer(&answer, |provider: &Provider, look| shown(provider, look))?;
        }
        cli::Provider::Add {
            name,
            kind,
            base_url,
            model,
            more,
        } => {
            let spec = ProviderSpec {
                kind: Some(kind),
                base_url: Some(base_url),
                model: Some(model),
                ..spec(more)
            };
            let params = json!({"name": name, "spec": spec});
            change(&pawd, out, "provider.add", "registered", params).await?;
        }
        cli::Provider::Edit {
            name,
            kind,
            base_url,
            model,
            no_api_key,
            no_allow_plaintext,
            no_warm,
            more,
        } => {
            let told = spec(more);
            let spec = ProviderSpec {
                kind,
                base_url,
                model,
                api_key_credential: told
                    .api_key_credential
                    .or_else(|| no_api_key.then(String::new)),
                allow_plaintext: told
                    .allow_plaintext
                    .or_else(|| no_allow_plaintext.then_some(false)),
                warm: told.warm.or_else(|| no_warm.then_some(false)),
                ..told
            };
            let params = json!({"name": name, "spec": spec});
            change(&pawd, out, "provider.edit", "changed", params).await?;
        }
        cli::Provider::Remove { name } => {
            let params = json!({"name": name});
            change(&pawd, out, "provider.remove", "removed", params).await?;
        }
        cli::Provider::Default { name } => {
            let params = json!({"name": name});
            change(&pawd, out, "provider.default", "now the default:", params).await?;
        }
        cli::Provider::Reset { name } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd
                .call("reset the provider", "provider.reset", params)
                .await?;
            out.answer(&answer, |provider: &Provider, _| {
                format!("{} is asked again\n", text::line(&provider.name))
            })?;
        }
        cli::Provider::Test { name } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd
                .call_patiently("test the provider", "provider.test", params)
                .await?;
            out.answer(&answer, |test: &ProviderTest, look| tested(test, look))?;
        }
    }
    Ok(exit::DONE)
}

async fn change(
    pawd: &Connection,
    out: &mut Out,
    method: &str,
    done: &str,
    params: Value,
) -> Result<(), Failure> {
    let doing = format!("change providers ({method})");
    let answer = pawd.call(&doing, method, Params::named(params)).await?;
    out.answer(&answer, |provider: &Provider, _| {
        let mut said = format!("{done} {}\n", text::line(&provider.name));
        if let Some(waits) = &provider.waits_for {
            said.push_str(&format!("it is not asked yet: {}\n", text::line(waits)));
        }
        said
    })
}

fn spec(more: cli::More) -> ProviderSpec {
    let millis = |time: Option<Duration>| {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    ProviderSpec {
        kind: None,
        base_url: None,
        model: None,
        api_key_credential: more.api_key_credential,
        api_key_secret: more.api_key_secret,
        allow_plaintext: more.allow_plaintext.then_some(true),
        may_receive: more.may_receive,
        max_retries: more.max_retries,
        check_interval_ms: millis(more.check_interval),
        connect_timeout_ms: millis(more.connect_timeout),
        first_token_timeout_ms: millis(more.first_token_timeout),
        stall_timeout_ms: millis(more.stall_timeout),
        total_timeout_ms: millis(more.total_timeout),
        warm: more.warm.then_some(true),
    }
}

fn listed(providers: &[Provider], look: &Look) -> String {
    let row = |provider: &Provider| {
        let tone = provider_tone(&provider.state);
        let default = if provider.default { " (default)" } else { "" };
        vec![
            table::toned(tone, &format!("{} {}{default}", tone.dot(), provider.name)),
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
    };
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
    let rows = providers.iter().map(row).collect();
    let nothing = "no provider is configured; see pawctl provider add, or pawd.toml(5)";
    table::table(&head, rows, look, nothing)
}

fn shown(provider: &Provider, look: &Look) -> String {
    let line = |text: &str| Some(text::line(text).into_owned());
    let span = |ms: u64| Some(text::span(ms));
    let tone = provider_tone(&provider.state);
    let head = format!("{} {}\n", look.dot(tone), text::line(&provider.name));
    let origin = if provider.registered {
        format!("registered, kept in {}", text::line(&provider.file))
    } else {
        format!(
            "{}, which pawctl does not change",
            text::line(&provider.file)
        )
    };
    let plaintext = "http is allowed to another host";
    head + &block(vec![
        ("Kind", line(&provider.kind)),
        (
            "State",
            Some(look.paint(tone, &text::line(&provider.state))),
        ),
        ("Waits for", provider.waits_for.as_deref().and_then(line)),
        (
            "Breaker",
            Some(breaker_text(
                &provider.breaker,
                provider.breaker_until,
                look,
            )),
        ),
        ("Where", Some(place(provider.local).to_owned())),
        ("URL", line(&provider.base_url)),
        (
            "Plaintext",
            provider.allow_plaintext.then(|| plaintext.to_owned()),
        ),
        ("May receive", Some(provider.may_receive.to_string())),
        ("Model", line(&provider.model)),
        (
            "Warm",
            line(&provider.warm.join(", ")).filter(|warm| !warm.is_empty()),
        ),
        ("Key", provider.api_key_credential.as_deref().and_then(line)),
        ("Secret", provider.api_key_secret.as_deref().and_then(line)),
        ("Stands in", Some(origin)),
        ("Default", provider.default.then(|| "yes".to_owned())),
        ("Retries", Some(provider.max_retries.to_string())),
        ("Checked every", span(provider.check_interval_ms)),
        ("Connect limit", span(provider.connect_timeout_ms)),
        ("First token limit", span(provider.first_token_timeout_ms)),
        ("Stall limit", span(provider.stall_timeout_ms)),
        ("Total limit", span(provider.total_timeout_ms)),
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
}

fn tested(test: &ProviderTest, look: &Look) -> String {
    let first = test.first_token_ms.map_or_else(String::new, |ms| {
        format!("first token after {}, ", text::span(ms))
    });
    let tokens = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), text::count);
    let mut shown = format!(
        "{} {} ({}) answers: {}\n  {first}whole after {}, {} tokens read, {} written\n",
        look.dot(Tone::Good),
        text::line(&test.name),
        text::line(&test.model),
        text::line(&test.text),
        text::span(test.ms),
        tokens(test.usage.input_tokens),
        tokens(test.usage.output_tokens),
    );
    for model in &test.models {
        shown.push_str(&format!("  {}\n", text::line(model)));
    }
    shown
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
