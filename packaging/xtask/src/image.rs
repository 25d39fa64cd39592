//! The image `base`: the small root file system that sandboxes get when nothing else is asked for.
//!
//! It is Debian's static busybox with a link per applet, two name files and empty mount points. No package manager, no
//! set-uid program, nothing that phones home.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::{cargo, elf, tree::Tree};

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: &str = "/bin/busybox";

/// What the launcher mounts over, or what programs expect to be there.
const EMPTY: [&str; 17] = [
    "dev",
    "etc",
    "home",
    "lib",
    "lib64",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "skill",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "var/tmp",
    "workspace",
];

/// Puts the image into `tree` at `at`.
pub(crate) fn base(tree: &mut Tree, at: &str) -> Result<()> {
    let busybox = std::fs::read(BUSYBOX)
        .ok()
        .filter(|file| elf::has_interpreter(file) == Some(false));
    ensure!(
        busybox.is_some(),
        "{BUSYBOX} is missing or not static; install Debian's busybox-static"
    );
    tree.file(&format!("{at}/bin/busybox"), 0o755, Path::new(BUSYBOX))?;
    for applet in cargo::output(Command::new(BUSYBOX).arg("--list"))?
        .lines()
        .filter(|name| *name != "busybox")
    {
        tree.link(&format!("{at}/bin/{applet}"), "busybox")?;
    }
    for path in EMPTY {
        tree.dir(&format!("{at}/{path}"))?;
    }
    tree.bytes(
        &format!("{at}/etc/passwd"),
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    tree.bytes(
        &format!("{at}/etc/group"),
        0o644,
        b"root:x:0:\nnogroup:x:65534:\n",
    )
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        path::Path,
    };

    use super::{BUSYBOX, EMPTY, base};
    use crate::tree::Tree;

    /// Everything in a tree: its kind, mode and content, by its path.
    type Found = BTreeMap<String, (char, u32, Vec<u8>)>;

    fn all(root: &Path, below: &Path, found: &mut Found) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            let (kind, content) = if meta.is_symlink() {
                let target = fs::read_link(&full).unwrap();
                ('l', target.into_os_string().into_encoded_bytes())
            } else if meta.is_dir() {
                all(root, &path, found);
                ('d', Vec::new())
            } else {
                assert!(meta.is_file() && meta.nlink() == 1, "{}", full.display());
                ('f', fs::read(&full).unwrap())
            };
            let mode = if kind == 'l' {
                0
            } else {
                meta.permissions().mode() & 0o7777
            };
            found.insert(path.to_str().unwrap().to_owned(), (kind, mode, content));
        }
    }

    #[expect(clippy::print_stdout, reason = "a test that cannot run says why")]
    fn built() -> Option<Found> {
        if !Path::new(BUSYBOX).exists() {
            println!("skipped: {BUSYBOX} is missing; install Debian's busybox-static");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::at(dir.path().join("stage")).unwrap();
        base(&mut tree, "image").unwrap();
        let root = tree.finish().unwrap().join("image");
        let mut found = BTreeMap::new();
        all(&root, Path::new(""), &mut found);
        Some(found)
    }

    #[test]
    fn base_image_is_busybox_its_names_and_nothing_of_this_host() {
        let Some(found) = built() else { return };
        let of = |kind| found.iter().filter(move |(_, entry)| entry.0 == kind);
        let files: Vec<_> = of('f')
            .map(|(path, (_, mode, _))| (&path[..], *mode))
            .collect();
        assert_eq!(
            files,
            [
                ("bin/busybox", 0o755),
                ("etc/group", 0o644),
                ("etc/passwd", 0o644)
            ]
        );
        assert!(found["bin/busybox"].2 == fs::read(BUSYBOX).unwrap());
        for name in ["etc/group", "etc/passwd"] {
            // Two users, and neither has a password or is a person of this host.
            let text = std::str::from_utf8(&found[name].2).unwrap();
            let names: Vec<_> = text
                .lines()
                .map(|line| line.split(':').take(2).collect::<Vec<_>>())
                .collect();
            assert!(
                names.len() == 2 && names.iter().all(|it| it[1] == "x"),
                "{text}"
            );
        }
        let mut dirs: Vec<_> = EMPTY.to_vec();
        dirs.extend(["bin", "var"]);
        dirs.sort_unstable();
        let laid: Vec<_> = of('d')
            .map(|(path, (_, mode, _))| (&path[..], *mode))
            .collect();
        assert_eq!(
            laid,
            dirs.iter().map(|dir| (*dir, 0o755)).collect::<Vec<_>>()
        );
        // A command is a name for busybox beside it, so that no link leads out of the image.
        let commands: Vec<_> = of('l').collect();
        assert!(
            commands
                .iter()
                .all(|(path, (.., target))| path.starts_with("bin/") && target == b"busybox")
        );
        for command in ["sh", "ls", "cat", "wget", "tar"] {
            assert!(found.contains_key(&format!("bin/{command}")), "{command}");
        }
    }

    #[test]
    fn base_image_is_the_same_wherever_and_whenever_it_is_built() {
        let Some(first) = built() else { return };
        assert!(built() == Some(first));
    }

    #[test]
    fn nothing_in_the_base_image_gives_a_right() {
        let Some(found) = built() else { return };
        for (path, (_, mode, _)) in found {
            // No set-uid, set-gid or sticky bit, and nobody but its owner writes.
            assert_eq!(mode & 0o7022, 0, "{path}: {mode:o}");
        }
    }
}
