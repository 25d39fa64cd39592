//! A second target beside one whose answer is late to begin: who is heard, what becomes of the other one, and what both cost.

use std::time::Duration;

use harness::{
    Answer, Asking, Model, Pawd, Setup, Step, within,
    words::{accepted, done, finally, next, rest, tried},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::provider::{ChatEvent, RouteRpcClient};
use tokio::{sync::mpsc::Sender, time::timeout};

use crate::metrics::told;

/// A dollar for a thousand tokens of a question, two for those of an answer.
const PRICED: &str = "[price.\"slow/m\"]\ninput = 1_000_000_000\noutput = 2_000_000_000\n\
                      [price.\"spare/m\"]\ninput = 1_000_000_000\noutput = 2_000_000_000\n";

struct Two {
    slow: Model,
    spare: Model,
    pawd: Pawd,
}

impl Two {
    /// Both on this host unless `spare_at` says otherwise; `more` are further lines of the route.
    async fn start(spare_at: &str, more: &str) -> Self {
        Self::with(spare_at, more, "").await
    }

    /// Both on this host, and hedged after this time while nobody knows what is usual.
    async fn after(time: &str) -> Self {
        Self::build("127.0.0.1", time, "", "").await
    }

    /// The same as [`Self::start`], with further sections.
    async fn with(spare_at: &str, more: &str, sections: &str) -> Self {
        Self::build(spare_at, "100ms", more, sections).await
    }

    async fn build(spare_at: &str, after: &str, more: &str, sections: &str) -> Self {
        let (slow, spare) = (Model::start().await, Model::start().await);
        let at = spare.url().replace("127.0.0.1", spare_at);
        let route = format!(
            "[route.main]\nhedge = true\nhedge_after = \"{after}\"\n{more}\n\
             targets = [{{ provider = \"slow\" }}, {{ provider = \"spare\"{} }}]\n",
            if more.contains("weight") {
                ", weight = 0"
            } else {
                ""
            },
        );
        let setup = Setup::new()
            .provider("slow", "ollama", &slow.url(), "max_retries = 0\n")
            .provider(
                "spare",
                "ollama",
                &at,
                "max_retries = 0\nallow_plaintext = true\n",
            )
            .with(&route)
            .with(PRICED)
            .with(sections);
        let pawd = Pawd::start(setup).await;
        Self { slow, spare, pawd }
    }

    /// The next answer of the first target waits for these steps.
    fn slow_answer(&self) -> Sender<Step> {
        let (steps, answer) = Answer::steps();
        self.slow.will(answer);
        steps
    }
}

async fn ask(client: &Client) -> Subscription<ChatEvent> {
    let route = Some("main".to_owned());
    let begun = Asking::new("hello").route(route).ask(client);
    within("beginning a chat", begun).await.expect("accepted")
}

#[tokio::test]
async fn late_answer_is_outrun_and_its_connection_closed_and_both_are_counted() {
    let two = Two::start("127.0.0.1", "").await;
    let client = two.pawd.client().await;
    let steps = two.slow_answer();
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    let result = done(&events);
    assert_eq!(
        (result.provider.as_str(), result.text.as_str()),
        ("spare", "Hello world")
    );
    // Nobody hears of a reset: nothing of the first answer was heard.
    let reset = |event: &ChatEvent| matches!(event, ChatEvent::StreamReset { .. });
    assert!(!events.iter().any(reset), "{events:?}");
    // The model sees that its connection is gone: whoever makes it go on finds nobody who takes the steps.
    let gone = async { while steps.send(Step::Piece("late".into())).await.is_ok() {} };
    within("the end of the outrun connection", gone).await;
    let action = finally(&client, &id).await;
    assert_eq!(tried(&action), [("slow", "outrun"), ("spare", "ok")]);
    let [outrun, answered] = action.attempts.as_slice() else {
        panic!("two attempts: {action:?}");
    };
    assert!(
        outrun.ms >= 100 && outrun.first_token_ms.is_none(),
        "{outrun:?}"
    );
    // Three tokens of the question and two of the answer.
    assert_eq!(
        (answered.cost, answered.cost_estimated),
        (Some(0.007), false)
    );
    let lost = outrun.cost.expect("it was asked");
    assert!(
        lost > 0.003 && outrun.cost_estimated,
        "its question, as it is estimated: {lost}"
    );
    assert!((result.cost.expect("of both") - lost - 0.007).abs() < 1e-9);
    let told = told(&client).await;
    for (provider, hedges) in [("slow", 0.0), ("spare", 1.0)] {
        let counted = told.value("paw_provider_hedges", &[("provider", provider)]);
        assert_eq!(counted, hedges, "{provider}");
    }
}

#[tokio::test]
async fn answer_that_begins_in_time_has_no_other_beside_it() {
    let two = Two::start("127.0.0.1", "").await;
    let client = two.pawd.client().await;
    let steps = two.slow_answer();
    steps.send(Step::Piece("I".into())).await.unwrap();
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    assert!(matches!(next(&mut chat).await, ChatEvent::Delta { .. }));
    // It is late only to go on, for longer than a hedge waits: the second question below has been hedged by then.
    two.slow_answer();
    let mut other = ask(&client).await;
    accepted(&mut other).await;
    assert_eq!(done(&rest(&mut other).await).provider, "spare");
    assert_eq!(two.spare.questions(), 1);
    steps.send(Step::End).await.unwrap();
    assert_eq!(done(&rest(&mut chat).await).provider, "slow");
    assert_eq!(tried(&finally(&client, &id).await), [("slow", "ok")]);
    assert_eq!(two.spare.questions(), 1);
}

#[tokio::test]
async fn first_target_wins_when_it_is_heard_first_all_the_same() {
    let two = Two::start("127.0.0.1", "").await;
    let client = two.pawd.client().await;
    let (steps, (others, answer)) = (two.slow_answer(), Answer::steps());
    two.spare.will(answer);
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    two.spare.was_asked(1).await;
    steps.send(Step::Piece("here".into())).await.unwrap();
    steps.send(Step::End).await.unwrap();
    let events = rest(&mut chat).await;
    assert_eq!(done(&events).provider, "slow");
    let gone = async { while others.send(Step::Piece("late".into())).await.is_ok() {} };
    within("the end of the outrun connection", gone).await;
    assert_eq!(
        tried(&finally(&client, &id).await),
        [("slow", "ok"), ("spare", "outrun")]
    );
}

#[tokio::test]
async fn one_that_fails_leaves_the_other_to_answer() {
    let two = Two::start("127.0.0.1", "").await;
    let client = two.pawd.client().await;
    let (steps, (others, answer)) = (two.slow_answer(), Answer::steps());
    two.spare.will(answer);
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    two.spare.was_asked(1).await;
    steps.send(Step::Cut).await.unwrap();
    others.send(Step::Piece("there".into())).await.unwrap();
    others.send(Step::End).await.unwrap();
    let events = rest(&mut chat).await;
    assert_eq!(
        (done(&events).provider.as_str(), done(&events).text.as_str()),
        ("spare", "there")
    );
    assert_eq!(
        tried(&finally(&client, &id).await),
        [("slow", "cut"), ("spare", "ok")]
    );
}

#[tokio::test]
async fn hedge_does_not_leave_this_host_unless_the_route_may() {
    // By weight, so that a route that may not leave the host can be written at all: the one here is always first.
    for (may, expected) in [
        (false, vec![("slow", "ok")]),
        (true, vec![("slow", "outrun"), ("spare", "ok")]),
    ] {
        let more = format!("select = \"weight\"\nmay_leave_host = {may}");
        let two = Two::start("0.0.0.0", &more).await;
        let client = two.pawd.client().await;
        let steps = two.slow_answer();
        let mut chat = ask(&client).await;
        let id = accepted(&mut chat).await;
        two.slow.was_asked(1).await;
        if may {
            two.spare.was_asked(1).await;
        } else {
            let asked = timeout(Duration::from_millis(500), two.spare.was_asked(1));
            asked
                .await
                .expect_err("nobody elsewhere is asked, long after a hedge would be");
            assert_eq!(two.spare.questions(), 0);
            steps.send(Step::Piece("here".into())).await.unwrap();
            steps.send(Step::End).await.unwrap();
        }
        rest(&mut chat).await;
        assert_eq!(tried(&finally(&client, &id).await), expected);
    }
}

#[tokio::test]
async fn chat_that_is_taken_back_ends_both() {
    let two = Two::start("127.0.0.1", "").await;
    let client = two.pawd.client().await;
    let (steps, (others, answer)) = (two.slow_answer(), Answer::steps());
    two.spare.will(answer);
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    two.spare.was_asked(1).await;
    chat.unsubscribe().await.unwrap();
    assert_eq!(
        tried(&finally(&client, &id).await),
        [("slow", "cancelled"), ("spare", "cancelled")]
    );
    for steps in [steps, others] {
        let gone = async { while steps.send(Step::Piece("late".into())).await.is_ok() {} };
        within("the end of a connection", gone).await;
    }
}

#[tokio::test]
async fn late_is_what_answers_of_the_target_usually_are_not_once_enough_were_heard() {
    // Until then as long as the route says, which nobody here waits for.
    let two = Two::after("60s").await;
    let client = two.pawd.client().await;
    for _ in 0..19 {
        let mut chat = ask(&client).await;
        assert_eq!(done(&rest(&mut chat).await).provider, "slow");
    }
    let steps = two.slow_answer();
    let mut chat = ask(&client).await;
    two.slow.was_questioned(20).await;
    let asked = timeout(Duration::from_millis(500), two.spare.was_asked(1));
    asked
        .await
        .expect_err("nobody knows yet what is usual, and the minute is not over");
    steps.send(Step::Piece("late".into())).await.unwrap();
    steps.send(Step::End).await.unwrap();
    assert_eq!(done(&rest(&mut chat).await).provider, "slow");
    // Nineteen of twenty began at once, so the next one is late almost at once.
    let _steps = two.slow_answer();
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    assert_eq!(done(&rest(&mut chat).await).provider, "spare");
    let action = finally(&client, &id).await;
    assert_eq!(tried(&action), [("slow", "outrun"), ("spare", "ok")]);
    let waited = action.attempts[0].ms;
    assert!(waited < 20_000, "{waited} ms");
}

#[tokio::test]
async fn route_says_that_it_hedges() {
    let two = Two::start("127.0.0.1", "").await;
    let client = two.pawd.client().await;
    let show = RouteRpcClient::show(&client, "main".into());
    let route = within("showing a route", show).await.expect("it is there");
    assert_eq!(route.hedge_after_ms, Some(100));
    let shown = two.pawd.pawctl(&["route", "show", "main"]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("Hedges after"));
}

#[tokio::test]
async fn hedge_that_no_budget_pays_for_is_not_made_and_the_first_target_answers() {
    let none = "[budget.none]\nprovider = \"spare\"\nper = \"ever\"\ntokens = 0\n";
    let two = Two::with("127.0.0.1", "", none).await;
    let client = two.pawd.client().await;
    let steps = two.slow_answer();
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    two.slow.was_asked(1).await;
    let asked = timeout(Duration::from_millis(500), two.spare.was_asked(1));
    asked
        .await
        .expect_err("nobody is asked, long after a hedge would be");
    steps.send(Step::Piece("here".into())).await.unwrap();
    steps.send(Step::End).await.unwrap();
    assert_eq!(done(&rest(&mut chat).await).provider, "slow");
    assert_eq!(tried(&finally(&client, &id).await), [("slow", "ok")]);
}

#[tokio::test]
async fn reset_names_whose_answer_takes_the_place_of_what_was_heard() {
    let models = [
        Model::start().await,
        Model::start().await,
        Model::start().await,
    ];
    let mut setup = Setup::new().with(
        "route = \"main\"\n[route.main]\nhedge = true\nhedge_after = \"100ms\"\n\
         targets = [{ provider = \"one\" }, { provider = \"two\" }, { provider = \"three\" }]\n",
    );
    for (name, model) in ["one", "two", "three"].into_iter().zip(&models) {
        setup = setup.provider(name, "ollama", &model.url(), "max_retries = 0\n");
    }
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    models[0].will(Answer::cut(&["half an"]));
    let (_steps, silent) = Answer::steps();
    models[1].will(silent);
    let mut chat = ask(&client).await;
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    let resets: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ChatEvent::StreamReset { provider, why, .. } => Some((provider.as_str(), why.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(resets, [("three", "cut")], "{events:?}");
    assert_eq!(done(&events).provider, "three");
    assert_eq!(
        tried(&finally(&client, &id).await),
        [("one", "cut"), ("two", "outrun"), ("three", "ok")]
    );
}
