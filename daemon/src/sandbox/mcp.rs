//! One call of one tool of one skill, in a sandbox that lives for this call only.
//!
//! MCP itself is rmcp's. In front of it stands [`Strict`], because rmcp drops a line that is too long and goes on, and answers
//! every message in a task of its own: a skill that says too much at once, or too often, is cut off instead.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use paw_launch::{
    frame::Exited,
    request::{Attestation, End, Isolation, Runtime, SandboxId, Usage},
    workspace::{Settle, Settled},
};
use paw_policy::Name;
use rmcp::{
    RoleClient,
    model::{
        CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ContentBlock,
        Implementation, PaginatedRequestParams,
    },
    service::{ClientInitializeError, RunningService, ServiceError, ServiceExt as _},
    transport::async_rw::AsyncRwTransport,
};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout, timeout_at},
};

use super::{
    announce,
    content::text_of,
    egress::{EgressError, Net, PROXY_ENVIRONMENT, Way},
    frames::{Child, Output, Sandbox, SandboxError},
    launcher::Launcher,
    least::{plan, writes},
    manifest::Skill,
    pool::Origin,
    strict::{MAX_LINE, MAX_LINES, Strict},
    workspace::{self, WorkspaceError},
};

/// The most bytes of one call, over both streams.
const MAX_OUTPUT: u64 = 8 * 1024 * 1024;
/// The most pages of tools that are asked for.
pub(super) const MAX_PAGES: usize = 8;
/// How much of what a skill complains of is kept, in bytes.
const MAX_COMPLAINT: usize = 4096;
/// What every skill's program finds in its environment.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "HOME=/tmp",
    "LANG=C.UTF-8",
];
/// How long a sandbox may take to end after its answer, before it is killed.
pub(super) const END_LIMIT: Duration = Duration::from_secs(2);

/// What to call.
#[derive(Debug, Clone)]
pub struct ToolCall<'a> {
    /// The skill, as it is installed.
    pub skill: &'a Skill,
    /// Which of its tools.
    pub tool: &'a str,
    /// What is passed to it.
    pub arguments: Map<String, Value>,
    /// Whose workspace it works on.
    pub agent: &'a Name,
    /// What makes its sandbox.
    pub runtime: Runtime,
    /// The weakest isolation that will do.
    pub floor: Isolation,
    /// The name of its sandbox.
    pub id: SandboxId,
    /// The host uid of whom the call is.
    pub owner: u32,
    /// What becomes of what it wrote when it has done what it was asked; whatever else it wrote is gone.
    pub then: Settle,
    /// Set when the launcher is told to keep what it wrote. From then on it is not to be dropped: it would be kept all the same.
    pub keeping: &'a AtomicBool,
    /// How long it may take, the making of the sandbox not counted; the skill's own limit counts if it is shorter.
    pub limit: Duration,
}

/// What a tool answered. It comes from inside a sandbox: taint it as `tool`.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOutcome {
    /// Its text; whatever else it answered is named in brackets.
    pub text: String,
    /// Whether the tool says that it did not do what it was asked. A failure of the tool, not of the call.
    pub is_error: bool,
    /// What it answered beside the text, for programs.
    pub structured: Option<Value>,
    /// Where it ran.
    pub sandbox: SandboxId,
    /// What the kernel says that was.
    pub attestation: Box<Attestation>,
    /// How the sandbox ended.
    pub end: End,
    /// What it used.
    pub usage: Usage,
    /// What became of what it wrote, if it could write.
    pub layer: Option<Settled>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// The manifest has no such tool; nothing was started.
    #[error("skill {skill} has no tool {tool:?}; it has {known}")]
    NoTool {
        /// The skill.
        skill: Name,
        /// The tool that was asked for.
        tool: String,
        /// The tools it has.
        known: String,
    },
    /// It may reach something, and has no way there; nothing was started.
    #[error("open the way out of skill {skill}")]
    Egress {
        /// The skill.
        skill: Name,
        /// What failed.
        source: EgressError,
    },
    /// The sandbox was not made, or the skill's program was not started in it.
    #[error("run skill {skill}")]
    Sandbox {
        /// The skill.
        skill: Name,
        /// What failed.
        source: SandboxError,
    },
    /// The skill does not speak MCP as it must.
    #[error("skill {skill}: {step}: {why}{}", complaint_of(.complaint))]
    Protocol {
        /// The skill.
        skill: Name,
        /// At what.
        step: &'static str,
        /// What went wrong.
        why: String,
        /// The beginning of what it wrote to stderr, safe to show.
        complaint: String,
    },
    /// The skill's program or its sandbox ended before the answer.
    #[error("skill {skill} ended before it answered: {}{}", fate(.exited, .end), complaint_of(.complaint))]
    Ended {
        /// The skill.
        skill: Name,
        /// How its program ended, if that was seen.
        exited: Option<Exited>,
        /// How its sandbox ended.
        end: End,
        /// What it used.
        usage: Usage,
        /// The beginning of what it wrote to stderr, safe to show.
        complaint: String,
    },
    /// Its program does not announce what it announced when the skill was approved. Nothing was called.
    #[error("skill {skill} does not offer what was approved: {why}")]
    Drifted {
        /// The skill.
        skill: Name,
        /// What is different.
        why: String,
    },
    /// The tool did what it was asked, and what it wrote did not become part of the workspace.
    #[error("keep what skill {skill} wrote")]
    NotKept {
        /// The skill.
        skill: Name,
        /// Why not.
        source: WorkspaceError,
    },
    /// There was no answer in time; the sandbox was killed.
    #[error("skill {skill} did not answer within {} ms", .limit.as_millis())]
    Slow {
        /// The skill.
        skill: Name,
        /// The time it had.
        limit: Duration,
    },
}

/// Calls a tool in the sandbox of this origin, and ends it; without `net` it reaches nothing. Dropping the future kills it.
///
/// # Errors
/// When there is no answer; see [`McpError`]. An answer that says the tool failed is an answer.
pub async fn call(
    launcher: &Launcher,
    origin: Origin,
    net: Option<Net>,
    call: ToolCall<'_>,
) -> Result<ToolOutcome, McpError> {
    let ToolCall {
        skill,
        tool,
        arguments,
        agent,
        runtime,
        floor,
        id,
        owner,
        then,
        keeping,
        limit,
    } = call;
    let Some(declared) = skill.tools.get(tool) else {
        let known = skill
            .tools
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(McpError::NoTool {
            skill: skill.name.clone(),
            tool: tool.chars().take(64).collect(),
            known,
        });
    };
    let failed = |source| McpError::Sandbox {
        skill: skill.name.clone(),
        source,
    };
    let way = match net {
        None => None,
        Some(net) => Some(net.begin(&id).await.map_err(|source| McpError::Egress {
            skill: skill.name.clone(),
            source,
        })?),
    };
    let mut sandbox = origin
        .sandbox(plan(
            skill,
            declared.class,
            agent,
            (runtime, floor),
            (id, owner),
        ))
        .await
        .map_err(failed)?;
    let limit = limit.min(Duration::from_millis(skill.limits.wall_ms));
    let asked = answer(&mut sandbox, way, skill, limit, |client| {
        call_tool(client, skill, tool, arguments)
    });
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(unanswered) => return Err(unanswered.ended(sandbox, skill).await),
    };
    let (sandbox_id, attestation) = (
        sandbox.id().clone(),
        Box::new(sandbox.attestation().clone()),
    );
    let is_error = answer.is_error == Some(true);
    let layered = skill.workspace.any() && writes(declared.class);
    let settling = async {
        if !layered {
            return Ok(None);
        }
        let then = if is_error { Settle::Discard } else { then };
        keeping.store(then != Settle::Discard, Ordering::Relaxed);
        let settled = workspace::settle(launcher, sandbox_id.clone(), then).await;
        settled.map(Some)
    };
    // What becomes of the layer is said while the sandbox is still there, so that its end cannot come first.
    let (ended, settled) = tokio::join!(sandbox.end(END_LIMIT), settling);
    let (end, usage) = ended.map_err(failed)?;
    let layer = settled.map_err(|source| McpError::NotKept {
        skill: skill.name.clone(),
        source,
    })?;
    let text = text_of(&answer.content);
    Ok(ToolOutcome {
        text,
        is_error,
        structured: answer.structured_content,
        sandbox: sandbox_id,
        attestation,
        end,
        usage,
        layer,
    })
}

/// Why there is no answer, while the sandbox is still there.
pub(super) enum Unanswered {
    /// It went away; how is for its sandbox to tell, too.
    Left {
        exited: Option<Exited>,
        complaint: Vec<u8>,
    },
    Failed(McpError),
}

impl Unanswered {
    /// The error, once nothing is left of the sandbox.
    pub(super) async fn ended(self, sandbox: Sandbox, skill: &Skill) -> McpError {
        let ended = sandbox.end(END_LIMIT).await;
        match self {
            // Told whether its end can be known or not.
            Self::Failed(error) => error,
            Self::Left { exited, complaint } => match ended {
                Ok((end, usage)) => McpError::Ended {
                    skill: skill.name.clone(),
                    exited,
                    end,
                    usage,
                    complaint: showable(&complaint),
                },
                Err(source) => McpError::Sandbox {
                    skill: skill.name.clone(),
                    source,
                },
            },
        }
    }
}

/// Starts the skill's program and has somebody ask it.
pub(super) async fn answer<T, F: Future<Output = Result<T, Trouble>>>(
    sandbox: &mut Sandbox,
    way: Option<Way>,
    skill: &Skill,
    limit: Duration,
    ask: impl FnOnce(Client) -> F,
) -> Result<T, Unanswered> {
    let failed = |source| {
        Unanswered::Failed(McpError::Sandbox {
            skill: skill.name.clone(),
            source,
        })
    };
    let deadline = Instant::now() + limit;
    let mut environment = ENVIRONMENT.map(str::to_owned).to_vec();
    if let Some(way) = way {
        sandbox.open_way(way).await.map_err(failed)?;
        environment.extend(PROXY_ENVIRONMENT.map(str::to_owned));
    }
    let directory = if skill.workspace.any() {
        "/workspace"
    } else {
        "/"
    };
    let started = sandbox
        .starter()
        .start(
            skill.command.clone(),
            environment,
            directory.to_owned(),
            MAX_OUTPUT,
        )
        .await;
    let Child {
        stdin,
        stdout,
        mut stderr,
        mut process,
    } = started.map_err(failed)?;
    let (stdout, breach) = Strict::new(stdout);
    let transport = AsyncRwTransport::new_client(stdout, stdin).with_max_line_length(MAX_LINE);

    let mut complaint = Vec::new();
    let talked = tokio::select! {
        talked = timeout_at(deadline, converse(transport, ask)) => talked,
        never = async { keep_beginning(&mut stderr, &mut complaint).await; std::future::pending::<Infallible>().await } => match never {},
    };
    let protocol = |step, why, complaint: &[u8]| {
        Unanswered::Failed(McpError::Protocol {
            skill: skill.name.clone(),
            step,
            why,
            complaint: showable(complaint),
        })
    };
    match talked {
        Err(_) => Err(Unanswered::Failed(McpError::Slow {
            skill: skill.name.clone(),
            limit,
        })),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) if breach.load(Ordering::Relaxed) => {
            let why = format!(
                "it said more than {MAX_LINES} lines, or a line of more than {MAX_LINE} bytes"
            );
            Err(protocol("bound its output", why, &complaint))
        }
        Ok(Err(Trouble {
            why: Some(why),
            drifted: true,
            ..
        })) => Err(Unanswered::Failed(McpError::Drifted {
            skill: skill.name.clone(),
            why,
        })),
        Ok(Err(Trouble {
            step,
            why: Some(why),
            ..
        })) => Err(protocol(step, why, &complaint)),
        Ok(Err(Trouble { why: None, .. })) => {
            let exited = match timeout(END_LIMIT, process.wait()).await {
                Ok(Ok(exit)) => Some(exit.exited),
                Ok(Err(SandboxError::Gone)) | Err(_) => None,
                Ok(Err(source)) => return Err(failed(source)),
            };
            if exited.is_some() {
                // Its last words came before its end, so they are here and nothing is waited for.
                keep_beginning(&mut stderr, &mut complaint).await;
            }
            Err(Unanswered::Left { exited, complaint })
        }
    }
}

/// Where a conversation went wrong.
pub(super) struct Trouble {
    pub(super) step: &'static str,
    /// What the skill did; nothing when it only went away.
    pub(super) why: Option<String>,
    /// It is not what was approved.
    pub(super) drifted: bool,
}

/// A server that has answered the handshake.
pub(super) type Client = RunningService<RoleClient, ClientConfig>;

pub(super) async fn converse<T, F, R, W>(
    transport: AsyncRwTransport<RoleClient, Strict<R>, W>,
    ask: impl FnOnce(Client) -> F,
) -> Result<T, Trouble>
where
    F: Future<Output = Result<T, Trouble>>,
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let us = ClientConfig::new(
        ClientCapabilities::default(),
        Implementation::new("pawd", env!("CARGO_PKG_VERSION")),
    );
    let client = us.serve(transport).await.map_err(|fault| Trouble {
        step: "initialize",
        why: match fault {
            ClientInitializeError::ConnectionClosed(_)
            | ClientInitializeError::TransportError { .. } => None,
            other => Some(bounded(&other.to_string())),
        },
        drifted: false,
    })?;
    ask(client).await
}

pub(super) async fn call_tool(
    client: Client,
    skill: &Skill,
    tool: &str,
    arguments: Map<String, Value>,
) -> Result<CallToolResult, Trouble> {
    match skill.announced {
        Some(pinned) => announce::compare(&client, &pinned).await?,
        None => find(&client, tool).await?,
    }
    match client
        .peer()
        .call_tool(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments))
        .await
    {
        Ok(answer) => Ok(answer),
        // The skill refuses this call, for instance its arguments: the model should read why and do better.
        Err(ServiceError::McpError(fault)) => Ok(CallToolResult::error(vec![ContentBlock::text(
            format!("error {}: {}", fault.code.0, fault.message),
        )])),
        Err(fault) => Err(trouble("tools/call", fault)),
    }
}

/// The manifest says what the skill may be asked; the skill must say the same of itself.
async fn find(client: &Client, tool: &str) -> Result<(), Trouble> {
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let page = client
            .list_tools(Some(PaginatedRequestParams::default().with_cursor(cursor)))
            .await;
        let page = page.map_err(|fault| trouble("tools/list", fault))?;
        if page.tools.iter().any(|listed| listed.name == tool) {
            return Ok(());
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Err(Trouble {
        step: "tools/list",
        why: Some(format!(
            "its program does not offer {tool:?}, which its manifest declares"
        )),
        drifted: false,
    })
}

pub(super) fn trouble(step: &'static str, fault: ServiceError) -> Trouble {
    let why = match fault {
        ServiceError::TransportClosed | ServiceError::TransportSend(_) => None,
        other => Some(bounded(&other.to_string())),
    };
    Trouble {
        step,
        why,
        drifted: false,
    }
}

/// A text that may carry what the skill said, for people.
pub(super) fn bounded(text: &str) -> String {
    text.chars()
        .take(500)
        .flat_map(char::escape_debug)
        .collect()
}

fn complaint_of(complaint: &str) -> String {
    if complaint.is_empty() {
        String::new()
    } else {
        format!("; it wrote: {complaint}")
    }
}

fn fate(exited: &Option<Exited>, end: &End) -> String {
    match (exited, end) {
        (
            _,
            End {
                oom_killed: true, ..
            },
        ) => "out of memory; raise `memory` in its limits".to_owned(),
        (
            _,
            End {
                timed_out: true, ..
            },
        ) => "its time was over; raise `wall_ms` in its limits".to_owned(),
        (_, End { killed: true, .. }) => "its sandbox was killed".to_owned(),
        (
            Some(Exited {
                code: Some(code), ..
            }),
            _,
        ) => format!("its program exited with {code}"),
        (
            Some(Exited {
                signal: Some(signal),
                ..
            }),
            _,
        ) => format!("its program was ended by signal {signal}"),
        (
            _,
            End {
                exit_code, signal, ..
            },
        ) => format!("its sandbox ended (exit code {exit_code:?}, signal {signal:?})"),
    }
}

/// Keeps the beginning of a stream and throws the rest away, up to its end.
async fn keep_beginning(from: &mut Output, into: &mut Vec<u8>) {
    while let Some(bytes) = from.next().await {
        let room = MAX_COMPLAINT - into.len();
        into.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// What a skill wrote, safe for a terminal.
fn showable(complaint: &[u8]) -> String {
    String::from_utf8_lossy(complaint)
        .trim()
        .escape_debug()
        .to_string()
}
