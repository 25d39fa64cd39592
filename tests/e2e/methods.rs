//! Every method, asked by everybody: what each role is answered, and what one user sees of another.
//!
//! What is documented is `daemon/api/roles.txt`. Methods are those that the running pawd names, so one without a line there fails here.

use std::collections::{BTreeMap, BTreeSet};

use harness::{
    Model, Pawd, Setup, cases,
    report::Case,
    within,
    words::{ask_to_write, data, done, refused, rest, say, show},
};
use jsonrpsee::{
    async_client::Client,
    core::{
        client::{ClientT as _, Error as CallError, SubscriptionClientT as _},
        params::ObjectParams,
    },
    rpc_params,
};
use paw_api::{
    ErrorKind,
    job::JobRpcClient,
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::{Role, State};
use serde_json::{Value, json};

use crate::{
    roles::{ADM, ALICE, BOB, CAROL, CONFIG, House, STAFF, USERS},
    without_root,
};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_root;
        every_method_answers_each_role_as_documented,
        what_one_user_made_is_not_there_for_another,
    ]
}

const ROLES: &str = include_str!("../../daemon/api/roles.txt");

fn documented() -> BTreeMap<&'static str, Role> {
    ROLES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().expect("a line names a method");
            let role = words.next().expect("a line names a role");
            let role = match role {
                "user" => Role::User,
                "approver" => Role::Approver,
                "admin" => Role::Admin,
                other => panic!("{name} is for {other:?}, which is no role"),
            };
            (name, role)
        })
        .collect()
}

/// The methods that a running pawd names.
async fn named(pawd: &Pawd) -> BTreeSet<String> {
    let described: Value = pawd
        .client()
        .await
        .request("rpc.discover", rpc_params![])
        .await
        .expect("it describes itself");
    let methods = described["methods"].as_array().expect("it has methods");
    let name = |method: &Value| method["name"].as_str().expect("each has a name").to_owned();
    methods.iter().map(name).collect()
}

fn members(value: &Value) -> ObjectParams {
    let mut params = ObjectParams::new();
    for (name, value) in value.as_object().expect("members have names") {
        params.insert(name, value).expect("it is JSON");
    }
    params
}

async fn ask(client: &Client, method: &str, params: &Value) -> Result<Value, CallError> {
    within("an answer", client.request(method, members(params))).await
}

fn code(answer: Result<Value, CallError>) -> i32 {
    match answer {
        Err(CallError::Call(error)) => error.code(),
        other => panic!("{other:?} is no refusal"),
    }
}

/// A parameter that no method has is refused after the role was looked at and before anything is done, so each method can be called.
async fn every_method_answers_each_role_as_documented() {
    const BAD_PARAMETERS: i32 = -32602;
    const DENIED: i32 = -32001;
    let documented = documented();
    let mut house = House::open().await;
    let named = named(&house.pawd).await;
    let written: BTreeSet<String> = documented.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(named, written, "each method has a line in roles.txt");
    for (groups, role) in [
        (&[][..], None),
        (&[USERS][..], Some(Role::User)),
        (&[STAFF][..], Some(Role::Approver)),
        (&[ADM][..], Some(Role::Admin)),
    ] {
        let client = house.guest(ALICE, groups);
        for (method, least) in &documented {
            let answer = ask(client, method, &json!({ "nobody.has.this": 1 })).await;
            let expected = if role >= Some(*least) {
                BAD_PARAMETERS
            } else {
                DENIED
            };
            assert_eq!(code(answer), expected, "{method} as {role:?}");
        }
        if role.is_none() {
            // Each is on record, once.
            let admin = house.pawd.client().await;
            let denied = Some("rpc_denied".to_owned());
            let records = AuditRpcClient::list(&admin, None, denied, None, Some(1000)).await;
            let records = records.expect("it is allowed");
            let of = |record: &Value| {
                assert_eq!(record["entry"]["actor"]["uid"], ALICE, "{record}");
                let method = &record["entry"]["detail"]["method"];
                method.as_str().expect("it names one").to_owned()
            };
            let mut recorded: Vec<String> = records.iter().map(of).collect();
            recorded.sort();
            let each: Vec<String> = documented.keys().map(|it| (*it).to_owned()).collect();
            assert_eq!(recorded, each);
        }
    }
}

/// What nobody owns: a user sees it as everybody does, or it is about the caller alone.
const COMMON: &[&str] = &[
    "agent.list",
    "agent.show",
    "chat.cancel",
    "image.list",
    "job.add",
    "mcp.call",
    "model.list",
    "model.show",
    "policy.show",
    "provider.list",
    "provider.show",
    "route.list",
    "route.show",
    "rpc.discover",
    "sandbox.abort",
    "sandbox.leave",
    "sandbox.runtimes",
    "skill.list",
    "skill.show",
    "system.doctor",
    "system.ping",
    "system.whoami",
];

/// Lists, and what is told of everybody together.
const LISTS: &[&str] = &[
    "action.list",
    "session.list",
    "job.list",
    "sandbox.stats",
    "system.status",
    "system.metrics",
];

/// What needs layers of a real launcher; whose they are is what `only_whose_it_is_decides_and_administrators` tries.
const OF_LAYERS: &[&str] = &["workspace.list", "workspace.diff", "workspace.discard"];

/// What a user is not told anything of, whosever it is.
const CLOSED: &[&str] = &[
    "approval.list",
    "approval.grants",
    "secret.list",
    "secret.log",
    "secret.status",
    "sandbox.list",
    "audit.list",
    "budget.list",
];

async fn what_one_user_made_is_not_there_for_another() {
    let model = Model::start().await;
    let mut house = House::with(Setup::only(CONFIG).shipped_policy().ollama(&model)).await;

    // One of each, made by Alice; a command may be run without a question by administrators alone, so that one is root's.
    let alice = house.guest(ALICE, &[USERS]);
    let chat = rest(&mut say(alice, "hello").await).await;
    let chat = done(&chat);
    let (session, chat) = (chat.session.clone(), chat.action_id.clone());
    let asked = ask_to_write(alice, "out.txt", "hello").await;
    let [cron, tz, text] = ["0 7 * * *", "UTC", "hello"].map(str::to_owned);
    let job = JobRpcClient::add(alice, cron, tz, text, Some("news".into()), None, None, None);
    let job = job.await.expect("it is one's own").id;
    let spec = RunSpec {
        argv: vec!["cat".into()],
        stdin: true,
        ..RunSpec::default()
    };
    let run = SandboxRpcClient::run(house.guest(0, &[]), spec);
    let mut running = within("the run", run).await.expect("root may");
    let sandbox = loop {
        if let Some(Ok(RunEvent::Started { id, .. })) = within("its start", running.next()).await {
            break id;
        }
    };

    // Bob asks for each of them by its id.
    let bob = house.guest(BOB, &[USERS]);
    let by_id = [
        ("action.show", json!({ "id": asked.id })),
        ("action.cancel", json!({ "id": asked.id })),
        ("action.wait", json!({ "id": asked.id, "timeout_ms": 1 })),
        ("policy.explain", json!({ "id": asked.id })),
        ("session.show", json!({ "id": session })),
        ("session.delete", json!({ "id": session })),
        (
            "action.submit",
            json!({ "kind": "chat", "arguments": { "text": "go on" }, "session": session }),
        ),
        ("job.history", json!({ "job": job })),
        ("job.run", json!({ "job": job })),
        ("job.remove", json!({ "job": job })),
        ("sandbox.show", json!({ "id": sandbox })),
        ("sandbox.stats", json!({ "id": sandbox })),
        ("sandbox.input", json!({ "id": sandbox, "end": true })),
        (
            "sandbox.resize",
            json!({ "id": sandbox, "rows": 24, "cols": 80 }),
        ),
    ];
    for (method, params) in &by_id {
        match ask(bob, method, params).await {
            Err(error) => assert_eq!(data(&error).kind, ErrorKind::NotFound, "{method}: {error}"),
            Ok(answer) => panic!("{method} shows what is somebody else's: {answer}"),
        }
    }
    let streams = [
        (
            "chat.send",
            "chat.cancel",
            json!({ "text": "go on", "session": session }),
        ),
        ("sandbox.logs", "sandbox.leave", json!({ "id": sandbox })),
        (
            "sandbox.run",
            "sandbox.abort",
            json!({ "spec": { "argv": ["true"], "sandbox": sandbox } }),
        ),
    ];
    for (method, stop, params) in &streams {
        let begun = bob.subscribe::<Value, _>(method, members(params), stop);
        let refused = refused(
            within("an answer", begun).await.map(drop),
            ErrorKind::NotFound,
        );
        drop(refused);
    }

    // Nothing of them is in what is listed or counted.
    let ids = [&asked.id, &chat, &session, &job, &sandbox];
    for method in LISTS {
        let told = ask(bob, method, &json!({})).await.expect("it is allowed");
        let told = told.to_string();
        for id in ids {
            assert!(!told.contains(id.as_str()), "{method} tells {id}: {told}");
        }
    }
    for method in CLOSED {
        refused(ask(bob, method, &json!({})).await, ErrorKind::Denied);
    }

    // Whatever a user may call was tried, or shows nothing that somebody owns.
    let tried: BTreeSet<&str> = by_id
        .iter()
        .map(|(method, _)| *method)
        .chain(streams.iter().map(|(method, ..)| *method))
        .chain(LISTS.iter().copied())
        .chain(COMMON.iter().copied())
        .chain(OF_LAYERS.iter().copied())
        .collect();
    let untried: Vec<_> = documented()
        .into_iter()
        .filter(|(method, least)| *least == Role::User && !tried.contains(method))
        .collect();
    assert_eq!(untried, [], "say whose what it shows is");

    // Nothing was changed by asking, and an approver who is not asked sees no more.
    let carol = house.guest(CAROL, &[STAFF]);
    refused(
        ask(carol, "session.show", &json!({ "id": session })).await,
        ErrorKind::NotFound,
    );
    let alice = house.guest(ALICE, &[USERS]);
    assert_eq!(show(alice, &asked.id).await.state, State::WaitingApproval);
    for (method, params) in [
        ("session.show", json!({ "id": session })),
        ("job.history", json!({ "job": job })),
    ] {
        ask(alice, method, &params)
            .await
            .expect("it is still there");
    }
}
