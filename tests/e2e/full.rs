//! A disk that is full. That of the state: what cannot be stored is not accepted, and the log says how it ended. That of the log:
//! nothing that needs a record is done, everybody is told, and it heals by itself.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{
    ANSWERS_ALL, cases,
    openmetrics::Exposition,
    report::Case,
    standalone::Standalone,
    within,
    words::{answer, ask_to_write, finally, object, refused},
};
use jsonrpsee::async_client::Client;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, Answer, ApprovalRpcClient},
    agent::SkillRpcClient,
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    system::SystemRpcClient,
    trail::AuditRpcClient,
};
use paw_policy::State;
use serde_json::{Value, json};

use crate::{needs::install, without_sandboxes};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        action_that_does_not_fit_on_the_disk_is_refused_and_its_end_is_in_the_log,
        log_that_has_no_room_stops_what_needs_a_record_and_says_so_until_there_is_some,
        what_began_before_the_log_had_no_room_ends_on_record,
        what_has_happened_has_its_place_in_a_log_that_has_no_room,
    ]
}

/// A disk of its own in the place of a directory, with what the directory had; it is gone when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(dir: &Path) -> Self {
        let aside = dir.with_extension("aside");
        copy(dir, &aside);
        let options = Some("size=64m,mode=0700");
        let none = MsFlags::empty();
        mount(Some("state"), dir, Some("tmpfs"), none, options).expect("root may mount");
        let disk = Self(dir.to_owned());
        let owner = Command::new("chown")
            .arg("--reference")
            .args([&aside, dir])
            .status();
        assert!(owner.expect("it starts").success());
        for entry in fs::read_dir(&aside).expect("it was copied").flatten() {
            copy(&entry.path(), &dir.join(entry.file_name()));
        }
        fs::remove_dir_all(aside).expect("it is ours");
        disk
    }

    /// Takes all the room that is left; it comes back when the file is removed.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).expect("root may write");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever has something open there goes on with it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(done.expect("it starts").success(), "{from:?} to {to:?}");
}

/// A write of so many bytes.
fn write(bytes: usize) -> serde_json::Map<String, Value> {
    let arguments = json!({"path": "note.txt", "text": "x".repeat(bytes)});
    object(json!({"skill": "files", "tool": "write", "arguments": arguments}))
}

async fn action_that_does_not_fit_on_the_disk_is_refused_and_its_end_is_in_the_log() {
    let mut system = Standalone::start("").await;
    system.stop().await;
    let disk = Disk::at(&system.root.path().join("state"));
    system.start_again().await;
    let client = system.client().await;
    let filler = disk.fill();
    let asked = client.submit("tool_call".into(), write(60_000), None, None, None, None);
    let asked = within("an answer", asked).await;
    refused(asked, ErrorKind::Unavailable);
    fs::remove_file(filler).expect("it is ours");
    // It was in the log before it was to be stored, so its end is there, too.
    let listed = AuditRpcClient::list(&client, None, None, None, None);
    let records = within("the log", listed).await.expect("root may read it");
    let told: Vec<(&Value, &Value, &Value)> = records
        .iter()
        .map(|record| &record["entry"])
        .filter(|entry| entry["kind"] == "tool_call")
        .map(|entry| (&entry["event"], &entry["outcome"], &entry["action"]))
        .collect();
    let [(ended, failed, id), (judged, waits, same)] = told[..] else {
        panic!("not two records: {told:?}");
    };
    assert_eq!(
        (ended, failed, judged, waits),
        (
            &json!("action_ended"),
            &json!("failed"),
            &json!("action_judged"),
            &json!("waiting_approval")
        )
    );
    assert_eq!(id, same);
    // Nobody can approve what was not accepted, and nobody finds it.
    let id = id.as_str().expect("a text").to_owned();
    let shown = within("an action", ActionRpcClient::show(&client, id)).await;
    refused(shown, ErrorKind::NotFound);
    let open = within("questions", ApprovalRpcClient::list(&client, None, None)).await;
    assert!(open.expect("it answers").is_empty());
    // With room it goes on as ever.
    let asked = ask_to_write(&client, "note.txt", "remember the milk").await;
    answer(&client, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it may be approved");
    let written = finally(&client, &asked.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
}

/// Whether status, doctor and the metrics say that the log can be written; they agree.
async fn log_is_well(client: &Client) -> bool {
    let status = within("status", SystemRpcClient::status(client)).await;
    let status = status.expect("it answers");
    let told = |text: &String| text.contains("the audit log cannot be written");
    let well = !status.problems.iter().any(told);
    assert_eq!((status.audit.writable, status.ready), (well, well));
    let doctor = within("doctor", client.doctor(None)).await;
    let findings = doctor.expect("it answers").findings;
    let found = findings.iter().any(|it| it.id == "audit.absent");
    assert_eq!(found, !well, "{findings:?}");
    let metrics = within("metrics", SystemRpcClient::metrics(client)).await;
    let metrics = Exposition::read(&metrics.expect("it answers").text);
    for name in ["paw_audit_writable", "paw_ready"] {
        let expected = if well { 1.0 } else { 0.0 };
        assert_eq!(metrics.value(name, &[]), expected, "{name}");
    }
    well
}

async fn log_that_has_no_room_stops_what_needs_a_record_and_says_so_until_there_is_some() {
    let mut system = Standalone::start("").await;
    system.stop().await;
    let disk = Disk::at(&system.root.path().join("log"));
    system.start_again().await;
    let client = system.client().await;
    let mut questions = Vec::new();
    for number in 0..9 {
        let name = format!("note-{number}.txt");
        questions.push(ask_to_write(&client, &name, "remember the milk").await);
    }
    assert!(log_is_well(&client).await);
    let filler = disk.fill();
    // What a person allows is not done while nobody can write down that they did, nor that it begins. Before what is kept for ends,
    // there is a page.
    let (mut taken, mut held) = (Vec::new(), None);
    for asked in questions {
        match answer(&client, &asked.id, asked.digest, Answer::Approve).await {
            Ok(_) => taken.push(asked),
            Err(error) => {
                let why = refused::<()>(Err(error), ErrorKind::Unavailable);
                assert!(why.hint.contains("free space"), "{why:?}");
                held = Some(asked);
                break;
            }
        }
    }
    let asked = held.expect("the log is full before nine answers are in it");
    let mut done = Vec::new();
    for (number, taken) in taken.iter().enumerate() {
        let ended = finally(&client, &taken.id).await;
        if ended.state == State::Completed {
            done.push(number);
        } else {
            assert_eq!(ended.state, State::Failed, "{ended:?}");
            let why = ended.error.as_ref().map(|error| error.kind.as_str());
            assert_eq!(why, Some("unavailable"), "{ended:?}");
        }
    }
    // The first ones have room to begin, and behind the first that has none there is none.
    assert!(done.iter().copied().eq(0..done.len()), "{done:?}");
    // How those ended is on record, and is no room for anything new.
    for taken in &taken {
        assert_eq!(ended(&client, &taken.id).await, 1, "{taken:?}");
    }
    let another = client.submit("tool_call".into(), write(1), None, None, None, None);
    refused(within("an answer", another).await, ErrorKind::Unavailable);
    assert!(!log_is_well(&client).await);
    let same = harness::words::show(&client, &asked.id).await;
    assert_eq!(same.state, State::WaitingApproval, "{same:?}");
    let workspace = system.root.path().join("launcher/workspaces/default");
    let found = Command::new("find").arg(&workspace).output();
    let found = found.expect("it starts").stdout;
    let found = String::from_utf8_lossy(&found).into_owned();
    for number in 0..9 {
        let there = found.contains(&format!("note-{number}.txt"));
        assert_eq!(there, done.contains(&number), "{number}: {found}");
    }
    let output = system.pawctl(&["status"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("the audit log cannot be written"), "{said}");
    // With room it goes on, and nobody has to be started again.
    let before = system.processes().await;
    fs::remove_file(filler).expect("it is ours");
    // That is found out by nobody's asking for anything.
    let ready = async {
        while !SystemRpcClient::status(&client)
            .await
            .expect("it answers")
            .ready
        {}
    };
    within("room that is found", ready).await;
    assert!(log_is_well(&client).await);
    answer(&client, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it may be approved");
    let written = finally(&client, &asked.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    assert!(log_is_well(&client).await);
    assert_eq!(system.processes().await, before);
    let verified = within("verifying", AuditRpcClient::verify(&client)).await;
    let verified = verified.expect("root may");
    assert!(verified.ok, "{verified:?}");
}

/// Takes all the room of the log, until pawd knows; it comes back when the file is removed.
async fn fill(disk: &Disk, client: &Client) -> PathBuf {
    let filler = disk.fill();
    let mut submitted = 0;
    while client
        .submit("tool_call".into(), write(1), None, None, None, None)
        .await
        .is_ok()
    {
        submitted += 1;
        assert!(submitted < 100, "the disk never became full");
    }
    assert!(!log_is_well(client).await);
    filler
}

/// How often it is on record that this action ended.
async fn ended(client: &Client, action: &str) -> usize {
    ends(client, Some(action.to_owned())).await
}

/// How often it is on record that an action ended, this one or any.
async fn ends(client: &Client, action: Option<String>) -> usize {
    let event = Some("action_ended".to_owned());
    let listed = AuditRpcClient::list(client, action, event, None, None);
    let listed = within("the log", listed).await;
    listed.expect("root may read it").len()
}

async fn what_began_before_the_log_had_no_room_ends_on_record() {
    let mut system = Standalone::start("").await;
    system.stop().await;
    let disk = Disk::at(&system.root.path().join("log"));
    system.start_again().await;
    let client = system.client().await;
    let spec = json!({"argv": ["sh", "-c", "read word"], "stdin": true});
    let spec: RunSpec = serde_json::from_value(spec).expect("every other member may be left out");
    let begun = within("beginning a run", SandboxRpcClient::run(&client, spec)).await;
    let mut heard = begun.expect("it is accepted");
    let mut next = async || {
        let event = within("the next event of a run", heard.next()).await;
        event.expect("it goes on").expect("it can be read")
    };
    let action = loop {
        match next().await {
            RunEvent::Started { action_id, .. } => break action_id,
            RunEvent::Waiting { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let filler = fill(&disk, &client).await;
    // What is refused takes nothing of the room that is kept for the end of what was begun.
    for _ in 0..200 {
        let another = client.submit("tool_call".into(), write(1), None, None, None, None);
        refused(another.await, ErrorKind::Unavailable);
    }
    assert_eq!(ends(&client, None).await, 0);
    let word = client.input(action.clone(), None, Some(true));
    within("input", word).await.expect("it is taken");
    let RunEvent::Ended(result) = next().await else {
        panic!("it has not ended");
    };
    assert!(result.exit_code.is_some(), "{result:?}");
    finally(&client, &action).await;
    assert_eq!(ended(&client, &action).await, 1);
    assert!(
        !log_is_well(&client).await,
        "there is no more room than before"
    );
    fs::remove_file(filler).expect("it is ours");
    ask_to_write(&client, "note.txt", "remember the milk").await;
    assert!(log_is_well(&client).await);
    let verified = within("verifying", AuditRpcClient::verify(&client)).await;
    let verified = verified.expect("root may");
    assert!(verified.ok, "{verified:?}");
}

/// A skill whose files were touched is disabled whether or not that can be written down, so it has happened; what is about to happen
/// does not.
async fn what_has_happened_has_its_place_in_a_log_that_has_no_room() {
    let files = [("etc/policy/60-critical.cedar", ANSWERS_ALL)];
    let mut system = Standalone::start_with("", false, &files).await;
    install(&system, &system.client().await, "post", "").await;
    system.stop().await;
    let disk = Disk::at(&system.root.path().join("log"));
    system.start_again().await;
    let client = system.client().await;
    let changes = async || {
        let event = Some("skill_changed".to_owned());
        let listed = AuditRpcClient::list(&client, None, event, None, None);
        let listed = within("the log", listed).await;
        let all = listed.expect("root may read it");
        let change = |record: &Value| record["entry"]["detail"]["change"].clone();
        all.iter().map(change).collect::<Vec<_>>()
    };
    let before = changes().await;
    fill(&disk, &client).await;
    let skill = SkillRpcClient::show(&client, "post".into()).await;
    let digest = skill.expect("it is installed").digest.to_string();
    let tree = system.root.path().join("skills/trees").join(digest);
    fs::write(tree.join("server.sh"), "echo owned\n").expect("root may write");
    let verified = system.pawctl(&["skill", "verify", "post"]).await;
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let another = client.submit("tool_call".into(), write(1), None, None, None, None);
    refused(within("an answer", another).await, ErrorKind::Unavailable);
    let expected: Vec<Value> = [json!("drifted")].into_iter().chain(before).collect();
    assert_eq!(changes().await, expected);
}
