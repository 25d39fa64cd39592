//! Images through pawctl: added, run in, listed, removed; and what is in the log of it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use harness::{cases, report::Case, standalone::Standalone};
use paw_api::trail::AuditRpcClient as _;
use paw_policy::Digest;
use serde_json::{Value, json};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        an_image_is_added_run_in_listed_and_removed,
        an_oci_layout_is_one_image_as_a_directory_and_as_an_archive,
        a_layout_with_one_changed_byte_is_refused_and_leaves_nothing,
        what_is_no_image_is_refused_and_leaves_nothing,
    ]
    .into_iter()
    .chain(cases![
        without_python;
        python_runs_in_an_image_of_debian_packages,
    ])
    .collect()
}

/// What the manual says that a small Python consists of.
const PYTHON: [&str; 7] = [
    "python3-minimal",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "libexpat1",
    "zlib1g",
];

/// A root with Python in it, made once as the manual says; or why that cannot be done here.
fn python() -> Result<&'static Path, String> {
    static ROOT: OnceLock<Result<tempfile::TempDir, String>> = OnceLock::new();
    let made = ROOT.get_or_init(|| {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let fetched = Command::new("timeout")
            .args(["60", "apt-get", "-qq", "download"])
            .args(PYTHON)
            .current_dir(dir.path())
            .output()
            .map_err(|error| format!("apt-get: {error}"))?;
        if !fetched.status.success() {
            return Err("packages of Debian 12 cannot be fetched here".to_owned());
        }
        let root = dir.path().join("root");
        let unpacked = Command::new("sh")
            .args([
                "-c",
                "for deb in *.deb; do dpkg -x \"$deb\" root || exit 1; done",
            ])
            .current_dir(dir.path())
            .status()
            .map_err(|error| format!("dpkg: {error}"))?;
        if unpacked.success() && root.is_dir() {
            Ok(dir)
        } else {
            Err("the packages of Python cannot be unpacked here".to_owned())
        }
    });
    made.as_ref()
        .map(tempfile::TempDir::path)
        .map_err(Clone::clone)
}

fn without_python() -> Option<String> {
    without_sandboxes().or_else(|| python().err())
}

async fn python_runs_in_an_image_of_debian_packages() {
    let system = Standalone::start("").await;
    let root = python().expect("it was made").join("root");
    let root = root.to_str().expect("its path is text");
    let output = system
        .pawctl(&["sandbox", "image", "add", "--name", "python", root])
        .await;
    assert!(output.status.success(), "{output:?}");
    for runtime in runtimes() {
        let command = [
            "sandbox",
            "run",
            "--runtime",
            runtime,
            "--isolation-floor",
            "process",
            "--image",
            "python",
            "--",
            "/usr/bin/python3",
            "-c",
            "import json; print(json.dumps({'one': 1}))",
        ];
        let output = system.pawctl(&command).await;
        assert_eq!(output.stdout, b"{\"one\": 1}\n", "{runtime}: {output:?}");
    }
}

/// Those that can be tried here.
fn runtimes() -> &'static [&'static str] {
    if Path::new("/usr/bin/runsc").exists() {
        &["native", "gvisor"]
    } else {
        &["native"]
    }
}

/// A root with busybox in it, as somebody would make one by hand.
fn root(at: &Path) {
    fs::create_dir_all(at.join("bin")).expect("a root is made");
    fs::copy("/bin/busybox", at.join("bin/busybox")).expect("busybox-static is installed");
    symlink("busybox", at.join("bin/cat")).expect("a link is made");
    // More than one piece of an archive, so that they have to come together in order.
    let greeting = "hello from an image\n".repeat(10_000);
    fs::write(at.join("greeting"), greeting).expect("a file is written");
}

/// Adds an image under the name of its path; what is said of it.
async fn add(system: &Standalone, path: &Path) -> Value {
    let path = path.to_str().expect("its path is text");
    let words = ["-o", "json", "sandbox", "image", "add", path];
    let output = system.pawctl(&words).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

async fn an_image_is_added_run_in_listed_and_removed() {
    let system = Standalone::start("").await;
    let dir = tempfile::tempdir().expect("a directory is made");
    let path = dir.path().join("Mine");
    root(&path);
    let added = add(&system, &path).await;
    let path = path.to_str().expect("its path is text");
    assert_eq!(
        (&added["name"], &added["already"]),
        (&json!("mine"), &json!(false))
    );
    let output = system
        .pawctl(&[
            "-o", "json", "sandbox", "image", "add", "--name", "twin", path,
        ])
        .await;
    let twin: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(
        (&twin["digest"], &twin["already"]),
        (&added["digest"], &json!(true))
    );

    for runtime in runtimes() {
        let command = [
            "sandbox",
            "run",
            "--runtime",
            runtime,
            "--isolation-floor",
            "process",
            "--image",
            "mine",
            "--",
            "cat",
            "/greeting",
        ];
        let output = system.pawctl(&command).await;
        assert!(output.status.success(), "{runtime}: {output:?}");
        assert_eq!(output.stdout.len(), 200_000, "{runtime}");
    }

    let output = system
        .pawctl(&["-o", "json", "sandbox", "image", "list"])
        .await;
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let names: Vec<_> = listed
        .iter()
        .filter_map(|image| image["name"].as_str())
        .collect();
    assert!(
        ["base", "mine", "twin"]
            .iter()
            .all(|name| names.contains(name)),
        "{names:?}"
    );

    for (name, trees) in [("twin", 0), ("mine", 1)] {
        let output = system
            .pawctl(&["-o", "json", "sandbox", "image", "remove", name])
            .await;
        let swept: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        assert_eq!(
            swept["trees"].as_array().map(Vec::len),
            Some(trees),
            "{swept}"
        );
    }
    let output = system.pawctl(&["sandbox", "image", "remove", "mine"]).await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let output = system
        .pawctl(&["sandbox", "run", "--image", "mine", "--", "cat"])
        .await;
    assert_eq!(output.status.code(), Some(125), "{output:?}");

    let client = system.client().await;
    for (event, count) in [("image_added", 2), ("image_removed", 3)] {
        let records = client
            .list(None, Some(event.to_owned()), None, None)
            .await
            .expect("root may read the log");
        assert_eq!(records.len(), count, "{records:?}");
    }
}

/// Packs a directory as `tar` does.
fn archive(dir: &Path, at: &Path) {
    let packed = Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .arg("-C")
        .arg(dir)
        .arg("-cf")
        .arg(at)
        .arg(".")
        .status()
        .expect("tar is installed");
    assert!(packed.success());
}

/// An OCI layout with one layer, as other builders make one. Gives where the layer is in it.
fn layout(dir: &Path, at: &Path) -> PathBuf {
    let blobs = at.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory is made");
    let keep = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes).to_string();
        fs::write(blobs.join(&digest), bytes).expect("a blob is written");
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let tar = at.join("layer.tar");
    archive(dir, &tar);
    let layer = keep(&fs::read(&tar).expect("it was packed"), "layer.v1.tar");
    fs::remove_file(&tar).expect("it was packed");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = keep(config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = keep(manifest.to_string().as_bytes(), "manifest.v1+json");
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(at.join("index.json"), index.to_string()).expect("an index is written");
    fs::write(
        at.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )
    .expect("a version is written");
    let digest = layer["digest"].as_str().expect("it has one");
    blobs.join(digest.trim_start_matches("sha256:"))
}

async fn an_oci_layout_is_one_image_as_a_directory_and_as_an_archive() {
    let system = Standalone::start("").await;
    let dir = tempfile::tempdir().expect("a directory is made");
    let (tree, built) = (dir.path().join("tree"), dir.path().join("built"));
    root(&tree);
    layout(&tree, &built);
    let packed = dir.path().join("packed.tar");
    archive(&built, &packed);
    let mut digests = Vec::new();
    for path in [&built, &packed] {
        digests.push(add(&system, path).await["digest"].clone());
    }
    assert_eq!((&digests[0], trees(&system)), (&digests[1], 1));
    for name in ["built", "packed"] {
        let words = ["sandbox", "run", "--image", name, "--", "cat", "/greeting"];
        let output = system.pawctl(&words).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout.len(), 200_000, "{name}");
    }
}

async fn a_layout_with_one_changed_byte_is_refused_and_leaves_nothing() {
    let system = Standalone::start("").await;
    let dir = tempfile::tempdir().expect("a directory is made");
    let (tree, built) = (dir.path().join("tree"), dir.path().join("built"));
    root(&tree);
    let layer = layout(&tree, &built);
    let mut bytes = fs::read(&layer).expect("it was made");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&layer, bytes).expect("it can be changed");
    let path = built.to_str().expect("its path is text");
    let output = system.pawctl(&["sandbox", "image", "add", path]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("digest"),
        "{output:?}"
    );
    only_what_was_shipped(&system).await;
}

async fn what_is_no_image_is_refused_and_leaves_nothing() {
    let system = Standalone::start("").await;
    let dir = tempfile::tempdir().expect("a directory is made");
    let file = dir.path().join("noise.tar");
    fs::write(&file, vec![7; 100_000]).expect("a file is written");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).expect("a directory is made");
    for (path, name) in [
        (&file, "noise"),
        (&empty, "empty"),
        (&empty, "base"),
        (&empty, "../../x"),
    ] {
        let path = path.to_str().expect("its path is text");
        let output = system
            .pawctl(&["sandbox", "image", "add", "--name", name, path])
            .await;
        assert!(
            !output.status.success() && !output.stderr.is_empty(),
            "{name}: {output:?}"
        );
    }
    only_what_was_shipped(&system).await;
}

/// No image is listed that was added, and none of what was sent is in the store.
async fn only_what_was_shipped(system: &Standalone) {
    let output = system
        .pawctl(&["-o", "json", "sandbox", "image", "list"])
        .await;
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(
        !listed.is_empty() && listed.iter().all(|image| image["origin"] == "shipped"),
        "{listed:?}"
    );
    assert_eq!(trees(system), 0);
}

/// How many unpacked images are in the store.
fn trees(system: &Standalone) -> usize {
    fs::read_dir(system.root.path().join("launcher/images/trees")).map_or(0, Iterator::count)
}
