//! A mount source that becomes another one between the launcher's check and its use: nothing but what was checked is mounted.
//!
//! The swap is made by what stands before the real paw-create, so after the launcher has looked and before anything is mounted. The
//! attacker may write beside the source, which is all that a swap takes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use paw_launch::request::{
    Image, Mount, MountSource, Refusal, RefusalReason, Runtime, SandboxPlan,
};

use crate::rig::{Rig, busybox, open_to_all, plan};

/// A rig in which the first sandbox meets a swap of `project`, and paths of it: the source and the secret.
struct Swapped {
    rig: Rig,
    source: PathBuf,
    secret: PathBuf,
}

/// `swap` is said with `$source` and `$secret`.
fn swapped(swap: &str) -> Swapped {
    swapped_below("shared", swap)
}

/// The source is in this directory of the rig.
fn swapped_below(parent: &str, swap: &str) -> Swapped {
    let rig = Rig::new();
    let dir = rig.dir.path();
    let (shared, libexec) = (dir.join(parent), dir.join("libexec"));
    let (source, secret) = (shared.join("project"), dir.join("secret"));
    for (path, text) in [(&source, "project"), (&secret, "secret")] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("file"), text).unwrap();
        open_to_everybody(path);
        open_to_everybody(&path.join("file"));
    }
    open_to_everybody(&shared);
    open_to_everybody(dir);
    fs::rename(libexec.join("paw-create"), libexec.join("real")).unwrap();
    let script = format!(
        "#!/bin/sh\nsource={}\nsecret={}\nif test ! -e $source.moved; then\nmv $source $source.moved\n{swap}\nfi\nexec {} \"$@\"\n",
        source.display(),
        secret.display(),
        libexec.join("real").display()
    );
    fs::write(libexec.join("paw-create"), script).unwrap();
    open_to_all(&libexec.join("paw-create"));
    Swapped {
        rig,
        source,
        secret,
    }
}

fn open_to_everybody(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

fn with(source: &Path, id: u64, runtime: Runtime) -> SandboxPlan {
    let mut plan = plan(id);
    plan.runtime = runtime;
    if runtime == Runtime::Gvisor {
        plan.limits.memory = 256 << 20;
        plan.limits.wall_ms = 60_000;
    }
    plan.mounts = vec![Mount {
        source: MountSource::Path(source.to_owned()),
        target: "/project".into(),
        writable: true,
    }];
    plan
}

fn check(runtime: Runtime, (swap, expected): (&str, RefusalReason)) {
    let Swapped {
        rig,
        source,
        secret,
    } = swapped(swap);
    let mut client = rig.client();
    let Refusal {
        reason, message, ..
    } = client.refused(with(&source, 1, runtime));
    assert_eq!(reason, expected, "{message}");
    assert!(message.contains("project"), "it says of what: {message}");
    let swapped = source.with_extension("moved");
    assert!(swapped.exists(), "the swap was not made");
    assert_eq!((rig.leaves(), rig.state("bundles")), (vec![], vec![]));
    // Put back, it is mounted as ever, which shows that it was the swap that was refused.
    fs::remove_file(&source)
        .or_else(|_| fs::rename(&source, &secret))
        .unwrap();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "project").unwrap();
    let script = "cat /project/file";
    let output = client.run(with(&source, 2, runtime), &["sh", "-c", script]);
    assert_eq!(output.stdout, "project", "{output:?}");
    assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "secret");
}

/// No link is followed to a source, so this one is not even mounted.
const LINK: (&str, RefusalReason) = ("ln -s $secret $source", RefusalReason::Failed);
/// What is mounted is looked at before the first command, and is not what was checked.
const DIRECTORY: (&str, RefusalReason) = ("mv $secret $source", RefusalReason::Attestation);

pub(crate) fn source_that_is_swapped_for_a_link_after_its_check_is_refused() {
    check(Runtime::Native, LINK);
}

pub(crate) fn source_that_is_swapped_for_another_directory_after_its_check_is_refused() {
    check(Runtime::Native, DIRECTORY);
}

pub(crate) fn gvisor_source_that_is_swapped_after_its_check_is_refused() {
    for swap in [LINK, DIRECTORY] {
        check(Runtime::Gvisor, swap);
    }
}

/// The source is what was checked, and a directory above it leads elsewhere.
pub(crate) fn source_below_a_directory_that_is_swapped_after_its_check_is_refused() {
    let Swapped {
        rig,
        source,
        secret,
    } = swapped(LINK.0);
    for dir in [&source, &secret] {
        fs::create_dir(dir.join("below")).unwrap();
        fs::write(dir.join("below/file"), "text").unwrap();
    }
    let refusal = rig
        .client()
        .refused(with(&source.join("below"), 1, Runtime::Native));
    assert_eq!(refusal.reason, RefusalReason::Failed, "{refusal:?}");
    assert!(source.is_symlink(), "the swap was not made");
    assert_eq!((rig.leaves(), rig.state("bundles")), (vec![], vec![]));
}

/// An image is a directory that others may write beside, too: what runs is what was checked, or nothing.
fn image_swap(runtime: Runtime, (swap, expected): (&str, RefusalReason)) {
    let Swapped {
        rig,
        source,
        secret,
    } = swapped_below("images", swap);
    // Two that nobody could tell from each other by their names.
    for image in [&source, &secret] {
        busybox(image);
        open_to_everybody(image);
    }
    let of = |id| SandboxPlan {
        image: Image::Dir(source.clone()),
        mounts: Vec::new(),
        ..with(&source, id, runtime)
    };
    let mut client = rig.client();
    let refusal = client.refused(of(1));
    assert_eq!(refusal.reason, expected, "{refusal:?}");
    let moved = source.with_extension("moved");
    assert!(moved.exists(), "the swap was not made");
    assert_eq!((rig.leaves(), rig.state("bundles")), (vec![], vec![]));
    // As it was, it is run in, which shows that it was the swap that was refused.
    fs::remove_file(&source)
        .or_else(|_| fs::rename(&source, &secret))
        .unwrap();
    fs::rename(&moved, &source).unwrap();
    open_to_everybody(&source);
    fs::write(source.with_extension("moved"), "so that nothing is swapped").unwrap();
    let output = client.run(of(2), &["echo", "ran"]);
    assert_eq!(output.stdout, "ran\n", "{output:?}");
}

pub(crate) fn image_that_is_swapped_after_its_check_is_refused() {
    for swap in [LINK, DIRECTORY] {
        image_swap(Runtime::Native, swap);
    }
}

pub(crate) fn image_that_is_swapped_after_its_check_is_refused_by_gvisor() {
    for swap in [LINK, DIRECTORY] {
        image_swap(Runtime::Gvisor, swap);
    }
}
