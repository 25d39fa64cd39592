//! A server with methods to be tested by, and clients that speak bytes.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use jsonrpsee::{RpcModule, core::RpcResult, types::ErrorObjectOwned};
use paw_api::{
    error::{Error, ErrorKind},
    methods::Method,
};
use paw_policy::Role;
use pawd::rpc::{Limits, Peer, Service, caller, serve};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Nothing that is awaited in these tests takes this long unless something is wrong.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const fn method(name: &'static str, params: &'static [&'static str]) -> Method {
    Method {
        name,
        role: Role::User,
        params,
        summary: "",
        notifies: None,
    }
}

/// What the server offers, sorted by name.
pub(crate) static METHODS: &[Method] = &[
    method("test.big", &["bytes"]),
    method("test.count", &["until", "bytes"]),
    method("test.echo", &["text", "again"]),
    method("test.fail", &[]),
    method("test.hold", &["pad"]),
    method("test.panic", &[]),
    method("test.panic_later", &[]),
    method("test.ping", &[]),
    method("test.refuse", &[]),
    method("test.stop_count", &["subscription"]),
    method("test.who", &[]),
];

/// What handlers share with the test.
pub(crate) struct Shared {
    /// Each permit lets one `test.hold` return.
    pub(crate) release: Semaphore,
    /// Calls of `test.hold` that are running.
    pub(crate) holding: watch::Sender<usize>,
    /// Subscriptions that are running.
    pub(crate) counting: watch::Sender<usize>,
    /// Items that `test.count` could hand over.
    pub(crate) sent: AtomicUsize,
    /// Pawd's stop, as a subscription sees it.
    pub(crate) stop: CancellationToken,
}

/// Counts up while it lives.
struct Running<'a>(&'a watch::Sender<usize>);

impl<'a> Running<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[derive(serde::Deserialize)]
struct Big {
    bytes: usize,
}

#[derive(serde::Deserialize)]
struct Echo {
    text: String,
}

#[derive(serde::Deserialize)]
struct Count {
    until: u64,
    #[serde(default)]
    bytes: usize,
}

fn fault() -> RpcResult<bool> {
    panic!("on purpose")
}

pub(crate) fn module(shared: Arc<Shared>) -> RpcModule<Arc<Shared>> {
    let mut module = RpcModule::new(shared);
    module
        .register_method("test.ping", |_, _, _| "pong")
        .unwrap();
    module
        .register_method("test.big", |params, _, _| {
            Ok::<_, ErrorObjectOwned>("x".repeat(params.parse::<Big>()?.bytes))
        })
        .unwrap();
    module
        .register_method("test.echo", |params, _, _| {
            Ok::<_, ErrorObjectOwned>(params.parse::<Echo>()?.text)
        })
        .unwrap();
    module
        .register_method("test.fail", |_, _, _| -> RpcResult<bool> {
            Err(
                Error::new(ErrorKind::NotFound, "no such thing", "look elsewhere")
                    .about("thing-1")
                    .into(),
            )
        })
        .unwrap();
    module
        .register_method("test.panic", |_, _, _| fault())
        .unwrap();
    module
        .register_async_method("test.panic_later", |_, _, _| async {
            tokio::task::yield_now().await;
            fault()
        })
        .unwrap();
    module
        .register_async_method("test.who", |_, _, extensions| async move {
            caller(&extensions).map_err(ErrorObjectOwned::from)
        })
        .unwrap();
    module
        .register_async_method("test.hold", |_, shared, _| async move {
            let _running = Running::new(&shared.holding);
            shared.release.acquire().await.unwrap().forget();
            "released"
        })
        .unwrap();
    module
        .register_subscription(
            "test.count",
            "test.counted",
            "test.stop_count",
            |params, pending, shared, _| async move {
                let Count { until, bytes } = params.parse().unwrap_or(Count { until: 0, bytes: 0 });
                let Ok(sink) = pending.accept().await else {
                    return;
                };
                let _running = Running::new(&shared.counting);
                let send = async |item: Value| {
                    sink.send(serde_json::value::to_raw_value(&item).unwrap())
                        .await
                        .is_ok()
                };
                for seq in 0..until {
                    if !send(json!({"seq": seq, "pad": "x".repeat(bytes)})).await {
                        return;
                    }
                    shared.sent.fetch_add(1, Ordering::Relaxed);
                }
                let last = tokio::select! {
                    () = sink.closed() => return,
                    () = shared.stop.cancelled() => json!({"last": "stopping"}),
                    () = std::future::ready(()), if until > 0 => json!({"last": "done"}),
                };
                send(last).await;
            },
        )
        .unwrap();
    module
        .register_subscription(
            "test.refuse",
            "test.refused",
            "test.stop_refuse",
            |_, pending, _, _| async move {
                pending
                    .reject(Error::new(ErrorKind::Unavailable, "not today", "come back"))
                    .await;
            },
        )
        .unwrap();
    module
}

/// A running server. Its directory and its tasks end with it.
pub(crate) struct Rig {
    pub(crate) path: PathBuf,
    pub(crate) stop: CancellationToken,
    pub(crate) shared: Arc<Shared>,
    /// Who was denied what.
    pub(crate) denied: Arc<Mutex<Vec<(u32, &'static str)>>>,
    pub(crate) served: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// Bounds for most tests; those of the product, except that root, who runs the tests, counts as anybody else.
pub(crate) fn limits() -> Limits {
    Limits {
        reserved_for_admin: 0,
        ..Limits::default()
    }
}

impl Rig {
    pub(crate) fn start(limits: Limits) -> Self {
        Self::with(limits, Some(Role::User), METHODS, |shared| {
            module(shared).into()
        })
    }

    /// With a role and methods of the test's own.
    pub(crate) fn with(
        limits: Limits,
        role: Option<Role>,
        table: &'static [Method],
        methods: impl FnOnce(Arc<Shared>) -> jsonrpsee::Methods,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            release: Semaphore::new(0),
            holding: watch::Sender::new(0),
            counting: watch::Sender::new(0),
            sent: AtomicUsize::new(0),
            stop: stop.clone(),
        });
        let denied = Arc::new(Mutex::new(Vec::new()));
        let service = Service {
            methods: methods(Arc::clone(&shared)),
            table,
            identify: Arc::new(move |who| Peer {
                uid: who.uid,
                gid: who.gid,
                pid: who.pid,
                role,
                name: Some("tester".into()),
                unit: None,
            }),
            on_denied: {
                let denied = Arc::clone(&denied);
                Arc::new(move |peer, method| {
                    denied.lock().unwrap().push((peer.uid, method));
                    std::future::ready(Ok(())).boxed().shared()
                })
            },
            may_call: Arc::new(|_, _| Ok(())),
            limits,
        };
        let served = tokio::spawn(serve(listener, service, stop.clone()));
        Self {
            path,
            stop,
            shared,
            denied,
            served,
            _dir: dir,
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::new(UnixStream::connect(&self.path).await.unwrap())
    }

    /// Sends bytes, closes that direction, and returns whatever comes until the server closes.
    pub(crate) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        exchange(&self.path, bytes).await
    }

    /// Waits until so many calls of `test.hold` run.
    pub(crate) async fn until_holding(&self, count: usize) {
        timeout(
            SOON,
            self.shared
                .holding
                .subscribe()
                .wait_for(|now| *now == count),
        )
        .await
        .unwrap()
        .unwrap();
    }

    /// Waits until so many subscriptions run.
    pub(crate) async fn until_counting(&self, count: usize) {
        timeout(
            SOON,
            self.shared
                .counting
                .subscribe()
                .wait_for(|now| *now == count),
        )
        .await
        .unwrap()
        .unwrap();
    }
}

async fn exchange(path: &Path, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(answer).unwrap()
}

/// Where [`server_process`] says its socket is.
const SOCKET_FILE: &str = "PAW_TEST_RPC_SOCKET_FILE";

/// The server of a [`ServerProcess`], until its stdin closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not a test: others start it in a process of its own"]
async fn server_process() {
    let told = std::env::var_os(SOCKET_FILE).unwrap();
    let rig = Rig::start(limits());
    std::os::unix::fs::symlink(&rig.path, &told).unwrap();
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
}

/// A server in a process of its own, so that what it costs can be told from what the tests cost.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) path: PathBuf,
    _dir: tempfile::TempDir,
}

impl ServerProcess {
    /// With at most so many descriptors. It is there when this returns.
    pub(crate) async fn start(descriptors: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let child = Command::new("sh")
            .args([
                "-c",
                "ulimit -n \"$0\"; exec \"$@\"",
                &descriptors.to_string(),
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "rig::server_process"])
            .env(SOCKET_FILE, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            path,
            _dir: dir,
        };
        drop(server.first_served().await);
        server
    }

    /// A connection that was answered, as soon as one is.
    pub(crate) async fn first_served(&self) -> Client {
        let answered = async {
            loop {
                if let Ok(stream) = UnixStream::connect(&self.path).await {
                    let mut client = Client::new(stream);
                    client.send(PING).await;
                    if client.line().await.as_deref() == Some(PONG) {
                        return client;
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, answered).await.unwrap()
    }

    pub(crate) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        exchange(&self.path, bytes).await
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.unwrap().success(), "the server failed");
        }
    }
}

/// A connection that speaks newline-delimited JSON.
pub(crate) struct Client {
    pub(crate) read: BufReader<tokio::net::unix::OwnedReadHalf>,
    pub(crate) write: tokio::net::unix::OwnedWriteHalf,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self {
            read: BufReader::new(read),
            write,
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        timeout(SOON, self.write.write_all(format!("{text}\n").as_bytes()))
            .await
            .unwrap()
            .unwrap();
    }

    /// The next line; none at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = timeout(SOON, self.read.read_line(&mut line))
            .await
            .unwrap()
            .ok()?;
        (count > 0).then_some(line)
    }

    /// The next line as JSON.
    pub(crate) async fn value(&mut self) -> Value {
        serde_json::from_str(&self.line().await.expect("the connection ended")).unwrap()
    }

    /// One call and its answer.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.send(&request(1, method, &params)).await;
        self.value().await
    }
}

/// The text of a request.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// The text of a call of `test.ping`.
pub(crate) const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"test.ping"}"#;
/// What it is answered with.
pub(crate) const PONG: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"pong\"}\n";
