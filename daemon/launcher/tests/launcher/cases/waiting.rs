//! Sandboxes that wait for their first command.

use std::time::Instant;

use paw_launch::request::{RefusalReason, Reply, Request, SandboxPlan};

use crate::rig::{Client, Rig, plan, sandbox_processes};

/// Longer than any of these tests takes.
const LONG_MS: u64 = 60_000;

fn with_life(number: u64, wall_ms: u64) -> SandboxPlan {
    let mut plan = plan(number);
    plan.limits.wall_ms = wall_ms;
    plan
}

pub(crate) fn sandbox_that_waits_too_long_is_killed() {
    let rig = Rig::new();
    let mut client = rig.client();
    let begun = Instant::now();
    let waiting = client.prepare(with_life(1, LONG_MS), 300);
    let (end, _) = client.ended(&waiting.id);
    assert!(end.timed_out, "{end:?}");
    assert!(begun.elapsed().as_millis() >= 300, "{:?}", begun.elapsed());
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
}

pub(crate) fn sandbox_that_waits_is_bounded_by_the_administrator() {
    let rig = Rig::new();
    let mut client = rig.client();
    for idle_ms in [0, 600_001, u64::MAX] {
        let plan = Box::new(plan(1));
        let reply = client.ask(Request::Prepare { plan, idle_ms }).0;
        let Reply::Refused(refusal) = reply else {
            panic!("{idle_ms}: {reply:?}")
        };
        assert_eq!(refusal.reason, RefusalReason::Ceiling, "{refusal:?}");
    }
}

pub(crate) fn claim_starts_the_life_of_a_sandbox_once() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut waiting = client.prepare(with_life(1, 700), LONG_MS);
    let id = waiting.id.clone();
    let Reply::Sandboxes { sandboxes } = client.ask(Request::List).0 else {
        panic!()
    };
    assert!(sandboxes[0].waiting, "{sandboxes:?}");
    assert_eq!(
        client.ask(Request::Claim { id: id.clone() }).0,
        Reply::Claimed
    );
    let begun = Instant::now();
    assert_eq!(waiting.run(&["echo", "ran"]).stdout, "ran\n");
    // A second claim would be a second life.
    let again = client.ask(Request::Claim { id: id.clone() }).0;
    assert!(matches!(again, Reply::Refused(_)), "{again:?}");
    let (end, usage) = client.ended(&id);
    assert!(end.timed_out, "{end:?}");
    let lived = begun.elapsed().as_millis();
    assert!((600..5_000).contains(&lived), "{lived}");
    assert!(
        (600..5_000).contains(&u128::from(usage.wall_ms)),
        "{usage:?}"
    );

    let running = client.create(plan(2));
    let reply = client.ask(Request::Claim { id: running.id }).0;
    assert!(
        matches!(reply, Reply::Refused(_)),
        "what does not wait cannot be claimed: {reply:?}"
    );
}

pub(crate) fn command_without_a_claim_ends_when_the_waiting_does() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut waiting = client.prepare(with_life(1, LONG_MS), 500);
    waiting.start(&["sleep", "60"]);
    let (end, _) = client.ended(&waiting.id);
    assert!(end.timed_out, "{end:?}");
    assert_eq!(sandbox_processes(), vec![] as Vec<u32>);
}

pub(crate) fn sandboxes_that_wait_leave_room() {
    // The rig's launcher may have four.
    let rig = Rig::new();
    let mut client = rig.client();
    let _waiting = [1, 2].map(|number| client.prepare(plan(number), LONG_MS));
    let reply = client
        .ask(Request::Prepare {
            plan: Box::new(plan(3)),
            idle_ms: LONG_MS,
        })
        .0;
    assert!(
        matches!(&reply, Reply::Refused(refusal) if refusal.reason == RefusalReason::Full),
        "{reply:?}"
    );
    let _running = [4, 5].map(|number| client.create(plan(number)));
}

pub(crate) fn nothing_waits_when_the_host_is_short_of_memory() {
    let rig = Rig::new();
    let mut client = rig.client();
    let waiting = client.prepare(plan(1), LONG_MS);
    let running = client.create(plan(2));
    rig.set_memory(16_000_000, 999_999);
    let (end, _) = client.ended(&waiting.id);
    assert!(end.killed, "{end:?}");
    let prepare = |client: &mut Client| {
        let plan = Box::new(plan(3));
        let idle_ms = LONG_MS;
        client.ask(Request::Prepare { plan, idle_ms }).0
    };
    let reply = prepare(&mut client);
    assert!(
        matches!(&reply, Reply::Refused(refusal) if refusal.reason == RefusalReason::Memory),
        "{reply:?}"
    );
    // What runs is not touched, and what is to run at once is made.
    let Reply::Sandboxes { sandboxes } = client.ask(Request::List).0 else {
        panic!()
    };
    assert_eq!(sandboxes[0].id, running.id);
    client.create(plan(4));
    rig.set_memory(16_000_000, 8_000_000);
    assert!(matches!(prepare(&mut client), Reply::Created { .. }));
}

pub(crate) fn sandboxes_that_wait_end_with_their_connection() {
    let rig = Rig::new();
    let mut stays = rig.client();
    let mut leaves = rig.client();
    let waiting = leaves.prepare(plan(1), LONG_MS);
    let claimed = leaves.prepare(plan(2), LONG_MS);
    let id = claimed.id.clone();
    assert_eq!(leaves.ask(Request::Claim { id }).0, Reply::Claimed);
    drop(leaves);
    let (end, _) = stays.ended(&waiting.id);
    assert!(end.killed, "{end:?}");
    let Reply::Sandboxes { sandboxes } = stays.ask(Request::List).0 else {
        panic!()
    };
    let left: Vec<_> = sandboxes.into_iter().map(|one| one.id).collect();
    assert_eq!(left, [claimed.id]);
}
