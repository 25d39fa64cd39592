//! Pages of a log.

use std::fs;

use paw_api::audit::Event;
use paw_audit::read::{Filter, list, tail};
use serde_json::Value;
use uuid::Uuid;

use crate::support::Dirs;

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
