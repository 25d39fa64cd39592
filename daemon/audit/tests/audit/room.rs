//! A disk that cannot take any more.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use paw_api::audit::{Answer, Append, Entry, Event, RefuseReason};
use paw_audit::{State, format::Stamp, room::RESERVE, segment, verify};

use crate::support::{Client, Dirs, Writer, apart, audit_seq, entry, my_uid, open};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A small file system over a directory, gone with this value.
struct Mounted<'a>(&'a std::path::Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let _ = apart(|| umount.arg("-l").arg(self.0).status());
    }
}

/// A small file system over the log's directory, where one can be mounted.
fn small(dirs: &Dirs) -> Option<Mounted<'_>> {
    let mounted = my_uid() == 0
        && apart(|| {
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=4M,mode=0777", "paw-audit-test"])
                .arg(&dirs.log)
                .status()
        })
        .is_ok_and(|status| status.success());
    if !mounted {
        // Past what the test runner keeps of a test that passes.
        let said = "skipped: a disk that is full: mounting one needs root and CAP_SYS_ADMIN\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    mounted.then(|| Mounted(&dirs.log))
}

/// Takes what room there is, until the file is removed.
fn ballast(dirs: &Dirs) -> PathBuf {
    let path = dirs.log.join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    path
}

/// The writer stops, and leaves a whole log of so many records.
fn ends_whole(writer: Writer, dirs: &Dirs, records: u64) {
    let (status, said) = writer.terminate();
    assert!(status.success(), "{said}");
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records),
        (State::Ok, records),
        "{report:?}"
    );
}

#[test]
fn writer_starts_and_stops_on_a_full_disk_and_heals_without_another_start() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let writer = Writer::start(&dirs);
    assert_eq!(audit_seq(&Client::connect(&dirs).append(1, true)), 1);
    let ballast = ballast(&dirs);
    let (status, said) = writer.terminate();
    assert!(status.success(), "{said}");

    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    let stored = 1 + fill(&mut client);
    fs::remove_file(&ballast).unwrap();
    assert_eq!(audit_seq(&client.append(9, true)), stored + 1);
    ends_whole(writer, &dirs, stored + 1);
}

/// The number of a request with which something begins, and with which something ends.
const BEGINS: u64 = 1;
const ENDS: u64 = 3;

/// Has things begin until one of them is refused for want of room; how many were on record.
fn fill(client: &mut Client) -> u64 {
    for stored in 0..10_000 {
        match client.append(BEGINS, true) {
            Answer::Appended(appended) => assert!(!appended.full),
            Answer::Refused(refused) => {
                assert_eq!(
                    (refused.reason, refused.seq),
                    (RefuseReason::Full, Some(BEGINS)),
                    "{refused:?}"
                );
                assert!(refused.remedy.contains("free space"), "{refused:?}");
                return stored;
            }
            other @ (Answer::Hello(_) | Answer::Signed(_) | Answer::Room) => {
                panic!("no answer: {other:?}")
            }
        }
    }
    panic!("the disk never became full");
}

fn is_refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused(refused) if refused.reason == RefuseReason::Full)
}

/// Whether it is on record, on a disk that is full.
fn is_kept(answer: &Answer) -> bool {
    matches!(answer, Answer::Appended(appended) if appended.full)
}

#[test]
fn full_disk_refuses_with_its_reason_and_heals_without_a_restart() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(audit_seq(&client.append(1, true)), 1);
    let ballast = ballast(&dirs);
    let stored = 1 + fill(&mut client);
    assert!(is_refused(&client.append(BEGINS, true)), "still full");
    fs::remove_file(&ballast).unwrap();
    assert_eq!(
        audit_seq(&client.append(8, true)),
        stored + 1,
        "the number of a refused record is given again"
    );
    ends_whole(writer, &dirs, stored + 1);
}

/// Whoever waits for room need not try with a record.
#[test]
fn disk_that_has_room_again_is_told_of_without_another_record() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(audit_seq(&client.append(BEGINS, true)), 1);
    let ballast = ballast(&dirs);
    let stored = 1 + fill(&mut client);
    fs::remove_file(&ballast).unwrap();
    while client.news() != Answer::Room {}
    assert_eq!(audit_seq(&client.append(BEGINS, true)), stored + 1);
    ends_whole(writer, &dirs, stored + 1);
}

#[test]
fn what_is_not_kept_any_longer_makes_room_on_a_full_disk() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let mut place = dirs.place(u64::MAX);
    (place.segment_age, place.keep) = (7 * DAY, Some(14 * DAY));
    let now = Stamp::now();
    let after = |days: u32| Stamp {
        utc_ms: now.utc_ms + u64::try_from((days * DAY).as_millis()).unwrap(),
        ..now
    };
    let mut log = open(place).unwrap();
    // Longer than what the next segment takes.
    for n in 0..2_800 {
        log.append(&entry(n), after(0));
    }
    log.seal(after(0)).unwrap();
    assert!(fs::metadata(dirs.segment(1)).unwrap().len() > RESERVE);
    for (n, day) in [(2_800, 8), (2_801, 16)] {
        log.append(&entry(n), after(day));
        log.seal(after(day)).unwrap();
    }
    assert_eq!(segment::list(&dirs.log).unwrap(), [1, 2, 3]);
    let _full = ballast(&dirs);
    log.append(&entry(2_802), after(24));
    log.seal(after(24)).unwrap_err();
    assert_eq!(segment::list(&dirs.log).unwrap(), [2, 3]);
    log.seal(after(24)).unwrap();
    assert_eq!(segment::list(&dirs.log).unwrap(), [2, 3, 4]);
    drop(log);
    let report = verify(&dirs.log, None);
    assert_eq!(report.state, State::Ok, "{report:?}");
}

#[test]
fn next_segment_that_finds_no_room_takes_nothing_of_what_is_kept_for_what_ends() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let mut place = dirs.place(u64::MAX);
    place.segment_age = 7 * DAY;
    let mut log = open(place).unwrap();
    let now = Stamp::now();
    log.append(&entry(BEGINS), now);
    log.seal(now).unwrap();
    let _full = ballast(&dirs);
    let begins = entry(BEGINS);
    while log.admit(&begins, 512, true).is_ok() {
        log.append(&begins, now);
        log.commit(false, Instant::now()).unwrap();
    }
    let later = Stamp {
        utc_ms: now.utc_ms + u64::try_from((8 * DAY).as_millis()).unwrap(),
        ..now
    };
    log.seal(later).unwrap_err();
    assert_eq!(segment::list(&dirs.log).unwrap(), [1]);
    for _ in 0..300 {
        log.admit(&entry(ENDS), 512, true).unwrap();
        log.append(&entry(ENDS), later);
        log.commit(false, Instant::now()).unwrap();
    }
    log.admit(&begins, 512, true).unwrap_err();
}

#[test]
fn full_disk_takes_what_ended_and_was_denied_and_begins_nothing_until_there_is_really_room() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(audit_seq(&client.append(BEGINS, true)), 1);
    let ballast = ballast(&dirs);
    let mut stored = 1 + fill(&mut client);
    for _ in 0..100 {
        assert!(is_kept(&client.append(ENDS, true)));
        assert!(is_refused(&client.append(BEGINS, true)));
        // Who does not wait for it may have begun already.
        assert!(is_kept(&client.append(BEGINS, false)));
        stored += 2;
    }
    // Room for some records, and not for long.
    let file = fs::OpenOptions::new().write(true).open(&ballast).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 64 * 1024).unwrap();
    drop(file);
    assert!(is_refused(&client.append(BEGINS, true)), "hardly any room");
    // A flood of denials leaves room for what ends.
    let mut deny = || {
        let line = serde_json::to_string(&Append {
            seq: 1,
            durable: true,
            record: Entry::new(Event::RpcDenied),
        });
        client.send(format!("{}\n", line.unwrap()).as_bytes());
        client.answer().expect("an answer")
    };
    let denied = (0..10_000).take_while(|_| is_kept(&deny())).count() as u64;
    let ended = (0..10_000)
        .take_while(|_| is_kept(&client.append(ENDS, true)))
        .count() as u64;
    assert!(denied > 100 && ended > 300, "{denied}, {ended}");
    assert!(is_refused(&client.append(ENDS, true)), "all of it is used");
    stored += denied + ended;
    fs::remove_file(&ballast).unwrap();
    let begun = client.append(BEGINS, true);
    assert!(!is_kept(&begun) && audit_seq(&begun) == stored + 1);
    ends_whole(writer, &dirs, stored + 1);
}

#[test]
fn what_is_kept_for_a_full_disk_outlives_the_writer() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(audit_seq(&client.append(BEGINS, true)), 1);
    let _ballast = ballast(&dirs);
    fill(&mut client);
    writer.kill();
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    for _ in 0..300 {
        assert!(is_kept(&client.append(ENDS, true)));
    }
    assert!(is_refused(&client.append(BEGINS, true)));
    let (status, said) = writer.terminate();
    assert!(status.success(), "{said}");
    assert_eq!(verify(&dirs.log, None).state, State::Ok);
}
