//! Where output goes and what it looks like: data on stdout, talk on stderr, colours and relative times only for people.

pub(crate) mod json;
pub(crate) mod plan;
pub(crate) mod table;
pub(crate) mod text;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anstyle::{AnsiColor, Style};
use serde::de::DeserializeOwned;

use crate::{
    cli::{Format, Global},
    connect::Answer,
    fail::Failure,
};

/// How things are to look; a value, so that tests can fix it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether colours are written.
    pub(crate) colour: bool,
    /// Whether a person reads it as it comes: times become relative, and tables fit the width.
    pub(crate) person: bool,
    /// Columns of the terminal, where one is there.
    pub(crate) width: Option<u16>,
    /// Now, in milliseconds since 1970.
    pub(crate) now: u64,
}

/// A meaning that has a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Less important.
    Dim,
    /// A heading.
    Bold,
    /// Nothing special.
    Plain,
}

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Dim => Style::new().dimmed(),
            Self::Bold => Style::new().bold(),
            Self::Plain => Style::new(),
        }
    }

    /// The dot that systemctl users know: running, idle, failed.
    pub(crate) const fn dot(self) -> &'static str {
        match self {
            Self::Good | Self::Warn => "●",
            Self::Bad => "×",
            Self::Dim | Self::Bold | Self::Plain => "○",
        }
    }
}

impl Look {
    /// Text in the colour of its meaning.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colour && tone != Tone::Plain {
            let style = tone.style();
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// The dot of a meaning, in its colour.
    pub(crate) fn dot(&self, tone: Tone) -> String {
        self.paint(tone, tone.dot())
    }
}

/// The output of this process.
pub(crate) struct Out {
    /// What stdout shall hold.
    pub(crate) format: Format,
    /// How it shall look.
    pub(crate) look: Look,
    stderr_colour: bool,
    paged: bool,
    text: String,
}

impl Out {
    /// As flags, environment and terminal of this process say.
    pub(crate) fn of_process(global: &Global) -> Self {
        let person = io::stdout().is_terminal();
        let choice =
            |auto: anstream::ColorChoice| !global.no_color && auto != anstream::ColorChoice::Never;
        let colour = choice(anstream::AutoStream::choice(&io::stdout()));
        let stderr_colour = choice(anstream::AutoStream::choice(&io::stderr()));
        let size = person.then(terminal_size).flatten();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let look = Look {
            colour,
            person,
            width: size.map(|(columns, _)| columns),
            now,
        };
        let paged = person && !global.no_pager && global.output == Format::Table;
        Self {
            format: global.output,
            look,
            stderr_colour,
            paged,
            text: String::new(),
        }
    }

    /// Shows a result: unchanged as JSON, one line for each item as JSON lines, or as `table` says.
    pub(crate) fn answer<T: DeserializeOwned>(
        &mut self,
        answer: &Answer,
        table: impl FnOnce(&T, &Look) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(answer.raw.get()),
            Format::Jsonl => {
                for line in json::lines(&answer.raw) {
                    self.json(line);
                }
            }
            Format::Table => {
                let text = table(&answer.read()?, &self.look);
                self.text.push_str(&text);
            }
        }
        Ok(())
    }

    /// One JSON document on a line of its own.
    pub(crate) fn json(&mut self, document: &str) {
        if self.look.person {
            self.text.push_str(&json::for_terminal(document));
        } else {
            self.text.push_str(document);
        }
        self.text.push('\n');
    }

    /// Text for people.
    pub(crate) fn print(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Writes what was collected, through a pager if a person reads it and it does not fit the screen.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        let text = std::mem::take(&mut self.text);
        if text.is_empty() {
            return Ok(());
        }
        let rows = terminal_size().map_or(usize::MAX, |(_, rows)| usize::from(rows));
        if self.paged && text.lines().count() >= rows && page(&text).is_ok() {
            return Ok(());
        }
        Self::write(text.as_bytes())
    }

    /// Writes what was collected, now and without a pager: for streams.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Self::write(std::mem::take(&mut self.text).as_bytes())
    }

    /// Writes bytes to stdout, now.
    pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::io("write the output", &error))
    }

    /// Writes bytes to stderr, now.
    pub(crate) fn write_err(bytes: &[u8]) -> Result<(), Failure> {
        io::stderr()
            .lock()
            .write_all(bytes)
            .map_err(|error| Failure::io("write to stderr", &error))
    }

    /// Says one line on stderr.
    pub(crate) fn say(&self, line: &str) {
        // Talk that nobody can hear is not worth failing for.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Says on stderr what failed, why, and what to do.
    pub(crate) fn fail(&self, failure: &Failure) {
        let look = Look {
            colour: self.stderr_colour,
            ..self.look
        };
        let [what, why, remedy] = failure.lines().map(|line| text::line(&line).into_owned());
        self.say(&format!(
            "{} {what}",
            look.paint(Tone::Bad, "pawctl: failed:")
        ));
        for (label, line) in [("why:", why), ("do: ", remedy)] {
            if !line.is_empty() {
                self.say(&format!("  {} {line}", look.paint(Tone::Dim, label)));
            }
        }
    }
}

/// Columns and rows of the terminal, from `COLUMNS`/`LINES` or from the kernel.
fn terminal_size() -> Option<(u16, u16)> {
    let said = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u16>().ok())
            .filter(|n| *n > 0)
    };
    if let (Some(columns), Some(rows)) = (said("COLUMNS"), said("LINES")) {
        return Some((columns, rows));
    }
    let size = rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
    Some((
        said("COLUMNS").unwrap_or(size.ws_col),
        said("LINES").unwrap_or(size.ws_row),
    ))
}

/// Shows text in the pager of the person: `PAWCTL_PAGER`, `PAGER`, or `less`, which may start no other program.
fn page(text: &str) -> io::Result<()> {
    let chosen = ["PAWCTL_PAGER", "PAGER"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "less".into());
    let mut words = chosen.split_whitespace();
    let Some(program) = words.next() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut pager = Command::new(program)
        .args(words)
        .env("LESS", "FRSXMK")
        .env("LESSSECURE", "1")
        .env("LESSCHARSET", "utf-8")
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = pager.stdin.take() {
        // A person may leave the pager before the end.
        let _ = stdin.write_all(text.as_bytes());
    }
    pager.wait().map(|_| ())
}
