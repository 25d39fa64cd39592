//! Budgets are set over the control socket, by administrators, are kept, and never take what root decided.

use harness::{
    Model, Pawd, Setup,
    words::{refused, rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    budget::{Budget, BudgetRpcClient, BudgetSpec},
    provider::ChatEvent,
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use serde_json::json;

async fn pawd() -> (Model, Pawd, Client) {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

fn tokens(most: u64) -> BudgetSpec {
    BudgetSpec {
        per: Some("ever".into()),
        tokens: Some(most),
        ..BudgetSpec::default()
    }
}

async fn set(client: &Client, name: &str, spec: BudgetSpec) -> Budget {
    let set = BudgetRpcClient::set(client, name.into(), spec).await;
    set.expect("it can be set")
}

/// Why there is no answer, if there is none.
async fn refusal(client: &Client) -> Option<String> {
    match rest(&mut say(client, "hello").await).await.pop() {
        Some(ChatEvent::Done(_)) => None,
        Some(ChatEvent::Failed { message, .. }) => Some(message),
        other => panic!("the chat ended with {other:?}"),
    }
}

#[tokio::test]
async fn budget_that_is_set_holds_at_once_and_after_a_restart_until_it_is_removed() {
    let (_model, mut pawd, client) = pawd().await;
    assert_eq!(refusal(&client).await, None);
    let budget = set(&client, "few", tokens(3)).await;
    assert!(
        budget.registered && budget.file.ends_with("providers.toml"),
        "{budget:?}"
    );
    let why = refusal(&client).await.expect("it is spent");
    assert!(why.contains("budget few"), "{why}");
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert!(refusal(&client).await.is_some());
    // What is not said stays.
    let more = BudgetSpec {
        tokens: Some(100_000),
        ..BudgetSpec::default()
    };
    let budget = set(&client, "few", more).await;
    assert_eq!(
        (budget.per.as_str(), budget.tokens),
        ("ever", Some(100_000))
    );
    assert_eq!(refusal(&client).await, None);
    assert!(
        BudgetRpcClient::show(&client, "few".into())
            .await
            .unwrap()
            .spent[0]
            .tokens
            > 0
    );
    BudgetRpcClient::remove(&client, "few".into())
        .await
        .unwrap();
    refused(
        BudgetRpcClient::show(&client, "few".into()).await,
        ErrorKind::NotFound,
    );
    refused(
        BudgetRpcClient::remove(&client, "few".into()).await,
        ErrorKind::NotFound,
    );
}

#[tokio::test]
async fn budget_of_root_has_the_last_word() {
    let (_model, pawd, client) = pawd().await;
    set(&client, "few", tokens(3)).await;
    let theirs = "[budget.few]\nper = \"day\"\ntokens = 1_000_000\n";
    pawd.root.write("etc/pawd.d/60-few.toml", theirs);
    ConfigRpcClient::reload(&client).await.unwrap();
    let shown = BudgetRpcClient::show(&client, "few".into()).await.unwrap();
    assert_eq!((shown.registered, shown.tokens), (false, Some(1_000_000)));
    assert_eq!(refusal(&client).await, None);
    let again = BudgetRpcClient::set(&client, "few".into(), tokens(5)).await;
    refused(again, ErrorKind::Conflict);
    // The one behind it can go, and root's stays.
    BudgetRpcClient::remove(&client, "few".into())
        .await
        .unwrap();
    refused(
        BudgetRpcClient::remove(&client, "few".into()).await,
        ErrorKind::Conflict,
    );
    assert_eq!(BudgetRpcClient::list(&client).await.unwrap().len(), 1);
}

#[tokio::test]
async fn budget_that_cannot_be_meant_is_refused_and_changes_nothing() {
    let (_model, _pawd, client) = pawd().await;
    let whole = tokens(5);
    for (spec, kind) in [
        (
            BudgetSpec {
                per: None,
                ..whole.clone()
            },
            ErrorKind::Invalid,
        ),
        (
            BudgetSpec {
                per: Some("week".into()),
                ..whole.clone()
            },
            ErrorKind::Invalid,
        ),
        (
            BudgetSpec {
                tokens: None,
                ..whole.clone()
            },
            ErrorKind::Invalid,
        ),
        (
            BudgetSpec {
                each: Some(vec!["moon".into()]),
                ..whole.clone()
            },
            ErrorKind::Invalid,
        ),
        (
            BudgetSpec {
                provider: Some("nobody".into()),
                ..whole.clone()
            },
            ErrorKind::NotFound,
        ),
        (
            BudgetSpec {
                agent: Some("nobody".into()),
                ..whole.clone()
            },
            ErrorKind::NotFound,
        ),
    ] {
        refused(
            BudgetRpcClient::set(&client, "few".into(), spec).await,
            kind,
        );
    }
    refused(
        BudgetRpcClient::set(&client, "no name".into(), whole).await,
        ErrorKind::Invalid,
    );
    assert_eq!(BudgetRpcClient::list(&client).await.unwrap(), []);
    for number in 0..16 {
        set(&client, &format!("b{number}"), tokens(1_000_000)).await;
    }
    let one_more = BudgetRpcClient::set(&client, "more".into(), tokens(1)).await;
    refused(one_more, ErrorKind::Busy);
}

#[tokio::test]
async fn budget_of_an_agent_that_is_gone_keeps_no_pawd_from_starting() {
    let (_model, mut pawd, client) = pawd().await;
    let file = "etc/pawd.d/60-agent.toml";
    pawd.root.write(file, "[agent.clerk]\nmax_tokens = 5\n");
    ConfigRpcClient::reload(&client).await.unwrap();
    let spec = BudgetSpec {
        agent: Some("clerk".into()),
        ..tokens(5)
    };
    set(&client, "clerks", spec).await;
    pawd.root.write(file, "");
    drop(client);
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(BudgetRpcClient::list(&client).await.unwrap(), []);
    pawd.root.write(file, "[agent.clerk]\nmax_tokens = 5\n");
    ConfigRpcClient::reload(&client).await.unwrap();
    assert_eq!(
        BudgetRpcClient::list(&client).await.unwrap()[0].name,
        "clerks"
    );
}

#[tokio::test]
async fn each_change_of_a_budget_is_on_record_before_its_effect() {
    let (_model, mut pawd, client) = pawd().await;
    let out = pawd
        .pawctl(&[
            "budget", "set", "few", "--per", "day", "--cost", "1.5", "--each", "user",
        ])
        .await;
    assert!(out.status.success(), "{out:?}");
    let out = pawd.pawctl(&["budget", "set", "few", "--remove"]).await;
    assert!(out.status.success(), "{out:?}");
    let changed = Some("budget_changed".to_owned());
    let records = AuditRpcClient::list(&client, None, changed, None, None)
        .await
        .unwrap();
    let text = json!(records).to_string();
    for word in [
        "\"set\"",
        "\"removed\"",
        "\"few\"",
        "\"1.5\"",
        "\"day\"",
        "\"user\"",
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    pawd.audit.take().unwrap().kill9().await;
    let set = BudgetRpcClient::set(&client, "few".into(), tokens(5)).await;
    refused(set, ErrorKind::Unavailable);
    assert_eq!(BudgetRpcClient::list(&client).await.unwrap(), []);
}
