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
        let mut node = leaf(tag);
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

/// What a leaf passes on its way up to the root, gathered while the tree grows over it.
#[derive(Debug, Clone)]
pub struct Beside {
    index: u64,
    /// The tree of all leaves before it.
    before: Tree,
    /// What grows behind it at each level: a tree of its own, of which the last one may not be full.
    after: Vec<Tree>,
    size: u64,
}

impl Beside {
    /// Of the leaf that comes next to this tree.
    #[must_use]
    pub fn next_to(tree: &Tree) -> Self {
        Self {
            index: tree.size,
            before: tree.clone(),
            after: vec![Tree::default(); u64::BITS as usize],
            size: tree.size + 1,
        }
    }

    /// A leaf that comes behind it.
    pub fn push(&mut self, tag: &Tag) {
        // The highest level at which the two part.
        if let Some(level) = (self.index ^ self.size).checked_ilog2() {
            self.after[level as usize].push(tag);
        }
        self.size += 1;
    }

    /// What stands beside the way at each level, from the leaf up.
    #[must_use]
    pub fn path(&self) -> Vec<Tag> {
        let mut left = self.before.peaks.iter().rev();
        let mut path = Vec::new();
        for (level, right) in self.after.iter().enumerate() {
            if self.index >> level & 1 == 1 {
                path.extend(left.next());
            } else if right.size > 0 {
                path.push(right.root());
            }
        }
        path
    }
}

/// The root of a tree of `size` leaves in which the leaf number `index`, counted from 0, has this tag, and this stands beside its way
/// up, from the leaf on; `None` where that is too much or too little for such a tree.
#[must_use]
pub fn root_above(tag: &Tag, index: u64, size: u64, path: &[Tag]) -> Option<Tag> {
    let (mut at, mut last) = (index, size.checked_sub(1)?);
    if at > last {
        return None;
    }
    let mut node = leaf(tag);
    for beside in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            node = join(beside, &node);
            // Levels at which nothing stands beside the last node.
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            node = join(&node, beside);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(node)
}

fn leaf(tag: &Tag) -> Tag {
    Sha256::new()
        .chain_update([0])
        .chain_update(tag)
        .finalize()
        .into()
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

    #[test]
    fn way_of_every_leaf_leads_to_the_root_and_no_other_way_does() {
        let leaves: Vec<Tag> = (0..40).map(|n| [n; 32]).collect();
        let mut before = Tree::default();
        for (index, leaf) in leaves.iter().enumerate() {
            let mut beside = Beside::next_to(&before);
            before.push(leaf);
            let mut tree = before.clone();
            for size in index + 1..=leaves.len() {
                let (path, root) = (beside.path(), tree.root());
                let above = |tag, index: usize, path: &[Tag]| {
                    root_above(tag, index as u64, size as u64, path)
                };
                assert_eq!(above(leaf, index, &path), Some(root), "{index} of {size}");
                for other in (0..size + 2).filter(|other| *other != index) {
                    assert_ne!(
                        above(leaf, other, &path),
                        Some(root),
                        "{other} for {index} of {size}"
                    );
                }
                assert_ne!(above(&[99; 32], index, &path), Some(root));
                assert_ne!(
                    above(leaf, index, &[&path[..], &[[0; 32]]].concat()),
                    Some(root)
                );
                for missing in 0..path.len() {
                    let mut less = path.clone();
                    less.remove(missing);
                    assert_ne!(above(leaf, index, &less), Some(root), "{index} of {size}");
                }
                if let Some(next) = leaves.get(size) {
                    beside.push(next);
                    tree.push(next);
                }
            }
        }
    }
}
