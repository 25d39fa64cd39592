//! The list of images, page by page: what came with the package and what was added, in one order of names.

use std::collections::BTreeMap;

use paw_launch::{
    image::{ImageInfo, ImagePage, Origin, Record, Suggested},
    request::SandboxId,
};
use paw_policy::{Digest, Name};

use crate::store::{Store, StoreError};

/// Bytes of one page as JSON; what a reply can carry is a little more.
const PAGE: usize = 48 * 1024;

/// The page after a name.
pub(crate) fn page(
    store: &Store,
    shipped: &[Name],
    used: &BTreeMap<Digest, Vec<SandboxId>>,
    after: Option<&Name>,
) -> Result<ImagePage, StoreError> {
    let mut images: Vec<ImageInfo> = shipped.iter().cloned().map(of_the_package).collect();
    for (name, record) in store.records()? {
        // A name that the package took later is hidden by it, as it is when a sandbox is made.
        if !shipped.contains(&name) {
            images.push(added(name, record, used));
        }
    }
    images.retain(|image| after.is_none_or(|after| image.name > *after));
    images.sort_by(|one, other| one.name.cmp(&other.name));
    cut(images)
}

/// As many as fit.
fn cut(mut images: Vec<ImageInfo>) -> Result<ImagePage, StoreError> {
    let mut bytes = 0;
    let mut fit = 0;
    for image in &images {
        bytes += serde_json::to_vec(image).map_err(StoreError::Write)?.len() + 1;
        if bytes > PAGE && fit > 0 {
            break;
        }
        fit += 1;
    }
    let more = fit < images.len();
    images.truncate(fit);
    Ok(ImagePage { images, more })
}

fn of_the_package(name: Name) -> ImageInfo {
    ImageInfo {
        name,
        origin: Origin::Shipped,
        digest: None,
        manifest: None,
        bytes: None,
        entries: None,
        layers: None,
        added_ms: None,
        suggested: Suggested::default(),
        used_by: Vec::new(),
    }
}

fn added(name: Name, record: Record, used: &BTreeMap<Digest, Vec<SandboxId>>) -> ImageInfo {
    ImageInfo {
        name,
        origin: record.origin,
        digest: Some(record.digest),
        manifest: record.manifest,
        bytes: Some(record.bytes),
        entries: Some(record.entries),
        layers: Some(record.layers),
        added_ms: Some(record.added_ms),
        suggested: record.suggested,
        used_by: used.get(&record.digest).cloned().unwrap_or_default(),
    }
}
