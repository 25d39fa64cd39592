//! The audit log through pawctl: what is found, what is exported, and its check without pawd.

use std::fs;

use harness::{Model, Pawd, Setup};
use serde_json::Value;

async fn shown(pawd: &Pawd, arguments: &[&str]) -> Value {
    let arguments = [&["audit", "list", "-o", "json", "-n", "1000"], arguments].concat();
    let output = pawd.pawctl(&arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    page["records"].clone()
}

async fn exported(pawd: &Pawd, format: &str) -> Vec<String> {
    let output = pawd.pawctl(&["audit", "export", "--format", format]).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn audit_list_finds_by_time_user_agent_kind_and_outcome_and_an_export_has_every_record() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let chatted = pawd.pawctl(&["chat", "hello"]).await;
    assert!(chatted.status.success(), "{chatted:?}");
    let ended = [
        "--kind",
        "chat",
        "--agent",
        "default",
        "--outcome",
        "completed",
    ];
    let found = shown(&pawd, &ended).await;
    let events: Vec<&Value> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["entry"]["event"])
        .collect();
    assert_eq!(events, ["action_ended"], "{found}");
    let uid = found[0]["entry"]["actor"]["uid"].as_u64().unwrap();
    let of_user = shown(&pawd, &["--uid", &uid.to_string(), "--since", "1h"]).await;
    let of_user = of_user.as_array().unwrap();
    assert!(
        of_user.len() > 1
            && of_user
                .iter()
                .all(|it| it["entry"]["actor"]["uid"].as_u64() == Some(uid))
    );
    for nothing in [
        ["--uid", "4242"],
        ["--agent", "nobody"],
        ["--kind", "tool_call"],
        ["--outcome", "failed"],
        ["--until", "2020-01-01T00:00:00Z"],
    ] {
        let found = shown(&pawd, &nothing).await;
        assert_eq!(found, serde_json::json!([]), "{nothing:?}");
    }
    let refused = pawd.pawctl(&["audit", "list", "--kind", "nonsense"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("`kind`"),
        "{said}"
    );

    let (lines, events) = (exported(&pawd, "jsonl").await, exported(&pawd, "cef").await);
    assert!(lines.len() >= of_user.len() && lines.len() == events.len());
    for (line, event) in lines.iter().zip(&events) {
        let record: Value = serde_json::from_str(line).unwrap();
        assert!(event.starts_with("CEF:0|pawd|pawd|"), "{event}");
        assert!(
            event.contains(&format!(" externalId={}", record["seq"])),
            "{event}"
        );
    }
}

#[tokio::test]
async fn log_is_verified_without_pawd_by_what_was_kept_elsewhere_and_says_so_by_its_exit_code() {
    let mut pawd = Pawd::start(Setup::new()).await;
    pawd.stop().await;
    // Told to end, it signs what there is.
    let mut audit = pawd.audit.take().unwrap();
    audit.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(audit.end().await.success());
    let log = pawd.root.path().join("log");
    let (key, witness) = (
        pawd.root.path().join("kept.pub"),
        pawd.root.path().join("kept.checkpoint"),
    );
    fs::copy(log.join("audit.pub"), &key).unwrap();
    fs::copy(log.join("audit.checkpoint"), &witness).unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let all = [
        path(&log),
        "--key".into(),
        path(&key),
        "--witness".into(),
        path(&witness),
    ];
    let verified = async |more: &[String]| {
        let words = ["audit", "verify"].into_iter();
        let arguments: Vec<&str> = words.chain(more.iter().map(String::as_str)).collect();
        let output = pawd.pawctl(&arguments).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = verified(&all).await;
    assert!(code == 0 && said.contains("1 fit"), "{said}");
    let segment = log.join("audit.000001.log");
    let good = fs::read(&segment).unwrap();
    let mut bad = good.clone();
    let place = good
        .windows(14)
        .position(|it| it == b"daemon_started")
        .unwrap();
    bad[place] = b'D';
    fs::write(&segment, &bad).unwrap();
    let (code, said) = verified(&all).await;
    assert!(code == 1 && said.contains("modified at record 1"), "{said}");
    // Half a line behind everything that was signed is what a crash leaves.
    fs::write(&segment, [good.as_slice(), b"{\"v\":2,\"seq\":"].concat()).unwrap();
    let (code, said) = verified(&all).await;
    assert_eq!(code, 3, "{said}");
    fs::write(&segment, good).unwrap();
    fs::remove_file(log.join("audit.pub")).unwrap();
    let (code, said) = verified(&all[..1]).await;
    assert_eq!(code, 2, "{said}");
    let (code, said) = verified(&all).await;
    assert_eq!(code, 0, "{said}");
}
