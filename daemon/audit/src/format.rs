//! What a line of the log looks like, and what of it is hashed and signed.
//!
//! ```text
//! record      {"v":2,"seq":…,"boot_id":…,"mono_ns":…,"utc_ms":…,"epoch":…,"entry":{…},"prev":"…","mac":"…","tag":"…"}
//! checkpoint  {"checkpoint":{"v":2,"n":…,"segment":…,"offset":…,"seq":…,"tag":"…","utc_ms":…,"log":{…}},"signature":"…"}
//! log         {"size":…,"root":"…","epoch":…,"first":…,"vault":{…},"peaks":["…",…]}
//! ```
//!
//! The bytes that stand in the file are the canonical form: `mac` is HMAC-SHA-256, by the key of this record alone ([`crate::mac`]), over
//! a domain, the tag before, and the record's bytes up to `,"mac":`; `tag` is SHA-256 over a domain, the tag before, and the record's
//! bytes up to `,"tag":`, its code among them; the signature (ed25519) is over a domain and the bytes of the checkpoint's object. Nothing is
//! parsed and written again before it is checked, so there is no second way to write the same record.
//!
//! So who has only the public key finds each change and its place by the tags, and that it is one by the signatures; who has the first key
//! of the codes needs to believe neither the signing key nor the host.
//!
//! Version 1 had no `epoch`, no `mac` and no `log`. Segments of it are read and verified, and followed by one of this version.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use paw_api::audit::{Entry, Event, MAX_LINE, VaultMark};
use paw_policy::Digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{mac::Ratchet, tree::Tree};

/// The version of the format, in every line.
pub const VERSION: u32 = 2;

/// The version before, without codes and without a tree.
pub const VERSION_1: u32 = 1;

/// The longest line of a log, in bytes: the longest entry and what is put around it.
pub const MAX_LOG_LINE: usize = MAX_LINE + 1024;

/// After so many records there is a checkpoint.
pub const CHECKPOINT_EVERY: u64 = 256;

const RECORD_DOMAIN: &[u8] = b"pawd-audit-record/1\0";
const CHECKPOINT_DOMAIN: &[u8] = b"pawd-audit-checkpoint/1\0";
const CHECKPOINT_START: &[u8] = b"{\"checkpoint\":";

/// The end of the chain after some record; all zeros before the first.
pub type Tag = [u8; 32];

/// The length of `,"tag":"…"}` at the end of a record.
const TAG_PART: usize = 8 + 64 + 2;

/// The length of `,"mac":"…"` before it.
const MAC_PART: usize = 8 + 64 + 1;

/// When something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since boot, which never go backwards within one boot.
    pub mono_ns: u64,
    /// Milliseconds since the Unix epoch, which an administrator can set.
    pub utc_ms: u64,
}

impl Stamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let mono = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map(std::time::Duration::from);
        let utc = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // Neither fails on Linux with a clock after 1970; a zero would be seen as what it is.
        Self {
            mono_ns: mono.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)),
            utc_ms: utc.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    v: u32,
    seq: u64,
    boot_id: &'a str,
    mono_ns: u64,
    utc_ms: u64,
    epoch: u32,
    entry: &'a Entry,
    prev: &'a str,
}

/// One record as it stands in the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record<'a> {
    /// [`VERSION`].
    pub v: u32,
    /// Its number; the first is 1.
    pub seq: u64,
    /// Which boot of the host.
    pub boot_id: &'a str,
    /// As [`Stamp::mono_ns`].
    pub mono_ns: u64,
    /// As [`Stamp::utc_ms`].
    pub utc_ms: u64,
    /// Of which epoch the key of its code is; not in version 1.
    #[serde(default)]
    pub epoch: Option<u32>,
    /// What happened, as it was written.
    #[serde(borrow)]
    pub entry: &'a RawValue,
    /// Tag of the record before.
    pub prev: &'a str,
    /// Its code; not in version 1.
    #[serde(default)]
    pub mac: Option<&'a str>,
    /// Its own tag.
    pub tag: &'a str,
}

/// What a record says of its code.
#[derive(Debug, Clone, Copy)]
pub struct Coded<'a> {
    /// Of which epoch the key is.
    pub epoch: u32,
    /// The code.
    pub mac: Tag,
    /// What it is over.
    pub body: &'a [u8],
}

/// The signed statement that the log has this content up to here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// [`VERSION`].
    pub v: u32,
    /// Its number; the first, before any record, is 0.
    pub n: u64,
    /// In which segment it stands.
    pub segment: u32,
    /// How many bytes stand before it there.
    pub offset: u64,
    /// Number of the last record.
    pub seq: u64,
    /// Tag of the last record.
    pub tag: Digest,
    /// When it was made, in milliseconds since the Unix epoch.
    pub utc_ms: u64,
    /// What the log is by then; not in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Contents>,
}

/// What a log is at a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// How many records the tree has: all but those of version 1.
    pub size: u64,
    /// Root of the Merkle tree over their tags.
    pub root: Digest,
    /// Of which epoch the key of the next record is.
    pub epoch: u32,
    /// The first segment that is kept; those before it were removed when their time was over.
    pub first: u32,
    /// The newest state of the vault that the log tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultMark>,
    /// Where a segment begins: the tree itself ([`Tree::peaks`]), so that it can be continued without what is before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peaks: Vec<Digest>,
}

impl Contents {
    /// The tree, where a segment begins.
    #[must_use]
    pub fn tree(&self) -> Option<Tree> {
        let peaks = self.peaks.iter().map(|peak| *peak.as_bytes()).collect();
        Tree::of(self.size, peaks).filter(|tree| tree.root() == *self.root.as_bytes())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed<'a> {
    #[serde(borrow)]
    checkpoint: &'a RawValue,
    signature: &'a str,
}

/// What is wrong with one line by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is no line of a log.
    #[error("not a record and not a checkpoint")]
    Unreadable,
    /// It has a version that this program does not know.
    #[error("version {0} is not known; use a newer pawctl")]
    Version(u32),
    /// The record and its tag do not belong together.
    #[error("the record is not the one that was hashed")]
    Tag,
    /// The checkpoint was not signed with this key.
    #[error("the checkpoint is not the one that was signed")]
    Signature,
}

/// Appends the line of the record that the key is for; returns its tag.
pub(crate) fn write_record<K: AsRef<[u8]> + AsMut<[u8]>>(
    out: &mut Vec<u8>,
    key: &mut Ratchet<K>,
    boot_id: &str,
    at: Stamp,
    entry: &Entry,
    prev: &Tag,
) -> Tag {
    let start = out.len();
    let body = Body {
        v: VERSION,
        seq: key.next(),
        boot_id,
        mono_ns: at.mono_ns,
        utc_ms: at.utc_ms,
        epoch: key.epoch(),
        entry,
        prev: &hex::encode(prev),
    };
    serde_json::to_writer(&mut *out, &body)
        .expect("strings, numbers and maps with text keys are always JSON, and memory takes them");
    // The closing brace comes after code and tag.
    out.pop();
    let mac = key.code(prev, &out[start..]);
    out.extend_from_slice(b",\"mac\":\"");
    out.extend_from_slice(hex::encode(mac).as_bytes());
    out.push(b'"');
    let tag = record_tag(prev, &out[start..]);
    out.extend_from_slice(b",\"tag\":\"");
    out.extend_from_slice(hex::encode(tag).as_bytes());
    out.extend_from_slice(b"\"}\n");
    tag
}

/// Appends the line of a checkpoint.
pub(crate) fn write_checkpoint(out: &mut Vec<u8>, checkpoint: &Checkpoint, key: &SigningKey) {
    let object = serde_json::to_vec(checkpoint).expect("strings and numbers are always JSON");
    let signature = key.sign(&checkpoint_message(&object));
    out.extend_from_slice(CHECKPOINT_START);
    out.extend_from_slice(&object);
    out.extend_from_slice(b",\"signature\":\"");
    out.extend_from_slice(hex::encode(signature.to_bytes()).as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Whether a line, without its end, means to be a checkpoint.
#[must_use]
pub fn is_checkpoint(line: &[u8]) -> bool {
    line.starts_with(CHECKPOINT_START)
}

/// Reads a record and checks its tag against its own `prev`; whether that fits the log is for [`crate::chain`] to say.
///
/// # Errors
/// When it is not a record, or not the one that was hashed.
pub fn read_record(line: &[u8]) -> Result<(Record<'_>, Tag, Option<Coded<'_>>), LineError> {
    let record = parse_record(line)?;
    let (Some(body), Some(prev), Some(tag)) = (
        line.len().checked_sub(TAG_PART),
        tag(record.prev),
        tag(record.tag),
    ) else {
        return Err(LineError::Unreadable);
    };
    if record_tag(&prev, &line[..body]) != tag {
        return Err(LineError::Tag);
    }
    // Only now: a version that somebody else wrote there is a changed record, and not a newer one.
    let coded = match (record.v, record.epoch, record.mac) {
        (VERSION_1, None, None) => None,
        (VERSION, Some(epoch), Some(mac)) => {
            let body = &line[..body];
            let (Some(end), Some(mac)) = (body.len().checked_sub(MAC_PART), self::tag(mac)) else {
                return Err(LineError::Unreadable);
            };
            let body = &body[..end];
            Some(Coded { epoch, mac, body })
        }
        (VERSION_1 | VERSION, ..) => return Err(LineError::Unreadable),
        (other, ..) => return Err(LineError::Version(other)),
    };
    Ok((record, tag, coded))
}

/// Reads a record without checking its tag.
///
/// # Errors
/// When it is not a record.
pub fn parse_record(line: &[u8]) -> Result<Record<'_>, LineError> {
    serde_json::from_slice(line).map_err(|_| LineError::Unreadable)
}

/// Reads a checkpoint and checks its signature.
///
/// # Errors
/// When it is not a checkpoint, or not one that this key signed.
pub fn read_checkpoint(line: &[u8], key: &VerifyingKey) -> Result<Checkpoint, LineError> {
    let signed: Signed<'_> = serde_json::from_slice(line).map_err(|_| LineError::Unreadable)?;
    let object = signed.checkpoint.get();
    let mut signature = [0; 64];
    // The line must be exactly what is written, so that no byte of it is outside what is checked.
    let exact = line.len() == CHECKPOINT_START.len() + object.len() + 14 + 128 + 2;
    if hex::decode_to_slice(signed.signature, &mut signature).is_err()
        || !exact
        || hex::encode(signature) != signed.signature
    {
        return Err(LineError::Unreadable);
    }
    if key
        .verify_strict(
            &checkpoint_message(object.as_bytes()),
            &Signature::from_bytes(&signature),
        )
        .is_err()
    {
        return Err(LineError::Signature);
    }
    let checkpoint: Checkpoint = serde_json::from_str(object).map_err(|_| LineError::Unreadable)?;
    match (checkpoint.v, &checkpoint.log) {
        (VERSION_1, None) | (VERSION, Some(_)) => Ok(checkpoint),
        (VERSION_1 | VERSION, _) => Err(LineError::Unreadable),
        (other, _) => Err(LineError::Version(other)),
    }
}

/// Reads what a checkpoint says without checking its signature; to find a place, never to believe it.
pub(crate) fn parse_checkpoint(line: &[u8]) -> Option<Checkpoint> {
    let signed: Signed<'_> = serde_json::from_slice(line).ok()?;
    serde_json::from_str(signed.checkpoint.get()).ok()
}

/// The state of the vault that an entry tells of as reached.
#[must_use]
pub fn vault_mark(entry: &Entry) -> Option<VaultMark> {
    let tells = matches!(entry.event, Event::VaultChanged | Event::SecretChanged)
        && entry.outcome.as_deref() == Some("done");
    let said = |name| entry.detail.get(name).filter(|_| tells);
    Some(VaultMark {
        vault: said("vault")?.parse().ok()?,
        generation: said("generation")?.parse().ok()?,
    })
}

/// The same, of an entry as it stands in the log.
pub(crate) fn raw_vault_mark(entry: &RawValue) -> Option<VaultMark> {
    let text = entry.get();
    let may = [
        "{\"event\":\"vault_changed\"",
        "{\"event\":\"secret_changed\"",
    ];
    if !may.iter().any(|start| text.starts_with(start)) {
        return None;
    }
    vault_mark(&serde_json::from_str(text).ok()?)
}

/// A tag from its text, which is lower-case hexadecimal.
pub(crate) fn tag(text: &str) -> Option<Tag> {
    let mut tag = [0; 32];
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower && hex::decode_to_slice(text, &mut tag).is_ok()).then_some(tag)
}

fn record_tag(prev: &Tag, body: &[u8]) -> Tag {
    Sha256::new()
        .chain_update(RECORD_DOMAIN)
        .chain_update(prev)
        .chain_update(body)
        .finalize()
        .into()
}

fn checkpoint_message(object: &[u8]) -> Vec<u8> {
    [CHECKPOINT_DOMAIN, object].concat()
}
