//! A file that is read from the disk and written in memory.
//!
//! redb has to write when it opens a file that a crash or a failed commit left behind. Where nothing can be written (the
//! disk is full, the file system turned read-only) or nothing may be (a backup that is being verified), this backend keeps
//! those writes in memory and forgets them at the end, so that everything stored stays readable.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

const BLOCK: u64 = 4096;

/// The most blocks kept in memory: 64 MiB. A repair writes far less; beyond it writing fails as on a full disk.
const MAX_BLOCKS: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    blocks: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    /// How much of the file still counts: shrinking and growing again reads as zeros.
    from_file: u64,
}

impl Overlay {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            written: Mutex::new(Written {
                blocks: BTreeMap::new(),
                len,
                from_file: len,
            }),
        })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        // No code under this lock can panic half-way through a change.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One block of the file as it is on the disk, zeros behind its end.
    fn block(&self, written: &Written, index: u64) -> io::Result<Box<[u8]>> {
        let mut block = vec![0; BLOCK as usize].into_boxed_slice();
        let start = index * BLOCK;
        let there = written.from_file.saturating_sub(start).min(BLOCK) as usize;
        self.file.read_exact_at(&mut block[..there], start)?;
        Ok(block)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset
            .checked_add(out.len() as u64)
            .is_none_or(|end| end > written.len)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let within = (at % BLOCK) as usize;
            let count = rest.len().min(BLOCK as usize - within);
            let (now, later) = rest.split_at_mut(count);
            match written.blocks.get(&(at / BLOCK)) {
                Some(block) => now.copy_from_slice(&block[within..within + count]),
                None => {
                    now.copy_from_slice(&self.block(&written, at / BLOCK)?[within..within + count])
                }
            }
            at += count as u64;
            rest = later;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        if len < written.len {
            let edge = len / BLOCK;
            if !len.is_multiple_of(BLOCK) {
                let mut block = match written.blocks.remove(&edge) {
                    Some(block) => block,
                    None => self.block(&written, edge)?,
                };
                block[(len % BLOCK) as usize..].fill(0);
                written.blocks.insert(edge, block);
            }
            written.blocks.retain(|index, _| index * BLOCK < len);
            written.from_file = written.from_file.min(len);
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        if offset
            .checked_add(data.len() as u64)
            .is_none_or(|end| end > written.len)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % BLOCK) as usize;
            let (now, later) = rest.split_at(rest.len().min(BLOCK as usize - within));
            let mut block = match written.blocks.remove(&(at / BLOCK)) {
                Some(block) => block,
                None if written.blocks.len() >= MAX_BLOCKS => {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                None => self.block(&written, at / BLOCK)?,
            };
            block[within..within + now.len()].copy_from_slice(now);
            written.blocks.insert(at / BLOCK, block);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_file_stays_as_it_was() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        file.write_all(&bytes).unwrap();
        let overlay = Overlay::new(file.try_clone().unwrap()).unwrap();

        let mut expected = bytes.clone();
        overlay.write(4090, &[7; 20]).unwrap();
        expected[4090..4110].fill(7);
        overlay.set_len(5000).unwrap();
        overlay.set_len(12_000).unwrap();
        expected.truncate(5000);
        expected.resize(12_000, 0);

        let mut seen = vec![0; 12_000];
        overlay.read(0, &mut seen).unwrap();
        assert_eq!(seen, expected);
        let mut on_disk = vec![0; 10_000];
        file.read_exact_at(&mut on_disk, 0).unwrap();
        assert_eq!(on_disk, bytes);
        assert!(overlay.read(11_999, &mut [0; 2]).is_err(), "behind the end");
    }
}
