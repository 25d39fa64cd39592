//! Why a provider that is configured is not asked yet. Pure.

use std::fmt;

use url::Url;

use super::keys::Keys;
use crate::config::{Config, ProviderSettings};

/// What has to happen first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waits {
    /// Its key could not be read.
    Key(String),
    /// Its key is the egress broker's, which pawd is not to know.
    Brokers(String),
    /// Landlock lets pawd connect to the ports that it knew when it started, and to no other.
    Port(u16),
    /// Root's files give its key to a provider at another place. Whoever may register a provider does not thereby decide where that
    /// key goes.
    Stray {
        /// The credential.
        key: String,
        /// Where it may go.
        place: String,
        /// Which file says so.
        file: String,
    },
    /// It was registered and no client can be made of it: its key cannot stand in a header, say. Root hears of that as an error.
    Unfit(String),
}

impl Waits {
    /// Why this provider cannot be asked by this pawd, if it cannot.
    #[must_use]
    pub fn of(
        settings: &ProviderSettings,
        config: &Config,
        keys: &Keys,
        ports: &[u16],
    ) -> Option<Self> {
        let port = settings.base_url.port_or_known_default().unwrap_or(0);
        let credential = settings.api_key_credential.as_ref();
        credential
            .and_then(|key| stray(settings, key, config))
            .or_else(|| {
                let brokers = |key: &&String| settings.registered && keys.is_brokers(key);
                credential.filter(brokers).cloned().map(Self::Brokers)
            })
            .or_else(|| {
                let unread = |key: &&String| keys.get(key).is_none();
                credential.filter(unread).cloned().map(Self::Key)
            })
            .or_else(|| (!ports.contains(&port)).then_some(Self::Port(port)))
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Key(key) => format!(
                "put the key into the file {key} of the credentials (pawd.toml(5), CREDENTIALS), mode 0400, then restart pawd"
            ),
            Self::Port(_) => "restart pawd: systemctl restart pawd".into(),
            Self::Unfit(_) => {
                "change it with `pawctl provider edit`, or mend its key and restart pawd".into()
            }
            Self::Brokers(_) | Self::Stray { .. } => {
                "use a credential of its own, or write the provider into the configuration files"
                    .into()
            }
        }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "there is no key {key} that pawd has read"),
            Self::Brokers(key) => write!(f, "its key {key} is the egress broker's"),
            Self::Port(port) => write!(f, "port {port} is opened to pawd when it starts"),
            Self::Unfit(why) => write!(f, "it cannot be asked: {why}"),
            Self::Stray { key, place, file } => write!(
                f,
                "its key {key} belongs to {place}, as {file} says, and goes nowhere else"
            ),
        }
    }
}

fn stray(settings: &ProviderSettings, key: &str, config: &Config) -> Option<Waits> {
    if !settings.registered {
        return None;
    }
    let origin = |url: &Url| url.origin().ascii_serialization();
    let theirs = |other: &&ProviderSettings| {
        !other.registered && other.api_key_credential.as_deref() == Some(key)
    };
    let mut of_root = config.providers.values().filter(theirs).peekable();
    let first = of_root.peek().copied()?;
    if of_root.any(|other| origin(&other.base_url) == origin(&settings.base_url)) {
        return None;
    }
    Some(Waits::Stray {
        key: key.to_owned(),
        place: origin(&first.base_url),
        file: first.file.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        os::unix::fs::PermissionsExt as _,
        path::Path,
    };

    use super::*;
    use crate::config::{
        check::{Written, check_all},
        registered::{Entry, Registered},
        source::Source,
    };
    use crate::providers::Providers;

    /// What a provider at `url` waits for that was registered with the key `k`, beside one of root's at `api.example.com`.
    fn waits(url: &str, keys: &Keys) -> Option<Waits> {
        let config = configured(url);
        let mine = &config.providers[&"mine".parse().unwrap()];
        Waits::of(mine, &config, keys, &[443])
    }

    fn configured(url: &str) -> Config {
        let text = "[provider.cloud]\nkind = \"openai\"\nbase_url = \"https://api.example.com/v1\"\nmodel = \"m\"\napi_key_credential = \"k\"";
        let written = Written {
            files: vec![Source {
                name: "pawd.toml".into(),
                text: text.into(),
            }],
            policies: None,
        };
        let entry = Entry {
            kind: "openai".into(),
            base_url: url.into(),
            model: "m".into(),
            api_key_credential: Some("k".into()),
            ..Entry::default()
        };
        let registered = Registered {
            provider: BTreeMap::from([("mine".to_owned(), entry)]),
            ..Registered::default()
        };
        check_all(&written, &registered, Path::new("/state")).unwrap()
    }

    /// A directory of credentials with `k` in it, which is the broker's or not.
    fn keys(brokers: &[&str]) -> Keys {
        let directory = credentials("secret\n");
        let brokers: BTreeSet<String> = brokers.iter().map(ToString::to_string).collect();
        Keys::read(directory.path(), brokers)
    }

    fn credentials(k: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("k");
        fs::write(&file, k).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        directory
    }

    #[test]
    fn key_that_roots_files_give_to_one_place_goes_to_no_other() {
        assert_eq!(waits("https://api.example.com/other", &keys(&[])), None);
        for url in [
            "https://api.example.com:444",
            "http://127.0.0.1",
            "https://evil.example",
            "https://api.example.com.evil.example",
        ] {
            let found = waits(url, &keys(&[]));
            assert!(
                matches!(found, Some(Waits::Stray { .. })),
                "{url}: {found:?}"
            );
        }
    }

    #[test]
    fn key_of_the_egress_broker_is_no_key_of_a_registered_provider() {
        let found = waits("https://api.example.com", &keys(&["k"]));
        assert_eq!(found, Some(Waits::Brokers("k".into())));
    }

    #[test]
    fn key_of_the_egress_broker_is_not_read_for_one_that_pawd_wrote_down() {
        let directory = credentials("secret\n");
        let mut keys = Keys::read(directory.path(), BTreeSet::from(["k".to_owned()]));
        let config = configured("https://api.example.com");
        keys.fetch(&config.providers[&"mine".parse().unwrap()])
            .unwrap();
        assert!(keys.get("k").is_none());
        // What root's own files say is root's to say.
        keys.fetch(&config.providers[&"cloud".parse().unwrap()])
            .unwrap();
        assert!(keys.get("k").is_some());
    }

    #[test]
    fn registered_provider_that_cannot_work_keeps_no_pawd_from_starting() {
        let directory = credentials("two\nlines\n");
        let keys = Keys::read(directory.path(), BTreeSet::new());
        let mut config = configured("https://api.example.com");
        let (audit, _) = crate::audit::Audit::connect("/nowhere".into());
        let secrets = crate::secrets::Secrets::at(
            directory.path(),
            crate::secrets::start::StartKeys::default(),
            audit,
        );
        let made = |config: &Config, ports: &[u16]| {
            Providers::new(config, &keys, &secrets, ports, &Providers::default())
        };
        // Root's own is an error.
        assert!(made(&config, &[443]).is_err());
        config.providers.remove(&"cloud".parse().unwrap());
        // One that waits for its port, too, so that this is no news at the next start.
        for ports in [vec![443], vec![]] {
            let made = made(&config, &ports).unwrap();
            assert!(matches!(made.waits("mine"), Some(Waits::Unfit(_))));
        }
    }

    #[test]
    fn without_its_key_a_provider_is_not_asked() {
        let found = waits("https://api.example.com", &Keys::default());
        assert_eq!(found, Some(Waits::Key("k".into())));
    }
}
