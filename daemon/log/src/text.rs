//! The line that a person reads: `2026-11-24T02:05:22.123456Z  WARN pawd: provider answers slowly paw_provider=local wait_ms=1200`.

use std::fmt;

use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    field::{RecordFields, Visit},
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// How a line looks; several processes of ours may write to the same terminal, so each line names its program.
pub(crate) struct Line {
    /// Who speaks.
    pub(crate) program: &'static str,
    /// Whether to say when; whoever started us from systemd has its own clock beside each line.
    pub(crate) time: bool,
}

impl<S, F> FormatEvent<S, F> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, F>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.time {
            styled(&mut out, DIM, |out| SystemTime.format_time(out))?;
            out.write_char(' ')?;
        }
        let level = *event.metadata().level();
        styled(&mut out, colour(level), |out| write!(out, "{level:>5}"))?;
        write!(out, " {}: ", self.program)?;
        context.format_fields(out.by_ref(), event)?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<F>>()
                && !fields.is_empty()
            {
                write!(out, "{fields}")?;
            }
        }
        out.write_char('\n')
    }
}

/// Writes the message bare and every other field as ` name=value`, quoted if it has blanks.
pub(crate) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Written {
            out: &mut out,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Written<'a, 'w> {
    out: &'a mut Writer<'w>,
    result: fmt::Result,
}

impl Visit for Written<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_err() {
            return;
        }
        let value = format!("{value:?}");
        self.result = if field.name() == "message" {
            self.out.write_str(&value)
        } else {
            self.out
                .write_char(' ')
                .and_then(|()| styled(self.out, DIM, |out| write!(out, "{}=", field.name())))
                .and_then(|()| {
                    let quoted = value.is_empty() || value.contains([' ', '"', '=']);
                    if quoted {
                        write!(self.out, "{value:?}")
                    } else {
                        self.out.write_str(&value)
                    }
                })
        };
    }
}

const DIM: &str = "2";

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "1;31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG => "34",
        Level::TRACE => "35",
    }
}

fn styled(
    out: &mut Writer<'_>,
    style: &str,
    write: impl FnOnce(&mut Writer<'_>) -> fmt::Result,
) -> fmt::Result {
    if !out.has_ansi_escapes() {
        return write(out);
    }
    write!(out, "\x1b[{style}m")?;
    write(out)?;
    out.write_str("\x1b[0m")
}
