//! What one record of the log says: every member of it, compared with what is known elsewhere.

use std::time::{SystemTime, UNIX_EPOCH};

use harness::{
    Model, Pawd, Setup, within,
    words::{answer, ask_to_write, done, finally, rest, say, show},
};
use jsonrpsee::async_client::Client;
use nix::time::{ClockId, clock_gettime};
use paw_api::{
    action::{Action, Answer},
    system::SystemRpcClient,
    trail::AuditRpcClient,
};
use paw_policy::{Digest, Kind, plan::canonical};
use serde_json::{Value, json};

/// Nanoseconds since boot, and milliseconds since 1970.
fn now() -> (u64, u64) {
    let mono = std::time::Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (
        u64::try_from(mono.as_nanos()).unwrap(),
        u64::try_from(utc.as_millis()).unwrap(),
    )
}

/// All records, the oldest first.
async fn all(client: &Client) -> Vec<Value> {
    let listed = AuditRpcClient::list(client, None, None, None, None);
    let mut records = within("the log", listed).await.unwrap();
    records.sort_by_key(|record| record["seq"].as_u64().unwrap());
    records
}

/// Of an action, in their order; their events are these, each with its outcome.
fn of<'a>(records: &'a [Value], action: &Action, events: &[(&str, &str)]) -> Vec<&'a Value> {
    let is_its = |record: &&Value| {
        record["entry"]["action"] == json!(action.id) && record["entry"]["outcome"].is_string()
    };
    let its: Vec<&Value> = records.iter().filter(is_its).collect();
    let seen: Vec<(&str, &str)> = its
        .iter()
        .map(|record| &record["entry"])
        .map(|entry| {
            let word = |name: &str| entry[name].as_str().unwrap();
            (word("event"), word("outcome"))
        })
        .collect();
    assert_eq!(seen, events, "{its:#?}");
    its
}

/// The unit that this process is in, where it is in one.
fn unit() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
    path.rsplit('/').find(is_unit).map(str::to_owned)
}

/// Each says the same of its action as the action itself.
fn tells_of(record: &Value, action: &Action, policy: &Value) {
    let entry = &record["entry"];
    let by = &action.requested_by;
    let mut actor = json!({"uid": by.uid, "gid": by.gid, "pid": by.pid, "role": by.role});
    if let Some(unit) = unit() {
        actor["unit"] = json!(unit);
    }
    // The chat has no effect of its own, and the write has that of its tool.
    let class = match action.kind == Kind::Chat {
        true => Value::Null,
        false => json!("write-destructive"),
    };
    let expected = json!({
        "actor": actor,
        "session": action.session,
        "kind": action.kind,
        "class": class,
        "risk": action.risk,
        "taint": action.taint,
        "decision": action.verdict.decision,
        "digest": action.digest,
        "policy_digest": policy,
    });
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&entry[member], value, "{member} of {record:#}");
    }
    // What came out, and that nothing had before.
    let digest = |result: &Value| Digest::of(canonical(result).as_bytes());
    let result = action
        .result
        .as_ref()
        .filter(|_| entry["event"] == "action_ended");
    assert_eq!(
        entry["result_digest"],
        json!(result.map(digest)),
        "{record:#}"
    );
    let rules = entry.get("rules").cloned().unwrap_or_else(|| json!([]));
    assert_eq!(rules, json!(action.verdict.rules), "{record:#}");
    assert_eq!(entry["detail"]["agent"], json!(action.agent), "{record:#}");
    assert_eq!(
        entry["detail"]["summary"],
        json!(action.summary),
        "{record:#}"
    );
}

#[tokio::test]
async fn every_step_is_in_the_audit_log_with_who_when_what_and_by_which_rules() {
    let began = now();
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let chat = rest(&mut say(&client, "hello").await).await;
    let chat = show(&client, &done(&chat).action_id).await;
    let asked = ask_to_write(&client, "note.txt", "remember the milk").await;
    answer(&client, &asked.id, asked.digest, Answer::Approve)
        .await
        .unwrap();
    finally(&client, &asked.id).await;
    let written = show(&client, &asked.id).await;
    let records = all(&client).await;
    let ended = now();

    // Of the host and the moment: one boot, one chain, numbers without a gap, two clocks that do not go back.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut last = (0, Value::Null, began);
    for record in &records {
        let number = |name: &str| record[name].as_u64().unwrap();
        let (seq, tag, then) = last;
        assert_eq!(record["boot_id"], json!(boot.trim()));
        assert_eq!(number("seq"), seq + 1);
        if seq > 0 {
            assert_eq!(record["prev"], tag);
        }
        let when = (number("mono_ns"), number("utc_ms"));
        assert!(then.0 <= when.0 && when.0 <= ended.0, "{record:#}");
        assert!(then.1 <= when.1 && when.1 <= ended.1, "{record:#}");
        for member in ["prev", "mac", "tag"] {
            record[member].as_str().unwrap().parse::<Digest>().unwrap();
        }
        last = (seq + 1, record["tag"].clone(), when);
    }
    assert_eq!(records[0]["entry"]["event"], "daemon_started");
    let policy = &records[0]["entry"]["policy_digest"];
    policy.as_str().unwrap().parse::<Digest>().unwrap();

    // Who connected is this process, by the kernel's word; what it may do is what it is told it may.
    let me = client.whoami().await.unwrap();
    assert_eq!(
        (me.uid, me.gid, me.pid),
        (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
            std::process::id().cast_signed()
        )
    );
    assert_eq!((&chat.requested_by, &written.requested_by), (&me, &me));

    // Of each step of an action: exactly one decision before its effect, and what it was.
    let steps = [
        ("action_judged", "approved"),
        ("action_started", "executing"),
        ("action_ended", "completed"),
    ];
    for record in of(&records, &chat, &steps) {
        tells_of(record, &chat, policy);
    }
    let steps = [
        ("action_judged", "waiting_approval"),
        ("action_approved", "approved"),
        ("action_started", "executing"),
        ("action_ended", "completed"),
    ];
    let its = of(&records, &written, &steps);
    for record in &its {
        tells_of(record, &written, policy);
    }
    // What the kernel said of the sandbox it ran in, and which that was.
    let attestation = written.attestation.expect("it ran in a sandbox");
    let last = &its[3]["entry"];
    assert_eq!(last["attestation"], json!(attestation));
    assert_eq!(last["detail"]["sandbox"], json!(written.sandbox));
    let verified = within("verifying", client.verify()).await.unwrap();
    assert!(verified.ok, "{verified:?}");
}
