//! Every fault of a provider on every wire format: what the caller gets, how many questions reach the provider, and what the record
//! of the action says of each attempt.
//!
//! The table is [`faults`]. Each fault is played once (the question is asked again and answered) and for good (a typed error; by a
//! route, the answer of a spare). A primary that is dead under load is in `breakers`.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use harness::{
    Dialect, Pawd, Setup,
    chaos::{Chaos, Fault, INPUT, OUTPUT, Refusal, TEXT, Then, reserve, url},
    within,
    words::{accepted, finally, rest},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    action::Action,
    provider::{ChatEvent, ChatRpcClient, ProviderRpcClient},
};
use serde_json::json;

/// Long enough for every wait below but those that are told to be too long.
const CHAT: &str = "\n[actions]\nchat_timeout = \"20s\"\nconcurrency = 64\n";

/// Each question may be asked again once. None of the limits is meant to pass.
const PATIENT: &str = "max_retries = 1\nfirst_token_timeout = \"20s\"\nstall_timeout = \"20s\"\n";

/// The same, where a limit is meant to pass.
const HASTY: &str =
    "max_retries = 1\nfirst_token_timeout = \"1500ms\"\nstall_timeout = \"1500ms\"\n";

/// Questions that are asked at once.
const AT_ONCE: usize = 12;

/// One line of the table.
struct Line {
    name: &'static str,
    fault: Fault,
    /// How the attempt ends.
    outcome: &'static str,
    /// Whether a piece of its answer is heard before.
    speaks: bool,
    next: Next,
    limits: &'static str,
}

/// What becomes of a question after the fault.
#[derive(Clone, Copy)]
enum Next {
    /// It is answered: there was none.
    Answered,
    /// It is asked again, not before this time; else a spare is asked.
    Again(Duration),
    /// The provider wants to be left alone for so long that nobody waits for it; a spare is asked.
    TooLong(Duration),
    /// It is not asked there again; a spare is asked.
    Elsewhere,
    /// Nobody else is asked: it would be refused there, too.
    Nobody,
}

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

fn line(name: &'static str, outcome: &'static str, next: Next, fault: Fault) -> Line {
    Line {
        name,
        fault,
        outcome,
        speaks: false,
        next,
        limits: PATIENT,
    }
}

/// A fault in the middle of an answer.
fn midway(name: &'static str, outcome: &'static str, bytes: String, then: Then) -> Line {
    let fault = Fault::Stream(Vec::new(), bytes, then);
    Line {
        speaks: true,
        ..line(name, outcome, AT_ONCE_AGAIN, fault)
    }
}

const AT_ONCE_AGAIN: Next = Next::Again(Duration::ZERO);

fn again(ms: u64) -> Next {
    Next::Again(Duration::from_millis(ms))
}

fn faults(dialect: Dialect) -> Vec<Line> {
    let refuse = |refusal| {
        let (status, body) = dialect.refuses(refusal, None);
        Fault::Status(status, Vec::new(), body)
    };
    let limit = |headers: &[(&'static str, &str)]| {
        let (status, body) = dialect.refuses(Refusal::Rate, None);
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Fault::Status(status, headers.collect(), body)
    };
    let retry_info = |delay: &str| {
        let info =
            json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]);
        let (status, body) = dialect.refuses(Refusal::Rate, Some(info));
        Fault::Status(status, Vec::new(), body)
    };
    let fails = |status, body: &str| Fault::Status(status, Vec::new(), body.to_owned());
    let error = |status: u16| {
        let (_, body) = dialect.refuses(Refusal::Overload, None);
        fails(status, &body.replace("503", &status.to_string()))
    };
    // Times by a clock that is years behind ours: only the difference counts.
    let (sent, then, far) = (
        "Tue, 15 Nov 1994 08:12:31 GMT",
        "Tue, 15 Nov 1994 08:12:32 GMT",
        "Tue, 15 Nov 1994 08:14:01 GMT",
    );
    let begun = dialect.opening() + &dialect.piece("Half an");
    let broken = dialect.refuses(Refusal::Overload, None).1;
    let ninety = Next::TooLong(Duration::from_secs(90));
    let hints = vec![
        ("retry-after", "60".to_owned()),
        ("retry-after-ms", "60000".to_owned()),
        ("x-ratelimit-remaining-requests", "0".to_owned()),
        ("x-ratelimit-reset-requests", "1m30s".to_owned()),
        ("x-should-retry", "false".to_owned()),
    ];
    let quota = match dialect {
        Dialect::Gemini => {
            let violation = json!([{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]);
            let failure = json!([
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violation},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"},
            ]);
            let (status, body) = dialect.refuses(Refusal::Quota, Some(failure));
            Fault::Status(status, Vec::new(), body)
        }
        _ => refuse(Refusal::Quota),
    };
    let headers_then_nothing = Fault::Stream(Vec::new(), dialect.alive().into(), Then::Waits);
    let not_json = dialect.raw("{\"what\": ");
    vec![
        // Too many questions, with each kind of hint.
        line("rate", "rate", AT_ONCE_AGAIN, refuse(Refusal::Rate)),
        line(
            "rate-seconds",
            "rate",
            again(1000),
            limit(&[("retry-after", "1")]),
        ),
        line(
            "rate-long-seconds",
            "rate",
            ninety,
            limit(&[("retry-after", "90")]),
        ),
        line(
            "rate-date",
            "rate",
            again(1000),
            limit(&[("date", sent), ("retry-after", then)]),
        ),
        line(
            "rate-long-date",
            "rate",
            ninety,
            limit(&[("date", sent), ("retry-after", far)]),
        ),
        line(
            "rate-milliseconds",
            "rate",
            again(700),
            limit(&[("retry-after-ms", "700"), ("retry-after", "90")]),
        ),
        line(
            "rate-long-milliseconds",
            "rate",
            ninety,
            limit(&[("retry-after-ms", "90000")]),
        ),
        line(
            "rate-go-duration",
            "rate",
            again(600),
            limit(&[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "600ms"),
                ("x-ratelimit-remaining-tokens", "9"),
                ("x-ratelimit-reset-tokens", "1m30s"),
            ]),
        ),
        line(
            "rate-long-go-duration",
            "rate",
            ninety,
            limit(&[
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1m30s"),
            ]),
        ),
        line(
            "rate-long-instant",
            "rate",
            ninety,
            limit(&[
                ("date", sent),
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "1994-11-15T08:14:01Z"),
            ]),
        ),
        line("rate-retry-info", "rate", again(800), retry_info("0.8s")),
        line("rate-long-retry-info", "rate", ninety, retry_info("90s")),
        line(
            "rate-do-not-retry",
            "rate",
            Next::Elsewhere,
            limit(&[("x-should-retry", "false")]),
        ),
        // Hints of a success mean nothing, also where that success breaks off.
        line(
            "hints-of-success",
            "ok",
            Next::Answered,
            Fault::Headers(hints.clone()),
        ),
        Line {
            speaks: true,
            ..line(
                "hints-of-broken-success",
                "overload",
                AT_ONCE_AGAIN,
                Fault::Stream(hints, begun.clone() + &dialect.raw(&broken), Then::Closes),
            )
        },
        // It cannot serve.
        line("error-500", "overload", AT_ONCE_AGAIN, error(500)),
        line(
            "error-502",
            "overload",
            AT_ONCE_AGAIN,
            fails(502, "<html><body>Bad Gateway</body></html>"),
        ),
        line("error-503", "overload", AT_ONCE_AGAIN, error(503)),
        line("error-529", "overload", AT_ONCE_AGAIN, error(529)),
        // The network fails, or nobody answers.
        line(
            "reset",
            "transport",
            AT_ONCE_AGAIN,
            Fault::Instead(Then::Resets),
        ),
        line(
            "hung-up",
            "transport",
            AT_ONCE_AGAIN,
            Fault::Instead(Then::Closes),
        ),
        Line {
            limits: HASTY,
            ..line(
                "silent",
                "timed_out",
                AT_ONCE_AGAIN,
                Fault::Instead(Then::Waits),
            )
        },
        Line {
            limits: HASTY,
            ..line("late", "timed_out", AT_ONCE_AGAIN, headers_then_nothing)
        },
        // An answer that has begun breaks off.
        midway("cut", "cut", begun.clone(), Then::Closes),
        midway(
            "half-a-record",
            "cut",
            begun.clone() + &not_json[..9],
            Then::Ends,
        ),
        midway("unfinished", "cut", dialect.unfinished(), Then::Ends),
        Line {
            limits: HASTY,
            ..midway(
                "stalled",
                "timed_out",
                begun.clone() + dialect.alive(),
                Then::Waits,
            )
        },
        midway(
            "malformed",
            "malformed",
            begun.clone() + &not_json,
            Then::Waits,
        ),
        midway(
            "error-inside",
            "overload",
            begun + &dialect.raw(&broken),
            Then::Closes,
        ),
        line(
            "error-at-once",
            "overload",
            AT_ONCE_AGAIN,
            Fault::Stream(Vec::new(), dialect.raw(&broken), Then::Ends),
        ),
        line(
            "empty",
            "cut",
            AT_ONCE_AGAIN,
            Fault::Stream(Vec::new(), String::new(), Then::Ends),
        ),
        // It understood, and refuses.
        line(
            "context",
            "context_length",
            Next::Nobody,
            refuse(Refusal::Context),
        ),
        line(
            "filter",
            "content_filter",
            Next::Nobody,
            refuse(Refusal::Filter),
        ),
        line("key", "auth", Next::Elsewhere, refuse(Refusal::Auth)),
        line("quota", "quota", Next::Elsewhere, quota),
        line(
            "model",
            "not_found",
            Next::Elsewhere,
            refuse(Refusal::Model),
        ),
    ]
}

/// A pawd with a provider for each line that plays its fault once and one that plays it for good, a spare, and a route for each.
async fn stage(dialect: Dialect, lines: &[Line]) -> (Chaos, Pawd) {
    let chaos = Chaos::start();
    let mut setup = Setup::new().with(CHAT);
    let mut add = |name: &str, fault: Fault, times, limits| {
        chaos.plays(name, dialect, fault, times);
        let provider =
            setup
                .clone()
                .provider(name, dialect.kind(), &chaos.url(name, dialect), limits);
        setup = provider;
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
    let begun = client.send(
        "hello".into(),
        None,
        None,
        named,
        None,
        None,
        route,
        None,
        None,
    );
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
            assert_eq!(action.result, None);
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
            let (seen, _) = ask(&client, chaos, &once, None).await;
            compare("what came", seen, answered(&[answer], 1, 0));
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
    let (seen, _) = ask(&client, chaos, &always, Some(line.name)).await;
    compare("by a route", seen, by_route);
    let (seen, action) = ask(&client, chaos, &always, None).await;
    compare("for good", seen, for_good);
    if let Some(expected) = asked_once {
        let (seen, _) = ask(&client, chaos, &once, None).await;
        compare("once", seen, expected);
    }
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
        let chat = client.send(
            "hello".into(),
            None,
            None,
            provider,
            None,
            None,
            None,
            None,
            None,
        );
        begun.push(within("beginning a chat", chat).await.expect("accepted"));
        let failing = async {
            let show = || ProviderRpcClient::show(&client, dialect.kind().into());
            while show().await.expect("it is there").state != "failing" {}
        };
        within("being refused", failing).await;
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
