//! What another program's model asks for by MCP: a model's words and nobody's own, so that it has no more than an agent's calls have.

use harness::{
    Pawd, Setup, within,
    words::{
        answer, call, finally, folder_in_workspace, in_workspace, leave_in_workspace, object,
        refused,
    },
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::{Action, Answer, McpRpcClient as _},
    trail::AuditRpcClient,
};
use paw_policy::{Decision, State, Taint, TaintSet};
use serde_json::{Value, json};

use crate::grants::{HOUR, approve};

/// A rule for what people of this host write at a terminal themselves.
const BY_HAND: &str = "@id(\"by-hand\") permit (principal, action == Action::\"tool_call\", resource == Tool::\"files/write\") \
     when { context.via == \"terminal\" && !context.untrusted };";

async fn by_mcp(client: &Client, tool: &str, arguments: Value) -> Action {
    let called = client.mcp(
        "default".into(),
        "files".into(),
        tool.into(),
        object(arguments),
    );
    within("calling by MCP", called).await.unwrap()
}

#[tokio::test]
async fn what_comes_by_mcp_is_what_a_model_wrote() {
    let setup = Setup::new();
    let root = setup.root();
    root.write("etc/policy/60-by-hand.cedar", BY_HAND);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "a.txt", "heron");
    let write = json!({"path": "b.txt", "text": "x"});
    // The same call of the same person: by hand it is done, by another model somebody is asked.
    let own = call(&client, "write", write.clone()).await;
    assert_eq!(
        (own.state, own.asked.via.as_str()),
        (State::Completed, "terminal")
    );
    let foreign = by_mcp(&client, "write", write).await;
    assert_eq!(
        (
            foreign.state,
            foreign.verdict.decision,
            foreign.asked.via.as_str()
        ),
        (State::WaitingApproval, Decision::Ask, "mcp")
    );
    let labels = TaintSet::of(Taint::Model);
    assert!(!own.taint.has(Taint::Model), "{own:?}");
    assert_eq!(
        foreign.taint,
        own.taint.clone().with(&labels),
        "{foreign:?}"
    );
    // Which way it came in is on record.
    for (action, way) in [(&own, Value::Null), (&foreign, json!("MCP"))] {
        let judged = Some("action_judged".to_owned());
        let judged = AuditRpcClient::list(&client, Some(action.id.clone()), judged, None, None);
        let judged = within("the log", judged).await.unwrap();
        assert_eq!(judged[0]["entry"]["detail"]["way"], way, "{judged:?}");
    }
    // What only reads is answered at once, and what is not there is not guessed.
    let read = by_mcp(&client, "read", json!({"path": "a.txt"})).await;
    assert_eq!(read.state, State::Completed, "{read:?}");
    let missing = client.mcp(
        "nobody".into(),
        "files".into(),
        "read".into(),
        object(json!({"path": "a.txt"})),
    );
    refused(within("calling", missing).await, ErrorKind::NotFound);
}

#[tokio::test]
async fn grant_of_one_way_in_is_none_of_the_other() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    folder_in_workspace(&pawd, "default", "notes");
    let first = call(
        &client,
        "write",
        json!({"path": "notes/a.txt", "text": "x"}),
    )
    .await;
    approve(&client, &first, None, Some(HOUR)).await.unwrap();
    finally(&client, &first.id).await;
    let again = json!({"path": "notes/b.txt", "text": "x"});
    let own = call(&client, "write", again.clone()).await;
    assert_eq!(own.state, State::Completed, "{own:?}");
    let foreign = by_mcp(
        &client,
        "write",
        json!({"path": "notes/c.txt", "text": "x"}),
    )
    .await;
    assert_eq!(foreign.state, State::WaitingApproval, "{foreign:?}");
    assert_eq!(in_workspace(&pawd, "notes/c.txt"), None);
    answer(&client, &foreign.id, foreign.digest, Answer::Approve)
        .await
        .unwrap();
    assert_eq!(finally(&client, &foreign.id).await.state, State::Completed);
    assert_eq!(in_workspace(&pawd, "notes/c.txt").as_deref(), Some("x"));
}
