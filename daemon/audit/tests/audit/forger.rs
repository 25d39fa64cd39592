//! What somebody can make who knows the format, and then who has the signing key as well.

use std::{fs, path::Path};

use ed25519_dalek::{Signer as _, SigningKey};
use paw_audit::{
    format::{self, Checkpoint, Tag},
    key, segment,
    tree::Tree,
};
use paw_policy::Digest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::lines;

pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

pub(crate) fn tag_of(prev: &[u8], body: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"pawd-audit-record/1\0")
        .chain_update(prev)
        .chain_update(body)
        .finalize()
        .into()
}

/// The record of this line with another text, continuing `prev`, with a tag that fits: what an editor who knows the format writes.
pub(crate) fn forged(line: &[u8], from: &str, to: &str, prev: &str) -> (Vec<u8>, String) {
    let text = std::str::from_utf8(line).unwrap().trim_end();
    let old: Value = serde_json::from_str(text).unwrap();
    let body = text[..text.len() - 74]
        .replace(from, to)
        .replace(old["prev"].as_str().unwrap(), prev);
    let tag = hex::encode(tag_of(&hex::decode(prev).unwrap(), body.as_bytes()));
    (format!("{body},\"tag\":\"{tag}\"}}\n").into_bytes(), tag)
}

pub(crate) fn field(line: &[u8], name: &str) -> String {
    serde_json::from_slice::<Value>(line).unwrap()[name]
        .as_str()
        .unwrap()
        .to_owned()
}

pub(crate) fn seq(line: &[u8]) -> Option<u64> {
    format::parse_record(line.trim_ascii_end())
        .ok()
        .map(|record| record.seq)
}

/// The key that signs, as whoever took the writer's own directory has it.
pub(crate) fn stolen(state: &Path) -> SigningKey {
    let seed: [u8; 32] = fs::read(state.join(key::SEED)).unwrap().try_into().unwrap();
    SigningKey::from_bytes(&seed)
}

/// Signs a whole log anew after `change` has had each line that is a record: codes stay as they are, or as they were changed; numbers,
/// tags, trees and signatures fit afterwards. A record that is changed to nothing is left out.
pub(crate) fn signed_anew(
    dir: &Path,
    key: &SigningKey,
    mut change: impl FnMut(u64, &str, &Tag) -> Option<String>,
) {
    let (mut tag, mut tree, mut last): (Tag, _, u64) = ([0; 32], Tree::default(), 0);
    let mut epoch = None;
    let mut newest = None;
    for number in segment::list(dir).unwrap() {
        let path = segment::path(dir, number);
        let mut out = Vec::new();
        for line in lines(&path) {
            if let Some(number) = seq(&line) {
                let text = std::str::from_utf8(&line).unwrap().trim_end();
                // Without its tag, and after the new record before it.
                let body = text[..text.len() - 74]
                    .replace(&field(&line, "prev"), &hex::encode(tag))
                    .replace(
                        &format!("\"seq\":{number},"),
                        &format!("\"seq\":{},", last + 1),
                    );
                let Some(body) = change(number, &body, &tag) else {
                    continue;
                };
                last += 1;
                tag = tag_of(&tag, body.as_bytes());
                tree.push(&tag);
                let tag = hex::encode(tag);
                let record: Value =
                    serde_json::from_str(&format!("{body},\"tag\":\"{tag}\"}}")).unwrap();
                let ends = u64::from(record["entry"]["event"] == "log_keyed");
                epoch = record["epoch"].as_u64().map(|of| of + ends);
                out.extend_from_slice(format!("{body},\"tag\":\"{tag}\"}}\n").as_bytes());
            } else {
                let value: Value = serde_json::from_slice(&line).unwrap();
                let mut said: Checkpoint =
                    serde_json::from_value(value["checkpoint"].clone()).unwrap();
                (said.seq, said.tag, said.offset) =
                    (last, Digest::from_bytes(tag), out.len() as u64);
                let log = said.log.as_mut().unwrap();
                (log.size, log.root) = (tree.size(), Digest::from_bytes(tree.root()));
                log.epoch = epoch.map_or(log.epoch, |epoch| epoch.try_into().unwrap());
                if !log.peaks.is_empty() || said.offset == 0 {
                    let peaks = tree.peaks().iter();
                    log.peaks = peaks.map(|peak| Digest::from_bytes(*peak)).collect();
                }
                out.extend_from_slice(&signed(&said, key));
                newest = Some(said);
            }
        }
        fs::write(&path, out).unwrap();
    }
    let mut newest = newest.unwrap();
    newest.log.as_mut().unwrap().peaks.clear();
    fs::write(dir.join(segment::WITNESS), signed(&newest, key)).unwrap();
}

/// The line of a checkpoint.
pub(crate) fn signed(checkpoint: &Checkpoint, key: &SigningKey) -> Vec<u8> {
    let object = serde_json::to_string(checkpoint).unwrap();
    let signature = key.sign(format!("pawd-audit-checkpoint/1\0{object}").as_bytes());
    let signature = hex::encode(signature.to_bytes());
    format!("{{\"checkpoint\":{object},\"signature\":\"{signature}\"}}\n").into_bytes()
}
