//! What of the host the calls of a skill see: directories and files that its manifest names, and that a person approved with its rights.
//!
//! The launcher has the last word: what is below none of its `mount_prefixes` is in no sandbox. A call that may send something sees none of
//! it, so that nothing of the host leaves by the program that reads it.

use paw_launch::request::{Mount, MountSource};
use paw_policy::ToolClass;
use serde::{Deserialize, Serialize};

use super::{
    least::{reaches, writes},
    manifest::Skill,
};

/// The most of them in one skill.
const MOST: usize = 8;
/// The longest path, in bytes; what the launcher takes.
const LONGEST: usize = 255;
/// Where a call has other things, or the launcher has.
const TAKEN: [&str; 9] = [
    "/skill",
    "/shell",
    "/workspace",
    "/tmp",
    "/run",
    "/proc",
    "/dev",
    "/sys",
    "/.paw",
];

/// One of them, as a manifest says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMount {
    /// What of the host it is.
    pub source: String,
    /// Where it appears inside.
    pub target: String,
    /// Whether a tool that writes may change it; nobody is asked about what it changes, and nothing takes it back.
    #[serde(default)]
    pub writable: bool,
}

impl HostMount {
    /// It in words.
    #[must_use]
    pub fn told(&self) -> String {
        let access = if self.writable {
            "writable"
        } else {
            "read-only"
        };
        format!("{} at {}, {access}", self.source, self.target)
    }
}

/// Whether these can be meant.
pub(super) fn check(mounts: &[HostMount]) -> Result<(), String> {
    if mounts.len() > MOST {
        return Err(format!("at most {MOST} are expected"));
    }
    for (at, mount) in mounts.iter().enumerate() {
        for path in [&mount.source, &mount.target] {
            if !is_plain(path) {
                return Err(format!(
                    "{}: a plain absolute path of at most {LONGEST} bytes is expected, without control characters",
                    path.escape_debug()
                ));
            }
        }
        let target = &mount.target;
        if let Some(taken) = TAKEN.iter().find(|taken| meet(target, taken)) {
            return Err(format!(
                "{target}: {taken} is for something else in a sandbox; use another place, as in \"/data\""
            ));
        }
        let others = mounts.iter().skip(at + 1);
        if let Some(other) = others.map(|it| &it.target).find(|it| meet(target, it)) {
            return Err(format!("{target} and {other} are in one place"));
        }
    }
    Ok(())
}

/// What a call of a tool of this class sees.
pub(super) fn of_call(skill: &Skill, class: ToolClass) -> impl Iterator<Item = Mount> + '_ {
    let seen = if reaches(class) { &[] } else { &*skill.mounts };
    seen.iter().map(move |it| Mount {
        source: MountSource::Path((&it.source).into()),
        target: (&it.target).into(),
        writable: it.writable && writes(class),
    })
}

fn is_plain(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("")
        && parts.all(|part| !matches!(part, "" | "." | ".."))
        && path.len() <= LONGEST
        && !path.chars().any(char::is_control)
}

/// Whether one of them is below the other, or is it.
fn meet(one: &str, other: &str) -> bool {
    let below = |one: &str, other: &str| {
        let rest = one.strip_prefix(other);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(one, other) || below(other, one)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use paw_policy::{Taint, TaintSet};

    use super::*;
    use crate::sandbox::{Provenance, manifest::read_bundle};

    const FILES: &str = include_str!("../../skills/files/skill.toml");

    #[test]
    fn call_that_may_send_sees_nothing_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let says = "workspace = false\nmounts = [{source = \"/srv/a\", target = \"/a\"}, {source = \"/srv/b\", target = \"/b\", writable = true}]";
        let manifest = FILES.replacen("workspace = true", says, 1);
        fs::write(dir.path().join("skill.toml"), &manifest).unwrap();
        let skill = read_bundle(dir.path(), Provenance::Installed).unwrap();
        let elsewhere = manifest.replacen("target = \"/a\"", "target = \"/proc\"", 1);
        fs::write(dir.path().join("skill.toml"), elsewhere).unwrap();
        assert!(read_bundle(dir.path(), Provenance::Installed).is_err());
        let both = |b_is_writable| Some(vec![("/a", false), ("/b", b_is_writable)]);
        let secret = TaintSet::of(Taint::Private).with(&TaintSet::of(Taint::Secret));
        for (class, expected, stays) in [
            (ToolClass::ReadPublic, both(false), secret.clone()),
            (ToolClass::ReadPrivate, both(false), secret.clone()),
            (ToolClass::WriteLocalReversible, both(true), secret.clone()),
            (ToolClass::WriteDestructive, both(true), secret.clone()),
            (ToolClass::Exec, both(true), secret.clone()),
            (ToolClass::Admin, both(true), secret),
            (ToolClass::Egress, None, TaintSet::default()),
            (ToolClass::Money, None, TaintSet::default()),
        ] {
            let seen: Vec<_> = of_call(&skill, class)
                .map(|it| (it.target.display().to_string(), it.writable))
                .collect();
            let seen: Vec<_> = seen.iter().map(|(at, may)| (at.as_str(), *may)).collect();
            assert_eq!(seen, expected.unwrap_or_default(), "{class}");
            let mut tool = skill.tools["read"].clone();
            tool.class = class;
            assert_eq!(tool.confidential(&skill), stays, "{class}");
            assert_eq!(tool.sees(&skill), stays, "{class}");
        }
    }

    fn mount(source: &str, target: &str) -> HostMount {
        HostMount {
            source: source.into(),
            target: target.into(),
            writable: false,
        }
    }

    #[test]
    fn mount_that_cannot_be_meant_is_refused() {
        let long = format!("/{}", "x".repeat(255));
        for (source, target) in [
            ("srv", "/data"),
            ("/srv/../etc", "/data"),
            ("/srv/./a", "/data"),
            ("/srv//a", "/data"),
            ("/srv/", "/data"),
            ("/", "/data"),
            ("/srv/a\n", "/data"),
            (&long, "/data"),
            ("/srv", "data"),
            ("/srv", "/"),
            ("/srv", "/skill"),
            ("/srv", "/skill/bin"),
            ("/srv", "/workspace/a"),
            ("/srv", "/proc"),
            ("/srv", "/.paw/init"),
            ("/srv", &long),
        ] {
            assert!(
                check(&[mount(source, target)]).is_err(),
                "{source} {target}"
            );
        }
        assert!(check(&[mount("/srv/a", "/data"), mount("/srv/b", "/data/b")]).is_err());
        assert!(check(&[mount("/srv/a", "/data"), mount("/srv/b", "/data")]).is_err());
        let many: Vec<_> = (0..9).map(|at| mount("/srv", &format!("/d{at}"))).collect();
        assert!(check(&many).is_err());
        assert_eq!(check(&many[..8]), Ok(()));
        assert_eq!(
            check(&[mount("/srv/a", "/skills"), mount("/srv/a", "/data")]),
            Ok(())
        );
    }
}
