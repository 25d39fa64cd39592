//! A target that failed is left alone, looked after, and asked again as soon as it is back.

use std::time::{Duration, Instant};

use harness::{
    Answer, Asking, Model, Pawd, Setup, Step, Trouble, within,
    words::{accepted, finally, refused, rest, tried},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    ErrorKind,
    action::Action,
    provider::{ChatEvent, Provider, ProviderRpcClient, RouteRpcClient},
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use serde_json::{Value, json};

const ROUTE: &str =
    "\n[route.main]\ntargets = [{ provider = \"first\" }, { provider = \"spare\" }]\n";

/// Two models, one for the other, each asked once.
struct Two {
    first: Model,
    spare: Model,
    pawd: Pawd,
}

impl Two {
    async fn start() -> Self {
        let (first, spare) = (Model::start().await, Model::start().await);
        let once = "max_retries = 0\n";
        let setup = Setup::new()
            .first_and_spare(&first, &spare, once)
            .with(ROUTE);
        let pawd = Pawd::start(setup).await;
        Self { first, spare, pawd }
    }
}

async fn begin(client: &Client) -> Subscription<ChatEvent> {
    let route = Some("main".to_owned());
    let begun = Asking::new("hello").route(route).ask(client);
    within("beginning a chat", begun).await.expect("accepted")
}

/// Asks by the route and gives what became of it.
async fn ask(client: &Client) -> Action {
    let mut chat = begin(client).await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    finally(client, &id).await
}

const BY_SPARE: [(&str, &str); 1] = [("spare", "ok")];
const BY_FIRST: [(&str, &str); 1] = [("first", "ok")];

async fn show(client: &Client, name: &str) -> Provider {
    within(
        "showing a provider",
        ProviderRpcClient::show(client, name.into()),
    )
    .await
    .expect("it is there")
}

/// Waits until the breaker of a provider is in this state.
async fn becomes(client: &Client, name: &str, state: &str) {
    let waiting = async { while show(client, name).await.breaker != state {} };
    within(&format!("{name} becoming {state}"), waiting).await;
}

/// Two, of which the first has failed and is not there.
async fn first_is_out() -> (Two, Client) {
    let two = Two::start().await;
    let client = two.pawd.client().await;
    two.first.falls_into(Some(Trouble::Busy));
    let action = ask(&client).await;
    assert_eq!(tried(&action), [("first", "overload"), ("spare", "ok")]);
    becomes(&client, "first", "open").await;
    (two, client)
}

#[tokio::test]
async fn target_that_is_left_alone_is_shown_with_the_time() {
    let (two, client) = first_is_out().await;
    let shown = show(&client, "first").await;
    assert!(shown.breaker_until.is_some(), "{shown:?}");
    let other = show(&client, "spare").await;
    assert_eq!(
        (other.breaker.as_str(), other.breaker_until),
        ("closed", None)
    );
    let routes = RouteRpcClient::list(&client).await.unwrap();
    let targets: Vec<_> = routes[0]
        .targets
        .iter()
        .map(|it| (it.provider.as_str(), it.model.as_str(), it.breaker.as_str()))
        .collect();
    assert_eq!(targets, [("first", "m", "open"), ("spare", "m", "closed")]);
    for (command, name) in [("provider", "first"), ("route", "main")] {
        for arguments in [vec![command, "list"], vec![command, "show", name]] {
            let out = two.pawd.pawctl(&arguments).await;
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(text.contains("open, asked "), "{arguments:?}: {text}");
        }
    }
    let out = two.pawd.pawctl(&["provider", "list", "-o", "json"]).await;
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json[0]["breaker"], "open");
    two.first.falls_into(None);
    let again = async { while tried(&ask(&client).await) != BY_FIRST {} };
    within("the return of the primary", again).await;
    assert_eq!(show(&client, "first").await.breaker, "closed");
}

#[tokio::test]
async fn target_that_is_left_alone_stays_so_after_a_reload_and_a_restart() {
    let (mut two, client) = first_is_out().await;
    let before = two.first.questions();
    two.pawd
        .root
        .write("etc/pawd.d/60-more.toml", "[log]\nlevel = \"debug\"\n");
    ConfigRpcClient::reload(&client).await.unwrap();
    assert_eq!(tried(&ask(&client).await), BY_SPARE);
    drop(client);
    two.pawd.stop().await;
    two.pawd.start_again().await;
    let client = two.pawd.client().await;
    assert_eq!(show(&client, "first").await.breaker, "open");
    assert_eq!(tried(&ask(&client).await), BY_SPARE);
    assert_eq!(two.first.questions(), before);
}

#[tokio::test]
async fn return_of_a_provider_is_seen_by_a_check_and_costs_no_question() {
    let began = Instant::now();
    let (two, client) = first_is_out().await;
    let before = two.first.questions();
    two.first.falls_into(None);
    becomes(&client, "first", "half_open").await;
    assert_eq!(two.first.questions(), before);
    // Without checks nobody would look earlier.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn one_probe_is_under_way_at_a_time() {
    let two = Two::start().await;
    let client = two.pawd.client().await;
    // It fails one question and is there all the while, so it is tried again soon.
    two.first.will(Answer::overload());
    ask(&client).await;
    becomes(&client, "first", "half_open").await;
    let (steps, answer) = Answer::steps();
    two.first.will(answer);
    let asked = two.first.questions();
    let mut probe = begin(&client).await;
    two.first.was_asked(asked + 1).await;
    for _ in 0..5 {
        assert_eq!(tried(&ask(&client).await), BY_SPARE);
    }
    steps.send(Step::End).await.unwrap();
    rest(&mut probe).await;
    assert_eq!(tried(&ask(&client).await), BY_FIRST);
    assert_eq!(show(&client, "first").await.breaker, "closed");
}

#[tokio::test]
async fn probe_that_is_taken_back_is_made_by_the_next_one() {
    let two = Two::start().await;
    let client = two.pawd.client().await;
    two.first.will(Answer::overload());
    ask(&client).await;
    becomes(&client, "first", "half_open").await;
    let (_steps, answer) = Answer::steps();
    two.first.will(answer);
    let asked = two.first.questions();
    let mut probe = begin(&client).await;
    let id = accepted(&mut probe).await;
    two.first.was_asked(asked + 1).await;
    within("unsubscribing", probe.unsubscribe()).await.unwrap();
    finally(&client, &id).await;
    assert_eq!(tried(&ask(&client).await), BY_FIRST);
}

#[tokio::test]
async fn at_most_half_of_a_routes_targets_are_left_alone() {
    let (two, client) = first_is_out().await;
    two.spare.falls_into(Some(Trouble::Busy));
    for _ in 0..4 {
        assert_eq!(tried(&ask(&client).await), [("spare", "overload")]);
    }
    assert_eq!(show(&client, "spare").await.breaker, "closed");
}

/// Refuses, and wants to be left alone for an hour.
fn away_for_an_hour(status: u16) -> Answer {
    let said = json!({"error": {"message": "no", "code": "busy"}}).to_string();
    Answer::Status(status, vec![("retry-after", "3600".into())], said)
}

/// Provider, model and breaker of each target of the route.
async fn breakers(client: &Client) -> Vec<(String, String, String)> {
    let routes = within("listing routes", RouteRpcClient::list(client)).await;
    let targets = routes.unwrap().remove(0).targets;
    let of = targets.into_iter();
    of.map(|it| (it.provider, it.model, it.breaker)).collect()
}

fn words(all: &[(String, String, String)]) -> Vec<(&str, &str, &str)> {
    let of = all.iter();
    of.map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()))
        .collect()
}

#[tokio::test]
async fn model_that_is_busy_keeps_nobody_from_another_one_of_its_provider() {
    let (first, spare) = (Model::start().await, Model::start().await);
    let route = "\n[route.main]\ntargets = [{ provider = \"first\", model = \"a\" }, \
                 { provider = \"first\", model = \"b\" }, { provider = \"spare\" }]\n";
    let once = "max_retries = 0\n";
    let setup = Setup::new()
        .first_and_spare(&first, &spare, once)
        .with(route);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    first.will(away_for_an_hour(503));
    let action = ask(&client).await;
    assert_eq!(tried(&action), [("first", "overload"), ("first", "ok")]);
    for _ in 0..3 {
        let action = ask(&client).await;
        let by: Vec<_> = action.attempts.iter().map(|it| it.model.as_str()).collect();
        assert_eq!((by, tried(&action)), (vec!["b"], BY_FIRST.to_vec()));
    }
    let asked: Vec<_> = first
        .asked()
        .into_iter()
        .filter(|it| it.line.contains("/chat"))
        .map(|it| it.body["model"].clone())
        .collect();
    assert_eq!(asked, ["a", "b", "b", "b", "b"]);
    assert_eq!(spare.questions(), 0);
    assert_eq!(
        words(&breakers(&client).await),
        [
            ("first", "a", "open"),
            ("first", "b", "closed"),
            ("spare", "m", "closed")
        ]
    );
}

/// A pawd with these credentials, which stand for keys of one account each.
async fn with_keys(names: &[&str], setup: Setup) -> Pawd {
    let root = setup.root();
    for name in names {
        let key = format!("etc/credentials/{name}");
        root.write(&key, &format!("sk-{name}"));
        root.mode(&key, 0o400);
        root.give(&key);
    }
    Pawd::start_in(root, setup).await
}

#[tokio::test]
async fn key_that_is_used_up_keeps_nobody_from_the_same_place_with_another_one() {
    let (first, spare) = (Model::start().await, Model::start().await);
    let url = format!("{}/v1", first.url());
    let setup = Setup::new()
        .provider("one", "openai", &url, "max_retries = 0\napi_key_credential = \"one.key\"\n")
        .provider("two", "openai", &url, "max_retries = 0\napi_key_credential = \"two.key\"\n")
        .provider("spare", "ollama", &spare.url(), "max_retries = 0\n")
        .with("\n[route.main]\ntargets = [{ provider = \"one\" }, { provider = \"two\" }, { provider = \"spare\" }]\n");
    let pawd = with_keys(&["one.key", "two.key", "three.key"], setup).await;
    let client = pawd.client().await;
    first.will(away_for_an_hour(429));
    let action = ask(&client).await;
    assert_eq!(tried(&action), [("one", "rate"), ("two", "ok")]);
    assert_eq!(
        words(&breakers(&client).await),
        [
            ("one", "m", "open"),
            ("two", "m", "closed"),
            ("spare", "m", "closed")
        ]
    );
    assert_eq!(tried(&ask(&client).await), [("two", "ok")]);
    // Nor from itself: with another key it is another account.
    let file = "etc/pawd.d/60-key.toml";
    let text = format!(
        "[provider.one]\nkind = \"openai\"\nbase_url = \"{url}\"\nmodel = \"m\"\n\
         max_retries = 0\napi_key_credential = \"three.key\"\n"
    );
    pawd.root.write(file, &text);
    ConfigRpcClient::reload(&client).await.unwrap();
    assert_eq!(tried(&ask(&client).await), [("one", "ok")]);
    assert_eq!(breakers(&client).await[0].2, "closed");
    assert_eq!(spare.questions(), 0);
}

#[tokio::test]
async fn failure_says_who_was_left_alone_and_when_to_ask_again() {
    let (two, client) = first_is_out().await;
    two.spare.falls_into(Some(Trouble::Busy));
    let mut chat = begin(&client).await;
    let events = rest(&mut chat).await;
    let Some(ChatEvent::Failed { message, error, .. }) = events.last() else {
        panic!("{events:?}");
    };
    assert!(
        message.contains("spare") && message.contains("first"),
        "{message}"
    );
    assert!(error.retry_after_ms.is_some_and(|ms| ms > 0), "{error:?}");
}

#[tokio::test]
async fn model_that_loads_is_not_left_alone() {
    let two = Two::start().await;
    let client = two.pawd.client().await;
    let loading =
        json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}});
    for _ in 0..3 {
        two.first
            .will(Answer::Status(503, Vec::new(), loading.to_string()));
        let action = ask(&client).await;
        assert_eq!(tried(&action), [("first", "loading"), ("spare", "ok")]);
    }
    assert_eq!(show(&client, "first").await.breaker, "closed");
    assert_eq!(tried(&ask(&client).await), BY_FIRST);
}

#[tokio::test]
async fn provider_that_is_asked_by_its_name_is_asked_whatever_its_breaker_says() {
    let (two, client) = first_is_out().await;
    let before = two.first.questions();
    let begun = Asking::new("hello")
        .provider("first".to_owned())
        .ask(&client);
    let events = rest(&mut begun.await.unwrap()).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Failed { .. })),
        "{events:?}"
    );
    assert_eq!(two.first.questions(), before + 1);
}

#[tokio::test]
async fn breaker_is_reset_by_an_administrator() {
    let (two, client) = first_is_out().await;
    two.first.falls_into(None);
    let reset = two.pawd.pawctl(&["provider", "reset", "first"]).await;
    assert!(reset.status.success(), "{reset:?}");
    assert_eq!(tried(&ask(&client).await), BY_FIRST);
    let changed = Some("provider_changed".to_owned());
    let records = AuditRpcClient::list(&client, None, changed, None, None).await;
    let text = json!(records.unwrap()).to_string();
    assert!(
        text.contains("\"reset\"") && text.contains("\"first\""),
        "{text}"
    );
    refused(
        ProviderRpcClient::reset(&client, "nobody".into()).await,
        ErrorKind::NotFound,
    );
}

#[tokio::test]
async fn question_that_a_target_stumbles_over_keeps_nobody_else_from_it() {
    let two = Two::start().await;
    let client = two.pawd.client().await;
    // It fails at this question, and is well otherwise.
    let fails = json!({"error": "internal error"}).to_string();
    two.first.will(Answer::Status(500, Vec::new(), fails));
    let action = ask(&client).await;
    assert_eq!(tried(&action), [("first", "overload"), ("spare", "ok")]);
    assert_eq!(show(&client, "first").await.breaker, "closed");
    assert_eq!(tried(&ask(&client).await), BY_FIRST);
}

#[tokio::test]
async fn target_that_moved_is_asked_at_its_new_place_after_a_restart() {
    let (mut two, client) = first_is_out().await;
    drop(client);
    two.pawd.stop().await;
    let moved = Model::start().await;
    let file = "etc/pawd.d/60-first.toml";
    let text = format!(
        "[provider.first]\nkind = \"openai\"\nbase_url = \"{}/v1\"\nmodel = \"m\"\n",
        moved.url()
    );
    two.pawd.root.write(file, &text);
    two.pawd.start_again().await;
    let client = two.pawd.client().await;
    assert_eq!(show(&client, "first").await.breaker, "closed");
    assert_eq!(tried(&ask(&client).await), BY_FIRST);
    assert_eq!(moved.questions(), 1);
}
