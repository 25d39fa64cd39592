//! What is foreign here, for the fuzzer: documents of an image, and archives.

use std::{fs::File, path::Path};

use crate::{
    layer::{Meaning, apply},
    layout::Layout,
    oci::{self, Packing},
    root::Root,
    stream::{Bounded, unpack},
};

/// The most bytes that an archive may unpack to here.
const MOST_BYTES: u64 = 1 << 20;

/// The most entries that it may have here.
const MOST_ENTRIES: u64 = 256;

/// Reads bytes as each of the documents of an image. What one of them names is shown as it is in an error.
pub fn documents(bytes: &[u8]) {
    let architecture = oci::architecture();
    if let Err(error) = oci::choose(bytes, architecture) {
        let _ = error.to_string();
    }
    let layers = oci::manifest(bytes).map_or(1, |manifest| manifest.layers.len());
    if let Ok(config) = oci::config(bytes, layers, architecture) {
        assert_eq!(config.diff_ids.len(), layers);
    }
}

/// Takes an archive as a whole root (`whole`) or as a layer that is packed in one of three ways, and puts it into this empty
/// directory. Nothing is ever made outside of it.
///
/// # Panics
/// When more came out of it than the bounds say.
pub fn archive(bytes: &[u8], packing: u8, whole: bool, into: &Path) {
    let packing = match packing % 3 {
        0 => Packing::Plain,
        1 => Packing::Gzip,
        _ => Packing::Zstd,
    };
    let meaning = if whole {
        Meaning::Whole
    } else {
        Meaning::Layer
    };
    let root = Root::open(into).expect("the fuzzer made this directory");
    let (mut left, mut entries) = (MOST_BYTES, MOST_ENTRIES);
    let mut plain = Bounded::new(unpack(bytes, packing), &mut left);
    let _ = apply(&root, &mut plain, meaning, &mut entries);
    assert!(left <= MOST_BYTES && entries <= MOST_ENTRIES);
}

/// Looks into a file as the archive of a layout.
pub fn layout(file: File) {
    if let Ok(layout) = Layout::open(file) {
        let _ = layout.image();
    }
}
