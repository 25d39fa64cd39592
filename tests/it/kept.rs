//! Answers that a route keeps are given again to who asks exactly the same, and to nobody else.

use harness::{
    Answer, Asking, Model, Pawd, Setup, within,
    words::{rest, show},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    budget::BudgetRpcClient,
    provider::{ChatEvent, ChatResult},
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use serde_json::json;

const ROUTE: &str = "\n[route.main]\ntargets = [{ provider = \"local\" }]\ncache = { age = \"1h\", size = \"64K\" }\n";

/// An agent that answers by the route, with more lines of its section.
fn agent(name: &str, more: &str) -> String {
    format!("\n[agent.{name}]\nroute = \"main\"\n{more}\n")
}

fn setup(model: &Model) -> Setup {
    Setup::new()
        .ollama(model)
        .with(ROUTE)
        .with(&agent("exact", "temperature = 0.0"))
        .with(&agent("other", "temperature = 0.0"))
        .with(&agent("warm", "temperature = 0.5"))
        .with(&agent("plain", ""))
}

async fn ask(client: &Client, text: &str, agent: &str) -> (ChatResult, Vec<ChatEvent>) {
    let begun = Asking::new(text).agent(agent.to_owned()).ask(client);
    let mut chat = within("beginning a chat", begun).await.unwrap();
    let events = rest(&mut chat).await;
    match events.last() {
        Some(ChatEvent::Done(done)) => (done.clone(), events),
        other => panic!("{other:?}"),
    }
}

fn chats(model: &Model) -> usize {
    let asked = model.asked();
    asked
        .iter()
        .filter(|it| it.line == "POST /api/chat")
        .count()
}

#[tokio::test]
async fn same_question_is_answered_once_and_the_second_answer_says_so() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    model.will(Answer::says(&["four", "teen"]));
    let (first, _) = ask(&client, "seven and seven?", "exact").await;
    let sent = model
        .asked()
        .into_iter()
        .find(|it| it.line == "POST /api/chat");
    assert_eq!(sent.unwrap().body["options"]["temperature"], json!(0.0));
    let (second, events) = ask(&client, "seven and seven?", "exact").await;
    assert_eq!(chats(&model), 1);
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(second.text, "fourteen");
    assert_eq!(
        (&second.provider, &second.model),
        (&first.provider, &first.model)
    );
    assert_eq!(
        (second.usage.input_tokens, second.usage.output_tokens),
        (Some(0), Some(0))
    );
    let heard = |event: &ChatEvent| matches!(event, ChatEvent::Delta { seq: 0, text } if text == "fourteen");
    assert!(events.iter().any(heard), "{events:?}");
    // It is on record as any other action, as what it is.
    let action = show(&client, &second.action_id).await;
    let attempts = json!(action)["attempts"].clone();
    assert_eq!(attempts[0]["outcome"], json!("cached"), "{attempts}");
    let id = Some(second.action_id.clone());
    let records = AuditRpcClient::list(&client, id, None, None, None)
        .await
        .unwrap();
    let text = json!(records).to_string();
    assert!(
        text.contains("action_started") && text.contains("action_ended"),
        "{text}"
    );
    let shown = pawd
        .pawctl(&["chat", "seven and seven?", "--agent", "exact"])
        .await;
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.contains("nobody was asked"), "{said}");
}

#[tokio::test]
async fn answer_is_kept_for_its_agent_and_where_there_is_one_right_answer_alone() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    for (asked, agent) in ["exact", "other", "warm", "warm", "plain", "plain"]
        .iter()
        .enumerate()
    {
        let (done, _) = ask(&client, "hello", agent).await;
        assert!(!done.cached, "{agent}");
        assert_eq!(chats(&model), asked + 1);
    }
    let (done, _) = ask(&client, "hello ", "exact").await;
    assert!(!done.cached, "another question");
    let (done, _) = ask(&client, "hello", "other").await;
    assert!(done.cached);
}

#[tokio::test]
async fn question_that_comes_with_tools_is_asked_each_time() {
    let model = Model::start().await;
    let handy = agent("handy", "temperature = 0.0\nskills = [\"files\"]");
    let pawd = Pawd::start(setup(&model).with(&handy)).await;
    let client = pawd.client().await;
    for asked in 1..=3 {
        let (done, _) = ask(&client, "hello", "handy").await;
        assert!(!done.cached);
        assert_eq!(chats(&model), asked);
        let sent = model.asked();
        let sent = sent.iter().rfind(|it| it.line == "POST /api/chat");
        let tools = sent.unwrap().body["tools"].as_array();
        assert!(tools.is_some_and(|it| !it.is_empty()), "it has tools");
    }
}

#[tokio::test]
async fn answer_that_was_cut_short_or_failed_is_not_kept() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    let long = json!({"model": "m", "message": {"role": "assistant", "content": "half an"}, "done": true, "done_reason": "length"});
    steps
        .try_send(harness::Step::Raw(format!("{long}\n")))
        .unwrap();
    steps.try_send(harness::Step::Cut).unwrap();
    model.will(answer);
    let (done, _) = ask(&client, "hello", "exact").await;
    assert_eq!(done.finish, "length");
    let (done, _) = ask(&client, "hello", "exact").await;
    assert!(!done.cached && done.text == "Hello world");
}

#[tokio::test]
async fn route_that_keeps_nothing_any_more_asks_again() {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    ask(&client, "hello", "exact").await;
    pawd.root.write(
        "etc/pawd.d/60-route.toml",
        "[route.main]\ntargets = [{ provider = \"local\" }]\n",
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    let (done, _) = ask(&client, "hello", "exact").await;
    assert!(!done.cached);
    assert_eq!(chats(&model), 2);
}

#[tokio::test]
async fn answer_kept_of_a_provider_on_this_host_keeps_its_conversation_here() {
    let (model, away) = (Model::start().await, Model::start().await);
    let setup = setup(&model)
        .away(&away, "")
        .with("\n[route.far]\ntargets = [{ provider = \"away\" }]\ncache = {}\n");
    let root = setup.root();
    root.write(
        "etc/pawd.d/60-default.toml",
        "default_provider = \"local\"\n",
    );
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    ask(&client, "a secret of this host", "exact").await;
    let (kept, _) = ask(&client, "a secret of this host", "exact").await;
    assert!(kept.cached);
    // The conversation that it was given in was held here, too.
    let far = Asking::new("go on")
        .agent("exact".to_owned())
        .session(kept.session)
        .provider("away".to_owned())
        .ask(&client);
    harness::words::refused(far.await.map(drop), paw_api::ErrorKind::Denied);
    // Nor is it given to a question that would go elsewhere.
    away.will(Answer::says(&["another"]));
    let far = Asking::new("a secret of this host")
        .agent("exact".to_owned())
        .route("far".to_owned())
        .ask(&client);
    let events = rest(&mut far.await.unwrap()).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(done)) if !done.cached && done.text == "another"),
        "{events:?}"
    );
}

#[tokio::test]
async fn answer_that_is_kept_counts_as_a_request_and_takes_no_tokens() {
    let model = Model::start().await;
    let lines = "\n[limit.few]\nrequests_per_minute = 2\n[budget.all]\nper = \"ever\"\ntokens = 10_000\n\
                 [actions]\nchat_timeout = \"1s\"\n";
    let pawd = Pawd::start(setup(&model).with(lines)).await;
    let client = pawd.client().await;
    ask(&client, "hello", "exact").await;
    let spent = || async {
        let budget = BudgetRpcClient::show(&client, "all".into()).await.unwrap();
        (budget.spent[0].tokens, budget.spent[0].reserved_tokens)
    };
    let before = spent().await;
    assert!(ask(&client, "hello", "exact").await.0.cached);
    assert_eq!(spent().await, before);
    let begun = Asking::new("hello").agent("exact".to_owned()).ask(&client);
    let events = rest(&mut begun.await.unwrap()).await;
    let Some(ChatEvent::Failed { message, error, .. }) = events.last() else {
        panic!("{events:?}");
    };
    assert!(message.contains("limit few"), "{message}");
    assert!(error.retry_after_ms.is_some(), "{error:?}");
    assert_eq!(chats(&model), 1);
}
