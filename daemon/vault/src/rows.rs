//! What the file holds of each secret: a row that describes it, and a row for each version. Only with the keys can either be read, and
//! each only in its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    MAX_NAME, MAX_USERS, MAX_VALUE, MAX_VERSIONS, VaultError,
    crypt::{KEY, Key, bind, hash, opened_length},
    value::Value,
};

/// A name, a value or a list is not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A name.
    #[error(
        "a name has 1 to {MAX_NAME} letters, digits, '-', '_' and '.', and begins with a letter or a digit"
    )]
    Name,
    /// Nothing.
    #[error("the value is empty")]
    Empty,
    /// Too much.
    #[error("the value is longer than {MAX_VALUE} bytes")]
    Long,
    /// Neither a provider nor any other.
    #[error("a user is written as provider:NAME, broker:NAME, agent:NAME or skill:NAME")]
    User,
    /// Too many may use it.
    #[error("a secret is for at most {MAX_USERS} users")]
    Users,
    /// Too many versions can be used.
    #[error(
        "{MAX_VERSIONS} versions of it can be used; revoke old ones, or wait until their time is over"
    )]
    Versions,
    /// Too many secrets.
    #[error("a vault holds at most {} secrets", crate::MAX_SECRETS)]
    Secrets,
}

/// Whether that can be the name of a secret.
///
/// # Errors
/// When it cannot.
pub fn check_name(name: &str) -> Result<(), Unfit> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = name.len() <= MAX_NAME
        && name.bytes().all(inner)
        && name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if fits { Ok(()) } else { Err(Unfit::Name) }
}

/// Who may use a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum User {
    /// A provider of models, as its key.
    Provider(String),
    /// A broker of paw-egress, which adds it to requests of those who may use it, too.
    Broker(String),
    /// What runs for an agent, through a broker that may use it.
    Agent(String),
    /// A skill, through a broker that may use it.
    Skill(String),
    /// A bridge to a channel, as its token.
    Bridge(String),
}

impl User {
    /// What it is, and its name.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Provider(name) => ("provider", name),
            Self::Broker(name) => ("broker", name),
            Self::Agent(name) => ("agent", name),
            Self::Skill(name) => ("skill", name),
            Self::Bridge(name) => ("bridge", name),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind}:{name}")
    }
}

impl FromStr for User {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let (kind, name) = text.split_once(':').ok_or(Unfit::User)?;
        check_name(name).map_err(|_| Unfit::User)?;
        let name = name.to_owned();
        match kind {
            "provider" => Ok(Self::Provider(name)),
            "broker" => Ok(Self::Broker(name)),
            "agent" => Ok(Self::Agent(name)),
            "skill" => Ok(Self::Skill(name)),
            "bridge" => Ok(Self::Bridge(name)),
            _ => Err(Unfit::User),
        }
    }
}

impl TryFrom<String> for User {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl From<User> for String {
    fn from(user: User) -> Self {
        user.to_string()
    }
}

/// What a value is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Visible ASCII: it can stand in a header.
    Text,
    /// Anything else.
    Bytes,
}

impl Class {
    pub(crate) fn of(value: &[u8]) -> Result<Self, Unfit> {
        match value.len() {
            0 => Err(Unfit::Empty),
            length if length > MAX_VALUE => Err(Unfit::Long),
            _ if value.iter().all(u8::is_ascii_graphic) => Ok(Self::Text),
            _ => Ok(Self::Bytes),
        }
    }

    const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Text => b"text",
            Self::Bytes => b"bytes",
        }
    }
}

/// What is known of a secret without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its versions, the oldest first; the last one is what is used.
    pub versions: Vec<Version>,
    /// Who may use it; nobody at first.
    pub users: BTreeSet<User>,
}

/// One value that a secret has or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its number, from 1.
    pub number: u64,
    /// What it is good for.
    pub class: Class,
    /// When it was given, in milliseconds since 1970.
    pub created_ms: u64,
    /// Until when it can be used, in milliseconds since 1970; the newest has no end.
    pub until_ms: Option<u64>,
}

impl Version {
    /// Whether it can still be used.
    #[must_use]
    pub fn is_valid(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| now_ms < until)
    }
}

impl Secret {
    /// The version that is meant: this one, or the newest.
    pub(crate) fn version(&self, number: Option<u64>, now_ms: u64) -> Result<Version, VaultError> {
        let found = match number {
            Some(number) => self
                .versions
                .iter()
                .find(|version| version.number == number),
            None => self.versions.last(),
        };
        found
            .filter(|version| version.is_valid(now_ms))
            .copied()
            .ok_or(VaultError::NoVersion)
    }
}

/// The keys of an open vault. Each has one purpose.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) root: Key,
    wrap: Key,
    lists: Key,
    names: Key,
    header: Key,
}

/// Where a row stands: what it is, the hidden name, and the version.
pub(crate) type RowKey = Vec<u8>;

pub(crate) const ABOUT: u8 = 1;
const VERSION: u8 = 2;

/// The length of a wrapped data key.
const WRAPPED: usize = 24 + KEY + 16;

impl Keys {
    pub(crate) fn of(root: Key) -> Result<Self, VaultError> {
        Ok(Self {
            wrap: root.derive("wrap")?,
            lists: root.derive("lists")?,
            names: root.derive("names")?,
            header: root.derive("header")?,
            root,
        })
    }

    pub(crate) fn sign(&self, header: &[u8]) -> [u8; 32] {
        self.header.mac("header", header)
    }

    pub(crate) fn is_signed(&self, header: &[u8], code: &[u8]) -> bool {
        self.header.is_mac("header", header, code)
    }

    fn hidden(&self, name: &str) -> [u8; 32] {
        self.names.mac("name", name.as_bytes())
    }

    pub(crate) fn about_key(&self, name: &str) -> RowKey {
        [&[ABOUT][..], &self.hidden(name)].concat()
    }

    pub(crate) fn version_key(&self, name: &str, number: u64) -> RowKey {
        [&[VERSION][..], &self.hidden(name), &number.to_be_bytes()].concat()
    }

    /// The row that describes a secret.
    pub(crate) fn about(
        &self,
        vault: Uuid,
        secret: &Secret,
    ) -> Result<(RowKey, Vec<u8>), VaultError> {
        let key = self.about_key(&secret.name);
        let plain = Zeroizing::new(
            serde_json::to_vec(secret).expect("strings, numbers and lists are always JSON"),
        );
        let sealed = self.lists.seal(&list_aad(vault, &key), &plain)?;
        Ok((key, sealed))
    }

    /// Reads a row that describes a secret; `None` when it is not what was written there.
    pub(crate) fn read_about(&self, vault: Uuid, key: &[u8], row: &[u8]) -> Option<Secret> {
        let mut plain = Zeroizing::new(vec![0; opened_length(row)?]);
        if !self.lists.open(&list_aad(vault, key), row, &mut plain) {
            return None;
        }
        let secret: Secret = serde_json::from_slice(&plain).ok()?;
        (self.about_key(&secret.name) == key && !secret.versions.is_empty()).then_some(secret)
    }

    /// The row of a version, with a data key of its own.
    pub(crate) fn hide(
        &self,
        vault: Uuid,
        name: &str,
        version: &Version,
        value: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let data = Key::random()?;
        let mut row = self
            .wrap
            .seal(&value_aad("key", vault, name, version), data.bytes())?;
        row.extend(data.seal(&value_aad("value", vault, name, version), value)?);
        Ok(row)
    }

    /// The value of a version; `None` when the row is not what was written there.
    pub(crate) fn show(
        &self,
        vault: Uuid,
        name: &str,
        version: &Version,
        row: &[u8],
    ) -> Result<Option<Value>, VaultError> {
        let Some((wrapped, sealed)) = row.split_at_checked(WRAPPED) else {
            return Ok(None);
        };
        let (Some(data), Some(length)) = (
            self.unwrap(vault, name, version, wrapped)?,
            opened_length(sealed),
        ) else {
            return Ok(None);
        };
        let mut plain = paw_confine::sys::Locked::zeroed(length).map_err(VaultError::Memory)?;
        let aad = value_aad("value", vault, name, version);
        Ok(data.open(&aad, sealed, &mut plain).then_some(Value(plain)))
    }

    /// The same row for another root key: its data key is wrapped anew, its value stays as it is.
    pub(crate) fn rewrap(
        &self,
        to: &Self,
        vault: Uuid,
        name: &str,
        version: &Version,
        row: &[u8],
    ) -> Result<Option<Vec<u8>>, VaultError> {
        let Some((wrapped, sealed)) = row.split_at_checked(WRAPPED) else {
            return Ok(None);
        };
        let Some(data) = self.unwrap(vault, name, version, wrapped)? else {
            return Ok(None);
        };
        let mut row = to
            .wrap
            .seal(&value_aad("key", vault, name, version), data.bytes())?;
        row.extend_from_slice(sealed);
        Ok(Some(row))
    }

    fn unwrap(
        &self,
        vault: Uuid,
        name: &str,
        version: &Version,
        wrapped: &[u8],
    ) -> Result<Option<Key>, VaultError> {
        let mut data = Key::zeroed()?;
        let aad = value_aad("key", vault, name, version);
        let opened = self.wrap.open(&aad, wrapped, data.bytes_mut());
        Ok(opened.then_some(data))
    }
}

fn list_aad(vault: Uuid, key: &[u8]) -> Vec<u8> {
    bind(&[b"pawd-vault/1", b"about", vault.as_bytes(), key])
}

fn value_aad(what: &str, vault: Uuid, name: &str, version: &Version) -> Vec<u8> {
    bind(&[
        b"pawd-vault/1",
        what.as_bytes(),
        vault.as_bytes(),
        name.as_bytes(),
        &version.number.to_be_bytes(),
        version.class.bytes(),
        &version.created_ms.to_be_bytes(),
    ])
}

/// Hashes over all rows, from which their root follows. A changed row costs a hash over the few that share its branch.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    branches: Vec<Arc<BTreeMap<RowKey, [u8; 32]>>>,
    hashes: Vec<[u8; 32]>,
    rows: u64,
}

const BRANCHES: usize = 256;

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            branches: vec![Arc::default(); BRANCHES],
            hashes: vec![branch_hash(&BTreeMap::new()); BRANCHES],
            rows: 0,
        }
    }

    /// Puts a row in, or takes one out.
    pub(crate) fn set(&mut self, key: &[u8], row: Option<&[u8]>) {
        let at = self.place(key, row);
        self.hashes[at] = branch_hash(&self.branches[at]);
    }

    /// The tree of these rows, hashed once at the end.
    pub(crate) fn of<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut tree = Self::new();
        for (key, row) in rows {
            tree.place(key, Some(row));
        }
        for (hash, branch) in tree.hashes.iter_mut().zip(&tree.branches) {
            *hash = branch_hash(branch);
        }
        tree
    }

    fn place(&mut self, key: &[u8], row: Option<&[u8]>) -> usize {
        // The first byte of the hidden name; rows of one secret share it.
        let at = usize::from(key.get(1).copied().unwrap_or(0));
        let branch = Arc::make_mut(&mut self.branches[at]);
        let was = match row {
            Some(row) => branch.insert(key.to_owned(), hash("row", &[key, row])),
            None => branch.remove(key),
        };
        match (was, row) {
            (None, Some(_)) => self.rows += 1,
            (Some(_), None) => self.rows -= 1,
            _ => {}
        }
        at
    }

    pub(crate) const fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn root(&self) -> [u8; 32] {
        let parts: Vec<&[u8]> = self.hashes.iter().map(|hash| &hash[..]).collect();
        hash("root", &parts)
    }
}

fn branch_hash(branch: &BTreeMap<RowKey, [u8; 32]>) -> [u8; 32] {
    let parts: Vec<&[u8]> = branch
        .iter()
        .flat_map(|(key, row)| [&key[..], &row[..]])
        .collect();
    hash("branch", &parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_users_are_what_they_may_be() {
        for good in ["a", "openai", "Open.AI_key-2", "9lives", &"x".repeat(64)] {
            check_name(good).unwrap();
        }
        for bad in [
            "",
            ".a",
            "-a",
            "a b",
            "a/b",
            "a@1",
            "ä",
            "a\0",
            &"x".repeat(65),
        ] {
            assert_eq!(check_name(bad), Err(Unfit::Name), "{bad:?}");
        }
        for good in [
            "provider:openai",
            "broker:mail",
            "agent:a",
            "skill:files",
            "bridge:telegram",
        ] {
            assert_eq!(good.parse::<User>().unwrap().to_string(), good);
        }
        for bad in [
            "openai",
            "provider:",
            "owner:me",
            "agent:a b",
            ":a",
            "agent:a:b",
        ] {
            assert_eq!(bad.parse::<User>(), Err(Unfit::User), "{bad:?}");
        }
    }

    #[test]
    fn a_row_opens_in_its_own_place_alone() {
        let keys = Keys::of(Key::random().unwrap()).unwrap();
        let (vault, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let version = Version {
            number: 1,
            class: Class::Text,
            created_ms: 5,
            until_ms: None,
        };
        let row = keys.hide(vault, "name", &version, b"value").unwrap();
        let shows = |vault, name: &str, version: Version, row: &[u8]| {
            let shown = keys.show(vault, name, &version, row).unwrap();
            shown.is_some_and(|value| value.bytes() == b"value")
        };
        assert!(shows(vault, "name", version, &row));
        assert!(!shows(other, "name", version, &row));
        assert!(!shows(vault, "eman", version, &row));
        for elsewhere in [
            Version {
                number: 2,
                ..version
            },
            Version {
                class: Class::Bytes,
                ..version
            },
            Version {
                created_ms: 6,
                ..version
            },
        ] {
            assert!(!shows(vault, "name", elsewhere, &row), "{elsewhere:?}");
        }
        // The data key of one version with the value of another, and either in the other's place.
        let second = keys.hide(vault, "name", &version, b"other").unwrap();
        assert!(!shows(
            vault,
            "name",
            version,
            &[&second[..WRAPPED], &row[WRAPPED..]].concat()
        ));
        assert!(!shows(vault, "name", version, &row[WRAPPED..]));
        assert!(!shows(vault, "name", version, &row[..WRAPPED]));

        let secret = Secret {
            name: "name".into(),
            created_ms: 5,
            versions: vec![version],
            users: BTreeSet::new(),
        };
        let (key, list) = keys.about(vault, &secret).unwrap();
        assert_eq!(keys.read_about(vault, &key, &list), Some(secret));
        assert_eq!(keys.read_about(other, &key, &list), None);
        assert_eq!(keys.read_about(vault, &keys.about_key("eman"), &list), None);
    }

    #[test]
    fn root_tells_every_row_and_depends_on_nothing_else() {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = (0..100_u8)
            .map(|n| (vec![ABOUT, n % 7, n], vec![n; usize::from(n)]))
            .collect();
        let refs = || rows.iter().map(|(key, row)| (&key[..], &row[..]));
        let whole = Tree::of(refs());
        let mut grown = Tree::new();
        for (key, row) in refs().rev() {
            grown.set(key, Some(row));
        }
        assert_eq!((whole.root(), whole.rows()), (grown.root(), 100));
        for (key, row) in refs() {
            let mut changed = whole.clone();
            changed.set(key, Some(&[row, b"x"].concat()));
            assert_ne!(changed.root(), whole.root());
            changed.set(key, None);
            assert_ne!(changed.root(), whole.root());
            assert_eq!(changed.rows(), 99);
            changed.set(key, Some(row));
            assert_eq!((changed.root(), changed.rows()), (whole.root(), 100));
        }
    }
}
