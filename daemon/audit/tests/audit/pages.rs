//! Pages of a log.

use std::{fs, time::Instant};

use paw_api::audit::Event;
use paw_audit::{
    State,
    format::Stamp,
    read::{Filter, MAX_PAGE_BYTES, each, list, tail},
    verify,
};
use paw_policy::Kind;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Dirs, entry, open};

fn seqs(records: &[Value]) -> Vec<u64> {
    records
        .iter()
        .map(|record| record["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn pages_put_together_are_the_whole_log() {
    let dirs = Dirs::with_log(600, 32 * 1024);
    assert!(paw_audit::segment::list(&dirs.log).unwrap().len() > 3);
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = list(&dirs.log, &Filter::default(), before, 37).unwrap();
        assert!(page.records.len() <= 37);
        found.extend(seqs(&page.records));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(found, (1..=600).rev().collect::<Vec<_>>());
    assert_eq!(
        seqs(
            &list(&dirs.log, &Filter::default(), Some(301), 3)
                .unwrap()
                .records
        ),
        [300, 299, 298]
    );
}

#[test]
fn filter_keeps_what_it_names() {
    let dirs = Dirs::with_log(100, 16 * 1024);
    let of = |filter: &Filter| seqs(&list(&dirs.log, filter, None, 1000).unwrap().records);
    let action = Some(Uuid::from_u128(5));
    assert_eq!(
        of(&Filter {
            action,
            ..Filter::default()
        }),
        (50..60).rev().collect::<Vec<_>>()
    );
    assert_eq!(
        of(&Filter {
            action,
            events: vec![Event::ActionEnded],
            ..Filter::default()
        }),
        [57, 54, 51]
    );
    assert_eq!(
        of(&Filter {
            events: vec![Event::RpcDenied],
            ..Filter::default()
        }),
        [0_u64; 0]
    );
}

#[test]
fn tail_goes_on_after_a_number() {
    let dirs = Dirs::with_log(300, 16 * 1024);
    assert_eq!(seqs(&tail(&dirs.log, 0, 3).unwrap()), [1, 2, 3]);
    assert_eq!(
        seqs(&tail(&dirs.log, 255, 1000).unwrap()),
        (256..=300).collect::<Vec<_>>()
    );
    assert_eq!(seqs(&tail(&dirs.log, 300, 10).unwrap()), [0_u64; 0]);
    dirs.write(301, 2, 16 * 1024);
    assert_eq!(seqs(&tail(&dirs.log, 300, 10).unwrap()), [301, 302]);
}

/// Records that are as long as they can be.
#[test]
fn page_is_bounded_by_its_length_and_pages_put_together_are_the_whole_log() {
    let dirs = Dirs::new();
    let mut log = open(dirs.place(8 * 1024 * 1024)).unwrap();
    for n in 1..=400 {
        let mut entry = entry(n);
        entry.detail.insert("text".into(), "x".repeat(60_000));
        log.append(&entry, Stamp::now());
        log.commit(false, Instant::now()).unwrap();
    }
    log.seal(Stamp::now()).unwrap();
    drop(log);
    let (mut found, mut before, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = list(&dirs.log, &Filter::default(), before, 1000).unwrap();
        let bytes = serde_json::to_vec(&page.records).unwrap().len();
        assert!(bytes < MAX_PAGE_BYTES + 64 * 1024, "{bytes}");
        found.extend(seqs(&page.records));
        (before, pages) = (page.next, pages + 1);
        if before.is_none() {
            break;
        }
    }
    assert_eq!(found, (1..=400).rev().collect::<Vec<_>>());
    assert!(pages >= 6, "{pages}");
}

#[test]
fn every_record_from_a_number_on_is_read_in_order() {
    let dirs = Dirs::with_log(300, 16 * 1024);
    for (from, first) in [(0, 1), (1, 1), (2, 2), (171, 171), (300, 300), (301, 301)] {
        let mut found = Vec::new();
        let read = each(&dirs.log, from, |line| {
            let record: Value = serde_json::from_slice(line).unwrap();
            found.push(record["seq"].as_u64().unwrap());
            Ok(())
        });
        read.unwrap();
        assert_eq!(found, (first..=300).collect::<Vec<_>>(), "from {from}");
    }
}

#[test]
fn half_written_end_is_not_shown() {
    let dirs = Dirs::with_log(3, u64::MAX);
    let bytes = fs::read(dirs.segment(1)).unwrap();
    fs::write(
        dirs.segment(1),
        [bytes.as_slice(), b"{\"v\":1,\"seq\":4"].concat(),
    )
    .unwrap();
    assert_eq!(
        seqs(
            &list(&dirs.log, &Filter::default(), None, 10)
                .unwrap()
                .records
        ),
        [3, 2, 1]
    );
    assert_eq!(seqs(&tail(&dirs.log, 0, 10).unwrap()), [1, 2, 3]);
}

/// Records that differ in all that can be asked for.
fn varied(dirs: &Dirs, first: u64, count: u64) {
    let mut log = open(dirs.place(200 * 1024)).unwrap();
    for n in first..first + count {
        let mut entry = entry(n);
        entry.actor.as_mut().unwrap().uid = 1000 + (n % 7) as u32;
        entry.kind = Some(if n.is_multiple_of(5) {
            Kind::ToolCall
        } else {
            Kind::Chat
        });
        entry.outcome = Some(
            if n.is_multiple_of(90) {
                "failed"
            } else {
                "completed"
            }
            .into(),
        );
        entry.detail.insert("agent".into(), format!("a{}", n % 11));
        let at = Stamp {
            mono_ns: n,
            utc_ms: 1_000 * n,
        };
        log.append(&entry, at);
        if n % 100 == 0 {
            log.seal(at).unwrap();
        }
        log.commit(false, Instant::now()).unwrap();
    }
    log.seal(Stamp {
        mono_ns: 1,
        utc_ms: 1_000 * (first + count),
    })
    .unwrap();
}

fn filters() -> Vec<Filter> {
    let all = Filter::default;
    vec![
        Filter {
            uid: Some(1003),
            ..all()
        },
        Filter {
            agent: Some("a4".into()),
            ..all()
        },
        Filter {
            kind: Some(Kind::ToolCall),
            ..all()
        },
        Filter {
            outcome: Some("failed".into()),
            ..all()
        },
        Filter {
            since_ms: Some(300_000),
            until_ms: Some(420_000),
            ..all()
        },
        Filter {
            action: Some(Uuid::from_u128(77)),
            ..all()
        },
        Filter {
            events: vec![Event::ActionEnded, Event::JobAdded],
            ..all()
        },
        Filter {
            uid: Some(1002),
            kind: Some(Kind::ToolCall),
            outcome: Some("completed".into()),
            events: vec![Event::ActionStarted],
            until_ms: Some(2_000_000),
            ..all()
        },
        Filter {
            uid: Some(1),
            ..all()
        },
    ]
}

fn word(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// What a filter should find, by looking at every record.
fn expected(all: &[Value], filter: &Filter) -> Vec<u64> {
    let wanted = all.iter().rev().filter(|record| {
        let (entry, at) = (&record["entry"], record["utc_ms"].as_u64().unwrap());
        filter.uid.is_none_or(|uid| entry["actor"]["uid"] == uid)
            && filter
                .agent
                .as_ref()
                .is_none_or(|it| entry["detail"]["agent"] == **it)
            && filter.kind.is_none_or(|it| entry["kind"] == word(&it))
            && filter
                .outcome
                .as_ref()
                .is_none_or(|it| entry["outcome"] == **it)
            && filter.since_ms.is_none_or(|it| at >= it)
            && filter.until_ms.is_none_or(|it| at <= it)
            && filter
                .action
                .is_none_or(|it| entry["action"] == it.to_string())
            && (filter.events.is_empty()
                || filter.events.iter().any(|it| entry["event"] == word(it)))
    });
    wanted
        .map(|record| record["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn every_filter_finds_what_it_names_with_an_index_without_one_and_with_a_damaged_one() {
    let dirs = Dirs::new();
    varied(&dirs, 1, 1_500);
    // A second life of the writer goes on with the index.
    varied(&dirs, 1_501, 1_000);
    let segments = paw_audit::segment::list(&dirs.log).unwrap();
    assert!(segments.len() >= 3);
    let indexes: Vec<_> = segments
        .iter()
        .map(|number| dirs.segment(*number).with_extension("index"))
        .collect();
    let all: Vec<Value> = [0, 1000, 2000]
        .into_iter()
        .flat_map(|after| tail(&dirs.log, after, 1000).unwrap())
        .collect();
    assert_eq!(all.len(), 2_500);
    let check = |what: &str| {
        for filter in filters() {
            let (mut found, mut before) = (Vec::new(), None);
            loop {
                let page = list(&dirs.log, &filter, before, 60).unwrap();
                found.extend(seqs(&page.records));
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected(&all, &filter), "{what}: {filter:?}");
        }
    };
    let sizes = indexes.iter().map(|path| fs::metadata(path).unwrap().len());
    assert!(sizes.sum::<u64>() > 6 * 1024, "there is an index");
    check("with it");
    for path in &indexes {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        fs::write(path, bytes).unwrap();
    }
    check("damaged");
    for path in &indexes {
        fs::remove_file(path).unwrap();
    }
    check("without it");
    // Each of another version, but for the first, which stays away, and the second, of which nothing could be written: the next writer
    // makes them anew.
    for path in &indexes[1..] {
        fs::write(path, b"pai1 and whatever it held").unwrap();
    }
    fs::write(&indexes[1], b"").unwrap();
    drop(open(dirs.place(200 * 1024)).unwrap());
    // That of the last one may have no whole block yet.
    for path in &indexes[..indexes.len() - 1] {
        assert!(fs::read(path).unwrap().starts_with(b"pai2"), "{path:?}");
    }
    check("made anew");
}

/// What no block may have is not looked at: a block that says so hides its records, so the index is what a list goes by.
#[test]
fn list_looks_only_where_the_index_says_that_something_may_be() {
    let dirs = Dirs::new();
    varied(&dirs, 1, 600);
    let others = Dirs::new();
    let mut log = open(others.place(200 * 1024)).unwrap();
    for n in 1..=600 {
        let mut entry = entry(n);
        entry.outcome = Some("completed".into());
        let at = Stamp {
            mono_ns: n,
            utc_ms: 1_000 * n,
        };
        log.append(&entry, at);
        // As the other log is: these times are long before the log begins, so the first one of them ends a segment.
        if n % 100 == 0 {
            log.seal(at).unwrap();
        }
        log.commit(false, Instant::now()).unwrap();
    }
    drop(log);
    let filter = Filter {
        outcome: Some("failed".into()),
        ..Filter::default()
    };
    assert_eq!(
        seqs(&list(&dirs.log, &filter, None, 60).unwrap().records).len(),
        6
    );
    for number in paw_audit::segment::list(&dirs.log).unwrap() {
        let index = |dirs: &Dirs| dirs.segment(number).with_extension("index");
        fs::copy(index(&others), index(&dirs)).unwrap();
    }
    let found = seqs(&list(&dirs.log, &filter, None, 60).unwrap().records);
    assert!(found.len() < 6, "{found:?}");
    assert_eq!(
        verify(&dirs.log, None).state,
        State::Ok,
        "it is no part of what is verified"
    );
}
