//! Values of the vault, used in every way there is, and then looked for everywhere: they went to whom they are for, and are nowhere
//! else, however they would be written there.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use harness::{
    Answer as Says, Model,
    canary::encodings,
    cases,
    report::Case,
    standalone::Standalone,
    words::{rest, say},
};
use paw_api::{provider::ChatEvent, trail::AuditRpcClient};

use crate::{
    egress::{GET, endpoint_of, holds_any, shell},
    without_sandboxes,
};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        values_that_are_used_in_every_way_are_found_nowhere_else,
        a_broker_uses_a_secret_for_whom_its_list_and_policy_say_alone,
    ]
}

/// Values that stand nowhere by chance, look like no format that anybody knows, and are written differently in a URL.
const CLOUD: &str = "Kq7v/R2mXw9+Lp4TzB8nHs3YdF";
const CLOUD_NEXT: &str = "Zc5t/N8bQe1+Jr6UyG2kMw7XhP";
const BROKER: &str = "Dv3x/F6hAs9+Wl2ViT4jEo8RnC";
const BROKER_NEXT: &str = "Ym1p/B7gKt4+Xd9SqZ5cHu3LwJ";
const WRONG: &str = "Gf8s/C2vRz6+Ok1PmN7aIe5TbQ";

const ALL: [&str; 5] = [CLOUD, CLOUD_NEXT, BROKER, BROKER_NEXT, WRONG];

fn needles() -> Vec<Vec<u8>> {
    ALL.into_iter().flat_map(encodings).collect()
}

/// Which of the values stands in these bytes.
fn found_in(bytes: &[u8]) -> Option<&'static str> {
    ALL.into_iter().find(|value| {
        let mut each = encodings(value).into_iter();
        each.any(|form| memchr::memmem::find(bytes, &form).is_some())
    })
}

/// Every file below a directory that holds any of the values.
fn files_with(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            files_with(&entry.path(), found);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if let Some(value) = found_in(&bytes) {
                found.push(format!("{value} in {}", entry.path().display()));
            }
        }
    }
}

/// An endpoint that knows who comes with one of these, and sends back all that it was asked to who asks for `/base/echo`.
pub(crate) async fn endpoint() -> (u16, String, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    let (port, certificate) = endpoint_of("api.test", move |head| {
        let token = head
            .split("authorization: Bearer ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next())
            .unwrap_or_default();
        seen.lock()
            .expect("nobody panics with it")
            .push(token.to_owned());
        if head.starts_with("GET /base/echo ") {
            head.to_owned()
        } else if head.starts_with("GET /base/hex ") {
            token.bytes().map(|byte| format!("{byte:02x}")).collect()
        } else if head.starts_with("GET /base/base64 ") {
            STANDARD.encode(format!("you said {token}!"))
        } else {
            "served\n".to_owned()
        }
    })
    .await;
    (port, certificate, asked)
}

/// A system with a key for its vault, a model whose key is the secret `cloud`, and a broker whose secret is `mail`.
async fn system(model: &Model) -> (Standalone, Arc<Mutex<Vec<String>>>) {
    let (port, certificate, asked) = endpoint().await;
    let ceiling = format!(
        "ports = []\nallow_addresses = [\"127.0.0.1/32\"]\n[addresses]\n\"api.test\" = [\"127.0.0.1\"]\n\
         [broker.api]\nurl = \"https://api.test:{port}/base\"\nsecret = \"mail\"\nca = \"ROOT/etc/ca.pem\"\n"
    );
    let config = format!(
        "net = [\"broker/api\"]\n[provider.local]\nkind = \"openai\"\nbase_url = \"{}\"\nmodel = \"m\"\nmax_retries = 0\n\
         api_key_secret = \"cloud\"\n",
        model.url()
    );
    let files = [
        ("etc/egress.toml", ceiling.as_str()),
        ("etc/ca.pem", &certificate),
        ("etc/vault.key", &"5".repeat(64)),
    ];
    (Standalone::start_with(&config, false, &files).await, asked)
}

/// What pawctl says to this, which has to be done.
pub(crate) async fn done(system: &Standalone, arguments: &[&str], stdin: &str) -> String {
    let output = system.pawctl_with(arguments, stdin).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What pawctl says to this, which has to fail.
async fn fails(system: &Standalone, arguments: &[&str], stdin: &str) -> String {
    let output = system.pawctl_with(arguments, stdin).await;
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn inside(system: &Standalone, path: &str) -> String {
    let script = format!("{GET} get http://broker/api/{path}; env; cat /proc/self/environ");
    shell(system, "native", &["broker/api".into()], &script)
        .await
        .0
}

async fn values_that_are_used_in_every_way_are_found_nowhere_else() {
    let model = Model::start().await;
    let (system, asked) = system(&model).await;
    let client = system.client().await;
    let mut said = Vec::new();
    let mut told = async |arguments: &[&str], stdin: &str| {
        said.push(done(&system, arguments, stdin).await);
    };
    told(&["secret", "init"], "").await;
    told(&["secret", "set", "cloud"], CLOUD).await;
    told(&["secret", "set", "mail"], &format!("{BROKER}\n")).await;
    told(&["secret", "allow", "cloud", "--provider", "local"], "").await;
    let both = [
        "secret", "allow", "mail", "--broker", "api", "--agent", "default",
    ];
    told(&both, "").await;

    // A provider that answers, and ones that quote the key in their refusal.
    let ended = rest(&mut say(&client, "hello").await).await;
    assert!(
        matches!(ended.last(), Some(ChatEvent::Done(_))),
        "{ended:?}"
    );
    for status in [401, 500] {
        let quoted = format!("{{\"error\":{{\"message\":\"the key {CLOUD} is wrong\"}}}}");
        model.will(Says::Status(status, Vec::new(), quoted));
        let ended = rest(&mut say(&client, "once more").await).await;
        assert!(
            matches!(ended.last(), Some(ChatEvent::Failed { .. })),
            "{ended:?}"
        );
        said.push(format!("{ended:?}"));
    }
    let tested = system.pawctl(&["provider", "test", "local"]).await;
    said.push(format!("{tested:?}"));

    // A broker that serves, and an endpoint that sends back what it was sent.
    let served = inside(&system, "x").await;
    assert!(served.contains("served\n"), "{served}");
    said.push(served);
    for path in ["echo", "hex", "base64"] {
        said.push(inside(&system, path).await);
    }
    let ended = AuditRpcClient::list(&client, None, Some("egress_ended".into()), None, None);
    let ended = ended.await.expect("root may read the log");
    let leaks = ended
        .iter()
        .filter(|it| it["entry"]["detail"]["fault"] == "leak");
    assert_eq!(leaks.count(), 3, "{ended:?}");

    // Another value, another key, errors of every kind.
    let mut told = async |arguments: &[&str], stdin: &str| {
        said.push(done(&system, arguments, stdin).await);
    };
    told(&["secret", "rotate", "cloud", "--keep", "1h"], CLOUD_NEXT).await;
    told(&["secret", "rotate", "mail"], BROKER_NEXT).await;
    told(&["secret", "rekey", "--key-file"], "").await;
    said.push(inside(&system, "x").await);
    let ended = rest(&mut say(&client, "and again").await).await;
    assert!(
        matches!(ended.last(), Some(ChatEvent::Done(_))),
        "{ended:?}"
    );
    for (arguments, stdin) in [
        (&["secret", "set", "cloud"][..], WRONG),
        (&["secret", "set", "no name"], WRONG),
        (&["secret", "rotate", "nothing"], WRONG),
        (&["secret", "unlock", "--recovery"], WRONG),
        (&["secret", "allow", "cloud", "nobody"], WRONG),
    ] {
        said.push(fails(&system, arguments, stdin).await);
    }
    for arguments in [
        &["secret", "list", "-o", "json"][..],
        &["secret", "show", "mail", "-o", "json"],
        &["secret", "log", "-o", "json"],
        &["secret", "status", "-o", "json"],
        &["provider", "show", "local"],
        &["audit", "list", "-o", "json"],
        &["events", "--after", "0"],
        &["metrics"],
        &["status", "-o", "json"],
        &["session", "list", "-o", "json"],
        &["action", "list", "-o", "json"],
        &["sandbox", "list", "-o", "json"],
    ] {
        said.push(done(&system, arguments, "").await);
    }
    assert_eq!(
        *asked.lock().expect("nobody panics with it"),
        [BROKER, BROKER, BROKER, BROKER, BROKER_NEXT],
        "it went to whom it is for"
    );

    said.push(system.daemon.stderr());
    for text in &said {
        assert_eq!(found_in(text.as_bytes()), None, "{text}");
    }
    let mut found = Vec::new();
    files_with(system.root.path(), &mut found);
    assert_eq!(found, [] as [String; 0]);

    let egress = system.processes().await["paw-egress"];
    let pawd = u32::try_from(system.daemon.pid()).expect("process ids are small");
    let seen = system.seen();
    assert!(seen.len() >= 4, "{seen:?}");
    for process in &seen {
        let limits =
            fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap_or_default();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        assert!(
            core.is_none_or(|line| line.split_whitespace().nth(4) == Some("0")),
            "{process:?}: {limits}"
        );
        // paw-egress has a value for a request; none is under way.
        assert!(
            process.pid == pawd || !holds_any(process.pid, &needles()),
            "{process:?}"
        );
    }
    assert!(seen.iter().any(|process| process.pid == egress));

    // What pawd itself has is gone when the vault is sealed and no connection to the provider is left.
    done(&system, &["secret", "lock"], "").await;
    drop(model);
    assert!(
        !holds_any(pawd, &needles()),
        "a sealed vault has no value left"
    );
    let why = fails(&system, &["provider", "test", "local"], "").await;
    assert!(why.contains("sealed"), "{why}");
}

async fn a_broker_uses_a_secret_for_whom_its_list_and_policy_say_alone() {
    let model = Model::start().await;
    let (system, asked) = system(&model).await;
    let client = system.client().await;
    done(&system, &["secret", "init"], "").await;
    done(&system, &["secret", "set", "mail"], BROKER).await;
    let refused = async |why: &str| {
        let said = inside(&system, "x").await;
        assert!(
            said.contains("403") && !said.contains("served"),
            "{why}: {said}"
        );
        let records =
            AuditRpcClient::list(&client, None, Some("secret_refused".into()), None, None);
        // A check of the provider is refused its own secret meanwhile.
        let records = records.await.expect("root may read the log");
        let newest = records
            .iter()
            .find(|it| it["entry"]["detail"]["for"] != "provider:local")
            .expect("it was refused");
        assert!(
            newest["entry"]["outcome"]
                .as_str()
                .is_some_and(|it| it.contains(why)),
            "{newest}"
        );
        assert_eq!(newest["entry"]["detail"]["through"], "broker:api");
    };
    let allow = async |change: &str, user: &str| {
        done(&system, &["secret", change, "mail", user], "").await;
    };
    refused("is not for agent:default").await;
    allow("allow", "agent:default").await;
    refused("is not for broker:api").await;
    allow("allow", "broker:other").await;
    refused("is not for broker:api").await;
    allow("allow", "broker:api").await;
    allow("deny", "agent:default").await;
    // A skill's right is none of a command's.
    allow("allow", "skill:files").await;
    refused("is not for agent:default").await;
    allow("allow", "agent:default").await;
    assert!(inside(&system, "x").await.contains("served\n"));

    system.root.write(
        "etc/policy/90-mail.cedar",
        "@id(\"no-mail\") @reason(\"Nobody sends mail from here.\")\n\
         forbid (principal, action == Action::\"secret_use\", resource == Secret::\"mail\");\n",
    );
    done(&system, &["policy", "reload"], "").await;
    refused("policy does not permit the use of secret mail through broker:api (no-mail").await;
    fs::remove_file(system.root.path().join("etc/policy/90-mail.cedar")).expect("it is there");
    done(&system, &["policy", "reload"], "").await;
    done(&system, &["secret", "lock"], "").await;
    refused("sealed").await;
    done(&system, &["secret", "unlock"], "").await;
    done(&system, &["secret", "remove", "mail"], "").await;
    refused("no such secret").await;
    assert_eq!(*asked.lock().expect("nobody panics with it"), [BROKER]);
}
