//! Keys of providers. They are read before the drop, all that are there: afterwards pawd may read none where root keeps them, and a
//! provider that is registered later may name any. What the egress broker alone is to know is no key of a provider's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use io::Read as _;
use secrecy::SecretString;

use crate::config::ProviderSettings;

/// The most credentials that are read.
const MOST: usize = 256;

/// The longest key of a provider, in bytes.
const MAX_KEY: u64 = 16 * 1024;

/// All of them.
#[derive(Debug, Default)]
pub struct Keys {
    directory: PathBuf,
    read: BTreeMap<String, SecretString>,
    brokers: BTreeSet<String>,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could use it, too.
    #[error("others may read {path} (mode {mode:03o}); run: chmod 0400 {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is nothing in it.
    #[error("{path} is empty")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

impl Keys {
    /// Reads all credentials of a directory but those of the egress broker. One that cannot be read is none: whoever needs it is
    /// told why.
    #[must_use]
    pub fn read(directory: &Path, brokers: BTreeSet<String>) -> Self {
        let mut keys = Self {
            directory: directory.to_owned(),
            read: BTreeMap::new(),
            brokers,
        };
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.take(MOST) {
            if let Ok(name) = entry.file_name().into_string()
                && !keys.is_brokers(&name)
                && let Ok(key) = read(&entry.path())
            {
                keys.read.insert(name, key);
            }
        }
        keys
    }

    /// The key of this credential.
    #[must_use]
    pub fn get(&self, credential: &str) -> Option<&SecretString> {
        self.read.get(credential)
    }

    /// Whether it is the egress broker's.
    #[must_use]
    pub fn is_brokers(&self, credential: &str) -> bool {
        self.brokers.contains(credential)
    }

    /// Reads the key of a provider if it is not known, where that is still allowed. One that was registered may lack its key, and gets
    /// none of the egress broker's: pawd wrote its name down, and whoever reads it here may be root.
    ///
    /// # Errors
    /// Why the key of one of root's cannot be used.
    pub fn fetch(&mut self, settings: &ProviderSettings) -> Result<(), KeyError> {
        let Some(credential) = &settings.api_key_credential else {
            return Ok(());
        };
        if self.read.contains_key(credential)
            || (settings.registered && self.is_brokers(credential))
        {
            return Ok(());
        }
        // A credential is a name, and so one file of the directory.
        match read(&self.directory.join(credential)) {
            Ok(key) => drop(self.read.insert(credential.clone(), key)),
            // What follows says so, and does not ask it.
            Err(_) if settings.registered => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Credentials that `egress.toml` names.
///
/// # Errors
/// When it is there and cannot be understood.
pub fn brokers(etc: &Path) -> Result<BTreeSet<String>, String> {
    let text = match fs::read_to_string(etc.join("egress.toml")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error.to_string()),
    };
    let file: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| error.message().to_owned())?;
    let brokers = file.get("broker").and_then(toml::Value::as_table);
    let named = brokers.into_iter().flatten().filter_map(|(_, broker)| {
        let credential = broker.get("credential")?;
        credential.as_str().map(str::to_owned)
    });
    Ok(named.collect())
}

fn read(path: &Path) -> Result<SecretString, KeyError> {
    let failed = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    let mode = facts.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(MAX_KEY)
        .read_to_string(&mut text)
        .map_err(failed)?;
    match text.trim() {
        "" => Err(KeyError::Empty {
            path: path.to_owned(),
        }),
        key => Ok(SecretString::from(key.to_owned())),
    }
}
