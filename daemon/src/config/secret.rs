//! How the configuration names a secret of the vault.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A secret, or one version of it: `NAME` or `NAME@2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName {
    /// Its name.
    pub name: String,
    /// Which version; the newest where none is named.
    pub version: Option<u64>,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}

impl FromStr for SecretName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        paw_vault::check_name(name).map_err(|error| error.to_string())?;
        let version = version
            .map(|version| match version.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err("write the number of a version behind the '@'".to_owned()),
            })
            .transpose()?;
        let name = name.to_owned();
        Ok(Self { name, version })
    }
}

impl Serialize for SecretName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::SecretName;

    #[test]
    fn secret_is_named_with_or_without_a_version() {
        for good in ["openai", "openai@1", "a.b-c_d@18446744073709551615"] {
            assert_eq!(good.parse::<SecretName>().unwrap().to_string(), good);
        }
        for bad in ["", "@1", "a@", "a@0", "a@x", "a@1@2", "a b", "sk-proj/abc"] {
            bad.parse::<SecretName>().expect_err(bad);
        }
    }
}
