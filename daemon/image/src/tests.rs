//! What is done with images of others: good ones, damaged ones, and those that were made to do harm. Every one goes through the
//! whole of it, from the archive to the name.

use std::{
    fs,
    io::{Seek as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use paw_launch::{
    image::{Added, ImageBounds, Origin},
    request::{Refusal, RefusalReason},
};
use paw_policy::{Digest, Name};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::{add::add, list, oci::architecture, store::Store, sweep};

const BOUNDS: ImageBounds = ImageBounds {
    max_bytes: 1 << 20,
    max_entries: 100,
};

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        let store = Store::open(&images).unwrap();
        Self { dir, store }
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    fn add(&self, name: &str, origin: Origin, archive: &[u8]) -> Result<Added, Refusal> {
        let shipped = [named("base")];
        let bounds = BOUNDS;
        add(
            &self.store,
            &named(name),
            origin,
            &shipped,
            bounds,
            vec![spool(archive)],
        )
        .map_err(Refusal::from)
    }

    fn oci(&self, layout: &Layout) -> Result<Added, Refusal> {
        self.add("it", Origin::Oci, &layout.archive())
    }

    /// The tree of an image that was taken in.
    fn tree(&self, added: &Added) -> PathBuf {
        self.images().join("trees").join(added.digest.to_string())
    }

    fn paths(&self, added: &Added) -> Vec<String> {
        let mut paths = Vec::new();
        below(&self.tree(added), "", &mut paths);
        paths
    }

    /// How many names there are, or trees, or (`tmp`) trees that are not finished.
    fn count(&self, what: &str) -> usize {
        let dir = if what == "tmp" { "trees" } else { what };
        let entries = fs::read_dir(self.images().join(dir)).unwrap();
        entries
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_str().unwrap().starts_with("tmp-") == (what == "tmp")
            })
            .count()
    }

    /// Takes in what must be refused, and looks whether anything of it stayed.
    fn refuses(&self, origin: Origin, archive: &[u8]) -> Refusal {
        let refusal = self.add("it", origin, archive).unwrap_err();
        assert_eq!(
            (self.count("names"), self.count("trees"), self.count("tmp")),
            (0, 0, 0),
            "{refusal:?}"
        );
        refusal
    }
}

fn named(name: &str) -> Name {
    name.parse().unwrap()
}

fn spool(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file.into()
}

fn below(dir: &Path, above: &str, paths: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    for name in names {
        let path = format!("{above}{}", name.to_string_lossy());
        let found = fs::symlink_metadata(dir.join(&name)).unwrap();
        paths.push(path.clone());
        if found.is_dir() {
            below(&dir.join(&name), &format!("{path}/"), paths);
        }
    }
}

/// An entry of an archive, with whatever name it shall have.
fn put(
    archive: &mut Builder<Vec<u8>>,
    kind: EntryType,
    name: &str,
    link: &str,
    mode: u32,
    content: &[u8],
) {
    let mut header = Header::new_gnu();
    // By hand, because the library refuses to write what we are about to read.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content).unwrap();
}

fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (kind, name, more) in entries {
        match kind {
            EntryType::Regular => put(&mut archive, *kind, name, "", 0o644, more.as_bytes()),
            _ => put(&mut archive, *kind, name, more, 0o755, b""),
        }
    }
    archive.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

fn sha(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// A layout, of which a test changes what it likes.
struct Layout {
    blobs: Vec<(String, Vec<u8>)>,
    index: Value,
    version: &'static str,
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

impl Layout {
    fn new(layers: &[Vec<u8>]) -> Self {
        let plain = layers
            .iter()
            .map(|layer| (layer.clone(), layer.clone(), "tar"));
        Self::packed(&plain.collect::<Vec<_>>())
    }

    /// Of (plain, packed, packing).
    fn packed(layers: &[(Vec<u8>, Vec<u8>, &str)]) -> Self {
        let ids: Vec<String> = layers
            .iter()
            .map(|(plain, ..)| format!("sha256:{}", sha(plain)))
            .collect();
        Self::with_ids(layers, &ids)
    }

    fn with_ids(layers: &[(Vec<u8>, Vec<u8>, &str)], ids: &[String]) -> Self {
        let config = json!({"architecture": architecture(), "os": "linux", "created": "2026-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": ids}, "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]}})
        .to_string()
        .into_bytes();
        let said: Vec<Value> = layers
            .iter()
            .map(|(_, packed, packing)| {
                json!({"mediaType": format!("application/vnd.oci.image.layer.v1.{packing}"),
                "digest": format!("sha256:{}", sha(packed)), "size": packed.len()})
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "layers": said, "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{}", sha(&config)), "size": config.len()}})
        .to_string()
        .into_bytes();
        let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", sha(&manifest)), "size": manifest.len()}]});
        let mut blobs: Vec<(String, Vec<u8>)> = layers
            .iter()
            .map(|(_, packed, _)| (sha(packed), packed.clone()))
            .collect();
        blobs.extend([(sha(&config), config), (sha(&manifest), manifest)]);
        Self {
            blobs,
            index,
            version: "1.0.0",
        }
    }

    /// The same with another `config` in its configuration.
    fn suggest(&mut self, config: Value) {
        let at = self.blobs.len() - 2;
        let mut document: Value = serde_json::from_slice(&self.blobs[at].1).unwrap();
        document["config"] = config;
        let bytes = document.to_string().into_bytes();
        let mut manifest: Value = serde_json::from_slice(&self.blobs[at + 1].1).unwrap();
        manifest["config"]["digest"] = json!(format!("sha256:{}", sha(&bytes)));
        manifest["config"]["size"] = json!(bytes.len());
        self.blobs[at] = (sha(&bytes), bytes);
        let bytes = manifest.to_string().into_bytes();
        self.index["manifests"][0]["digest"] = json!(format!("sha256:{}", sha(&bytes)));
        self.index["manifests"][0]["size"] = json!(bytes.len());
        self.blobs[at + 1] = (sha(&bytes), bytes);
    }

    fn archive(&self) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        let version = json!({"imageLayoutVersion": self.version}).to_string();
        put(
            &mut archive,
            FILE,
            "./oci-layout",
            "",
            0o644,
            version.as_bytes(),
        );
        put(
            &mut archive,
            FILE,
            "index.json",
            "",
            0o644,
            self.index.to_string().as_bytes(),
        );
        for (name, bytes) in &self.blobs {
            let mut header = Header::new_gnu();
            header.set_path(format!("blobs/sha256/{name}")).unwrap();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            archive.append(&header, bytes.as_slice()).unwrap();
        }
        archive.into_inner().unwrap()
    }
}

fn small() -> Vec<u8> {
    archive(&[
        (DIR, "bin", ""),
        (FILE, "bin/sh", "#!"),
        (LINK, "sh", "bin/sh"),
    ])
}

#[test]
fn an_image_is_stored_once_however_often_it_comes() {
    let rig = Rig::new();
    let one = rig.oci(&Layout::new(&[small()])).unwrap();
    assert_eq!(
        (one.entries, one.bytes, one.layers, one.already),
        (3, 2, 1, false)
    );
    let layout = Layout::packed(&[(small(), gzip(&small()), "tar+gzip")]);
    let two = rig.add("other", Origin::Oci, &layout.archive()).unwrap();
    let three = rig.add("third", Origin::Directory, &small()).unwrap();
    assert_eq!((two.digest, two.already), (one.digest, true));
    assert_eq!((three.digest, three.already), (one.digest, true));
    assert_eq!(
        (rig.count("trees"), rig.count("names"), rig.count("tmp")),
        (1, 3, 0)
    );
}

#[test]
fn every_packing_of_a_layer_gives_the_same_tree() {
    let plain = small();
    let (gz, zst) = (gzip(&plain), zstd(&plain));
    let half = plain.len() / 2;
    let members = [gzip(&plain[..half]), gzip(&plain[half..])].concat();
    let skipped = [
        &0x184d_2a53_u32.to_le_bytes()[..],
        &4_u32.to_le_bytes(),
        b"skip",
    ]
    .concat();
    let frames = [skipped, zstd(&plain[..half]), zstd(&plain[half..])].concat();
    let digests: Vec<Digest> = [
        (plain.clone(), "tar"),
        (gz, "tar+gzip"),
        (members, "tar+gzip"),
        (zst, "tar+zstd"),
        (frames, "tar+zstd"),
    ]
    .into_iter()
    .map(|(packed, packing)| {
        Rig::new()
            .oci(&Layout::packed(&[(plain.clone(), packed, packing)]))
            .unwrap()
            .digest
    })
    .collect();
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}

#[test]
fn digest_of_a_tree_follows_from_everything_in_it() {
    let digest = |entries: &[(EntryType, &str, &str)]| {
        Rig::new()
            .add("it", Origin::Directory, &archive(entries))
            .unwrap()
            .digest
    };
    let one = digest(&[(FILE, "a", "1"), (FILE, "b", "2")]);
    assert_eq!(one, digest(&[(FILE, "b", "2"), (FILE, "./a", "1")]));
    let others = [
        digest(&[(FILE, "a", "1"), (FILE, "b", "3")]),
        digest(&[(FILE, "a", "1"), (FILE, "c", "2")]),
        digest(&[(FILE, "a", "1"), (LINK, "b", "2")]),
        digest(&[(FILE, "a", "1"), (DIR, "b", "")]),
        digest(&[(FILE, "a", "12"), (FILE, "b", "")]),
        digest(&[(FILE, "a", "1"), (FILE, "b", "2"), (DIR, "c", "")]),
    ];
    assert!(!others.contains(&one));
}

#[test]
fn whiteouts_take_away_what_is_below_and_nothing_else() {
    let check = |upper: &[(EntryType, &str, &str)], expected: &[&str]| {
        let lower = archive(&[
            (DIR, "d", ""),
            (FILE, "d/one", "1"),
            (DIR, "d/sub", ""),
            (FILE, "d/sub/two", "2"),
            (FILE, "f", "f"),
        ]);
        let rig = Rig::new();
        let added = rig.oci(&Layout::new(&[lower, archive(upper)])).unwrap();
        assert_eq!(rig.paths(&added), expected, "{upper:?}");
    };
    check(
        &[(FILE, "d/.wh.one", "")],
        &["d", "d/sub", "d/sub/two", "f"],
    );
    check(&[(FILE, ".wh.d", "")], &["f"]);
    check(&[(FILE, "d/.wh..wh..opq", "")], &["d", "f"]);
    // Whatever the order: what the layer itself brings stays.
    check(
        &[(FILE, "d/new", ""), (FILE, "d/.wh..wh..opq", "")],
        &["d", "d/new", "f"],
    );
    check(
        &[(FILE, "d/.wh..wh..opq", ""), (FILE, "d/new", "")],
        &["d", "d/new", "f"],
    );
    check(
        &[(FILE, "d/sub/new", ""), (FILE, "d/.wh..wh..opq", "")],
        &["d", "d/sub", "d/sub/new", "f"],
    );
    check(
        &[(FILE, "d/sub/new", ""), (FILE, ".wh.d", "")],
        &["d", "d/sub", "d/sub/new", "f"],
    );
    check(
        &[(FILE, "d/one", "again"), (FILE, "d/.wh.one", "")],
        &["d", "d/one", "d/sub", "d/sub/two", "f"],
    );
    check(
        &[(FILE, ".wh.nothing", ""), (FILE, "no/such/.wh.dir", "")],
        &["d", "d/one", "d/sub", "d/sub/two", "f"],
    );
}

#[test]
fn a_whiteout_is_a_plain_name_where_there_are_no_layers() {
    let rig = Rig::new();
    let added = rig
        .add(
            "it",
            Origin::Directory,
            &archive(&[(FILE, "a", "1"), (FILE, ".wh.a", "2")]),
        )
        .unwrap();
    assert_eq!(rig.paths(&added), [".wh.a", "a"]);
}

#[test]
fn nothing_is_written_through_a_link() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    let to = outside.path().to_str().unwrap();
    let lower = archive(&[(LINK, "out", to), (FILE, "f", "f")]);
    for upper in [
        vec![(FILE, "out/evil", "x")],
        vec![(DIR, "out/evil", "")],
        vec![(LINK, "out/evil", "x")],
        vec![(HARD, "out/evil", "f")],
        vec![(HARD, "copy", "out/kept")],
        vec![(LINK, "up", "../.."), (FILE, "up/evil", "x")],
        vec![(LINK, "a", "."), (LINK, "a/b", ".."), (FILE, "b/evil", "x")],
    ] {
        let layout = Layout::new(&[lower.clone(), archive(&upper)]);
        Rig::new().refuses(Origin::Oci, &layout.archive());
        // In one archive as well.
        let joined = [&lower[..lower.len() - 1024], &archive(&upper)].concat();
        Rig::new().refuses(Origin::Directory, &joined);
    }
    // There is nothing of a layer below at these, so there is nothing to take away.
    for upper in ["out/.wh.kept", "out/.wh..wh..opq"] {
        let layers = [lower.clone(), archive(&[(FILE, upper, "")])];
        Rig::new().oci(&Layout::new(&layers)).unwrap();
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    let kept = fs::read_to_string(outside.path().join("kept")).unwrap();
    assert_eq!(kept, "kept");
}

#[test]
fn a_link_is_replaced_and_not_followed() {
    let rig = Rig::new();
    let outside = rig.dir.path().join("outside");
    fs::write(&outside, "kept").unwrap();
    let layers = [
        archive(&[(LINK, "f", outside.to_str().unwrap())]),
        archive(&[(FILE, "f", "mine")]),
    ];
    let added = rig.oci(&Layout::new(&layers)).unwrap();
    assert_eq!(
        fs::read_to_string(rig.tree(&added).join("f")).unwrap(),
        "mine"
    );
    assert_eq!(fs::read_to_string(outside).unwrap(), "kept");
}

#[test]
fn a_hard_link_shares_only_what_is_in_the_image() {
    let rig = Rig::new();
    for (name, target) in [
        ("x", "../../../../etc/passwd"),
        ("x", "/etc/passwd"),
        ("x", "d"),
        ("x", "l/x"),
        ("x", "nothing"),
        ("x", ""),
    ] {
        let entries = [
            (FILE, "f", "f"),
            (DIR, "d", ""),
            (LINK, "l", "/etc/passwd"),
            (HARD, name, target),
        ];
        rig.refuses(Origin::Directory, &archive(&entries));
    }
    // What is written to one name later is another file.
    let layers = [
        archive(&[(FILE, "f", "one"), (HARD, "g", "f")]),
        archive(&[(FILE, "g", "two")]),
    ];
    let added = rig.oci(&Layout::new(&layers)).unwrap();
    assert_eq!(
        fs::read_to_string(rig.tree(&added).join("f")).unwrap(),
        "one"
    );
}

#[test]
fn a_hard_link_to_a_symlink_is_the_same_symlink() {
    let rig = Rig::new();
    let outside = rig.dir.path().join("outside");
    fs::write(&outside, "kept").unwrap();
    let entries = [
        (LINK, "l", outside.to_str().unwrap()),
        (HARD, "x", "l"),
        (FILE, "x", "one"),
        (HARD, "y", "l"),
    ];
    let added = rig.oci(&Layout::new(&[archive(&entries)])).unwrap();
    let tree = rig.tree(&added);
    assert_eq!(fs::read_link(tree.join("y")).unwrap(), outside);
    // What is written to its name later takes its place and goes through neither.
    assert_eq!(fs::read_to_string(tree.join("x")).unwrap(), "one");
    assert_eq!(fs::read_link(tree.join("l")).unwrap(), outside);
    assert_eq!(fs::read_to_string(outside).unwrap(), "kept");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let rig = Rig::new();
    for name in [
        "../evil",
        "a/../../evil",
        "/evil",
        "a/b/../../../x",
        "evil\u{1b}[2J",
        "new\nline",
    ] {
        let refusal = rig.refuses(
            Origin::Directory,
            &archive(&[(FILE, "ok", "1"), (FILE, name, "x")]),
        );
        assert_eq!(refusal.reason, RefusalReason::Malformed);
        assert!(
            !refusal.message.contains('\u{1b}') && !refusal.message.contains('\n'),
            "{refusal:?}"
        );
    }
}

#[test]
fn rights_and_devices_do_not_come_along() {
    let mut archive = Builder::new(Vec::new());
    put(&mut archive, FILE, "su", "", 0o6755, b"x");
    put(&mut archive, FILE, "secret", "", 0o000, b"x");
    put(&mut archive, DIR, "tmp", "", 0o1777, b"");
    put(&mut archive, EntryType::Char, "mem", "", 0o666, b"");
    put(&mut archive, EntryType::Block, "disk", "", 0o666, b"");
    put(&mut archive, EntryType::Fifo, "pipe", "", 0o666, b"");
    let rig = Rig::new();
    let added = rig
        .add("it", Origin::Directory, &archive.into_inner().unwrap())
        .unwrap();
    assert_eq!(added.left_out, 3);
    assert_eq!(rig.paths(&added), ["secret", "su", "tmp"]);
    let mode = |name: &str| {
        fs::metadata(rig.tree(&added).join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        [mode("su"), mode("secret"), mode("tmp"), mode("")],
        [0o755, 0o644, 0o755, 0o755]
    );
    assert_eq!(
        fs::metadata(rig.tree(&added).join("su")).unwrap().mtime(),
        1_700_000_000
    );
}

#[test]
fn names_that_differ_in_case_are_two_and_the_last_of_one_name_counts() {
    let rig = Rig::new();
    let entries = [
        (FILE, "A", "1"),
        (FILE, "a", "2"),
        (FILE, "a", "3"),
        (DIR, "d", ""),
        (FILE, "d/x", ""),
        (FILE, "d", "file"),
    ];
    let added = rig
        .add("it", Origin::Directory, &archive(&entries))
        .unwrap();
    assert_eq!(rig.paths(&added), ["A", "a", "d"]);
    assert_eq!(fs::read_to_string(rig.tree(&added).join("a")).unwrap(), "3");
}

#[test]
fn what_was_changed_on_its_way_is_refused() {
    let rig = Rig::new();
    let packed = gzip(&small());
    let good = || Layout::packed(&[(small(), packed.clone(), "tar+gzip")]);
    // Each blob: the layer, the configuration, the manifest.
    for blob in 0..3 {
        let mut layout = good();
        let last = layout.blobs[blob].1.len() - 1;
        layout.blobs[blob].1[last] ^= 1;
        rig.refuses(Origin::Oci, &layout.archive());
    }
    let mut longer = good();
    longer.blobs[0].1.push(0);
    assert!(
        rig.refuses(Origin::Oci, &longer.archive())
            .message
            .contains("bytes and not")
    );
    let mut gone = good();
    gone.blobs.remove(0);
    assert!(
        rig.refuses(Origin::Oci, &gone.archive())
            .message
            .contains("no blob")
    );
    let other = Layout::with_ids(
        &[(small(), packed.clone(), "tar+gzip")],
        &[format!("sha256:{}", sha(b"other"))],
    );
    assert!(
        rig.refuses(Origin::Oci, &other.archive())
            .message
            .contains("configuration says")
    );
}

#[test]
fn what_is_no_layout_is_refused_with_its_reason() {
    let rig = Rig::new();
    let said = |archive: &[u8]| rig.refuses(Origin::Oci, archive).message;
    assert!(said(&small()).contains("no OCI image layout"));
    assert!(said(&gzip(&small())).contains("compressed"));
    assert!(said(&zstd(&small())).contains("compressed"));
    assert!(said(b"").contains("no OCI image layout"));
    let mut new = Layout::new(&[small()]);
    new.version = "9.0.0";
    assert!(said(&new.archive()).contains("9.0.0"));
    let mut other = Layout::new(&[small()]);
    other.index["manifests"][0]["digest"] = json!("sha512:00");
    assert!(said(&other.archive()).contains("sha256"));
    let mut foreign = Layout::new(&[small()]);
    foreign.index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "s390x"});
    assert!(said(&foreign.archive()).contains("s390x"));
}

#[test]
fn an_archive_that_is_cut_off_is_refused() {
    let rig = Rig::new();
    let whole = Layout::packed(&[(small(), gzip(&small()), "tar+gzip")]).archive();
    for length in [1, 511, 513, 1500, 2600, 4100] {
        rig.refuses(Origin::Oci, &whole[..length.min(whole.len() - 3000)]);
    }
    let plain = small();
    for length in [1, 700, 1030] {
        rig.refuses(Origin::Directory, &plain[..length]);
    }
}

#[test]
fn a_bomb_is_refused_before_it_fills_anything() {
    let rig = Rig::new();
    let big = archive(&[(FILE, "zeros", &"\0".repeat(4 << 20))]);
    let packed = gzip(&big);
    assert!(packed.len() < 64 << 10);
    for layout in [
        Layout::packed(&[(big.clone(), packed, "tar+gzip")]),
        Layout::packed(&[(big.clone(), zstd(&big), "tar+zstd")]),
    ] {
        let refusal = rig.refuses(Origin::Oci, &layout.archive());
        assert!(refusal.message.contains("max_bytes"), "{refusal:?}");
    }
    // Behind the end of the archive it counts as well, and many small layers count together.
    let mut tail = small();
    tail.resize(4 << 20, 0);
    rig.refuses(
        Origin::Oci,
        &Layout::packed(&[(tail.clone(), gzip(&tail), "tar+gzip")]).archive(),
    );
    let part = archive(&[(FILE, "part", &"\0".repeat(300 << 10))]);
    rig.refuses(Origin::Oci, &Layout::new(&vec![part; 5]).archive());
    let many: Vec<String> = (0..=BOUNDS.max_entries)
        .map(|number| number.to_string())
        .collect();
    let many: Vec<_> = many.iter().map(|name| (FILE, name.as_str(), "x")).collect();
    let refusal = rig.refuses(Origin::Directory, &archive(&many));
    assert!(refusal.message.contains("max_entries"), "{refusal:?}");
}

#[test]
fn directories_that_nobody_names_count_as_well() {
    let rig = Rig::new();
    let deep: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|top| format!("{top}/{}f", "d/".repeat(48)))
        .collect();
    let deep: Vec<_> = deep.iter().map(|name| (FILE, name.as_str(), "x")).collect();
    let refusal = rig.refuses(Origin::Directory, &archive(&deep));
    assert!(refusal.message.contains("max_entries"), "{refusal:?}");
    assert!(
        rig.add("two", Origin::Directory, &archive(&deep[..2]))
            .is_ok()
    );
}

#[test]
fn what_an_image_says_of_itself_is_told_within_bounds() {
    let rig = Rig::new();
    let long = "A".repeat(60 << 10);
    let mut version = Layout::new(&[small()]);
    version.index["schemaVersion"] = json!(long);
    let mut platform = Layout::new(&[small()]);
    platform.index["manifests"][0]["platform"] = json!({"os": long, "architecture": "\u{1b}[2J"});
    for layout in [version, platform] {
        let refusal = rig.refuses(Origin::Oci, &layout.archive());
        assert!(refusal.message.len() < 2000, "{}", refusal.message.len());
        assert!(!refusal.message.contains('\u{1b}'), "{refusal:?}");
    }
}

#[test]
fn what_an_image_suggests_does_not_hide_the_others() {
    let rig = Rig::new();
    let mut layout = Layout::new(&[small()]);
    // Each of these characters takes six as JSON.
    layout.suggest(json!({"Env": ["\u{1}".repeat(4000)]}));
    let refusal = rig.refuses(Origin::Oci, &layout.archive());
    assert!(refusal.message.contains("suggests"), "{refusal:?}");
    assert!(list::page(&rig.store, &[], &Default::default(), None).is_ok());
}

#[test]
fn sparse_files_of_every_kind_are_refused() {
    let rig = Rig::new();
    let mut archive = Builder::new(Vec::new());
    archive
        .append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0")])
        .unwrap();
    put(&mut archive, FILE, "hole", "", 0o644, b"1\n0\n512\n");
    let refusal = rig.refuses(Origin::Directory, &archive.into_inner().unwrap());
    assert!(refusal.message.contains("sparse"), "{refusal:?}");
}

#[test]
fn a_name_stands_for_one_image() {
    let rig = Rig::new();
    rig.add("it", Origin::Directory, &small()).unwrap();
    let other = archive(&[(FILE, "other", "x")]);
    let taken = rig.add("it", Origin::Directory, &other).unwrap_err();
    assert_eq!(taken.reason, RefusalReason::Exists);
    let shipped = rig.add("base", Origin::Directory, &other).unwrap_err();
    assert_eq!(shipped.reason, RefusalReason::Ceiling);
    assert_eq!(
        (rig.count("names"), rig.count("trees"), rig.count("tmp")),
        (1, 1, 0)
    );
}

#[test]
fn what_nobody_needs_is_swept_and_what_somebody_runs_in_is_not() {
    let rig = Rig::new();
    let added = rig.add("it", Origin::Directory, &small()).unwrap();
    rig.add("same", Origin::Directory, &small()).unwrap();
    sweep::forget(&rig.store, &named("it"), &[]).unwrap();
    assert_eq!(sweep::sweep(&rig.store).unwrap().trees, []);
    // What the launcher does for a sandbox.
    let runs = fs::File::open(rig.tree(&added)).unwrap();
    runs.lock_shared().unwrap();
    sweep::forget(&rig.store, &named("same"), &[]).unwrap();
    let swept = sweep::sweep(&rig.store).unwrap();
    assert_eq!((swept.trees, swept.kept), (vec![], vec![added.digest]));
    assert!(rig.tree(&added).join("bin/sh").exists());
    drop(runs);
    let swept = sweep::sweep(&rig.store).unwrap();
    assert_eq!((swept.trees, swept.bytes), (vec![added.digest], 2));
    assert_eq!((rig.count("trees"), rig.count("tmp")), (0, 0));
}

#[test]
fn what_somebody_who_died_was_making_is_swept_and_what_is_being_made_is_not() {
    let rig = Rig::new();
    let left = rig.images().join("trees/tmp-add-1");
    fs::create_dir_all(left.join("deep/er")).unwrap();
    fs::write(left.join("deep/er/file"), "x").unwrap();
    let working = rig.store.workplace().unwrap();
    assert!(!left.exists());
    sweep::sweep(&rig.store).unwrap();
    assert!(working.path.exists());
    drop(working);
    assert_eq!(rig.count("tmp"), 0);
}

#[test]
fn the_list_goes_on_page_after_page() {
    let rig = Rig::new();
    for number in 0..5 {
        rig.add(&format!("it-{number}"), Origin::Directory, &small())
            .unwrap();
    }
    let shipped = [named("base")];
    let used = std::collections::BTreeMap::new();
    let (mut after, mut names) = (None, Vec::new());
    loop {
        let page = list::page(&rig.store, &shipped, &used, after.as_ref()).unwrap();
        names.extend(page.images.iter().map(|image| image.name.to_string()));
        after = page.images.last().map(|image| image.name.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(names, ["base", "it-0", "it-1", "it-2", "it-3", "it-4"]);
}
