//! What a run can leave, and that it is shown, committed, discarded and undone exactly.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and one that cannot run says why"
)]

mod rig;

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, os::unix::fs::MetadataExt, path::Path};

use paw_launch::workspace::{Answer, Change, Order, Settle, Why};
use paw_workspace::{
    beneath::Dir,
    copy::{Copied, Way},
};
use proptest::prelude::*;

use crate::rig::{BOUNDS, Rig, fifo, id, link, mode, opaque, state, whiteout};

fn short(change: &Change) -> String {
    let side = |thing: &Option<paw_launch::workspace::Thing>| {
        thing.as_ref().map_or("-".to_owned(), |thing| {
            format!("{:?} {:o} {}", thing.kind, thing.mode, thing.size)
        })
    };
    format!(
        "{}: {} => {}",
        change.path,
        side(&change.old),
        side(&change.new)
    )
}

#[test]
fn every_kind_of_change_is_shown_and_nothing_else() {
    let rig = Rig::new(&[
        ("same", "same"),
        ("text", "one\ntwo\nthree\n"),
        ("mode", "m"),
        ("gone", "gone"),
        ("dir/a", "a"),
        ("dir/b", "b"),
        ("old/deep/c", "c"),
        ("swap", "file"),
        ("new-dir/x", "x"),
    ]);
    let upper = rig.upper();
    fs::write(upper.join("same"), "same").unwrap();
    mode(&upper.join("same"), 0o644);
    fs::write(upper.join("text"), "one\n2\nthree\n").unwrap();
    mode(&upper.join("text"), 0o644);
    fs::write(upper.join("mode"), "m").unwrap();
    mode(&upper.join("mode"), 0o755);
    whiteout(&upper.join("gone"));
    whiteout(&upper.join("old"));
    opaque(&upper.join("dir"));
    mode(&upper.join("dir"), 0o755);
    fs::write(upper.join("dir/b"), "B").unwrap();
    mode(&upper.join("dir/b"), 0o644);
    fs::create_dir(upper.join("swap")).unwrap();
    mode(&upper.join("swap"), 0o750);
    fs::write(upper.join("new-dir"), "now a file").unwrap();
    mode(&upper.join("new-dir"), 0o600);
    link(&upper.join("link"), "../../etc/passwd");
    rig.stage(1, &upper);

    let diff = rig.diff(1);
    let shown: Vec<String> = diff.changes.iter().map(short).collect();
    assert_eq!(
        shown,
        [
            "dir/a: File 644 1 => -",
            "dir/b: File 644 1 => File 644 1",
            "gone: File 644 4 => -",
            "link: - => Link 777 0",
            "mode: File 644 1 => File 755 1",
            "new-dir: Directory 755 0 => File 600 10",
            "new-dir/x: File 644 1 => -",
            "old: Directory 755 0 => -",
            "old/deep: Directory 755 0 => -",
            "old/deep/c: File 644 1 => -",
            "swap: File 644 4 => Directory 750 0",
            "text: File 644 14 => File 644 12",
        ]
    );
    let text = diff.changes.last().unwrap().text.as_deref().unwrap();
    assert_eq!(text, "@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
}

#[test]
fn commit_applies_exactly_what_was_shown() {
    let rig = Rig::new(&[("keep", "k"), ("text", "old"), ("d/x", "x"), ("d/y", "y")]);
    let upper = rig.upper();
    fs::write(upper.join("text"), "new").unwrap();
    mode(&upper.join("text"), 0o640);
    whiteout(&upper.join("d"));
    fs::create_dir_all(upper.join("e/f")).unwrap();
    mode(&upper.join("e"), 0o700);
    mode(&upper.join("e/f"), 0o700);
    link(&upper.join("e/f/l"), "/absolute");
    rig.stage(1, &upper);
    rig.commit(1).unwrap();
    let expected = [
        ("e", 0o700, "/"),
        ("e/f", 0o700, "/"),
        ("e/f/l", 0, "-> /absolute"),
        ("keep", 0o644, "k"),
        ("text", 0o640, "new"),
    ];
    let expected = expected.map(|(path, mode, text)| (path.to_owned(), mode, text.to_owned()));
    assert_eq!(rig.state(), expected);
    assert!(!rig.root().join("pending").join(id(1).as_str()).exists());
}

#[test]
fn digest_that_was_not_shown_commits_nothing() {
    let rig = Rig::new(&[("a", "1")]);
    rig.stage_file(1, "a", "2");
    let shown = rig.diff(1).digest;
    // The same run id with other content, after it was shown.
    rig.order(Order::Discard { layer: id(1) });
    rig.stage_file(1, "a", "3");
    let before = rig.state();
    let answer = rig.order(Order::Commit {
        layer: id(1),
        digest: shown,
    });
    assert!(matches!(answer, Answer::Refused(refused) if refused.why == Why::Changed));
    assert_eq!(rig.state(), before);
}

#[test]
fn content_that_was_changed_after_it_was_shown_is_not_committed() {
    let rig = Rig::new(&[("a", "1")]);
    rig.stage_file(1, "a", "2");
    let content = rig
        .root()
        .join("pending")
        .join(id(1).as_str())
        .join("new/0");
    fs::write(content, "evil").unwrap();
    assert_eq!(rig.commit(1).unwrap_err().why, Why::Changed);
    assert_eq!(rig.state()[0].2, "1");
}

#[test]
fn workspace_that_changed_meanwhile_is_a_conflict_that_names_the_file() {
    let rig = Rig::new(&[("a", "1"), ("b", "1")]);
    rig.stage_file(1, "a", "one");
    rig.stage_file(2, "a", "two");
    rig.stage_file(3, "b", "three");
    rig.commit(1).unwrap();
    assert_eq!(rig.diff(2).conflicts, ["a"]);
    let refused = rig.commit(2).unwrap_err();
    assert_eq!(refused.why, Why::Conflict);
    assert!(refused.message.contains(": a"), "{}", refused.message);
    // What does not touch it is none.
    rig.commit(3).unwrap();
}

#[test]
fn directory_in_which_something_new_stands_is_not_removed() {
    let rig = Rig::new(&[("d/x", "x")]);
    let upper = rig.upper();
    whiteout(&upper.join("d"));
    rig.stage(1, &upper);
    let upper = rig.upper();
    fs::create_dir(upper.join("d")).unwrap();
    mode(&upper.join("d"), 0o755);
    fs::write(upper.join("d/new"), "n").unwrap();
    rig.stage(2, &upper);
    rig.commit(2).unwrap();
    let before = rig.state();
    assert_eq!(rig.commit(1).unwrap_err().why, Why::Conflict);
    assert_eq!(rig.state(), before);
}

#[test]
fn symlinks_are_kept_and_never_followed() {
    let rig = Rig::new(&[("d/secret", "s")]);
    let outside = rig.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "v").unwrap();
    // A directory becomes a link that leads out, and another run wrote through the directory of that name.
    let through = rig.upper();
    fs::create_dir(through.join("d")).unwrap();
    mode(&through.join("d"), 0o755);
    fs::write(through.join("d/victim"), "hit").unwrap();
    rig.stage(1, &through);
    let upper = rig.upper();
    link(&upper.join("d"), outside.to_str().unwrap());
    rig.stage(2, &upper);
    rig.commit(2).unwrap();
    assert_eq!(rig.commit(1).unwrap_err().why, Why::Conflict);
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "v");
    assert_eq!(fs::read_link(rig.files().join("d")).unwrap(), outside);
}

#[test]
fn second_names_of_a_file_become_files_of_their_own() {
    let rig = Rig::new(&[]);
    let upper = rig.upper();
    fs::write(upper.join("one"), "x").unwrap();
    fs::hard_link(upper.join("one"), upper.join("two")).unwrap();
    rig.stage(1, &upper);
    rig.commit(1).unwrap();
    let inode = |name| fs::metadata(rig.files().join(name)).unwrap().ino();
    assert_ne!(inode("one"), inode("two"));
    assert_ne!(inode("one"), fs::metadata(upper.join("one")).unwrap().ino());
}

#[test]
fn set_uid_bits_do_not_come_along() {
    let rig = Rig::new(&[]);
    let upper = rig.upper();
    fs::write(upper.join("su"), "x").unwrap();
    mode(&upper.join("su"), 0o6755);
    fs::create_dir(upper.join("sticky")).unwrap();
    mode(&upper.join("sticky"), 0o7777);
    rig.stage(1, &upper);
    rig.commit(1).unwrap();
    let modes: Vec<u32> = rig.state().iter().map(|(_, mode, _)| *mode).collect();
    assert_eq!(modes, [0o777, 0o755]);
}

#[test]
fn pipes_sockets_and_devices_are_left_out_and_named() {
    let rig = Rig::new(&[("was", "w")]);
    let upper = rig.upper();
    fifo(&upper.join("pipe"));
    fifo(&upper.join("was"));
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    fs::write(upper.join("file"), "f").unwrap();
    let settled = rig.stage(1, &upper);
    let named: Vec<&str> = settled.left_out.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(named, ["pipe", "socket", "was"]);
    rig.commit(1).unwrap();
    assert_eq!(rig.state().len(), 2, "{:?}", rig.state());
}

#[test]
fn hostile_names_are_escaped_where_they_are_shown_and_kept_as_they_are() {
    let rig = Rig::new(&[]);
    let upper = rig.upper();
    let names: [&[u8]; 5] = [
        b"a\nb",
        b"\x1b[31mred",
        b"\xff\xfe",
        "\u{202e}gpj.exe".as_bytes(),
        b"-rf",
    ];
    for name in names {
        fs::write(upper.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    rig.stage(1, &upper);
    let json = serde_json::to_string(&rig.diff(1)).unwrap();
    assert!(!json.chars().any(|c| c.is_control() || c == '\u{202e}'));
    rig.commit(1).unwrap();
    for name in names {
        assert!(rig.files().join(OsStr::from_bytes(name)).exists());
    }
}

#[test]
fn text_of_a_difference_cannot_move_the_terminal() {
    let rig = Rig::new(&[("a", "plain\n")]);
    rig.stage_file(1, "a", "\x1b[2J\u{202e}evil\r\u{9b}31m\n");
    let diff = rig.diff(1);
    let text = diff.changes[0].text.as_deref().unwrap();
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
    assert!(!text.contains('\u{202e}'));
}

#[test]
fn binary_files_are_said_to_be_binary() {
    let rig = Rig::new(&[]);
    rig.stage_file(1, "a", "x\0y");
    let change = &rig.diff(1).changes[0];
    assert_eq!(
        (change.text.as_deref(), change.note.as_deref()),
        (None, Some("binary"))
    );
}

#[test]
fn path_beyond_the_bounds_is_left_out() {
    let rig = Rig::new(&[]);
    let upper = rig.upper();
    let mut deep = upper.clone();
    for _ in 0..40 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(upper.join("ok"), "x").unwrap();
    let settled = rig.stage(1, &upper);
    assert_eq!(settled.left_out.len(), 1);
    rig.commit(1).unwrap();
    assert!(rig.files().join("ok").exists());
}

#[test]
fn more_than_the_bounds_is_refused_as_a_whole() {
    let check = |fill: &dyn Fn(&Path)| {
        let rig = Rig::new(&[("a", "1")]);
        let upper = rig.upper();
        fs::write(upper.join("first"), "x").unwrap();
        fill(&upper);
        let answer = rig.collect(1, &upper, true);
        assert!(
            matches!(&answer, Answer::Refused(refused) if refused.why == Why::TooMuch),
            "{answer:?}"
        );
        assert_eq!(rig.state().len(), 1);
        assert_eq!(fs::read_dir(rig.root().join("pending")).unwrap().count(), 0);
    };
    // A file with holes takes no room where the run wrote it.
    check(&|upper| {
        let file = fs::File::create(upper.join("holes")).unwrap();
        file.set_len(1 << 40).unwrap();
    });
    // Nor do second names.
    check(&|upper| {
        fs::write(upper.join("big"), vec![1; 600_000]).unwrap();
        fs::hard_link(upper.join("big"), upper.join("again")).unwrap();
    });
    check(&|upper| {
        for number in 0..BOUNDS.files {
            fs::write(upper.join(number.to_string()), "").unwrap();
        }
    });
}

#[test]
fn workspace_does_not_grow_beyond_its_bounds() {
    let rig = Rig::new(&[]);
    for number in 1..3 {
        let upper = rig.upper();
        fs::write(upper.join(number.to_string()), vec![0; 600_000]).unwrap();
        rig.stage(number, &upper);
        assert_eq!(rig.commit(number).is_ok(), number == 1);
    }
    assert_eq!(rig.state().len(), 1);
}

#[test]
fn oldest_pending_layers_make_room_and_are_never_applied() {
    let mut rig = Rig::new(&[]);
    for number in 1..=6 {
        rig.now_ms = number;
        let upper = rig.upper();
        fs::write(upper.join(number.to_string()), "x").unwrap();
        let settled = rig.stage(number, &upper);
        let expected = if number > 4 {
            vec![id(number - 4)]
        } else {
            vec![]
        };
        assert_eq!(settled.dropped, expected);
    }
    // Too old is gone, too.
    rig.now_ms = 2_000_000;
    let upper = rig.upper();
    fs::write(upper.join("late"), "x").unwrap();
    assert_eq!(rig.stage(7, &upper).dropped.len(), 4);
    assert!(rig.state().is_empty());
}

#[test]
fn nothing_changed_is_nothing_pending() {
    let rig = Rig::new(&[("a", "1")]);
    let upper = rig.upper();
    fs::write(upper.join("a"), "1").unwrap();
    mode(&upper.join("a"), 0o644);
    assert_eq!(rig.stage(1, &upper).then, Settle::Discard);
    assert!(matches!(rig.order(Order::List), Answer::List(list) if list.pending.is_empty()));
}

#[test]
fn discarded_is_gone() {
    let rig = Rig::new(&[("a", "1")]);
    rig.stage_file(1, "a", "2");
    assert_eq!(
        rig.order(Order::Discard { layer: id(1) }),
        Answer::Discarded { changes: 1 }
    );
    assert_eq!(rig.state()[0].2, "1");
    let again = rig.order(Order::Discard { layer: id(1) });
    assert!(matches!(again, Answer::Refused(refused) if refused.why == Why::NotFound));
}

#[test]
fn undo_takes_back_the_last_commits_in_turn() {
    let rig = Rig::new(&[("a", "0"), ("d/x", "x")]);
    let first = rig.state();
    rig.stage_file(1, "a", "1");
    rig.commit(1).unwrap();
    let second = rig.state();
    let upper = rig.upper();
    whiteout(&upper.join("d"));
    fs::write(upper.join("a"), "2").unwrap();
    rig.stage(2, &upper);
    rig.commit(2).unwrap();
    assert_eq!(rig.undo(2).unwrap(), [id(2)]);
    assert_eq!(rig.state(), second);
    rig.stage_file(3, "b", "3");
    rig.commit(3).unwrap();
    assert_eq!(rig.undo(1).unwrap(), [id(3), id(1)]);
    assert_eq!(rig.state(), first);
    assert_eq!(rig.undo(1).unwrap_err().why, Why::NotFound);
}

#[test]
fn undo_takes_back_nothing_that_was_committed_since_it_was_decided() {
    let rig = Rig::new(&[("a", "0")]);
    rig.stage_file(1, "a", "1");
    rig.commit(1).unwrap();
    rig.stage_file(2, "b", "another's");
    rig.commit(2).unwrap();
    let state = rig.state();
    assert_eq!(rig.undo_seen(1, id(1)).unwrap_err().why, Why::Changed);
    assert_eq!(rig.state(), state);
    assert_eq!(rig.undo_seen(1, id(2)).unwrap(), [id(2), id(1)]);
}

#[test]
fn undo_refuses_where_the_workspace_was_changed_otherwise() {
    let rig = Rig::new(&[("a", "0")]);
    rig.stage_file(1, "a", "1");
    rig.commit(1).unwrap();
    fs::write(rig.files().join("a"), "by hand").unwrap();
    assert_eq!(rig.undo(1).unwrap_err().why, Why::Conflict);
    assert_eq!(rig.state()[0].2, "by hand");
}

#[test]
fn only_the_last_commits_can_be_undone() {
    let rig = Rig::new(&[]);
    for number in 1..=5 {
        rig.stage_file(number, "a", &number.to_string());
        rig.commit(number).unwrap();
    }
    assert_eq!(rig.undo(2).unwrap_err().why, Why::NotFound);
    assert_eq!(fs::read_dir(rig.root().join("history")).unwrap().count(), 3);
    assert_eq!(rig.undo(3).unwrap().len(), 3);
    assert_eq!(rig.state()[0].2, "2");
}

#[test]
fn generation_that_a_run_sees_is_neither_changed_nor_removed() {
    let rig = Rig::new(&[("a", "0")]);
    let upper = rig.upper();
    fs::write(upper.join("a"), "1").unwrap();
    let mut task = rig.task(rig.collect_order(1, true));
    task.live = vec![0];
    paw_workspace::serve::serve(&task, &rig.root(), Some(&upper));
    assert_eq!(
        fs::read(rig.root().join("generations/0/files/a")).unwrap(),
        b"0"
    );
    assert_eq!(rig.state()[0].2, "1");
    // Nobody sees it any more.
    rig.order(Order::List);
    assert!(!rig.root().join("generations/0").exists());
}

#[test]
fn generation_that_a_run_may_just_have_begun_with_is_not_removed() {
    let rig = Rig::new(&[("a", "0")]);
    // Who sees what is said when an order begins. Whoever comes while it is carried out begins with what the workspace is then.
    rig.stage_file(1, "a", "1");
    rig.commit(1).unwrap();
    assert_eq!(
        fs::read(rig.root().join("generations/0/files/a")).unwrap(),
        b"0"
    );
    assert_eq!(rig.undo(1).unwrap().len(), 1);
    assert!(!rig.root().join("generations/0").exists());
    assert_eq!(
        fs::read(rig.root().join("generations/1/files/a")).unwrap(),
        b"1"
    );
    // The next order is told of everybody who came before it.
    rig.order(Order::List);
    assert!(!rig.root().join("generations/1").exists());
}

#[test]
fn names_and_targets_beyond_what_a_record_holds_are_refused_and_harm_no_other_layer() {
    let mut rig = Rig::new(&[]);
    rig.bounds.files = 50_000;
    rig.stage_file(1, "a", "1");
    let upper = rig.upper();
    let target = OsStr::from_bytes(&[0xff; 4000]);
    for number in 0..3500 {
        std::os::unix::fs::symlink(target, upper.join(number.to_string())).unwrap();
    }
    let answer = rig.collect(2, &upper, false);
    assert!(
        matches!(&answer, Answer::Refused(refused) if refused.why == Why::TooMuch),
        "{answer:?}"
    );
    rig.stage_file(3, "b", "1");
    let Answer::List(list) = rig.order(Order::List) else {
        panic!("no list")
    };
    assert_eq!(list.pending.len(), 2);
}

#[test]
fn layer_whose_record_is_damaged_can_be_discarded_and_is_in_nobodys_way() {
    let rig = Rig::new(&[]);
    rig.stage_file(1, "a", "1");
    let record = rig.root().join("pending").join(id(1).as_str());
    fs::write(record.join("layer.json"), "{").unwrap();
    rig.stage_file(2, "b", "1");
    rig.commit(2).unwrap();
    assert_eq!(
        rig.order(Order::Discard { layer: id(1) }),
        Answer::Discarded { changes: 0 }
    );
    assert!(!record.exists());
}

#[test]
fn change_with_the_longest_names_can_be_shown() {
    let rig = Rig::new(&[]);
    let long = [&b"a"[..], &[0xff; 249]].concat();
    let links = Path::new(OsStr::from_bytes(&long)).join(OsStr::from_bytes(&long));
    let files = vec!["\u{10348}".repeat(60); 3].join("/");
    let make = |number: u64, target: u8, text: &str| {
        let upper = rig.upper();
        let links = upper.join(&links).join(&links);
        fs::create_dir_all(&links).unwrap();
        fs::create_dir_all(upper.join(&files)).unwrap();
        std::os::unix::fs::symlink(OsStr::from_bytes(&[target; 4095]), links.join("l")).unwrap();
        for number in 0..40 {
            fs::write(upper.join(&files).join(number.to_string()), text).unwrap();
            fifo(&upper.join(format!("{number}{}", "\u{10348}".repeat(60))));
        }
        rig.stage(number, &upper);
    };
    make(1, 0xfd, "x");
    rig.commit(1).unwrap();
    make(2, 0xfe, "y");
    make(3, 0xff, "z");
    rig.commit(3).unwrap();
    let diff = rig.diff(2);
    assert_eq!((diff.conflicts.len(), diff.left_out.len()), (21, 17));
    let answer = serde_json::to_vec(&Answer::Diff(Box::new(diff))).unwrap();
    assert!(
        answer.len() < paw_launch::workspace::MAX_ANSWER,
        "{}",
        answer.len()
    );
}

#[test]
fn what_a_run_made_unreadable_is_collected_all_the_same() {
    let rig = Rig::new(&[]);
    let upper = rig.upper();
    fs::create_dir(upper.join("d")).unwrap();
    fs::write(upper.join("d/f"), "x").unwrap();
    mode(&upper.join("d/f"), 0);
    mode(&upper.join("d"), 0);
    rig.stage(1, &upper);
    rig.commit(1).unwrap();
    let modes: Vec<u32> = rig.state().iter().map(|(_, mode, _)| *mode).collect();
    assert_eq!(modes, [0o700, 0o600]);
}

#[test]
fn copy_is_compared_as_a_whole() {
    let rig = Rig::new(&[("a", "1"), ("d/b", "2"), ("d/c", "3")]);
    let copy = rig.upper();
    let order = Order::Copy { generation: 0 };
    let answer = paw_workspace::serve::serve(&rig.task(order), &rig.root(), Some(&copy));
    assert_eq!(answer, Answer::Copied { files: 4, bytes: 3 });
    assert_eq!(state(&copy), rig.state());
    fs::write(copy.join("a"), "one").unwrap();
    fs::remove_file(copy.join("d/b")).unwrap();
    let order = Order::Collect {
        layer: id(1),
        generation: 0,
        overlay: false,
        owner: None,
        commit: false,
    };
    paw_workspace::serve::serve(&rig.task(order), &rig.root(), Some(&copy));
    let paths: Vec<String> = rig.diff(1).changes.into_iter().map(|it| it.path).collect();
    assert_eq!(paths, ["a", "d/b"]);
}

#[test]
fn copy_to_another_file_system_is_the_same() {
    let mut rig = Rig::new(&[("a", "1"), ("d/b", ""), ("large", &"x".repeat(300_000))]);
    rig.bounds.bytes = 300_001;
    link(&rig.files().join("l"), "/absolute");
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: there is no second file system in /dev/shm");
        return;
    };
    let copied = paw_workspace::copy::copy(
        &Dir::open(&rig.root().join("generations/0/files")).unwrap(),
        &Dir::open(memory.path()).unwrap(),
        &rig.bounds,
    );
    let expected = Copied {
        files: 5,
        bytes: 300_001,
        way: Way::Through,
    };
    assert_eq!(copied.unwrap(), expected);
    assert_eq!(state(memory.path()), rig.state());
}

#[test]
fn copy_of_more_than_the_bounds_is_refused() {
    let mut rig = Rig::new(&[("a", "12"), ("d/b", "3")]);
    for (bytes, files) in [(2, 200), (3, 2)] {
        (rig.bounds.bytes, rig.bounds.files) = (bytes, files);
        let task = rig.task(Order::Copy { generation: 0 });
        let answer = paw_workspace::serve::serve(&task, &rig.root(), Some(&rig.upper()));
        assert!(
            matches!(&answer, Answer::Refused(refused) if refused.why == Why::TooMuch),
            "{answer:?}"
        );
    }
}

#[test]
fn long_list_comes_in_pages_with_one_digest() {
    let rig = Rig::new(&[]);
    let upper = rig.upper();
    for number in 0..40 {
        fs::write(
            upper.join(format!("{number:03}")),
            "line of text\n".repeat(1500),
        )
        .unwrap();
    }
    rig.stage(1, &upper);
    let (mut from, mut seen, mut pages) = (Some(0), 0, 0);
    let digest = rig.diff(1).digest;
    while let Some(at) = from {
        let Answer::Diff(page) = rig.order(Order::Diff {
            layer: id(1),
            from: at,
        }) else {
            panic!("no page")
        };
        assert_eq!(page.digest, digest);
        assert!(serde_json::to_vec(&page).unwrap().len() < paw_launch::workspace::MAX_ANSWER);
        seen += page.changes.len();
        pages += 1;
        from = page.next;
    }
    assert_eq!((seen, pages > 1), (40, true));
}

/// Something that a run does to its view of the workspace.
#[derive(Debug, Clone)]
enum Act {
    Write(usize, u8),
    Mode(usize, u32),
    Remove(usize),
    Dir(usize),
    Link(usize),
}

const PLACES: [&str; 8] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/f", "z"];

fn act() -> impl Strategy<Value = Act> {
    let place = 0..PLACES.len();
    prop_oneof![
        (place.clone(), any::<u8>()).prop_map(|(at, byte)| Act::Write(at, byte)),
        (place.clone(), 0_u32..0o1000).prop_map(|(at, mode)| Act::Mode(at, mode)),
        place.clone().prop_map(Act::Remove),
        place.clone().prop_map(Act::Dir),
        place.prop_map(Act::Link),
    ]
}

fn perform(view: &Path, act: &Act) {
    // What fails for a run fails here.
    let at = |at: &usize| view.join(PLACES[*at]);
    match act {
        Act::Write(place, byte) => drop(fs::write(at(place), [*byte; 10])),
        Act::Mode(place, bits) => {
            let path = at(place);
            if fs::symlink_metadata(&path).is_ok_and(|it| !it.is_symlink()) {
                let own = if path.is_dir() { 0o700 } else { 0o600 };
                mode(&path, bits | own);
            }
        }
        Act::Remove(place) => {
            let path = at(place);
            drop(fs::remove_file(&path));
            drop(fs::remove_dir_all(&path));
        }
        Act::Dir(place) => drop(fs::create_dir(at(place))),
        Act::Link(place) => drop(std::os::unix::fs::symlink("a", at(place))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever a run does: after the commit the workspace is what the run saw, and after the undo what it was.
    #[test]
    fn commit_is_what_the_run_saw_and_undo_is_what_was(
        before in proptest::collection::vec(act(), 0..12),
        during in proptest::collection::vec(act(), 0..12),
    ) {
        let rig = Rig::in_memory(&[]);
        for act in &before {
            perform(&rig.root().join("generations/0/files"), act);
        }
        let was = rig.state();
        let view = rig.upper();
        paw_workspace::serve::serve(&rig.task(Order::Copy { generation: 0 }), &rig.root(), Some(&view));
        prop_assert_eq!(&state(&view), &was);
        for act in &during {
            perform(&view, act);
        }
        let seen = state(&view);
        let order = Order::Collect { layer: id(1), generation: 0, overlay: false, owner: None, commit: true };
        let answer = paw_workspace::serve::serve(&rig.task(order), &rig.root(), Some(&view));
        prop_assert!(matches!(answer, Answer::Settled(_)), "{:?}", answer);
        prop_assert_eq!(rig.state(), seen.clone());
        if seen != was {
            rig.undo(1).unwrap();
            prop_assert_eq!(rig.state(), was);
        }
    }
}
