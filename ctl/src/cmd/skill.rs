//! `pawctl skill`: what skills offer, calling one of their tools as an action, and having skills come and go.

mod bundle;

use paw_api::{agent::Skill, skill::SkillChecked};
use serde_json::{Value, json};

use super::{
    action::{self, Asked},
    block, object,
};
use crate::{
    cli::{self, Format, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Skill,
) -> Result<u8, Failure> {
    match command {
        cli::Skill::List => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call("list skills", "skill.list", Params::none())
                .await?;
            out.answer(&answer, |skills: &Vec<Skill>, look| {
                let rows = skills
                    .iter()
                    .map(|skill| {
                        let tools: Vec<&str> =
                            skill.tools.iter().map(|tool| tool.name.as_str()).collect();
                        let (tone, state) = if skill.enabled {
                            (Tone::Good, "enabled")
                        } else {
                            (Tone::Bad, "disabled")
                        };
                        vec![
                            table::text(&skill.name),
                            table::text(&skill.version),
                            table::toned(tone, state),
                            table::toned(Tone::Dim, &skill.origin),
                            table::text(&tools.join(", ")),
                            table::text(&text::short(&skill.description, 60)),
                        ]
                    })
                    .collect();
                table::table(
                    &["NAME", "VERSION", "STATE", "ORIGIN", "TOOLS", "WHAT FOR"],
                    rows,
                    look,
                    "no skills are installed",
                )
            })?;
            Ok(exit::DONE)
        }
        cli::Skill::Show { name } => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call(
                    "show the skill",
                    "skill.show",
                    Params::named(json!({"name": name})),
                )
                .await?;
            out.answer(&answer, show)?;
            Ok(exit::DONE)
        }
        cli::Skill::Call {
            skill,
            tool,
            arguments,
            agent,
            session,
            wait,
        } => {
            let arguments = object("call the tool", arguments)?;
            let Value::Object(arguments) =
                json!({"skill": skill, "tool": tool, "arguments": arguments})
            else {
                unreachable!("an object was written");
            };
            let pawd = Connection::open(global).await?;
            let asked = Asked {
                kind: "tool_call",
                arguments,
                agent,
                session,
            };
            let (answer, done) = action::submit(&pawd, out, asked, wait.no_wait).await?;
            match (&done.result, out.format) {
                // A person who calls a tool wants to see what it said; the rest is in `action show`.
                (Some(result), Format::Table) => {
                    out.print(&action::outcome(result));
                    out.say(&format!("action {}", text::line(&done.id)));
                }
                _ => out.answer(&answer, action::show)?,
            }
            action::code(&done, wait.no_wait)
        }
        cli::Skill::Install { path, wait } => {
            bundle::install(global, out, &path, wait.no_wait).await
        }
        cli::Skill::Verify { name } => verify(global, out, name).await,
        cli::Skill::Enable { name, wait } => {
            let pawd = Connection::open(global).await?;
            change(
                &pawd,
                out,
                json!({"change": "enable", "skill": name}),
                wait.no_wait,
            )
            .await
        }
        cli::Skill::Disable { name } => {
            let pawd = Connection::open(global).await?;
            let params = Params::named(json!({"name": name}));
            let answer = pawd
                .call("disable the skill", "skill.disable", params)
                .await?;
            out.answer(&answer, |skill: &Skill, _| {
                format!("disabled {}\n", text::line(&skill.name))
            })?;
            Ok(exit::DONE)
        }
        cli::Skill::Remove { name, wait } => {
            let pawd = Connection::open(global).await?;
            change(
                &pawd,
                out,
                json!({"change": "remove", "skill": name}),
                wait.no_wait,
            )
            .await
        }
    }
}

/// Asks for a change, and waits until somebody has approved it and it is done.
async fn change(
    pawd: &Connection,
    out: &mut Out,
    asked: Value,
    no_wait: bool,
) -> Result<u8, Failure> {
    let Value::Object(arguments) = asked else {
        unreachable!("an object was written");
    };
    let asked = Asked {
        kind: "skill_change",
        arguments,
        agent: None,
        session: None,
    };
    let (answer, done) = action::submit(pawd, out, asked, no_wait).await?;
    match (&done.result, out.format) {
        (Some(result), Format::Table) => {
            let said = |name| result.get(name).and_then(Value::as_str).unwrap_or("");
            let did = match said("change") {
                "install" => "installed",
                "enable" => "enabled",
                _ => "removed",
            };
            let line = format!("{did} {} {}", said("skill"), said("version"));
            out.print(&format!("{}\n", text::line(line.trim_end())));
            if result.get("enabled") == Some(&Value::Bool(false)) {
                out.say(&format!("it is not enabled: {}", text::line(said("why"))));
            }
        }
        _ => out.answer(&answer, action::show)?,
    }
    action::code(&done, no_wait)
}

async fn verify(global: &Global, out: &mut Out, name: Option<String>) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let params = Params::named(json!({"name": name}));
    let answer = pawd
        .call_patiently("verify skills", "skill.verify", params)
        .await?;
    let checked: Vec<SkillChecked> = answer.read()?;
    out.answer(&answer, |checked: &Vec<SkillChecked>, look| {
        let rows = checked
            .iter()
            .map(|skill| {
                let (tone, files) = if skill.ok {
                    (Tone::Good, "as approved")
                } else {
                    (Tone::Bad, "changed")
                };
                let state = if skill.enabled { "enabled" } else { "disabled" };
                vec![
                    table::text(&skill.name),
                    table::toned(tone, files),
                    table::text(state),
                    table::text(skill.why.as_deref().unwrap_or("")),
                ]
            })
            .collect();
        table::table(
            &["NAME", "FILES", "STATE", "WHY"],
            rows,
            look,
            "no skills were installed",
        )
    })?;
    Ok(if checked.iter().all(|skill| skill.ok) {
        exit::DONE
    } else {
        exit::FAILED
    })
}

fn show(skill: &Skill, look: &Look) -> String {
    let mut shown = block(vec![
        ("Name", Some(text::line(&skill.name).into_owned())),
        ("Version", Some(text::line(&skill.version).into_owned())),
        (
            "What for",
            Some(text::line(&skill.description).into_owned()),
        ),
        ("Digest", Some(skill.digest.to_string())),
        ("Origin", Some(text::line(&skill.origin).into_owned())),
        (
            "State",
            Some(match (skill.enabled, &skill.why) {
                (true, _) => "enabled".to_owned(),
                (false, None) => "disabled".to_owned(),
                (false, Some(why)) => format!("disabled: {}", text::line(why)),
            }),
        ),
        (
            "Sees of host",
            Some(text::line(&skill.mounts.join("; ")).into_owned()).filter(|it| !it.is_empty()),
        ),
        (
            "Announced",
            skill.announced.map(|announced| announced.to_string()),
        ),
    ]);
    if let Some(instructions) = &skill.instructions {
        shown.push('\n');
        for line in instructions.lines() {
            shown.push_str(&text::line(line));
            shown.push('\n');
        }
    }
    for tool in &skill.tools {
        let head = look.paint(Tone::Bold, &text::line(&tool.name));
        shown.push_str(&format!(
            "\n{head} ({}): {}\n",
            tool.class,
            text::line(&tool.description)
        ));
        let required = tool.input_schema.get("required").and_then(Value::as_array);
        for (name, schema) in tool
            .input_schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let kind = schema.get("type").and_then(Value::as_str).unwrap_or("any");
            let must = required.is_some_and(|names| names.iter().any(|required| required == name));
            let said = schema
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or("");
            let must = if must { "" } else { ", optional" };
            shown.push_str(&text::line(
                format!("  {name} ({kind}{must}) {said}").trim_end(),
            ));
            shown.push('\n');
        }
    }
    shown
}
