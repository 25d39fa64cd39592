//! Who may call what, with which parameters.

use jsonrpsee::RpcModule;
use paw_api::methods::TABLE;
use paw_policy::Role;
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any},
    prop_oneof,
    sample::select,
    strategy::ValueTree as _,
    test_runner::TestRunner,
};
use serde_json::{Value, json};

use crate::rig::{METHODS, Rig, limits, module, request};

/// Every method of the product, each answering with its own name.
fn everything() -> jsonrpsee::Methods {
    let mut methods = RpcModule::new(());
    for method in TABLE {
        methods
            .register_method(method.name, |_, (), _| "reached")
            .unwrap();
    }
    methods.into()
}

/// What is documented of each method, written by hand.
const ROLES: &str = include_str!("../../api/roles.txt");

#[test]
fn every_method_has_the_role_that_is_documented() {
    let written: Vec<&str> = ROLES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect();
    let is: Vec<&str> = TABLE
        .iter()
        .flat_map(|method| [method.name, method.role.as_str()])
        .collect();
    assert_eq!(written, is, "daemon/api/roles.txt has a line for each");
}

#[tokio::test]
async fn each_method_is_reached_by_its_roles_and_no_others() {
    for role in [
        None,
        Some(Role::User),
        Some(Role::Approver),
        Some(Role::Admin),
    ] {
        let rig = Rig::with(limits(), role, TABLE, |_| everything());
        let mut client = rig.connect().await;
        let mut denied = Vec::new();
        for method in TABLE {
            let answer = client.call(method.name, json!([])).await;
            if role.is_some_and(|role| role >= method.role) {
                assert_eq!(answer["result"], "reached", "{} as {role:?}", method.name);
            } else {
                assert_eq!(
                    answer["error"]["code"], -32001,
                    "{} as {role:?}: {answer}",
                    method.name
                );
                assert_eq!(answer["error"]["data"]["kind"], "denied");
                assert!(
                    answer["error"]["data"]["hint"]
                        .as_str()
                        .unwrap()
                        .contains("paw-admin"),
                    "{answer}"
                );
                denied.push((nix::unistd::geteuid().as_raw(), method.name));
            }
        }
        assert_eq!(*rig.denied.lock().unwrap(), denied, "as {role:?}");
    }
}

#[tokio::test]
async fn who_has_no_role_does_not_learn_which_methods_there_are() {
    let rig = Rig::with(limits(), None, TABLE, |_| everything());
    let mut client = rig.connect().await;
    assert_eq!(
        client.call("no.such", json!([])).await["error"]["code"],
        -32001
    );
    assert_eq!(rig.denied.lock().unwrap()[0].1, "unknown");
}

#[tokio::test]
async fn a_denial_in_a_batch_is_a_denial() {
    let rig = Rig::with(limits(), Some(Role::User), TABLE, |_| everything());
    let batch = format!(
        "[{},{}]",
        request(1, "config.reload", &json!([])),
        request(2, "system.ping", &json!([]))
    );
    let answer: Value = serde_json::from_str(&rig.exchange(batch).await).unwrap();
    assert_eq!(
        (&answer[0]["error"]["code"], &answer[1]["result"]),
        (&json!(-32001), &json!("reached"))
    );
}

#[tokio::test]
async fn what_is_registered_and_not_listed_cannot_be_reached() {
    let rig = Rig::with(limits(), Some(Role::Admin), TABLE, |shared| {
        module(shared).into()
    });
    let mut client = rig.connect().await;
    assert_eq!(
        client.call("test.ping", json!([])).await["error"]["code"],
        -32601
    );
}

#[tokio::test]
async fn a_table_that_does_not_fit_the_methods_is_told() {
    let rig = Rig::start(limits());
    let methods: jsonrpsee::Methods = module(std::sync::Arc::clone(&rig.shared)).into();
    assert_eq!(
        pawd::rpc::unmatched(&methods, METHODS),
        ["test.stop_refuse"]
    );
    assert_eq!(
        pawd::rpc::unmatched(&everything(), TABLE),
        Vec::<&str>::new()
    );
    assert_eq!(
        pawd::rpc::unmatched(&everything(), &TABLE[1..]),
        [TABLE[0].name]
    );
}

#[tokio::test]
async fn nobody_can_claim_to_be_somebody_else() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    for claim in ["uid", "role", "peer", "requested_by", "caller"] {
        let answer = client.call("test.who", json!({claim: 0})).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(claim),
            "{answer}"
        );
    }
    let beside = r#"{"jsonrpc":"2.0","id":1,"method":"test.who","uid":4711,"role":"admin","peer":{"uid":4711}}"#;
    client.send(beside).await;
    let who = client.value().await;
    assert_eq!(who["result"]["uid"], nix::unistd::geteuid().as_raw());
    assert_eq!(who["result"]["role"], "user");
}

/// Words with which somebody could try to be somebody else.
const IDENTITIES: [&str; 16] = [
    "uid",
    "gid",
    "pid",
    "role",
    "roles",
    "peer",
    "caller",
    "user",
    "user_id",
    "requested_by",
    "requester_level",
    "scopes",
    "admin",
    "sudo",
    "token",
    "unit",
];

/// Any JSON in which such words stand anywhere.
fn claims() -> impl Strategy<Value = Value> {
    let word = select(&IDENTITIES[..]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        Just(json!(0)),
        any::<u32>().prop_map(Value::from),
        select(&["root", "admin", "0", "", "approver"][..]).prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let member = (word.clone().prop_map(str::to_owned), inner.clone());
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            vec(member, 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Whatever is claimed in the parameters of a call, or beside them: who may call it is decided by the kernel's word alone, and so is whose
/// denial is on record.
#[tokio::test]
async fn l2_no_claim_of_an_identity_changes_what_a_caller_may_do() {
    let mut runner = TestRunner::default();
    let sample = (claims(), claims(), select(&IDENTITIES[..]), 0..TABLE.len());
    for role in [None, Some(Role::User), Some(Role::Approver)] {
        let rig = Rig::with(limits(), role, TABLE, |_| everything());
        let mut client = rig.connect().await;
        let mut denied = 0;
        for _ in 0..1_000 {
            let drawn = sample.new_tree(&mut runner).unwrap().current();
            let (params, beside, word, method) = drawn;
            let method = &TABLE[method];
            let mut call = json!({"jsonrpc": "2.0", "id": 1, "method": method.name});
            call[word] = beside;
            // A request has an array or an object there, or nothing.
            if params.is_array() || params.is_object() {
                call["params"] = params;
            }
            client.send(&call.to_string()).await;
            let answer = client.value().await;
            let may = role.is_some_and(|role| role >= method.role);
            assert_eq!(
                answer["error"]["code"] != -32001,
                may,
                "{call} as {role:?}: {answer}"
            );
            denied += usize::from(!may);
        }
        let recorded = rig.denied.lock().unwrap();
        let ours = nix::unistd::geteuid().as_raw();
        assert_eq!(recorded.len(), denied);
        assert!(recorded.iter().all(|(uid, _)| *uid == ours));
    }
}

#[tokio::test]
async fn parameters_pass_by_name_or_by_position_and_no_more() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    for (params, code) in [
        (json!({"text": "a"}), None),
        (json!({"texts": "a"}), Some(-32602)),
        (json!({"text": "a", "more": 1}), Some(-32602)),
        (json!(["a", "b", "c"]), Some(-32602)),
        (json!("a"), Some(-32602)),
        (json!({}), Some(-32602)),
    ] {
        let answer = client.call("test.echo", params.clone()).await;
        assert_eq!(answer["error"]["code"].as_i64(), code, "{params}: {answer}");
    }
}

#[tokio::test]
async fn discover_matches_the_table() {
    let rig = Rig::with(limits(), Some(Role::User), TABLE, |_| {
        pawd::rpc::discover::module("9.9.9").into()
    });
    let answer = rig.connect().await.call("rpc.discover", json!([])).await;
    let described: Vec<_> = answer["result"]["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| {
            (
                method["name"].as_str().unwrap(),
                method["x-role"].as_str().unwrap(),
                method["params"].as_array().unwrap().len(),
            )
        })
        .collect();
    let expected: Vec<_> = TABLE
        .iter()
        .map(|method| (method.name, method.role.as_str(), method.params.len()))
        .collect();
    assert_eq!(described, expected);
}
