//! `bench rpc`: round trips of `system.ping`, one at a time on each connection.

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use paw_api::system::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    task::LocalSet,
    time::Instant,
};

use super::numbers::{Tally, cpu_time, measured, rss_peak, show};
use crate::{
    cli::Global,
    connect::{Connection, Params, socket_path},
    fail::{Failure, exit},
    render::Out,
};

/// What is sent; the answer is small and asks for nothing.
const PING: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\"}\n";

/// How long it goes on when neither a number nor a time is given.
const USUAL: Duration = Duration::from_secs(5);

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
    let tally = Rc::new(RefCell::new(Tally::new(requests.unwrap_or(u64::MAX))?));
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
    show(out, &measured, "CPU of pawd")?;
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
    while tally.borrow_mut().one_more(end) {
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
    Ok(())
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
}
