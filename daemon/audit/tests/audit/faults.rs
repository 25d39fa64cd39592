//! Single changes of a log, and what each is called.

use std::fs;

use ed25519_dalek::SigningKey;
use paw_audit::{Fault, LogError, Report, State, format, key, verify};

use crate::{
    forger::{copy, field, forged, seq},
    support::{Dirs, entry, lines, open},
};

const SEGMENT: u64 = 48 * 1024;

#[test]
fn clean_log_gives_no_alarm() {
    for records in [0, 1, 2, 49, 50, 255, 256, 257, 600, 1500] {
        for segment in [4 * 1024, SEGMENT, u64::MAX] {
            let dirs = Dirs::with_log(records, segment);
            let report = verify(&dirs.log, None);
            assert_eq!(
                (report.state, report.records, report.unsigned),
                (State::Ok, records, 0),
                "{records}: {report:?}"
            );
            dirs.write(records + 1, 10, segment);
            let report = verify(&dirs.log, None);
            assert_eq!(
                (report.state, report.records),
                (State::Ok, records + 10),
                "{records}, continued: {report:?}"
            );
        }
    }
}

fn verify_after(change: impl Fn(&Dirs)) -> Report {
    let dirs = Dirs::with_log(300, SEGMENT);
    change(&dirs);
    verify(&dirs.log, None)
}

#[test]
fn fault_is_named_by_what_was_done() {
    let check = |fault: Fault, first: Option<u64>, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let report = verify_after(|dirs| {
            let mut all = lines(&dirs.segment(1));
            change(&mut all);
            fs::write(dirs.segment(1), all.concat()).unwrap();
        });
        assert_eq!(
            (report.fault, report.first_bad_seq),
            (Some(fault), first),
            "{report:?}"
        );
    };
    // Line 0 is the first checkpoint, so that line n is record n up to the next one after record 50.
    check(Fault::Modified, Some(7), &|all| all[7][20] ^= 1);
    check(Fault::Deleted, Some(7), &|all| drop(all.drain(7..10)));
    check(Fault::Deleted, Some(50), &|all| drop(all.remove(50)));
    check(Fault::Reordered, Some(7), &|all| all.swap(7, 8));
    check(Fault::Inserted, Some(6), &|all| {
        all.insert(8, all[6].clone())
    });
    check(Fault::CheckpointMissing, Some(51 + 50), &|all| {
        drop(all.remove(51))
    });
    check(Fault::BadSignature, Some(51), &|all| {
        let end = all[51].len() - 10;
        all[51][end] = if all[51][end] == b'0' { b'1' } else { b'0' };
    });
}

/// Whoever can write the file can make records that fit; not more of them than the writer ever leaves unsigned.
#[test]
fn forged_end_longer_than_the_unsigned_one_can_be_is_found() {
    let dirs = Dirs::with_log(300, u64::MAX);
    let mut all = lines(&dirs.segment(1));
    let model = all
        .iter()
        .rfind(|line| seq(line).is_some())
        .unwrap()
        .clone();
    let mut prev = field(&model, "tag");
    for n in 301..=600 {
        let (line, tag) = forged(&model, "\"seq\":300", &format!("\"seq\":{n}"), &prev);
        prev = tag;
        all.push(line);
    }
    fs::write(dirs.segment(1), all.concat()).unwrap();
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.fault, report.first_bad_seq),
        (Some(Fault::CheckpointMissing), Some(300 + 257)),
        "{report:?}"
    );
}

#[test]
fn log_without_a_key_or_with_another_is_not_verified() {
    let dirs = Dirs::with_log(10, SEGMENT);
    let other = SigningKey::from_bytes(&[1; 32]).verifying_key();
    assert_eq!(
        verify(&dirs.log, Some(&other)).fault,
        Some(Fault::BadSignature)
    );
    fs::remove_file(dirs.log.join(key::PUBLIC)).unwrap();
    assert_eq!(verify(&dirs.log, None).state, State::Unverifiable);
    assert_eq!(
        verify(&dirs.log.join("none"), None).state,
        State::Unverifiable
    );
}

#[test]
fn half_written_end_is_torn_and_not_tampered() {
    let dirs = Dirs::with_log(10, SEGMENT);
    let mut bytes = fs::read(dirs.segment(1)).unwrap();
    bytes.extend_from_slice(b"{\"v\":1,\"seq\":11,\"boot");
    fs::write(dirs.segment(1), &bytes).unwrap();
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.ok, report.records),
        (State::TornTail, true, 10),
        "{report:?}"
    );
}

#[test]
fn unsigned_end_is_reported_as_such() {
    let dirs = Dirs::new();
    let mut log = open(dirs.place(SEGMENT)).unwrap();
    for n in 1..=10 {
        log.append(&entry(n), format::Stamp::now());
    }
    log.commit(true, std::time::Instant::now()).unwrap();
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records, report.unsigned),
        (State::Ok, 10, 10),
        "{report:?}"
    );
}

/// Log and newest checkpoint are put back to an older state together: no file beside the log can tell, the writer can.
#[test]
fn writer_does_not_continue_a_log_that_was_put_back() {
    let dirs = Dirs::with_log(10, SEGMENT);
    let older = tempfile::tempdir().unwrap();
    let older = older.path().join("older");
    copy(&dirs.log, &older);
    dirs.write(11, 10, SEGMENT);
    copy(&older, &dirs.log);
    assert_eq!(verify(&dirs.log, None).state, State::Ok);
    let error = open(dirs.place(SEGMENT)).unwrap_err();
    assert!(matches!(error, LogError::Tampered { .. }), "{error:?}");
    fs::remove_dir_all(&dirs.log).unwrap();
    fs::create_dir(&dirs.log).unwrap();
    assert!(
        matches!(open(dirs.place(SEGMENT)), Err(LogError::Tampered { .. })),
        "a removed log is not begun anew"
    );
}

#[test]
fn writer_does_not_continue_a_log_that_was_changed() {
    let dirs = Dirs::with_log(120, u64::MAX);
    let good = fs::read(dirs.segment(1)).unwrap();
    let mut all = lines(&dirs.segment(1));
    all[7][20] ^= 1;
    fs::write(dirs.segment(1), all.concat()).unwrap();
    assert!(matches!(
        open(dirs.place(u64::MAX)),
        Err(LogError::Tampered { .. })
    ));
    assert_eq!(
        fs::read(dirs.segment(1)).unwrap(),
        all.concat(),
        "the evidence was changed"
    );
    fs::write(dirs.segment(1), good).unwrap();
    assert_eq!(open(dirs.place(u64::MAX)).unwrap().last(), 120);
}
