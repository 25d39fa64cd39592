//! `bench rpc`: round trips of `system.ping`, one at a time on each connection.

use std::{cell::RefCell, fs, io, path::Path, rc::Rc, time::Duration};

use hdrhistogram::Histogram;
use paw_api::system::Status;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    task::LocalSet,
    time::Instant,
};

use crate::{
    cli::{Format, Global},
    connect::{Connection, Params, socket_path},
    fail::{Failure, exit},
    render::{Out, table, text},
};

/// What is sent; the answer is small and asks for nothing.
const PING: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\"}\n";

/// How long it goes on when neither a number nor a time is given.
const USUAL: Duration = Duration::from_secs(5);

/// The contract's fields.
#[derive(Debug, Serialize)]
struct Measured {
    requests: u64,
    errors: u64,
    rps: f64,
    p50_us: f64,
    p95_us: f64,
    p99_us: f64,
    max_us: f64,
    /// CPU time of pawd for each request; none when pawd's process cannot be seen from here.
    cpu_us_per_request: Option<f64>,
    /// Most resident memory of pawd at any time, in bytes; none as above.
    rss_peak: Option<u64>,
    concurrency: u16,
    seconds: f64,
}

/// What all connections count together.
struct Tally {
    /// Round trips in nanoseconds.
    times: Histogram<u64>,
    errors: u64,
    /// Requests that may still be sent.
    left: u64,
}

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    requests: Option<u64>,
    concurrency: u16,
    duration: Option<Duration>,
) -> Result<u8, Failure> {
    let socket = socket_path(global);
    let pawd = Connection::open(global).await?;
    let status: Status = pawd
        .call("ask for the status", "system.status", Params::none())
        .await?
        .read()?;
    let pid = status
        .processes
        .iter()
        .find(|process| process.name == "pawd")
        .map(|process| process.pid);
    drop(pawd);

    let mut streams = Vec::new();
    for _ in 0..concurrency {
        let stream = UnixStream::connect(&socket)
            .await
            .map_err(|source| Failure::Unreachable {
                socket: socket.clone(),
                source,
            })?;
        streams.push(stream);
    }
    // Three digits of a nanosecond count up to a minute: more would say nothing.
    let times = Histogram::new_with_max(60_000_000_000, 3).map_err(|error| Failure::Local {
        doing: "make a histogram".to_owned(),
        why: error.to_string(),
        remedy: "report this as a fault of pawctl".to_owned(),
    })?;
    let tally = Rc::new(RefCell::new(Tally {
        times,
        errors: 0,
        left: requests.unwrap_or(u64::MAX),
    }));
    let cpu_before = pid.and_then(cpu_time);
    let began = Instant::now();
    let end = requests
        .is_none()
        .then(|| began + duration.or(global.timeout).unwrap_or(USUAL));
    let connections = LocalSet::new();
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|stream| connections.spawn_local(connection(stream, Rc::clone(&tally), end)))
        .collect();
    connections
        .run_until(async {
            for task in tasks {
                let ended = task.await.unwrap_or_else(|error| Err(error.into()));
                if ended.is_err() {
                    tally.borrow_mut().errors += 1;
                }
            }
        })
        .await;
    let elapsed = began.elapsed();
    let cpu = pid
        .and_then(cpu_time)
        .zip(cpu_before)
        .map(|(after, before)| after.saturating_sub(before));
    let tally = tally.borrow();
    let measured = measured(&tally, elapsed, concurrency, cpu, pid.and_then(rss_peak));
    show(out, &measured)?;
    Ok(if tally.errors == 0 {
        exit::DONE
    } else {
        exit::FAILED
    })
}

/// One connection: a request, its answer, the next one.
async fn connection(
    stream: UnixStream,
    tally: Rc<RefCell<Tally>>,
    end: Option<Instant>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::with_capacity(256);
    loop {
        {
            let mut tally = tally.borrow_mut();
            if tally.left == 0 || end.is_some_and(|end| Instant::now() >= end) {
                return Ok(());
            }
            tally.left -= 1;
        }
        let began = std::time::Instant::now();
        write.write_all(PING).await?;
        line.clear();
        if read.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut tally = tally.borrow_mut();
        tally.times.saturating_record(took);
        if !answered(&line) {
            tally.errors += 1;
        }
    }
}

/// Whether a line is the answer to our request, and a good one.
fn answered(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Line<'a> {
        id: u64,
        #[serde(borrow)]
        result: &'a RawValue,
    }
    serde_json::from_slice::<Line<'_>>(line)
        .is_ok_and(|line| line.id == 1 && line.result.get() == "\"pong\"")
}

fn measured(
    tally: &Tally,
    elapsed: Duration,
    concurrency: u16,
    cpu: Option<Duration>,
    rss_peak: Option<u64>,
) -> Measured {
    let requests = tally.times.len();
    let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
    let at = |quantile: f64| us(tally.times.value_at_quantile(quantile));
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
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
    }
}

fn show(out: &mut Out, measured: &Measured) -> Result<(), Failure> {
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
            let shown = table::block(&[
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
                    "CPU of pawd",
                    measured
                        .cpu_us_per_request
                        .map_or_else(unseen, |us| format!("{us} us each")),
                ),
                (
                    "Peak memory",
                    measured.rss_peak.map_or_else(unseen, text::size),
                ),
            ]);
            out.print(&shown);
        }
    }
    Ok(())
}

/// User and system time of a process, all its threads; in steps of 10 ms, as the kernel counts.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name of the program stands in parentheses and may hold anything: fields are counted after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // USER_HZ is 100 on every Linux of ours; it is part of the ABI of /proc.
    Some(Duration::from_millis(ticks * 10))
}

/// Most resident memory of a process at any time, in bytes.
fn rss_peak(pid: u32) -> Option<u64> {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
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
    fn only_a_pong_is_an_answer() {
        let check =
            |line: &str, expected| assert_eq!(answered(line.as_bytes()), expected, "{line}");
        check(r#"{"jsonrpc":"2.0","id":1,"result":"pong"}"#, true);
        check(r#"{"jsonrpc":"2.0","id":2,"result":"pong"}"#, false);
        check(
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"no"}}"#,
            false,
        );
        check("", false);
    }

    #[test]
    fn a_process_that_is_not_there_is_not_zero() {
        assert!(cpu_time(std::process::id()).is_some());
        assert!(rss_peak(std::process::id()).is_some_and(|bytes| bytes > 0));
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
