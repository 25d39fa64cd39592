//! Agents are registered over the control socket, by administrators, are kept, and never take what root decided, nor more than who asks them.

use harness::{
    ANSWERS_ALL, Answer as Says, Asking, Model, Pawd, Setup, within,
    words::{accepted, answer, done, finally, folder_in_workspace, refused, rest, show},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, Answer, ApprovalRpcClient},
    agent::{Agent, AgentRpcClient, AgentSpec},
    budget::{BudgetRpcClient, BudgetSpec},
    job::JobRpcClient,
    model::{ModelRpcClient, SwitchEvent},
    provider::{ProviderRpcClient, ProviderSpec},
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use paw_policy::{Operation, State};
use serde_json::{Value, json};

use crate::grants::{HOUR, approve};

/// A lead of root's that may ask a helper, if there is one.
const LEAD: &str = "\n[agent.lead]\nskills = [\"files\", \"shell\"]\nnet = [\"*.example.com:443\"]\nagents = [\"helper\"]\n";

async fn pawd() -> (Model, Pawd, Client) {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

fn spec(of: Value) -> AgentSpec {
    serde_json::from_value(of).expect("it is one")
}

/// Everything that can be said of an agent, but for a route and whom it may ask.
fn whole() -> Value {
    json!({
        "instructions": "You keep the books.", "provider": "local", "model": "large", "isolation_floor": "vm", "workspace": "stage",
        "skills": ["files"], "net": ["www.example.com:443"], "max_turns": 3, "max_tokens": 50, "temperature": 0.7,
        "may_leave_host": false,
    })
}

async fn create(client: &Client, name: &str, of: Value) -> Agent {
    let made = AgentRpcClient::create(client, name.into(), spec(of));
    within("registering an agent", made).await.unwrap()
}

async fn edit(client: &Client, name: &str, of: Value) -> Agent {
    let made = AgentRpcClient::edit(client, name.into(), spec(of));
    within("changing an agent", made).await.unwrap()
}

async fn shown(client: &Client, name: &str) -> Agent {
    AgentRpcClient::show(client, name.into()).await.unwrap()
}

async fn remove(client: &Client, name: &str) -> Result<Agent, jsonrpsee::core::ClientError> {
    within("removing", AgentRpcClient::remove(client, name.into())).await
}

/// Has `other` answer for an agent.
async fn switch(client: &Client, agent: &str) {
    let (to, whose) = (Some("other".to_owned()), Some(agent.to_owned()));
    let switched = ModelRpcClient::switch(client, to, None, whose, None, None);
    let mut switched = switched.await.unwrap();
    loop {
        match within("the switch", switched.next())
            .await
            .unwrap()
            .unwrap()
        {
            SwitchEvent::Done(_) => break,
            SwitchEvent::Failed { message, .. } => panic!("{message}"),
            SwitchEvent::Waiting { .. } | SwitchEvent::Progress { .. } => {}
        }
    }
}

/// What the last question to the model began with.
fn told(model: &Model) -> Value {
    let asked = model.asked();
    let mut chats = asked.iter().filter(|it| it.line.contains("/chat"));
    chats.next_back().expect("it was asked").body.clone()
}

#[tokio::test]
async fn agent_that_is_created_answers_at_once_and_after_a_kill_until_it_is_removed() {
    let (model, mut pawd, client) = pawd().await;
    model.has(&["m", "large"]);
    let own = whole();
    let made = create(&client, "clerk", json!({"skills": ["files"]})).await;
    assert!(made.registered && made.file.as_ref().unwrap().ends_with("providers.toml"));
    let changed = edit(&client, "clerk", own.clone()).await;
    let as_it_was_said = json!({
        "instructions": changed.instructions, "provider": changed.provider, "model": changed.model, "isolation_floor": changed.isolation_floor,
        "workspace": changed.workspace, "skills": changed.skills, "net": changed.net, "max_turns": changed.max_turns,
        "max_tokens": changed.max_tokens, "temperature": changed.temperature, "may_leave_host": changed.may_leave_host,
    });
    assert_eq!(as_it_was_said, own);
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(shown(&client, "clerk").await, changed);
    let mut chat = Asking::new("hello")
        .agent("clerk".to_owned())
        .ask(&client)
        .await
        .unwrap();
    assert_eq!(done(&rest(&mut chat).await).finish, "stop");
    let question = told(&model);
    assert_eq!(question["model"], json!("large"));
    assert_eq!(
        question["messages"][0]["content"]
            .as_str()
            .unwrap()
            .split('\n')
            .next(),
        Some("You keep the books.")
    );
    assert_eq!(question["options"]["num_predict"], json!(50), "{question}");
    // What is not said stays, and what is unset is as if it had never been said.
    let after = edit(
        &client,
        "clerk",
        json!({"max_turns": 5, "unset": ["temperature", "net", "model"]}),
    )
    .await;
    let expected = Agent {
        max_turns: 5,
        temperature: None,
        net: Vec::new(),
        model: "m".into(),
        ..changed
    };
    assert_eq!(after, expected);
    assert_eq!(remove(&client, "clerk").await.unwrap(), after);
    refused(
        AgentRpcClient::show(&client, "clerk".into()).await,
        ErrorKind::NotFound,
    );
    refused(remove(&client, "clerk").await, ErrorKind::NotFound);
    refused(
        Asking::new("hello")
            .agent("clerk".to_owned())
            .ask(&client)
            .await
            .map(drop),
        ErrorKind::NotFound,
    );
}

#[tokio::test]
async fn agent_of_root_has_the_last_word_and_the_one_that_is_always_there_can_be_said() {
    let (_model, pawd, client) = pawd().await;
    create(&client, "clerk", json!({"instructions": "mine"})).await;
    pawd.root.write(
        "etc/pawd.d/60-clerk.toml",
        "[agent.clerk]\ninstructions = \"theirs\"\n",
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    let clerk = shown(&client, "clerk").await;
    assert_eq!(
        (clerk.registered, clerk.instructions.as_str()),
        (false, "theirs")
    );
    let change = AgentRpcClient::edit(&client, "clerk".into(), spec(json!({"max_turns": 2})));
    refused(change.await, ErrorKind::Conflict);
    let again = AgentRpcClient::create(&client, "clerk".into(), AgentSpec::default());
    refused(again.await, ErrorKind::Conflict);
    // The one behind it can go, and root's stays.
    remove(&client, "clerk").await.unwrap();
    refused(remove(&client, "clerk").await, ErrorKind::Conflict);
    assert_eq!(shown(&client, "clerk").await, clerk);

    // The file of this pawd has an agent `default`; without, the shipped one is there.
    pawd.root.write(
        "etc/pawd.toml",
        &std::fs::read_to_string(pawd.root.path().join("etc/pawd.toml"))
            .unwrap()
            .replace("[agent.default]", "[agent.other]"),
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    let built_in = shown(&client, "default").await;
    assert_eq!((built_in.registered, &built_in.file), (false, &None));
    let change = AgentRpcClient::edit(&client, "default".into(), spec(json!({"max_turns": 2})));
    assert!(
        refused(change.await, ErrorKind::Conflict)
            .hint
            .contains("agent create default")
    );
    let mine = create(&client, "default", json!({"skills": []})).await;
    assert_eq!((mine.registered, mine.skills.len()), (true, 0));
    remove(&client, "default").await.unwrap();
    assert_eq!(shown(&client, "default").await, built_in);
}

#[tokio::test]
async fn agent_that_cannot_be_meant_is_refused_and_changes_nothing() {
    let (_model, pawd, client) = pawd().await;
    let floor = "[sandbox]\nisolation_floor = \"kernel\"\n";
    pawd.root.write("etc/pawd.d/60-floor.toml", floor);
    ConfigRpcClient::reload(&client).await.unwrap();
    create(&client, "clerk", json!({"skills": ["files"]})).await;
    let before = shown(&client, "clerk").await;
    for (bad, kind) in [
        (json!({"provider": "nobody"}), ErrorKind::Invalid),
        (json!({"route": "nowhere"}), ErrorKind::Invalid),
        (
            json!({"route": "nowhere", "provider": "local"}),
            ErrorKind::Invalid,
        ),
        (json!({"agents": ["nobody"]}), ErrorKind::Invalid),
        (json!({"agents": ["clerk"]}), ErrorKind::Invalid),
        (json!({"isolation_floor": "none"}), ErrorKind::Invalid),
        // The floor of this host is root's to lower.
        (json!({"isolation_floor": "process"}), ErrorKind::Invalid),
        (json!({"workspace": "keep"}), ErrorKind::Invalid),
        (json!({"net": ["example.com"]}), ErrorKind::Invalid),
        (json!({"skills": ["no name"]}), ErrorKind::Invalid),
        (json!({"max_turns": 0}), ErrorKind::Invalid),
        (json!({"temperature": 2.5}), ErrorKind::Invalid),
        (json!({"model": "\u{7}"}), ErrorKind::Invalid),
        (
            json!({"instructions": "x".repeat(16 * 1024 + 1)}),
            ErrorKind::Invalid,
        ),
        (json!({"skills": vec!["files"; 65]}), ErrorKind::Invalid),
        (json!({"unset": ["skill"]}), ErrorKind::Invalid),
    ] {
        let made = AgentRpcClient::create(&client, "new".into(), spec(bad.clone())).await;
        refused(made, kind);
        let changed = AgentRpcClient::edit(&client, "clerk".into(), spec(bad.clone())).await;
        refused(changed, kind);
        assert_eq!(shown(&client, "clerk").await, before, "{bad}");
    }
    let nobody = AgentRpcClient::edit(&client, "nobody".into(), AgentSpec::default());
    refused(nobody.await, ErrorKind::NotFound);
    let no_name = AgentRpcClient::create(&client, "no name".into(), AgentSpec::default());
    refused(no_name.await, ErrorKind::Invalid);
    let unread = pawd.pawctl(&[
        "rpc",
        "agent.create",
        r#"{"name": "x", "spec": {"may_approve": true}}"#,
    ]);
    assert_eq!(unread.await.status.code(), Some(2));
    for number in 1..64 {
        create(&client, &format!("a{number}"), json!({})).await;
    }
    let more = AgentRpcClient::create(&client, "more".into(), AgentSpec::default());
    refused(more.await, ErrorKind::Busy);
}

#[tokio::test]
async fn no_change_gives_an_agent_more_than_who_may_ask_it() {
    let (_model, pawd, client) = pawd().await;
    create(&client, "helper", json!({"skills": ["files"]})).await;
    pawd.root.write("etc/pawd.d/60-lead.toml", LEAD);
    ConfigRpcClient::reload(&client).await.unwrap();
    create(
        &client,
        "boss",
        json!({"skills": ["files"], "agents": ["helper"]}),
    )
    .await;
    for more in [
        json!({"skills": ["files", "fetch"]}),
        json!({"net": ["example.org:443"]}),
        json!({"may_leave_host": true}),
        // The lead may, and the boss may not.
        json!({"skills": ["shell"]}),
        json!({"net": ["www.example.com:443"]}),
    ] {
        let changed = AgentRpcClient::edit(&client, "helper".into(), spec(more.clone()));
        let why = changed.await.expect_err(&more.to_string()).to_string();
        assert!(
            why.contains("lead") || why.contains("boss"),
            "{more}: {why}"
        );
        let changed = AgentRpcClient::edit(&client, "helper".into(), spec(more));
        refused(changed.await, ErrorKind::Conflict);
    }
    // Nor does who asks come to less than who it asks.
    let less = AgentRpcClient::edit(&client, "boss".into(), spec(json!({"skills": []})));
    refused(less.await, ErrorKind::Invalid);
    let gone = remove(&client, "helper").await;
    refused(gone, ErrorKind::Conflict);
    assert_eq!(shown(&client, "boss").await.agents, ["helper"]);
    // With more for who asks, there may be more for who is asked.
    edit(&client, "boss", json!({"skills": ["files", "shell"]})).await;
    edit(&client, "helper", json!({"skills": ["shell"]})).await;
}

#[tokio::test]
async fn agent_whose_provider_or_helper_is_gone_from_roots_files_does_without_and_keeps_no_pawd_from_starting()
 {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let file = "etc/pawd.d/60-other.toml";
    let root = setup.root();
    let other = format!(
        "[provider.other]\nkind = \"openai\"\nbase_url = \"{}\"\nmodel = \"o\"\n[agent.theirs]\n[sandbox]\nisolation_floor = \"kernel\"\n",
        model.url()
    );
    root.write(file, &other);
    let mut pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    create(
        &client,
        "clerk",
        json!({"provider": "other", "agents": ["theirs"]}),
    )
    .await;
    create(&client, "calm", json!({"isolation_floor": "kernel"})).await;
    let theirs = AgentRpcClient::list(&client).await.unwrap().len();
    drop(client);
    pawd.stop().await;
    pawd.root
        .write(file, "[sandbox]\nisolation_floor = \"vm\"\n");
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(
        AgentRpcClient::list(&client).await.unwrap().len(),
        theirs - 1
    );
    let clerk = shown(&client, "clerk").await;
    assert_eq!((clerk.provider.as_str(), clerk.agents.len()), ("", 0));
    assert_eq!(clerk.lacks.len(), 2, "{clerk:?}");
    let calm = shown(&client, "calm").await;
    assert_eq!(calm.isolation_floor, "vm", "root's floor holds");
    let nobody = Asking::new("hello")
        .agent("clerk".to_owned())
        .ask(&client)
        .await;
    refused(nobody.map(drop), ErrorKind::Unavailable);
    let doctor = pawd.pawctl(&["doctor", "-o", "json"]).await;
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        doctor.contains("agent.lacks") && doctor.contains("clerk"),
        "{doctor}"
    );
    assert_eq!(model.questions(), 0, "nobody else answers for it");
    // As it was, it has all of it again.
    pawd.root.write(file, &other);
    ConfigRpcClient::reload(&client).await.unwrap();
    let clerk = shown(&client, "clerk").await;
    assert_eq!(
        (
            clerk.provider.as_str(),
            clerk.agents.len(),
            clerk.lacks.len()
        ),
        ("other", 1, 0)
    );
}

#[tokio::test]
async fn what_needs_an_agent_or_is_needed_by_one_is_not_removed_under_it() {
    let (model, _pawd, client) = pawd().await;
    let added = ProviderSpec {
        kind: Some("openai".into()),
        base_url: Some(model.url()),
        model: Some("o".into()),
        ..ProviderSpec::default()
    };
    ProviderRpcClient::add(&client, "mine".into(), added)
        .await
        .unwrap();
    create(&client, "clerk", json!({"provider": "mine"})).await;
    let gone = ProviderRpcClient::remove(&client, "mine".into()).await;
    refused(gone, ErrorKind::Conflict);
    edit(&client, "clerk", json!({"provider": "local"})).await;
    ProviderRpcClient::remove(&client, "mine".into())
        .await
        .unwrap();

    let of = BudgetSpec {
        per: Some("day".into()),
        tokens: Some(1_000_000),
        agent: Some("clerk".into()),
        ..BudgetSpec::default()
    };
    BudgetRpcClient::set(&client, "clerks".into(), of)
        .await
        .unwrap();
    refused(remove(&client, "clerk").await, ErrorKind::Conflict);
    BudgetRpcClient::remove(&client, "clerks".into())
        .await
        .unwrap();

    let [cron, tz, text] = ["0 7 * * *", "UTC", "hello"].map(str::to_owned);
    let job = JobRpcClient::add(
        &client,
        cron,
        tz,
        text,
        None,
        Some("clerk".into()),
        None,
        None,
    );
    let job = job.await.unwrap();
    let hint = refused(remove(&client, "clerk").await, ErrorKind::Conflict).hint;
    assert!(hint.contains(&job.id), "{hint}");
    JobRpcClient::remove(&client, job.id).await.unwrap();

    let (_steps, slow) = Says::steps();
    model.will(slow);
    let mut chat = Asking::new("hello")
        .agent("clerk".to_owned())
        .ask(&client)
        .await
        .unwrap();
    let id = accepted(&mut chat).await;
    let hint = refused(remove(&client, "clerk").await, ErrorKind::Conflict).hint;
    assert!(hint.contains(&id), "{hint}");
    client.cancel(id).await.unwrap();
    rest(&mut chat).await;
    remove(&client, "clerk").await.unwrap();
}

/// What it was asked before would be the next one's of its name, and so would its right.
#[tokio::test]
async fn agent_with_a_question_or_a_grant_of_its_own_is_removed_once_both_are_over() {
    let (_model, pawd, client) = pawd().await;
    create(&client, "clerk", json!({"skills": ["files"]})).await;
    folder_in_workspace(&pawd, "clerk", "notes");
    let ask = async |path: &str| {
        let arguments = json!({"path": path, "text": "x"});
        let asked = json!({"skill": "files", "tool": "write", "arguments": arguments});
        let (asked, agent) = (harness::words::object(asked), Some("clerk".to_owned()));
        let asked = client.submit("tool_call".into(), asked, agent, None, Some(true), None);
        let action = within("asking", asked).await.unwrap();
        assert_eq!(action.state, State::WaitingApproval, "{action:?}");
        action
    };
    let is_kept = async |why: &str, remedy: &str| {
        let hint = refused(remove(&client, "clerk").await, ErrorKind::Conflict).hint;
        assert!(hint.contains(remedy), "{remedy}: {hint}");
        let said = pawd.pawctl(&["agent", "remove", "clerk"]).await;
        let told = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(told.contains(why) && told.contains(remedy), "{told}");
        assert_ne!(said.status.code(), Some(0), "{told}");
        shown(&client, "clerk").await;
    };
    let action = ask("notes/a.txt").await;
    let cancel = format!("pawctl action cancel {}", action.id);
    is_kept("has not ended what it is asked to do", &cancel).await;
    approve(&client, &action, None, Some(HOUR)).await.unwrap();
    let written = finally(&client, &action.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    let grants = client.grants().await.unwrap();
    let revoke = format!("pawctl approval revoke {}", grants[0].id);
    is_kept("agent clerk has a grant", &revoke).await;
    client.revoke(grants[0].id.clone()).await.unwrap();
    let action = ask("notes/b.txt").await;
    let cancel = format!("pawctl action cancel {}", action.id);
    is_kept("has not ended what it is asked to do", &cancel).await;
    answer(&client, &action.id, action.digest, Answer::Deny)
        .await
        .unwrap();
    finally(&client, &action.id).await;
    remove(&client, "clerk").await.unwrap();
}

#[tokio::test]
async fn switch_of_a_registered_agent_goes_with_what_is_said_of_it_next() {
    let model = Model::start().await;
    let route = "\n[route.main]\ntargets = [{ provider = \"local\" }]\n";
    let pawd = Pawd::start(Setup::new().ollama(&model).with(route)).await;
    let client = pawd.client().await;
    model.has(&["m", "other"]);
    create(&client, "clerk", json!({"provider": "local"})).await;
    switch(&client, "clerk").await;
    let clerk = edit(&client, "clerk", json!({"max_turns": 2})).await;
    assert_eq!((clerk.model.as_str(), clerk.switched), ("other", true));
    let clerk = edit(&client, "clerk", json!({"model": "m"})).await;
    assert_eq!((clerk.model.as_str(), clerk.switched), ("m", false));

    // One that a route answers for is answered by whom it was switched to, and by the route no more.
    create(&client, "routed", json!({"route": "main"})).await;
    switch(&client, "routed").await;
    let routed = shown(&client, "routed").await;
    assert_eq!((routed.model.as_str(), routed.route), ("other", None));

    // A new one has nothing of one of root's that had its name.
    let file = "etc/pawd.d/60-page.toml";
    pawd.root.write(file, "[agent.page]\nskills = []\n");
    ConfigRpcClient::reload(&client).await.unwrap();
    switch(&client, "page").await;
    pawd.root.write(file, "");
    ConfigRpcClient::reload(&client).await.unwrap();
    let page = create(&client, "page", json!({})).await;
    assert_eq!((page.model.as_str(), page.switched), ("m", false));
}

#[tokio::test]
async fn change_of_an_agent_says_all_of_it_is_done_once_approved_and_is_on_record_first() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    let two = "@id(\"two-agree\")\nforbid (principal, action == Action::\"config_change\", resource is Agent) unless { context.approved };\n";
    root.write("etc/policy/60-configuration.cedar", two);
    root.write("etc/policy/61-critical.cedar", ANSWERS_ALL);
    let mut pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let out = pawd
        .pawctl(&[
            "agent",
            "create",
            "clerk",
            "--skills",
            "files,shell",
            "--net",
            "www.example.com:443",
            "--temperature",
            "0.5",
        ])
        .await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let waiting = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    let question = &waiting[0];
    let Operation::ConfigChange(plan) = &question.plan.operation else {
        panic!("{question:?}");
    };
    for line in [
        "+ net [\"www.example.com:443\"]",
        "+ skills [\"files\",\"shell\"]",
        "+ temperature 0.5",
    ] {
        assert!(
            plan.difference.iter().any(|it| it == line),
            "{line}: {plan:?}"
        );
    }
    let id = question.action.clone();
    let digest = show(&client, &id).await.digest;
    answer(&client, &id, digest, Answer::Approve).await.unwrap();
    assert_eq!(finally(&client, &id).await.state, State::Completed);
    assert_eq!(shown(&client, "clerk").await.skills, ["files", "shell"]);

    // Two that were asked for at the same time are not both done: the second would be a change of something else.
    let ask = |turns: u32| {
        let arguments =
            json!({"change": "agent.edit", "name": "clerk", "spec": {"max_turns": turns}});
        let asked = client.submit(
            "config_change".into(),
            harness::words::object(arguments),
            None,
            None,
            Some(true),
            Some(15_000),
        );
        async move { within("asking", asked).await.unwrap().id }
    };
    let (one, two) = (ask(2).await, ask(3).await);
    let mut ends = Vec::new();
    for id in [one, two] {
        let digest = show(&client, &id).await.digest;
        answer(&client, &id, digest, Answer::Approve).await.unwrap();
        ends.push(finally(&client, &id).await.state);
    }
    assert_eq!(ends, [State::Completed, State::Failed]);
    assert_eq!(shown(&client, "clerk").await.max_turns, 2);

    let changed = Some("agent_changed".to_owned());
    let records = AuditRpcClient::list(&client, None, changed, None, None)
        .await
        .unwrap();
    let text = json!(records).to_string();
    for word in [
        "\"created\"",
        "\"changed\"",
        "\"clerk\"",
        "files,shell",
        "www.example.com:443",
        id.as_str(),
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    pawd.root.write("etc/policy/60-configuration.cedar", "");
    ConfigRpcClient::reload(&client).await.unwrap();
    pawd.audit.take().unwrap().kill9().await;
    let unrecorded = AgentRpcClient::create(&client, "other".into(), AgentSpec::default());
    refused(unrecorded.await, ErrorKind::Unavailable);
    refused(
        AgentRpcClient::show(&client, "other".into()).await,
        ErrorKind::NotFound,
    );
}

#[tokio::test]
async fn creation_of_an_agent_that_a_kill_interrupts_holds_in_full_or_not_at_all() {
    for (place, made) in [("Begun:1", false), ("Executed:1", true)] {
        let (_model, mut pawd, _client) = pawd().await;
        pawd.daemon.kill9().await;
        assert!(pawd.start_to_die(place).await, "{place}");
        let client = pawd.client().await;
        let asked = AgentRpcClient::create(&client, "clerk".into(), spec(whole()));
        drop(within("asking", asked).await);
        pawd.daemon.end().await;
        pawd.start_again().await;
        let client = pawd.client().await;
        let all = ActionRpcClient::list(&client, None, None, None)
            .await
            .unwrap()
            .items;
        let ended = finally(&client, &all[0].id).await;
        assert_eq!(
            (all.len(), ended.state),
            (1, State::Failed),
            "{place}: {ended:?}"
        );
        assert_eq!(ended.error.unwrap().kind, "interrupted", "{place}");
        let found = AgentRpcClient::show(&client, "clerk".into()).await;
        assert_eq!(found.is_ok(), made, "{place}");
    }
}
