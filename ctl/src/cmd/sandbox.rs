//! `pawctl sandbox`: commands in sandboxes of their own. The bytes of a command are passed on as they are, both ways.

use std::{future::pending, io::Read as _, pin::Pin};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use paw_api::sandbox::{RunEvent, RunResult, RunSpec, RuntimeInfo, SandboxInfo};
use serde_json::{Map, Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{action::say_waiting, inspect};
use crate::{
    cli::{self, Global, Run},
    connect::{Answer, Connection, Items, Params},
    fail::{Failure, exit},
    render::{Out, Tone, table, text},
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
            let spec = spec(global, &run);
            let show = Shown {
                stdin: run.stdin,
                json_result: run.json_result,
                no_wait: run.wait.no_wait,
            };
            command_in_sandbox(global, out, spec, show).await
        }
        cli::Sandbox::Exec(exec) => {
            let show = Shown {
                stdin: exec.stdin,
                json_result: exec.json_result,
                no_wait: exec.wait.no_wait,
            };
            command_in_sandbox(global, out, further(global, *exec), show).await
        }
        cli::Sandbox::Show { id } => inspect::show(global, out, &id).await,
        cli::Sandbox::Logs { id, follow } => inspect::logs(global, out, &id, follow).await,
        cli::Sandbox::Stats { id } => inspect::stats(global, out, id).await,
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
        mounts: run.mount.clone(),
        cpu_milli: run.cpus,
        memory: run.memory,
        disk: run.disk,
        pids: run.pids,
        timeout_ms: life(global),
        sandbox: None,
        stdin: run.stdin,
    }
}

/// A command for a sandbox that runs: it chooses nothing of that sandbox.
fn further(global: &Global, exec: cli::Exec) -> RunSpec {
    RunSpec {
        argv: exec.argv,
        env: exec.env,
        workdir: exec.workdir,
        sandbox: Some(exec.id),
        stdin: exec.stdin,
        timeout_ms: life(global),
        ..RunSpec::default()
    }
}

fn life(global: &Global) -> Option<u64> {
    let millis = |life: std::time::Duration| u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    global.timeout.map(millis)
}

/// What goes in and out beside the command's own bytes.
#[derive(Debug, Clone, Copy)]
struct Shown {
    stdin: bool,
    json_result: bool,
    no_wait: bool,
}

async fn command_in_sandbox(
    global: &Global,
    out: &mut Out,
    spec: RunSpec,
    run: Shown,
) -> Result<u8, Failure> {
    // Here `--timeout` is the life of the sandbox, and pawd holds it: we wait for what it reports.
    let pawd = Connection::at(&crate::connect::socket_path(global), None).await?;
    let params = Params::named(json!({"spec": spec}));
    let mut items = pawd.subscribe(DOING, "sandbox.run", params).await?;
    let (mut interrupt, mut terminate) = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return Err(Failure::io("listen for signals", &error)),
    };
    let ended = tokio::select! {
        ended = follow(&pawd, out, &mut items, run) => ended,
        _ = interrupt.recv() => Err(Failure::Interrupted { why: "the sandbox was killed".to_owned() }),
        _ = terminate.recv() => Err(Failure::Interrupted { why: "the sandbox was killed".to_owned() }),
    };
    if ended.is_err() {
        items.end().await;
    }
    ended
}

/// Passes bytes on in both directions until the command has ended.
async fn follow(
    pawd: &Connection,
    out: &mut Out,
    items: &mut Items,
    run: Shown,
) -> Result<u8, Failure> {
    // One future from the first chunk to the last: a call that is under way is never put aside and sent again.
    let mut feeding: Pin<Box<dyn Future<Output = Result<(), Failure>> + '_>> = Box::pin(pending());
    loop {
        let item = tokio::select! {
            item = items.next() => item?,
            fed = &mut feeding => {
                fed?;
                feeding = Box::pin(pending());
                continue;
            }
        };
        let Some(item) = item else {
            return Err(Failure::Cut {
                doing: DOING.to_owned(),
                why: "the stream ended before the command did".to_owned(),
                remedy: "see what became of it: pawctl action list -n 1; pawctl sandbox list"
                    .to_owned(),
            });
        };
        match item.read()? {
            RunEvent::Waiting { action_id } if run.no_wait => {
                say_waiting(out, &action_id);
                return Ok(exit::WAITING);
            }
            RunEvent::Waiting { action_id } => say_waiting(out, &action_id),
            RunEvent::Started { id, .. } => {
                if run.stdin {
                    feeding = Box::pin(feed(pawd, id));
                }
            }
            RunEvent::Stdout { data } if !run.json_result => Out::write(&bytes(&data)?)?,
            RunEvent::Stdout { data } | RunEvent::Stderr { data } => {
                Out::write_err(&bytes(&data)?)?
            }
            RunEvent::Ended(result) => return ended(out, &item, &result, run.json_result),
            RunEvent::Failed { message, error } => {
                return Err(Failure::NoSandbox {
                    why: message,
                    data: error,
                });
            }
        }
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
        out.say("the output was longer than its bound and was cut");
    }
    if result.oom_killed {
        out.say("the kernel killed something in it for want of memory: give it more with --memory");
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

/// Sends our stdin to the command, to its end.
async fn feed(pawd: &Connection, sandbox: String) -> Result<(), Failure> {
    let mut chunks = read_stdin();
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|error| Failure::io("read stdin", &error))?;
        let params = match chunk.as_slice() {
            [] => json!({"id": sandbox, "end": true}),
            bytes => json!({"id": sandbox, "data": BASE64.encode(bytes)}),
        };
        match pawd
            .call_patiently("send stdin", "sandbox.input", Params::named(params))
            .await
        {
            Ok(_) => {}
            // A command may end, or close its stdin, before it has read all; its own end says how that went.
            Err(Failure::Refused { .. }) => return Ok(()),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
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
