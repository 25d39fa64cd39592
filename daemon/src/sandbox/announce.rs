//! What the program of a skill announces of itself: asked once when the skill is approved, and compared before each call.
//!
//! Names, descriptions and schemas are words of the program, and what a model is told. So they are bounded, they belong to what was
//! approved, and a program that says something else later is not asked at all. What it says of how harmless a tool is counts
//! for nothing: the class is the manifest's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use paw_launch::request::{Isolation, Runtime, SandboxId};
use paw_policy::{
    Digest, Name, ToolClass,
    plan::{canonical, is_deeper_than},
};
use rmcp::model::{PaginatedRequestParams, Tool as Listed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    least::plan,
    manifest::{MAX_TEXT, MAX_TOOLS, Skill, Tool, UNSAID, is_tool_name},
    mcp::{Client, END_LIMIT, MAX_PAGES, McpError, Trouble, answer, trouble},
    pool::Origin,
};

/// The longest schema of one tool, as text, in bytes.
const MAX_SCHEMA: usize = 64 * 1024;

/// Bytes of all schemas and descriptions of one skill; a model is told half of it at most.
const MAX_TOGETHER: usize = 256 * 1024;

/// How deep a schema may be nested; what is checked of arguments goes as deep.
pub(super) const MAX_DEPTH: usize = 32;

/// What a manifest may say of tools that its program will announce.
///
/// # Errors
/// Which field is wrong, and why.
pub(super) fn may_say(
    declares: bool,
    classes: &BTreeMap<String, ToolClass>,
    idempotent: &BTreeSet<String>,
) -> Result<(), (&'static str, &'static str)> {
    if declares && !classes.is_empty() {
        let why = "tools that are declared have their class beside them";
        return Err(("classes", why));
    }
    if classes.len() > MAX_TOOLS || !classes.keys().all(|name| is_tool_name(name)) {
        return Err(("classes", "at most 256 names of tools are expected"));
    }
    if declares && !idempotent.is_empty() {
        let why = "tools that are declared say it beside their class";
        return Err(("idempotent", why));
    }
    if !idempotent.iter().all(|name| classes.contains_key(name)) {
        let why = "names of tools that have a class in [classes] are expected";
        return Err(("idempotent", why));
    }
    Ok(())
}

/// What a program announced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announced {
    /// Its tools, with the class that the manifest gives each.
    pub tools: BTreeMap<String, Tool>,
    /// Digest over names, descriptions and schemas of all of them.
    pub digest: Digest,
}

/// Has the program of a skill say in a sandbox of its own what tools it has. The sandbox is that of the least of its tools: it
/// reaches nothing and writes nothing.
///
/// # Errors
/// When it does not say it as it must, or more than is taken; see [`McpError`].
pub async fn announce(
    origin: Origin,
    skill: &Skill,
    agent: &Name,
    (runtime, floor): (Runtime, Isolation),
    (id, owner): (SandboxId, u32),
    limit: Duration,
) -> Result<Announced, McpError> {
    let failed = |source| McpError::Sandbox {
        skill: skill.name.clone(),
        source,
    };
    let plan = plan(
        skill,
        ToolClass::ReadPublic,
        agent,
        (runtime, floor),
        (id, owner),
    );
    let mut sandbox = origin.sandbox(plan).await.map_err(failed)?;
    let limit = limit.min(Duration::from_millis(skill.limits.wall_ms));
    let listed = answer(
        &mut sandbox,
        None,
        skill,
        limit,
        |client: Client| async move {
            let listed = list(&client, false).await?;
            checked(skill, listed).map_err(|why| wrong(why, false))
        },
    )
    .await;
    match listed {
        Ok(announced) => {
            sandbox.end(END_LIMIT).await.map_err(failed)?;
            Ok(announced)
        }
        Err(unanswered) => Err(unanswered.ended(sandbox, skill).await),
    }
}

/// Whether a program announces what it announced when the skill was approved.
pub(super) async fn compare(client: &Client, pinned: &Digest) -> Result<(), Trouble> {
    let listed = list(client, true).await?;
    if digest(&listed) == *pinned {
        return Ok(());
    }
    let names: Vec<_> = listed
        .iter()
        .take(8)
        .map(|tool| super::mcp::bounded(&tool.name))
        .collect();
    Err(Trouble {
        step: "tools/list",
        why: Some(format!(
            "its program announces other tools, descriptions or schemas ({} tools: {})",
            listed.len(),
            names.join(", ")
        )),
        drifted: true,
    })
}

/// Every page of its tools. Saying too much is drift in one that was approved.
pub(super) async fn list(client: &Client, approved: bool) -> Result<Vec<Listed>, Trouble> {
    let (mut tools, mut cursor) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let page = client
            .list_tools(Some(PaginatedRequestParams::default().with_cursor(cursor)))
            .await
            .map_err(|fault| trouble("tools/list", fault))?;
        tools.extend(page.tools);
        if tools.len() > MAX_TOOLS {
            return Err(wrong(
                format!("it announces more than {MAX_TOOLS} tools, which is the most"),
                approved,
            ));
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(tools);
        }
    }
    Err(wrong(
        format!("it announces its tools in more than {MAX_PAGES} pages"),
        approved,
    ))
}

pub(super) fn checked(skill: &Skill, listed: Vec<Listed>) -> Result<Announced, String> {
    if listed.is_empty() {
        return Err("it announces no tool".to_owned());
    }
    let digest = digest(&listed);
    let (mut tools, mut together) = (BTreeMap::new(), 0);
    for tool in listed {
        let name = tool.name.to_string();
        let shown = super::mcp::bounded(&name);
        if !is_tool_name(&name) {
            return Err(format!(
                "it announces a tool {shown:?}; a name is 1 to 64 letters, digits, '_', '-' and '.'"
            ));
        }
        let description = tool.description.unwrap_or_default().to_string();
        if description.len() > MAX_TEXT {
            return Err(format!(
                "the description of {shown} has {} bytes; at most {MAX_TEXT} are taken",
                description.len()
            ));
        }
        let input = Value::Object((*tool.input_schema).clone());
        let text = input.to_string();
        if input.get("type").and_then(Value::as_str) != Some("object") || text.len() > MAX_SCHEMA {
            return Err(format!(
                "the schema of {shown} is not one of an object, or longer than {MAX_SCHEMA} bytes"
            ));
        }
        if is_deeper_than(MAX_DEPTH, text.as_bytes()) {
            return Err(format!(
                "the schema of {shown} is nested deeper than {MAX_DEPTH}"
            ));
        }
        together += text.len() + description.len();
        if together > MAX_TOGETHER {
            return Err(format!(
                "it announces schemas and descriptions of more than {MAX_TOGETHER} bytes together"
            ));
        }
        let class = skill.classes.get(&name).copied().unwrap_or(UNSAID);
        let idempotent = skill.idempotent.contains(&name);
        let known = Tool {
            class,
            description,
            input,
            item: None,
            blind: false,
            url: None,
            idempotent,
            confidentiality: None,
        };
        if tools.insert(name, known).is_some() {
            return Err(format!("it announces {shown} twice"));
        }
    }
    if let Some(missing) = skill.classes.keys().find(|name| !tools.contains_key(*name)) {
        return Err(format!(
            "its manifest gives {missing} a class, and its program does not announce it"
        ));
    }
    Ok(Announced { tools, digest })
}

/// Over everything that it says, in whatever order it says it.
fn digest(listed: &[Listed]) -> Digest {
    let mut lines: Vec<String> = listed
        .iter()
        .map(|tool| canonical(&json!(tool)) + "\n")
        .collect();
    lines.sort();
    Digest::of(lines.concat().as_bytes())
}

fn wrong(why: String, drifted: bool) -> Trouble {
    Trouble {
        step: "tools/list",
        why: Some(why),
        drifted,
    }
}
