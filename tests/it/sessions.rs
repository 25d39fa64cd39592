//! Conversations: what is kept of them, and what of them is forgotten.

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, Step, within,
    words::{accepted, done, finally, rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    action::ActionRpcClient,
    agent::{Session, SessionRpcClient},
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use paw_store::{Batch, OpenOptions, Store};
use serde_json::Value;

async fn listed(client: &Client) -> Vec<Session> {
    let page = SessionRpcClient::list(client, Some(1_000), None, None);
    within("listing conversations", page).await.unwrap().items
}

/// One conversation; gives its id, and that of its chat.
async fn talk(client: &Client, model: &Model, text: &str) -> (String, String) {
    model.will(Says::says(&["yes"]));
    let mut chat = say(client, text).await;
    let action = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    (done(&events).session.clone(), action)
}

async fn log(client: &Client) -> String {
    let log = AuditRpcClient::list(client, None, None, None, Some(1_000));
    Value::Array(within("the log", log).await.unwrap()).to_string()
}

/// Waits until so many are left. Each look writes nothing, so the news of what is done are waited for: here the next conversations.
async fn becomes(client: &Client, count: usize) -> Vec<Session> {
    let mut often = tokio::time::interval(std::time::Duration::from_millis(50));
    let left = async {
        loop {
            often.tick().await;
            let left = listed(client).await;
            if left.len() == count {
                return left;
            }
        }
    };
    within("what is more is forgotten", left).await
}

#[tokio::test]
async fn oldest_conversations_beyond_those_that_are_kept_are_forgotten_on_record() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (oldest, chat) = talk(&client, &model, "one").await;
    let (second, _) = talk(&client, &model, "two").await;
    let (third, _) = talk(&client, &model, "three").await;
    assert_eq!(listed(&client).await.len(), 3);
    // Spoken in last, the oldest is none of those that go.
    model.will(Says::says(&["again"]));
    let again = Asking::new("once more")
        .session(oldest.clone())
        .ask(&client);
    let mut again = within("a chat", again).await.unwrap();
    rest(&mut again).await;

    pawd.root
        .write("etc/pawd.d/50-sessions.toml", "[sessions]\nkeep = 2\n");
    within("reloading", ConfigRpcClient::reload(&client))
        .await
        .unwrap();
    let left = becomes(&client, 2).await;
    let left: Vec<&str> = left.iter().map(|session| session.id.as_str()).collect();
    assert!(
        left.contains(&&*oldest) && left.contains(&&*third),
        "{left:?}"
    );
    let log = log(&client).await;
    assert!(
        log.contains("session_deleted") && log.contains("more than are kept"),
        "{log}"
    );
    assert!(log.contains(&second), "{log}");
    // What was done in it is still there.
    let shown = ActionRpcClient::show(&client, chat);
    assert!(within("showing", shown).await.is_ok());
}

#[tokio::test]
async fn conversation_in_which_something_is_under_way_is_not_forgotten() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (steps, silent) = Says::steps();
    model.will(silent);
    let mut waits = say(&client, "the oldest").await;
    accepted(&mut waits).await;
    model.was_asked(1).await;
    let (second, _) = talk(&client, &model, "two").await;
    talk(&client, &model, "three").await;
    pawd.root
        .write("etc/pawd.d/50-sessions.toml", "[sessions]\nkeep = 1\n");
    within("reloading", ConfigRpcClient::reload(&client))
        .await
        .unwrap();
    let left = becomes(&client, 2).await;
    assert!(left.iter().all(|session| session.id != second), "{left:?}");
    steps.send(Step::Piece("still here".into())).await.unwrap();
    steps.send(Step::End).await.unwrap();
    let events = rest(&mut waits).await;
    assert_eq!(done(&events).text, "still here");
}

#[tokio::test]
async fn conversation_that_was_spoken_in_too_long_ago_is_forgotten() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (old, _) = talk(&client, &model, "one").await;
    let (older, _) = talk(&client, &model, "two").await;
    let (new, _) = talk(&client, &model, "three").await;
    pawd.daemon.kill9().await;
    {
        // Time passed: nearly two days for one, a little more than that for the other.
        let path = pawd.root.path().join("state/pawd.redb");
        let store = Store::open(&path, OpenOptions::new("test")).unwrap();
        let mut batch = Batch::new();
        for (id, hours) in [(&old, 47), (&older, 49)] {
            let mut record = store.session(id.parse().unwrap()).unwrap().unwrap();
            record.updated_ms -= hours * 3_600_000;
            batch.put_session(&record).unwrap();
        }
        store.commit(&batch).unwrap();
    }
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(
        listed(&client).await.len(),
        3,
        "without a bound nothing is too old"
    );
    pawd.root
        .write("etc/pawd.d/50-sessions.toml", "[sessions]\ndays = 2\n");
    within("reloading", ConfigRpcClient::reload(&client))
        .await
        .unwrap();
    let left = becomes(&client, 2).await;
    let left: Vec<&str> = left.iter().map(|session| session.id.as_str()).collect();
    assert!(left.contains(&&*old) && left.contains(&&*new), "{left:?}");
    let log = log(&client).await;
    assert!(
        log.contains("older than is kept") && log.contains(&older),
        "{log}"
    );
}

/// What is deleted stays deleted, also where a turn goes on in it.
#[tokio::test]
async fn conversation_that_is_deleted_while_a_turn_goes_on_is_not_there_again() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (steps, held) = Says::steps();
    model.will(held);
    let mut chat = say(&client, "one").await;
    let id = accepted(&mut chat).await;
    model.was_asked(1).await;
    let session = listed(&client).await.remove(0).id;
    let deleted = SessionRpcClient::delete(&client, session.clone());
    assert!(within("deleting", deleted).await.unwrap());
    steps.send(Step::Piece("yes".into())).await.unwrap();
    steps.send(Step::End).await.unwrap();
    rest(&mut chat).await;
    finally(&client, &id).await;
    assert_eq!(listed(&client).await, []);
    assert!(
        SessionRpcClient::show(&client, session, None)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn conversations_that_are_too_long_together_are_forgotten() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    for number in 0..20 {
        talk(&client, &model, &format!("{number} {}", "x".repeat(65_300))).await;
    }
    let last = listed(&client).await.remove(0);
    pawd.root.write(
        "etc/pawd.d/50-sessions.toml",
        "[sessions]\nbytes = 1048576\n",
    );
    within("reloading", ConfigRpcClient::reload(&client))
        .await
        .unwrap();
    let left = becomes(&client, 15).await;
    assert!(left.iter().any(|session| session.id == last.id));
    let log = log(&client).await;
    assert!(log.contains("longer together than is kept"), "{log}");
}
