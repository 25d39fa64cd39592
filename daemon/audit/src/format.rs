//! What a line of the log looks like, and what of it is hashed and signed.
//!
//! ```text
//! record      {"v":1,"seq":…,"boot_id":…,"mono_ns":…,"utc_ms":…,"entry":{…},"prev":"…","tag":"…"}
//! checkpoint  {"checkpoint":{"v":1,"n":…,"segment":…,"offset":…,"seq":…,"tag":"…","utc_ms":…},"signature":"…"}
//! ```
//!
//! The bytes that stand in the file are the canonical form: `tag` is SHA-256 over a domain, the tag before, and the record's
//! bytes up to `,"tag":`; the signature (ed25519) is over a domain and the bytes of the checkpoint's object. Nothing is parsed and
//! written again before it is checked, so there is no second way to write the same record.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use paw_api::audit::{Entry, MAX_LINE};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// The version of the format, in every line.
pub const VERSION: u32 = 1;

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
    /// What happened, as it was written.
    #[serde(borrow)]
    pub entry: &'a RawValue,
    /// Tag of the record before.
    pub prev: &'a str,
    /// Its own tag.
    pub tag: &'a str,
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
    pub tag: paw_policy::Digest,
    /// When it was made, in milliseconds since the Unix epoch.
    pub utc_ms: u64,
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

/// Appends the line of a record; returns its tag.
pub(crate) fn write_record(
    out: &mut Vec<u8>,
    seq: u64,
    boot_id: &str,
    at: Stamp,
    entry: &Entry,
    prev: &Tag,
) -> Tag {
    let start = out.len();
    let body = Body {
        v: VERSION,
        seq,
        boot_id,
        mono_ns: at.mono_ns,
        utc_ms: at.utc_ms,
        entry,
        prev: &hex::encode(prev),
    };
    serde_json::to_writer(&mut *out, &body)
        .expect("strings, numbers and maps with text keys are always JSON, and memory takes them");
    // The closing brace comes after the tag.
    out.pop();
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
pub fn read_record(line: &[u8]) -> Result<(Record<'_>, Tag), LineError> {
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
    if record.v != VERSION {
        return Err(LineError::Version(record.v));
    }
    Ok((record, tag))
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
    if checkpoint.v == VERSION {
        Ok(checkpoint)
    } else {
        Err(LineError::Version(checkpoint.v))
    }
}

/// Reads what a checkpoint says without checking its signature; to find a place, never to believe it.
pub(crate) fn parse_checkpoint(line: &[u8]) -> Option<Checkpoint> {
    let signed: Signed<'_> = serde_json::from_slice(line).ok()?;
    serde_json::from_str(signed.checkpoint.get()).ok()
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
