//! The tools as a model sees them: arguments in, bounded text out.

use paw_skill::{Fault, Said, Skill, read};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::notes::Notes;

/// Most lines that a search shows, and how much of each, in characters.
const MAX_HITS: usize = 100;
const MAX_LINE: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    name: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    text: String,
}

/// The skill.
pub(crate) struct Memory(pub(crate) Notes);

impl Skill for Memory {
    fn call(&mut self, tool: &str, arguments: Value) -> Result<Said, Fault> {
        match tool {
            "list" => {
                let Nothing {} = read(arguments)?;
                self.list()
            }
            "read" => self.read(&read(arguments)?),
            "search" => self.search(&read(arguments)?),
            "save" => self.save(&read(arguments)?),
            "forget" => self.forget(&read(arguments)?),
            _ => Err(Fault::NoTool),
        }
    }
}

impl Memory {
    fn list(&self) -> Result<Said, Fault> {
        let notes = self.0.list()?;
        let mut text = String::new();
        for note in &notes {
            text += &format!(
                "{} (version {}, {} bytes)\n",
                note.name, note.version, note.size
            );
        }
        if notes.is_empty() {
            text += "(no notes)\n";
        }
        Ok(said(text, json!({"notes": notes})))
    }

    fn read(&self, Named { name, version }: &Named) -> Result<Said, Fault> {
        let (version, text) = self.0.read(name, *version)?;
        let beside = json!({"name": name, "version": version});
        Ok(said(text, beside))
    }

    fn search(&self, Wanted { text: wanted }: &Wanted) -> Result<Said, Fault> {
        let wanted = wanted.to_lowercase();
        let (mut text, mut hits, mut more) = (String::new(), Vec::new(), false);
        for note in self.0.list()? {
            let (_, content) = self.0.read(&note.name, None)?;
            for line in content.lines() {
                if !line.to_lowercase().contains(&wanted) {
                    continue;
                }
                if hits.len() == MAX_HITS {
                    more = true;
                    break;
                }
                let line: String = line.chars().take(MAX_LINE).collect();
                text += &format!("{}: {line}\n", note.name);
                hits.push(json!({"name": note.name, "text": line}));
            }
        }
        if hits.is_empty() {
            text += "(nothing found)\n";
        }
        if more {
            text += "(there is more; look for something rarer)\n";
        }
        Ok(said(text, json!({"hits": hits, "truncated": more})))
    }

    fn save(&self, Saved { name, text }: &Saved) -> Result<Said, Fault> {
        let version = self.0.save(name, text)?;
        let told = format!("saved {name} as version {version}");
        Ok(said(told, json!({"name": name, "version": version})))
    }

    fn forget(&self, Named { name, .. }: &Named) -> Result<Said, Fault> {
        self.0.forget(name)?;
        Ok(said(format!("forgot {name}"), json!({"name": name})))
    }
}

fn said(text: String, structured: Value) -> Said {
    Said { text, structured }
}
