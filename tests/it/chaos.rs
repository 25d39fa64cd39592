//! Every fault of a provider on every wire format: what the caller gets, how many questions reach the provider, what the record of
//! the action says of each attempt, and what it counts for it.
//!
//! The table is in [`faults`]. Each fault is played once (the question is asked again and answered) and for good (a typed error; by a
//! route, the answer of a spare). A primary that is dead under load is in `breakers`.

mod faults;

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use harness::{
    Asking, Dialect, Pawd, Setup,
    chaos::{Chaos, Fault, reserve, url},
    dialect::{INPUT, OUTPUT, TEXT},
    within,
    words::{accepted, finally, has_no_answer, rest},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    action::{Action, ActionRpcClient},
    provider::{Attempt, ChatEvent},
};

use crate::metrics::told;
use faults::{Line, Next, PATIENT, faults};

/// Long enough for every wait below but those that are told to be too long.
const CHAT: &str = "\n[actions]\nchat_timeout = \"20s\"\nconcurrency = 64\n";

/// A dollar for a thousand tokens of a question, two for those of an answer.
const PRICE: &str = "input = 1_000_000_000\noutput = 2_000_000_000\n";

/// Questions that are asked at once.
const AT_ONCE: usize = 12;

/// What was seen of one question.
#[derive(Debug, PartialEq)]
struct Seen {
    /// The answer with its tokens, or the kind of error.
    end: Result<(String, u64, u64), String>,
    /// Who was tried, and how that ended, as the record says it.
    tried: Vec<String>,
    /// Questions that reached the provider.
    asked: usize,
    /// How often the listener was told that what came so far is void.
    resets: usize,
}

/// A pawd with a provider for each line that plays its fault once and one that plays it for good, a spare, and a route for each.
async fn stage(dialect: Dialect, lines: &[Line]) -> (Chaos, Pawd) {
    let chaos = Chaos::start();
    let mut setup = Setup::new().with(CHAT);
    let mut add = |name: &str, fault: Fault, times, limits| {
        chaos.plays(name, dialect, fault, times);
        let url = chaos.url(name, dialect);
        let provider = setup.clone().provider(name, dialect.kind(), &url, limits);
        setup = provider.with(&format!("\n[price.\"{name}/m\"]\n{PRICE}"));
    };
    add("spare", Fault::Headers(Vec::new()), None, PATIENT);
    for Line {
        name,
        fault,
        limits,
        ..
    } in lines
    {
        add(&format!("{name}-once"), fault.clone(), Some(1), limits);
        add(&format!("{name}-always"), fault.clone(), None, limits);
    }
    for Line { name, .. } in lines {
        let targets = format!("[{{ provider = \"{name}-always\" }}, {{ provider = \"spare\" }}]");
        setup = setup.with(&format!("\n[route.{name}]\ntargets = {targets}\n"));
    }
    (chaos, Pawd::start(setup).await)
}

/// Asks, and gives what was seen of it and the record.
async fn ask(
    client: &Client,
    chaos: &Chaos,
    provider: &str,
    route: Option<&str>,
) -> (Seen, Action) {
    let before = chaos.asked(provider).len();
    let named = route.is_none().then(|| provider.to_owned());
    let route = route.map(str::to_owned);
    let begun = Asking::new("hello")
        .provider(named)
        .route(route)
        .ask(client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    let action = finally(client, &id).await;
    let end = match (events.last(), &action.error) {
        (Some(ChatEvent::Done(done)), None) => {
            assert_eq!(
                done.attempts, action.attempts,
                "the record says what the caller heard"
            );
            let heard: String = events
                .iter()
                .fold(String::new(), |heard, event| match event {
                    ChatEvent::Delta { text, .. } => heard + text,
                    ChatEvent::StreamReset { .. } => String::new(),
                    _ => heard,
                });
            assert_eq!(heard, done.text, "what was heard is what was answered");
            let [input, output] = [done.usage.input_tokens, done.usage.output_tokens];
            Ok((
                done.text.clone(),
                input.unwrap_or_default(),
                output.unwrap_or_default(),
            ))
        }
        (Some(ChatEvent::Failed { error, .. }), Some(failure)) => {
            assert!(
                !failure.hint.is_empty() && !error.hint.is_empty(),
                "{failure:?}"
            );
            assert!(failure.message.contains(provider), "{failure:?}");
            has_no_answer(&action);
            Err(failure.kind.clone())
        }
        other => panic!("{provider} by {:?}: {other:?}", action.plan),
    };
    let attempts = action.attempts.iter();
    let seen = Seen {
        end,
        tried: attempts
            .map(|it| format!("{} {}", it.provider, it.outcome))
            .collect(),
        asked: chaos.asked(provider).len() - before,
        resets: events
            .iter()
            .filter(|it| matches!(it, ChatEvent::StreamReset { .. }))
            .count(),
    };
    (seen, action)
}

/// What is wrong with what the attempts are said to have taken and cost.
fn accounts(action: &Action) -> Vec<String> {
    let exact = (INPUT + 2 * OUTPUT) as f64 / 1_000.0;
    let is_right = |it: &Attempt| match it.outcome.as_str() {
        "ok" => {
            let told =
                (it.usage.input_tokens, it.usage.output_tokens) == (Some(INPUT), Some(OUTPUT));
            told && it.cost == Some(exact) && !it.cost_estimated
        }
        // Who sent something, or was left while it may have worked, is paid for that: nobody told how much it was.
        "cut" | "malformed" | "timed_out" | "transport" => it.cost > Some(0.0) && it.cost_estimated,
        _ if it.first_token_ms.is_some() => it.cost > Some(0.0) && it.cost_estimated,
        // What was refused costs nothing.
        _ => it.cost == Some(0.0) && !it.cost_estimated,
    };
    let mut wrong: Vec<String> = action
        .attempts
        .iter()
        .filter(|it| !is_right(it))
        .map(|it| format!("what was counted: {it:?}"))
        .collect();
    if let Some(result) = &action.result {
        let whole: f64 = action.attempts.iter().filter_map(|it| it.cost).sum();
        let cost = result["cost"].as_f64();
        if cost.is_none_or(|cost| (cost - whole).abs() > 1e-9) {
            wrong.push(format!("all of it cost {cost:?}, not {whole}"));
        }
    }
    wrong
}

fn answered(tried: &[String], asked: usize, resets: usize) -> Seen {
    Seen {
        end: Ok((TEXT.to_owned(), INPUT, OUTPUT)),
        tried: tried.to_vec(),
        asked,
        resets,
    }
}

/// What is otherwise than the line says.
async fn check(pawd: &Pawd, chaos: &Chaos, line: &Line) -> Vec<String> {
    let client = pawd.client().await;
    let (once, always) = (
        format!("{}-once", line.name),
        format!("{}-always", line.name),
    );
    let [failed, answer] = [line.outcome, "ok"].map(|end| format!("{once} {end}"));
    let (fails, spare) = (format!("{always} {}", line.outcome), "spare ok".to_owned());
    let resets = usize::from(line.speaks);
    let mut wrong = Vec::new();
    let mut compare = |what: &str, seen: Seen, expected: Seen| {
        if seen != expected {
            wrong.push(format!(
                "{what} of {}:\n  {seen:?}\n  {expected:?}",
                line.name
            ));
        }
    };
    let error = |tried: &[&String], asked, resets| Seen {
        end: Err(line.outcome.to_owned()),
        tried: tried.iter().map(|it| (*it).clone()).collect(),
        asked,
        resets,
    };
    let (asked_once, by_route, for_good) = match line.next {
        Next::Answered => {
            let (seen, action) = ask(&client, chaos, &once, None).await;
            compare("what came", seen, answered(&[answer], 1, 0));
            wrong.extend(accounts(&action));
            return wrong;
        }
        Next::Again(_) => (
            Some(answered(&[failed, answer], 2, resets)),
            answered(&[fails.clone(), spare], 1, resets),
            error(&[&fails, &fails], 2, resets),
        ),
        Next::TooLong(_) | Next::Elsewhere => (
            None,
            answered(&[fails.clone(), spare], 1, resets),
            error(&[&fails], 1, 0),
        ),
        Next::Nobody => (None, error(&[&fails], 1, 0), error(&[&fails], 1, 0)),
    };
    let (seen, routed) = ask(&client, chaos, &always, Some(line.name)).await;
    compare("by a route", seen, by_route);
    let (seen, action) = ask(&client, chaos, &always, None).await;
    compare("for good", seen, for_good);
    let mut actions = vec![routed];
    if let Some(expected) = asked_once {
        let (seen, action) = ask(&client, chaos, &once, None).await;
        compare("once", seen, expected);
        actions.push(action);
    }
    wrong.extend(actions.iter().chain([&action]).flat_map(accounts));
    let hint = action.error.and_then(|failure| failure.retry_after_ms);
    match line.next {
        Next::Again(least) => {
            let times = chaos.asked(&once);
            let waited = times
                .first()
                .zip(times.last())
                .map(|(first, last)| *last - *first);
            if waited.is_none_or(|waited| waited < least) {
                wrong.push(format!(
                    "{}: {waited:?} were waited, not {least:?}",
                    line.name
                ));
            }
        }
        Next::TooLong(wait) if hint != u64::try_from(wait.as_millis()).ok() => {
            wrong.push(format!(
                "{}: the caller is told to wait {hint:?}",
                line.name
            ));
        }
        Next::TooLong(_) | Next::Elsewhere | Next::Nobody | Next::Answered => {}
    }
    wrong
}

async fn every_fault(dialect: Dialect) {
    let lines = faults(dialect);
    let (chaos, pawd) = stage(dialect, &lines).await;
    let checks = stream::iter(&lines).map(|line| check(&pawd, &chaos, line));
    let wrong: Vec<Vec<String>> = checks.buffer_unordered(AT_ONCE).collect().await;
    let wrong = wrong.concat();
    assert!(wrong.is_empty(), "{dialect:?}\n{}", wrong.join("\n"));
    counted(&pawd).await;
}

/// What is counted of each provider is what the records say of their attempts, by how those ended.
async fn counted(pawd: &Pawd) {
    let client = pawd.client().await;
    let told = told(&client).await;
    let page = ActionRpcClient::list(&client, None, Some(1_000), None)
        .await
        .expect("listed");
    assert!(page.next.is_none(), "there are more");
    let (mut ends, mut tokens) = (BTreeMap::<(String, String), f64>::new(), 0.0);
    for attempt in page.items.into_iter().flat_map(|it| it.attempts) {
        tokens += attempt.usage.input_tokens.unwrap_or_default() as f64;
        *ends.entry((attempt.provider, attempt.outcome)).or_default() += 1.0;
    }
    assert!(ends.len() > 20, "{ends:?}");
    for ((provider, outcome), count) in &ends {
        let labels = [("provider", provider.as_str()), ("outcome", outcome)];
        let attempts = told.value("paw_provider_attempts", &labels);
        assert_eq!(attempts, *count, "{labels:?}");
        assert_eq!(told.value("paw_provider_attempt_seconds", &labels), *count);
    }
    let all: f64 = ends.values().sum();
    assert_eq!(told.value("paw_provider_attempts", &[]), all);
    assert_eq!(
        told.value("paw_provider_tokens", &[("kind", "input")]),
        tokens
    );
}

#[tokio::test]
async fn every_fault_on_the_wire_of_ollama() {
    every_fault(Dialect::Ollama).await;
}

#[tokio::test]
async fn every_fault_on_the_wire_of_openai() {
    every_fault(Dialect::OpenAi).await;
}

#[tokio::test]
async fn every_fault_on_a_wire_that_is_compatible_with_openai() {
    every_fault(Dialect::Compatible).await;
}

#[tokio::test]
async fn every_fault_on_the_wire_of_anthropic() {
    every_fault(Dialect::Anthropic).await;
}

#[tokio::test]
async fn every_fault_on_the_wire_of_gemini() {
    every_fault(Dialect::Gemini).await;
}

#[tokio::test]
async fn every_fault_on_the_wire_of_mistral() {
    every_fault(Dialect::Mistral).await;
}

/// Whoever connects is refused; then somebody listens there.
#[tokio::test]
async fn connection_that_is_refused_is_made_again_or_the_error_says_so() {
    let (closed, dead) = (reserve(), reserve());
    let [later, never] = [&closed, &dead].map(|it| it.local_addr().expect("it is bound"));
    let mut setup = Setup::new().with(CHAT);
    for dialect in Dialect::ALL {
        let kind = dialect.kind();
        let more = PATIENT.replace("max_retries = 1", "max_retries = 9");
        setup = setup
            .provider(kind, kind, &url(later, kind, dialect), &more)
            .provider(
                &format!("no-{kind}"),
                kind,
                &url(never, kind, dialect),
                PATIENT,
            );
    }
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let mut begun = Vec::new();
    for dialect in Dialect::ALL {
        let provider = Some(dialect.kind().to_owned());
        let chat = Asking::new("hello").provider(provider).ask(&client);
        begun.push(within("beginning a chat", chat).await.expect("accepted"));
        // Its state would say it after a check as well.
        let labels = [("provider", dialect.kind()), ("outcome", "transport")];
        let refused =
            async { while told(&client).await.value("paw_provider_attempts", &labels) < 1.0 {} };
        within("being refused", refused).await;
    }
    let chaos = Chaos::on(
        closed,
        &Dialect::ALL.map(|dialect| (dialect.kind(), dialect)),
    );
    for (mut chat, dialect) in begun.into_iter().zip(Dialect::ALL) {
        let id = accepted(&mut chat).await;
        rest(&mut chat).await;
        let action = finally(&client, &id).await;
        let outcomes: Vec<&str> = action
            .attempts
            .iter()
            .map(|it| it.outcome.as_str())
            .collect();
        let (last, before) = outcomes.split_last().expect("it was tried");
        assert_eq!(*last, "ok", "{dialect:?}: {outcomes:?} {:?}", action.error);
        assert!(
            !before.is_empty() && before.iter().all(|it| *it == "transport"),
            "{outcomes:?}"
        );
        assert_eq!(chaos.asked(dialect.kind()).len(), 1);

        let name = format!("no-{}", dialect.kind());
        let (seen, action) = ask(&client, &chaos, &name, None).await;
        let fails = format!("{name} transport");
        let expected = Seen {
            end: Err("transport".into()),
            tried: vec![fails.clone(), fails],
            asked: 0,
            resets: 0,
        };
        assert_eq!(seen, expected, "{:?}", action.error);
    }
}
