//! What error bodies mean, and how long a provider asks to wait.

use super::*;

#[test]
fn error_body_of_each_dialect_is_understood() {
    let check = |status: u16, body: &str, expected: &str, said: &str| {
        let error = judge(Some(status), body.as_bytes(), Wish::default(), &mask());
        assert_eq!(error.kind(), expected, "{status} {body}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(!error.hint().is_empty());
    };
    check(
        401,
        r#"{"error":{"message":"Incorrect API key provided: sk-secret","type":"invalid_request_error","code":"invalid_api_key"}}"#,
        "auth",
        "provided: [key]",
    );
    check(403, "", "auth", "(no words)");
    check(402, r#"{"error":{"message":"pay"}}"#, "quota", "pay");
    check(
        429,
        r#"{"error":{"message":"quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
        "quota",
        "quota",
    );
    check(
        429,
        r#"{"error":{"message":"slow","type":"tokens","code":"rate_limit_exceeded"}}"#,
        "rate",
        "slow",
    );
    check(
        404,
        r#"{"error":"model 'x' not found"}"#,
        "not_found",
        "model 'x' not found",
    );
    check(
        404,
        r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
        "not_found",
        "no",
    );
    check(
        404,
        r#"{"error":{"code":"DeploymentNotFound","message":"gone"}}"#,
        "not_found",
        "gone",
    );
    check(
        400,
        r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}"#,
        "context_length",
        "too long",
    );
    check(
        400,
        r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#,
        "context_length",
        "x",
    );
    check(
        400,
        r#"{"object":"error","message":"This model's maximum context length is 8","type":"BadRequestError","code":400}"#,
        "context_length",
        "is 8",
    );
    check(
        400,
        r#"{"error":{"message":"filtered","code":"content_filter","innererror":{}}}"#,
        "content_filter",
        "filtered",
    );
    check(
        422,
        r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#,
        "bad_request",
        "field required",
    );
    check(405, "405 method not allowed", "bad_request", "405 method");
    check(413, "", "too_large", "the request");
    check(
        503,
        r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#,
        "loading",
        "Loading model",
    );
    check(
        503,
        r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#,
        "overload",
        "server busy",
    );
    check(
        502,
        "<html><body>Bad Gateway</body></html>",
        "overload",
        "a web page",
    );
    check(
        529,
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        "overload",
        "Overloaded",
    );
    check(
        400,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
        "context_length",
        "too long",
    );
    check(
        403,
        r#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#,
        "auth",
        "no",
    );
    check(
        400,
        r#"{"error":{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT","details":[{"@type":"t","reason":"API_KEY_INVALID"}]}}"#,
        "auth",
        "not valid",
    );
    check(
        400,
        r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum","status":"INVALID_ARGUMENT"}}]"#,
        "context_length",
        "(9)",
    );
    check(
        503,
        r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#,
        "overload",
        "overloaded",
    );
    check(500, "{\"error\":", "overload", "{\"error\":");
    check(408, "", "overload", "(no words)");
    check(
        400,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#,
        "quota",
        "too low",
    );
    check(
        429,
        r#"{"error":"you (somebody) have reached your weekly usage limit, upgrade for higher limits"}"#,
        "quota",
        "weekly",
    );
    let google = |id: &str| {
        format!(
            r#"{{"error":{{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaMetric":"m","quotaId":"{id}"}}]}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3s"}}]}}}}"#
        )
    };
    check(
        429,
        &google("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        "quota",
        "exceeded",
    );
    check(
        429,
        &google("GenerateRequestsPerMinutePerProjectPerModel"),
        "rate",
        "exceeded",
    );
    check(999, "", "malformed", "999");
}

const NOW: i64 = 1_790_000_000;

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(NOW).expect("a time")
}

#[test]
fn wait_is_read_bounded_and_the_finer_header_wins() {
    let seconds = |number| Some(std::time::Duration::from_secs_f64(number));
    let wait = |retry_after_ms, retry_after| {
        let mut hints = Hints {
            retry_after_ms,
            retry_after,
            ..Hints::default()
        };
        hints.resets[0] = (Some("0"), Some("77s"));
        hints.wish(now()).wait
    };
    assert_eq!(wait(None, Some("20")), seconds(20.0));
    assert_eq!(wait(Some("1500"), Some("2")), seconds(1.5));
    assert_eq!(wait(Some("?"), Some(" 0.5 ")), seconds(0.5));
    assert_eq!(wait(None, Some("1e300")), seconds(86400.0));
    for nothing in ["-1", "NaN", "", "Wed, 21 Oct 1987 07:28:00 GMT", "tomorrow"] {
        assert_eq!(wait(None, Some(nothing)), seconds(77.0), "{nothing}");
    }
}

#[test]
fn date_is_compared_with_the_clock_of_who_sent_it() {
    let wait = |date, retry_after| {
        let hints = Hints {
            date,
            retry_after: Some(retry_after),
            ..Hints::default()
        };
        hints.wish(now()).wait.map(|wait| wait.as_secs())
    };
    // Our clock says 14:13:20 of that day.
    let then = "Mon, 21 Sep 2026 14:13:50 GMT";
    assert_eq!(wait(None, then), Some(30));
    assert_eq!(wait(Some("Mon, 21 Sep 2026 14:13:45 GMT"), then), Some(5));
    assert_eq!(wait(Some("nonsense"), then), Some(30));
    assert_eq!(
        wait(None, "Tue, 21 Sep 2026 14:13:50 GMT"),
        None,
        "it was a Monday"
    );
    assert_eq!(wait(None, "Wed, 21 Oct 2026 14:13:50 GMT"), Some(86_400));
}

#[test]
fn reset_of_what_is_used_up_is_a_wait_and_any_other_is_not() {
    let wait = |resets: &[(&'static str, &'static str)]| {
        let mut hints = Hints::default();
        for (slot, (remaining, reset)) in hints.resets.iter_mut().zip(resets) {
            *slot = (Some(remaining), Some(reset));
        }
        hints.wish(now()).wait.map(|wait| wait.as_millis())
    };
    for (text, expected) in [
        ("12ms", Some(12)),
        ("1.182s", Some(1182)),
        ("17.399999999s", Some(17_400)),
        ("1m30s", Some(90_000)),
        ("6m0s", Some(360_000)),
        ("1h2m3.5s", Some(3_723_500)),
        ("500µs", Some(0)),
        ("7", Some(7000)),
        // As Anthropic has it.
        ("2026-09-21T14:13:55Z", Some(35_000)),
        ("2026-09-21T14:13:19Z", None),
        ("-1", None),
        ("soon", None),
        ("s", None),
        ("1x", None),
        ("", None),
    ] {
        let said = wait(&[("0", text), ("9", "1h")]);
        // A duration in floating point may miss the last nanosecond.
        let near = said
            .zip(expected)
            .map_or(said == expected, |(said, expected)| {
                said.abs_diff(expected) <= 1
            });
        assert!(near, "{text}: {said:?}");
    }
    assert_eq!(wait(&[("3", "1s")]), None);
    assert_eq!(wait(&[("0", "1s"), ("0", "2s")]), Some(2000));
}

#[test]
fn number_of_an_error_is_a_status_only_where_it_can_be_one() {
    for (code, expected) in [("429", "rate"), ("1300", "overload"), ("3051", "overload")] {
        let body = format!(r#"{{"object":"error","message":"no","type":"x","code":"{code}"}}"#);
        let error = judge(None, body.as_bytes(), Wish::default(), &mask());
        assert_eq!(error.kind(), expected, "{code}");
    }
}

#[test]
fn provider_that_says_whether_to_ask_again_is_believed() {
    let judged = |status, should_retry| {
        let hints = Hints {
            should_retry: Some(should_retry),
            ..Hints::default()
        };
        judge(Some(status), b"{}", hints.wish(now()), &mask())
    };
    for (status, should_retry, expected) in [
        (429, "false", false),
        (429, "true", true),
        (429, "perhaps", true),
        (503, "false", false),
        (400, "true", true),
    ] {
        match judged(status, should_retry) {
            LlmError::Rate { again, .. } | LlmError::Overload { again, .. } => {
                assert_eq!(again, expected, "{status} {should_retry}");
            }
            other => panic!("{status} {should_retry}: {other}"),
        }
    }
    assert_eq!(judged(400, "false").kind(), "bad_request");
    assert_eq!(judged(401, "true").kind(), "auth");
}
