//! Installed skills: what each `skill.toml` says, checked, and the digest of everything that belongs to the skill.
//!
//! A skill that cannot be read, or that somebody other than root could have changed, is not there; why is kept for `status`.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use paw_api::egress::NetRule;
use paw_launch::request::{Image, Limits};
use paw_policy::{Digest, Name, ToolClass};
use serde::Deserialize;
use serde_json::Value;

use super::least::reaches;

/// The largest `skill.toml`, in bytes.
const MAX_MANIFEST: u64 = 256 * 1024;
/// The most files and directories of one skill.
const MAX_FILES: usize = 4096;
/// The most bytes of all files of one skill.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// How deep its directories may go.
const MAX_DEPTH: usize = 16;
/// The most rules of one skill.
const MAX_RULES: usize = 64;
/// The most tools of one skill.
const MAX_TOOLS: usize = 256;

/// An installed skill.
#[derive(Debug, Clone, PartialEq)]
pub struct Skill {
    /// Its name, and that of its directory.
    pub name: Name,
    /// Its version, as text for people.
    pub version: String,
    /// What it is for, as text for people and models.
    pub description: String,
    /// The program that speaks MCP over its stdin and stdout, and its arguments; its path is as it is inside.
    pub command: Vec<String>,
    /// The root file system that it needs.
    pub image: Image,
    /// Whether it sees the agent's workspace, at `/workspace`.
    pub workspace: bool,
    /// What its tools that send may reach, where the agent's sandboxes may.
    pub net: Vec<NetRule>,
    /// What one call may use.
    pub limits: Limits,
    /// Its tools by name.
    pub tools: BTreeMap<String, Tool>,
    /// Digest over all its files, their names, and which of them can be executed.
    pub digest: Digest,
}

/// One tool of a skill.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// What it can do.
    pub class: ToolClass,
    /// What it does, as text for people and models.
    pub description: String,
    /// JSON schema of its arguments; always of an object.
    pub input: Value,
}

/// Why a directory is not a skill.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or directory cannot be read.
    #[error("{step} {path}")]
    Read {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The manifest is not what a manifest looks like; the text names line and column.
    #[error("{path} is not a skill manifest")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// A value in the manifest is out of its bounds.
    #[error("{path}: {field}: {why}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What is wrong, and what is expected.
        why: String,
    },
    /// Something other than a file or a directory belongs to the skill.
    #[error(
        "{path} is neither a file nor a directory; a skill may have nothing else, so that its digest covers all of it"
    )]
    Foreign {
        /// What it is.
        path: PathBuf,
    },
    /// Others could change the skill after it was checked.
    #[error(
        "{path} belongs to uid {uid} with mode {mode:o}; give it to root and run `chmod go-w` on it"
    )]
    Writable {
        /// Which file or directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// There is more of it than is ever read.
    #[error("{path} goes beyond {limit}")]
    TooLarge {
        /// Where it was noticed.
        path: PathBuf,
        /// Which bound.
        limit: &'static str,
    },
}

/// All installed skills.
#[derive(Debug, Default)]
pub struct Skills {
    skills: BTreeMap<Name, Skill>,
    faults: Vec<ManifestError>,
}

impl Skills {
    /// Reads every directory in `dir` as a skill. A bad one is left out and kept as a fault.
    ///
    /// # Errors
    /// When `dir` itself cannot be read.
    pub fn load(dir: &Path) -> Result<Self, ManifestError> {
        let mut skills = Self::default();
        for path in sorted(dir)? {
            if !path.is_dir() {
                continue;
            }
            match load_skill(&path) {
                Ok(skill) => drop(skills.skills.insert(skill.name.clone(), skill)),
                Err(fault) => skills.faults.push(fault),
            }
        }
        Ok(skills)
    }

    /// The skill of this name, if it is installed and sound.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Skill> {
        self.skills.get(name)
    }

    /// All sound skills in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Skill> {
        self.skills.values()
    }

    /// Why the others are not there.
    #[must_use]
    pub fn faults(&self) -> &[ManifestError] {
        &self.faults
    }
}

/// Reads one skill from its directory.
///
/// # Errors
/// When anything about it is not as it must be; see [`ManifestError`].
pub fn load_skill(dir: &Path) -> Result<Skill, ManifestError> {
    let digest = digest(dir)?;
    let path = dir.join("skill.toml");
    let size = fs::metadata(&path)
        .map_err(|source| read("look at", &path, source))?
        .len();
    if size > MAX_MANIFEST {
        return Err(ManifestError::TooLarge {
            path,
            limit: "256 KiB for a manifest",
        });
    }
    let text = fs::read_to_string(&path).map_err(|source| read("read", &path, source))?;
    let file: File = toml::from_str(&text).map_err(|source| ManifestError::Syntax {
        path: path.clone(),
        source: Box::new(source),
    })?;
    let skill = check(file, digest).map_err(|(field, why)| ManifestError::Value {
        path: path.clone(),
        field,
        why,
    })?;
    if dir.file_name().and_then(|name| name.to_str()) == Some(skill.name.as_str()) {
        Ok(skill)
    } else {
        let why = format!(
            "it is {} but must be the name of the directory {}",
            skill.name,
            dir.display()
        );
        Err(ManifestError::Value {
            path,
            field: "name".to_owned(),
            why,
        })
    }
}

/// What the file may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Name,
    version: String,
    description: String,
    command: Vec<String>,
    image: String,
    #[serde(default)]
    workspace: bool,
    #[serde(default)]
    net: Vec<String>,
    limits: Limits,
    tools: Vec<FileTool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTool {
    name: String,
    class: ToolClass,
    description: String,
    input: String,
}

type Wrong = (String, String);

fn check(file: File, digest: Digest) -> Result<Skill, Wrong> {
    let wrong = |field: &str, why: &str| Err((field.to_owned(), why.to_owned()));
    if file.version.is_empty() || file.version.len() > 64 {
        return wrong("version", "1 to 64 bytes are expected");
    }
    if !file
        .command
        .first()
        .is_some_and(|program| program.starts_with('/'))
    {
        return wrong(
            "command",
            "the absolute path of a program is expected, as in [\"/skill/bin/server\"]",
        );
    }
    if file.command.iter().any(|part| part.contains('\0')) {
        return wrong("command", "it may not contain NUL bytes");
    }
    let image = match file.image.as_str() {
        "host" => Image::Host,
        name => Image::Named(
            name.parse()
                .map_err(|bad: paw_policy::words::BadName| ("image".to_owned(), bad.to_string()))?,
        ),
    };
    let limits = file.limits;
    let amounts = [
        u64::from(limits.cpu_milli),
        limits.memory,
        limits.pids.into(),
        limits.open_files.into(),
        limits.wall_ms,
    ];
    if amounts.contains(&0) {
        return wrong(
            "limits",
            "only disk may be 0; nothing runs with none of the others",
        );
    }
    if file.tools.is_empty() || file.tools.len() > MAX_TOOLS {
        return wrong("tools", "1 to 256 tools are expected");
    }
    if file.net.len() > MAX_RULES {
        return wrong("net", "at most 64 rules are expected");
    }
    let net = file
        .net
        .iter()
        .map(|rule| rule.parse::<NetRule>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|bad| ("net".to_owned(), bad.to_string()))?;
    if !net.is_empty() && !file.tools.iter().any(|tool| reaches(tool.class)) {
        return wrong(
            "net",
            "no tool is of class egress or money, so nothing would be reached",
        );
    }
    let mut tools = BTreeMap::new();
    for tool in file.tools {
        let field = format!("tools.{}", tool.name.escape_debug());
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if tool.name.is_empty() || tool.name.len() > 64 || !tool.name.bytes().all(plain) {
            return Err((
                field,
                "a name is 1 to 64 letters, digits, '_', '-' and '.'".to_owned(),
            ));
        }
        let input: Value = serde_json::from_str(&tool.input)
            .map_err(|fault| (format!("{field}.input"), fault.to_string()))?;
        if input.get("type").and_then(Value::as_str) != Some("object") {
            return Err((
                format!("{field}.input"),
                "a schema with \"type\": \"object\" is expected".to_owned(),
            ));
        }
        let tool_is = Tool {
            class: tool.class,
            description: tool.description,
            input,
        };
        if tools.insert(tool.name, tool_is).is_some() {
            return Err((field, "it is there twice".to_owned()));
        }
    }
    let File {
        name,
        version,
        description,
        command,
        workspace,
        ..
    } = file;
    Ok(Skill {
        name,
        version,
        description,
        command,
        image,
        workspace,
        net,
        limits,
        tools,
        digest,
    })
}

/// Digest of a listing with one line for each file, in the order of their paths: `x` or `-`, digest, size, path.
fn digest(dir: &Path) -> Result<Digest, ManifestError> {
    let mut files = Vec::new();
    let mut left = (MAX_FILES, MAX_BYTES);
    collect(dir, "", 0, &mut left, &mut files)?;
    files.sort();
    let listing: String = files
        .into_iter()
        .map(|(path, what)| format!("{what} {path}\n"))
        .collect();
    Ok(Digest::of(listing.as_bytes()))
}

fn collect(
    dir: &Path,
    prefix: &str,
    depth: usize,
    left: &mut (usize, u64),
    files: &mut Vec<(String, String)>,
) -> Result<(), ManifestError> {
    if depth > MAX_DEPTH {
        return Err(ManifestError::TooLarge {
            path: dir.to_owned(),
            limit: "16 levels of directories",
        });
    }
    unchangeable(
        dir,
        &fs::symlink_metadata(dir).map_err(|source| read("look at", dir, source))?,
    )?;
    for path in sorted(dir)? {
        left.0 = left.0.checked_sub(1).ok_or(ManifestError::TooLarge {
            path: path.clone(),
            limit: "4096 files of one skill",
        })?;
        let meta = fs::symlink_metadata(&path).map_err(|source| read("look at", &path, source))?;
        // Names go into the listing line by line, so they must not be able to look like two lines.
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| !name.contains(char::is_control));
        let Some(name) = name else {
            return Err(ManifestError::Foreign { path });
        };
        let inside = format!("{prefix}{name}");
        if meta.is_dir() {
            collect(&path, &format!("{inside}/"), depth + 1, left, files)?;
        } else if meta.is_file() {
            unchangeable(&path, &meta)?;
            left.1 = left
                .1
                .checked_sub(meta.len())
                .ok_or(ManifestError::TooLarge {
                    path: path.clone(),
                    limit: "256 MiB of one skill",
                })?;
            let bytes = fs::read(&path).map_err(|source| read("read", &path, source))?;
            let run = if meta.mode() & 0o111 == 0 { '-' } else { 'x' };
            files.push((
                inside,
                format!("{run} {} {}", Digest::of(&bytes), bytes.len()),
            ));
        } else {
            return Err(ManifestError::Foreign { path });
        }
    }
    Ok(())
}

fn unchangeable(path: &Path, meta: &fs::Metadata) -> Result<(), ManifestError> {
    let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
    // Our own uid is trusted too: who can change files as us can change what we check, too.
    if mode & 0o022 == 0 && (uid == 0 || uid == rustix::process::geteuid().as_raw()) {
        Ok(())
    } else {
        Err(ManifestError::Writable {
            path: path.to_owned(),
            uid,
            mode,
        })
    }
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let entries = fs::read_dir(dir).map_err(|source| read("list", dir, source))?;
    let mut paths = entries
        .take(MAX_FILES + 1)
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| read("list", dir, source))?;
    paths.sort();
    Ok(paths)
}

fn read(step: &'static str, path: &Path, source: io::Error) -> ManifestError {
    ManifestError::Read {
        step,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const FILES: &str = include_str!("../../skills/files/skill.toml");

    fn installed(manifest: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("files/bin")).unwrap();
        fs::write(dir.path().join("files/skill.toml"), manifest).unwrap();
        fs::write(dir.path().join("files/bin/paw-files"), "program").unwrap();
        dir
    }

    fn fault(dir: &tempfile::TempDir) -> String {
        let skills = Skills::load(dir.path()).unwrap();
        assert_eq!(skills.iter().count(), 0);
        let fault = &skills.faults()[0];
        format!(
            "{fault}: {}",
            std::error::Error::source(fault)
                .map(ToString::to_string)
                .unwrap_or_default()
        )
    }

    #[test]
    fn the_shipped_skill_is_read() {
        let skills = Skills::load(installed(FILES).path()).unwrap();
        let skill = skills.get(&"files".parse().unwrap()).unwrap();
        assert!(skills.faults().is_empty());
        let classes: Vec<_> = skill
            .tools
            .iter()
            .map(|(name, tool)| (name.as_str(), tool.class))
            .collect();
        let expected = [
            ("list", ToolClass::ReadPrivate),
            ("read", ToolClass::ReadPrivate),
            ("write", ToolClass::WriteDestructive),
        ];
        assert_eq!(classes, expected);
        assert_eq!(
            skill.command,
            ["/skill/bin/paw-files", "--root", "/workspace"]
        );
    }

    #[test]
    fn a_manifest_that_says_too_much_or_too_little_is_refused() {
        let check = |from: &str, to: &str, expected: &str| {
            let manifest = FILES.replacen(from, to, 1);
            assert_ne!(manifest, FILES, "{from:?} is not in the manifest");
            let fault = fault(&installed(&manifest));
            assert!(
                fault.contains(expected),
                "{fault:?} does not say {expected:?}"
            );
        };
        check(
            "workspace = true",
            "workspace = true\nnetwork = \"all\"",
            "unknown field `network`",
        );
        check(
            "class = \"read-private\"",
            "class = \"harmless\"",
            "unknown variant `harmless`",
        );
        check("class = \"read-private\"\n", "", "missing field `class`");
        check(
            "name = \"files\"",
            "name = \"other\"",
            "must be the name of the directory",
        );
        check("name = \"files\"", "name = \"../files\"", "is not a name");
        check("\"/skill/bin/paw-files\"", "\"sh\"", "absolute path");
        check("pids = 16", "pids = 0", "limits");
        check("name = \"read\"", "name = \"list\"", "it is there twice");
        check("name = \"read\"", "name = \"re\\nad\"", "tools.re\\nad");
        check(
            "\"type\": \"object\"",
            "\"type\": \"array\"",
            "tools.list.input",
        );
        check("image = \"base\"", "image = \"/etc\"", "image");
        check(
            "workspace = true",
            "workspace = true\nnet = [\"example.com\"]",
            "net",
        );
        check(
            "workspace = true",
            "workspace = true\nnet = [\"example.com:443\"]",
            "no tool is of class egress",
        );
    }

    #[test]
    fn the_digest_covers_names_contents_and_who_may_execute() {
        let digest = |change: &dyn Fn(&Path)| {
            let dir = installed(FILES);
            change(&dir.path().join("files"));
            load_skill(&dir.path().join("files")).unwrap().digest
        };
        let plain = digest(&|_| {});
        assert_eq!(
            plain,
            digest(&|_| {}),
            "the same files have the same digest"
        );
        assert_ne!(
            plain,
            digest(&|dir| fs::write(dir.join("bin/paw-files"), "PROGRAM").unwrap())
        );
        assert_ne!(
            plain,
            digest(
                &|dir| fs::rename(dir.join("bin/paw-files"), dir.join("bin/paw-filez")).unwrap()
            )
        );
        assert_ne!(
            plain,
            digest(&|dir| fs::write(dir.join("more"), "").unwrap())
        );
        assert_ne!(
            plain,
            digest(&|dir| {
                fs::set_permissions(dir.join("bin/paw-files"), fs::Permissions::from_mode(0o755))
                    .unwrap();
            })
        );
    }

    #[test]
    fn a_skill_that_others_may_change_is_not_there() {
        for name in [
            "files",
            "files/bin",
            "files/bin/paw-files",
            "files/skill.toml",
        ] {
            let dir = installed(FILES);
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o777)).unwrap();
            assert!(fault(&dir).contains("chmod go-w"), "{name}");
        }
    }

    #[test]
    fn links_do_not_belong_to_a_skill() {
        let dir = installed(FILES);
        symlink("/etc/passwd", dir.path().join("files/bin/link")).unwrap();
        assert!(fault(&dir).contains("neither a file nor a directory"));
    }

    #[test]
    fn one_bad_skill_does_not_hide_the_others() {
        let dir = installed(FILES);
        fs::create_dir(dir.path().join("broken")).unwrap();
        let skills = Skills::load(dir.path()).unwrap();
        assert_eq!((skills.iter().count(), skills.faults().len()), (1, 1));
    }
}
