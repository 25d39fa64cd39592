//! Records in the Common Event Format, a line each, as systems that collect events of many programs read it.

use std::fmt::Write as _;

use serde_json::Value;

/// How grave an event is, from 0 to 10, by the risk of its action or else by what it is.
fn severity(event: &str, risk: Option<&str>) -> u8 {
    match (event, risk) {
        ("log_recovered" | "answer_refused" | "secret_refused" | "config_refused", _) => 7,
        ("rpc_denied" | "action_rejected" | "code_refused" | "egress_refused", _) => 6,
        (_, Some("critical")) => 9,
        (_, Some("high")) => 7,
        (_, Some("medium")) => 5,
        (_, Some("low")) => 3,
        _ => 1,
    }
}

/// The line of a record, with its end.
pub(super) fn line(record: &Value) -> String {
    let entry = &record["entry"];
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(words) => Some(
            words
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(" "),
        ),
        other => Some(other.to_string()),
    };
    let event = entry["event"].as_str().unwrap_or("unknown");
    let mut line = format!(
        "CEF:0|pawd|pawd|{}|{}|{}|{}|",
        header(env!("CARGO_PKG_VERSION")),
        header(event),
        header(&event.replace('_', " ")),
        severity(event, entry["risk"].as_str()),
    );
    let detail = &entry["detail"];
    let plain = [
        ("rt", &record["utc_ms"]),
        ("externalId", &record["seq"]),
        ("suid", &entry["actor"]["uid"]),
        ("spriv", &entry["actor"]["role"]),
        ("spid", &entry["actor"]["pid"]),
        ("sourceServiceName", &entry["actor"]["unit"]),
        ("cat", &entry["class"]),
        ("act", &entry["decision"]),
        ("outcome", &entry["outcome"]),
        ("msg", &detail["summary"]),
    ];
    let named = [
        ("action", &entry["action"]),
        ("agent", &detail["agent"]),
        ("kind", &entry["kind"]),
        ("rules", &entry["rules"]),
        ("planDigest", &entry["digest"]),
        ("tag", &record["tag"]),
    ];
    let mut parts = Vec::new();
    for (key, value) in plain {
        parts.extend(text(value).map(|text| format!("{key}={}", extension(&text))));
    }
    for (number, (label, value)) in (1..).zip(named) {
        parts.extend(
            text(value)
                .map(|text| format!("cs{number}Label={label} cs{number}={}", extension(&text))),
        );
    }
    for (number, (label, value)) in (1..).zip([
        ("session", &entry["session"]),
        ("resultDigest", &entry["result_digest"]),
    ]) {
        parts.extend(text(value).map(|text| {
            format!(
                "flexString{number}Label={label} flexString{number}={}",
                extension(&text)
            )
        }));
    }
    // Whatever else a record says is one field, because there are no more of their own.
    let mut rest = String::new();
    for (key, value) in detail.as_object().into_iter().flatten() {
        if key != "summary" && key != "agent" {
            let value = text(value).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = write!(
                rest,
                "{}{key}: {value}",
                if rest.is_empty() { "" } else { "; " }
            );
        }
    }
    if !rest.is_empty() {
        parts.push(format!("reason={}", extension(&rest)));
    }
    line.push_str(&parts.join(" "));
    line.push('\n');
    line
}

/// As a field of the header is written.
fn header(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('|', "\\|");
    text.replace(['\n', '\r'], " ")
}

/// As a value behind the header is written.
fn extension(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('=', "\\=");
    text.replace('\r', "\\r").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn line_has_what_a_collector_asks_for_and_nothing_breaks_out_of_its_field() {
        let record = json!({"seq": 7, "utc_ms": 1_700_000_000_000_u64, "tag": "ab", "entry": {
            "event": "action_judged", "action": "id", "kind": "tool_call", "risk": "high", "decision": "ask",
            "rules": ["a", "b"], "actor": {"uid": 1000, "gid": 1, "pid": 5, "role": "user", "unit": "cron.service"},
            "session": "talk", "class": "egress", "result_digest": "cd",
            "detail": {"agent": "clerk", "summary": "a=b|c\\d\nCEF:0|x", "error": "e=1"}}});
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            line(&record),
            format!(
                "CEF:0|pawd|pawd|{version}|action_judged|action judged|7|rt=1700000000000 externalId=7 suid=1000 spriv=user spid=5 sourceServiceName=cron.service \
                 cat=egress act=ask msg=a\\=b|c\\\\d\\nCEF:0|x cs1Label=action cs1=id cs2Label=agent cs2=clerk cs3Label=kind cs3=tool_call \
                 cs4Label=rules cs4=a b cs6Label=tag cs6=ab flexString1Label=session flexString1=talk \
                 flexString2Label=resultDigest flexString2=cd reason=error: e\\=1\n"
            )
        );
        assert_eq!(header("a|b\\c"), "a\\|b\\\\c");
    }
}
