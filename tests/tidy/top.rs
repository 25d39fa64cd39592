//! The top level of the tree, and what every manifest has.

use std::{collections::BTreeSet, fs};

use crate::{
    found, none,
    tree::{File, files, root},
};

/// Everything that may stand at the top: what the design fixes, and the files that tools demand there.
const TOP: &[&str] = &[
    "Cargo.toml",
    "daemon",
    "ctl",
    "policy",
    "units",
    "packaging",
    "tests",
    "fuzz",
    "README.md",
    "Cargo.lock",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "clippy.toml",
    "deny.toml",
    ".ci",
    ".cargo",
    ".gitignore",
    "LICENSE",
];

/// What is there without being part of the project.
const BESIDE: &[&str] = &[".git", "target"];

fn strangers(names: &BTreeSet<String>) -> Vec<String> {
    names
        .iter()
        .filter(|name| !TOP.contains(&name.as_str()) && !BESIDE.contains(&name.as_str()))
        .map(|name| format!("{name} has no place at the top"))
        .collect()
}

fn manifests_without_lints(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && !file.path.starts_with("fuzz/"))
        .filter(|file| {
            let manifest: toml::Table = toml::from_str(&file.text).unwrap_or_default();
            manifest
                .get("lints")
                .and_then(|lints| lints.get("workspace"))
                .and_then(toml::Value::as_bool)
                != Some(true)
        })
        .map(|file| format!("{}: without [lints] workspace = true", file.path))
        .collect()
}

/// A version written in a manifest of ours instead of once at the top.
fn own_versions(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && !file.path.starts_with("fuzz/"))
    {
        let manifest: toml::Table = toml::from_str(&file.text).unwrap_or_default();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest
                .get(section)
                .and_then(toml::Value::as_table)
                .into_iter()
                .flatten()
            {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true)
                    && value.get("path").is_none()
                {
                    faults.push(format!(
                        "{}: {name} is not taken from the workspace",
                        file.path
                    ));
                }
            }
        }
    }
    faults
}

#[test]
fn top_level_is_as_fixed() {
    found(
        strangers(&["src", "daemon", ".git"].map(str::to_owned).into()),
        1,
    );
    let names = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    none(strangers(&names));
}

#[test]
fn every_manifest_takes_the_lints_of_the_workspace() {
    found(
        manifests_without_lints(&[
            File::example("a/Cargo.toml", "[lints]\nworkspace = true"),
            File::example("b/Cargo.toml", "[package]\nname = \"b\""),
        ]),
        1,
    );
    none(manifests_without_lints(files()));
}

#[test]
fn versions_are_said_once() {
    found(
        own_versions(&[File::example(
            "a/Cargo.toml",
            "[dependencies]\nx.workspace = true\ny = \"1\"",
        )]),
        1,
    );
    none(own_versions(files()));
}
