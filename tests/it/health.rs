//! Providers are looked at also when nobody talks to them, and what was seen of them is in the list.

use harness::{
    Answer, Asking, Check, Model, Pawd, Setup,
    words::{rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    provider::{ChatEvent, Provider, ProviderRpcClient},
    system::ConfigRpcClient,
};
use serde_json::json;

/// Often enough for a test; the least that can be configured.
const OFTEN: &str = "check_interval = \"1s\"\nmax_retries = 0\n";

fn setup(model: &Model) -> Setup {
    Setup::new().ollama_with(model, OFTEN)
}

async fn listed(client: &Client, name: &str) -> Provider {
    let all = ProviderRpcClient::list(client).await.unwrap();
    let found = all.iter().find(|it| it.name == name);
    found.unwrap_or_else(|| panic!("{all:?}")).clone()
}

/// Waits for a check that begins from now on and the one after it, so that the first has been noted.
async fn looked_at(model: &Model) {
    model.was_checked(model.checks() + 2).await;
}

#[tokio::test]
async fn provider_that_nobody_asks_is_seen_to_fail_and_to_be_back() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    // Whoever is well is looked at once in a while only; whoever is not, at each check.
    model.says_of_itself(Check::Status(500, "{\"error\": \"out of memory\"}".into()));
    looked_at(&model).await;
    let failing = listed(&client, "local").await;
    assert_eq!(failing.state, "failing", "{failing:?}");
    let error = failing.last_error.unwrap();
    assert!(error.contains("out of memory"), "{error}");
    assert!(failing.last_error_at.is_some());

    model.says_of_itself(Check::Good);
    looked_at(&model).await;
    let back = listed(&client, "local").await;
    assert_eq!(back.state, "ready", "{back:?}");
    assert!(
        back.seen_at > failing.last_error_at && back.last_error.is_some(),
        "what it failed with is still told: {back:?}"
    );
}

#[tokio::test]
async fn provider_that_loads_its_model_is_no_outage() {
    let model = Model::start().await;
    let loading =
        json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}});
    model.says_of_itself(Check::Status(503, loading.to_string()));
    let pawd = Pawd::start(setup(&model)).await;
    looked_at(&model).await;
    let seen = listed(&pawd.client().await, "local").await;
    assert_eq!(
        (seen.state.as_str(), &seen.last_error),
        ("loading", &None),
        "{seen:?}"
    );
    assert!(seen.seen_at.is_some());
}

#[tokio::test]
async fn one_check_at_a_time_delays_no_chat_and_no_stop() {
    let (silent, clock) = (Model::start().await, Model::start().await);
    silent.says_of_itself(Check::Silence);
    clock.says_of_itself(Check::Status(500, "{}".into()));
    let setup = setup(&silent)
        .provider("clock", "ollama", &clock.url(), OFTEN)
        .with("\n[agent.other]\nprovider = \"local\"\n");
    let mut pawd = Pawd::start(setup).await;
    silent.was_checked(1).await;
    // By now the silent one would have been asked again more than once.
    clock.was_checked(4).await;
    assert_eq!(silent.checks(), 1);

    let client = pawd.client().await;
    let chat = Asking::new("hello").agent("other".to_owned()).ask(&client);
    let events = rest(&mut chat.await.unwrap()).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(_))),
        "{events:?}"
    );
    assert_eq!(pawd.stop().await, 0);
}

#[tokio::test]
async fn provider_that_comes_with_a_reload_is_looked_at() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    // The port of the first one: no other may be connected to before a restart.
    pawd.root.write(
        "etc/pawd.d/60-more.toml",
        &format!(
            "default_provider = \"local\"\n[provider.more]\nkind = \"openai\"\nbase_url = \"{}\"\nmodel = \"m\"\n{OFTEN}",
            model.url()
        ),
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    model.was_asked_for("GET /v1/models").await;
}

#[tokio::test]
async fn reload_forgets_nothing_of_a_provider_that_stays() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    rest(&mut say(&client, "hello").await).await;
    ConfigRpcClient::reload(&client).await.unwrap();
    let seen = listed(&client, "local").await;
    assert_eq!(seen.latency.map(|it| it.answers), Some(1), "{seen:?}");
}

#[tokio::test]
async fn how_long_answers_take_is_in_the_list() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    assert_eq!(listed(&client, "local").await.latency, None);
    model.will(Answer::says(&["a", "b"]));
    model.will(Answer::cut(&["half"]));
    for _ in 0..2 {
        rest(&mut say(&client, "hello").await).await;
    }
    let latency = listed(&client, "local").await.latency.unwrap();
    let first = latency.first_token_ms.unwrap();
    // The one that broke off is none.
    assert_eq!(latency.answers, 1);
    assert!(
        first.p50 <= latency.total_ms.p50 && first.p50 <= first.p95,
        "{latency:?}"
    );
    let shown = pawd.pawctl(&["provider", "list"]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("FIRST TOKEN") && shown.contains(" / "),
        "{shown}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_not_held_against_the_provider() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    let refusal = json!({"error": "exceed_context_size: my secret question"});
    model.will(Answer::Status(400, Vec::new(), refusal.to_string()));
    rest(&mut say(&client, "hello").await).await;
    let seen = listed(&client, "local").await;
    assert_eq!(
        (seen.state.as_str(), &seen.last_error),
        ("ready", &None),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_a_provider_quotes_of_a_question_is_told_to_nobody_else() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    for status in [401, 429, 503] {
        let refusal = json!({"error": {"message": "not now: my secret question"}});
        model.will(Answer::Status(status, Vec::new(), refusal.to_string()));
        let told = rest(&mut say(&client, "my secret question").await).await;
        let seen = listed(&client, "local").await;
        let error = seen.last_error.unwrap();
        assert!(!error.contains("secret"), "{error}");
        assert!(error.starts_with("the provider"), "{error}: {told:?}");
    }
}
