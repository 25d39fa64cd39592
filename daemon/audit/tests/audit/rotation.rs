//! When a segment ends, and when it is removed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use paw_audit::{Fault, State, format::Stamp, read, segment, verify};

use crate::support::{Dirs, entry, open};

const DAY: u64 = 24 * 3600 * 1000;

/// A log into which one record a day is written, for so many days, in segments of a week; returns its last record.
fn days(dirs: &Dirs, count: u64, keep: Option<Duration>) -> u64 {
    let mut place = dirs.place(u64::MAX);
    place.segment_age = Duration::from_secs(7 * 24 * 3600);
    place.keep = keep;
    let now = Stamp::now().utc_ms;
    let mut log = open(place).unwrap();
    for n in 0..count {
        let at = Stamp {
            mono_ns: 1,
            utc_ms: now + n * DAY,
        };
        log.append(&entry(n), at);
        log.seal(at).unwrap();
        // Nothing was written since, so nothing begins either.
        log.seal(at).unwrap();
    }
    log.last()
}

#[test]
fn segment_of_a_week_is_followed_by_another() {
    let dirs = Dirs::new();
    assert_eq!(days(&dirs, 30, None), 30);
    assert_eq!(segment::list(&dirs.log).unwrap(), [1, 2, 3, 4, 5]);
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records),
        (State::Ok, 30),
        "{report:?}"
    );
}

#[test]
fn verification_beside_a_writer_that_removes_old_segments_gives_no_alarm() {
    let dirs = Dirs::new();
    let mut place = dirs.place(2 * 1024);
    place.keep = Some(Duration::ZERO);
    let mut log = open(place).unwrap();
    log.append(&entry(0), Stamp::now());
    log.seal(Stamp::now()).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut removed) = (0, 0);
            while !ended.load(Ordering::Acquire) {
                let report = verify(&dirs.log, None);
                assert!(report.ok, "after {seen}: {report:?}");
                seen += 1;
                removed = report.removed;
            }
            (seen, removed)
        });
        let mut at = Stamp::now();
        for n in 1..1_500 {
            at.utc_ms += 1;
            log.append(&entry(n), at);
            log.seal(at).unwrap();
        }
        ended.store(true, Ordering::Release);
        let (seen, removed) = reader.join().unwrap();
        assert!(seen > 20 && removed > 100, "{seen} {removed}");
    });
}

#[test]
fn files_of_a_copy_that_are_none_of_a_log_are_told_and_not_waited_for() {
    type Make = fn(&Path);
    let made: [(&str, Make); 4] = [
        (segment::WITNESS, |path| symlink("/dev/zero", path).unwrap()),
        (segment::WITNESS, |path| {
            fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
        }),
        ("audit.000001.log", |path| {
            mkfifo(path, Mode::S_IRWXU).unwrap();
        }),
        ("audit.pub", |path| mkfifo(path, Mode::S_IRWXU).unwrap()),
    ];
    for (name, make) in made {
        let dirs = Dirs::with_log(3, u64::MAX);
        let path = dirs.log.join(name);
        fs::remove_file(&path).unwrap();
        make(&path);
        let report = verify(&dirs.log, None);
        assert_eq!(report.state, State::Unverifiable, "{name}: {report:?}");
        assert!(report.reason.unwrap().contains(name), "{name}");
    }
}

#[test]
fn what_is_kept_long_enough_is_removed_with_a_record_and_the_rest_is_verified() {
    let dirs = Dirs::new();
    let last = days(&dirs, 60, Some(Duration::from_secs(15 * 24 * 3600)));
    let numbers = segment::list(&dirs.log).unwrap();
    assert!(numbers[0] > 3 && numbers.len() >= 3, "{numbers:?}");
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.removed + report.records),
        (State::Ok, last),
        "{report:?}"
    );
    let told = read::tail(&dirs.log, 0, 1000).unwrap();
    assert!(
        told.iter()
            .any(|record| record["entry"]["event"] == "log_pruned"),
        "the log says so itself"
    );
    // The chain goes on from what is left, also after another start.
    dirs.write(200, 5, u64::MAX);
    assert_eq!(verify(&dirs.log, None).state, State::Ok);
    // One more than the log says is not kept is missing.
    fs::remove_file(dirs.segment(numbers[0])).unwrap();
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.fault),
        (State::Tampered, Some(Fault::Deleted)),
        "{report:?}"
    );
}

/// A clock that jumps ahead by ten years, for a while, and is set right: what is kept is what was kept without that, but for a week, and
/// afterwards no more is kept than before.
#[test]
fn clock_that_jumps_years_ahead_and_back_removes_nothing_and_retention_goes_on() {
    let dirs = Dirs::new();
    let mut place = dirs.place(u64::MAX);
    place.segment_age = Duration::from_secs(7 * 24 * 3600);
    place.keep = Some(Duration::from_secs(60 * 24 * 3600));
    let begin = Stamp::now().utc_ms;
    let mut log = open(place).unwrap();
    let mut n = 0;
    let mut write = |log: &mut crate::support::Opened, day: u64| {
        n += 1;
        let at = Stamp {
            mono_ns: 1,
            utc_ms: begin + day * DAY,
        };
        log.append(&entry(n), at);
        log.seal(at).unwrap();
    };
    for day in 0..50 {
        write(&mut log, day);
    }
    let before = segment::list(&dirs.log).unwrap();
    assert_eq!(before[0], 1);
    for jump in 0..3 {
        for day in 0..5 {
            write(&mut log, 3650 + jump * 3 + day);
        }
        write(&mut log, 50 + jump);
        let now = segment::list(&dirs.log).unwrap();
        assert!(now.starts_with(&before), "{now:?} after {before:?}");
    }
    for day in 53..200 {
        write(&mut log, day);
    }
    let numbers = segment::list(&dirs.log).unwrap();
    assert!(numbers[0] > before[before.len() - 1], "{numbers:?}");
    let kept = numbers.len();
    assert!((9..=12).contains(&kept), "{numbers:?}");
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.removed + report.records),
        (State::Ok, log.last()),
        "{report:?}"
    );
}
