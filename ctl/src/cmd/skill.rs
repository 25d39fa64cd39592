//! `pawctl skill`: what skills offer, and calling one of their tools as an action.

use paw_api::agent::Skill;
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
                        vec![
                            table::text(&skill.name),
                            table::text(&skill.version),
                            table::text(&tools.join(", ")),
                            table::text(&text::short(&skill.description, 60)),
                        ]
                    })
                    .collect();
                table::table(
                    &["NAME", "VERSION", "TOOLS", "WHAT FOR"],
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
    }
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
    ]);
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
