//! Taking names away, and removing what nobody needs.

use std::collections::BTreeSet;

use paw_launch::image::Swept;
use paw_policy::{Digest, Name};

use crate::store::{Store, StoreError, entries};

/// Takes a name away; its tree goes with the next sweep, unless another name points to it.
pub(crate) fn forget(store: &Store, name: &Name, shipped: &[Name]) -> Result<(), StoreError> {
    let lock = store.exclusive()?;
    match store.forget(name, &lock) {
        Err(StoreError::Unknown(name)) if shipped.contains(&name) => Err(StoreError::Shipped(name)),
        done => done,
    }
}

/// Removes trees that no name points to and nobody runs in, and what somebody who died was making.
pub(crate) fn sweep(store: &Store) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    let mut unneeded = Vec::new();
    {
        let lock = store.exclusive()?;
        // A record that cannot be read ends this: which tree it means nobody knows, so none is removed until its name is.
        let named: BTreeSet<Digest> = store
            .records()?
            .into_iter()
            .map(|(_, record)| record.digest)
            .collect();
        for name in entries(&store.trees())? {
            let Ok(digest) = name.parse::<Digest>() else {
                continue;
            };
            if named.contains(&digest) {
                continue;
            }
            match store.take_out(&digest, &lock)? {
                Some(tree) => unneeded.push((digest, tree)),
                None => swept.kept.push(digest),
            }
        }
        store.clear_abandoned()?;
    }
    // Taken out under the lock, removed without it: others need not wait for that.
    for (digest, tree) in unneeded {
        swept.bytes += tree.remove()?;
        swept.trees.push(digest);
    }
    Ok(swept)
}
