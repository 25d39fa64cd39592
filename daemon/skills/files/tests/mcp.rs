//! The compiled skill over raw JSON lines: what it does for an agent, and what nobody can make it do.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    ops::{Deref, DerefMut},
    os::unix::{self, ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use paw_skill::testing::Conversation;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Skill {
    conversation: Conversation,
    root: TempDir,
}

impl Skill {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(root: TempDir) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paw-files"));
        command.arg("--root").arg(root.path());
        Self {
            conversation: Conversation::with(&mut command, "paw-files"),
            root,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    /// The latest change that can be taken back, as undo wants it; one that there never was if there is none.
    fn latest(&self) -> Value {
        let kept = fs::read_dir(self.path(".paw-undo")).into_iter().flatten();
        let names = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        json!({"change": names.max().unwrap_or_else(|| "0".repeat(20))})
    }

    fn take_latest_back(&mut self) -> Value {
        let latest = self.latest();
        self.call("undo", latest).1
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

impl Deref for Skill {
    type Target = Conversation;

    fn deref(&self) -> &Conversation {
        &self.conversation
    }
}

impl DerefMut for Skill {
    fn deref_mut(&mut self) -> &mut Conversation {
        &mut self.conversation
    }
}

#[test]
fn server_offers_every_tool_of_its_manifest() {
    let listed = Skill::new().ask("tools/list", &json!({}));
    let names: BTreeSet<_> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| {
            assert_eq!(tool["inputSchema"]["additionalProperties"], false);
            tool["name"].as_str().unwrap().to_owned()
        })
        .collect();
    let expected = ["delete", "edit", "list", "read", "search", "undo", "write"];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn what_was_written_is_listed_and_read_again() {
    let mut skill = Skill::new();
    skill.call(
        "write",
        json!({"path": "notes/a/today.txt", "text": "grüße\n", "create_dirs": true}),
    );
    let (text, beside) = skill.call("read", json!({"path": "notes/a/today.txt"}));
    assert_eq!(text, "grüße\n");
    assert_eq!(
        beside,
        json!({"size": 8, "offset": 0, "next_offset": null, "encoding": "utf-8"})
    );
    let (_, listing) = skill.call("list", json!({"path": ".", "depth": 3}));
    let expected = json!({"truncated": false, "entries": [
        {"path": "notes", "kind": "directory", "size": 0},
        {"path": "notes/a", "kind": "directory", "size": 0},
        {"path": "notes/a/today.txt", "kind": "file", "size": 8},
    ]});
    assert_eq!(listing, expected);
    let (_, listing) = skill.call("list", json!({"path": "notes"}));
    assert_eq!(
        listing["entries"],
        json!([{"path": "notes/a", "kind": "directory", "size": 0}])
    );
}

#[test]
fn no_path_leads_out_of_the_root() {
    let mut skill = Skill::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::create_dir(skill.path("inside")).unwrap();
    unix::fs::symlink(outside.path(), skill.path("out")).unwrap();
    unix::fs::symlink(outside.path().join("secret"), skill.path("secret")).unwrap();
    unix::fs::symlink("inside", skill.path("within")).unwrap();
    unix::fs::symlink("loop", skill.path("loop")).unwrap();
    unix::fs::symlink("/proc/self/root", skill.path("magic")).unwrap();
    let absolute = format!("{}/secret", outside.path().display());
    for path in [
        "..",
        "../secret",
        "inside/../../secret",
        &absolute,
        "/etc/passwd",
        "/proc/self/root/etc/passwd",
        "out/secret",
        "out",
        "secret",
        "within/x",
        "loop",
        "loop/x",
        "magic/etc/passwd",
        "inside\u{0}",
        "inside/\u{1b}[2J",
    ] {
        for (tool, arguments) in [
            ("list", json!({"path": path})),
            ("read", json!({"path": path})),
            (
                "write",
                json!({"path": path, "text": "changed", "create_dirs": true}),
            ),
            ("search", json!({"path": path, "text": "secret"})),
            (
                "edit",
                json!({"path": path, "old": "secret", "new": "changed"}),
            ),
        ] {
            let why = skill.refused(tool, arguments);
            let known = [
                "relative to the workspace",
                "`..` in a path",
                "links are not followed",
                "control character",
            ];
            assert!(
                known.iter().any(|known| why.contains(known)),
                "{tool} {path:?}: {why}"
            );
        }
    }
    assert_eq!(
        fs::read_to_string(outside.path().join("secret")).unwrap(),
        "secret"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(skill.path("inside")).unwrap().count(), 0);
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let mut skill = Skill::new();
    fs::create_dir(skill.path("directory")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(skill.path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    let socket = unix::net::UnixListener::bind(skill.path("socket")).unwrap();
    for (path, what) in [
        ("directory", "is a directory"),
        ("pipe", "pipe or socket"),
        (".", "directory"),
    ] {
        assert!(
            skill.refused("read", json!({"path": path})).contains(what),
            "{path}"
        );
    }
    for (path, what) in [
        ("directory", "is a directory"),
        ("pipe", "pipe or socket"),
        ("socket", "pipe or socket"),
        (".", "the workspace itself"),
        (".paw-undo/1/0", "use undo"),
    ] {
        assert!(
            skill
                .refused("write", json!({"path": path, "text": ""}))
                .contains(what),
            "{path}"
        );
    }
    drop(socket);
    assert!(
        skill
            .refused("list", json!({"path": "pipe"}))
            .contains("not a directory")
    );
    assert!(
        skill
            .refused("read", json!({"path": "nothing"}))
            .contains("is not there")
    );
    assert!(
        skill
            .refused("write", json!({"path": "no/file", "text": ""}))
            .contains("set create_dirs")
    );
}

#[test]
fn a_huge_file_comes_in_bounded_pieces_and_whole() {
    let mut skill = Skill::new();
    // A terabyte of nothing, with something at its start and its end; characters of two bytes straddle every even bound.
    let text = format!("x{}", "ü".repeat(200_000));
    fs::write(skill.path("text"), &text).unwrap();
    let sparse = fs::File::create(skill.path("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let (mut read, mut offset) = (String::new(), json!(0));
    while !offset.is_null() {
        let (piece, beside) = skill.call(
            "read",
            json!({"path": "text", "offset": offset, "limit": 4_000_000}),
        );
        assert!(piece.len() <= 131_072);
        read += &piece;
        offset = beside["next_offset"].clone();
    }
    assert!(read == text, "the pieces differ from the file");
    let (piece, beside) = skill.call(
        "read",
        json!({"path": "sparse", "offset": (1_u64 << 40) - 3}),
    );
    assert_eq!(
        (piece.as_str(), &beside["next_offset"], &beside["encoding"]),
        ("AAAA", &Value::Null, &json!("base64"))
    );
    let (piece, beside) = skill.call("read", json!({"path": "sparse", "offset": u64::MAX}));
    assert_eq!((piece.as_str(), &beside["next_offset"]), ("", &Value::Null));
}

#[test]
fn the_worst_text_still_fits_into_one_line() {
    let mut skill = Skill::new();
    fs::write(skill.path("controls"), vec![1; 131_072]).unwrap();
    // The bound itself is asserted where each line is read.
    let (text, _) = skill.call("read", json!({"path": "controls", "limit": 131_072}));
    assert_eq!(text.len(), 131_072);
    for i in 0..1000 {
        let mut name = vec![0xff_u8; 250];
        name.extend(format!("{i:04}").bytes());
        fs::write(
            skill.root.path().join(std::ffi::OsStr::from_bytes(&name)),
            "",
        )
        .unwrap();
    }
    let (_, listing) = skill.call("list", json!({"path": "."}));
    assert_eq!(listing["truncated"], true);
}

#[test]
fn a_listing_stops_at_its_bound_and_says_so() {
    let mut skill = Skill::new();
    for i in 0..1001 {
        fs::write(skill.path(&format!("{i:04}")), "").unwrap();
    }
    let (text, listing) = skill.call("list", json!({"path": "."}));
    assert_eq!(
        (
            listing["entries"].as_array().unwrap().len(),
            &listing["truncated"]
        ),
        (1000, &json!(true))
    );
    assert_eq!(listing["entries"][999]["path"], "0999");
    assert!(text.contains("more than is shown"));
}

#[test]
fn hostile_names_are_shown_escaped() {
    let mut skill = Skill::new();
    for name in [&b"\x1b[31mred"[..], b"not\xfftext", b"new\nline"] {
        fs::write(
            skill.root.path().join(std::ffi::OsStr::from_bytes(name)),
            "",
        )
        .unwrap();
    }
    let (text, listing) = skill.call("list", json!({"path": ""}));
    let names: Vec<&str> = listing["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["\\x1b[31mred", "new\\nline", "not\\xfftext"]);
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn a_write_replaces_the_file_and_never_changes_the_old_one() {
    let mut skill = Skill::new();
    fs::write(skill.path("file"), "old").unwrap();
    fs::set_permissions(skill.path("file"), fs::Permissions::from_mode(0o640)).unwrap();
    // Who opened the old file keeps the old text: it was replaced by a rename, not written over.
    let old = fs::File::open(skill.path("file")).unwrap();
    fs::hard_link(skill.path("file"), skill.path("hard")).unwrap();
    skill.call("write", json!({"path": "file", "text": "new"}));
    assert_eq!(std::io::read_to_string(old).unwrap(), "old");
    assert_eq!(fs::read_to_string(skill.path("hard")).unwrap(), "old");
    assert_eq!(fs::read_to_string(skill.path("file")).unwrap(), "new");
    assert_eq!(
        fs::metadata(skill.path("file"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o640
    );
    assert_eq!(names(skill.root.path()), ["file", "hard"]);
}

#[test]
fn a_write_that_is_too_large_leaves_the_file_as_it_was() {
    let mut skill = Skill::new();
    fs::write(skill.path("file"), "old").unwrap();
    let why = skill.refused(
        "write",
        json!({"path": "file", "text": "x".repeat(524_289)}),
    );
    assert!(why.contains("524289 bytes are more than"), "{why}");
    assert_eq!(fs::read_to_string(skill.path("file")).unwrap(), "old");
    skill.call(
        "write",
        json!({"path": "file", "text": "x".repeat(524_288)}),
    );
    assert_eq!(fs::metadata(skill.path("file")).unwrap().len(), 524_288);
}

#[test]
fn what_a_killed_write_left_behind_does_not_stop_the_next() {
    let mut skill = Skill::new();
    fs::write(
        skill.path(&format!(".paw-files-{}.part", skill.pid())),
        "half",
    )
    .unwrap();
    skill.call("write", json!({"path": "file", "text": "whole"}));
    assert_eq!(names(skill.root.path()), ["file"]);
}

#[test]
fn arguments_that_are_not_in_the_schema_are_refused() {
    let mut skill = Skill::new();
    let answer = skill.ask(
        "tools/call",
        &json!({"name": "read", "arguments": {"path": "x", "follow_links": true}}),
    );
    assert!(answer.to_string().contains("follow_links"), "{answer}");
    let answer = skill.ask(
        "tools/call",
        &json!({"name": "remove", "arguments": {"path": "x"}}),
    );
    assert!(answer["error"].is_object(), "{answer}");
}

#[test]
fn garbage_lines_do_not_end_it_and_the_end_of_stdin_does() {
    let mut skill = Skill::new();
    skill.say(&"this is not json");
    skill.call("list", json!({"path": "."}));
    assert_eq!(skill.end().code(), Some(0));
}

#[test]
fn without_a_root_it_does_not_start() {
    let code = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_paw-files"))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .code()
    };
    assert_eq!(code(&[]), Some(64));
    assert_eq!(code(&["--root"]), Some(64));
    assert_eq!(code(&["--root", "/no/such/directory"]), Some(66));
    assert_eq!(code(&["--root", "/etc/passwd"]), Some(66));
}

#[test]
fn an_edit_changes_exactly_what_was_named_and_can_be_taken_back() {
    let mut skill = Skill::new();
    fs::write(skill.path("a.txt"), "one two two\n").unwrap();
    let edit = |old: &str, new: &str, all: bool| json!({"path": "a.txt", "old": old, "new": new, "all": all});
    for (old, new, expected) in [
        ("three", "x", "is not in"),
        ("two", "x", "2 times"),
        ("", "x", "is empty"),
        ("one", "one", "the same"),
    ] {
        let why = skill.refused("edit", edit(old, new, false));
        assert!(why.contains(expected), "{old:?}: {why}");
    }
    assert_eq!(skill.text("a.txt"), "one two two\n");
    let (_, first) = skill.call("edit", edit("one", "ONE", false));
    assert_eq!(first["places"], 1);
    let (_, second) = skill.call("edit", edit("two", "2", true));
    assert_eq!(
        (skill.text("a.txt").as_str(), &second["places"]),
        ("ONE 2 2\n", &json!(2))
    );
    // Not the older one: somebody has changed the file since, the later edit.
    let why = skill.refused("undo", json!({"change": first["change"]}));
    assert!(why.contains("not as that change left it"), "{why}");
    let undone = skill.take_latest_back();
    assert_eq!(
        undone,
        json!({"path": "a.txt", "what": "edit", "change": second["change"]})
    );
    assert_eq!(skill.text("a.txt"), "ONE two two\n");
    skill.take_latest_back();
    assert_eq!(skill.text("a.txt"), "one two two\n");
    let why = skill.refused("undo", json!({}));
    assert!(why.contains("change"), "what is taken back is named: {why}");
    let none = skill.latest();
    assert!(skill.refused("undo", none).contains("no change"));
    fs::write(skill.path("bytes"), b"one\xff").unwrap();
    let why = skill.refused("edit", json!({"path": "bytes", "old": "one", "new": "x"}));
    assert!(why.contains("is no text"), "{why}");
    fs::write(skill.path("many"), "a".repeat(400_000)).unwrap();
    let grows = json!({"path": "many", "old": "a", "new": "b".repeat(500_000), "all": true});
    assert!(skill.refused("edit", grows).contains("are more than"));
}

#[test]
fn a_write_is_taken_back_to_what_was_there_or_to_nothing() {
    let mut skill = Skill::new();
    fs::write(skill.path("old"), "before").unwrap();
    fs::set_permissions(skill.path("old"), fs::Permissions::from_mode(0o600)).unwrap();
    skill.call("write", json!({"path": "old", "text": "after"}));
    skill.call("write", json!({"path": "new", "text": "after"}));
    // Another process of the skill, as for each call, knows the same.
    let mut skill = Skill::at(skill.root);
    skill.take_latest_back();
    skill.take_latest_back();
    assert_eq!(
        (names(skill.root.path()), skill.text("old").as_str()),
        (vec!["old".to_owned()], "before")
    );
    let mode = fs::metadata(skill.path("old"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_deleted_tree_comes_back_as_it_was() {
    let mut skill = Skill::new();
    fs::create_dir_all(skill.path("d/e/empty")).unwrap();
    fs::write(skill.path("d/e/file"), "text").unwrap();
    fs::write(skill.path("d/bytes"), b"\0\xff").unwrap();
    unix::fs::symlink("/etc/passwd", skill.path("d/link")).unwrap();
    let why = skill.refused("delete", json!({"path": "d"}));
    assert!(why.contains("set recursive"), "{why}");
    let (_, deleted) = skill.call("delete", json!({"path": "d", "recursive": true}));
    assert_eq!(deleted["entries"], 6);
    assert!(names(skill.root.path()).is_empty());
    assert!(
        fs::metadata("/etc/passwd").is_ok(),
        "the link was deleted, not what it points to"
    );
    skill.take_latest_back();
    assert_eq!(skill.text("d/e/file"), "text");
    assert_eq!(fs::read(skill.path("d/bytes")).unwrap(), b"\0\xff");
    assert!(skill.path("d/e/empty").is_dir());
    assert_eq!(
        fs::read_link(skill.path("d/link")).unwrap(),
        Path::new("/etc/passwd")
    );
    // An empty directory, a file and a link need no more words.
    for path in ["d/e/empty", "d/e/file", "d/link"] {
        skill.call("delete", json!({"path": path}));
        assert!(fs::symlink_metadata(skill.path(path)).is_err(), "{path}");
    }
    // What came into its place is not thrown away.
    fs::write(skill.path("d/link"), "mine").unwrap();
    let latest = skill.latest();
    let why = skill.refused("undo", latest);
    assert!(why.contains("changed it since"), "{why}");
    assert_eq!(skill.text("d/link"), "mine");
    for path in [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "d/../..",
        "missing",
        "missing/x",
        "d\u{0}",
    ] {
        skill.refused(
            "delete",
            json!({"path": path, "recursive": true, "for_good": true}),
        );
    }
}

#[test]
fn what_cannot_be_taken_back_takes_a_word_more() {
    let mut skill = Skill::new();
    let large = fs::File::create(skill.path("large")).unwrap();
    large.set_len(4 * 1024 * 1024 + 1).unwrap();
    for (tool, arguments) in [
        ("write", json!({"path": "large", "text": "small"})),
        ("delete", json!({"path": "large"})),
    ] {
        let why = skill.refused(tool, arguments);
        assert!(why.contains("set for_good"), "{why}");
    }
    assert_eq!(
        fs::metadata(skill.path("large")).unwrap().len(),
        4 * 1024 * 1024 + 1
    );
    let (text, deleted) = skill.call("delete", json!({"path": "large", "for_good": true}));
    assert!(
        text.contains("cannot be taken back") && deleted["change"].is_null(),
        "{text}"
    );
    fs::create_dir(skill.path("many")).unwrap();
    for number in 0..1000 {
        fs::write(skill.path(&format!("many/{number}")), "").unwrap();
    }
    let why = skill.refused("delete", json!({"path": "many", "recursive": true}));
    assert!(why.contains("more than 1000"), "{why}");
    assert!(
        Command::new("mkfifo")
            .arg(skill.path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    assert!(
        skill
            .refused("delete", json!({"path": "pipe"}))
            .contains("pipe or socket")
    );
}

#[test]
fn what_is_kept_for_undo_is_bounded_and_nobody_s_to_read_or_write() {
    let mut skill = Skill::new();
    let mut last = json!(null);
    for number in 0..40 {
        let text = number.to_string().repeat(150_000);
        (_, last) = skill.call("write", json!({"path": "a", "text": text}));
    }
    let kept = fs::read_dir(skill.path(".paw-undo")).unwrap().count();
    assert!((2..=32).contains(&kept), "{kept} are kept");
    let size: u64 = walk(&skill.path(".paw-undo"));
    assert!(size < 9 * 1024 * 1024, "{size} bytes");
    let (text, listing) = skill.call("list", json!({"path": ".", "depth": 8}));
    assert!(!text.contains("paw-undo") && listing["entries"].as_array().unwrap().len() == 1);
    let (_, found) = skill.call("search", json!({"name": "entry.json"}));
    assert_eq!(found["hits"], json!([]));
    let undone = skill.take_latest_back();
    assert_eq!(undone["change"], last["change"]);
    // Whatever another program writes there leads nowhere else.
    let dir = skill.path(".paw-undo/99999999999999999999");
    fs::create_dir(&dir).unwrap();
    let entry =
        json!({"what": "write", "path": "../../x", "before": [], "after": null, "bytes": 0});
    fs::write(dir.join("entry.json"), entry.to_string()).unwrap();
    let why = skill.refused("undo", json!({"change": "99999999999999999999"}));
    assert!(why.contains("no change"), "{why}");
    // Nor does a link in its place.
    fs::remove_dir_all(skill.path(".paw-undo")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    unix::fs::symlink(outside.path(), skill.path(".paw-undo")).unwrap();
    skill.refused("write", json!({"path": "a", "text": "x"}));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_search_finds_lines_and_names_within_its_bounds() {
    let mut skill = Skill::new();
    fs::create_dir_all(skill.path("a/b")).unwrap();
    fs::write(skill.path("a/one.txt"), "first\nÄpfel und Birnen\n").unwrap();
    fs::write(skill.path("a/b/two.md"), "äpfel\n").unwrap();
    fs::write(skill.path("a/b/bytes"), b"\xc3\x84pfel\0").unwrap();
    unix::fs::symlink("/etc", skill.path("a/etc")).unwrap();
    let (text, found) = skill.call("search", json!({"text": "Äpfel"}));
    assert_eq!(
        text,
        "a/one.txt:2: Äpfel und Birnen\n(1 files were not looked into: too large, or no text)\n"
    );
    assert_eq!(
        found,
        json!({"hits": [{"path": "a/one.txt", "line": 2, "text": "Äpfel und Birnen"}], "skipped": 1, "truncated": false})
    );
    let paths = |found: &Value| -> Vec<String> {
        let hits = found["hits"].as_array().unwrap().iter();
        hits.map(|hit| hit["path"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, found) = skill.call(
        "search",
        json!({"text": "ÄPFEL", "ignore_case": true, "path": "a"}),
    );
    assert_eq!(paths(&found), ["a/b/two.md", "a/one.txt"]);
    let (_, found) = skill.call("search", json!({"name": "*.md"}));
    assert_eq!(paths(&found), ["a/b/two.md"]);
    let (_, found) = skill.call("search", json!({"path": "a/b/two.md", "text": "pfel"}));
    assert_eq!(paths(&found), ["a/b/two.md"]);
    let (_, found) = skill.call("search", json!({"name": "passwd"}));
    assert_eq!(paths(&found), [""; 0], "links are not followed");
    for arguments in [
        json!({}),
        json!({"text": ""}),
        json!({"text": "a\nb"}),
        json!({"name": "x".repeat(1025)}),
    ] {
        assert!(skill.refused("search", arguments).contains("are expected"));
    }
    fs::write(skill.path("many"), "x\n".repeat(1000)).unwrap();
    let (_, found) = skill.call("search", json!({"text": "x", "path": "many"}));
    assert_eq!(
        (found["hits"].as_array().unwrap().len(), &found["truncated"]),
        (200, &json!(true))
    );
    // A hostile line stays one line of the answer, and within its bound.
    fs::write(
        skill.path("many"),
        "\u{1}".repeat(400_000).replacen('\u{1}', "x", 1),
    )
    .unwrap();
    let (_, found) = skill.call("search", json!({"text": "x", "path": "many"}));
    assert_eq!(
        found["hits"][0]["text"].as_str().unwrap().chars().count(),
        200
    );
}

/// Somebody in the same sandbox swaps a directory for a link out of the root, again and again, while files are changed beneath it.
#[test]
fn a_directory_that_becomes_a_link_in_between_leads_nowhere() {
    let mut skill = Skill::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "secret").unwrap();
    let (inside, aside) = (skill.path("d"), skill.path("aside"));
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("file"), "plain").unwrap();
    unix::fs::symlink(outside.path(), &aside).unwrap();
    let swapping = thread::spawn(move || {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        for _ in 0..20_000 {
            renameat_with(CWD, &inside, CWD, &aside, RenameFlags::EXCHANGE).unwrap();
        }
    });
    let mut done = 0;
    while !swapping.is_finished() {
        for (tool, arguments) in [
            ("read", json!({"path": "d/file"})),
            ("write", json!({"path": "d/file", "text": "plain"})),
            (
                "edit",
                json!({"path": "d/file", "old": "plain", "new": "other"}),
            ),
            ("undo", skill.latest()),
            ("search", json!({"path": "d", "text": "secret"})),
            ("delete", json!({"path": "d/file"})),
        ] {
            let answer = skill.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
            assert!(!answer.to_string().contains("secret\""), "{answer}");
            done += 1;
        }
    }
    swapping.join().unwrap();
    assert!(done > 0);
    let left: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(
        fs::read_to_string(outside.path().join("file")).unwrap(),
        "secret"
    );
}

fn walk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".paw-undo")
        .collect();
    names.sort();
    names
}
