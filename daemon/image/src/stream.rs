//! Streams between an archive and a tree: a blob that has to have its digest, its unpacking, and what it may unpack to at most.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use paw_policy::Digest;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use sha2::{Digest as _, Sha256};

use crate::oci::Packing;

/// A part of a file, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: u64,
    pub(crate) left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A stream that is digested as it is read. What it has read can be asked from outside.
pub(crate) struct Hashed<R> {
    inner: R,
    hash: Rc<RefCell<Sha256>>,
}

/// The digest of what a [`Hashed`] has read so far.
pub(crate) struct Seen(Rc<RefCell<Sha256>>);

impl<R> Hashed<R> {
    pub(crate) fn new(inner: R) -> (Self, Seen) {
        let hash = Rc::new(RefCell::new(Sha256::new()));
        (
            Self {
                inner,
                hash: Rc::clone(&hash),
            },
            Seen(hash),
        )
    }
}

impl Seen {
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_bytes(self.0.borrow().clone().finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.borrow_mut().update(&buffer[..count]);
        Ok(count)
    }
}

/// A stream that ends with an error at a budget that several of them share.
pub(crate) struct Bounded<'a, R> {
    inner: R,
    left: &'a mut u64,
}

impl<'a, R> Bounded<'a, R> {
    pub(crate) fn new(inner: R, left: &'a mut u64) -> Self {
        Self { inner, left }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => *self.left = left,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "it unpacks to more than images.max_bytes of launcher.toml",
                ));
            }
        }
        Ok(count)
    }
}

/// The plain archive in a blob.
pub(crate) fn unpack<'a, R: Read + 'a>(packed: R, packing: Packing) -> Box<dyn Read + 'a> {
    let packed = BufReader::with_capacity(64 * 1024, packed);
    match packing {
        Packing::Plain => Box::new(packed),
        // Of several members, as tools write that pack in parallel.
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Zstd => Box::new(Frames::Between(packed)),
    }
}

/// One frame of zstd after the other; those that say of themselves that they are to be skipped are.
enum Frames<R: Read> {
    Between(R),
    In(Box<StreamingDecoder<Begun<R>, FrameDecoder>>),
    Broken,
}

/// A frame whose first bytes were looked at.
struct Begun<R> {
    magic: [u8; 4],
    given: usize,
    rest: R,
}

impl<R: Read> Read for Begun<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let head = &self.magic[self.given..];
        if head.is_empty() {
            return self.rest.read(buffer);
        }
        let count = head.len().min(buffer.len());
        buffer[..count].copy_from_slice(&head[..count]);
        self.given += count;
        Ok(count)
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Broken) {
                Self::Between(mut packed) => {
                    let mut magic = [0; 4];
                    if packed.read(&mut magic[..1])? == 0 {
                        *self = Self::Between(packed);
                        return Ok(0);
                    }
                    packed.read_exact(&mut magic[1..])?;
                    *self = begin(magic, packed)?;
                }
                Self::In(mut frame) => {
                    let count = frame.read(buffer)?;
                    if count > 0 || buffer.is_empty() {
                        *self = Self::In(frame);
                        return Ok(count);
                    }
                    *self = Self::Between(frame.into_inner().rest);
                }
                Self::Broken => return Err(io::Error::other("the archive is broken")),
            }
        }
    }
}

fn begin<R: Read>(magic: [u8; 4], mut packed: R) -> io::Result<Frames<R>> {
    if u32::from_le_bytes(magic) & !0xf == 0x184d_2a50 {
        let mut length = [0; 4];
        packed.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        let skipped = io::copy(&mut packed.by_ref().take(length), &mut io::sink())?;
        return if skipped == length {
            Ok(Frames::Between(packed))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
    }
    let begun = Begun {
        magic,
        given: 0,
        rest: packed,
    };
    StreamingDecoder::new(begun)
        .map(|frame| Frames::In(Box::new(frame)))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}
