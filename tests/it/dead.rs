//! Primaries that are dead for ten seconds under load, one of each wire format at the same time: who asks is answered all the while,
//! few attempts are spent on them, and they are asked again soon after they are back.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use harness::{
    Asking, Chaos, Dialect, Pawd, Setup,
    chaos::{Fault, Then, reserve_at},
    within,
    words::{accepted, finally, rest},
};
use jsonrpsee::async_client::Client;
use paw_api::action::Action;
use paw_policy::State;

/// How long they are dead.
const DEAD_FOR: Duration = Duration::from_secs(10);

/// How long one waits for an answer to begin.
const HASTY: &str = "max_retries = 0\nfirst_token_timeout = \"1s\"\n";

/// How soon they are asked again after that.
const BACK_IN: Duration = Duration::from_secs(2);

/// The most attempts that one of them may cost.
const MOST: usize = 3;

/// How a primary is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dead {
    /// It takes what is asked and closes the connection.
    HangsUp,
    /// It says that it cannot serve now.
    Busy,
    /// It takes each question and says nothing; that it is there it says.
    Silent,
    /// Nobody listens.
    Gone,
}

impl Dead {
    /// Who ask at the same time by each route.
    fn askers(self) -> usize {
        match self {
            Self::HangsUp | Self::Busy | Self::Gone => 2,
            // Those who wait for it when it dies have asked it already.
            Self::Silent => 1,
        }
    }
}

/// Asks by the route of a wire and gives what became of it.
async fn ask(client: &Client, dialect: Dialect) -> Action {
    let route = Some(dialect.kind().to_owned());
    let begun = Asking::new("hello").route(route).ask(client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    finally(client, &id).await
}

fn is_by(action: &Action, dialect: Dialect) -> bool {
    let last = action.attempts.last();
    action.attempts.len() == 1 && last.is_some_and(|it| it.provider == dialect.kind())
}

/// Asks one question after the other until the time is over: questions, and attempts at the primary among them.
async fn load(client: Client, dialect: Dialect, died: Instant) -> (usize, usize) {
    let (mut questions, mut attempts) = (0, 0);
    while died.elapsed() < DEAD_FOR {
        let action = ask(&client, dialect).await;
        assert_eq!(action.state, State::Completed, "{dialect:?}: {action:?}");
        questions += 1;
        let its = action.attempts.iter();
        attempts += its.filter(|it| it.provider == dialect.kind()).count();
    }
    (questions, attempts)
}

async fn dead_for_ten_seconds(how: Dead) {
    let well: Vec<_> = Dialect::ALL.map(|it| (it.kind(), it)).to_vec();
    let (spare, primaries) = (Chaos::start(), Chaos::on(reserve_at(None).await, &well));
    spare.plays("spare", Dialect::Ollama, Fault::Headers(Vec::new()), None);
    let url = spare.url("spare", Dialect::Ollama);
    let mut setup = Setup::new()
        .without_skills()
        .with("\n[actions]\nconcurrency = 64\n")
        .provider("spare", "ollama", &url, "max_retries = 0\n");
    for dialect in Dialect::ALL {
        let name = dialect.kind();
        let targets = format!("[{{ provider = \"{name}\" }}, {{ provider = \"spare\" }}]");
        setup = setup
            .provider(name, name, &primaries.url(name, dialect), HASTY)
            .with(&format!("\n[route.{name}]\ntargets = {targets}\n"));
    }
    let pawd = Pawd::start(setup).await;
    let watcher = pawd.client().await;
    for dialect in Dialect::ALL {
        for _ in 0..4 {
            let action = ask(&watcher, dialect).await;
            assert!(is_by(&action, dialect), "{action:?}");
        }
    }
    let mut askers = Vec::new();
    for dialect in Dialect::ALL {
        for _ in 0..how.askers() {
            askers.push((dialect, pawd.client().await));
        }
    }
    let address = primaries.address();
    let fault = match how {
        Dead::HangsUp => Some(Fault::Instead(Then::Closes)),
        Dead::Busy => Some(Fault::Status(503, Vec::new(), "{}".to_owned())),
        Dead::Silent => Some(Fault::Instead(Then::Waits)),
        Dead::Gone => None,
    };
    let (died, primaries, reserved) = if let Some(fault) = fault {
        for dialect in Dialect::ALL {
            let (name, fault) = (dialect.kind(), fault.clone());
            match how {
                Dead::Silent => primaries.plays(name, dialect, fault, None),
                Dead::HangsUp | Dead::Busy | Dead::Gone => primaries.dies(name, dialect, fault),
            }
        }
        (Instant::now(), Some(primaries), None)
    } else {
        drop(primaries);
        let reserved = reserve_at(Some(address)).await;
        (Instant::now(), None, Some(reserved))
    };
    let loads = askers.into_iter().map(|(dialect, client)| async move {
        let (questions, attempts) = load(client, dialect, died).await;
        (dialect, questions, attempts)
    });
    let seen = join_all(loads).await;
    let back = Instant::now();
    let _primaries = match (primaries, reserved) {
        (Some(primaries), _) => {
            for dialect in Dialect::ALL {
                let well = Fault::Headers(Vec::new());
                primaries.plays(dialect.kind(), dialect, well, None);
            }
            primaries
        }
        (None, reserved) => Chaos::on(reserved.expect("one or the other"), &well),
    };
    let returns = Dialect::ALL.map(|dialect| {
        let client = pawd.client();
        async move {
            let client = client.await;
            let again = async { while !is_by(&ask(&client, dialect).await, dialect) {} };
            within("the return of a primary", again).await;
            (dialect, back.elapsed())
        }
    });
    for (dialect, after) in join_all(returns).await {
        assert!(after <= BACK_IN, "{dialect:?} is back after {after:?}");
    }
    for dialect in Dialect::ALL {
        let its = seen.iter().filter(|(of, ..)| *of == dialect);
        let (questions, attempts) = its.fold((0, 0), |all, it| (all.0 + it.1, all.1 + it.2));
        assert!(
            (1..=MOST).contains(&attempts),
            "{attempts} attempts at {dialect:?} in {questions} questions"
        );
        assert!(questions > 10, "there was load: {questions} of {dialect:?}");
    }
}

#[tokio::test]
async fn primaries_that_hang_up_cost_three_attempts_and_are_back_in_two_seconds_on_every_wire() {
    dead_for_ten_seconds(Dead::HangsUp).await;
}

#[tokio::test]
async fn primaries_that_are_overloaded_cost_three_attempts_and_are_back_in_two_seconds_on_every_wire()
 {
    dead_for_ten_seconds(Dead::Busy).await;
}

#[tokio::test]
async fn primaries_that_say_nothing_cost_three_attempts_and_are_back_in_two_seconds_on_every_wire()
{
    dead_for_ten_seconds(Dead::Silent).await;
}

#[tokio::test]
async fn primaries_that_are_gone_cost_three_attempts_and_are_back_in_two_seconds_on_every_wire() {
    dead_for_ten_seconds(Dead::Gone).await;
}
