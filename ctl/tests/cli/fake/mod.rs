//! A scripted pawd: lines of JSON on a socket in a directory of its own, and a record of what was asked.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// What the script says to one call.
pub(crate) enum Reply {
    /// A result.
    Result(Value),
    /// An error of this kind, with a message and a hint.
    Error(paw_api::ErrorKind, &'static str, &'static str),
    /// A subscription that sends these items and stays open.
    Stream(Vec<Value>),
    /// A subscription that sends the first items at once and the second ones when it is told to.
    Later(Vec<Value>, mpsc::Receiver<()>, Vec<Value>),
    /// A subscription that sends these items, after which the connection closes.
    Cut(Vec<Value>),
}

type Script = dyn Fn(&str, &Value) -> Reply + Send + Sync;

/// The scripted pawd.
pub(crate) struct Fake {
    directory: TempDir,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

/// What a run of pawctl came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fake {
    /// Listens, and answers as the script says until the test ends.
    pub(crate) fn new(script: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("control.sock")).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let record = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, record) = (Arc::clone(&script), Arc::clone(&record));
                std::thread::spawn(move || serve(stream.unwrap(), &*script, &record));
            }
        });
        Self { directory, seen }
    }

    /// One that gives this result to every call.
    pub(crate) fn always(result: Value) -> Self {
        Self::new(move |_, _| Reply::Result(result.clone()))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// What was asked so far: method and parameters.
    pub(crate) fn seen(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().clone()
    }

    /// Parameters of the only call of this method.
    pub(crate) fn params_of(&self, method: &str) -> Value {
        let calls: Vec<Value> = self
            .seen()
            .into_iter()
            .filter(|(name, _)| name == method)
            .map(|(_, params)| params)
            .collect();
        assert_eq!(calls.len(), 1, "calls of {method}");
        calls[0].clone()
    }

    /// Runs pawctl against it.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[], b"")
    }

    /// Runs pawctl against it with lines as its output, and interrupts it as Ctrl-C does once the first line is there.
    pub(crate) fn interrupted(&self, args: &[&str]) -> Ran {
        let mut command = pawctl(args);
        command
            .args(["-o", "jsonl"])
            .env("PAWD_SOCKET", self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        let kill = format!("kill -INT {}", child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: first,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs pawctl against it with this environment and stdin.
    pub(crate) fn run_with(&self, args: &[&str], env: &[(&str, &str)], stdin: &[u8]) -> Ran {
        let mut command = pawctl(args);
        command
            .env("PAWD_SOCKET", self.socket())
            .envs(env.iter().copied());
        finish(command, stdin)
    }
}

/// pawctl with a clean environment.
pub(crate) fn pawctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pawctl"));
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin");
    command
}

/// Runs it to its end.
pub(crate) fn finish(mut command: Command, stdin: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // A command that does not read its stdin may be gone already.
    let _ = input.write_all(stdin);
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn serve(stream: UnixStream, script: &Script, record: &Mutex<Vec<(String, Value)>>) {
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let call: Value = serde_json::from_str(&line).unwrap();
        let (id, method) = (&call["id"], call["method"].as_str().unwrap());
        record
            .lock()
            .unwrap()
            .push((method.to_owned(), call["params"].clone()));
        let known = paw_api::methods::find(method);
        let reply = match method {
            "chat.cancel" | "events.unsubscribe" | "model.abort" | "model.leave"
            | "sandbox.abort" => Reply::Result(json!(true)),
            _ => script(method, &call["params"]),
        };
        let mut later = None;
        let (answer, items, close) = match reply {
            Reply::Result(result) => (
                json!({"jsonrpc": "2.0", "id": id, "result": result}),
                Vec::new(),
                false,
            ),
            Reply::Error(kind, message, hint) => {
                let error = json!({"code": kind.code(), "message": message, "data": {"kind": kind, "hint": hint}});
                (
                    json!({"jsonrpc": "2.0", "id": id, "error": error}),
                    Vec::new(),
                    false,
                )
            }
            Reply::Stream(items) => (
                json!({"jsonrpc": "2.0", "id": id, "result": "s1"}),
                items,
                false,
            ),
            Reply::Later(items, when, then) => {
                later = Some((when, then));
                (
                    json!({"jsonrpc": "2.0", "id": id, "result": "s1"}),
                    items,
                    false,
                )
            }
            Reply::Cut(items) => (
                json!({"jsonrpc": "2.0", "id": id, "result": "s1"}),
                items,
                true,
            ),
        };
        let lines = |items: Vec<Value>| -> String {
            let notifies = known.and_then(|method| method.notifies);
            let line = |item| json!({"jsonrpc": "2.0", "method": notifies.unwrap(), "params": {"subscription": "s1", "result": item}});
            items
                .into_iter()
                .map(|item| format!("{}\n", line(item)))
                .collect()
        };
        let text = format!("{answer}\n{}", lines(items));
        if writer.write_all(text.as_bytes()).is_err() || close {
            let _ = writer.shutdown(std::net::Shutdown::Both);
            return;
        }
        if let Some((when, then)) = later {
            let (text, mut writer) = (lines(then), writer.try_clone().unwrap());
            // What it waits for may come over this very connection.
            std::thread::spawn(move || {
                if when.recv().is_ok() {
                    let _ = writer.write_all(text.as_bytes());
                }
            });
        }
    }
}
