//! What lies on a disk that somebody else had in hands.

use std::{
    fs,
    io::{Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    time::Instant,
};

use flate2::{Compression, write::GzEncoder};
use paw_api::audit::{Entry, Event};
use paw_audit::{
    Checks, Log,
    chain::Chain,
    format::{Stamp, is_checkpoint, parse_record, read_checkpoint, read_record},
    key,
    log::{Place, SEGMENT_AGE},
    mac::{Codes, Ratchet},
    proof, read, segment, verify,
};
use paw_launch::root::Root;
use serde_json::{from_slice, json};
use tempfile::TempDir;
use uuid::Uuid;

/// A log of a few records that was really written, and its key.
struct Written {
    directory: TempDir,
    bytes: Vec<u8>,
}

/// Records of the log that everything begins with.
const RECORDS: u64 = 5;

impl Written {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Place {
            dir: directory.path().join("log"),
            state: directory.path().join("state"),
            boot_id: "00000000-0000-4000-8000-000000000000".to_owned(),
            segment_bytes: 1 << 20,
            segment_age: SEGMENT_AGE,
            keep: None,
        };
        for dir in [&place.dir, &place.state] {
            fs::create_dir(dir).expect("a directory");
        }
        // Always the same key, so that what was found is found again.
        let seed = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(place.state.join(key::SEED));
        seed.and_then(|mut file| file.write_all(&[7; 32]))
            .expect("a key");
        let at = Stamp {
            mono_ns: 1,
            utc_ms: 1_700_000_000_000,
        };
        let mut log = Log::open(place.clone()).expect("a log");
        for _ in 0..RECORDS {
            log.append(&Entry::new(Event::RpcDenied), at);
        }
        log.commit(true, Instant::now()).expect("it is written");
        log.seal(at).expect("it is signed");
        drop(log);
        let bytes = fs::read(segment::path(&place.dir, 1)).expect("a segment");
        Self { directory, bytes }
    }
}

thread_local! {
    static LOG: Written = Written::new();
    static VAULT: paw_vault::fuzz::Known = paw_vault::fuzz::known().expect("a little memory can be locked");
}

pub(crate) fn audit_log(bytes: &[u8]) {
    LOG.with(|written| {
        let dir = written.directory.path().join("log");
        let public = key::read_public(&dir.join(key::PUBLIC)).expect("the writer left it there");
        let mut chain = Chain::new(public, Codes::default());
        let mut offset = 0;
        for line in bytes.split(|byte| *byte == b'\n') {
            let _ = is_checkpoint(line);
            let _ = read_record(line);
            let _ = parse_record(line);
            let _ = read_checkpoint(line, &public);
            let _ = Chain::resume(public, Codes::default(), line);
            let _ = chain.step(line, 1, offset);
            offset += line.len() as u64 + 1;
        }
        let text = String::from_utf8_lossy(bytes);
        let _ = Ratchet::read(&text);
        Checks::default().add_witnesses(&text);
        // An index is read as it is, and no list is wrong for it.
        let index = segment::path(&dir, 1).with_extension("index");
        fs::write(index, bytes).expect("there is room");
        fs::write(segment::path(&dir, 1), bytes).expect("there is room");
        let report = verify(&dir, None);
        // What was signed is whole or it is not, whatever stands behind it.
        let same = bytes.starts_with(&written.bytes);
        assert!(
            same || !report.ok,
            "another log passes for the one that was written: {report:?}"
        );
        let _ = read::list(&dir, &read::Filter::default(), None, 10);
        let _ = read::tail(&dir, 0, 10);
    });
}

pub(crate) fn audit_log_seeds() -> Vec<Vec<u8>> {
    LOG.with(|written| {
        let mut cut = written.bytes.clone();
        cut.truncate(written.bytes.len() - 7);
        vec![written.bytes.clone(), cut]
    })
}

/// A proof is of a record that was written, or it is none.
pub(crate) fn audit_proof(bytes: &[u8]) {
    LOG.with(|written| {
        let dir = written.directory.path().join("log");
        let public = key::read_public(&dir.join(key::PUBLIC)).expect("the writer left it there");
        if let Ok(proven) = proof::check(bytes, &public) {
            let line = [proven.record.as_bytes(), b"\n"].concat();
            let is_there = written.bytes.windows(line.len()).any(|at| at == line);
            assert!(is_there, "a record that was never written is proven");
        }
    });
}

pub(crate) fn audit_proof_seeds() -> Vec<Vec<u8>> {
    LOG.with(|written| {
        let dir = written.directory.path().join("log");
        // Another target may have left something else there.
        fs::write(segment::path(&dir, 1), &written.bytes).expect("there is room");
        let proofs = (1..=RECORDS).filter_map(|seq| proof::prove(&dir, seq, None).ok());
        proofs.map(String::into_bytes).collect()
    })
}

pub(crate) fn store(bytes: &[u8]) {
    paw_store::fuzz::records(bytes);
    paw_store::fuzz::notes(bytes, Uuid::from_u128(7));
}

pub(crate) fn store_seeds() -> Vec<Vec<u8>> {
    let digest = "0".repeat(64);
    let id = "01890000-0000-7000-8000-000000000000";
    let caller = json!({ "uid": 1000, "gid": 1000, "role": "user", "name": "ann" });
    [
        json!({ "id": id, "plan": { "kind": "chat" }, "digest": digest, "kind": "chat", "risk": "low", "taint": ["user"],
            "decision": "allow", "rules": ["r"], "state": "completed", "requested_by": caller, "created_ms": 1,
            "result": { "text": "a" } }),
        json!({ "id": id, "agent": "default", "owner": caller, "taint": ["user", "tool"], "created_ms": 1, "title": "t" }),
        json!({ "session": id, "seq": 1, "role": "user", "text": "a", "taint": [], "at_ms": 1,
            "calls": [{ "id": "call_0", "name": "files__read", "arguments": "{}" }] }),
        json!([{ "put_session": { "id": id, "owner": 1000, "document": {} } }]),
    ]
    .iter()
    .filter_map(|seed| serde_json::to_vec(seed).ok())
    .chain([paw_store::fuzz::a_note(Uuid::from_u128(7))])
    .collect()
}

pub(crate) fn vault(bytes: &[u8]) {
    VAULT.with(|known| {
        paw_vault::fuzz::header(bytes, known);
        paw_vault::fuzz::row(bytes, known);
    });
    paw_vault::fuzz::keys(bytes);
}

pub(crate) fn vault_seeds() -> Vec<Vec<u8>> {
    let sealed = "11".repeat(24 + 32 + 16);
    let header = |work: serde_json::Value, source: &str| {
        json!({ "format": 1, "vault": Uuid::from_u128(1), "generation": 3, "rows": 2, "root": "00".repeat(32), "source": source,
            "work": work, "slots": [sealed, sealed] })
    };
    let work = json!({ "memory": 65536, "passes": 3, "salt": vec![0; 16] });
    let mut seeds: Vec<Vec<u8>> = [
        header(serde_json::Value::Null, "file"),
        header(work, "passphrase"),
    ]
    .iter()
    .filter_map(|seed| serde_json::to_vec(seed).ok())
    .collect();
    seeds.extend([
        "ab".repeat(32).into_bytes(),
        vec![7; 32],
        vec![1; 33 + 24 + 16 + 5],
        b"01234567-89abcdef-01234567-89abcdef-01234567-89abcdef-01234567-89abcdef-0123".to_vec(),
    ]);
    seeds
}

pub(crate) fn image_documents(bytes: &[u8]) {
    paw_image::fuzz::documents(bytes);
    if let Ok(root) = from_slice::<Root>(bytes) {
        let written = serde_json::to_vec(&root).expect("what was read can be written");
        assert!(from_slice::<Root>(&written).ok() == Some(root));
    }
}

pub(crate) fn image_documents_seeds() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "1".repeat(64));
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let entry = |kind: &str| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": 7 });
    let mut here = entry("manifest.v1+json");
    here["platform"] = json!({ "os": "linux", "architecture": arch });
    [
        json!({ "schemaVersion": 2, "manifests": [here, entry("index.v1+json")] }),
        json!({ "schemaVersion": 2, "config": entry("config.v1+json"),
            "layers": [entry("layer.v1.tar"), entry("layer.v1.tar+gzip"), entry("layer.v1.tar+zstd")] }),
        json!({ "architecture": arch, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "rootfs": { "type": "layers", "diff_ids": [digest] },
            "config": { "Env": ["A=1"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c"], "WorkingDir": "/srv", "User": "1" } }),
        json!({ "dirs": ["usr"], "links": [["bin", "usr/bin"]], "files": [["etc/hosts", ""]],
            "binds": [{ "source": "/usr", "path": "usr" }], "mounts": ["/srv"] }),
    ]
    .iter()
    .filter_map(|seed| serde_json::to_vec(seed).ok())
    .collect()
}

/// The first byte says what the others are.
pub(crate) fn image_archive(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    if *kind & 0x80 != 0 {
        if let Ok(mut file) = tempfile::tempfile()
            && file.write_all(bytes).is_ok()
            && file.rewind().is_ok()
        {
            paw_image::fuzz::layout(file);
        }
        return;
    }
    let around = tempfile::tempdir().expect("a directory");
    let (inside, beside) = (around.path().join("inside"), around.path().join("beside"));
    fs::create_dir(&inside).expect("a directory");
    fs::write(&beside, "beside").expect("a file");
    paw_image::fuzz::archive(bytes, *kind & 3, *kind & 4 != 0, &inside);
    let names: Vec<_> = fs::read_dir(around.path())
        .expect("it is there")
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .collect();
    assert_eq!(
        names.len(),
        2,
        "something was made beside the root: {names:?}"
    );
    assert!(fs::read(&beside).is_ok_and(|text| text == b"beside"));
}

/// A header of tar with the sum that it must have.
fn member(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut member = header.to_vec();
    member.extend_from_slice(content);
    member.resize(512 + content.len().next_multiple_of(512), 0);
    member
}

pub(crate) fn image_archive_seeds() -> Vec<Vec<u8>> {
    let layer = [
        member("usr/", b'5', "", b""),
        member("usr/a", b'0', "", b"content"),
        member("usr/b", b'1', "usr/a", b""),
        member("out", b'2', "../../etc", b""),
        member("usr/.wh.a", b'0', "", b""),
        vec![0; 1024],
    ]
    .concat();
    let hostile = [
        member("out", b'2', "..", b""),
        member("out/beside", b'0', "", b"changed"),
        member("../beside", b'0', "", b"changed"),
        member("dev", b'3', "", b""),
        vec![0; 1024],
    ]
    .concat();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packed
        .write_all(&layer)
        .and_then(|()| packed.finish())
        .unwrap_or_default();
    let layout = [
        member("oci-layout", b'0', "", br#"{"imageLayoutVersion":"1.0.0"}"#),
        member("index.json", b'0', "", &image_documents_seeds()[0]),
        vec![0; 1024],
    ]
    .concat();
    // A frame of zstd with one raw block.
    let zstd = [
        0x28, 0xb5, 0x2f, 0xfd, 0x20, 3, 0x19, 0, 0, b'a', b'b', b'c',
    ];
    vec![
        [&[0][..], &layer].concat(),
        [&[4][..], &layer].concat(),
        [&[0][..], &hostile].concat(),
        [&[1][..], &packed].concat(),
        [&[2][..], &zstd].concat(),
        [&[0x80][..], &layout].concat(),
    ]
}
