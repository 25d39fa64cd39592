//! `pawctl policy`: the rules in force, and a check of rule files that needs no pawd.

use std::path::{Path, PathBuf};

use paw_api::system::{Explanation, Reloaded, Rule};
use paw_policy::{
    Decision, Fault, Rules,
    cases::{Case, Cases, Said},
};
use serde_json::json;

use super::{action, caller};
use crate::{
    cli::{self, Format, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
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
        cli::Policy::Test { file, rules } => test(out, &file, files_of(global, rules)?),
        cli::Policy::Explain { id } => explain(global, out, &id).await,
        cli::Policy::Reload => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call("read the rules again", "policy.reload", Params::none())
                .await?;
            out.answer(&answer, |done: &Reloaded, look| {
                let said = if done.changed.is_empty() {
                    "the rules are as before"
                } else {
                    "other rules are in force"
                };
                format!("{} {said}\n", look.dot(Tone::Good))
            })?;
            Ok(exit::DONE)
        }
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

/// Tries cases. A case that cannot be read is a fault of the file; one that is otherwise than expected is a failure.
fn test(out: &mut Out, file: &Path, files: Vec<(String, String)>) -> Result<u8, Failure> {
    let rules = match Rules::parse(&files) {
        Ok(rules) => rules,
        Err(_) => return check(out, files),
    };
    let cases = cases(file)?;
    let tried: Vec<Tried> = cases
        .into_iter()
        .map(|case| {
            let said = case.judge(&rules);
            let wrong = match &said {
                Ok(said) => case.differs(said),
                Err(why) => Some(why.clone()),
            };
            (case.name, said.ok(), wrong)
        })
        .collect();
    let failed = tried.iter().filter(|(_, _, wrong)| wrong.is_some()).count();
    match out.format {
        Format::Table => {
            let shown = tried_table(&tried, &out.look);
            out.print(&shown);
            let tone = if failed == 0 { Tone::Good } else { Tone::Bad };
            let dot = out.look.dot(tone);
            out.print(&format!(
                "\n{dot} {} of {} cases are as expected\n",
                tried.len() - failed,
                tried.len()
            ));
        }
        Format::Json | Format::Jsonl => {
            let cases: Vec<_> = tried
                .iter()
                .map(|(name, said, wrong)| {
                    json!({
                        "name": name,
                        "ok": wrong.is_none(),
                        "decision": said.as_ref().map(|said| said.decision),
                        "risk": said.as_ref().map(|said| said.risk),
                        "rules": said.as_ref().map(|said| &said.rules),
                        "wrong": wrong,
                    })
                })
                .collect();
            out.json(&json!({"ok": failed == 0, "failed": failed, "cases": cases}).to_string());
        }
    }
    Ok(if failed == 0 {
        exit::DONE
    } else {
        exit::FAILED
    })
}

/// A case's name, what the rules said, and what is wrong with that.
type Tried = (String, Option<Said>, Option<String>);

fn tried_table(tried: &[Tried], look: &Look) -> String {
    let rows = tried
        .iter()
        .map(|(name, said, wrong)| {
            let tone = if wrong.is_none() {
                Tone::Good
            } else {
                Tone::Bad
            };
            let (decision, risk, rules) = match said {
                Some(said) => (
                    said.decision.as_str(),
                    said.risk.as_str(),
                    said.rules.join(", "),
                ),
                None => ("-", "-", String::new()),
            };
            vec![
                table::toned(tone, if wrong.is_none() { "ok" } else { "WRONG" }),
                table::text(name),
                table::text(decision),
                table::text(risk),
                table::text(&rules),
                table::text(wrong.as_deref().unwrap_or("")),
            ]
        })
        .collect();
    let head = ["", "CASE", "DECISION", "RISK", "RULES", "WRONG"];
    table::table(&head, rows, look, "no cases")
}

fn cases(file: &Path) -> Result<Vec<Case>, Failure> {
    let text = read(file)?;
    let json = file.extension().is_some_and(|ending| ending == "json");
    let parsed: Result<Cases, String> = if json {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| error.to_string())
    };
    let cases = parsed.map_err(|why| Failure::Local {
        doing: format!("read {}", file.display()),
        why,
        remedy: "see paw-policy(5) for what a case says".to_owned(),
    })?;
    Ok(cases.cases)
}

pub(super) async fn explain(global: &Global, out: &mut Out, id: &str) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let params = Params::named(json!({"id": id}));
    let answer = pawd
        .call("explain the action", "policy.explain", params)
        .await?;
    out.answer(&answer, explained)?;
    Ok(exit::DONE)
}

fn explained(why: &Explanation, look: &Look) -> String {
    let meaning = match why.decision {
        Decision::Allow => "it may be done as it is",
        Decision::Ask => "a person has to approve exactly this plan",
        Decision::Deny => "it may not be done",
    };
    let mut shown = format!("{}: {}\n", text::line(&why.id), text::line(&why.summary));
    shown.push_str(&table::block(&[
        ("Decision", format!("{}: {meaning}", why.decision)),
        (
            "Risk",
            format!(
                "{}: {}",
                look.paint(action::risk_tone(why.risk), why.risk.as_str()),
                text::line(&why.risk_because)
            ),
        ),
        ("Asked by", caller(&why.principal)),
    ]));
    if why.rules.is_empty() {
        shown.push_str("\nNo rule permits it, and what no rule permits is denied.\n");
    }
    for rule in &why.rules {
        let said = match (&rule.effect, &rule.place) {
            (Some(effect), Some(place)) => format!("{} ({effect}, {place})", rule.id),
            _ => rule.id.clone(),
        };
        let text = rule.text.as_deref();
        let text = text.map_or("this rule is no longer in force", str::trim);
        shown.push_str(&format!(
            "\n{}\n",
            look.paint(Tone::Bold, &text::line(&said))
        ));
        if let Some(reason) = &rule.reason {
            shown.push_str(&format!("{}\n", text::line(reason)));
        }
        shown.push_str(&format!("{}\n", text::plain(text)));
    }
    shown.push_str(&format!("\n{}\n", look.paint(Tone::Bold, "Facts")));
    for (name, value) in &why.facts {
        // Whatever a path or model is called, it is one line that shows what is in it.
        let value = text::visible(&value.to_string(), false);
        shown.push_str(&format!("{name:>12}: {}\n", text::short(&value, 200)));
    }
    if (why.now.decision, &why.now.rules) != (why.decision, &ids(why)) {
        let rules = match why.now.rules.as_slice() {
            [] => "no rule".to_owned(),
            rules => text::line(&rules.join(", ")).into_owned(),
        };
        shown.push_str(&format!(
            "\nThe rules in force now say {} ({rules}).\n",
            why.now.decision
        ));
    }
    shown
}

fn ids(why: &Explanation) -> Vec<String> {
    why.rules.iter().map(|rule| rule.id.clone()).collect()
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
