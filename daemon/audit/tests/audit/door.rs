//! Who may append, and what happens to those who ask badly.

use paw_api::audit::{Answer, Append, Entry, Event, MAX_LINE, MAX_UNANSWERED, RefuseReason};
use paw_audit::{State, verify};

use crate::support::{Client, Dirs, Writer, audit_seq, lines, my_uid};

#[test]
fn peer_of_another_user_is_refused() {
    let dirs = Dirs::new();
    let _writer = Writer::start_for(&dirs, my_uid() + 12_345);
    let mut client = Client::connect(&dirs);
    assert!(client.answer().is_none(), "closed without a word");
    assert_eq!(verify(&dirs.log, None).records, 0);
}

#[test]
fn second_instance_is_refused_and_the_first_goes_on() {
    let dirs = Dirs::new();
    let _first = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    client.append(1, true);
    let mut second = Writer::start(&dirs);
    let (status, said) = second.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("another writer"), "{said}");
    assert_eq!(audit_seq(&client.append(2, true)), 2);
}

#[test]
fn bad_line_is_refused_and_only_its_connection_closed() {
    let forged = Append {
        seq: 9,
        durable: true,
        record: Entry::new(Event::LogRecovered),
    };
    let long = format!("{{\"seq\":1,\"detail\":\"{}\"}}\n", "x".repeat(MAX_LINE));
    let endless = "x".repeat(3 * MAX_LINE);
    let check = |line: &[u8], reason: RefuseReason, seq: Option<u64>| {
        let dirs = Dirs::new();
        let writer = Writer::start(&dirs);
        let mut other = Client::connect(&dirs);
        let mut client = Client::connect(&dirs);
        client.ask(1, false);
        client.send(line);
        assert_eq!(
            audit_seq(&client.answer().unwrap()),
            1,
            "what came before it is answered"
        );
        match client.answer() {
            Some(Answer::Refused(refused)) => {
                assert_eq!((refused.reason, refused.seq), (reason, seq), "{refused:?}");
                assert!(!refused.message.is_empty() && !refused.remedy.is_empty());
            }
            answer => panic!("{answer:?}"),
        }
        assert!(client.answer().is_none(), "closed");
        assert_eq!(audit_seq(&other.append(2, true)), 2);
        assert!(writer.terminate().0.success());
        assert_eq!(verify(&dirs.log, None).state, State::Ok);
    };
    check(b"not a request\n", RefuseReason::Malformed, None);
    check(b"\n", RefuseReason::Malformed, None);
    check(
        b"{\"seq\":1,\"durable\":true,\"record\":{\"event\":\"unheard_of\"}}\n",
        RefuseReason::Malformed,
        None,
    );
    check(
        b"{\"seq\":1,\"durable\":true,\"record\":{\"event\":\"rpc_denied\"},\"uid\":0}\n",
        RefuseReason::Malformed,
        None,
    );
    check(b"\xff\xfe\n", RefuseReason::Malformed, None);
    check(
        &[serde_json::to_vec(&forged).unwrap(), b"\n".to_vec()].concat(),
        RefuseReason::Malformed,
        Some(9),
    );
    check(long.as_bytes(), RefuseReason::TooLong, None);
    check(endless.as_bytes(), RefuseReason::TooLong, None);
}

#[test]
fn longest_line_is_written_and_verified() {
    let dirs = Dirs::new();
    let writer = Writer::start(&dirs);
    let mut append = Append {
        seq: 1,
        durable: true,
        record: Entry::new(Event::RpcDenied),
    };
    append.record.detail.insert("text".into(), String::new());
    let room = MAX_LINE - 1 - serde_json::to_vec(&append).unwrap().len();
    append.record.detail.insert("text".into(), "x".repeat(room));
    let mut client = Client::connect(&dirs);
    client.send(&[serde_json::to_vec(&append).unwrap(), b"\n".to_vec()].concat());
    assert_eq!(audit_seq(&client.answer().unwrap()), 1);
    assert!(writer.terminate().0.success());
    assert_eq!(verify(&dirs.log, None).records, 1);
    assert_eq!(paw_audit::read::tail(&dirs.log, 0, 5).unwrap().len(), 1);
}

#[test]
fn answers_come_in_order_and_none_is_missing() {
    let dirs = Dirs::new();
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    let mut answered = 0;
    for n in 1..=2000_u64 {
        client.ask(n, n % 100 == 0);
        // Never more than the bound unanswered, as the words demand.
        if n - answered >= MAX_UNANSWERED as u64 {
            answered += 1;
            assert_eq!(audit_seq(&client.answer().unwrap()), answered);
        }
    }
    while answered < 2000 {
        answered += 1;
        assert_eq!(audit_seq(&client.answer().unwrap()), answered);
    }
    assert!(writer.terminate().0.success());
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records),
        (State::Ok, 2000),
        "{report:?}"
    );
}

/// Whoever cuts the end of the log off loses no more than what was not signed yet: 256 records, however fast they come.
#[test]
fn no_more_than_256_records_in_a_row_are_unsigned() {
    let dirs = Dirs::new();
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    let quick = |client: &mut Client, first: u64| {
        (first..first + 128).for_each(|n| client.ask(n, false));
        (0..128).for_each(|_| drop(client.answer().unwrap()));
    };
    (0..8).for_each(|round| quick(&mut client, 1 + round * 128));
    assert!(writer.terminate().0.success());
    let (mut unsigned, mut most, mut signed) = (0, 0, 0);
    for line in lines(&dirs.segment(1)) {
        if line.starts_with(b"{\"checkpoint\":") {
            (unsigned, signed) = (0, signed + 1);
        } else {
            unsigned += 1;
            most = unsigned.max(most);
        }
    }
    assert!(most <= 256 && signed >= 1024 / 256, "{most} {signed}");
    let report = verify(&dirs.log, None);
    assert_eq!((report.state, report.records), (State::Ok, 1024));
}

/// Nor is what comes alone unsigned for long: nothing has to follow it, and nobody has to stop the writer.
#[test]
fn record_that_nothing_follows_is_signed_all_the_same() {
    let dirs = Dirs::new();
    let _writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    client.append(1, false);
    assert_eq!(client.signed().seq, 1);
}

#[test]
fn client_that_takes_no_answers_holds_up_nobody() {
    let dirs = Dirs::new();
    let _writer = Writer::start(&dirs);
    let mut silent = Client::connect(&dirs);
    for n in 1..=MAX_UNANSWERED as u64 {
        silent.ask(n, false);
    }
    let mut other = Client::connect(&dirs);
    for n in 1..=20 {
        audit_seq(&other.append(n, true));
    }
    for _ in 0..MAX_UNANSWERED {
        audit_seq(&silent.answer().unwrap());
    }
}
