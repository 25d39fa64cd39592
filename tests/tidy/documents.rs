//! What the documents promise: each invariant and each threat names a test, and that test exists.

use std::collections::BTreeSet;

use crate::{
    found, none,
    tree::{File, files},
};

const ARCHITECTURE: &str = "daemon/ARCHITECTURE.md";
const THREATS: &str = "daemon/THREAT-MODEL.md";

/// Names of everything that runs as a test: functions in test code, cases of the scripts in `tests/vm`, and those of the table of
/// `daemon/confine/tests/confine`.
fn tests(files: &[File]) -> BTreeSet<String> {
    let functions = files.iter().filter(|file| file.is_rust()).flat_map(|file| {
        let lines: Vec<&str> = file.text.lines().collect();
        let is_test = |index: usize| {
            is_by_name(file)
                || lines[index.saturating_sub(4)..index]
                    .iter()
                    .any(|line| line.contains("test]") || line.contains("test("))
        };
        let named = lines.iter().enumerate().filter_map(|(index, line)| {
            let name = line.split("fn ").nth(1)?.split(['(', '<']).next()?.trim();
            (!name.is_empty() && is_test(index)).then(|| name.to_owned())
        });
        named.collect::<Vec<_>>()
    });
    let words = |file: &File| -> Vec<String> {
        file.text
            .split(|char: char| !char.is_alphanumeric() && char != '_')
            .filter(|word| is_claim(word))
            .map(str::to_owned)
            .collect()
    };
    let named = files.iter().filter(|file| {
        (file.path.starts_with("tests/vm/") && !file.path.ends_with(".md"))
            || file.path == "daemon/confine/tests/confine/main.rs"
    });
    functions.chain(named.flat_map(words)).collect()
}

/// Whether the functions of a file are tests by being named in a list of cases, for a runner that can say "skipped".
fn is_by_name(file: &File) -> bool {
    file.path.starts_with("tests/e2e/")
        || (file.path.contains("/tests/") && file.path.contains("/cases/"))
}

/// Whether a word can be the name of a test: a claim has several words.
fn is_claim(word: &str) -> bool {
    word.matches('_').count() >= 2
        && word
            .chars()
            .all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
}

/// Claims that a line names in backticks, `file::claim` or the claim alone.
fn claims(line: &str) -> Vec<&str> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.rsplit("::").next())
        .filter(|word| is_claim(word))
        .collect()
}

/// Every promise of a document: the numbered lines below a heading with `heading` in it, with what is indented below them, and
/// every row of every table of it whose head has a column `test`.
fn promises(text: &str, heading: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut inside, mut table, mut item, mut before) = (false, false, false, false);
    for line in text.lines() {
        let row = line.starts_with('|');
        if line.starts_with('#') {
            inside = line.to_lowercase().contains(heading);
            item = false;
        } else if row
            && !before
            && line
                .split('|')
                .any(|cell| cell.trim().to_lowercase().starts_with("test"))
        {
            table = true;
        } else if row && table {
            if !line.chars().all(|char| "|-: ".contains(char)) {
                found.push(line.to_owned());
            }
        } else if inside
            && line
                .split_once(". ")
                .is_some_and(|(number, _)| number.parse::<u32>().is_ok())
        {
            found.push(line.to_owned());
            item = true;
        } else if item && line.starts_with(' ') {
            let last = found.last_mut().expect("an item was begun");
            last.push_str(line);
        } else {
            item = false;
        }
        table &= row;
        before = row;
    }
    found
}

fn unproven(files: &[File], path: &str, heading: &str, least: usize) -> Vec<String> {
    let Some(document) = files.iter().find(|file| file.path == path) else {
        return vec![format!("{path} is missing")];
    };
    let tests = tests(files);
    let promises = promises(&document.text, heading);
    let mut faults: Vec<String> = Vec::new();
    if promises.len() < least {
        faults.push(format!(
            "{path}: {} promises found, at least {least} expected",
            promises.len()
        ));
    }
    for promise in &promises {
        let short: String = promise.chars().take(70).collect();
        let claims = claims(promise);
        if claims.is_empty() {
            faults.push(format!("{path}: names no test: {short}"));
        }
        faults.extend(
            claims
                .iter()
                .filter(|claim| !tests.contains(**claim))
                .map(|claim| format!("{path}: no test is called {claim}: {short}")),
        );
    }
    faults
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let example = [
        File::example(
            ARCHITECTURE,
            "## Invariants\n1. One holds: `it::one_thing_holds`.\n2. Two\n   holds: `two_things_hold`.\n3. Three.\n",
        ),
        File::example("a/src/lib.rs", "#[test]\nfn one_thing_holds() {}\n"),
    ];
    found(unproven(&example, ARCHITECTURE, "invariant", 3), 2);
    none(unproven(files(), ARCHITECTURE, "invariant", 10));
}

#[test]
fn every_threat_names_a_test_that_exists() {
    let example = [
        File::example(
            THREATS,
            "| threat | held by | test |\n|---|---|---|\n| a | b | `one_thing_holds` |\n| c | d | later |\n",
        ),
        File::example(
            "a/src/lib.rs",
            "#[tokio::test]\nasync fn one_thing_holds() {}\n",
        ),
    ];
    found(unproven(&example, THREATS, "threat", 2), 1);
    none(unproven(files(), THREATS, "threat", 10));
}

/// Ids of rows of tables that stand there more than once.
fn given_twice(files: &[File], path: &str) -> Vec<String> {
    let Some(document) = files.iter().find(|file| file.path == path) else {
        return vec![format!("{path} is missing")];
    };
    let mut known = BTreeSet::new();
    document
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .filter(|id| id.bytes().any(|byte| byte.is_ascii_digit()))
        .filter(|id| !known.insert(*id))
        .map(|id| format!("{path}: {id} is the id of two rows"))
        .collect()
}

/// Ids of the table of threats that this system was designed against.
const STUDY: &[&str] = &[
    "L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "C1",
    "C2", "C3", "C4", "C5", "W1", "W2", "W3", "W4", "W5", "P1", "P2", "P3", "P4", "D1", "D2", "D3",
    "D4", "B1", "B2", "B3", "B4", "O1", "O2", "R1", "R2", "R3", "X1",
];

/// Ids of the study that are neither a row of the threat model nor among those of which it says that no test plays them.
fn forgotten(files: &[File], study: &[&str]) -> Vec<String> {
    let Some(document) = files.iter().find(|file| file.path == THREATS) else {
        return vec![format!("{THREATS} is missing")];
    };
    let said = |id: &str| {
        let words = |line: &str| -> bool {
            line.split(|char: char| !char.is_alphanumeric() && char != '-')
                .any(|word| word == format!("T-{id}"))
        };
        document.text.lines().any(|line| {
            line.starts_with(&format!("| T-{id} |")) || (line.starts_with("- T-") && words(line))
        })
    };
    study
        .iter()
        .filter(|id| !said(id))
        .map(|id| format!("{THREATS}: nothing is said of T-{id}"))
        .collect()
}

#[test]
fn every_row_of_the_study_is_played_or_said_not_to_be() {
    let rows = "| T-L1 | a | b | `c_d_e` |\n- T-X1 and T-X2 are not tried.\nT-L3 is a word.\n";
    let example = [File::example(THREATS, rows)];
    found(forgotten(&example, &["L1", "X1", "X2"]), 0);
    found(forgotten(&example, &["L1", "L2", "L3", "X"]), 3);
    none(forgotten(files(), STUDY));
}

#[test]
fn every_threat_has_an_id_of_its_own() {
    let rows = "| id | attack |\n|---|---|\n| S1 | a |\n| S2 | b |\n| S1 | c |\n";
    found(given_twice(&[File::example(THREATS, rows)], THREATS), 1);
    none(given_twice(files(), THREATS));
}
