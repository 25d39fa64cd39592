//! Models are switched, fetched and made ready over the control socket; a switch that comes to nothing leaves everything as it was.

use harness::{
    Answer, Check, Model, Pawd, Setup, Step, Trouble, within,
    words::{accepted, data, finally, refused, rest, say},
};
use jsonrpsee::{
    async_client::Client,
    core::client::{Error as CallError, Subscription},
};
use paw_api::{
    ErrorKind,
    agent::{Agent, AgentRpcClient},
    error::ErrorData,
    model::{ModelRpcClient, ModelSwitched, SwitchEvent},
    provider::{ProviderRpcClient, ProviderSpec},
    trail::AuditRpcClient,
};
use paw_policy::State;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A pawd with a model of Ollama as provider `local` in its file, which has `m` and `other`.
async fn pawd() -> (Model, Pawd, Client) {
    let model = Model::start().await;
    model.has(&["m", "other"]);
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

type Switching = Subscription<SwitchEvent>;

/// A switch for an agent, or for all who name no model.
async fn begin(client: &Client, model: &str, agent: Option<&str>) -> Result<Switching, CallError> {
    let (model, agent) = (Some(model.to_owned()), agent.map(str::to_owned));
    let begun = ModelRpcClient::switch(client, model, None, agent, None, None);
    within("beginning a switch", begun).await
}

async fn next<T: DeserializeOwned>(events: &mut Subscription<T>) -> Option<T> {
    let event = within("the next piece of news", events.next()).await?;
    Some(event.expect("it can be read"))
}

/// Waits until it is at this step.
async fn reaches(events: &mut Switching, wanted: &str) {
    loop {
        match next(events).await {
            Some(SwitchEvent::Progress { step, .. }) if step == wanted => return,
            Some(SwitchEvent::Progress { .. }) => {}
            other => panic!("{other:?} before {wanted}"),
        }
    }
}

/// How a switch ends.
async fn end(events: &mut Switching) -> Result<ModelSwitched, ErrorData> {
    loop {
        match next(events).await.expect("it has an end") {
            SwitchEvent::Progress { .. } => {}
            SwitchEvent::Done(done) => return Ok(done),
            SwitchEvent::Failed { error, .. } => return Err(error),
            waiting @ SwitchEvent::Waiting { .. } => panic!("{waiting:?}"),
        }
    }
}

async fn switch(client: &Client, model: &str, agent: &str) -> Result<ModelSwitched, ErrorData> {
    end(&mut begin(client, model, Some(agent)).await.unwrap()).await
}

async fn agent(client: &Client) -> Agent {
    AgentRpcClient::show(client, "default".into())
        .await
        .unwrap()
}

/// Nothing has changed of who answers for the agent, and nothing was kept.
async fn as_before(pawd: &Pawd, client: &Client) {
    let agent = agent(client).await;
    assert_eq!((agent.model.as_str(), agent.switched), ("m", false));
    let kept = std::fs::read_to_string(pawd.root.path().join("state/providers.toml"));
    assert!(!kept.unwrap_or_default().contains("other"));
}

/// Models that chats asked for.
fn chats(model: &Model) -> Vec<String> {
    let asked = model.asked().into_iter();
    asked
        .filter(|it| it.line == "POST /api/chat" || it.line == "POST /v1/chat/completions")
        .map(|it| it.body["model"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// What was asked of the memory of an Ollama.
fn held(model: &Model) -> Vec<(String, String)> {
    let text = |body: &Value, key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let asked = model.asked().into_iter();
    asked
        .filter(|it| it.line == "POST /api/generate")
        .map(|it| (text(&it.body, "model"), text(&it.body, "keep_alive")))
        .collect()
}

#[tokio::test]
async fn switch_is_for_new_turns_and_old_ones_end_with_their_model() {
    let (model, mut pawd, client) = pawd().await;
    let (steps, answer) = Answer::steps();
    model.will(answer);
    let mut old = say(&client, "hello").await;
    let id = accepted(&mut old).await;
    steps.send(Step::Piece("Hel".into())).await.unwrap();
    model.was_asked(1).await;

    let done = switch(&client, "other", "default").await.unwrap();
    assert_eq!(done.agent.as_deref(), Some("default"));
    assert_eq!(
        (done.now.provider.as_str(), done.now.model.as_str()),
        ("local", "other")
    );
    assert_eq!(done.was.unwrap().model, "m");
    assert_eq!(
        model.loaded(),
        ["other"],
        "it is in memory before anybody needs it"
    );
    rest(&mut say(&client, "and you?").await).await;
    steps.send(Step::Piece("lo".into())).await.unwrap();
    steps.send(Step::End).await.unwrap();
    let ended = finally(&client, &id).await;
    assert_eq!(ended.state, State::Completed, "{ended:?}");
    // The turn that was under way, the question of the switch, the new turn.
    assert_eq!(chats(&model), ["m", "other", "other"]);

    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    let kept = agent(&client).await;
    assert_eq!((kept.model.as_str(), kept.switched), ("other", true));
    rest(&mut say(&client, "again").await).await;
    assert_eq!(chats(&model).last().unwrap(), "other");
}

#[tokio::test]
async fn model_that_is_not_there_is_switched_to_by_nobody() {
    let (model, pawd, client) = pawd().await;
    let error = switch(&client, "nosuch", "default").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.hint.contains("pawctl model pull nosuch"), "{error:?}");
    as_before(&pawd, &client).await;
    assert_eq!(chats(&model), [""; 0]);
    let shown = pawd
        .pawctl(&["model", "switch", "nosuch", "--agent", "default"])
        .await;
    assert_eq!(shown.status.code(), Some(6));
}

#[tokio::test]
async fn model_that_does_not_answer_is_switched_to_by_nobody_and_not_left_in_memory() {
    let (model, pawd, client) = pawd().await;
    model.will(Answer::Status(
        500,
        Vec::new(),
        "{\"error\": \"out of memory\"}".into(),
    ));
    let error = switch(&client, "other", "default").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
    as_before(&pawd, &client).await;
    assert_eq!(model.loaded(), [""; 0]);
    // One that was in memory before is not taken out of it.
    ModelRpcClient::warm(&client, Some("other".into()), None, None)
        .await
        .unwrap();
    model.will(Answer::cut(&["half"]));
    switch(&client, "other", "default").await.unwrap_err();
    assert_eq!(model.loaded(), ["other"]);
}

fn loading() -> String {
    json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})
        .to_string()
}

#[tokio::test]
async fn switch_waits_for_a_model_that_is_loading() {
    let model = Model::start().await;
    model.says_of_itself(Check::Status(503, loading()));
    let pawd = Pawd::start(Setup::new().openai(&model)).await;
    let client = pawd.client().await;
    let mut events = begin(&client, "m", Some("default")).await.unwrap();
    reaches(&mut events, "loading").await;
    assert!(!agent(&client).await.switched);
    model.will(Answer::Status(503, Vec::new(), loading()));
    model.says_of_itself(Check::Good);
    let done = end(&mut events).await.unwrap();
    assert_eq!(done.now.model, "m");
    assert_eq!(
        chats(&model).len(),
        2,
        "it was asked again, once it had said that it loads"
    );
    assert!(agent(&client).await.switched);
}

#[tokio::test]
async fn switch_to_what_loads_for_ever_ends_at_its_deadline() {
    let model = Model::start().await;
    model.says_of_itself(Check::Status(503, loading()));
    let pawd = Pawd::start(Setup::new().openai(&model)).await;
    let client = pawd.client().await;
    let agent = Some("default".to_owned());
    let mut events =
        ModelRpcClient::switch(&client, Some("m".into()), None, agent, None, Some(700))
            .await
            .unwrap();
    let error = end(&mut events).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error:?}");
    as_before(&pawd, &client).await;
    for wrong in [0, 3_600_001] {
        let asked = ModelRpcClient::switch(
            &client,
            Some("m".into()),
            None,
            Some("default".into()),
            None,
            Some(wrong),
        );
        assert_eq!(
            asked.await.map_err(|error| data(&error).kind).unwrap_err(),
            ErrorKind::Invalid
        );
    }
}

#[tokio::test]
async fn switch_that_is_left_changes_nothing_and_gives_back_what_it_loaded() {
    let (model, pawd, client) = pawd().await;
    let (_steps, held_open) = Answer::steps();
    model.will_load(held_open);
    let mut events = begin(&client, "other", Some("default")).await.unwrap();
    reaches(&mut events, "loading").await;
    model.was_asked_for("POST /api/generate").await;
    events.unsubscribe().await.unwrap();
    model.was_asked(2).await;
    assert_eq!(
        held(&model),
        [("other", "1800s"), ("other", "0s")].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    as_before(&pawd, &client).await;
}

#[tokio::test]
async fn switch_that_cannot_be_recorded_or_kept_changes_nothing() {
    let (model, mut pawd, client) = pawd().await;
    // A directory in the way of the file that is written.
    let in_the_way = pawd.root.path().join("state/providers.toml.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let error = switch(&client, "other", "default").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed, "{error:?}");
    as_before(&pawd, &client).await;
    assert_eq!(model.loaded(), [""; 0]);
    std::fs::remove_dir(&in_the_way).unwrap();

    let mut audit = pawd.audit.take().unwrap();
    audit.kill9().await;
    let error = switch(&client, "other", "default").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
    as_before(&pawd, &client).await;
    assert_eq!(model.loaded(), [""; 0]);
}

#[tokio::test]
async fn who_answers_is_changed_in_a_file_where_it_stands_in_one() {
    let (model, pawd, client) = pawd().await;
    // What the provider uses for all is in its section.
    let error = end(&mut begin(&client, "other", None).await.unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.hint.contains("--agent"), "{error:?}");
    pawd.root.write(
        "etc/pawd.d/60-agent.toml",
        "[agent.clerk]\nprovider = \"local\"\n",
    );
    paw_api::system::ConfigRpcClient::reload(&client)
        .await
        .unwrap();
    let error = switch(&client, "other", "clerk").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let error = switch(&client, "other", "nobody").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(chats(&model), [""; 0], "nobody is asked for what cannot be");

    // What was said by RPC gives way to what a file says from now on.
    switch(&client, "other", "default").await.unwrap();
    pawd.root.write(
        "etc/pawd.d/60-agent.toml",
        "[agent.default]\nmodel = \"m\"\n",
    );
    paw_api::system::ConfigRpcClient::reload(&client)
        .await
        .unwrap();
    let shown = agent(&client).await;
    assert_eq!((shown.model.as_str(), shown.switched), ("m", false));
}

fn spec(model: &Model) -> ProviderSpec {
    ProviderSpec {
        kind: Some("ollama".into()),
        base_url: Some(model.url()),
        model: Some("m".into()),
        max_retries: Some(0),
        ..ProviderSpec::default()
    }
}

#[tokio::test]
async fn registered_provider_is_switched_for_all_who_name_no_model() {
    let (model, pawd, client) = pawd().await;
    client.add("mine".into(), spec(&model)).await.unwrap();
    ProviderRpcClient::default(&client, "mine".into())
        .await
        .unwrap();
    let done = end(&mut begin(&client, "other", None).await.unwrap())
        .await
        .unwrap();
    assert_eq!((done.agent, done.now.provider.as_str()), (None, "mine"));
    let mine = ProviderRpcClient::show(&client, "mine".into())
        .await
        .unwrap();
    assert_eq!(mine.model, "other");
    rest(&mut say(&client, "hello").await).await;
    assert_eq!(chats(&model), ["other", "other"]);
    let records = AuditRpcClient::list(&client, None, Some("provider_changed".into()), None, None)
        .await
        .unwrap();
    let last = json!(records)[0].to_string();
    for word in ["switched", "\"model\":\"other\"", "\"was_model\":\"m\""] {
        assert!(last.contains(word), "no {word} in {last}");
    }
    drop(pawd);
}

#[tokio::test]
async fn agent_is_switched_back_to_what_the_configuration_says() {
    let (model, pawd, client) = pawd().await;
    client.add("mine".into(), spec(&model)).await.unwrap();
    let to = ModelRpcClient::switch(
        &client,
        Some("other".into()),
        Some("mine".into()),
        Some("default".into()),
        None,
        None,
    );
    end(&mut to.await.unwrap()).await.unwrap();
    assert_eq!(agent(&client).await.provider, "mine");
    // Whoever answers for an agent is needed.
    refused(
        ProviderRpcClient::remove(&client, "mine".into()).await,
        ErrorKind::Conflict,
    );
    let back = || async {
        let back = ModelRpcClient::switch(&client, None, None, Some("default".into()), None, None);
        end(&mut back.await.unwrap()).await
    };
    let done = back().await.unwrap();
    assert_eq!(
        (done.now.provider.as_str(), done.now.model.as_str()),
        ("local", "m")
    );
    as_before(&pawd, &client).await;
    assert_eq!(back().await.unwrap_err().kind, ErrorKind::Conflict);
    ProviderRpcClient::remove(&client, "mine".into())
        .await
        .unwrap();
    let records = AuditRpcClient::list(&client, None, Some("agent_changed".into()), None, None)
        .await
        .unwrap();
    let text = json!(records).to_string();
    assert!(
        text.contains("switched") && text.contains("switched back"),
        "{text}"
    );
}

#[tokio::test]
async fn model_that_a_server_would_answer_for_without_having_it_must_be_listed() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().openai(&model)).await;
    let client = pawd.client().await;
    let error = switch(&client, "other", "default").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.hint.contains("it lists: m"), "{error:?}");
    as_before(&pawd, &client).await;
    let unlisted = ModelRpcClient::switch(
        &client,
        Some("other".into()),
        None,
        Some("default".into()),
        Some(true),
        None,
    );
    end(&mut unlisted.await.unwrap()).await.unwrap();
    assert_eq!(agent(&client).await.model, "other");
}

#[tokio::test]
async fn provider_that_moved_while_it_was_tried_is_not_switched_to() {
    let (model, pawd, client) = pawd().await;
    client.add("mine".into(), spec(&model)).await.unwrap();
    let (steps, held_open) = Answer::steps();
    model.will_load(held_open);
    let to = ModelRpcClient::switch(
        &client,
        Some("other".into()),
        Some("mine".into()),
        Some("default".into()),
        None,
        None,
    );
    let mut events = to.await.unwrap();
    model.was_asked_for("POST /api/generate").await;
    let moved = ProviderSpec {
        base_url: Some("https://example.com".into()),
        ..ProviderSpec::default()
    };
    ProviderRpcClient::edit(&client, "mine".into(), moved)
        .await
        .unwrap();
    steps.send(Step::End).await.unwrap();
    let error = end(&mut events).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
    as_before(&pawd, &client).await;
}

#[tokio::test]
async fn configured_model_is_made_ready_at_the_start_which_does_not_wait_for_it() {
    let model = Model::start().await;
    let (steps, held_open) = Answer::steps();
    model.will_load(held_open);
    let setup = Setup::new().ollama_with(&model, "warm = true\n");
    // It becomes ready although the model does not.
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    model.was_asked_for("POST /api/generate").await;
    rest(&mut say(&client, "hello").await).await;
    assert_eq!(chats(&model), ["m"]);
    steps.send(Step::End).await.unwrap();
    model.was_asked(3).await;
    assert_eq!(
        (model.loaded(), chats(&model).len()),
        (vec!["m".to_owned()], 2)
    );
    let shown = ProviderRpcClient::show(&client, "local".into())
        .await
        .unwrap();
    assert_eq!(shown.warm, ["m"]);
}

#[tokio::test]
async fn provider_that_is_not_up_at_the_start_is_warmed_once_it_is() {
    let model = Model::start().await;
    model.has(&["m", "other"]);
    model.falls_into(Some(Trouble::Busy));
    let setup = Setup::new().provider(
        "local",
        "ollama",
        &model.url(),
        "warm = [\"other\", \"m\"]\n",
    );
    let _pawd = Pawd::start(setup).await;
    model.was_asked_for("GET /api/ps").await;
    assert_eq!(model.loaded(), [""; 0]);
    model.falls_into(None);
    model.was_asked(4).await;
    assert_eq!(model.loaded(), ["m", "other"]);
}

#[tokio::test]
async fn model_is_warmed_by_command_as_questions_will_need_it() {
    let (model, pawd, client) = pawd().await;
    let warmed = ModelRpcClient::warm(&client, None, None, None)
        .await
        .unwrap();
    assert_eq!(
        (warmed.provider.as_str(), warmed.model.as_str()),
        ("local", "m")
    );
    let listed = ModelRpcClient::list(&client, None).await.unwrap();
    let loaded: Vec<_> = listed
        .iter()
        .map(|it| (it.name.as_str(), it.loaded))
        .collect();
    assert_eq!(loaded, [("m", Some(true)), ("other", Some(false))]);
    // Loaded with room for fewer tokens, it would be loaded again for the first question.
    let asked = model.asked();
    let room = |line: &str| {
        let found = asked.iter().find(|it| it.line == line).unwrap();
        found.body["options"]["num_ctx"].clone()
    };
    assert_eq!(room("POST /api/generate"), json!(4096));
    assert_eq!(room("POST /api/chat"), json!(4096));
    let shown = ModelRpcClient::show(&client, "m".into(), None)
        .await
        .unwrap();
    assert_eq!(
        (shown.context, shown.size, shown.default),
        (Some(4096), Some(1), true)
    );
    let missing = ModelRpcClient::warm(&client, Some("nosuch".into()), None, None).await;
    refused(missing, ErrorKind::NotFound);
    let shown = pawd.pawctl(&["model", "warm", "other"]).await;
    assert_eq!(shown.status.code(), Some(0));
}

#[tokio::test]
async fn models_of_an_edited_provider_are_not_those_of_the_former() {
    let (model, elsewhere) = (Model::start().await, Model::start().await);
    model.has(&["m", "other"]);
    elsewhere.has(&["theirs"]);
    let pawd = Pawd::start(Setup::new().ollama(&model).openai(&elsewhere)).await;
    let client = pawd.client().await;
    client.add("mine".into(), spec(&model)).await.unwrap();
    let names = || async {
        let listed = ModelRpcClient::list(&client, Some("mine".into()))
            .await
            .unwrap();
        listed.into_iter().map(|it| it.name).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["m", "other"]);
    assert_eq!(names().await, ["m", "other"]);
    let asked = model.asked().into_iter();
    let lists = asked.filter(|it| it.line == "GET /api/tags").count();
    assert_eq!(lists, 1, "it was known the second time");
    let moved = ProviderSpec {
        base_url: Some(elsewhere.url()),
        ..ProviderSpec::default()
    };
    ProviderRpcClient::edit(&client, "mine".into(), moved)
        .await
        .unwrap();
    assert_eq!(names().await, ["theirs"]);
}
