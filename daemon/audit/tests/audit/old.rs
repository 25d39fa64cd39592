//! Logs that were written before records had codes.

use std::{fs, path::Path};

use ed25519_dalek::SigningKey;
use paw_audit::{
    Fault, LogError, State,
    format::{Checkpoint, Tag},
    key, read, segment, verify,
};
use paw_policy::Digest;

use crate::{
    forger::{signed, tag_of},
    support::{Dirs, lines, open},
};

/// What version 1 wrote: so many records in one segment, a checkpoint after every ten.
fn old_log(dirs: &Dirs, records: u64) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let (mut tag, mut out): (Tag, _) = ([0; 32], Vec::new());
    let checkpoint = |n, offset: usize, seq, tag| Checkpoint {
        v: 1,
        n,
        segment: 1,
        offset: offset as u64,
        seq,
        tag: Digest::from_bytes(tag),
        utc_ms: 1_700_000_000_000,
        log: None,
    };
    out.extend(signed(&checkpoint(0, 0, 0, tag), &key));
    let mut newest = Vec::new();
    for seq in 1..=records {
        let body = format!(
            r#"{{"v":1,"seq":{seq},"boot_id":"b","mono_ns":1,"utc_ms":1700000000000,"entry":{{"event":"job_added"}},"prev":"{}""#,
            hex::encode(tag)
        );
        tag = tag_of(&tag, body.as_bytes());
        out.extend(format!("{body},\"tag\":\"{}\"}}\n", hex::encode(tag)).into_bytes());
        if seq % 10 == 0 {
            newest = signed(&checkpoint(seq / 10, out.len(), seq, tag), &key);
            out.extend_from_slice(&newest);
        }
    }
    fs::write(dirs.segment(1), out).unwrap();
    for dir in [&dirs.log, &dirs.state] {
        fs::write(dir.join(segment::WITNESS), &newest).unwrap();
    }
    key::publish(&dirs.log, &key.verifying_key()).unwrap();
    let seed = dirs.state.join(key::SEED);
    fs::write(&seed, key.to_bytes()).unwrap();
    private(&seed);
    dirs.own();
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn log_of_the_version_before_is_verified_and_continued() {
    let dirs = Dirs::new();
    old_log(&dirs, 30);
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records, report.checkpoints),
        (State::Ok, 30, 4),
        "{report:?}"
    );
    dirs.write(31, 20, u64::MAX);
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records),
        (State::Ok, 50),
        "{report:?}"
    );
    assert_eq!(segment::list(&dirs.log).unwrap(), [1, 2]);
    assert_eq!(read::tail(&dirs.log, 0, 1000).unwrap().len(), 50);
    dirs.write(51, 5, u64::MAX);
    let mut old = lines(&dirs.segment(1));
    old[7][20] ^= 1;
    fs::write(dirs.segment(1), old.concat()).unwrap();
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.fault, report.first_bad_seq),
        (Some(Fault::Modified), Some(7)),
        "{report:?}"
    );
}

#[test]
fn record_without_a_code_does_not_follow_ones_that_have_some() {
    let dirs = Dirs::with_log(10, u64::MAX);
    let mut all = lines(&dirs.segment(1));
    let last = crate::forger::field(&all[10], "tag");
    let prev: Vec<u8> = hex::decode(&last).unwrap();
    let body = format!(
        r#"{{"v":1,"seq":11,"boot_id":"b","mono_ns":1,"utc_ms":1700000000000,"entry":{{"event":"job_added"}},"prev":"{last}""#
    );
    let tag = hex::encode(tag_of(&prev, body.as_bytes()));
    all.push(format!("{body},\"tag\":\"{tag}\"}}\n").into_bytes());
    fs::write(dirs.segment(1), all.concat()).unwrap();
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.fault, report.first_bad_seq),
        (Some(Fault::Inserted), Some(11)),
        "{report:?}"
    );
    // The writer does not adopt it either.
    let log = open(dirs.place(u64::MAX)).unwrap();
    assert_eq!(log.last(), 11, "the record of the recovery");
    drop(log);
    assert_eq!(verify(&dirs.log, None).state, State::TornTail);
}

#[test]
fn log_whose_key_of_the_next_record_is_gone_is_not_continued() {
    let dirs = Dirs::with_log(10, u64::MAX);
    fs::remove_file(dirs.state.join(paw_audit::mac::NEXT)).unwrap();
    let error = open(dirs.place(u64::MAX)).unwrap_err();
    assert!(matches!(error, LogError::Tampered { .. }), "{error:?}");
}
