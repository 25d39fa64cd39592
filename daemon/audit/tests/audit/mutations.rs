//! What somebody could do to the files of a log, and that each of it is found.

use std::{fs, path::Path};

use ed25519_dalek::{Signer as _, SigningKey};
use paw_audit::{Fault, LogError, Report, State, format, key, verify};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::{Dirs, entry, lines, open};

const RECORDS: u64 = 700;
const SEGMENT: u64 = 48 * 1024;

/// Small, fast and the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn tag_of(prev: &[u8], body: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"pawd-audit-record/1\0")
        .chain_update(prev)
        .chain_update(body)
        .finalize()
        .into()
}

/// The record of this line with another text, continuing `prev`, with a tag that fits: what an editor who knows the format writes.
fn forged(line: &[u8], from: &str, to: &str, prev: &str) -> (Vec<u8>, String) {
    let text = std::str::from_utf8(line).unwrap().trim_end();
    let old: Value = serde_json::from_str(text).unwrap();
    let body = text[..text.len() - 74]
        .replace(from, to)
        .replace(old["prev"].as_str().unwrap(), prev);
    let tag = hex::encode(tag_of(&hex::decode(prev).unwrap(), body.as_bytes()));
    (format!("{body},\"tag\":\"{tag}\"}}\n").into_bytes(), tag)
}

fn field(line: &[u8], name: &str) -> String {
    serde_json::from_slice::<Value>(line).unwrap()[name]
        .as_str()
        .unwrap()
        .to_owned()
}

fn seq(line: &[u8]) -> Option<u64> {
    format::parse_record(line.trim_ascii_end())
        .ok()
        .map(|record| record.seq)
}

/// Changes the copy; returns what was done, and the first bad record where it is certain.
fn mutate(dir: &Path, kind: usize, dice: &mut Dice) -> (String, Option<u64>) {
    let numbers = paw_audit::segment::list(dir).unwrap();
    let number = numbers[dice.below(numbers.len())];
    let path = paw_audit::segment::path(dir, number);
    let mut all = lines(&path);
    let at = dice.below(all.len());
    let records: Vec<usize> = (0..all.len())
        .filter(|index| seq(&all[*index]).is_some())
        .collect();
    let record = records[dice.below(records.len())];
    let mut certain = None;
    let what = match kind {
        0 => {
            let byte = dice.below(all[at].len());
            all[at][byte] ^= 1 << dice.below(8);
            format!("flip in byte {byte} of line {at}")
        }
        1 => {
            // Not the last byte, so that the line stays a line.
            let byte = dice.below(all[record].len() - 1);
            certain = seq(&all[record]);
            all[record][byte] = if all[record][byte] == b'x' {
                b'y'
            } else {
                b'x'
            };
            format!("another byte {byte} in the record of line {record}")
        }
        2 => {
            certain = seq(&all.remove(record));
            format!("record of line {record} deleted")
        }
        3 => {
            all.remove(at);
            format!("line {at} deleted")
        }
        4 => {
            let to = dice.below(all.len() + 1);
            let line = all[at].clone();
            all.insert(to, line);
            format!("line {at} again as {to}")
        }
        5 => {
            let other = (at + 1 + dice.below(all.len() - 1)) % all.len();
            all.swap(at, other);
            format!("lines {at} and {other} exchanged")
        }
        6 => {
            let last = paw_audit::segment::path(dir, *numbers.last().unwrap());
            let bytes = fs::read(&last).unwrap();
            fs::write(&last, &bytes[..dice.below(bytes.len())]).unwrap();
            return ("end cut off".to_owned(), None);
        }
        7 => {
            fs::remove_file(&path).unwrap();
            return (format!("segment {number} removed"), None);
        }
        8 => {
            // Everything after it is made to fit; only the signatures cannot be.
            certain = seq(&all[record]).map(|first| first.saturating_sub(255).max(1));
            let mut prev = field(&all[record], "prev");
            for line in &mut all[record..] {
                if seq(line).is_some() {
                    (*line, prev) = forged(line, "number", "nummer", &prev);
                }
            }
            format!("history rewritten from line {record} on")
        }
        9 => {
            let prev = field(&all[record], "tag");
            let next = seq(&all[record]).unwrap();
            let (line, _) = forged(
                &all[record],
                &format!("\"seq\":{next}"),
                &format!("\"seq\":{}", next + 1),
                &prev,
            );
            all.insert(record + 1, line);
            format!("a fitting record inserted after line {record}")
        }
        10 => {
            let checkpoints: Vec<usize> = (0..all.len())
                .filter(|index| seq(&all[*index]).is_none())
                .collect();
            let victim = checkpoints[dice.below(checkpoints.len())];
            let object =
                serde_json::from_slice::<Value>(&all[victim]).unwrap()["checkpoint"].clone();
            let text = serde_json::to_string(&object).unwrap();
            let signature = SigningKey::from_bytes(&[9; 32]).sign(text.as_bytes());
            let line = format!(
                "{{\"checkpoint\":{text},\"signature\":\"{}\"}}\n",
                hex::encode(signature.to_bytes())
            );
            all[victim] = line.into_bytes();
            format!("checkpoint of line {victim} signed by somebody else")
        }
        11 => {
            fs::remove_file(dir.join("audit.checkpoint")).unwrap();
            return ("newest checkpoint removed".to_owned(), None);
        }
        _ => {
            let other =
                numbers[(numbers.iter().position(|n| *n == number).unwrap() + 1) % numbers.len()];
            let other = paw_audit::segment::path(dir, other);
            fs::rename(&path, dir.join("aside")).unwrap();
            fs::rename(&other, &path).unwrap();
            fs::rename(dir.join("aside"), &other).unwrap();
            return ("two segments exchanged".to_owned(), None);
        }
    };
    fs::write(&path, all.concat()).unwrap();
    (what, certain)
}

#[test]
fn every_mutation_is_found() {
    let dirs = Dirs::with_log(RECORDS, SEGMENT);
    let public = key::read_public(&dirs.log.join(key::PUBLIC)).unwrap();
    let numbers = paw_audit::segment::list(&dirs.log).unwrap();
    assert!(numbers.len() >= 4, "{numbers:?}");
    let work = tempfile::tempdir().unwrap();
    let work = work.path().join("copy");
    let mut dice = Dice(42);
    let mut faults = std::collections::BTreeSet::new();
    let mut done = 0;
    while done < 390 {
        let kind = done % 13;
        copy(&dirs.log, &work);
        let (what, certain) = mutate(&work, kind, &mut dice);
        if unchanged(&dirs.log, &work) {
            // A line was put where it was, which is no mutation.
            continue;
        }
        let report = verify(&work, Some(&public));
        assert_eq!(
            (report.state, report.ok),
            (State::Tampered, false),
            "mutation {done}: {what}: {report:?}"
        );
        let (fault, first) = (report.fault.expect("a fault"), report.first_bad_seq);
        match kind {
            1 | 2 => assert_eq!(first, certain, "mutation {done}: {what}: {report:?}"),
            8 => assert!(first >= certain, "mutation {done}: {what}: {report:?}"),
            _ => assert!(
                first.is_none_or(|first| first <= RECORDS + 1),
                "mutation {done}: {what}: {report:?}"
            ),
        }
        faults.insert(format!("{fault:?}"));
        done += 1;
    }
    let expected = [
        "BadSignature",
        "CheckpointMissing",
        "Deleted",
        "Inserted",
        "Modified",
        "Reordered",
        "Truncated",
    ];
    assert_eq!(
        faults.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

fn unchanged(one: &Path, other: &Path) -> bool {
    fs::read_dir(one).unwrap().all(|file| {
        let file = file.unwrap();
        fs::read(file.path()).ok() == fs::read(other.join(file.file_name())).ok()
    })
}

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
