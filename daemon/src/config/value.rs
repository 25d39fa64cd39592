//! Values as people write them: names, times, sizes, addresses. Each either is one, or says how to write one.

use std::{str::FromStr, time::Duration};

use paw_launch::{request::Isolation, workspace::Settle};
use paw_llm::{ProviderKind, Timeouts};
use paw_policy::{Ceiling, Name};

/// The longest time that can be configured: a week.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The name of something that is configured.
pub(super) fn name(text: &str) -> Result<Name, String> {
    Name::from_str(text).map_err(|error| error.to_string())
}

/// A secret of the vault, or one version of it.
pub(super) fn secret(text: &str) -> Result<super::SecretName, String> {
    super::SecretName::from_str(text)
}

/// The longest name of a model, in bytes. It is in the record of every attempt.
pub const MAX_MODEL: usize = 256;

/// The name of a model, which can be shown.
pub fn model(text: &str) -> Result<String, String> {
    if (1..=MAX_MODEL).contains(&text.len()) && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "use 1 to {MAX_MODEL} bytes without control characters"
        ))
    }
}

/// What stands between a sandbox and the host.
pub(super) fn isolation(text: &str) -> Result<Isolation, String> {
    Isolation::ALL
        .into_iter()
        .find(|isolation| isolation.as_str() == text)
        .ok_or_else(|| "use process, kernel or vm".to_owned())
}

/// How confidential what a provider is sent may be at most.
pub(super) fn ceiling(text: &str) -> Result<Ceiling, String> {
    Ceiling::from_str(text).map_err(|_| "use public, private or secret".to_owned())
}

/// What becomes of what a tool wrote to its workspace.
pub(super) fn settle(text: &str) -> Result<Settle, String> {
    match text {
        "commit" => Ok(Settle::Commit),
        "stage" => Ok(Settle::Stage),
        _ => Err("use commit, or stage for a person to decide".into()),
    }
}

/// A user or group name as useradd(8) allows it.
pub(super) fn account(text: &str) -> Result<String, String> {
    let good = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if good && !text.is_empty() && text.len() <= 32 {
        Ok(text.to_owned())
    } else {
        Err("use the name of a user or group".into())
    }
}

/// Which wire a provider speaks.
pub(super) fn provider_kind(text: &str) -> Result<ProviderKind, String> {
    let known = ProviderKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text);
    known.ok_or_else(|| {
        let words: Vec<&str> = ProviderKind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!(
            "use one of {}; most other servers speak openai-compatible",
            words.join(", ")
        )
    })
}

/// The longest address of a provider, in bytes.
const MAX_URL: usize = 2_048;

/// Where a provider is.
pub(super) fn url(text: &str) -> Result<url::Url, String> {
    if text.len() > MAX_URL {
        return Err(format!("use at most {MAX_URL} bytes"));
    }
    match url::Url::parse(text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.host().is_some()
                && url.port() != Some(0)
                && url.password().is_none()
                && url.username().is_empty()
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(url)
        }
        Ok(_) => Err(
            "use http:// or https:// and a host, without user, password or anything after ? or #"
                .into(),
        ),
        Err(error) => Err(format!("{error}; an example: http://127.0.0.1:11434")),
    }
}

/// A time such as `250ms`, `30s`, `5m` or `1h 30m`; at most a week, at least a millisecond.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let hint = "use a time such as \"250ms\", \"30s\", \"5m\" or \"1h\", at most \"168h\"";
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| hint.to_owned())?;
    match Duration::try_from(parsed) {
        Ok(time) if time >= Duration::from_millis(1) && time <= WEEK => Ok(time),
        Ok(_) | Err(_) => Err(hint.to_owned()),
    }
}

/// A time that an answer may take; a client has none that is longer.
pub(super) fn limit(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if time <= Timeouts::LONGEST {
            Ok(time)
        } else {
            Err("use a time of at most \"24h\"".into())
        }
    })
}

/// A time between two checks; more often than every second would be a load of its own.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if time >= Duration::from_secs(1) {
            Ok(time)
        } else {
            Err("use a time of at least \"1s\"".into())
        }
    })
}

/// A size such as `4096`, `64K`, `256M` or `2G`, in powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let hint = "use a size such as \"64K\", \"256M\" or \"2G\"";
    let number: u64 = digits.parse().map_err(|_| hint.to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size <= 1 << 50)
        .ok_or_else(|| hint.to_owned())
}
