//! What comes from others: the crates with unsafe code that we build upon are those of a list, and only what the lock file names is built.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::{
    crates::run,
    found, none,
    tree::{File, files},
};

/// Crates of others in whose sources `unsafe` stands, one in a line. Whoever adds one has looked at it.
const UNSAFE: &str = include_str!("unsafe.txt");

/// How unsafe code begins. A crate that hides it from this hides it from a reader as well.
const BEGINS: [&str; 5] = [
    "unsafe {",
    "unsafe fn",
    "unsafe impl",
    "unsafe trait",
    "unsafe extern",
];

fn is_unsafe(text: &str) -> bool {
    text.contains("unsafe")
        && text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            BEGINS.iter().any(|begins| code.contains(begins))
        })
}

/// Whether a source below this directory has unsafe code.
fn has_unsafe(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(Result::ok).any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return has_unsafe(&path);
        }
        path.extension().is_some_and(|it| it == "rs")
            && fs::read(&path).is_ok_and(|it| is_unsafe(&String::from_utf8_lossy(&it)))
    })
}

/// Crates of others that are used on this kind of host, and have unsafe code.
fn foreign() -> BTreeSet<String> {
    let metadata = run(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata writes JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let used: Vec<Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|node| node["id"].clone())
        .collect();
    list(&metadata["packages"])
        .into_iter()
        .filter(|it| !it["source"].is_null() && used.contains(&it["id"]))
        .filter(|it| {
            let manifest = Path::new(it["manifest_path"].as_str().expect("it has one"));
            has_unsafe(&manifest.with_file_name("src"))
        })
        .map(|it| it["name"].as_str().expect("it has one").to_owned())
        .collect()
}

fn changed(are: &BTreeSet<String>, listed: &str) -> Vec<String> {
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let new = are.difference(&listed);
    let gone = listed.difference(are);
    new.map(|name| format!("{name} has unsafe code and is not listed"))
        .chain(gone.map(|name| format!("{name} is listed and has none")))
        .collect()
}

/// Where scripts are that call cargo, and what `cargo xtask` stands for.
const CALLERS: [&str; 5] = [".cargo/", ".ci/", "fuzz/", "packaging/", "tests/vm/"];

/// How cargo is called where it builds; the last is an alias.
const CALLS: [&str; 5] = [
    "cargo build ",
    "cargo test ",
    "cargo clippy ",
    "cargo run ",
    "= \"run ",
];

/// Calls of cargo by which scripts and our xtask build that could build something else than what the lock file names.
fn unlocked(files: &[File]) -> Vec<String> {
    let scripts = files
        .iter()
        .filter(|file| CALLERS.iter().any(|at| file.path.starts_with(at)));
    let calls = scripts.flat_map(|file| file.text.lines().map(move |line| (file, line.trim())));
    calls
        .filter(|(_, line)| !line.starts_with(['#', '/']))
        .filter(|(_, line)| CALLS.iter().any(|call| line.contains(call)))
        .filter(|(_, line)| !line.contains("--locked") && !line.contains("${TESTS[@]}"))
        .map(|(file, line)| format!("{}: without --locked: {line}", file.path))
        .collect()
}

#[test]
fn x1_crates_with_unsafe_code_are_those_that_are_listed() {
    assert!(is_unsafe("fn a() {\n    unsafe { b() }\n}"));
    assert!(!is_unsafe("#![forbid(unsafe_code)]\n// unsafe { b() }\n"));
    let are = ["a", "b"].map(str::to_owned).into();
    found(changed(&are, "b\nc\n"), 2);
    none(changed(&foreign(), UNSAFE));
}

#[test]
fn x1_only_what_the_lock_file_names_is_built() {
    let example = [
        File::example("packaging/a", "cargo build --release\n"),
        File::example("packaging/b", "cargo test --locked\n# cargo test \n"),
        File::example("fuzz/run", "built=$(A=b cargo test --test fuzz)\n"),
        File::example(".cargo/config.toml", "xtask = \"run -p xtask --\"\n"),
    ];
    found(unlocked(&example), 3);
    none(unlocked(files()));
}
