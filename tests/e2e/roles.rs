//! Roles come from the groups that the kernel reports, and from nothing else.
//!
//! Being somebody else needs root, which is why these tests are here; the launcher is a fake one.

use std::path::Path;

use harness::{
    Model, Pawd, Setup, cases,
    openmetrics::Exposition,
    report::Case,
    somebody::{Guest, Somebody},
    stage, within,
};
use jsonrpsee::async_client::Client;
use nix::sys::signal::Signal;
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient, Answer, ApprovalRpcClient},
    agent::SessionRpcClient,
    job::{Job, JobRpcClient},
    provider::{ChatEvent, ChatResult},
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    system::{ConfigRpcClient, SystemRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::{Risk, Role, State};
use serde_json::json;

use crate::without_root;

use harness::words::{answer, ask_to_write, call, finally, object, refused, rest, say, show};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_root;
        role_follows_from_uid_and_groups,
        somebody_in_no_group_may_do_nothing,
        user_can_neither_answer_nor_administer,
        approver_answers_others_but_not_themselves,
        administrator_does_not_answer_themselves_by_the_shipped_policy,
        critical_action_takes_two_people,
        users_see_only_what_is_theirs,
        jobs_of_others_are_as_if_they_were_not_there,
        sandboxes_of_others_are_as_if_they_were_not_there,
        denied_call_is_in_the_audit_log,
        denial_is_on_the_disk_before_who_is_denied_hears_of_it,
        record_names_the_unit_that_a_caller_was_in,
        l3_connection_that_is_handed_on_stays_that_of_who_made_it,
        answer_that_is_kept_for_one_user_is_not_given_to_another,
        what_questions_took_is_told_to_administrators_alone,
        failures_of_one_user_close_the_target_to_nobody_else_and_those_of_two_do,
        limit_and_budget_that_one_user_used_up_leave_another_theirs,
    ]
}

/// Groups that every Debian has, used here for the three roles.
pub(crate) const CONFIG: &str = "[roles]\nadmin = \"adm\"\napprover = \"staff\"\nuser = \"users\"\n\n[agent.default]\nskills = [\"files\"]\n";
pub(crate) const ADM: u32 = 4;
pub(crate) const STAFF: u32 = 50;
pub(crate) const USERS: u32 = 100;

pub(crate) const ALICE: u32 = 48_001;
pub(crate) const BOB: u32 = 48_002;
pub(crate) const CAROL: u32 = 48_003;

pub(crate) struct House {
    pub(crate) pawd: Pawd,
    guests: Vec<Somebody>,
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::with(Setup::only(CONFIG).shipped_policy()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let pawd = Pawd::start(setup).await;
        // Where the group that may connect does not exist, the mode of the socket stands in for it.
        pawd.root.mode("run/control.sock", 0o666);
        Self {
            pawd,
            guests: Vec::new(),
        }
    }

    pub(crate) fn guest(&mut self, uid: u32, groups: &[u32]) -> &Client {
        let program = Path::new(env!("CARGO_BIN_EXE_be-somebody"));
        self.guests.push(Somebody::connect(
            program,
            &self.pawd.root.control(),
            uid,
            uid,
            groups,
        ));
        &self.guests.last().expect("it was just pushed").client
    }
}

async fn role_follows_from_uid_and_groups() {
    let mut house = House::open().await;
    for (uid, groups, role) in [
        (0, &[][..], Role::Admin),
        (ALICE, &[ADM], Role::Admin),
        (ALICE, &[STAFF], Role::Approver),
        (BOB, &[USERS], Role::User),
        (BOB, &[USERS, STAFF], Role::Approver),
    ] {
        let caller = house
            .guest(uid, groups)
            .whoami()
            .await
            .expect("it is allowed");
        assert_eq!((caller.uid, caller.role), (uid, role), "{groups:?}");
    }
}

async fn somebody_in_no_group_may_do_nothing() {
    let mut house = House::open().await;
    let nobody = house.guest(ALICE, &[]);
    refused(nobody.whoami().await, ErrorKind::Denied);
    refused(nobody.status().await, ErrorKind::Denied);
    refused(
        ActionRpcClient::list(nobody, None, None, None).await,
        ErrorKind::Denied,
    );
}

async fn user_can_neither_answer_nor_administer() {
    let mut house = House::open().await;
    let alice = house.guest(ALICE, &[USERS]);
    let action = ask_to_write(alice, "out.txt", "hello").await;
    refused(
        answer(alice, &action.id, action.digest, Answer::Approve).await,
        ErrorKind::Denied,
    );
    refused(
        ApprovalRpcClient::list(alice, None, None).await,
        ErrorKind::Denied,
    );
    refused(alice.reload().await, ErrorKind::Denied);
    refused(alice.verify().await, ErrorKind::Denied);
    // Nor by an action: what was said is not even kept as one that was denied.
    let spec = json!({"per": "day", "tokens": 1});
    let change = object(json!({"change": "budget.set", "name": "mine", "spec": spec}));
    let changing = alice.submit("config_change".into(), change, None, None, None, None);
    refused(changing.await, ErrorKind::Denied);
    let all = ActionRpcClient::list(alice, None, None, None).await;
    let ids: Vec<String> = all
        .expect("they are hers")
        .items
        .into_iter()
        .map(|it| it.id)
        .collect();
    assert_eq!(ids, [action.id]);
}

async fn approver_answers_others_but_not_themselves() {
    let mut house = House::open().await;
    let asked = ask_to_write(house.guest(ALICE, &[USERS]), "out.txt", "hello").await;
    let bob = house.guest(BOB, &[STAFF]);
    let own = ask_to_write(bob, "own.txt", "hello").await;
    refused(
        answer(bob, &own.id, own.digest, Answer::Approve).await,
        ErrorKind::Denied,
    );
    let approved: Action = answer(bob, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it is allowed");
    assert_eq!(approved.approved_by.map(|by| by.uid), Some(BOB));
    // Who allowed it sees that it was done, and who asked for it sees what it came to. Other approvers see neither any more.
    let ended = finally(bob, &asked.id).await;
    assert_eq!((ended.state, ended.result), (State::Completed, None));
    assert_eq!(show(bob, &asked.id).await.result, None);
    let alice = house.guest(ALICE, &[USERS]);
    assert!(show(alice, &asked.id).await.result.is_some());
    let carol = house.guest(CAROL, &[STAFF]);
    refused(
        ActionRpcClient::show(carol, asked.id.clone()).await,
        ErrorKind::NotFound,
    );
}

async fn administrator_does_not_answer_themselves_by_the_shipped_policy() {
    let mut house = House::open().await;
    let root = house.guest(0, &[]);
    let own = ask_to_write(root, "out.txt", "hello").await;
    refused(
        answer(root, &own.id, own.digest, Answer::Approve).await,
        ErrorKind::Denied,
    );
    let bob = house.guest(BOB, &[STAFF]);
    answer(bob, &own.id, own.digest, Answer::Approve)
        .await
        .expect("another one may");
}

async fn critical_action_takes_two_people() {
    let mut house = House::open().await;
    let path = json!({"path": "../out"});
    let asked = call(house.guest(ALICE, &[USERS]), "read", path).await;
    assert_eq!(asked.risk, Risk::Critical);
    let bob = house.guest(BOB, &[STAFF]);
    let first = answer(bob, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it is the first of two");
    assert_eq!(
        (first.state, first.approved_by),
        (State::WaitingApproval, None)
    );
    refused(
        answer(bob, &asked.id, asked.digest, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    let shown = ApprovalRpcClient::show(bob, asked.id.clone())
        .await
        .expect("it waits still");
    assert_eq!(shown.first_yes.map(|by| by.uid), Some(BOB));
    // Who asked is no second person, whatever they may be now.
    let alice = house.guest(ALICE, &[STAFF]);
    refused(
        answer(alice, &asked.id, asked.digest, Answer::Approve).await,
        ErrorKind::Denied,
    );
    let admin = house.guest(CAROL, &[ADM]);
    let second = answer(admin, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it is the second of two");
    assert_eq!(second.approved_by.map(|by| by.uid), Some(CAROL));
    let ended = finally(admin, &asked.id).await;
    assert_eq!(
        ended.error.map(|error| error.kind).as_deref(),
        Some("tool"),
        "it was done"
    );
}

/// Makes a job with the name `news`.
async fn news(client: &Client) -> Job {
    let [cron, tz, text] = ["0 7 * * *", "UTC", "hello"].map(str::to_owned);
    let name = Some("news".to_owned());
    let added = JobRpcClient::add(client, cron, tz, text, name, None, None, None);
    added.await.expect("it is one's own")
}

async fn jobs_of_others_are_as_if_they_were_not_there() {
    let mut house = House::open().await;
    let alices = news(house.guest(ALICE, &[USERS])).await;
    let bob = house.guest(BOB, &[USERS]);
    assert_eq!(JobRpcClient::list(bob).await.expect("it is allowed"), []);
    for word in ["news", &alices.id] {
        refused(
            JobRpcClient::run(bob, word.into()).await,
            ErrorKind::NotFound,
        );
        refused(bob.history(word.into(), None).await, ErrorKind::NotFound);
        refused(
            JobRpcClient::remove(bob, word.into()).await,
            ErrorKind::NotFound,
        );
    }
    // A name is taken only among one's own.
    let bobs = news(bob).await;
    assert_eq!((bobs.owner, alices.owner), (BOB, ALICE));
    let admin = house.guest(ALICE, &[ADM]);
    let seen = JobRpcClient::list(admin).await.expect("it is allowed");
    assert_eq!(seen.len(), 2);
    JobRpcClient::remove(admin, bobs.id)
        .await
        .expect("an administrator may");
}

async fn sandboxes_of_others_are_as_if_they_were_not_there() {
    let mut house = House::open().await;
    // It ends with its input, so nothing of it outlives this test.
    let spec = |sandbox: Option<String>| RunSpec {
        argv: vec!["cat".into()],
        stdin: true,
        sandbox,
        ..RunSpec::default()
    };
    let mut running = within(
        "the run",
        SandboxRpcClient::run(house.guest(0, &[]), spec(None)),
    )
    .await
    .expect("root may");
    let id = loop {
        let event = within("its start", running.next()).await;
        if let Some(Ok(RunEvent::Started { id, .. })) = event {
            break id;
        }
    };
    let bob = house.guest(BOB, &[USERS]);
    refused(
        SandboxRpcClient::show(bob, id.clone()).await,
        ErrorKind::NotFound,
    );
    refused(
        SandboxRpcClient::stats(bob, Some(id.clone())).await,
        ErrorKind::NotFound,
    );
    refused(
        bob.logs(id.clone(), None).await.map(drop),
        ErrorKind::NotFound,
    );
    refused(
        SandboxRpcClient::run(bob, spec(Some(id.clone())))
            .await
            .map(drop),
        ErrorKind::NotFound,
    );
    let all = SandboxRpcClient::stats(bob, None)
        .await
        .expect("it is allowed");
    assert!(all.is_empty(), "{all:?}");
    let admin = house.guest(ALICE, &[ADM]);
    let shown = SandboxRpcClient::show(admin, id)
        .await
        .expect("an administrator may");
    assert_eq!((shown.owner, shown.state.as_str()), (0, "running"));
}

async fn users_see_only_what_is_theirs() {
    let mut house = House::open().await;
    let asked = ask_to_write(house.guest(ALICE, &[USERS]), "out.txt", "hello").await;
    let bob = house.guest(BOB, &[USERS]);
    assert!(
        ActionRpcClient::list(bob, None, None, None)
            .await
            .expect("it is allowed")
            .items
            .is_empty()
    );
    refused(
        ActionRpcClient::show(bob, asked.id.clone()).await,
        ErrorKind::NotFound,
    );
    refused(bob.cancel(asked.id.clone()).await, ErrorKind::NotFound);
    assert!(
        SessionRpcClient::list(bob, None, None, None)
            .await
            .expect("it is allowed")
            .items
            .is_empty()
    );
    let admin = house.guest(BOB, &[ADM]);
    assert_eq!(
        ActionRpcClient::show(admin, asked.id.clone())
            .await
            .expect("it is allowed")
            .requested_by
            .uid,
        ALICE
    );
}

/// A connection that a user made and gave to another process, here one of root's: whatever is said over it counts as that user's and is
/// recorded as theirs. Who gives it away has delegated what they may do, and no more.
async fn l3_connection_that_is_handed_on_stays_that_of_who_made_it() {
    let mut house = House::open().await;
    let program = Path::new(env!("CARGO_BIN_EXE_be-somebody"));
    let socket = house.pawd.root.control();
    let (stream, _guest) = Guest::hands_over(program, &socket, ALICE, ALICE, &[USERS]);
    let handed = paw_api::client::over(stream);
    let caller = handed.whoami().await.expect("users may ask");
    assert_eq!((caller.uid, caller.role), (ALICE, Role::User));
    assert_ne!(caller.uid, nix::unistd::geteuid().as_raw());
    refused(handed.reload().await, ErrorKind::Denied);
    let mine = ask_to_write(&handed, "out.txt", "x").await;
    assert_eq!(mine.requested_by.uid, ALICE);
    let admin = house.guest(0, &[]);
    let records = AuditRpcClient::list(admin, None, Some("rpc_denied".into()), None, None);
    let records = records.await.expect("it may read them");
    let [record] = records.as_slice() else {
        panic!("{records:?}");
    };
    assert_eq!(record["entry"]["actor"]["uid"], ALICE, "{record}");
}

async fn denied_call_is_in_the_audit_log() {
    let mut house = House::open().await;
    refused(
        house.guest(ALICE, &[USERS]).reload().await,
        ErrorKind::Denied,
    );
    let admin = house.guest(BOB, &[ADM]);
    let records = AuditRpcClient::list(admin, None, Some("rpc_denied".into()), None, None)
        .await
        .expect("it is allowed");
    let text = serde_json::Value::Array(records).to_string();
    assert!(
        text.contains("config.reload") && text.contains(&ALICE.to_string()),
        "{text}"
    );
}

/// Nobody hears that they were denied before that is on record, also who is denied the same a moment later and is counted in another one;
/// and where there can be none, what they hear is that.
async fn denial_is_on_the_disk_before_who_is_denied_hears_of_it() {
    let mut pawd = Pawd::start(Setup::only(CONFIG).shipped_policy()).await;
    pawd.root.mode("run/control.sock", 0o666);
    let program = Path::new(env!("CARGO_BIN_EXE_be-somebody"));
    let alice = Somebody::connect(program, &pawd.root.control(), ALICE, ALICE, &[USERS]);
    let writer = pawd.audit.take().expect("it has a writer");
    writer.signal(Signal::SIGSTOP);
    {
        let both = async { tokio::join!(alice.client.reload(), alice.client.reload()) };
        tokio::pin!(both);
        tokio::select! {
            answers = &mut both => panic!("{answers:?} before there can be a record"),
            _said = pawd.daemon.says("audit writer does not answer", 1) => {}
        }
        writer.signal(Signal::SIGCONT);
        let (one, other) = within("the answers", both).await;
        refused(one, ErrorKind::Denied);
        refused(other, ErrorKind::Denied);
    }
    let admin = pawd.client().await;
    let records = AuditRpcClient::list(&admin, None, Some("rpc_denied".into()), None, None);
    let records = records.await.expect("it is allowed");
    let [counted, first] = records.as_slice() else {
        panic!("{records:?}");
    };
    for record in [first, counted] {
        assert_eq!(record["entry"]["actor"]["uid"], ALICE);
    }
    assert!(first["entry"]["detail"]["calls"].is_null(), "{first}");
    assert_eq!(counted["entry"]["detail"]["calls"], "1", "{counted}");
    drop(writer);
    pawd.daemon.says("audit writer lost", 1).await;
    refused(alice.client.verify().await, ErrorKind::Unavailable);
}

/// A group of processes, gone with this value.
struct Group(std::path::PathBuf);

impl Group {
    fn new(path: std::path::PathBuf) -> Self {
        std::fs::create_dir(&path).expect("this is root, and there are cgroups");
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Where somebody is in it yet, the test has failed already.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Beside who it was, a record has the unit that the kernel says the caller was in, and it is in what is shown and exported.
async fn record_names_the_unit_that_a_caller_was_in() {
    let pawd = Pawd::start(Setup::only(CONFIG).shipped_policy()).await;
    let rule = "@id(\"more\") forbid (principal, action == Action::\"chat\", resource);\n";
    pawd.root.write("etc/policy/60-more.cedar", rule);
    let name = format!("caller-{}.scope", std::process::id());
    // Beside groups of the first version, those of the second have a directory of their own.
    let groups = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let groups = groups.iter().find(|it| it.join("cgroup.procs").exists());
    let group = Group::new(groups.expect("there are groups").join(&name));
    let pawctl = format!(
        "echo $$ > {}/cgroup.procs && exec {} --root {} policy reload",
        group.0.display(),
        stage::program("pawctl").display(),
        pawd.root.path().display()
    );
    let mut reload = tokio::process::Command::new("sh");
    let done = within("reloading", reload.args(["-c", &pawctl]).status()).await;
    drop(group);
    assert!(done.expect("it is started").success());
    let admin = pawd.client().await;
    let records = AuditRpcClient::list(&admin, None, Some("policy_loaded".into()), None, None);
    let records = records.await.expect("it is allowed");
    let actor = &records[0]["entry"]["actor"];
    assert_eq!(
        (&actor["uid"], &actor["unit"]),
        (&0.into(), &name.clone().into())
    );
    for words in [
        &["audit", "list"][..],
        &["audit", "export", "--format", "cef"],
    ] {
        let shown = pawd.pawctl(words).await;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(&name), "{words:?}: {shown}");
    }
}

/// The answer, and who was tried for it.
async fn ask(client: &Client) -> (ChatResult, Vec<(String, String)>) {
    let events = rest(&mut say(client, "hello").await).await;
    match events.last() {
        Some(ChatEvent::Done(done)) => {
            let tried = done.attempts.iter();
            let tried = tried.map(|it| (it.provider.clone(), it.outcome.clone()));
            (done.clone(), tried.collect())
        }
        other => panic!("{other:?}"),
    }
}

async fn answer_that_is_kept_for_one_user_is_not_given_to_another() {
    let model = Model::start().await;
    // Answers are kept of who has no tools.
    let setup = Setup::only(&CONFIG.replace("skills = [\"files\"]", ""))
        .shipped_policy()
        .with("temperature = 0.0\nroute = \"main\"\n")
        .ollama(&model)
        .with("\n[route.main]\ntargets = [{ provider = \"local\" }]\ncache = { age = \"1h\" }\n");
    let mut house = House::with(setup).await;
    let alice = house.guest(ALICE, &[USERS]);
    assert!(!ask(alice).await.0.cached && ask(alice).await.0.cached);
    assert!(!ask(house.guest(BOB, &[USERS])).await.0.cached);
    assert!(ask(house.guest(BOB, &[USERS])).await.0.cached);
}

async fn what_questions_took_is_told_to_administrators_alone() {
    let model = Model::start().await;
    let mut house = House::with(Setup::only(CONFIG).shipped_policy().ollama(&model)).await;
    ask(house.guest(ALICE, &[USERS])).await;
    for (groups, all) in [(&[USERS][..], false), (&[STAFF], false), (&[ADM], true)] {
        let told = house.guest(BOB, groups).metrics().await;
        let told = Exposition::read(&told.expect("it is allowed").text);
        let attempts = told.value("paw_provider_attempts", &[("provider", "local")]);
        assert_eq!(attempts, 1.0);
        for name in ["paw_provider_tokens", "paw_provider_cost_dollars"] {
            assert_eq!(
                told.names().any(|it| it == name),
                all,
                "{name} for {groups:?}"
            );
        }
        for secret in [ALICE, BOB] {
            let secret = secret.to_string();
            assert!(told.label_values().all(|it| !it.contains(&secret)));
        }
    }
    refused(house.guest(BOB, &[]).metrics().await, ErrorKind::Denied);
}

async fn failures_of_one_user_close_the_target_to_nobody_else_and_those_of_two_do() {
    let (first, spare) = (Model::start().await, Model::start().await);
    let setup = Setup::only(CONFIG)
        .shipped_policy()
        .with("route = \"main\"\n")
        .provider("first", "ollama", &first.url(), "max_retries = 0\n")
        .provider("spare", "ollama", &spare.url(), "max_retries = 0\n")
        .with("\n[route.main]\ntargets = [{ provider = \"first\" }, { provider = \"spare\" }]\n");
    let mut house = House::with(setup).await;
    house.guest(ALICE, &[USERS]);
    house.guest(BOB, &[USERS]);
    let [alice, bob] = [0, 1].map(|at| &house.guests[at].client);
    let tried = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(who, how)| ((*who).to_owned(), (*how).to_owned()))
            .collect()
    };
    let fails = || {
        let body = json!({"error": "internal error"}).to_string();
        first.will(harness::Answer::Status(500, Vec::new(), body));
    };
    let (by_first, by_spare) = (tried(&[("first", "ok")]), tried(&[("spare", "ok")]));
    let failed = tried(&[("first", "overload"), ("spare", "ok")]);
    // Bob had an answer, so what fails for Alice alone is Alice's.
    assert_eq!(ask(bob).await.1, by_first);
    for _ in 0..2 {
        fails();
        assert_eq!(ask(alice).await.1, failed);
    }
    assert_eq!(ask(alice).await.1, by_spare, "who fails alone is kept away");
    assert_eq!(ask(bob).await.1, by_first);
    // What fails for both is the target's.
    fails();
    assert_eq!(ask(alice).await.1, failed);
    fails();
    assert_eq!(ask(bob).await.1, failed);
    assert_eq!(ask(bob).await.1, by_spare);
}

async fn limit_and_budget_that_one_user_used_up_leave_another_theirs() {
    let model = Model::start().await;
    for (what, lines) in [
        (
            "limit few",
            "\n[actions]\nchat_timeout = \"2s\"\n[limit.few]\neach = [\"user\"]\nrequests_per_minute = 1\n",
        ),
        (
            "budget own",
            "\n[budget.own]\neach = [\"user\"]\nper = \"ever\"\ntokens = 20_000\n",
        ),
    ] {
        let setup = Setup::only(CONFIG).shipped_policy().ollama(&model);
        let mut house = House::with(setup.with(lines)).await;
        let before = model.questions();
        for (uid, spent) in [(ALICE, false), (ALICE, true), (BOB, false), (BOB, true)] {
            if !spent {
                model.will(harness::Answer::counted(19_990));
            }
            let mut chat = say(house.guest(uid, &[USERS]), "hello").await;
            match rest(&mut chat).await.pop() {
                Some(ChatEvent::Done(_)) => assert!(!spent, "{what} of {uid}"),
                Some(ChatEvent::Failed { message, .. }) => {
                    assert!(spent && message.contains(what), "{uid}: {message}");
                }
                other => panic!("{what} of {uid}: {other:?}"),
            }
        }
        assert_eq!(model.questions() - before, 2, "{what}");
    }
}
