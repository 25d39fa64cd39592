//! `packaging/CHANGELOG.md`, and what Debian and RPM make of it: there is one changelog, and it is written for people.
//!
//! ```text
//! ## 0.2.0 - 2027-01-31
//!
//! - What changed, for whom,
//!   on as many lines as it takes.
//! ```

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// Who packages, in the form that both packagers ask for.
const MAINTAINER: &str = "paw maintainers <maintainers@example.org>";

/// How wide an item is in `debian/changelog`, of which programs that show it expect 80 characters with what stands before them.
const DEBIAN_WIDTH: usize = 76;

/// One released version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number.
    pub(crate) version: String,
    /// Its day, `YYYY-MM-DD`.
    pub(crate) date: String,
    /// What changed; lines of one item are kept apart, as a person broke them.
    pub(crate) items: Vec<Vec<String>>,
}

/// Reads the changelog, newest first, and checks that it begins with the version that is being packaged.
pub(crate) fn read(root: &Path) -> Result<Vec<Entry>> {
    let path = root.join("packaging/CHANGELOG.md");
    let entries =
        parse(&fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
    let newest = entries
        .first()
        .with_context(|| format!("{} has no entry", path.display()))?;
    let building = env!("CARGO_PKG_VERSION");
    ensure!(
        newest.version == building,
        "{} begins with {}, and {building} is being packaged; write its entry",
        path.display(),
        newest.version
    );
    Ok(entries)
}

fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        if let Some((version, date)) = line
            .strip_prefix("## ")
            .and_then(|heading| heading.split_once(" - "))
        {
            entries.push(Entry {
                version: version.trim().to_owned(),
                date: date.trim().to_owned(),
                items: Vec::new(),
            });
        } else if let Some(entry) = entries.last_mut() {
            if let Some(item) = line.strip_prefix("- ") {
                entry.items.push(vec![item.to_owned()]);
            } else if let (Some(item), Some(more)) =
                (entry.items.last_mut(), line.strip_prefix("  "))
            {
                item.push(more.trim().to_owned());
            }
        }
    }
    entries
}

/// The day of the newest entry in seconds since 1970: what packages are dated with, so that they come out the same twice.
pub(crate) fn epoch(entries: &[Entry]) -> Result<String> {
    let day = &entries.first().context("the changelog has no entry")?.date;
    date(day, "%s")
}

/// As `debian/changelog`.
pub(crate) fn debian(entries: &[Entry]) -> Result<String> {
    let mut text = String::new();
    for entry in entries {
        let body: String = entry
            .items
            .iter()
            .map(|lines| {
                let lines = wrapped(&lines.join(" "), DEBIAN_WIDTH);
                format!("  * {}\n", lines.join("\n    "))
            })
            .collect();
        let day = date(&entry.date, "%a, %d %b %Y %H:%M:%S +0000")?;
        text += &format!(
            "pawd ({}-1) unstable; urgency=medium\n\n{body}\n -- {MAINTAINER}  {day}\n\n",
            entry.version
        );
    }
    Ok(text)
}

/// As the `%changelog` of a spec file.
pub(crate) fn rpm(entries: &[Entry]) -> Result<String> {
    let mut text = String::from("%changelog\n");
    for entry in entries {
        let body: String = entry
            .items
            .iter()
            .map(|lines| format!("- {}\n", lines.join("\n  ").replace('%', "%%")))
            .collect();
        text += &format!(
            "* {} {MAINTAINER} - {}-1\n{body}\n",
            date(&entry.date, "%a %b %d %Y")?,
            entry.version
        );
    }
    Ok(text)
}

/// A text in lines of at most so many characters, but for a word that is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn date(day: &str, format: &str) -> Result<String> {
    let mut date = Command::new("date");
    date.env("LC_ALL", "C").args([
        "-u",
        "-d",
        &format!("{day}T00:00:00Z"),
        &format!("+{format}"),
    ]);
    Ok(cargo::output(&mut date)?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{debian, parse, rpm, wrapped};

    const TEXT: &str = "# Changes\n\n## 0.2.0 - 2027-01-31\n\n- One\n  more.\n- Two is 100% new.\n\n## 0.1.0 - 2026-11-24\n\n- First.\n";

    #[test]
    fn items_are_wrapped_anew_in_debian_form() {
        let text = debian(&parse(TEXT)).unwrap();
        assert_eq!(
            text.split("\n\n").take(3).collect::<Vec<_>>(),
            [
                "pawd (0.2.0-1) unstable; urgency=medium",
                "  * One more.\n  * Two is 100% new.",
                " -- paw maintainers <maintainers@example.org>  Sun, 31 Jan 2027 00:00:00 +0000"
            ]
        );
    }

    #[test]
    fn lines_are_as_wide_as_they_may_be_and_a_long_word_has_one_of_its_own() {
        let lines = wrapped("one two ÄÖÜ a-word-that-is-long 5", 11);
        assert_eq!(lines, ["one two ÄÖÜ", "a-word-that-is-long", "5"]);
    }

    #[test]
    fn a_percent_sign_is_no_macro_in_rpm_form() {
        let text = rpm(&parse(TEXT)).unwrap();
        assert!(text.contains("\n- Two is 100%% new.\n"), "{text}");
    }
}
