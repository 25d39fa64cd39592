//! What a measurement counts, and how it is shown: the same fields for every kind.

use std::{fs, path::Path, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    cli::Format,
    fail::Failure,
    render::{Out, table, text},
};

/// The contract's fields.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) rps: f64,
    pub(super) p50_us: f64,
    pub(super) p95_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
    /// CPU time of pawd for each request; none when pawd's process cannot be seen from here.
    pub(super) cpu_us_per_request: Option<f64>,
    /// Most resident memory of pawd at any time, in bytes; none as above.
    pub(super) rss_peak: Option<u64>,
    pub(super) concurrency: u16,
    pub(super) seconds: f64,
    /// What the times are of, where a kind has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measures: Option<&'static str>,
    /// Requests that found no sandbox waiting; their times are not in the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cold: Option<u64>,
    /// The same without pawd, one at a time, and what pawd adds to it.
    #[serde(flatten)]
    pub(super) against: Option<Against>,
    /// What pawd holds in memory before and after.
    #[serde(flatten)]
    pub(super) held: Option<Held>,
}

/// Resident memory of pawd, in bytes.
#[derive(Debug, Serialize)]
pub(super) struct Held {
    pub(super) rss_before: u64,
    pub(super) rss_after: u64,
}

/// What is measured without pawd, and the difference.
#[derive(Debug, Serialize)]
pub(super) struct Against {
    pub(super) direct_p50_us: f64,
    pub(super) direct_p99_us: f64,
    pub(super) added_p50_us: f64,
    pub(super) added_p99_us: f64,
}

impl Against {
    /// What `through` pawd takes longer than it does `alone`.
    pub(super) fn new(through: &Measured, alone: &Tally) -> Self {
        let at = |quantile: f64| us(alone.times.value_at_quantile(quantile));
        let (direct_p50_us, direct_p99_us) = (at(0.50), at(0.99));
        Self {
            direct_p50_us,
            direct_p99_us,
            added_p50_us: tenths(through.p50_us - direct_p50_us),
            added_p99_us: tenths(through.p99_us - direct_p99_us),
        }
    }
}

/// What all connections count together.
pub(super) struct Tally {
    /// Round trips in nanoseconds.
    pub(super) times: Histogram<u64>,
    pub(super) errors: u64,
    /// Requests that may still be sent.
    pub(super) left: u64,
}

impl Tally {
    /// Whether one more is to be sent; it is counted.
    pub(super) fn one_more(&mut self, end: Option<Instant>) -> bool {
        let more = self.left > 0 && end.is_none_or(|end| Instant::now() < end);
        self.left -= u64::from(more);
        more
    }

    /// Nothing counted yet, and so many still to do.
    pub(super) fn new(left: u64) -> Result<Self, Failure> {
        // Three digits of a nanosecond count up to a minute: more would say nothing.
        let times = Histogram::new_with_max(60_000_000_000, 3).map_err(|error| Failure::Local {
            doing: "make a histogram".to_owned(),
            why: error.to_string(),
            remedy: "report this as a fault of pawctl".to_owned(),
        })?;
        Ok(Self {
            times,
            errors: 0,
            left,
        })
    }
}

/// The numbers of it all.
pub(super) fn measured(
    tally: &Tally,
    elapsed: Duration,
    concurrency: u16,
    cpu: Option<Duration>,
    rss_peak: Option<u64>,
) -> Measured {
    let requests = tally.times.len();
    let at = |quantile: f64| us(tally.times.value_at_quantile(quantile));
    Measured {
        requests,
        errors: tally.errors,
        rps: tenths(requests as f64 / elapsed.as_secs_f64().max(1e-9)),
        p50_us: at(0.50),
        p95_us: at(0.95),
        p99_us: at(0.99),
        max_us: us(tally.times.max()),
        cpu_us_per_request: cpu.map(|cpu| tenths(cpu.as_secs_f64() * 1e6 / requests.max(1) as f64)),
        rss_peak,
        concurrency,
        seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        measures: None,
        cold: None,
        against: None,
        held: None,
    }
}

/// Nanoseconds as microseconds.
fn us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Prints them.
pub(super) fn show(out: &mut Out, measured: &Measured, cpu: &'static str) -> Result<(), Failure> {
    match out.format {
        Format::Json | Format::Jsonl => {
            let document =
                serde_json::to_string(measured).map_err(|source| Failure::Unreadable {
                    doing: "write the numbers".to_owned(),
                    source,
                })?;
            out.json(&document);
        }
        Format::Table => {
            let unseen = || "not visible from here".to_owned();
            let mut rows = vec![
                (
                    "Requests",
                    format!(
                        "{} in {} s on {} connections",
                        text::count(measured.requests),
                        measured.seconds,
                        measured.concurrency
                    ),
                ),
                ("Errors", measured.errors.to_string()),
                ("Rate", format!("{} /s", text::count(measured.rps as u64))),
                ("p50", format!("{} us", measured.p50_us)),
                ("p95", format!("{} us", measured.p95_us)),
                ("p99", format!("{} us", measured.p99_us)),
                ("max", format!("{} us", measured.max_us)),
                (
                    cpu,
                    measured
                        .cpu_us_per_request
                        .map_or_else(unseen, |us| format!("{us} us each")),
                ),
                (
                    "Peak memory",
                    measured.rss_peak.map_or_else(unseen, text::size),
                ),
            ];
            if let Some(measures) = measured.measures {
                rows.insert(0, ("Measures", measures.replace('_', " ")));
            }
            if let Some(against) = &measured.against {
                let both = |p50: f64, p99: f64| format!("{p50} us p50, {p99} us p99");
                rows.extend([
                    (
                        "Without pawd",
                        both(against.direct_p50_us, against.direct_p99_us),
                    ),
                    (
                        "Added by pawd",
                        both(against.added_p50_us, against.added_p99_us),
                    ),
                ]);
            }
            if let Some(held) = &measured.held {
                let (before, after) = (text::size(held.rss_before), text::size(held.rss_after));
                rows.push(("Memory", format!("{before} before, {after} after")));
            }
            if let Some(cold) = measured.cold {
                rows.push(("None waited", text::count(cold)));
            }
            out.print(&table::block(&rows));
        }
    }
    Ok(())
}

/// User and system time of a process, all its threads; in steps of 10 ms, as the kernel counts.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name of the program stands in parentheses and may hold anything: fields are counted after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // USER_HZ is 100 on every Linux of ours; it is part of the ABI of /proc.
    Some(Duration::from_millis(ticks * 10))
}

/// Most resident memory of a process at any time, in bytes.
pub(super) fn rss_peak(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

/// Resident memory of a process now, in bytes.
pub(super) fn rss(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> Option<u64> {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_there_is_not_zero() {
        assert!(cpu_time(std::process::id()).is_some());
        let now = rss(std::process::id());
        assert!(now.is_some_and(|bytes| bytes > 0) && rss_peak(std::process::id()) >= now);
        assert_eq!(cpu_time(u32::MAX), None);
        assert_eq!(rss_peak(u32::MAX), None);
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut times = Histogram::new_with_max(60_000_000_000, 3).unwrap();
        times.record_n(50_000, 99).unwrap();
        times.record(1_000_000).unwrap();
        let tally = Tally {
            times,
            errors: 0,
            left: 0,
        };
        let seen = measured(
            &tally,
            Duration::from_secs(2),
            1,
            Some(Duration::from_millis(10)),
            None,
        );
        assert_eq!(
            (seen.requests, seen.rps, seen.cpu_us_per_request),
            (100, 50.0, Some(100.0))
        );
        assert!(
            (seen.p50_us - 50.0).abs() < 0.1 && (seen.max_us - 1000.0).abs() < 1.0,
            "{seen:?}"
        );
    }
}
