//! From a file and a key to an open vault: the key opens its slot, the header's code is right, and all rows are those that it covers.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{Open, Unlock, header, one_more};
use crate::{
    VaultError,
    file::{Tries, Vaulted, tampered},
    header::{Header, Slot, Source},
    rows::{Keys, RowKey, Tree},
};

/// Opens it.
pub(super) fn unlock(
    file: &Vaulted,
    path: &Path,
    with: &Unlock<'_>,
    now_ms: u64,
) -> Result<Open, VaultError> {
    let (header, bytes, code) = header(file, path)?;
    // Nobody guesses a key of the host's, and its being tried at each start must not keep people out.
    let guessed = !matches!(with, Unlock::Host(_));
    let tries = file.tries()?;
    if guessed && tries.until_ms > now_ms {
        let longest = now_ms.saturating_add(super::WAIT[1]);
        // A clock that was set back must not make the wait any longer than it can be.
        if tries.until_ms > longest {
            file.set_tries(Tries {
                until_ms: longest,
                ..tries
            })?;
        }
        let wait_ms = tries.until_ms.min(longest) - now_ms;
        return Err(VaultError::Paused { wait_ms });
    }
    let Some(keys) = keys_of(&header, with)? else {
        if guessed {
            file.set_tries(one_more(tries, now_ms))?;
        }
        return Err(VaultError::WrongKey);
    };
    if !keys.is_signed(&bytes, &code) {
        return Err(tampered(path, "its header was changed"));
    }
    let open = load(file, path, Arc::new(keys), header)?;
    if tries != Tries::default() {
        file.set_tries(Tries::default())?;
    }
    Ok(open)
}

/// The keys that this opens in a header, if it is the right one.
pub(super) fn keys_of(header: &Header, with: &Unlock<'_>) -> Result<Option<Keys>, VaultError> {
    match with {
        Unlock::Host(key) => header.unwrap(Slot::Usual, &key.0),
        Unlock::Recovery(key) => header.unwrap(Slot::Recovery, &key.0),
        Unlock::Passphrase(passphrase) => match (header.source, header.work) {
            (Source::Passphrase, Some(work)) => header.unwrap(Slot::Usual, &work.key(passphrase)?),
            _ => Ok(None),
        },
    }
}

/// Reads all rows and checks that they are those that the header covers, and that each is in its place.
fn load(file: &Vaulted, path: &Path, keys: Arc<Keys>, header: Header) -> Result<Open, VaultError> {
    load_rows(&file.rows()?, keys, header).map_err(|what| tampered(path, what))
}

/// The same of rows that were read; or what is wrong with them.
pub(super) fn load_rows(
    rows: &[(RowKey, Vec<u8>)],
    keys: Arc<Keys>,
    header: Header,
) -> Result<Open, &'static str> {
    let tree = Tree::of(rows.iter().map(|(key, row)| (&key[..], &row[..])));
    if !header.covers(&tree) {
        return Err("its rows are not those of its header");
    }
    let mut secrets = BTreeMap::new();
    let mut values: Vec<&RowKey> = Vec::new();
    for (key, row) in rows {
        match key.first() {
            Some(&crate::rows::ABOUT) => {
                let secret = keys
                    .read_about(header.vault, key, row)
                    .ok_or("a list of it was changed")?;
                secrets.insert(secret.name.clone(), Arc::new(secret));
            }
            _ => values.push(key),
        }
    }
    let mut listed: Vec<RowKey> = secrets
        .values()
        .flat_map(|secret| {
            let versions = secret.versions.iter();
            versions.map(|version| keys.version_key(&secret.name, version.number))
        })
        .collect();
    listed.sort_unstable();
    // Rows come sorted.
    if !listed.iter().eq(values) {
        return Err("its values are not those of its lists");
    }
    Ok(Open {
        keys,
        header,
        secrets,
        tree,
    })
}

/// Opens the file anew after it failed, with the keys that are known.
pub(super) fn again(path: &Path, keys: Arc<Keys>) -> Result<(Vaulted, Open), VaultError> {
    let file = Vaulted::open(path)?.ok_or(VaultError::Uninitialised)?;
    let (header, bytes, code) = header(&file, path)?;
    if !keys.is_signed(&bytes, &code) {
        return Err(tampered(path, "its header was changed"));
    }
    let open = load(&file, path, keys, header)?;
    Ok((file, open))
}
