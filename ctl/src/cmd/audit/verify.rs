//! `pawctl audit verify`: what pawd saw, or what the verifier sees in a copy.

use std::path::{Path, PathBuf};

use paw_api::trail::Verification;
use paw_audit::{Checks, mac::Ratchet};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::super::block;
use crate::{
    cli::Format,
    fail::{Failure, exit},
    render::{Look, Out, Tone, text},
};

/// Exit code of `verify`: the log is not what was written.
pub(super) const TAMPERED: u8 = 1;

/// Exit code of `verify`: nobody can tell whether it is.
pub(super) const UNVERIFIABLE: u8 = 2;

/// Exit code of `verify` for what pawd saw. A state that this pawctl does not know is not taken for a good one.
pub(super) fn verify_code(seen: &Verification) -> u8 {
    match seen.state.as_str() {
        "ok" if seen.ok => exit::DONE,
        "unverifiable" => UNVERIFIABLE,
        "torn_tail" => 3,
        _ => TAMPERED,
    }
}

pub(super) fn verified(seen: &Verification, look: &Look) -> String {
    let counted = format!(
        "{} records, {} checkpoints",
        text::count(seen.records),
        text::count(seen.checkpoints)
    );
    match verify_code(seen) {
        exit::DONE => {
            return format!(
                "{} the audit log is whole and unchanged: {counted}\n",
                look.dot(Tone::Good)
            );
        }
        3 => {
            return format!(
                "{} all that was signed is whole; a crash tore the end, and a record tells of it: {counted}\n",
                look.dot(Tone::Warn)
            );
        }
        UNVERIFIABLE => {
            let why = text::line(seen.fault.as_deref().unwrap_or("no reason given")).into_owned();
            return format!(
                "{} the audit log cannot be verified: {why}\n  do:  see that audit.pub is beside the log and that the writer has run\n",
                look.dot(Tone::Bad)
            );
        }
        _ => {}
    }
    let fault = text::line(seen.fault.as_deref().unwrap_or("unknown fault")).into_owned();
    let place = seen
        .first_bad_seq
        .map_or_else(String::new, |seq| format!(" at record {seq}"));
    let wrong = look.paint(Tone::Bad, &format!("{fault}{place}"));
    format!(
        "{} the audit log is not what was written: {wrong} ({counted} fit)\n  do:  keep the files as they are, copy them away, and find out who could write to them\n",
        look.dot(Tone::Bad)
    )
}

/// What was kept elsewhere, to check a log with.
pub(super) fn checks(
    key: Option<&Path>,
    codes: Option<&Path>,
    witness: &[PathBuf],
) -> Result<Checks, Failure> {
    let usage = |why: String, remedy: &str| Failure::Usage {
        doing: "verify the audit log".to_owned(),
        why,
        remedy: remedy.to_owned(),
    };
    let key = key.map(paw_audit::key::read_public).transpose();
    let mut checks = Checks {
        key: key.map_err(|error| usage(error.to_string(), "name a copy of the log's audit.pub"))?,
        ..Checks::default()
    };
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| usage(format!("read {}: {error}", path.display()), "name a file"))
    };
    if let Some(path) = codes {
        let written = SecretString::from(read(path)?);
        checks.codes = Ratchet::read(written.expose_secret()).map_err(|line| {
            usage(
                format!("{} has no key in line {line}", path.display()),
                "name a file that paw-audit --hand-out-key wrote",
            )
        })?;
        if checks.codes.is_empty() {
            return Err(usage(
                format!("{} has no key", path.display()),
                "name a file that paw-audit --hand-out-key wrote",
            ));
        }
    }
    for path in witness {
        let before = checks.witnesses.len();
        checks.add_witnesses(&read(path)?);
        if checks.witnesses.len() == before {
            return Err(usage(
                format!("{} has no checkpoint", path.display()),
                "name a copy of audit.checkpoint, or what this writes: journalctl -t paw-audit -o json --output-fields=CHECKPOINT",
            ));
        }
    }
    Ok(checks)
}

/// A log is a directory; somebody who names one of its files means the log that it is part of.
pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if path.is_file() => parent,
        _ => path,
    }
}

/// Checks a log without pawd, by the same code that its writer recovers with.
pub(super) fn verify_files(out: &mut Out, path: &Path, checks: Checks) -> Result<u8, Failure> {
    let report = paw_audit::verify_with(directory(path), checks);
    match out.format {
        Format::Json | Format::Jsonl => {
            let document =
                serde_json::to_string(&report).map_err(|source| Failure::Unreadable {
                    doing: "write the report".to_owned(),
                    source,
                })?;
            out.json(&document);
        }
        Format::Table => {
            let shown = checked(&report, &out.look);
            out.print(&shown);
        }
    }
    Ok(match report.state {
        paw_audit::State::Ok => exit::DONE,
        paw_audit::State::Tampered => TAMPERED,
        paw_audit::State::Unverifiable => UNVERIFIABLE,
        paw_audit::State::TornTail => 3,
    })
}

fn checked(report: &paw_audit::Report, look: &Look) -> String {
    let (tone, verdict) = match report.state {
        paw_audit::State::Ok => (Tone::Good, "the audit log is whole and unchanged"),
        paw_audit::State::Tampered => (Tone::Bad, "the audit log is not what was written"),
        paw_audit::State::Unverifiable => (Tone::Bad, "the audit log cannot be verified"),
        paw_audit::State::TornTail => (
            Tone::Warn,
            "all that was signed is whole; a crash tore the end",
        ),
    };
    let fault = report
        .fault
        .and_then(|fault| serde_json::to_value(fault).ok());
    let fault = fault
        .as_ref()
        .and_then(Value::as_str)
        .map(|fault| match report.first_bad_seq {
            Some(seq) => format!("{fault} at record {seq}"),
            None => fault.to_owned(),
        });
    let key = report.key.as_deref().map(|key| {
        if report.key_given {
            key.to_owned()
        } else {
            format!("{key} (found beside the log)")
        }
    });
    let mut shown = format!("{} {}\n", look.dot(tone), look.paint(tone, verdict));
    shown.push_str(&block(vec![
        (
            "  Records",
            Some(format!(
                "{} ({} not yet signed)",
                text::count(report.records),
                report.unsigned
            )),
        ),
        (
            "Removed",
            Some(format!("{} before them", text::count(report.removed)))
                .filter(|_| report.removed > 0),
        ),
        ("Checkpoints", Some(text::count(report.checkpoints))),
        (
            "Codes",
            Some(format!("{} checked", text::count(report.codes))).filter(|_| report.codes > 0),
        ),
        (
            "Witnesses",
            Some(format!("{} fit", text::count(report.witnesses))).filter(|_| report.witnesses > 0),
        ),
        (
            "Vault",
            report
                .vault
                .map(|mark| format!("{}, change {}", mark.vault, mark.generation)),
        ),
        (
            "Recoveries",
            Some(report.recovered.to_string()).filter(|_| report.recovered > 0),
        ),
        ("Fault", fault),
        (
            "Why",
            report
                .reason
                .as_deref()
                .map(|reason| text::line(reason).into_owned()),
        ),
        ("Key", key),
    ]));
    shown
}
