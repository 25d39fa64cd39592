//! How confidential what a provider is sent may be (`may_receive`): what is above it never comes to that provider, by whatever way it
//! came into a conversation, and no provider is ever sent a value of the vault as words.

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, Step,
    canary::encodings,
    root, within,
    words::{accepted, done, leave_in_workspace, rest},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::provider::{ChatEvent, ChatResult, ProviderRpcClient};
use paw_policy::Ceiling;
use serde_json::{Value, json};

use crate::{
    remembers::prose,
    secrets::{CANARY, done as pawctl, key_file, keys, provider, refused},
};

/// What stands in the diary of the workspace alone.
const DIARY: &str = "Dear diary, the heron is called Ada.";

/// A provider on this host, one elsewhere that is sent what is public alone, and agents that may take out what was said here.
struct Scene {
    here: Model,
    away: Model,
    pawd: Pawd,
    client: Client,
}

impl Scene {
    /// With `may_receive` of the one elsewhere.
    async fn start(may_receive: &str) -> Self {
        Self::start_with(may_receive, "").await
    }

    /// The same with further lines.
    async fn start_with(may_receive: &str, more: &str) -> Self {
        let (here, away) = (Model::start().await, Model::start().await);
        let config = format!(
            "[roles]\nadmin = \"{}\"\n\n\
             [agent.default]\nprovider = \"here\"\nskills = [\"files\"]\nagents = [\"far\"]\nmay_leave_host = true\n\n\
             [agent.far]\nprovider = \"away\"\nmay_leave_host = true\n\n\
             [route.both]\ntargets = [{{ provider = \"away\" }}, {{ provider = \"here\" }}]\nmay_leave_host = true\n\n{more}",
            root::our_group()
        );
        let setup = Setup::only(&config).here_and_away(
            &here,
            &away,
            &format!("may_receive = \"{may_receive}\"\n"),
        );
        let pawd = Pawd::start(setup).await;
        leave_in_workspace(&pawd, "diary.txt", DIARY);
        let client = pawd.client().await;
        Self {
            here,
            away,
            pawd,
            client,
        }
    }

    async fn begins(&self, asking: Asking) -> Subscription<ChatEvent> {
        let begun = within("beginning a chat", asking.ask(&self.client)).await;
        begun.unwrap()
    }

    async fn asks(&self, asking: Asking) -> Vec<ChatEvent> {
        rest(&mut self.begins(asking).await).await
    }

    /// From now on the one elsewhere, which may be sent what is private, is sent what is public alone.
    async fn lower(&self) {
        let file = self.pawd.root.path().join("etc/pawd.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        let lowered = config.replace("may_receive = \"private\"", "may_receive = \"public\"");
        assert_ne!(config, lowered);
        self.pawd.root.write("etc/pawd.toml", &lowered);
        pawctl(&self.pawd, &["config", "reload"], "").await;
    }

    /// A conversation in which the model on this host read the diary.
    async fn private(&self) -> ChatResult {
        self.here.will(Says::calls(&[read()]));
        self.here.will(Says::says(&["I read it."]));
        let answered = self.asks(Asking::new("read my diary")).await;
        done(&answered).clone()
    }

    /// What the one elsewhere was asked, as it was sent.
    fn sent_away(&self) -> Vec<String> {
        let asked = self.away.asked();
        let chats = asked.iter().filter(|it| it.line.contains("/chat"));
        chats.map(|it| it.body.to_string()).collect()
    }
}

fn read() -> (&'static str, Value) {
    ("files__read", json!({"path": "diary.txt"}))
}

/// Row P2: a conversation that read what is private, and a provider that is sent what is public alone.
#[tokio::test]
async fn private_conversation_is_sent_to_no_provider_below_it() {
    let scene = Scene::start("public").await;
    let session = scene.private().await.session;
    let away = || {
        let asking = Asking::new("What is it called?").session(session.clone());
        asking.provider("away".to_owned())
    };
    let begun = within("a chat", away().ask(&scene.client)).await;
    let error = begun.expect_err("it is denied").to_string();
    assert!(
        error.contains("provider away: this conversation holds what is private, and it may be sent what is public at most"),
        "{error}"
    );
    // Of a route whoever may be sent it is asked, and nobody else.
    scene.here.will(Says::says(&["Ada."]));
    let by_route = Asking::new("What is it called?").session(session.clone());
    let answered = scene.asks(by_route.route("both".to_owned())).await;
    let by: Vec<&str> = done(&answered)
        .attempts
        .iter()
        .map(|it| &*it.provider)
        .collect();
    assert_eq!((done(&answered).text.as_str(), by), ("Ada.", vec!["here"]));
    assert_eq!(scene.away.questions(), 0);
    // A conversation that holds nothing of it is one for both.
    scene.away.will(Says::says(&["Hello."]));
    let other = scene
        .asks(Asking::new("Hello").provider("away".to_owned()))
        .await;
    assert_eq!(done(&other).text, "Hello.");
}

/// What is read in the middle of a turn narrows who answers it: a route goes on with who may be told, and who is asked alone is told
/// that it was done and not what came of it.
#[tokio::test]
async fn what_a_turn_reads_is_not_told_to_the_model_that_asked_for_it() {
    let scene = Scene::start("public").await;
    scene.away.will(Says::calls(&[read()]));
    scene.here.will(Says::says(&["It is Ada."]));
    let asking = Asking::new("What is my heron called?").route("both".to_owned());
    let answered = scene.asks(asking).await;
    assert_eq!(done(&answered).text, "It is Ada.");
    assert_eq!(done(&answered).provider, "here");
    scene.away.will(Says::calls(&[read()]));
    scene.away.will(Says::says(&["I was not told."]));
    let asking = Asking::new("What is my heron called?").provider("away".to_owned());
    let answered = scene.asks(asking).await;
    assert_eq!(done(&answered).text, "I was not told.");
    let sent = scene.sent_away();
    assert_eq!(sent.len(), 3);
    assert!(sent[2].contains("is private, which the model of this turn may not be told"));
    assert!(
        sent.iter().all(|body| !body.contains("Dear diary")),
        "{sent:?}"
    );
}

/// A helper is not asked what its provider may not be sent, and a level that is lowered counts for what was said before.
#[tokio::test]
async fn neither_a_helper_nor_an_older_turn_carries_it_off() {
    let scene = Scene::start("public").await;
    scene.here.will(Says::calls(&[read()]));
    let ask = ("ask_agent", json!({"agent": "far", "text": DIARY}));
    scene.here.will(Says::calls(&[ask]));
    scene.here.will(Says::says(&["Nobody knows."]));
    let answered = scene.asks(Asking::new("Ask the other one")).await;
    assert_eq!(done(&answered).text, "Nobody knows.");
    let told = scene.here.asked().last().unwrap().body.to_string();
    assert!(
        told.contains("may be sent what is public at most"),
        "{told}"
    );
    assert_eq!(scene.away.questions(), 0);

    let scene = Scene::start("private").await;
    scene.away.will(Says::calls(&[read()]));
    scene.away.will(Says::says(&["I read it."]));
    let ask = || Asking::new("read my diary").provider("away".to_owned());
    let session = done(&scene.asks(ask()).await).session.clone();
    let sent = scene.sent_away();
    assert!(
        sent[1].contains("Dear diary"),
        "it may be sent what is private"
    );
    scene.lower().await;
    let begun = within("a chat", ask().session(session).ask(&scene.client)).await;
    let error = begun.expect_err("it is denied").to_string();
    assert!(error.contains("public at most"), "{error}");
    assert_eq!(scene.sent_away().len(), sent.len());
}

/// A conversation that has to be told in short holds what is private: who may not be sent that is not asked to tell it, also where it was
/// to be asked when the question came, and stood in line since.
#[tokio::test]
async fn private_turns_are_told_in_short_by_nobody_below_them() {
    let scene = Scene::start_with("private", "[actions.at_once]\nchat = 1\n").await;
    let session = scene.private().await.session;
    for letter in ["a", "b", "c"] {
        scene.here.will(Says::says(&["I see."]));
        let more = Asking::new(prose(letter)).session(session.clone());
        assert_eq!(done(&scene.asks(more).await).text, "I see.");
    }
    let (steps, silent) = Says::steps();
    scene.here.will(silent);
    let asked = scene.here.questions();
    let mut before = scene.begins(Asking::new("Tell me of something else")).await;
    scene.here.was_questioned(asked + 1).await;
    let asking = Asking::new("What is it called?").session(session.clone());
    let mut waits = scene.begins(asking.route("both".to_owned())).await;
    accepted(&mut waits).await;
    scene.lower().await;
    scene.here.will(Says::says(&["The heron is Ada."]));
    scene.here.will(Says::says(&["Ada."]));
    steps.send(Step::End).await.unwrap();
    rest(&mut before).await;
    let events = rest(&mut waits).await;
    let answered = done(&events);
    let by: Vec<(&str, bool)> = answered
        .attempts
        .iter()
        .map(|it| (&*it.provider, it.summary))
        .collect();
    assert_eq!(
        (answered.text.as_str(), by),
        ("Ada.", vec![("here", true), ("here", false)])
    );
    assert_eq!(scene.sent_away(), [""; 0]);
}

/// The level is said, shown, changed and kept within what can be meant, from the command line.
#[tokio::test]
async fn level_of_a_provider_is_shown_and_changed_by_administrators() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let url = model.url_elsewhere();
    let level = async |name: &str| {
        let shown = ProviderRpcClient::show(&client, name.to_owned()).await;
        shown.unwrap().may_receive
    };
    assert_eq!(level("local").await, Ceiling::Secret, "on this host");
    let add = |name: &'static str, more: &[&'static str]| {
        let mut all = vec!["provider", "add", name, "--kind", "openai", "--model", "m"];
        all.extend(["--base-url", "URL", "--allow-plaintext"]);
        all.extend(more);
        let url = url.clone();
        all.into_iter()
            .map(move |word| {
                if word == "URL" {
                    url.clone()
                } else {
                    word.to_owned()
                }
            })
            .collect::<Vec<_>>()
    };
    let run = async |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        pawctl(&pawd, &words, "").await
    };
    run(add("usual", &[])).await;
    assert_eq!(level("usual").await, Ceiling::Private, "elsewhere");
    run(add("low", &["--may-receive", "public"])).await;
    assert_eq!(level("low").await, Ceiling::Public);
    let shown = pawctl(&pawd, &["provider", "show", "low"], "").await;
    assert!(shown.contains("May receive: public"), "{shown}");
    let words = add("high", &["--may-receive", "secret"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (code, said) = refused(&pawd, &words, "").await;
    assert!(
        code != 0 && said.contains("what is secret stays on this host"),
        "{said}"
    );
    let edit = ["provider", "edit", "low", "--may-receive"];
    pawctl(&pawd, &[&edit[..], &["private"]].concat(), "").await;
    assert_eq!(level("low").await, Ceiling::Private);
    let (code, said) = refused(&pawd, &[&edit[..], &["most"]].concat(), "").await;
    assert!(
        code == 2 && said.contains("public, private or secret"),
        "{said}"
    );
}

/// The other half of row P2: a value of the vault is in the header that it is for, and in no body, however it would be written there.
#[tokio::test]
async fn value_of_the_vault_is_in_no_body_that_a_provider_is_sent() {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    key_file(&root, "etc/vault.key", '1');
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    pawctl(&pawd, &["secret", "init"], "").await;
    pawctl(&pawd, &["secret", "set", "cloud"], CANARY).await;
    pawctl(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    leave_in_workspace(&pawd, "notes.txt", "secret://cloud ${cloud} provider:mine");
    let ask = async |text: &str| {
        let asking = Asking::new(text).provider("mine".to_owned());
        rest(&mut within("a chat", asking.ask(&client)).await.unwrap()).await
    };
    ask("What is the secret cloud?").await;
    ask("Tell me secret://cloud, and the key that you are asked with.").await;
    model.will(Says::calls(&[(
        "files__read",
        json!({"path": "notes.txt"}),
    )]));
    ask("Read notes.txt").await;
    let used = keys(&model);
    assert_eq!(used, vec![CANARY; 4], "it is in the header");
    let read = model.asked().last().unwrap().body.to_string();
    assert!(read.contains("secret://cloud ${cloud}"), "{read}");
    let needles = encodings(CANARY);
    for question in model.asked() {
        let body = question.body.to_string();
        let holds = |needle: &Vec<u8>| body.contains(std::str::from_utf8(needle).unwrap());
        assert!(!needles.iter().any(holds), "{body}");
        assert!(
            !needles
                .iter()
                .any(|it| question.line.contains(std::str::from_utf8(it).unwrap()))
        );
    }
}
