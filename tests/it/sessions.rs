//! Conversations: what is kept of them, and what of them is forgotten.

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, Step, within,
    words::{accepted, done, rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    action::ActionRpcClient,
    agent::{Session, SessionRpcClient},
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use serde_json::Value;

async fn listed(client: &Client) -> Vec<Session> {
    let page = SessionRpcClient::list(client, Some(1_000), None);
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
