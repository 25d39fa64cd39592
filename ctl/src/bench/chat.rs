//! `bench chat --stub`: chats through pawd with a model that answers at once, and the same questions to that model alone; the difference is
//! what pawd adds, the action, its records and its place on disk included.

use std::{
    cell::RefCell,
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use paw_api::{provider::Provider, system::Status};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    task::LocalSet,
    time::Instant,
};

use super::{
    numbers::{Against, Held, Measured, Tally, cpu_time, measured, rss, rss_peak, show},
    stub::{self, Answer},
};
use crate::{
    cli::{ChatLoad, Global},
    connect::{Connection, Params, socket_path},
    fail::{Failure, exit},
    render::Out,
};

const DOING: &str = "measure chats";

/// How long it goes on when neither a number nor a time is given.
const USUAL: Duration = Duration::from_secs(5);

/// Questions to the model alone.
const DIRECT: u64 = 2_000;

pub(super) async fn run(global: &Global, out: &mut Out, load: ChatLoad) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    let params = Params::named(json!({"name": load.provider}));
    let provider: Provider = pawd
        .call("show the provider", "provider.show", params)
        .await?
        .read()?;
    let status: Status = pawd
        .call("ask for the status", "system.status", Params::none())
        .await?
        .read()?;
    drop(pawd);
    let pid = status
        .processes
        .iter()
        .find(|process| process.name == "pawd")
        .map(|process| process.pid);
    let at = address(&provider)?;
    let listener = TcpListener::bind(at).await.map_err(|error| {
        local(
            format!(
                "nothing can listen at {at}, where provider {} is: {error}",
                load.provider
            ),
            "stop what listens there, or name a provider at a free port of this host",
        )
    })?;

    let all = LocalSet::new();
    let answer = Rc::new(Answer::of(load.tokens));
    let serving = all.spawn_local(stub::serve(listener, answer));
    let alone = all.run_until(alone(at)).await.map_err(|error| {
        local(
            format!("the model that answers at once does not: {error}"),
            "report this as a fault of pawctl",
        )
    })?;
    let socket = socket_path(global);
    let mut streams = Vec::new();
    for _ in 0..load.concurrency {
        let stream = UnixStream::connect(&socket)
            .await
            .map_err(|source| Failure::Unreachable {
                socket: socket.clone(),
                source,
            })?;
        streams.push(stream);
    }
    let tally = Rc::new(RefCell::new(Tally::new(load.requests.unwrap_or(u64::MAX))?));
    let cpu_before = pid.and_then(cpu_time);
    let rss_before = pid.and_then(rss);
    let began = Instant::now();
    let end = load
        .requests
        .is_none()
        .then(|| began + load.duration.or(global.timeout).unwrap_or(USUAL));
    let request = request(&load.provider);
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let work = connection(stream, request.clone(), Rc::clone(&tally), end);
            all.spawn_local(work)
        })
        .collect();
    all.run_until(async {
        for task in tasks {
            let ended = task.await.unwrap_or_else(|error| Err(error.into()));
            if ended.is_err() {
                tally.borrow_mut().errors += 1;
            }
        }
    })
    .await;
    let elapsed = began.elapsed();
    serving.abort();
    let cpu = pid
        .and_then(cpu_time)
        .zip(cpu_before)
        .map(|(after, before)| after.saturating_sub(before));
    let tally = tally.borrow();
    let through = measured(
        &tally,
        elapsed,
        load.concurrency,
        cpu,
        pid.and_then(rss_peak),
    );
    let measured = Measured {
        against: Some(Against::new(&through, &alone)),
        held: rss_before
            .zip(pid.and_then(rss))
            .map(|(rss_before, rss_after)| Held {
                rss_before,
                rss_after,
            }),
        ..through
    };
    show(out, &measured, "CPU of pawd")?;
    Ok(if tally.errors == 0 {
        exit::DONE
    } else {
        exit::FAILED
    })
}

/// Where the model has to be: at the provider's own address, which is one of this host.
fn address(provider: &Provider) -> Result<SocketAddr, Failure> {
    let wire = matches!(provider.kind.as_str(), "openai" | "openai-compatible");
    let host = provider
        .base_url
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .map(|host| host.replace("localhost", &Ipv4Addr::LOCALHOST.to_string()));
    let at = host.and_then(|host| host.parse::<SocketAddr>().ok());
    match at.filter(|at| wire && at.ip().is_loopback()) {
        Some(at) => Ok(at),
        None => Err(local(
            format!(
                "provider {} is of kind {} at {}",
                provider.name, provider.kind, provider.base_url
            ),
            "configure one of kind openai-compatible at http://127.0.0.1:PORT for measuring, at a port where nothing listens",
        )),
    }
}

fn local(why: String, remedy: &str) -> Failure {
    Failure::Local {
        doing: DOING.to_owned(),
        why,
        remedy: remedy.to_owned(),
    }
}

/// Times of questions to the model alone, one after the other over one connection.
async fn alone(at: SocketAddr) -> io::Result<Tally> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut tally = Tally::new(0).map_err(io::Error::other)?;
    for _ in 0..DIRECT {
        let began = std::time::Instant::now();
        stub::ask(&mut stream, at).await?;
        tally.times.saturating_record(nanos(began));
    }
    Ok(tally)
}

/// The line that asks; each time in a conversation of its own.
fn request(provider: &str) -> Vec<u8> {
    let params = json!({"text": "hello", "provider": provider});
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "chat.send", "params": params});
    let mut line = request.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// One connection: a question, its answer to the end, the next one.
async fn connection(
    stream: UnixStream,
    request: Vec<u8>,
    tally: Rc<RefCell<Tally>>,
    end: Option<Instant>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::with_capacity(1024);
    while tally.borrow_mut().one_more(end) {
        let began = std::time::Instant::now();
        write.write_all(&request).await?;
        let good = loop {
            line.clear();
            if read.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match said(&line) {
                Said::More => {}
                Said::Answered => break true,
                Said::Failed => break false,
            }
        };
        let mut tally = tally.borrow_mut();
        tally.times.saturating_record(nanos(began));
        if !good {
            tally.errors += 1;
        }
    }
    Ok(())
}

fn nanos(began: std::time::Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What a line says of the chat.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It goes on.
    More,
    /// It came to its end.
    Answered,
    /// It did not.
    Failed,
}

fn said(line: &[u8]) -> Said {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        error: Option<&'a serde_json::value::RawValue>,
        #[serde(borrow)]
        params: Option<Params<'a>>,
    }
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        result: Event<'a>,
    }
    #[derive(Deserialize)]
    struct Event<'a> {
        r#type: &'a str,
    }
    let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else {
        return Said::Failed;
    };
    match (line.error, line.params.map(|params| params.result.r#type)) {
        (Some(_), _) | (None, Some("failed")) => Said::Failed,
        (None, Some("done")) => Said::Answered,
        (None, Some(_) | None) => Said::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_an_answer_is_one() {
        let event = |kind: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"chat.event","params":{{"subscription":"1","result":{{"type":"{kind}"}}}}}}"#
            )
        };
        for (line, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"result":"1"}"#.to_owned(),
                Said::More,
            ),
            (event("accepted"), Said::More),
            (event("delta"), Said::More),
            (event("done"), Said::Answered),
            (event("failed"), Said::Failed),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32001}}"#.to_owned(),
                Said::Failed,
            ),
            ("no JSON".to_owned(), Said::Failed),
        ] {
            assert_eq!(said(line.as_bytes()), expected, "{line}");
        }
    }
}
