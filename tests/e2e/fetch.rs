//! The shipped skill `fetch` on the real thing: what its URL names is reached through paw-egress and nothing else is, and what comes
//! back is data of the web.

use std::time::Duration;

use harness::{
    Answer as Says, LIMIT, Model, cases,
    report::Case,
    standalone::Standalone,
    within,
    words::{accepted, answer, finally, next, object, refused, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient, Answer, Approval, ApprovalRpcClient},
    provider::ChatEvent,
};
use paw_policy::{Kind, Operation, Risk, State, Taint};
use serde_json::{Value, json};

use crate::{
    egress::{endpoint_of, server},
    without_sandboxes,
};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        what_a_url_names_is_fetched_once_a_person_has_seen_it,
        what_is_asked_for_as_https_is_encrypted_outside_of_the_sandbox,
        a_redirect_to_another_host_is_a_question_of_its_own,
        what_was_fetched_taints_what_is_done_with_it,
    ]
}

/// A system whose agent may fetch from these ports of some names, which are this host.
async fn system(ports: &[u16], certificate: &str, more: &str) -> Standalone {
    let listed: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let ceiling = format!(
        "hosts = [\"*.test\", \"ceiling.example\"]\nports = [{}]\nallow_addresses = [\"127.0.0.1/32\"]\n{}[addresses]\n\
         \"allowed.test\" = [\"127.0.0.1\"]\n\"later.test\" = [\"127.0.0.1\"]\n\"ceiling.example\" = [\"127.0.0.1\"]\n",
        listed.join(", "),
        if certificate.is_empty() {
            ""
        } else {
            "ca = \"ROOT/etc/ca.pem\"\n"
        },
    );
    let net: Vec<String> = ports
        .iter()
        .map(|port| format!("\"*.test:{port}\""))
        .collect();
    // A later file says all of an agent.
    let agent = format!(
        "[agent.default]\nskills = [\"files\", \"fetch\"]\nnet = [{}]\n",
        net.join(", ")
    );
    Standalone::start_with(
        more,
        false,
        &[
            ("etc/egress.toml", &ceiling),
            ("etc/ca.pem", certificate),
            ("etc/pawd.d/10-agent.toml", &agent),
        ],
    )
    .await
}

/// Asks for a call of a tool of the skill.
async fn ask(
    client: &Client,
    tool: &str,
    arguments: Value,
) -> Result<Action, jsonrpsee::core::client::Error> {
    let arguments = object(json!({"skill": "fetch", "tool": tool, "arguments": arguments}));
    let submitted = client.submit("tool_call".into(), arguments, None, None, Some(true), None);
    within("submitting a tool call", submitted).await
}

/// Asks, says yes, and gives the end.
async fn fetched(client: &Client, tool: &str, arguments: Value) -> Action {
    let asked = ask(client, tool, arguments).await.expect("it is accepted");
    assert_eq!(asked.state, State::WaitingApproval, "{asked:?}");
    answer(client, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("the operator may");
    finally(client, &asked.id).await
}

/// The question of this kind that is asked meanwhile.
async fn question(client: &Client, kind: Kind) -> Approval {
    let asked = tokio::time::timeout(LIMIT, async {
        let mut often = tokio::time::interval(Duration::from_millis(100));
        loop {
            often.tick().await;
            let waiting = ApprovalRpcClient::list(client, None, None).await;
            let waiting = waiting.expect("root may look");
            if let Some(asked) = waiting.into_iter().find(|asked| asked.plan.kind() == kind) {
                return asked;
            }
        }
    });
    asked.await.expect("a person is asked")
}

fn text(action: &Action) -> &str {
    assert_eq!(action.state, State::Completed, "{action:?}");
    let result = action.result.as_ref().expect("it has one");
    result["text"].as_str().expect("a text")
}

async fn what_a_url_names_is_fetched_once_a_person_has_seen_it() {
    let port = server().await;
    let system = system(&[port], "", "").await;
    let client = system.client().await;
    let url = format!("http://allowed.test:{port}/page");
    let asked = ask(&client, "get", json!({"url": url}))
        .await
        .expect("it is accepted");
    assert_eq!(
        (asked.state, asked.risk),
        (State::WaitingApproval, Risk::High)
    );
    let shown = within(
        "the question",
        ApprovalRpcClient::show(&client, asked.id.clone()),
    )
    .await;
    let shown = serde_json::to_string(&shown.expect("it waits")).expect("it is JSON");
    assert!(
        shown.contains(&format!("allowed.test:{port},method=GET")),
        "{shown}"
    );
    answer(&client, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("the operator may");
    let done = finally(&client, &asked.id).await;
    assert_eq!(
        text(&done),
        format!("HTTP 200, of no stated type, 8 bytes, from {url}\n\nreached\n")
    );
    let net = &done.result.as_ref().expect("it has one")["net"];
    assert_eq!(
        (&net["allowed"], &net["refused"]),
        (&json!(1), &json!(0)),
        "{net}"
    );

    let posted = fetched(&client, "post", json!({"url": url, "body": "{}"})).await;
    assert!(text(&posted).contains("reached"), "{posted:?}");

    // Beyond the agent's rules, no person is asked.
    let beyond = json!({"url": format!("http://ceiling.example:{port}/")});
    refused(ask(&client, "get", beyond).await, ErrorKind::Denied);
    for url in [
        "http://127.0.0.1/",
        "http://allowed.test@evil.example/",
        "file:///etc/passwd",
    ] {
        refused(
            ask(&client, "get", json!({"url": url})).await,
            ErrorKind::Invalid,
        );
    }
}

async fn what_is_asked_for_as_https_is_encrypted_outside_of_the_sandbox() {
    let (port, certificate) = endpoint_of("allowed.test", |_| "secret page\n".to_owned()).await;
    let system = system(&[port], &certificate, "").await;
    let client = system.client().await;
    let url = format!("https://allowed.test:{port}/");
    let done = fetched(&client, "get", json!({"url": url})).await;
    assert!(text(&done).ends_with("\n\nsecret page\n"), "{done:?}");
    // The same server under a name that its certificate does not have.
    let other = fetched(
        &client,
        "get",
        json!({"url": format!("https://later.test:{port}/")}),
    )
    .await;
    assert_eq!(other.state, State::Failed, "{other:?}");
    let error = other.error.expect("it says why").message;
    assert!(error.contains("cannot be trusted"), "{error}");
}

async fn a_redirect_to_another_host_is_a_question_of_its_own() {
    let port = server().await;
    let system = system(&[port], "", "").await;
    let client = system.client().await;
    let begun = fetched(
        &client,
        "get",
        json!({"url": format!("http://allowed.test:{port}/away")}),
    );
    let answering = async {
        let client = system.client().await;
        let asked = question(&client, Kind::ApiCall).await;
        let Operation::ApiCall(call) = &asked.plan.operation else {
            panic!("{asked:?}");
        };
        assert_eq!(call.rule, format!("later.test:{port},method=GET"));
        assert!(asked.taint.iter().any(|it| it == Taint::Tool), "{asked:?}");
        answer(&client, &asked.id, asked.digest, Answer::Approve)
            .await
            .expect("the operator may");
    };
    let (done, ()) = tokio::join!(begun, answering);
    assert!(
        text(&done).contains(&format!("from http://later.test:{port}/\n")),
        "{done:?}"
    );
    let structured = &done.result.as_ref().expect("it has one")["structured"];
    assert_eq!(
        structured["redirects"],
        json!([format!("http://allowed.test:{port}/away")])
    );
}

async fn what_was_fetched_taints_what_is_done_with_it() {
    let port = server().await;
    let model = Model::start().await;
    let provider = format!(
        "[provider.local]\nkind = \"ollama\"\nbase_url = \"{}\"\nmodel = \"m\"\n",
        model.url()
    );
    let system = system(&[port], "", &provider).await;
    let client = system.client().await;
    let url = format!("http://allowed.test:{port}/");
    model.will(Says::calls(&[("fetch__get", json!({"url": url}))]));
    model.will(Says::calls(&[(
        "files__write",
        json!({"path": "a.txt", "text": "x"}),
    )]));
    model.will(Says::says(&["Done."]));
    let mut chat = say(&client, "fetch it and write it down").await;
    accepted(&mut chat).await;
    let mut seen = Vec::new();
    loop {
        match next(&mut chat).await {
            ChatEvent::Tool(called) if called.state == "waiting_approval" => {
                let (id, digest) = (
                    called.action_id.expect("it is one"),
                    called.digest.expect("it waits"),
                );
                let asked = within("the call", ActionRpcClient::show(&client, id.clone()))
                    .await
                    .expect("it is there");
                seen.push((called.tool, asked.taint.iter().any(|it| it == Taint::Web)));
                answer(&client, &id, digest, Answer::Approve)
                    .await
                    .expect("the operator may");
            }
            ChatEvent::Done(_) => break,
            ChatEvent::Failed { message, .. } => panic!("{message}"),
            _ => {}
        }
    }
    assert_eq!(
        seen,
        [
            ("fetch/get".to_owned(), false),
            ("files/write".to_owned(), true)
        ]
    );
    let asked = model.asked();
    let told = asked
        .iter()
        .any(|it| it.body.to_string().contains("reached"));
    assert!(told, "the model has read it");
}
