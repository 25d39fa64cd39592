//! The audit log through pawctl: what is found, what is exported, and its check without pawd.

use std::{fs, path::Path};

use harness::{Model, Pawd, Setup, root, somebody::Guest, within};
use paw_api::audit::{Answer, Append, Entry, Event};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

async fn shown(pawd: &Pawd, arguments: &[&str]) -> Value {
    let arguments = [&["audit", "list", "-o", "json", "-n", "1000"], arguments].concat();
    let output = pawd.pawctl(&arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    page["records"].clone()
}

async fn exported(pawd: &Pawd, format: &str) -> Vec<String> {
    exported_with(pawd, &["--format", format]).await
}

async fn exported_with(pawd: &Pawd, arguments: &[&str]) -> Vec<String> {
    let output = pawd
        .pawctl(&[&["audit", "export"], arguments].concat())
        .await;
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

/// Has the audit writer append this, as somebody who has taken over pawd can.
pub(crate) async fn append(pawd: &Pawd, records: impl Iterator<Item = Entry>) -> Vec<Answer> {
    let socket = pawd.root.path().join("run/audit.sock");
    let (stream, _guest) = if nix::unistd::geteuid().is_root() {
        let program = Path::new(env!("CARGO_BIN_EXE_be-somebody"));
        let (stream, guest) = Guest::connect(program, &socket, root::uid(), root::gid(), &[]);
        (stream, Some(guest))
    } else {
        (UnixStream::connect(socket).await.unwrap(), None)
    };
    let (from, mut to) = stream.into_split();
    let mut lines = BufReader::new(from).lines();
    let mut answers = Vec::new();
    for (seq, record) in (1..).zip(records) {
        let append = Append {
            seq,
            durable: true,
            record,
        };
        let line = serde_json::to_vec(&append).unwrap();
        to.write_all(&[line, b"\n".to_vec()].concat())
            .await
            .unwrap();
        while answers.len() < usize::try_from(seq).unwrap() {
            let line = within("an answer", lines.next_line()).await.unwrap();
            let answer = serde_json::from_str(&line.expect("it stays open")).unwrap();
            if matches!(answer, Answer::Appended(_) | Answer::Refused(_)) {
                answers.push(answer);
            }
        }
    }
    answers
}

/// 24 MB of records, which no answer holds.
#[tokio::test]
async fn records_that_are_long_keep_nobody_from_listing_following_and_exporting_the_log() {
    let pawd = Pawd::start(Setup::new()).await;
    let long = |n: usize| {
        let mut entry = Entry::new(Event::JobAdded);
        entry.detail.insert("n".into(), n.to_string());
        entry.detail.insert("text".into(), "x".repeat(60_000));
        entry
    };
    append(&pawd, (0..400).map(long)).await;
    let output = pawd.pawctl(&["status", "-o", "json"]).await;
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seqs = |lines: &[String]| -> Vec<u64> {
        let seq = |line: &String| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64();
        lines.iter().map(|line| seq(line).unwrap()).collect()
    };
    let lines = exported_with(&pawd, &[]).await;
    let last = lines.len() as u64;
    assert!(last >= 401, "{status}");
    assert_eq!(seqs(&lines), (1..=last).collect::<Vec<_>>());
    // Without pawd, from the files, it is the same to the byte, and whole or from a number on.
    let log = pawd.root.path().join("log");
    let log = log.to_str().unwrap();
    let offline = exported_with(&pawd, &["--log", log]).await;
    assert!(offline == lines, "another text");
    let segment = format!("{log}/audit.000001.log");
    let offline = exported_with(&pawd, &["--log", &segment, "--from", "390"]).await;
    assert!(offline == lines[389..], "another text");
    let offline = exported_with(&pawd, &["--log", log, "--format", "cef"]).await;
    assert_eq!(offline.len(), lines.len());

    let tail = pawd
        .pawctl(&["audit", "tail", "-n", "390", "-o", "jsonl"])
        .await;
    assert!(tail.status.success(), "{:?}", tail.stderr);
    let text = String::from_utf8(tail.stdout).unwrap();
    assert_eq!(text.lines().count(), 390);
    // A list is one page, and says where there is more.
    let output = pawd
        .pawctl(&["audit", "list", "-n", "1000", "-o", "json"])
        .await;
    assert!(output.status.success(), "{:?}", output.stderr);
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = page["records"].as_array().unwrap().len() as u64;
    assert!((50..100).contains(&shown), "{shown}");
    assert_eq!(page["next"].as_u64(), Some(last - shown + 1));
    let empty = tempfile::tempdir().unwrap();
    let nothing = ["audit", "export", "--log", empty.path().to_str().unwrap()];
    let output = pawd.pawctl(&nothing).await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}

#[tokio::test]
async fn list_of_records_has_one_shape_whatever_is_asked_for() {
    let pawd = Pawd::start(Setup::new()).await;
    // What the start records is recorded.
    let started = ["--event", "daemon_started"];
    within("the first record", async {
        while shown(&pawd, &started).await == serde_json::json!([]) {}
    })
    .await;
    let whole = async |format: &str, more: &[&str]| {
        let arguments = [&["audit", "list", "-n", "1", "-o", format], more].concat();
        let output = pawd.pawctl(&arguments).await;
        assert!(output.status.success(), "{output:?}");
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for filter in [
        &["--before", "3"][..],
        &["--event", "daemon_started"],
        &["--since", "1h", "--before", "3"],
        &["--uid", "4242"],
    ] {
        let (shown, _) = whole("json", filter).await;
        let page: Value = serde_json::from_str(&shown).unwrap();
        let mut members: Vec<&String> = page.as_object().unwrap().keys().collect();
        members.sort();
        assert_eq!(members, ["next", "records"], "{filter:?}");
        let (lines, talk) = whole("jsonl", filter).await;
        let records: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(page["records"], Value::Array(records), "{filter:?}");
        let more = !page["next"].is_null();
        assert_eq!(talk.contains("There may be older ones"), more, "{talk}");
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
    let path = |path: &Path| path.to_str().unwrap().to_owned();
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

#[tokio::test]
async fn record_is_proven_to_somebody_who_has_the_public_key_and_the_proof_alone() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama(&model)).await;
    assert!(pawd.pawctl(&["chat", "hello"]).await.status.success());
    pawd.stop().await;
    let mut audit = pawd.audit.take().unwrap();
    audit.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(audit.end().await.success());
    let elsewhere = tempfile::tempdir().unwrap();
    let place = |name: &str| elsewhere.path().join(name).to_str().unwrap().to_owned();
    let (proof, key, witness) = (place("proof"), place("audit.pub"), place("checkpoint"));
    let log = pawd.root.path().join("log");
    fs::copy(log.join("audit.pub"), &key).unwrap();
    fs::copy(log.join("audit.checkpoint"), &witness).unwrap();
    let run = async |words: &[&str]| {
        let output = pawd.pawctl(words).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code().unwrap(), said)
    };
    let (code, said) = run(&["audit", "prove", "2", &proof]).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(&["audit", "prove", "99999"]).await;
    assert!(code == 6 && said.contains("no record 99999"), "{said}");

    // The log is not needed any more.
    fs::rename(&log, elsewhere.path().join("away")).unwrap();
    let verify = ["audit", "verify", "--proof", &proof, "--key", &key];
    let (code, said) = run(&verify).await;
    assert!(
        code == 0 && said.contains("record 2 is in the log"),
        "{said}"
    );
    let (code, said) = run(&[&verify[..], &["-o", "json"]].concat()).await;
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &document["ok"], &document["record"]["seq"]),
        (0, &Value::from(true), &Value::from(2)),
        "{said}"
    );
    // Of those that were kept elsewhere none is the one that it is proven by: the first of all is of no record.
    let first = fs::read_to_string(elsewhere.path().join("away/audit.000001.log")).unwrap();
    let other = place("first");
    fs::write(&other, first.lines().next().unwrap()).unwrap();
    let (code, said) = run(&[&verify[..], &["--witness", &other]].concat()).await;
    assert!(code == 2 && said.contains("--checkpoint N"), "{said}");
    let good = fs::read_to_string(&proof).unwrap();
    fs::write(&proof, good.replacen("\"seq\":2,", "\"seq\":3,", 1)).unwrap();
    let (code, said) = run(&verify).await;
    assert!(code == 1 && said.contains("not what was written"), "{said}");
    // By the one that was kept elsewhere, which is then compared.
    fs::rename(elsewhere.path().join("away"), &log).unwrap();
    let kept: Value = serde_json::from_str(&fs::read_to_string(&witness).unwrap()).unwrap();
    let number = kept["checkpoint"]["n"].to_string();
    let by_it = ["audit", "prove", "2", "--checkpoint", &number];
    let (code, said) = run(&by_it).await;
    assert_eq!(code, 0, "{said}");
    fs::write(&proof, said).unwrap();
    let (code, said) = run(&[&verify[..], &["--witness", &witness]].concat()).await;
    assert!(code == 0 && said.contains("was kept elsewhere"), "{said}");
    let (code, _) = run(&["audit", "verify", "--proof", &proof]).await;
    assert_eq!(code, 2, "a proof without a key is no proof");
}
