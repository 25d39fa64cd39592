//! Sending a bundle: the files of a directory, piece by piece. pawd makes them anew; nothing but their names, their bytes and whether
//! they can be executed is said.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use paw_api::{
    image::Upload,
    skill::{BundlePiece, SkillStaged},
};
use serde_json::json;

use super::change;
use crate::{
    cli::Global,
    connect::{Connection, Params},
    fail::Failure,
    render::{Out, text},
};

/// Bytes of one call; pawd takes at most 128 KiB.
const ROOM: usize = 96 * 1024;

/// Pieces of one call; pawd takes at most 256.
const PIECES: usize = 256;

pub(super) async fn install(
    global: &Global,
    out: &mut Out,
    path: &Path,
    no_wait: bool,
) -> Result<u8, Failure> {
    let doing = format!("read {}", path.display());
    let root = fs::canonicalize(path).map_err(|error| Failure::io(&doing, &error))?;
    let mut found = Vec::new();
    list(&root, &root, "", &mut found).map_err(|error| Failure::io(&doing, &error))?;
    let pawd = Connection::open(global).await?;
    let mut sending = Sending {
        pawd: &pawd,
        upload: None,
        pieces: Vec::new(),
        bytes: 0,
    };
    for (path, name) in found {
        let read = |error: io::Error| {
            let error = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            Failure::io(&doing, &error)
        };
        let mut file = fs::File::open(&path).map_err(read)?;
        let executable = file.metadata().map_err(read)?.permissions().mode() & 0o111 != 0;
        let mut offset = 0;
        loop {
            let mut bytes = Vec::new();
            let room = (ROOM - sending.bytes) as u64;
            (&mut file)
                .take(room)
                .read_to_end(&mut bytes)
                .map_err(read)?;
            let (length, whole) = (bytes.len() as u64, (bytes.len() as u64) < room);
            // A file that ends where a piece ends was said already; an empty one has to be.
            if length > 0 || offset == 0 {
                sending.add(&name, executable, offset, &bytes).await?;
            }
            offset += length;
            if whole {
                break;
            }
        }
    }
    sending.flush().await?;
    let params = Params::named(json!({"upload": sending.upload}));
    let staged: SkillStaged = pawd
        .call_patiently("read the bundle", "skill.stage", params)
        .await?
        .read()?;
    say(out, &staged);
    let asked = json!({"change": "install", "skill": staged.name, "digest": staged.digest});
    change(&pawd, out, asked, no_wait).await
}

/// What it would be allowed to do, on stderr, where it is seen before anybody is asked.
fn say(out: &Out, staged: &SkillStaged) {
    let against = match &staged.replaces {
        None => "new".to_owned(),
        Some(digest) => format!("replaces {digest}"),
    };
    out.say(&format!(
        "skill {} {} ({against}), digest {}",
        text::line(&staged.name),
        text::line(&staged.version),
        staged.digest
    ));
    if staged.difference.is_empty() {
        out.say("its rights are those of what is installed");
    }
    for line in &staged.difference {
        out.say(&text::line(line));
    }
}

/// The files of a directory in the order of their names. A link to a file of the bundle is that file; any other is none that could
/// be sent.
fn list(
    root: &Path,
    dir: &Path,
    prefix: &str,
    found: &mut Vec<(PathBuf, String)>,
) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let refuse = |why: &str| io::Error::other(format!("{}: {why}", path.display()));
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| refuse("its name is no text"))?;
        let name = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(root, &path, &format!("{name}/"), found)?;
        } else if kind.is_file() {
            found.push((path, name));
        } else if kind.is_symlink() {
            let to = fs::canonicalize(&path)?;
            if !to.starts_with(root) || !to.is_file() {
                return Err(refuse(
                    "a link that leads out of the bundle, or to a directory; a bundle has files and directories only",
                ));
            }
            found.push((to, name));
        } else {
            return Err(refuse("neither a file nor a directory"));
        }
    }
    Ok(())
}

struct Sending<'a> {
    pawd: &'a Connection,
    upload: Option<String>,
    pieces: Vec<BundlePiece>,
    bytes: usize,
}

impl Sending<'_> {
    async fn add(
        &mut self,
        name: &str,
        executable: bool,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        self.bytes += bytes.len();
        self.pieces.push(BundlePiece {
            path: name.to_owned(),
            executable,
            offset,
            data: BASE64.encode(bytes),
        });
        if self.pieces.len() == PIECES || self.bytes == ROOM {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if self.pieces.is_empty() && self.upload.is_some() {
            return Ok(());
        }
        let params = json!({"files": self.pieces, "upload": self.upload});
        let sent: Upload = self
            .pawd
            .call_patiently("send the bundle", "skill.send", Params::named(params))
            .await?
            .read()?;
        self.upload = Some(sent.upload);
        self.pieces.clear();
        self.bytes = 0;
        Ok(())
    }
}
