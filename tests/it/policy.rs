//! The rules in force: read again, explained, and never replaced by something worse.

use harness::{Pawd, Setup, within, words::data};
use paw_api::{ErrorKind, action::ActionRpcClient, system::PolicyRpcClient, trail::AuditRpcClient};
use paw_policy::{Decision, Risk, rules::DEFAULT};
use serde_json::{Value, json};

use harness::words::{ask_to_write, call, refused};

#[tokio::test]
async fn explanation_names_the_rules_the_facts_and_where_the_risk_comes_from() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "./notes//a.txt", "hello").await;
    let why = within("explaining", client.explain(action.id.clone()))
        .await
        .unwrap();
    assert_eq!((why.decision, why.risk), (Decision::Ask, Risk::High));
    assert_eq!(why.risk_because, "the tool writes or deletes");
    let [rule] = why.rules.as_slice() else {
        panic!("one rule decided: {:?}", why.rules)
    };
    assert_eq!(rule.id, "ask-before-effects");
    assert_eq!(rule.effect.as_deref(), Some("permit"));
    assert!(
        rule.reason
            .as_deref()
            .unwrap()
            .contains("a person approves")
    );
    assert!(rule.text.as_deref().unwrap().contains("context.approved"));
    assert!(rule.place.as_deref().unwrap().contains("10-default.cedar:"));
    assert_eq!(why.facts["path"], json!("notes/a.txt"), "in its one form");
    assert_eq!(why.facts["risk"], json!("high"));
    assert_eq!(why.now.rules, ["ask-before-effects"]);

    // What came meanwhile is told apart from what decided.
    let forbid = "@id(\"stop\") forbid (principal, action == Action::\"tool_call\", resource);\n";
    pawd.root.write("etc/policy/60-stop.cedar", forbid);
    let done = within("reloading", PolicyRpcClient::reload(&client))
        .await
        .unwrap();
    assert_eq!(done.changed, ["policy"]);
    let why = within("explaining", client.explain(action.id))
        .await
        .unwrap();
    assert_eq!(why.decision, Decision::Ask);
    assert_eq!(
        (why.now.decision, why.now.rules),
        (Decision::Deny, vec!["stop".into()])
    );
}

#[tokio::test]
async fn bad_rules_replace_nothing_and_say_where_they_are_wrong() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let bad = "// first line\n@id(\"x\")\npermit (principal, action == Action::\"chat\", resource)\nwhen { context.nosuch == 1 };\n";
    pawd.root.write("etc/policy/60-bad.cedar", bad);
    let error = within("reloading", PolicyRpcClient::reload(&client))
        .await
        .unwrap_err();
    assert_eq!(data(&error).kind, ErrorKind::Invalid);
    let said = error.to_string();
    assert!(
        said.contains("60-bad.cedar:4:8") && said.contains("nosuch"),
        "{said}"
    );
    // The last good ones go on, for everybody.
    let action = ask_to_write(&client, "out.txt", "hello").await;
    assert_eq!(action.verdict.rules, ["ask-before-effects"]);
    let recorded = AuditRpcClient::list(&client, None, Some("config_refused".into()), None, None);
    let recorded = within("reading the log", recorded).await.unwrap();
    assert!(
        Value::Array(recorded)
            .to_string()
            .contains("60-bad.cedar:4:8")
    );

    std::fs::remove_file(pawd.root.path().join("etc/policy/60-bad.cedar")).unwrap();
    let done = within("reloading", PolicyRpcClient::reload(&client))
        .await
        .unwrap();
    assert_eq!(done.changed, Vec::<String>::new());
}

#[tokio::test]
async fn reload_of_the_policy_reads_nothing_else() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    pawd.root.write("etc/pawd.d/90-broken.toml", "nosuch = 1\n");
    let stricter = DEFAULT.replace("@id(\"read\")", "@id(\"look\")");
    pawd.root.write("etc/policy/10-default.cedar", &stricter);
    within("reloading", PolicyRpcClient::reload(&client))
        .await
        .unwrap();
    let action = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(action.verdict.rules, ["look"]);
}

#[tokio::test]
async fn path_that_leads_out_is_critical_whatever_the_tool() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    for path in ["../../etc/shadow", "/etc/shadow", "a/../../b"] {
        let action = call(&client, "read", json!({"path": path})).await;
        assert_eq!(
            (action.verdict.decision, action.risk),
            (Decision::Ask, Risk::Critical),
            "{path}"
        );
        let shown = within("showing", ActionRpcClient::show(&client, action.id.clone())).await;
        assert!(shown.unwrap().result.is_none());
    }
    refused(client.explain("ffffffff".into()).await, ErrorKind::NotFound);
}

#[tokio::test]
async fn pawctl_explains_and_reloads() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    let said = pawd.pawctl(&["policy", "explain", &action.id]).await;
    let said = String::from_utf8(said.stdout).unwrap();
    for words in [
        "ask-before-effects (permit, ",
        "A",
        "the tool writes or deletes",
        "path: \"out.txt\"",
    ] {
        assert!(said.contains(words), "{words} is missing in {said}");
    }
    let said = pawd.pawctl(&["policy", "reload"]).await;
    assert!(said.status.success(), "{said:?}");
    pawd.root.write("etc/policy/70-bad.cedar", "permit (");
    let said = pawd.pawctl(&["policy", "reload"]).await;
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(
        said.contains("70-bad.cedar:1:") && said.contains("stay in force"),
        "{said}"
    );
}
