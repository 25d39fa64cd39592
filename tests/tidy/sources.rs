//! What may not stand in a source, and what every source has.

use crate::{
    found,
    lexer::{code, has_word, lines_with, product},
    none,
    tree::{File, files},
};

/// The one file that may say `unsafe`.
const UNSAFE: &str = "daemon/confine/src/sys.rs";

/// Files longer than they may be, each with the reason why there is no second idea in it.
const LONG: &[(&str, &str)] = &[];
/// Lines of a file, its unit tests not counted.
const LINES_MAX: usize = 600;
/// Lines of a file of tests, which is a list.
const CASES_MAX: usize = 1000;

/// Where time may be waited for, each with the reason why there is no event to wait for.
const SLEEPS: &[(&str, &str)] = &[
    (
        "daemon/init/tests/resume.rs",
        "a writer is killed at a moment that is nobody's event, which is the point",
    ),
    (
        "daemon/llm/tests/loopback/limits.rs",
        "that time passes is what is tested",
    ),
    (
        "daemon/src/audit.rs",
        "a socket that is not there yet tells nobody when it comes; requests fail meanwhile",
    ),
    (
        "daemon/src/storage.rs",
        "a full disk tells nobody when it has room again; bounded pauses, ended by shutdown",
    ),
    (
        "daemon/src/orchestrator/steps.rs",
        "the timer of a deadline, raced against events",
    ),
    (
        "daemon/src/providers/watch.rs",
        "the time between two checks; a provider that fails tells nobody",
    ),
    (
        "daemon/src/rpc/connection.rs",
        "the timer of a deadline, raced against events",
    ),
    (
        "daemon/src/secrets/time.rs",
        "the timer of a version's end, raced against events",
    ),
    (
        "ctl/tests/cli/main.rs",
        "plays a pawd that answers when the time that was asked for is over",
    ),
    (
        "daemon/confine/tests/confine/children.rs",
        "that sleeping is allowed under the filter is what is tested",
    ),
    (
        "daemon/tests/rpc/hostile.rs",
        "plays a client that sends a byte at a time",
    ),
];

/// Halves of words that promise something later, so that this file does not contain them.
const LATER: &[(&str, &str)] = &[
    ("TO", "DO"),
    ("FIX", "ME"),
    ("HA", "CK:"),
    ("XX", "X"),
    ("for", " now"),
    ("in a real", " implementation"),
    ("not yet", " implemented"),
    ("work in", " progress"),
    ("todo", "!("),
    ("unimplemented", "!("),
];

/// Places of the machine that something was written on, and what a reader of the tree cannot follow.
const ELSEWHERE: &[(&str, &str)] = &[
    ("/work", "/main"),
    ("/work", "/shared"),
    ("../sha", "red/"),
    ("/tmp", "/w/"),
    (".cargo", "/registry"),
    ("issue", " #"),
    ("/home", "/user"),
];

/// Ends of names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "Manager", "Handler", "Helper", "Util", "Utils", "Base", "Core",
];

/// What the pure parts may not touch, by the prefix of their path, each with why.
const PURE: &[(&str, &[&str], &str)] = &[
    (
        "policy/src/",
        &[
            "std::fs",
            "std::net",
            "std::process",
            "std::env",
            "std::thread",
            "SystemTime",
            "Instant::now",
            "fs::",
            "tokio",
            "async",
        ],
        "policy is a function of its arguments",
    ),
    (
        "daemon/src/orchestrator/lifecycle.rs",
        ORCHESTRATOR,
        "lifecycle is pure; the driver owns time and the store",
    ),
    (
        "daemon/src/orchestrator/queue.rs",
        ORCHESTRATOR,
        "the queue is pure; the driver owns time and the store",
    ),
    (
        "daemon/src/orchestrator/approval.rs",
        ORCHESTRATOR,
        "approval is pure; the driver owns time and the store",
    ),
];
const ORCHESTRATOR: &[&str] = &[
    "tokio",
    "paw_store",
    "std::fs",
    "SystemTime",
    "Instant::now",
    "async",
    "crate::storage",
];

/// Modules of pawd that may name `rpc`: those that put the process together.
const OVER_RPC: &[&str] = &[
    "daemon/src/main.rs",
    "daemon/src/lib.rs",
    "daemon/src/boot.rs",
    "daemon/src/boot/",
];

fn unsafe_elsewhere(files: &[File]) -> Vec<String> {
    let rust = files
        .iter()
        .filter(|file| file.is_rust() && file.path != UNSAFE);
    rust.flat_map(|file| {
        lines_with(&code(&file.text), "unsafe")
            .into_iter()
            .map(move |line| format!("{}:{line}: unsafe", file.path))
    })
    .collect()
}

fn unsafe_without_reason(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path == UNSAFE) {
        let lines: Vec<&str> = file.text.lines().collect();
        for line in lines_with(&code(&file.text), "unsafe") {
            // The sentence stands in the comment directly above the statement, or on the same line; attributes may stand between.
            let statement = lines[..line - 1].iter().rev().take_while(|text| {
                !text.trim_end().ends_with([';', '{', '}']) && !text.trim_start().starts_with("//")
            });
            let above = lines[..line - 1 - statement.count()].iter().rev();
            let above = above.take_while(|text| {
                text.trim_start().starts_with("//") || text.trim_start().starts_with("#[")
            });
            if !above
                .chain([&lines[line - 1]])
                .any(|text| text.contains("SAFETY:"))
                && !lines[line - 1].contains("#![")
            {
                faults.push(format!(
                    "{}:{line}: unsafe without a SAFETY sentence",
                    file.path
                ));
            }
        }
    }
    faults
}

fn without_module_docs(files: &[File]) -> Vec<String> {
    let modules = files
        .iter()
        .filter(|file| file.is_rust() && !file.path.ends_with("/tests.rs"));
    modules
        .filter(|file| {
            let first = file.text.lines().find(|line| {
                !line.trim().is_empty() && !line.starts_with("#![") && !line.starts_with("#!/")
            });
            !first.is_some_and(|line| line.starts_with("//!") && line.len() > 10)
        })
        .map(|file| format!("{}: does not open with what it owns (//!)", file.path))
        .collect()
}

fn too_long(files: &[File]) -> Vec<String> {
    let long = files
        .iter()
        .filter(|file| file.is_rust() && !LONG.iter().any(|(path, _)| *path == file.path));
    long.map(|file| {
        let (text, most) = if file.is_test() {
            (file.text.as_str(), CASES_MAX)
        } else {
            (without_tests(&file.text), LINES_MAX)
        };
        (file, text.lines().count(), most)
    })
    .filter(|(_, lines, most)| lines > most)
    .map(|(file, lines, _)| {
        format!(
            "{}: {lines} lines; look for the second idea inside",
            file.path
        )
    })
    .collect()
}

/// A source up to the unit tests at its end.
fn without_tests(text: &str) -> &str {
    text.rfind("\n#[cfg(test)]\nmod tests {")
        .map_or(text, |end| &text[..end])
}

/// Lines of any text file in which one of the split words stands.
fn said(files: &[File], words: &[(&str, &str)]) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let ours = files
        .iter()
        .filter(|file| !file.path.ends_with("Cargo.lock") && file.path != "LICENSE");
    ours.flat_map(|file| {
        file.text
            .lines()
            .enumerate()
            .map(move |(index, line)| (file, index + 1, line))
    })
    .flat_map(|(file, number, line)| {
        words
            .iter()
            .filter(move |word| has_word(line, word))
            .map(move |word| format!("{}:{number}: {word:?}", file.path))
    })
    .collect()
}

fn sleeps(files: &[File]) -> Vec<String> {
    let rust = files
        .iter()
        .filter(|file| file.is_rust() && !SLEEPS.iter().any(|(path, _)| *path == file.path));
    rust.flat_map(|file| {
        let code = code(&file.text);
        let lines: Vec<usize> = ["sleep", "sleep_ms", "park_timeout"]
            .iter()
            .flat_map(|word| lines_with(&code, word))
            .collect();
        lines.into_iter().map(move |line| {
            format!(
                "{}:{line}: sleeps; wait for the event, with a deadline",
                file.path
            )
        })
    })
    .collect()
}

fn empty_names(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for (index, line) in code(&file.text).lines().enumerate() {
            let words: Vec<&str> = line
                .split(|char: char| !char.is_alphanumeric() && char != '_')
                .filter(|word| !word.is_empty())
                .collect();
            let named = words.windows(2).filter(|pair| {
                ["struct", "enum", "trait", "type", "mod", "union"].contains(&pair[0])
            });
            for name in named.map(|pair| pair[1]) {
                let camel: String = name
                    .split('_')
                    .map(|part| {
                        part[..part.len().min(1)].to_uppercase() + part.get(1..).unwrap_or("")
                    })
                    .collect();
                if EMPTY_NAMES.iter().any(|end| camel.ends_with(end)) {
                    faults.push(format!(
                        "{}:{}: {name} is not a name for what it is or does",
                        file.path,
                        index + 1
                    ));
                }
            }
        }
    }
    faults
}

fn impure(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (prefix, forbidden, why) in PURE {
        for file in files
            .iter()
            .filter(|file| file.path.starts_with(prefix) && !file.is_test())
        {
            let code = product(&file.text);
            for word in *forbidden {
                faults.extend(
                    lines_with(&code, word)
                        .into_iter()
                        .map(|line| format!("{}:{line}: {word}; {why}", file.path)),
                );
            }
        }
    }
    faults
}

fn users_of_rpc(files: &[File]) -> Vec<String> {
    let below = files.iter().filter(|file| {
        file.is_rust()
            && file.path.starts_with("daemon/src/")
            && !file.path.starts_with("daemon/src/rpc/")
            && file.path != "daemon/src/rpc.rs"
            && !OVER_RPC.iter().any(|over| {
                file.path == *over || (over.ends_with('/') && file.path.starts_with(over))
            })
    });
    below
        .flat_map(|file| {
            let code = product(&file.text);
            let lines: Vec<usize> = ["crate::rpc", "super::rpc"]
                .iter()
                .flat_map(|path| lines_with(&code, path))
                .collect();
            // `use crate::{…, rpc, …}` names it without the path.
            let listed = code
                .split("use crate::{")
                .skip(1)
                .any(|rest| has_word(rest.split(';').next().unwrap_or_default(), "rpc"));
            lines
                .into_iter()
                .map(move |line| format!("{}:{line}: uses rpc", file.path))
                .chain(listed.then(|| format!("{}: uses rpc", file.path)))
        })
        .collect()
}

fn async_mains(files: &[File]) -> Vec<String> {
    let daemons = files.iter().filter(|file| {
        file.is_rust()
            && !file.is_test()
            && (file.path.starts_with("daemon/") || file.path.starts_with("units/"))
    });
    daemons
        .filter(|file| !file.path.starts_with("daemon/skills/"))
        .flat_map(|file| {
            lines_with(&product(&file.text), "tokio::main")
                .into_iter()
                .map(move |line| format!("{}:{line}: threads before confinement", file.path))
        })
        .collect()
}

#[test]
fn only_one_file_is_unsafe() {
    found(
        unsafe_elsewhere(&[File::example(
            "ctl/src/a.rs",
            "fn a() { unsafe { b() } } // unsafe\nfn c() { d(\"unsafe\") }",
        )]),
        1,
    );
    none(unsafe_elsewhere(files()));
}

#[test]
fn every_unsafe_has_its_sentence() {
    found(
        unsafe_without_reason(&[File::example(
            UNSAFE,
            "// SAFETY: a reason.\nunsafe { a() }\n\nunsafe { b() }\n",
        )]),
        1,
    );
    none(unsafe_without_reason(files()));
}

#[test]
fn every_module_says_what_it_owns() {
    found(
        without_module_docs(&[
            File::example("a/src/a.rs", "use b;\n"),
            File::example("a/src/b.rs", "//! Short\n"),
            File::example("a/src/c.rs", "#![allow(x)]\n//! What this module owns.\n"),
        ]),
        2,
    );
    none(without_module_docs(files()));
}

#[test]
fn files_hold_one_idea() {
    let tests = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        "\n".repeat(600),
        "\n".repeat(99)
    );
    let examples = [
        ("a.rs", "\n".repeat(601)),
        ("b.rs", tests),
        ("tests/c.rs", "\n".repeat(1000)),
        ("tests/d.rs", "\n".repeat(1001)),
    ];
    found(
        too_long(&examples.map(|(path, text)| File::example(path, &text))),
        2,
    );
    none(too_long(files()));
}

#[test]
fn nothing_is_left_for_later() {
    let text = format!(
        "// {}{}: x\nlet a = {}{});\nfor nowhere",
        "TO", "DO", "todo", "!("
    );
    found(said(&[File::example("a.rs", &text)], LATER), 2);
    none(said(files(), LATER));
}

#[test]
fn no_file_points_outside_the_tree() {
    found(
        said(
            &[File::example(
                "units/a",
                &format!("ExecStart=/work{}/x\nSee issue{}7", "/main", " #"),
            )],
            ELSEWHERE,
        ),
        2,
    );
    none(said(files(), ELSEWHERE));
}

#[test]
fn nobody_sleeps_and_looks_again() {
    found(
        sleeps(&[File::example(
            "a.rs",
            "tokio::time::sleep(x).await;\nsleep_until(deadline).await;\nthread::sleep(x); // sleep",
        )]),
        2,
    );
    none(sleeps(files()));
}

#[test]
fn names_say_what_things_are() {
    found(
        empty_names(&[File::example(
            "a.rs",
            "struct SandboxManager;\nmod path_utils;\ntype Score = u8;\nstruct Base;\nfn handler() {}",
        )]),
        3,
    );
    none(empty_names(files()));
}

#[test]
fn pure_parts_touch_nothing() {
    found(
        impure(&[
            File::example(
                "policy/src/a.rs",
                "use std::fs;\n#[cfg(test)]\nmod tests { use std::env; }",
            ),
            File::example(
                "daemon/src/orchestrator/queue.rs",
                "use tokio::sync::mpsc;\n",
            ),
            File::example(
                "daemon/src/orchestrator/driver.rs",
                "use tokio::sync::mpsc;\n",
            ),
        ]),
        2,
    );
    none(impure(files()));
}

#[test]
fn nothing_below_uses_rpc() {
    found(
        users_of_rpc(&[
            File::example("daemon/src/agent/turn.rs", "use crate::rpc::peer::Peer;"),
            File::example("daemon/src/events.rs", "use crate::{clock, rpc};"),
            File::example("daemon/src/boot.rs", "use crate::rpc;"),
        ]),
        2,
    );
    none(users_of_rpc(files()));
}

#[test]
fn confinement_comes_before_the_first_thread() {
    found(
        async_mains(&[File::example(
            "daemon/src/main.rs",
            "#[tokio::main]\nasync fn main() {}",
        )]),
        1,
    );
    none(async_mains(files()));
}
