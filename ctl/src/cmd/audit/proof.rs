//! `pawctl audit prove` and `audit verify --proof`: one record that somebody else can check without the log.

use std::{fs::File, io::Read as _, path::Path};

use paw_audit::{
    Checks,
    format::{Checkpoint, read_checkpoint},
    proof::{self, Flaw, MAX_PROOF, ProveError, Proven},
};
use serde_json::{Value, json, value::RawValue};

use super::{super::agent::Sink, show, verify};
use crate::{
    cli::{Format, Global},
    fail::{Failure, exit},
    render::{Look, Out, Tone, text},
};

/// Where the log of this host is.
const LOG: &str = "/var/log/pawd";

/// Writes a proof, by the log's own files.
pub(super) fn prove(
    global: &Global,
    seq: u64,
    checkpoint: Option<u64>,
    log: Option<&Path>,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let here = global
        .root
        .as_ref()
        .map_or_else(|| LOG.into(), |root| root.join("log"));
    let directory = verify::directory(log.unwrap_or(&here));
    let doing = format!("prove record {seq} by the log in {}", directory.display());
    let proof = proof::prove(directory, seq, checkpoint).map_err(|error| failure(doing, &error))?;
    Sink::open(file)?.write(proof.as_bytes())
}

fn failure(doing: String, error: &ProveError) -> Failure {
    let why = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let remedy = match error {
        ProveError::Read(error) => return Failure::io(doing, error),
        ProveError::NoRecord(_) => {
            return Failure::NotFound {
                doing,
                why,
                remedy: "see which there are: pawctl audit list".to_owned(),
            };
        }
        ProveError::Key(_) => "name the directory of a log, with its audit.pub, as --log",
        ProveError::NoTree(_) => {
            "keep a copy of the log, and check it: pawctl audit verify DIRECTORY"
        }
        ProveError::Unsigned { wanted: None, .. } => "try again in a second, when it is signed",
        ProveError::Unsigned { .. } => {
            "name the number (n) of a checkpoint after the record, or none for the first one"
        }
        ProveError::Broken { .. } => "see what was done to it: pawctl audit verify",
    };
    Failure::Local {
        doing,
        why,
        remedy: remedy.to_owned(),
    }
}

/// What is found of a proof: what it proves, or why it proves nothing.
enum Found<'a> {
    Proven(Proven<'a>),
    /// Something in it is not what was written.
    Tampered(String),
    /// It cannot be told.
    Unverifiable(String),
}

/// Checks a proof with the key, and the checkpoint in it with those that were kept elsewhere, where some are given.
pub(super) fn verify(out: &mut Out, path: &Path, with: &Checks) -> Result<u8, Failure> {
    let doing = || format!("read the proof {}", path.display());
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PROOF as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::io(doing(), &error))?;
    let key = with.key.ok_or_else(|| Failure::Usage {
        doing: "verify a proof".to_owned(),
        why: "no key is named".to_owned(),
        remedy: "name a copy of the log's audit.pub as --key".to_owned(),
    })?;
    let found = match proof::check(&bytes, &key) {
        Ok(proven) => elsewhere(proven, with),
        Err(flaw @ Flaw::Version(_)) => Found::Unverifiable(flaw.to_string()),
        Err(flaw) => Found::Tampered(flaw.to_string()),
    };
    match out.format {
        Format::Json | Format::Jsonl => out.json(&document(&found, with).to_string()),
        Format::Table => {
            let shown = shown(&found, with, &out.look);
            out.print(&shown);
        }
    }
    Ok(match found {
        Found::Proven(_) => exit::DONE,
        Found::Tampered(_) => verify::TAMPERED,
        Found::Unverifiable(_) => verify::UNVERIFIABLE,
    })
}

/// Whether the checkpoint is one that was kept elsewhere. Who took the signing key can sign another tree, but not have that been seen before.
fn elsewhere<'a>(proven: Proven<'a>, with: &Checks) -> Found<'a> {
    let (Some(key), false) = (&with.key, with.witnesses.is_empty()) else {
        return Found::Proven(proven);
    };
    // The same is said at more than one place, which is not part of what is compared.
    let said = |it: &Checkpoint| (it.seq, it.tag, it.log.as_ref().map(|log| log.root));
    let number = proven.checkpoint.n;
    let kept: Vec<_> = with
        .witnesses
        .iter()
        .filter_map(|line| read_checkpoint(line, key).ok())
        .filter(|kept| kept.n == number)
        .map(|kept| said(&kept))
        .collect();
    if kept.contains(&said(&proven.checkpoint)) {
        Found::Proven(proven)
    } else if kept.is_empty() {
        Found::Unverifiable(format!(
            "its checkpoint {number} is none of those that were kept elsewhere; have the record proven by one of them: pawctl audit prove --checkpoint N"
        ))
    } else {
        Found::Tampered(format!(
            "its checkpoint {number} is another one than was kept elsewhere"
        ))
    }
}

fn document(found: &Found<'_>, with: &Checks) -> Value {
    match found {
        Found::Proven(proven) => {
            // As it stands there, so that whoever reads it may hash it.
            let record: Option<&RawValue> = serde_json::from_str(proven.record).ok();
            json!({
                "ok": true,
                "seq": proven.seq,
                "checkpoint": proven.checkpoint,
                "witnessed": !with.witnesses.is_empty(),
                "record": record,
            })
        }
        Found::Tampered(why) => json!({"ok": false, "state": "tampered", "reason": why}),
        Found::Unverifiable(why) => json!({"ok": false, "state": "unverifiable", "reason": why}),
    }
}

fn shown(found: &Found<'_>, with: &Checks, look: &Look) -> String {
    match found {
        Found::Proven(proven) => {
            let at = &proven.checkpoint;
            let kept = match with.witnesses.is_empty() {
                true => "",
                false => ", which was kept elsewhere",
            };
            let record = serde_json::from_str(proven.record).unwrap_or_default();
            format!(
                "{} record {} is in the log that checkpoint {} of {} signed{kept}\n{}",
                look.dot(Tone::Good),
                proven.seq,
                at.n,
                text::rfc3339(at.utc_ms),
                show(&record, look)
            )
        }
        Found::Tampered(why) => format!(
            "{} the proof is not what was written: {why}\n",
            look.dot(Tone::Bad)
        ),
        Found::Unverifiable(why) => {
            format!(
                "{} the proof cannot be verified: {why}\n",
                look.dot(Tone::Bad)
            )
        }
    }
}
