//! The control socket: a real one, with methods that only answer.

use std::{
    cell::Cell, fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration,
};

use futures_util::FutureExt as _;
use jsonrpsee::RpcModule;
use paw_api::methods::Method;
use paw_policy::Role;
use pawd::rpc::{Limits, Roles, Service, identify, serve};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Far more than an answer to a few kilobytes takes.
const LIMIT: Duration = Duration::from_secs(8);

/// After so many inputs it is seen whether the socket still answers.
const EVERY: u64 = 64;

const fn method(name: &'static str, params: &'static [&'static str]) -> Method {
    Method {
        name,
        role: Role::User,
        params,
        summary: "answers",
        notifies: None,
    }
}

const TABLE: &[Method] = &[
    method("fuzz.echo", &["text", "more"]),
    method("fuzz.later", &["text"]),
    method("fuzz.stop", &["subscription"]),
    Method {
        notifies: Some("fuzz.item"),
        ..method("fuzz.watch", &["count"])
    },
];

struct Socket {
    runtime: Runtime,
    path: PathBuf,
    asked: Cell<u64>,
    _directory: TempDir,
}

thread_local! {
    static SOCKET: Socket = Socket::open();
}

impl Socket {
    fn open() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let listener = {
            let _within = runtime.enter();
            UnixListener::bind(&path).expect("a socket")
        };
        let owner = fs::metadata(directory.path()).map(|found| found.uid());
        let roles = Roles {
            owner: owner.ok(),
            ..Roles::default()
        };
        let service = Service {
            methods: methods().into(),
            table: TABLE,
            identify: identify(roles, |_| None),
            on_denied: Arc::new(|_, _| std::future::ready(Ok(())).boxed().shared()),
            may_call: Arc::new(|_, _| Ok(())),
            limits: Limits {
                requests_per_second: 0,
                ..Limits::default()
            },
        };
        runtime.spawn(serve(listener, service, CancellationToken::new()));
        Self {
            runtime,
            path,
            asked: Cell::new(0),
            _directory: directory,
        }
    }

    /// Says these bytes on a connection of its own, hangs up, and gives what was answered.
    fn say(&self, bytes: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let mut stream = UnixStream::connect(&self.path).await.expect("it is there");
            let (mut from, mut to) = stream.split();
            let mut answer = Vec::new();
            let talk = async {
                let write = async {
                    // It may have heard enough before the end.
                    let _ = to.write_all(bytes).await;
                    let _ = to.shutdown().await;
                };
                let (_, read) = tokio::join!(write, from.read_to_end(&mut answer));
                drop(read);
            };
            let ended = timeout(LIMIT, talk).await;
            ended.expect("a connection ends when its caller has hung up");
            answer
        })
    }
}

fn methods() -> RpcModule<()> {
    let mut module = RpcModule::new(());
    module
        .register_method("fuzz.echo", |params, (), _| {
            params.parse::<Value>().unwrap_or_default()
        })
        .expect("it is new");
    module
        .register_async_method("fuzz.later", |params, _, _| async move {
            tokio::task::yield_now().await;
            params.parse::<Value>().unwrap_or_default()
        })
        .expect("it is new");
    module
        .register_subscription(
            "fuzz.watch",
            "fuzz.item",
            "fuzz.stop",
            |_, pending, _, _| async move {
                let Ok(sink) = pending.accept().await else {
                    return;
                };
                if let Ok(item) = serde_json::value::to_raw_value("item") {
                    // Whoever does not listen any more needs none.
                    let _ = sink.send(item).await;
                }
            },
        )
        .expect("it is new");
    module
}

pub(crate) fn run(bytes: &[u8]) {
    SOCKET.with(|socket| {
        let answer = socket.say(bytes);
        if matches!(bytes.first(), Some(b'{' | b'[')) {
            for line in answer
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                serde_json::from_slice::<Value>(line).expect("each line of an answer is JSON");
            }
        }
        socket.asked.set(socket.asked.get() + 1);
        if socket.asked.get().is_multiple_of(EVERY) {
            let answer = socket
                .say(br#"{"jsonrpc":"2.0","id":7,"method":"fuzz.echo","params":{"text":"there"}}"#);
            assert!(
                answer.windows(7).any(|seen| seen == b"\"there\""),
                "nobody answers any more"
            );
        }
    });
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"fuzz.echo","params":{"text":"a","more":[1,2.5,null]}}"#;
    let later = r#"{"jsonrpc":"2.0","id":"b","method":"fuzz.later","params":["a"]}"#;
    let watch = r#"{"jsonrpc":"2.0","id":3,"method":"fuzz.watch","params":{"count":1}}"#;
    let stop = r#"{"jsonrpc":"2.0","id":4,"method":"fuzz.stop","params":{"subscription":"x"}}"#;
    let notification = r#"{"jsonrpc":"2.0","method":"fuzz.echo"}"#;
    let post = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let upgrade = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // A masked text frame with the mask zero, a ping, and a close.
    let mut web_socket = upgrade.as_bytes().to_vec();
    web_socket.extend([0x81, 0x80 | 38, 0, 0, 0, 0]);
    web_socket.extend(notification.as_bytes());
    web_socket.extend([0x89, 0x80, 0, 0, 0, 0, 0x88, 0x80, 0, 0, 0, 0]);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{later}\r\n0\r\n\r\n",
        later.len()
    );
    vec![
        format!("{call}\n{later}\n").into_bytes(),
        format!("[{call},{notification},{later}]\n").into_bytes(),
        format!("{watch}\n{stop}\n").into_bytes(),
        post(call).into_bytes(),
        post(watch).into_bytes(),
        chunked.into_bytes(),
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        web_socket,
        b"[[[[[[[[{\"a\":{}}]]]]]]]]".to_vec(),
    ]
}
