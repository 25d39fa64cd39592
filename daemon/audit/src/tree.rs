//! The Merkle tree over all records, as RFC 6962 has it: kept as the roots of its full subtrees, so that it grows in little room.

use sha2::{Digest as _, Sha256};

use crate::format::Tag;

/// A tree whose leaves are the tags of records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    size: u64,
    /// Roots of the full subtrees, the largest first: one for each bit of `size` that is set.
    peaks: Vec<Tag>,
}

impl Tree {
    /// A tree of so many leaves with these roots of its full subtrees; `None` where that cannot be.
    #[must_use]
    pub fn of(size: u64, peaks: Vec<Tag>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// How many leaves there are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its full subtrees, the largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Tag] {
        &self.peaks
    }

    /// Adds a leaf.
    pub fn push(&mut self, tag: &Tag) {
        let mut node: Tag = Sha256::new()
            .chain_update([0])
            .chain_update(tag)
            .finalize()
            .into();
        let mut full = self.size;
        while full & 1 == 1
            && let Some(left) = self.peaks.pop()
        {
            node = join(&left, &node);
            full >>= 1;
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> Tag {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Sha256::digest([]).into(),
            Some(last) => peaks.fold(*last, |right, left| join(left, &right)),
        }
    }
}

fn join(left: &Tag, right: &Tag) -> Tag {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 6962 defines it.
    fn defined(leaves: &[Tag]) -> Tag {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => Sha256::new()
                .chain_update([0])
                .chain_update(leaf)
                .finalize()
                .into(),
            _ => {
                let left = leaves.len().next_power_of_two() / 2;
                join(&defined(&leaves[..left]), &defined(&leaves[left..]))
            }
        }
    }

    #[test]
    fn root_is_that_of_rfc_6962() {
        let leaves: Vec<Tag> = (0..70).map(|n| [n; 32]).collect();
        let mut tree = Tree::default();
        for (count, leaf) in leaves.iter().enumerate() {
            assert_eq!(tree.root(), defined(&leaves[..count]), "{count}");
            let again = Tree::of(tree.size(), tree.peaks().to_vec());
            assert_eq!(again.as_ref(), Some(&tree));
            tree.push(leaf);
        }
        assert_eq!(Tree::of(3, vec![[0; 32]]), None);
    }
}
