//! A tool of a skill, and a command of a person: each in a sandbox of its own.

use std::{path::PathBuf, time::Duration};

use base64::Engine as _;
use paw_api::{
    ErrorKind,
    sandbox::{RunEvent as Shown, RunResult, RunSpec as Asked},
};
use paw_launch::request::{
    Attestation, Image, Isolation, Limits, Mount, MountSource, Runtime, SandboxId, SandboxPlan,
};
use paw_policy::{Name, ToolArguments};
use serde_json::{Map, Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{io::StreamReader, sync::CancellationToken};

use super::Agents;
use crate::{
    orchestrator::work::{Ending, Outcome, Progress, failure},
    sandbox::{
        self, ChoiceError, LauncherError, McpError, RunEnd, RunError, RunEvent, RunSpec,
        SandboxError, ToolCall, sandbox_id,
    },
};

/// Most bytes of a command's output that are passed on.
const MAX_OUTPUT: u64 = 256 * 1024 * 1024;

/// Events of a command that may wait for their reader.
const EVENTS: usize = 16;

/// How long the last output of a command may wait for its reader.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The environment of a command that is given none.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/tmp",
    "LANG=C.UTF-8",
];

/// A sandbox id that nobody can guess.
fn fresh_id() -> Result<SandboxId, Box<Outcome>> {
    let mut random = [0; 8];
    match getrandom::fill(&mut random) {
        Ok(()) => Ok(sandbox_id(random)),
        Err(error) => {
            let message = format!("draw a sandbox id: {error}");
            Err(Box::new(Outcome::failed(
                "internal",
                message,
                "look at the kernel's random source",
            )))
        }
    }
}

/// What to do when a runtime isolates less than it must.
pub const TOO_WEAK: &str =
    "ask for a stronger runtime, or have the administrator set isolation_floor in pawd.toml";

/// What to do when no runtime isolates enough.
const NONE_HERE: &str = "install runsc (Debian: apt-get install runsc), or set isolation_floor = \"process\" in pawd.toml if that will do";

/// What to do when the launcher does not answer.
const LAUNCHER_AWAY: &str = "see `systemctl status paw-launcher` and `pawctl doctor`";

/// Calls a tool, if its skill is still the one that was judged.
pub(super) async fn call(
    agents: &Agents,
    agent: &Name,
    call: ToolArguments,
    cancel: &CancellationToken,
) -> Outcome {
    let limit = agents.config.borrow().actions.tool_timeout;
    let Some(skill) = agents.skills.get(&call.skill) else {
        return Outcome::failed(
            "not_found",
            format!("there is no skill {}", call.skill),
            "see `pawctl skill list`",
        );
    };
    if skill.digest != call.skill_digest {
        let message = format!("skill {} has changed since this was judged", call.skill);
        return Outcome::failed(
            "skill_changed",
            message,
            "submit it again: it is judged anew",
        );
    }
    let floor = {
        let config = agents.config.borrow();
        let settings = config.agents.get(agent);
        settings.map_or(config.sandbox.isolation_floor, |settings| {
            settings.isolation_floor
        })
    };
    let runtime = match sandbox::choose(&agents.launcher, None, floor).await {
        Ok(runtime) => runtime,
        Err(error) => return not_chosen(&error),
    };
    let id = match fresh_id() {
        Ok(id) => id,
        Err(outcome) => return *outcome,
    };
    let name = id.to_string();
    let request = ToolCall {
        skill,
        tool: &call.tool,
        arguments: call.arguments,
        agent,
        runtime,
        id,
        limit,
    };
    let called = tokio::select! {
        called = sandbox::call(&agents.launcher, request) => called,
        () = cancel.cancelled() => return Outcome { sandbox: Some(name), ..Outcome::plain(Ending::Cancelled) },
    };
    match called {
        Ok(answer) => {
            let ending = if answer.is_error {
                let hint = "the tool ran and says so itself; look at its arguments";
                Ending::Failed(failure(
                    "tool",
                    crate::records::shorten_to(&answer.text, 2_000),
                    hint,
                ))
            } else {
                Ending::Completed(json!({
                    "text": answer.text,
                    "structured": answer.structured,
                    "sandbox": sandbox_facts(&answer.sandbox, &answer.attestation),
                    "usage": answer.usage,
                }))
            };
            Outcome {
                ending,
                sandbox: Some(name),
                attestation: Some(answer.attestation.digest),
                exchange: None,
            }
        }
        Err(error) => Outcome {
            sandbox: Some(name),
            ..not_called(&error)
        },
    }
}

fn not_called(error: &McpError) -> Outcome {
    let message = paw_log::Chain(error).to_string();
    match error {
        McpError::NoTool { .. } => Outcome::failed("not_found", message, "see `pawctl skill show`"),
        McpError::Sandbox { source, .. } => not_made(source, message),
        McpError::Protocol { .. } => Outcome::failed(
            "protocol",
            message,
            "the skill is broken; look at its own messages",
        ),
        McpError::Ended { end, .. } if end.timed_out => timed_out(message),
        McpError::Ended { end, .. } if end.oom_killed => Outcome::failed(
            "out_of_memory",
            message,
            "raise the memory limit in its skill.toml, or ask it for less",
        ),
        McpError::Ended { .. } => Outcome::failed(
            "tool",
            message,
            "the skill is broken; look at its own messages",
        ),
        McpError::Slow { .. } => timed_out(message),
    }
}

fn not_chosen(error: &ChoiceError) -> Outcome {
    let message = paw_log::Chain(error).to_string();
    match error {
        ChoiceError::TooWeak { .. } => Outcome::failed("isolation", message, TOO_WEAK),
        ChoiceError::Absent { .. } | ChoiceError::None { .. } => {
            Outcome::failed("isolation", message, NONE_HERE)
        }
        ChoiceError::Launcher(_) => Outcome::failed("unavailable", message, LAUNCHER_AWAY),
    }
}

fn timed_out(message: String) -> Outcome {
    Outcome::plain(Ending::TimedOut(failure(
        "timed_out",
        message,
        "raise its timeout, or ask it for less",
    )))
}

fn not_made(error: &SandboxError, message: String) -> Outcome {
    match error {
        SandboxError::Launcher(
            LauncherError::Away { .. } | LauncherError::Lost | LauncherError::Slow(_),
        ) => Outcome::failed("unavailable", message, LAUNCHER_AWAY),
        SandboxError::Launcher(LauncherError::Refused(refusal)) => {
            Outcome::failed("sandbox", message, refusal.remedy.clone())
        }
        SandboxError::NotStarted { .. } => Outcome::failed(
            "not_started",
            message,
            "look at the command, its path inside and its mode",
        ),
        _ => Outcome::failed(
            "sandbox",
            message,
            "see `pawctl doctor` and the journal of paw-launcher",
        ),
    }
}

/// Runs a command for a person.
pub(super) async fn run(
    agents: &Agents,
    spec: Map<String, Value>,
    progress: Progress,
    cancel: &CancellationToken,
) -> Outcome {
    let (asked, plan) = match plan_of(agents, spec).await {
        Ok(found) => found,
        Err(outcome) => return *outcome,
    };
    let id = plan.id.to_string();
    let runtime = plan.runtime;
    let (output, input) = match progress {
        Progress::Run { output, input } => (Some(output), input),
        Progress::None | Progress::Chat(_) => (None, None),
    };
    let stdin = input.filter(|_| asked.stdin).map(|input| {
        Box::new(StreamReader::new(ReceiverStream::new(input)))
            as Box<dyn tokio::io::AsyncRead + Send + Unpin>
    });
    let env = if asked.env.is_empty() {
        ENVIRONMENT.map(str::to_owned).to_vec()
    } else {
        asked.env
    };
    let spec = RunSpec {
        plan,
        argv: asked.argv,
        env,
        cwd: asked.workdir.unwrap_or_else(|| "/".into()),
        stdin,
        most_output: MAX_OUTPUT,
    };
    let (events, heard) = mpsc::channel(EVENTS);
    let mut told = Told::default();
    let running = async {
        let ended = sandbox::run(&agents.launcher, spec, &events).await;
        drop(events);
        ended
    };
    let work = heard_to_the_end(running, told.pass_on(heard, output));
    let ended = tokio::select! {
        ended = work => ended,
        () = cancel.cancelled() => {
            return Outcome {
                sandbox: Some(id),
                ..Outcome::plain(Ending::Cancelled)
            };
        }
    };
    let outcome = match ended {
        Ok(end) => finished(&id, runtime, &end, told.attestation.as_deref()),
        Err(RunError::Abandoned) => Outcome::plain(Ending::Cancelled),
        Err(RunError::Sandbox(error)) => not_made(&error, paw_log::Chain(&error).to_string()),
    };
    Outcome {
        sandbox: Some(id),
        attestation: told.attestation.map(|attestation| attestation.digest),
        ..outcome
    }
}

/// Runs both; once the command has ended, who listens has [`LAST_WORDS`] for what is left: a reader that has stopped reading
/// holds no place for a command that is over.
async fn heard_to_the_end<T>(
    running: impl Future<Output = T>,
    passing: impl Future<Output = ()>,
) -> T {
    tokio::pin!(running, passing);
    let mut passed = false;
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            () = &mut passing, if !passed => passed = true,
        }
    };
    if !passed && timeout(LAST_WORDS, passing).await.is_err() {
        tracing::warn!("the last output of a command was not read; it is dropped");
    }
    ended
}

/// What was heard of a run.
#[derive(Default)]
struct Told {
    attestation: Option<Box<Attestation>>,
}

impl Told {
    /// Passes events on to whoever listens. Output that nobody listens to is thrown away; the result says how it ended.
    async fn pass_on(
        &mut self,
        mut heard: mpsc::Receiver<RunEvent>,
        mut to: Option<mpsc::Sender<Shown>>,
    ) {
        let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        while let Some(event) = heard.recv().await {
            let shown = match event {
                RunEvent::Started { id, attestation } => {
                    self.attestation = Some(attestation);
                    Shown::Started {
                        action_id: String::new(),
                        id: id.to_string(),
                    }
                }
                RunEvent::Stdout(bytes) => Shown::Stdout { data: text(&bytes) },
                RunEvent::Stderr(bytes) => Shown::Stderr { data: text(&bytes) },
            };
            if let Some(listener) = &to
                && listener.send(shown).await.is_err()
            {
                // Nobody listens any more. Whoever left while the command ran has cancelled it; whoever left while a person
                // was being asked finds the result in the record.
                to = None;
            }
        }
    }
}

fn finished(
    id: &str,
    runtime: Runtime,
    ended: &RunEnd,
    attestation: Option<&Attestation>,
) -> Outcome {
    let RunEnd {
        exit,
        end,
        usage,
        output_truncated,
    } = ended;
    let result = RunResult {
        id: id.to_owned(),
        runtime: runtime.to_string(),
        exit_code: exit.and_then(|exit| exit.code),
        signal: exit.and_then(|exit| exit.signal),
        oom_killed: end.oom_killed,
        timed_out: end.timed_out,
        output_truncated: *output_truncated,
        wall_ms: usage.wall_ms,
        cpu_ms: usage.cpu_us / 1_000,
        memory_peak: usage.memory_peak,
        attestation: attestation.map_or(Value::Null, |attestation| {
            serde_json::to_value(attestation).unwrap_or(Value::Null)
        }),
    };
    match serde_json::to_value(&result) {
        Ok(value) => Outcome::plain(Ending::Completed(value)),
        Err(error) => Outcome::failed(
            "internal",
            error.to_string(),
            "report it with the journal of this time",
        ),
    }
}

fn sandbox_facts(id: &SandboxId, attestation: &Attestation) -> Value {
    json!({"id": id, "attestation": {"digest": attestation.digest, "facts": attestation.facts}})
}

/// The plan of a sandbox from what was asked and the defaults. The launcher checks it against its ceilings.
async fn plan_of(
    agents: &Agents,
    spec: Map<String, Value>,
) -> Result<(Asked, SandboxPlan), Box<Outcome>> {
    let asked: Asked = serde_json::from_value(Value::Object(spec))
        .map_err(|error| {
            Outcome::failed(
                "invalid",
                error.to_string(),
                "see `pawctl sandbox run --help`",
            )
        })
        .map_err(Box::new)?;
    let defaults = agents.config.borrow().sandbox.clone();
    let limits = Limits {
        cpu_milli: asked.cpu_milli.unwrap_or(defaults.limits.cpu_milli),
        memory: asked.memory.unwrap_or(defaults.limits.memory),
        disk: asked.disk.unwrap_or(defaults.limits.disk),
        pids: asked.pids.unwrap_or(defaults.limits.pids),
        open_files: defaults.limits.open_files,
        wall_ms: asked.timeout_ms.unwrap_or(defaults.limits.wall_ms),
    };
    let checked = check(&asked)
        .map_err(|error| Box::new(Outcome::failed("invalid", error.message, error.data.hint)))?;
    let Checked {
        runtime,
        floor,
        image,
        mounts,
    } = checked;
    // The configuration may have become stricter since this was judged.
    let floor = floor.max(defaults.isolation_floor);
    let runtime = sandbox::choose(&agents.launcher, runtime, floor)
        .await
        .map_err(|error| Box::new(not_chosen(&error)))?;
    let plan = SandboxPlan {
        id: fresh_id()?,
        runtime,
        image: image.unwrap_or(Image::Named(defaults.image)),
        mounts,
        limits,
    };
    Ok((asked, plan))
}

/// What of a request can be checked before it is judged.
pub struct Checked {
    /// The runtime that was asked for; none for any that will do.
    pub runtime: Option<Runtime>,
    /// The weakest isolation that was asked for.
    pub floor: Isolation,
    image: Option<Image>,
    mounts: Vec<Mount>,
}

/// Checks a request to run a command.
///
/// # Errors
/// When it cannot be meant: kind `invalid`.
pub fn check(asked: &Asked) -> Result<Checked, paw_api::Error> {
    let invalid =
        |message: String, hint: &str| paw_api::Error::new(ErrorKind::Invalid, message, hint);
    if asked.argv.is_empty() || asked.argv[0].is_empty() {
        return Err(invalid("there is no command".into(), "put it after `--`"));
    }
    if asked
        .argv
        .iter()
        .chain(&asked.env)
        .any(|word| word.contains('\0'))
    {
        return Err(invalid(
            "an argument holds a zero byte".into(),
            "the kernel cannot pass it on",
        ));
    }
    if let Some(bad) = asked
        .env
        .iter()
        .find(|entry| entry.find('=').is_none_or(|at| at == 0))
    {
        return Err(invalid(
            format!("{bad:?} is no environment entry"),
            "write NAME=value",
        ));
    }
    if asked
        .workdir
        .as_ref()
        .is_some_and(|path| !path.starts_with('/'))
    {
        return Err(invalid(
            "the working directory is not absolute".into(),
            "begin it with /",
        ));
    }
    let runtime = match asked.runtime.as_deref() {
        None | Some("auto") => None,
        Some(name) => {
            let known = Runtime::ALL
                .into_iter()
                .find(|runtime| runtime.as_str() == name);
            Some(known.ok_or_else(|| {
                invalid(
                    format!("there is no runtime {name:?}"),
                    "use auto, native, gvisor or kata",
                )
            })?)
        }
    };
    let floor = match asked.isolation_floor.as_deref() {
        None => Isolation::Process,
        Some(name) => {
            let known = Isolation::ALL
                .into_iter()
                .find(|isolation| isolation.as_str() == name);
            known.ok_or_else(|| {
                invalid(
                    format!("there is no isolation {name:?}"),
                    "use process, kernel or vm",
                )
            })?
        }
    };
    let image = match asked.image.as_deref() {
        None => None,
        Some("host") => Some(Image::Host),
        Some(path) if path.starts_with('/') => Some(Image::Dir(PathBuf::from(path))),
        Some(name) => Some(Image::Named(name.parse().map_err(|_| {
            invalid(
                format!("{name:?} is no image"),
                "use the name of an installed image, an absolute directory, or host",
            )
        })?)),
    };
    let mounts = asked
        .mounts
        .iter()
        .map(|mount| parse_mount(mount))
        .collect::<Result<_, _>>()?;
    Ok(Checked {
        runtime,
        floor,
        image,
        mounts,
    })
}

fn parse_mount(text: &str) -> Result<Mount, paw_api::Error> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, writable) = match parts.as_slice() {
        [source, target] => (source, target, true),
        [source, target, "ro"] => (source, target, false),
        [source, target, "rw"] => (source, target, true),
        _ => {
            return Err(paw_api::Error::new(
                ErrorKind::Invalid,
                format!("{text:?} is no mount"),
                "write SRC:DST or SRC:DST:ro",
            ));
        }
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(paw_api::Error::new(
            ErrorKind::Invalid,
            format!("{text:?} has a path that is not absolute"),
            "begin both with /",
        ));
    }
    Ok(Mount {
        source: MountSource::Path(source.into()),
        target: target.into(),
        writable,
    })
}
