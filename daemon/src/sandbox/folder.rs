//! A folder with a `SKILL.md`, the format in which agent skills are shared: instructions, and scripts that are run by one tool.
//!
//! It says no rights, so it has the same as every other one: its scripts are commands of the caller's choice, in a sandbox without a
//! network, with the agent's workspace. They are run by the shipped skill `shell`, mounted beside it.

use std::{collections::BTreeMap, path::Path};

use paw_launch::request::{Image, Limits};
use paw_policy::{Digest, ToolClass};
use serde_json::json;

use super::{
    ManifestError, Provenance, Skill, Tool,
    manifest::{MAX_TEXT, text_of},
    seal::sorted,
    sees::Sees,
};

/// The file that makes a folder a skill.
pub(super) const FOLDER: &str = "SKILL.md";

/// The longest instructions, in bytes.
const MAX_INSTRUCTIONS: u64 = 128 * 1024;

/// Scripts that are named in the description of the tool; more can be run and are in the instructions.
const NAMED: usize = 64;

const LIMITS: Limits = Limits {
    cpu_milli: 2_000,
    memory: 512 << 20,
    disk: 64 << 20,
    pids: 128,
    open_files: 256,
    wall_ms: 120_000,
    io_weight: None,
};

/// Reads the folder.
pub(super) fn read(dir: &Path, digest: Digest, origin: Provenance) -> Result<Skill, ManifestError> {
    let path = dir.join(FOLDER);
    let text = text_of(&path, MAX_INSTRUCTIONS, "128 KiB for SKILL.md")?;
    let value = |field: &str, why: String| ManifestError::Value {
        path: path.clone(),
        field: field.to_owned(),
        why,
    };
    let (head, instructions) = split(&text).ok_or_else(|| {
        let why = "it begins with a line `---`, fields, and another line `---`".to_owned();
        value("the first line", why)
    })?;
    let fields = fields(head);
    let field = |name: &str| fields.get(name).map(String::as_str);
    let name = field("name").ok_or_else(|| value("name", "it is missing".to_owned()))?;
    let name = name
        .parse()
        .map_err(|bad: paw_policy::words::BadName| value("name", bad.to_string()))?;
    let description = field("description")
        .filter(|text| !text.is_empty() && text.len() <= MAX_TEXT)
        .ok_or_else(|| value("description", "1 to 4096 bytes are expected".to_owned()))?
        .to_owned();
    let version = field("version").unwrap_or("0");
    if version.is_empty() || version.len() > 64 {
        return Err(value("version", "1 to 64 bytes are expected".to_owned()));
    }
    let scripts = scripts(dir)?;
    let mut tools = BTreeMap::new();
    if !scripts.is_empty() {
        let named = scripts.iter().take(NAMED).cloned().collect::<Vec<_>>();
        let input = json!({
            "type": "object",
            "properties": {
                "script": {"type": "string", "description": "Its path in the skill."},
                "arguments": {"type": "array", "items": {"type": "string"}, "description": "What it is started with."},
                "stdin": {"type": "string", "description": "What it reads from its stdin; nothing when left out."},
            },
            "required": ["script"],
            "additionalProperties": false,
        });
        let tool = Tool {
            class: ToolClass::Exec,
            description: format!("Run a script of this skill: {}.", named.join(", ")),
            input,
            item: None,
            blind: false,
            url: None,
            idempotent: false,
            confidentiality: None,
        };
        tools.insert("run_script".to_owned(), tool);
    }
    Ok(Skill {
        name,
        version: version.to_owned(),
        description,
        command: ["/shell/bin/paw-shell", "--scripts", "/skill"]
            .map(str::to_owned)
            .to_vec(),
        image: Image::Host,
        workspace: Sees::Workspace,
        net: Vec::new(),
        mounts: Vec::new(),
        secrets: std::collections::BTreeSet::new(),
        limits: LIMITS,
        tools,
        announces: false,
        classes: BTreeMap::new(),
        idempotent: std::collections::BTreeSet::new(),
        announced: None,
        instructions: Some(instructions.trim().to_owned()),
        origin,
        digest,
    })
}

/// What stands between the first two lines `---`, and what follows.
fn split(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("---")?.trim_start_matches('\r');
    let rest = rest.strip_prefix('\n')?;
    let end = rest.find("\n---")?;
    let after = &rest[end + 4..];
    let after = after.strip_prefix('\r').unwrap_or(after);
    // Only a line that is nothing else ends it.
    (after.is_empty() || after.starts_with('\n')).then(|| (&rest[..end], after))
}

/// The fields of the head that are texts: of YAML, the part that such files use. What else it holds says nothing here.
fn fields(head: &str) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut folded: Option<String> = None;
    for line in head.lines() {
        let indented = line.starts_with([' ', '\t']);
        // Below `metadata` there may be a version, and nothing else that counts.
        if indented && folded.as_deref() == Some("metadata") {
            if let Some(said) = line.trim().strip_prefix("version:") {
                fields.insert("version".to_owned(), unquoted(said.trim()));
            }
            continue;
        }
        if let (true, Some(name)) = (indented, &folded) {
            let text = fields.entry(name.clone()).or_default();
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(line.trim());
            continue;
        }
        folded = None;
        let Some((name, said)) = line.split_once(':') else {
            continue;
        };
        if indented {
            continue;
        }
        let (name, said) = (name.trim().to_owned(), said.trim());
        if matches!(said, "" | ">" | ">-" | "|" | "|-") {
            folded = Some(name);
        } else {
            fields.insert(name, unquoted(said));
        }
    }
    fields
}

fn unquoted(said: &str) -> String {
    let inner = |quote: char| said.strip_prefix(quote)?.strip_suffix(quote);
    match (inner('"'), inner('\'')) {
        (Some(text), _) => text.replace("\\\"", "\"").replace("\\\\", "\\"),
        (None, Some(text)) => text.replace("''", "'"),
        (None, None) => said.to_owned(),
    }
}

/// What is below `scripts`, by its path in the folder.
fn scripts(dir: &Path) -> Result<Vec<String>, ManifestError> {
    let mut found = Vec::new();
    let mut look = vec![(dir.join("scripts"), "scripts/".to_owned())];
    while let Some((dir, prefix)) = look.pop() {
        if !dir.is_dir() {
            continue;
        }
        for path in sorted(&dir)? {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = format!("{prefix}{}", name.unwrap_or_default());
            if path.is_dir() {
                look.push((path, format!("{name}/")));
            } else {
                found.push(name);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sandbox::manifest::read_bundle;

    fn folder(text: &str, scripts: &[&str]) -> Result<Skill, ManifestError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FOLDER), text).unwrap();
        for script in scripts {
            let path = dir.path().join(script);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        read_bundle(dir.path(), Provenance::Installed)
    }

    #[test]
    fn folder_is_read_as_a_skill_of_one_tool_that_is_as_dangerous_as_a_command() {
        let skill = folder(
            "---\nname: pdf\ndescription: >\n  Fills in\n  forms.\nlicense: MIT\nallowed-tools: Bash(*)\nmetadata:\n  version: \"1.2\"\n---\n\n# PDF\n\nDo this.\n",
            &["scripts/fill.py", "scripts/more/check.sh", "reference.md"],
        )
        .unwrap();
        assert_eq!(
            (skill.name.as_str(), skill.version.as_str()),
            ("pdf", "1.2")
        );
        assert_eq!(skill.description, "Fills in forms.");
        assert_eq!(skill.instructions.as_deref(), Some("# PDF\n\nDo this."));
        assert!(skill.net.is_empty() && !skill.announces);
        let tool = &skill.tools["run_script"];
        assert_eq!((skill.tools.len(), tool.class), (1, ToolClass::Exec));
        assert!(
            tool.description
                .contains("scripts/fill.py, scripts/more/check.sh")
        );
    }

    #[test]
    fn instructions_without_scripts_have_no_tool() {
        let skill = folder("---\nname: a\ndescription: 'It''s b'\n---\nc\n", &[]).unwrap();
        assert!(skill.tools.is_empty() && !skill.announces);
        assert_eq!(skill.description, "It's b");
    }

    #[test]
    fn folder_that_does_not_say_what_it_is_is_refused() {
        for (text, expected) in [
            ("# PDF\n", "the first line"),
            ("---\nname: a\n", "the first line"),
            ("---\nname: ../a\ndescription: b\n---\n", "name"),
            ("---\ndescription: b\n---\n", "name: it is missing"),
            ("---\nname: a\n---\n", "description"),
        ] {
            let fault = folder(text, &[]).unwrap_err().to_string();
            assert!(fault.contains(expected), "{text:?}: {fault}");
        }
    }
}
