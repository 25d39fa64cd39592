//! A disk that cannot take any more.

use std::{fs, io::Write as _, path::PathBuf, process::Command};

use paw_api::audit::{Answer, RefuseReason};
use paw_audit::{State, verify};

use crate::support::{Client, Dirs, Writer, apart, audit_seq, my_uid};

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
                .args(["-t", "tmpfs", "-o", "size=1M,mode=0777", "paw-audit-test"])
                .arg(&dirs.log)
                .status()
        })
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!(
            "SKIPPED full_disk: a tmpfs cannot be mounted here (it needs root and CAP_SYS_ADMIN)"
        );
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
    let mut stored = 1;
    while let Answer::Appended(_) = client.append(stored + 1, true) {
        stored += 1;
        assert!(stored < 10_000, "the disk never became full");
    }
    fs::remove_file(&ballast).unwrap();
    assert_eq!(audit_seq(&client.append(9, true)), stored + 1);
    let (status, said) = writer.terminate();
    assert!(status.success(), "{said}");
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records),
        (State::Ok, stored + 1),
        "{report:?}"
    );
}

#[test]
fn full_disk_refuses_with_its_reason_and_heals_without_a_restart() {
    let dirs = Dirs::new();
    let Some(_mounted) = small(&dirs) else { return };
    let writer = Writer::start(&dirs);
    let mut client = Client::connect(&dirs);
    assert_eq!(audit_seq(&client.append(1, true)), 1);
    let ballast = ballast(&dirs);

    let mut stored = 1;
    let refused = loop {
        match client.append(stored + 1, stored % 2 == 0) {
            Answer::Appended(appended) => {
                stored += 1;
                assert_eq!(appended.audit_seq, stored);
            }
            Answer::Refused(refused) => break refused,
            other @ (Answer::Hello(_) | Answer::Signed(_)) => panic!("no answer: {other:?}"),
        }
        assert!(stored < 10_000, "the disk never became full");
    };
    assert_eq!(
        (refused.reason, refused.seq),
        (RefuseReason::Full, Some(stored + 1)),
        "{refused:?}"
    );
    assert!(refused.remedy.contains("free space"), "{refused:?}");
    assert!(
        matches!(client.append(7, true), Answer::Refused(_)),
        "still full"
    );

    fs::remove_file(&ballast).unwrap();
    assert_eq!(
        audit_seq(&client.append(8, true)),
        stored + 1,
        "the number of a refused record is given again"
    );
    let (status, said) = writer.terminate();
    assert!(status.success(), "{said}");
    let report = verify(&dirs.log, None);
    assert_eq!(
        (report.state, report.records),
        (State::Ok, stored + 1),
        "{report:?}"
    );
}
