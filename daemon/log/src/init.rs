//! Choosing where the log goes, once, at the start of a process.

use std::{
    env,
    fs::File,
    io::{self, IsTerminal},
    os::{fd::AsFd, linux::fs::MetadataExt},
};

use tracing::Subscriber;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::{
    scrub::Scrub,
    text::{Fields, Line},
};

/// Overrides the configured level, for one start by hand.
const LEVEL_VARIABLE: &str = "PAWD_LOG";

/// What is said when nobody says how much.
const LEVEL: &str = "info";

/// Why a process cannot log.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The level is neither a word nor a list of directives.
    #[error(
        "log level {level:?} cannot be understood; use error, warn, info, debug, trace, or directives such as \"warn,pawd=debug\""
    )]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// [`init`] was called before.
    #[error("logging was already set up in this process")]
    Again,
}

/// The running log; its level can be changed. May be dropped: logging goes on.
#[derive(Debug, Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    program: &'static str,
}

impl Logging {
    /// Changes how much is said: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `warn,pawd=debug`. `None` goes
    /// back to what [`init`] would choose without a level.
    ///
    /// # Errors
    /// [`InitError::Level`]; then the old level stays.
    pub fn set_level(&self, level: Option<&str>) -> Result<(), InitError> {
        let filter = filter(level)?;
        // The subscriber lives as long as the process, so there is always something to reload.
        self.filter.reload(filter).map_err(|_| InitError::Again)?;
        tracing::debug!(
            program = self.program,
            level = level.unwrap_or(LEVEL),
            "log level changed"
        );
        Ok(())
    }
}

/// Sets up logging for this process, which calls itself `program` in every line.
///
/// Goes to the journal when stderr is the journal (`JOURNAL_STREAM`), else to stderr as text: coloured on a terminal unless
/// `NO_COLOR` is set, and without times when systemd started us. The level is `PAWD_LOG`, else `level`, else `info`; a bare word
/// speaks for our own code, other crates say warnings only.
///
/// # Errors
/// [`InitError`]. A journal that does not answer is not one: then the text goes to stderr.
pub fn init(program: &'static str, level: Option<&str>) -> Result<Logging, InitError> {
    let from_environment = env::var(LEVEL_VARIABLE)
        .ok()
        .filter(|level| !level.is_empty());
    let (filter, handle) = reload::Layer::new(filter(from_environment.as_deref().or(level))?);
    let journal = stderr_is_the_journal()
        .then(|| journal(program).ok())
        .flatten();
    let place: Box<dyn Layer<_> + Send + Sync> = match journal {
        Some(journal) => Box::new(journal),
        None => Box::new(text(
            program,
            io::stderr,
            colours(),
            env::var_os("INVOCATION_ID").is_none(),
        )),
    };
    Registry::default()
        .with(filter)
        .with(place)
        .try_init()
        .map_err(|_| InitError::Again)?;
    Ok(Logging {
        filter: handle,
        program,
    })
}

fn filter(level: Option<&str>) -> Result<EnvFilter, InitError> {
    let level = level.unwrap_or(LEVEL);
    let directives = match level {
        // Targets are compared by their beginning, so this names pawd, pawctl and every paw_ crate.
        "error" => "error".to_owned(),
        "warn" | "info" | "debug" | "trace" => format!("warn,paw={level}"),
        directives => directives.to_owned(),
    };
    // An empty list or a bare word that is no level would be taken as the name of a target, and silence everything.
    let silent = !directives.split(',').any(|directive| {
        let word = directive.rsplit('=').next().unwrap_or_default().trim();
        ["error", "warn", "info", "debug", "trace", "off"]
            .contains(&word.to_ascii_lowercase().as_str())
    });
    let directives = if silent { "=nothing" } else { &directives };
    EnvFilter::builder()
        .parse(directives)
        .map_err(|source| InitError::Level {
            level: level.to_owned(),
            source,
        })
}

/// The layer that writes to the journal; fields keep their names, and `info` is what syslog calls informational.
fn journal<S>(program: &'static str) -> io::Result<Scrub<impl Layer<S>>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let inner = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_syslog_identifier(program.to_owned())
        .with_priority_mappings(PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        });
    Ok(Scrub {
        inner,
        without: None,
    })
}

/// The layer that writes lines; the id of an event's catalogue entry is of no use in them.
pub(crate) fn text<S, W>(
    program: &'static str,
    to: W,
    colours: bool,
    time: bool,
) -> Scrub<impl Layer<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    let inner = fmt::layer()
        .with_writer(to)
        .with_ansi(colours)
        .fmt_fields(Fields)
        .event_format(Line { program, time });
    Scrub {
        inner,
        without: Some("message_id"),
    }
}

fn colours() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// systemd.exec(5): `JOURNAL_STREAM` names the device and inode of the stream that it connected to stderr. A child whose stderr was
/// redirected inherits the variable, but not the stream.
fn stderr_is_the_journal() -> bool {
    let Some(stream) = env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    let Ok(metadata) = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .and_then(|stderr| stderr.metadata())
    else {
        return false;
    };
    stream == format!("{}:{}", metadata.st_dev(), metadata.st_ino())
}

#[cfg(test)]
mod tests;
