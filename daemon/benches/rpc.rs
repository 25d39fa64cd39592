//! Round trip and rate of a trivial method, against a bare line echo on the same kind of socket in the same run.
//!
//! `cargo bench -p pawd --bench rpc`. Servers run in a process of their own, with two threads each; echo and ping take turns,
//! so that whatever else the machine does falls on both. No frame of criterion: what is asked for is a ratio of two medians.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on has failed, and it talks to a person"
)]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use hdrhistogram::Histogram;
use jsonrpsee::RpcModule;
use paw_api::methods::Method;
use paw_policy::Role;
use pawd::rpc::{Limits, Service, identify, serve};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(200);
const MEASURE: Duration = Duration::from_millis(800);
const REQUEST: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\",\"params\":[]}\n";

static PING: &[Method] = &[Method {
    name: "system.ping",
    role: Role::User,
    params: &[],
    summary: "",
    notifies: None,
}];

fn main() {
    let args: Vec<String> = env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "serve", "echo", path] => runtime.block_on(echo(Path::new(path))),
        [_, "serve", "ping", path] => runtime.block_on(ping(Path::new(path))),
        // cargo passes `--bench`; everything else means: measure.
        _ => runtime.block_on(measure()),
    }
}

async fn echo(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let (mut read, mut line) = (BufReader::new(read), Vec::new());
            while matches!(read.read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
                if write.write_all(&line).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
}

async fn ping(path: &Path) {
    let mut module = RpcModule::new(());
    module
        .register_method("system.ping", |_, (), _| "pong")
        .unwrap();
    let service = Service {
        methods: module.into(),
        table: PING,
        identify: identify(pawd::rpc::Roles::default(), |_| None),
        on_denied: Arc::new(|_, _| std::future::ready(Ok(())).boxed().shared()),
        may_call: Arc::new(|_, _| Ok(())),
        limits: Limits {
            requests_per_second: 0,
            ..Limits::default()
        },
    };
    serve(
        UnixListener::bind(path).unwrap(),
        service,
        CancellationToken::new(),
    )
    .await;
}

/// A server in a process of its own; gone when dropped.
struct Server {
    child: Child,
    path: PathBuf,
}

impl Server {
    async fn start(kind: &str, dir: &Path) -> Self {
        let path = dir.join(kind);
        let child = Command::new(env::current_exe().unwrap())
            .args(["serve", kind])
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while UnixStream::connect(&path).await.is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "the server does not come up"
            );
            tokio::task::yield_now().await;
        }
        Self { child, path }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn client(path: PathBuf) -> Histogram<u64> {
    let (read, mut write) = UnixStream::connect(path).await.unwrap().into_split();
    let (mut read, mut line) = (BufReader::new(read), Vec::new());
    let mut seen = Histogram::<u64>::new(3).unwrap();
    let begin = Instant::now();
    loop {
        let sent = Instant::now();
        write.write_all(REQUEST).await.unwrap();
        line.clear();
        assert!(
            read.read_until(b'\n', &mut line).await.unwrap() > 0,
            "the server closed"
        );
        let total = begin.elapsed();
        if total >= WARM_UP {
            seen.record(u64::try_from(sent.elapsed().as_nanos()).unwrap())
                .unwrap();
        }
        if total >= WARM_UP + MEASURE {
            return seen;
        }
    }
}

async fn round(server: &Server, clients: usize) -> Histogram<u64> {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(client(server.path.clone()));
    }
    let mut all = Histogram::<u64>::new(3).unwrap();
    while let Some(seen) = tasks.join_next().await {
        all.add(seen.unwrap()).unwrap();
    }
    all
}

fn micros(seen: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_nanos(seen.value_at_quantile(quantile)).as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let (echo, ping) = (
        Server::start("echo", dir.path()).await,
        Server::start("ping", dir.path()).await,
    );
    println!("medians of {ROUNDS} rounds, echo and ping in turns");
    for clients in [1, 32] {
        let (mut rounds_of_echo, mut rounds_of_ping) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            rounds_of_echo.push(round(&echo, clients).await);
            rounds_of_ping.push(round(&ping, clients).await);
        }
        let p50 = |rounds: &[Histogram<u64>]| {
            median(rounds.iter().map(|seen| micros(seen, 0.5)).collect())
        };
        for (name, rounds) in [("echo", &rounds_of_echo), ("ping", &rounds_of_ping)] {
            let p99 = median(rounds.iter().map(|seen| micros(seen, 0.99)).collect());
            #[allow(clippy::cast_precision_loss, reason = "a count of a second's requests")]
            let rate = median(
                rounds
                    .iter()
                    .map(|seen| seen.len() as f64 / MEASURE.as_secs_f64())
                    .collect(),
            );
            println!(
                "{clients:>3} clients  {name}  p50 {:>7.1} us  p99 {p99:>7.1} us  {rate:>8.0}/s",
                p50(rounds)
            );
        }
        println!(
            "{clients:>3} clients  ratio of medians {:.2}",
            p50(&rounds_of_ping) / p50(&rounds_of_echo)
        );
    }
}
