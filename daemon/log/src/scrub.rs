//! A layer around a layer: what it passes on has been through [`redact`](crate::redact).
//!
//! Events and spans are rebuilt with the same metadata and clean values, so whatever stands behind (the journal, the text) need
//! not know, and cannot forget.

use std::{error::Error, fmt};

use tracing::{
    Event, Metadata, Subscriber,
    field::{DisplayValue, Field, Value, Visit, display},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::{
    Chain,
    redact::{FIELD_MAX, MESSAGE_MAX, printed},
};

/// Passes clean events on to a layer.
pub(crate) struct Scrub<L> {
    /// Who gets them.
    pub(crate) inner: L,
    /// A field that this reader has no use for.
    pub(crate) without: Option<&'static str>,
}

impl<L> Scrub<L> {
    fn clean(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Clean)) -> Clean {
        let mut clean = Clean {
            values: Vec::new(),
            without: self.without,
        };
        clean.values.resize_with(metadata.fields().len(), || None);
        record(&mut clean);
        clean
    }
}

impl<S, L> Layer<S> for Scrub<L>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    L: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let clean = self.clean(metadata, |visitor| attributes.record(visitor));
        let values = clean.references();
        let values = metadata.fields().value_set_all(&values);
        let attributes = match attributes.parent() {
            Some(parent) => Attributes::child_of(parent.clone(), metadata, &values),
            None if attributes.is_root() => Attributes::new_root(metadata, &values),
            None => Attributes::new(metadata, &values),
        };
        self.inner.on_new_span(&attributes, id, context);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(metadata) = context.metadata(id) else {
            return;
        };
        let clean = self.clean(metadata, |visitor| record.record(visitor));
        let values = clean.references();
        self.inner.on_record(
            id,
            &Record::new(&metadata.fields().value_set_all(&values)),
            context,
        );
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let clean = self.clean(metadata, |visitor| event.record(visitor));
        let values = clean.references();
        let values = metadata.fields().value_set_all(&values);
        let event = match event.parent() {
            Some(parent) => Event::new_child_of(parent.clone(), metadata, &values),
            None if event.is_root() => Event::new_child_of(None, metadata, &values),
            None => Event::new(metadata, &values),
        };
        self.inner.on_event(&event, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.inner.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.inner.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.inner.on_close(id, context);
    }
}

/// The values of one event or span by the index of their field.
struct Clean {
    values: Vec<Option<Box<dyn Value>>>,
    without: Option<&'static str>,
}

impl Clean {
    fn references(&self) -> Vec<Option<&dyn Value>> {
        self.values.iter().map(Option::as_deref).collect()
    }

    fn put(&mut self, field: &Field, value: impl Value + 'static) {
        if self.without != Some(field.name())
            && let Some(slot) = self.values.get_mut(field.index())
        {
            *slot = Some(Box::new(value));
        }
    }

    fn text(field: &Field, value: fmt::Arguments<'_>) -> DisplayValue<String> {
        display(printed(
            value,
            if field.name() == "message" {
                MESSAGE_MAX
            } else {
                FIELD_MAX
            },
        ))
    }
}

impl Visit for Clean {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Self::text(field, format_args!("{value}")));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, Self::text(field, format_args!("{}", Chain(value))));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Self::text(field, format_args!("{value:?}")));
    }
}
