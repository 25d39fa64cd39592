//! How pawd behaves towards the service manager: ready, reloading, alive, stopping.

use std::fs;

use harness::{Answer, Model, Pawd, Setup, Step, within};
use nix::sys::signal::Signal;
use paw_api::{
    ErrorKind, provider::ChatEvent, provider::ProviderRpcClient, system::ConfigRpcClient,
    system::SystemRpcClient,
};
use paw_policy::State;

use harness::words::{accepted, next, refused, rest, say, show};

#[tokio::test]
async fn ready_comes_with_a_status_and_an_answering_socket() {
    let pawd = Pawd::start(Setup::new()).await;
    assert!(
        pawd.notify
            .all()
            .iter()
            .any(|line| line.starts_with("STATUS=") && line.len() > 8),
        "{:?}",
        pawd.notify.all()
    );
    // No retry: ready means ready.
    let client = pawd.client().await;
    assert_eq!(client.ping().await.unwrap(), "pong");
    let status = within("status", client.status()).await.unwrap();
    assert!(status.ready && status.audit.writable, "{status:?}");
    assert!(
        status.processes.iter().any(|process| process.name == "pawd"
            && i64::from(process.pid) == i64::from(pawd.daemon.pid()))
    );
}

#[tokio::test]
async fn watchdog_is_fed_by_the_daemon() {
    let pawd = Pawd::start(Setup::new().watchdog_us(400_000)).await;
    for _ in 0..3 {
        pawd.notify.hears("WATCHDOG=1").await;
    }
}

#[tokio::test]
async fn good_configuration_takes_effect_on_hangup() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let text = fs::read_to_string(pawd.root.path().join("etc/pawd.toml")).unwrap();
    pawd.root.write(
        "etc/pawd.toml",
        &text.replace("provider.local", "provider.renamed"),
    );
    pawd.daemon.signal(Signal::SIGHUP);
    let line = pawd.notify.hears("RELOADING=1").await;
    assert_eq!(line, "RELOADING=1");
    pawd.notify.hears("READY=1").await;
    let names: Vec<String> = ProviderRpcClient::list(&client)
        .await
        .unwrap()
        .into_iter()
        .map(|provider| provider.name)
        .collect();
    assert_eq!(names, ["renamed"]);
    assert!(
        pawd.notify
            .all()
            .iter()
            .any(|line| line.starts_with("MONOTONIC_USEC=")),
        "{:?}",
        pawd.notify.all()
    );
}

#[tokio::test]
async fn bad_configuration_changes_nothing() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let before = ConfigRpcClient::show(&client).await.unwrap();
    let text = fs::read_to_string(pawd.root.path().join("etc/pawd.toml")).unwrap();
    pawd.root.write(
        "etc/pawd.toml",
        &format!("{text}\n[log]\nlevel = \"shouting\"\n"),
    );
    refused(client.reload().await, ErrorKind::Invalid);
    pawd.daemon.signal(Signal::SIGHUP);
    pawd.notify.hears("RELOADING=1").await;
    pawd.notify.hears("READY=1").await;
    assert_eq!(ConfigRpcClient::show(&client).await.unwrap(), before);
    let events = rest(&mut say(&client, "hello").await).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(_))),
        "{events:?}"
    );
}

#[tokio::test]
async fn stop_lets_what_is_being_done_come_to_its_end() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    steps.send(Step::Piece("almost".into())).await.unwrap();
    next(&mut chat).await;
    pawd.daemon.signal(Signal::SIGTERM);
    pawd.notify.hears("STOPPING=1").await;
    steps.send(Step::Piece(" done".into())).await.unwrap();
    steps.send(Step::End).await.unwrap();
    let events = rest(&mut chat).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(result)) if result.text == "almost done"),
        "{events:?}"
    );
    assert_eq!(pawd.daemon.refused().await.0, 0);
    pawd.start_again().await;
    assert_eq!(
        show(&pawd.client().await, &id).await.state,
        State::Completed
    );
}

#[tokio::test]
async fn stop_does_not_wait_beyond_its_deadline() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(
        Setup::new()
            .ollama(&model)
            .with("\n[actions]\ndrain = \"1s\"\n"),
    )
    .await;
    let client = pawd.client().await;
    let (_steps, silent) = Answer::steps();
    model.will(silent);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    model.was_asked(1).await;
    assert_eq!(pawd.stop().await, 0);
    pawd.start_again().await;
    let action = show(&pawd.client().await, &id).await;
    assert_eq!(
        (action.state, action.error.unwrap().kind.as_str()),
        (State::Failed, "interrupted")
    );
}

#[tokio::test]
async fn idle_daemon_stops_at_once_with_code_zero() {
    let mut pawd = Pawd::start(Setup::new()).await;
    assert_eq!(pawd.stop().await, 0);
    assert!(
        pawd.notify.all().is_empty()
            || !pawd.root.control().exists()
            || std::os::unix::net::UnixStream::connect(pawd.root.control()).is_err()
    );
}
