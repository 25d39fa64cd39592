//! The table: every fault, how an attempt ends with it, and what becomes of the question.

use std::time::Duration;

use harness::{
    Dialect,
    chaos::{Fault, Then},
    dialect::Refusal,
};
use serde_json::json;

/// Each question may be asked again once. None of the limits is meant to pass.
pub(super) const PATIENT: &str =
    "max_retries = 1\nfirst_token_timeout = \"20s\"\nstall_timeout = \"20s\"\n";

/// The same, where a limit is meant to pass.
pub(super) const HASTY: &str =
    "max_retries = 1\nfirst_token_timeout = \"1500ms\"\nstall_timeout = \"1500ms\"\n";

/// One line of the table.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) fault: Fault,
    /// How the attempt ends.
    pub(super) outcome: &'static str,
    /// Whether a piece of its answer is heard before.
    pub(super) speaks: bool,
    pub(super) next: Next,
    pub(super) limits: &'static str,
}

/// What becomes of a question after the fault.
#[derive(Clone, Copy)]
pub(super) enum Next {
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

pub(super) fn faults(dialect: Dialect) -> Vec<Line> {
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
        line("bad", "bad_request", Next::Nobody, refuse(Refusal::Bad)),
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
