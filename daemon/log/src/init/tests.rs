use std::{
    error::Error,
    io::Write,
    sync::{Arc, Mutex},
};

use tracing::{field::Field, subscriber::with_default};
use tracing_subscriber::{field::Visit, layer::Context};

use super::*;
use crate::events;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `log` logs, as the lines of a process named `pawd`.
fn lines(colours: bool, log: impl FnOnce()) -> String {
    let written = Written::default();
    let to = written.clone();
    with_default(
        Registry::default().with(text("pawd", move || to.clone(), colours, false)),
        log,
    );
    written.text()
}

/// What a layer behind the scrubbing is given, as `name=value`.
fn fields(log: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);
    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }
    impl Visit for Seen {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0
                .lock()
                .unwrap()
                .push(format!("{}={value:?}", field.name()));
        }
    }
    let seen = Seen::default();
    with_default(
        Registry::default().with(Scrub {
            inner: seen.clone(),
            without: None,
        }),
        log,
    );
    seen.0.lock().unwrap().clone()
}

#[test]
fn line_names_program_level_message_and_fields() {
    let line = lines(false, || {
        tracing::info!(
            message_id = events::DAEMON_READY,
            paw_agent = "dev",
            n = 3,
            why = "two words",
            "ready"
        )
    });
    assert_eq!(
        line,
        " INFO pawd: ready paw_agent=dev n=3 why=\"two words\"\n"
    );
}

#[test]
fn fields_of_the_span_follow_the_event() {
    let line = lines(false, || {
        let span = tracing::info_span!("action", paw_action = "a1");
        span.in_scope(|| tracing::warn!("slow"));
    });
    assert_eq!(line, " WARN pawd: slow paw_action=a1\n");
}

#[test]
fn colours_only_where_they_are_asked_for() {
    assert!(lines(true, || tracing::error!("x")).starts_with("\x1b[1;31mERROR\x1b[0m pawd: x"));
    assert!(!lines(false, || tracing::error!("x")).contains('\x1b'));
}

#[test]
fn key_in_message_field_span_or_cause_does_not_leave_the_process() {
    #[derive(Debug)]
    struct Refused;
    impl std::fmt::Display for Refused {
        fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("refused sk-cause-12345678")
        }
    }
    impl Error for Refused {}
    let line = lines(false, || {
        let span = tracing::info_span!("call", key = "sk-span-12345678");
        let _inside = span.enter();
        let (text, inner, error): (&str, _, &(dyn Error + 'static)) =
            ("sk-field-12345678", Some("sk-debug-12345678"), &Refused);
        tracing::error!(text, ?inner, error, "said {}", "sk-message-12345678");
    });
    assert!(!line.contains("12345678"), "{line}");
    assert_eq!(line.matches("[redacted]").count(), 5, "{line}");
}

#[test]
fn one_event_is_one_line_whatever_it_quotes() {
    let line = lines(false, || {
        tracing::info!(quoted = "a\nFAKE entry\x1b[2J", "said {}", "x\ny")
    });
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    assert!(!line.contains('\x1b'), "{line}");
}

#[test]
fn message_and_field_are_bounded() {
    let long = "x ".repeat(100_000);
    let seen = fields(|| tracing::info!(field = %long, "{long}"));
    let lengths: Vec<usize> = seen.iter().map(String::len).collect();
    assert!(
        lengths[0] <= crate::MESSAGE_MAX + 64 && lengths[1] <= crate::FIELD_MAX + 64,
        "{lengths:?}"
    );
    assert!(seen.iter().all(|value| value.ends_with("bytes cut]")));
}

#[test]
fn journal_is_given_our_field_names_and_the_message_id() {
    let seen = fields(|| {
        tracing::info!(
            message_id = events::SANDBOX_STARTED,
            paw_sandbox = "s1",
            uid = 7u32,
            "sandbox started"
        )
    });
    assert_eq!(
        seen,
        [
            "message=sandbox started",
            &format!("message_id={}", events::SANDBOX_STARTED),
            "paw_sandbox=s1",
            "uid=7"
        ]
    );
}

#[test]
fn level_that_is_not_one_is_refused() {
    for level in ["loud", "", "pawd=shout", "pawd"] {
        assert!(
            matches!(filter(Some(level)), Err(InitError::Level { .. })),
            "{level:?}"
        );
    }
    for level in ["error", "info", "trace", "warn,pawd=debug", "off"] {
        assert!(filter(Some(level)).is_ok(), "{level:?}");
    }
}

#[test]
fn bare_level_speaks_for_our_crates_only() {
    let written = Written::default();
    let to = written.clone();
    let subscriber = Registry::default()
        .with(filter(Some("debug")).unwrap())
        .with(text("pawd", move || to.clone(), false, false));
    with_default(subscriber, || {
        tracing::debug!(target: "paw_llm::stream", "ours");
        tracing::info!(target: "hyper::proto", "theirs");
        tracing::warn!(target: "hyper::proto", "their warning");
    });
    assert_eq!(
        written.text(),
        "DEBUG pawd: ours\n WARN pawd: their warning\n"
    );
}
