//! Every method that changes something is an action, or is said why not: what root forbids is done by none of them, and what root has somebody
//! else agree to is done once they have.

use harness::{
    Answer as Says, Model, Pawd, Step, within,
    words::{finally, object, refused, show},
};
use jsonrpsee::{
    async_client::Client,
    core::{
        client::{ClientT as _, Error as CallError},
        params::ObjectParams,
    },
};
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, ApprovalRpcClient},
    agent::AgentRpcClient,
    provider::ProviderRpcClient as _,
};
use paw_policy::{Digest, Kind, Operation, Risk, State, rules::DEFAULT};
use serde_json::{Value, json};

use super::{
    agent, approve, asked, begin, end, kept, pawd, recorded, spec, submit, to, two_agree, typed,
};
use crate::secrets::files_with;

const NOBODY: &str = "@id(\"nobody-configures\")\nforbid (principal, action in [Action::\"model_switch\", Action::\"config_change\", Action::\"file_operation\"], resource);\n";

/// How often it was told to fetch a model.
fn pulls(model: &Model) -> usize {
    let asked = model.asked();
    let pulls = asked.iter().filter(|it| it.line.contains("/api/pull"));
    pulls.count()
}

/// What pawd is told to do by each method that changes something and is an action of one of these kinds. `mine` is registered, and `LAYER`
/// waits in a workspace.
fn changes(url: &str, digest: &Digest) -> Vec<(&'static str, Value)> {
    vec![
        ("agent.create", json!({"name": "new", "spec": {}})),
        (
            "agent.edit",
            json!({"name": "mine", "spec": {"model": "other"}}),
        ),
        ("agent.remove", json!({"name": "mine"})),
        (
            "budget.set",
            json!({"name": "new", "spec": {"per": "day", "tokens": 1}}),
        ),
        ("budget.remove", json!({"name": "mine"})),
        ("provider.add", json!({"name": "new", "spec": spec(url)})),
        (
            "provider.edit",
            json!({"name": "mine", "spec": {"model": "other"}}),
        ),
        ("provider.default", json!({"name": "mine"})),
        ("provider.remove", json!({"name": "mine"})),
        ("config.reload", json!({})),
        ("model.pull", json!({"model": "fetched"})),
        ("secret.set", json!({"name": "new", "value": "new-value"})),
        (
            "secret.rotate",
            json!({"name": "mine", "value": "other-value"}),
        ),
        (
            "secret.allow",
            json!({"name": "mine", "user": "provider:mine"}),
        ),
        (
            "secret.deny",
            json!({"name": "mine", "user": "provider:mine"}),
        ),
        ("secret.remove", json!({"name": "mine"})),
        ("workspace.commit", json!({"id": LAYER, "digest": digest})),
        ("workspace.discard", json!({"id": LAYER})),
        ("workspace.undo", json!({"id": COMMITTED})),
    ]
}

/// Methods that change something and are decided on by the role of who calls alone, as the table in ARCHITECTURE.md says: what they do
/// configures nothing, or takes back what could be done, or is judged when it is used.
const BY_ROLE: &str = "approval.confirm approval.enroll approval.forget approval.revoke image.add image.remove image.send \
    job.add job.remove model.warm policy.reload provider.reset sandbox.gc secret.export \
    secret.import secret.init secret.lock secret.rekey secret.unlock session.delete skill.disable \
    skill.send skill.stage system.backup";

/// Methods that say something to what was asked for and permitted, or ask for an action that other tests forbid.
const OF_ACTIONS: &str = "action.cancel action.submit approval.answer chat.cancel chat.send job.run mcp.call model.abort model.leave \
    model.switch sandbox.abort sandbox.input sandbox.kill sandbox.leave sandbox.resize sandbox.run events.unsubscribe";

/// Methods that only tell something.
const TELLING: &str = "action.list action.show action.wait agent.list agent.show approval.grants approval.list approval.show audit.find \
    audit.list audit.verify budget.list budget.show config.show events.subscribe image.list job.history job.list model.ab model.list \
    model.show policy.explain policy.show provider.list provider.show provider.test route.list route.show rpc.discover sandbox.list \
    sandbox.logs sandbox.runtimes sandbox.show sandbox.stats secret.list secret.log secret.show secret.status session.list session.show \
    skill.list skill.show skill.verify system.doctor system.metrics system.ping system.status system.whoami workspace.diff workspace.list";

/// Whoever adds a method says here how it is decided on; one that changes what is configured or what a workspace has in it is tried below.
#[test]
fn each_method_is_known_to_change_something_or_not() {
    let of_a_kind = changes("", &Digest::of(b""));
    let of_a_kind = of_a_kind.iter().map(|(method, _)| *method);
    let others = [BY_ROLE, OF_ACTIONS, TELLING];
    let others = others.iter().flat_map(|all| all.split_whitespace());
    let mut said: Vec<&str> = of_a_kind.chain(others).collect();
    said.sort_unstable();
    let lines = include_str!("../../../daemon/api/roles.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    let mut methods: Vec<&str> = lines
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    methods.sort_unstable();
    assert_eq!(said, methods, "each method is in one of these lists");
}

/// Opens the vault of these tests.
const PASSPHRASE: &str = "correct horse battery staple";

const LAYER: &str = "00000000000000aa";
const COMMITTED: &str = "00000000000000bb";

/// A pawd in which there is something to be changed, with this rule from now on; and the digest of what waits in a workspace.
async fn furnished(rule: &str) -> (Model, Pawd, Client, Digest) {
    let (model, pawd, client) = pawd("").await;
    let url = model.url();
    client.add("mine".into(), typed(spec(&url))).await.unwrap();
    for (method, arguments) in [
        ("agent.create", json!({"name": "mine", "spec": {}})),
        (
            "budget.set",
            json!({"name": "mine", "spec": {"per": "day", "tokens": 1}}),
        ),
        ("secret.init", json!({"passphrase": PASSPHRASE})),
        ("secret.set", json!({"name": "mine", "value": "a-value"})),
    ] {
        told(&client, method, &arguments).await.unwrap();
    }
    let (launcher, uid) = (
        pawd.launcher.as_ref().unwrap(),
        nix::unistd::getuid().as_raw(),
    );
    let committed = launcher.has_layer("default", COMMITTED, uid);
    let digest = launcher.has_layer("default", LAYER, uid);
    let commit = json!({"id": COMMITTED, "digest": committed});
    told(&client, "workspace.commit", &commit).await.unwrap();
    pawd.root.write("etc/policy/60-configuration.cedar", rule);
    told(&client, "policy.reload", &json!({})).await.unwrap();
    (model, pawd, client, digest)
}

/// What a method answers.
async fn told(client: &Client, method: &str, arguments: &Value) -> Result<Value, CallError> {
    let mut params = ObjectParams::new();
    for (name, value) in object(arguments.clone()) {
        params.insert(&name, value).unwrap();
    }
    within(method, client.request(method, params)).await
}

async fn layers(client: &Client) -> Value {
    told(client, "workspace.list", &json!({})).await.unwrap()
}

#[tokio::test]
async fn forbid_of_root_stops_every_way_of_changing_something() {
    let (model, pawd, client, digest) = furnished(NOBODY).await;
    let vault = async || told(&client, "secret.list", &json!({})).await.unwrap();
    let (before, there, secrets) = (kept(&pawd), layers(&client).await, vault().await);
    let (message, error) = end(&mut begin(&client, "other").await).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(message.contains("nobody-configures"), "{message}");
    for (method, arguments) in changes(&model.url(), &digest) {
        let refusal = told(&client, method, &arguments).await;
        let message = format!("{method}: {refusal:?}");
        refused(refusal, ErrorKind::Denied);
        assert!(message.contains("nobody-configures"), "{message}");
    }
    let file = |change: &str, id: &str| json!({"change": change, "id": id});
    let of = |change: &str, name: &str, spec: Value| json!({"change": change, "name": name, "spec": spec});
    let user = || json!({"user": "provider:mine"});
    for (kind, arguments) in [
        ("model_switch", to("other")),
        (
            "file_operation",
            json!({"change": "commit", "id": LAYER, "digest": digest}),
        ),
        ("file_operation", file("discard", LAYER)),
        ("file_operation", file("undo", COMMITTED)),
        ("config_change", of("config.reload", "this", json!({}))),
        (
            "config_change",
            of("model.pull", "local", json!({"model": "fetched"})),
        ),
        ("config_change", of("secret.allow", "mine", user())),
        ("config_change", of("secret.deny", "mine", user())),
        ("config_change", of("secret.remove", "mine", json!({}))),
    ] {
        let text = arguments.to_string();
        let done = submit(&client, kind, arguments).await;
        assert_eq!(done.state, State::Rejected, "{text}");
        assert_eq!(done.verdict.rules, ["nobody-configures"], "{text}");
    }
    let digest_text = digest.to_string();
    for words in [
        &["model", "switch", "other", "--agent", "default"][..],
        &["model", "pull", "fetched"],
        &["config", "reload"],
        &["secret", "allow", "mine", "--provider", "mine"],
        &["secret", "deny", "mine", "--provider", "mine"],
        &["workspace", "commit", LAYER, "--digest", &digest_text],
        &["workspace", "discard", LAYER],
        &["workspace", "undo", COMMITTED],
    ] {
        let left = pawd.pawctl(words).await;
        let told = String::from_utf8(left.stderr).unwrap();
        assert_eq!(left.status.code(), Some(4), "{words:?}: {told}");
        assert!(told.contains("nobody-configures"), "{words:?}: {told}");
    }
    assert_eq!(pulls(&model), 0);
    assert!(!agent(&client).await.switched);
    assert_eq!(
        (kept(&pawd), layers(&client).await, vault().await),
        (before, there, secrets)
    );

    // Without that rule an administrator at the terminal goes on as ever.
    pawd.root.write("etc/policy/60-configuration.cedar", "");
    told(&client, "policy.reload", &json!({})).await.unwrap();
    for (method, arguments) in changes(&model.url(), &digest) {
        match method {
            // What is committed is not thrown away, who is the default is not removed, and what is fetched is told to who subscribes.
            "workspace.discard" | "provider.remove" | "model.pull" => {}
            _ => drop(told(&client, method, &arguments).await.unwrap()),
        }
    }
}

/// What is on record of a decision on files: how it was decided, by which rules, and the effect with its action.
#[tokio::test]
async fn what_a_run_wrote_is_taken_over_once_somebody_approves_exactly_that_where_root_wants_it() {
    let rule = "@id(\"two-agree-on-files\")\nforbid (principal, action == Action::\"file_operation\", resource) when { context.change == \"commit\" } unless { context.approved };\n";
    assert!(
        DEFAULT.replace("//   ", "").contains(rule),
        "it is what the shipped policy says to do"
    );
    let (_model, _pawd, client, digest) = furnished(rule).await;
    let commit = json!({"id": LAYER, "digest": digest});
    let refusal = told(&client, "workspace.commit", &commit).await;
    let waits = refused(refusal, ErrorKind::Conflict)
        .id
        .expect("it names the action");
    let there = layers(&client).await;
    assert_eq!(there[0]["pending"][0]["id"], LAYER, "{there}");
    let question = ApprovalRpcClient::show(&client, waits.clone())
        .await
        .unwrap();
    let Operation::FileOperation(plan) = &question.plan.operation else {
        panic!("{question:?}");
    };
    assert_eq!((plan.digest, question.risk), (Some(digest), Risk::High));
    assert_eq!(plan.difference, ["A note.txt"]);
    let done = approve(&client, &waits).await;
    assert_eq!(done.state, State::Completed, "{done:?}");
    assert_eq!(done.kind, Kind::FileOperation);
    let there = layers(&client).await;
    assert_eq!(there[0]["pending"], json!([]), "{there}");
    let records = recorded(&client, "workspace_committed").await;
    assert!(json!(records).to_string().contains(&waits), "{records:?}");

    // What waits is what was shown when it is asked for, and when it is done.
    let other = json!({"change": "commit", "id": LAYER, "digest": digest});
    refused(
        asked(&client, "file_operation", other).await,
        ErrorKind::NotFound,
    );
    let taken_back = told(&client, "workspace.undo", &json!({"id": LAYER})).await;
    assert_eq!(taken_back.unwrap()["layers"], json!([LAYER]));
}

/// What was judged is what is read: not what somebody writes there meanwhile.
#[tokio::test]
async fn reload_that_was_approved_reads_what_stood_there_when_it_was_asked_for() {
    let (_model, pawd, client) = pawd(&two_agree()).await;
    let file = pawd.root.path().join("etc/pawd.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let with = |agent: &str| format!("{before}\n[agent.{agent}]\n");
    let is_there = async |name: &str| {
        let all = AgentRpcClient::list(&client).await.unwrap();
        all.iter().any(|agent| agent.name == name)
    };
    let reload = async || {
        let refusal = told(&client, "config.reload", &json!({})).await;
        refused(refusal, ErrorKind::Conflict)
            .id
            .expect("it names the action")
    };
    pawd.root.write("etc/pawd.toml", &with("first"));
    let first = reload().await;
    assert!(!is_there("first").await);
    let asked = show(&client, &first).await.plan.unwrap();
    let Operation::ConfigChange(plan) = &asked.operation else {
        panic!("{asked:?}");
    };
    assert_eq!(plan.difference, ["~ agents"]);
    pawd.root.write("etc/pawd.toml", &with("second"));
    let second = reload().await;
    let late = approve(&client, &first).await;
    assert_eq!(
        (late.state, late.error.unwrap().kind.as_str()),
        (State::Failed, "conflict")
    );
    assert!(!is_there("second").await);
    let done = approve(&client, &second).await;
    assert_eq!(done.state, State::Completed, "{done:?}");
    assert!(is_there("second").await);
    let records = json!(recorded(&client, "config_loaded").await).to_string();
    assert!(records.contains(&second), "{records}");

    // A fault is said at once, and nobody is asked for that.
    pawd.root.write("etc/pawd.toml", "nonsense = ");
    refused(
        told(&client, "config.reload", &json!({})).await,
        ErrorKind::Invalid,
    );
    assert!(is_there("second").await);
}

/// It goes on without whoever asked, once somebody has approved it.
#[tokio::test]
async fn pull_that_a_person_has_to_approve_is_done_once_somebody_does() {
    let (model, _pawd, client) = pawd(&two_agree()).await;
    let refusal = told(&client, "model.pull", &json!({"model": "fetched"})).await;
    let id = refused(refusal, ErrorKind::Conflict)
        .id
        .expect("it names the action");
    assert_eq!(pulls(&model), 0, "it is never done silently");
    let question = ApprovalRpcClient::show(&client, id.clone()).await.unwrap();
    assert!(
        question.summary.contains("+ fetched at http://127.0.0.1:"),
        "{question:?}"
    );
    let (steps, answer) = Says::steps();
    model.will_pull(answer);
    steps.try_send(Step::End).unwrap();
    let done = approve(&client, &id).await;
    assert_eq!(done.state, State::Completed, "{done:?}");
    assert_eq!(done.result.unwrap()["model"], "fetched");
    assert_eq!(pulls(&model), 1);
    let records = json!(recorded(&client, "model_pulled").await).to_string();
    assert!(records.contains(&id), "{records}");
}

/// A yes is to what comes from there, and not from where somebody has that provider be by then.
#[tokio::test]
async fn pull_that_was_approved_is_not_made_of_a_provider_that_is_elsewhere_by_then() {
    let (model, _pawd, client) = pawd(&two_agree()).await;
    let url = model.url();
    let of = |change: &str, spec: Value| json!({"change": change, "name": "mine", "spec": spec});
    let there = json!({"kind": "ollama", "base_url": url, "model": "m"});
    let added = submit(&client, "config_change", of("provider.add", there)).await;
    assert_eq!(approve(&client, &added.id).await.state, State::Completed);
    let pull = of("model.pull", json!({"model": "fetched"}));
    let pull = submit(&client, "config_change", pull).await;
    assert_eq!(pull.state, State::WaitingApproval);
    let elsewhere = json!({"base_url": format!("{url}/elsewhere")});
    let moved = submit(&client, "config_change", of("provider.edit", elsewhere)).await;
    assert_eq!(approve(&client, &moved.id).await.state, State::Completed);
    let late = approve(&client, &pull.id).await;
    assert_eq!(
        (late.state, late.error.unwrap().kind.as_str()),
        (State::Failed, "conflict")
    );
    assert_eq!(pulls(&model), 0);
    assert_eq!(recorded(&client, "model_pulled").await, [] as [Value; 0]);
}

/// A value that has to wait is in memory alone: nothing of it is written, who approves is shown everything else, and what pawd forgot is
/// not made up.
#[tokio::test]
async fn secret_waits_without_its_value_being_written_and_is_kept_once_somebody_approves() {
    let (_model, mut pawd, client, _) = furnished(&two_agree()).await;
    let value = "value-that-nobody-finds";
    let set = async |client: &Client, name: &str| {
        let refusal = told(client, "secret.set", &json!({"name": name, "value": value})).await;
        let why = refused(refusal, ErrorKind::Conflict);
        assert!(why.hint.contains("in memory alone"), "{why:?}");
        why.id.expect("it names the action")
    };
    let is_there = async |client: &Client, name: &str| {
        let all = told(client, "secret.list", &json!({})).await.unwrap();
        all.as_array().unwrap().iter().any(|it| it["name"] == name)
    };
    let (first, other) = (set(&client, "first").await, set(&client, "other").await);
    let question = ApprovalRpcClient::show(&client, first.clone())
        .await
        .unwrap();
    let Operation::SecretChange(plan) = &question.plan.operation else {
        panic!("{question:?}");
    };
    assert_eq!(
        (plan.secret.as_str(), question.risk),
        ("first", Risk::Critical)
    );
    assert!(!json!(question).to_string().contains(value));
    assert!(!is_there(&client, "first").await);
    let mut found = Vec::new();
    files_with(pawd.root.path(), &[value.as_bytes().to_vec()], &mut found);
    assert_eq!(found, [] as [String; 0]);
    let done = approve(&client, &first).await;
    assert_eq!(done.state, State::Completed, "{done:?}");
    assert!(!json!(done).to_string().contains(value));
    assert!(is_there(&client, "first").await);
    let records = json!(recorded(&client, "secret_changed").await).to_string();
    assert!(records.contains(&first), "{records}");

    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    let unlock = json!({"passphrase": PASSPHRASE});
    told(&client, "secret.unlock", &unlock).await.unwrap();
    let late = approve(&client, &other).await;
    assert_eq!(
        (late.state, late.error.unwrap().kind.as_str()),
        (State::Failed, "unavailable")
    );
    assert!(!is_there(&client, "other").await);

    // Nobody says one where it would be kept.
    for spec in [json!({}), json!({"value": value})] {
        let change = json!({"change": "secret.set", "name": "third", "spec": spec});
        asked(&client, "config_change", change).await.unwrap_err();
    }
    let change =
        json!({"change": "secret.allow", "name": "first", "spec": {"user": "provider:mine"}});
    let allow = submit(&client, "config_change", change).await;
    assert_eq!(approve(&client, &allow.id).await.state, State::Completed);
}

/// What waits for a person takes no more locked memory than it may: what is used needs some, too.
#[tokio::test]
async fn values_that_wait_are_so_many_and_one_that_is_taken_back_makes_room() {
    let (_model, _pawd, client, _) = furnished(&two_agree()).await;
    let set = async |number: usize| {
        let arguments = json!({"name": format!("waits-{number}"), "value": "a-value"});
        told(&client, "secret.set", &arguments).await
    };
    let mut last = None;
    for number in 0..32 {
        last = refused(set(number).await, ErrorKind::Conflict).id;
    }
    let full = refused(set(32).await, ErrorKind::Busy);
    assert!(full.hint.contains("pawctl approval list"), "{full:?}");
    let id = last.expect("it names the action");
    within(
        "taking one back",
        ActionRpcClient::cancel(&client, id.clone()),
    )
    .await
    .unwrap();
    assert_eq!(finally(&client, &id).await.state, State::Cancelled);
    refused(set(32).await, ErrorKind::Conflict);
    refused(set(33).await, ErrorKind::Busy);
}
