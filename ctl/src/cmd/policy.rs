//! `pawctl policy`: the rules in force, and a check of rule files that needs no pawd.

use std::path::{Path, PathBuf};

use paw_api::system::Rule;
use paw_policy::{Fault, Rules};
use serde_json::json;

use super::action;
use crate::{
    cli::{self, Format, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Out, Tone, text},
};

/// The longest rule file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Policy,
) -> Result<u8, Failure> {
    match command {
        cli::Policy::Show => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call("show the rules", "policy.show", Params::none())
                .await?;
            out.answer(&answer, |rules: &Vec<Rule>, look| {
                let shown: Vec<String> = rules
                    .iter()
                    .map(|rule| {
                        format!(
                            "{}\n{}\n",
                            look.paint(Tone::Bold, &format!("// {}", text::line(&rule.id))),
                            text::plain(rule.text.trim())
                        )
                    })
                    .collect();
                shown.join("\n")
            })?;
            Ok(exit::DONE)
        }
        cli::Policy::Check { files } => check(out, files_of(global, files)?),
        cli::Policy::Explain { id } => action::explain(global, out, &id).await,
    }
}

/// The files that were named, or all of this host's.
fn files_of(global: &Global, named: Vec<PathBuf>) -> Result<Vec<(String, String)>, Failure> {
    let paths = if named.is_empty() {
        installed(global)?
    } else {
        named
    };
    paths
        .iter()
        .map(|path| Ok((path.display().to_string(), read(path)?)))
        .collect()
}

fn installed(global: &Global) -> Result<Vec<PathBuf>, Failure> {
    let directory = match &global.root {
        Some(root) => root.join("etc/policy"),
        None => PathBuf::from("/etc/pawd/policy"),
    };
    let doing = format!("list {}", directory.display());
    let entries =
        std::fs::read_dir(&directory).map_err(|error| Failure::io(doing.clone(), &error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| Failure::io(doing.clone(), &error))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "cedar")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, Failure> {
    let doing = format!("read {}", path.display());
    let size = std::fs::metadata(path)
        .map_err(|error| Failure::io(doing.clone(), &error))?
        .len();
    if size > MAX_FILE {
        let why = format!("it has {size} bytes; at most {MAX_FILE} are read");
        return Err(Failure::Local {
            doing,
            why,
            remedy: "is it a rule file?".to_owned(),
        });
    }
    std::fs::read_to_string(path).map_err(|error| Failure::io(doing, &error))
}

fn check(out: &mut Out, files: Vec<(String, String)>) -> Result<u8, Failure> {
    let (rules, faults) = match Rules::parse(&files) {
        Ok(rules) => (rules.iter().count(), Vec::new()),
        Err(faults) => (0, faults),
    };
    match out.format {
        Format::Table => {
            for fault in &faults {
                let shown = shown(fault, out);
                out.print(&shown);
            }
            if faults.is_empty() {
                let dot = out.look.dot(Tone::Good);
                out.print(&format!(
                    "{dot} {rules} rules in {} files are valid\n",
                    files.len()
                ));
            }
        }
        Format::Json | Format::Jsonl => {
            let faults: Vec<_> = faults
                .iter()
                .map(|fault| json!({"file": fault.file, "line": fault.line, "column": fault.column, "message": fault.message, "hint": fault.hint}))
                .collect();
            out.json(
                &json!({"ok": faults.is_empty(), "rules": rules, "faults": faults}).to_string(),
            );
        }
    }
    Ok(if faults.is_empty() {
        exit::DONE
    } else {
        exit::FAILED
    })
}

fn shown(fault: &Fault, out: &Out) -> String {
    let place = format!("{}:{}:{}:", fault.file, fault.line, fault.column);
    let hint = fault
        .hint
        .as_deref()
        .map_or_else(String::new, |hint| format!("  do:  {}\n", text::line(hint)));
    format!(
        "{} {}\n{hint}",
        out.look.paint(Tone::Bold, &text::line(&place)),
        text::line(&fault.message)
    )
}
