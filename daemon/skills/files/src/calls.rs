//! The tools as a model sees them: arguments in, bounded text out.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use paw_skill::{Fault, Said, Skill, read};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    change::Edit,
    path::Inside,
    search::Wanted,
    tree::{MAX_DEPTH, MAX_ENTRIES, MAX_READ, Tree},
};

/// Bytes of a read when the caller does not say.
const USUAL_READ: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    path: String,
    #[serde(default)]
    depth: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    path: String,
    #[serde(default)]
    offset: Option<u64>,
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchArguments {
    #[serde(default)]
    path: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    ignore_case: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteArguments {
    path: String,
    text: String,
    #[serde(default)]
    create_dirs: bool,
    #[serde(default)]
    for_good: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditArguments {
    path: String,
    old: String,
    new: String,
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteArguments {
    path: String,
    #[serde(default)]
    recursive: bool,
    #[serde(default)]
    for_good: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UndoArguments {
    change: String,
}

/// The skill.
pub(crate) struct Files(pub(crate) Tree);

impl Skill for Files {
    fn call(&mut self, tool: &str, arguments: Value) -> Result<Said, Fault> {
        match tool {
            "list" => self.list(read(arguments)?),
            "read" => self.read(read(arguments)?),
            "search" => self.search(read(arguments)?),
            "write" => self.write(read(arguments)?),
            "edit" => self.edit(read(arguments)?),
            "delete" => self.delete(read(arguments)?),
            "undo" => self.undo(read(arguments)?),
            _ => Err(Fault::NoTool),
        }
    }
}

impl Files {
    fn list(&self, ListArguments { path, depth }: ListArguments) -> Result<Said, Fault> {
        let path: Inside = path.parse()?;
        let listing = self.0.list(&path, depth.unwrap_or(1).min(MAX_DEPTH))?;
        let mut text = String::new();
        for entry in &listing.entries {
            text += &format!("{:9} {:>10} {}\n", entry.kind, entry.size, entry.path);
        }
        if listing.entries.is_empty() {
            text += "(empty)\n";
        }
        if listing.truncated {
            text += &format!(
                "(more than is shown; at most {MAX_ENTRIES} entries at a time, so list a directory below)\n"
            );
        }
        Ok(said(text, json!(listing)))
    }

    fn read(&self, arguments: ReadArguments) -> Result<Said, Fault> {
        let ReadArguments {
            path,
            offset,
            limit,
        } = arguments;
        let path: Inside = path.parse()?;
        let offset = offset.unwrap_or(0);
        let limit = limit.map_or(USUAL_READ, |limit| {
            usize::try_from(limit).unwrap_or(MAX_READ)
        });
        let piece = self.0.read(&path, offset, limit.clamp(1, MAX_READ))?;
        let (taken, encoding, text) = encode(piece.bytes);
        let next = offset.saturating_add(taken as u64);
        let next = (next < piece.size && taken > 0).then_some(next);
        let beside = json!({"size": piece.size, "offset": offset, "next_offset": next, "encoding": encoding});
        Ok(said(text, beside))
    }

    fn search(&self, arguments: SearchArguments) -> Result<Said, Fault> {
        let SearchArguments {
            path,
            text,
            name,
            ignore_case,
        } = arguments;
        let path: Inside = path.parse()?;
        let found = self
            .0
            .search(&path, &Wanted::new(text, name, ignore_case)?)?;
        let mut text = String::new();
        for hit in &found.hits {
            text += &match &hit.line {
                Some((number, line)) => format!("{}:{number}: {line}\n", hit.path),
                None => format!("{}\n", hit.path),
            };
        }
        if found.hits.is_empty() {
            text += "(nothing found)\n";
        }
        if found.skipped > 0 {
            text += &format!(
                "({} files were not looked into: too large, or no text)\n",
                found.skipped
            );
        }
        if found.truncated {
            text += "(there may be more; look in a directory below, or for something rarer)\n";
        }
        let hits = found.hits.iter().map(|hit| match &hit.line {
            Some((number, line)) => json!({"path": hit.path, "line": number, "text": line}),
            None => json!({"path": hit.path}),
        });
        let hits: Vec<Value> = hits.collect();
        let beside = json!({"hits": hits, "skipped": found.skipped, "truncated": found.truncated});
        Ok(said(text, beside))
    }

    fn write(&self, arguments: WriteArguments) -> Result<Said, Fault> {
        let WriteArguments {
            path,
            text,
            create_dirs,
            for_good,
        } = arguments;
        let path: Inside = path.parse()?;
        let change = self
            .0
            .replace(&path, text.as_bytes(), create_dirs, for_good)?;
        let told = format!("wrote {} bytes to {path}{}", text.len(), undone_by(&change));
        let beside = json!({"path": path.as_str(), "bytes": text.len(), "change": change});
        Ok(said(told, beside))
    }

    fn edit(&self, arguments: EditArguments) -> Result<Said, Fault> {
        let EditArguments {
            path,
            old,
            new,
            all,
        } = arguments;
        let path: Inside = path.parse()?;
        let edit = Edit {
            old: &old,
            new: &new,
            all,
        };
        let (places, change) = self.0.edit(&path, &edit)?;
        let told = format!("changed {path} in {places} places{}", undone_by(&change));
        let beside = json!({"path": path.as_str(), "places": places, "change": change});
        Ok(said(told, beside))
    }

    fn delete(&self, arguments: DeleteArguments) -> Result<Said, Fault> {
        let DeleteArguments {
            path,
            recursive,
            for_good,
        } = arguments;
        let path: Inside = path.parse()?;
        let (entries, change) = self.0.delete(&path, recursive, for_good)?;
        let told = format!("deleted {path}{}", undone_by(&change));
        let beside = json!({"path": path.as_str(), "entries": entries, "change": change});
        Ok(said(told, beside))
    }

    fn undo(&self, UndoArguments { change }: UndoArguments) -> Result<Said, Fault> {
        let undone = self.0.undo(&change)?;
        let told = format!("took back {} of {}", undone.what, undone.path);
        let beside = json!({"path": undone.path, "what": undone.what, "change": undone.id});
        Ok(said(told, beside))
    }
}

fn said(text: String, structured: Value) -> Said {
    Said { text, structured }
}

fn undone_by(change: &Option<String>) -> String {
    match change {
        Some(id) => format!("; undo takes it back (change {id})"),
        None => "; it cannot be taken back".to_owned(),
    }
}

/// Text as it is, up to the last whole character; anything else as base64. Also how many bytes of the piece are in it.
fn encode(bytes: Vec<u8>) -> (usize, &'static str, String) {
    let whole = match std::str::from_utf8(&bytes) {
        Ok(_) => bytes.len(),
        // No length: the piece ends inside a character, and the next one begins there.
        Err(fault) if fault.error_len().is_none() && fault.valid_up_to() > 0 => fault.valid_up_to(),
        Err(_) => 0,
    };
    if bytes.contains(&0) || whole == 0 && !bytes.is_empty() {
        return (bytes.len(), "base64", BASE64_STANDARD.encode(&bytes));
    }
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    (whole, "utf-8", text)
}
