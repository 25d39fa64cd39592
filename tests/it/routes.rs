//! Targets that stand in for each other: who is asked when one fails, what is never passed on, and what the record says of it.

use harness::{
    Answer, Asking, Model, Pawd, Setup, Step, within,
    words::{accepted, done, finally, object, refused, rest, say, show, tried},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient},
    agent::SessionRpcClient,
    provider::{ChatEvent, ProviderRpcClient, ProviderSpec},
    system::ConfigRpcClient,
};
use paw_policy::State;
use serde_json::{Value, json};

const IN_ORDER: &str =
    "\n[route.main]\ntargets = [{ provider = \"first\" }, { provider = \"spare\" }]\n";

/// Two models on this host, one for the other.
struct Two {
    first: Model,
    spare: Model,
}

impl Two {
    async fn start() -> Self {
        Self {
            first: Model::start().await,
            spare: Model::start().await,
        }
    }

    /// With these lines for a route, and more for each provider.
    fn setup(&self, route: &str, more: &str) -> Setup {
        Setup::new()
            .first_and_spare(&self.first, &self.spare, more)
            .with(route)
    }
}

/// `here` on this host and `away` elsewhere.
fn here_and_away(here: &Model, away: &Model, route: &str) -> Setup {
    Setup::new().here_and_away(here, away, "").with(route)
}

/// The one on this host first, always; the other one may follow it, if the route may leave the host.
fn from_here(may_leave_host: bool) -> String {
    format!(
        "\n[route.main]\nselect = \"weight\"\nmay_leave_host = {may_leave_host}\n\
         targets = [{{ provider = \"here\" }}, {{ provider = \"away\", weight = 0 }}]\n"
    )
}

async fn ask_by(client: &Client, route: &str, session: Option<String>) -> Subscription<ChatEvent> {
    let route = Some(route.to_owned());
    let begun = Asking::new("hello")
        .session(session)
        .route(route)
        .ask(client);
    within("beginning a chat", begun).await.expect("accepted")
}

/// Asks by the route `main` and gives its events and its record.
async fn ask(client: &Client) -> (Vec<ChatEvent>, Action) {
    let mut chat = ask_by(client, "main", None).await;
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    (events, finally(client, &id).await)
}

/// One failure is enough for a provider to be left alone; this ends it.
async fn asks_again(client: &Client, provider: &str) {
    let reset = ProviderRpcClient::reset(client, provider.into());
    within("a reset", reset).await.expect("it is there");
}

/// What the plan of a chat says.
async fn plan(client: &Client, action: &Action) -> Value {
    let plan = show(client, &action.id).await.plan;
    serde_json::to_value(plan).unwrap()["operation"]["chat"].clone()
}

fn status(status: u16, code: &str) -> Answer {
    let said = json!({"error": {"message": "no", "type": code, "code": code}}).to_string();
    Answer::Status(status, Vec::new(), said)
}

#[tokio::test]
async fn question_that_one_target_does_not_answer_goes_to_the_next_at_once() {
    let two = Two::start().await;
    let pawd = Pawd::start(two.setup(IN_ORDER, "max_retries = 10\n")).await;
    let client = pawd.client().await;
    let slow_down = Answer::Status(
        429,
        vec![("retry-after", "3600".into())],
        json!({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}).to_string(),
    );
    for (answer, outcome) in [
        (status(503, "busy"), "overload"),
        (status(401, "invalid_api_key"), "auth"),
        (status(429, "insufficient_quota"), "quota"),
        (slow_down, "rate"),
        (status(404, "model_not_found"), "not_found"),
    ] {
        two.first.will(answer);
        let (events, action) = ask(&client).await;
        let result = done(&events);
        assert_eq!(
            (result.provider.as_str(), result.text.as_str()),
            ("spare", "Hello world")
        );
        assert_eq!(tried(&action), [("first", outcome), ("spare", "ok")]);
        assert_eq!(result.attempts, action.attempts);
        asks_again(&client, "first").await;
    }
}

#[tokio::test]
async fn target_that_is_not_there_is_stood_in_for() {
    let two = Two::start().await;
    let setup = two.setup(IN_ORDER, "");
    drop(two.first);
    let pawd = Pawd::start(setup).await;
    let (events, action) = ask(&pawd.client().await).await;
    assert_eq!(done(&events).provider, "spare");
    assert_eq!(tried(&action), [("first", "transport"), ("spare", "ok")]);
}

#[tokio::test]
async fn question_that_is_refused_goes_to_no_other_target() {
    let two = Two::start().await;
    let pawd = Pawd::start(two.setup(IN_ORDER, "")).await;
    let client = pawd.client().await;
    for (code, outcome) in [
        ("invalid_request_error", "bad_request"),
        ("content_filter", "content_filter"),
        // Nobody says that the other one holds more.
        ("context_length_exceeded", "context_length"),
    ] {
        two.first.will(status(400, code));
        let (_, action) = ask(&client).await;
        assert_eq!(action.state, State::Failed);
        assert_eq!(tried(&action), [("first", outcome)]);
    }
    assert_eq!(two.spare.questions(), 0);
}

#[tokio::test]
async fn question_that_is_too_long_goes_to_a_target_that_holds_more() {
    let two = Two::start().await;
    let route = "\n[route.main]\ntargets = [{ provider = \"first\", context = 4096 }, \
                 { provider = \"spare\", context = 4096, model = \"same\" }, \
                 { provider = \"spare\", context = 32768 }]\n";
    let pawd = Pawd::start(two.setup(route, "")).await;
    two.first.will(status(400, "context_length_exceeded"));
    let (_, action) = ask(&pawd.client().await).await;
    let tried: Vec<_> = action.attempts.iter().map(|it| it.model.as_str()).collect();
    assert_eq!((action.state, tried), (State::Completed, vec!["m", "m"]));
}

#[tokio::test]
async fn answer_that_broke_off_begins_again_at_the_next_target() {
    let two = Two::start().await;
    let pawd = Pawd::start(two.setup(IN_ORDER, "")).await;
    let client = pawd.client().await;
    two.first.will(Answer::cut(&["half an", " answer"]));
    let (events, action) = ask(&client).await;
    let reset = events.iter().position(|it| {
        matches!(it, ChatEvent::StreamReset { provider, why, .. }
            if provider == "spare" && why == "cut")
    });
    let reset = reset.unwrap_or_else(|| panic!("nothing was reset: {events:?}"));
    let after: Vec<_> = events[reset..]
        .iter()
        .filter_map(|it| match it {
            ChatEvent::Delta { seq, text } => Some((*seq, text.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(after, [(0, "Hello"), (1, " world")]);
    let result = done(&events);
    assert_eq!(
        (result.text.as_str(), result.provider.as_str()),
        ("Hello world", "spare")
    );
    assert_eq!(tried(&action), [("first", "cut"), ("spare", "ok")]);
    // What is kept of the conversation names who said it, too.
    let said = SessionRpcClient::show(&client, result.session.clone(), None)
        .await
        .unwrap();
    let last = said.turns.last().unwrap();
    assert_eq!(
        (last.provider.as_deref(), last.text.as_str()),
        (Some("spare"), "Hello world")
    );
}

#[tokio::test]
async fn answer_that_broke_off_is_an_error_where_the_route_says_so() {
    let two = Two::start().await;
    let route = format!("{IN_ORDER}on_break = \"fail\"\n");
    let pawd = Pawd::start(two.setup(&route, "")).await;
    let client = pawd.client().await;
    two.first.will(Answer::cut(&["half an"]));
    let (events, action) = ask(&client).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Failed { .. })),
        "{events:?}"
    );
    assert_eq!(action.error.as_ref().unwrap().kind, "cut");
    assert_eq!(tried(&action), [("first", "cut")]);
    asks_again(&client, "first").await;
    // One that broke before its first piece has shown nothing, and goes on.
    two.first.will(Answer::cut(&[]));
    let (events, _) = ask(&client).await;
    assert_eq!(done(&events).provider, "spare");
}

#[tokio::test]
async fn retries_begin_when_every_target_was_asked() {
    let two = Two::start().await;
    let pawd = Pawd::start(two.setup(IN_ORDER, "max_retries = 1\n")).await;
    let client = pawd.client().await;
    two.first.will(status(503, "busy"));
    two.spare.will(status(503, "busy"));
    let (_, action) = ask(&client).await;
    let busy = [("first", "overload"), ("spare", "overload")];
    assert_eq!(
        (&tried(&action)[..2], action.attempts.len()),
        (&busy[..], 3)
    );
    assert_eq!(action.state, State::Completed);
    asks_again(&client, "first").await;
    for _ in 0..2 {
        two.first.will(status(503, "busy"));
        two.spare.will(status(503, "busy"));
    }
    let (_, action) = ask(&client).await;
    assert_eq!(tried(&action)[..2], busy);
    let error = action.error.unwrap();
    assert!(error.message.contains("attempts at 2 targets"), "{error:?}");
}

#[tokio::test]
async fn plan_says_who_may_answer_and_by_which_route() {
    let two = Two::start().await;
    let clerk = "\n[agent.clerk]\nroute = \"main\"\n";
    let pawd = Pawd::start(two.setup(&format!("{IN_ORDER}{clerk}"), "")).await;
    let client = pawd.client().await;
    let asked = object(json!({"text": "hello"}));
    let action = client
        .submit("chat".into(), asked, Some("clerk".into()), None, None, None)
        .await
        .unwrap();
    let action = finally(&client, &action.id).await;
    let plan = plan(&client, &action).await;
    assert_eq!(
        (&plan["provider"], &plan["route"], &plan["fallbacks"]),
        (
            &json!("first"),
            &json!("main"),
            &json!([{"provider": "spare", "model": "m"}])
        )
    );
}

#[tokio::test]
async fn target_that_is_drawn_is_the_one_that_is_asked() {
    let two = Two::start().await;
    let route = "\n[route.main]\nselect = \"weight\"\n\
                 targets = [{ provider = \"first\" }, { provider = \"spare\" }]\n";
    let pawd = Pawd::start(two.setup(route, "")).await;
    let client = pawd.client().await;
    let mut drawn = Vec::new();
    for _ in 0..64 {
        let (events, action) = ask(&client).await;
        let planned = plan(&client, &action).await["provider"].clone();
        assert_eq!(planned, json!(done(&events).provider));
        drawn.push(done(&events).provider.clone());
    }
    // Of 64 even draws all are the same once in 2^63.
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn, ["first", "spare"]);
}

#[tokio::test]
async fn question_asked_on_this_host_leaves_it_only_where_the_route_says_so() {
    for may_leave_host in [false, true] {
        let (here, away) = (Model::start().await, Model::start().await);
        let pawd = Pawd::start(here_and_away(&here, &away, &from_here(may_leave_host))).await;
        let client = pawd.client().await;
        here.will(status(503, "busy"));
        let (_, action) = ask(&client).await;
        // Where it may not, nobody elsewhere is in the plan.
        let planned = plan(&client, &action).await;
        assert_eq!(planned["fallbacks"].is_null(), !may_leave_host, "{planned}");
        let mut expected = vec![("here", "overload")];
        if may_leave_host {
            expected.push(("away", "ok"));
        }
        assert_eq!(tried(&action), expected);
        assert_eq!(away.questions(), usize::from(may_leave_host));
    }
}

#[tokio::test]
async fn route_that_goes_from_this_host_elsewhere_unsaid_is_no_configuration() {
    let (here, away) = (Model::start().await, Model::start().await);
    let pawd = Pawd::start(here_and_away(&here, &away, "")).await;
    let route = "[route.main]\ntargets = [{ provider = \"here\" }, { provider = \"away\" }]\n";
    pawd.root.write("etc/pawd.d/60-route.toml", route);
    let client = pawd.client().await;
    refused(ConfigRpcClient::reload(&client).await, ErrorKind::Invalid);
    pawd.root.write(
        "etc/pawd.d/60-route.toml",
        &format!("{route}may_leave_host = true\n"),
    );
    ConfigRpcClient::reload(&client).await.unwrap();
}

#[tokio::test]
async fn route_that_may_not_leave_the_host_any_more_does_not() {
    let (here, away) = (Model::start().await, Model::start().await);
    let setup = here_and_away(&here, &away, "\n[actions]\nconcurrency = 1\n");
    let pawd = Pawd::start(setup).await;
    let file = "etc/pawd.d/60-route.toml";
    let client = pawd.client().await;
    pawd.root.write(file, &from_here(true));
    ConfigRpcClient::reload(&client).await.unwrap();
    // The first one keeps the only place until the second one, whose plan leads elsewhere, may do so no more.
    let (steps, answer) = Answer::steps();
    here.will(answer);
    here.will(status(503, "busy"));
    let mut first = ask_by(&client, "main", None).await;
    here.was_asked(1).await;
    let mut second = ask_by(&client, "main", None).await;
    let id = accepted(&mut second).await;
    pawd.root.write(file, &from_here(false));
    ConfigRpcClient::reload(&client).await.unwrap();
    steps.send(Step::End).await.unwrap();
    rest(&mut first).await;
    let action = finally(&client, &id).await;
    let plan = plan(&client, &action).await;
    assert_eq!(plan["fallbacks"][0]["provider"], "away", "it led there");
    assert_eq!(tried(&action), [("here", "overload")]);
    assert_eq!(away.questions(), 0);
}

#[tokio::test]
async fn what_was_decided_for_a_provider_is_not_said_to_it_elsewhere() {
    let (was, is) = (Model::start().await, Model::start().await);
    let file = "etc/pawd.d/60-provider.toml";
    let at = |model: &Model| {
        let url = model.url();
        format!("[provider.mover]\nkind = \"ollama\"\nbase_url = \"{url}\"\nmodel = \"m\"\n")
    };
    let setup = Setup::new()
        .with("provider = \"mover\"\n\n[actions]\nconcurrency = 1\n")
        .provider("other", "ollama", &is.url(), "");
    let root = setup.root();
    root.write(file, &at(&was));
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    was.will(answer);
    let mut first = say(&client, "hello").await;
    was.was_asked(1).await;
    let mut second = say(&client, "hello").await;
    let id = accepted(&mut second).await;
    // It moves to where pawd may connect to, too, while the second one waits for its turn.
    pawd.root.write(file, &at(&is));
    ConfigRpcClient::reload(&client).await.unwrap();
    steps.send(Step::End).await.unwrap();
    rest(&mut first).await;
    let action = finally(&client, &id).await;
    let error = action.error.clone().unwrap();
    assert_eq!(error.kind, "denied", "{action:?}");
    assert!(error.message.contains(&is.url()), "{error:?}");
    assert_eq!(
        plan(&client, &action).await["places"]["mover"],
        format!("{}/", was.url())
    );
    assert_eq!(is.questions(), 0);
    // What is decided now goes there.
    rest(&mut say(&client, "hello").await).await;
    assert_eq!(is.questions(), 1);
}

#[tokio::test]
async fn plan_says_where_each_target_is_also_of_one_that_waits_for_its_key() {
    let two = Two::start().await;
    let setup = Setup::new().provider("spare", "ollama", &two.spare.url(), "");
    let root = setup.root();
    let key = "etc/credentials/late.key";
    root.write(key, "sk-late");
    root.mode(key, 0o400);
    root.give(key);
    let mut pawd = Pawd::start_in(root, setup).await;
    let first = ProviderSpec {
        kind: Some("openai".into()),
        base_url: Some("https://example.com/v1".into()),
        model: Some("m".into()),
        api_key_credential: Some("late.key".into()),
        ..ProviderSpec::default()
    };
    let client = pawd.client().await;
    client.add("first".into(), first).await.unwrap();
    pawd.stop().await;
    std::fs::remove_file(pawd.root.path().join(key)).unwrap();
    pawd.root.write("etc/pawd.d/60-route.toml", IN_ORDER);
    pawd.start_again().await;
    let client = pawd.client().await;
    let (events, action) = ask(&client).await;
    assert_eq!(done(&events).provider, "spare");
    let places = plan(&client, &action).await["places"].clone();
    let spare = format!("{}/", two.spare.url());
    assert_eq!(
        places,
        json!({"first": "https://example.com/v1", "spare": spare})
    );
}

#[tokio::test]
async fn target_elsewhere_that_fails_is_stood_in_for_by_one_on_this_host() {
    let (here, away) = (Model::start().await, Model::start().await);
    // Nothing says that it may: only what leaves the host has to be allowed.
    let route = "\n[route.main]\ntargets = [{ provider = \"away\" }, { provider = \"here\" }]\n";
    let pawd = Pawd::start(here_and_away(&here, &away, route)).await;
    away.will(status(503, "busy"));
    let (events, action) = ask(&pawd.client().await).await;
    assert_eq!(done(&events).provider, "here");
    assert_eq!(tried(&action), [("away", "overload"), ("here", "ok")]);
}

#[tokio::test]
async fn conversation_held_on_this_host_is_shown_to_no_target_elsewhere() {
    let (here, away) = (Model::start().await, Model::start().await);
    let routes = "\n[route.main]\ntargets = [{ provider = \"away\" }, { provider = \"here\" }]\n\
                  \n[route.out]\ntargets = [{ provider = \"away\" }]\n";
    let pawd = Pawd::start(here_and_away(&here, &away, routes)).await;
    let client = pawd.client().await;
    let begun = Asking::new("hello")
        .provider("here".to_owned())
        .ask(&client);
    let events = rest(&mut begun.await.unwrap()).await;
    let session = done(&events).session.clone();
    let mut second = ask_by(&client, "main", Some(session.clone())).await;
    assert_eq!(done(&rest(&mut second).await).provider, "here");
    let out = Asking::new("hello")
        .session(session)
        .route("out".to_owned())
        .ask(&client);
    refused(out.await.map(drop), ErrorKind::Denied);
    assert_eq!(away.questions(), 0);
    // A new conversation may be held elsewhere.
    let (events, _) = ask(&client).await;
    assert_eq!(done(&events).provider, "away");
}

#[tokio::test]
async fn question_that_was_stopped_on_this_host_is_shown_to_no_target_elsewhere() {
    let (here, away) = (Model::start().await, Model::start().await);
    let routes = "\n[route.out]\ntargets = [{ provider = \"away\" }]\n";
    let mut pawd = Pawd::start(here_and_away(&here, &away, routes)).await;
    for killed in [false, true] {
        let client = pawd.client().await;
        let (_held, silent) = Answer::steps();
        here.will(silent);
        let before = here.questions();
        let begun = Asking::new("hello")
            .provider("here".to_owned())
            .ask(&client);
        let mut chat = begun.await.unwrap();
        let id = accepted(&mut chat).await;
        here.was_questioned(before + 1).await;
        if killed {
            pawd.daemon.kill9().await;
            pawd.start_again().await;
        } else {
            client.cancel(id.clone()).await.unwrap();
        }
        let client = pawd.client().await;
        let session = finally(&client, &id).await.session;
        let out = Asking::new("hello")
            .session(session)
            .route("out".to_owned())
            .ask(&client);
        refused(out.await.map(drop), ErrorKind::Denied);
    }
    assert_eq!(away.questions(), 0);
}

#[tokio::test]
async fn conversation_held_on_this_host_stays_on_it_when_its_provider_moves() {
    let (here, away) = (Model::start().await, Model::start().await);
    let pawd = Pawd::start(here_and_away(&here, &away, "")).await;
    let client = pawd.client().await;
    let ask_here = |session: Option<String>| {
        let here = Some("here".into());
        Asking::new("hello")
            .session(session)
            .provider(here)
            .ask(&client)
    };
    let events = rest(&mut ask_here(None).await.unwrap()).await;
    let session = done(&events).session.clone();
    pawd.root.write(
        "etc/pawd.d/60-moved.toml",
        &format!(
            "[provider.here]\nkind = \"ollama\"\nbase_url = \"{}\"\nmodel = \"m\"\nallow_plaintext = true\n",
            away.url_elsewhere()
        ),
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    refused(ask_here(Some(session)).await.map(drop), ErrorKind::Denied);
    assert_eq!(away.questions(), 0);
    let events = rest(&mut ask_here(None).await.unwrap()).await;
    assert_eq!(done(&events).provider, "here");
    assert_eq!(away.questions(), 1, "what begins now may be held there");
}

#[tokio::test]
async fn only_targets_on_this_host_are_asked_where_a_caller_wants_that() {
    let (here, away) = (Model::start().await, Model::start().await);
    let routes = "\n[route.main]\ntargets = [{ provider = \"away\" }, { provider = \"here\" }]\n\
                  \n[route.out]\ntargets = [{ provider = \"away\" }]\n";
    let pawd = Pawd::start(here_and_away(&here, &away, routes)).await;
    let client = pawd.client().await;
    let local_only = |route: &str| {
        let route = Some(route.to_owned());
        Asking::new("hello")
            .local_only(true)
            .route(route)
            .ask(&client)
    };
    let events = rest(&mut local_only("main").await.unwrap()).await;
    assert_eq!(done(&events).provider, "here");
    refused(local_only("out").await.map(drop), ErrorKind::Denied);
    assert_eq!(away.questions(), 0);
}

#[tokio::test]
async fn names_that_contradict_each_other_are_refused() {
    let two = Two::start().await;
    let clerk = "\n[agent.clerk]\nroute = \"main\"\n";
    let pawd = Pawd::start(two.setup(&format!("{IN_ORDER}{clerk}"), "")).await;
    let client = pawd.client().await;
    for (asked, kind) in [
        (json!({"route": "other"}), ErrorKind::NotFound),
        (
            json!({"route": "main", "provider": "first"}),
            ErrorKind::Invalid,
        ),
        (json!({"route": "main", "model": "m"}), ErrorKind::Invalid),
        (json!({"model": "m"}), ErrorKind::Invalid),
    ] {
        let mut asked = object(asked);
        asked.insert("text".into(), json!("hello"));
        let agent = Some("clerk".to_owned());
        let submitted = client.submit("chat".into(), asked, agent, None, None, None);
        refused(submitted.await, kind);
    }
}
