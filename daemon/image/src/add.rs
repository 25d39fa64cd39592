//! Taking an image in: out of a layout or a plain archive, into a tree of its own, under its digest, by a name.
//!
//! ```text
//! trees/tmp-add-PID   ours alone, by a lock; what is there when we die is nobody's and is removed by the next of us
//!                     layer by layer, every digest checked; measured; made durable
//! then under the lock of the store:
//!   trees/tmp-add-PID → trees/DIGEST, unless that is there already; names/.new → names/NAME
//! ```
//!
//! Until the last of these renames nothing has changed for anybody.

use std::{
    fs,
    io::{self, Seek as _},
    os::fd::OwnedFd,
    time::{SystemTime, UNIX_EPOCH},
};

use paw_launch::{
    image::{Added, ImageBounds, MAX_RECORD, Origin, Record, Suggested},
    request::{Refusal, RefusalReason},
    tree::{Measured, measure},
};
use paw_policy::{Digest, Name};

use crate::{
    layer::{LayerError, Meaning, apply},
    layout::{Layout, LayoutError},
    root::Root,
    store::{Store, StoreError, Workplace},
    stream::{Bounded, Hashed, unpack},
};

/// The most names that images may have.
const MAX_NAMES: usize = 256;

/// Why an image is not taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("the archive")]
    Archive(#[source] LayerError),
    #[error("layer {number} ({digest})")]
    Layer {
        number: usize,
        digest: Digest,
        source: LayerError,
    },
    #[error("layer {number} should have the digest {wanted} and has {is}")]
    Changed {
        number: usize,
        is: Digest,
        wanted: Digest,
    },
    #[error(
        "layer {number} unpacks to an archive with the digest {is}; its configuration says {wanted}"
    )]
    Content {
        number: usize,
        is: Digest,
        wanted: Digest,
    },
    #[error("the image has no file in it")]
    Empty,
    #[error("go to the beginning of the archive")]
    Spool(#[source] io::Error),
    #[error("measure the tree")]
    Measure(#[source] io::Error),
    #[error("{0} images have names, which is the most")]
    Names(usize),
    #[error("another image has the name {0}")]
    Taken(Name),
    #[error("no archive came with the order")]
    Nothing,
}

impl From<AddError> for Refusal {
    fn from(error: AddError) -> Self {
        let (reason, remedy) = match error {
            AddError::Store(error) => return error.into(),
            AddError::Taken(_) => (
                RefusalReason::Exists,
                "give it another name, or remove the other one first",
            ),
            AddError::Names(_) => (RefusalReason::Full, "remove images that nobody uses"),
            AddError::Changed { .. } | AddError::Content { .. } => (
                RefusalReason::Malformed,
                "the image was damaged or changed on its way; get it again",
            ),
            AddError::Measure(_) => (
                RefusalReason::Failed,
                "see whether the disk of /var/lib/paw-launcher is full or read-only",
            ),
            _ => (
                RefusalReason::Malformed,
                "see pawctl-sandbox-image-add(1) for what images are taken, launcher.toml(5) for how large they may be",
            ),
        };
        Self {
            reason,
            message: paw_job::chain(&error),
            remedy: remedy.to_owned(),
        }
    }
}

/// What an image consists of, before it has a place.
struct Unpacked {
    origin: Origin,
    manifest: Option<Digest>,
    layers: u32,
    suggested: Suggested,
    left_out: u64,
}

/// Takes an image in.
pub(crate) fn add(
    store: &Store,
    name: &Name,
    origin: Origin,
    shipped: &[Name],
    bounds: ImageBounds,
    fds: Vec<OwnedFd>,
) -> Result<Added, AddError> {
    if shipped.contains(name) {
        return Err(StoreError::Shipped(name.clone()).into());
    }
    let mut file = fs::File::from(fds.into_iter().next().ok_or(AddError::Nothing)?);
    file.rewind().map_err(AddError::Spool)?;
    let place = store.workplace()?;
    let root = Root::open(&place.path).map_err(AddError::Measure)?;
    let unpacked = match origin {
        Origin::Oci => of_layout(&root, file, bounds)?,
        Origin::Directory | Origin::Shipped => of_archive(&root, file, bounds)?,
    };
    let measured = measure(root.fd()).map_err(|errno| AddError::Measure(errno.into()))?;
    if measured.bytes == 0 {
        return Err(AddError::Empty);
    }
    root.sync().map_err(AddError::Measure)?;
    let left_out = unpacked.left_out;
    let record = record(measured, unpacked);
    let already = settle(store, &place, name, &record)?;
    Ok(Added {
        name: name.clone(),
        digest: record.digest,
        bytes: record.bytes,
        entries: record.entries,
        layers: record.layers,
        left_out,
        already,
    })
}

fn of_layout(root: &Root, file: fs::File, bounds: ImageBounds) -> Result<Unpacked, AddError> {
    let layout = Layout::open(file)?;
    let image = layout.image()?;
    let (mut bytes, mut entries, mut left_out) = (bounds.max_bytes, bounds.max_entries, 0);
    let layers = image.manifest.layers.iter().zip(&image.config.diff_ids);
    for (number, ((blob, packing), diff_id)) in (1..).zip(layers) {
        let layer = |source| AddError::Layer {
            number,
            digest: blob.digest,
            source,
        };
        let (mut packed, packed_seen) = Hashed::new(layout.blob(blob)?);
        let plain_digest = {
            let plain = Bounded::new(unpack(&mut packed, *packing), &mut bytes);
            let (mut plain, plain_seen) = Hashed::new(plain);
            left_out += apply(root, &mut plain, Meaning::Layer, &mut entries).map_err(layer)?;
            plain_seen.digest()
        };
        // What stands behind the packed archive belongs to the blob.
        io::copy(&mut packed, &mut io::sink()).map_err(|error| layer(LayerError::Read(error)))?;
        let is = packed_seen.digest();
        if is != blob.digest {
            return Err(AddError::Changed {
                number,
                is,
                wanted: blob.digest,
            });
        }
        if plain_digest != *diff_id {
            return Err(AddError::Content {
                number,
                is: plain_digest,
                wanted: *diff_id,
            });
        }
    }
    Ok(Unpacked {
        origin: Origin::Oci,
        manifest: Some(image.digest),
        layers: u32::try_from(image.manifest.layers.len()).unwrap_or(u32::MAX),
        suggested: image.config.suggested,
        left_out,
    })
}

fn of_archive(root: &Root, file: fs::File, bounds: ImageBounds) -> Result<Unpacked, AddError> {
    let (mut bytes, mut entries) = (bounds.max_bytes, bounds.max_entries);
    let mut plain = Bounded::new(io::BufReader::with_capacity(64 * 1024, file), &mut bytes);
    let left_out =
        apply(root, &mut plain, Meaning::Whole, &mut entries).map_err(AddError::Archive)?;
    Ok(Unpacked {
        origin: Origin::Directory,
        manifest: None,
        layers: 0,
        suggested: Suggested::default(),
        left_out,
    })
}

fn record(measured: Measured, unpacked: Unpacked) -> Record {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Record {
        digest: measured.digest,
        origin: unpacked.origin,
        manifest: unpacked.manifest,
        bytes: measured.bytes,
        entries: measured.entries,
        layers: unpacked.layers,
        added_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        suggested: unpacked.suggested,
    }
}

/// Gives tree and name their places. `true`: the tree was there already.
fn settle(
    store: &Store,
    place: &Workplace,
    name: &Name,
    record: &Record,
) -> Result<bool, AddError> {
    let text = serde_json::to_vec(record).map_err(StoreError::Write)?;
    debug_assert!(
        text.len() as u64 <= MAX_RECORD,
        "what is suggested is bounded"
    );
    let lock = store.exclusive()?;
    let records = store.records()?;
    match records.iter().find(|(other, _)| other == name) {
        Some((_, other)) if other.digest != record.digest => {
            return Err(AddError::Taken(name.clone()));
        }
        Some(_) => {}
        None if records.len() >= MAX_NAMES => return Err(AddError::Names(records.len())),
        None => {}
    }
    Ok(store.keep(place, name, &record.digest, &text, &lock)?)
}
