//! What an answer is worth when the writer dies.

use std::{fs, io::Write as _};

use paw_audit::{State, read, verify};
use serde_json::Value;

use crate::support::{Client, Dirs, Writer, audit_seq};

#[test]
fn durable_record_is_in_the_file_before_its_answer() {
    let dirs = Dirs::new();
    let _writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    for n in 1..=20 {
        let answer = client.append(n, true);
        let text = fs::read_to_string(dirs.segment(1)).unwrap();
        assert!(
            text.contains(&format!("\"seq\":{},", audit_seq(&answer))),
            "record {n}"
        );
        assert!(text.contains(&format!("number {n} ")), "record {n}");
    }
}

#[test]
fn killed_writer_loses_no_answered_record() {
    let dirs = Dirs::new();
    let mut last = 0;
    for round in 0..20_u64 {
        let writer = Writer::start(&dirs);
        let mut client = Client::connect(&dirs);
        for n in 1..=64 {
            client.ask(n, n % 5 == 0);
        }
        for _ in 0..=(round * 3) {
            let seq = audit_seq(&client.answer().unwrap());
            assert!(seq > last, "round {round}: number {seq} was given twice");
            last = seq;
        }
        writer.kill();
        let report = verify(&dirs.log, None);
        assert!(
            report.ok && report.records >= last,
            "round {round}: {last} answered, {report:?}"
        );
        last = report.records;
    }
}

#[test]
fn half_written_record_is_dropped_and_the_log_says_so() {
    let dirs = Dirs::with_log(10, u64::MAX);
    let torn = b"{\"v\":1,\"seq\":11,\"boot_id\":\"0000";
    fs::OpenOptions::new()
        .append(true)
        .open(dirs.segment(1))
        .unwrap()
        .write_all(torn)
        .unwrap();
    dirs.own();
    let writer = Writer::start(&dirs);
    assert_eq!(audit_seq(&Client::connect(&dirs).append(1, true)), 12);
    let (status, said) = writer.terminate();
    assert!(status.success(), "{said}");
    let records = read::tail(&dirs.log, 10, 10).unwrap();
    let entry = &records[0]["entry"];
    assert_eq!(entry["event"], "log_recovered");
    assert_eq!(
        entry["detail"]["dropped_bytes"],
        Value::from(torn.len().to_string())
    );
    assert_eq!(entry["detail"]["after_record"], "10");
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.recovered, report.records),
        (State::TornTail, 1, 12),
        "{report:?}"
    );
}

#[test]
fn segment_that_was_just_begun_is_begun_again() {
    let dirs = Dirs::with_log(10, u64::MAX);
    fs::write(dirs.segment(2), b"{\"checkpoint\":{\"v\":1,").unwrap();
    assert_eq!(verify(&dirs.log, None).state, State::TornTail);
    dirs.own();
    let writer = Writer::start(&dirs);
    assert_eq!(audit_seq(&Client::connect(&dirs).append(1, true)), 12);
    assert!(writer.terminate().0.success());
    assert!(!dirs.segment(2).exists());
    assert!(verify(&dirs.log, None).ok);
}

#[test]
fn told_to_stop_it_signs_everything_and_ends_well() {
    for how in [Writer::terminate, Writer::cut_lifeline] {
        let dirs = Dirs::new();
        let writer = Writer::start(&dirs);
        let mut client = Client::connect(&dirs);
        assert_eq!(audit_seq(&client.append(1, false)), 1);
        let (status, said) = how(writer);
        assert_eq!(status.code(), Some(0), "{said}");
        let report = verify(&dirs.log, None);
        assert_eq!(
            (report.state, report.records, report.unsigned),
            (State::Ok, 1, 0),
            "{report:?}"
        );
    }
}
