//! An OCI image layout in one archive, read where it lies: which blob is where, and whether it is what its digest says.
//!
//! Nothing of it is unpacked but the layers, and those go straight into the tree.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
};

use paw_policy::Digest;

use crate::{
    oci::{self, Blob, Config, MAX_DOCUMENT, Manifest, Next, OciError},
    path::{PathError, TreePath},
    stream::{Hashed, Part},
};

/// The most members of a layout.
const MAX_MEMBERS: usize = 4096;

/// How many indexes may lead to a manifest.
const MAX_INDEXES: usize = 3;

/// Why a layout is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("read the archive")]
    Read(#[source] io::Error),
    #[error("the archive is compressed; unpack it first (the layers in it may be)")]
    Compressed,
    #[error("the archive has more than {MAX_MEMBERS} members")]
    Members,
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("the archive is no OCI image layout: it has no {0}")]
    No(&'static str),
    #[error("the layout has the version {0:?}; 1.0.0 is understood")]
    Version(String),
    #[error("{what} is {size} bytes long; at most {MAX_DOCUMENT} are read")]
    Long { what: &'static str, size: u64 },
    #[error("the layout has no blob {0}")]
    NoBlob(Digest),
    #[error("the blob {digest} has {is} bytes and not {wanted}")]
    Size {
        digest: Digest,
        is: u64,
        wanted: u64,
    },
    #[error("what stands for the blob {wanted} has the digest {is}")]
    Digest { is: Digest, wanted: Digest },
    #[error("an index leads to an index more than {MAX_INDEXES} times")]
    Deep,
    #[error(transparent)]
    Oci(#[from] OciError),
}

/// Where each member is.
#[derive(Debug)]
pub(crate) struct Layout {
    file: File,
    members: BTreeMap<String, (u64, u64)>,
}

/// What a layout says, every document checked against its digest.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) config: Config,
}

impl Layout {
    /// Looks where everything is; reads no content.
    pub(crate) fn open(mut file: File) -> Result<Self, LayoutError> {
        let mut magic = [0; 4];
        let read = io::Read::by_ref(&mut file)
            .take(4)
            .read(&mut magic)
            .map_err(LayoutError::Read)?;
        if magic[..read].starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd] {
            return Err(LayoutError::Compressed);
        }
        io::Seek::rewind(&mut file).map_err(LayoutError::Read)?;
        let size = file.metadata().map_err(LayoutError::Read)?.len();
        let mut members = BTreeMap::new();
        {
            let mut archive = tar::Archive::new(&mut file);
            for entry in archive.entries_with_seek().map_err(LayoutError::Read)? {
                let entry = entry.map_err(LayoutError::Read)?;
                if members.len() >= MAX_MEMBERS {
                    return Err(LayoutError::Members);
                }
                let path = TreePath::parse(&entry.path_bytes())?;
                let (at, length) = (entry.raw_file_position(), entry.size());
                // What is no plain file, or reaches behind the end, is nothing that a digest could stand for.
                if entry.header().entry_type() == tar::EntryType::Regular
                    && at.checked_add(length).is_some_and(|end| end <= size)
                {
                    members.insert(path.shown(), (at, length));
                }
            }
        }
        Ok(Self { file, members })
    }

    fn part(&self, name: &str) -> Option<Part<'_>> {
        let (at, left) = *self.members.get(name)?;
        Some(Part {
            file: &self.file,
            at,
            left,
        })
    }

    /// A blob, not read yet, whose size is as it was said.
    pub(crate) fn blob(&self, blob: &Blob) -> Result<Part<'_>, LayoutError> {
        let part = self
            .part(&format!("blobs/sha256/{}", blob.digest))
            .ok_or(LayoutError::NoBlob(blob.digest))?;
        if part.left == blob.size {
            Ok(part)
        } else {
            Err(LayoutError::Size {
                digest: blob.digest,
                is: part.left,
                wanted: blob.size,
            })
        }
    }

    fn document(&self, what: &'static str, blob: &Blob) -> Result<Vec<u8>, LayoutError> {
        let (mut hashed, seen) = Hashed::new(self.blob(blob)?);
        let bytes = short(what, &mut hashed, blob.size)?;
        if seen.digest() == blob.digest {
            Ok(bytes)
        } else {
            Err(LayoutError::Digest {
                is: seen.digest(),
                wanted: blob.digest,
            })
        }
    }

    /// The image for this machine.
    pub(crate) fn image(&self) -> Result<Image, LayoutError> {
        let named = |name: &'static str| {
            let part = self.part(name).ok_or(LayoutError::No(name))?;
            let size = part.left;
            short(name, part, size)
        };
        let version: Version = serde_json::from_slice(&named("oci-layout")?)
            .map_err(|_| LayoutError::No("readable oci-layout"))?;
        if version.version != "1.0.0" {
            return Err(LayoutError::Version(oci::brief(&version.version)));
        }
        let mut next = oci::choose(&named("index.json")?, oci::architecture())?;
        for _ in 0..MAX_INDEXES {
            match next {
                Next::Index(blob) => {
                    let index = self.document("the index", &blob)?;
                    next = oci::choose(&index, oci::architecture())?;
                }
                Next::Manifest(blob) => {
                    let manifest = oci::manifest(&self.document("the manifest", &blob)?)?;
                    let config = self.document("the configuration", &manifest.config)?;
                    let config = oci::config(&config, manifest.layers.len(), oci::architecture())?;
                    return Ok(Image {
                        digest: blob.digest,
                        manifest,
                        config,
                    });
                }
            }
        }
        Err(LayoutError::Deep)
    }
}

#[derive(serde::Deserialize)]
struct Version {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

fn short(what: &'static str, mut from: impl io::Read, size: u64) -> Result<Vec<u8>, LayoutError> {
    if size > MAX_DOCUMENT {
        return Err(LayoutError::Long { what, size });
    }
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map_err(LayoutError::Read)?;
    Ok(bytes)
}
