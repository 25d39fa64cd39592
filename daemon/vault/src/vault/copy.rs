//! A vault as one piece, to be kept elsewhere and put back.
//!
//! ```text
//!  "pawd-vault-copy/1\n"  header  its code  rows: key, row, key, row, …        each with its length
//! ```
//!
//! It is what the file holds, so it is of no use without a key that opened the vault then, and the header's code covers every row: what is
//! cut, changed or put together from two copies is none. Put back, it is one more change of the vault, so that nobody takes what was
//! put back for what was there before.

use std::sync::Arc;

use uuid::Uuid;

use super::{Unlock, Vault, open};
use crate::{
    VaultError,
    file::Vaulted,
    header::{Header, Mark},
    rows::RowKey,
};

const MAGIC: &[u8] = b"pawd-vault-copy/1\n";

/// The longest copy, in bytes: what fits into one message.
pub const MAX_COPY: usize = 700 * 1024;

impl Vault {
    /// All of it in one piece.
    ///
    /// # Errors
    /// When it is sealed, cannot be read, or is longer than [`MAX_COPY`].
    pub fn export(&self) -> Result<(Vec<u8>, Mark), VaultError> {
        let inner = self.inner();
        let (file, open) = inner.opened()?;
        let (header, code) = file.header()?;
        let mut copy = MAGIC.to_vec();
        put(&mut copy, &header);
        put(&mut copy, &code);
        for (key, row) in file.rows()? {
            put(&mut copy, &key);
            put(&mut copy, &row);
            if copy.len() > MAX_COPY {
                return Err(VaultError::CopyTooLong);
            }
        }
        Ok((copy, open.header.mark()))
    }

    /// Puts a copy in the place of what is there, and leaves it open. With `force` also one that is older than what is there, or than the
    /// number of changes that somebody else knows of (`seen`; 0 where nobody does), or of another vault.
    ///
    /// # Errors
    /// When it is no copy, the key opened another vault or this one at another time, or it would take the place of something newer. What is
    /// there stays, then.
    pub fn import(
        &self,
        copy: &[u8],
        with: &Unlock<'_>,
        seen: impl Fn(Uuid) -> u64,
        force: bool,
    ) -> Result<Mark, VaultError> {
        let _turn = self.turn();
        let (header, code, rows) = read(copy).ok_or(VaultError::NoCopy("it cannot be read"))?;
        let keys = open::keys_of(&header.0, with)?.ok_or(VaultError::WrongKey)?;
        if !keys.is_signed(header.1, code) {
            return Err(VaultError::NoCopy("its header was changed"));
        }
        let mut new =
            open::load_rows(&rows, Arc::new(keys), header.0).map_err(VaultError::NoCopy)?;
        let here = {
            let inner = self.inner();
            // One that cannot be opened is not nothing.
            inner.usable()?;
            let file = inner.file.as_ref();
            file.map(|file| super::header(file, &self.path))
        };
        let copied = new.header.mark();
        let mut newest = seen(copied.vault);
        if let Some(here) = here {
            let here = here?.0.mark();
            if !force && here.vault != copied.vault {
                return Err(VaultError::AnotherVault);
            }
            newest = newest.max(here.generation);
        }
        if !force && copied.generation < newest {
            return Err(VaultError::Older {
                copy: copied.generation,
                here: newest,
            });
        }
        new.header.generation = copied.generation.max(newest).saturating_add(1);
        let code = new.keys.sign(&new.header.bytes());
        let refs = rows.iter().map(|(key, row)| (&key[..], &row[..]));
        let (file, remains) = Vaulted::write_anew(&self.path, (&new.header, &code), refs)?;
        let mark = new.header.mark();
        self.replace(file, new);
        remains.wipe();
        Ok(mark)
    }
}

fn put(copy: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    copy.extend_from_slice(&length.to_be_bytes());
    copy.extend_from_slice(part);
}

fn take<'a>(copy: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = copy.split_first_chunk::<4>()?;
    let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *copy = rest;
    Some(part)
}

type Parts<'a> = ((Header, &'a [u8]), &'a [u8], Vec<(RowKey, Vec<u8>)>);

/// The header, which nobody has checked yet, as it is and as bytes; its code; the rows.
fn read(copy: &[u8]) -> Option<Parts<'_>> {
    let mut left = copy.strip_prefix(MAGIC)?;
    let header = take(&mut left)?;
    let code = take(&mut left)?;
    let mut rows = Vec::new();
    while !left.is_empty() {
        let key = take(&mut left)?;
        rows.push((key.to_owned(), take(&mut left)?.to_owned()));
    }
    // As a file has them; twice the same would be two things to two readers.
    if !rows.is_sorted_by(|one, two| one.0 < two.0) {
        return None;
    }
    Some(((Header::read(header)?, header), code, rows))
}
