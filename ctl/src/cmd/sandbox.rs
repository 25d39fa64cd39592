//! `pawctl sandbox`: commands in sandboxes of their own. The bytes of a command are passed on as they are, both ways.

use std::{
    future::{Future, pending, poll_fn},
    io::{IsTerminal as _, Read as _},
    task::Poll,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use paw_api::sandbox::{RunEvent, RunResult, RunSpec, RuntimeInfo, SandboxInfo, TerminalSize};
use serde_json::{Map, Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{action::say_waiting, inspect};
use crate::{
    cli::{self, Global, Run},
    connect::{Answer, Connection, Heard, Items, Params, Request},
    fail::{Failure, exit},
    render::{Out, Tone, table, text},
    window::{self, Raw},
};

/// Bytes of stdin that are sent at once; pawd takes at most 64 KiB.
const CHUNK: usize = 48 * 1024;

/// What is being done, for errors.
const DOING: &str = "run the command";

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Sandbox,
) -> Result<u8, Failure> {
    match command {
        cli::Sandbox::Runtimes => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call("list runtimes", "sandbox.runtimes", Params::none())
                .await?;
            out.answer(&answer, |runtimes: &Vec<RuntimeInfo>, look| {
                let rows = runtimes
                    .iter()
                    .map(|runtime| {
                        let tone = match runtime.state.as_str() {
                            "proven" => Tone::Good,
                            "unverified" => Tone::Warn,
                            _ => Tone::Dim,
                        };
                        vec![
                            table::toned(tone, &format!("{} {}", tone.dot(), runtime.name)),
                            table::toned(tone, &runtime.state),
                            table::text(&runtime.isolation),
                            table::text(runtime.version.as_deref().unwrap_or("-")),
                            table::text(&runtime.reason),
                        ]
                    })
                    .collect();
                table::table(
                    &["  RUNTIME", "STATE", "ISOLATION", "VERSION", "WHY"],
                    rows,
                    look,
                    "no runtime is known",
                )
            })?;
            Ok(exit::DONE)
        }
        cli::Sandbox::Run(run) => {
            let (stdin, terminal) = streams(run.stdin, run.tty)?;
            let spec = RunSpec {
                stdin,
                terminal,
                ..spec(global, &run)
            };
            let show = Shown {
                stdin,
                tty: run.tty,
                detach: run.detach,
                json_result: run.json_result,
                // Who does not stay for the command does not stay for an approval either.
                no_wait: run.wait.no_wait || run.detach,
            };
            command_in_sandbox(global, out, spec, show).await
        }
        cli::Sandbox::Exec(exec) => {
            let (stdin, terminal) = streams(exec.stdin, exec.tty)?;
            let show = Shown {
                stdin,
                tty: exec.tty,
                detach: false,
                json_result: exec.json_result,
                no_wait: exec.wait.no_wait,
            };
            let spec = RunSpec {
                stdin,
                terminal,
                ..further(global, *exec)
            };
            command_in_sandbox(global, out, spec, show).await
        }
        cli::Sandbox::Show { id } => inspect::show(global, out, &id).await,
        cli::Sandbox::Logs { id, follow } => inspect::logs(global, out, &id, follow).await,
        cli::Sandbox::Stats { id } => inspect::stats(global, out, id).await,
        cli::Sandbox::Image(command) => super::image::run(global, out, command).await,
        cli::Sandbox::Gc => inspect::gc(global, out).await,
        cli::Sandbox::List => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call("list sandboxes", "sandbox.list", Params::none())
                .await?;
            out.answer(&answer, |sandboxes: &Vec<SandboxInfo>, look| {
                let rows = sandboxes
                    .iter()
                    .map(|sandbox| {
                        vec![
                            table::text(&sandbox.id),
                            table::text(&sandbox.runtime),
                            table::text(&sandbox.state),
                            table::number(sandbox.pid),
                            table::number(text::span(sandbox.age_ms)),
                            table::number(text::size(sandbox.memory)),
                            table::number(sandbox.pids),
                            table::text(
                                sandbox
                                    .attestation
                                    .get(..12)
                                    .unwrap_or(&sandbox.attestation),
                            ),
                        ]
                    })
                    .collect();
                let head = [
                    "ID",
                    "RUNTIME",
                    "STATE",
                    "PID",
                    "AGE",
                    "MEMORY LIMIT",
                    "PIDS LIMIT",
                    "ATTESTATION",
                ];
                table::table(&head, rows, look, "no sandboxes are running")
            })?;
            Ok(exit::DONE)
        }
        cli::Sandbox::Kill { id } => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call(
                    "kill the sandbox",
                    "sandbox.kill",
                    Params::named(json!({"id": id})),
                )
                .await?;
            out.answer(&answer, |_: &bool, _| {
                format!("killed {}\n", text::line(&id))
            })?;
            Ok(exit::DONE)
        }
    }
}

fn spec(global: &Global, run: &Run) -> RunSpec {
    RunSpec {
        argv: run.argv.clone(),
        runtime: run.runtime.clone(),
        isolation_floor: run.isolation_floor.clone(),
        image: run.image.clone(),
        env: run.env.clone(),
        workdir: run.workdir.clone(),
        workspace: run.workspace.clone(),
        mounts: run.mount.clone(),
        cpu_milli: run.cpus,
        memory: run.memory,
        disk: run.disk,
        pids: run.pids,
        timeout_ms: life(global),
        io_weight: run.io_weight,
        max_output: run.max_output,
        net: run.net.iter().flatten().cloned().collect(),
        detach: run.detach,
        cold: run.cold,
        ..RunSpec::default()
    }
}

/// A command for a sandbox that runs: it chooses nothing of that sandbox.
fn further(global: &Global, exec: cli::Exec) -> RunSpec {
    RunSpec {
        argv: exec.argv,
        env: exec.env,
        workdir: exec.workdir,
        sandbox: Some(exec.id),
        timeout_ms: life(global),
        ..RunSpec::default()
    }
}

fn life(global: &Global) -> Option<u64> {
    let millis = |life: std::time::Duration| u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    global.timeout.map(millis)
}

/// Whether a command is given our stdin, and the size of its terminal if it is to have one.
fn streams(stdin: bool, tty: bool) -> Result<(bool, Option<TerminalSize>), Failure> {
    if !tty {
        return Ok((stdin, None));
    }
    if !std::io::stdout().is_terminal() {
        return Err(Failure::Usage {
            doing: DOING.to_owned(),
            why: "stdout is not a terminal, so there is none for the command".to_owned(),
            remedy: "run it at a terminal, or leave out --tty".to_owned(),
        });
    }
    Ok((
        stdin || std::io::stdin().is_terminal(),
        Some(window::size()),
    ))
}

/// What goes in and out beside the command's own bytes.
#[derive(Debug, Clone, Copy)]
struct Shown {
    stdin: bool,
    tty: bool,
    detach: bool,
    json_result: bool,
    no_wait: bool,
}

async fn command_in_sandbox(
    global: &Global,
    out: &mut Out,
    spec: RunSpec,
    run: Shown,
) -> Result<u8, Failure> {
    // Here `--timeout` is the life of the sandbox, and pawd holds it: we wait for what it reports. Its input goes over the
    // same connection, so that a run takes one place of those that a user has.
    let socket = crate::connect::socket_path(global);
    let params = Params::named(json!({"spec": spec}));
    let mut items = crate::connect::subscribe(&socket, DOING, "sandbox.run", params).await?;
    let told_to_end = told_to_end(run.tty)?;
    let ended = tokio::select! {
        ended = follow(out, &mut items, run) => ended,
        () = told_to_end => Err(Failure::Interrupted { why: "the sandbox was killed".to_owned() }),
    };
    if ended.is_err() {
        items.end().await;
    }
    ended
}

/// Ends when a signal says that we shall. Of one that came as such nothing is lost: the terminal is put back first.
fn told_to_end(tty: bool) -> Result<impl Future<Output = ()>, Failure> {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    if tty {
        kinds.extend([SignalKind::hangup(), SignalKind::quit()]);
    }
    let mut signals = kinds
        .into_iter()
        .map(signal)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::io("listen for signals", &error))?;
    Ok(poll_fn(move |context| {
        let mut polled = signals.iter_mut().map(|signal| signal.poll_recv(context));
        if polled.any(|came| came.is_ready()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }))
}

/// Passes bytes on in both directions until the command has ended.
async fn follow(out: &mut Out, items: &mut Items, run: Shown) -> Result<u8, Failure> {
    let mut input = Input::default();
    let mut windows = Windows::watch(run.tty)?;
    // Put back before anything is said of the end.
    let mut raw = None;
    let mut remedy =
        "see what became of it: pawctl action list -n 1; pawctl sandbox list".to_owned();
    loop {
        let heard = tokio::select! {
            heard = items.heard() => heard?,
            // One piece at a time: the next is read when pawd has taken the one before.
            Some(chunk) = input.next(), if !windows.under_way => {
                let request = input.request(chunk)?;
                if items.ask(&request).await.is_err() {
                    return Err(cut(remedy));
                }
                continue;
            }
            size = windows.next(), if !input.under_way => {
                if items.ask(&windows.request(size)).await.is_err() {
                    return Err(cut(remedy));
                }
                continue;
            }
        };
        let item = match heard {
            Heard::Item(item) => item,
            Heard::Answer(taken) if windows.under_way => {
                windows.answered(taken)?;
                continue;
            }
            Heard::Answer(taken) => {
                input.answered(taken)?;
                continue;
            }
            Heard::End => return Err(cut(remedy)),
        };
        match item.read()? {
            RunEvent::Waiting { action_id } if run.no_wait => {
                say_waiting(out, &action_id);
                return Ok(exit::WAITING);
            }
            RunEvent::Waiting { action_id } => say_waiting(out, &action_id),
            RunEvent::Started { id, .. } if run.detach => {
                out.answer(&item, |_: &Value, _| format!("{}\n", text::line(&id)))?;
                return Ok(exit::DONE);
            }
            RunEvent::Started { action_id, id } => {
                let (action, sandbox) = (text::line(&action_id), text::line(&id));
                remedy = format!(
                    "it may go on without us: pawctl action wait {action}; what it says: pawctl sandbox logs -f {sandbox}"
                );
                if run.tty && std::io::stdin().is_terminal() {
                    raw = Some(Raw::begin()?);
                }
                windows.begin(&action_id);
                if run.stdin {
                    input.begin(action_id);
                }
            }
            RunEvent::Stdout { data } if !run.json_result => Out::write(&bytes(&data)?)?,
            RunEvent::Stdout { data } | RunEvent::Stderr { data } => {
                Out::write_err(&bytes(&data)?)?
            }
            RunEvent::Ended(result) => {
                drop(raw);
                return ended(out, &item, &result, run.json_result);
            }
            RunEvent::Failed { message, error } => {
                return Err(Failure::NoSandbox {
                    why: message,
                    data: error,
                });
            }
        }
    }
}

/// The connection is gone, and the command may not be.
fn cut(remedy: String) -> Failure {
    Failure::Cut {
        doing: DOING.to_owned(),
        why: "pawd ended the connection before the command did".to_owned(),
        remedy,
    }
}

fn bytes(data: &str) -> Result<Vec<u8>, Failure> {
    BASE64.decode(data).map_err(|error| Failure::Local {
        doing: DOING.to_owned(),
        why: format!("its output is not base64: {error}"),
        remedy: "install the same version of pawd and pawctl".to_owned(),
    })
}

/// Says how the command ended; the exit code is its own.
fn ended(
    out: &mut Out,
    item: &Answer,
    result: &RunResult,
    json_result: bool,
) -> Result<u8, Failure> {
    if json_result {
        let mut members: Map<String, Value> = item.read()?;
        members.remove("type");
        out.json(&Value::Object(members).to_string());
    }
    if result.output_truncated {
        out.say(
            "the output was longer than its bound and was cut: let it say more with --max-output",
        );
    }
    if result.oom_killed {
        out.say("the kernel killed something in it for want of memory: give it more with --memory");
    }
    if result.pids_denied > 0 {
        out.say("it was refused more processes: give it more with --pids");
    }
    if let Some(layer) = &result.workspace {
        super::workspace::told(out, &result.id, layer);
    }
    if result.timed_out {
        out.say("its time was over: give it more with --timeout");
        return Ok(exit::DEADLINE);
    }
    let own = result.exit_code.and_then(|code| u8::try_from(code).ok());
    let by_signal = result
        .signal
        .and_then(|signal| u8::try_from(128 + signal).ok());
    Ok(own.or(by_signal).unwrap_or(exit::FAILED))
}

/// Our stdin on its way to the command, to its end.
#[derive(Default)]
struct Input {
    action: String,
    chunks: Option<mpsc::Receiver<std::io::Result<Vec<u8>>>>,
    /// Whether pawd has not taken the last piece yet.
    under_way: bool,
}

impl Input {
    fn begin(&mut self, action: String) {
        self.action = action;
        self.chunks = Some(read_stdin());
    }

    /// The next piece, when it can be sent; a call that is dropped loses nothing.
    async fn next(&mut self) -> Option<std::io::Result<Vec<u8>>> {
        match &mut self.chunks {
            Some(chunks) if !self.under_way => chunks.recv().await,
            Some(_) | None => pending().await,
        }
    }

    fn request(&mut self, chunk: std::io::Result<Vec<u8>>) -> Result<Request, Failure> {
        let chunk = chunk.map_err(|error| Failure::io("read stdin", &error))?;
        self.under_way = true;
        let params = match chunk.as_slice() {
            [] => {
                self.chunks = None;
                json!({"id": self.action, "end": true})
            }
            bytes => json!({"id": self.action, "data": BASE64.encode(bytes)}),
        };
        Ok(Request {
            method: "sandbox.input",
            params,
        })
    }

    /// pawd answered. A command may end, or close its stdin, before it has read all; its own end says how that went.
    fn answered(&mut self, taken: Result<(), Failure>) -> Result<(), Failure> {
        self.under_way = false;
        match taken {
            Ok(()) => Ok(()),
            Err(Failure::Refused { .. }) => {
                self.chunks = None;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The size of our window on its way to the command, whenever it is another one.
struct Windows {
    changes: Option<Signal>,
    /// Whose window it is, once that is known.
    action: Option<String>,
    /// Whether pawd has not taken the last size yet.
    under_way: bool,
}

impl Windows {
    fn watch(tty: bool) -> Result<Self, Failure> {
        let changes = tty.then(|| signal(SignalKind::window_change())).transpose();
        Ok(Self {
            changes: changes.map_err(|error| Failure::io("listen for signals", &error))?,
            action: None,
            under_way: false,
        })
    }

    fn begin(&mut self, action: &str) {
        self.action = Some(action.to_owned());
    }

    /// The next size, when it can be sent; of several changes at once the last one counts.
    async fn next(&mut self) -> TerminalSize {
        match &mut self.changes {
            Some(changes) if self.action.is_some() && !self.under_way => {
                if changes.recv().await.is_none() {
                    pending::<()>().await;
                }
                window::size()
            }
            Some(_) | None => pending().await,
        }
    }

    fn request(&mut self, size: TerminalSize) -> Request {
        self.under_way = true;
        Request {
            method: "sandbox.resize",
            params: json!({"id": self.action, "rows": size.rows, "cols": size.cols}),
        }
    }

    /// pawd answered. A command that has ended has no window any more; its own end says how that went.
    fn answered(&mut self, taken: Result<(), Failure>) -> Result<(), Failure> {
        self.under_way = false;
        match taken {
            Ok(()) | Err(Failure::Refused { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

/// Reads stdin on a thread of its own, one chunk ahead; an empty chunk is the end.
fn read_stdin() -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, chunks) = mpsc::channel(1);
    // The thread may be in a read that never returns; it ends with the process.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = stdin
                .read(&mut buffer)
                .map(|bytes| buffer[..bytes].to_vec());
            let last = !matches!(&read, Ok(chunk) if !chunk.is_empty());
            if sender.blocking_send(read).is_err() || last {
                return;
            }
        }
    });
    chunks
}
