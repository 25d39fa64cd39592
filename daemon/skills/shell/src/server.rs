//! The one tool as MCP sees it: a command line, or a script by its name.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    process::Command,
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
use serde_json::{Map, Value, json};

use crate::run::{MAX_OUTPUT, run};

/// Longest command line, and longest argument of a script, in bytes.
const MAX_COMMAND: usize = 64 * 1024;
/// Most arguments of a script.
const MAX_ARGUMENTS: usize = 256;
/// The longest line that is taken.
const MAX_LINE: usize = 1024 * 1024;

/// What it runs.
#[derive(Debug, Clone)]
pub(crate) enum Offers {
    /// Any command line.
    Commands,
    /// The files below a directory.
    Scripts(PathBuf),
}

/// Why the conversation ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error("no MCP handshake on stdin: {0}")]
    Handshake(Box<rmcp::service::ServerInitializeError>),
    #[error("the conversation broke off: {0}")]
    Broken(tokio::task::JoinError),
}

/// Speaks MCP over stdin and stdout until stdin ends.
pub(crate) fn serve(offers: Offers) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let served = runtime.block_on(async {
        let (stdin, stdout) = stdio();
        let transport = AsyncRwTransport::new_server(stdin, stdout).with_max_line_length(MAX_LINE);
        let running = Shell(offers)
            .serve(transport)
            .await
            .map_err(|fault| ServeError::Handshake(Box::new(fault)))?;
        running
            .waiting()
            .await
            .map(drop)
            .map_err(ServeError::Broken)
    });
    // A read of stdin may still wait in its thread; nobody needs what it would bring.
    runtime.shutdown_background();
    served
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunArguments {
    command: String,
    #[serde(default)]
    stdin: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptArguments {
    script: String,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    stdin: Option<String>,
}

struct Shell(Offers);

impl ServerHandler for Shell {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("paw-shell", env!("CARGO_PKG_VERSION")))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let (name, text, properties, required) = match &self.0 {
            Offers::Commands => (
                "run",
                "Run a command line with /bin/sh in the workspace; answers with its output and its exit code.",
                json!({"command": {"type": "string"}, "stdin": {"type": "string"}}),
                "command",
            ),
            Offers::Scripts(_) => (
                "run_script",
                "Run a script of this skill; answers with its output and its exit code.",
                json!({
                    "script": {"type": "string"},
                    "arguments": {"type": "array", "items": {"type": "string"}},
                    "stdin": {"type": "string"},
                }),
                "script",
            ),
        };
        let schema = Map::from_iter([
            ("type".to_owned(), json!("object")),
            ("properties".to_owned(), properties),
            ("required".to_owned(), json!([required])),
            ("additionalProperties".to_owned(), json!(false)),
        ]);
        let tool = Tool::new(name, text, Arc::new(schema));
        Ok(ListToolsResult::with_all_items(vec![tool]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let command = match (&self.0, request.name.as_ref()) {
            (Offers::Commands, "run") => command(arguments),
            (Offers::Scripts(dir), "run_script") => script(dir, arguments),
            (_, other) => {
                let message = format!("there is no tool {other:?}");
                return Err(ErrorData::invalid_params(message, None));
            }
        };
        let ran = match command {
            Ok((command, input)) => {
                let running = tokio::task::spawn_blocking(move || run(command, input));
                match running.await {
                    Ok(ran) => ran.map_err(|error| format!("start it: {error}")),
                    Err(error) => Err(error.to_string()),
                }
            }
            Err(why) => Err(why),
        };
        Ok(match ran {
            Ok(ran) => {
                let mut text = ran.stdout.clone();
                if !ran.stderr.is_empty() {
                    text += &format!("\n[stderr]\n{}", ran.stderr);
                }
                if ran.truncated {
                    text +=
                        &format!("\n[only the first {MAX_OUTPUT} bytes of each stream are kept]");
                }
                match (ran.exit_code, ran.signal) {
                    (Some(0), _) => {}
                    (Some(code), _) => text += &format!("\n[exit code {code}]"),
                    (None, signal) => {
                        text += &format!("\n[ended by signal {}]", signal.unwrap_or(0))
                    }
                }
                let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
                result.structured_content = Some(json!(ran));
                result
            }
            // For the model that asked: it should read why and do better.
            Err(why) => CallToolResult::error(vec![ContentBlock::text(why)]),
        }
        .into())
    }
}

type Wanted = Result<(Command, Option<String>), String>;

fn command(arguments: Value) -> Wanted {
    let RunArguments { command, stdin } = read(arguments)?;
    if command.trim().is_empty() || command.len() > MAX_COMMAND || command.contains('\0') {
        return Err(format!(
            "a command line has 1 to {MAX_COMMAND} bytes and no NUL"
        ));
    }
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    Ok((shell, stdin))
}

fn script(dir: &Path, arguments: Value) -> Wanted {
    let ScriptArguments {
        script,
        arguments,
        stdin,
    } = read(arguments)?;
    let long = |text: &String| text.len() > MAX_COMMAND || text.contains('\0');
    if arguments.len() > MAX_ARGUMENTS || arguments.iter().any(long) {
        return Err(format!(
            "at most {MAX_ARGUMENTS} arguments of at most {MAX_COMMAND} bytes, without NUL"
        ));
    }
    let inside = Path::new(&script);
    let plain = inside
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let path = dir.join(inside);
    let found = (plain && !script.is_empty() && !script.contains('\0'))
        .then(|| std::fs::symlink_metadata(&path).ok())
        .flatten()
        .filter(std::fs::Metadata::is_file);
    let Some(found) = found else {
        return Err(format!("there is no script {script:?} in this skill"));
    };
    let mut command = if found.permissions().mode() & 0o111 != 0 {
        Command::new(&path)
    } else {
        let interpreter = match path.extension().and_then(|ending| ending.to_str()) {
            Some("sh") => "/bin/sh",
            Some("py") => "/usr/bin/python3",
            Some("js" | "mjs") => "/usr/bin/node",
            _ => return Err(format!("{script:?} cannot be executed")),
        };
        let mut command = Command::new(interpreter);
        command.arg(&path);
        command
    };
    command.args(arguments);
    Ok((command, stdin))
}

fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|error| format!("unreadable arguments: {error}"))
}
