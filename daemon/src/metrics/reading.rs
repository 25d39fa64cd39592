//! What is not counted but read, when somebody asks.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// One metric with its values.
#[derive(Debug)]
pub struct Reading {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    counts: bool,
    values: Vec<Value>,
}

#[derive(Debug)]
struct Value {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Reading {
    /// A state that may go up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            unit: None,
            counts: false,
            values: Vec::new(),
        }
    }

    /// A number that only grows while what it is of lives.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        let mut reading = Self::gauge(name, help);
        reading.counts = true;
        reading
    }

    /// In this unit, which its name ends with.
    #[must_use]
    pub fn in_unit(self, unit: Unit) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    /// With a value of what these labels name. No two values have the same ones.
    #[must_use]
    pub fn with<const N: usize>(mut self, labels: [(&'static str, &str); N], value: f64) -> Self {
        self.push(labels, value);
        self
    }

    /// As [`Reading::with`], in place.
    pub fn push<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: f64) {
        let labels = labels.map(|(key, value)| (key, value.to_owned())).into();
        self.values.push(Value { labels, value });
    }
}

/// Readings, on their way into the text.
#[derive(Debug)]
pub(super) struct Readings(pub(super) Vec<Reading>);

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for reading in &self.0 {
            let kind = if reading.counts {
                MetricType::Counter
            } else {
                MetricType::Gauge
            };
            let unit = reading.unit.as_ref();
            let mut metric = encoder.encode_descriptor(reading.name, reading.help, unit, kind)?;
            for Value { labels, value } in &reading.values {
                let labels = labels.as_slice();
                let one = metric.encode_family(&labels)?;
                if reading.counts {
                    ConstCounter::new(*value).encode(one)?;
                } else {
                    ConstGauge::new(*value).encode(one)?;
                }
            }
        }
        Ok(())
    }
}
