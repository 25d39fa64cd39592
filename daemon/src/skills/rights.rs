//! What a skill may do, as a person is shown it: one line for each right, so that two versions can be compared.

use std::collections::{BTreeMap, BTreeSet};

use paw_launch::request::Image;
use paw_policy::{Digest, plan::canonical};
use serde_json::{Map, Value, json};

use super::signs::signs;
use crate::{
    records::shorten_to,
    sandbox::{Sees, Skill, Tool, manifest::UNSAID},
};

/// How much of a description, or of a schema, is shown, in characters.
const SAID: usize = 300;

/// What a skill may do, for the plan of its approval.
#[must_use]
pub fn rights(skill: &Skill) -> Map<String, Value> {
    let classes: Map<String, Value> = if skill.announces {
        let said = skill
            .classes
            .iter()
            .map(|(name, class)| (name.as_str(), class));
        let all = said.chain([("*", &UNSAID)]);
        all.map(|(name, class)| (name.to_owned(), json!(class)))
            .collect()
    } else {
        let tools = skill.tools.iter();
        tools
            .map(|(name, tool)| (name.clone(), json!(tool.class)))
            .collect()
    };
    let net: Vec<String> = skill.net.iter().map(ToString::to_string).collect();
    let value = json!({
        "image": image(&skill.image),
        "command": skill.command,
        "workspace": skill.workspace,
        "net": net,
        "limits": skill.limits,
        "tools": classes,
    });
    match value {
        Value::Object(mut members) => {
            let urls = skill.tools.iter();
            let urls =
                urls.filter_map(|(name, tool)| Some((name.clone(), json!(tool.url.as_ref()?))));
            let urls: Map<String, Value> = urls.collect();
            if !urls.is_empty() {
                members.insert("urls".to_owned(), Value::Object(urls));
            }
            let confidential = skill.tools.iter();
            let confidential = confidential
                .filter_map(|(name, tool)| Some((name.clone(), json!(tool.confidentiality?))));
            let confidential: Map<String, Value> = confidential.collect();
            if !confidential.is_empty() {
                members.insert("confidential".to_owned(), Value::Object(confidential));
            }
            if !skill.idempotent.is_empty() {
                members.insert("idempotent".to_owned(), json!(skill.idempotent));
            }
            if !skill.mounts.is_empty() {
                members.insert("mounts".to_owned(), json!(skill.mounts));
            }
            if !skill.secrets.is_empty() {
                members.insert("secrets".to_owned(), json!(skill.secrets));
            }
            members
        }
        _ => Map::new(),
    }
}

/// How what `new` may do differs from what `old` may, or from nothing: `+` for what it gets, `-` for what it loses. Behind that, with
/// `!`, what in the words of `new` bears signs of an attack, whether `old` said it, too, or not.
#[must_use]
pub fn difference(old: Option<&Skill>, new: Option<&Skill>) -> Vec<String> {
    let signed = new;
    let lines = |skill: Option<&Skill>| skill.map(lines).unwrap_or_default();
    let (old, new) = (lines(old), lines(new));
    let lost = old.difference(&new).map(|line| format!("- {line}"));
    let got = new.difference(&old).map(|line| format!("+ {line}"));
    let signs = signed.map(signs).unwrap_or_default();
    let signs = signs.into_iter().map(|line| format!("! {line}"));
    lost.chain(got).chain(signs).collect()
}

/// What a program says of its tools, one line for each, and how that differs from what was approved of it: `=` for what is as before.
#[must_use]
pub fn announced(old: &BTreeMap<String, Tool>, new: &BTreeMap<String, Tool>) -> Vec<String> {
    let (old, new) = (said(old), said(new));
    let lost = old.difference(&new).map(|line| format!("- {line}"));
    let each = new.iter().map(|line| {
        let sign = if old.contains(line) { '=' } else { '+' };
        format!("{sign} {line}")
    });
    lost.chain(each).collect()
}

/// In what is elided, every byte counts by its digest.
fn said(tools: &BTreeMap<String, Tool>) -> BTreeSet<String> {
    let line = |(name, tool): (&String, &Tool)| {
        let schema = canonical(&tool.input);
        let digest = Digest::of(format!("{}\0{schema}", tool.description).as_bytes());
        let [description, schema] = [&tool.description, &schema].map(|it| shorten_to(it, SAID));
        format!("says of {name}: {description:?} {schema} ({digest})")
    };
    tools.iter().map(line).collect()
}

fn lines(skill: &Skill) -> BTreeSet<String> {
    let mut lines = BTreeSet::from([
        format!("image {}", image(&skill.image)),
        format!("command {:?}", skill.command),
    ]);
    match skill.workspace {
        Sees::Nothing => {}
        Sees::Workspace => drop(lines.insert("workspace of the agent".to_owned())),
        Sees::Own => drop(lines.insert("directory of its own for each agent".to_owned())),
    }
    lines.extend(skill.net.iter().map(|rule| format!("net {rule}")));
    let mounts = skill.mounts.iter();
    lines.extend(mounts.map(|it| format!("mount {} of the host", it.told())));
    let secrets = skill.secrets.iter();
    lines.extend(secrets.map(|name| format!("secret {name}, which a broker adds to its requests")));
    if let Ok(Value::Object(limits)) = serde_json::to_value(skill.limits) {
        lines.extend(
            limits
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| format!("limit {name} {value}")),
        );
    }
    if skill.announces {
        let said = skill.classes.iter();
        lines.extend(said.map(|(name, class)| {
            let again = again(skill.idempotent.contains(name));
            format!("tool {name}: {class}{again}")
        }));
        lines.insert(format!(
            "tool (any other that its program announces): {UNSAID}"
        ));
    } else {
        let tools = skill.tools.iter();
        lines.extend(tools.map(|(name, tool)| {
            let host = tool.url.as_ref().map_or_else(String::new, |url| {
                let methods = url.methods.join(" and ");
                format!(
                    ", {methods} to the host that its argument {} names",
                    url.argument
                )
            });
            let again = again(tool.idempotent);
            let gives = tool.confidentiality.map_or_else(String::new, |it| {
                format!(", what it gives back is {}", it.as_str())
            });
            format!("tool {name}: {}{host}{again}{gives}", tool.class)
        }));
    }
    lines
}

const fn again(idempotent: bool) -> &'static str {
    if idempotent {
        ", done again when it was interrupted"
    } else {
        ""
    }
}

fn image(image: &Image) -> String {
    match image {
        Image::Host => "host".to_owned(),
        Image::Named(name) => name.to_string(),
        Image::Dir(path) => path.display().to_string(),
    }
}
