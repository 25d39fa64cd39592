//! What somebody could do to the files of a log, at random places, two thousand times: each of it is found, and where.

use std::{collections::BTreeSet, env, fs, path::Path, sync::LazyLock, thread, time::Instant};

use ed25519_dalek::SigningKey;
use paw_audit::{
    Checks, State,
    format::{Checkpoint, Stamp},
    key,
    mac::Ratchet,
    segment, verify_with,
};
use serde_json::Value;

use crate::{
    forger::{copy, field, forged, seq, signed, signed_anew, stolen},
    support::{Dirs, entry, lines, open},
};

const RECORDS: u64 = 150;
const KINDS: usize = 20;

/// How often each is done. `PAW_MUTATIONS=1000 cargo test -p paw-audit` tries more.
static EACH: LazyLock<usize> = LazyLock::new(|| {
    let said = env::var("PAW_MUTATIONS").ok();
    said.and_then(|it| it.parse().ok()).unwrap_or(100)
});

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

/// A log of several segments, and the first key of its codes.
fn log_and_key() -> (Dirs, Vec<Ratchet>) {
    let dirs = Dirs::new();
    let mut log = open(dirs.place(9 * 1024)).unwrap();
    let written = log.hand_out_key(Stamp::now()).unwrap();
    for n in 2..=RECORDS {
        log.append(&entry(n), Stamp::now());
        if n % 10 == 0 {
            log.commit(false, Instant::now()).unwrap();
            log.seal(Stamp::now()).unwrap();
        }
    }
    let keys = Ratchet::read(&written).unwrap();
    (dirs, keys)
}

/// What there is to work with: the copy that is changed, and another log of the same length.
struct Work<'a> {
    dir: &'a Path,
    other: &'a Path,
    signing: &'a SigningKey,
}

/// Changes the copy; returns what was done, and the first bad record where it is certain.
fn mutate(work: &Work<'_>, kind: usize, dice: &mut Dice) -> (String, Option<u64>) {
    let dir = work.dir;
    let numbers = segment::list(dir).unwrap();
    let number = numbers[dice.below(numbers.len())];
    let path = segment::path(dir, number);
    let mut all = lines(&path);
    let at = dice.below(all.len());
    let records: Vec<usize> = (0..all.len())
        .filter(|index| seq(&all[*index]).is_some())
        .collect();
    let record = records[dice.below(records.len())];
    let checkpoints: Vec<usize> = (0..all.len())
        .filter(|index| seq(&all[*index]).is_none())
        .collect();
    let victim = checkpoints[dice.below(checkpoints.len())];
    let next_of = |all: &[Vec<u8>], from: usize| all[from..].iter().find_map(|line| seq(line));
    let mut certain = None;
    let what = match kind {
        0 => {
            let byte = dice.below(all[at].len());
            certain = seq(&all[at]);
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
            format!("record of line {record} removed")
        }
        3 => {
            all.remove(victim);
            format!("checkpoint of line {victim} removed")
        }
        4 => {
            let to = dice.below(all.len() + 1);
            certain = match to > record {
                true => seq(&all[record]),
                false => next_of(&all, to),
            };
            let line = all[record].clone();
            all.insert(to, line);
            format!("record of line {record} again as {to}")
        }
        5 => {
            let other = records[dice.below(records.len())];
            certain = seq(&all[record.min(other)]);
            all.swap(record, other);
            format!("records of lines {record} and {other} exchanged")
        }
        6 => {
            let last = segment::path(dir, *numbers.last().unwrap());
            let bytes = fs::read(&last).unwrap();
            let kept = dice.below(bytes.len());
            let whole = bytes[..kept].split_inclusive(|byte| *byte == b'\n');
            let mut found = whole.filter(|line| line.ends_with(b"\n")).filter_map(seq);
            if let Some(last) = found.next_back().filter(|last| *last < RECORDS) {
                certain = Some(last + 1);
            }
            fs::write(&last, &bytes[..kept]).unwrap();
            return (format!("end cut off at byte {kept}"), certain);
        }
        7 => {
            certain = next_of(&all, 0).filter(|_| number > 1);
            fs::remove_file(&path).unwrap();
            return (format!("segment {number} removed"), certain);
        }
        8 => {
            // Everything after it is made to fit; only codes and signatures cannot be.
            certain = seq(&all[record]);
            let mut prev = field(&all[record], "prev");
            for line in &mut all[record..] {
                if seq(line).is_some() {
                    (*line, prev) = forged(line, "number", "nummer", &prev);
                }
            }
            format!("history written anew from line {record} on")
        }
        9 => {
            let prev = field(&all[record], "tag");
            let next = seq(&all[record]).unwrap();
            certain = Some(next + 1);
            let (from, to) = (format!("\"seq\":{next}"), format!("\"seq\":{}", next + 1));
            let (line, _) = forged(&all[record], &from, &to, &prev);
            all.insert(record + 1, line);
            format!("a fitting record inserted after line {record}")
        }
        10 => {
            let value: Value = serde_json::from_slice(&all[victim]).unwrap();
            let said: Checkpoint = serde_json::from_value(value["checkpoint"].clone()).unwrap();
            all[victim] = signed(&said, &SigningKey::from_bytes(&[9; 32]));
            format!("checkpoint of line {victim} signed by somebody else")
        }
        11 => {
            fs::remove_file(dir.join(segment::WITNESS)).unwrap();
            return ("newest checkpoint removed".to_owned(), None);
        }
        12 => {
            let other = numbers[dice.below(numbers.len())];
            let other = segment::path(dir, other);
            fs::rename(&path, dir.join("aside")).unwrap();
            // The same one stays away.
            if other != path {
                fs::rename(&other, &path).unwrap();
                fs::rename(dir.join("aside"), &other).unwrap();
            }
            return (format!("segment {number} exchanged"), None);
        }
        13 => {
            fs::copy(segment::path(work.other, number), &path).unwrap();
            return (format!("segment {number} of another log"), None);
        }
        14 => {
            let theirs = lines(&segment::path(work.other, number));
            certain = seq(&all[record]);
            let line = theirs.iter().find(|line| seq(line) == certain);
            all[record] = line.unwrap_or(&theirs[1]).clone();
            format!("record of line {record} of another log")
        }
        15 => {
            let older = numbers[dice.below(numbers.len() - 1)];
            fs::copy(segment::path(dir, older), &path).unwrap();
            return (format!("segment {older} again as {number}"), None);
        }
        16 => {
            fs::copy(
                work.other.join(segment::WITNESS),
                dir.join(segment::WITNESS),
            )
            .unwrap();
            return ("newest checkpoint of another log".to_owned(), None);
        }
        // From here on with the stolen key that signs: only the codes tell.
        17 => {
            let chosen = 1 + dice.below(RECORDS as usize) as u64;
            certain = Some(chosen);
            signed_anew(dir, work.signing, |seq, body, _| {
                Some(match seq == chosen {
                    true => body.replacen("\"utc_ms\":1", "\"utc_ms\":2", 1),
                    false => body.to_owned(),
                })
            });
            return (
                format!("record {chosen} changed and all signed anew"),
                certain,
            );
        }
        18 => {
            let chosen = 1 + dice.below(RECORDS as usize - 1) as u64;
            certain = Some(chosen);
            signed_anew(dir, work.signing, |seq, body, _| {
                (seq != chosen).then(|| body.to_owned())
            });
            return (
                format!("record {chosen} removed and all signed anew"),
                certain,
            );
        }
        _ => {
            // A key of the same epoch's number, but not of its first key.
            let chosen = 1 + dice.below(RECORDS as usize) as u64;
            certain = Some(chosen);
            let mut wrong = Ratchet::begin(2, chosen).unwrap();
            signed_anew(dir, work.signing, |seq, body, prev| {
                if seq < chosen {
                    return Some(body.to_owned());
                }
                let body = &body[..body.len() - 73];
                let code = hex::encode(wrong.code(prev, body.as_bytes()));
                Some(format!("{body},\"mac\":\"{code}\""))
            });
            return (
                format!("codes by another key from record {chosen} on"),
                certain,
            );
        }
    };
    fs::write(&path, all.concat()).unwrap();
    (what, certain)
}

/// Does one kind of change as often as it is to be done; returns the names of what was found.
fn try_kind(kind: usize, dirs: &Dirs, other: &Dirs, keys: &[Ratchet]) -> BTreeSet<String> {
    let public = key::read_public(&dirs.log.join(key::PUBLIC)).unwrap();
    let signing = stolen(&dirs.state);
    let root = tempfile::tempdir().unwrap();
    let copied = root.path().join("copy");
    let work = Work {
        dir: &copied,
        other: &other.log,
        signing: &signing,
    };
    let mut dice = Dice(42 + kind as u64);
    let mut faults = BTreeSet::new();
    let mut done = 0;
    while done < *EACH {
        copy(&dirs.log, &copied);
        let (what, certain) = mutate(&work, kind, &mut dice);
        if unchanged(&dirs.log, &copied) {
            // A line was put where it was, which is no mutation.
            continue;
        }
        // With the public key alone as long as the key that signs is not taken, and with the first key as well afterwards.
        let codes = if kind >= 17 {
            keys.to_vec()
        } else {
            Vec::new()
        };
        let report = verify_with(
            &copied,
            Checks {
                key: Some(public),
                codes,
                ..Checks::default()
            },
        );
        assert_eq!(
            (report.state, report.ok),
            (State::Tampered, false),
            "mutation {kind}/{done}: {what}: {report:?}"
        );
        let (fault, first) = (report.fault.expect("a fault"), report.first_bad_seq);
        match (kind, certain) {
            // The public key finds a history that fits at the first signature after it, at most ten records later here.
            (8, Some(certain)) => {
                let first = first.expect("a place");
                assert!(
                    first <= certain && certain < first + 10,
                    "mutation {kind}/{done}: {what}: {report:?}"
                );
            }
            // The first record is coded by a key that nobody was given; the code of the second one is over it.
            (17, Some(1)) => {
                assert_eq!(first, Some(2), "mutation {kind}/{done}: {what}: {report:?}")
            }
            (_, Some(_)) => {
                assert_eq!(first, certain, "mutation {kind}/{done}: {what}: {report:?}")
            }
            (_, None) => assert!(
                first.is_none_or(|first| first <= RECORDS + 1),
                "mutation {kind}/{done}: {what}: {report:?}"
            ),
        }
        faults.insert(format!("{fault:?}"));
        done += 1;
    }
    faults
}

#[test]
fn every_mutation_is_found() {
    let (dirs, keys) = log_and_key();
    let (other, _) = log_and_key();
    assert!(segment::list(&dirs.log).unwrap().len() >= 5);
    let clean = Checks {
        codes: keys.clone(),
        ..Checks::default()
    };
    let clean = verify_with(&dirs.log, clean);
    assert_eq!(
        (clean.state, clean.records, clean.codes),
        // The first record is that of the first key, whose epoch is the one before.
        (State::Ok, RECORDS, RECORDS - 1),
        "{clean:?}"
    );
    let found: BTreeSet<String> = thread::scope(|scope| {
        let (dirs, other, keys) = (&dirs, &other, &keys);
        let halves = [0, 1].map(|half| {
            scope.spawn(move || {
                let mine = (0..KINDS).filter(|kind| kind % 2 == half);
                mine.flat_map(|kind| try_kind(kind, dirs, other, keys))
                    .collect::<Vec<_>>()
            })
        });
        halves
            .into_iter()
            .flat_map(|half| half.join().expect("every mutation is found"))
            .collect()
    });
    let expected = [
        "BadSignature",
        "CheckpointMissing",
        "Deleted",
        "Inserted",
        "Modified",
        "Reordered",
        "Truncated",
        "WrongKey",
    ];
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

fn unchanged(one: &Path, other: &Path) -> bool {
    fs::read_dir(one).unwrap().all(|file| {
        let file = file.unwrap();
        fs::read(file.path()).ok() == fs::read(other.join(file.file_name())).ok()
    })
}
