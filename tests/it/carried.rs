//! What a call takes by itself out of the directory that it sees has a part in it, though no model was told of it: it is judged with the
//! labels of what lies there.

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, root, stage, within,
    words::{accepted, answer, finally, object, show},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    action::{Action, ActionRpcClient, Answer},
    provider::ChatEvent,
    sandbox::{RunEvent, SandboxRpcClient},
    system::PolicyRpcClient,
};
use paw_policy::{Decision, State, Taint};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::grants::{HOUR, approve};

/// Permits whatever no rule forbids.
const ALL: &str = "@id(\"all\") permit (principal, action, resource);\n";

/// A skill with one tool. It is never run: what is judged is tested.
fn skill(name: &str, workspace: bool, tool: &str, class: &str, more: &str) -> String {
    format!(
        "name = \"{name}\"\nversion = \"1\"\ndescription = \"x\"\ncommand = [\"/skill/never\"]\nimage = \"base\"\nworkspace = {workspace}\n\
         [limits]\ncpu_milli = 100\nmemory = 16777216\ndisk = 0\npids = 4\nopen_files = 16\nwall_ms = 1000\n\
         [[tools]]\nname = \"{tool}\"\nclass = \"{class}\"\ndescription = \"x\"\ninput = '{{\"type\": \"object\"}}'\n{more}"
    )
}

struct Scene {
    model: Model,
    pawd: Pawd,
    client: Client,
    _dir: TempDir,
}

impl Scene {
    /// Skills: `post` sends what it sees of the workspace, `mail` sends and sees nothing, `terminal` runs in the workspace, `accounts` tells what
    /// is secret, `weather` what is not.
    async fn start() -> Self {
        let model = Model::start().await;
        let dir = TempDir::new().unwrap();
        let skills = [
            ("post", skill("post", true, "send", "egress", "")),
            ("mail", skill("mail", false, "send", "egress", "")),
            ("terminal", skill("terminal", true, "run", "exec", "")),
            (
                "accounts",
                skill(
                    "accounts",
                    false,
                    "passwords",
                    "read-private",
                    "confidentiality = \"secret\"\n",
                ),
            ),
            ("weather", skill("weather", false, "get", "read-public", "")),
        ];
        let skills = skills.each_ref().map(|(name, text)| (*name, text.as_str()));
        let config = format!(
            "[roles]\nadmin = \"{}\"\n\n[agent.default]\nskills = [\"files\", \"post\", \"mail\", \"terminal\", \"accounts\", \"weather\"]\nnet = [\"files.test:8080\"]\n",
            root::our_group()
        );
        let setup = Setup::only(&config)
            .ollama(&model)
            .program(stage::with_skills(dir.path(), &skills));
        let pawd = Pawd::start(setup).await;
        let client = pawd.client().await;
        Self {
            model,
            pawd,
            client,
            _dir: dir,
        }
    }

    async fn permit_all(&self) {
        self.pawd.root.write("etc/policy/70-all.cedar", ALL);
        within("reloading", PolicyRpcClient::reload(&self.client))
            .await
            .unwrap();
    }

    /// A conversation of its own in which the model makes these calls, each after the one before; a person says yes to those of `files`,
    /// and no to all others. Gives what became of them.
    async fn calls(&self, calls: &[(&str, Value)]) -> Vec<Action> {
        for call in calls {
            self.model.will(Says::calls(std::slice::from_ref(call)));
        }
        self.model.will(Says::says(&["done"]));
        let begun = Asking::new("do it").ask(&self.client);
        let mut chat: Subscription<ChatEvent> = within("beginning a chat", begun).await.unwrap();
        let id = accepted(&mut chat).await;
        loop {
            match within("the next event", chat.next())
                .await
                .unwrap()
                .unwrap()
            {
                ChatEvent::Tool(called) if called.state == "waiting_approval" => {
                    let said = match called.tool.starts_with("files/") {
                        true => Answer::Approve,
                        false => Answer::Deny,
                    };
                    let (action, digest) = (called.action_id.unwrap(), called.digest.unwrap());
                    answer(&self.client, &action, digest, said).await.unwrap();
                }
                ChatEvent::Done(_) => break,
                ChatEvent::Failed { message, .. } => panic!("{message}"),
                _ => {}
            }
        }
        let page = ActionRpcClient::list(&self.client, None, Some(1000), None);
        let mut its = within("listing actions", page).await.unwrap().items;
        its.retain(|action| action.parent.as_deref() == Some(&id));
        its.reverse();
        assert_eq!(its.len(), calls.len(), "{its:?}");
        its
    }

    /// A call that a person makes.
    async fn call(&self, skill: &str, tool: &str) -> Action {
        let asked = object(json!({"skill": skill, "tool": tool, "arguments": {}}));
        let submitted = self
            .client
            .submit("tool_call".into(), asked, None, None, Some(true), None);
        within("calling a tool", submitted).await.unwrap()
    }

    /// A command of a person's in the workspace; its action.
    async fn run(&self, net: &[&str]) -> Action {
        let spec = json!({"argv": ["true"], "workspace": "default", "net": net, "isolation_floor": "process"});
        let spec = serde_json::from_value(spec).unwrap();
        let begun = SandboxRpcClient::run(&self.client, spec);
        let mut run = within("beginning a run", begun).await.unwrap();
        let id = match within("the run", run.next()).await.unwrap().unwrap() {
            RunEvent::Waiting { action_id } | RunEvent::Started { action_id, .. } => action_id,
            RunEvent::Failed { error, .. } => error.id.expect("it names its action"),
            other => panic!("{other:?}"),
        };
        show(&self.client, &id).await
    }

    /// What is secret comes into the workspace.
    async fn keep_a_secret(&self) {
        let write = ("files__write", json!({"path": "kept.txt", "text": "x"}));
        let calls = [("accounts__passwords", json!({})), write];
        let kept = self.calls(&calls).await;
        assert_eq!(kept[1].state, State::Completed, "{kept:?}");
    }
}

fn verdict(action: &Action) -> (Decision, Vec<&str>) {
    let rules = action.verdict.rules.iter().map(String::as_str);
    (action.verdict.decision, rules.collect())
}

#[tokio::test]
async fn what_lies_secret_in_a_workspace_leaves_by_no_call_that_sees_it() {
    let scene = Scene::start().await;
    scene.permit_all().await;
    scene.keep_a_secret().await;
    let denied = (Decision::Deny, vec!["no-secret-leaves"]);
    // Nobody has read it in this conversation; a skill that sees no workspace has none of it.
    let calls = [
        ("post__send", json!({"path": "kept.txt"})),
        ("mail__send", json!({})),
    ];
    let calls = scene.calls(&calls).await;
    assert_eq!(verdict(&calls[0]), denied, "{:?}", calls[0]);
    assert_eq!(verdict(&calls[1]), (Decision::Allow, vec!["all"]));
    // A person's own calls and commands are judged as an agent's are.
    assert_eq!(verdict(&scene.call("post", "send").await), denied);
    assert_eq!(verdict(&scene.run(&["files.test:8080"]).await), denied);
    let here = scene.run(&[]).await;
    assert_eq!(here.verdict.decision, Decision::Allow, "{here:?}");
    assert!(here.taint.has(Taint::Secret), "{here:?}");
}

#[tokio::test]
async fn what_comes_into_a_workspace_after_a_yes_is_not_sent_by_it() {
    let scene = Scene::start().await;
    let asked = scene.call("post", "send").await;
    assert_eq!(asked.state, State::WaitingApproval, "{asked:?}");
    let runs = scene.call("terminal", "run").await;
    assert_eq!(runs.state, State::WaitingApproval, "{runs:?}");
    scene.keep_a_secret().await;
    for asked in [asked, runs] {
        answer(&scene.client, &asked.id, asked.digest, Answer::Approve)
            .await
            .unwrap();
        let ended = finally(&scene.client, &asked.id).await;
        let why = ended.error.as_ref().expect("it failed");
        assert_eq!((ended.state, why.kind.as_str()), (State::Failed, "denied"));
        assert!(ended.taint.iter().all(|label| label != Taint::Web));
    }
    // Nothing was made for either.
    let plans = scene.pawd.launcher.as_ref().unwrap().plans();
    let made = |name: &str| {
        plans
            .iter()
            .any(|plan| format!("{:?}", plan.mounts).contains(name))
    };
    assert!(!made("post") && !made("terminal"), "{plans:?}");
}

/// A grant of a command is none for what others have put in its way since.
#[tokio::test]
async fn what_lies_foreign_in_a_workspace_runs_by_no_grant() {
    let scene = Scene::start().await;
    scene
        .model
        .will(Says::calls(&[("terminal__run", json!({}))]));
    scene.model.will(Says::says(&["done"]));
    let mut chat = within("a chat", Asking::new("run it").ask(&scene.client))
        .await
        .unwrap();
    let called = harness::words::tool(&mut chat, "waiting_approval").await;
    let first = show(&scene.client, &called.action_id.unwrap()).await;
    approve(&scene.client, &first, None, Some(HOUR))
        .await
        .unwrap();
    harness::words::rest(&mut chat).await;
    // What an agent wrote that read nothing changes nothing.
    let write = ("files__write", json!({"path": "run.sh", "text": "x"}));
    scene.calls(std::slice::from_ref(&write)).await;
    let granted = scene.calls(&[("terminal__run", json!({}))]).await;
    assert_eq!(granted[0].verdict.decision, Decision::Allow, "{granted:?}");
    // What one wrote that did read something does.
    scene.calls(&[("weather__get", json!({})), write]).await;
    let calls = scene.calls(&[("terminal__run", json!({}))]).await;
    assert_eq!(
        verdict(&calls[0]),
        (Decision::Ask, vec!["ask-before-effects"])
    );
    assert!(calls[0].taint.has(Taint::Tool), "{calls:?}");
    // To write what stands in the call is granted as before.
    let person = scene.call("terminal", "run").await;
    assert!(person.taint.has(Taint::Tool), "{person:?}");
}

#[tokio::test]
async fn what_a_skill_saw_of_a_workspace_is_private_whatever_it_did() {
    let scene = Scene::start().await;
    scene.permit_all().await;
    let calls = [("terminal__run", json!({})), ("mail__send", json!({}))];
    let calls = scene.calls(&calls).await;
    let asked = (Decision::Ask, vec!["all", "ask-before-effects"]);
    assert_eq!(calls[0].verdict.decision, Decision::Allow, "{calls:?}");
    assert_eq!(verdict(&calls[1]), asked, "{calls:?}");
    // And what sends it without anybody having been told of it.
    let calls = scene.calls(&[("post__send", json!({}))]).await;
    assert_eq!(verdict(&calls[0]), asked, "{calls:?}");
    // What sees none has none.
    let calls = scene.calls(&[("mail__send", json!({}))]).await;
    assert_eq!(calls[0].verdict.decision, Decision::Allow, "{calls:?}");
}

#[tokio::test]
async fn what_a_persons_command_brings_from_a_network_is_web_from_then_on() {
    let scene = Scene::start().await;
    let before = scene.call("terminal", "run").await;
    assert!(!before.taint.has(Taint::Web), "{before:?}");
    scene.run(&["files.test:8080"]).await;
    let after = scene.call("terminal", "run").await;
    assert!(after.taint.has(Taint::Web), "{after:?}");
    // An administrator's next command that reaches a network with it is asked for; one that reaches none is not.
    let sends = scene.run(&["files.test:8080"]).await;
    assert_eq!(sends.verdict.decision, Decision::Ask, "{sends:?}");
    let here = scene.run(&[]).await;
    assert_eq!(here.verdict.decision, Decision::Allow, "{here:?}");
}
