//! `pawctl sandbox image`: what sandboxes have as their root. An archive is sent piece by piece, a directory as an archive that is
//! made while it is sent; what is in it is read by nobody on this side.

use std::{
    fs,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use indicatif::{ProgressBar, ProgressStyle};
use paw_api::image::{ImageAdded, ImageInfo, ImagesSwept, Upload};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    cli::{Global, Image},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Out, Tone, table, text},
};

/// Bytes of an archive that are sent at once; pawd takes at most 64 KiB.
const PIECE: usize = 48 * 1024;

/// Pieces that are read ahead.
const AHEAD: usize = 4;

pub(super) async fn run(global: &Global, out: &mut Out, command: Image) -> Result<u8, Failure> {
    match command {
        Image::Add { path, name } => add(global, out, &path, name).await,
        Image::List => list(global, out).await,
        Image::Remove { name } => {
            let pawd = Connection::open(global).await?;
            let params = Params::named(json!({"name": name}));
            let answer = pawd
                .call_patiently("remove the image", "image.remove", params)
                .await?;
            out.answer(&answer, |swept: &ImagesSwept, _| {
                let more = match (swept.trees.is_empty(), swept.kept.is_empty()) {
                    (false, _) => format!(", {} freed", text::size(swept.bytes)),
                    (true, false) => ", sandboxes still run in it".to_owned(),
                    (true, true) => String::new(),
                };
                format!("removed {}{more}\n", text::line(&name))
            })?;
            Ok(exit::DONE)
        }
    }
}

async fn list(global: &Global, out: &mut Out) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let answer = pawd
        .call("list images", "image.list", Params::none())
        .await?;
    out.answer(&answer, |images: &Vec<ImageInfo>, look| {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let rows = images
            .iter()
            .map(|image| {
                let digest = image
                    .digest
                    .as_deref()
                    .map(|digest| digest.get(..12).unwrap_or(digest));
                vec![
                    table::text(&image.name),
                    table::toned(Tone::Dim, &image.origin),
                    table::number(or_dash(image.bytes.map(text::size))),
                    table::number(or_dash(image.layers.map(|layers| layers.to_string()))),
                    table::text(&or_dash(image.added_ms.map(|ms| text::time(ms, look)))),
                    table::number(image.used_by),
                    table::text(digest.unwrap_or("-")),
                ]
            })
            .collect();
        let head = [
            "NAME", "ORIGIN", "SIZE", "LAYERS", "ADDED", "USED BY", "DIGEST",
        ];
        table::table(&head, rows, look, "there are no images")
    })?;
    Ok(exit::DONE)
}

async fn add(
    global: &Global,
    out: &mut Out,
    path: &Path,
    name: Option<String>,
) -> Result<u8, Failure> {
    let doing = format!("read {}", path.display());
    let found = fs::metadata(path).map_err(|error| Failure::io(&doing, &error))?;
    let origin = if found.is_dir() && !path.join("oci-layout").exists() {
        "directory"
    } else {
        "oci"
    };
    let name = match name {
        Some(name) => name,
        None => default_name(path, found.is_file())?,
    };
    let pawd = Connection::open(global).await?;
    let bar = progress(found.is_file().then_some(found.len()));
    let mut pieces = read(path.to_owned(), found.is_dir());
    let mut upload: Option<String> = None;
    while let Some(piece) = pieces.recv().await {
        let piece = piece.map_err(|error| Failure::io(&doing, &error))?;
        let mut params = json!({"data": BASE64.encode(&piece)});
        if let Some(upload) = &upload {
            params["upload"] = json!(upload);
        }
        let sent: Upload = pawd
            .call_patiently("send the image", "image.send", Params::named(params))
            .await?
            .read()?;
        bar.set_position(sent.bytes);
        upload = Some(sent.upload);
    }
    bar.set_message("unpacking");
    let params = json!({"upload": upload.unwrap_or_default(), "name": name, "origin": origin});
    let answer = pawd
        .call_patiently("add the image", "image.add", Params::named(params))
        .await?;
    bar.finish_and_clear();
    out.answer(&answer, |added: &ImageAdded, _| {
        let left_out = match added.left_out {
            0 => String::new(),
            count => format!(", {count} devices, pipes and sockets left out"),
        };
        let already = if added.already {
            ", which was there already"
        } else {
            ""
        };
        format!(
            "added {}: {} in {} entries, {}{already}{left_out}\n",
            text::line(&added.name),
            text::size(added.bytes),
            added.entries,
            added.digest.get(..12).unwrap_or(&added.digest),
        )
    })?;
    Ok(exit::DONE)
}

/// What a path calls an image: its last part, without the ending of an archive.
fn default_name(path: &Path, is_file: bool) -> Result<String, Failure> {
    let whole = fs::canonicalize(path).map_err(|error| Failure::io("read the path", &error))?;
    let part = if is_file {
        whole.file_stem()
    } else {
        whole.file_name()
    };
    part.and_then(|name| name.to_str())
        .map(str::to_lowercase)
        .ok_or_else(|| Failure::Usage {
            doing: "name the image".to_owned(),
            why: format!("{} gives no name", path.display()),
            remedy: "give one with --name".to_owned(),
        })
}

/// Nothing of it is seen where stderr is no terminal.
fn progress(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec} {msg}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Reads on a thread of its own.
fn read(path: PathBuf, is_dir: bool) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut out = Pieces {
            piece: Vec::with_capacity(PIECE),
            sender: &sender,
        };
        let read = if is_dir {
            pack(&path, &mut out)
        } else {
            copy(&path, &mut out)
        };
        if let Err(error) = read.and_then(|()| out.flush()) {
            // Whoever does not take it any more has failed already.
            let _ = sender.blocking_send(Err(error));
        }
    });
    pieces
}

/// Hands over what is written, piece by piece.
struct Pieces<'a> {
    piece: Vec<u8>,
    sender: &'a mpsc::Sender<io::Result<Vec<u8>>>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn copy(path: &Path, out: &mut Pieces<'_>) -> io::Result<()> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..count])?;
    }
}

/// A directory as an archive: its entries in the order of their names, links as they are.
fn pack(dir: &Path, out: &mut Pieces<'_>) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    archive.sparse(false);
    pack_below(&mut archive, dir, Path::new(""))?;
    archive.into_inner().map(drop)
}

fn pack_below<W: Write>(
    archive: &mut tar::Builder<W>,
    dir: &Path,
    inside: &Path,
) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, inside) = (entry.path(), inside.join(entry.file_name()));
        let kind = entry.file_type()?;
        // Devices, pipes and sockets have no place in an image.
        if kind.is_dir() || kind.is_file() || kind.is_symlink() {
            archive
                .append_path_with_name(&path, &inside)
                .map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?;
        }
        if kind.is_dir() {
            pack_below(archive, &path, &inside)?;
        }
    }
    Ok(())
}
