//! `THIRD-PARTY`: what of others is in our programs, under which licence, and the texts that these licences want to be handed on.
//!
//! A crate is in a program when one of ours needs it other than for building and testing. What only runs while we build (build
//! scripts, procedural macros) is not. Which texts say the same is decided by their words; each stands there once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo;

/// Where Debian has the licences that many of its packages have; packages are made there.
const COMMON: &str = "/usr/share/common-licenses";

/// How the names of files begin that say under which licence their neighbours are.
const BEGINS: [&str; 7] = [
    "COPYING",
    "COPYRIGHT",
    "LICENCE",
    "LICENSE",
    "NOTICE",
    "PATENTS",
    "UNLICENSE",
];

const HEAD: &str = "\
What is of others in pawd, pawctl and the programs beside them: its name, its version, its licence, and the texts of it by number, which
stand below, each once. The source of a crate is at https://crates.io/crates/NAME/VERSION.

";

/// Something of others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    name: String,
    version: String,
    licence: String,
    /// Who wrote it, where they say so; told where there is no text that does.
    authors: Vec<String>,
    texts: Vec<String>,
}

/// The whole of it, for programs that are built of these crates of ours.
pub(crate) fn third_party(root: &Path) -> Result<String> {
    let metadata = cargo::metadata(root)?;
    let ours: BTreeSet<&str> = cargo::shipped().collect();
    let mut parts = linked(&metadata, &ours)?;
    parts.push(standard_library(root)?);
    parts.push(of_debian(
        "libc6-dev",
        "GNU C library in static programs,",
        "LGPL-2.1-or-later",
        "LGPL-2.1",
    )?);
    parts.push(of_debian(
        "busybox-static",
        "busybox in the image base,",
        "GPL-2.0-only",
        "GPL-2",
    )?);
    let mentions = root.join("policy/guard/sources.txt");
    let mentions =
        fs::read_to_string(&mentions).with_context(|| format!("read {}", mentions.display()))?;
    Ok(written(&parts, &mentions))
}

/// The crates of others that are in programs of `ours`, by name and version.
fn linked(metadata: &Value, ours: &BTreeSet<&str>) -> Result<Vec<Part>> {
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let list = list.as_array().into_iter().flatten();
        list.map(|it| (text(&it["id"]), it.clone())).collect()
    };
    let (packages, nodes) = (
        by_id(&metadata["packages"]),
        by_id(&metadata["resolve"]["nodes"]),
    );
    let mut next: Vec<String> = packages
        .iter()
        .filter(|(_, it)| it["source"].is_null() && ours.contains(text(&it["name"]).as_str()))
        .map(|(id, _)| id.clone())
        .collect();
    ensure!(
        next.len() == ours.len(),
        "cargo metadata knows {next:?} of {ours:?}"
    );
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    while let Some(id) = next.pop() {
        let package = packages
            .get(&id)
            .with_context(|| format!("cargo metadata has no package {id}"))?;
        if is_macro(package) || !seen.insert(id.clone()) {
            continue;
        }
        if !package["source"].is_null() {
            found.push(crate_of_others(package)?);
        }
        let needs = nodes.get(&id).and_then(|node| node["deps"].as_array());
        next.extend(
            needs
                .into_iter()
                .flatten()
                .filter(|it| is_linked(it))
                .map(|it| text(&it["pkg"])),
        );
    }
    found.sort();
    Ok(found)
}

/// Whether a dependency is needed by the program itself, and not just to build or to test it.
fn is_linked(dependency: &Value) -> bool {
    let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
    kinds.into_iter().any(|kind| kind["kind"].is_null())
}

fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    targets
        .filter_map(|target| target["kind"].as_array())
        .flatten()
        .any(|kind| kind == "proc-macro")
}

fn crate_of_others(package: &Value) -> Result<Part> {
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let dir = manifest.parent().context("a manifest is in a directory")?;
    let mut files = BTreeSet::new();
    licences(dir, &mut files).with_context(|| format!("look for licences in {}", dir.display()))?;
    files.extend(
        package["license_file"]
            .as_str()
            .map(|named| dir.join(named)),
    );
    let licence = package["license"].as_str().unwrap_or("as its text says");
    Ok(Part {
        name: text(&package["name"]),
        version: text(&package["version"]),
        licence: licence.to_owned(),
        authors: package["authors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect(),
        texts: files.iter().map(|file| read(file)).collect::<Result<_>>()?,
    })
}

/// Files below `dir` that are licences, those of code of others again among them.
fn licences(dir: &Path, found: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if kind.is_dir() && !name.starts_with('.') {
            licences(&path, found)?;
        } else if kind.is_file()
            && BEGINS.iter().any(|it| name.starts_with(it))
            && !name.ends_with(".RS")
        {
            found.insert(path);
        }
    }
    Ok(())
}

/// The standard library, of which every program has a part; with it come crates of others again, which its own file names.
fn standard_library(root: &Path) -> Result<Part> {
    let rustc =
        |argument: &[&str]| cargo::output(Command::new("rustc").current_dir(root).args(argument));
    let sysroot = rustc(&["--print", "sysroot"])?;
    let file = Path::new(sysroot.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    Ok(Part {
        name: "Rust's standard library".into(),
        version: rustc(&["--version"])?.trim().to_owned(),
        licence: "MIT OR Apache-2.0".into(),
        authors: Vec::new(),
        texts: vec![without_tags(&read(&file)?)],
    })
}

/// What a package of Debian's brought into ours, unchanged; `text` is the name of its licence among those that Debian has in common.
fn of_debian(package: &str, what: &str, licence: &str, text: &str) -> Result<Part> {
    let mut ask = Command::new("dpkg-query");
    ask.args([
        "-W",
        "-f",
        "Debian's source package ${source:Package} (= ${source:Version})",
        package,
    ]);
    let said = Path::new("/usr/share/doc").join(package).join("copyright");
    Ok(Part {
        name: what.to_owned(),
        version: cargo::output(&mut ask)?,
        licence: licence.to_owned(),
        authors: Vec::new(),
        texts: vec![read(&said)?, read(&Path::new(COMMON).join(text))?],
    })
}

fn written(parts: &[Part], mentions: &str) -> String {
    let mut list = String::from(HEAD);
    let mut texts: Vec<&str> = Vec::new();
    let mut numbers: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    for part in parts {
        let mut shown = BTreeSet::new();
        for text in &part.texts {
            let number = *numbers
                .entry(text.split_whitespace().collect())
                .or_insert_with(|| {
                    texts.push(text);
                    texts.len()
                });
            shown.insert(number);
        }
        let _ = write!(list, "{} {}: {}", part.name, part.version, part.licence);
        for number in &shown {
            let _ = write!(list, " [{number}]");
        }
        if shown.is_empty() && !part.authors.is_empty() {
            let _ = write!(list, ", by {}", part.authors.join(", "));
        }
        list.push('\n');
    }
    let _ = write!(list, "\n{}\n", mentions.trim_end());
    for (index, text) in texts.iter().enumerate() {
        let _ = write!(list, "\n---- [{}] ----\n\n", index + 1);
        for line in text.trim_matches(['\r', '\n']).lines() {
            let _ = writeln!(list, "{}", line.trim_end());
        }
    }
    list
}

/// The text of a page whose marks are not needed to read it.
fn without_tags(page: &str) -> String {
    let mut plain = String::new();
    for (index, piece) in page.split('<').enumerate() {
        let inside = if index == 0 {
            Some(piece)
        } else {
            piece.split_once('>').map(|(_, after)| after)
        };
        plain.push_str(inside.unwrap_or_default());
    }
    let named = [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#38;", "&"),
    ];
    let plain = named
        .iter()
        .fold(plain, |plain, (name, sign)| plain.replace(name, sign));
    let lines = plain
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// A text; some are not in UTF-8.
fn read(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(name: &str, texts: &[&str]) -> Part {
        Part {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: "MIT".to_owned(),
            authors: vec!["Somebody".to_owned()],
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    #[test]
    fn equal_texts_stand_there_once_and_a_part_without_one_names_its_authors() {
        let parts = [
            part("a", &["x y\n", "z"]),
            part("b", &["x\r\n  y", "x y"]),
            part("c", &[]),
        ];
        let list = written(&parts, "And others.\n");
        assert_eq!(
            list.strip_prefix(HEAD).unwrap(),
            "a 1.0.0: MIT [1] [2]\nb 1.0.0: MIT [1]\nc 1.0.0: MIT, by Somebody\n\nAnd others.\n\n---- [1] ----\n\nx y\n\n---- [2] ----\n\nz\n"
        );
    }

    #[test]
    fn what_is_linked_is_found_with_its_texts_and_what_builds_and_tests_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for (file, said) in [
            ("NOTICE", "of us"),
            ("license-mit.txt", "MIT"),
            ("license.rs", "code"),
            ("third/COPYING", "of them"),
            (".github/LICENSE.yml", "no"),
            ("terms", "ours"),
        ] {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, said).unwrap();
        }
        let package = |name: &str, source: Option<&str>, kind: &str| {
            json!({"id": name, "name": name, "version": "1.0.0", "source": source, "license": "MIT", "license_file": "terms",
                "authors": [], "manifest_path": dir.path().join("Cargo.toml"), "targets": [{"kind": [kind]}]})
        };
        let need =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let registry = Some("registry");
        let metadata = json!({
            "packages": [
                package("ours", None, "bin"), package("tool", None, "bin"), package("of-the-tool", registry, "lib"),
                package("linked", registry, "lib"), package("below", registry, "lib"), package("builds", registry, "lib"),
                package("tests", registry, "lib"), package("derives", registry, "proc-macro"), package("parses", registry, "lib"),
            ],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [need("linked", None), need("tests", Some("dev"))]},
                {"id": "tool", "deps": [need("of-the-tool", None)]},
                {"id": "linked", "deps": [need("below", None), need("builds", Some("build")), need("derives", None)]},
                {"id": "derives", "deps": [need("parses", None)]},
            ]},
        });
        let found = linked(&metadata, &["ours"].into()).unwrap();
        let names: Vec<&str> = found.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["below", "linked"]);
        assert_eq!(found[0].texts, ["of us", "MIT", "ours", "of them"]);
        assert!(linked(&metadata, &["ours", "gone"].into()).is_err());
    }

    #[test]
    fn page_is_read_without_its_marks() {
        let page = "<html><p class=\"a\">A &#60;b&#62;</p>\n\n   \n<b>C</b> D  \n</html>";
        assert_eq!(without_tags(page), "A <b>\nC D");
    }
}
