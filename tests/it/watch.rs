//! `pawctl approval watch` at a terminal: a key answers what is on the screen, and nothing else.

use std::process::Stdio;

use harness::{ANSWERS_ALL, Pawd, Setup, stage, within};
use paw_api::action::ApprovalRpcClient;
use paw_policy::State;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdout, Command},
};

use harness::words::{ask_to_write, call, finally, show};

/// So many characters of a digest are typed for what is critical.
const TYPED: usize = 6;

/// A watch at a terminal of its own, which `script` makes.
fn watch(pawd: &Pawd) -> Child {
    let program = stage::program("pawctl");
    let line = format!(
        "{} --root {} --no-color approval watch",
        program.display(),
        pawd.root.path().display()
    );
    let mut command = Command::new("script");
    command.args([
        "--quiet",
        "--return",
        "--flush",
        "--command",
        &line,
        "/dev/null",
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().expect("script is part of util-linux")
}

/// Reads until the screen has said this.
async fn until(screen: &mut ChildStdout, said: &mut String, words: &str) {
    let seen = async {
        let mut bytes = [0; 4096];
        while !said.contains(words) {
            let read = screen.read(&mut bytes).await.expect("it can be read");
            assert!(read > 0, "it ended before it said {words:?}: {said}");
            said.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    };
    within("what the screen says", seen).await;
    // What follows is looked for in what comes after.
    let at = said.find(words).expect("it was just found") + words.len();
    *said = said.split_off(at);
}

#[tokio::test]
async fn key_answers_what_is_on_the_screen_and_nothing_that_comes_later() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let first = ask_to_write(&client, "one.txt", "1").await;
    let second = ask_to_write(&client, "two.txt", "2").await;
    let mut watching = watch(&pawd);
    let (mut keys, mut screen) = (
        watching.stdin.take().unwrap(),
        watching.stdout.take().unwrap(),
    );
    let mut said = String::new();
    until(&mut screen, &mut said, &first.digest.to_string()).await;
    until(&mut screen, &mut said, "[y/d/n/q]").await;
    // Two of them were typed before the second question was there.
    keys.write_all(b"yyy").await.unwrap();
    until(&mut screen, &mut said, "approve: done").await;
    assert_eq!(finally(&client, &first.id).await.state, State::Completed);
    until(&mut screen, &mut said, &second.digest.to_string()).await;
    until(&mut screen, &mut said, "[y/d/n/q]").await;
    assert_eq!(
        show(&client, &second.id).await.state,
        State::WaitingApproval
    );

    // Not now, and then one that comes while it watches.
    keys.write_all(b"n").await.unwrap();
    until(&mut screen, &mut said, "not now").await;
    let third = ask_to_write(&client, "three.txt", "3").await;
    until(&mut screen, &mut said, &third.digest.to_string()).await;
    until(&mut screen, &mut said, "[y/d/n/q]").await;
    keys.write_all(b"d").await.unwrap();
    until(&mut screen, &mut said, "deny: done").await;
    assert_eq!(finally(&client, &third.id).await.state, State::Rejected);
    keys.write_all(b"q").await.unwrap();
    assert!(within("its end", watching.wait()).await.unwrap().success());
    let asked = within("listing", ApprovalRpcClient::list(&client, None, None))
        .await
        .unwrap();
    assert_eq!(asked.len(), 1, "what was put off waits still");
    assert_eq!(asked[0].id, second.id);
}

/// What a person typed and took back is as if they had never typed it, by either key that a terminal sends for that.
#[tokio::test]
async fn what_is_typed_to_approve_what_is_critical_can_be_taken_back() {
    let setup = Setup::new();
    let root = setup.root();
    root.write("etc/policy/60-critical.cedar", ANSWERS_ALL);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let critical = call(&client, "read", json!({"path": "../x"})).await;
    assert_eq!(critical.state, State::WaitingApproval, "{critical:?}");
    let mut watching = watch(&pawd);
    let (mut keys, mut screen) = (
        watching.stdin.take().unwrap(),
        watching.stdout.take().unwrap(),
    );
    let mut said = String::new();
    until(&mut screen, &mut said, "[y/d/n/q]").await;
    keys.write_all(b"y").await.unwrap();
    until(&mut screen, &mut said, "of its digest:").await;
    let digest = critical.digest.to_string();
    let (first, others) = digest[..TYPED].split_at(1);
    // Of nothing, nothing is taken back.
    let typed = format!("\u{8}zz\u{7f}\u{8}{first}z\u{8}{others}z\u{7f}\r");
    keys.write_all(typed.as_bytes()).await.unwrap();
    until(&mut screen, &mut said, "one-time code").await;
    keys.write_all(b"\r").await.unwrap();
    until(&mut screen, &mut said, "approve: done").await;
    let ended = finally(&client, &critical.id).await;
    assert!(ended.approved_by.is_some(), "{ended:?}");
}
