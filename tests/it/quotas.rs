//! Limits and budgets: what may be asked in a minute and spent in a day, said with the name of what stands against it.

use std::time::{Duration, Instant};

use harness::{
    Answer, Asking, Model, Pawd, Setup, Step, within,
    words::{accepted, call, finally, next, refused, rest, say},
};
use jsonrpsee::async_client::Client;
use nix::sys::signal::Signal;
use paw_api::{
    ErrorKind,
    agent::SessionRpcClient,
    budget::{Budget, BudgetRpcClient, Spent},
    provider::{ChatEvent, ChatResult},
    system::ConfigRpcClient,
};
use paw_policy::State;
use serde_json::{Value, json};

use crate::clock::ended_later;

/// A token costs a millionth, of the question and of the answer.
const PRICE: &str = "\n[price.\"local/m\"]\ninput = 1_000_000\noutput = 1_000_000\n";

/// An answer that is told what it may take: little enough to be counted by hand.
const SHORT: &str = "max_tokens = 100\n";

/// One model behind one provider, an agent whose answers have at most 100 tokens, and these lines.
async fn start(lines: &str) -> (Model, Pawd, Client) {
    begin(Setup::new().without_skills(), lines).await
}

async fn begin(setup: Setup, lines: &str) -> (Model, Pawd, Client) {
    let model = Model::start().await;
    let setup = setup.with(SHORT).ollama(&model).with(PRICE).with(lines);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

/// An answer that calls a tool, for which the provider counts so many tokens, all of them of the question.
fn counted_call(tokens: u64, tool: &str, arguments: Value) -> Answer {
    let (steps, answer) = Answer::steps();
    let call = json!({"function": {"name": tool, "arguments": arguments}});
    let message = json!({"role": "assistant", "content": "", "tool_calls": [call]});
    let end = json!({"model": "m", "message": message, "done": true, "done_reason": "stop",
        "prompt_eval_count": tokens, "eval_count": 0});
    steps.try_send(Step::Raw(format!("{end}\n"))).expect("room");
    answer
}

/// Why there is no answer: in words, and when to ask again.
type No = (String, Option<u64>);

async fn ask(client: &Client) -> Result<ChatResult, No> {
    match rest(&mut say(client, "hello").await).await.pop() {
        Some(ChatEvent::Done(result)) => Ok(result),
        Some(ChatEvent::Failed { message, error, .. }) => Err((message, error.retry_after_ms)),
        other => panic!("the chat ended with {other:?}"),
    }
}

async fn answered(client: &Client) -> ChatResult {
    ask(client).await.unwrap()
}

async fn budget(client: &Client, name: &str) -> Budget {
    BudgetRpcClient::show(client, name.into()).await.unwrap()
}

/// What was spent of a budget that is not split.
async fn spent(client: &Client, name: &str) -> Spent {
    let mut budget = budget(client, name).await;
    assert!(budget.spent.len() <= 1, "{budget:?}");
    budget.spent.pop().unwrap_or(Spent {
        of: String::new(),
        cost: 0,
        tokens: 0,
        reserved_cost: 0,
        reserved_tokens: 0,
    })
}

#[tokio::test]
async fn request_over_the_limit_says_which_one_and_when_to_ask_again() {
    let (model, _pawd, client) =
        start("\n[actions]\nchat_timeout = \"2s\"\n[limit.few]\neach = [\"user\"]\nrequests_per_minute = 2\n").await;
    for _ in 0..2 {
        answered(&client).await;
    }
    let began = Instant::now();
    let (text, again) = ask(&client).await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "what does not come in time is not waited for"
    );
    assert!(text.contains("limit few of 2 requests a minute"), "{text}");
    let again = again.unwrap();
    assert!((20_000..=30_000).contains(&again), "{again}");
    assert_eq!(model.questions(), 2);
}

#[tokio::test]
async fn tokens_over_the_limit_are_waited_for() {
    // One in a millisecond.
    let (model, _pawd, client) =
        start("\n[limit.slow]\nmodel = \"m\"\ntokens_per_minute = 60_000\n").await;
    model.will(Answer::counted(61_000));
    answered(&client).await;
    let began = Instant::now();
    answered(&client).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn limit_is_of_those_that_it_names_and_of_each_alone() {
    let lines = "\n[actions]\nchat_timeout = \"2s\"\n[agent.other]\n\n[limit.agent]\nagent = \"other\"\nrequests_per_minute = 1\n\
        [limit.session]\neach = [\"session\"]\nrequests_per_minute = 1\n";
    let (_model, pawd, client) = start(lines).await;
    let first = answered(&client).await;
    answered(&client).await;
    let say = |more: &[&str]| {
        let words = [&["chat", "hello"], more].concat();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let pawd = &pawd;
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = pawd.pawctl(&words).await;
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        }
    };
    let (done, told) = say(&["--session", &first.session]).await;
    assert!(!done && told.contains("limit session"), "{told}");
    let (done, told) = say(&["--agent", "other"]).await;
    assert!(done, "{told}");
    let (done, told) = say(&["--agent", "other"]).await;
    assert!(!done && told.contains("limit agent"), "{told}");
}

#[tokio::test]
async fn limit_of_a_provider_or_a_model_is_of_that_one_alone() {
    let other = Model::start().await;
    let lines = format!(
        "\n[actions]\nchat_timeout = \"2s\"\n[provider.other]\nkind = \"ollama\"\nbase_url = \"{}\"\nmodel = \"n\"\n\
         [limit.one]\nprovider = \"local\"\nrequests_per_minute = 1\n[limit.two]\nmodel = \"n\"\nrequests_per_minute = 2\n",
        other.url()
    );
    let (model, _pawd, client) = start(&lines).await;
    let of = |provider: &'static str| {
        let client = &client;
        async move {
            let mut chat = Asking::new("hello")
                .provider(provider.to_owned())
                .ask(client)
                .await
                .unwrap();
            match rest(&mut chat).await.pop() {
                Some(ChatEvent::Done(_)) => None,
                Some(ChatEvent::Failed { message, .. }) => Some(message),
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(of("local").await, None);
    let told = of("local").await.expect("one a minute");
    assert!(told.contains("limit one of 1 requests a minute"), "{told}");
    // That one is asked no more says nothing of the other, which has a limit of its own.
    for _ in 0..2 {
        assert_eq!(of("other").await, None);
    }
    let told = of("other").await.expect("two a minute");
    assert!(told.contains("limit two of 2 requests a minute"), "{told}");
    assert_eq!((model.questions(), other.questions()), (1, 2));
}

#[tokio::test]
async fn budget_that_is_spent_between_two_tools_ends_the_turn_and_keeps_what_was_done() {
    let lines = "\n[budget.daily]\nper = \"day\"\ncost = 0.01\n";
    let (model, pawd, client) = begin(Setup::new(), lines).await;
    harness::words::leave_in_workspace(&pawd, "a.txt", "heron");
    model.will(counted_call(9_950, "files__read", json!({"path": "a.txt"})));
    let mut chat = say(&client, "read it").await;
    let events = rest(&mut chat).await;
    let Some(ChatEvent::Failed {
        message,
        error,
        result: Some(result),
    }) = events.last()
    else {
        panic!("{events:?}");
    };
    assert!(message.contains("budget daily"), "{message}");
    assert_eq!(error.kind, ErrorKind::Denied, "{message}");
    // It has a final text all the same.
    assert_eq!(result.finish, "over_budget");
    for part in ["budget daily", "files/read: done"] {
        assert!(result.text.contains(part), "{}", result.text);
    }
    assert_eq!(model.questions(), 1, "nobody is asked again");
    // The call was done and is in the conversation for whoever goes on with it.
    let read = |event: &ChatEvent| matches!(event, ChatEvent::Tool(it) if it.state == "completed");
    assert!(events.iter().any(read), "{events:?}");
    let session = events.iter().find_map(|event| match event {
        ChatEvent::Accepted { session, .. } => Some(session.clone()),
        _ => None,
    });
    let shown = SessionRpcClient::show(&client, session.unwrap(), None);
    let shown = within("showing a session", shown).await.unwrap();
    let text = serde_json::to_string(&shown).unwrap();
    assert!(text.contains("heron"), "{text}");
    let last = shown.turns.last().unwrap();
    assert_eq!((&*last.role, &last.text), ("assistant", &result.text));
}

#[tokio::test]
async fn what_is_spent_is_counted_and_over_the_budget_nobody_is_asked() {
    let (model, mut pawd, client) = start("\n[budget.daily]\nper = \"day\"\ncost = 0.001\n").await;
    model.will(Answer::counted(700));
    assert_eq!(answered(&client).await.cost.unwrap(), 0.0007);
    let now = spent(&client, "daily").await;
    assert_eq!((now.cost, now.tokens, now.reserved_cost), (700, 700, 0));
    model.will(Answer::counted(290));
    answered(&client).await;
    let (text, again) = ask(&client).await.unwrap_err();
    assert!(text.contains("budget daily of 0.001 a day"), "{text}");
    assert!(
        !text.contains("0.00099"),
        "what others spent is an administrator's to know: {text}"
    );
    assert!(again.is_some_and(|ms| ms <= 86_400_000), "{again:?}");
    assert_eq!(model.questions(), 2);
    // A restart forgets nothing.
    pawd.daemon.signal(Signal::SIGTERM);
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(spent(&client, "daily").await.cost, 990);
    ask(&client).await.unwrap_err();
    let shown = pawd.pawctl(&["budget", "show", "daily"]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("0.00099") && shown.contains("0.001"),
        "{shown}"
    );
    refused(
        BudgetRpcClient::show(&client, "nobody".into()).await,
        ErrorKind::NotFound,
    );
}

#[tokio::test]
async fn day_that_is_spent_ends_and_the_next_one_begins_with_nothing_spent() {
    let lines =
        "\n[budget.daily]\nper = \"day\"\ncost = 0.001\n\n[budget.all]\nper = \"ever\"\ncost = 1\n";
    let (model, mut pawd, client) = start(lines).await;
    model.will(Answer::counted(990));
    answered(&client).await;
    ask(&client).await.unwrap_err();
    drop(client);
    // The next life is a day later.
    assert_eq!(pawd.stop().await, 0);
    ended_later(&pawd, Duration::from_secs(24 * 3_600));
    pawd.start_again().await;
    let client = pawd.client().await;
    let at_first = budget(&client, "daily").await;
    assert_eq!(at_first.spent, []);
    // Three tokens of the question and two of the answer; what has no end goes on from where it was.
    answered(&client).await;
    let now = ["daily", "all"].map(|name| spent(&client, name));
    let [daily, all] = now;
    assert_eq!((daily.await.cost, all.await.cost), (5, 995));
    // This day can be spent as well.
    model.will(Answer::counted(990));
    answered(&client).await;
    let (text, _) = ask(&client).await.unwrap_err();
    assert!(text.contains("budget daily"), "{text}");
}

#[tokio::test]
async fn question_over_a_budget_is_denied_and_exit_code_4_says_so() {
    let (model, pawd, client) = start("\n[budget.none]\nper = \"ever\"\ncost = 0\n").await;
    match rest(&mut say(&client, "hello").await).await.pop() {
        Some(ChatEvent::Failed { message, error, .. }) => {
            assert_eq!(error.kind, ErrorKind::Denied, "{message}");
            assert!(message.contains("budget none"), "{message}");
        }
        other => panic!("the chat ended with {other:?}"),
    }
    let output = pawd.pawctl(&["chat", "hello"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(said.contains("budget none"), "{said}");
    assert_eq!(model.questions(), 0);
}

#[tokio::test]
async fn what_is_set_aside_for_one_question_is_not_there_for_another() {
    // Room for the estimate of one question, of about a hundred tokens and more for its answer, and not for two.
    let (model, _pawd, client) =
        start("\n[budget.all]\neach = [\"user\"]\nper = \"ever\"\ntokens = 200\n").await;
    let (steps, answer) = Answer::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    accepted(&mut chat).await;
    within("the model is asked", model.was_asked(1)).await;
    let held = spent(&client, "all").await;
    assert!((101..200).contains(&held.reserved_tokens), "{held:?}");
    let (text, _) = ask(&client).await.unwrap_err();
    assert!(text.contains("set aside"), "{text}");
    steps.send(Step::End).await.unwrap();
    rest(&mut chat).await;
    let now = spent(&client, "all").await;
    assert_eq!(
        (now.tokens, now.reserved_tokens),
        (5, 0),
        "3 of the question and 2 of the answer"
    );
    answered(&client).await;
    assert_eq!(model.questions(), 2);
}

#[tokio::test]
async fn answer_that_is_cut_off_or_left_is_spent_all_the_same() {
    let (model, _pawd, client) = start("\n[budget.all]\nper = \"ever\"\ncost = 1\n").await;
    model.will(Answer::cut(&[&"word ".repeat(60)]));
    ask(&client).await.unwrap_err();
    let cut = spent(&client, "all").await;
    // 300 bytes were heard, at three a token.
    assert!(cut.cost > 100 && cut.reserved_cost == 0, "{cut:?}");

    let (steps, answer) = Answer::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    steps.send(Step::Piece("word ".repeat(60))).await.unwrap();
    next(&mut chat).await;
    drop(chat);
    finally(&client, &id).await;
    let left = spent(&client, "all").await;
    assert_eq!((left.cost, left.reserved_cost), (2 * cut.cost, 0));
    // Who refuses does nothing for it.
    model.will(Answer::Status(
        401,
        Vec::new(),
        json!({"error": "no"}).to_string(),
    ));
    ask(&client).await.unwrap_err();
    assert_eq!(spent(&client, "all").await, left);
}

#[tokio::test]
async fn question_that_ended_with_pawd_counts_as_what_was_set_aside_for_it() {
    // With tools, which are sent with the question and counted with it.
    let budget = "\n[budget.all]\nper = \"month\"\ncost = 1\n";
    let (model, mut pawd, client) = begin(Setup::new(), budget).await;
    let (_steps, answer) = Answer::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    within("the model is asked", model.was_asked(1)).await;
    let held = spent(&client, "all").await;
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    finally(&client, &id).await;
    let now = spent(&client, "all").await;
    assert_eq!((now.cost, now.reserved_cost), (held.reserved_cost, 0));
}

#[tokio::test]
async fn over_the_budget_a_target_that_costs_nothing_answers() {
    let (dear, free) = (Model::start().await, Model::start().await);
    let setup = Setup::new()
        .with("route = \"main\"\n")
        .with(SHORT)
        .provider("local", "ollama", &dear.url(), "")
        .provider("free", "ollama", &free.url(), "")
        .with(PRICE)
        .with(
            "\n[route.main]\ntargets = [{ provider = \"local\" }, { provider = \"free\" }]\n\
        [budget.none]\nper = \"ever\"\ncost = 0\n",
        );
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let result = answered(&client).await;
    assert_eq!(result.provider, "free");
    assert_eq!((dear.questions(), free.questions()), (0, 1));
}

#[tokio::test]
async fn budget_of_each_agent_is_its_own_and_a_reload_changes_it() {
    let lines = "\n[agent.other]\nmax_tokens = 100\n\n[budget.each]\neach = [\"agent\", \"user\"]\nper = \"day\"\ncost = 0.001\n";
    let (model, pawd, client) = start(lines).await;
    model.will(Answer::counted(990));
    answered(&client).await;
    ask(&client).await.unwrap_err();
    let other = pawd.pawctl(&["chat", "hello", "--agent", "other"]).await;
    assert!(other.status.success(), "{other:?}");
    let parts: Vec<_> = budget(&client, "each")
        .await
        .spent
        .into_iter()
        .map(|it| (it.of, it.cost))
        .collect();
    let uid = nix::unistd::geteuid();
    assert_eq!(
        parts.iter().map(|(_, cost)| *cost).collect::<Vec<_>>(),
        [990, 5],
        "{parts:?} of {uid}"
    );
    assert!(parts[0].0.starts_with("agent=default,user="), "{parts:?}");
    pawd.root.write(
        "etc/pawd.d/50-more.toml",
        "[budget.each]\neach = [\"agent\", \"user\"]\nper = \"day\"\ncost = 0.01\n",
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    answered(&client).await;
}

#[tokio::test]
async fn who_waits_for_a_limit_keeps_nobody_else_from_being_served() {
    let lines =
        "\n[limit.few]\neach = [\"user\"]\nrequests_per_minute = 1\n[actions]\nconcurrency = 2\n";
    let (model, _pawd, client) = begin(Setup::new(), lines).await;
    answered(&client).await;
    // One of the two places is one to wait in; what finds it taken is told at once.
    let mut waiting = say(&client, "hello").await;
    accepted(&mut waiting).await;
    let (text, again) = ask(&client).await.unwrap_err();
    assert!(text.contains("limit few") && again.is_some(), "{text}");
    let action = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(action.state, State::Completed);
    assert_eq!(model.questions(), 1);
}

#[tokio::test]
async fn what_is_given_back_is_there_for_who_waits() {
    // Room for one estimate in a minute, of which little is used.
    let (model, _pawd, client) =
        start("\n[limit.slow]\nmodel = \"m\"\ntokens_per_minute = 150\n").await;
    let (steps, answer) = Answer::steps();
    model.will(answer);
    let mut first = say(&client, "hello").await;
    accepted(&mut first).await;
    within("the model is asked", model.was_asked(1)).await;
    let mut second = say(&client, "hello").await;
    accepted(&mut second).await;
    let began = Instant::now();
    steps.send(Step::End).await.unwrap();
    rest(&mut first).await;
    let ended = rest(&mut second).await.pop();
    assert!(matches!(ended, Some(ChatEvent::Done(_))), "{ended:?}");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "it would be a minute"
    );
}

#[tokio::test]
async fn what_a_conversation_spent_is_forgotten_with_it() {
    let (_model, _pawd, client) =
        start("\n[budget.each]\neach = [\"session\"]\nper = \"ever\"\ntokens = 9_000\n").await;
    let (first, second) = (answered(&client).await, answered(&client).await);
    assert_eq!(budget(&client, "each").await.spent.len(), 2);
    SessionRpcClient::delete(&client, first.session)
        .await
        .unwrap();
    let left: Vec<_> = budget(&client, "each").await.spent;
    let of = format!("session={}", second.session);
    assert_eq!(
        left.iter().map(|it| it.of.as_str()).collect::<Vec<_>>(),
        [of]
    );
}

#[tokio::test]
async fn question_that_ended_with_pawd_counts_also_when_its_agent_is_gone() {
    let (model, mut pawd, _) = start("\n[budget.all]\nper = \"month\"\ncost = 1\n").await;
    pawd.root.write(
        "etc/pawd.d/50-more.toml",
        "[agent.other]\nmax_tokens = 100\n",
    );
    let client = pawd.client().await;
    ConfigRpcClient::reload(&client).await.unwrap();
    let (_steps, answer) = Answer::steps();
    model.will(answer);
    let agent = Some("other".to_owned());
    let begun = Asking::new("hello").agent(agent).ask(&client);
    let mut chat = within("beginning a chat", begun).await.unwrap();
    let id = accepted(&mut chat).await;
    within("the model is asked", model.was_asked(1)).await;
    pawd.daemon.kill9().await;
    pawd.root.write("etc/pawd.d/50-more.toml", "");
    pawd.start_again().await;
    let client = pawd.client().await;
    finally(&client, &id).await;
    let now = spent(&client, "all").await;
    assert!(now.cost > 0 && now.reserved_cost == 0, "{now:?}");
}
