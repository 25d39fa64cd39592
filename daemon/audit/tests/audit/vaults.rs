//! What the log is told of the vault: only ever more changes, whoever says it.

use paw_api::audit::{Answer, Append, Entry, Event, RefuseReason};
use paw_audit::{State, verify};
use uuid::Uuid;

use crate::support::{Client, Dirs, Writer};

const OURS: Uuid = Uuid::from_u128(1);

fn told(client: &mut Client, vault: Uuid, generation: &str) -> Result<u64, RefuseReason> {
    let mut record = Entry::new(Event::VaultChanged);
    record.outcome = Some("done".into());
    let detail = &mut record.detail;
    detail.insert("vault".into(), vault.to_string());
    detail.insert("generation".into(), generation.to_owned());
    let append = Append {
        seq: 1,
        durable: true,
        record,
    };
    client.send(&[serde_json::to_vec(&append).unwrap(), b"\n".to_vec()].concat());
    match client.answer().expect("the connection stays") {
        Answer::Appended(appended) => Ok(appended.audit_seq),
        Answer::Refused(refused) => {
            assert_eq!(refused.seq, Some(1));
            assert!(!refused.message.is_empty() && !refused.remedy.is_empty());
            Err(refused.reason)
        }
        Answer::Hello(_) | Answer::Signed(_) | Answer::Room => unreachable!("they were taken"),
    }
}

/// As a pawd that was taken over would have an older copy of the vault taken for the newest.
#[test]
fn fewer_changes_than_are_known_are_not_written_nor_more_than_anybody_can_have_made() {
    let dirs = Dirs::new();
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(told(&mut client, OURS, "9"), Ok(1));
    let refused = Err(RefuseReason::Contradicts);
    for generation in ["1", "8", "1010", "18446744073709551615"] {
        assert_eq!(told(&mut client, OURS, generation), refused, "{generation}");
    }
    // The same once more, as when it is locked; and one whose record was lost.
    for (n, generation) in (2..).zip(["9", "10", "12"]) {
        assert_eq!(told(&mut client, OURS, generation), Ok(n), "{generation}");
    }
    assert!(writer.terminate().0.success());
    // Also by what the log alone tells of.
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(told(&mut client, OURS, "11"), refused);
    assert_eq!(told(&mut client, OURS, "12"), Ok(5));
    assert!(writer.terminate().0.success());
    let report = verify(&dirs.log, None);
    assert_eq!((report.state, report.records), (State::Ok, 5), "{report:?}");
}

#[test]
fn another_vault_in_between_has_none_forgotten() {
    let dirs = Dirs::new();
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    let refused = Err(RefuseReason::Contradicts);
    assert_eq!(told(&mut client, OURS, "9"), Ok(1));
    assert_eq!(told(&mut client, Uuid::from_u128(2), "3"), Ok(2));
    assert_eq!(told(&mut client, OURS, "8"), refused);
    writer.kill();
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(told(&mut client, OURS, "1"), refused);
    assert_eq!(told(&mut client, OURS, "9"), Ok(3));
    assert_eq!(told(&mut client, Uuid::from_u128(2), "2"), refused);
    // There is an end to it, and not by forgetting.
    let more = (3..200).find(|n| told(&mut client, Uuid::from_u128(*n), "1").is_err());
    assert!(more.is_some_and(|n| n <= 70), "{more:?}");
    assert_eq!(told(&mut client, OURS, "8"), refused);
    assert!(told(&mut client, OURS, "10").is_ok());
    assert!(writer.terminate().0.success());
}
