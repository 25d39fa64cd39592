//! What a change makes of the providers that are registered. Pure: whether the outcome can be meant is checked by who checks the files.

use paw_api::{Error, ErrorKind, provider::ProviderSpec};

use crate::{
    config::{
        Config, ProviderSettings,
        registered::{Entry, MOST, Registered},
    },
    records::shorten,
};

/// What an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new one.
    Add(String, ProviderSpec),
    /// Another one in its place; what the spec does not say stays.
    Edit(String, ProviderSpec),
    /// None in its place.
    Remove(String),
    /// It answers for agents that name none.
    Default(String),
}

impl Change {
    /// The provider that it is about.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Add(name, _) | Self::Edit(name, _) | Self::Remove(name) | Self::Default(name) => {
                name
            }
        }
    }

    /// The word for it in the audit log.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Add(..) => "added",
            Self::Edit(..) => "changed",
            Self::Remove(_) => "removed",
            Self::Default(_) => "made the default",
        }
    }

    /// What is registered after it. What stands in a file is not for callers to change: pawd may not write there.
    ///
    /// # Errors
    /// When there is no such provider, it stands in a file, or there are too many.
    pub fn of(&self, registered: &Registered, config: &Config) -> Result<Registered, Error> {
        let mut after = registered.clone();
        let name = self.name();
        let known = config
            .providers
            .iter()
            .find(|(known, _)| known.as_str() == name)
            .map(|(_, settings)| settings);
        match self {
            Self::Add(_, spec) => {
                if let Some(known) = known {
                    return Err(taken(name, known));
                }
                if after.provider.len() >= MOST {
                    let message = format!("there are {MOST} registered providers already");
                    let hint = "remove one, or write it into the configuration files";
                    return Err(Error::new(ErrorKind::Busy, message, hint));
                }
                after.provider.insert(name.to_owned(), entry(spec)?);
                // Where one was alone, it was the default without a word; a second one does not change that.
                if after.default_provider.is_none() && config.default_fixed_in.is_none() {
                    after.default_provider =
                        config.default_provider.as_ref().map(ToString::to_string);
                }
            }
            Self::Edit(_, spec) => {
                let entry = own(name, known, &mut after)?;
                edit(entry, spec);
            }
            Self::Remove(_) => {
                own(name, known, &mut after)?;
                let is_default = config
                    .default_provider
                    .as_ref()
                    .is_some_and(|default| default.as_str() == name);
                if is_default && config.providers.len() > 1 {
                    let message = format!("{name} is the default provider");
                    let hint = "make another one the default first: `pawctl provider default NAME`";
                    return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
                }
                after.provider.remove(name);
                // With the last one goes the wish that it be the default.
                if config.providers.len() == 1 {
                    after.default_provider = None;
                }
            }
            Self::Default(_) => {
                if known.is_none() {
                    return Err(unknown(name));
                }
                if let Some(file) = &config.default_fixed_in {
                    let message = format!("the default provider is set in {file}");
                    let hint = "change default_provider there, then run `pawctl config reload`";
                    return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
                }
                after.default_provider = Some(name.to_owned());
            }
        }
        Ok(after)
    }
}

fn taken(name: &str, known: &ProviderSettings) -> Error {
    let message = format!("there is a provider {name} already, in {}", known.file);
    let hint = if known.registered {
        format!("change it with `pawctl provider edit {name}`, or choose another name")
    } else {
        "choose another name".to_owned()
    };
    Error::new(ErrorKind::Conflict, message, hint).about(name)
}

fn unknown(name: &str) -> Error {
    let message = format!("there is no provider {}", shorten(name));
    Error::new(ErrorKind::NotFound, message, "see `pawctl provider list`").about(shorten(name))
}

/// The entry of a provider that was registered.
fn own<'a>(
    name: &str,
    known: Option<&ProviderSettings>,
    registered: &'a mut Registered,
) -> Result<&'a mut Entry, Error> {
    let settings = known.ok_or_else(|| unknown(name))?;
    if !settings.registered {
        let message = format!(
            "provider {name} stands in {}, which pawd may not write",
            settings.file
        );
        let hint = "change it there, then run `pawctl config reload`";
        return Err(Error::new(ErrorKind::Conflict, message, hint).about(name));
    }
    registered
        .provider
        .get_mut(name)
        .ok_or_else(|| unknown(name))
}

fn entry(spec: &ProviderSpec) -> Result<Entry, Error> {
    let needed = |value: &Option<String>, which: &str| {
        value.clone().ok_or_else(|| {
            let message = format!("a provider needs its {which}");
            Error::new(ErrorKind::Invalid, message, format!("say {which}"))
        })
    };
    let mut entry = Entry {
        kind: needed(&spec.kind, "kind")?,
        base_url: needed(&spec.base_url, "base_url")?,
        model: needed(&spec.model, "model")?,
        ..Entry::default()
    };
    edit(&mut entry, spec);
    Ok(entry)
}

/// Takes over what the spec says.
fn edit(entry: &mut Entry, spec: &ProviderSpec) {
    let ProviderSpec {
        kind,
        base_url,
        model,
        api_key_credential,
        allow_plaintext,
        max_retries,
        check_interval_ms,
        connect_timeout_ms,
        first_token_timeout_ms,
        stall_timeout_ms,
        total_timeout_ms,
    } = spec;
    let texts = [
        (&mut entry.kind, kind),
        (&mut entry.base_url, base_url),
        (&mut entry.model, model),
    ];
    for (old, new) in texts {
        if let Some(new) = new {
            old.clone_from(new);
        }
    }
    if let Some(key) = api_key_credential {
        entry.api_key_credential = Some(key.clone()).filter(|key| !key.is_empty());
    }
    entry.allow_plaintext = allow_plaintext.or(entry.allow_plaintext);
    entry.max_retries = max_retries.or(entry.max_retries);
    let times = [
        (&mut entry.check_interval, check_interval_ms),
        (&mut entry.connect_timeout, connect_timeout_ms),
        (&mut entry.first_token_timeout, first_token_timeout_ms),
        (&mut entry.stall_timeout, stall_timeout_ms),
        (&mut entry.total_timeout, total_timeout_ms),
    ];
    for (old, new) in times {
        if let Some(ms) = new {
            *old = Some(format!("{ms}ms"));
        }
    }
}
