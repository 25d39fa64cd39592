//! Proofs of single records: what the log wrote is proven by the public key alone, and nothing else is.

use std::fs;

use ed25519_dalek::SigningKey;
use paw_audit::{
    format::{is_checkpoint, read_checkpoint},
    key,
    proof::{Flaw, ProveError, check, prove},
};

use crate::{
    forger::{copy, forged, seq},
    support::{Dirs, lines},
};

/// A record of each segment's beginning, middle and end, and the first and the last one of the log.
const RECORDS: u64 = 700;

fn log() -> Dirs {
    let dirs = Dirs::with_log(RECORDS, 40_000);
    assert!(dirs.segment(4).exists(), "one segment tries too little");
    dirs
}

#[test]
fn every_record_is_proven_by_every_checkpoint_after_it_with_the_key_alone() {
    let dirs = log();
    let public = key::read_public(&dirs.log.join(key::PUBLIC)).unwrap();
    let checkpoints: Vec<_> = (1..)
        .map(|number| dirs.segment(number))
        .take_while(|path| path.exists())
        .flat_map(|path| lines(&path))
        .filter_map(|line| read_checkpoint(line.trim_ascii_end(), &public).ok())
        .collect();
    for seq in [1, 2, 49, 50, 51, 255, 256, 257, 300, 511, 512, 699, RECORDS] {
        let proof = prove(&dirs.log, seq, None).unwrap();
        let proven = check(proof.as_bytes(), &public).unwrap();
        let first = checkpoints.iter().find(|it| it.seq >= seq).unwrap();
        assert_eq!((proven.seq, &proven.checkpoint), (seq, first));
        for checkpoint in &checkpoints {
            let proof = prove(&dirs.log, seq, Some(checkpoint.n));
            if checkpoint.seq < seq {
                assert!(
                    matches!(proof, Err(ProveError::Unsigned { .. })),
                    "{seq} {proof:?}"
                );
                continue;
            }
            let proof = proof.unwrap();
            let proven = check(proof.as_bytes(), &public).unwrap();
            assert_eq!((proven.seq, &proven.checkpoint), (seq, checkpoint));
        }
    }
    let none = |seq| prove(&dirs.log, seq, None);
    assert!(matches!(none(0), Err(ProveError::NoRecord(0))));
    assert!(matches!(none(RECORDS + 1), Err(ProveError::NoRecord(_))));
}

#[test]
fn proof_with_any_other_byte_proves_nothing() {
    let dirs = log();
    let public = key::read_public(&dirs.log.join(key::PUBLIC)).unwrap();
    let good = prove(&dirs.log, 300, None).unwrap().into_bytes();
    check(&good, &public).unwrap();
    for at in 0..good.len() {
        for other in [good[at] ^ 1, good[at] ^ 0x20, b' ', b'\n', b'0', 0, 0xff] {
            if other != good[at] {
                let mut bad = good.clone();
                bad[at] = other;
                assert!(check(&bad, &public).is_err(), "byte {at} as {other}");
            }
        }
        for one in [good[at], b' ', b'\r', b'\n'] {
            let mut more = good.clone();
            more.insert(at, one);
            assert!(check(&more, &public).is_err(), "{one} before byte {at}");
        }
        let mut less = good.clone();
        less.remove(at);
        assert!(check(&less, &public).is_err(), "without byte {at}");
        assert!(check(&good[..at], &public).is_err(), "the first {at} bytes");
    }
    let other = SigningKey::from_bytes(&[3; 32]).verifying_key();
    assert!(matches!(check(&good, &other), Err(Flaw::Checkpoint(_))));
}

#[test]
fn parts_of_good_proofs_and_forged_records_make_no_proof() {
    let dirs = log();
    let public = key::read_public(&dirs.log.join(key::PUBLIC)).unwrap();
    let of = |seq| prove(&dirs.log, seq, Some(last(&dirs, &public))).unwrap();
    let (one, other) = (of(300), of(301));
    let parts = |proof: &str| proof.lines().map(str::to_owned).collect::<Vec<_>>();
    let (one, other) = (parts(&one), parts(&other));
    let made = |path: &str, record: &str, signed: &str| format!("{path}\n{record}\n{signed}\n");
    let flaw = |proof: String| check(proof.as_bytes(), &public).map(|_| ()).unwrap_err();
    // Another record's path, and a record that somebody made who knows the format: its tag fits, and it is in no tree.
    assert_eq!(flaw(made(&other[0], &one[1], &one[2])), Flaw::Root);
    let prev = serde_json::from_str::<serde_json::Value>(&one[1]).unwrap();
    let prev = prev["prev"].as_str().unwrap();
    let (line, _) = forged(
        format!("{}\n", one[1]).as_bytes(),
        "number 300",
        "number 999",
        prev,
    );
    let line = String::from_utf8(line).unwrap();
    assert_ne!(line.trim_end(), one[1]);
    assert_eq!(flaw(made(&one[0], line.trim_end(), &one[2])), Flaw::Root);
    // A checkpoint from before the record.
    let early = prove(&dirs.log, 1, None).unwrap();
    assert_eq!(flaw(made(&one[0], &one[1], &parts(&early)[2])), Flaw::Root);
}

fn last(dirs: &Dirs, public: &ed25519_dalek::VerifyingKey) -> u64 {
    let line = fs::read(dirs.log.join("audit.checkpoint")).unwrap();
    read_checkpoint(line.trim_ascii_end(), public).unwrap().n
}

#[test]
fn log_without_its_older_segments_still_proves_what_it_has_and_a_changed_one_does_not() {
    let dirs = log();
    let public = key::read_public(&dirs.log.join(key::PUBLIC)).unwrap();
    let newest = last(&dirs, &public);
    let whole = prove(&dirs.log, RECORDS, Some(newest)).unwrap();
    for number in 1..=2 {
        fs::remove_file(dirs.segment(number)).unwrap();
    }
    assert_eq!(prove(&dirs.log, RECORDS, Some(newest)).unwrap(), whole);
    assert!(matches!(
        prove(&dirs.log, 1, None),
        Err(ProveError::NoRecord(1))
    ));

    let elsewhere = tempfile::tempdir().unwrap();
    let changed = elsewhere.path().join("log");
    copy(&dirs.log, &changed);
    let path = paw_audit::segment::path(&changed, 3);
    let mut text = lines(&path);
    let at = text.iter().position(|line| !is_checkpoint(line)).unwrap();
    let number = seq(&text[at]).unwrap();
    let line = String::from_utf8(text[at].clone()).unwrap();
    text[at] = line.replace("number", "NUMBER").into_bytes();
    fs::write(&path, text.concat()).unwrap();
    let refused = prove(&changed, number, None);
    assert!(
        matches!(refused, Err(ProveError::Broken { .. })),
        "{refused:?}"
    );
}
