//! Who of a route is asked first: the quickest, the cheapest, who can do it; and arms that a conversation stays with.

use std::{collections::BTreeMap, time::Duration};

use harness::{
    Answer, Asking, Check, Model, Pawd, Setup, Step, within,
    words::{accepted, data, finally, next, refused, rest},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::Action,
    model::ModelRpcClient,
    provider::{Arm, Arms, ChatEvent, ChatResult, RouteRpcClient},
};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Providers `one`, `two` and `three`, of one model, and these lines of a route `main` to all of them.
struct Three {
    models: [Model; 3],
    pawd: Pawd,
}

const NAMES: [&str; 3] = ["one", "two", "three"];

fn setup(models: &[Model; 3], route: &str) -> Setup {
    let with = |setup: Setup, (name, model): (&str, &Model)| {
        setup.provider(name, "ollama", &model.url(), "max_retries = 0\n")
    };
    let named = NAMES.into_iter().zip(models);
    named.fold(Setup::new().without_skills(), with).with(route)
}

impl Three {
    async fn start(route: &str) -> Self {
        let models = [
            Model::start().await,
            Model::start().await,
            Model::start().await,
        ];
        let pawd = Pawd::start(setup(&models, route)).await;
        Self { models, pawd }
    }
}

async fn say_in(client: &Client, text: &str, session: Option<String>) -> (ChatResult, Action) {
    let route = Some("main".to_owned());
    let begun = Asking::new(text).session(session).route(route).ask(client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    let id = accepted(&mut chat).await;
    match rest(&mut chat).await.pop() {
        Some(ChatEvent::Done(result)) => (result, finally(client, &id).await),
        other => panic!("the chat ended with {other:?}"),
    }
}

async fn answerer(client: &Client) -> String {
    say_in(client, "hello", None).await.0.provider
}

async fn arms(client: &Client) -> Arms {
    let arms = ModelRpcClient::ab(client, "main".into());
    within("the arms", arms).await.expect("the route is there")
}

#[tokio::test]
async fn quickest_is_asked_first_and_those_that_nobody_heard_are_tried() {
    let three = Three::start(
        "[route.main]\nselect = \"latency\"\n\
         targets = [{ provider = \"one\" }, { provider = \"two\" }, { provider = \"three\" }]\n",
    )
    .await;
    let client = three.pawd.client().await;
    // The first one is late to begin; all others answer at once.
    let (steps, answer) = Answer::steps();
    three.models[0].will(answer);
    let route = Some("main".to_owned());
    let begun = Asking::new("hello").route(route).ask(&client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    accepted(&mut chat).await;
    three.models[0].was_asked(1).await;
    let heard = timeout(Duration::from_millis(1_500), next(&mut chat));
    heard.await.expect_err("it is late to begin");
    steps.send(Step::Piece("late".into())).await.unwrap();
    assert!(matches!(next(&mut chat).await, ChatEvent::Delta { .. }));
    steps.send(Step::End).await.unwrap();
    rest(&mut chat).await;
    // Then each that nobody has heard, and then the quick ones alone.
    assert_eq!(answerer(&client).await, "two");
    assert_eq!(answerer(&client).await, "three");
    for _ in 0..6 {
        assert_ne!(answerer(&client).await, "one");
    }
    let show = RouteRpcClient::show(&client, "main".into());
    let route = within("showing a route", show).await.expect("it is there");
    let pace: Vec<_> = route.targets.iter().map(|it| it.pace_ms).collect();
    assert!(pace[0] > Some(1_000) && pace[1] < Some(1_000), "{pace:?}");
}

#[tokio::test]
async fn cheapest_whose_price_is_known_is_asked_first_and_the_plan_says_the_order() {
    let (models, away) = (
        [
            Model::start().await,
            Model::start().await,
            Model::start().await,
        ],
        Model::start().await,
    );
    let setup = setup(
        &models,
        "[price.\"one/m\"]\ninput = 5_000_000\noutput = 5_000_000\n\
         [price.\"two/m\"]\ninput = 7_000_000\noutput = 9_000_000\n\
         [price.\"three/m\"]\ninput = 1_000_000\noutput = 1_000_000\n\
         [route.main]\nselect = \"cost\"\nmay_leave_host = true\n\
         targets = [{ provider = \"away\" }, { provider = \"one\" }, { provider = \"two\" }, { provider = \"three\" }]\n",
    );
    // Nobody knows what this one costs.
    let pawd = Pawd::start(setup.away(&away, "")).await;
    let client = pawd.client().await;
    let (result, action) = say_in(&client, "hello", None).await;
    assert_eq!(result.provider, "three");
    let plan = harness::words::show(&client, &action.id).await.plan;
    let plan = serde_json::to_value(plan).unwrap()["operation"]["chat"].clone();
    let after: Vec<_> = plan["fallbacks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["provider"].clone())
        .collect();
    assert_eq!(after, ["one", "two", "away"]);
}

#[tokio::test]
async fn target_that_cannot_call_tools_is_left_out_where_the_agent_has_some() {
    let model = Model::start().await;
    let provider = |setup: Setup, name: &str| setup.provider(name, "ollama", &model.url(), "");
    let setup = provider(provider(Setup::new(), "one"), "two").with(
        "\n[agent.mute]\nskills = []\n[route.main]\nselect = \"capability\"\ntargets = [\n\
         { provider = \"one\", tools = false }, { provider = \"two\" }]\n",
    );
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    for (agent, expected) in [(None, "two"), (Some("mute".to_owned()), "one")] {
        let route = Some("main".to_owned());
        let begun = Asking::new("hello").agent(agent).route(route).ask(&client);
        let mut chat = within("beginning a chat", begun).await.expect("accepted");
        match rest(&mut chat).await.pop() {
            Some(ChatEvent::Done(result)) => assert_eq!(result.provider, expected),
            other => panic!("the chat ended with {other:?}"),
        }
    }
}

#[tokio::test]
async fn target_that_is_known_not_to_hold_a_question_is_left_out() {
    let three = Three::start(
        "[route.main]\nselect = \"capability\"\ntargets = [\n\
         { provider = \"one\", context = 200, tools = false },\n\
         { provider = \"two\", context = 2000, vision = false },\n\
         { provider = \"three\", context = 4000 }]\n",
    )
    .await;
    let client = three.pawd.client().await;
    let long = |tokens: usize| "abc".repeat(tokens);
    for (text, expected) in [
        ("hello".to_owned(), "one"),
        (long(500), "two"),
        (long(3_000), "three"),
    ] {
        let (result, _) = say_in(&client, &text, None).await;
        assert_eq!(result.provider, expected, "{} bytes", text.len());
    }
    // What was said before counts, too.
    let (result, _) = say_in(&client, &long(150), None).await;
    let (result, _) = say_in(&client, &long(150), Some(result.session)).await;
    assert_eq!(result.provider, "two");
    let route = Some("main".to_owned());
    let begun = Asking::new(long(5_000)).route(route).ask(&client);
    let error = within("beginning a chat", begun).await;
    let said = format!("{error:?}");
    assert!(
        said.contains("no target of route main is known to take about 5"),
        "{said}"
    );
    refused(error, ErrorKind::Invalid);
}

#[tokio::test]
async fn target_that_sees_no_pictures_is_shown_none() {
    let three = Three::start(
        "[route.main]\nselect = \"capability\"\ntargets = [\n\
         { provider = \"one\", vision = false }, { provider = \"two\", vision = true }]\n",
    )
    .await;
    let client = three.pawd.client().await;
    // The smallest GIF.
    let picture = "R0lGODlhAQABAAAAACwAAAAAAQABAAACAUwAOw==";
    let ask = async |images: Option<Vec<String>>| {
        let route = Some("main".to_owned());
        let begun = Asking::new("what is this?").images(images).route(route);
        let mut chat = within("beginning a chat", begun.ask(&client))
            .await
            .expect("accepted");
        match rest(&mut chat).await.pop() {
            Some(ChatEvent::Done(result)) => result.provider,
            other => panic!("the chat ended with {other:?}"),
        }
    };
    assert_eq!(ask(Some(vec![picture.to_owned()])).await, "two");
    assert_eq!(ask(None).await, "one");
    let shown = three.models[1].asked();
    let shown = shown.iter().rfind(|it| it.line == "POST /api/chat");
    let messages = shown.expect("it was asked").body["messages"].to_string();
    assert!(messages.contains(picture), "{messages}");
}

/// Who answers a question of this agent by this route, with a picture where it is shown one.
async fn answers(client: &Client, route: &str, agent: &str, picture: Option<&str>) -> String {
    let begun = Asking::new("what is this?")
        .agent(Some(agent.to_owned()))
        .images(picture.map(|picture| vec![picture.to_owned()]))
        .route(Some(route.to_owned()));
    let mut chat = within("beginning a chat", begun.ask(client))
        .await
        .expect("accepted");
    match rest(&mut chat).await.pop() {
        Some(ChatEvent::Done(result)) => result.provider,
        other => panic!("the chat ended with {other:?}"),
    }
}

#[tokio::test]
async fn what_a_provider_lists_of_its_models_counts_where_the_route_says_nothing() {
    let (one, two) = (Model::start().await, Model::start().await);
    let silent = Model::start().await;
    silent.says_of_itself(Check::Silence);
    one.says_of_its_models(json!({
        "capabilities": {"function_calling": false, "vision": false}, "max_context_length": 100_000,
    }));
    let url = |model: &Model| format!("{}/v1", model.url());
    let setup = Setup::new()
        .provider("one", "mistral", &url(&one), "max_retries = 0\n")
        .provider("two", "mistral", &url(&two), "max_retries = 0\n")
        .provider("silent", "mistral", &url(&silent), "max_retries = 0\n")
        .with(
            "\n[agent.mute]\nskills = []\n\
             [route.main]\nselect = \"capability\"\ntargets = [{ provider = \"one\" }, { provider = \"two\" }]\n\
             [route.told]\nselect = \"capability\"\n\
             targets = [{ provider = \"one\", tools = true, vision = true }, { provider = \"two\" }]\n\
             [route.silent]\nselect = \"capability\"\ntargets = [{ provider = \"silent\" }]\n\
             [route.alone]\nselect = \"capability\"\ntargets = [{ provider = \"one\" }]\n",
        );
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let picture = Some("R0lGODlhAQABAAAAACwAAAAAAQABAAACAUwAOw==");
    // As long as the list is not there nobody waits for it, and what is not known is no reason.
    for (route, expected) in [("silent", "silent"), ("main", "one")] {
        assert_eq!(answers(&client, route, "default", None).await, expected);
    }
    silent.was_asked_for("GET /v1/models").await;
    // Once it is, it counts; what stands in the route counts more.
    let listed = ModelRpcClient::list(&client, Some("one".into()));
    within("a list of models", listed).await.expect("listed");
    for (route, agent, shown, expected) in [
        ("main", "default", None, "two"),
        ("main", "mute", None, "one"),
        ("main", "mute", picture, "two"),
        ("told", "default", picture, "one"),
    ] {
        let answered = answers(&client, route, agent, shown).await;
        assert_eq!(answered, expected, "{route}, {agent}, {shown:?}");
    }
    let route = Some("alone".to_owned());
    let begun = Asking::new("hello").route(route).ask(&client);
    refused(within("beginning a chat", begun).await, ErrorKind::Invalid);
}

#[tokio::test]
async fn what_an_ollama_tells_of_its_model_counts_and_its_length_leads_to_who_holds_more() {
    let three = Three::start(
        "[route.main]\nselect = \"capability\"\n\
         targets = [{ provider = \"one\" }, { provider = \"two\" }]\n\
         [route.alone]\nselect = \"capability\"\ntargets = [{ provider = \"one\" }]\n",
    )
    .await;
    let client = three.pawd.client().await;
    let picture = Some("R0lGODlhAQABAAAAACwAAAAAAQABAAACAUwAOw==");
    let blind = json!({"capabilities": ["completion"], "parameters": "num_ctx 300"});
    three.models[0].says_of_its_models(blind);
    // With the first question it is asked what it holds, as ever.
    assert_eq!(answers(&client, "main", "default", picture).await, "one");
    assert_eq!(answers(&client, "main", "default", picture).await, "two");
    assert_eq!(answers(&client, "main", "default", None).await, "one");
    let (result, _) = say_in(&client, &"abc".repeat(500), None).await;
    assert_eq!(result.provider, "two");
    // Where nobody holds more it is asked all the same.
    let route = Some("alone".to_owned());
    let begun = Asking::new("abc".repeat(500)).route(route).ask(&client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    let ended = rest(&mut chat).await.pop();
    assert!(matches!(ended, Some(ChatEvent::Done(_))), "{ended:?}");
}

const ARMS: &str = "[price.\"one/m\"]\ninput = 1_000_000_000\noutput = 2_000_000_000\n\
     [route.main]\nselect = \"ab\"\n\
     targets = [{ provider = \"one\", weight = 2 }, { provider = \"two\" }]\n";

#[tokio::test]
async fn conversation_stays_with_its_arm_and_the_results_of_each_outlive_pawd() {
    let mut three = Three::start(ARMS).await;
    let client = three.pawd.client().await;
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..24 {
        let (result, _) = say_in(&client, "hello", None).await;
        given.insert(result.session, result.provider);
    }
    let of = |name: &str| given.values().filter(|it| *it == name).count() as u64;
    // Two thirds of them; that all go to one arm happens once in ten thousand times.
    assert!(of("one") > 0 && of("two") > 0, "{given:?}");
    for (session, provider) in &given {
        let (result, _) = say_in(&client, "and?", Some(session.clone())).await;
        assert_eq!(result.provider, *provider);
    }
    let before = arms(&client).await;
    assert_eq!((before.select.as_str(), before.chats), ("ab", 48));
    let arm = |arms: &Arms, name: &str| -> Arm {
        let found = arms.arms.iter().find(|it| it.provider == name);
        found.expect("it is an arm").clone()
    };
    for name in ["one", "two"] {
        let arm = arm(&before, name);
        let chats = 2 * of(name);
        assert_eq!((arm.chats, arm.errors), (chats, 0));
        assert_eq!(
            (arm.input_tokens, arm.output_tokens),
            (3 * chats, 2 * chats)
        );
        assert!(arm.total_ms.is_some() && arm.first_token_ms.is_some());
    }
    // Three tokens of each question and two of each answer.
    let (one, two) = (arm(&before, "one"), arm(&before, "two"));
    assert!(
        (one.cost - one.chats as f64 * 0.007).abs() < 1e-9,
        "{one:?}"
    );
    assert_eq!((two.cost, one.weight, two.weight), (0.0, Some(2), Some(1)));
    drop(client);
    assert_eq!(three.pawd.stop().await, 0);
    three.pawd.start_again().await;
    let client = three.pawd.client().await;
    assert_eq!(arms(&client).await, before);
    for (session, provider) in given.iter().take(4) {
        let (result, _) = say_in(&client, "still?", Some(session.clone())).await;
        assert_eq!(result.provider, *provider);
    }
    let out = three
        .pawd
        .pawctl(&["model", "ab", "main", "-o", "json"])
        .await;
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["chats"], 52);
    let shown = three.pawd.pawctl(&["model", "ab", "main"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("ERRORS") && shown.contains("two"), "{shown}");
}

#[tokio::test]
async fn what_an_arm_did_not_answer_is_its_error_although_another_one_did() {
    let three = Three::start(ARMS).await;
    let client = three.pawd.client().await;
    three.models[0].falls_into(Some(harness::Trouble::Busy));
    let mut errors = 0;
    for _ in 0..8 {
        let (result, action) = say_in(&client, "hello", None).await;
        assert_eq!(result.provider, "two");
        let plan = harness::words::show(&client, &action.id).await.plan;
        let plan = serde_json::to_value(plan).unwrap();
        errors += u64::from(plan["operation"]["chat"]["provider"] == "one");
    }
    let arms = arms(&client).await;
    assert_eq!((arms.arms[0].chats, arms.arms[0].errors), (errors, errors));
    assert_eq!((arms.arms[1].chats, arms.arms[1].errors), (8 - errors, 0));
    let none = ModelRpcClient::ab(&client, "other".into());
    let error = within("the arms", none)
        .await
        .expect_err("there is no such route");
    assert_eq!(data(&error).kind, ErrorKind::NotFound);
}
