//! `image.*`
//!
//! An archive comes in pieces, is kept in a file without a name, and goes to the launcher as a descriptor. Nothing of it is read
//! here: that is done by a job which has no right to anything but the images.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::Engine as _;
use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    image::{ImageAdded, ImageInfo, ImageRpcServer, ImagesSwept, Suggested, Upload},
};
use paw_launch::{
    image::{Added, ImageOrder, ImagePage, Origin, Swept},
    request::{RefusalReason, Request},
};
use paw_policy::Name;
use paw_store::Caller;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;

use super::{Family, fail, sandbox::away};
use crate::{records, rpc::caller, sandbox::LauncherError};

/// The longest piece of an archive, in bytes.
const MAX_PIECE: usize = 64 * 1024;

/// The longest archive, in bytes; how large an image may be is decided by the launcher.
const MAX_ARCHIVE: u64 = 16 << 30;

/// Archives that are being sent at the same time.
const MAX_UPLOADS: usize = 2;

/// After how long nobody is believed to go on sending.
const IDLE: Duration = Duration::from_secs(120);

/// How long a job may take; the launcher ends it a little earlier.
const JOB_LIMIT: Duration = Duration::from_secs(660);

/// Pages of the list at most; the store of images bounds their names.
const MAX_PAGES: usize = 64;

/// Archives that are being sent, by their ids.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<BTreeMap<String, Sent>>);

#[derive(Debug)]
struct Sent {
    uid: u32,
    /// Away while a piece is written.
    file: Option<File>,
    bytes: u64,
    last: Instant,
}

impl Uploads {
    /// Archives that are being sent, and how many may be.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (self.lock().len(), MAX_UPLOADS)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ImageRpcServer for Family {
    async fn list(&self, _: &Extensions) -> RpcResult<Vec<ImageInfo>> {
        let (mut images, mut after) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let page: ImagePage = self
                .images(ImageOrder::List { after }, Vec::new())
                .await
                .map_err(|error| away(&error))?;
            after = page.images.last().map(|image| image.name.clone());
            images.extend(page.images.into_iter().map(shown));
            if !page.more || after.is_none() {
                break;
            }
        }
        Ok(images)
    }

    async fn send(
        &self,
        extensions: &Extensions,
        data: String,
        upload: Option<String>,
    ) -> RpcResult<Upload> {
        let caller = caller(extensions).map_err(fail)?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&data)
            .ok()
            .filter(|bytes| bytes.len() <= MAX_PIECE)
            .ok_or_else(|| {
                let hint = "send at most 64 KiB at a time";
                fail(Error::new(
                    ErrorKind::Invalid,
                    "the piece is not base64, or too long",
                    hint,
                ))
            })?;
        let id = match upload {
            Some(id) => id,
            None => self.begin_upload(&caller).map_err(fail)?,
        };
        self.take_piece(&caller, id, bytes).await.map_err(fail)
    }

    async fn add(
        &self,
        extensions: &Extensions,
        upload: String,
        name: String,
        origin: String,
    ) -> RpcResult<ImageAdded> {
        let caller = caller(extensions).map_err(fail)?;
        let name = named(&name).map_err(fail)?;
        let origin = match origin.as_str() {
            "oci" => Origin::Oci,
            "directory" => Origin::Directory,
            _ => {
                return Err(fail(Error::new(
                    ErrorKind::Invalid,
                    "the origin is neither `oci` nor `directory`",
                    "say which of the two the archive is",
                )));
            }
        };
        let (file, bytes) = {
            let mut uploads = self.uploads.lock();
            let file = uploads
                .get_mut(&upload)
                .filter(|sent| sent.uid == caller.uid)
                .and_then(|sent| Some((sent.file.take()?, sent.bytes)));
            uploads.remove(&upload);
            file.ok_or_else(|| fail(no_upload(&upload)))?
        };
        let detail = [("name", name.to_string()), ("bytes", bytes.to_string())];
        self.record(Event::ImageAdded, &caller, &detail)
            .await
            .map_err(fail)?;
        let order = ImageOrder::Add {
            name: name.clone(),
            origin,
        };
        let added: Result<Added, _> = self.images(order, vec![file.into()]).await;
        self.pool.forget(&name).await;
        let added = added.map_err(|error| not_added(&error))?;
        Ok(ImageAdded {
            name: added.name.to_string(),
            digest: added.digest.to_string(),
            bytes: added.bytes,
            entries: added.entries,
            layers: added.layers,
            left_out: added.left_out,
            already: added.already,
        })
    }

    async fn remove(&self, extensions: &Extensions, name: String) -> RpcResult<ImagesSwept> {
        let caller = caller(extensions).map_err(fail)?;
        let name = named(&name).map_err(fail)?;
        let detail = [("name", name.to_string())];
        self.record(Event::ImageRemoved, &caller, &detail)
            .await
            .map_err(fail)?;
        // What waits would keep the tree that is to be removed; what is made meanwhile may still be of it.
        self.pool.forget(&name).await;
        let order = ImageOrder::Remove { name: name.clone() };
        let swept: Result<Swept, _> = self.images(order, Vec::new()).await;
        self.pool.forget(&name).await;
        let swept = swept.map_err(|error| away(&error))?;
        let texts = |digests: Vec<paw_policy::Digest>| {
            digests
                .into_iter()
                .map(|digest| digest.to_string())
                .collect()
        };
        Ok(ImagesSwept {
            trees: texts(swept.trees),
            bytes: swept.bytes,
            kept: texts(swept.kept),
        })
    }
}

impl Family {
    /// Has the launcher's job for images do something.
    async fn images<T: DeserializeOwned>(
        &self,
        order: ImageOrder,
        fds: Vec<std::os::fd::OwnedFd>,
    ) -> Result<T, LauncherError> {
        let (result, _) = self
            .launchers
            .usual()
            .work(Request::Image { order }, fds, JOB_LIMIT)
            .await?;
        serde_json::from_value(result).map_err(|_| LauncherError::Confused {
            asked: "images",
            answer: "something that is no answer about images",
        })
    }

    /// In the log, before it happens.
    pub(super) async fn record(
        &self,
        event: Event,
        caller: &Caller,
        detail: &[(&str, String)],
    ) -> Result<(), Error> {
        let mut entry = Entry::new(event);
        entry.actor = Some(records::actor(caller));
        for (key, value) in detail {
            entry.detail.insert((*key).into(), value.clone());
        }
        self.audit
            .durable(entry)
            .await
            .map(drop)
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))
    }

    fn begin_upload(&self, caller: &Caller) -> Result<String, Error> {
        let mut uploads = self.uploads.lock();
        uploads.retain(|_, sent| sent.last.elapsed() < IDLE);
        if uploads.len() >= MAX_UPLOADS {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{MAX_UPLOADS} archives are being sent, which is the most"),
                "wait until one of them has arrived",
            ));
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| kept(&std::io::Error::other(error)))?;
        let id = format!("{:016x}", u64::from_le_bytes(random));
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.paths.state, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| kept(&errno.into()))?;
        let sent = Sent {
            uid: caller.uid,
            file: Some(file.into()),
            bytes: 0,
            last: Instant::now(),
        };
        uploads.insert(id.clone(), sent);
        Ok(id)
    }

    async fn take_piece(
        &self,
        caller: &Caller,
        id: String,
        piece: Vec<u8>,
    ) -> Result<Upload, Error> {
        let mut file = {
            let mut uploads = self.uploads.lock();
            let sent = uploads
                .get_mut(&id)
                .filter(|sent| sent.uid == caller.uid)
                .ok_or_else(|| no_upload(&id))?;
            if sent.bytes + piece.len() as u64 > MAX_ARCHIVE {
                uploads.remove(&id);
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("the archive is longer than {MAX_ARCHIVE} bytes"),
                    "make a smaller image",
                ));
            }
            sent.file.take().ok_or_else(|| {
                Error::new(
                    ErrorKind::Conflict,
                    "the piece before is still being written",
                    "send one piece after the other",
                )
            })?
        };
        let length = piece.len() as u64;
        // Writing to a disk blocks.
        let written =
            tokio::task::spawn_blocking(move || file.write_all(&piece).map(|()| file)).await;
        let mut uploads = self.uploads.lock();
        match (written, uploads.get_mut(&id)) {
            (Ok(Ok(file)), Some(sent)) => {
                sent.file = Some(file);
                sent.bytes += length;
                sent.last = Instant::now();
                Ok(Upload {
                    upload: id,
                    bytes: sent.bytes,
                })
            }
            (Ok(Err(error)), _) => {
                uploads.remove(&id);
                Err(kept(&error))
            }
            (Ok(Ok(_)), None) | (Err(_), _) => {
                uploads.remove(&id);
                Err(no_upload(&id))
            }
        }
    }
}

/// An image is not added: what is wrong with the archive or its name is for who sent it.
fn not_added(error: &LauncherError) -> jsonrpsee::types::ErrorObjectOwned {
    let LauncherError::Refused(refusal) = error else {
        return away(error);
    };
    let kind = match refusal.reason {
        RefusalReason::Malformed => ErrorKind::Invalid,
        RefusalReason::Exists => ErrorKind::Conflict,
        _ => return away(error),
    };
    fail(Error::new(
        kind,
        refusal.message.clone(),
        refusal.remedy.clone(),
    ))
}

fn kept(error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Failed,
        format!("keep the archive until it is whole: {error}"),
        "see whether the disk of pawd's state is full or read-only",
    )
}

fn no_upload(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "no archive of yours is being sent under this id",
        "send it again from its beginning; who pauses for two minutes has to",
    )
    .about(id)
}

fn named(name: &str) -> Result<Name, Error> {
    name.parse().map_err(|error: paw_policy::words::BadName| {
        Error::new(ErrorKind::Invalid, error.to_string(), "choose another name")
    })
}

fn shown(image: paw_launch::image::ImageInfo) -> ImageInfo {
    let suggested = image.suggested;
    ImageInfo {
        name: image.name.to_string(),
        origin: match image.origin {
            Origin::Oci => "oci",
            Origin::Directory => "directory",
            Origin::Shipped => "shipped",
        }
        .to_owned(),
        digest: image.digest.map(|digest| digest.to_string()),
        manifest: image.manifest.map(|digest| digest.to_string()),
        bytes: image.bytes,
        entries: image.entries,
        layers: image.layers,
        added_ms: image.added_ms,
        suggested: Suggested {
            created: suggested.created,
            env: suggested.env,
            command: suggested.command,
            workdir: suggested.workdir,
            user: suggested.user,
        },
        used_by: image.used_by.len() as u64,
    }
}
