//! pawd dies at every boundary between two steps, hundreds of times, and what it had promised is looked at from outside:
//! what was accepted is there, what had ended stays as it was, what waits still waits, nothing is done twice, and everything ends in a
//! state that a person can see.
//!
//! The places are those of [`paw_store::point`]; whatever else dies with pawd is not asked: the audit writer, the launcher and the model
//! go on, as they do under systemd. Effects are counted where they happen: lines of a file, and questions to the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
};

use futures_util::future::join_all;
use harness::{ANSWERS_ALL, Asking, Model, Pawd, Setup, within, words::object};
use jsonrpsee::{async_client::Client, core::client::Error as CallError};
use nix::sys::signal::Signal;
use paw_api::{
    action::{Action, ActionRpcClient, Answer, ApprovalRpcClient},
    job::JobRpcClient,
    provider::ChatEvent,
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::{Decision, Digest, State};
use paw_store::point::Point;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

/// How often pawd dies, over all worlds.
const ROUNDS: usize = 512;

/// So many pawds die beside each other, each with a root, a writer, a launcher and a model of its own.
const WORLDS: usize = 4;

/// What is asked in one life, until it ends.
const ASKED: usize = 4;

const CONFIG: &str = "\n[actions]\nconcurrency = 4\napproval_expiry = \"1s\"\n\n[agent.worker]\nskills = [\"shell\"]\n";

/// pawd does not answer any more.
#[derive(Debug)]
struct Gone;

/// What pawd said, and may not take back.
#[derive(Default)]
struct Told {
    accepted: BTreeSet<String>,
    /// They wait for a person; nobody answered.
    waiting: BTreeMap<String, Digest>,
    /// They were approved, denied or cancelled, and pawd said so.
    approved: BTreeSet<String>,
    denied: BTreeSet<String>,
    /// How they ended.
    finals: BTreeMap<String, Action>,
}

struct World {
    pawd: Pawd,
    model: Model,
    /// One line for each effect.
    effects: PathBuf,
    told: Told,
    /// What was asked so far; each has a token of its own.
    asked: usize,
    number: usize,
    fell: BTreeMap<String, usize>,
}

impl World {
    async fn new(number: usize) -> Self {
        let model = Model::start().await;
        let setup = Setup::new().ollama(&model).with(CONFIG);
        let root = setup.root();
        root.write("etc/policy/60-all.cedar", ANSWERS_ALL);
        let effects = root.path().join("launcher/effects");
        fs::write(&effects, "").unwrap();
        root.give("launcher/effects");
        let mut pawd = Pawd::start_in(root, setup).await;
        pawd.daemon.kill9().await;
        Self {
            pawd,
            model,
            effects,
            told: Told::default(),
            asked: 0,
            number,
            fell: BTreeMap::new(),
        }
    }

    /// One life of pawd, which ends at this place when it comes there for the `nth` time, or by a kill.
    async fn round(&mut self, turn: usize, point: Point, nth: usize) {
        let place = format!("{point:?}:{nth}");
        if self.pawd.start_to_die(&place).await {
            // Whoever cannot be reached any more has died, which is what is wanted; its end is waited for.
            let socket = self.pawd.root.control();
            let client = paw_api::client::connect(&socket);
            if let Ok(client) = within("connecting to pawd", client).await
                && self.live(&client, turn, point).await.is_ok()
            {
                // What happens by itself, a little later, may still happen.
                let a_little = Duration::from_millis(match point {
                    Point::Expires => 2_000,
                    _ => 50,
                });
                let _ = timeout(a_little, self.pawd.daemon.end()).await;
                self.pawd.daemon.strike();
            }
        }
        let status = self.pawd.daemon.end().await;
        match status.signal() {
            Some(signal) if signal == Signal::SIGABRT as i32 => {
                *self.fell.entry(format!("{point:?}")).or_default() += 1;
            }
            Some(signal) if signal == Signal::SIGKILL as i32 => {}
            _ => panic!("{place}: {status}\n{}", self.pawd.daemon.stderr()),
        }
    }

    /// Looks at what is there, then asks for some more: for what comes to this place, or for all sorts of things in turn.
    async fn live(&mut self, client: &Client, turn: usize, point: Point) -> Result<(), Gone> {
        self.look(client).await?;
        for step in 0..ASKED {
            let what = match point {
                Point::Answers | Point::Answered | Point::Starts => 2,
                Point::Cancels => 6,
                Point::Expires => 1,
                Point::Accepted => 5,
                Point::Claimed => {
                    self.run_job(client).await?;
                    continue;
                }
                _ => turn + step,
            };
            match what % 7 {
                0 => self.leave_chat(client).await?,
                1 => self.ask_for_effect(client).await?,
                2 => self.answer_oldest(client, Answer::Approve).await?,
                3 => self.read_chat(client).await?,
                4 => self.run(client, "").await?,
                // It goes on when pawd does not.
                5 => self.run(client, "; sleep 2").await?,
                _ if step % 2 == 0 => self.cancel_oldest(client).await?,
                _ => self.answer_oldest(client, Answer::Deny).await?,
            }
        }
        Ok(())
    }

    /// Compares what is there with what was told, and notes what is seen.
    async fn look(&mut self, client: &Client) -> Result<Vec<Action>, Gone> {
        let mut all = Vec::new();
        let mut before = None;
        loop {
            let page = ActionRpcClient::list(client, None, Some(1_000), before.take());
            let page = here(within("listing", page).await)?;
            all.extend(page.items);
            match page.next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        let by_id: BTreeMap<&str, &Action> = all.iter().map(|it| (it.id.as_str(), it)).collect();
        for id in &self.told.accepted {
            assert!(by_id.contains_key(id.as_str()), "{id} was accepted");
        }
        for (id, ended) in &self.told.finals {
            assert_eq!(by_id[id.as_str()], ended, "{id} had ended");
        }
        for id in self.told.waiting.keys() {
            let action = by_id[id.as_str()];
            let fits = match action.state {
                State::WaitingApproval => true,
                State::Expired => action.timestamps.ended >= action.timestamps.expires,
                _ => false,
            };
            assert!(fits, "nobody answered {action:?}");
        }
        for id in &self.told.approved {
            let state = by_id[id.as_str()].state;
            let undone = [
                State::Queued,
                State::WaitingApproval,
                State::Rejected,
                State::Expired,
            ];
            assert!(
                !undone.contains(&state),
                "{id} was approved, and is {state}"
            );
        }
        for id in &self.told.denied {
            assert_eq!(by_id[id.as_str()].state, State::Rejected, "{id} was denied");
        }
        self.done_once();
        for action in &all {
            // Whoever looks sees it, so it may not change any more.
            self.told.accepted.insert(action.id.clone());
            if action.state.is_final() {
                self.told.waiting.remove(&action.id);
                self.told.finals.insert(action.id.clone(), action.clone());
            }
        }
        Ok(all)
    }

    /// No effect has happened twice, counted where it happens.
    fn done_once(&self) -> BTreeMap<String, usize> {
        let mut done = BTreeMap::new();
        for line in fs::read_to_string(&self.effects).unwrap().lines() {
            *done.entry(line.to_owned()).or_default() += 1;
        }
        for question in self.model.asked() {
            let said = question.body["messages"].as_array();
            let last = said.and_then(|all| all.last()?["content"].as_str().map(str::to_owned));
            if let Some(token) = last.filter(|last| last.starts_with("token-")) {
                *done.entry(token).or_default() += 1;
            }
        }
        let twice = done.iter().find(|(_, times)| **times > 1);
        assert_eq!(twice, None, "done more than once");
        done
    }

    fn token(&mut self) -> String {
        self.asked += 1;
        format!("token-{}-{}-", self.number, self.asked)
    }

    fn accepted(&mut self, action: &Action) {
        self.told.accepted.insert(action.id.clone());
        if action.state == State::WaitingApproval {
            let waits = (action.id.clone(), action.digest);
            self.told.waiting.extend([waits]);
        }
        self.ended(action);
    }

    fn ended(&mut self, action: &Action) {
        if action.state.is_final() {
            self.told.waiting.remove(&action.id);
            // As a list shows it: without what only one who looks at it alone is shown.
            let listed = Action {
                plan: None,
                ..action.clone()
            };
            self.told.finals.insert(action.id.clone(), listed);
        }
    }

    async fn leave_chat(&mut self, client: &Client) -> Result<(), Gone> {
        let arguments = object(json!({"text": self.token()}));
        let left = client.submit("chat".into(), arguments, None, None, None, None);
        let action = here(within("leaving a chat", left).await)?;
        self.accepted(&action);
        Ok(())
    }

    /// A run of a job, which is a chat.
    async fn run_job(&mut self, client: &Client) -> Result<(), Gone> {
        let [cron, tz] = ["0 0 1 1 *", "UTC"].map(str::to_owned);
        let added = JobRpcClient::add(client, cron, tz, self.token(), None, None, None, None);
        let job = here(within("adding a job", added).await)?;
        let run = here(within("a run", JobRpcClient::run(client, job.id)).await)?;
        self.told.accepted.extend(run.action);
        Ok(())
    }

    async fn read_chat(&mut self, client: &Client) -> Result<(), Gone> {
        let text = self.token();
        let begun = Asking::new(text).ask(client);
        let mut chat = here(within("beginning a chat", begun).await)?;
        loop {
            match within("a piece of a chat", chat.next()).await {
                Some(Ok(ChatEvent::Accepted { action_id, .. })) => {
                    self.told.accepted.insert(action_id);
                }
                Some(Ok(ChatEvent::Done(_) | ChatEvent::Failed { .. })) => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Gone),
            }
        }
    }

    /// A tool whose effect cannot be taken back, and which shows when it happens twice.
    async fn ask_for_effect(&mut self, client: &Client) -> Result<(), Gone> {
        let line = self.echo("");
        let arguments = json!({"skill": "shell", "tool": "run", "arguments": {"command": line}});
        let agent = Some("worker".into());
        let asked = client.submit(
            "tool_call".into(),
            object(arguments),
            agent,
            None,
            None,
            None,
        );
        let action = here(within("asking for an effect", asked).await)?;
        assert_eq!(action.verdict.decision, Decision::Ask, "{action:?}");
        self.accepted(&action);
        Ok(())
    }

    /// The oldest that waits for a person; a new one, where none does.
    async fn oldest(&mut self, client: &Client) -> Result<(String, Digest), Gone> {
        loop {
            if let Some(oldest) = self.told.waiting.pop_first() {
                return Ok(oldest);
            }
            self.ask_for_effect(client).await?;
        }
    }

    fn echo(&mut self, more: &str) -> String {
        let token = self.token();
        format!("echo {token} >> {}{more}", self.effects.display())
    }

    async fn answer_oldest(&mut self, client: &Client, said: Answer) -> Result<(), Gone> {
        // Once it is answered nothing is said of it any more: whether pawd heard that is known when it says so.
        let (id, digest) = self.oldest(client).await?;
        let approves = said == Answer::Approve;
        let answered = client.answer(id.clone(), digest, said, None, None, None, None);
        match within("answering", answered).await {
            Ok(_) if approves => self.told.approved.insert(id.clone()),
            Ok(_) => self.told.denied.insert(id.clone()),
            // It expired.
            Err(CallError::Call(_)) => return Ok(()),
            Err(_) => return Err(Gone),
        };
        let wait = client.wait(id, Some(15_000));
        let action = here(within("its end", wait).await)?;
        self.ended(&action);
        Ok(())
    }

    async fn cancel_oldest(&mut self, client: &Client) -> Result<(), Gone> {
        let (id, _) = self.oldest(client).await?;
        match within("cancelling", client.cancel(id)).await {
            Ok(action) => self.ended(&action),
            Err(CallError::Call(_)) => {}
            Err(_) => return Err(Gone),
        }
        Ok(())
    }

    /// A command of a person's, which outlives pawd.
    async fn run(&mut self, client: &Client, more: &str) -> Result<(), Gone> {
        let spec: Value = json!({"argv": ["sh", "-c", self.echo(more)], "detach": true});
        let spec: RunSpec = serde_json::from_value(spec).unwrap();
        let begun = within("beginning a run", SandboxRpcClient::run(client, spec)).await;
        let mut heard = here(begun)?;
        loop {
            match within("an event of a run", heard.next()).await {
                Some(Ok(RunEvent::Started { action_id, .. })) => {
                    self.told.accepted.insert(action_id);
                    return Ok(());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Gone),
            }
        }
    }

    /// The last life, which nothing ends: everything comes to its end, and that is the right one.
    async fn settle(&mut self) {
        self.pawd.start_again().await;
        let client = self.pawd.client().await;
        for action in self.look(&client).await.expect("it lives") {
            let waited = within("the end of an action", client.wait(action.id, Some(15_000)));
            waited.await.expect("it ends");
        }
        let done = self.done_once();
        for action in self.look(&client).await.expect("it lives") {
            assert!(action.state.is_final(), "{action:?}");
            let shown = ActionRpcClient::show(&client, action.id.clone());
            let shown = within("showing an action", shown).await.unwrap();
            let text = serde_json::to_string(&shown).unwrap();
            let at = text.find("token-").expect("each has a token");
            let end = text[at..].match_indices('-').nth(2).unwrap().0;
            let times = done.get(&text[at..=at + end]).copied().unwrap_or(0);
            match action.state {
                State::Completed => assert_eq!(times, 1, "{text}"),
                State::Rejected | State::Expired => assert_eq!(times, 0, "{text}"),
                State::Cancelled if action.timestamps.started.is_none() => {
                    assert_eq!(times, 0, "{text}");
                }
                // Once or not at all, which nobody knows; it says so.
                State::Cancelled => {}
                State::Failed => assert_eq!(action.error.unwrap().kind, "interrupted", "{text}"),
                other => panic!("{other}: {text}"),
            }
        }
        let verified = within("verifying", client.verify()).await.unwrap();
        assert!(verified.ok, "{verified:?}");
    }
}

/// What pawd answered, if it is still there.
///
/// # Panics
/// When it refuses: nothing here may be refused.
fn here<T>(result: Result<T, CallError>) -> Result<T, Gone> {
    match result {
        Ok(value) => Ok(value),
        Err(CallError::Call(error)) => panic!("refused: {error}"),
        Err(_) => Err(Gone),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_step_pawd_dies_at_nothing_is_lost_or_done_twice() {
    let worlds = (0..WORLDS).map(|number| {
        tokio::spawn(async move {
            let mut world = World::new(number).await;
            for round in 0..ROUNDS / WORLDS {
                // Each begins elsewhere.
                let turn = round + number * Point::ALL.len() / WORLDS;
                let point = Point::ALL[turn % Point::ALL.len()];
                let nth = match point {
                    // At a start, or what the next start shall find: once.
                    Point::ReplayBegins
                    | Point::ReplayDone
                    | Point::GoesOn
                    | Point::Recovers
                    | Point::NoteWritten
                    | Point::Begun
                    | Point::Expires => 1,
                    // The first of them run already.
                    Point::Accepted => 3,
                    _ => 1 + turn / Point::ALL.len() % 3,
                };
                world.round(turn, point, nth).await;
            }
            world.settle().await;
            world.fell
        })
    });
    let mut fell = BTreeMap::new();
    for world in join_all(worlds).await {
        for (point, times) in world.unwrap() {
            *fell.entry(point).or_insert(0) += times;
        }
    }
    let names = Point::ALL.iter().map(|point| format!("{point:?}"));
    let never: Vec<_> = names.filter(|name| !fell.contains_key(name)).collect();
    assert!(never.is_empty(), "nobody died at {never:?}: {fell:?}");
    let all: usize = fell.values().sum();
    assert!(
        all * 4 > ROUNDS * 3,
        "only {all} of {ROUNDS} died at their place: {fell:?}"
    );
}
