//! The key that moves on: what it is good for, and for whom.

use std::{fs, time::Instant};

use paw_audit::{
    Checks, Fault, Report, State, format::Stamp, mac::NEXT, mac::Ratchet, read, segment, verify,
    verify_with,
};

use crate::{
    forger::{copy, signed_anew, stolen},
    support::{Client, Dirs, Writer, entry, lines, open},
};

fn with_keys(dirs: &Dirs, keys: &str) -> Report {
    let codes = Ratchet::read(keys).unwrap();
    verify_with(
        &dirs.log,
        Checks {
            codes,
            ..Checks::default()
        },
    )
}

/// A log of ten records with its first key, which is that of the second record.
fn ten() -> (Dirs, String) {
    let dirs = Dirs::new();
    let mut log = open(dirs.place(u64::MAX)).unwrap();
    let written = log.hand_out_key(Stamp::now()).unwrap();
    for n in 2..=10 {
        log.append(&entry(n), Stamp::now());
    }
    log.seal(Stamp::now()).unwrap();
    drop(log);
    (dirs, written.to_string())
}

/// The keys that are in a copy of the writer's own directory: in every place of the file, and in each of its bytes.
fn keys_on_disk(dirs: &Dirs) -> Vec<u8> {
    fs::read(dirs.state.join(NEXT)).unwrap()
}

#[test]
fn whoever_has_the_first_key_checks_every_code_over_restarts_and_a_crash() {
    let (dirs, keys) = ten();
    dirs.write(11, 20, u64::MAX);
    dirs.own();
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    for n in 31..=40 {
        let _ = client.append(n, true);
    }
    writer.kill();
    dirs.write(41, 5, u64::MAX);
    let report = with_keys(&dirs, &keys);
    assert_eq!(
        (report.state, report.records, report.codes),
        (State::Ok, 45, 44),
        "{report:?}"
    );
}

#[test]
fn keys_of_records_that_are_signed_are_nowhere_any_more() {
    let (dirs, keys) = ten();
    // Every key that has been, as it follows from the first one.
    let mut key = Ratchet::read(&keys).unwrap().remove(0);
    let digits = |key: &Ratchet| {
        let written = key.written();
        hex::decode(written.trim_end().rsplit(':').next().unwrap()).unwrap()
    };
    let disk = keys_on_disk(&dirs);
    let on_disk = |key: &[u8]| disk.windows(32).any(|window| window == key);
    for _ in 2..=10 {
        assert!(!on_disk(&digits(&key)), "key of record {}", key.next());
        key.go_to(key.next() + 1);
    }
    assert!(on_disk(&digits(&key)), "the key of record 11");
}

#[test]
fn history_that_is_signed_anew_with_both_stolen_keys_is_found_by_the_first_key() {
    let (dirs, keys) = ten();
    let key = stolen(&dirs.state);
    signed_anew(&dirs.log, &key, |seq, body, _| {
        Some(match seq {
            4 => body.replace("number 4", "number 5"),
            _ => body.to_owned(),
        })
    });
    assert_eq!(
        verify(&dirs.log, None).state,
        State::Ok,
        "the signatures fit"
    );
    let report = with_keys(&dirs, &keys);
    assert_eq!(
        (report.fault, report.first_bad_seq),
        (Some(Fault::WrongKey), Some(4)),
        "{report:?}"
    );
}

/// Who has the key that signs could end an epoch at any record, and go on with keys of their own that no first key is known of.
#[test]
fn nobody_ends_an_epoch_without_its_key() {
    let (dirs, keys) = ten();
    let key = stolen(&dirs.state);
    let mut own = Ratchet::begin(3, 6).unwrap();
    signed_anew(&dirs.log, &key, |seq, body, prev| {
        let (said, code) = body.split_once(",\"mac\":\"").unwrap();
        let entry = said.find("\"entry\":").unwrap();
        Some(match seq {
            ..5 => body.to_owned(),
            5 => {
                let before = &said[..entry];
                let rest = said.rfind(",\"prev\":").unwrap();
                let keyed = "\"entry\":{\"event\":\"log_keyed\",\"detail\":{\"epoch\":\"3\"}}";
                format!("{before}{keyed}{},\"mac\":\"{code}", &said[rest..])
            }
            _ => {
                let said = said.replace("\"epoch\":2,\"entry\"", "\"epoch\":3,\"entry\"");
                let code = hex::encode(own.code(prev, said.as_bytes()));
                format!("{said},\"mac\":\"{code}\"")
            }
        })
    });
    assert_eq!(
        verify(&dirs.log, None).state,
        State::Ok,
        "the signatures fit"
    );
    let report = with_keys(&dirs, &keys);
    assert_eq!(
        (report.fault, report.first_bad_seq),
        (Some(Fault::WrongKey), Some(5)),
        "{report:?}"
    );
}

#[test]
fn checkpoint_that_was_kept_elsewhere_tells_of_a_history_that_was_signed_anew_and_of_a_cut_end() {
    let (dirs, _) = ten();
    // As the journal has it.
    let told = fs::read_to_string(dirs.log.join(segment::WITNESS)).unwrap();
    let exported = format!(
        "{{\"CHECKPOINT\":{}}}\n",
        serde_json::to_string(told.trim_end()).unwrap()
    );
    let with = |text: &str| {
        let mut checks = Checks::default();
        checks.add_witnesses(text);
        assert_eq!(checks.witnesses.len(), 1, "{text}");
        verify_with(&dirs.log, checks)
    };
    for text in [&told, &exported] {
        let report = with(text);
        assert_eq!(
            (report.state, report.witnesses),
            (State::Ok, 1),
            "{report:?}"
        );
    }
    let good = tempfile::tempdir().unwrap();
    let good = good.path().join("good");
    copy(&dirs.log, &good);
    let key = stolen(&dirs.state);
    signed_anew(&dirs.log, &key, |_, body, _| {
        Some(body.replace("number", "nummer"))
    });
    let report = with(&exported);
    assert_eq!(
        (report.fault, report.first_bad_seq),
        (Some(Fault::Forked), Some(10)),
        "{report:?}"
    );
    copy(&good, &dirs.log);
    signed_anew(&dirs.log, &key, |seq, body, _| {
        (seq < 9).then(|| body.to_owned())
    });
    assert_eq!(
        verify(&dirs.log, None).state,
        State::Ok,
        "a shorter log that fits"
    );
    let report = with(&exported);
    assert_eq!(
        (report.fault, report.first_bad_seq),
        (Some(Fault::Truncated), Some(9)),
        "{report:?}"
    );
}

#[test]
fn another_first_key_is_used_from_its_record_on_and_the_one_before_up_to_it() {
    let (dirs, first) = ten();
    let mut log = open(dirs.place(u64::MAX)).unwrap();
    let second = log.hand_out_key(Stamp::now()).unwrap();
    log.append(&entry(12), Stamp::now());
    log.commit(true, Instant::now()).unwrap();
    drop(log);
    dirs.write(13, 3, u64::MAX);
    let checked = |keys: &str| {
        let report = with_keys(&dirs, keys);
        (report.state, report.codes, report.reason.is_some())
    };
    // The first one is good up to the record that ends its epoch; what is behind is told not to be checked.
    assert_eq!(checked(&first), (State::Unverifiable, 10, true));
    assert_eq!(checked(&second), (State::Ok, 4, false));
    let both = format!("# both\n\n{first}{}", *second);
    assert_eq!(checked(&both), (State::Ok, 14, false));
    // One of a log that is longer, as of another host, has checked nothing.
    let elsewhere = Ratchet::begin(7, 100).unwrap().written();
    assert_eq!(checked(&elsewhere), (State::Unverifiable, 0, true));
    assert_eq!(Ratchet::read("paw-audit-key:1:1:00").err(), Some(1));
    let tail = read::tail(&dirs.log, 10, 1).unwrap();
    assert_eq!(tail[0]["entry"]["event"], "log_keyed");
}

/// The record of a first key is signed before the key of what follows is in its place.
#[test]
fn crash_while_a_first_key_is_handed_out_leaves_a_log_that_goes_on() {
    let (dirs, first) = ten();
    let before = keys_on_disk(&dirs);
    let mut log = open(dirs.place(u64::MAX)).unwrap();
    drop(log.hand_out_key(Stamp::now()).unwrap());
    drop(log);
    fs::write(dirs.state.join(NEXT), before).unwrap();

    for n in [12, 15] {
        dirs.write(n, 3, u64::MAX);
        assert_eq!(verify(&dirs.log, None).state, State::Ok);
    }
    let report = with_keys(&dirs, &first);
    assert_eq!(
        (report.state, report.codes),
        (State::Unverifiable, 10),
        "nobody has the key of what follows: {report:?}"
    );
}

#[test]
fn first_key_is_handed_out_by_the_program_once() {
    let dirs = Dirs::with_log(5, u64::MAX);
    dirs.own();
    let keys = Writer::hand_out_key(&dirs);
    dirs.write(7, 4, u64::MAX);
    let report = with_keys(&dirs, &keys);
    assert_eq!(
        (report.state, report.records, report.codes),
        (State::Ok, 10, 4),
        "{report:?}"
    );
}

/// Whoever can write the log and not the writer's own directory makes records that fit; without a code of theirs they are no part of it.
#[test]
fn forged_end_is_not_adopted_by_the_writer() {
    let (dirs, keys) = ten();
    let mut all = lines(&dirs.segment(1));
    let last = all
        .iter()
        .rfind(|line| crate::forger::seq(line).is_some())
        .unwrap()
        .clone();
    let prev = crate::forger::field(&last, "tag");
    let (line, _) = crate::forger::forged(&last, "\"seq\":10", "\"seq\":11", &prev);
    all.push(line);
    fs::write(dirs.segment(1), all.concat()).unwrap();
    assert_eq!(verify(&dirs.log, None).unsigned, 1, "it fits");
    dirs.write(12, 1, u64::MAX);
    let tail = read::tail(&dirs.log, 10, 1).unwrap();
    assert_eq!(tail[0]["entry"]["event"], "log_recovered");
    assert_eq!(with_keys(&dirs, &keys).state, State::TornTail);
}
