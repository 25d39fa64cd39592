//! What an answer cost: by the prices that are configured, for each attempt, whatever became of it.

use harness::{
    Answer, Asking, Chaos, Dialect, Model, Pawd, Setup, Step,
    chaos::{Fault, Then},
    within,
    words::{accepted, finally, next, rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    action::{Action, ActionRpcClient},
    provider::{ChatEvent, ChatResult},
    system::{ConfigRpcClient, PolicyRpcClient},
};
use paw_policy::State;
use serde_json::json;

/// A dollar for a thousand tokens of a question, two for those of an answer.
const PRICED: &str = "[price.\"local/m\"]\ninput = 1_000_000_000\noutput = 2_000_000_000\n";

fn priced(model: &Model) -> Setup {
    let twice = "max_retries = 1\n";
    Setup::new().ollama_with(model, twice).with(PRICED)
}

async fn ask(client: &Client) -> (Option<ChatResult>, Action) {
    ask_of(client, "local").await
}

async fn ask_of(client: &Client, provider: &str) -> (Option<ChatResult>, Action) {
    let provider = Some(provider.to_owned());
    let begun = Asking::new("hello").provider(provider).ask(client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    let id = accepted(&mut chat).await;
    let result = match rest(&mut chat).await.pop() {
        Some(ChatEvent::Done(result)) => Some(result),
        _ => None,
    };
    (result, finally(client, &id).await)
}

/// Thousandths of a dollar of each attempt, which are tokens here, and whether they are assumed.
fn costs(action: &Action) -> Vec<(u64, bool)> {
    let attempts = action.attempts.iter();
    attempts
        .map(|it| {
            let cost = it.cost.expect("each has one");
            ((cost * 1_000.0).round() as u64, it.cost_estimated)
        })
        .collect()
}

#[tokio::test]
async fn answer_costs_what_its_tokens_cost() {
    let model = Model::start().await;
    let pawd = Pawd::start(priced(&model)).await;
    let client = pawd.client().await;
    let (result, action) = ask(&client).await;
    let result = result.expect("it answers");
    // Three tokens of the question and two of the answer.
    assert_eq!(result.cost, Some(0.007));
    assert!(!result.cost_estimated);
    assert_eq!(costs(&action), [(7, false)]);
    let usage = action.attempts[0].usage;
    assert_eq!(
        (usage.input_tokens, usage.output_tokens),
        (Some(3), Some(2))
    );
    let shown = pawd.pawctl(&["action", "show", &action.id]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("$0.007"));
}

/// An answer that took a million tokens of each side, as this kind of provider says so.
fn million(dialect: Dialect) -> String {
    let (said, usage) = (json!("hi"), 1_000_000);
    match dialect {
        Dialect::Gemini => dialect.record(&json!({
            "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": said}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": usage, "candidatesTokenCount": usage},
        })),
        Dialect::Mistral => {
            let last = dialect.record(&json!({
                "model": "m", "choices": [{"index": 0, "delta": {"content": said}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": usage, "completion_tokens": usage, "total_tokens": 2 * usage},
            }));
            last + &dialect.raw("[DONE]")
        }
        other => panic!("{other:?} is not asked"),
    }
}

/// The list that ships, for a provider elsewhere: cents for a million tokens of the question and of the answer together.
#[tokio::test]
async fn models_of_the_shipped_list_cost_what_it_says_and_others_what_is_assumed() {
    let chaos = Chaos::start();
    let mut setup = Setup::new();
    let models = [
        (Dialect::Gemini, "gemini-2.5-flash", Some(280)),
        (Dialect::Gemini, "gemini-2.5-flash-lite", Some(50)),
        (Dialect::Gemini, "gemini-2.5-pro", None),
        (Dialect::Mistral, "mistral-large-2512", Some(200)),
        (Dialect::Mistral, "mistral-medium-2508", Some(240)),
        (Dialect::Mistral, "mistral-small-latest", Some(75)),
        (Dialect::Mistral, "codestral-2508", Some(120)),
        (Dialect::Mistral, "ministral-8b-2512", Some(30)),
        (Dialect::Mistral, "open-mistral-7b", None),
    ];
    for (number, (dialect, model, _)) in models.iter().enumerate() {
        let (name, kind) = (format!("p{number}"), dialect.kind());
        let fault = Fault::Stream(Vec::new(), million(*dialect), Then::Ends);
        chaos.plays(&name, *dialect, fault, None);
        // An address that is not of the loopback, and leads to it.
        let url = chaos.url(&name, *dialect).replace("127.0.0.1", "0.0.0.0");
        setup = setup.with(&format!(
            "\n[provider.{name}]\nkind = \"{kind}\"\nbase_url = \"{url}\"\nmodel = \"{model}\"\nallow_plaintext = true\n"
        ));
    }
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    for (number, (_, model, cents)) in models.iter().enumerate() {
        let (result, _) = ask_of(&client, &format!("p{number}")).await;
        let result = result.expect("it answers");
        let cost = result.cost.expect("it has one") * 100.0;
        // What nobody knows counts as the dearest: 30 dollars and 180.
        let expected = (cents.unwrap_or(21_000), cents.is_none());
        assert_eq!(
            (cost.round() as u64, result.cost_estimated),
            expected,
            "{model}"
        );
    }
}

#[tokio::test]
async fn attempts_that_failed_count_as_far_as_they_were_worked_on() {
    let model = Model::start().await;
    let pawd = Pawd::start(priced(&model)).await;
    let client = pawd.client().await;
    // What is refused costs nothing; what breaks off costs its question and what was said, as they are estimated.
    model.will(Answer::overload());
    let (result, action) = ask(&client).await;
    assert_eq!(costs(&action), [(0, false), (7, false)]);
    assert!(!result.expect("it answers").cost_estimated);

    model.will(Answer::cut(&["half an answer"]));
    let (result, action) = ask(&client).await;
    let found = costs(&action);
    let said = 2 * 14_u64.div_ceil(3);
    assert!(found[0].0 > said && found[0].1, "{found:?}");
    assert_eq!(found[1], (7, false));
    let result = result.expect("it answers");
    assert!(result.cost_estimated);
    let whole = found
        .iter()
        .map(|(cost, _)| *cost as f64 / 1_000.0)
        .sum::<f64>();
    assert!((result.cost.expect("it has one") - whole).abs() < 1e-9);
}

#[tokio::test]
async fn answer_that_was_taken_back_costs_what_was_heard() {
    let model = Model::start().await;
    let pawd = Pawd::start(priced(&model)).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    steps.send(Step::Piece("I think".into())).await.unwrap();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    next(&mut chat).await;
    let cancel = ActionRpcClient::cancel(&client, id.clone());
    within("cancelling", cancel).await.expect("it is there");
    let action = finally(&client, &id).await;
    let found = costs(&action);
    assert!(
        found.len() == 1 && found[0].0 > 6 && found[0].1,
        "{found:?}"
    );
}

#[tokio::test]
async fn provider_on_this_host_costs_nothing_and_one_without_a_price_what_is_assumed() {
    let (here, away) = (Model::start().await, Model::start().await);
    let unknown = "[prices]\nunknown = { input = 5_000_000_000, output = 0 }\n";
    let setup = Setup::new().here_and_away(&here, &away, "").with(unknown);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let (result, action) = ask_of(&client, "here").await;
    assert_eq!(costs(&action), [(0, false)]);
    assert_eq!(result.expect("it answers").cost, Some(0.0));
    let (result, action) = ask_of(&client, "away").await;
    assert_eq!(costs(&action), [(15, true)]);
    assert!(result.expect("it answers").cost_estimated);
}

#[tokio::test]
async fn prices_change_with_a_reload_and_a_fault_in_one_changes_nothing() {
    let model = Model::start().await;
    let pawd = Pawd::start(priced(&model)).await;
    let client = pawd.client().await;
    assert_eq!(costs(&ask(&client).await.1), [(7, false)]);
    let file = "etc/pawd.d/60-prices.toml";
    let other = "[price.\"local/m\"]\ninput = 0\noutput = 1_000_000_000\n";
    pawd.root.write(file, other);
    let reload = ConfigRpcClient::reload(&client);
    within("a reload", reload).await.expect("it is right");
    assert_eq!(costs(&ask(&client).await.1), [(2, false)]);
    let wrong = "[price.\"locl/m\"]\ninput = 0\noutput = 0\n";
    pawd.root.write(file, wrong);
    let reload = ConfigRpcClient::reload(&client);
    let error = within("a reload", reload).await.expect_err("it is wrong");
    let said = error.to_string();
    assert!(
        said.contains("there is no provider") && said.contains("locl"),
        "{said}"
    );
    assert_eq!(costs(&ask(&client).await.1), [(2, false)]);
}

/// A rule may say how much a question costs at most. What it does not cost, it may.
#[tokio::test]
async fn rule_can_bound_what_a_question_costs() {
    let (here, away) = (Model::start().await, Model::start().await);
    let unknown = "[prices]\nunknown = { input = 1_000_000_000, output = 0 }\n";
    let setup = Setup::new().here_and_away(&here, &away, "").with(unknown);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    // A token costs a thousandth of a dollar, so this is about five thousand tokens.
    let rule = "@id(\"dear\") forbid (principal, action == Action::\"chat\", resource) when { context.cost > 5000000 };\n";
    pawd.root.write("etc/policy/70-cost.cedar", rule);
    within("reloading", PolicyRpcClient::reload(&client))
        .await
        .unwrap();
    let asks = async |provider: &str, text: &str| {
        let provider = Some(provider.to_owned());
        let begun = Asking::new(text).provider(provider).ask(&client);
        let mut chat = within("beginning a chat", begun).await.expect("accepted");
        let id = accepted(&mut chat).await;
        rest(&mut chat).await;
        finally(&client, &id).await
    };
    let long = "long words ".repeat(2_000);
    assert_eq!(asks("away", "hello").await.state, State::Completed);
    let denied = asks("away", &long).await;
    assert_eq!(denied.state, State::Rejected);
    assert_eq!(denied.verdict.rules, ["dear"]);
    assert_eq!(asks("here", &long).await.state, State::Completed);
    assert_eq!(away.questions(), 1);
}
