//! How the root of a sandbox comes together, and in which limits.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    process::{Command, Output},
};

use command_fds::{CommandFdExt, FdMapping};
use paw_launch::{
    request::{Image, Limits, RefusalReason, SandboxPlan},
    root::{Bind, FILE, Root},
};

use crate::rig::{Rig, open_to_all, plan, programs};

pub(crate) fn least_limits_are_enough_to_run_a_command() {
    let rig = Rig::new();
    // What paw-create needs in the leaf is gone before the first command; see LEAST in the ceilings.
    let limits = Limits {
        memory: 8 << 20,
        disk: 64 << 10,
        pids: 4,
        open_files: 32,
        ..plan(1).limits
    };
    let output = rig
        .client()
        .run(SandboxPlan { limits, ..plan(1) }, &["echo", "here"]);
    assert_eq!((output.stdout.as_str(), output.code), ("here\n", Some(0)));
}

pub(crate) fn image_with_a_name_that_is_no_text_is_refused() {
    let rig = Rig::new();
    let image = rig.dir.path().join("images/odd");
    fs::create_dir_all(image.join(OsStr::from_bytes(b"b\xffn"))).unwrap();
    open_to_all(&image);
    let refusal = rig.client().refused(SandboxPlan {
        image: Image::Dir(image),
        ..plan(1)
    });
    assert_eq!(refusal.reason, RefusalReason::Failed, "{refusal:?}");
    assert!(refusal.message.contains("UTF-8"), "{refusal:?}");
    assert_eq!((rig.leaves(), rig.state("bundles")), (vec![], vec![]));
}

/// What the launcher checked could have become a link since; it is not followed, wherever it leads.
pub(crate) fn mount_point_behind_a_link_is_refused() {
    for (link, path) in [("/etc", "there/x"), ("../..", "there/tmp"), ("/", "there")] {
        let output = assemble(&Root {
            dirs: vec!["proc".into(), "dev".into()],
            links: vec![("there".into(), link.into())],
            binds: vec![Bind {
                source: "/usr".into(),
                path: path.into(),
            }],
            ..Root::default()
        });
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("find the mount point") && !output.status.success(),
            "{link}: {said}"
        );
    }
}

/// Runs paw-create on a bundle that has this root and nothing else.
fn assemble(root: &Root) -> Output {
    let bundle = tempfile::tempdir().unwrap();
    fs::write(bundle.path().join(FILE), serde_json::to_vec(root).unwrap()).unwrap();
    fs::create_dir(bundle.path().join("run")).unwrap();
    let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let mapping = |path: &str, child_fd| FdMapping {
        parent_fd: open(path),
        child_fd,
    };
    Command::new(programs().join("paw-create"))
        .arg("native")
        .arg(bundle.path())
        .arg("0000000000000001")
        .fd_mappings(vec![
            mapping("/dev/null", 3),
            mapping("/dev/null", 4),
            mapping("/dev/null", 5),
            mapping("/proc/self/ns/user", 6),
        ])
        .unwrap()
        .output()
        .unwrap()
}
