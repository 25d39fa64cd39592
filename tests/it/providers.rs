//! Providers are registered over the control socket, by administrators, are kept, and never take what root decided.

use std::path::Path;

use harness::{
    Answer, Model, Pawd, Root, Setup,
    words::{refused, rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    provider::{ChatEvent, Provider, ProviderRpcClient, ProviderSpec},
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use serde_json::json;

fn spec(url: &str) -> ProviderSpec {
    ProviderSpec {
        kind: Some("openai".into()),
        base_url: Some(url.into()),
        model: Some("m".into()),
        max_retries: Some(0),
        ..ProviderSpec::default()
    }
}

/// A pawd with the model as provider `local` in its file, so that the model's port may be connected to.
async fn pawd(model: &Model) -> (Pawd, Client) {
    let pawd = Pawd::start(Setup::new().ollama(model)).await;
    let client = pawd.client().await;
    (pawd, client)
}

async fn named(client: &Client, name: &str) -> Option<Provider> {
    let all = ProviderRpcClient::list(client).await.unwrap();
    all.into_iter().find(|it| it.name == name)
}

async fn answers(client: &Client) -> bool {
    let events = rest(&mut say(client, "hello").await).await;
    matches!(events.last(), Some(ChatEvent::Done(done)) if done.text == "Hello world")
}

#[tokio::test]
async fn registered_provider_answers_at_once_and_after_a_restart() {
    let model = Model::start().await;
    let (mut pawd, client) = pawd(&model).await;
    let added = client.add("mine".into(), spec(&model.url())).await.unwrap();
    assert!(
        added.registered && added.waits_for.is_none() && !added.default,
        "{added:?}"
    );
    assert!(
        ProviderRpcClient::default(&client, "mine".into())
            .await
            .unwrap()
            .default
    );
    assert!(answers(&client).await);
    assert!(
        model
            .asked()
            .iter()
            .any(|it| it.line == "POST /v1/chat/completions")
    );

    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    let kept = named(&client, "mine").await.unwrap();
    assert!(kept.registered && kept.default, "{kept:?}");
    assert!(answers(&client).await);
}

#[tokio::test]
async fn it_is_shown_where_a_provider_comes_from() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model).await;
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    let file = |name: &str| pawd.root.path().join(name).display().to_string();
    let (local, mine) = (
        named(&client, "local").await.unwrap(),
        named(&client, "mine").await.unwrap(),
    );
    assert_eq!(
        (local.registered, local.file),
        (false, file("etc/pawd.toml"))
    );
    assert_eq!(
        (mine.registered, mine.file),
        (true, file("state/providers.toml"))
    );
    let shown = pawd.pawctl(&["provider", "show", "mine"]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("registered, kept in"), "{shown}");
}

#[tokio::test]
async fn what_stands_in_a_file_is_changed_there_alone() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model).await;
    let calls = [
        client.add("local".into(), spec(&model.url())).await,
        client.edit("local".into(), spec(&model.url())).await,
        client.remove("local".into()).await,
    ];
    for call in calls {
        let error = refused(call, ErrorKind::Conflict);
        assert_eq!(error.id.as_deref(), Some("local"));
    }
    let shown = pawd.pawctl(&["provider", "remove", "local"]).await;
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(
        said.contains("etc/pawd.toml") && said.contains("pawctl config reload"),
        "{said}"
    );

    pawd.root.write(
        "etc/pawd.d/60-default.toml",
        "default_provider = \"local\"\n",
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    let fixed = ProviderRpcClient::default(&client, "mine".into()).await;
    refused(fixed, ErrorKind::Conflict);
}

#[tokio::test]
async fn registered_provider_is_changed_and_removed() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model).await;
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    let other = ProviderSpec {
        model: Some("other".into()),
        stall_timeout_ms: Some(1_500),
        ..ProviderSpec::default()
    };
    let edited = client.edit("mine".into(), other).await.unwrap();
    assert_eq!(
        (
            edited.model.as_str(),
            edited.stall_timeout_ms,
            edited.max_retries
        ),
        ("other", 1_500, 0)
    );
    client.remove("mine".into()).await.unwrap();
    assert_eq!(named(&client, "mine").await, None);
    refused(client.remove("mine".into()).await, ErrorKind::NotFound);
    let kept = std::fs::read_to_string(pawd.root.path().join("state/providers.toml")).unwrap();
    assert!(!kept.contains("mine"), "{kept}");
}

#[tokio::test]
async fn provider_that_is_needed_is_not_removed() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model).await;
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    pawd.root.write(
        "etc/pawd.d/60-agent.toml",
        "[agent.clerk]\nprovider = \"mine\"\n",
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    refused(client.remove("mine".into()).await, ErrorKind::Conflict);
    pawd.root.write("etc/pawd.d/60-agent.toml", "");
    ConfigRpcClient::reload(&client).await.unwrap();

    ProviderRpcClient::default(&client, "mine".into())
        .await
        .unwrap();
    refused(client.remove("mine".into()).await, ErrorKind::Conflict);
    ProviderRpcClient::default(&client, "local".into())
        .await
        .unwrap();
    client.remove("mine".into()).await.unwrap();
}

#[tokio::test]
async fn second_provider_does_not_take_the_place_of_the_default() {
    let model = Model::start().await;
    let (_pawd, client) = pawd(&model).await;
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    assert!(named(&client, "local").await.unwrap().default);
    assert!(answers(&client).await);
}

#[tokio::test]
async fn url_that_hides_something_is_refused() {
    let model = Model::start().await;
    let (_pawd, client) = pawd(&model).await;
    for url in [
        "ftp://example.com",
        "file:///etc/shadow",
        "unix:///run/pawd/launcher.sock",
        "not a url",
        "http://",
        "https://user@example.com",
        "https://:key@example.com",
        "https://example.com/v1?key=k",
        "https://example.com/v1#k",
        "https://example.com:0",
        "https://example.com:65536",
        "http://example.com",
        "http://10.0.0.1:11434",
        "http://localhost.example.com",
        "http://169.254.169.254/latest",
    ] {
        let error = refused(
            client.add("mine".into(), spec(url)).await,
            ErrorKind::Invalid,
        );
        assert_eq!(error.id.as_deref(), Some("mine"), "{url}");
    }
    let plain = ProviderSpec {
        allow_plaintext: Some(true),
        ..spec("http://10.0.0.1")
    };
    let told = client.add("mine".into(), plain).await.unwrap();
    assert!(told.allow_plaintext && !told.local, "{told:?}");
    for name in ["", "Mine", "../mine", "a b", &"x".repeat(65)] {
        let added = client.add(name.into(), spec("https://example.com")).await;
        refused(added, ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn port_that_pawd_may_not_connect_to_waits_for_a_restart() {
    let (model, other) = (Model::start().await, Model::start().await);
    let (mut pawd, client) = pawd(&model).await;
    let added = client.add("far".into(), spec(&other.url())).await.unwrap();
    assert_eq!(added.state, "waiting", "{added:?}");
    assert!(added.waits_for.unwrap().contains("restart pawd"));
    let test = ProviderRpcClient::test(&client, Some("far".into())).await;
    refused(test, ErrorKind::Unavailable);
    assert_eq!(other.asked().len(), 0);

    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(named(&client, "far").await.unwrap().waits_for, None);
    ProviderRpcClient::test(&client, Some("far".into()))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_the_next_start_would_refuse_is_refused_at_once() {
    let (model, other) = (Model::start().await, Model::start().await);
    let (mut pawd, client) = pawd(&model).await;
    let slow = ProviderSpec {
        total_timeout_ms: Some(25 * 3_600_000),
        ..spec(&other.url())
    };
    let long = spec(&format!("{}/{}", other.url(), "x".repeat(600_000)));
    for (name, bad) in [("slow", slow), ("long", long.clone()), ("more", long)] {
        // Its port is not open yet, so it is not asked before that start.
        refused(client.add(name.into(), bad).await, ErrorKind::Invalid);
    }
    pawd.stop().await;
    pawd.start_again().await;
    assert!(answers(&pawd.client().await).await);
}

/// A credential that pawd may read.
fn credential(root: &Root, name: &str) {
    let path = format!("etc/credentials/{name}");
    root.write(&path, "sk-secret\n");
    root.mode(&path, 0o400);
    root.give(&path);
}

#[tokio::test]
async fn key_goes_to_its_provider_in_a_header_and_nowhere_else() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    credential(&root, "cloud.key");
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let with_key = ProviderSpec {
        api_key_credential: Some("cloud.key".into()),
        ..spec(&model.url())
    };
    client.add("mine".into(), with_key).await.unwrap();
    ProviderRpcClient::test(&client, Some("mine".into()))
        .await
        .unwrap();
    let asked = model.asked();
    let chat = asked
        .iter()
        .find(|it| it.line.contains("completions"))
        .unwrap();
    let sent = |header: &String| header.eq_ignore_ascii_case("authorization: bearer sk-secret");
    assert!(chat.headers.iter().any(sent), "{chat:?}");
    let said = [
        serde_json::to_string(&named(&client, "mine").await).unwrap(),
        std::fs::read_to_string(pawd.root.path().join("state/providers.toml")).unwrap(),
        pawd.daemon.stderr(),
        json!(
            AuditRpcClient::list(&client, None, None, None, None)
                .await
                .unwrap()
        )
        .to_string(),
    ];
    assert!(said.iter().all(|it| !it.contains("sk-secret")));
}

#[tokio::test]
async fn what_is_no_credential_is_not_kept() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model).await;
    let with_key = ProviderSpec {
        api_key_credential: Some("sk-0123456789abcdef".into()),
        ..spec(&model.url())
    };
    refused(
        client.add("mine".into(), with_key).await,
        ErrorKind::Conflict,
    );
    assert_eq!(named(&client, "mine").await, None);
    let all = AuditRpcClient::list(&client, None, None, None, None)
        .await
        .unwrap();
    let written = json!(all).to_string() + &pawd.daemon.stderr();
    assert!(!written.contains("sk-0123456789abcdef"), "{written}");
}

#[tokio::test]
async fn key_that_a_file_gives_to_one_place_is_sent_to_no_other() {
    let (theirs, evil) = (Model::start().await, Model::start().await);
    let setup = Setup::new()
        .provider(
            "cloud",
            "openai",
            &theirs.url(),
            "api_key_credential = \"cloud.key\"\n",
        )
        .provider("evil", "openai", &evil.url(), "");
    let root = setup.root();
    credential(&root, "cloud.key");
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let stolen = ProviderSpec {
        api_key_credential: Some("cloud.key".into()),
        ..spec(&evil.url())
    };
    refused(
        client.add("mine".into(), stolen.clone()).await,
        ErrorKind::Conflict,
    );
    // Nor by the way of one that is where the key belongs.
    let right = ProviderSpec {
        base_url: Some(theirs.url()),
        ..stolen.clone()
    };
    client.add("mine".into(), right).await.unwrap();
    refused(
        client.edit("mine".into(), stolen).await,
        ErrorKind::Conflict,
    );
    let leaked = evil
        .asked()
        .iter()
        .any(|it| format!("{it:?}").contains("sk-secret"));
    assert!(!leaked);
}

#[tokio::test]
async fn credential_of_the_egress_broker_is_no_key_of_a_provider() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    credential(&root, "theirs");
    root.write(
        "etc/egress.toml",
        "[broker.api]\nurl = \"https://api.example.com\"\ncredential = \"theirs\"\n",
    );
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let stolen = ProviderSpec {
        api_key_credential: Some("theirs".into()),
        ..spec(&model.url())
    };
    refused(client.add("mine".into(), stolen).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn key_that_is_gone_keeps_no_pawd_from_starting() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    credential(&root, "cloud.key");
    let mut pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let with_key = ProviderSpec {
        api_key_credential: Some("cloud.key".into()),
        ..spec(&model.url())
    };
    client.add("mine".into(), with_key).await.unwrap();
    pawd.stop().await;
    let asked = || {
        let all = model.asked();
        all.iter().filter(|it| it.line.contains("/v1/")).count()
    };
    let before = asked();
    std::fs::remove_file(pawd.root.path().join("etc/credentials/cloud.key")).unwrap();
    pawd.start_again().await;
    let client = pawd.client().await;
    let mine = named(&client, "mine").await.unwrap();
    assert_eq!(mine.state, "waiting", "{mine:?}");
    assert!(mine.waits_for.unwrap().contains("cloud.key"));
    assert_eq!(asked(), before, "it is not asked without its key");
}

#[tokio::test]
async fn each_change_of_a_provider_is_on_record_before_its_effect() {
    let model = Model::start().await;
    let (mut pawd, client) = pawd(&model).await;
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    client
        .edit("mine".into(), spec("https://example.com"))
        .await
        .unwrap();
    ProviderRpcClient::default(&client, "local".into())
        .await
        .unwrap();
    client.remove("mine".into()).await.unwrap();
    let changed = Some("provider_changed".to_owned());
    let records = AuditRpcClient::list(&client, None, changed, None, None)
        .await
        .unwrap();
    let text = json!(records).to_string();
    for word in [
        "added",
        "changed",
        "made the default",
        "removed",
        "https://example.com",
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    // Without the writer nothing is changed.
    let mut audit = pawd.audit.take().unwrap();
    audit.kill9().await;
    refused(
        client.add("mine".into(), spec(&model.url())).await,
        ErrorKind::Unavailable,
    );
    assert_eq!(named(&client, "mine").await, None);
    assert!(!kept(pawd.root.path()).contains("mine"));
}

fn kept(root: &Path) -> String {
    std::fs::read_to_string(root.join("state/providers.toml")).unwrap()
}

#[tokio::test]
async fn test_of_a_provider_asks_it_and_tells_what_it_took() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model).await;
    model.will(Answer::says(&["Y", "es"]));
    let test = ProviderRpcClient::test(&client, None).await.unwrap();
    assert_eq!(
        (
            test.name.as_str(),
            test.text.as_str(),
            test.usage.output_tokens
        ),
        ("local", "Yes", Some(2))
    );
    assert!(
        test.first_token_ms.is_some() && test.models == ["m"],
        "{test:?}"
    );

    let said = json!({"error": "no such key"}).to_string();
    model.will(Answer::Status(401, Vec::new(), said));
    let error = refused(
        ProviderRpcClient::test(&client, None).await,
        ErrorKind::Failed,
    );
    assert!(error.hint.contains("key"), "{error:?}");
    model.will(Answer::Status(
        429,
        vec![("retry-after", "7".into())],
        "{}".into(),
    ));
    let error = refused(
        ProviderRpcClient::test(&client, None).await,
        ErrorKind::Busy,
    );
    assert_eq!(error.retry_after_ms, Some(7_000));
    model.will(Answer::cut(&["half"]));
    let shown = pawd.pawctl(&["provider", "test"]).await;
    assert_eq!(shown.status.code(), Some(1));
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.contains("cut"), "{said}");
}

#[tokio::test]
async fn redirect_of_a_registered_provider_is_not_followed() {
    let (model, elsewhere) = (Model::start().await, Model::start().await);
    let setup = Setup::new().ollama(&model).openai(&elsewhere);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    let before = elsewhere.asked().len();
    let to = (
        "location",
        format!("{}/v1/chat/completions", elsewhere.url()),
    );
    model.will(Answer::Status(307, vec![to], "{}".into()));
    let test = ProviderRpcClient::test(&client, Some("mine".into())).await;
    refused(test, ErrorKind::Failed);
    let chats = elsewhere.asked()[before..]
        .iter()
        .filter(|it| it.line.starts_with("POST"))
        .count();
    assert_eq!(chats, 0);
}

#[tokio::test]
async fn what_is_registered_says_nothing_of_roles() {
    let model = Model::start().await;
    let (mut pawd, _client) = pawd(&model).await;
    pawd.stop().await;
    let path = "state/providers.toml";
    pawd.root.write(path, "[roles]\nadmin = \"nogroup\"\n");
    pawd.root.give(path);
    let (code, said) = harness::pawd::refused(&pawd.root).await;
    assert!(
        code == 78 && said.contains("providers.toml"),
        "{code}: {said}"
    );
}

#[tokio::test]
async fn registered_provider_that_one_of_roots_stands_before_can_be_removed() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model).await;
    client.add("mine".into(), spec(&model.url())).await.unwrap();
    let theirs = format!(
        "[provider.mine]\nkind = \"ollama\"\nbase_url = \"{}\"\nmodel = \"theirs\"\n",
        model.url()
    );
    pawd.root.write("etc/pawd.d/60-mine.toml", &theirs);
    ConfigRpcClient::reload(&client).await.unwrap();
    assert!(!named(&client, "mine").await.unwrap().registered);
    ProviderRpcClient::remove(&client, "mine".into())
        .await
        .unwrap();
    // Root's stays, and what was registered does not come back with its end.
    assert_eq!(named(&client, "mine").await.unwrap().model, "theirs");
    refused(
        ProviderRpcClient::remove(&client, "mine".into()).await,
        ErrorKind::Conflict,
    );
    pawd.root.write("etc/pawd.d/60-mine.toml", "");
    ConfigRpcClient::reload(&client).await.unwrap();
    assert_eq!(named(&client, "mine").await, None);
}

#[tokio::test]
async fn test_without_a_name_asks_the_default_provider_where_a_route_answers() {
    let model = Model::start().await;
    let setup = Setup::new()
        .with("route = \"main\"\n")
        .ollama(&model)
        .with("\n[route.main]\ntargets = [{ provider = \"local\" }]\n");
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let tested = ProviderRpcClient::test(&client, None).await.unwrap();
    assert_eq!(tested.name, "local");
}
