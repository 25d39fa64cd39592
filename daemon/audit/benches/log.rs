//! `cargo bench -p paw-audit --bench log`: how fast the log is written, verified and read, on a log of a million records
//! (`PAW_RECORDS` for another number) in a directory of its own (`PAW_DIR`, so that it is on the disk that is meant).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a measurement"
)]

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use paw_api::audit::{Actor, Entry, Event};
use paw_audit::{
    Checks, Log, State,
    format::Stamp,
    log::{Place, SEGMENT_AGE, SEGMENT_BYTES},
    mac::Ratchet,
    read::{Filter, list},
    segment, verify_with,
};
use paw_policy::{Decision, Digest, Kind, Risk};
use uuid::Uuid;

/// As many as one connection may have unanswered, so as large as a group can be.
const GROUP: u64 = 256;

fn entry(n: u64) -> Entry {
    let event = match n % 4 {
        0 => Event::ActionSubmitted,
        1 => Event::ActionJudged,
        2 => Event::ActionStarted,
        _ => Event::ActionEnded,
    };
    let action = n / 4;
    let mut entry = Entry::new(event);
    entry.action = Some(Uuid::from_u128(
        0x0193_0000_0000_7000_8000_0000_0000_0000 | u128::from(action),
    ));
    entry.actor = Some(Actor {
        uid: 1000 + (action % 40) as u32,
        gid: 100,
        pid: 4000,
        role: None,
        unit: None,
    });
    entry.kind = Some(if action.is_multiple_of(5) {
        Kind::ToolCall
    } else {
        Kind::Chat
    });
    entry.risk = Some(Risk::Low);
    entry.decision = Some(Decision::Allow);
    entry.digest = Some(Digest::of(&n.to_le_bytes()));
    entry.policy_digest = Some(Digest::of(b"policy"));
    let failed = n % 4 == 3 && action % 5000 == 7;
    entry.outcome = Some(if failed { "failed" } else { "completed" }.into());
    entry
        .detail
        .insert("agent".into(), format!("agent{}", action % 12));
    entry.detail.insert(
        "summary".into(),
        "chat with local (llama3.2): how is the weather".into(),
    );
    entry
}

fn size(dir: &std::path::Path) -> u64 {
    let files = fs::read_dir(dir).unwrap().flatten();
    files.map(|file| file.metadata().unwrap().len()).sum()
}

fn main() {
    let records: u64 = env::var("PAW_RECORDS").map_or(1_000_000, |text| text.parse().unwrap());
    let root = env::var_os("PAW_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let root = tempfile::tempdir_in(root).unwrap();
    let place = Place {
        dir: root.path().join("log"),
        state: root.path().join("state"),
        boot_id: "00000000-0000-4000-8000-000000000000".into(),
        segment_bytes: SEGMENT_BYTES,
        segment_age: SEGMENT_AGE,
        keep: None,
    };
    fs::create_dir(&place.dir).unwrap();
    fs::create_dir(&place.state).unwrap();
    let dir = place.dir.clone();
    let mut log = Log::open(place).unwrap();
    let keys = log.hand_out_key(Stamp::now()).unwrap();

    // Each group is on the disk before it counts, and is signed as in service.
    let begun = Instant::now();
    let mut n = 0;
    let mut longest = Duration::ZERO;
    while n < records {
        let group = Instant::now();
        for _ in 0..GROUP.min(records - n) {
            log.append(&entry(n), Stamp::now());
            n += 1;
        }
        log.commit(true, Instant::now()).unwrap();
        log.tick(Instant::now(), Stamp::now()).unwrap();
        longest = longest.max(group.elapsed());
    }
    log.seal(Stamp::now()).unwrap();
    let took = begun.elapsed();
    println!(
        "append, durable in groups of {GROUP}: {:.0} records/s, longest group {:.1} ms",
        records as f64 / took.as_secs_f64(),
        longest.as_secs_f64() * 1e3
    );
    let bytes = size(&dir);
    println!(
        "{} segments, {:.0} MB, {} B a record with its index",
        segment::list(&dir).unwrap().len(),
        bytes as f64 / 1e6,
        bytes / records
    );

    for (what, codes) in [
        ("public key", Vec::new()),
        ("first key too", Ratchet::read(&keys).unwrap()),
    ] {
        let begun = Instant::now();
        let report = verify_with(
            &dir,
            Checks {
                codes,
                ..Checks::default()
            },
        );
        let took = begun.elapsed().as_secs_f64();
        assert_eq!(
            (report.state, report.records),
            (State::Ok, records + 1),
            "{report:?}"
        );
        println!(
            "verify, {what}: {:.0} MB/s, {:.0} records/s",
            bytes as f64 / 1e6 / took,
            records as f64 / took
        );
    }

    let newest = Stamp::now().utc_ms;
    let cases = [
        ("no filter", Filter::default()),
        (
            "one action, early",
            Filter {
                action: entry(records / 100).action,
                ..Filter::default()
            },
        ),
        (
            "one user",
            Filter {
                uid: Some(1007),
                ..Filter::default()
            },
        ),
        (
            "user, agent, kind, event, failed",
            Filter {
                uid: Some(1007),
                agent: Some("agent7".into()),
                kind: Some(Kind::Chat),
                events: vec![Event::ActionEnded],
                outcome: Some("failed".into()),
                ..Filter::default()
            },
        ),
        (
            "failed",
            Filter {
                outcome: Some("failed".into()),
                ..Filter::default()
            },
        ),
        (
            "an event that never was",
            Filter {
                events: vec![Event::BackupMade],
                ..Filter::default()
            },
        ),
        (
            "a user that never was",
            Filter {
                uid: Some(7),
                ..Filter::default()
            },
        ),
        (
            "an hour ago",
            Filter {
                until_ms: Some(newest - 3_600_000),
                ..Filter::default()
            },
        ),
    ];
    for (what, filter) in cases {
        let mut times: Vec<Duration> = Vec::new();
        let mut found = 0;
        for _ in 0..20 {
            let begun = Instant::now();
            found = list(&dir, &filter, None, 50).unwrap().records.len();
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        println!(
            "list, {what}: {found} found, median {:.1} ms, longest {:.1} ms",
            times[10].as_secs_f64() * 1e3,
            times[19].as_secs_f64() * 1e3
        );
    }
}
