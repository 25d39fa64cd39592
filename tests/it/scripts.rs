//! Forty models and more that misbehave, each by a script of its own: what they say is no call, or one that the rules forbid, and
//! whatever they say, nothing happens at a skill, the question comes to a typed end, and pawd goes on with little memory.
//!
//! The table is in [`table`]. A call of [`READ`](table::READ) would be done at once, were it understood as one; a call of
//! [`WRITE`](table::WRITE) is understood, becomes an action, and is denied.

mod table;

use std::time::Duration;

use futures_util::{StreamExt, stream};
use harness::{
    Asking, Pawd, Setup,
    chaos::{Chaos, Fault, Then},
    dialect::TEXT,
    within,
    words::{accepted, finally, has_no_answer, rest},
};
use paw_api::{provider::ChatEvent, system::SystemRpcClient};
use paw_policy::{Decision, State};

use crate::{bad_input::memory, turns::calls_of};
use table::{End, Script, scripts};

/// Whatever writes is forbidden; what reads is done at once.
const STOP: &str = "@id(\"stop\") forbid (principal, action == Action::\"tool_call\", resource) when { context.risk == \"high\" };\n";

/// Nothing is asked twice, and nobody waits for long.
const LIMITS: &str = "max_retries = 0\ntotal_timeout = \"20s\"\n";

/// What pawd may need more, in bytes, whatever it is told.
const MORE_MEMORY: u64 = 48 * 1024 * 1024;

/// Questions that are asked at once.
const AT_ONCE: usize = 6;

/// The most memory that pawd has while something goes on, looked at each few milliseconds, and what comes of that.
async fn while_looking<T>(pawd: &Pawd, work: impl Future<Output = T>) -> (T, u64) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let mut most = 0;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return (done, most),
            _now = looks.tick() => most = most.max(memory(pawd)),
        }
    }
}

async fn play(pawd: &Pawd, script: &Script) -> Result<(), String> {
    let client = pawd.client().await;
    let provider = Some(script.name.to_owned());
    let begun = Asking::new("hello").provider(provider).ask(&client);
    let mut chat = within("beginning a chat", begun).await.expect("accepted");
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    let action = finally(&client, &id).await;
    let end = match events.last() {
        Some(ChatEvent::Done(done)) if action.error.is_none() => Ok(done.text.clone()),
        Some(ChatEvent::Failed { error, .. }) => {
            has_no_answer(&action);
            let kind = action.error.as_ref().map(|it| it.kind.clone());
            let kind = kind.filter(|_| !error.hint.is_empty());
            Err(kind.unwrap_or_default())
        }
        other => panic!("{}: {other:?}", script.name),
    };
    let expected = match script.end {
        End::Says => Ok(TEXT.to_owned()),
        End::Fails(kind) => Err(kind.to_owned()),
    };
    let calls = calls_of(&client, &id).await;
    let denied = |it: &paw_api::action::Action| {
        (it.state, it.verdict.decision) == (State::Rejected, Decision::Deny)
    };
    let wrong = end != expected || calls.len() != script.denied || !calls.iter().all(denied);
    let ends: Vec<_> = calls.iter().map(|it| it.state).collect();
    if wrong {
        let error = action.error.map(|it| it.message);
        return Err(format!("{}: {end:?} {ends:?} {error:?}", script.name));
    }
    within("a status", client.status())
        .await
        .expect("others are answered");
    Ok(())
}

#[tokio::test]
async fn model_that_misbehaves_by_any_of_forty_scripts_has_no_effect_and_a_typed_end() {
    let (chaos, scripts) = (Chaos::start(), scripts());
    assert!(scripts.len() >= 40, "{}", scripts.len());
    let mut setup = Setup::new();
    for Script {
        name,
        dialect,
        says,
        ..
    } in &scripts
    {
        chaos.plays(name, *dialect, says.clone(), Some(1));
        let url = chaos.url(name, *dialect);
        setup = setup.provider(name, dialect.kind(), &url, LIMITS);
    }
    // The same afterwards, with nothing wrong: what is denied here is done there.
    let well = table::READS.call("files__list", &serde_json::json!({"path": "."}));
    let well = Fault::Stream(Vec::new(), well + &table::READS.ending(), Then::Ends);
    chaos.plays("well", table::READS, well, Some(1));
    let url = chaos.url("well", table::READS);
    setup = setup.provider("well", table::READS.kind(), &url, LIMITS);
    let root = setup.root();
    root.write("etc/policy/60-stop.cedar", STOP);
    let pawd = Pawd::start_in(root, setup).await;
    let pid = pawd.daemon.pid();
    let before = memory(&pawd);
    let played = stream::iter(&scripts).map(|script| play(&pawd, script));
    let played = played
        .buffer_unordered(AT_ONCE)
        .filter_map(async |it| it.err());
    let (wrong, most) = while_looking(&pawd, played.collect::<Vec<_>>()).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let more = most.saturating_sub(before);
    assert!(more < MORE_MEMORY, "{more} bytes more than {before}");
    let made = || pawd.launcher.as_ref().unwrap().plans().len();
    assert_eq!(made(), 0, "no sandbox was made for any of them");
    assert_eq!(harness::words::in_workspace(&pawd, "out.txt"), None);
    // The connections of those who still sent are closed.
    within("the end of the connections", chaos.is_quiet()).await;

    let client = pawd.client().await;
    let begun = Asking::new("hello").provider("well".to_owned());
    let mut chat = within("beginning a chat", begun.ask(&client))
        .await
        .expect("accepted");
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let calls = calls_of(&client, &id).await;
    let ends: Vec<_> = calls.iter().map(|it| it.state).collect();
    assert_eq!((ends, made()), (vec![State::Completed], 1));
    assert_eq!(pawd.daemon.pid(), pid);
}
