//! Values out of the files: which file decides, and what is a fault in one value.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive};

use paw_policy::Name;
use toml::Spanned;

use super::{fault::Faults, file::File, source::Source};

/// The files in their order; the last one that has a key decides.
pub(super) struct Layers(pub(super) Vec<(Source, File)>);

impl Layers {
    /// The value of the last file that has it.
    pub(super) fn last<'a, T: 'a>(
        &'a self,
        pick: impl Fn(&'a File) -> Option<&'a Spanned<T>>,
    ) -> Option<(&'a Source, &'a Spanned<T>)> {
        self.0
            .iter()
            .rev()
            .find_map(|(source, file)| pick(file).map(|value| (source, value)))
    }

    /// A number within bounds.
    pub(super) fn number<'a, T: Copy + PartialOrd + Display + 'a>(
        &'a self,
        pick: impl Fn(&'a File) -> Option<&'a Spanned<T>>,
        default: T,
        bounds: RangeInclusive<T>,
        faults: &mut Faults,
    ) -> T {
        match self.last(pick) {
            Some((source, value)) => bounded(source, value, &bounds, faults),
            None => default,
        }
    }

    /// A text that a reader understands.
    pub(super) fn text<'a, T>(
        &'a self,
        pick: impl Fn(&'a File) -> Option<&'a Spanned<String>>,
        default: T,
        read: impl Fn(&str) -> Result<T, String>,
        faults: &mut Faults,
    ) -> T {
        let Some((source, value)) = self.last(pick) else {
            return default;
        };
        read_value(source, value, &read, faults).unwrap_or(default)
    }
}

/// What a reader makes of a text, and a fault when it understands nothing.
pub(super) fn read_value<T>(
    source: &Source,
    value: &Spanned<String>,
    read: &impl Fn(&str) -> Result<T, String>,
    faults: &mut Faults,
) -> Option<T> {
    match read(value.get_ref()) {
        Ok(value) => Some(value),
        Err(hint) => {
            faults.at(
                source,
                value.span(),
                format!("{:?} cannot be meant here", value.get_ref()),
                hint,
            );
            None
        }
    }
}

/// A number, and a fault when it is out of bounds.
pub(super) fn bounded<T: Copy + PartialOrd + Display>(
    source: &Source,
    value: &Spanned<T>,
    bounds: &RangeInclusive<T>,
    faults: &mut Faults,
) -> T {
    if !bounds.contains(value.get_ref()) {
        let range = format!("use {} to {}", bounds.start(), bounds.end());
        faults.at(
            source,
            value.span(),
            format!("{} is out of bounds", value.get_ref()),
            range,
        );
    }
    *value.get_ref()
}

/// How often a model may call tools in one turn of a conversation, if nothing else is said.
pub(super) const MAX_TURNS: u32 = 16;

/// How often it may.
pub(super) fn turns(source: &Source, said: Option<&Spanned<u32>>, faults: &mut Faults) -> u32 {
    said.map_or(MAX_TURNS, |value| {
        bounded(source, value, &(1..=100), faults)
    })
}

/// The name of something that is configured, and a fault when it is not.
pub(super) fn reference<T>(
    source: &Source,
    value: &Spanned<String>,
    known: &BTreeMap<Name, T>,
    what: &str,
    faults: &mut Faults,
) -> Option<Name> {
    let found = known.keys().find(|name| name.as_str() == value.get_ref());
    if found.is_none() {
        let names: Vec<_> = known.keys().map(Name::as_str).collect();
        let hint = match names.as_slice() {
            [] => format!("add a [{what}.{}] section", value.get_ref()),
            names => format!("configured are: {}", names.join(", ")),
        };
        faults.at(
            source,
            value.span(),
            format!("there is no {what} {:?}", value.get_ref()),
            hint,
        );
    }
    found.cloned()
}
