//! What the shipped skills have in common: an MCP server over stdin and stdout that offers what its manifest declares.
//!
//! A skill's program is built with its `skill.toml`, so the two cannot say different things. It does one call at a time, takes no line
//! beyond its bound, and says a failure of a tool as a result, which the model reads, and not as a fault of the protocol. It
//! confines nothing, because the sandbox does.

#[cfg(feature = "testing")]
pub mod testing;

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::{async_rw::AsyncRwTransport, io::stdio},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

/// Exit code for a wrong command line (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Exit code when what it works on cannot be opened (`EX_NOINPUT`).
pub const NO_INPUT: u8 = 66;
/// Exit code when the conversation broke off (`EX_PROTOCOL`).
const BROKEN: u8 = 76;

/// Threads beside the one that listens: one reads, one writes, one works.
const THREADS: usize = 4;

/// What a skill does.
pub trait Skill: Send + 'static {
    /// Does one call. It may block; no other call is done meanwhile.
    ///
    /// # Errors
    /// Why it was not done.
    fn call(&mut self, tool: &str, arguments: Value) -> Result<Said, Fault>;
}

/// What a call came to.
#[derive(Debug)]
pub struct Said {
    /// For the model.
    pub text: String,
    /// The same for programs.
    pub structured: Value,
}

/// Why a call was not done.
#[derive(Debug)]
pub enum Fault {
    /// The skill has no such tool.
    NoTool,
    /// The tool did not do it; why, for the model that asked, which should read it and do better.
    Refused(String),
}

impl<E: std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Reads the arguments of a call; what is not in their type is refused if that type says so.
///
/// # Errors
/// When they are others than the tool takes.
pub fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, Fault> {
    serde_json::from_value(arguments)
        .map_err(|error| Fault::Refused(format!("unreadable arguments: {error}")))
}

/// A tool as its server tells it.
///
/// # Errors
/// When `input` is no JSON object.
pub fn tool(name: String, description: String, input: &str) -> serde_json::Result<Tool> {
    let input: Map<String, Value> = serde_json::from_str(input)?;
    Ok(Tool::new(name, description, Arc::new(input)))
}

/// The tools that a `skill.toml` declares.
///
/// # Panics
/// When it is none; it is built into the program, and whoever changed it sees that in the first test.
#[must_use]
pub fn declared(manifest: &str) -> Vec<Tool> {
    #[derive(Deserialize)]
    struct Manifest {
        tools: Vec<Declared>,
    }
    #[derive(Deserialize)]
    struct Declared {
        name: String,
        description: String,
        input: String,
    }
    let Manifest { tools } = toml::from_str(manifest).expect("the manifest is built in");
    let tool = |it: Declared| tool(it.name, it.description, &it.input);
    let tools = tools.into_iter().map(tool).collect::<Result<_, _>>();
    tools.expect("each schema in the manifest is an object")
}

/// A skill's program: what it is called, what it offers, and the longest line that it takes, in bytes.
#[derive(Debug)]
pub struct Program {
    /// As in `paw-files`.
    pub name: &'static str,
    /// Its tools.
    pub tools: Vec<Tool>,
    /// The longest line that it takes, in bytes.
    pub max_line: usize,
}

impl Program {
    /// Speaks MCP over stdin and stdout until stdin ends; gives the program's exit code.
    #[must_use]
    pub fn serve(self, skill: impl Skill) -> ExitCode {
        let name = self.name;
        match self.converse(skill) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => complain(name, fault, BROKEN),
        }
    }

    fn converse(self, skill: impl Skill) -> Result<(), Broken> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS)
            .build()
            .map_err(Broken::Runtime)?;
        let served = runtime.block_on(async {
            let (stdin, stdout) = stdio();
            let transport =
                AsyncRwTransport::new_server(stdin, stdout).with_max_line_length(self.max_line);
            let server = Server {
                program: self,
                skill: Arc::new(Mutex::new(skill)),
            };
            let running = server
                .serve(transport)
                .await
                .map_err(|fault| Broken::Handshake(Box::new(fault)))?;
            running.waiting().await.map(drop).map_err(Broken::Off)
        });
        // A read of stdin may still wait in its thread; nobody needs what it would bring.
        runtime.shutdown_background();
        served
    }
}

/// Says to stderr why the program ends; gives its exit code.
#[must_use]
pub fn complain(name: &str, why: impl Display, code: u8) -> ExitCode {
    // Nothing is left to do about a stderr that cannot be written to; the exit code says it too.
    let _ = writeln!(io::stderr(), "{name}: {why}");
    ExitCode::from(code)
}

/// Why the conversation ended before its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("start the runtime: {0}")]
    Runtime(io::Error),
    #[error("no MCP handshake on stdin: {0}")]
    Handshake(Box<rmcp::service::ServerInitializeError>),
    #[error("the conversation broke off: {0}")]
    Off(tokio::task::JoinError),
}

struct Server<S> {
    program: Program,
    skill: Arc<Mutex<S>>,
}

impl<S: Skill> ServerHandler for Server<S> {
    fn get_info(&self) -> ServerConfig {
        let us = Implementation::new(self.program.name, env!("CARGO_PKG_VERSION"));
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build()).with_server_info(us)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.program.tools.clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let (tool, mut skill) = (request.name, Arc::clone(&self.skill).lock_owned().await);
        let name = tool.clone();
        let called = tokio::task::spawn_blocking(move || skill.call(&name, arguments));
        let called = called
            .await
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(match called {
            Ok(Said { text, structured }) => {
                let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
                result.structured_content = Some(structured);
                result.into()
            }
            Err(Fault::Refused(why)) => CallToolResult::error(vec![ContentBlock::text(why)]).into(),
            Err(Fault::NoTool) => {
                let message = format!("there is no tool {tool:?}");
                return Err(ErrorData::invalid_params(message, None));
            }
        })
    }
}
