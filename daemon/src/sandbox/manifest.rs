//! Skills: what each `skill.toml` says, checked, and the digest of everything that belongs to the skill.
//!
//! A skill that cannot be read, or that somebody other than root could have changed, is not there; why is kept for `status`. Those
//! that ship are read once; which others there are is told by [`crate::skills`], which keeps what was approved.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use paw_api::egress::NetRule;
use paw_launch::request::{Image, Limits};
use paw_policy::{Digest, Name, ToolClass, plan::is_deeper_than};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::SecretName;

use super::{
    announce::{MAX_DEPTH, may_say},
    confidential::Confidentiality,
    folder,
    least::reaches,
    mounts::{self, HostMount},
    named::Url,
    seal::{digest, read, sorted},
    sees::Sees,
};

/// The manifest of a skill.
pub(crate) const MANIFEST: &str = "skill.toml";
/// The largest `skill.toml`, in bytes.
const MAX_MANIFEST: u64 = 256 * 1024;
/// The most rules of one skill.
const MAX_RULES: usize = 64;
/// The most secrets that one skill needs.
const MAX_SECRETS: usize = 16;
/// The longest text for people and models about a skill or a tool, in bytes.
pub(crate) const MAX_TEXT: usize = 4096;
/// The most tools of one skill.
pub(crate) const MAX_TOOLS: usize = 256;

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
    /// Which directory its calls see, at `/workspace`.
    pub workspace: Sees,
    /// What its tools that send may reach, where the agent's sandboxes may.
    pub net: Vec<NetRule>,
    /// What of the host its calls see, but for those that may send.
    pub mounts: Vec<HostMount>,
    /// Secrets that brokers add to its requests: it never sees one, and no other is added.
    pub secrets: BTreeSet<String>,
    /// What one call may use.
    pub limits: Limits,
    /// Its tools by name. Of one that announces them: those that it announced when it was approved.
    pub tools: BTreeMap<String, Tool>,
    /// Whether its program says which tools there are, and its manifest only of which class each is.
    pub announces: bool,
    /// The class of each tool that it will announce; any other is of the worst one.
    pub classes: BTreeMap<String, ToolClass>,
    /// Those of them that change nothing, or the same to the same, when they are called twice.
    pub idempotent: BTreeSet<String>,
    /// Digest of what it announced when it was approved.
    pub announced: Option<Digest>,
    /// What its maker tells models about it, where it is a folder with instructions.
    pub instructions: Option<String>,
    /// Where it is from.
    pub origin: Provenance,
    /// Digest over all its files, their names, and which of them can be executed.
    pub digest: Digest,
}

/// Where a skill is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// It came with the package.
    Shipped,
    /// It was sent by an administrator and approved.
    Installed,
}

/// The class of a tool that nothing is said about (rule R3): the worst, whatever it says of itself.
pub const UNSAID: ToolClass = ToolClass::Admin;

/// One tool of a skill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// What it can do.
    pub class: ToolClass,
    /// What it does, as text for people and models.
    pub description: String,
    /// JSON schema of its arguments; always of an object.
    pub input: Value,
    /// The argument that names what of the skill's directory it reads or writes, if it is one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Of a tool that writes: whether what it does is all in its arguments, and nothing in the directory has a part in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blind: bool,
    /// The URL among its arguments whose host a call may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// Whether a call that was interrupted may be made again: it changes nothing, or the same to the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
    /// How confidential what it gives back is, where its class does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidentiality: Option<Confidentiality>,
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

/// All skills that can be used.
#[derive(Debug, Default)]
pub struct Skills {
    shipped: BTreeMap<Name, Arc<Skill>>,
    faults: Vec<ManifestError>,
    /// A leaf: nothing is done while it is held.
    installed: RwLock<BTreeMap<Name, Arc<Skill>>>,
}

impl Skills {
    /// Reads every directory in `dir` as a skill that ships. A bad one is left out and kept as a fault.
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
                Ok(skill) => drop(skills.shipped.insert(skill.name.clone(), Arc::new(skill))),
                Err(fault) => skills.faults.push(fault),
            }
        }
        Ok(skills)
    }

    /// The skill of this name, if it can be used. One that ships is never replaced by another.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<Arc<Skill>> {
        let shipped = self.shipped.get(name).cloned();
        shipped.or_else(|| {
            let installed = self
                .installed
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            installed.get(name).cloned()
        })
    }

    /// Whether one of this name ships.
    #[must_use]
    pub fn ships(&self, name: &Name) -> bool {
        self.shipped.contains_key(name)
    }

    /// All that can be used, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Skill>> + use<> {
        let mut all = self
            .installed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        all.extend(self.shipped.clone());
        all.into_values()
    }

    /// These are installed and may be used, and no others.
    pub(crate) fn publish(&self, installed: BTreeMap<Name, Arc<Skill>>) {
        *self
            .installed
            .write()
            .unwrap_or_else(PoisonError::into_inner) = installed;
    }

    /// Why others that ship are not there.
    #[must_use]
    pub fn faults(&self) -> &[ManifestError] {
        &self.faults
    }
}

/// Reads one skill that ships from its directory.
///
/// # Errors
/// When anything about it is not as it must be; see [`ManifestError`].
pub fn load_skill(dir: &Path) -> Result<Skill, ManifestError> {
    let skill = read_bundle(dir, Provenance::Shipped)?;
    let value = |field: &str, why| {
        Err(ManifestError::Value {
            path: dir.join(MANIFEST),
            field: field.to_owned(),
            why,
        })
    };
    if dir.file_name().and_then(|name| name.to_str()) != Some(skill.name.as_str()) {
        let why = format!(
            "it is {} but must be the name of the directory {}",
            skill.name,
            dir.display()
        );
        return value("name", why);
    }
    if skill.announces {
        return value(
            "tools",
            "1 to 256 tools are expected of a skill that ships".to_owned(),
        );
    }
    Ok(skill)
}

/// Reads one skill from whatever directory its files are in.
///
/// # Errors
/// When anything about it is not as it must be; see [`ManifestError`].
pub fn read_bundle(dir: &Path, origin: Provenance) -> Result<Skill, ManifestError> {
    let digest = digest(dir)?;
    let path = dir.join(MANIFEST);
    if !path.exists() && dir.join(folder::FOLDER).exists() {
        return folder::read(dir, digest, origin);
    }
    let text = text_of(&path, MAX_MANIFEST, "256 KiB for a manifest")?;
    let file: File = toml::from_str(&text).map_err(|source| ManifestError::Syntax {
        path: path.clone(),
        source: Box::new(source),
    })?;
    check(file, digest, origin).map_err(|(field, why)| ManifestError::Value { path, field, why })
}

pub(super) fn text_of(
    path: &Path,
    most: u64,
    limit: &'static str,
) -> Result<String, ManifestError> {
    let size = fs::metadata(path)
        .map_err(|source| read("look at", path, source))?
        .len();
    if size > most {
        return Err(ManifestError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    fs::read_to_string(path).map_err(|source| read("read", path, source))
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
    workspace: Sees,
    #[serde(default)]
    net: Vec<String>,
    #[serde(default)]
    mounts: Vec<HostMount>,
    #[serde(default)]
    secrets: Vec<String>,
    limits: Limits,
    /// None: its program announces them.
    #[serde(default)]
    tools: Vec<FileTool>,
    #[serde(default)]
    classes: BTreeMap<String, ToolClass>,
    #[serde(default)]
    idempotent: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTool {
    name: String,
    class: ToolClass,
    description: String,
    input: String,
    #[serde(default)]
    item: Option<String>,
    #[serde(default)]
    blind: bool,
    #[serde(default)]
    url: Option<Url>,
    #[serde(default)]
    idempotent: bool,
    #[serde(default)]
    confidentiality: Option<Confidentiality>,
}

type Wrong = (String, String);

fn check(file: File, digest: Digest, origin: Provenance) -> Result<Skill, Wrong> {
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
    if file.description.len() > MAX_TEXT {
        return wrong("description", "at most 4096 bytes are expected");
    }
    if file.tools.len() > MAX_TOOLS {
        return wrong("tools", "at most 256 tools are expected");
    }
    may_say(!file.tools.is_empty(), &file.classes, &file.idempotent)
        .map_err(|(field, why)| (field.to_owned(), why.to_owned()))?;
    if file.net.len() > MAX_RULES {
        return wrong("net", "at most 64 rules are expected");
    }
    let net = file
        .net
        .iter()
        .map(|rule| rule.parse::<NetRule>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|bad| ("net".to_owned(), bad.to_string()))?;
    let secrets = secrets(&file.secrets, &net)?;
    mounts::check(&file.mounts).map_err(|why| ("mounts".to_owned(), why))?;
    let mut classes = file
        .tools
        .iter()
        .map(|tool| tool.class)
        .chain(file.classes.values().copied());
    if !net.is_empty() && !classes.any(reaches) {
        return wrong(
            "net",
            "no tool is of class egress or money, so nothing would be reached",
        );
    }
    let mut tools = BTreeMap::new();
    for tool in file.tools {
        let field = format!("tools.{}", tool.name.escape_debug());
        if !is_tool_name(&tool.name) {
            return Err((
                field,
                "a name is 1 to 64 letters, digits, '_', '-' and '.'".to_owned(),
            ));
        }
        if is_deeper_than(MAX_DEPTH, tool.input.as_bytes()) {
            let why = format!("it is nested deeper than {MAX_DEPTH} arrays and objects");
            return Err((format!("{field}.input"), why));
        }
        let input: Value = serde_json::from_str(&tool.input)
            .map_err(|fault| (format!("{field}.input"), fault.to_string()))?;
        if input.get("type").and_then(Value::as_str) != Some("object") {
            return Err((
                format!("{field}.input"),
                "a schema with \"type\": \"object\" is expected".to_owned(),
            ));
        }
        let names = |item: &String| {
            let required = input.get("required").and_then(Value::as_array);
            let is_required = required.is_some_and(|all| all.iter().any(|it| it == item.as_str()));
            is_required && input["properties"][item]["type"] == "string"
        };
        if !tool.item.iter().all(names) {
            let why = "the name of a required argument of type string is expected";
            return Err((format!("{field}.item"), why.to_owned()));
        }
        if let Some(url) = &tool.url {
            let check = url.check(tool.class, names(&url.argument));
            check.map_err(|why| (format!("{field}.url"), why.to_owned()))?;
        }
        let tool_is = Tool {
            class: tool.class,
            description: tool.description,
            input,
            item: tool.item,
            blind: tool.blind,
            url: tool.url,
            idempotent: tool.idempotent,
            confidentiality: tool.confidentiality,
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
        classes,
        idempotent,
        mounts,
        ..
    } = file;
    Ok(Skill {
        announces: tools.is_empty(),
        classes,
        idempotent,
        announced: None,
        instructions: None,
        origin,
        name,
        version,
        description,
        command,
        image,
        workspace,
        net,
        mounts,
        secrets,
        limits,
        tools,
        digest,
    })
}

/// The secrets that a manifest names. Whatever adds one to a request is a broker, so without a rule for one none could be used.
fn secrets(names: &[String], net: &[NetRule]) -> Result<BTreeSet<String>, Wrong> {
    let wrong = |why: String| ("secrets".to_owned(), why);
    if names.len() > MAX_SECRETS {
        return Err(wrong(format!("at most {MAX_SECRETS} names are expected")));
    }
    for name in names {
        let read = name.parse::<SecretName>();
        let read = read.map_err(|error| wrong(format!("{}: {error}", name.escape_debug())))?;
        if read.version.is_some() {
            return Err(wrong("a name without a version is expected".to_owned()));
        }
    }
    let all: BTreeSet<String> = names.iter().cloned().collect();
    if all.len() < names.len() {
        return Err(wrong("one is there twice".to_owned()));
    }
    if !all.is_empty() && !net.iter().any(|rule| rule.broker().is_some()) {
        let why =
            "no rule of net is of a broker, as in \"broker/NAME\", so no secret would be used";
        return Err(wrong(why.to_owned()));
    }
    Ok(all)
}

/// Whether a tool may have this name: one that is safe in a log line, in a rule and in a command line.
pub(crate) fn is_tool_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
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
            ("delete", ToolClass::WriteDestructive),
            ("edit", ToolClass::WriteDestructive),
            ("list", ToolClass::ReadPrivate),
            ("read", ToolClass::ReadPrivate),
            ("search", ToolClass::ReadPrivate),
            ("undo", ToolClass::WriteDestructive),
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
            "class = \"read-private\"",
            "class = \"read-private\"\nitem = \"depth\"",
            "tools.list.item",
        );
        check(
            "class = \"read-private\"",
            "class = \"read-private\"\nurl = {argument = \"path\", methods = [\"GET\"]}",
            "only a tool of class egress or money",
        );
        check(
            "class = \"write-destructive\"",
            "class = \"egress\"\nurl = {argument = \"path\", methods = []}",
            "tools.write.url",
        );
        check(
            "class = \"write-destructive\"",
            "class = \"egress\"\nurl = {argument = \"create_dirs\", methods = [\"GET\"]}",
            "tools.write.url",
        );
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
