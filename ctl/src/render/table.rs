//! Aligned columns without lines, as kubectl and podman print them, and `Key: value` blocks as systemctl does.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::{Look, Tone, text};

/// One cell: text that is already for people, and what it means.
pub(crate) struct Field {
    text: String,
    tone: Tone,
    right: bool,
}

/// Text from pawd.
pub(crate) fn text(value: &str) -> Field {
    Field {
        text: text::line(value).into_owned(),
        tone: Tone::Plain,
        right: false,
    }
}

/// Text from pawd with a meaning.
pub(crate) fn toned(tone: Tone, value: &str) -> Field {
    Field {
        tone,
        ..text(value)
    }
}

/// A number, at the right edge of its column.
pub(crate) fn number(value: impl ToString) -> Field {
    Field {
        text: value.to_string(),
        tone: Tone::Plain,
        right: true,
    }
}

/// A table; says `nothing` when there are no rows.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<Field>>, look: &Look, nothing: &str) -> String {
    if rows.is_empty() {
        return format!("{nothing}\n");
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(head.iter().map(|name| cell(look, Tone::Bold, name, false)));
    // Cells are cut into lines only where a person has a terminal of some width; programs get every row in one line.
    match look.width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    if look.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for row in rows {
        table.add_row(
            row.into_iter()
                .map(|field| cell(look, field.tone, &field.text, field.right)),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

fn cell(look: &Look, tone: Tone, content: &str, right: bool) -> Cell {
    let mut cell = Cell::new(content);
    if right {
        cell = cell.set_alignment(CellAlignment::Right);
    }
    if !look.colour {
        return cell;
    }
    match tone {
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Warn => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
        Tone::Bold => cell.add_attribute(Attribute::Bold),
        Tone::Plain => cell,
    }
}

/// A block of `Key: value` lines, keys aligned at their colons; values of several lines are indented below the first.
pub(crate) fn block(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (key, value) in rows {
        let mut lines = value.lines();
        out.push_str(&format!("{key:>width$}: {}\n", lines.next().unwrap_or("")));
        for line in lines {
            out.push_str(&format!("{:width$}  {line}\n", ""));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look {
        colour: false,
        person: false,
        width: None,
        now: 0,
    };

    fn rows() -> Vec<Vec<Field>> {
        vec![
            vec![
                toned(Tone::Good, "● one"),
                number(7),
                text("a text that is rather long for its column"),
            ],
            vec![
                toned(Tone::Bad, "× three\u{1b}[2J\nfour"),
                number(1234),
                text("日本"),
            ],
        ]
    }

    #[test]
    fn a_piped_table_is_never_cut_or_wrapped_and_has_no_colour() {
        insta::assert_snapshot!(table(&["NAME", "N", "TEXT"], rows(), &LOOK, "nothing"), @r"
        NAME             N     TEXT
        ● one               7  a text that is rather long for its column
        × three[2J four  1234  日本
        ");
    }

    #[test]
    fn a_table_for_a_person_fits_the_terminal() {
        let look = Look {
            person: true,
            width: Some(40),
            ..LOOK
        };
        let shown = table(&["NAME", "N", "TEXT"], rows(), &look, "nothing");
        assert!(
            shown
                .lines()
                .all(|line| unicode_width::UnicodeWidthStr::width(line) <= 40),
            "{shown}"
        );
    }

    #[test]
    fn colours_are_written_only_where_they_are_wanted() {
        let shown = table(
            &["NAME", "N", "TEXT"],
            rows(),
            &Look {
                colour: true,
                ..LOOK
            },
            "nothing",
        );
        assert!(shown.contains("\u{1b}["));
        assert!(!shown.contains("\u{1b}[2J"));
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(
            table(&["NAME"], Vec::new(), &LOOK, "no sandboxes"),
            "no sandboxes\n"
        );
    }
}
