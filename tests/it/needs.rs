//! Secrets that a skill says it needs: a person approves that with its other rights, and no call begins for which nobody let it.

use harness::{
    ANSWERS_ALL, Answer as Says, Asking, Model, Pawd, Setup, within,
    words::{answer, finally, news, object, question, rest},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    action::{Action, ActionRpcClient, Answer, ApprovalRpcClient},
    agent::SkillRpcClient,
    events::EventItem,
};
use paw_policy::{Operation, State};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    secrets::{done, key_file, records},
    skills::{approved, ask_to_install, bundle, ctl},
};

/// A skill that sends through the broker `api`; `more` are further lines.
fn post(more: &str) -> TempDir {
    let manifest = format!(
        "name = \"post\"\nversion = \"1\"\ndescription = \"Sends.\"\ncommand = [\"/bin/sh\", \"-c\", \"exit 7\"]\nimage = \"host\"\n{more}\
         [limits]\ncpu_milli = 1000\nmemory = 67108864\ndisk = 0\npids = 16\nopen_files = 64\nwall_ms = 20000\n\
         [[tools]]\nname = \"send\"\nclass = \"egress\"\ndescription = \"x\"\ninput = '{{\"type\": \"object\"}}'\n\
         [[tools]]\nname = \"look\"\nclass = \"read-private\"\ndescription = \"x\"\ninput = '{{\"type\": \"object\"}}'\n"
    );
    bundle(&[("skill.toml", &manifest)])
}

const NEEDS: &str = "net = [\"broker/api\"]\nsecrets = [\"mail\"]\n";

async fn start() -> (Model, Pawd, Client) {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    key_file(&root, "etc/vault.key", '1');
    root.write(
        "etc/pawd.d/10-skills.toml",
        "[agent.default]\nskills = [\"files\", \"post\"]\nnet = [\"broker/api\"]\n",
    );
    root.write("etc/policy/60-critical.cedar", ANSWERS_ALL);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

/// The end of a call to which a person says yes where one is asked.
async fn call(client: &Client, tool: &str) -> Action {
    let arguments = object(json!({"skill": "post", "tool": tool, "arguments": {}}));
    let asked = client.submit("tool_call".into(), arguments, None, None, Some(true), None);
    let action = asked.await.unwrap();
    if action.state == State::WaitingApproval {
        answer(client, &action.id, action.digest, Answer::Approve)
            .await
            .unwrap();
    }
    finally(client, &action.id).await
}

/// How such a call failed.
async fn failure(client: &Client, tool: &str) -> (String, String) {
    let ended = call(client, tool).await;
    assert_eq!(ended.state, State::Failed, "{ended:?}");
    let error = ended.error.unwrap();
    (error.kind, error.message)
}

#[tokio::test]
async fn what_a_skill_needs_of_the_vault_is_approved_with_its_rights_and_asked_of_the_vault_before_each_call()
 {
    let (_model, pawd, client) = start().await;
    let dir = post(NEEDS);
    let path = dir.path().display().to_string();
    let (code, _, said) = ctl(&pawd, &["skill", "install", &path, "--no-wait"]).await;
    assert_eq!(code, 5, "{said}");
    assert!(
        said.contains("+ secret mail, which a broker adds to its requests"),
        "{said}"
    );
    let asked = ApprovalRpcClient::list(&client, None, None)
        .await
        .unwrap()
        .remove(0);
    let Operation::SkillChange(change) = &asked.plan.operation else {
        panic!("{asked:?}");
    };
    assert_eq!(change.rights["secrets"], json!(["mail"]));
    answer(&client, &asked.id, asked.digest, Answer::Approve)
        .await
        .unwrap();
    assert_eq!(finally(&client, &asked.id).await.state, State::Completed);
    let shown = SkillRpcClient::show(&client, "post".into()).await.unwrap();
    assert_eq!(shown.secrets, ["mail"]);

    // Without a vault, without the secret, and as long as nobody lets the skill and a broker use it.
    let sandboxes = || pawd.launcher.as_ref().unwrap().plans().len();
    let before = sandboxes();
    let (kind, why) = failure(&client, "send").await;
    assert_eq!(kind, "secret_unavailable", "{why}");
    assert!(why.contains("skill post needs secret mail"), "{why}");
    done(&pawd, &["secret", "init"], "").await;
    let (kind, why) = failure(&client, "send").await;
    assert_eq!(kind, "secret_unavailable", "{why}");
    done(&pawd, &["secret", "set", "mail"], "a-value").await;
    let (kind, why) = failure(&client, "send").await;
    assert_eq!(kind, "secret_not_granted", "{why}");
    assert!(why.contains("is not for skill:post"), "{why}");
    done(&pawd, &["secret", "allow", "mail", "skill:post"], "").await;
    let (kind, why) = failure(&client, "send").await;
    assert_eq!(kind, "secret_not_granted", "{why}");
    assert!(why.contains("is not for broker:api"), "{why}");
    assert_eq!(
        sandboxes(),
        before,
        "nothing is made for a call that cannot have it"
    );
    let refusals = records(&client, "secret_refused").await;
    assert_eq!(refusals.len(), 4);
    assert!(
        refusals[0].to_string().contains("broker:api"),
        "{}",
        refusals[0]
    );

    // Policy has its word, too.
    done(&pawd, &["secret", "allow", "mail", "broker:api"], "").await;
    pawd.root.write(
        "etc/policy/90-mail.cedar",
        "@id(\"no-mail\") forbid (principal, action == Action::\"secret_use\", resource == Secret::\"mail\");\n",
    );
    done(&pawd, &["policy", "reload"], "").await;
    let (kind, why) = failure(&client, "send").await;
    assert_eq!(kind, "secret_not_granted", "{why}");
    assert!(why.contains("no-mail"), "{why}");
    std::fs::remove_file(pawd.root.path().join("etc/policy/90-mail.cedar")).unwrap();
    done(&pawd, &["policy", "reload"], "").await;
    // Now it begins, and fails by itself.
    let (kind, why) = failure(&client, "send").await;
    assert!(!kind.starts_with("secret_"), "{kind}: {why}");
    // What reaches nothing needs nothing.
    done(&pawd, &["secret", "deny", "mail", "skill:post"], "").await;
    let (kind, why) = failure(&client, "look").await;
    assert!(!kind.starts_with("secret_"), "{kind}: {why}");
}

/// What the agent `lead` gets for its helper's call of `send`, to which a person says yes.
async fn failure_for_the_lead(
    model: &Model,
    client: &Client,
    heard: &mut Subscription<EventItem>,
) -> (String, String) {
    let ask = json!({"agent": "default", "text": "send it"});
    model.will(Says::calls(&[("ask_agent", ask)]));
    model.will(Says::calls(&[("post__send", json!({}))]));
    model.will(Says::says(&["no"]));
    model.will(Says::says(&["no"]));
    let begun = Asking::new("have it sent").agent("lead".to_owned());
    let mut chat = within("a chat", begun.ask(client)).await.unwrap();
    let asked = question(client, heard).await;
    answer(client, &asked.id, asked.digest, Answer::Approve)
        .await
        .unwrap();
    rest(&mut chat).await;
    let ended = finally(client, &asked.id).await;
    assert_eq!(ended.state, State::Failed, "{ended:?}");
    let error = ended.error.unwrap();
    (error.kind, error.message)
}

/// The list of a secret names everybody who may have it used: whoever asks an agent that it names gets nothing by that.
#[tokio::test]
async fn secret_that_an_agent_may_use_is_not_used_for_another_one_that_asks_it() {
    let (model, pawd, client) = start().await;
    pawd.root.write(
        "etc/pawd.d/20-lead.toml",
        "[agent.lead]\nskills = [\"files\", \"post\"]\nnet = [\"broker/api\"]\nagents = [\"default\"]\n",
    );
    done(&pawd, &["config", "reload"], "").await;
    let mut heard = news(&client).await;
    let asked = ask_to_install(&pawd, post(NEEDS).path()).await;
    question(&client, &mut heard).await;
    approved(&client, &asked).await;
    done(&pawd, &["secret", "init"], "").await;
    done(&pawd, &["secret", "set", "mail"], "a-value").await;
    for user in ["broker:api", "agent:default"] {
        done(&pawd, &["secret", "allow", "mail", user], "").await;
    }
    let made = || pawd.launcher.as_ref().unwrap().plans().len();
    let before = made();
    let (kind, why) = failure_for_the_lead(&model, &client, &mut heard).await;
    assert_eq!(kind, "secret_not_granted", "{why}");
    assert_eq!(made(), before);
    let refusals = records(&client, "secret_refused").await;
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    // Nor is one that the helper may not use by itself.
    done(&pawd, &["secret", "deny", "mail", "agent:default"], "").await;
    done(&pawd, &["secret", "allow", "mail", "agent:lead"], "").await;
    let (kind, why) = failure_for_the_lead(&model, &client, &mut heard).await;
    assert_eq!(kind, "secret_not_granted", "{why}");
    // Where it names both, the call begins, and fails by itself.
    done(&pawd, &["secret", "allow", "mail", "agent:default"], "").await;
    let (kind, why) = failure_for_the_lead(&model, &client, &mut heard).await;
    assert!(!kind.starts_with("secret_"), "{kind}: {why}");
    // Who asks for nobody else is bound by nobody else.
    done(&pawd, &["secret", "deny", "mail", "agent:lead"], "").await;
    let (kind, why) = failure(&client, "send").await;
    assert!(!kind.starts_with("secret_"), "{kind}: {why}");
}

#[tokio::test]
async fn another_secret_is_another_right_that_is_approved_anew() {
    let (_model, pawd, client) = start().await;
    let asked = ask_to_install(&pawd, post("net = [\"broker/api\"]\n").path()).await;
    approved(&client, &asked).await;
    let dir = post(NEEDS);
    let path = dir.path().display().to_string();
    let (code, _, said) = ctl(&pawd, &["skill", "install", &path, "--no-wait"]).await;
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("+ secret mail"), "{said}");
    let shown = SkillRpcClient::show(&client, "post".into()).await.unwrap();
    assert_eq!(shown.secrets, [""; 0], "not before somebody said yes");
}

#[tokio::test]
async fn manifest_whose_secrets_are_none_is_refused() {
    let (_model, pawd, _client) = start().await;
    let many: Vec<String> = (0..17).map(|number| format!("s{number}")).collect();
    let broker = "net = [\"broker/api\"]\n";
    for (more, why) in [
        (
            "secrets = [\"mail\"]\n".to_owned(),
            "no rule of net is of a broker",
        ),
        (
            "net = [\"a.test:443\"]\nsecrets = [\"mail\"]\n".to_owned(),
            "no rule of net is of a broker",
        ),
        (format!("{broker}secrets = [\"a b\"]\n"), "a b"),
        (
            format!("{broker}secrets = [\"mail@2\"]\n"),
            "without a version",
        ),
        (format!("{broker}secrets = [\"mail\", \"mail\"]\n"), "twice"),
        (format!("{broker}secrets = {many:?}\n"), "at most 16"),
    ] {
        let dir = post(&more);
        let path = dir.path().display().to_string();
        let (code, _, said) = ctl(&pawd, &["skill", "install", &path, "--no-wait"]).await;
        assert_ne!(code, 5, "{more}");
        assert!(
            said.contains("secrets") && said.contains(why),
            "{more}: {said}"
        );
    }
}
