//! How the root of a sandbox comes together, and in which limits.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, symlink},
        },
    },
    process::{Command, Output},
};

use command_fds::{CommandFdExt, FdMapping};
use paw_launch::{
    request::{Image, Limits, Mount, MountSource, RefusalReason, SandboxPlan},
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

/// What is in memory is mounted from outside, and looks inside as if it were not.
pub(crate) fn what_is_in_memory_belongs_to_the_root_inside() {
    let rig = Rig::new();
    let script = "stat -c '%n %a %u %g' /dev /dev/shm /tmp /run; \
        for dir in /tmp /run /dev/shm; do cp /bin/busybox $dir/sh && $dir/sh -c 'echo executed' 2>/dev/null || echo refused; done; \
        echo x > /dev/x 2>/dev/null || echo kept; mount -o remount,exec /dev/shm 2>/dev/null || umount /tmp 2>/dev/null || echo locked";
    let image = rig.dir.path().join("data/images/busybox/bin");
    for applet in ["cp", "umount"] {
        symlink("busybox", image.join(applet)).unwrap();
    }
    let output = rig.client().run(plan(1), &["sh", "-c", script]);
    assert_eq!(
        output.stdout,
        "/dev 755 0 0\n/dev/shm 1777 0 0\n/tmp 1777 0 0\n/run 1777 0 0\nexecuted\nexecuted\nrefused\nkept\nlocked\n",
        "{}",
        output.stderr
    );
}

/// A directory of the image with nothing in it is one of the root's own, unless it has other rights.
pub(crate) fn empty_directories_of_an_image_take_no_mount() {
    let rig = Rig::new();
    let image = rig.dir.path().join("data/images/busybox");
    for (name, mode) in [("empty", 0o755), ("full", 0o755), ("other", 0o555)] {
        fs::create_dir(image.join(name)).unwrap();
        fs::set_permissions(image.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(image.join("full/file"), "").unwrap();
    symlink("busybox", image.join("bin/cut")).unwrap();
    let script = "cut -d' ' -f5 /proc/self/mountinfo > /tmp/mounts; while read at; do case $at in /empty|/full|/other) echo $at;; esac; done < /tmp/mounts; \
        stat -c '%n %a' /empty /other; echo x > /empty/x 2>/dev/null || echo refused";
    let output = rig.client().run(plan(1), &["sh", "-c", script]);
    let (mut mounts, rest): (Vec<&str>, Vec<&str>) = output
        .stdout
        .lines()
        .partition(|line| !line.contains(' ') && line.starts_with('/'));
    mounts.sort_unstable();
    assert_eq!(mounts, ["/full", "/other"], "{}", output.stderr);
    assert_eq!(rest, ["/empty 755", "/other 555", "refused"]);

    // What a plan mounts there finds its place.
    let source = rig.dir.path().join("shared/given");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "given").unwrap();
    open_to_all(&source);
    let output = rig.client().run(
        SandboxPlan {
            mounts: vec![Mount {
                source: MountSource::Path(source),
                target: "/empty/deep".into(),
                writable: false,
            }],
            ..plan(2)
        },
        &["cat", "/empty/deep/file"],
    );
    assert_eq!(output.stdout, "given", "{}", output.stderr);
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
