//! The file: two tables of redb, every commit in two phases, and a way to write all of it anew so that nothing is left of what was there.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction, backends::FileBackend,
};

use crate::{VaultError, header::Header, rows::RowKey};

const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const TRIES: TableDefinition<'_, &str, u64> = TableDefinition::new("tries");

/// Memory for pages, in bytes.
const CACHE: usize = 4 * 1024 * 1024;

/// Wrong keys that were tried, and until when none is tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    pub(crate) wrong: u64,
    pub(crate) until_ms: u64,
}

/// A file that has no name any more, and what is in it.
#[must_use = "what was in it is to be gone"]
pub(crate) struct Remains(PathBuf, Option<File>);

impl Remains {
    /// Writes zeros over it. Nobody may have it open as a database any more: closing one writes to it. The change that left it has
    /// happened, whatever becomes of this.
    pub(crate) fn wipe(self) {
        let Self(path, file) = self;
        if let Err(error) = file.map_or(Ok(()), zero) {
            tracing::warn!(
                error = %error,
                path = %path.display(),
                "what the vault was before its last change is no file any more, but was not overwritten on the disk"
            );
        }
    }
}

/// A change of one row: put there, or taken away.
pub(crate) type Change = (RowKey, Option<Vec<u8>>);

pub(crate) struct Vaulted {
    path: PathBuf,
    database: Database,
}

impl Vaulted {
    /// Opens the file and checks each of its pages; `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, VaultError> {
        let file = match fs::OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", path)(error)),
        };
        // redb would make a new database of an empty file.
        if file.metadata().map_err(io_error("open", path))?.len() == 0 {
            return Err(tampered(path, "it is empty"));
        }
        let database = FileBackend::new(file)
            .map_err(redb::Error::from)
            .and_then(|backend| {
                builder()
                    .create_with_backend(backend)
                    .map_err(redb::Error::from)
            })
            .map_err(|error| engine("open", path, error))?;
        // A draft is what a crash left of writing it anew: it never counted, and no fault of it keeps the vault from being read.
        let _ = wipe(&draft(path));
        Ok(Some(Self {
            path: path.to_owned(),
            database,
        }))
    }

    /// Makes a file with this in it, in the place of one that may be there. It appears there complete, or not at all.
    pub(crate) fn write_anew<'a>(
        path: &Path,
        header: (&Header, &[u8; 32]),
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(Self, Remains), VaultError> {
        let draft = draft(path);
        wipe(&draft)?;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .map_err(io_error("create", &draft))?;
        let written = (|| {
            let database = builder().create_with_backend(FileBackend::new(file)?)?;
            let mut txn = database.begin_write()?;
            txn.set_two_phase_commit(true);
            put_header(&txn, header)?;
            {
                txn.open_table(TRIES)?;
                let mut table = txn.open_table(ROWS)?;
                for (key, row) in rows {
                    table.insert(key, row)?;
                }
            }
            txn.commit()?;
            Ok(database)
        })();
        let database = written.map_err(|error| engine("write", &draft, error))?;
        let old = match fs::OpenOptions::new().write(true).open(path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("open", path)(error)),
        };
        fs::rename(&draft, path).map_err(io_error("replace", path))?;
        sync_directory(path)?;
        let file = Self {
            path: path.to_owned(),
            database,
        };
        Ok((file, Remains(path.to_owned(), old)))
    }

    /// The header as it stands there, with its code.
    pub(crate) fn header(&self) -> Result<(Vec<u8>, Vec<u8>), VaultError> {
        self.read(|txn| {
            let table = txn.open_table(ABOUT)?;
            let get = |key| {
                let found = table.get(key)?;
                Ok::<_, redb::Error>(found.map(|bytes| bytes.value().to_owned()))
            };
            Ok(get("header")?.zip(get("code")?))
        })?
        .ok_or_else(|| tampered(&self.path, "it has no header"))
    }

    /// All rows.
    pub(crate) fn rows(&self) -> Result<Vec<(RowKey, Vec<u8>)>, VaultError> {
        self.read(|txn| {
            let table = txn.open_table(ROWS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_owned()));
            }
            Ok(rows)
        })
    }

    /// One row.
    pub(crate) fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VaultError> {
        self.read(|txn| {
            let table = txn.open_table(ROWS)?;
            Ok(table.get(key)?.map(|row| row.value().to_owned()))
        })
    }

    pub(crate) fn tries(&self) -> Result<Tries, VaultError> {
        self.read(|txn| {
            let table = txn.open_table(TRIES)?;
            let get = |key| Ok::<_, redb::Error>(table.get(key)?.map_or(0, |it| it.value()));
            Ok(Tries {
                wrong: get("wrong")?,
                until_ms: get("until_ms")?,
            })
        })
    }

    pub(crate) fn set_tries(&self, tries: Tries) -> Result<(), VaultError> {
        self.write(|txn| {
            let mut table = txn.open_table(TRIES)?;
            table.insert("wrong", tries.wrong)?;
            table.insert("until_ms", tries.until_ms)?;
            Ok(())
        })
    }

    /// Changes rows and the header together, durably, or neither.
    pub(crate) fn change(
        &self,
        header: (&Header, &[u8; 32]),
        changes: &[Change],
    ) -> Result<(), VaultError> {
        self.write(|txn| {
            put_header(txn, header)?;
            let mut table = txn.open_table(ROWS)?;
            for (key, row) in changes {
                match row {
                    Some(row) => drop(table.insert(key.as_slice(), row.as_slice())?),
                    None => drop(table.remove(key.as_slice())?),
                }
            }
            Ok(())
        })
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, VaultError> {
        self.database
            .begin_read()
            .map_err(redb::Error::from)
            .and_then(|txn| look(&txn))
            .map_err(|error| engine("read", &self.path, error))
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), VaultError> {
        let write = || {
            let mut txn = self.database.begin_write()?;
            txn.set_two_phase_commit(true);
            change(&txn)?;
            txn.commit()?;
            Ok(())
        };
        write().map_err(|error| engine("write", &self.path, error))
    }
}

fn put_header(
    txn: &WriteTransaction,
    (header, code): (&Header, &[u8; 32]),
) -> Result<(), redb::Error> {
    let mut table = txn.open_table(ABOUT)?;
    table.insert("header", header.bytes().as_slice())?;
    table.insert("code", code.as_slice())?;
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true);
    builder
}

fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Removes a file and what was in it, if it is there.
fn wipe(path: &Path) -> Result<(), VaultError> {
    match fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => {
            let zeroed = zero(file).map_err(io_error("wipe", path));
            fs::remove_file(path).map_err(io_error("remove", path))?;
            zeroed
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("open", path)(error)),
    }
}

/// Writes zeros over what a file holds. On most disks and file systems what was there is gone then; where blocks are never written in
/// place it is only no part of any file. Its holes stay holes, so that it takes no room, which a full disk has not.
fn zero(mut file: File) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut at = 0;
    loop {
        let begin = match lseek(&file, at, Whence::SeekData) {
            Ok(begin) => begin,
            Err(Errno::ENXIO) => return file.sync_data(),
            Err(error) => return Err(error.into()),
        };
        at = lseek(&file, begin, Whence::SeekHole)?;
        let mut left = u64::try_from(at - begin).map_err(io::Error::other)?;
        file.seek(SeekFrom::Start(begin.unsigned_abs()))?;
        while left > 0 {
            let step = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            file.write_all(&ZEROS[..step])?;
            left -= step as u64;
        }
    }
}

fn sync_directory(path: &Path) -> Result<(), VaultError> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("sync the directory of", path))
}

pub(crate) fn tampered(path: &Path, what: &'static str) -> VaultError {
    VaultError::Tampered {
        path: path.to_owned(),
        what,
    }
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::Io { step, path, source }
}

fn engine(step: &'static str, path: &Path, error: redb::Error) -> VaultError {
    match error {
        redb::Error::DatabaseAlreadyOpen => VaultError::InUse {
            path: path.to_owned(),
        },
        redb::Error::Corrupted(_) | redb::Error::TableDoesNotExist(_) => {
            tampered(path, "a page of it is damaged")
        }
        redb::Error::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            tampered(path, "it is no database of this kind")
        }
        redb::Error::TableTypeMismatch { .. } | redb::Error::UpgradeRequired(_) => {
            tampered(path, "it is no vault")
        }
        source => VaultError::Engine {
            step,
            path: path.to_owned(),
            source: Box::new(source),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    #[test]
    fn what_is_wiped_takes_no_room() {
        const LONG: u64 = 8 << 20;
        let file = tempfile::tempfile().unwrap();
        for at in [0, LONG / 2] {
            file.write_all_at(b"a value", at).unwrap();
        }
        file.set_len(LONG).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        assert!(before * 512 < LONG, "this file system keeps no holes");
        zero(file.try_clone().unwrap()).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), before);
        assert_eq!(file.metadata().unwrap().len(), LONG);
        for at in [0, LONG / 2] {
            let mut found = [1; 7];
            file.read_exact_at(&mut found, at).unwrap();
            assert_eq!(found, [0; 7], "at {at}");
        }
    }
}
