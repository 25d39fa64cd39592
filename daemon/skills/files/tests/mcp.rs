//! The compiled skill over raw JSON lines: what it does for an agent, and what nobody can make it do.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{self, ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Skill {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    next: u64,
    root: TempDir,
}

impl Skill {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_paw-files"))
            .arg("--root")
            .arg(root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (
            process.stdin.take(),
            BufReader::new(process.stdout.take().unwrap()),
        );
        let mut skill = Self {
            process,
            stdin,
            stdout,
            next: 0,
            root,
        };
        let hello = skill.ask(
            "initialize",
            &json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}),
        );
        assert_eq!(hello["result"]["serverInfo"]["name"], "paw-files");
        skill.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        skill
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        self.say(&json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}));
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.len() < 1024 * 1024, "a line of {} bytes", line.len());
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["id"], self.next);
        answer
    }

    /// The text of a call that went well, and what is beside it.
    fn call(&mut self, tool: &str, arguments: Value) -> (String, Value) {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        assert_eq!(answer["result"]["isError"], false, "{answer}");
        (
            answer["result"]["content"][0]["text"]
                .as_str()
                .unwrap()
                .to_owned(),
            answer["result"]["structuredContent"].clone(),
        )
    }

    /// The text of a call that was refused.
    fn refused(&mut self, tool: &str, arguments: Value) -> String {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }
}

impl Drop for Skill {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_manifest_names_exactly_the_tools_and_arguments_that_the_server_has() {
    let manifest: toml::Table = include_str!("../skill.toml").parse().unwrap();
    let listed = Skill::new().ask("tools/list", &json!({}));
    let arguments = |schema: &Value| -> (BTreeSet<String>, BTreeSet<String>) {
        let required = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned());
        (
            schema["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect(),
            required.collect(),
        )
    };
    let of_server: BTreeSet<_> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| {
            (
                tool["name"].as_str().unwrap().to_owned(),
                tool["description"].as_str().unwrap().to_owned(),
                arguments(&tool["inputSchema"]),
            )
        })
        .collect();
    let of_manifest: BTreeSet<_> = manifest["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| {
            let input = serde_json::from_str(tool["input"].as_str().unwrap()).unwrap();
            (
                tool["name"].as_str().unwrap().to_owned(),
                tool["description"].as_str().unwrap().to_owned(),
                arguments(&input),
            )
        })
        .collect();
    assert_eq!(of_server, of_manifest);
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
        skill.path(&format!(".paw-files-{}.part", skill.process.id())),
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
    writeln!(skill.stdin.as_mut().unwrap(), "this is not json").unwrap();
    skill.call("list", json!({"path": "."}));
    drop(skill.stdin.take());
    assert_eq!(skill.process.wait().unwrap().code(), Some(0));
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

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
